"""Compute adapters apart from those for storage and management, which would make one leaf group of all."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from slurm_gpuaas.cli.topology import group
from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.testbed.sim.damage import renamed, trained
from slurm_gpuaas.topology import iblinkinfo, ibnetdiscover
from slurm_gpuaas.topology.discovery import Discovery
from slurm_gpuaas.topology.fabric import Fabric, Fault
from slurm_gpuaas.topology.ibstat import Port
from tests.unit.topology.test_iblinkinfo import NET, NODES, groups, retold

RAILS = frozenset(f"mlx5_{rail}" for rail in range(8))
SPINES = tuple(f"b83fd203020000{number}0" for number in range(4))


def with_storage(net: str, *, nodes: int = 8) -> str:
    """With a storage leaf on the same spines: the nodes' mlx5_8, at half the rate, and two storage servers."""
    lines = [net, 'Switch\t64 "S-00000000000000aa"\t# "storage-leaf" enhanced port 0 lid 200 lmc 0']
    hosts = [*(f"{node} mlx5_8" for node in NODES[:nodes]), "stor-01 mlx5_0", "stor-02 mlx5_0"]
    for port, host in enumerate(hosts, start=1):
        lines.append(
            f'[{port}]\t"H-{0xBB00 + port * 16:016x}"[1]({0xBB01 + port * 16:016x}) \t\t# "{host}" lid 9 4xHDR'
        )
    lines += [f'[{60 + n}]\t"S-{spine}"[50]\t\t# "spine-01-0{n + 1}" lid 2 4xHDR' for n, spine in enumerate(SPINES)]
    for port, host in enumerate(hosts, start=1):
        lines += ["", f'Ca\t1 "H-{0xBB00 + port * 16:016x}"\t# "{host}"']
        lines.append(
            f'[1]({0xBB01 + port * 16:016x}) \t"S-00000000000000aa"[{port}]\t# lid 9 lmc 0 "storage-leaf" lid 200 4xHDR'
        )
    return "\n".join(lines) + "\n"


def with_aggregation(net: str) -> str:
    """With SHARP's end in each leaf of the first group."""
    records = []
    for number in range(8):
        guid, leaf = f"{0xCC00 + number * 16:016x}", f"b83fd203010000{number}0"
        records.append(
            f'Ca\t1 "H-{guid}"\t# "Mellanox Technologies Aggregation Node"\n'
            f'[1]({guid}) \t"S-{leaf}"[65]\t\t# lid 90 lmc 0 "leaf-01-{number + 1}" lid 1 4xNDR'
        )
    return "\n\n".join([net.rstrip("\n"), *records]) + "\n"


def discovered(net: str) -> list[Discovery]:
    """As each tool tells it."""
    return [ibnetdiscover.read(net), *(iblinkinfo.read(retold(net, lines=lines)) for lines in (False, True))]


def test_with_rails_storage_is_as_if_it_were_not_there() -> None:
    for found in discovered(with_storage(NET)):
        assert found.fabric("", nodes=NODES, rails=RAILS) == ibnetdiscover.parse(NET, nodes=NODES, source="")


def test_without_rails_a_storage_network_is_said_to_be_a_likely_cause() -> None:
    for found in discovered(with_storage(NET)):
        fabric = found.fabric("", nodes=NODES)
        assert groups(fabric) == [("b200-[01-08]", 17)]
        (finding,) = (one for one in fabric.findings if one.fault is Fault.JOINED_GROUPS)
        assert finding.says == (
            "17 leaves are one group, where a node has 9: half of its nodes or more are cabled to leaves of two. Is a "
            "storage network among them? Name the compute adapters with --rails."
        )


def test_a_slower_storage_network_has_no_slow_links_but_that_of_its_own_that_lags() -> None:
    for found in discovered(trained(with_storage(NET), "b200-03 mlx5_8", "storage-leaf", "1xHDR")):
        slow = [one for one in found.fabric("", nodes=NODES).findings if one.fault is Fault.SLOW_LINK and one.nodes]
        assert [one.says for one in slow if " mlx5_" in one.says] == [
            "b200-03 mlx5_8 to storage-leaf runs at 1xHDR (53.125 Gb/s), others at 4xHDR."
        ]


