"""A week of jobs at load 0.9 on 957 nodes, placed by us and by a real slurmctld's topology/tree.

Both sides see the same jobs in one simulator (`packing`); Slurm's side is asked with `sbatch --test-only` about the
state of the simulated cluster at each start. Our side is the placer and the gate's rule of waiting: each user lets his
job wait for better nodes as long as the gate does, and once more nobody does (`no_wait`). The gate places so what fits
when it comes, and with PrologSlurmctld what may wait; other jobs from the queue are Slurm's in reality.

One week is noisy: some forty leaf groups are broken in it. So the ratios are told of other weeks, too (`weeks`), where
Slurm's side is an emulation of topology/tree (`tests/unit/topology/slurm_tree.py`; for the week of the real one it says
as many broken, and 4 % more excess).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator
from datetime import timedelta

from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.placement import Placement, Surroundings
from slurm_gpuaas.domain.policy import fold_nodes
from slurm_gpuaas.jobs.gate import GateSettings
from slurm_gpuaas.jobs.gate_rules import is_better, longest_wait
from slurm_gpuaas.topology.fabric import Fabric, FabricArrays, LeafGroup
from slurm_gpuaas.topology.placement import Domain, Path
from slurm_gpuaas.topology.placer import FabricPlacer
from slurm_gpuaas.topology.slurm_yaml import render
from tests.bench import packing
from tests.bench.group_placement import fabric
from tests.bench.model import BenchContext, BenchRow
from tests.bench.packing import Place, Question
from tests.slurm.oracle import Oracle, oracle
from tests.unit.topology import slurm_tree

NODES, LOAD, DAYS, WARM_DAYS = 957, 0.9, 7.0, 0.5
LONGEST = GateSettings().longest_wait
NEVER = timedelta(0)
OTHER_WEEKS = range(4)


def run(context: BenchContext) -> list[BenchRow]:
    known = fabric(NODES)
    jobs = packing.arrivals(NODES, load=LOAD, days=DAYS, chance=random.Random(9))

    def outcome(side: packing.Side, told: Callable[[int], object] = lambda started: None) -> packing.Outcome:
        return packing.Cluster(known, side, warm=WARM_DAYS * packing.DAY).run(jobs, told)

    with context.step(f"{len(jobs)} jobs placed by us"):
        waiting, at_once = outcome(our_side(known, LONGEST)), outcome(our_side(known, NEVER))
    instance = context.testbed("mini", daemon=False)
    with (
        context.step(f"{len(jobs)} jobs placed by slurmctld") as note,
        oracle(instance, fold_nodes(known.nodes), render(_document(known))) as slurm,
    ):
        theirs = outcome(slurm_side(known, slurm), lambda started: note(f"{started} started"))
    with context.step(f"{len(OTHER_WEEKS)} other weeks"):
        weeks = _other_weeks(known)
    load = waiting.busy / (NODES * (DAYS - WARM_DAYS) * packing.DAY)
    return [
        *_rows(waiting, theirs, ""),
        *_rows(at_once, theirs, "_no_wait"),
        *_rows(*weeks, "_weeks"),
        BenchRow.of_figure("packing_load", [load], unit="of all nodes"),
    ]


def _other_weeks(known: FabricArrays) -> tuple[packing.Outcome, packing.Outcome]:
    """Ours and the emulation's, summed."""
    sums = packing.Outcome(), packing.Outcome()
    for week in OTHER_WEEKS:
        jobs = packing.arrivals(NODES, load=LOAD, days=DAYS, chance=random.Random(week))
        for total, side in zip(sums, (our_side(known, LONGEST), emulated_side(known)), strict=True):
            total.add(packing.Cluster(known, side, warm=WARM_DAYS * packing.DAY).run(jobs))
    return sums


def _rows(ours: packing.Outcome, theirs: packing.Outcome, suffix: str) -> Iterator[BenchRow]:
    starts = len(ours.waits)
    yield _row(f"broken_leaves_ratio{suffix}", ours.broken, theirs.broken, "leaf groups", starts)
    yield _row(f"excess_leaves_ratio{suffix}", ours.excess, theirs.excess, "leaf groups", starts)
    yield _row(f"mean_wait_ratio{suffix}", ours.mean_wait, theirs.mean_wait, "s", starts)


def _row(name: str, ours: float, theirs: float, unit: str, runs: int) -> BenchRow:
    """`ratio` is ours by theirs, as the name says: less is better."""
    return BenchRow(name=name, value=ours, unit=unit, baseline=theirs, ratio=ours / theirs, runs=runs)


def our_side(known: FabricArrays, allowed: timedelta) -> packing.Side:
    placer = FabricPlacer(known)

    def place(question: Question) -> Place:
        job, around = question.job, Surroundings(mix=question.mix)

        def on(nodes: Collection[NodeName]) -> Placement:
            placement = placer.place(job.nodes, free=nodes, among=known.nodes, around=around)
            if placement is None:
                raise AssertionError(f"{job.nodes} of {len(nodes)} free nodes cannot be placed.")
            return placement

        now = on(question.free)
        most = longest_wait(allowed, timedelta(seconds=job.limit), LONGEST).total_seconds()
        wait = most if question.waits_s is None else min(most, question.waits_s)
        if job.nodes < 2 or not question.may_wait or wait <= 0:
            return Place(now.nodes)
        soon = on([*question.free, *(node for node, seconds in question.ends.items() if seconds <= wait)])
        return Place(now.nodes, wait if is_better(soon, now) else 0.0)

    return place


def slurm_side(known: FabricArrays, slurm: Oracle) -> packing.Side:
    everything = frozenset(known.nodes)

    def place(question: Question) -> Place:
        slurm.set_busy(everything.difference(question.free))
        return Place(slurm.ask(f"--nodes={question.job.nodes}") or ())

    return place


def emulated_side(known: FabricArrays) -> packing.Side:
    """By the rules of topology/tree, and the first free node for jobs of one, as 26.05 does."""
    number: dict[Path, int] = {path: group for group, path in enumerate(known.paths)}

    def place(question: Question) -> Place:
        if question.job.nodes == 1:
            return Place((min(question.free),))
        free: dict[int, list[NodeName]] = {}
        for node in sorted(question.free):
            free.setdefault(int(known.group[known.index[node]]), []).append(node)
        domains = [Domain(known.paths[group], len(nodes)) for group, nodes in free.items()]
        takes = slurm_tree.takes(domains, question.job.nodes) or {}
        return Place(tuple(node for path, places in takes.items() for node in free[number[path]][:places]))

    return place


def _document(known: FabricArrays) -> Fabric:
    members: dict[int, list[NodeName]] = {}
    for node, group in zip(known.nodes, known.group.tolist(), strict=True):
        members.setdefault(group, []).append(node)
    return Fabric(
        leaf_groups=tuple(
            LeafGroup(name=name, pod=pod, nodes=fold_nodes(members[group]))
            for group, (pod, name) in enumerate(known.paths)
        )
    )
