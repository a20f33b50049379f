"""The reader of ibstat, and adapters that are known by GUID. The text has the form of rdma-core's ibstat.c."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from slurm_gpuaas.cli.topology import group
from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.policy import expand_nodes
from slurm_gpuaas.testbed.sim.damage import gone, renamed, swapped, trained
from slurm_gpuaas.topology import iblinkinfo, ibnetdiscover
from slurm_gpuaas.topology.fabric import Fabric, Fault
from slurm_gpuaas.topology.ibstat import Port, Reports, parse
from tests.unit.topology.test_iblinkinfo import LINES, NET, NODES, groups, retold

MAKERS = "MT4129 ConnectX7   Mellanox Technologies"


def ca(name: str, guid: int, *, state: str = "Active", physical: str = "LinkUp", rate: str = "400",
       layer: str = "InfiniBand") -> str:  # fmt: skip
    return (
        f"CA '{name}'\n\tCA type: MT4129\n\tNumber of ports: 1\n\tFirmware version: 28.42.1000\n\tHardware version: 0\n"
        f"\tNode GUID: 0x{guid:016x}\n\tSystem image GUID: 0x{guid:016x}\n\tPort 1:\n\t\tState: {state}\n"
        f"\t\tPhysical state: {physical}\n\t\tRate: {rate}\n\t\tBase lid: 3\n\t\tLMC: 0\n\t\tSM lid: 1\n"
        f"\t\tCapability mask: 0xa751e848\n\t\tPort GUID: 0x{guid + 1:016x}\n\t\tLink layer: {layer}\n"
    )


def text_of(node: int, **odd: str) -> str:
    """What ibstat prints on the node of the recorded fabric; `odd` is of its mlx5_3."""
    return "".join(
        ca(f"mlx5_{rail}", 0xB83F_D203_0000_0000 | (node * 8 + rail) << 4, **(odd if rail == 3 else {}))
        for rail in range(8)
    )


def reports(**odd: str) -> dict[NodeName, tuple[Port, ...]]:
    """Of all nodes; `odd` is of the second node's mlx5_3."""
    return {node: parse(text_of(number, **(odd if number == 1 else {}))) for number, node in enumerate(NODES)}


def said(fabric: Fabric) -> list[tuple[Fault, str]]:
    return [(finding.fault, finding.says) for finding in fabric.findings]


def both(net: str, told: Reports, *, nodes: tuple[NodeName, ...] = NODES) -> Fabric:
    """The fabric of this, which is the same whichever tool told it."""
    fabric = ibnetdiscover.read(net).fabric("", nodes=nodes, reports=told)
    for lines in (False, True):
        other = iblinkinfo.read(retold(net, lines=lines)).fabric("", nodes=nodes, reports=told)
        assert other.leaf_groups == fabric.leaf_groups
        assert [(one.fault, one.nodes) for one in other.findings] == [(one.fault, one.nodes) for one in fabric.findings]
    return fabric


