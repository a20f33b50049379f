"""Public log lines and what they are. Shapes come from NVIDIA's documentation and published bug reports."""

from __future__ import annotations

import io
import json
import time

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from slurm_gpuaas.cli.xid import group
from slurm_gpuaas.health.catalogue import FaultClass, catalogue
from slurm_gpuaas.health.decode import MAX_LINE, Decoded, Decoder, decode_line, read_lines

FELL_OFF = "NVRM: Xid (PCI:0000:05:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."
REBOOT = "NVRM: Xid (PCI:0009:01:00): 154, GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)"

# line, then what must be among its fields
EVENTS: list[tuple[str, dict[str, object]]] = [
    (FELL_OFF, {"code": 79, "pci": "0000:05:00", "pid": None, "process": None, "class": "hw_reboot", "drain": "now"}),
    ("NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus.", {"code": 79, "drain": "now"}),
    ("NVRM: Xid (0000:03:00): 14, Channel 00000001", {"code": 14, "pci": "0000:03:00", "class": "info"}),
    ("[12.3] NVRM: Xid (PCI:3B:00.0): 48, pid=12", {"pci": "0000:3b:00", "pid": 12, "class": "hw_reset"}),
    ("NVRM: Xid (PCI:00000000:3B:00.0): 95, x", {"pci": "0000:3b:00", "drain": "now"}),
    ("NVRM: Xid (PCI:0000:07:00 GPU-I:01): 43, pid=7, name=a", {"code": 43, "pid": 7, "process": "a", "drain": "no"}),
    ("NVRM: Xid (PCI:0000:01:00): 31, pid=123", {"pid": 123, "drain": "no"}),
    ("NVRM: Xid (PCI:0000:01:00): 31, pid=XXX", {"pid": None}),
    (
        "NVRM: Xid (PCI:0018:01:00): 145, pid=876767, name=ray::WorkerDict, RLW_RXPIPE Nonfatal XC0 i0 Link 13 (0x0",
        {"pid": 876767, "process": "ray::WorkerDict", "subcode": "RLW_RXPIPE", "link": 13, "drain": "review"},
    ),
    (
        "NVRM: Xid (PCI:0000:04:00): 146, TLW_RX/TLW_RX_PIPE0 Fatal XC0 i0 Link 00 (0x0000000a 0x00000004",
        {"subcode": "TLW_RX/TLW_RX_PIPE0", "link": 0},
    ),
    ("NVRM: Xid (PCI:0008:01:00): 149, NETIR Fatal XC0 i0 Link -1 (0x000fe406", {"link": -1, "drain": "review"}),
    (
        "NVRM: Xid (PCI:0000:01:00): 13, pid=9, name=x, Graphics SM Warp Exception on (GPC 4, TPC 1, SM 0): Illegal",
        {"unit": {"gpc": 4, "tpc": 1, "sm": 0}, "class": "app", "drain": "no"},
    ),
    (
        "NVRM: Xid (PCI:0000:01:00): 13, Graphics Exception on (GPC 0, TPC 2): x",
        {"unit": {"gpc": 0, "tpc": 2, "sm": None}},
    ),
    (
        "NVRM: Xid (PCI:0000:4e:00): 74, pid=1, NVLink: fatal error detected on link 14(0x1)",
        {"link": 14, "class": "nvlink"},
    ),
    (REBOOT, {"from_action": "None", "to_action": "Node Reboot Required", "class": "follow_154", "drain": "now"}),
    (REBOOT.replace("Node Reboot Required", "GPU Reset Required"), {"drain": "now"}),
    (REBOOT.replace("Node Reboot Required", "Drain and Reset"), {"drain": "when_idle"}),
    (REBOOT.replace("Node Reboot Required", "None"), {"drain": "no"}),
    (REBOOT.replace("Node Reboot Required", "Something New"), {"drain": "review"}),
    (
        "NVRM: Xid (PCI:0000:01:00): 45, pid=1, name=x, Ch 8, caused by previous Xid 149",
        {"caused_by": 149, "drain": "no"},
    ),
    ("NVRM: Xid (PCI:0000:01:00): 94, Contained ECC error", {"class": "contained", "drain": "when_idle"}),
    ("NVRM: Xid (PCI:0000:01:00): 63, Row remapping pending", {"class": "info", "drain": "when_idle"}),
    ("NVRM: Xid (PCI:0000:01:00): 64, Row remapping failure", {"class": "hw_support", "drain": "now"}),
    ("NVRM: Xid (PCI:0000:05:00): 99999, unknown error", {"class": "unknown", "drain": "review", "mnemonic": None}),
    ("NVRM: GPU 0000:29:00.0: GPU has fallen off the bus.", {"kind": "fallen", "code": 79, "pci": "0000:29:00"}),
    ("NVRM: GPU 18:00.0: GPU has fallen off the bus.", {"kind": "fallen", "pci": "0000:18:00", "drain": "now"}),
    (
        "nvidia-nvswitch3: SXid (PCI:0000:05:00.0): 12028, Non-fatal, Link 32 egress non-posted PRIV error (First)",
        {"kind": "sxid", "switch": 3, "link": 32, "class": "sxid_nonfatal", "drain": "no"},
    ),
    (
        "nvidia-nvswitch0: SXid (PCI:0000:00:00.0): 20034, Fatal, Link 30 LTSSM Fault Up",
        {"class": "sxid_fatal", "drain": "now"},
    ),
    ("nvidia-nvswitch3: SXid (PCI:0000:05:00.0): 10003, error", {"class": "sxid_fatal", "drain": "now"}),
    ("nvidia-nvswitch3: SXid (PCI:0000:05:00.0): 99999, Some error", {"class": "unknown", "drain": "review"}),
    (f"3,812,5160725224,-;{FELL_OFF}", {"code": 79}),
]

