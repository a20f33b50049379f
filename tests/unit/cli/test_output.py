"""Tables and single commands that need no daemon, on input that somebody else wrote."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from slurm_gpuaas.cli import output
from slurm_gpuaas.cli.main import main
from slurm_gpuaas.cli.output import print_table
from tests.unit.cli.conftest import Run

XID = "NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, name=[/x], GPU has fallen off the bus.\n"


def call(*args: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(args)
    return int(ended.value.code or 0)


def test_a_log_with_markup_in_it_is_decoded_and_its_table_is_not_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log").write_text(XID)
    assert call("xid", "decode", str(tmp_path / "log")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3, lines
    assert "[/x]" in lines[2]


def test_templates_in_a_pipe_are_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("template", "show", "torchrun", "--json") == 0
    parameters = json.loads(capsys.readouterr().out)["parameters"]
    assert call("template", "show", "torchrun") == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("--") for line in lines) == len(parameters)


def test_what_steers_a_terminal_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("node", "reason"), [("b200-001", "bad\x1b[2Jcable")], empty="")
    assert "\x1b" not in (out := capsys.readouterr().out)
    assert "bad\N{REPLACEMENT CHARACTER}[2Jcable" in out


def test_at_80_columns_ids_stay_whole(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "PIPE_WIDTH", 80)
    what = "XID 79 GPU has fallen off the bus, GPU 3 (0000:61:00)"
    row = ("i7690b68e67", "b200-007", "probation", "when_idle", datetime(2027, 1, 4, tzinfo=UTC), "alice (held)", what)
    print_table(("incident", "node", "state", "drain", "opened", "looked after by", "what"), [row], empty="")
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert all(word in out for word in ("i7690b68e67", "b200-007", "probation", "when_idle", "2027-01-04", "09:00:00"))
    assert "\N{HORIZONTAL ELLIPSIS}" not in out


def test_a_reason_that_is_too_short_is_one_sentence(run: Run) -> None:
    ran = run("node", "drain", "b200-001", "--reason", "x")
    assert ran.code == 3
    assert ran.err.startswith("Error: reason: should have at least 3 characters.")


@pytest.mark.parametrize("day", ["9999-12-31", "0001-01-01", "2027-02-30"])
def test_a_day_that_cannot_be_asked_about_is_refused(run: Run, day: str) -> None:
    for option in ("--from", "--to"):
        ran = run("usage", option, day)
        assert ran.code == 3
        assert "2027-01-31" in ran.err


def test_a_full_disk_is_one_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        argv = [sys.executable, "-m", "slurm_gpuaas.cli", "topology", "schema"]
        ended = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr == "Error: A file or the output: No space left on device.\n"


@pytest.mark.parametrize("name", ["../policy", "..", "a/b", ""])
def test_a_name_never_leads_to_another_path(run: Run, name: str) -> None:
    for words in (("node", "show", name), ("node", "resume", name), ("incident", "show", name)):
        ran = run(*words)
        assert ran.code == 3
        assert ran.out == ""
