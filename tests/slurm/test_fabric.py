"""The fabric on the testbed: ibsim, opensm, ibnetdiscover and iblinkinfo, and topology.yaml in slurmctld, all real."""

from __future__ import annotations

import re

import pytest

from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.policy import expand_nodes
from slurm_gpuaas.testbed.instance import Instance
from slurm_gpuaas.testbed.profiles import profile
from slurm_gpuaas.testbed.sim.fabric import discover, fabric_of, start_fabric, topology_for
from slurm_gpuaas.topology import iblinkinfo, ibnetdiscover, slurm_yaml

pytestmark = pytest.mark.slurm

SWITCH = re.compile(r"SwitchName=(\S+) Level=(\d+) .*?Nodes=(\S+)(?: Switches=(\S+))?")


def test_the_real_tools_read_the_fabric_that_the_profile_describes(mini: Instance) -> None:
    start_fabric(mini)
    nodes = tuple(NodeName(name) for name in mini.cluster.node_names())
    text = discover(mini)
    assert text.count("\nCa\t") == 64
    assert "4xNDR" in text
    read = ibnetdiscover.parse(text, nodes=nodes)
    described = fabric_of(mini.cluster)
    assert read.leaf_groups == described.leaf_groups
    assert read.spines == described.spines
    assert read.findings == ()
    assert [group.nodes for group in read.leaf_groups] == ["b200-[01-04]", "b200-[05-08]"]
    assert {len(group.switches) for group in read.leaf_groups} == {8}
    for tool in (["iblinkinfo"], ["iblinkinfo", "-l"]):
        assert iblinkinfo.parse(discover(mini, *tool), nodes=nodes, source=read.source) == read


def test_starting_the_fabric_again_changes_nothing(mini: Instance) -> None:
    start_fabric(mini)
    start_fabric(mini)
    assert discover(mini).count("\nSwitch\t") == 20


def shown(mini: Instance) -> dict[str, tuple[str, str]]:
    """Switch to (nodes, child switches) as slurmctld shows it."""
    text = mini.exec(["scontrol", "show", "topology"]).stdout
    return {found[1]: (found[3], found[4] or "") for found in map(SWITCH.match, text.splitlines()) if found}


def test_slurmctld_runs_on_the_rendered_topology(mini: Instance) -> None:
    assert mini.path("/etc/slurm/topology.yaml").read_text() == topology_for(mini.cluster)
    assert shown(mini) == {
        "root": ("b200-[01-08]", "leaf-[01-02]"),
        "leaf-01": ("b200-[01-04]", ""),
        "leaf-02": ("b200-[05-08]", ""),
    }


THREE_LEVELS = """\
- topology: fabric
  cluster_default: true
  tree:
    switches:
      - {switch: core, children: "pod-[1-2]"}
      - {switch: pod-1, children: "a,b"}
      - {switch: pod-2, children: c}
      - {switch: a, nodes: "b200-[01,05]"}
      - {switch: b, nodes: "b200-[02,06]"}
      - {switch: c, nodes: "b200-03"}
"""


def test_slurmctld_takes_pods_and_nodes_without_a_place(mini: Instance) -> None:
    before = mini.path("/etc/slurm/topology.yaml").read_text()
    nodes = expand_nodes("b200-[01-08]")
    text = slurm_yaml.render(slurm_yaml.parse(THREE_LEVELS), nodes=nodes)
    try:
        mini.write("/etc/slurm/gpuaas/topology.yaml", text, owner="gpuaas")
        mini.exec(["scontrol", "reconfigure"])
        # The old state stays until slurmctld has read the file.
        mini.wait_for("the new topology", lambda: "pod-1" in shown(mini))
        assert shown(mini) == {
            "root": ("b200-[01-03,05-06]", "pod-[1-2]"),
            "pod-1": ("b200-[01-02,05-06]", "a,b"),
            "pod-2": ("b200-03", "c"),
            "a": ("b200-[01,05]", ""),
            "b": ("b200-[02,06]", ""),
            "c": ("b200-03", ""),
            "unattached": ("b200-[04,07-08]", ""),
        }
    finally:
        mini.write("/etc/slurm/gpuaas/topology.yaml", before, owner="gpuaas")
        mini.exec(["scontrol", "reconfigure"])
        mini.wait_for("the old topology", lambda: "leaf-01" in shown(mini))


@pytest.mark.parametrize(
    ("name", "pods", "leaf_groups", "spines", "cores"),
    [("haein", 1, 5, 32, 0), ("naver", 3, 12, 96, 64), ("kakao", 3, 10, 96, 64), ("nhn", 8, 30, 256, 128)],
)
def test_every_profile_has_a_fabric_and_a_place_for_every_node(
    name: str, pods: int, leaf_groups: int, spines: int, cores: int
) -> None:
    clusters = {cluster.name: cluster for one in ("haein", "national") for cluster in profile(one).clusters}
    fabric = fabric_of(clusters[name])
    assert (len(fabric.pods), len(fabric.leaf_groups)) == (pods, leaf_groups)
    assert [sum(spine.level == level for spine in fabric.spines) for level in (1, 2)] == [spines, cores]
    assert list(fabric.arrays.nodes) == list(clusters[name].node_names())
    assert fabric.findings == ()
