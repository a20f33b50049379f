"""Submission as the caller: what is run, what comes of its answers, and the commands above it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence

import pytest
from click.testing import CliRunner

from slurm_gpuaas.cli.main import cli
from slurm_gpuaas.domain.errors import InvalidInput, NotFound, Unavailable
from slurm_gpuaas.jobs.submission import submit
from slurm_gpuaas.jobs.templates import Library
from slurm_gpuaas.slurm.protocols import SlurmRefused, SlurmUnavailable

TRES = "cpu=16,mem=1G,node=1,billing=16,gres/gpu=8,gres/gpu:b200=8"
QUEUED = "".join(
    f"{field:<40}|" for field in ("nlp", "guaranteed-nlp", "b200-gov", TRES, "1", "1:00:00", "PENDING", "Licenses")
)


class Slurm:
    """Answers as sbatch and squeue do, and remembers what was run."""

    def __init__(self, *, sbatch: tuple[int, str, str] = (0, "17;mini\n", ""), squeue: str | None = None) -> None:
        self._sbatch = sbatch
        self._squeue = squeue or f"{QUEUED}\n"
        self.ran: list[tuple[list[str], str]] = []

    def __call__(self, argv: Sequence[str], *, input: str, **options: object) -> subprocess.CompletedProcess[str]:
        assert options == {"capture_output": True, "text": True, "check": False}
        self.ran.append((list(argv), input))
        code, out, err = self._sbatch if argv[0] == "sbatch" else (0, self._squeue, "")
        return subprocess.CompletedProcess(argv, code, out, err)


SINGLE = Library().get("single-node")
VALUES = {"command": "true"}


def test_the_script_goes_in_on_standard_input_and_the_decision_comes_back() -> None:
    slurm = Slurm()
    submission = submit(SINGLE, VALUES, run=slurm)
    assert slurm.ran[0] == (["sbatch", "--parsable"], SINGLE.render(VALUES))
    assert submission.job == 17
    assert submission.decided.qos == "guaranteed-nlp"
    assert submission.decided.reason == "Licenses"
    assert submission.decided.gpus == "b200:8"


def test_a_wrong_parameter_submits_nothing() -> None:
    slurm = Slurm()
    with pytest.raises(InvalidInput):
        submit(SINGLE, {"command": "true", "gpus": "0"}, run=slurm)
    assert slurm.ran == []


def test_the_hooks_sentence_reaches_the_user_without_sbatchs_wrapping() -> None:
    refusal = "sbatch: error: The job asks for 9 GPUs; use 8.\nsbatch: error: Batch job submission failed: policy\n"
    with pytest.raises(SlurmRefused) as raised:
        submit(SINGLE, VALUES, run=Slurm(sbatch=(1, "", refusal)))
    assert str(raised.value) == "The job asks for 9 GPUs; use 8. Batch job submission failed: policy"


def test_an_unreachable_controller_is_told_apart_from_a_refusal() -> None:
    stderr = "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)\n"
    with pytest.raises(SlurmUnavailable):
        submit(SINGLE, VALUES, run=Slurm(sbatch=(1, "", stderr)))


def test_a_machine_without_slurm_is_told_so() -> None:
    def missing(*args: object, **options: object) -> subprocess.CompletedProcess[str]:
        raise FileNotFoundError

    with pytest.raises(Unavailable, match="no sbatch"):
        submit(SINGLE, VALUES, run=missing)


def invoke(*words: str) -> str:
    result = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_template_commands_need_no_slurm() -> None:
    assert [row["name"] for row in json.loads(invoke("template", "list", "--json"))] == Library().names()
    assert "torchrun" in invoke("template", "list")
    shown = json.loads(invoke("template", "show", "torchrun", "--json"))
    nodes = {"help": "Whole nodes.", "default": 2, "type": "integer", "min": 1, "max": 2048}
    assert shown["parameters"]["nodes"] == nodes
    assert "--checkpoint-lead" in invoke("template", "show", "torchrun")
    assert invoke("template", "render", "single-node", "--command", "true") == SINGLE.render(VALUES)


def test_a_dry_run_prints_the_script_and_submits_nothing() -> None:
    words = ("job", "submit", "single-node", "--command", "true", "--dry-run")
    assert invoke(*words) == SINGLE.render(VALUES)
    assert json.loads(invoke(*words, "--json")) == {"template": "single-node", "script": SINGLE.render(VALUES)}


def test_help_comes_from_the_manifest() -> None:
    text = invoke("job", "submit", "torchrun", "--help")
    for words in ("--script PATH", "[required]", "--placement gate|off", "--dry-run"):
        assert words in text


def test_an_unknown_template_names_those_there_are() -> None:
    with pytest.raises(NotFound, match="single-node"):
        CliRunner().invoke(cli, ["job", "submit", "nope"], catch_exceptions=False)
