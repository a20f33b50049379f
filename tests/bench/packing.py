"""An event simulator of a cluster of whole-node jobs: it says in which order they start, a side says where.

Jobs start in the order of their coming, and later ones fill in where they do not keep the first from the start that
time limits promise it (EASY backfill). A side may let the first job wait for a better place, for a bounded time; the
nodes that it could have are kept for it: meanwhile others get them only if they end in time, and the next job that does
not fit has its promise, as if the one that waits had started: Slurm plans for it likewise. What is counted are leaf
groups.
"""

from __future__ import annotations

import heapq
import math
import random
import statistics
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.topology.fabric import FabricArrays

DAY: Final = 86_400.0
SHARES: Final[Mapping[int, float]] = {
    1: 10, 2: 4, 4: 6, 8: 7, 16: 7, 32: 18, 64: 18, 128: 18, 256: 12,
}  # fmt: skip
"""Nodes of a job, and its share of all node-hours in per cent: most jobs are of one node, two thirds of the hours are
those of jobs of 32 nodes (256 GPUs) and more, as training clusters are used."""
MEAN_RUN: Final = 4 * 3600.0
SPREAD: Final = 1.2
"""Of the logarithm of run times."""
TO_THE_LIMIT: Final = 0.3
"""Share of jobs that run until their time limit; others end after a fifth to the whole of it."""
BIG: Final = 16
"""Nodes from which on a job's leaf groups are counted."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A job: when it comes, its nodes, how long it runs and may run; all in seconds."""

    at: float
    nodes: int
    runs: float
    limit: float


@dataclass(frozen=True, slots=True)
class Place:
    """Nodes for a job, and how many seconds it may wait for better ones."""

    nodes: Sequence[NodeName]
    wait: float = 0.0


@dataclass(frozen=True, slots=True)
class Question:
    """Where shall a job start, and shall it wait?

    Args:
        free: nodes that it could have now.
        mix: sizes of the jobs that wait beside it.
        ends: seconds from now until a node in use is free by its job's limit.
        may_wait: it is the next one in order; nobody else may wait.
        waits_s: seconds that are left of its wait, if it waits.
    """

    job: Arrival
    free: Collection[NodeName]
    mix: Mapping[int, int]
    ends: Mapping[NodeName, float]
    may_wait: bool
    waits_s: float | None


Side = Callable[[Question], Place]


@dataclass(frozen=True, slots=True)
class _Hold:
    """The first job waits until then, and finds these nodes free."""

    job: Arrival
    until: float
    nodes: frozenset[NodeName]


@dataclass(slots=True)
class Outcome:
    """Of jobs that came after the cluster had filled.

    Args:
        broken: leaf groups that were wholly free and are left partly used, summed over starts.
        excess: leaf groups above the fewest that the size needs, summed over jobs of `BIG` nodes and more.
        waits: seconds from coming to start.
        busy: node-seconds.
    """

    broken: int = 0
    excess: int = 0
    waits: list[float] = field(default_factory=list)
    busy: float = 0.0

    def add(self, other: Outcome) -> None:
        self.broken += other.broken
        self.excess += other.excess
        self.waits += other.waits
        self.busy += other.busy

    @property
    def mean_wait(self) -> float:
        return statistics.fmean(self.waits)


def arrivals(nodes: int, *, load: float, days: float, chance: random.Random) -> list[Arrival]:
    """Jobs that ask for exactly `load` of the nodes' time."""
    sizes = list(SHARES)
    weights = [SHARES[size] / size for size in sizes]
    mean = sum(SHARES.values()) / sum(weights)
    number = round(load * nodes * days * DAY / (mean * MEAN_RUN))
    drawn = [
        (chance.uniform(0, days * DAY), chance.choices(sizes, weights)[0], chance.lognormvariate(0, SPREAD))
        for _ in range(number)
    ]
    scale = load * nodes * days * DAY / sum(size * runs for _, size, runs in drawn)
    return [
        Arrival(
            at, size, runs * scale, runs * scale / (1 if chance.random() < TO_THE_LIMIT else chance.uniform(0.2, 1))
        )
        for at, size, runs in sorted(drawn)
    ]


