"""Unawarded government GPUs, lent to the provider's own share for a time, and back on the day. Pure.

A lease is a row of the share's calendar (`domain.calendar`) like grants, offers and the next call's reservation. It
begins on the day asked for and ends before the first day on which its GPUs are wanted by a row that is known, with days
for cleaning in between. As the room shrinks over time, one request becomes several leases that end one after another.

A row that becomes known later may claim leased GPUs with notice: `give_back` says which leases end when, and
`earliest_start` from when a new row can have GPUs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from slurm_gpuaas.domain.calendar import Commitment, room
from slurm_gpuaas.domain.errors import InvalidInput, Refused
from slurm_gpuaas.domain.names import PoolShareName
from slurm_gpuaas.domain.policy import LAST_DAY
from slurm_gpuaas.domain.told import told

DAY: Final = timedelta(days=1)


class LendingRules(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    longest_days: Annotated[int, Field(ge=1, le=366)] = Field(
        default=90, description="Of a lease; then it is asked for anew, so that no loan becomes a habit."
    )
    shortest_days: Annotated[int, Field(ge=1, le=366)] = Field(
        default=7, description="A lease of fewer days is not worth moving nodes between partitions."
    )
    notice_days: Annotated[int, Field(ge=0, le=90)] = Field(
        default=14, description="From notice to return: jobs run at most 7 days, and their users read mail by the week."
    )
    cleaning_days: Annotated[int, Field(ge=0, le=30)] = Field(
        default=1, description="Between a lease and who comes next: drain, wipe, check, back into the partition."
    )
    unit: Annotated[int, Field(ge=1, le=64)] = Field(default=8, description="GPUs are lent in whole servers.")


class Lease(Commitment):
    """GPUs of the government's share that the provider uses. A row of the calendar like any other."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortened:
    """A lease that ends earlier; `ends` None: before it began."""

    lease: Lease
    ends: date | None


def lend(
    share: PoolShareName,
    capacity: int,
    calendar: Sequence[Commitment],
    *,
    gpus: int,
    starts: date,
    until: date,
    rules: LendingRules,
    holder: str,
) -> list[Lease]:
    """Leases for a provider's request, as many GPUs for as long as nobody else has them; the longest first.

    Args:
        capacity: GPUs of the share.
        calendar: all that holds GPUs of it, leases included.
        until: last day that is asked for.
        holder: of the request; its leases are `holder`.1, `holder`.2, ...

    Returns:
        Empty when nothing is free long enough.

    Raises:
        InvalidInput: the request ends before it starts, or asks for nothing.
    """
    if gpus < 1:
        raise InvalidInput("The request is for no GPU.", way_out=f"Ask for {rules.unit} or more.")
    if until < starts:
        raise InvalidInput(f"The request ends {until}, before it starts {starts}.", way_out="Swap the days.")
    last = min(until, starts + (rules.longest_days - 1) * DAY)
    left, pieces = gpus, list[tuple[int, date]]()
    for day, held in _levels(_with_cleaning(calendar, rules), starts, last):
        kept = min(left, max(capacity - held, 0)) // rules.unit * rules.unit
        if day > starts:
            pieces.append((left - kept, day - DAY))
        left = kept
    pieces.append((left, last))
    worth = [
        (given, end) for given, end in reversed(pieces) if given and (end - starts).days + 1 >= rules.shortest_days
    ]
    return [
        Lease(holder=f"{holder}.{number}", share=share, gpus=given, starts=starts, ends=end)
        for number, (given, end) in enumerate(worth, 1)
    ]


def _with_cleaning(calendar: Iterable[Commitment], rules: LendingRules) -> list[Commitment]:
    """Nobody is on the GPUs in the days before and after another's; from lease to lease there is nothing to clean."""
    margin = rules.cleaning_days * DAY
    return [
        one if isinstance(one, Lease) else replace(one, starts=one.starts - margin, ends=_after(one.ends, margin))
        for one in calendar
    ]


def _after(day: date, span: timedelta) -> date:
    """Later by a span; a row without an end is written to the calendar's last day."""
    return min(day, LAST_DAY - span) + span


