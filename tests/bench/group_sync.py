"""300 projects into Slurm: one plan in bulk, against one `sacctmgr` call after the other."""

from __future__ import annotations

import json
from typing import Any

from slurm_gpuaas.testbed.instance import Instance
from tests.bench.model import BenchContext, BenchRow, side_by_side

PROJECTS = 300
SAMPLE = 20
"""Projects that the baseline really makes; its seconds are scaled to PROJECTS."""
RUNS = 3


def run(context: BenchContext) -> list[BenchRow]:
    instance = context.testbed("mini", daemon=False)
    noops: list[float] = []
    writes: list[float] = []

    def ours() -> float:
        result = _inside(instance, "ours", PROJECTS)
        noops.extend(result["noop_s"])
        writes.append(result["noop_writes"])
        return float(result["sync_s"])

    def baseline() -> float:
        return float(_inside(instance, "sacctmgr", SAMPLE)["sync_s"]) * PROJECTS / SAMPLE

    with context.step(f"{PROJECTS} projects in bulk, {SAMPLE} by sacctmgr, {RUNS} times in turns"):
        mine, others = side_by_side(ours, baseline, runs=RUNS)
    return [
        BenchRow.of_times("sync_speedup", ours=mine, baseline=others),
        BenchRow.of_figure("sync_noop_s", noops, unit="s"),
        BenchRow.of_figure("sync_noop_writes", writes, unit="writes"),
    ]


def _inside(instance: Instance, way: str, projects: int) -> dict[str, Any]:
    argv = ["/opt/gpuaas/venv/bin/python", "-m", "tests.bench.sync_runner", way, str(projects)]
    done = instance.exec(argv, user="gpuaas", env={"PYTHONPATH": "/opt/gpuaas/src"})
    result: dict[str, Any] = json.loads(done.stdout)
    return result
