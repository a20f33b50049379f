"""The reader of ibnetdiscover's output: a recorded real one, damaged ones, and hostile ones.

`data/mini.ibnetdiscover` is what the real tool (infiniband-diags) printed of the testbed's fabric: 8 nodes with 8
rails, 16 leaves, 4 spines.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.policy import expand_nodes
from slurm_gpuaas.topology.fabric import Fabric
from slurm_gpuaas.topology.ibnetdiscover import parse

REAL = (Path(__file__).parent / "data" / "mini.ibnetdiscover").read_text()
NODES = expand_nodes("b200-[01-08]")


def groups(fabric: Fabric) -> list[tuple[str, int]]:
    return [(group.nodes, len(group.switches)) for group in fabric.leaf_groups]


def said(fabric: Fabric) -> tuple[str, ...]:
    return tuple(finding.says for finding in fabric.findings)


def without_lines(*fragments: str) -> str:
    return "\n".join(line for line in REAL.split("\n") if not any(fragment in line for fragment in fragments))


def records(text: str) -> list[str]:
    return text.split("\n\n")


class TestReal:
    def test_the_eight_rail_leaves_of_a_unit_are_one_leaf_group(self) -> None:
        fabric = parse(REAL)
        assert groups(fabric) == [("b200-[01-04]", 8), ("b200-[05-08]", 8)]
        assert [(spine.name, spine.level) for spine in fabric.spines] == [(f"spine-01-0{n}", 1) for n in range(1, 5)]
        assert fabric.findings == ()

    def test_leaf_switches_are_named_by_guid(self) -> None:
        assert parse(REAL).leaf_groups[0].switches[0] == "b83fd20301000000"

    def test_the_order_of_records_does_not_matter(self) -> None:
        assert parse("\n\n".join(reversed(records(REAL)))) == parse(REAL)

    def test_one_side_of_every_cable_is_enough(self) -> None:
        switches = "\n\n".join(record for record in records(REAL) if "\nSwitch\t" in record)
        adapters = "\n\n".join(record for record in records(REAL) if "\nCa\t" in record)
        heads = "\n".join(line for line in adapters.split("\n") if not line.startswith("["))
        assert parse(f"{switches}\n\n{heads}") == parse(REAL)

    def test_windows_line_ends(self) -> None:
        assert parse(REAL.replace("\n", "\r\n")) == parse(REAL)


class TestDamage:
    def test_a_lost_rail_is_a_finding_and_splits_nothing(self) -> None:
        fabric = parse(without_lines('"b200-02 mlx5_3"', '"H-b83fd203000000b0"'))
        assert groups(fabric) == [("b200-[01-04]", 8), ("b200-[05-08]", 8)]
        assert said(fabric) == ("b200-02 reaches 7 of the 8 leaves of its group.",)

    def test_a_leaf_without_uplinks_keeps_its_group_and_pod(self) -> None:
        lines = REAL.split("\n")
        cut = "\n".join(line for line in lines if not ('"S-b83fd2030200' in line and line.startswith("[")))
        cut = "\n".join(line for line in cut.split("\n") if not ('"S-b83fd2030100' in line and "Switch" not in line))
        assert len({group.pod for group in parse(cut).leaf_groups}) == 2, "without spines they are two fabrics"

    def test_a_node_without_links_is_in_the_fabric_apart(self) -> None:
        fabric = parse(REAL, nodes=[*NODES, NodeName("b200-09")])
        assert groups(fabric)[-1] == ("b200-09", 0)
        assert fabric.leaf_groups[-1].pod == "unattached"
        assert said(fabric) == ("b200-09 has no link.",)

    def test_hosts_that_are_not_the_clusters_are_left_out(self) -> None:
        assert groups(parse(REAL, nodes=NODES[:3])) == [("b200-[01-03]", 8)]

    def test_a_host_may_carry_its_domain(self) -> None:
        assert groups(parse(REAL.replace(" mlx5", ".hpc.example mlx5"), nodes=NODES)) == groups(parse(REAL))

    def test_hosts_that_differ_in_case_alone_are_said(self) -> None:
        with pytest.raises(
            InvalidInput, match="8 hosts of other case in the text than in --nodes, such as B200-01 for b200-01"
        ):
            parse(REAL.replace('"b200-', '"B200-'), nodes=NODES)
        fabric = parse(REAL.replace('"b200-02 ', '"B200-02.hpc '), nodes=NODES)
        assert said(fabric) == (
            "1 host of other case in the text than in --nodes, such as B200-02.hpc for b200-02.",
            "b200-02 has no link.",
        )

    def test_an_adapter_with_the_makers_description_is_a_finding(self) -> None:
        text = REAL.replace('"b200-08 mlx5_0"', '"MT4129ConnectX7"')
        fabric = parse(text)
        assert groups(fabric) == [("b200-[01-04]", 8), ("b200-[05-08]", 8)]
        assert "Adapter b83fd20300000380 names no host: 'MT4129ConnectX7'." in said(fabric)

    def test_a_device_that_is_not_described_is_known_from_its_cables(self) -> None:
        text = "\n\n".join(record for record in records(REAL) if '"spine-01-04" enhanced' not in record)
        fabric = parse(text)
        assert fabric.spines == parse(REAL).spines
        assert said(fabric) == ("1 device is known from cables only: the file may be cut.",)

    def test_half_a_file_gives_what_it_holds(self) -> None:
        fabric = parse(REAL[: len(REAL) // 2])
        assert [nodes for nodes, _ in groups(fabric)] == [nodes for nodes, _ in groups(parse(REAL))]
        assert any("the file may be cut" in finding for finding in said(fabric))

    def test_one_guid_as_two_kinds_of_device(self) -> None:
        fabric = parse(REAL + '\n\nCa\t1 "H-b83fd20301000000"\t# "b200-01 mlx5_9"\n')
        assert any("is a Switch and a Ca" in finding for finding in said(fabric))

    def test_text_without_any_host_says_what_to_do(self) -> None:
        with pytest.raises(InvalidInput, match="names no host") as caught:
            parse("ibwarn: [27] mad_rpc_open_port: can't open UMAD port\n")
        assert "ibnetdiscover" in caught.value.way_out


class TestHostile:
    @settings(deadline=None, max_examples=200)
    @given(st.data())
    def test_edited_output_never_crashes_the_reader(self, data: st.DataObject) -> None:
        lines = REAL.split("\n")
        for _ in range(data.draw(st.integers(1, 8))):
            at = data.draw(st.integers(0, len(lines) - 1))
            lines[at : at + data.draw(st.integers(0, 3))] = [data.draw(st.text(max_size=60))]
        with suppress(InvalidInput):
            parse("\n".join(lines))

    @settings(deadline=None, max_examples=100)
    @given(st.text())
    def test_any_text_is_read_or_refused(self, text: str) -> None:
        with pytest.raises(InvalidInput):
            parse(text)

    @pytest.mark.parametrize(
        "line",
        [
            "[" * 100_000,
            'Switch\t64 "S-' + "f" * 100_000,
            "[1]" + " " * 100_000 + '"S-1"[1]',
            'Ca\t1 "H-1"\t# "' + "a " * 50_000 + '"',
            "9" * 100_000,
        ],
    )
    def test_long_lines_cost_nothing(self, line: str) -> None:
        began = time.process_time()
        parse(REAL + "\n" + "\n".join([line] * 50))
        assert time.process_time() - began < 2

    def test_names_that_no_sentence_would_hold(self) -> None:
        text = REAL.replace('"S-b83fd20301000070"', '"S-b83fd203010000f0"')
        for node in range(1, 9):
            text = text.replace(f"b200-0{node} ", f"{'abcdefgh'[node - 1] * 60} ")
        hosts = [f"{chr(97 + n % 26) * 50}-{n * 7919 % 1000}-x{n}" for n in range(60)]
        crowd = "".join(
            f'\n\nCa\t1 "H-{0xF000 + n:016x}"\t# "{host} mlx5_0"\n[1]\t"S-00000000000000aa"[{n + 1}]\n'
            for n, host in enumerate(hosts)
        )
        fabric = parse(f'{text}{crowd}\n\nCa\t1 "H-1"\t# "{chr(0xE0001) * 200}"\n')
        assert any("... (60 nodes) has 1 leaf," in says for says in said(fabric))
        assert any("names no host" in says for says in said(fabric))

    def test_a_switch_with_a_name_of_digits(self) -> None:
        parse(REAL.replace("spine-01-01", "9" * 200))
