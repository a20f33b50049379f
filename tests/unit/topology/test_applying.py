"""What has to be done so that slurmctld plans with another topology: table of plans, and the names that Slurm knows."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm_gpuaas.domain.policy import expand_nodes, fold_nodes
from slurm_gpuaas.topology.applying import Layout, as_known, known_of, of_slurm, plan
from slurm_gpuaas.topology.fabric import Fabric
from slurm_gpuaas.topology.slurm_yaml import Plugin, parse, render
from tests.unit.topology.topology_files import block, tree

Groups = dict[str, str]
EVEN: Groups = {"a": "n[1-4]", "b": "n[5-8]"}
MOVED: Groups = {"a": "n[1-3]", "b": "n[4-8]"}


def text(groups: Groups, *, blocks: Groups | None = None, sizes: str = "[4]") -> str:
    """A tree of leaves under one root, and blocks beside it."""
    leaves = [f'switch: {name}, nodes: "{nodes}"' for name, nodes in groups.items()]
    out = tree(f'switch: r, children: "{",".join(groups)}"', *leaves)
    if blocks is not None:
        rows = [f'block: {name}, nodes: "{nodes}"' for name, nodes in blocks.items()]
        out += block(*rows, sizes=sizes, head="- topology: b\n  cluster_default: false\n")
    return out


TOPOCONF = """\
%YAML 1.1
---
- topology: t
  cluster_default: true
  block: {}
  flat: {}
  ring: {}
  torus3d: {}
  tree:
    switches:
    - switch: r
      children: a,b
      nodes:
    - switch: a
      children:
      nodes: n[1-4]
    - switch: b
      children:
      nodes: n[5-8]
