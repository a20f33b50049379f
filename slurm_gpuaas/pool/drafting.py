"""From what the solver found to a draft that people decide on. Pure.

The reasons in a draft are read by applicants: they say what stood against the application with its numbers, and never
who else applied or at which score (`award_reasons` says that to those who award).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import date
from typing import TypeVar

from slurm_gpuaas.domain.names import ApplicationId, PoolShareName
from slurm_gpuaas.domain.pool_grants import MOST_WHY, AwardLine, NotAwarded
from slurm_gpuaas.domain.pool_grants import Award as Draft
from slurm_gpuaas.domain.told import Told, told
from slurm_gpuaas.pool.award import Award
from slurm_gpuaas.pool.award_reasons import Limit, Reason, reasons
from slurm_gpuaas.pool.award_scenario import Application
from slurm_gpuaas.pool.reviewing import Judged

L = TypeVar("L", AwardLine, NotAwarded)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """What a draft decides; each application stands once."""

    awards: tuple[AwardLine, ...] = ()
    waiting: tuple[NotAwarded, ...] = ()
    refused: tuple[NotAwarded, ...] = ()

    def without(self, application: ApplicationId) -> Decisions:
        """Nothing is decided about the application."""
        return Decisions(
            awards=tuple(one for one in self.awards if one.application != application),
            waiting=tuple(one for one in self.waiting if one.application != application),
            refused=tuple(one for one in self.refused if one.application != application),
        )

    def award(self, line: AwardLine) -> Decisions:
        rest = self.without(line.application)
        return replace(rest, awards=_in_order((*rest.awards, line)))

    def wait(self, one: NotAwarded) -> Decisions:
        rest = self.without(one.application)
        return replace(rest, waiting=_in_order((*rest.waiting, one)))

    def refuse(self, one: NotAwarded) -> Decisions:
        rest = self.without(one.application)
        return replace(rest, refused=_in_order((*rest.refused, one)))


def of_draft(draft: Draft) -> Decisions:
    return Decisions(awards=draft.awards, waiting=draft.waiting, refused=draft.refused)


def of_run(award: Award, judged: Iterable[Judged], tell: Callable[[str], str], *, today: date) -> Decisions:
    """What was found is awarded; who got nothing waits; who is judged and below the least score is refused.

    Args:
        judged: applications that the run does not have.
        tell: says a sentence in the drafter's language.
    """
    return Decisions(
        awards=tuple(
            AwardLine(application=ApplicationId(id_), share=PoolShareName(one.pool.name), gpus=one.gpus)
            for id_, one in award.awarded.items()
        ),
        waiting=tuple(_not_awarded(one.id, why_no_award(award, one), tell) for one in award.refused),
        refused=tuple(
            _not_awarded(one.application.id, why, tell)
            for one in judged
            if one.too_low and (why := one.obstacle(today))
        ),
    )


def why_no_award(award: Award, application: Application) -> Told:
    """The first limit that stood against an application which got nothing, as its applicant may read it."""
    return _for_the_applicant(award, application, reasons(award, application)[0])


def _for_the_applicant(award: Award, application: Application, reason: Reason) -> Told:
    caps = award.scenario.caps
    match reason.limit:
        case Limit.NO_POOL:
            return told("The programme has no GPUs of model {model} to award now.", model=application.model)
        case Limit.CAP:
            return told(
                "It needs {least} GPUs at least; the programme's cap allows {most}.",
                least=application.min_gpus,
                most=reason.left,
            )
        case Limit.ORGANISATION:
            return told(
                "The organisation's other awards leave no room under its cap of {cap} GPUs.", cap=caps.organisation or 0
            )
        case Limit.REGION:
            return told("Awards in the region leave no room under its cap of {cap} GPUs.", cap=caps.region or 0)
        case Limit.NO_SCORE:
            return told("Its score is 0.")
        case Limit.POOL_SIZE | Limit.CAPACITY:
            return told(
                "No share has {needed} GPUs left for it: the others together add up to more points and GPUs.",
                needed=reason.needed,
            )


def _not_awarded(id: str, why: Told, tell: Callable[[str], str]) -> NotAwarded:
    return NotAwarded(application=ApplicationId(id), why=tell(why)[:MOST_WHY])


def _in_order(lines: Iterable[L]) -> tuple[L, ...]:
    return tuple(sorted(lines, key=lambda one: one.application))
