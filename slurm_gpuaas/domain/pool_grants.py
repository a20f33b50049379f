"""From an award to the end of a grant: awards, offers, grants, changes of grants, and what the day brings. Pure.

```text
award   drafted -> approved | dropped                         whoever drafted it never approves it
offer   made -> accepted | declined | lapsed
grant   scheduled -> active -> ending -> ended                ending: no GPUs any more, members still fetch their data
change  asked -> approved | refused | dropped                 whoever asked never decides
```

A grant's GPUs and last day are its terms. A change sets new terms, an early return moves the last day forward, a recall
takes GPUs at once; each is an event of its history. The last day is the grant's: GPUs are gone the day after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import AwareDatetime, Field, StringConstraints, model_validator

from slurm_gpuaas.domain.calendar import ONE_DAY, CalendarDay, Commitment, korean_day, start_of
from slurm_gpuaas.domain.errors import Conflict, InvalidInput, Refused
from slurm_gpuaas.domain.names import (
    ApplicationId,
    AwardId,
    ChangeId,
    HoldId,
    OfferId,
    OrganisationName,
    PersonId,
    PoolGrantId,
    PoolShareName,
    ProgrammeName,
    ProjectName,
)
from slurm_gpuaas.domain.policy import MOST_WON, Percent
from slurm_gpuaas.domain.programmes import GpuCount
from slurm_gpuaas.domain.stages import Line, Noun, Staged, Step, Text, stepped
from slurm_gpuaas.domain.told import told

MOST_LINES: Final = 5_000
"""Applications of one call; the first call of the national programme had 514."""
MOST_MEMBERS: Final = 500
MOST_WHY: Final = 1_000
"""Characters of what is said of an application that is awarded nothing; the solver's reasons are no longer."""
Why = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MOST_WHY, pattern=r"^[^\x00-\x1f\x7f]*$")
]

# -- Awards ------------------------------------------------------------------------------------------------------------


class AwardState(StrEnum):
    DRAFTED = "drafted"
    APPROVED = "approved"
    DROPPED = "dropped"


class AwardStep(StrEnum):
    APPROVE = "approve"
    DROP = "drop"


_DRAFTED: Final = frozenset({AwardState.DRAFTED})
AWARD_STEPS: Final[Mapping[StrEnum, Step[AwardState]]] = {
    AwardStep.APPROVE: Step(_DRAFTED, AwardState.APPROVED),
    AwardStep.DROP: Step(_DRAFTED, AwardState.DROPPED),
}


class AwardLine(Noun):
    """GPUs of one share for one application."""

    application: ApplicationId
    share: PoolShareName
    gpus: GpuCount


class NotAwarded(Noun):
    """`why` is read by the applicant."""

    application: ApplicationId
    why: Why


class Award(Staged[AwardState]):
    """One round of decisions on a programme's applications. On approval awards become offers, `waiting` goes on the
    waiting list and `refused` is refused, all in one."""

    id: AwardId
    programme: ProgrammeName
    awards: tuple[AwardLine, ...] = Field(default=(), max_length=MOST_LINES)
    waiting: tuple[NotAwarded, ...] = Field(default=(), max_length=MOST_LINES)
    refused: tuple[NotAwarded, ...] = Field(default=(), max_length=MOST_LINES)
    drafted_by: PersonId
    decided_by: PersonId | None = None
    state: AwardState = AwardState.DRAFTED

    @model_validator(mode="after")
    def _decides_once(self) -> Self:
        named = self.applications
        if not named or len(set(named)) < len(named):
            raise InvalidInput(
                told("An award decides on at least one application, and on each once."),
                way_out=told("Name each application in one line."),
            )
        return self

    @property
    def applications(self) -> tuple[ApplicationId, ...]:
        return (
            *(line.application for line in self.awards),
            *(one.application for one in (*self.waiting, *self.refused)),
        )


