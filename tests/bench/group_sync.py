"""Projects into Slurm: one plan in bulk, against one `sacctmgr` call after the other, and against one `sacctmgr load`.

A call of sacctmgr takes longer the more there is, so the sequential baseline is sampled twice, with nothing there and
with all there, and the mean of both is scaled to all. `sync_noop_*` is what gpuaasd does every interval when nothing
changed: Slurm's transaction log and the partitions are asked, and accounting is what it was. `sync_full_*` reads and
compares everything, as gpuaasd does every ten minutes and whenever the log has grown. The names without a number are of
300 projects with three members, those with 1000 of 1,000 projects with five.
"""

from __future__ import annotations

import json
from typing import Any

from slurm_gpuaas.testbed.instance import Instance
from tests.bench.model import BenchContext, BenchRow, side_by_side
from tests.bench.sync_runner import SAMPLE


def run(context: BenchContext) -> list[BenchRow]:
    instance = context.testbed("mini", daemon=False)
    small = _Measured(context, instance, projects=300, members=3, runs=3)
    large = _Measured(context, instance, projects=1000, members=5, runs=2)
    with context.step("1000 projects by one sacctmgr load"):
        loads = [float(_inside(instance, "load", 1000, 5)["sync_s"])]
    return [
        BenchRow.of_times("sync_speedup", ours=small.seconds, baseline=small.one_by_one),
        *small.idle_rows(""),
        BenchRow.of_figure("sync_1000_s", large.seconds, unit="s"),
        BenchRow.of_times("sync_1000_speedup", ours=large.seconds, baseline=large.one_by_one),
        BenchRow.of_times("sync_1000_load_ratio", ours=large.seconds, baseline=loads),
        *large.idle_rows("_1000"),
        BenchRow.of_figure("reconciler_idle_cpu_percent", large.figures("idle_percent"), unit="%"),
        BenchRow.of_figure(
            "reconciler_idle_cpu_with_slurm_percent", large.figures("idle_with_slurm_percent"), unit="%"
        ),
    ]


class _Measured:
    """Our way and the sequential one, in turns."""

    def __init__(self, context: BenchContext, instance: Instance, *, projects: int, members: int, runs: int) -> None:
        self.results: list[dict[str, Any]] = []

        def ours() -> float:
            self.results.append(_inside(instance, "ours", projects, members))
            return float(self.results[-1]["sync_s"])

        def baseline() -> float:
            early = float(_inside(instance, "sacctmgr", SAMPLE, members)["sync_s"])
            late = float(self.results[-1]["late_s"])
            return (early + late) / (2 * SAMPLE) * projects

        with context.step(f"{projects} projects in bulk, {2 * SAMPLE} by sacctmgr, {runs} times in turns"):
            self.seconds, self.one_by_one = side_by_side(ours, baseline, runs=runs)

    def figures(self, name: str) -> list[float]:
        """Of every run; lists are joined."""
        return [
            float(one)
            for result in self.results
            for one in (result[name] if isinstance(result[name], list) else [result[name]])
        ]

    def idle_rows(self, suffix: str) -> list[BenchRow]:
        return [
            BenchRow.of_figure(f"sync_noop{suffix}_s", self.figures("noop_s"), unit="s"),
            BenchRow.of_figure(f"sync_noop{suffix}_writes", self.figures("noop_writes"), unit="writes"),
            BenchRow.of_figure(f"sync_full{suffix}_s", self.figures("full_s"), unit="s"),
        ]


def _inside(instance: Instance, way: str, projects: int, members: int) -> dict[str, Any]:
    argv = ["/opt/gpuaas/venv/bin/python", "-m", "tests.bench.sync_runner", way, str(projects), str(members)]
    done = instance.exec(argv, user="gpuaas", env={"PYTHONPATH": "/opt/gpuaas/src"})
    result: dict[str, Any] = json.loads(done.stdout)
    return result
