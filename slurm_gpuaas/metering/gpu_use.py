"""How busy GPUs were while runs had them: runs cut into stays on nodes, stays counted in minutes of telemetry.

A minute is of the run that has the node in the minute's middle, so none is counted twice. Telemetry knows GPUs by node
and index, Slurm's accounting knows how many GPUs a run had on its nodes but not which: a run that shared a node with
others counts as unknown there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.telemetry import METRICS, STEP, UNKNOWN, Metric
from slurm_gpuaas.domain.usage import UsageRecord, Window
from slurm_gpuaas.store.telemetry.chunk import Block
from slurm_gpuaas.store.telemetry.rollup import Codes, Tally, running_counts, tally
from slurm_gpuaas.store.telemetry.telemetry import DAY_MINUTES, BusyDay

ON_THE_WAY: Final = timedelta(minutes=3)
"""Samples of the last minutes may not have arrived yet: what is missing of these is not counted as unknown."""
MOST_POINTS: Final = 60
"""Of a curve."""


class Samples(Protocol):
    """Where samples are kept; `store.telemetry.Telemetry` has it."""

    def busy(self, day: date, nodes: Iterable[NodeName]) -> Iterator[tuple[NodeName, BusyDay]]:
        """How busy the GPUs of nodes were on a day; nodes of which nothing is known are left out."""
        ...

    def rest(self, day: date, node: NodeName) -> Block | None:
        """The other metrics of a node on a day, by the minute or the hour."""
        ...


@dataclass(frozen=True, slots=True)
class Stay:
    """`gpus` GPUs of a node in minutes [first, end), counted from 1970; `key` is whose. `settled`: all samples that
    will ever come are there."""

    key: str
    node: NodeName
    gpus: int
    first: int
    end: int
    settled: bool = True


@dataclass(frozen=True, slots=True)
class Use:
    """GPU-minutes: `tally.known + tally.unknown` are all; `shared` is the unknown part on nodes that were shared."""

    tally: Tally = field(default_factory=Tally)
    shared: int = 0

    def __add__(self, other: Use) -> Use:
        return Use(self.tally + other.tally, self.shared + other.shared)


@dataclass(slots=True)
class Curve:
    """Mean of `busy` in equal parts of minutes [first, end): `MOST_POINTS`, but none shorter than a minute."""

    first: int
    end: int
    _busy: NDArray[np.int64] = field(init=False)
    _samples: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        points = max(0, min(MOST_POINTS, self.end - self.first))
        self._busy, self._samples = np.zeros(points, np.int64), np.zeros(points, np.int64)

    def add(self, first: int, samples: NDArray[np.int64], busy: NDArray[np.int64]) -> None:
        """Known samples and sum of codes of each minute from `first` on, all within the curve."""
        if samples.size:
            point = (np.arange(first, first + samples.size) - self.first) * len(self._busy) // (self.end - self.first)
            np.add.at(self._samples, point, samples)
            np.add.at(self._busy, point, busy)

    def percent(self) -> tuple[float | None, ...]:
        """None where nothing is known."""
        return tuple(
            float(busy) / int(samples) * STEP[Metric.BUSY] if samples else None
            for busy, samples in zip(self._busy, self._samples, strict=True)
        )


def minute_of(moment: datetime) -> int:
    """The first minute whose middle does not lie before the moment, counted from 1970."""
    return -((30 - int(moment.timestamp())) // 60)


def stays_of(key: str, record: UsageRecord, nodes: Sequence[NodeName], window: Window, *, now: datetime) -> list[Stay]:
    """What a run had of its nodes within the window. Empty when its nodes are not known."""
    first = minute_of(max(record.started, window.start))
    end = minute_of(min(record.ended or now, window.end, now))
    if not nodes or first >= end:
        return []
    # Uneven parts are parts of nodes: of such a run no node is wholly its own.
    even, odd = divmod(record.gpus, len(nodes))
    gpus = [even + (number < odd) for number in range(len(nodes))]
    return [
        stay
        for node, count in zip(nodes, gpus, strict=True)
        for stay in split(Stay(key, node, count, first, end), minute_of(now - ON_THE_WAY))
    ]


def split(stay: Stay, settled: int) -> Iterator[Stay]:
    """The part before the minute `settled`, of which everything has arrived, and the one after it."""
    if stay.first < min(stay.end, settled):
        yield Stay(stay.key, stay.node, stay.gpus, stay.first, min(stay.end, settled))
    if max(stay.first, settled) < stay.end:
        yield Stay(stay.key, stay.node, stay.gpus, max(stay.first, settled), stay.end, settled=False)


def measure(samples: Samples, stays: Iterable[Stay], curve: Curve) -> dict[str, Use]:
    """Count the stays by key. Each node's day is read once, whatever the number of stays on it."""
    found: dict[str, Use] = defaultdict(Use)
    days: dict[date, dict[NodeName, list[Stay]]] = defaultdict(lambda: defaultdict(list))
    for stay in stays:
        unknown = stay.gpus * (stay.end - stay.first) if stay.settled else 0
        found[stay.key] += Use(Tally(unknown=unknown))
        for number in range(stay.first // DAY_MINUTES, (stay.end - 1) // DAY_MINUTES + 1):
            days[_date(number)][stay.node].append(stay)
    for day, by_node in sorted(days.items()):
        midnight = _minutes(day)
        of_day = np.zeros((2, DAY_MINUTES), np.int64)
        for node, told in samples.busy(day, sorted(by_node)):
            # Summed once for all stays of the day: of a stay they are the difference of two columns.
            counts = running_counts(told.busy, told.samples)
            each = np.diff(counts[2:], axis=1)
            for stay in by_node[node]:
                first, end = max(0, stay.first - midnight), min(DAY_MINUTES, stay.end - midnight)
                if stay.gpus < len(told.busy):
                    found[stay.key] += Use(shared=stay.gpus * (end - first) if stay.settled else 0)
                    continue
                found[stay.key] += _known(stay, counts[:, end] - counts[:, first])
                of_day[:, first:end] += each[:, first:end]
        begin, end = max(midnight, curve.first), min(midnight + DAY_MINUTES, curve.end)
        curve.add(begin, *of_day[:, begin - midnight : end - midnight])
    return dict(found)


def _known(stay: Stay, counts: NDArray[np.int64]) -> Use:
    """What samples tell of a part of a stay: what becomes known of it is not unknown any more."""
    known, idle, samples, codes = counts.tolist()
    return Use(Tally(known, idle, -known if stay.settled else 0, samples, codes * STEP[Metric.BUSY]))


@dataclass(frozen=True, slots=True)
class GpuOfNode:
    """One GPU of a node over a window. `rest` are the other metrics' means, the highest of temperature and processes;
    of what is known, None when nothing is."""

    serial: str | None
    tally: Tally
    rest: Mapping[Metric, float | None]


def measure_node(samples: Samples, stay: Stay, settled: int, curve: Curve) -> list[GpuOfNode]:
    """The GPUs of a node by index: `stay.gpus` of them, and more where samples know more."""
    tallies: dict[int, Tally] = defaultdict(Tally)
    settled_known: dict[int, int] = defaultdict(int)
    serials: dict[int, str] = {}
    rest: dict[tuple[int, Metric], list[Codes]] = defaultdict(list)
    count = stay.gpus
    for number in range(stay.first // DAY_MINUTES, (stay.end - 1) // DAY_MINUTES + 1):
        day, midnight = _date(number), number * DAY_MINUTES
        first, end = max(0, stay.first - midnight), min(DAY_MINUTES, stay.end - midnight)
        for _node, known in samples.busy(day, [stay.node]):
            busy, counted = known.busy[:, first:end], known.samples[:, first:end]
            curve.add(midnight + first, *np.diff(running_counts(busy, counted)[2:], axis=1))
            count = max(count, len(busy))
            for gpu in range(len(busy)):
                tallies[gpu] += tally(busy[gpu], counted[gpu])
                settled_known[gpu] += int(np.count_nonzero(counted[gpu, : max(0, settled - midnight - first)]))
                if gpu < len(known.serials) and (serial := known.serials[gpu]):
                    serials[gpu] = serial
        if (block := samples.rest(day, stay.node)) is not None:
            per = DAY_MINUTES // block.codes.shape[2]
            for row, metric in enumerate(METRICS[1:]):
                for gpu in range(block.codes.shape[1]):
                    codes = block.codes[row, gpu, first // per : -(-end // per)]
                    rest[gpu, metric].append(codes[codes != UNKNOWN])
    minutes = max(0, min(stay.end, settled) - stay.first)
    return [
        GpuOfNode(
            serial=serials.get(gpu),
            tally=replace(tallies[gpu], unknown=minutes - settled_known[gpu]),
            rest={metric: _summary(metric, rest[gpu, metric]) for metric in METRICS[1:]},
        )
        for gpu in range(count)
    ]


def _summary(metric: Metric, codes: Sequence[Codes]) -> float | None:
    known = np.concatenate(codes) if codes else np.empty(0)
    if not known.size:
        return None
    of = np.max if metric in (Metric.TEMPERATURE, Metric.PROCESSES) else np.mean
    return float(of(known)) * STEP[metric]


def _date(number: int) -> date:
    return datetime.fromtimestamp(number * DAY_MINUTES * 60, UTC).date()


def _minutes(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) // 60