def test_an_adapter_alone_of_its_name_is_judged_by_all() -> None:
    text = trained(renamed(NET, "b200-03 mlx5_0", "b200-03 ib0"), "b200-03 ib0", "leaf-01-1", "4xHDR")
    (slow,) = (one for one in ibnetdiscover.parse(text).findings if one.fault is Fault.SLOW_LINK)
    assert slow.says == "b200-03 ib0 to leaf-01-1 runs at 4xHDR (212.5 Gb/s), others at 4xNDR."


def test_the_leaf_of_hosts_that_are_not_the_clusters_is_no_core() -> None:
    fabric = ibnetdiscover.parse(NET, nodes=NODES[:3])
    assert {spine.level for spine in fabric.spines} == {1}
    assert fabric.findings == ()


def test_a_host_on_a_spine_keeps_it_a_spine() -> None:
    manager = '\n\nCa\t1 "H-00000000000000dd"\t# "ufm-01 mlx5_0"\n[1](de)\t"S-b83fd20302000000"[64]\n'
    assert ibnetdiscover.parse(NET + manager, nodes=NODES, source="") == ibnetdiscover.parse(
        NET, nodes=NODES, source=""
    )


def test_sharps_end_in_a_switch_is_no_adapter() -> None:
    for found in discovered(with_aggregation(NET)):
        assert found.fabric("") == ibnetdiscover.parse(NET, source="")


def test_each_leafs_rail_is_recorded() -> None:
    for leaves in ibnetdiscover.parse(NET).leaf_groups:
        assert leaves.rails == tuple(f"mlx5_{rail}" for rail in range(8))


def test_a_rail_that_no_node_has_is_a_finding_and_none_at_all_an_error() -> None:
    found = ibnetdiscover.read(NET)
    fabric = found.fabric("", rails=RAILS | {"mlx5_8"})
    assert [one.says for one in fabric.findings] == ["No node has an adapter mlx5_8."]
    with pytest.raises(InvalidInput, match="no node has an adapter ib0 or ib1"):
        found.fabric("", rails={"ib1", "ib0"})


def test_many_findings_of_one_fault_hide_none_of_another_and_their_nodes_are_named() -> None:
    text = NET + "".join(f'\n\nCa\t1 "H-{0xEE00 + n:016x}"\t# "MT4129"\n' for n in range(60))
    fabric = ibnetdiscover.read(text).fabric("", rails=RAILS | {"mlx5_33"})
    assert "No node has an adapter mlx5_33." in [one.says for one in fabric.findings]
    unnamed = [one for one in fabric.findings if one.fault is Fault.NO_HOST]
    assert (len(unnamed), unnamed[-1].says) == (51, "10 more findings of no-host like those before.")
    assert unnamed[-1].devices[0] == f"{0xEE00 + 50:016x}"

    names = [f"n{number}" for number in range(1, 61)]
    reports = {
        NodeName(name): [Port(adapter="a", number=1, node_guid=f"{n:016x}", guid="")] for n, name in enumerate(names)
    }
    text = NET + "".join(f'\n\nCa\t1 "H-{n:016x}"\t# "old a"\n' for n in range(60))
    wrong = [
        one
        for one in ibnetdiscover.read(text)
        .fabric("", nodes=[*NODES, *reports, NodeName("old")], reports=reports)
        .findings
        if one.fault is Fault.TWO_HOSTS
    ]
    assert (len(wrong), wrong[-1].nodes) == (51, "n[51-60]")


def test_the_command(tmp_path: Path) -> None:
    net, json = tmp_path / "net.txt", tmp_path / "fabric.json"
    net.write_text(with_storage(NET))
    argv = ["import", "ibnetdiscover", str(net), "--nodes", "b200-[01-08]", "--rails", ",".join(RAILS), "-o", str(json)]
    assert CliRunner().invoke(group, argv, catch_exceptions=False).output == ""
    assert groups(Fabric.model_validate_json(json.read_text())) == [("b200-[01-04]", 8), ("b200-[05-08]", 8)]
    assert "mlx5_[0-7]" in CliRunner().invoke(group, ["show", str(json)]).output
