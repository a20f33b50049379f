"""The bench: a group that fails is named, and costs no other group its rows."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from slurm_gpuaas.testbed.errors import CommandFailed
from slurm_gpuaas.testbed.progress import SilentProgress
from tests.bench.__main__ import Measured
from tests.bench.model import BenchContext, BenchRow


def row(name: str) -> BenchRow:
    return BenchRow.of_figure(name, [1.0], unit="s")


def fails(context: BenchContext) -> list[BenchRow]:
    raise CommandFailed(["sync_runner"], 1, "", "slurmctld is gone")


def misses_its_claim(context: BenchContext) -> list[BenchRow]:
    raise AssertionError("b200-001 was not drained within 20 s of its fault.")


def ends(context: BenchContext) -> list[BenchRow]:
    raise SystemExit(143)


def test_a_group_that_fails_is_named_and_the_others_have_their_rows(capsys: pytest.CaptureFixture[str]) -> None:
    measured = Measured()
    groups = {
        "health": misses_its_claim,
        "hook": lambda _: [row("hook_submit_ratio")],
        "sync": fails,
        "testbed": lambda _: [row("testbed_mini_up_s")],
    }
    measured.add(groups, BenchContext(SilentProgress()))
    assert [one.name for one in measured.rows] == ["hook_submit_ratio", "testbed_mini_up_s"]
    measured.tell(Console(file=StringIO()))
    told = capsys.readouterr().err
    assert "Error: group health failed and has no rows: b200-001 was not drained" in told
    assert "Error: group sync failed and has no rows: `sync_runner` failed (exit 1): slurmctld is gone" in told


def test_rows_before_an_end_from_outside_are_kept() -> None:
    measured = Measured()
    with pytest.raises(SystemExit):
        measured.add({"hook": lambda _: [row("hook_submit_ratio")], "sync": ends}, BenchContext(SilentProgress()))
    assert [one.name for one in measured.rows] == ["hook_submit_ratio"]
