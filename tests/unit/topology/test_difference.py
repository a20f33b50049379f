"""What changed between two readings of a fabric: groups, pods, switches and domains, not nodes alone."""

from __future__ import annotations

import time

import pytest

from slurm_gpuaas.topology.difference import compare
from slurm_gpuaas.topology.fabric import Fabric, LeafGroup, NvlinkDomain, Switch

GROUPS = ("leaf-01 pod-01 n[1-4] a,b", "leaf-02 pod-01 n[5-8] c,d", "leaf-03 pod-02 n[9-12] e,f")
SPINE = Switch(id="s", name="spine-01", level=1)


def fabric(*groups: str, spines: tuple[Switch, ...] = (), domains: tuple[str, ...] = ()) -> Fabric:
    """Of `LEAF_GROUP POD NODES SWITCHES`, and `NVLINK_DOMAIN NODES`."""
    rows = [group.split() for group in groups]
    return Fabric(
        leaf_groups=tuple(
            LeafGroup(name=name, pod=pod, nodes=nodes, switches=tuple(switches.split(",")))
            for name, pod, nodes, switches in rows
        ),
        spines=spines,
        nvlink_domains=tuple(NvlinkDomain(name=one.split()[0], nodes=one.split()[1]) for one in domains),
    )


BEFORE = fabric(*GROUPS)


@pytest.mark.parametrize(
    ("after", "lines"),
    [
        (BEFORE, []),
        (
            fabric("leaf-01 pod-01 n[1-8] a,b,c,d", GROUPS[2]),
            ["~ leaf groups leaf-01 and leaf-02 are one: leaf-01"],
        ),
        (
            fabric(
                "leaf-01 pod-01 n[1-2] a",
                "leaf-02 pod-01 n[3-4] b",
                "leaf-03 pod-01 n[5-8] c,d",
                "leaf-04 pod-02 n[9-12] e,f",
            ),
            [
                "~ n[3-4]: from leaf-01 to leaf-02",
                "~ leaf group leaf-01 is split: leaf-01 and leaf-02",
                "~ leaf group leaf-02 is called leaf-03",
                "~ leaf group leaf-03 is called leaf-04",
            ],
        ),
        (
            fabric(*GROUPS[:1], "leaf-02 pod-02 n[5-8] c,d", "leaf-03 pod-03 n[9-12] e,f"),
            [
                "~ n[5-8]: from pod-01 to pod-02",
                "~ pod pod-01 is split: pod-01 and pod-02",
                "~ pod pod-02 is called pod-03",
            ],
        ),
        (
            fabric(*GROUPS[:2], "leaf-03 pod-01 n[9-12] e,f"),
            ["~ pods pod-01 and pod-02 are one: pod-01"],
        ),
        (
            fabric(*GROUPS[:2]),
            ["- n[9-12]", "- leaf group leaf-03", "- pod pod-02", "- leaf switch e", "- leaf switch f"],
        ),
        (
            fabric(*GROUPS, "leaf-04 pod-02 n[13-14] g,h"),
            ["+ n[13-14]", "+ leaf group leaf-04", "+ leaf switch g", "+ leaf switch h"],
        ),
        (
            fabric("leaf-01 pod-01 n[1-4] a,x", *GROUPS[1:]),
            ["+ leaf switch x", "- leaf switch b"],
        ),
        (fabric(*GROUPS, spines=(SPINE,)), ["+ spine spine-01 (level 1)"]),
        (
            fabric(*GROUPS, domains=("u.1 n[1-6]",)),
            ["~ n[1-6]: from no NVLink domain to u.1"],
        ),
    ],
    ids=["nothing", "groups joined", "a group split", "a pod split", "pods joined", "a group went", "a group came",
         "a leaf replaced", "a spine came", "a domain came"],
)  # fmt: skip
def test_every_change_is_told(after: Fabric, lines: list[str]) -> None:
    found = compare(BEFORE, after)
    assert list(found.lines()) == lines
    assert bool(found) == bool(lines)
    assert bool(compare(after, BEFORE)) == bool(lines)


def test_nodes_that_change_domains_have_moved() -> None:
    found = compare(
        fabric(*GROUPS, domains=("u.1 n[1-6]", "u.2 n[7-12]")), fabric(*GROUPS, domains=("u.1 n[1-7]", "u.2 n[8-12]"))
    )
    assert list(found.lines()) == ["~ n7: from u.2 to u.1"]


def test_a_group_is_the_same_while_most_of_its_switches_are() -> None:
    renumbered = fabric("leaf-01 pod-01 n[5-8] c,d", "leaf-02 pod-01 n[1-4] a,b,x", GROUPS[2])
    assert not compare(BEFORE, renumbered).moved
    assert [str(one) for one in compare(BEFORE, renumbered).regrouped] == [
        "~ leaf group leaf-01 is called leaf-02",
        "~ leaf group leaf-02 is called leaf-01",
    ]


def test_thousands_of_groups_cost_nothing() -> None:
    many = fabric(*(f"g{n} p n[{4 * n}-{4 * n + 3}] {n}-a,{n}-b" for n in range(600)))
    one = fabric("g0 p n[0-2399] " + ",".join(f"{n}-a,{n}-b" for n in range(600)))
    began = time.process_time()
    assert len(compare(one, many).regrouped) == len(compare(many, one).regrouped) == 1
    assert time.process_time() - began < 3
