"""What the rules would have done to recorded use: who is warned, what is freed, and who is hit wrongly. Pure.

Use goes on as it was recorded: nobody reads the mails. So it counts too many recalls, not too few; a holder who is told
comes back earlier. A grant is followed until GPUs of it would be taken back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.pool.idle import Excuses, Exemption, Standing, Step, WatchedGrant, excused_days, judge
from slurm_gpuaas.pool.idle_rules import IdleRules, Rung
from slurm_gpuaas.pool.idle_use import UseDay, UseTable

MOST_GRANTS: Final = 20_000
MOST_CELLS: Final = 4_000_000
"""Grants x days in one table."""


@dataclass(frozen=True, slots=True)
class Recorded:
    grant: WatchedGrant
    use: Sequence[UseDay]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A grant that GPUs would have been taken from.

    Attributes:
        kept, taken: GPUs.
        freed: GPU-days until the grant's end, as far as use is recorded.
        wanted: of them, what the grant went on to use above what it would have kept, by the days' peaks.
        wrongly: later it used its grant as much as is asked for, or needed more than it would have kept on as many days
            as make a need.
    """

    step: Step
    kept: int
    taken: int
    freed: int
    wanted: int
    wrongly: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleReplay:
    """`steps` of all grants in order of days; `awarded` and `unused` are GPU-days, `unused` where it was measured."""

    grants: int
    days: int
    awarded: int
    unused: int
    steps: tuple[Step, ...]
    hits: tuple[Hit, ...]

    @property
    def by_rung(self) -> Mapping[Rung, int]:
        return Counter(step.to for step in self.steps)


def replay(recorded: Sequence[Recorded], rules: IdleRules, exemptions: Sequence[Exemption] = ()) -> IdleReplay:
    """
    Raises:
        InvalidInput: two grants of one name, a day twice, or more than `MOST_CELLS` grants x days.
    """
    names = sorted(one.grant.name for one in recorded)
    if twice := next((one for one, two in pairwise(names) if one == two), None):
        raise InvalidInput(f"Grant {twice} is there twice.", way_out="Give each grant once.")
    every_day = [use.day for one in recorded for use in one.use]
    if not every_day:
        return IdleReplay(grants=len(recorded), days=0, awarded=0, unused=0, steps=(), hits=())
    first, days = min(every_day), (max(every_day) - min(every_day)).days + 1
    if len(recorded) > MOST_GRANTS or len(recorded) * days > MOST_CELLS:
        raise InvalidInput(
            f"{len(recorded):,} grants over {days:,} days are more than {MOST_CELLS:,} days of grants.",
            way_out="Replay a year at a time.",
        )
    excuses = Excuses(exemptions=exemptions)
    excused = np.stack(
        [excused_days(one.grant, first, days, rules, excuses, climbed=None, today=first) for one in recorded]
    )
    least = [one.grant.min_gpus for one in recorded]
    table = UseTable(first, days, [one.use for one in recorded], excused, least, rules)
    steps: list[Step] = []
    hits: list[Hit] = []
    for row, one in enumerate(recorded):
        taken = _follow(one.grant, table, row, rules, excuses)
        steps += taken
        if taken and taken[-1].to is Rung.RECALL:
            hits.append(_hit(taken[-1], table, row, rules))
    steps.sort(key=lambda step: (step.day, step.grant))
    return IdleReplay(
        grants=len(recorded),
        days=days,
        awarded=int(table.gpus.sum()),
        unused=table.unused_gpu_days(),
        steps=tuple(steps),
        hits=tuple(sorted(hits, key=lambda hit: (hit.step.day, hit.step.grant))),
    )


def _follow(grant: WatchedGrant, table: UseTable, row: int, rules: IdleRules, excuses: Excuses) -> list[Step]:
    """Steps up to the one that takes GPUs. At the bottom only days on which use is low need to be judged."""
    steps: list[Step] = []
    standing = Standing(grant=grant.name, gpus=grant.gpus)
    low = np.flatnonzero(table.low[row])
    at = 0
    while at < table.days and standing.rung is not Rung.RECALL:
        if standing.rung is Rung.REGULAR:
            place = int(np.searchsorted(low, at))
            if place == len(low):
                break
            at = int(low[place])
        outcome = judge(standing, grant, table, row, rules, table.day(at + 1), excuses)
        standing = outcome.standing
        if outcome.step is not None:
            steps.append(outcome.step)
        at += 1
    return steps


def _hit(step: Step, table: UseTable, row: int, rules: IdleRules) -> Hit:
    assert step.evidence is not None
    kept, at = step.evidence.proposed, (step.day - table.first).days
    later = slice(at, table.days)
    above = np.maximum(table.peak[row, later] - kept, 0)
    mean = table.mean(row, at, table.days)
    used_well = mean.days >= rules.back_days and not mean.below(rules.allocated_back, rules.busy_back)
    return Hit(
        step=step,
        kept=kept,
        taken=step.evidence.gpus - kept,
        freed=int(np.maximum(table.gpus[row, later] - kept, 0).sum()),
        wanted=int(above.sum()),
        wrongly=used_well or int((above > 0).sum()) >= rules.burst_days,
    )