def check_other_person(decider: PersonId, asker: PersonId) -> None:
    """The two-person rule: people are compared, not roles.

    Raises:
        Refused: it is one person.
    """
    if decider == asker:
        raise Refused(
            told("{person} asked for this and cannot decide it.", person=decider),
            way_out=told("Ask somebody else who may decide it."),
        )


# -- Offers ------------------------------------------------------------------------------------------------------------


class OfferState(StrEnum):
    MADE = "made"
    ACCEPTED = "accepted"
    DECLINED = "declined"
    LAPSED = "lapsed"


class OfferStep(StrEnum):
    """`MAKE` begins the history and leads from no state."""

    MAKE = "make"
    ACCEPT = "accept"
    DECLINE = "decline"
    LAPSE = "lapse"


_MADE: Final = frozenset({OfferState.MADE})
OFFER_STEPS: Final[Mapping[StrEnum, Step[OfferState]]] = {
    OfferStep.ACCEPT: Step(_MADE, OfferState.ACCEPTED),
    OfferStep.DECLINE: Step(_MADE, OfferState.DECLINED),
    OfferStep.LAPSE: Step(_MADE, OfferState.LAPSED),
}


class Offer(Staged[OfferState]):
    """GPUs that wait for their applicant's yes, until before `answer_by`."""

    id: OfferId
    application: ApplicationId
    organisation: OrganisationName
    programme: ProgrammeName
    share: PoolShareName
    gpus: GpuCount
    starts: CalendarDay
    ends: CalendarDay
    price_percent: Percent
    budget_won: int | None = Field(default=None, ge=1, le=MOST_WON)
    answer_by: AwareDatetime
    state: OfferState = OfferState.MADE

    @property
    def commitment(self) -> Commitment | None:
        """What it holds; None when it holds nothing any more."""
        if self.state is not OfferState.MADE:
            return None
        return Commitment(holder=self.id, share=self.share, gpus=self.gpus, starts=self.starts, ends=self.ends)

    @property
    def open_until(self) -> datetime:
        """It lapses then: with the answer's term, or with its period."""
        return min(self.answer_by, start_of(self.ends + ONE_DAY))


def accepted(offer: Offer, *, by: str, at: datetime) -> Offer:
    """
    Raises:
        Refused: the answer comes too late.
        Conflict: it is answered already.
    """
    taken = stepped(offer, offer.id, OFFER_STEPS, OfferStep.ACCEPT, by=by, at=at)
    if at >= offer.open_until:
        raise Refused(
            told("Offer {offer} could be accepted until {moment}.", offer=offer.id, moment=offer.open_until),
            way_out=told("Apply in the next call."),
        )
    return taken


# -- Grants ------------------------------------------------------------------------------------------------------------


class PoolGrantState(StrEnum):
    SCHEDULED = "scheduled"
    ACTIVE = "active"
    ENDING = "ending"
    ENDED = "ended"


class PoolGrantStep(StrEnum):
    ACTIVATE = "activate"
    CHANGE = "change"
    SHRINK = "shrink"
    RETURN = "return early"
    RECALL = "recall"
    WARN = "warn"
    MEMBERS = "change members"
    REPORT = "hand in the report"
    RUN_OUT = "run out"
    CLOSE = "close"


_LIVE: Final = frozenset({PoolGrantState.SCHEDULED, PoolGrantState.ACTIVE})
_ENDING: Final = frozenset({PoolGrantState.ENDING})