def _levels(rows: Iterable[Commitment], starts: date, ends: date) -> list[tuple[date, int]]:
    """GPUs held from a day on until the next, over [starts, ends]; the first is `starts`. O(rows log rows)."""
    changes: dict[date, int] = {starts: 0}
    for one in rows:
        if one.starts <= ends and one.ends >= starts:
            begin = max(one.starts, starts)
            changes[begin] = changes.get(begin, 0) + one.gpus
            if one.ends < ends:
                changes[one.ends + DAY] = changes.get(one.ends + DAY, 0) - one.gpus
    held = 0
    levels: list[tuple[date, int]] = []
    for day, change in sorted(changes.items()):
        held += change
        levels.append((day, held))
    return levels


def first_return(today: date, rules: LendingRules) -> date:
    """The first day on which somebody else can have GPUs that are leased and are given notice today."""
    return today + (rules.notice_days + rules.cleaning_days + 1) * DAY


def earliest_start(
    capacity: int,
    calendar: Sequence[Commitment],
    *,
    gpus: int,
    wanted: date,
    days: int,
    today: date,
    rules: LendingRules,
) -> date:
    """First day from `wanted` on from which a new row can hold GPUs for so many days. Leases give way with notice,
    everything else stays.

    Raises:
        Refused: it asks for more than the share has.
    """
    if gpus > capacity:
        raise Refused(
            told("{gpus} GPUs are asked for; the share has {capacity}.", gpus=gpus, capacity=capacity),
            way_out=told("Ask for fewer GPUs."),
        )
    cleaning = rules.cleaning_days * DAY
    firm = [one for one in calendar if not isinstance(one, Lease)]
    every = [*firm, *(replace(one, ends=_after(one.ends, cleaning)) for one in calendar if isinstance(one, Lease))]
    notice = max(wanted, first_return(today, rules))

    def fits(rows: Iterable[Commitment], day: date) -> bool:
        return room(capacity, rows, day, day + (days - 1) * DAY) >= gpus

    for day in sorted({wanted, notice, *(_after(one.ends, DAY) for one in every if one.ends >= wanted)}):
        if fits(firm, day) and (day >= notice or fits(every, day)):
            return day
    raise AssertionError("After the last row everything is free.")


def give_back(capacity: int, calendar: Sequence[Commitment], *, today: date, rules: LendingRules) -> list[Shortened]:
    """Leases that end earlier so that every other row has its GPUs on its first day: the latest begun gives first.

    Raises:
        Refused: a row begins sooner than notice and cleaning allow; it names the first day on which it could.
        InvalidInput: the other rows alone are more than the share has.
    """
    firm = [one for one in calendar if not isinstance(one, Lease)]
    leases = {one.holder: one for one in calendar if isinstance(one, Lease)}
    before = dict(leases)
    for row in sorted(firm, key=lambda one: (one.starts, one.holder)):
        while (day := _first_over(capacity, [*firm, *leases.values()], row)) is not None:
            there = [one for one in leases.values() if one.starts <= day <= one.ends]
            if not there:
                raise InvalidInput(
                    f"On {day} the share's rows without leases hold more than its {capacity:,} GPUs.",
                    way_out="Correct the calendar.",
                )
            lease = max(there, key=lambda one: (one.starts, one.holder))
            ends = day - (rules.cleaning_days + 1) * DAY
            if lease.starts <= today and day < first_return(today, rules):
                raise Refused(
                    told(
                        "{row} starts on {day}; lease {lease} has {notice} days of notice.",
                        row=row.holder,
                        day=day,
                        lease=lease.holder,
                        notice=rules.notice_days,
                    ),
                    way_out=told("Let it start on {day} or later.", day=first_return(today, rules)),
                )
            del leases[lease.holder]
            if ends >= lease.starts:
                leases[lease.holder] = replace(lease, ends=ends)
    return [
        Shortened(lease=lease, ends=leases[name].ends if name in leases else None)
        for name, lease in sorted(before.items())
        if leases.get(name) != lease
    ]


def _first_over(capacity: int, rows: Iterable[Commitment], row: Commitment) -> date | None:
    return next((day for day, held in _levels(rows, row.starts, row.ends) if held > capacity), None)
