"""The calendar of the pool: which GPUs of which share are promised to whom, from which Korean day to which. Pure.

Whatever holds GPUs (an offer, a grant, a provider's lease, a reservation) is a row here, and a share is over-committed
on a day when the rows of that day promise more GPUs than it has. Days are included at both ends. All sums are one sweep
over the days on which something begins or ends: O(n log n).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from typing import Annotated, Final

from pydantic import Field

from slurm_gpuaas.domain.names import PoolShareName
from slurm_gpuaas.domain.policy import FIRST_DAY, KST

FURTHEST_DAY: Final = date(2199, 12, 31)
"""Nothing is promised beyond it."""

CalendarDay = Annotated[date, Field(ge=FIRST_DAY, le=FURTHEST_DAY)]
ONE_DAY: Final = timedelta(days=1)


def korean_day(moment: datetime) -> date:
    return moment.astimezone(KST).date()


def start_of(day: date) -> datetime:
    """The first moment of a Korean day."""
    return datetime.combine(day, time(), KST)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Commitment:
    """`holder` is the number of the offer, grant or hold that has the GPUs."""

    holder: str
    share: PoolShareName
    gpus: int
    starts: date
    ends: date


@dataclass(frozen=True, slots=True)
class Peak:
    """The most GPUs promised on one day of a window, and the first day on which it is so many."""

    gpus: int
    day: date


def peak(commitments: Iterable[Commitment], starts: date, ends: date) -> Peak:
    """Of one share, in the window from `starts` to `ends`."""
    changes: list[tuple[date, int]] = []
    for one in commitments:
        if one.starts <= ends and one.ends >= starts:
            changes += [(max(one.starts, starts), one.gpus), (one.ends + ONE_DAY, -one.gpus)]
    found, promised = Peak(0, starts), 0
    for day, gpus in sorted(changes):  # on one day, what has ended goes first
        promised += gpus
        if promised > found.gpus:
            found = Peak(promised, day)
    return found


def room(capacity: int, commitments: Iterable[Commitment], starts: date, ends: date) -> int:
    """GPUs of one share that can still be promised for every day of the window."""
    return max(0, capacity - peak(commitments, starts, ends).gpus)


def overcommitted(capacity: int, commitments: Iterable[Commitment], *, since: date) -> Peak | None:
    """The worst day of one share from `since` on on which more is promised than there is; None: there is none."""
    worst = peak(commitments, since, FURTHEST_DAY)
    return worst if worst.gpus > capacity else None


def from_day(commitments: Iterable[Commitment], since: date) -> tuple[Commitment, ...]:
    """What of them lies on the day `since` or later."""
    return tuple(replace(one, starts=max(one.starts, since)) for one in commitments if one.ends >= since)


def cut(commitments: Iterable[Commitment], since: date) -> tuple[Commitment, ...]:
    """What is left of them when nothing is held from `since` on: the days before it stay as they were."""
    return tuple(replace(one, ends=min(one.ends, since - ONE_DAY)) for one in commitments if one.starts < since)
