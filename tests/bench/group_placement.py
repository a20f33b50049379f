"""Placement without Slurm: how fast, and how far from the optimum.

Speed is of `FabricPlacer.place` with names of nodes in and out, as the gate asks it: 1,642 nodes at loads from 0.7 to
0.95, sizes as jobs come. Quality is of single jobs on 129 and 957 nodes: the optimum in pods and leaf groups is found
by trying every set of pods, in each of which taking the roomiest leaf groups first is the fewest;
`place_suboptimal_cases` counts answers above it, `slurm_tree_suboptimal_cases` what topology/tree's rules would answer.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import combinations

from slurm_gpuaas.domain.jobs import Job, JobState
from slurm_gpuaas.domain.names import NodeName, PartitionName
from slurm_gpuaas.domain.nodes import NodeBase
from slurm_gpuaas.jobs.gate_rules import Picture, decide
from slurm_gpuaas.topology.fabric import FabricArrays
from slurm_gpuaas.topology.placement import Domain, Request, choose
from slurm_gpuaas.topology.placer import FabricPlacer
from tests.bench.model import BenchContext, BenchRow
from tests.fakes import EPOCH, make_job, make_node
from tests.unit.topology import slurm_tree

LOADS = (0.7, 0.8, 0.9, 0.95)
LEAF, LEAVES_OF_A_POD = 32, 5
SIZES: Mapping[int, int] = {1: 55, 2: 12, 4: 12, 8: 8, 16: 6, 32: 4, 64: 2, 128: 1}
"""Nodes of a job, and how many of a hundred jobs ask for as many."""
QUESTIONS, PENDING, SINGLE_JOBS = 3000, 1000, 1000


def run(context: BenchContext) -> list[BenchRow]:
    chance = random.Random(4)
    with context.step("Placements on 1,642 nodes"):
        milliseconds = sorted(one * 1e3 for one in _times(chance))
        pending = [_pending(chance) for _ in range(3)]
    ours = theirs = 0
    with context.step("Single jobs against the optimum"):
        for nodes in (129, 957):
            for _ in range(SINGLE_JOBS):
                above, above_too = _above(_state(nodes, chance), _size(chance, nodes))
                ours += above
                theirs += above_too
    return [
        BenchRow.of_figure("place_median_ms", milliseconds, unit="ms"),
        BenchRow.of_figure("place_p99_ms", [milliseconds[int(len(milliseconds) * 0.99)]], unit="ms"),
        BenchRow.of_figure("place_1000_pending_s", pending, unit="s"),
        BenchRow.of_figure("place_suboptimal_cases", [ours], unit="cases"),
        BenchRow.of_figure("slurm_tree_suboptimal_cases", [theirs], unit="cases"),
    ]


def fabric(nodes: int) -> FabricArrays:
    """Leaf groups of 32 nodes, five to a pod; of 129 nodes all are one pod."""
    names = [NodeName(f"b200-{number:04d}") for number in range(1, nodes + 1)]
    groups = [names[at : at + LEAF] for at in range(0, nodes, LEAF)]
    pod = LEAVES_OF_A_POD if nodes > LEAF * LEAVES_OF_A_POD else len(groups)
    return FabricArrays.of([(f"pod-{n // pod:02d}", f"leaf-{n:03d}", members) for n, members in enumerate(groups)])


def _busy(known: FabricArrays, chance: random.Random) -> list[NodeName]:
    """Free nodes where jobs of these sizes hold the rest, each on consecutive nodes somewhere."""
    load = chance.choice(LOADS)
    nodes = list(known.nodes)
    taken = [False] * len(nodes)
    while sum(taken) < load * len(nodes):
        at, size = chance.randrange(len(nodes)), _size(chance, len(nodes))
        for node in range(at, min(at + size, len(nodes))):
            taken[node] = True
    return [node for node, busy in zip(nodes, taken, strict=True) if not busy]


def _size(chance: random.Random, nodes: int) -> int:
    size = chance.choices(list(SIZES), list(SIZES.values()))[0]
    return min(size, max(1, nodes // 8))


def _times(chance: random.Random) -> list[float]:
    known = fabric(1642)
    placer = FabricPlacer(known)
    states = [_busy(known, chance) for _ in range(30)]
    taken = []
    for number in range(QUESTIONS):
        free, size = states[number % len(states)], _size(chance, 1642)
        start = time.perf_counter()
        placer.place(size, free=free, among=known.nodes)
        taken.append(time.perf_counter() - start)
    return taken


def _pending(chance: random.Random) -> float:
    """Seconds in which the gate decides about a thousand jobs, of whole nodes and of a few GPUs."""
    known = fabric(1642)
    free = set(_busy(known, chance))
    nodes = {
        name: make_node(name) if name in free else make_node(name, base=NodeBase.ALLOCATED, gpus_allocated=8)
        for name in known.nodes
    }
    jobs: list[Job] = []
    taken = [name for name in known.nodes if name not in free]
    while taken:
        size = min(_size(chance, 1642), len(taken))
        jobs.append(make_job(len(jobs) + 1, state=JobState.RUNNING, nodes=taken[:size], started=EPOCH))
        taken = taken[size:]
    for number in range(PENDING):
        size = _size(chance, 1642)
        gpus = chance.randint(1, 7) if size == 1 and number % 2 else 8 * size
        job = make_job(10_000 + number, node_count=size, gpus=gpus, licenses="placement:1", reason="Licenses")
        jobs.append(replace(job, comment="gpuaas:wait=10m"))
    picture = Picture(
        now=EPOCH,
        jobs=jobs,
        nodes=nodes,
        partitions={PartitionName("own"): known.nodes},
        patience=timedelta(seconds=8),
        longest_wait=timedelta(minutes=30),
    )
    start = time.perf_counter()
    decide(picture, FabricPlacer(known))
    return time.perf_counter() - start


def _state(nodes: int, chance: random.Random) -> list[Domain]:
    known = fabric(nodes)
    free = known.mask(_busy(known, chance))
    return [
        Domain(path, int(free[known.group == number].sum()), int((known.group == number).sum()))
        for number, path in enumerate(known.paths)
    ]


def _above(domains: Sequence[Domain], count: int) -> tuple[bool, bool]:
    """Whether our choice, and the one by topology/tree's rules, is above the optimum in pods, then leaf groups."""
    best = optimum(domains, count)
    choice, theirs = choose(domains, Request(count=count)), slurm_tree.takes(domains, count)
    if best is None or choice is None or theirs is None:
        if (best, choice, theirs) != (None, None, None):
            raise AssertionError(f"{count} of {domains}: {best}, {choice}, {theirs}")
        return False, False
    return choice.cost.used != best, (len({path[0] for path in theirs}), len(theirs)) > best


def optimum(domains: Sequence[Domain], count: int) -> tuple[int, int] | None:
    """(pods, leaf groups), by every set of pods."""
    rooms: dict[str, list[int]] = {}
    for domain in domains:
        rooms.setdefault(domain.path[0], []).append(domain.free)
    for number in range(1, len(rooms) + 1):
        found = [
            leaves
            for pods in combinations(rooms, number)
            if (leaves := _fewest([room for pod in pods for room in rooms[pod]], count)) is not None
        ]
        if found:
            return number, min(found)
    return None


def _fewest(rooms: Sequence[int], count: int) -> int | None:
    for leaves, room in enumerate(sorted(rooms, reverse=True), start=1):
        count -= room
        if count <= 0:
            return leaves
    return None
