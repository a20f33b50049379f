"""The reader of iblinkinfo's output: recorded real ones, damaged ones, and hostile ones.

`data/mini.iblinkinfo` and `data/mini-l.iblinkinfo` are what the real tool (infiniband-diags) printed, without and with
`-l`, of the fabric of which `data/mini.ibnetdiscover` was recorded. Lines of unplugged ports above 18 are cut out.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.policy import expand_nodes
from slurm_gpuaas.testbed.sim.damage import trained
from slurm_gpuaas.topology import ibnetdiscover
from slurm_gpuaas.topology.discovery import LANE_GBPS, Kind
from slurm_gpuaas.topology.fabric import Fabric, Fault
from slurm_gpuaas.topology.iblinkinfo import parse, read
from tests.unit.topology.damage import DAMAGES, Damage

DATA = Path(__file__).parent / "data"
NET = (DATA / "mini.ibnetdiscover").read_text()
BLOCKS = (DATA / "mini.iblinkinfo").read_text()
LINES = (DATA / "mini-l.iblinkinfo").read_text()
SHORT_BLOCKS = "\n".join(line for line in BLOCKS.split("\n") if "Down" not in line)
SHORT_LINES = "\n".join(line for line in LINES.split("\n") if "Down" not in line)
NODES = expand_nodes("b200-[01-08]")
BOTH = pytest.mark.parametrize("text", [BLOCKS, LINES], ids=["without -l", "with -l"])
FORMS = pytest.mark.parametrize("lines", [False, True], ids=["without -l", "with -l"])


def retold(text: str, *, lines: bool) -> str:
    """What iblinkinfo prints of a fabric of which ibnetdiscover prints this."""
    return "\n".join(_retold(text, lines=lines))


def _retold(text: str, *, lines: bool) -> Iterator[str]:
    found = ibnetdiscover.read(text)
    devices = {**found.mentioned, **found.described}
    lids = {guid: lid for lid, guid in enumerate(devices, start=1)}
    told = ""
    for link in sorted(found.links):
        near, far = link.near.device, link.far.device
        owner = f"{int(near, 16) + (devices[near].kind is Kind.ADAPTER):016x}"
        other = f"{int(far, 16) + (devices[far].kind is Kind.ADAPTER):016x}"
        is_switch = devices[near].kind is Kind.SWITCH
        if lines:
            head = f'0x{owner} "{devices[near].description:>30}" '
        else:
            head = "     " if is_switch else f"      0x{owner} "
            if near != told:
                yield f"{f'Switch: 0x{near}' if is_switch else 'CA:'} {devices[near].description}:"
            told = near
        rate = "4X 10.0 Gbps"
        if link.rate:
            lanes, _, speed = link.rate.name.partition("x")
            rate = f"{lanes:>2}X {LANE_GBPS[speed]:>18} Gbps"
        yield (
            f"{head}{lids[near]:6} {link.near.port:4}[  ] ==({rate} Active/  LinkUp)==>  "
            f'{f"0x{other} " if lines else ""}{lids[far]:6} {link.far.port:4}[  ] "{devices[far].description}" ( )'
        )


def faults(fabric: Fabric) -> list[Fault]:
    return [finding.fault for finding in fabric.findings]


def groups(fabric: Fabric) -> list[tuple[str, int]]:
    return [(group.nodes, len(group.switches)) for group in fabric.leaf_groups]


class TestReal:
    @BOTH
    def test_it_gives_the_fabric_that_ibnetdiscover_gives(self, text: str) -> None:
        assert parse(text, source="") == ibnetdiscover.parse(NET, source="")
        assert parse(text, nodes=NODES, source="") == ibnetdiscover.parse(NET, nodes=NODES, source="")

    @BOTH
    def test_what_nothing_is_plugged_into_is_no_finding(self, text: str) -> None:
        assert "Down/ Polling" in text
        assert parse(text).findings == ()

    @BOTH
    def test_the_order_of_lines_does_not_matter(self, text: str) -> None:
        records = re.split(r"\n(?=CA|Switch)", text) if text is BLOCKS else text.split("\n")
        assert parse("\n".join(reversed(records)), source="") == parse(text, source="")

    def test_switches_alone_are_enough(self) -> None:
        switches = "\n".join(line for line in LINES.split("\n") if re.match(r'\S+ "\s+(?:leaf|spine)', line))
        assert len(switches) < len(LINES)
        assert parse(switches).leaf_groups == parse(LINES).leaf_groups

    def test_adapters_alone_tell_the_leaf_groups(self) -> None:
        adapters = re.sub(r"(?s)Switch: 0x.*?(?=CA:|\Z)", "", BLOCKS)
        assert "Switch" not in adapters
        assert groups(parse(adapters)) == [("b200-[01-04]", 8), ("b200-[05-08]", 8)]


def test_the_stand_in_for_the_tool_tells_what_the_tool_tells() -> None:
    for lines, text in ((False, BLOCKS), (True, LINES)):
        real, fake = read(text), read(retold(NET, lines=lines))
        assert set(fake.links) == set(real.links)
        assert fake.described == real.described


@FORMS
@pytest.mark.parametrize("damage", [one for one in DAMAGES if not one.in_text], ids=lambda one: one.name)
def test_damage_is_found_as_in_ibnetdiscovers_output(damage: Damage, lines: bool) -> None:
    text = damage.apply(NET, NODES)
    told = parse(retold(text, lines=lines), nodes=NODES, source="")
    assert told == ibnetdiscover.parse(text, nodes=NODES, source="")


@FORMS
@pytest.mark.parametrize(
    ("rate", "name"),
    [
        (" 1X        106.25 Gbps", "1xNDR (106.25 Gb/s)"),
        (" 4X        53.125 Gbps", "4xHDR (212.5 Gb/s)"),
        (" 4X 10.0 Gbps (FDR10)", "4xFDR10 (41.25 Gb/s)"),
        (" 4X          10.0 Gbps", "4xQDR (40 Gb/s)"),
        (" 2X         77.25 Gbps", "2x77.25 (154.5 Gb/s)"),
    ],
)
def test_the_rate_of_a_link_is_that_of_a_lane_times_its_lanes(rate: str, name: str, lines: bool) -> None:
    text = retold(trained(NET, "b200-03 mlx5_0", "leaf-01-1", "1xSDR"), lines=lines)
    text = re.sub(r" 1X +2\.5 Gbps(.*)\( \)", rf"{rate}\1(Could be 4X Could be 106.25 Gbps)", text)
    (finding,) = parse(text).findings
    assert finding.says == f"b200-03 mlx5_0 to leaf-01-1 runs at {name}, others at 4xNDR."


class TestDamage:
    def test_cables_are_not_followed_where_name_and_lid_tell_nothing_apart(self) -> None:
        lost = re.sub(r"mlx5_\d", "mlx5", re.sub(r" \d+( +\d+\[  \])", r" 0\1", BLOCKS))
        lost = re.sub(r"(?:leaf|spine)-0\d-0?\d", "switch", lost)
        with pytest.raises(InvalidInput, match="names no host"):
            parse(lost)

    def test_without_a_subnet_manager_names_tell_devices_apart(self) -> None:
        text = re.sub(r" \d+( +\d+\[  \])", r" 0\1", BLOCKS)
        assert parse(text, source="") == parse(BLOCKS, source="")

    def test_hosts_are_found_under_their_makers_name_too(self) -> None:
        text = LINES.replace("b200-08 mlx5_0", "MT4129 ConnectX7   Mellanox")
        fabric = parse(text, nodes=NODES)
        assert groups(fabric) == groups(parse(LINES))
        assert faults(fabric) == [Fault.LOST_RAIL]

    @BOTH
    def test_half_a_file_gives_what_it_holds(self, text: str) -> None:
        fabric = parse(text[: len(text) // 2])
        assert "b200-[01-04]" in fabric.leaf_groups[0].nodes
        assert Fault.CUT_TEXT in faults(fabric)

    def test_other_lines_are_counted(self) -> None:
        fabric = parse(f"ibwarn: [27] mad_rpc: timeout\n{LINES}\x00\x01\n")
        assert [finding.says for finding in fabric.findings] == ["2 lines were not understood."]
        fabric = parse(f"{LINES}\x00\n")
        assert [finding.says for finding in fabric.findings] == ["1 line was not understood."]

    def test_settings_of_ports_may_stand_in_between(self) -> None:
        assert parse(LINES.replace("LinkUp)", "LinkUp) (HOQ:10 VL_Stall:7)")).findings == ()


class TestHostile:
    @settings(deadline=None, max_examples=100)
    @given(st.data())
    def test_edited_output_never_crashes_the_reader(self, data: st.DataObject) -> None:
        lines = data.draw(st.sampled_from([SHORT_BLOCKS, SHORT_LINES])).split("\n")
        for _ in range(data.draw(st.integers(1, 8))):
            at = data.draw(st.integers(0, len(lines) - 1))
            lines[at : at + data.draw(st.integers(0, 3))] = [data.draw(st.text(max_size=60))]
        with suppress(InvalidInput):
            parse("\n".join(lines))

    @BOTH
    def test_cut_anywhere_or_shuffled_it_is_read_or_refused(self, text: str) -> None:
        draw = random.Random(7)
        for _ in range(30):
            with suppress(InvalidInput):
                parse(text[draw.randrange(len(text)) : draw.randrange(len(text))])
        lines = text.split("\n")
        draw.shuffle(lines)
        with suppress(InvalidInput):
            parse("\n".join(lines))

    @settings(deadline=None, max_examples=50)
    @given(st.text())
    def test_any_text_is_read_or_refused(self, text: str) -> None:
        with pytest.raises(InvalidInput):
            parse(text)

    @pytest.mark.parametrize(
        "line",
        [
            "==(" * 50_000,
            "==>" * 50_000,
            "Switch: 0x" + "f" * 100_000,
            "CA: " + ":" * 100_000,
            "      0x1 1 1[" + " " * 100_000,
            '0x1 "' + " " * 100_000 + '" 1 1[  ] ==( 4X ' + " " * 100_000 + '==> 0x2 1 1[  ] "x" ( )',
            "9" * 100_000,
        ],
    )
    def test_long_lines_cost_nothing(self, line: str) -> None:
        began = time.process_time()
        parse(LINES + "\n" + "\n".join([line] * 50))
        assert time.process_time() - began < 2
