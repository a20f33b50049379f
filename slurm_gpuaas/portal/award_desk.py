"""What the pages and the API of the award desk read: a programme's scenario and what cannot be decided yet, its awards,
its waiting list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from slurm_gpuaas.domain.applications import Application, ApplicationState
from slurm_gpuaas.domain.calendar import korean_day
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.errors import InvalidInput, NotFound
from slurm_gpuaas.domain.names import ApplicationId, AwardId, PoolShareName, ProgrammeName
from slurm_gpuaas.domain.pool_grants import Award, AwardLine, AwardState
from slurm_gpuaas.domain.programmes import PoolOrganisation, PoolShare, Programme
from slurm_gpuaas.domain.told import Told, told
from slurm_gpuaas.pool.award import Award as SolvedAward
from slurm_gpuaas.pool.concentration import Over, over_caps
from slurm_gpuaas.pool.reviewing import Judged
from slurm_gpuaas.pool.waiting import in_order
from slurm_gpuaas.portal.award_runs import AwardRuns, Question
from slurm_gpuaas.portal.pool import PoolServer
from slurm_gpuaas.portal.rights import Action, Owned, Scope
from slurm_gpuaas.portal.visit import Visit


@dataclass(frozen=True, slots=True)
class Waiting:
    """One of a waiting list.

    Args:
        place: 1 is offered what is free first; None: it has too few reviews now and is offered nothing.
        why: what it was told when it was put there.
    """

    place: int | None
    judged: Judged
    why: str


class AwardDesk:
    def __init__(self, pool: PoolServer, runs: AwardRuns, clock: Clock) -> None:
        self.service = pool.service
        self.register = pool.store.register
        self.runs = runs
        self._clock = clock

    @property
    def today(self) -> date:
        return korean_day(self._clock.now())

    # -- Programmes

    def programme(self, name: str) -> Programme:
        """
        Raises:
            NotFound: there is none of that name.
        """
        try:
            return self.register.programmes.get(ProgrammeName(name))
        except InvalidInput:
            raise NotFound(told("There is no such programme.")) from None

    def question(self, programme: Programme) -> Question:
        """What the solver would be asked now."""
        return Question(programme=programme.name, scenario=self.service.scenario(programme.name))

    def judged(self, programme: Programme, *states: ApplicationState) -> tuple[Judged, ...]:
        applications = self.register.applications.all(programme=programme.name, state=[str(state) for state in states])
        reviews = self.service.counted_reviews(applications)
        return tuple(Judged(one, reviews[one.id], programme) for one in applications)

    def undecidable(self, programme: Programme) -> list[tuple[Judged, Told]]:
        """Applications of closed calls that no award can go to now, and why."""
        now = self._clock.now()
        closed = {call.number for call in programme.calls if call.closes <= now}
        open_ones = self.judged(programme, ApplicationState.IN_REVIEW, ApplicationState.WAITING)
        return [
            (one, why)
            for one in open_ones
            if one.application.request.call in closed and (why := one.obstacle(self.today)) is not None
        ]

    def waiting_list(self, programme: Programme) -> tuple[Waiting, ...]:
        """In the order in which free GPUs are offered; at the end those that are offered nothing."""
        judged = {one.application.id: one for one in self.judged(programme, ApplicationState.WAITING)}
        ready = [
            (one.application, one.score)
            for one in judged.values()
            if one.enough and not one.too_low and one.score is not None
        ]
        ordered = [one.id for one in in_order(ready)]
        found = [
            Waiting(place, judged[id], _why_it_waits(judged[id].application)) for place, id in enumerate(ordered, 1)
        ]
        rest = [judged[id] for id in judged if id not in set(ordered)]
        return (*found, *(Waiting(None, one, _why_it_waits(one.application)) for one in rest))

    def over_caps(self, programme: Programme, found: SolvedAward) -> tuple[Over, ...]:
        """Caps that a run's award would pass together with what earlier rounds hold, which the solver does not know."""
        lines = [
            AwardLine(application=ApplicationId(id), share=PoolShareName(one.pool.name), gpus=one.gpus)
            for id, one in found.awarded.items()
        ]
        applications = self.applications([line.application for line in lines])
        new = self.service.holdings(lines, applications, self.today)
        return over_caps(programme, new, self.service.held(programme), since=self.today)

    # -- Awards

    def award(self, visit: Visit, number: str) -> Award:
        """As the visitor may see it: a provider sees what was approved at its shares.

        Raises:
            NotFound: there is none of that number. Refused: it is not within what the visitor's role covers.
        """
        try:
            award = self.register.awards.get(AwardId(number))
        except InvalidInput:
            raise NotFound(told("There is no such award.")) from None
        if visit.require(Action.AWARD_READ) is Scope.ALL:
            return award
        seen = self._of_provider(visit, award, self.shares())
        if seen is None:
            visit.require(Action.AWARD_READ, Owned())
            raise AssertionError("a thing of nobody was within a role's scope")
        return seen

    def awards(self, visit: Visit) -> tuple[Award, ...]:
        """Those that the visitor may see, the newest first."""
        found = reversed(self.register.awards.all())
        if visit.require(Action.AWARD_READ) is Scope.ALL:
            return tuple(found)
        shares = self.shares()
        return tuple(seen for one in found if (seen := self._of_provider(visit, one, shares)) is not None)

    def _of_provider(self, visit: Visit, award: Award, shares: Mapping[PoolShareName, PoolShare]) -> Award | None:
        provider = visit.person.office.provider
        lines = tuple(line for line in award.awards if shares[line.share].provider == provider)
        if award.state is not AwardState.APPROVED or not lines:
            return None
        return award.model_copy(update={"awards": lines, "waiting": (), "refused": ()})

    def shares(self) -> dict[PoolShareName, PoolShare]:
        return {one.name: one for one in self.register.shares.all()}

    def organisations(self) -> dict[str, PoolOrganisation]:
        return {one.name: one for one in self.register.organisations.all()}

    def applications(self, numbers: Sequence[ApplicationId]) -> dict[ApplicationId, Application]:
        return {one.id: one for one in self.register.applications.all(id=list(numbers))}


def _why_it_waits(application: Application) -> str:
    """The reason of the step onto the list."""
    steps = [one.reason for one in application.history if one.step == "put on the waiting list"]
    return steps[-1] if steps else ""
