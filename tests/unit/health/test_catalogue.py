"""The catalogue: what NVIDIA's sheets have is in it, what it lacks is said, and it never contradicts itself."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import files

from click.testing import CliRunner

from slurm_gpuaas.cli.xid import group
from slurm_gpuaas.domain.incidents import Drain
from slurm_gpuaas.health.catalogue import (
    BitPattern,
    Gap,
    GapKind,
    Product,
    SxidSeverity,
    catalogue,
    gaps,
    read_catalogue,
)

FILE = files("slurm_gpuaas.health").joinpath("data/xid_catalogue.json").read_text("utf-8")


def show(*arguments: str) -> str:
    result = CliRunner().invoke(group, ["catalogue", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_it_has_every_code_of_nvidias_sheet_and_the_newer_ones() -> None:
    rows = catalogue().xid
    assert set(rows) == {*range(1, 177), 185}
    counts: dict[str | None, int] = {}
    for row in rows.values():
        counts[row.immediate] = counts.get(row.immediate, 0) + 1
    assert (counts["CONTACT_SUPPORT"], counts["RESTART_APP"], counts["IGNORE"], counts["RESET_GPU"]) == (62, 48, 21, 14)
    assert rows[79].immediate == "RESTART_BM"
    assert rows[163].immediate == "RECOVER_FEATURE_RESET_GPU"
    assert rows[168].immediate == "WORKFLOW_XID_168"


def test_it_has_every_sxid_of_the_fabric_manager_guide() -> None:
    rows = catalogue().sxid.values()
    severities = [row.severity for row in rows]
    assert [severities.count(one) for one in SxidSeverity] == [30, 42, 21]
    assert {row.code for row in rows if row.stalls} == {11004, 12028, 19084}


def test_it_has_the_95_nvlink_5_rules_three_of_them_with_a_promotion() -> None:
    rules = catalogue().nvlink5
    assert len(json.loads(FILE)["nvlink5"]) == 95
    assert len(rules) == 98
    assert {rule.code for rule in rules} == set(range(144, 151))


def test_a_product_reads_its_column() -> None:
    data = catalogue()
    assert dict(data.columns) == {Product.H200: "H100", Product.B200: "B100"}
    only_h200 = {code for code, row in data.xid.items() if not data.applies(row, Product.B200)} - {93, 121, 142}
    assert {74, 80, 136} <= only_h200
    only_b200 = {code for code, row in data.xid.items() if not data.applies(row, Product.H200)}
    assert {*range(126, 136), *range(144, 151), 155, *range(159, 167)} <= only_b200


def test_a_bit_pattern_reads_like_nvidias() -> None:
    pattern = BitPattern.of("------100101----------0111000110")
    assert pattern.matches(0x025525C6)
    assert not pattern.matches(0x004525C6)


def test_what_is_missing_and_what_has_no_action_is_told_and_nothing_else() -> None:
    found = list(gaps(catalogue()))
    missing = [gap.subject for gap in found if gap.kind is GapKind.MISSING]
    assert missing == [f"XID {code}" for code in range(177, 185)]
    no_action = {gap.subject for gap in found if gap.kind is GapKind.NO_ACTION}
    assert no_action == {f"XID {code}" for code in (167, 169, 173, 174, 175, 176, 185)}
    assert {gap.kind for gap in found} == {GapKind.MISSING, GapKind.NO_ACTION}


def test_mistakes_in_the_file_are_found() -> None:
    def kinds(old: str, new: str) -> set[tuple[str, str]]:
        assert old in FILE
        return {(gap.subject, gap.kind) for gap in gaps(read_catalogue(FILE.replace(old, new, 1)))}

    assert ("XID 63", "contradiction") in kinds('"reason": "the remapped row', '"because": "the remapped row')
    assert ("XID 163", "contradiction") in kinds('"source": "xid-live"', '"source": "hearsay"')
    assert ("XID 46", "no-text") in kinds('"code": 46, "mnemonic": "', '"code": 46, "mnemonic": "", "was": "')
    data = catalogue()
    twice = replace(data, nvlink5=(*data.nvlink5, replace(data.nvlink5[0], immediate="RESET_GPU")))
    assert any(gap.kind is GapKind.CONTRADICTION and gap.subject.startswith("XID 144") for gap in gaps(twice))
    twice = replace(data, nvlink4=(*data.nvlink4, replace(data.nvlink4[0], drain=Drain.NOW)))
    expected = Gap(kind=GapKind.CONTRADICTION, subject="XID 74 register 1", text="bit 0 is in two rules")
    assert expected in list(gaps(twice))


def test_every_row_names_a_source_with_the_day_it_was_read() -> None:
    data = catalogue()
    assert {row.source for row in data.xid.values()} | {"sxid"} == set(data.sources)
    assert all(source.read >= "2026-11-22" and source.url.startswith("https://") for source in data.sources.values())
    assert data.version == max(source.read for source in data.sources.values())


def test_the_command_shows_rows_rules_gaps_and_sources() -> None:
    everything = show()
    assert "ROBUST_CHANNEL_GPU_HAS_FALLEN_OFF_THE_BUS" in everything
    assert "nverror.h" in everything
    one = show("79")
    assert "RESTART_BM" in one
    assert "2026-11-27" in one
    assert "INVESTIGATE_PEER_DEVICE" in show("149")
    assert "mechanical" in show("74")
    assert "LTSSM" in show("20034")
    assert "XID 177" in show("--check")
    assert json.loads(show("--json"))["xid"]["63"]["consequence"]["drain"] == "when_idle"
    assert json.loads(show("--json", "20034"))["sxid"]["severity"] == "fatal"
    assert {gap["kind"] for gap in json.loads(show("--check", "--json"))} == {"missing", "no-action"}
