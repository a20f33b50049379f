"""Applications for GPUs and their reviews: what may be applied for, what follows what, how a score comes about. Pure.

An application is a draft on its author's side until it is submitted; from then on it has a number and a state. What a
rule forbids is refused in one sentence that names the rule and its numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date, datetime
from enum import StrEnum
from fractions import Fraction
from typing import Annotated, Final, Self

from pydantic import AwareDatetime, Field, model_validator

from slurm_gpuaas.domain.calendar import CalendarDay, korean_day
from slurm_gpuaas.domain.errors import InvalidInput, Refused
from slurm_gpuaas.domain.names import ApplicationId, GpuModel, OrganisationName, PersonId, ProgrammeName
from slurm_gpuaas.domain.policy import MOST_WON
from slurm_gpuaas.domain.programmes import (
    GPUS_OF_A_SERVER,
    MOST_POINTS,
    GpuCount,
    PoolOrganisation,
    PoolShare,
    Programme,
)
from slurm_gpuaas.domain.stages import Line, Noun, Staged, Step, Text
from slurm_gpuaas.domain.told import Told, told
from slurm_gpuaas.domain.workloads import Measured, Workload

MOST_MEASURED: Final = 50
"""Earlier grants that right-sizing looks at, the newest."""


class ApplicationState(StrEnum):
    SUBMITTED = "submitted"
    IN_REVIEW = "in review"
    WAITING = "waiting"
    """It is good enough and there is no room: on the waiting list."""
    AWARDED = "awarded"
    REFUSED = "refused"
    WITHDRAWN = "withdrawn"
    """By its people, or because they did not take the offer."""


class ApplicationStep(StrEnum):
    BEGIN_REVIEW = "begin review"
    AWARD = "award"
    WAIT = "put on the waiting list"
    REFUSE = "refuse"
    WITHDRAW = "withdraw"
    LOSE_OFFER = "lose the offer"


_OPEN: Final = frozenset({ApplicationState.IN_REVIEW, ApplicationState.WAITING})

APPLICATION_STEPS: Final[Mapping[StrEnum, Step[ApplicationState]]] = {
    ApplicationStep.BEGIN_REVIEW: Step(frozenset({ApplicationState.SUBMITTED}), ApplicationState.IN_REVIEW),
    ApplicationStep.AWARD: Step(_OPEN, ApplicationState.AWARDED),
    ApplicationStep.WAIT: Step(frozenset({ApplicationState.IN_REVIEW}), ApplicationState.WAITING),
    ApplicationStep.REFUSE: Step(_OPEN, ApplicationState.REFUSED),
    ApplicationStep.WITHDRAW: Step(_OPEN | {ApplicationState.SUBMITTED}, ApplicationState.WITHDRAWN),
    ApplicationStep.LOSE_OFFER: Step(frozenset({ApplicationState.AWARDED}), ApplicationState.WITHDRAWN),
}


class Sized(Noun):
    """What right-sizing was told when the application was submitted, and what it proposed.

    Args:
        model: what it was sized for; of several models the one that needs the most GPUs.
        measured: earlier grants of the applicant that it took into account.
        proposed: None: it could propose nothing.
        why: why another count is asked for.
    """

    workload: Workload
    model: GpuModel
    measured: tuple[Measured, ...] = Field(default=(), max_length=MOST_MEASURED)
    proposed: GpuCount | None = None
    why: Text = ""


class ApplicationRequest(Noun):
    """What an application asks for.

    Args:
        workload: what is to run, in its author's words and figures.
        sized: absent: the workload was not declared in figures.
        model: None takes any model of the programme.
        min_gpus: with fewer the project makes no sense.
        budget_won: where the programme has a cap in Won: how much of it.
    """

    programme: ProgrammeName
    call: int
    organisation: OrganisationName
    title: Line
    purpose: Text
    workload: Text
    model: GpuModel | None = None
    gpus: GpuCount
    min_gpus: GpuCount
    starts: CalendarDay
    ends: CalendarDay
    budget_won: int | None = Field(default=None, ge=1, le=MOST_WON)
    sized: Sized | None = None

    @model_validator(mode="after")
    def _says_why_not_as_proposed(self) -> Self:
        if self.sized is not None and self.gpus != self.sized.proposed and not self.sized.why:
            raise InvalidInput(
                told(
                    "{gpus} GPUs are asked for and {proposed} were proposed; the application does not say why.",
                    gpus=self.gpus,
                    proposed=self.sized.proposed or 0,
                ),
                way_out=told("Say why, or ask for what was proposed."),
            )
        return self

    @model_validator(mode="after")
    def _is_in_order(self) -> Self:
        if self.min_gpus > self.gpus:
            raise InvalidInput(
                told("At least {least} GPUs are more than the {gpus} asked for.", least=self.min_gpus, gpus=self.gpus),
                way_out=told("Ask for more, or give a smaller least number."),
            )
        if self.ends < self.starts:
            raise InvalidInput(
                told("The period ends {ends}, before it starts {starts}.", ends=self.ends, starts=self.starts),
                way_out=told("Swap the days."),
            )
        return self

    @property
    def days(self) -> int:
        return (self.ends - self.starts).days + 1


class ApplicationDraft(Noun):
    """What somebody has filled in so far; one for each person and programme. Nothing in it need make sense yet."""

    person: PersonId
    programme: ProgrammeName
    saved_at: AwareDatetime
    fields: Mapping[Annotated[str, Field(max_length=40)], Annotated[str, Field(max_length=4_000)]] = Field(
        max_length=40
    )


class Application(Staged[ApplicationState]):
    id: ApplicationId
    request: ApplicationRequest
    applicant: PersonId
    submitted_at: AwareDatetime
    state: ApplicationState = ApplicationState.SUBMITTED

    @property
    def programme(self) -> ProgrammeName:
        return self.request.programme

    @property
    def organisation(self) -> OrganisationName:
        return self.request.organisation


class Review(Noun):
    """One reviewer's judgement. With a declared conflict of interest there are no points, and it does not count.

    Args:
        points: criterion's key to 0..100.
    """

    application: ApplicationId
    reviewer: PersonId
    conflict: bool = False
    points: Mapping[str, Annotated[int, Field(ge=0, le=MOST_POINTS)]] = Field(default={}, max_length=20)
    comment: Text = ""
    at: AwareDatetime

    @model_validator(mode="after")
    def _points_or_conflict(self) -> Self:
        if self.conflict == bool(self.points):
            raise InvalidInput(
                told("A review has either points or a declared conflict of interest."),
                way_out=told("Give points to every criterion, or declare the conflict."),
            )
        return self


def check_request(
    request: ApplicationRequest, programme: Programme, organisation: PoolOrganisation, *, now: datetime
) -> None:
    """
    Raises:
        Refused: a rule of the programme forbids the application; the sentence names it.
        NotFound: the programme has no such call.
    """
    check_call(request.call, programme, now)
    check_kind(organisation, programme)
    check_model(request.model, programme)
    check_size(request.gpus, programme)
    check_days(request.days, programme)
    check_start(request.starts, now)
    check_budget(request.budget_won, programme)


def check_call(number: int, programme: Programme, now: datetime) -> None:
    call = programme.call(number)
    if not call.open_at(now):
        raise Refused(
            told(
                "Call {number} of programme {programme} takes applications from {opens} until {closes}.",
                number=call.number,
                programme=programme.name,
                opens=call.opens,
                closes=call.closes,
            ),
            way_out=told("Apply in an open call."),
        )


def check_kind(organisation: PoolOrganisation, programme: Programme) -> None:
    if organisation.kind not in programme.prices:
        raise Refused(
            told(
                "Programme {programme} is for {kinds}; {organisation} is registered as {kind}.",
                programme=programme.name,
                kinds=", ".join(sorted(programme.prices)),
                organisation=organisation.name,
                kind=str(organisation.kind),
            ),
            way_out=told("Look for a programme for your kind of organisation."),
        )


def check_model(model: GpuModel | None, programme: Programme) -> None:
    if model is not None and model not in programme.models:
        raise Refused(
            told(
                "Programme {programme} has no {model}; it has {models}.",
                programme=programme.name,
                model=model,
                models=", ".join(programme.models),
            ),
            way_out=told("Choose one of these models, or any."),
        )


def check_size(gpus: int, programme: Programme) -> None:
    if not programme.offers_size(gpus):
        raise Refused(
            told(
                "{gpus} GPUs are no size of programme {programme}; it offers {sizes}.",
                gpus=gpus,
                programme=programme.name,
                sizes=sizes_of(programme),
            ),
            way_out=told("Choose one of these sizes."),
        )


def sizes_of(programme: Programme) -> str:
    sizes, step = sorted(programme.sizes), programme.beyond
    if step is None:
        return ", ".join(map(str, sizes))
    above = (sizes[-1] // step + 1) * step
    return ", ".join(map(str, [*sizes, above, above + step])) + ", …"


def check_days(days: int, programme: Programme) -> None:
    if days > programme.longest_days:
        raise Refused(
            told(
                "{days} days are more than the {most} of programme {programme}.",
                days=days,
                most=programme.longest_days,
                programme=programme.name,
            ),
            way_out=told("Choose a shorter period."),
        )


def check_start(starts: date, now: datetime) -> None:
    if starts < (today := korean_day(now)):
        raise Refused(
            told("The period starts {starts}; today is {today}.", starts=starts, today=today),
            way_out=told("Start today or later."),
        )


def check_budget(budget_won: int | None, programme: Programme) -> None:
    if programme.cap_won is None:
        if budget_won is not None:
            raise Refused(
                told("Programme {programme} gives no budget in Won.", programme=programme.name),
                way_out=told("Leave the budget out."),
            )
    elif budget_won is None or budget_won > programme.cap_won:
        raise Refused(
            told(
                "Programme {programme} gives an organisation at most {cap} Won; the application asks for {asked}.",
                programme=programme.name,
                cap=programme.cap_won,
                asked=budget_won or 0,
            ),
            way_out=told("Ask for a budget up to that."),
        )


def missing(request: ApplicationRequest) -> tuple[Told, ...]:
    """What the programme's office would ask for before anybody judges the application; empty: it is complete."""
    found = []
    if not request.purpose:
        found.append(told("It does not say what the GPUs are for."))
    if not request.workload:
        found.append(told("It does not say what is to run."))
    return tuple(found)