GRANT_STEPS: Final[Mapping[StrEnum, Step[PoolGrantState]]] = {
    PoolGrantStep.ACTIVATE: Step(frozenset({PoolGrantState.SCHEDULED}), PoolGrantState.ACTIVE),
    PoolGrantStep.CHANGE: Step(_LIVE, None),
    PoolGrantStep.SHRINK: Step(_LIVE, None),
    PoolGrantStep.RETURN: Step(_LIVE, None),
    PoolGrantStep.RECALL: Step(_LIVE, PoolGrantState.ENDING),
    PoolGrantStep.WARN: Step(frozenset({PoolGrantState.ACTIVE}), None),
    PoolGrantStep.MEMBERS: Step(_LIVE | _ENDING, None),
    PoolGrantStep.REPORT: Step(frozenset(PoolGrantState) - {PoolGrantState.SCHEDULED}, None),
    PoolGrantStep.RUN_OUT: Step(_LIVE, PoolGrantState.ENDING),
    PoolGrantStep.CLOSE: Step(_ENDING, PoolGrantState.ENDED),
}


class PoolGrant(Staged[PoolGrantState]):
    """GPUs of one share for one project of an organisation.

    Args:
        gpus, ends: the terms as they are now; calendar and audit trail tell what they were.
        grace_until: last day on which members may still sign in, once the grant is ending.
        warned: days before the end of the last warning that was sent for these terms.
    """

    id: PoolGrantId
    offer: OfferId
    application: ApplicationId
    organisation: OrganisationName
    programme: ProgrammeName
    project: ProjectName
    title: Line
    share: PoolShareName
    gpus: GpuCount
    starts: CalendarDay
    ends: CalendarDay
    price_percent: Percent
    budget_won: int | None = Field(default=None, ge=1, le=MOST_WON)
    grace_days: int = Field(ge=0, le=365)
    grace_until: date | None = None
    members: tuple[PersonId, ...] = Field(default=(), max_length=MOST_MEMBERS)
    warned: int | None = None
    report: Text | None = None
    state: PoolGrantState = PoolGrantState.SCHEDULED

    @property
    def holds(self) -> bool:
        """It has GPUs, now or later."""
        return self.state in _LIVE

    @property
    def commitment(self) -> Commitment | None:
        """What it holds; None when it holds nothing any more."""
        if not self.holds:
            return None
        return Commitment(holder=self.id, share=self.share, gpus=self.gpus, starts=self.starts, ends=self.ends)


def project_name(organisation: OrganisationName, grant: PoolGrantId) -> ProjectName:
    """The Slurm account of a grant: its number makes it unique, the organisation makes it readable."""
    number = grant.removeprefix("g")
    readable = organisation[: 30 - len(number) - 1].rstrip("-")
    return ProjectName(f"{readable}-{number}")


def granted(
    offer: Offer, *, grant: PoolGrantId, title: str, grace_days: int, applicant: PersonId, today: date
) -> PoolGrant:
    """The grant of an accepted offer. Days of the offer that have passed are not granted."""
    return PoolGrant(
        id=grant,
        offer=offer.id,
        application=offer.application,
        organisation=offer.organisation,
        programme=offer.programme,
        project=project_name(offer.organisation, grant),
        title=title,
        share=offer.share,
        gpus=offer.gpus,
        starts=max(offer.starts, today),
        ends=offer.ends,
        price_percent=offer.price_percent,
        budget_won=offer.budget_won,
        grace_days=grace_days,
        members=(applicant,),
    )


def _stepped(
    grant: PoolGrant, step: PoolGrantStep, by: str, at: datetime, reason: str = "", **changes: object
) -> PoolGrant:
    return stepped(grant, grant.id, GRANT_STEPS, step, by=by, at=at, reason=reason, **changes)


def _over(grant: PoolGrant, step: PoolGrantStep, by: str, at: datetime, reason: str) -> PoolGrant:
    """Its GPUs are gone; grace begins today."""
    grace = korean_day(at) + timedelta(days=grant.grace_days) - ONE_DAY
    return _stepped(grant, step, by, at, reason, grace_until=grace)


