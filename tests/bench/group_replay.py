"""What lending recovers on two traces, by decision interval; against the bound of the same run.

`GPUAAS_TRACES` names a folder with `helios_earth_vc_minutes.csv.gz` and `philly_jobs.csv.gz`; without it, or where one
is not there, the group makes that trace itself. Rows of the list of jobs begin with `jobs_`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from slurm_gpuaas.quota.replay import MinuteTable, replay
from slurm_gpuaas.quota.replay_jobs import COVERED, Rules, TraceJob, replay_jobs
from slurm_gpuaas.quota.replay_trace import read_trace
from slurm_gpuaas.quota.tree import TenantName
from tests.bench.model import BenchContext, BenchRow

HELIOS = "helios_earth_vc_minutes.csv.gz"
PHILLY = "philly_jobs.csv.gz"
INTERVALS_MIN = (1, 15, 60)
PROVEN_MIN = 5
RECLAIM_S = 60
TIGHT = 90
"""A percentile at which Philly's GPUs are scarce enough for owners to reclaim."""
MINUTES, TENANTS, GUARANTEED, SEED = 2880, 16, 64, 15
JOBS, MEAN_GAP_S, LONG_S = 3000, 60, 6 * 3600


def run(context: BenchContext) -> list[BenchRow]:
    return [*_of_minutes(context), *_of_jobs(context)]


def _trace(name: str) -> MinuteTable | tuple[TraceJob, ...] | None:
    folder = os.environ.get("GPUAAS_TRACES")
    path = Path(folder or "", name)
    return read_trace(path) if folder and path.exists() else None


def _of_minutes(context: BenchContext) -> list[BenchRow]:
    with context.step("Replay of lending: minutes") as note:
        table = _trace(HELIOS)
        note(HELIOS if table else "a table made here")
        if not isinstance(table, MinuteTable):
            table = made()
        proven = replay(table, interval_min=PROVEN_MIN, reclaim_s=RECLAIM_S)
        rows = [
            _share("lending_recovered_share", proven.lending_recovered_share),
            BenchRow.of_figure("lending_evicted_gpu_hours", [proven.evicted], unit="GPU-h"),
            BenchRow.of_figure("lending_changed_limits_a_day", [proven.changed_limits_a_day], unit="1/d"),
        ]
        for minutes in INTERVALS_MIN:
            found = replay(table, interval_min=minutes, reclaim_s=RECLAIM_S)
            rows.append(_share(f"lending_recovered_share_{minutes}_min", found.lending_recovered_share))
    return rows


def _of_jobs(context: BenchContext) -> list[BenchRow]:
    with context.step("Replay of lending: jobs") as note:
        jobs = _trace(PHILLY)
        note(PHILLY if jobs else "jobs made here")
        if jobs is None or isinstance(jobs, MinuteTable):
            jobs = made_jobs()
        rows = _job_rows("jobs_lending", jobs, PROVEN_MIN, COVERED)
        rows += _job_rows(f"jobs_p{TIGHT}_lending", jobs, PROVEN_MIN, TIGHT)
        for minutes in INTERVALS_MIN:
            share, *_ = _job_rows("jobs_lending", jobs, minutes, COVERED)
            rows.append(_share(f"{share.name}_{minutes}_min", share.value))
    return rows


def _job_rows(name: str, jobs: Sequence[TraceJob], interval_min: int, percentile: int) -> list[BenchRow]:
    rules = Rules(interval_s=interval_min * 60, reclaim_s=RECLAIM_S, checkpoint_s=None, percentile=percentile)
    found = replay_jobs(jobs, rules)
    return [
        _share(f"{name}_recovered_share", found.lending_recovered_share),
        BenchRow.of_figure(f"{name}_evicted_gpu_hours", [found.evicted], unit="GPU-h"),
        BenchRow.of_figure(f"{name}_changed_limits_a_day", [found.changed_limits_a_day], unit="1/d"),
        BenchRow.of_figure(f"{name}_longest_owner_wait", [found.longest_owner_wait_s], unit="s"),
        BenchRow.of_figure(f"{name}_tenants_worse", [found.tenants_worse], unit=""),
    ]


def _share(name: str, value: float) -> BenchRow:
    return BenchRow.of_figure(name, [value], unit="of bound")


def made() -> MinuteTable:
    """Demand of each tenant is constant for hours, around its guarantee."""
    random = np.random.default_rng(SEED)
    demand = np.zeros((MINUTES, TENANTS), dtype=np.int64)
    for tenant in range(TENANTS):
        changes = random.random(MINUTES) < 1 / 180
        levels = random.integers(0, 2 * GUARANTEED, size=MINUTES)
        demand[:, tenant] = levels[np.maximum.accumulate(np.where(changes, np.arange(MINUTES), 0))]
    running = np.minimum(demand, GUARANTEED)
    return MinuteTable(
        tenants=tuple(TenantName(f"t{number:02}") for number in range(TENANTS)),
        running=running,
        pending=demand - running,
        idle=GUARANTEED - running,
    )


def made_jobs() -> tuple[TraceJob, ...]:
    """Bursts of jobs, now of this tenant and now of that one."""
    random = np.random.default_rng(SEED)
    submitted = np.cumsum(random.exponential(MEAN_GAP_S, JOBS)).astype(int)
    return tuple(
        TraceJob(
            tenant=TenantName(f"t{(place // 100 + int(random.integers(0, 2))) % TENANTS:02}"),
            submitted_s=int(submitted[place] - submitted[0]),
            run_s=1 + int(random.exponential(LONG_S)),
            gpus=int(random.choice([1, 1, 1, 2, 4, 8, 16])),
        )
        for place in range(JOBS)
    )
