"""What happens next with an application: who has to act, and by when. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from slurm_gpuaas.domain.applications import Application, ApplicationState
from slurm_gpuaas.domain.calendar import start_of
from slurm_gpuaas.domain.pool_grants import Offer, OfferState
from slurm_gpuaas.domain.programmes import Call
from slurm_gpuaas.domain.told import Told, told


@dataclass(frozen=True, slots=True)
class NextStep:
    """`by`: the last moment; None: none is set."""

    who: Told
    what: Told
    by: datetime | None = None


def next_step(application: Application, call: Call | None, offer: Offer | None, now: datetime) -> NextStep | None:
    """
    Args:
        call: None: the programme no longer has it, which is as good as closed.
        offer: the newest of the application.

    Returns:
        None when nothing follows any more.
    """
    office, applicant = told("the programme's office"), told("you, or an administrator of your organisation")
    match application.state:
        case ApplicationState.SUBMITTED:
            return NextStep(office, told("checks whether the application is complete, and begins the review."))
        case ApplicationState.IN_REVIEW if call is not None and now < call.closes:
            return NextStep(
                told("the reviewers"), told("judge it; awards are decided after the call closes."), call.closes
            )
        case ApplicationState.IN_REVIEW:
            return NextStep(office, told("awards, once enough reviews are in. The call is closed."))
        case ApplicationState.WAITING:
            last = start_of(application.request.ends + timedelta(days=1))
            return NextStep(told("nobody"), told("It waits. Free GPUs are offered in order of score."), last)
        case ApplicationState.AWARDED if offer is not None and offer.state is OfferState.MADE:
            return NextStep(applicant, told("accept or decline the offer; unanswered it lapses."), offer.open_until)
        case _:
            return None
