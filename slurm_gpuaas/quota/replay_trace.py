"""Reads the traces that `gpuaas quota replay` understands, CSV or gzipped CSV, told by their header."""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from math import ceil
from pathlib import Path
from typing import Final

import numpy as np

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.quota.replay import MinuteTable
from slurm_gpuaas.quota.replay_jobs import TraceJob
from slurm_gpuaas.quota.tree import TenantName

MINUTES: Final = ("vc", "time", "running_gpu_num", "pending_gpu_num", "idle_gpu_num")
JOBS: Final = ("timestamp", "duration", "num_gpus", "cluster")
WAY_OUT: Final = (
    f"Give a CSV or CSV.GZ file with the columns {', '.join(MINUTES)} (one row a minute and virtual cluster) or "
    f"{', '.join(JOBS)} (one row a job)."
)
LONGEST_S: Final = 10**9
MOST_GPUS: Final = 10**6
MOST_ROWS: Final = 5_000_000
"""All are held in memory, and a replay of so many takes hours."""
LONGEST_NAME: Final = 100

# int() and float() take `1_0`, too
_WHOLE: Final = re.compile(r"\s*[+-]?[0-9]{1,18}\s*")
_NUMBER: Final = re.compile(r"\s*[+-]?[0-9.]+(e[+-]?[0-9]+)?\s*", re.IGNORECASE)


def read_trace(path: Path) -> MinuteTable | tuple[TraceJob, ...]:
    """A table of minutes, or jobs by submission.

    Raises:
        InvalidInput: neither of them, a row that is none, or virtual clusters that do not cover the same minutes.
    """
    try:
        # spreadsheets begin a file with a byte order mark
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", newline="", encoding="utf-8-sig") as lines:
            return _read(lines)
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, csv.Error) as error:
        raise InvalidInput(f"{path} cannot be read: {error}.", way_out=WAY_OUT) from error


def _read(lines: Iterable[str]) -> MinuteTable | tuple[TraceJob, ...]:
    rows = csv.reader(lines)
    header = next(rows, [])
    # an empty line is no row
    numbered = _bounded((number, row) for number, row in enumerate(rows, start=2) if row)
    if twice := sorted({name for name in (*MINUTES, *JOBS) if header.count(name) > 1}):
        raise InvalidInput(f"The trace has the column {twice[0]} twice.", way_out=WAY_OUT)
    if set(MINUTES) <= set(header):
        return _table(header, numbered)
    if set(JOBS) <= set(header):
        return _jobs(header, numbered)
    raise InvalidInput(
        "The trace is neither a table of minutes nor a list of jobs: "
        f"its columns are {', '.join(header) or 'none':.200}.",
        way_out=WAY_OUT,
    )


def _bounded(rows: Iterable[tuple[int, Sequence[str]]]) -> Iterator[tuple[int, Sequence[str]]]:
    for count, row in enumerate(rows):
        if count == MOST_ROWS:
            raise InvalidInput(f"The trace has more than {MOST_ROWS:,} rows.", way_out="Replay a part of it.")
        yield row


# -- Jobs --------------------------------------------------------------------------------------------------------------


def _jobs(header: Sequence[str], rows: Iterable[tuple[int, Sequence[str]]]) -> tuple[TraceJob, ...]:
    places = [header.index(name) for name in JOBS]
    found: list[tuple[datetime, int, int, str]] = []
    for number, row in rows:
        try:
            submitted, run_s, gpus, cluster = (row[place] for place in places)
            found.append((_moment(submitted), _seconds(run_s), _gpus(gpus), _named(cluster)))
        except (IndexError, ValueError, OverflowError) as error:
            said = "it is too short" if isinstance(error, IndexError) else str(error)
            raise InvalidInput(f"Line {number} of the trace is no job: {said:.200}.", way_out=WAY_OUT) from error
    if not found:
        raise InvalidInput("The trace has no rows.", way_out=WAY_OUT)
    found.sort(key=lambda job: job[0])  # of one moment, in the order of the file
    first = found[0][0]
    return tuple(
        TraceJob(tenant=TenantName(cluster), submitted_s=int((moment - first).total_seconds()), run_s=run_s, gpus=gpus)
        for moment, run_s, gpus, cluster in found
    )


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _seconds(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"it runs {text} s")
    seconds = float(text)
    if not 0 <= seconds <= LONGEST_S:
        raise ValueError(f"it runs {text} s")
    return ceil(seconds)


def _gpus(text: str) -> int:
    gpus = _whole(text)
    if not 1 <= gpus <= MOST_GPUS:
        raise ValueError(f"it has {gpus} GPUs")
    return gpus


def _named(text: str) -> str:
    if not text.strip():
        raise ValueError("it has no cluster")
    if len(text) > LONGEST_NAME or not text.isprintable():
        raise ValueError(f"its cluster has over {LONGEST_NAME} characters, or some that cannot be shown")
    return text


def _whole(text: str) -> int:
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{text} is no whole number")
    return int(text)


# -- Minutes -----------------------------------------------------------------------------------------------------------


def _table(header: Sequence[str], rows: Iterable[tuple[int, Sequence[str]]]) -> MinuteTable:
    vc, time, *numbers = (header.index(name) for name in MINUTES)
    clusters: dict[str, tuple[list[str], list[list[int]]]] = {}
    for number, row in rows:
        try:
            times, counts = clusters.setdefault(_named(row[vc]), ([], []))
            values = [_whole(row[place]) for place in numbers]
            times.append(row[time])
        except (IndexError, ValueError) as error:
            raise InvalidInput(f"Line {number} of the trace is no row of whole GPUs.", way_out=WAY_OUT) from error
        if not 0 <= min(values) <= max(values) <= MOST_GPUS:
            raise InvalidInput(
                f"Line {number} of the trace counts fewer than 0 GPUs or more than {MOST_GPUS:,}.", way_out=WAY_OUT
            )
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
