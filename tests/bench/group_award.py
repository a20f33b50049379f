"""A call of 500 applications on six pool shares, awarded by us and by hand: highest score first, whatever still fits.

By hand is what an awarding desk does with a spreadsheet. It takes no time worth telling, so beside our seconds stands
what it leaves on the table: the part of the best objective that it misses.
"""

from __future__ import annotations

import time
from collections import Counter
from decimal import Decimal

from slurm_gpuaas.pool.award import award
from slurm_gpuaas.pool.award_scenario import ANY, Scenario
from tests.bench.model import BenchContext, BenchRow
from tests.unit.pool.awards import call

CALLS = range(3)


def run(context: BenchContext) -> list[BenchRow]:
    rows: list[BenchRow] = []
    for name, capped in (("award_500_s", False), ("award_500_capped_s", True)):
        calls = [call(seed, capped=capped) for seed in CALLS]
        with context.step(name):
            seconds, ours = zip(*map(timed_award, calls), strict=True)
        greedy = [by_hand(known) for known in calls]
        rows.append(BenchRow.of_figure(name, seconds, unit="s"))
        rows.append(
            BenchRow(
                name=name.removesuffix("_s") + "_objective",
                value=float(sum(ours)),
                unit="points x GPUs",
                baseline=float(sum(greedy)),
                ratio=float(sum(ours) / sum(greedy)),
                runs=len(CALLS),
            )
        )
    return rows


def timed_award(known: Scenario) -> tuple[float, Decimal]:
    """Seconds of one award, and its objective."""
    start = time.perf_counter()
    found = award(known, time_limit_s=600)
    return time.perf_counter() - start, found.objective


def by_hand(known: Scenario) -> Decimal:
    """The objective of: highest score first, all it asks for or as many servers as fit, into the fullest pool."""
    left = {pool.name: pool.capacity for pool in known.pools}
    held: Counter[tuple[str, str]] = Counter()
    total = Decimal(0)
    caps = known.caps
    for one in sorted(known.applications, key=lambda one: -one.score):
        groups = (("organisation", one.organisation, caps.organisation), ("region", one.region, caps.region))
        room = min(
            [one.gpus, *(cap for cap in (caps.per_project,) if cap is not None)]
            + [cap - held[kind, name] for kind, name, cap in groups if cap is not None]
        )
        sizes = [one.gpus] * (room >= one.gpus) + [
            size for size in range(8, min(room, one.gpus - 1) + 1, 8) if size >= one.min_gpus
        ][::-1]
        pools = [pool.name for pool in known.pools if one.model in (ANY, pool.model)]
        choice = next(
            (
                (size, min(fits, key=left.__getitem__))
                for size in sizes
                if (fits := [p for p in pools if left[p] >= size])
            ),
            None,
        )
        if choice:
            gpus, pool = choice
            left[pool] -= gpus
            total += one.score * gpus
            for kind, name, _ in groups:
                held[kind, name] += gpus
    return total
