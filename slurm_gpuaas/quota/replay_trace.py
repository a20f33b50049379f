"""Reads the traces that `gpuaas quota replay` understands, CSV or gzipped CSV, told by their header."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.quota.replay import MinuteTable
from slurm_gpuaas.quota.tree import TenantName

MINUTES = ("vc", "time", "running_gpu_num", "pending_gpu_num", "idle_gpu_num")
WAY_OUT = f"Give a CSV or CSV.GZ file with the columns {', '.join(MINUTES)}: one row a minute and virtual cluster."


def read_minutes(path: Path) -> MinuteTable:
    """
    Raises:
        InvalidInput: no such table, or its virtual clusters do not cover the same minutes.
    """
    try:
        with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as lines:
            return _table(lines)
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, csv.Error) as error:
        raise InvalidInput(f"{path} cannot be read: {error}.", way_out=WAY_OUT) from error


def _table(lines: Iterable[str]) -> MinuteTable:
    rows = csv.reader(lines)
    header = next(rows, [])
    if missing := [name for name in MINUTES if name not in header]:
        raise InvalidInput(f"The trace has no column {missing[0]!r}.", way_out=WAY_OUT)
    vc, time, *numbers = (header.index(name) for name in MINUTES)
    clusters: dict[str, tuple[list[str], list[list[int]]]] = {}
    for number, row in enumerate(rows, start=2):
        try:
            times, counts = clusters.setdefault(row[vc], ([], []))
            values = [int(row[place]) for place in numbers]
            times.append(row[time])
        except (IndexError, ValueError) as error:
            raise InvalidInput(f"Line {number} of the trace is no row of whole GPUs.", way_out=WAY_OUT) from error
        if min(values) < 0:
            raise InvalidInput(f"Line {number} of the trace counts fewer than 0 GPUs.", way_out=WAY_OUT)
        counts.append(values)
    if not clusters:
        raise InvalidInput("The trace has no rows.", way_out=WAY_OUT)
    names = sorted(clusters)
    for name in names:
        if clusters[name][0] != clusters[names[0]][0]:
            raise InvalidInput(f"{name:.60} and {names[0]:.60} do not cover the same minutes.", way_out=WAY_OUT)
    cube = np.array([clusters[name][1] for name in names], dtype=np.int64)
    running, pending, idle = (cube[:, :, place].T.copy() for place in range(3))
    return MinuteTable(tenants=tuple(TenantName(name) for name in names), running=running, pending=pending, idle=idle)
