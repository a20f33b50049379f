"""What lending recovers on a trace, by decision interval; against the bound of the same run.

`GPUAAS_TRACES` names a folder with `helios_earth_vc_minutes.csv.gz`; without it the group makes a table itself.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from slurm_gpuaas.quota.replay import MinuteTable, replay
from slurm_gpuaas.quota.replay_trace import read_minutes
from slurm_gpuaas.quota.tree import TenantName
from tests.bench.model import BenchContext, BenchRow

HELIOS = "helios_earth_vc_minutes.csv.gz"
INTERVALS_MIN = (1, 15, 60)
PROVEN_MIN = 5
RECLAIM_S = 60
MINUTES, TENANTS, GUARANTEED, SEED = 2880, 16, 64, 15


def run(context: BenchContext) -> list[BenchRow]:
    folder = os.environ.get("GPUAAS_TRACES")
    with context.step("Replay of lending") as note:
        note(f"{folder}/{HELIOS}" if folder else "a table made here")
        table = read_minutes(Path(folder) / HELIOS) if folder else made()
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
