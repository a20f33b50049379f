"""`gpuaas pool size` and `gpuaas pool idle` as a person types them."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path

import pytest

from slurm_gpuaas.cli.main import main
from slurm_gpuaas.domain.errors import ExitCode

WORKLOAD = """\
kind: pre-training
model: b200
parameters: 8.0e+9
tokens: 1.0e+12
period_days: 60
"""


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["pool", *words])
    shown = capsys.readouterr()
    return int(str(ended.value.code)), shown.out, shown.err


@pytest.fixture
def uses(tmp_path: Path) -> str:
    file = tmp_path / "uses.csv"
    rows = [
        f"{name},{date(2026, 5, 6) + timedelta(days=n)},32,{hours},{hours},{gpus},2027-05-05"
        for n in range(100)
        for name, hours, gpus in (("idle", 0, 0), ("busy", 700, 32))
    ]
    file.write_text("grant,day,gpus,allocated_gpu_hours,busy_gpu_hours,peak_gpus,ends\n" + "\n".join(rows) + "\n")
    return str(file)


def test_size_says_how_many_and_how_it_was_worked_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "workload.yaml"
    file.write_text(WORKLOAD)
    code, out, _ = run(capsys, "size", "--file", str(file))
    assert code == ExitCode.OK
    assert "16 GPUs (16 to 32)" in out
    assert "GPUs = FLOPs / (peak x MFU x ETTR x in use x seconds)" in out
    assert "arXiv 2001.08361" in out
    code, out, _ = run(capsys, "size", "--file", str(file), "--json")
    answer = json.loads(out)
    assert (answer["gpus"], answer["low"], answer["high"], answer["least"]) == (16, 16, 32, 1)
    assert {"name", "value", "low", "high", "unit", "origin", "source"} == set(answer["figures"][0])


def test_size_names_the_line_of_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "workload.yaml"
    file.write_text(WORKLOAD + "gpu: 8\n")
    code, _, err = run(capsys, "size", "--file", str(file))
    assert code == ExitCode.INVALID
    assert "line 6, gpu: there is no such field" in err
    file.write_text(WORKLOAD.replace("8.0e+9", "1.0e+14"))
    code, _, err = run(capsys, "size", "--file", str(file))
    assert code == ExitCode.REFUSED
    assert "at most 256 are offered" in err


def test_idle_says_who_is_warned_and_what_is_freed(
    uses: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "idle", "--uses", uses, "--dry-run")
    assert code == ExitCode.OK
    assert out.splitlines()[-1].split()[:6] == ["2026-07-03", "idle", "32", "0", "1,344", "0"]
    rules = tmp_path / "rules.yaml"
    rules.write_text("version: '2'\nramp_up_days: 0\n")
    code, out, _ = run(capsys, "idle", "--uses", uses, "--rules", str(rules), "--dry-run", "--json")
    answer = json.loads(out)
    assert [step["to"] for step in answer["steps"]] == ["notice", "warning", "final-warning", "recall"]
    assert [hit["day"] for hit in answer["hits"]] == ["2026-06-15"]


def test_idle_acts_on_no_files(uses: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "idle", "--uses", uses)
    assert code == ExitCode.INVALID
    assert "Add --dry-run" in err