class TestText:
    def test_ports_with_their_guids_states_and_rates(self) -> None:
        (port,) = parse(ca("mlx5_4", 0xB83F_D203_0000_0040, state="Down", physical="Polling", rate="10"))
        assert port == Port(
            adapter="mlx5_4",
            number=1,
            node_guid="b83fd20300000040",
            guid="b83fd20300000041",
            state="Down",
            physical_state="Polling",
            gbps=10.0,
        )

    def test_ethernet_is_not_of_the_fabric(self) -> None:
        assert [port.adapter for port in parse(ca("mlx5_0", 16, layer="Ethernet") + ca("mlx5_1", 32))] == ["mlx5_1"]

    @pytest.mark.parametrize(("rate", "gbps"), [("56", 56), ("40 (FDR10)", 40), ("2.5", 2.5), ("-1", None)])
    def test_rates(self, rate: str, gbps: float | None) -> None:
        assert parse(ca("mlx5_0", 16, rate=rate))[0].gbps == gbps

    def test_switches_and_ethernet_devices_are_no_adapters(self) -> None:
        switch = ca("ibsim0", 16, layer="IB").replace("CA '", "Switch '")
        assert [port.adapter for port in parse(ca("mlx5_1", 32) + switch)] == ["mlx5_1"]

    def test_an_adapter_may_have_two_ports(self) -> None:
        one = ca("mlx5_0", 16)
        second = one[one.index("\tPort 1") :].replace("Port 1:", "Port 2:").replace("0011", "0012")
        assert [(port.number, port.guid[-2:]) for port in parse(one + second)] == [(1, "11"), (2, "12")]

    @given(st.text())
    def test_any_text_is_read(self, text: str) -> None:
        assert parse(text) == ()

    def test_cut_or_shuffled_text_is_read(self) -> None:
        whole, draw = text_of(0), random.Random(7)
        for _ in range(50):
            parse(whole[draw.randrange(len(whole)) : draw.randrange(len(whole))])
            lines = whole.split("\n")
            draw.shuffle(lines)
            parse("\n".join(lines))

    def test_long_lines_cost_nothing(self) -> None:
        began = time.process_time()
        for line in ("CA '" + "x" * 100_000, "Rate: " + "9" * 100_000, "Port GUID: 0x" + "f" * 100_000):
            parse("\n".join([line] * 50))
        assert time.process_time() - began < 1


class TestWhose:
    def test_nothing_is_found_where_nothing_is_wrong(self) -> None:
        assert both(NET, reports()) == ibnetdiscover.parse(NET, nodes=NODES, source="")

    def test_an_adapter_under_its_makers_name_is_its_nodes(self) -> None:
        text = NET
        for rail in range(8):
            text = renamed(text, f"b200-02 mlx5_{rail}", MAKERS)
        assert [one.fault for one in ibnetdiscover.parse(text, nodes=NODES).findings] == [Fault.NO_LINK]
        assert both(text, reports()) == ibnetdiscover.parse(NET, nodes=NODES, source="")

    def test_without_nodes_an_adapter_with_a_guid_is_no_finding(self) -> None:
        fabric = ibnetdiscover.read(renamed(NET, "b200-02 mlx5_3", MAKERS)).fabric("", reports=reports())
        assert groups(fabric) == [("b200-[01-04]", 8), ("b200-[05-08]", 8)]
        assert said(fabric) == []

    def test_the_guid_is_believed_where_the_description_names_another_host(self) -> None:
        fabric = both(swapped(NET, "b200-01 mlx5_0", "b200-05 mlx5_0"), reports())
        assert fabric.leaf_groups == ibnetdiscover.parse(NET).leaf_groups
        assert said(fabric) == [
            (Fault.TWO_HOSTS, "Adapter b83fd20300000000 is in b200-01, but calls itself 'b200-05 mlx5_0'."),
            (Fault.TWO_HOSTS, "Adapter b83fd20300000200 is in b200-05, but calls itself 'b200-01 mlx5_0'."),
        ]

    def test_a_guid_in_two_reports_is_a_finding(self) -> None:
        told = reports()
        told[NODES[7]] = told[NODES[6]]
        fabric = both(NET, told)
        assert groups(fabric) == [("b200-[01-04]", 8), ("b200-[05-08]", 8)]
        assert (
            Fault.TWO_HOSTS,
            "b200-08 mlx5_0 has the GUID of an adapter of b200-07; b200-07 is believed.",
        ) in said(fabric)

    def test_a_node_without_a_report_is_a_finding(self) -> None:
        told = reports()
        del told[NODES[2]], told[NODES[3]]
        (finding,) = both(NET, told).findings
        assert (finding.fault, finding.nodes) == (Fault.NO_REPORT, "b200-[03-04]")

    def test_a_report_without_a_port_is_none(self) -> None:
        told = {**reports(), NODES[2]: parse("ibpanic: [27] main: stat of IB device 'mlx5_0' failed\n"), NODES[3]: ()}
        for nodes in (NODES, ()):
            (finding,) = both(NET, told, nodes=nodes).findings
            assert (finding.fault, finding.nodes) == (Fault.NO_REPORT, "b200-[03-04]")
        (finding,) = both(NET, dict.fromkeys(NODES, ())).findings
        assert (finding.fault, finding.nodes) == (Fault.NO_REPORT, "b200-[01-08]")

    def test_a_file_of_something_else_is_said(self) -> None:
        (finding,) = both(NET, {**reports(), NodeName("notes.md"): ()}).findings
        assert (finding.fault, finding.nodes) == (Fault.NO_REPORT, "")
        assert finding.says == "1 report named after no node and without an InfiniBand port: notes.md."
        (finding,) = both(NET, {**reports(), NodeName("notes.md"): ()}, nodes=()).findings
        assert (finding.fault, finding.nodes) == (Fault.NO_REPORT, "notes.md")

    def test_a_node_that_is_not_the_clusters_keeps_its_adapters(self) -> None:
        text = swapped(NET, "b200-08 mlx5_0", "b200-07 mlx5_0")
        told = {NodeName("spare"): reports()[NODES[7]]} | {node: reports()[node] for node in NODES[:7]}
        fabric = both(text, told, nodes=NODES[:7])
        assert groups(fabric) == [("b200-[01-04]", 8), ("b200-[05-07]", 8)]

    def test_a_report_may_be_named_with_the_domain(self) -> None:
        told = {NodeName(f"{node}.hpc.example"): ports for node, ports in reports().items()}
        assert both(NET, told).findings == ()