NOTHING = [
    "",
    "NVRM: Xid (invalid): some error",
    "NVRM: Xid error: xyz, invalid data",
    "NVRM: Xid (PCI:0000:01:00): x79, no code",
    "NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  580.95.05",
    "NVRM: fallen off the bus and is not responding to commands.",
    "NVRM: The NVIDIA GPU invalid-bdf.0",
    "nvidia-nvswitch0: SXid (PCI:0000:00:00.0): xyz, Fatal error",
    "nvidia-nvswitch0: SXid (PCI:0000:a9:00.0): 20034, Data {0x50610002, 0x10100030}",
    "nvidia-nvswitch1: SXid (PCI:0000:c5:00.0): 24007, Severity 1 Engine instance 44 Sub-engine instance 00",
    "usb 1-1: Xid is a nice word",
]


@pytest.mark.parametrize(("line", "expected"), EVENTS)
def test_a_line_is_decoded(line: str, expected: dict[str, object]) -> None:
    event = decode_line(line)
    assert event is not None, line
    fields = event.as_json()
    assert {key: fields[key] for key in expected} == expected


@pytest.mark.parametrize("line", NOTHING)
def test_a_line_that_is_no_event_gives_nothing(line: str) -> None:
    assert decode_line(line) is None


def test_a_fallen_off_the_bus_message_over_three_lines_is_one_event() -> None:
    decoder = Decoder()
    lines = [
        "NVRM: The NVIDIA GPU 0000:18:00.0",
        "NVRM: (PCI ID: 10de:2901) installed in this system has",
        "NVRM: fallen off the bus and is not responding to commands.",
    ]
    events = [event for number, line in enumerate(lines, start=1) for event in decoder.decode(number, line)]
    assert [(event.line, event.kind, event.pci) for event in events] == [(3, "fallen", "0000:18:00")]
    assert [event.pci for event in Decoder().decode(1, "\n".join(lines))] == ["0000:18:00"]


def test_a_gpu_is_named_once_the_log_said_who_sits_there() -> None:
    decoder = Decoder()
    uuid = "GPU-1f45a5a8-d400-2488-17d2-aec58a1d21ca"
    assert list(decoder.decode(1, f"NVRM: GPU at PCI:0000:05:00: {uuid}")) == []
    (event,) = decoder.decode(2, FELL_OFF)
    assert event.gpu == uuid


def test_the_catalogue_has_every_code_of_nvidias_sheet() -> None:
    rows = catalogue().xid
    assert sorted(rows) == list(range(1, 173))
    counts: dict[str | None, int] = {}
    for row in rows.values():
        counts[row.immediate] = counts.get(row.immediate, 0) + 1
    assert (counts["CONTACT_SUPPORT"], counts["RESTART_APP"], counts["IGNORE"], counts["RESET_GPU"]) == (62, 48, 21, 14)
    assert counts[None] == 11
    assert rows[79].immediate == "RESTART_BM"


def test_the_catalogue_has_every_sxid_of_the_fabric_manager_guide() -> None:
    classes = list(catalogue().sxid.values())
    assert (classes.count(FaultClass.SXID_NONFATAL), classes.count(FaultClass.SXID_FATAL)) == (26, 46 + 21)


@given(st.text(max_size=300))
def test_no_text_makes_it_fail(text: str) -> None:
    for prefix in ("", "NVRM: Xid (PCI:0000:01:00): ", "nvidia-nvswitch0: SXid (PCI:0000:01:00.0): ", "NVRM: GPU "):
        assert all(isinstance(event, Decoded) for event in Decoder().decode(1, prefix + text))


@pytest.mark.parametrize(
    "hostile",
    [
        "NVRM: Xid (PCI:" * 2_000,
        "NVRM: Xid (PCI:0000:01:00): 13, " + "GPC 1, TPC 1" * 2_000,
        "NVRM: Xid (PCI:0000:01:00): 145, " + "A_" * 10_000,
        "NVRM: Xid (PCI:0000:01:00): 31, pid=" + "1" * 10_000,
        "NVRM: " + "Link " * 5_000,
        "nvidia-nvswitch" * 2_000 + "SXid",
    ],
)
def test_a_hostile_line_takes_no_longer_than_its_length_warrants(hostile: str) -> None:
    begun = time.perf_counter()
    for _ in range(20):
        list(Decoder().decode(1, hostile))
    assert (time.perf_counter() - begun) / 20 < 0.02


def test_an_endless_line_is_read_in_bounded_pieces() -> None:
    stream = io.BytesIO(b"x" * (3 * MAX_LINE) + b"\n" + FELL_OFF.encode() + b"\n\xff\xfe\n")
    lines = list(read_lines(stream))
    assert [len(line) for line in lines[:1]] == [MAX_LINE]
    assert lines[1].strip() == FELL_OFF
    assert len(lines) == 3


def test_the_command_prints_one_object_a_line_and_counts_input_lines() -> None:
    log = f"nothing\n{FELL_OFF}\n{REBOOT}\n"
    result = CliRunner().invoke(group, ["decode", "--json"], input=log)
    events = [json.loads(line) for line in result.output.splitlines()]
    assert [(event["line"], event["code"]) for event in events] == [(2, 79), (3, 154)]
    assert list(events[0]) == [
        *("line", "kind", "code", "mnemonic", "pci", "gpu", "pid", "process", "link", "subcode", "unit", "caused_by"),
        *("from_action", "to_action", "switch", "immediate_action", "investigatory_action", "class", "drain", "why"),
    ]
