"""The real tools on whole fabrics: ibsim, opensm and ibnetdiscover, sound and with every kind of damage."""

from __future__ import annotations

from collections import Counter

import pytest

from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.policy import expand_nodes
from slurm_gpuaas.testbed.instance import Instance
from slurm_gpuaas.testbed.profiles import Cluster, profile
from slurm_gpuaas.testbed.sim.fabric import discover, fabric_of, net_file, start_fabric
from slurm_gpuaas.topology import iblinkinfo
from slurm_gpuaas.topology.ibnetdiscover import parse
from tests.slurm.conftest import mini, minis
from tests.unit.topology.damage import DAMAGES

__all__ = ["mini", "minis"]

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1800)]

CLUSTERS = {cluster.name: cluster for one in ("haein", "national") for cluster in profile(one).clusters}


@pytest.mark.parametrize("cluster", [CLUSTERS["haein"], CLUSTERS["nhn"]], ids=["129 nodes", "957 nodes"])
def test_what_the_real_tools_read_of_damaged_fabrics(mini: Instance, cluster: Cluster) -> None:
    nodes = tuple(map(NodeName, cluster.node_names()))
    start_fabric(mini, cluster=cluster)
    sound = discover(mini)
    read = parse(sound, nodes=nodes)
    assert read.findings == ()
    assert read.leaf_groups == fabric_of(cluster).leaf_groups
    assert iblinkinfo.parse(discover(mini, "iblinkinfo", "-l"), nodes=nodes, source=read.source) == read
    wrong = []
    for damage in DAMAGES:
        if damage.in_text:
            text = damage.apply(sound, nodes)
        else:
            start_fabric(mini, cluster=cluster, net=damage.apply(net_file(cluster), nodes))
            text = discover(mini)
        found = parse(text, nodes=nodes)
        faults = Counter(finding.fault for finding in found.findings)
        touched = {node for one in found.findings for node in (expand_nodes(one.nodes) if one.nodes else ())}
        kept = [group.nodes for group in found.leaf_groups] == [group.nodes for group in read.leaf_groups]
        print(f"{len(nodes)} nodes, {damage.name}: {dict(faults)}", flush=True)
        if (
            faults != damage.finds
            or (damage.touches and touched != {nodes[index] for index in damage.touches})
            or kept != damage.keeps
        ):
            wrong.append((damage.name, faults, [one.says for one in found.findings][:5]))
    assert not wrong
