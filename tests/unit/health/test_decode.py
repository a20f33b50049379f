"""The decoder: lines that people published, products and drivers, and input of any kind."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from slurm_gpuaas.cli.xid import group
from slurm_gpuaas.domain.incidents import Drain
from slurm_gpuaas.health.catalogue import Nvlink5Rule, Product, catalogue
from slurm_gpuaas.health.decode import (
    MAX_RECORD,
    Decoded,
    Decoder,
    decode_line,
    line_of,
    line_of_json,
    read_records,
)
from tests.unit.health.public_lines import EVENTS, FELL_OFF, NO_EVENTS, REBOOT, Public

KEYS = [
    *("line", "kind", "code", "mnemonic", "pci", "gpu", "pid", "process", "link", "subcode", "unit", "caused_by"),
    *("from_action", "to_action", "switch", "immediate_action", "investigatory_action", "class", "drain", "why"),
]
SPLIT = [
    "NVRM: The NVIDIA GPU 0000:18:00.0",
    "NVRM: (PCI ID: 10de:2901) installed in this system has",
    "NVRM: fallen off the bus and is not responding to commands.",
]
UUID = "GPU-1f45a5a8-d400-2488-17d2-aec58a1d21ca"


def fields_of(event: Decoded) -> dict[str, object]:
    fields: dict[str, object] = json.loads(event.as_json())
    return fields


@pytest.mark.parametrize("case", EVENTS, ids=lambda case: f"{case.source}: {case.line[-60:]}")
def test_a_published_line_is_decoded(case: Public) -> None:
    event = Decoder(case.product, case.driver).event(1, case.line)
    assert event is not None, case.line
    fields = fields_of(event)
    assert {key: fields[key] for key in case.expected} == case.expected
    assert list(fields) == KEYS


def test_published_lines_show_at_least_sixty_codes_and_shapes() -> None:
    assert len({case.line for case in EVENTS}) >= 60
    assert len({(fields["kind"], fields["code"]) for fields in map(fields_of, decoded(EVENTS))}) >= 40


def decoded(cases: list[Public]) -> Iterator[Decoded]:
    for case in cases:
        event = Decoder(case.product, case.driver).event(1, case.line)
        assert event is not None
        yield event


@pytest.mark.parametrize("line", NO_EVENTS)
def test_a_line_that_is_no_event_gives_nothing(line: str) -> None:
    assert decode_line(line) is None


@pytest.mark.parametrize(
    ("address", "pci"),
    [
        ("PCI:3B:00.0", "0000:3b:00"),
        ("PCI:00000000:3B:00.0", "0000:3b:00"),
        ("PCI:00010000:3B:00", "10000:3b:00"),
        ("0000:3b:00", "0000:3b:00"),
    ],
)
def test_a_pci_address_has_one_form(address: str, pci: str) -> None:
    event = decode_line(f"NVRM: Xid ({address}): 95, x")
    assert event is not None
    assert event.pci == pci


@pytest.mark.parametrize(
    ("written", "pid", "name"),
    [
        ("pid=12, name=a b, Ch 1", 12, "a b"),
        ("pid=12, name=a,b, Ch 1", 12, "a,b"),
        ("pid=12, name='a', Ch 1", 12, "a"),
        ("pid=12, name='a, b', Ch 1", 12, "a, b"),
        ("pid=12, name='a,b, c', Ch 1", 12, "a,b, c"),
        ("pid=12, name='a, Ch 1", 12, "'a"),
        ('pid=12, name=say "hi", Ch 1', 12, 'say "hi"'),
        ("pid='12', name=\u00e9, Ch 1", 12, "\u00e9"),
        ("pid=<unknown>, name=unknown, Ch 1", None, None),
        ("pid=12x, name=, Ch 1", None, None),
        ("pid=99999999999, name=a, Ch 1", None, "a"),
        ("pid=12, Ch 1", 12, None),
        ("pid=12, name=a\r", 12, "a"),
    ],
)
def test_process_and_name_are_read_as_written(written: str, pid: int | None, name: str | None) -> None:
    event = Decoder().event(1, line_of(f"NVRM: Xid (PCI:0000:01:00): 31, {written}".encode()))
    assert event is not None
    assert (event.pid, event.process) == (pid, name)


def test_a_process_cannot_say_where_on_the_chip_it_failed() -> None:
    where = "Graphics SM Warp Exception on (GPC 0, TPC 3, SM 1)"
    event = decode_line(f"NVRM: Xid (PCI:0000:01:00): 13, pid=1, name=a, GPC 1, TPC 2, {where}")
    assert event is not None
    assert event.unit == (0, 3, 1)


def test_a_name_with_a_comma_hides_no_nvlink_fault() -> None:
    words = "RLW_REMAP Nonfatal XC0 i0 Link 10 (0x00000004 0x00000040 0x00000000)"
    event = decode_line(f"NVRM: Xid (PCI:0000:04:00): 145, pid=7, name=a, X Fatal?, {words}")
    assert event is not None
    assert (event.subcode, event.assessment.drain, event.link) == ("RLW_REMAP", Drain.NOW, 10)


def test_a_fallen_off_the_bus_message_over_three_lines_is_one_event() -> None:
    decoder = Decoder()
    events = [event for number, line in enumerate(SPLIT, start=1) for event in decoder.decode(number, line)]
    assert [(event.line, event.kind, event.pci) for event in events] == [(3, "fallen", "0000:18:00")]
    assert [event.pci for event in Decoder().decode(1, "\n".join(SPLIT))] == ["0000:18:00"]


def test_a_gpu_is_named_once_the_log_said_who_sits_there() -> None:
    decoder = Decoder()
    assert decoder.event(1, f"NVRM: GPU at PCI:0000:05:00: {UUID}") is None
    event = decoder.event(2, FELL_OFF)
    assert event is not None
    assert event.gpu == UUID


def rule_words(rule: Nvlink5Rule, driver: int) -> tuple[int, int]:
    return (rule.v1 if driver < 575 else rule.v2).value, min(rule.statuses, default=0xABC)


@pytest.mark.parametrize("driver", [570, 575])
@pytest.mark.parametrize("known", [True, False])
def test_each_nvlink_5_rule_fits_the_message_that_it_describes(driver: int, known: bool) -> None:
    for rule in catalogue().nvlink5:
        for unit in rule.units:
            intr, status = rule_words(rule, driver)
            words = f"0x{intr | 0xFC000000:08x} 0x{status:08x}"  # bits that no rule asks for
            line = f"NVRM: Xid (PCI:0000:04:00): {rule.code}, {unit} Nonfatal XC0 i0 Link 00 ({words} 0x00000000)"
            event = Decoder(Product.B200, driver if known else None).event(1, line)
            assert event is not None, line
            assert event.immediate_action == rule.immediate, line
            assert event.assessment.drain == catalogue().bucket(rule.immediate).drain, line
            assert event.assessment.drain is not Drain.REVIEW, line


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.sampled_from(catalogue().nvlink5), st.booleans())
def test_a_message_never_fits_rules_of_both_layouts_for_other_actions(
    intr: int, status: int, rule: Nvlink5Rule, near: bool
) -> None:
    if near:
        intr, status = rule.v1.value | intr & ~rule.v1.mask, min(rule.statuses, default=status)
    line = f"NVRM: Xid (PCI:0000:04:00): {rule.code}, {min(rule.units)} Fatal XC0 i0 Link 00 (0x{intr:x} 0x{status:x})"
    said = {
        event.immediate_action
        for driver in (570, 580)
        if (event := Decoder(driver=driver).event(1, line)) and event.assessment.drain is not Drain.REVIEW
    }
    both = Decoder().event(1, line)
    assert both is not None
    assert len(said) <= 1
    assert said <= {both.immediate_action}


def test_the_words_fatal_and_nonfatal_decide_nothing() -> None:
    for case in EVENTS:
        if " Nonfatal " in case.line or " Fatal " in case.line:
            event = Decoder(case.product, case.driver).event(1, case.line)
            other = (
                case.line.replace(" Nonfatal ", " FATAL ").replace(" Fatal ", " Nonfatal ").replace("FATAL", "Fatal")
            )
            swapped = Decoder(case.product, case.driver).event(1, other)
            assert event is not None
            assert swapped is not None
            assert swapped.assessment == event.assessment


def test_a_peer_that_is_to_blame_is_told() -> None:
    peers = [case.line for case, event in zip(EVENTS, decoded(EVENTS), strict=True) if event.peer]
    assert peers
    assert all(" 149, " in line for line in peers)


@pytest.mark.parametrize(
    ("registers", "drain"),
    [
        ("0x1, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0", "no"),
        ("0x40800001, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0", "no"),
        ("0x2, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0", "review"),
        ("0x100, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0", "when_idle"),
        ("0x200001, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0", "when_idle"),
        ("0x4, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0", "review"),
        ("0x0, 0x1, 0x0, 0x0, 0x0, 0x0, 0x0", "review"),
        ("0x0, 0x0, 0x1, 0x0, 0x0, 0x0, 0x0", "review"),
        ("0x0, 0x0, 0x0, 0x40000, 0x0, 0x0, 0x0", "when_idle"),
        ("0x0, 0x0, 0x0, 0x0, 0x100000, 0x0, 0x0", "no"),
        ("0x0, 0x0, 0x0, 0x0, 0x100000, 0x0, 0x1", "review"),
        ("0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0", "review"),
        ("0x0, 0x0", "review"),
        ("0x100,0x0,0x0,0x0,0x0,0x0,0x0", "when_idle"),
    ],
)
def test_nvlink_4_registers_decide_and_unnamed_bits_go_to_review(registers: str, drain: str) -> None:
    line = f"NVRM: Xid (PCI:0000:4e:00): 74, pid=1, name=a, NVLink: fatal error detected on link 3({registers})"
    event = Decoder(Product.H200).event(1, line)
    assert event is not None
    assert event.assessment.drain == drain


# -- input of any kind


@given(st.text(max_size=300))
def test_no_text_makes_it_fail(text: str) -> None:
    for prefix in ("", "NVRM: Xid (PCI:0000:01:00): ", "nvidia-nvswitch0: SXid (PCI:0000:01:00.0): ", "NVRM: GPU "):
        for event in Decoder().decode(1, prefix + text):
            assert list(fields_of(event)) == KEYS


@given(
    st.sampled_from([case.line for case in EVENTS]),
    st.integers(0, 300),
    st.integers(0, 20),
    st.text(max_size=20),
    st.sampled_from([None, Product.H200, Product.B200]),
)
def test_no_edit_of_a_line_makes_it_fail(line: str, at: int, cut: int, put: str, product: Product | None) -> None:
    for event in Decoder(product).decode(1, line[:at] + put + line[at + cut :]):
        assert list(fields_of(event)) == KEYS


def both(decoder: Decoder, other: Decoder, line: str) -> None:
    assert decoder.json_lines(1, line) == "".join(f"{event.as_json()}\n" for event in other.decode(1, line))


@pytest.mark.parametrize("prefix", ["", "[12345.678901] ", "[ 1.5] ", "[12345.678901] [T77] ", "node7 kernel: "])
def test_what_is_printed_is_what_was_decoded(prefix: str) -> None:
    """The quick way of the command, against events put into JSON: in one log, where memory is warm, and each alone."""
    decoder, other = Decoder(), Decoder()
    for case in [*EVENTS, *EVENTS]:
        both(decoder, other, prefix + case.line)
        both(Decoder(case.product, case.driver), Decoder(case.product, case.driver), prefix + case.line)
    identity = f"NVRM: GPU at PCI:0000:3b:00: {UUID}"
    fault = "[1.2] NVRM: Xid (PCI:0000:3b:00): 94, pid=7, name=python3, Contained: CE User Channel (0x9). RST: No"
    for line in (fault, identity, fault):
        both(decoder, other, line)
    assert f'"gpu": "{UUID}", "pid": 7' in decoder.json_lines(1, fault)


@given(
    st.sampled_from(["", "[12345.678901] "]),
    st.sampled_from([case.line for case in EVENTS if "NVRM: Xid (PCI:" in case.line]),
    st.integers(0, 100),
    st.integers(0, 20),
    st.text(max_size=20)
    | st.sampled_from([" pid=", " name=", ", ", "name=unknown, ", "link 4", "(GPC 1, TPC 2)", "\n"]),
)
def test_what_is_printed_of_an_edited_line_is_what_was_decoded(
    prefix: str, line: str, at: int, cut: int, put: str
) -> None:
    decoder, other = Decoder(), Decoder()
    both(decoder, other, prefix + line)  # what it remembers of this must not answer for that
    both(decoder, other, prefix + line[:at] + put + line[at + cut :])


@given(st.binary(max_size=400), st.booleans())
def test_no_bytes_make_it_fail(content: bytes, jsonl: bool) -> None:
    stream = io.BytesIO(content + FELL_OFF.encode() + content)
    decoder = Decoder()
    for records in read_records(stream):
        for number, record in records:
            assert 1 <= number <= content.count(b"\n") * 2 + 1
            list(decoder.decode(number, (line_of_json if jsonl else line_of)(record)))


@pytest.mark.parametrize(
    "hostile",
    [
        "NVRM: Xid (PCI:" * 2_000,
        "NVRM: Xid (PCI:0000:01:00): 13, " + "GPC 1, TPC 1" * 2_000,
        "NVRM: Xid (PCI:0000:01:00): 145, " + "A_" * 10_000,
        "NVRM: Xid (PCI:0000:01:00): 145, " + "Fatal (0x" * 2_000,
        "NVRM: Xid (PCI:0000:01:00): 74, " + "(0x0, " * 3_000,
        "NVRM: Xid (PCI:0000:01:00): 31, pid=" + "1" * 10_000,
        "NVRM: Xid (PCI:0000:01:00): 31, pid=1, name=" + "a," * 8_000,
        "NVRM: " + "Link " * 5_000,
        "NVRM: Xid (PCI:0000:01:00): 136, " + "ink 1 " * 2_500,
        "nvidia-nvswitch" * 2_000 + "SXid",
        "Nov 22 18:29:55 " + "a" * 10_000 + "NVRM: Xid",
        "a[1]: " * 2_500 + "NVRM: Xid",
    ],
)
def test_a_hostile_line_takes_no_longer_than_its_length_warrants(hostile: str) -> None:
    begun = time.process_time()
    for _ in range(20):
        list(Decoder().decode(1, hostile))
    assert (time.process_time() - begun) / 20 < 0.03


def test_an_endless_line_is_read_in_bounded_memory() -> None:
    stream = io.BytesIO(b"NVRM: " + b"x" * (MAX_RECORD + 3_000_000) + b"\n" + FELL_OFF.encode() + b"\r\n\xff\xfe\n")
    records = [record for batch in read_records(stream) for record in batch]
    assert [number for number, _ in records] == [1, 2]
    assert len(records[0][1]) <= MAX_RECORD + 2**20
    assert line_of(records[1][1]) == FELL_OFF


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"not json",
        b"[1]",
        b"7",
        b'{"line": 7}',
        b'{"line": null}',
        b'{"text": "x"}',
        b'{"line": "cut',
        b"[" * 100_000,
        b'{"line": ' * 50_000,
        b'{"line": "x", "n": ' + b"1" * 100_000 + b"}",
    ],
)
def test_a_record_that_is_no_json_line_is_no_event(record: bytes) -> None:
    assert line_of_json(record) == ""


# -- the command


def run(*arguments: str, log: str | bytes) -> list[dict[str, object]]:
    result = CliRunner().invoke(group, ["decode", "--json", *arguments], input=log, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.output.splitlines()]


def test_the_command_prints_one_object_a_line_and_counts_input_lines() -> None:
    events = run(log=f"nothing\r\n{FELL_OFF}\r\n\x00\n{REBOOT}")
    assert [(event["line"], event["code"]) for event in events] == [(2, 79), (4, 154)]
    assert all(list(event) == KEYS for event in events)


def test_json_lines_hold_messages_of_several_lines() -> None:
    spelled = json.dumps({"line": FELL_OFF}).replace("NVRM", "\\u004eVRM")
    log = "\n".join([json.dumps({"line": "\n".join(SPLIT)}), '{"line": "NVRM: Xid', FELL_OFF, spelled])
    events = run("--jsonl", log=log)
    assert [(event["line"], event["kind"], event["code"]) for event in events] == [(1, "fallen", 79), (4, "xid", 79)]


def test_surrogates_and_bytes_that_are_no_text_are_printed() -> None:
    (event,) = run("--jsonl", log='{"line": "NVRM: Xid (PCI:0000:01:00): 31, pid=1, name=a\\ud800, x"}')
    assert event["process"] == "a?"
    (event,) = run(log=b"\xff NVRM: Xid (PCI:0000:01:00): 31, pid=1, name=a\xff, x\n")
    assert event["process"] == "a\N{REPLACEMENT CHARACTER}"


def test_product_and_driver_decide_how_a_line_is_read() -> None:
    line = "NVRM: Xid (PCI:0000:00:08.0): 145, RLW_REMAP Nonfatal XC1 i0 Link 10 (0x00000082 0x00000040 0x00000000)"
    drains = [run(*options, log=line)[0]["drain"] for options in ([], ["--driver", "570.86.15"], ["--driver", "580"])]
    assert drains == ["now", "now", "review"]
    assert run("--product", "h200", log=line)[0]["class"] == "unknown"


def test_a_version_that_is_none_is_refused() -> None:
    result = CliRunner().invoke(group, ["decode", "--driver", "new"], input="")
    assert result.exit_code == 2
    assert "no driver version" in result.output


def test_overrides_of_a_file_decide_and_say_so(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text("- {code: 79, drain: review, reason: riser is known to be loose}\n")
    (event,) = run("--overrides", str(file), log=FELL_OFF)
    assert event["drain"] == "review"
    assert event["class"] == "hw_reboot"
    assert str(event["why"]).startswith("site override: riser is known to be loose (catalogue of ")
    assert "said now: RESTART_BM" in str(event["why"])


def test_the_table_shows_what_a_person_asks_for() -> None:
    result = CliRunner().invoke(group, ["decode"], input=f"{FELL_OFF}\n")
    assert "xid 79" in result.output
    assert CliRunner().invoke(group, ["decode"], input="quiet\n").output.startswith("No XID")