...
"""


@dataclass(frozen=True)
class Case:
    name: str
    wanted: str
    slurm: str
    lines: tuple[str, ...]
    reconfigure: bool = False


CASES = [
    Case("the same", text(EVEN), text(EVEN), ()),
    Case("the same in slurmctld's own words", text(EVEN), TOPOCONF, ()),
    Case("the same, folded otherwise", text({"a": "n1,n2,n[3-4]", "b": "n[5-8]"}), text(EVEN), ()),
    Case("a node in another leaf", text(MOVED), text(EVEN), ("~ n4: from a to b",)),
    Case("nodes changed places", text({"a": "n[1-3,5]", "b": "n[4,6-8]"}), text(EVEN),
         ("~ n4: from a to b", "~ n5: from b to a")),
    Case("two nodes on the same way", text({"a": "n[1-2]", "b": "n[3-8]"}), text(EVEN), ("~ n[3-4]: from a to b",)),
    Case("a node that slurmctld has nowhere", text(EVEN), text({"a": "n[1-3]", "b": "n[5-8]"}),
         ("~ n4: from nowhere to a",)),
    Case("a node that is wanted nowhere", text({"a": "n[1-3]", "b": "n[5-8]"}), text(EVEN),
         ("~ n4: from a to nowhere",), reconfigure=True),
    Case("a leaf more", text({"a": "n[1-4]", "b": "n[5-6]", "c": "n[7-8]"}), text(EVEN),
         ("+ c of topology t", "~ n[7-8]: from b to c"), reconfigure=True),
    Case("a leaf of another name", text({"a": "n[1-4]", "z": "n[5-8]"}), text(EVEN),
         ("- b of topology t", "+ z of topology t", "~ n[5-8]: from b to z"), reconfigure=True),
    Case("leaves in another order", text({"b": "n[5-8]", "a": "n[1-4]"}), text(EVEN),
         ("~ topology t: its kind, order, levels, block sizes or default",), reconfigure=True),
    Case("a node that moved in tree and blocks", text(MOVED, blocks=MOVED), text(EVEN, blocks=EVEN),
         ("~ n4: from a to b",)),
    Case("a node that moved in the tree and stays in its block", text(MOVED, blocks=EVEN), text(EVEN, blocks=EVEN),
         ("~ n4: from a to b:a, t:b",), reconfigure=True),
    Case("blocks of another size", text(EVEN, blocks=EVEN, sizes="[2]"), text(EVEN, blocks=EVEN),
         ("~ topology b: its kind, order, levels, block sizes or default",), reconfigure=True),
    Case("a topology more", text(EVEN, blocks=EVEN), text(EVEN),
         ("+ topology b, a block",), reconfigure=True),
    Case("a name that scontrol would misread", block("block: a, nodes: n1", "block: 'b:x', nodes: n2"),
         block('block: a, nodes: "n[1-2]"', "block: 'b:x'"), ("~ n2: from a to b:x",), reconfigure=True),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_mildest_way_is_planned(case: Case) -> None:
    wanted, slurm = Layout.of(case.wanted), Layout.of(case.slurm)
    found = plan(wanted, file=slurm, slurm=slurm)
    assert tuple(found.lines()) == case.lines
    assert found.reconfigure == case.reconfigure
    assert bool(found) == bool(case.lines)
    back = plan(slurm, file=wanted, slurm=slurm)
    assert back.write == bool(case.lines)
    assert not back.moves, "only the file has to go back"


def fabric(*groups: tuple[str, str, str]) -> Fabric:
    rows = [{"pod": pod, "name": name, "nodes": nodes} for pod, name, nodes in groups]
    return Fabric.model_validate({"leaf_groups": rows})


ALL = expand_nodes("n[1-12]")
KNOWN = fabric(("p1", "a", "n[1-4]"), ("p1", "b", "n[5-8]"), ("p2", "c", "n[9-12]"))


def names(found: Fabric) -> list[tuple[str, str, str]]:
    return [(group.pod, group.name, group.nodes) for group in found.leaf_groups]


def test_one_cable_moved_is_one_node_moved_although_a_fresh_reading_names_all_anew() -> None:
    fresh = fabric(("pod-01", "leaf-01", "n[1,5-8]"), ("pod-01", "leaf-02", "n[2-4]"), ("pod-02", "leaf-03", "n[9-12]"))
    found = as_known(fresh, KNOWN, nodes=ALL)
    assert names(found) == [("p1", "a", "n[2-4]"), ("p1", "b", "n[1,5-8]"), ("p2", "c", "n[9-12]")]
    moves = plan(Layout.of(render(found)), file=None, slurm=Layout.of(render(KNOWN)))
    assert (list(moves.lines()), moves.reconfigure) == (["~ n1: from a to b"], False)


def test_a_node_that_the_fabric_does_not_show_stays_where_it_was() -> None:
    fresh = fabric(
        ("pod-01", "leaf-01", "n[1,3-4]"), ("pod-01", "leaf-02", "n[5-8]"), ("pod-02", "leaf-03", "n[10-12]")
    )
    assert names(as_known(fresh, KNOWN, nodes=ALL)) == names(KNOWN)
    gone = as_known(fresh, KNOWN, nodes=expand_nodes("n[1,3-12]"))
    assert names(gone)[0] == ("p1", "a", "n[1,3-4]"), "unless Slurm has no such node either"


def test_a_new_leaf_group_is_not_named_as_a_pod_that_slurm_knows() -> None:
    fresh = fabric(*[("x", name, nodes) for _, name, nodes in names(KNOWN)], ("x", "p1", "n13"), ("c2", "p2", "n14"))
    found = as_known(fresh, KNOWN, nodes=(*ALL, *expand_nodes("n[13-14]")))
    assert {"p1-2", "p2-2"} <= {name for _, name, _ in names(found)}


def test_a_leaf_group_that_is_off_as_a_whole_stays_where_it_was() -> None:
    fresh = fabric(("pod-01", "leaf-01", "n[1-4]"), ("pod-02", "leaf-02", "n[9-12]"))
    assert names(as_known(fresh, KNOWN, nodes=ALL)) == names(KNOWN)
    one_pod = fabric(("root", "a", "n[1-4]"), ("root", "b", "n[5-8]"), ("root", "c", "n[9-12]"))
    fresh = fabric(("pod-01", "leaf-01", "n[1-4]"), ("pod-01", "leaf-02", "n[9-12]"))
    assert render(as_known(fresh, one_pod, nodes=ALL)) == render(one_pod)
    gone = as_known(fresh, KNOWN, nodes=expand_nodes("n[1-4,9-12]"))
    assert [group.name for group in gone.leaf_groups] == ["a", "c"], "unless Slurm has none of its nodes either"


def test_a_pod_that_is_off_as_a_whole_stays_where_it_was() -> None:
    fresh = fabric(("pod-01", "leaf-01", "n[1-4]"), ("pod-01", "leaf-02", "n[5-8]"))
    assert names(as_known(fresh, KNOWN, nodes=ALL)) == names(KNOWN)


def test_a_lost_node_stays_although_its_leaf_group_was_joined_with_another() -> None:
    fresh = fabric(("pod-01", "leaf-01", "n[1-4,6-8]"), ("pod-02", "leaf-02", "n[9-12]"))
    found = as_known(fresh, KNOWN, nodes=ALL)
    assert names(found)[:2] == [("p1", "a", "n[1-4,6-8]"), ("p1", "b", "n5")]


def with_domains(found: Fabric, **domains: str) -> Fabric:
    rows = [{"name": name.replace("_", "."), "nodes": nodes} for name, nodes in domains.items()]
    return Fabric.model_validate({**found.model_dump(), "nvlink_domains": rows})


RACKS = with_domains(
    fabric(*[("p1", f"leaf-{n}", f"n[{4 * n - 3}-{4 * n}]") for n in (1, 2, 3)], ("p1", "leaf-4", "n[13-16]")),
    u_1="n[1-6]",
    u_2="n[7-12]",
)


@pytest.mark.parametrize("plugin", Plugin)
@pytest.mark.parametrize("gone", ["n17", "n3", "n[1-6]", "n[5-12]"])
def test_nvlink_domains_stay_what_they_are_with_nodes_that_are_off(plugin: Plugin, gone: str) -> None:
    nodes, off = expand_nodes("n[1-16]"), {*expand_nodes(gone)}
    shown = of_slurm(RACKS, [node for node in nodes if node not in off])
    found = render(as_known(shown, known_of(render(RACKS, plugin=plugin)), nodes=nodes), nodes=nodes, plugin=plugin)
    there, was = Layout.of(found), Layout.of(render(RACKS, plugin=plugin))
    assert there.units_of == was.units_of


def test_a_new_leaf_group_gets_a_name_of_its_own_behind_those_that_are_known() -> None:
    fresh = fabric(("p1", "a", "n[13-16]"), ("p1", "x", "n[1-4]"), ("p1", "y", "n[5-8]"), ("p2", "z", "n[9-12]"))
    found = as_known(fresh, KNOWN, nodes=(*ALL, *expand_nodes("n[13-16]")))
    assert names(found) == [*names(KNOWN)[:2], ("p1", "a-2", "n[13-16]"), names(KNOWN)[2]]


def test_nodes_without_a_link_that_were_nowhere_stay_apart() -> None:
    fresh = fabric(*names(KNOWN), ("unattached", "unattached", "n[13-14]"))
    assert names(as_known(fresh, KNOWN, nodes=(*ALL, *expand_nodes("n[13-14]")))) == names(fresh)


@st.composite
def fabrics(draw: st.DrawFn) -> Fabric:
    """Nodes n1 to n12, each in one of up to six leaf groups of three pods or in none."""
    where = draw(st.lists(st.integers(0, 6), min_size=len(ALL), max_size=len(ALL)))
    members = {number: [node for node, at in zip(ALL, where, strict=True) if at == number] for number in range(7)}
    names = draw(st.permutations(["leaf-01", "leaf-02", "leaf-03", "a", "b", "root-2"]))
    rows = [(f"pod-{(n - 1) // 2}", names[n - 1], fold_nodes(members[n])) for n in range(1, 7) if members[n]]
    if members[0] or not rows:
        rows.append(("unattached", "unattached", fold_nodes(members[0])))
    return fabric(*rows)


@given(fabrics(), fabrics())
@settings(max_examples=60, deadline=None)
def test_whatever_is_cabled_every_node_has_one_place_and_the_names_settle(fresh: Fabric, known: Fabric) -> None:
    found = as_known(fresh, known, nodes=ALL)
    assert {*fresh.arrays.nodes} <= {*found.arrays.nodes}
    placed = {node: group.name for group in found.leaf_groups for node in group.node_names}
    for group in fresh.leaf_groups:
        if group.pod != "unattached":
            assert len({placed[node] for node in group.node_names}) == 1, "nodes of one leaf group stay together"
    again = as_known(fresh, found, nodes=ALL)
    assert names(again) == names(found)


@pytest.mark.parametrize("plugin", Plugin)
def test_what_slurm_knows_is_kept_whatever_plans_with_it(plugin: Plugin) -> None:
    one_pod = fabric(("pod-01", "leaf-01", "n[1-4]"), ("pod-01", "leaf-02", "n[5-8]"), ("pod-01", "leaf-03", "n[9-12]"))
    for known in (KNOWN, one_pod):
        slurm = render(known, plugin=plugin)
        again = render(as_known(known, parse(slurm), nodes=ALL), plugin=plugin)
        assert not plan(Layout.of(again), file=Layout.of(slurm), slurm=Layout.of(slurm)), slurm
