"""Driver and worker of pyslurm, without Slurm: the worker's process is real, what it finds of pyslurm is told here."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from slurm_gpuaas.domain.jobs import JobId, JobState
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.nodes import NodeFlag
from slurm_gpuaas.slurm.protocols import SlurmRefused, SlurmUnavailable
from slurm_gpuaas.slurm.pyslurm_driver import Backoff, NotByThisDriver, PyslurmController
from slurm_gpuaas.slurm.pyslurm_worker import JOB_FIELDS, Failed, Operations, _job, read_frame, serve, write_frame

NODE = NodeName("b200-01")

STAND_IN = """
class RPCError(Exception):
    def __init__(self, errno, msg):
        super().__init__(msg)
        self.errno = errno
class Node:
    def __init__(self, name=None, **change):
        self.name, self.change = name, change
        self.state, self.reason = "MIXED+DRAIN", "gpuaas:1: \\ud55c\\uae00"
        self.configured_gres, self.allocated_gres = {"gpu:b200": 8}, {"gpu": 3, "gpu:b200": 3}
        self.boot_time = None
class Nodes(dict):
    @staticmethod
    def load():
        return Nodes({"b200-01": Node("b200-01")})
    def modify(self, change):
        import os, sys, time
        reason = change.change.get("reason", "")
        print("libslurm says something on stdout", flush=True)
        os.system("echo and a program does too")
        if reason == "die": os._exit(3)
        if reason == "hang": time.sleep(60)
        if reason == "bug": raise KeyError("not of Slurm")
        if reason == "no": raise RPCError(2018, "Invalid node name specified")
        if reason == "away": raise RPCError(1800, "Unable to contact slurm controller")
class Config:
    version = "26.05.5"
    @staticmethod
    def load():
        return Config()
class slurmctld:
    Config = Config