class TestTwoHostsOfOneName:
    """b200-06, of the second group, calls itself b200-02, of the first, with all of its adapters."""

    NET = re.sub(r'"b200-06 (mlx5_\d)"', r'"b200-02 \1"', NET)
    OTHERS = tuple(node for node in NODES if node not in ("b200-02", "b200-06"))

    def test_neither_is_believed_and_no_groups_are_joined(self) -> None:
        for fabric in (both(self.NET, {}), both(self.NET, {}, nodes=())):
            assert groups(fabric)[:2] == [("b200-[01,03-04]", 8), ("b200-[05,07-08]", 8)]
            assert "b200-02" in fabric.leaf_groups[2].node_names
            assert {node for leaves in fabric.leaf_groups[2:] for node in leaves.node_names} <= {"b200-02", "b200-06"}
            (finding,) = (one for one in fabric.findings if one.fault is not Fault.NO_LINK)
            assert (finding.fault, finding.nodes, len(finding.devices)) == (Fault.TWO_HOSTS, "b200-02", 16)
            assert finding.says == (
                "Two hosts or more call themselves b200-02: 16 adapters have a name that another has too, such as "
                "mlx5_0, and are left out. Give the ibstat of both (--ibstat), or mend the descriptions."
            )

    def test_one_adapter_of_another_host_costs_a_rail_and_joins_nothing(self) -> None:
        fabric = both(renamed(NET, "b200-06 mlx5_3", "b200-02 mlx5_3"), {})
        assert groups(fabric) == [("b200-[01-04]", 8), ("b200-[05-08]", 8)]
        assert [(one.fault, one.nodes) for one in fabric.findings] == [
            (Fault.TWO_HOSTS, "b200-02"), (Fault.LOST_RAIL, "b200-06"),
        ]  # fmt: skip

    def test_what_its_report_shows_is_its_own(self) -> None:
        told = reports()
        fabric = both(self.NET, {NODES[1]: told[NODES[1]]})
        assert groups(fabric)[:2] == [("b200-[01-04]", 8), ("b200-[05,07-08]", 8)]
        assert Fault.TWO_HOSTS in {one.fault for one in fabric.findings}
        assert groups(both(self.NET, told)) == groups(ibnetdiscover.parse(NET))

    def test_two_ports_of_an_adapter_and_hosts_that_name_no_device_are_not_two(self) -> None:
        second = LINES + (
            '\n0xb83fd20300000002 "b200-01 mlx5_0" 3 2[  ] ==( 4X 106.25 Gbps Active/  LinkUp)==>  '
            '0xb83fd20301000000 1 60[  ] "leaf-01-1" ( )\n'
        )
        assert iblinkinfo.parse(second).findings == ()
        assert both(re.sub(r" mlx5_\d", "", NET), {}).findings == ()