def changed(grant: PoolGrant, *, gpus: int, ends: date, by: str, at: datetime, reason: str) -> PoolGrant:
    """New terms from now on.

    Raises:
        Refused: the new last day is over.
        Conflict: the grant has no GPUs any more.
    """
    new = _stepped(grant, PoolGrantStep.CHANGE, by, at, reason, gpus=gpus, ends=ends, warned=None)
    if ends < max(korean_day(at), grant.starts):
        raise Refused(
            told(
                "{day} cannot be the last day of grant {grant}: it is over, or before its first.",
                day=ends,
                grant=grant.id,
            ),
            way_out=told("Choose a later day, or return the grant."),
        )
    return new


def shrunk(grant: PoolGrant, *, gpus: int, by: str, at: datetime, reason: str) -> PoolGrant:
    """Fewer GPUs from today on.

    Raises:
        Refused: they are not fewer.
        Conflict: the grant has no GPUs any more.
    """
    new = _stepped(grant, PoolGrantStep.SHRINK, by, at, reason, gpus=gpus)
    if gpus >= grant.gpus:
        raise Refused(
            told(
                "{gpus} GPUs are not fewer than the {now} of grant {grant}.", gpus=gpus, now=grant.gpus, grant=grant.id
            ),
            way_out=told("Choose a smaller number."),
        )
    return new


def recalled(grant: PoolGrant, *, by: str, at: datetime, reason: str) -> PoolGrant:
    """All its GPUs are gone from today on.

    Raises:
        Conflict: it has none any more.
    """
    return _over(grant, PoolGrantStep.RECALL, by, at, reason)


def returned(grant: PoolGrant, *, last_day: date, by: str, at: datetime, reason: str) -> PoolGrant:
    """Ends on an earlier day; yesterday is at once.

    Raises:
        Refused: the day is over, or no earlier than the end.
        Conflict: it has no GPUs any more.
    """
    _stepped(grant, PoolGrantStep.RETURN, by, at)
    yesterday = korean_day(at) - ONE_DAY
    if not yesterday <= last_day < grant.ends:
        raise Refused(
            told(
                "Grant {grant} ends {ends}; it can be returned with a last day from {first} on, before that.",
                grant=grant.id,
                ends=grant.ends,
                first=yesterday,
            ),
            way_out=told("Choose a day in between."),
        )
    if last_day == yesterday or last_day < grant.starts:
        return _over(grant, PoolGrantStep.RUN_OUT, by, at, reason)
    return _stepped(grant, PoolGrantStep.RETURN, by, at, reason, ends=last_day, warned=None)


def with_members(grant: PoolGrant, members: tuple[PersonId, ...], *, by: str, at: datetime) -> PoolGrant:
    return _stepped(grant, PoolGrantStep.MEMBERS, by, at, members=tuple(dict.fromkeys(members)))


def with_report(grant: PoolGrant, report: str, *, by: str, at: datetime) -> PoolGrant:
    return _stepped(grant, PoolGrantStep.REPORT, by, at, report=report)


def due(grant: PoolGrant, warn_days: tuple[int, ...], *, by: str, at: datetime) -> PoolGrant | None:
    """The next step that the calendar asks of a grant; None: nothing to do today. Ask again after each step.

    A grant that nobody looked at for a while gets the warning that is due now, not those that were due.
    """
    today = korean_day(at)
    match grant.state:
        case PoolGrantState.SCHEDULED if grant.starts <= today:
            return _stepped(grant, PoolGrantStep.ACTIVATE, by, at)
        case PoolGrantState.ACTIVE if grant.ends < today:
            grace = grant.ends + timedelta(days=grant.grace_days)
            return _stepped(grant, PoolGrantStep.RUN_OUT, by, at, grace_until=grace)
        case PoolGrantState.ACTIVE:
            left = (grant.ends - today).days
            reached = min((days for days in warn_days if left <= days), default=None)
            if reached is not None and (grant.warned is None or reached < grant.warned):
                return _stepped(grant, PoolGrantStep.WARN, by, at, warned=reached)
        case PoolGrantState.ENDING if grant.grace_until is not None and grant.grace_until < today:
            return _stepped(grant, PoolGrantStep.CLOSE, by, at)
    return None


