"""How grants, offers and changes are told: names of states and steps, what limits a grant next, its history."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from slurm_gpuaas.domain.calendar import korean_day
from slurm_gpuaas.domain.names import OrganisationName
from slurm_gpuaas.domain.pool_grants import (
    ChangeState,
    ChangeStep,
    GrantChange,
    OfferState,
    OfferStep,
    PoolGrant,
    PoolGrantState,
    PoolGrantStep,
)
from slurm_gpuaas.domain.stages import Happened
from slurm_gpuaas.pool.grant_use import Bite, Limit, notes
from slurm_gpuaas.pool.service import PoolService
from slurm_gpuaas.portal.grant_figures import Figures
from slurm_gpuaas.portal.rights import Action, Scope
from slurm_gpuaas.portal.routes.grant_views import HistoryEvent, days_left
from slurm_gpuaas.portal.visit import Visit
from slurm_gpuaas.portal.words import Names, Words, noted
from slurm_gpuaas.store.pool import PoolStore

NAMES: Final[Names] = {
    OfferState: {
        OfferState.MADE: noted("Waits for an answer"),
        OfferState.ACCEPTED: noted("Accepted"),
        OfferState.DECLINED: noted("Declined"),
        OfferState.LAPSED: noted("Lapsed"),
    },
    OfferStep: {
        OfferStep.MAKE: noted("The offer was made"),
        OfferStep.ACCEPT: noted("The offer was accepted"),
        OfferStep.DECLINE: noted("The offer was declined"),
        OfferStep.LAPSE: noted("The offer lapsed without an answer"),
    },
    PoolGrantState: {
        PoolGrantState.SCHEDULED: noted("Not begun yet"),
        PoolGrantState.ACTIVE: noted("In use"),
        PoolGrantState.ENDING: noted("Over, data can be fetched"),
        PoolGrantState.ENDED: noted("Closed"),
    },
    PoolGrantStep: {
        PoolGrantStep.ACTIVATE: noted("The grant began"),
        PoolGrantStep.CHANGE: noted("Its terms were changed"),
        PoolGrantStep.SHRINK: noted("GPUs were taken back"),
        PoolGrantStep.RETURN: noted("It was given back, with an earlier last day"),
        PoolGrantStep.RECALL: noted("All its GPUs were taken back"),
        PoolGrantStep.WARN: noted("Its people were told that it ends soon"),
        PoolGrantStep.MEMBERS: noted("Its members were changed"),
        PoolGrantStep.REPORT: noted("The final report was handed in"),
        PoolGrantStep.RUN_OUT: noted("Its GPUs are gone; its data can still be fetched"),
        PoolGrantStep.CLOSE: noted("The grant was closed"),
    },
    ChangeState: {
        ChangeState.ASKED: noted("Waits for a decision"),
        ChangeState.APPROVED: noted("Approved"),
        ChangeState.REFUSED: noted("Refused"),
        ChangeState.DROPPED: noted("Taken back"),
    },
    ChangeStep: {
        ChangeStep.ASK: noted("A change was asked for"),
        ChangeStep.APPROVE: noted("The change was approved"),
        ChangeStep.REFUSE: noted("The change was refused"),
        ChangeStep.DROP: noted("The change was taken back"),
    },
    Limit: {
        Limit.START: noted("First day"),
        Limit.GPUS: noted("GPUs"),
        Limit.GPU_HOURS: noted("Budget in GPU-hours"),
        Limit.WON: noted("Budget in Won"),
        Limit.END: noted("Last day"),
        Limit.OVER: noted("Over"),
    },
}
BADGES: Final = {
    OfferState.MADE: "wait",
    OfferState.ACCEPTED: "good",
    OfferState.DECLINED: "quiet",
    OfferState.LAPSED: "bad",
    PoolGrantState.SCHEDULED: "wait",
    PoolGrantState.ACTIVE: "good",
    PoolGrantState.ENDING: "quiet",
    PoolGrantState.ENDED: "quiet",
    ChangeState.ASKED: "wait",
    ChangeState.APPROVED: "good",
    ChangeState.REFUSED: "bad",
    ChangeState.DROPPED: "quiet",
}


def bite_text(words: Words, grant: PoolGrant, bite: Bite, now: datetime) -> str:
    """Which limit bites next, as a sentence with the way out."""
    dry = "" if bite.at is None else words.day(korean_day(bite.at))
    match bite.limit:
        case Limit.OVER if grant.grace_until is not None and grant.state is PoolGrantState.ENDING:
            return words.say(
                "It has no GPUs any more. Until {day} its members can sign in and fetch their data.",
                day=grant.grace_until,
            )
        case Limit.OVER:
            return words.say("It is over.")
        case Limit.START:
            return words.say("It begins on {day}; jobs start from then on.", day=grant.starts)
        case Limit.GPUS:
            return words.say(
                "All {gpus} GPUs are in use: a new job waits until one of yours ends, or starts now on borrowed GPUs.",
                gpus=grant.gpus,
            )
        case Limit.WON if not dry:
            return words.say("The budget in Won is used up: no new job starts.")
        case Limit.WON:
            return words.say("At the pace of the last days the budget in Won is used up on {day}.", day=dry)
        case Limit.GPU_HOURS if not dry:
            return words.say("The budget in GPU-hours is used up: no new job starts.")
        case Limit.GPU_HOURS:
            return words.say("At the pace of the last days the budget in GPU-hours is used up on {day}.", day=dry)
    left = days_left(grant, now)
    if not left:
        return words.say("Today is its last day.")
    return words.say("Its last day is {day}, in {days} days.", day=grant.ends, days=left)


def note_texts(words: Words, grant: PoolGrant, figures: Figures) -> list[str]:
    """None before its site has reported: nobody knows then whether its GPUs idle."""
    if figures.as_of is None:
        return []
    return [words.tell(note) for note in notes(grant, figures.use)]


# -- History -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A step as a page shows it; `bad`: something was lost or refused."""

    at: datetime
    what: str
    step: str
    by: str
    reason: str
    bad: bool