def check_points(review: Review, programme: Programme) -> None:
    """
    Raises:
        InvalidInput: points for other criteria than the programme's, or not for all of them.
    """
    wanted = {criterion.key for criterion in programme.criteria}
    if not review.conflict and review.points.keys() != wanted:
        raise InvalidInput(
            told("Points are due for exactly these criteria: {criteria}.", criteria=", ".join(sorted(wanted))),
            way_out=told("Give each of them 0 to {most} points.", most=MOST_POINTS),
        )


def in_conflict(person: PersonId, application: Application, colleagues: Collection[PersonId]) -> bool:
    """Whether a person may not judge an application, whatever they declare.

    Args:
        colleagues: members of the application's organisation.
    """
    return person == application.applicant or person in colleagues


def counted(
    reviews: Iterable[Review], application: Application, colleagues: Collection[PersonId]
) -> tuple[Review, ...]:
    """The reviews of the application that count: of people without a conflict of interest, declared or not."""
    return tuple(
        review
        for review in reviews
        if review.application == application.id
        and not review.conflict
        and not in_conflict(review.reviewer, application, colleagues)
    )


def score(reviews: Iterable[Review], programme: Programme) -> Fraction | None:
    """The mean over reviews of the weighted mean over criteria, 0 to 100, exact; None without a review.

    Args:
        reviews: only those that count.
    """
    of_each = [
        Fraction(sum(criterion.weight * review.points[criterion.key] for criterion in programme.criteria))
        / programme.weight
        for review in reviews
    ]
    return sum(of_each, Fraction(0)) / len(of_each) if of_each else None


