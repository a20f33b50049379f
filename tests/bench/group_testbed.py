"""How long a testbed takes to come up from the cache, daemon and agents included, until every node is idle."""

from __future__ import annotations

import os

from slurm_gpuaas.testbed.instance import Instance
from tests.bench.model import BenchContext, BenchRow, timed

RUNS = 3


def run(context: BenchContext) -> list[BenchRow]:
    return [
        BenchRow.of_figure(f"testbed_{profile}_up_s", [_up(context, profile) for _ in range(RUNS)], unit="s")
        for profile in ("mini", "haein")
    ]


def _up(context: BenchContext, profile: str) -> float:
    context.close()  # another testbed would share the processors
    name = f"bench-{os.getpid()}-{profile}"
    with context.step(f"{profile} up from the cache"):
        try:
            return timed(lambda: Instance.up(profile, name))
        finally:
            Instance.attach(name).down()
