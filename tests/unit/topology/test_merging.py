"""A fabric goes to a site that has topologies of its own: what stays, what is replaced, and which is the default."""

from __future__ import annotations

import pytest

from slurm_gpuaas.topology.applying import Layout, plan
from slurm_gpuaas.topology.fabric import Fabric, LeafGroup
from slurm_gpuaas.topology.merging import merged
from slurm_gpuaas.topology.slurm_yaml import Plugin, render

FABRIC = Fabric(
    leaf_groups=tuple(LeafGroup(name=f"leaf-{n}", pod="p", nodes=f"n[{2 * n}-{2 * n + 1}]") for n in (1, 2))
)
TREE = render(FABRIC)
BOTH = render(FABRIC, plugin=Plugin.BOTH)
PLAIN = "- topology: plain\n  cluster_default: {}\n  flat: true\n"
SHOWN = "- topology: plain\n  cluster_default: {}\n  tree: {{}}\n  block: {{}}\n  flat: {{}}\n"
SECOND = """\
- topology: storage
  cluster_default: false
  tree:
    switches:
    - switch: "001"
      nodes: n[2-5]
"""


def kinds(text: str) -> list[tuple[str, str, bool]]:
    return [(one.name, one.kind, one.default) for one in Layout.of(text).outlines]


@pytest.mark.parametrize("plugin", Plugin)
def test_alone_it_is_what_render_writes(plugin: Plugin) -> None:
    text = render(FABRIC, plugin=plugin)
    for slurm in text, SHOWN.format("true"):
        assert merged(text, slurm=slurm, file="") == text


@pytest.mark.parametrize("file", ["", PLAIN.format("false")], ids=["slurmctld's words", "the file's"])
def test_a_flat_topology_of_the_site_stays_where_it_stands(file: str) -> None:
    for slurm in TREE + SHOWN.format("false"), SHOWN.format("false") + TREE:
        found = merged(TREE, slurm=slurm, file=file)
        assert "flat: true" in found
        assert not plan(Layout.of(found), file=None, slurm=Layout.of(slurm)).reconfigure


def test_the_sites_default_stays_the_default() -> None:
    slurm = PLAIN.format("true") + TREE.replace("true", "false")
    assert kinds(merged(TREE, slurm=slurm, file="")) == [("plain", "flat", True), ("fabric", "tree", False)]
    slurm = BOTH.replace("true", "FALSE").replace("false", "true")
    assert kinds(merged(BOTH, slurm=slurm, file=""))[1] == ("blocks", "block", True)


def test_the_sites_tree_keeps_its_name() -> None:
    slurm = TREE.replace("topology: fabric", "topology: default")
    assert Layout.of(merged(TREE, slurm=slurm, file="")) == Layout.of(slurm)


def test_a_second_tree_stays_in_the_files_words() -> None:
    slurm = TREE + SECOND.replace('"', "")
    assert merged(TREE, slurm=slurm, file=TREE + SECOND) == TREE + SECOND


def test_another_plugin_replaces_ours_alone() -> None:
    block = render(FABRIC, plugin=Plugin.BLOCK)
    slurm = BOTH + PLAIN.format("false")
    assert kinds(merged(block, slurm=slurm, file="")) == [("blocks", "block", True), ("plain", "flat", False)]
    assert [name for name, _, _ in kinds(merged(TREE, slurm=slurm, file=""))] == ["fabric", "plain"]
    slurm = TREE + PLAIN.format("false")
    assert kinds(merged(BOTH, slurm=slurm, file="")) == [
        ("fabric", "tree", True), ("plain", "flat", False), ("blocks", "block", False)
    ]  # fmt: skip