def qualified(reviews: Sequence[Review], programme: Programme) -> bool:
    """Enough reviews count, and their score is not below the programme's least: it may be awarded, or wait for it.

    Args:
        reviews: only those that count.
    """
    points = score(reviews, programme)
    return points is not None and len(reviews) >= programme.reviews_needed and points >= programme.least_score


def suits(share: PoolShare, request: ApplicationRequest, programme: Programme) -> bool:
    """Whether GPUs of the share can be awarded to the request."""
    return share.name in programme.shares and share.model in programme.models and request.model in (None, share.model)


def check_count(request: ApplicationRequest, gpus: int) -> None:
    """
    Raises:
        Refused: so many GPUs are no award for the request: neither all of them nor whole servers of 8 from its least
            number on.
    """
    if gpus == request.gpus or (request.min_gpus <= gpus < request.gpus and gpus % GPUS_OF_A_SERVER == 0):
        return
    raise Refused(
        told(
            "{gpus} GPUs are no award: it is all {asked} asked for, or whole servers of {server} from {least} on.",
            gpus=gpus,
            asked=request.gpus,
            server=GPUS_OF_A_SERVER,
            least=request.min_gpus,
        ),
        way_out=told("Award another number."),
    )


def most_that_fits(request: ApplicationRequest, room: int) -> int:
    """The largest award for the request in so much room; 0: none."""
    if request.gpus <= room:
        return request.gpus
    servers = room - room % GPUS_OF_A_SERVER
    return servers if servers >= request.min_gpus else 0
