"""A week of jobs at load 0.9 on 957 nodes, placed by us and by a real slurmctld's topology/tree.

Both sides see the same jobs in one simulator (`packing`); Slurm's side is asked with `sbatch --test-only` about the
state of the simulated cluster at each start. Slurm says where only: when is the simulator's, so that both wait alike.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping

from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.placement import Surroundings
from slurm_gpuaas.domain.policy import fold_nodes
from slurm_gpuaas.topology.fabric import Fabric, FabricArrays, LeafGroup
from slurm_gpuaas.topology.placer import FabricPlacer
from slurm_gpuaas.topology.slurm_yaml import render
from tests.bench import packing
from tests.bench.group_placement import fabric
from tests.bench.model import BenchContext, BenchRow
from tests.bench.packing import Arrival, Place
from tests.slurm.oracle import Oracle, oracle

NODES, LOAD, DAYS, WARM_DAYS = 957, 0.9, 7.0, 0.5


def run(context: BenchContext) -> list[BenchRow]:
    known = fabric(NODES)
    jobs = packing.arrivals(NODES, load=LOAD, days=DAYS, chance=random.Random(9))
    with context.step(f"{len(jobs)} jobs placed by us"):
        ours = packing.Cluster(known, our_side(known), warm=WARM_DAYS * packing.DAY).run(jobs)
    instance = context.testbed("mini", daemon=False)
    with (
        context.step(f"{len(jobs)} jobs placed by slurmctld") as note,
        oracle(instance, fold_nodes(known.nodes), render(_document(known))) as slurm,
    ):
        cluster = packing.Cluster(known, slurm_side(known, slurm), warm=WARM_DAYS * packing.DAY)
        theirs = cluster.run(jobs, told=lambda started: note(f"{started} started"))
    load = ours.busy / (NODES * (DAYS - WARM_DAYS) * packing.DAY)
    return [
        _row("broken_leaves_ratio", ours.broken, theirs.broken, "leaf groups", len(ours.waits)),
        _row("excess_leaves_ratio", ours.excess, theirs.excess, "leaf groups", len(ours.waits)),
        _row("mean_wait_ratio", ours.mean_wait, theirs.mean_wait, "s", len(ours.waits)),
        BenchRow.of_figure("packing_load", [load], unit="of all nodes"),
    ]


def _row(name: str, ours: float, theirs: float, unit: str, runs: int) -> BenchRow:
    """`ratio` is ours by theirs, as the name says: less is better."""
    return BenchRow(name=name, value=ours, unit=unit, baseline=theirs, ratio=ours / theirs, runs=runs)


def our_side(known: FabricArrays) -> packing.Side:
    placer = FabricPlacer(known)

    def place(job: Arrival, free: Collection[NodeName], mix: Mapping[int, int]) -> Place:
        placement = placer.place(job.nodes, free=free, among=known.nodes, around=Surroundings(mix=mix))
        return Place(placement.nodes if placement else ())

    return place


def slurm_side(known: FabricArrays, slurm: Oracle) -> packing.Side:
    everything = frozenset(known.nodes)

    def place(job: Arrival, free: Collection[NodeName], mix: Mapping[int, int]) -> Place:
        slurm.set_busy(everything.difference(free))
        return Place(slurm.ask(f"--nodes={job.nodes}") or ())

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
