"""`gpuaas pool award` as people and programs read it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from slurm_gpuaas.cli.main import main
from slurm_gpuaas.domain.errors import ExitCode

CALL = """
pools:
  - {name: kakao-gov, provider: kakao, share: government, model: b200, capacity: 64}
  - {name: kakao-own, provider: kakao, share: own, model: b200, capacity: 16}
applications:
  - {id: a1, organisation: snu, region: seoul, model: b200, gpus: 64, min_gpus: 32, score: 91.5, period: 6}
  - {id: a2, organisation: unist, region: ulsan, model: any, gpus: 16, min_gpus: 16, score: 88}
  - {id: a10, organisation: unist, region: ulsan, model: any, gpus: 16, min_gpus: 16, score: 88}
  - {id: a3, organisation: posco, region: pohang, model: b200, gpus: 16, min_gpus: 16, score: 50.5}
caps: {organisation: 48}
"""
Award = Callable[..., tuple[int, str, str]]


@pytest.fixture
def award(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Award:
    """`gpuaas pool award --scenario` with a text and options: code, output, errors."""

    def run(text: str, *options: str) -> tuple[int, str, str]:
        file = tmp_path / "call.yaml"
        file.write_text(text)
        with pytest.raises(SystemExit) as end:
            main(["pool", "award", "--scenario", str(file), *options])
        printed = capsys.readouterr()
        return int(end.value.code or 0), printed.out, printed.err

    return run


def test_json_has_awards_refusals_and_the_objective(award: Award) -> None:
    code, out, err = award(CALL, "--json")
    found = json.loads(out)
    assert (code, err) == (ExitCode.OK, "")
    assert found["awards"] == [
        {"id": "a1", "pool": "kakao-gov", "gpus": 48},
        {"id": "a2", "pool": "kakao-gov", "gpus": 16},
        {"id": "a10", "pool": "kakao-own", "gpus": 16},
    ]
    assert [sorted(one) for one in found["refused"]] == [["id", "why"]]
    assert found["objective"] == 48 * 91.5 + 32 * 88
    assert found["partial"][0]["why"] == "It asks for 64 GPUs; the cap organisation allows 48."


def test_a_file_in_json_is_read_as_well(award: Award) -> None:
    assert award(json.dumps({"pools": [], "applications": []}), "--json")[0] == ExitCode.OK


def test_people_read_tables(award: Award) -> None:
    code, out, _ = award(CALL)
    rows = [line.split() for line in out.splitlines()]
    assert code == ExitCode.OK
    assert ["a1", "kakao-gov", "48", "64"] in rows
    assert ["kakao-own", "b200", "16", "16", "0", "1"] in rows
    assert ["organisation", "snu", "48", "48"] in rows
    assert ["objective", "7,208"] in rows
    assert any(row[:1] == ["a3"] and "fits" in row for row in rows)


def test_what_if_says_who_gains_and_who_loses(award: Award) -> None:
    code, out, _ = award(CALL, "--must", "a3", "--cap", "organisation=none", "--json")
    found = json.loads(out)
    assert code == ExitCode.OK
    assert [(one["id"], one["gpus"]) for one in found["changes"]] == [("a1", 16), ("a2", -16), ("a3", 16), ("a10", -16)]
    assert (found["base_objective"], found["objective"]) == (7208, 64 * 91.5 + 16 * 50.5)
    rows = [line.split() for line in award(CALL, "--capacity", "kakao-own=32", "--without", "a2")[1].splitlines()]
    assert ["a2", "16", "in", "kakao-gov", "-", "loses", "-16"] in rows


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--without", "a9"], ExitCode.INVALID, "There is no application a9."),
        (["--capacity", "x=8"], ExitCode.INVALID, "There is no pool x."),
        (["--capacity", "kakao-gov=9999999"], ExitCode.INVALID, "pools.0.capacity: should be less than"),
        (["--capacity", "kakao-gov=none"], ExitCode.INVALID, "is not NAME=GPUS"),
        (["--cap", "moon=8"], ExitCode.INVALID, "There is no cap moon"),
        (["--must", "a1", "--cap", "organisation=8"], ExitCode.REFUSED, "Not all of a1 can be awarded"),
    ],
)
def test_options_that_cannot_be_are_said(award: Award, options: list[str], code: ExitCode, said: str) -> None:
    found, out, err = award(CALL, *options)
    assert (found, out) == (code, "")
    assert said in err


def test_a_fault_of_the_file_has_its_line(award: Award) -> None:
    code, _, err = award(CALL.replace("gpus: 64, ", "gpus: 0, "))
    assert code == ExitCode.INVALID
    assert "line 6, applications.0.gpus: should be greater than or equal to 1" in err
