"""What projects used of their own GPUs on a Korean day: held by jobs, computing, or with memory full. Pure.

Held is exact, from runs as Slurm's accounting has them. Computing is from samples, where these know whose GPUs they
tell of: a run that shares a node with others is unknown there. What is unknown is taken to be as what is known, and
nothing is said of a day of which less than half is known.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray

from slurm_gpuaas.domain.jobs import ServiceClass
from slurm_gpuaas.domain.names import AccountName, NodeName
from slurm_gpuaas.domain.outages import Outage
from slurm_gpuaas.domain.policy import KST, expand_nodes
from slurm_gpuaas.domain.telemetry import STEP, UNKNOWN, Metric
from slurm_gpuaas.domain.usage import UsageRecord, Window, service_class
from slurm_gpuaas.metering.gpu_use import Samples, Stay, stays_of
from slurm_gpuaas.metering.rules import metered_until
from slurm_gpuaas.store.telemetry.chunk import Block
from slurm_gpuaas.store.telemetry.rollup import IDLE_BELOW
from slurm_gpuaas.store.telemetry.telemetry import DAY_MINUTES

LOADED_FROM_PERCENT: Final = 50.0
"""Memory of a GPU that computes nothing and waits: servers of models take most of it when they start (vLLM 90 % by
default, `--gpu-memory-utilization`), and a job that merely opened the GPU some hundred MiB."""
HOUR: Final = 3600
HOURS: Final = 24

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class DayUse:
    """GPU-seconds of one project on one day; `peak` is GPUs in use in the busiest hour. Names as in
    `domain.idle.GrantDay`."""

    allocated: int = 0
    busy: int | None = 0
    loaded: int = 0
    burst: int = 0
    peak: int = 0


def day_of(day: date) -> Window:
    begin = datetime.combine(day, time(), KST)
    return Window(begin, begin + timedelta(days=1))


def use_of_day(samples: Samples, runs: Iterable[UsageRecord], day: date) -> dict[AccountName, DayUse]:
    """
    Args:
        runs: of any time, each once; a running one counts as far as it was metered.
    """
    window = day_of(day)
    held: dict[AccountName, _Held] = defaultdict(_Held)
    for run in runs:
        held[run.account].add(run, window)
    stays = [stay for account, one in held.items() for stay in one.stays_by_hour(account, window)]
    counted = _count(samples, stays)
    return {
        account: one.use(np.array([counted.get(f"{account} {hour}", _NOTHING) for hour in range(HOURS)]))
        for account, one in held.items()
    }


@dataclass(slots=True)
class _Held:
    """GPU-seconds by hour of the day, and where."""

    own: Counts = field(default_factory=lambda: np.zeros(HOURS, np.int64))
    burst: int = 0
    runs: list[UsageRecord] = field(default_factory=list)

    def add(self, run: UsageRecord, window: Window) -> None:
        first = max(run.started, window.start) - window.start
        end = min(metered_until(run), window.end) - window.start
        begin, over = int(first.total_seconds()), int(end.total_seconds())
        if over <= begin:
            return
        if service_class(run.qos) is ServiceClass.BURST:
            self.burst += run.gpus * (over - begin)
            return
        edges = np.clip(np.arange(HOURS + 1) * HOUR, begin, over)
        self.own += run.gpus * (edges[1:] - edges[:-1])
        self.runs.append(run)

    def stays_by_hour(self, account: AccountName, window: Window) -> Iterator[Stay]:
        midnight = int(window.start.timestamp()) // 60
        for run in self.runs:
            nodes = expand_nodes(run.nodes) if run.nodes else ()
            for stay in stays_of("", run, nodes, window, now=metered_until(run)):
                for hour in range((stay.first - midnight) // 60, (stay.end - 1 - midnight) // 60 + 1):
                    begin = midnight + 60 * hour
                    yield Stay(
                        f"{account} {hour}", stay.node, stay.gpus, max(stay.first, begin), min(stay.end, begin + 60)
                    )

    def use(self, counted: Counts) -> DayUse:
        """
        Args:
            counted: known, idle and loaded GPU-minutes [HOURS, 3].
        """
        allocated = int(self.own.sum())
        known, idle, loaded = (int(number) for number in counted.sum(axis=0))
        if 2 * 60 * known < allocated:
            return DayUse(allocated=allocated, busy=None, burst=self.burst, peak=_gpus(self.own))
        if not allocated:
            return DayUse(burst=self.burst)
        by_hour, there = counted[:, 0], counted[:, 0] > 0
        in_use = (by_hour - counted[:, 1] + counted[:, 2]) / np.maximum(by_hour, 1)
        return DayUse(
            allocated=allocated,
            busy=allocated * (known - idle) // known,
            loaded=allocated * loaded // known,
            burst=self.burst,
            peak=_gpus(np.where(there, np.floor(self.own * in_use), self.own).astype(np.int64)),
        )


_NOTHING: Final = np.zeros(3, np.int64)


def _gpus(by_hour: Counts) -> int:
    """GPUs that the busiest hour needs at least."""
    return int(-(-by_hour.max() // HOUR))


def _count(samples: Samples, stays: Iterable[Stay]) -> dict[str, Counts]:
    """Known, idle and loaded GPU-minutes [3] by key of stays that had their nodes alone."""
    days: dict[date, dict[NodeName, list[Stay]]] = defaultdict(lambda: defaultdict(list))
    for stay in stays:
        # An hour lies within one day of UTC, by which samples are kept.
        days[datetime.fromtimestamp(stay.first * 60, UTC).date()][stay.node].append(stay)
    found: dict[str, Counts] = defaultdict(lambda: np.zeros(3, np.int64))
    for day, by_node in sorted(days.items()):
        midnight = int(datetime.combine(day, time(), UTC).timestamp()) // 60
        for node, told in samples.busy(day, sorted(by_node)):
            known = told.samples > 0
            idle = known & (told.busy < IDLE_BELOW)
            loaded = idle & _full(samples.rest(day, node), len(idle)) if idle.any() else idle
            running = np.zeros((3, DAY_MINUTES + 1), np.int64)
            for row, which in enumerate((known, idle, loaded)):
                np.cumsum(np.count_nonzero(which, axis=0), out=running[row, 1:])
            for stay in by_node[node]:
                if stay.gpus >= len(told.busy):
                    found[stay.key] += running[:, stay.end - midnight] - running[:, stay.first - midnight]
    return found


def _full(rest: Block | None, gpus: int) -> NDArray[np.bool_]:
    """Minutes [gpus, DAY_MINUTES] in which a GPU's memory is known to be full; by hours where only these are kept."""
    full = np.zeros((gpus, DAY_MINUTES), np.bool_)
    if rest is not None:
        memory = rest.codes[0, :gpus]
        known = (memory != UNKNOWN) & (memory >= LOADED_FROM_PERCENT / STEP[Metric.MEMORY])
        full[: len(known)] = np.repeat(known, DAY_MINUTES // known.shape[1], axis=1)
    return full


# -- What could not be used --------------------------------------------------------------------------------------------


def lost_by_grant(
    granted: Mapping[str, int], gpus: Mapping[NodeName, int], outages: Sequence[Outage], day: date
) -> dict[str, int]:
    """GPU-seconds that faults and maintenance took from each grant of a share: what the nodes left fall short of all
    grants together, in parts of their sizes. Spare nodes make up for broken ones first.

    Args:
        granted: GPUs of each grant of the share on that day.
        gpus: of each node of the share.
    """
    window = day_of(day)
    promised = sum(granted.values())
    whole = int((window.end - window.start).total_seconds())
    out: dict[NodeName, list[tuple[datetime, datetime]]] = defaultdict(list)
    for one in outages:
        if one.node in gpus:
            out[one.node].append((max(one.since, window.start), min(one.until or window.end, window.end)))
    gone = sum(gpus[node] * _seconds(spans) for node, spans in out.items())
    short = max(0, (promised - sum(gpus.values())) * whole + gone)
    return {name: min(count * whole, short * count // promised) for name, count in granted.items() if count}


def _seconds(spans: Iterable[tuple[datetime, datetime]]) -> int:
    """Of all spans together, overlaps counted once."""
    total, reached = timedelta(0), datetime.min.replace(tzinfo=KST)
    for begin, end in sorted(spans):
        begin = max(begin, reached)
        if end > begin:
            total += end - begin
            reached = end
    return int(total.total_seconds())