class Cluster:
    """One run of the simulator.

    Args:
        warm: seconds after which jobs are counted.
    """

    def __init__(self, fabric: FabricArrays, side: Side, *, warm: float) -> None:
        self._fabric = fabric
        self._side = side
        self._warm = warm
        self._free = set(fabric.nodes)
        self._size = Counter(fabric.group.tolist())
        self._largest = max(self._size.values())
        self._waiting: list[Arrival] = []
        self._running: list[tuple[float, int, float, Sequence[NodeName]]] = []  # end, number, end by limit, nodes
        self._hold: _Hold | None = None
        self._started = 0
        self.outcome = Outcome()

    def run(self, coming: Sequence[Arrival], told: Callable[[int], object] = lambda started: None) -> Outcome:
        """Until the last job has come. `told` hears how many have started."""
        for arrival in coming:
            while (moment := self._next()) <= arrival.at:
                while self._running and self._running[0][0] <= moment:
                    self._free.update(heapq.heappop(self._running)[-1])
                self._start_what_may(moment)
            self._waiting.append(arrival)
            self._start_what_may(arrival.at)
            told(self._started)
        return self.outcome

    def _next(self) -> float:
        """When something ends, be it a job or a wait."""
        ends = self._running[0][0] if self._running else math.inf
        return min(ends, self._hold.until if self._hold else math.inf)

    def _start_what_may(self, now: float) -> None:
        """In the order of their coming; from the first one on that does not fit, only who does not make it later."""
        promised, spare = math.inf, 0
        blocked = False
        for job in list(self._waiting):
            room = self._room(job, now)
            if job.nodes > len(room):
                if not blocked:
                    blocked = True
                    promised, spare = self._promise(job)
                continue
            in_time = now + job.limit <= promised
            if blocked and not in_time and job.nodes > spare:
                continue
            if self._starts(job, room, now) and blocked and not in_time:
                spare -= job.nodes

    def _room(self, job: Arrival, now: float) -> Collection[NodeName]:
        """Free nodes, less those kept for another one that the job would not leave in time."""
        hold = self._hold
        lent = hold is None or hold.job is job or now + job.limit <= hold.until
        return self._free if lent or hold is None else self._free - hold.nodes

    def _starts(self, job: Arrival, room: Collection[NodeName], now: float) -> bool:
        """Start a job, or let it wait: only the first one may."""
        place = self._place(job, room, now)
        if self._hold is None and place.wait and job is self._waiting[0]:
            self._hold = _Hold(job, now + place.wait, frozenset(place.nodes))
        if self._hold and self._hold.job is job:
            if place.wait and now < self._hold.until:
                return False
            self._hold = None
        self._start(job, place.nodes, now)
        return True

    def _place(self, job: Arrival, free: Collection[NodeName], now: float) -> Place:
        own = self._hold if self._hold and self._hold.job is job else None
        question = Question(
            job=job,
            free=free,
            mix=Counter(other.nodes for other in self._waiting if other is not job),
            ends={node: ends - now for _, _, ends, nodes in self._running for node in nodes},
            may_wait=job is self._waiting[0],
            waits_s=own.until - now if own else None,
        )
        place = self._side(question)
        if len(place.nodes) != job.nodes or not self._free.issuperset(place.nodes):
            raise AssertionError(f"A job of {job.nodes} nodes was placed on {place.nodes}.")
        return place

    def _promise(self, first: Arrival) -> tuple[float, int]:
        """When by time limits the job starts, and how many nodes are over then. One that waits is taken for started."""
        held = self._hold
        ends = [(ends, len(nodes)) for _, _, ends, nodes in self._running]
        there = len(self._free)
        if held and held.job is not first:
            there -= held.job.nodes
            ends.append((held.until + held.job.limit, held.job.nodes))
        for end, nodes in sorted(ends):
            there += nodes
            if there >= first.nodes:
                return end, there - first.nodes
        raise AssertionError(f"{first.nodes} nodes are more than the cluster has.")

    def _start(self, job: Arrival, nodes: Sequence[NodeName], now: float) -> None:
        self._waiting.remove(job)
        if job.at >= self._warm:
            self._count(job, nodes, now)
        self._free.difference_update(nodes)
        self._started += 1
        heapq.heappush(self._running, (now + job.runs, self._started, now + job.limit, nodes))

    def _count(self, job: Arrival, nodes: Sequence[NodeName], now: float) -> None:
        fabric, outcome = self._fabric, self.outcome
        free = Counter(int(fabric.group[fabric.index[node]]) for node in self._free)
        used = Counter(int(fabric.group[fabric.index[node]]) for node in nodes)
        outcome.waits.append(now - job.at)
        outcome.busy += job.nodes * job.runs
        outcome.broken += sum(free[group] == self._size[group] > number for group, number in used.items())
        if job.nodes >= BIG:
            outcome.excess += len(used) - -(-job.nodes // self._largest)