__version__ = "25.11.2"
"""


class Supervised:
    """A driver whose worker imports a stand-in for pyslurm, and its clock."""

    def __init__(self, folder: Path, *, timeout: float = 10) -> None:
        self.now = 0.0
        module = folder / "pyslurm.py"
        if not module.exists():
            module.write_text(STAND_IN)
        environment = {**os.environ, "PYTHONPATH": f"{folder}:{Path(__file__).parents[3]}"}
        self.driver = PyslurmController(environment=environment, timeout=timeout, monotonic=lambda: self.now)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Supervised]]:
    made: list[Supervised] = []

    def one(**options: Any) -> Supervised:
        made.append(Supervised(tmp_path, **options))
        return made[-1]

    yield one
    for each in made:
        each.driver.close()


def test_the_worker_starts_with_the_first_call_and_is_asked_for_its_versions(make: Callable[..., Supervised]) -> None:
    driver = make().driver
    assert driver.worker_pid is None
    node = driver.nodes()[0]
    assert (node.name, node.flags, node.reason) == ("b200-01", NodeFlag.DRAIN, "gpuaas:1: 한글")
    assert (node.model, node.gpus, node.gpus_allocated) == ("b200", 8, 3)
    versions = driver.versions()
    assert (versions.pyslurm, versions.slurm) == ("25.11.2", "26.05.5")


def test_what_libslurm_prints_is_no_answer(make: Callable[..., Supervised]) -> None:
    driver = make().driver
    driver.drain([NODE], "fine")
    driver.drain([NODE], "fine")
    assert len(driver.nodes()) == 1


def test_slurms_no_is_a_refusal_and_the_worker_lives_on(make: Callable[..., Supervised]) -> None:
    driver = make().driver
    with pytest.raises(SlurmRefused, match="Invalid node name"):
        driver.drain([NODE], "no")
    pid = driver.worker_pid
    driver.nodes()
    assert driver.worker_pid == pid


def test_slurmctld_away_is_unavailable_and_rests(make: Callable[..., Supervised]) -> None:
    supervised = make()
    with pytest.raises(SlurmUnavailable, match="Unable to contact"):
        supervised.driver.drain([NODE], "away")
    with pytest.raises(SlurmUnavailable, match="rests"):
        supervised.driver.nodes()
    supervised.now += 1
    assert len(supervised.driver.nodes()) == 1


@pytest.mark.parametrize(("reason", "said"), [("die", "exit status 3"), ("bug", "KeyError")])
def test_a_worker_that_ends_is_unavailable_and_started_again(
    make: Callable[..., Supervised], reason: str, said: str
) -> None:
    supervised = make()
    with pytest.raises(SlurmUnavailable, match=said):
        supervised.driver.drain([NODE], reason)
    assert supervised.driver.worker_pid is None
    supervised.now += 1
    assert len(supervised.driver.nodes()) == 1


def test_a_worker_that_is_late_is_killed(make: Callable[..., Supervised]) -> None:
    driver = make(timeout=0.3).driver
    driver.versions()
    pid = driver.worker_pid
    assert pid
    with pytest.raises(SlurmUnavailable, match="in time"):
        driver.drain([NODE], "hang")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_worker_killed_between_calls_is_noticed_by_the_next(make: Callable[..., Supervised]) -> None:
    driver = make().driver
    driver.nodes()
    assert driver.worker_pid
    os.kill(driver.worker_pid, signal.SIGKILL)
    with pytest.raises(SlurmUnavailable, match=r"exit status -9|Broken pipe"):
        driver.nodes()


def test_no_pyslurm_says_so(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    driver = PyslurmController(
        [sys.executable, "-S", "-m", "slurm_gpuaas.slurm.pyslurm_worker"], environment=environment
    )
    with pytest.raises(SlurmUnavailable, match="No module named 'pyslurm'"):
        driver.nodes()
    driver.close()


def test_no_program_says_so() -> None:
    driver = PyslurmController(["/nonexistent/python"])
    with pytest.raises(SlurmUnavailable, match="cannot be started"):
        driver.nodes()


def test_rests_double_up_to_the_longest_and_end_with_a_success() -> None:
    backoff = Backoff(first=1, longest=8)
    waits = []
    for _ in range(6):
        backoff.failed(100.0)
        waits.append(backoff.not_before - 100)
    assert waits == [1, 2, 4, 8, 8, 8]
    backoff.succeeded()
    assert backoff.not_before == 0


class Told(Operations):
    """Operations that do as told."""

    def __init__(self) -> None:
        self._slurm: Any = type("pyslurm", (), {"RPCError": type("RPCError", (Exception,), {})})

    def version(self) -> str:
        return "26.05.5"

    def nodes(self) -> list[tuple[object, ...]]:
        raise Failed("unsupported", "no words")


def test_the_worker_answers_requests_until_the_driver_hangs_up() -> None:
    requests, answers = io.BytesIO(), io.BytesIO()
    write_frame(requests, {"op": "version"})
    write_frame(requests, {"op": "nodes", "args": {}})
    requests.write(b"\x00\x00")  # hung up in the middle of a frame
    requests.seek(0)
    serve(requests, answers, Told)
    answers.seek(0)
    assert read_frame(answers) == b'{"ok":"26.05.5"}'
    assert read_frame(answers) == b'{"error":"unsupported","message":"no words","code":0}'
    assert read_frame(answers) is None


class JobOfPyslurm:
    """A job as pyslurm shows it."""

    def __init__(self, **shown: object) -> None:
        self._shown = shown

    def __getattr__(self, name: str) -> object:
        return self._shown.get(name)


@pytest.mark.parametrize(
    ("attribute", "field"),
    [
        ("name", "name"),
        ("admin_comment", "admin_comment"),
        ("state_reason", "reason"),
        ("licenses", "licenses"),
        ("required_nodes", "required_nodes"),
        ("excluded_nodes", "excluded_nodes"),
        ("constraints", "features"),
    ],
)
def test_a_text_that_is_not_utf_8_costs_its_bad_characters_only(attribute: str, field: str) -> None:
    class Undecoded(JobOfPyslurm):
        def __getattr__(self, name: str) -> object:
            return b"\xff\xfebad".decode() if name == attribute else super().__getattr__(name)

    row = _job(Undecoded(id=JobId(1), state="PENDING", user_id=0, num_nodes=1, priority=0, submit_time=1))
    assert dict(zip(JOB_FIELDS, row, strict=True))[field] == "\ufffd\ufffdbad"
    frame = io.BytesIO()
    write_frame(frame, [row, "\udcff"])
    frame.seek(0)
    assert "bad" in (read_frame(frame) or b"").decode()


@pytest.mark.parametrize(("restarts", "asked"), [(None, True), (1, True), (0, False)])
def test_a_job_that_was_requeued_since_it_was_seen_is_not_requeued(restarts: int | None, asked: bool) -> None:
    calls: list[str] = []

    class Job(JobOfPyslurm):
        @staticmethod
        def load(job: int) -> JobOfPyslurm:
            return JobOfPyslurm(state="RUNNING", requeue_count=1)

        def __init__(self, job: int) -> None:
            super().__init__(requeue=lambda: calls.append("requeue"))

    told = Told()
    told._slurm.Job = Job
    told.requeue(7, restarts)
    assert bool(calls) == asked


@pytest.mark.parametrize(
    ("shown", "state"),
    [
        ({"state": "CONFIGURING"}, "RUNNING"),
        ({"state": "EXPEDITING"}, "PENDING"),
        ({"state": "REQUEUE_HOLD"}, "PENDING"),
        ({"state": "COMPLETING", "run_time": 0}, "PENDING"),
        ({"state": "COMPLETING", "run_time": 9, "exit_code": 0}, "COMPLETED"),
        ({"state": "COMPLETING", "run_time": 9, "exit_code": 1}, "FAILED"),
        ({"state": "PREEMPTED"}, "PREEMPTED"),
    ],
)
def test_the_state_beneath_a_flag_is_told(shown: dict[str, object], state: str) -> None:
    row = _job(JobOfPyslurm(id=JobId(1), user_id=0, num_nodes=1, priority=0, submit_time=1, **shown))
    assert row[6] == JobState(state)


def test_what_pyslurm_cannot_ask_is_told_apart_from_a_failure() -> None:
    assert issubclass(NotByThisDriver, SlurmUnavailable)
