"""The review desk: what an application still needs, and how one reviewer stands to it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from fractions import Fraction

from slurm_gpuaas.domain.applications import Application, ApplicationState, Review, in_conflict, score
from slurm_gpuaas.domain.names import ApplicationId, PersonId
from slurm_gpuaas.domain.programmes import Programme
from slurm_gpuaas.domain.told import Told, told


class Standing(StrEnum):
    """Of one reviewer to one application in review."""

    TO_DO = "to do"
    DONE = "done"
    CONFLICT = "conflict"
    """Declared, or by belonging to the applicant's organisation: they do not judge it."""


@dataclass(frozen=True, slots=True)
class Judged:
    """An application with the reviews of it that count."""

    application: Application
    reviews: tuple[Review, ...]
    rules: Programme

    @property
    def enough(self) -> bool:
        return len(self.reviews) >= self.rules.reviews_needed

    @property
    def score(self) -> Fraction | None:
        """0 to 100, exact; None without a review."""
        return score(self.reviews, self.rules)

    @property
    def too_low(self) -> bool:
        """Judged by enough, and below the programme's least."""
        return self.enough and (self.score or 0) < self.rules.least_score

    def obstacle(self, today: date) -> Told | None:
        """Why it can be neither awarded nor put on the waiting list; None: it can."""
        if not self.enough:
            return told(
                "{count} of {needed} reviews count so far.", count=len(self.reviews), needed=self.rules.reviews_needed
            )
        if self.too_low:
            return told(
                "Its score of {score} is below the programme's least of {least}.",
                score=f"{float(self.score or 0):.2f}",
                least=self.rules.least_score,
            )
        if self.application.request.ends < today:
            return told("Its period ended on {day}.", day=self.application.request.ends)
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the reviews of one call are. Applications that are withdrawn or decided no longer count."""

    call: int
    submitted: int
    in_review: int
    enough: int
    """Of those in review: have as many reviews as the programme needs."""

    @property
    def missing(self) -> int:
        return self.in_review - self.enough


def standing(
    person: PersonId, application: Application, own: Review | None, colleagues: Collection[PersonId]
) -> Standing:
    """
    Args:
        own: the person's own review.
        colleagues: members of the application's organisation.
    """
    if in_conflict(person, application, colleagues) or (own is not None and own.conflict):
        return Standing.CONFLICT
    return Standing.TO_DO if own is None else Standing.DONE


def sees_others(own: Standing, application: Application) -> bool:
    """Whether a reviewer may see what the others gave: while it is in review not before their own judgement, which it
    would sway, and never with a conflict of interest."""
    if own is Standing.CONFLICT:
        return False
    return own is Standing.DONE or application.state is not ApplicationState.IN_REVIEW


def progress(
    rules: Programme, submitted: Iterable[Application], judged: Mapping[ApplicationId, Judged]
) -> tuple[Progress, ...]:
    """
    Of each call that has applications to review, the newest first.

    Args:
        judged: those in review, of this programme only.
    """
    waiting = [one.request.call for one in submitted if one.programme == rules.name]
    calls = {*waiting, *(one.application.request.call for one in judged.values())}
    return tuple(
        Progress(
            call=call,
            submitted=waiting.count(call),
            in_review=sum(one.application.request.call == call for one in judged.values()),
            enough=sum(one.application.request.call == call and one.enough for one in judged.values()),
        )
        for call in sorted(calls, reverse=True)
    )
