"""What a grant has used, which of its limits bites next, and what its people should know about it. Pure.

Use is GPU-seconds as sites report runs; what was awarded is what the calendar held. Whether the GPUs of a job computed
is measured at the site and not known here: these notes speak of allocated GPUs alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from slurm_gpuaas.domain.budgets import Budget
from slurm_gpuaas.domain.calendar import ONE_DAY, Commitment, start_of
from slurm_gpuaas.domain.jobs import ServiceClass
from slurm_gpuaas.domain.ledger import Ending, UseKey
from slurm_gpuaas.domain.months import Month
from slurm_gpuaas.domain.pool_grants import PoolGrant, PoolGrantState
from slurm_gpuaas.domain.told import Told, told

HOUR_SECONDS: Final = 3_600
LITTLE_PERCENT: Final = 30
"""The ladder for idle grants begins below it (`IdleRules.allocated_below`)."""
WELL_PERCENT: Final = 80
"""What waits above it waits for GPUs, not for its people: burst helps."""
JUDGED_AFTER: Final = 24 * HOUR_SECONDS
"""Seconds of all its GPUs before a grant's use is spoken of."""


# -- Which limit bites -------------------------------------------------------------------------------------------------


class Limit(StrEnum):
    START = "start"
    """It has not begun."""
    GPUS = "gpus"
    """All guaranteed GPUs are in use."""
    GPU_HOURS = "gpu-hours"
    WON = "won"
    END = "end"
    OVER = "over"
    """It has no GPUs any more."""


@dataclass(frozen=True, slots=True)
class Bite:
    """`at`: when the limit bites, or stops to (`START`); None = it does now."""

    limit: Limit
    at: datetime | None = None


def next_limit(grant: PoolGrant, in_use: int, budget: Budget | None, dry_at: datetime | None, now: datetime) -> Bite:
    """What stops the next job first: now where something does, else what comes soonest.

    Args:
        in_use: guaranteed GPUs of its running jobs.
        dry_at: when the budget is used up at today's pace (`domain.budgets.runs_dry`).
    """
    if not grant.holds:
        return Bite(Limit.OVER)
    if grant.state is PoolGrantState.SCHEDULED:
        return Bite(Limit.START, start_of(grant.starts))
    if budget is not None and dry_at is not None and dry_at <= now:
        return Bite(_fuller(budget))
    if in_use >= grant.gpus:
        return Bite(Limit.GPUS)
    end = start_of(grant.ends + ONE_DAY)
    if budget is not None and dry_at is not None and dry_at < end:
        return Bite(_fuller(budget), dry_at)
    return Bite(Limit.END, end)


def _fuller(budget: Budget) -> Limit:
    """The side of the budget that more of is used."""
    sides = ((Limit.GPU_HOURS, budget.gpu_seconds), (Limit.WON, budget.won))
    return max(((side.used_ratio, limit) for limit, side in sides if side is not None))[1]


# -- Use ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantUse:
    """GPU-seconds. `guaranteed` and `burst` add up to all use, lost and preempted runs included; `fault` and
    `preempted` are parts of them. `awarded` is what the grant could have used until now."""

    awarded: int = 0
    guaranteed: int = 0
    burst: int = 0
    fault: int = 0
    preempted: int = 0
    this_month: int = 0

    @property
    def total(self) -> int:
        return self.guaranteed + self.burst

    @property
    def percent(self) -> int | None:
        """Of what was awarded, the part that jobs held, rounded down; None while it could use nothing."""
        return None if self.awarded <= 0 else 100 * self.guaranteed // self.awarded


def grant_use(use: Mapping[UseKey, int], held: Iterable[Commitment], month: Month, now: datetime) -> GrantUse:
    """
    Args:
        use: of the grant's account.
        held: the grant's rows of the calendar, past ones too.
    """

    def total(wanted: Iterable[bool]) -> int:
        return sum(seconds for seconds, counts in zip(use.values(), wanted, strict=True) if counts)

    return GrantUse(
        awarded=sum(_seconds(row, now) for row in held),
        guaranteed=total(key.service is ServiceClass.GUARANTEED for key in use),
        burst=total(key.service is ServiceClass.BURST for key in use),
        fault=total(key.ending is Ending.FAULT for key in use),
        preempted=total(key.ending is Ending.PREEMPTED for key in use),
        this_month=total(key.month == month for key in use),
    )


def _seconds(row: Commitment, now: datetime) -> int:
    """GPU-seconds of the row until now."""
    end = min(start_of(row.ends + ONE_DAY), now)
    return row.gpus * max(0, int((end - start_of(row.starts)).total_seconds()))


def notes(grant: PoolGrant, use: GrantUse) -> Iterator[Told]:
    """Sentences on how well the grant is used, the most useful first; each says what to do."""
    percent = use.percent
    if percent is not None and use.awarded >= grant.gpus * JUDGED_AFTER:
        if percent < LITTLE_PERCENT:
            yield told(
                "Jobs held {percent} % of the GPU time that was yours so far. GPUs that stay idle are taken back for "
                "others: give some back early, or say what holds you up.",
                percent=percent,
            )
        elif percent < WELL_PERCENT:
            yield told("Jobs held {percent} % of the GPU time that was yours so far.", percent=percent)
        else:
            yield told(
                "Jobs held {percent} % of the GPU time that was yours so far: well used. Jobs that can be "
                "interrupted may run on borrowed GPUs beside them.",
                percent=percent,
            )
    if use.preempted:
        yield told(
            "{hours} GPU-hours were of jobs that had to give borrowed GPUs back: write checkpoints, and let such "
            "jobs be queued again.",
            hours=use.preempted / HOUR_SECONDS,
        )
    if use.fault:
        yield told(
            "{hours} GPU-hours were lost to faults of the hardware. Nobody pays for them.",
            hours=use.fault / HOUR_SECONDS,
        )