_BAD: Final = frozenset({PoolGrantStep.SHRINK, PoolGrantStep.RECALL, ChangeStep.REFUSE, OfferStep.LAPSE})


def history(service: PoolService, grant: PoolGrant, visit: Visit) -> list[Shown]:
    """Of the grant, its offer and all changes asked for, the newest first. Who is named: one's own colleagues, and
    everybody to who may see everybody."""
    store = service.store
    offer = store.register.offers.get(grant.offer)
    changes = store.register.changes.all(grant=grant.id)
    steps = [
        *((happened, OfferStep(happened.step), "") for happened in offer.history),
        *((happened, PoolGrantStep(happened.step), "") for happened in grant.history),
        *(
            (happened, ChangeStep(happened.step), _terms(visit.words, change))
            for change in changes
            for happened in change.history
        ),
    ]
    who = _names(store, visit, grant.organisation, [happened for happened, _, _ in steps])
    found = [
        Shown(
            at=happened.at,
            what=visit.words.name(step) + (f": {detail}" if detail else ""),
            step=step,
            by=who[happened.by],
            reason=happened.reason,
            bad=step in _BAD,
        )
        for happened, step, detail in steps
    ]
    return sorted(found, key=lambda one: one.at)[::-1]


def _terms(words: Words, change: GrantChange) -> str:
    return words.say("{gpus} until {day}", gpus=words.gpus(change.gpus), day=change.ends)


def _names(
    store: PoolStore, visit: Visit, organisation: OrganisationName, steps: Sequence[Happened]
) -> Mapping[str, str]:
    numbers = {one.by for one in steps}
    known = store.people.names(sorted(numbers))
    colleagues = {one.person for one in store.register.memberships.all(organisation=organisation)}
    everybody = visit.may(Action.GRANT_READ) is Scope.ALL
    own = visit.person.office.organisation == organisation

    def name(by: str) -> str:
        if by not in known:
            return visit.words.say("by itself")
        if everybody or (own and by in colleagues):
            return known[by]
        return visit.words.say("the organisation") if by in colleagues else visit.words.say("the programme's office")

    return {by: name(by) for by in numbers}


def history_views(shown: Sequence[Shown]) -> Iterator[HistoryEvent]:
    for one in shown:
        yield HistoryEvent(at=one.at, what=one.what, step=one.step, by=one.by, reason=one.reason)
