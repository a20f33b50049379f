"""Damaged cabling and damaged text: what is still a fabric, and what a check says of it."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.policy import expand_nodes
from slurm_gpuaas.testbed.profiles import profile
from slurm_gpuaas.testbed.sim.fabric import net_file
from slurm_gpuaas.topology.fabric import Fabric
from slurm_gpuaas.topology.ibnetdiscover import parse
from tests.unit.topology.damage import DAMAGES, Damage

HAEIN = profile("haein").clusters[0]
TEXTS = {
    "mini": (Path(__file__).parent / "data" / "mini.ibnetdiscover").read_text(),
    "haein": net_file(HAEIN),
}
"""8 nodes as the real tool printed them, 129 as the simulator is given them, which is the same form. What the real
tools print of damaged fabrics of 129 and 957 nodes is read in tests/soak/test_fabric.py."""
NODES = {
    "mini": expand_nodes("b200-[01-08]"),
    "haein": tuple(map(NodeName, HAEIN.node_names())),
}


def shape(fabric: Fabric) -> list[str]:
    return [group.nodes for group in fabric.leaf_groups]


@cache
def faultless(which: str) -> list[str]:
    return shape(parse(TEXTS[which], nodes=NODES[which]))


@pytest.mark.parametrize("which", list(TEXTS))
@pytest.mark.parametrize("damage", DAMAGES, ids=[one.name for one in DAMAGES])
def test_damage_is_found_and_the_rest_stays(damage: Damage, which: str) -> None:
    nodes = NODES[which]
    fabric = parse(damage.apply(TEXTS[which], nodes), nodes=nodes)
    assert Counter(finding.fault for finding in fabric.findings) == damage.finds
    touched = {node for finding in fabric.findings for node in (expand_nodes(finding.nodes) if finding.nodes else ())}
    if damage.touches:
        assert touched == {nodes[index] for index in damage.touches}
    if damage.keeps:
        assert shape(fabric) == faultless(which)
    assert {node for group in fabric.leaf_groups for node in group.node_names} == set(nodes)


@pytest.mark.parametrize("which", list(TEXTS))
def test_a_faultless_fabric_has_no_finding(which: str) -> None:
    assert parse(TEXTS[which], nodes=NODES[which]).findings == ()


def test_there_are_twenty_kinds() -> None:
    assert len({damage.name for damage in DAMAGES}) >= 20
