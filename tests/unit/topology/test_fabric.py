"""Leaf groups, pods and levels from cables; the JSON form; arrays and rank order."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.topology.cabling import Cabling
from slurm_gpuaas.topology.fabric import Fabric, FabricArrays, Fault, LeafGroup, NvlinkDomain, natural
from slurm_gpuaas.topology.rank import crossings, rank_order

SCHEMA = Path(__file__).parents[3] / "docs" / "reference" / "fabric.schema.json"


def cabled(*cables: str) -> Fabric:
    """`cabled("n1-a", "a-s")`: a name that begins with n is a node."""
    cabling = Cabling()
    for cable in cables:
        one, other = cable.split("-")
        if one.startswith("n"):
            cabling.connect_host(NodeName(one), other)
        else:
            cabling.connect_switches(one, other)
    return cabling.fabric("test")


@pytest.mark.parametrize(
    ("rule", "cables", "expected"),
    [
        ("leaves that share a node are one group", ["n1-a", "n1-b", "n2-b"], [("n[1-2]", "pod-01")]),
        ("leaves that share none are two", ["n1-a", "n2-b", "a-s", "b-s"], [("n1", "pod-01"), ("n2", "pod-01")]),
        ("a chain of shared nodes holds together", ["n1-a", "n1-b", "n2-b", "n2-c", "n3-c"], [("n[1-3]", "pod-01")]),
        (
            "spines that meet only in a core make pods",
            ["n1-a", "n2-b", "n3-c", "a-s", "b-s", "c-t", "s-core", "t-core"],
            [("n1", "pod-01"), ("n2", "pod-01"), ("n3", "pod-02")],
        ),
        (
            "rails whose spines are apart are one pod through their nodes",
            ["n1-a1", "n1-a2", "n2-b1", "n2-b2", "a1-s1", "b1-s1", "a2-s2", "b2-s2", "s1-core", "s2-core"],
            [("n1", "pod-01"), ("n2", "pod-01")],
        ),
        ("leaves cabled to each other are one pod", ["n1-a", "n2-b", "a-b"], [("n1", "pod-01"), ("n2", "pod-01")]),
        (
            "an empty leaf is no core",
            ["n1-a", "n2-b", "a-s", "b-s", "empty-s"],
            [("n1", "pod-01"), ("n2", "pod-01")],
        ),
        (
            "groups are ordered by their first node",
            ["n10-a", "n9-b", "a-s", "b-s"],
            [("n9", "pod-01"), ("n10", "pod-01")],
        ),
    ],
)
def test_groups(rule: str, cables: list[str], expected: list[tuple[str, str]]) -> None:
    assert [(group.nodes, group.pod) for group in cabled(*cables).leaf_groups] == expected, rule
    assert [(group.nodes, group.pod) for group in cabled(*reversed(cables)).leaf_groups] == expected, rule


def test_levels_count_from_the_leaves() -> None:
    fabric = cabled("n1-a", "n2-b", "a-s", "b-t", "s-core", "t-core")
    assert [(spine.name, spine.level) for spine in fabric.spines] == [("s", 1), ("t", 1), ("core", 2)]


def test_thousands_of_hosts_on_one_leaf_cost_nothing() -> None:
    cables = [f"n{number}-a" for number in range(8_000)] + [f"n{number}-b" for number in range(3_000)]
    began = time.process_time()
    fabric = cabled(*cables)
    assert time.process_time() - began < 30, "looked at every pair of them"
    (finding,) = (one for one in fabric.findings if one.fault is Fault.JOINED_GROUPS)
    assert finding.nodes == "n[0-2999]"


def test_json_goes_there_and_back() -> None:
    fabric = cabled("n1-a", "n2-b", "a-s", "b-s")
    assert Fabric.model_validate_json(fabric.model_dump_json()) == fabric


def test_the_published_schema_is_that_of_the_model() -> None:
    schema = json.dumps(Fabric.model_json_schema(), indent=2) + "\n"
    assert SCHEMA.read_text() == schema, "write it anew: gpuaas topology schema > docs/reference/fabric.schema.json"


@pytest.mark.parametrize(
    ("fault", "groups"),
    [
        ("Node n1 is in leaf groups a and b", [("a", "p", "n1"), ("b", "p", "n[1-2]")]),
        ("Two leaf groups are named a", [("a", "p", "n1"), ("a", "p", "n2")]),
        ("A leaf group and a pod are named a", [("a", "p", "n1"), ("b", "a", "n2")]),
        ("stands apart from its pod", [("a", "p", "n1"), ("b", "q", "n2"), ("c", "p", "n3")]),
    ],
)
def test_an_inconsistent_fabric_is_refused(fault: str, groups: list[tuple[str, str, str]]) -> None:
    with pytest.raises(ValidationError, match=fault):
        Fabric(leaf_groups=tuple(LeafGroup(name=name, pod=pod, nodes=nodes) for name, pod, nodes in groups))


def test_an_nvlink_domain_is_named_as_no_leaf_group() -> None:
    group, domain = {"name": "a", "pod": "p", "nodes": "n[1-2]"}, {"name": "a", "nodes": "n[1-2]"}
    with pytest.raises(ValidationError, match="Two leaf groups or NVLink domains are named a"):
        Fabric.model_validate({"leaf_groups": [group], "nvlink_domains": [domain]})


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("n1,\nn2", "n[1-2]"),
        ("n[1-10]!n5", "n[1-4,6-10]"),
        ("a-b[1-2]c[3-4], d", "a-b[1-2]c[3-4],d"),
        ("n3,n1,n1", "n[1,3]"),
    ],
)
def test_node_lists_are_kept_as_slurm_writes_them(written: str, kept: str) -> None:
    assert LeafGroup(name="a", pod="p", nodes=written).nodes == kept
    assert NvlinkDomain(name="a", nodes=written).nodes == kept


def test_parts_that_no_cable_joins_are_said() -> None:
    found = cabled("n1-a", "n2-b", "n3-c", "a-s", "b-s")
    assert [(one.fault, one.nodes) for one in found.findings if one.fault is Fault.ISLES] == [(Fault.ISLES, "n3")]
    assert not [one for one in cabled("n1-a", "n2-b", "a-s", "b-s").findings if one.fault is Fault.ISLES]


def test_arrays_are_in_fabric_order() -> None:
    arrays = cabled("n9-a", "n10-a", "n1-b", "a-s", "b-s").arrays
    assert arrays.nodes == ("n1", "n9", "n10")
    assert arrays.group.tolist() == [0, 1, 1]
    assert arrays.paths == (("pod-01", "leaf-01"), ("pod-01", "leaf-02"))
    assert np.flatnonzero(arrays.mask([NodeName("n10"), NodeName("unknown")])).tolist() == [2]


def test_rank_order_crosses_between_leaf_groups_as_rarely_as_can_be() -> None:
    left, right = ("n1", "n3", "n5"), ("n2", "n4")
    arrays = FabricArrays.of([("p", "l", [NodeName(n) for n in left]), ("p", "r", [NodeName(n) for n in right])])
    by_name = [NodeName(f"n{i}") for i in range(1, 6)]
    assert rank_order(arrays, by_name) == (*left, *right)
    assert crossings(arrays, by_name) == 4
    assert crossings(arrays, rank_order(arrays, by_name)) == 2
    assert rank_order(arrays, [NodeName("x"), NodeName("n2")]) == ("n2", "x")


def test_natural_order() -> None:
    assert sorted(["b-10", "b-9", "a", "b-09"], key=natural) == ["a", "b-09", "b-9", "b-10"]
