"""Templates on real Slurm: submitted by a researcher's own command, preempted, stopped before the end, resumed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from slurm_gpuaas.domain.policy import DOCUMENT, PolicyDocument
from slurm_gpuaas.testbed.instance import Instance
from tests.slurm.applied import applied, cancel_all
from tests.slurm.training import STAND_IN_LAUNCHER, STAND_IN_SCRIPT, launcher_and_script

pytestmark = pytest.mark.slurm

GOLDEN = Path(__file__).parents[1] / "unit" / "jobs" / "golden"


def policy() -> list[PolicyDocument]:
    """Two nodes: `owner` is guaranteed all of them, `borrower` may only borrow."""
    grant = {"kind": "Grant", "pool": "mini", "share": "gov", "starts": date(2020, 1, 1), "ends": date(2098, 12, 31)}
    rows: list[dict[str, Any]] = [
        {"kind": "Organisation", "name": "univ"},
        {"kind": "Project", "name": "owner", "organisation": "univ"},
        {"kind": "Project", "name": "borrower", "organisation": "univ"},
        {"kind": "Member", "project": "owner", "user": "bob"},
        {"kind": "Member", "project": "borrower", "user": "alice"},
        {"kind": "Pool", "name": "mini", "cluster": "mini", "model": "b200",
         "shares": [{"name": "gov", "nodes": "b200-[01-02]"}]},
        {**grant, "name": "grant-owner", "project": "owner", "gpus": 16},
        {**grant, "name": "grant-borrower", "project": "borrower", "gpus": 0, "borrow_limit": 16},
    ]  # fmt: skip
    return [DOCUMENT.validate_python(row) for row in rows]


@pytest.fixture(scope="module")
def in_force(mini: Instance) -> Iterator[None]:
    with applied(mini, policy()):
        yield


class Training:
    """A job of the torchrun template, as its user sees it."""

    def __init__(self, mini: Instance, user: str, *options: str) -> None:
        self._mini, self._user = mini, user
        words = ["gpuaas", "job", "submit", "torchrun", "--json", "--placement", "off", "--processes", "1", *options]
        self.submitted = json.loads(mini.exec(words, user=user).stdout)
        self.id: int = self.submitted["job_id"]

    @property
    def output(self) -> str:
        file = self._mini.path(f"/home/{self._user}/torchrun-{self.id}.out")
        return file.read_text() if file.exists() else ""

    def wait_for_output(self, pattern: str, *, seconds: float) -> re.Match[str]:
        def found() -> re.Match[str] | None:
            match = re.search(pattern, self.output, re.MULTILINE)
            assert match or "Traceback" not in self.output, self.output
            return match

        return self._mini.wait_for(f"{pattern!r} in {self.output!r}", found, seconds=seconds, every=0.2)

    def wait_for_state(self, *states: str, seconds: float = 60) -> dict[str, Any]:
        def reached() -> dict[str, Any] | None:
            answer = self._mini.exec(["scontrol", "show", "job", str(self.id), "--json"])
            job: dict[str, Any] = json.loads(answer.stdout)["jobs"][0]
            return job if set(states) & set(job["job_state"]) else None

        return self._mini.wait_for(f"Job {self.id} {'/'.join(states)}", reached, seconds=seconds, every=0.2)


@pytest.fixture
def clean(mini: Instance, in_force: None) -> Iterator[None]:
    yield
    cancel_all(mini)


STAND_IN = (*STAND_IN_LAUNCHER, "--script", STAND_IN_SCRIPT)


@pytest.fixture
def program(mini: Instance) -> tuple[str, ...]:
    launcher, script = launcher_and_script(mini)
    return *launcher, "--script", script


def test_training_survives_preemption(mini: Instance, clean: None, program: tuple[str, ...]) -> None:
    """Two nodes, borrowed: the owner comes, the job saves on USR2, waits its turn and goes on from where it was."""
    steps = ("--arguments", "--steps 300 --step-seconds 0.05 --checkpoint-every 1000")
    training = Training(mini, "alice", "--qos", "burst", "--time", "30", *steps, *program)
    assert training.submitted["qos"].startswith("burst-")
    training.wait_for_output(r"^start at step 0 of 300", seconds=150)
    assert "ranks 0=b200-01 1=b200-02" in training.output, "rank order is node order"

    owner = ["sbatch", "--parsable", "--output=/dev/null", "--nodes=2", "--gpus-per-node=8", "--time=5"]
    winner = mini.exec([*owner, "--wrap", "sleep 600"], user="bob").stdout.strip()
    stopped = int(training.wait_for_output(r"^stopped at step (\d+)", seconds=60)[1])
    assert 0 < stopped < 300
    mini.wait_for(
        "The owner runs", lambda: "RUNNING" in mini.exec(["squeue", "-h", "-o", "%T", "-j", winner]).stdout or None
    )
    job = training.wait_for_state("PENDING")
    assert job["restart_cnt"] == 1

    mini.exec(["scancel", winner], user="bob")
    training.wait_for_output(rf"^start at step {stopped} of 300", seconds=180)
    training.wait_for_output(r"^finished at step 300", seconds=90)
    training.wait_for_state("COMPLETED")


def test_usr2_before_the_time_limit_saves_and_requeues_up_to_the_cap(mini: Instance, clean: None) -> None:
    """The lead is longer than the run may be, so that Slurm sends USR2 as soon as it looks."""
    steps = ("--arguments", "--steps 100000 --step-seconds 0.02 --checkpoint-every 50")
    limits = ("--time", "10", "--checkpoint-lead", "3600", "--max-requeues", "1")
    training = Training(mini, "bob", *limits, *steps, *STAND_IN)
    first = int(training.wait_for_output(r"^stopped at step (\d+)", seconds=120)[1])
    training.wait_for_output(rf"^start at step {first} of 100000", seconds=60)
    mini.exec(
        ["scancel", "--batch", "--signal=USR2", str(training.id)], user="bob"
    )  # as Slurm would, half a minute later
    training.wait_for_output(rf"(?s)start at step {first} .*^stopped at step", seconds=120)
    training.wait_for_output(r"no more are allowed: the checkpoints stay in", seconds=30)
    training.wait_for_state("FAILED")


def test_usr2_to_the_steps_alone_saves_and_requeues_as_well(mini: Instance, clean: None) -> None:
    """As gpuaasd asks for a checkpoint before a job leaves a node (health.checkpoint)."""
    steps = ("--arguments", "--steps 200 --step-seconds 0.05 --checkpoint-every 1000")
    training = Training(mini, "bob", "--time", "10", *steps, *STAND_IN)
    training.wait_for_output(r"^start at step 0 of 200", seconds=60)
    mini.exec(["scancel", "--signal=USR2", str(training.id)], user="bob")
    stopped = int(training.wait_for_output(r"^stopped at step (\d+)", seconds=60)[1])
    training.wait_for_output(rf"^start at step {stopped} of 200", seconds=60)
    training.wait_for_output(r"^finished at step 200", seconds=60)
    assert training.wait_for_state("COMPLETED")["restart_cnt"] == 1


def test_a_damaged_checkpoint_is_passed_over(mini: Instance, clean: None) -> None:
    folder = "/home/bob/damaged"
    options = ("--time", "10", "--checkpoints", folder, *STAND_IN)
    training = Training(mini, "bob", *options, "--arguments", "--steps 100 --checkpoint-every 50")
    training.wait_for_output(r"^finished at step 100", seconds=60)
    newest = max(mini.path(folder).iterdir())
    newest.write_text("cut sho")
    again = Training(mini, "bob", *options, "--arguments", "--steps 120 --checkpoint-every 50")
    again.wait_for_output(r"is damaged: an older one is tried", seconds=60)
    again.wait_for_output(r"^start at step 50 of 120", seconds=60)
    again.wait_for_output(r"^finished at step 120", seconds=60)


def test_a_failing_script_fails_the_job_and_is_not_requeued(mini: Instance, clean: None) -> None:
    training = Training(mini, "bob", "--time", "10", *STAND_IN[:-1], "/no/such/script.py")
    job = training.wait_for_state("FAILED")
    assert job["restart_cnt"] == 0


def test_nccl_test_says_what_is_missing(mini: Instance, clean: None) -> None:
    words = ["gpuaas", "job", "submit", "nccl-test", "--json", "--time", "5", "--placement", "off"]
    job = json.loads(mini.exec(words, user="bob").stdout)["job_id"]
    output = mini.path("/home/bob") / f"nccl-test-{job}.out"
    mini.wait_for("nccl-test's words", lambda: (output.exists() and "nccl-tests" in output.read_text()) or None)
    assert "There is no program all_reduce_perf" in output.read_text()


def test_a_rendered_script_is_plain_sbatch(mini: Instance, clean: None) -> None:
    words = ["gpuaas", "template", "render", "single-node", "--command", "echo it works", "--time", "5"]
    script = mini.exec(words, user="bob").stdout
    job = mini.exec(["sbatch", "--parsable"], user="bob", stdin=script).stdout.strip()
    output = mini.path("/home/bob") / f"single-node-{job}.out"
    mini.wait_for("The job's output", lambda: (output.exists() and "it works" in output.read_text()) or None)


def test_a_refusal_reaches_the_user_as_one_sentence(mini: Instance, clean: None) -> None:
    words = ["gpuaas", "job", "submit", "single-node", "--command", "true"]
    refused = mini.exec(words, user="mallory", check=False)
    assert refused.returncode == 1
    assert refused.stderr.startswith("Error: User mallory is in no project")
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("golden", sorted(GOLDEN.glob("*.sh")), ids=lambda path: path.stem)
def test_shellcheck_finds_nothing(mini: Instance, golden: Path) -> None:
    checked = mini.exec(["shellcheck", "-"], stdin=golden.read_text(), check=False)
    assert checked.returncode == 0, checked.stdout