# -- Changes that somebody asks for ------------------------------------------------------------------------------------


class ChangeState(StrEnum):
    ASKED = "asked"
    APPROVED = "approved"
    REFUSED = "refused"
    DROPPED = "dropped"


class ChangeStep(StrEnum):
    """`ASK` begins the history and leads from no state."""

    ASK = "ask"
    APPROVE = "approve"
    REFUSE = "refuse"
    DROP = "drop"


_ASKED: Final = frozenset({ChangeState.ASKED})
CHANGE_STEPS: Final[Mapping[StrEnum, Step[ChangeState]]] = {
    ChangeStep.APPROVE: Step(_ASKED, ChangeState.APPROVED),
    ChangeStep.REFUSE: Step(_ASKED, ChangeState.REFUSED),
    ChangeStep.DROP: Step(_ASKED, ChangeState.DROPPED),
}


class GrantChange(Staged[ChangeState]):
    """A wish for other terms: more or fewer GPUs, a later end (renewal) or an earlier one."""

    id: ChangeId
    grant: PoolGrantId
    gpus: GpuCount
    ends: CalendarDay
    reason: Line
    asked_by: PersonId
    decided_by: PersonId | None = None
    state: ChangeState = ChangeState.ASKED


def check_change(grant: PoolGrant, gpus: int, ends: date, longest_days: int) -> None:
    """
    Raises:
        Refused: nothing would change, or more days would be added than the programme allows at once.
    """
    if (gpus, ends) == (grant.gpus, grant.ends):
        raise Refused(
            told("Grant {grant} has {gpus} GPUs until {ends} already.", grant=grant.id, gpus=gpus, ends=ends),
            way_out=told("Ask for other terms."),
        )
    if (added := (ends - grant.ends).days) > longest_days:
        raise Refused(
            told("{days} more days are over the {most} that one change may add.", days=added, most=longest_days),
            way_out=told("Ask for an earlier last day."),
        )


_NEW_TERMS: Final = frozenset({PoolGrantStep.CHANGE, PoolGrantStep.SHRINK, PoolGrantStep.RETURN, PoolGrantStep.RECALL})


def check_still_meant(grant: PoolGrant, change: GrantChange) -> None:
    """A change names all terms, so it would undo whatever became of them since it was asked for.

    Raises:
        Conflict: the grant has had other terms since.
    """
    asked = change.history[0].at
    if any(one.step in _NEW_TERMS and one.at > asked for one in grant.history):
        raise Conflict(
            told(
                "Grant {grant} has had other terms since {change} was asked for: {gpus} GPUs until {ends}.",
                grant=grant.id,
                change=change.id,
                gpus=grant.gpus,
                ends=grant.ends,
            ),
            way_out=told("Refuse it; what is still wanted can be asked for again."),
        )


# -- What else holds GPUs ----------------------------------------------------------------------------------------------


class HoldKind(StrEnum):
    LEASE = "lease"
    """The provider uses GPUs of the share that nobody was awarded, until a day."""
    RESERVATION = "reservation"
    """Kept for a later call."""


class Hold(Noun):
    """GPUs of a share that are promised to no grant and still not free."""

    id: HoldId
    kind: HoldKind
    share: PoolShareName
    gpus: GpuCount
    starts: CalendarDay
    ends: CalendarDay
    by: PersonId
    reason: Line
    released: bool = False

    @model_validator(mode="after")
    def _ends_after_start(self) -> Self:
        if self.ends < self.starts:
            raise InvalidInput(
                told("The hold ends {ends}, before it starts {starts}.", ends=self.ends, starts=self.starts),
                way_out=told("Swap the days."),
            )
        return self

    @property
    def commitment(self) -> Commitment | None:
        """What it holds; None when it holds nothing any more."""
        if self.released:
            return None
        return Commitment(holder=self.id, share=self.share, gpus=self.gpus, starts=self.starts, ends=self.ends)
