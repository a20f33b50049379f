"""Placement under topology/block, which refuses what would fit unless it is told segments: a real slurmctld takes our
sets, each on the fewest blocks."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.policy import fold_nodes
from slurm_gpuaas.testbed.instance import Instance
from slurm_gpuaas.topology.fabric import Fabric, LeafGroup, NvlinkDomain
from slurm_gpuaas.topology.placer import FabricPlacer
from slurm_gpuaas.topology.slurm_yaml import Plugin, render
from tests.slurm.oracle import Oracle, oracle

BLOCKS, SIZE = 8, 18
"""Racks of NVL72."""
NODES = tuple(NodeName(f"n{number:03d}") for number in range(1, BLOCKS * SIZE + 1))
FABRIC = Fabric(
    leaf_groups=tuple(
        LeafGroup(name=f"rack-{block + 1}", pod="pod-01", nodes=fold_nodes(NODES[block * SIZE : (block + 1) * SIZE]))
        for block in range(BLOCKS)
    ),
    nvlink_domains=tuple(
        NvlinkDomain(
            name=f"9c6f5af3-53bf-49b5-a436-b66766c413c3.{4026 + block}",
            nodes=fold_nodes(NODES[block * SIZE : (block + 1) * SIZE]),
        )
        for block in range(BLOCKS)
    ),
)
REQUESTS = 120


@pytest.fixture(scope="module")
def slurm(mini: Instance) -> Iterator[Oracle]:
    with oracle(mini, fold_nodes(NODES), render(FABRIC, plugin=Plugin.BLOCK)) as asked:
        yield asked


def test_every_feasible_request_gets_its_set_on_the_fewest_blocks(slurm: Oracle) -> None:
    chance = random.Random(18)
    placer = FabricPlacer(FABRIC.arrays)
    refused_by_slurm_alone = 0
    for _ in range(REQUESTS):
        busy = set(chance.sample(NODES, chance.randint(0, 70)))
        free = [node for node in NODES if node not in busy]
        count = chance.randint(2, len(free))
        slurm.set_busy(busy)
        placement = placer.place(count, free=free, among=NODES)
        assert placement is not None
        rooms = sorted((sum(node in group.node_names for node in free) for group in FABRIC.leaf_groups), reverse=True)
        fewest = next(blocks for blocks in range(1, BLOCKS + 1) if sum(rooms[:blocks]) >= count)
        assert placement.leaf_groups == fewest
        given = slurm.ask(f"--nodes={count}", f"--nodelist={fold_nodes(placement.nodes)}", "--segment=1")
        assert given == placement.nodes, f"{count} of {len(free)} free nodes"
        refused_by_slurm_alone += slurm.ask(f"--nodes={count}") is None
    assert refused_by_slurm_alone > 0, "else there would be nothing to win"