class TestState:
    def test_an_adapter_that_is_down(self) -> None:
        fabric = both(gone(NET, "b200-02 mlx5_3"), reports(state="Down", physical="Polling", rate="10"))
        assert said(fabric) == [
            (Fault.NO_LINK, "b200-02 mlx5_3 is Down (Polling) by its ibstat."),
            (Fault.LOST_RAIL, "b200-02 reaches 7 of the 8 leaves of its group."),
        ]

    def test_an_adapter_that_is_up_and_not_in_the_fabric(self) -> None:
        fabric = both(gone(NET, "b200-02 mlx5_3"), reports())
        assert said(fabric)[0] == (
            Fault.NO_LINK, "b200-02 mlx5_3 is up by its ibstat, and the fabric's text lacks it.",
        )  # fmt: skip

    def test_what_no_node_has_plugged_in_is_no_finding(self) -> None:
        down = ca("mlx5_9", 0x9990, state="Down", physical="Polling", rate="10")
        told = {node: parse(text_of(number) + down.replace("999", f"99{number}")) for number, node in enumerate(NODES)}
        assert both(NET, told).findings == ()

    def test_what_is_on_another_fabric_is_no_finding(self) -> None:
        storage = ca("mlx5_9", 0x9990, rate="200")
        told = {
            node: parse(text_of(number) + storage.replace("999", f"99{number}")) for number, node in enumerate(NODES)
        }
        assert both(NET, told).findings == ()

    def test_a_link_that_runs_at_less_than_its_like(self) -> None:
        fabric = both(NET, reports(rate="100"))
        assert said(fabric) == [
            (Fault.SLOW_LINK, "b200-02 mlx5_3 runs at 100 Gb/s by its ibstat, others at 400 Gb/s."),
        ]

    def test_a_slow_link_that_the_fabric_tells_is_said_once(self) -> None:
        fabric = both(trained(NET, "b200-02 mlx5_3", "leaf-01-4", "1xNDR"), reports(rate="100"))
        assert said(fabric) == [
            (Fault.SLOW_LINK, "b200-02 mlx5_3 to leaf-01-4 runs at 1xNDR (106.25 Gb/s), others at 4xNDR."),
        ]


class TestCommand:
    def test_a_folder_of_reports(self, tmp_path: Path) -> None:
        net, folder = tmp_path / "net.txt", tmp_path / "ibstat"
        net.write_text(renamed(NET, "b200-02 mlx5_3", MAKERS))
        folder.mkdir()
        for number, node in enumerate(expand_nodes("b200-[01-08]")):
            (folder / (f"{node}.txt" if number % 2 else node)).write_text(text_of(number), encoding="utf-8-sig")
        (folder / ".swp").write_text("x")
        argv = ["import", "ibnetdiscover", str(net), "--nodes", "b200-[01-08]", "--ibstat", str(folder)]
        ran = CliRunner().invoke(group, argv, catch_exceptions=False)
        assert groups(Fabric.model_validate_json(ran.stdout)) == [("b200-[01-04]", 8), ("b200-[05-08]", 8)]
        assert ran.stderr == ""

    def test_an_empty_folder_and_a_file_of_no_node(self, tmp_path: Path) -> None:
        folder = tmp_path / "ibstat"
        folder.mkdir()
        argv = ["import", "iblinkinfo", "-", "--ibstat", str(folder)]
        with pytest.raises(InvalidInput, match="holds no file"):
            CliRunner().invoke(group, argv, catch_exceptions=False)
        (folder / "a b").write_text("")
        with pytest.raises(InvalidInput, match="not a valid node name"):
            CliRunner().invoke(group, argv, catch_exceptions=False)
