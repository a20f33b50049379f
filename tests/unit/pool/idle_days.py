"""Days of use for the tests of the ladder, and a daily judge."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from math import ceil

from slurm_gpuaas.domain.names import GrantName
from slurm_gpuaas.pool.idle import Excuses, Standing, Step, WatchedGrant, step
from slurm_gpuaas.pool.idle_rules import IdleRules, Mode, Rung
from slurm_gpuaas.pool.idle_use import DAY_SECONDS, UseDay

START = date(2026, 5, 6)
"""A Wednesday; apart from elections and the like the next public holidays are 05-24, 05-25, 06-03, 06-06 and 07-17."""
RULES = IdleRules(mode=Mode.ACT, ramp_up_days=0)
GPUS = 32
NO_EXCUSES = Excuses()


def grant(*, gpus: int = GPUS, min_gpus: int = 8, days: int = 365) -> WatchedGrant:
    return WatchedGrant(
        name=GrantName("vision"), gpus=gpus, min_gpus=min_gpus, starts=START, ends=START + timedelta(days=days - 1)
    )


def day(
    number: int,
    allocated: float | None,
    busy: float | None = None,
    *,
    gpus: int = GPUS,
    peak: int | None = None,
    loaded: float = 0,
    lost: float = 0,
    burst: float = 0,
) -> UseDay:
    """Day `number` from the grant's start; parts of the whole day's GPU-seconds. `busy` None: not measured."""
    whole = gpus * DAY_SECONDS
    part = allocated if busy is None else min(busy + loaded, 1)
    likely = None if allocated is None else ceil(gpus * (part or 0))
    return UseDay(
        day=START + timedelta(days=number),
        gpus=gpus,
        allocated=None if allocated is None else round(allocated * whole),
        busy=None if busy is None else round(busy * whole),
        loaded=round(loaded * whole),
        lost=round(lost * whole),
        peak=likely if peak is None else peak,
        burst=round(burst * whole),
    )


def flat(days: int, allocated: float | None, busy: float | None = None, *, first: int = 0) -> list[UseDay]:
    return [day(number, allocated, busy) for number in range(first, first + days)]


def walk(
    use: Sequence[UseDay],
    *,
    of: WatchedGrant | None = None,
    rules: IdleRules = RULES,
    excuses: Excuses = NO_EXCUSES,
    days: Iterable[int] | None = None,
    standing: Standing | None = None,
) -> tuple[Standing, list[Step]]:
    """Judge each morning from the second day to the day after the last use, or on `days` only."""
    of = of or grant()
    standing = standing or Standing(grant=of.name, gpus=of.gpus)
    steps: list[Step] = []
    last = max((one.day - START).days for one in use) + 1 if use else 0
    for number in range(1, last + 1) if days is None else days:
        today = START + timedelta(days=number)
        outcome = step(standing, of, [one for one in use if one.day < today], rules, today, excuses)
        standing = outcome.standing
        if outcome.step is not None:
            steps.append(outcome.step)
    return standing, steps


def rungs(steps: Iterable[Step]) -> list[Rung]:
    return [one.to for one in steps]
