"""One set of questions for every driver of the door, on real Slurm; scontrol and sacctmgr are the witnesses.

All of it on the newest Slurm; what slurmrestd answers on the oldest one that we support, too.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import httpx2
import pytest

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.jobs import Job, JobId, JobState
from slurm_gpuaas.domain.names import AccountName, GpuModel, NodeName, QosName, UserName
from slurm_gpuaas.domain.nodes import Node, NodeBase, NodeFlag
from slurm_gpuaas.slurm.connect import Door, DoorSettings, connect
from slurm_gpuaas.slurm.doctor import DaemonSeen, Level, examine, findings
from slurm_gpuaas.slurm.failover import FailoverController, InUse
from slurm_gpuaas.slurm.programs import program
from slurm_gpuaas.slurm.protocols import Controller, SlurmctldAway, SlurmRefused, SlurmUnavailable
from slurm_gpuaas.slurm.pyslurm_driver import NotByThisDriver, PyslurmController
from slurm_gpuaas.slurm.records import (
    Account,
    AccountingJob,
    AccountingState,
    JobChange,
    Qos,
    Reservation,
    UserAssociation,
)
from slurm_gpuaas.slurm.rest_accounting import RestAccounting
from slurm_gpuaas.slurm.rest_driver import RestController
from slurm_gpuaas.slurm.rest_wire import RestWire
from slurm_gpuaas.testbed import boot
from slurm_gpuaas.testbed.instance import Instance
from slurm_gpuaas.testbed.releases import DEFAULT, RELEASES
from tests.slurm.door import door_settings

pytestmark = pytest.mark.slurm

T = TypeVar("T")

PARTITION = "conformance"
ACCOUNT = "conformance"
USER = "heidi"
HOSTILE = 'gpuaas:7: XID "79" \'; drop table -- $(id) `id` \\ %s 한글 서울대학교'
"""A text that would do harm, or be harmed, where a string is pasted into another language."""


def until(what: str, condition: Callable[[], T], seconds: float = 40) -> T:
    """The first true value of `condition`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.05)
    return value


class Witness:
    """What Slurm's own commands say."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance

    def job(self, job: int) -> dict[str, str]:
        return self._fields(["show", "job", str(job)])

    def node(self, node: str) -> dict[str, str]:
        return self._fields(["show", "node", node])

    def reservation(self, name: str) -> dict[str, str]:
        """Empty when there is none."""
        done = self.instance.exec(["scontrol", "--oneliner", "show", "reservation", name], check=False)
        return {} if done.returncode else _fields(done.stdout)

    def accounting(self, *argv: str) -> list[list[str]]:
        """Rows of `sacctmgr show`."""
        out = self.instance.exec(["sacctmgr", "--noheader", "--parsable2", "show", *argv]).stdout
        return [line.split("|") for line in out.splitlines()]

    def _fields(self, argv: list[str]) -> dict[str, str]:
        return _fields(self.instance.exec(["scontrol", "--oneliner", *argv]).stdout)


def _fields(line: str) -> dict[str, str]:
    return dict(re.findall(r"(?:^|\s)([A-Za-z/:]+)=(.*?)(?=\s+[A-Za-z/:]+=|\s*$)", line.splitlines()[0]))


class Jobs:
    """Jobs of these tests; all are gone afterwards."""

    def __init__(self, instance: Instance, witness: Witness) -> None:
        self._instance = instance
        self._witness = witness

    def submit(self, *options: str, gpus: int = 8) -> JobId:
        argv = ["sbatch", "--parsable", "-o", "/dev/null", "-p", PARTITION, "-A", ACCOUNT, f"--gres=gpu:b200:{gpus}"]
        out = self._instance.exec([*argv, *options, "--wrap", "exec sleep 600"], user=USER, cwd="/tmp").stdout
        return JobId(int(out.strip().partition(";")[0]))

    def running(self, *options: str, gpus: int = 8) -> JobId:
        job = self.submit(*options, gpus=gpus)
        self.wait(job, "RUNNING")
        return job

    def wait(self, job: JobId, state: str) -> None:
        until(f"job {job} {state}", lambda: self._witness.job(job)["JobState"] == state)

    def end_all(self) -> None:
        def empty() -> bool:
            self._instance.exec(["scancel", "--user", USER])  # again: Slurm spares a job that is just being requeued
            return not self._instance.exec(["squeue", "--noheader", "--format=%A", "--user", USER]).stdout.strip()

        until("an empty queue", empty)


# ---------------------------------------------------------------------- what every test stands on

NEEDS_PYSLURM = pytest.mark.pyslurm
DRIVERS = ("pyslurm", "slurmrestd", "failover")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test on every release and with every driver that it has: without pyslurm it has slurmrestd alone."""
    for fixture, drivers in (("controller", DRIVERS), ("creator", DRIVERS[1:])):
        if fixture in metafunc.fixturenames:
            pairs = [
                (slurm, driver)
                for slurm, release in RELEASES.items()
                for driver in drivers
                if release.pyslurm or driver == "slurmrestd"
            ]
            metafunc.parametrize(("mini", fixture), pairs, indirect=True, scope="module")
            return
    worker = metafunc.definition.get_closest_marker("pyslurm")
    releases = [slurm for slurm, release in RELEASES.items() if release.pyslurm or not worker]
    metafunc.parametrize("mini", releases, indirect=True, scope="module")


@pytest.fixture(scope="module")
def mini(request: pytest.FixtureRequest, minis: Callable[[str], Instance]) -> Instance:
    return minis(request.param)


@pytest.fixture(scope="module")
def tenant(mini: Instance) -> Iterator[None]:
    """A partition over all nodes, and an account whose user may use it."""
    partitions = mini.path("/etc/slurm/gpuaas/partitions.conf")
    before = partitions.read_text()
    partitions.write_text(f"{before}PartitionName={PARTITION} Nodes=ALL MaxTime=INFINITE State=UP\n")
    mini.exec(["scontrol", "reconfigure"])
    mini.exec(["sacctmgr", "--immediate", "add", "account", ACCOUNT])
    mini.exec(["sacctmgr", "--immediate", "add", "user", USER, f"account={ACCOUNT}"])
    yield
    mini.exec(["sacctmgr", "--immediate", "delete", "user", USER])
    mini.exec(["sacctmgr", "--immediate", "delete", "account", ACCOUNT])
    partitions.write_text(before)
    mini.exec(["scontrol", "reconfigure"])


@pytest.fixture(scope="module")
def settings(mini: Instance) -> Iterator[DoorSettings]:
    with door_settings(mini, name="conformance") as found:
        yield found


@pytest.fixture(scope="module")
def door(settings: DoorSettings) -> Iterator[Door]:
    opened = connect(settings)
    yield opened
    opened.close()


@pytest.fixture
def witness(mini: Instance) -> Witness:
    return Witness(mini)


@pytest.fixture
def jobs(mini: Instance, tenant: None, witness: Witness) -> Iterator[Jobs]:
    started = Jobs(mini, witness)
    yield started
    started.end_all()


@pytest.fixture(scope="module")
def rest(door: Door, settings: DoorSettings) -> RestController:
    return RestController(door.wire, scontrol=program(settings.scontrol))


@pytest.fixture(scope="module")
def controller(request: pytest.FixtureRequest, door: Door, rest: RestController) -> Controller:
    if request.param == "pyslurm":
        assert door.pyslurm
        return door.pyslurm
    return rest if request.param == "slurmrestd" else door.controller


def job_of(controller: Controller, job: JobId) -> Job:
    return next(one for one in controller.jobs() if one.id == job)


def node_of(controller: Controller, node: NodeName) -> Node:
    return next(one for one in controller.nodes() if one.name == node)


@pytest.fixture
def drained(mini: Instance) -> Iterator[list[NodeName]]:
    """Two nodes that are back in service afterwards."""
    nodes = [NodeName("b200-05"), NodeName("b200-06")]
    yield nodes
    for node in nodes:
        mini.exec(["scontrol", "update", f"nodename={node}", "state=resume"], check=False)


# ---------------------------------------------------------------------- nodes


def test_version_is_slurms(controller: Controller, mini: Instance) -> None:
    assert mini.exec(["scontrol", "--version"]).stdout.split() == ["slurm-wlm", controller.version()]


def test_nodes_show_state_and_gpus_as_scontrol_does(controller: Controller, jobs: Jobs, witness: Witness) -> None:
    jobs.running("-w", "b200-02", gpus=8)
    jobs.running("-w", "b200-03", gpus=3)
    nodes = {node.name: node for node in controller.nodes()}
    assert sorted(nodes) == [f"b200-0{n}" for n in range(1, 9)]
    for name, node in nodes.items():
        said = witness.node(name)
        words = set(said["State"].split("+"))
        assert node.base in words
        assert node.draining == ("DRAIN" in words)
        assert (node.model, node.gpus) == (GpuModel("b200"), 8)
        used = re.search(r"gres/gpu=(\d+)", said["AllocTRES"])
        assert node.gpus_allocated == (int(used[1]) if used else 0)
    assert (nodes[NodeName("b200-02")].gpus_allocated, nodes[NodeName("b200-03")].gpus_allocated) == (8, 3)


def test_drain_keeps_the_reason_whole_and_running_jobs(
    controller: Controller, jobs: Jobs, witness: Witness, drained: list[NodeName]
) -> None:
    job = jobs.running("-w", drained[0])
    controller.drain(drained, HOSTILE)
    controller.drain(drained, HOSTILE)  # asked twice is one state
    for name in drained:
        said = witness.node(name)
        assert "DRAIN" in said["State"]
        assert said["Reason"].startswith(f"{HOSTILE} [gpuaas@")
    assert "DRAIN" not in witness.node("b200-07")["State"]
    assert witness.job(job)["JobState"] == "RUNNING"
    states = {node.name: node for node in controller.nodes()}
    assert all(states[name].drained_by_us and states[name].reason == HOSTILE for name in drained)
    assert (states[drained[0]].drained, states[drained[1]].drained) == (False, True)


def test_a_drain_needs_a_reason(controller: Controller, witness: Witness) -> None:
    with pytest.raises(SlurmRefused, match="reason"):
        controller.drain([NodeName("b200-05")], "")
    assert "DRAIN" not in witness.node("b200-05")["State"]


def test_resume_puts_back_what_is_out_and_leaves_the_rest(
    controller: Controller, witness: Witness, drained: list[NodeName]
) -> None:
    controller.drain(drained[:1], HOSTILE)
    controller.resume(drained)  # the second was never out
    controller.resume(drained)
    for name in drained:
        until(f"{name} idle", lambda name=name: witness.node(name)["State"] == "IDLE")  # type: ignore[misc]


def test_unknown_nodes_are_refused(controller: Controller) -> None:
    with pytest.raises(SlurmRefused, match=r"nix-1|[Ii]nvalid node"):
        controller.drain([NodeName("nix-1")], HOSTILE)
    with pytest.raises(SlurmRefused, match="nix-1"):
        controller.resume([NodeName("nix-1")])


def test_a_node_whose_daemon_is_silent_is_not_usable(controller: Controller, mini: Instance, witness: Witness) -> None:
    mini.exec(["scontrol", "update", "nodename=b200-08", "state=down", "reason=test"])
    node = next(node for node in controller.nodes() if node.name == "b200-08")
    assert (node.base, node.usable, node.free_gpus) == (NodeBase.DOWN, False, 0)
    controller.resume([NodeName("b200-08")])
    until("b200-08 idle", lambda: witness.node("b200-08")["State"] == "IDLE")
    assert next(node for node in controller.nodes() if node.name == "b200-08").flags is NodeFlag.NONE


# ---------------------------------------------------------------------- jobs


def test_jobs_are_told_with_everything_that_decisions_need(
    controller: Controller, jobs: Jobs, witness: Witness
) -> None:
    running = jobs.running("-w", "b200-[01-02]", "-N2", "--time=90", "--requeue", "-J", "train 한글", gpus=4)
    later = "--begin=now+1hour"
    waiting = jobs.submit("-N3", later, "-L", "placement:1", "-w", "b200-04", "-x", "b200-08", "--no-requeue")
    witness.instance.exec(["scontrol", "update", "nodename=b200-07", "availablefeatures=new"])
    featured = jobs.submit("--constraint=new", later)
    array = jobs.submit("--array=1-3", later, gpus=1)

    job = job_of(controller, running)
    said = witness.job(running)
    assert (job.name, job.user, job.account, job.qos) == ("train 한글", USER, ACCOUNT, "normal")
    assert (job.partition, job.state, job.nodes) == (PARTITION, JobState.RUNNING, ("b200-01", "b200-02"))
    assert (job.node_count, job.gpus, job.model, job.requeue, job.restarts) == (2, 8, "b200", True, 0)
    assert job.time_limit == timedelta(minutes=90)
    assert job.started and f"{job.started:%Y-%m-%dT%H:%M:%S}" == said["StartTime"]
    assert f"{job.submitted:%Y-%m-%dT%H:%M:%S}" == said["SubmitTime"]
    assert job.required_nodes == ("b200-01", "b200-02")
    assert (job.excluded_nodes, job.features, job.chooses) == ((), "", True)

    job = job_of(controller, waiting)
    assert (job.state, job.reason, job.nodes, job.started) == (JobState.PENDING, "BeginTime", (), None)
    assert (job.node_count, job.gpus, job.licenses, job.requeue) == (3, 24, "placement:1", False)
    assert job.eligible and job.eligible > datetime.now(UTC) + timedelta(minutes=50)
    assert (job.required_nodes, job.excluded_nodes, job.chooses) == (("b200-04",), ("b200-08",), True)

    job = job_of(controller, featured)
    assert (job.features, job.chooses) == ("new", True)
    witness.instance.exec(["scontrol", "update", "nodename=b200-07", "activefeatures=", "availablefeatures="])

    job = job_of(controller, array)
    assert (job.array_job_id, job.gpus) == (array, 1)


def test_bytes_of_a_tenant_that_are_no_text_cost_those_characters_only(
    controller: Controller, door: Door, jobs: Jobs
) -> None:
    before = datetime.now(UTC) - timedelta(seconds=5)
    bad = os.fsdecode(b"\xff\xfebad\xe2\x82")
    named = jobs.submit("-J", bad, gpus=1)
    commented = jobs.submit("-J", "commented", f"--comment={bad}", gpus=1)
    good = jobs.running("-J", "good", gpus=1)
    until("all running", lambda: all(job_of(controller, job).started for job in (good, named, commented)))
    names = {job.id: job.name for job in controller.jobs()}
    assert (names[good], names[commented]) == ("good", "commented")
    assert "bad" in names[named]
    assert "\ufffd" in names[named]
    assert door.driver == ("pyslurm" if door.pyslurm else "slurmrestd"), "nothing fell over"
    jobs.end_all()

    def ended() -> bool:
        runs = door.accounting.jobs_since(before, datetime.now(UTC) + timedelta(seconds=5))
        return {good, named, commented} <= {run.job_id for run in runs if run.ended}

    until("all three in slurmdbd", ended)


def test_requeue_queues_a_running_job_again_once(controller: Controller, jobs: Jobs, witness: Witness) -> None:
    job, node = jobs.running("--requeue", "--nodelist=b200-05"), NodeName("b200-05")
    controller.drain([node], "so that the job is still pending below")
    try:
        controller.requeue(job)
        until("the job pending", lambda: job_of(controller, job).state is JobState.PENDING)
        controller.requeue(job)  # pending already: left as it is
        assert witness.job(job)["Restarts"] == "1"
        assert job_of(controller, job).restarts == 1
    finally:
        controller.resume([node])
    jobs.wait(job, "RUNNING")
    controller.requeue(job, restarts=0)  # done already, and it runs again since
    assert witness.job(job)["Restarts"] == "1"
    assert job_of(controller, job).state is JobState.RUNNING


def test_what_is_asked_of_one_task_of_an_array_spares_the_others(controller: Controller, jobs: Jobs) -> None:
    array = jobs.submit("--requeue", "--array=1-3", gpus=1)
    tasks = until("three tasks", lambda: _running_tasks(controller, array))
    assert array in tasks, "the last of them has the array's own id"
    controller.requeue(array)
    until("that task requeued", lambda: job_of(controller, array).restarts == 1)
    try:
        controller.cancel(array)
        until("that task cancelled", lambda: job_of(controller, array).state is JobState.CANCELLED)
    except NotByThisDriver:
        assert isinstance(controller, PyslurmController), "which leaves it to slurmrestd"
    others = [job_of(controller, task) for task in tasks if task != array]
    assert [(job.restarts, job.state) for job in others] == [(0, JobState.RUNNING)] * 2


def _running_tasks(controller: Controller, array: JobId) -> list[JobId]:
    found = [job.id for job in controller.jobs() if job.array_job_id == array and job.state is JobState.RUNNING]
    return found if len(found) == 3 else []


def test_requeue_never_runs_a_finished_job_again(controller: Controller, jobs: Jobs, mini: Instance) -> None:
    job = jobs.running("--requeue")
    mini.exec(["scancel", str(job)])
    jobs.wait(job, "CANCELLED")
    with pytest.raises(SlurmRefused):
        controller.requeue(job)
    assert job_of(controller, job).state is JobState.CANCELLED


def test_a_signal_reaches_the_steps_of_a_job_and_not_its_script(
    mini: Instance, controller: Controller, jobs: Jobs, witness: Witness, tmp_path: Path
) -> None:
    name = f"/tmp/signal-{os.getpid()}-{tmp_path.name}"
    script = f"""#!/bin/bash
srun bash -c 'trap "touch {name}; exit 5" USR1; touch {name}.ready; while :; do sleep 0.1; done'
exit 7
"""
    options = ["-o", "/dev/null", "-p", PARTITION, "-A", ACCOUNT, "--gres=gpu:b200:8", "--no-requeue"]
    job = JobId(int(mini.exec(["sbatch", "--parsable", *options], stdin=script, user=USER, cwd="/tmp").stdout))
    until("the step runs", lambda: mini.path(f"{name}.ready").exists())
    controller.signal(job, "USR1")
    jobs.wait(job, "FAILED")
    assert mini.path(name).exists()
    assert job_of(controller, job).exit_code == 7
    controller.signal(job, "USR1")  # it runs no more


def test_a_reboot_leaves_a_node_down_under_our_reason(mini: Instance, controller: Controller, witness: Witness) -> None:
    node = NodeName("b200-07")
    before = node_of(controller, node).booted
    assert before is not None
    if isinstance(controller, PyslurmController):
        with pytest.raises(NotByThisDriver):
            controller.reboot(node, HOSTILE)
        return
    if mini.cluster.release.slurm != DEFAULT:
        pytest.skip("this Slurm does not tell RebootProgram which of a machine's nodes is meant")
    controller.drain([node], HOSTILE)
    controller.reboot(node, HOSTILE)
    until("it is back", lambda: (node_of(controller, node).booted or before) > before)
    seen = node_of(controller, node)
    assert (seen.base, seen.draining) == (NodeBase.DOWN, False)
    assert seen.reason.startswith(HOSTILE)
    controller.resume([node])
    until("it is in service", lambda: witness.node(node)["State"] == "IDLE")


def test_cancel_ends_a_job_and_leaves_an_ended_one(controller: Controller, jobs: Jobs, witness: Witness) -> None:
    job = jobs.running()
    controller.cancel(job)
    jobs.wait(job, "CANCELLED")
    controller.cancel(job)
    controller.cancel(JobId(99_999_999))  # ended and forgotten, for all we know
    assert job_of(controller, job).state is JobState.CANCELLED
    assert job_of(controller, job).state.ended


def test_one_update_opens_the_gate_and_pins_the_nodes(
    controller: Controller, jobs: Jobs, witness: Witness, mini: Instance
) -> None:
    gate = ["reservation=gate-test", "start=now", "duration=5", "users=root", "flags=LICENSE_ONLY"]
    mini.exec(["scontrol", "create", *gate, "licenses=placement:1000000"])
    try:
        job = jobs.submit("-L", "placement:1")
        until("the job waiting for its licence", lambda: job_of(controller, job).reason == "Licenses")
        controller.update_job(job, JobChange(licenses="", required_nodes=(NodeName("b200-07"),), admin_comment=HOSTILE))
        until("the job running", lambda: witness.job(job)["JobState"] == "RUNNING")
    finally:
        mini.exec(["scontrol", "delete", "reservation=gate-test"])
    said = witness.job(job)
    assert (said["NodeList"], said["Licenses"]) == ("b200-07", "(null)")
    assert job_of(controller, job).admin_comment == HOSTILE
    assert job_of(controller, job).licenses == ""


def test_every_field_of_an_update_can_be_set_and_cleared(controller: Controller, jobs: Jobs, witness: Witness) -> None:
    job = jobs.submit("--begin=now+1hour", "-L", "placement:1")
    start = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=3)
    set_all = JobChange(
        required_nodes=(NodeName("b200-01"), NodeName("b200-02")),
        excluded_nodes=(NodeName("b200-03"),),
        licenses="placement:2",
        start_time=start,
        priority=77,
        admin_comment="seen",
        qos=QosName("normal"),
    )
    controller.update_job(job, set_all)
    said = witness.job(job)
    assert (said["ReqNodeList"], said["ExcNodeList"]) == ("b200-01,b200-02", "b200-03")
    assert (said["Licenses"], said["Priority"], said["AdminComment"]) == ("placement:2", "77", "seen")
    assert said["EligibleTime"] == f"{start:%Y-%m-%dT%H:%M:%S}"

    controller.update_job(job, JobChange(priority=78))  # what is None stays
    assert witness.job(job)["ReqNodeList"] == "b200-01,b200-02"
    controller.update_job(job, JobChange(required_nodes=(), excluded_nodes=(), licenses="", admin_comment=""))
    said = witness.job(job)
    assert (said["ReqNodeList"], said["ExcNodeList"], said["Licenses"]) == ("(null)", "(null)", "(null)")
    assert (said["Priority"], said.get("AdminComment", "")) == ("78", "")
    found = job_of(controller, job)
    assert (found.required_nodes, found.licenses, found.priority, found.admin_comment) == ((), "", 78, "")


def test_a_job_that_slurm_held_for_ever_runs_once_it_may_go_elsewhere(
    controller: Controller, jobs: Jobs, witness: Witness
) -> None:
    job = jobs.submit("--nodelist=b200-07", "--exclude=b200-08", "--begin=now+1hour")
    controller.update_job(job, JobChange(excluded_nodes=(NodeName("b200-07"),), start_time=datetime.now(UTC)))
    until("the job held by Slurm", lambda: job_of(controller, job).reason == "BadConstraints")
    assert job_of(controller, job).priority == 0
    controller.update_job(job, JobChange(required_nodes=(), unhold=True))
    until("the job running", lambda: witness.job(job)["JobState"] == "RUNNING")
    assert witness.job(job)["NodeList"] != "b200-07"


def test_updates_that_cannot_be_are_refused(controller: Controller, jobs: Jobs) -> None:
    with pytest.raises(SlurmRefused, match=r"[Ii]nvalid job id"):
        controller.update_job(JobId(99_999_999), JobChange(priority=1))
    running = jobs.running()
    with pytest.raises(SlurmRefused):
        controller.update_job(running, JobChange(qos=QosName("nix")))
    assert job_of(controller, running).state is JobState.RUNNING


# ---------------------------------------------------------------------- reservations


def reservation(**changes: object) -> Reservation:
    start = datetime.now(UTC).replace(microsecond=0)
    made = Reservation(
        name="conformance",
        start=start,
        duration=timedelta(minutes=10),
        users=(USER,),
        nodes="b200-[01-02]",
        flags=frozenset({"IGNORE_JOBS"}),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture
def no_reservation(mini: Instance) -> Iterator[None]:
    yield
    mini.exec(["scontrol", "delete", "reservation=conformance"], check=False)


@pytest.fixture(scope="module")
def creator(request: pytest.FixtureRequest, door: Door, rest: RestController) -> Controller:
    """The drivers that can create reservations."""
    return rest if request.param == "slurmrestd" else door.controller


def test_a_reservation_over_busy_nodes_round_trips(
    creator: Controller, jobs: Jobs, witness: Witness, no_reservation: None
) -> None:
    job = jobs.running("-w", "b200-01")
    wanted = reservation()
    creator.put_reservation(wanted)
    said = witness.reservation("conformance")
    assert (said["Nodes"], said["Users"]) == ("b200-[01-02]", USER)
    assert "IGNORE_JOBS" in said["Flags"]
    assert [one for one in creator.reservations() if one.name == "conformance"] == [wanted]
    creator.put_reservation(wanted)
    longer = replace(wanted, duration=timedelta(minutes=30), users=(USER, "root"), nodes="b200-[02-03]")
    creator.put_reservation(longer)
    assert [one for one in creator.reservations() if one.name == "conformance"] == [longer]
    assert witness.reservation("conformance")["Nodes"] == "b200-[02-03]"
    assert witness.job(job)["JobState"] == "RUNNING"
    creator.delete_reservation("conformance")
    creator.delete_reservation("conformance")
    assert witness.reservation("conformance") == {}


def test_the_start_of_a_reservation_that_has_begun_cannot_move_but_the_rest_can(
    creator: Controller, no_reservation: None
) -> None:
    wanted = reservation(users=("root",))
    creator.put_reservation(wanted)
    with pytest.raises(SlurmRefused):
        creator.put_reservation(replace(wanted, start=wanted.start + timedelta(seconds=2)))
    later = replace(wanted, nodes="b200-[02-03]", duration=wanted.duration + timedelta(seconds=2))
    creator.put_reservation(later)
    assert [one for one in creator.reservations() if one.name == "conformance"] == [later]


def test_a_reservation_for_a_qos_keeps_it_when_its_nodes_change(
    door: Door, rest: RestController, witness: Witness, no_reservation: None
) -> None:
    """Nobody tells the QOS but scontrol, so who changes the rest must leave it."""
    drivers: list[Controller] = [rest, door.controller]
    wanted = reservation(users=(), qos=(QosName("normal"),))
    if rest.version().startswith("24."):
        with pytest.raises(SlurmRefused, match="QOS"):
            rest.put_reservation(wanted)
        return
    door.controller.put_reservation(wanted)
    assert witness.reservation("conformance")["QOS"] == "normal"
    for driver, nodes in zip(drivers, ("b200-02", "b200-03"), strict=False):
        (found,) = (one for one in driver.reservations() if one.name == "conformance")
        driver.put_reservation(replace(found, nodes=nodes))
        said = witness.reservation("conformance")
        assert (said["Nodes"], said["QOS"], said["Users"]) == (nodes, "normal", "(null)")


def test_a_reservation_of_licences_alone_round_trips(
    creator: Controller, witness: Witness, no_reservation: None
) -> None:
    wanted = reservation(users=("root",), nodes="", licenses="placement:1000000", flags=frozenset({"LICENSE_ONLY"}))
    creator.put_reservation(wanted)
    creator.put_reservation(longer := replace(wanted, duration=timedelta(minutes=20)))
    said = witness.reservation("conformance")
    assert (said["Licenses"], said["Duration"], said["Nodes"]) == ("placement:1000000", "00:20:00", "(null)")
    assert [one for one in creator.reservations() if one.name == "conformance"] == [longer]


@NEEDS_PYSLURM
def test_pyslurm_reads_changes_and_deletes_reservations_but_says_that_it_cannot_create(
    door: Door, mini: Instance, witness: Witness, no_reservation: None
) -> None:
    assert door.pyslurm
    with pytest.raises(NotByThisDriver, match="create a reservation"):
        door.pyslurm.put_reservation(reservation())
    argv = ["reservation=conformance", "start=now", "duration=5", "users=root", "nodes=b200-01", "flags=IGNORE_JOBS"]
    mini.exec(["scontrol", "create", *argv])
    found = next(one for one in door.pyslurm.reservations() if one.name == "conformance")
    assert found == next(one for one in RestController(door.wire).reservations() if one.name == "conformance")
    door.pyslurm.put_reservation(replace(found, duration=timedelta(minutes=40), users=(USER,), nodes="b200-[03-04]"))
    said = witness.reservation("conformance")
    assert (said["Duration"], said["Users"], said["Nodes"]) == ("00:40:00", USER, "b200-[03-04]")
    door.pyslurm.delete_reservation("conformance")
    door.pyslurm.delete_reservation("conformance")
    assert witness.reservation("conformance") == {}


def test_reconfigure_reads_the_files_again_and_spares_jobs(
    controller: Controller, jobs: Jobs, witness: Witness, mini: Instance
) -> None:
    job = jobs.running()
    partitions = mini.path("/etc/slurm/gpuaas/partitions.conf")
    before = partitions.read_text()
    shown = ["scontrol", "--oneliner", "show", "partition", "another"]
    try:
        partitions.write_text(f"{before}PartitionName=another Nodes=ALL\n")
        controller.reconfigure()
        until("the new partition", lambda: mini.exec(shown, check=False).returncode == 0)
    finally:
        partitions.write_text(before)
        controller.reconfigure()
    until("the partition gone", lambda: mini.exec(shown, check=False).returncode != 0)
    assert witness.job(job)["JobState"] == "RUNNING"


# ---------------------------------------------------------------------- the worker dies


def worker_processes(pid: int) -> list[int]:
    """The worker's process on this host and those below it (it is started through the testbed's own programs)."""
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        waiting += map(int, Path(f"/proc/{one}/task/{one}/children").read_text().split())
    return found


@NEEDS_PYSLURM
def test_a_killed_worker_is_started_again(settings: DoorSettings) -> None:
    now = [100.0]
    pyslurm = PyslurmController(
        settings.worker_command, environment=settings.worker_environment, monotonic=lambda: now[0]
    )
    try:
        assert len(pyslurm.nodes()) == 8
        first = pyslurm.worker_pid
        assert first
        os.kill(first, signal.SIGKILL)
        with pytest.raises(SlurmUnavailable, match="worker"):
            for _ in range(1_000):  # what is killed is its parent in the testbed: it goes with it, a moment later
                pyslurm.nodes()
        with pytest.raises(SlurmUnavailable, match="rests"):
            pyslurm.nodes()
        now[0] += 60
        assert len(pyslurm.nodes()) == 8
        assert pyslurm.worker_pid not in {None, first}
    finally:
        pyslurm.close()


@NEEDS_PYSLURM
def test_the_controller_carries_on_over_slurmrestd_when_the_worker_is_killed_in_the_middle_of_a_call(
    settings: DoorSettings,
) -> None:
    now = [100.0]
    changes: list[InUse] = []
    pyslurm = PyslurmController(
        settings.worker_command, environment=settings.worker_environment, monotonic=lambda: now[0]
    )
    wire = RestWire(settings.rest)
    both = FailoverController(pyslurm, RestController(wire), on_change=changes.append)
    try:
        assert len(both.nodes()) == 8
        assert both.in_use.driver == "pyslurm"
        assert pyslurm.worker_pid
        processes = worker_processes(pyslurm.worker_pid)
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)  # the next call is in the middle for as long as we like
        answers: list[int] = []
        call = threading.Thread(target=lambda: answers.append(len(both.nodes())))
        call.start()
        os.kill(processes[0], signal.SIGKILL)
        call.join(timeout=30)
        assert answers == [8]
        assert [(change.driver, "worker" in change.why) for change in changes] == [("slurmrestd", True)]
        assert both.name == "slurmrestd"

        now[0] += 60
        assert len(both.nodes()) == 8
        assert [change.driver for change in changes] == ["slurmrestd", "pyslurm"]
    finally:
        pyslurm.close()
        wire.close()


@NEEDS_PYSLURM
def test_a_worker_that_hangs_is_given_up_at_its_deadline(settings: DoorSettings) -> None:
    pyslurm = PyslurmController(settings.worker_command, environment=settings.worker_environment, timeout=0.5)
    try:
        pyslurm.versions()
        assert pyslurm.worker_pid
        for pid in worker_processes(pyslurm.worker_pid):
            os.kill(pid, signal.SIGSTOP)
        with pytest.raises(SlurmUnavailable, match="in time"):
            pyslurm.nodes()
        assert pyslurm.worker_pid is None
    finally:
        pyslurm.close()


@NEEDS_PYSLURM
def test_a_slurmctld_that_is_away_is_told_and_found_again(settings: DoorSettings, mini: Instance) -> None:
    door = connect(replace(settings, worker_timeout=2.0))
    try:
        assert len(door.controller.nodes()) == 8
        mini.exec(["sh", "-c", "kill $(cat /run/slurm/slurmctld.pid)"])
        until("slurmctld gone", lambda: not mini.listening(6817))
        with pytest.raises(SlurmctldAway):
            door.controller.nodes()
        for _ in range(3):
            with pytest.raises(SlurmctldAway, match="does not answer"):
                door.controller.drain([NodeName("b200-05")], HOSTILE)
        assert door.accounting.read().users
        mini.start(boot.SLURMCTLD)
        assert until("an answer", lambda: _nodes_or_none(door.controller)) == 8
        until("pyslurm in use again", lambda: bool(_nodes_or_none(door.controller)) and door.driver == "pyslurm", 30)
    finally:
        door.close()
        if not mini.listening(6817):
            mini.start(boot.SLURMCTLD)
        states = ["sinfo", "--noheader", "--format=%T"]
        until("all nodes back", lambda: mini.exec(states, check=False).stdout == "idle\n", 60)


def _nodes_or_none(controller: Controller) -> int | None:
    try:
        return len(controller.nodes())
    except SlurmUnavailable:
        return None


@pytest.mark.parametrize("python", ["/nonexistent/python", "/usr/bin/python3"], ids=["no program", "no pyslurm"])
def test_everything_goes_over_slurmrestd_without_a_worker(
    settings: DoorSettings, python: str, drained: list[NodeName]
) -> None:
    door = connect(replace(settings, worker=[python, "-m", "slurm_gpuaas.slurm.pyslurm_worker"]))
    try:
        assert len(door.controller.nodes()) == 8
        door.controller.drain(drained, HOSTILE)
        assert sum(node.drained for node in door.controller.nodes()) == 2
        door.controller.resume(drained)
        assert door.driver == "slurmrestd"
        assert isinstance(door.controller, FailoverController)
        assert "pyslurm worker" in door.controller.in_use.why
    finally:
        door.close()


def test_the_doctor_finds_nothing_to_do_on_the_testbed(settings: DoorSettings, mini: Instance, tmp_path: Path) -> None:
    (tmp_path / "snapshot").touch()
    facts = examine(
        replace(settings, rest=replace(settings.rest, user="gpuaas")),  # the host does not know the testbed's users
        snapshot=tmp_path / "snapshot",
        now=datetime.now(UTC),
        daemon=lambda: DaemonSeen(version="0", driver="pyslurm", fallback=False, reason=""),
        programs=program(mini.command([])),
    )
    problems = (finding for finding in findings(facts) if finding.level is not Level.OK)
    assert [finding for finding in problems if not finding.check.startswith("Slurm bug ")] == []


# ---------------------------------------------------------------------- accounting


SHARE = Account(
    name=AccountName("hae-own"), parent=None, description="gpuaas:share:hae-own", organization="gpuaas", fairshare=5
)
ORGANISATION = Account(
    name=AccountName("hae-own-snu"), parent=SHARE.name, description="gpuaas:organisation:snu", organization="서울대학교"
)
VISION = Account(
    name=AccountName("vision"),
    parent=ORGANISATION.name,
    description=HOSTILE,
    organization="snu",
    grp_tres={"gres/gpu": 16, "gres/gpu:b200": 0},
    grp_tres_mins={"gres/gpu": 6000},
    fairshare=7,
)
LANGUAGE = Account(
    name=AccountName("language"), parent=ORGANISATION.name, description="gpuaas:project:language", organization="snu"
)
ACCOUNTS = (SHARE, ORGANISATION, VISION, LANGUAGE)
BURST = Qos(
    name=QosName("burst-8"),
    description="gpuaas:burst",
    max_tres_per_account={"gres/gpu": 8},
    max_tres_per_job={"gres/gpu": 0, "node": 4},
    max_wall=timedelta(hours=2),
    preempt_mode=frozenset({"REQUEUE"}),
    flags=frozenset({"NO_RESERVE", "DENY_LIMIT"}),
    grace=timedelta(seconds=5),
    preempt_exempt=timedelta(seconds=90),
)
GUARANTEED = Qos(
    name=QosName("guaranteed-vision"),
    description=HOSTILE,
    priority=10,
    grp_tres={"gres/gpu": 16, "gres/gpu:b200": 16},
    preempt=frozenset({BURST.name}),
    preempt_mode=frozenset({"REQUEUE"}),
)
ALICE = UserAssociation(
    user=UserName("alice"),
    account=VISION.name,
    qos=frozenset({BURST.name, GUARANTEED.name}),
    default_qos=GUARANTEED.name,
    is_default=True,
    fairshare=3,
)
ALICE_TOO = UserAssociation(user=UserName("alice"), account=LANGUAGE.name, qos=frozenset({BURST.name}))
BOB = UserAssociation(user=UserName("bob"), account=LANGUAGE.name, qos=frozenset({BURST.name}), is_default=True)
ASSOCIATIONS = (ALICE, ALICE_TOO, BOB)


def write_all(accounting: RestAccounting) -> None:
    accounting.put_qos([GUARANTEED, BURST])  # not in the order of their references
    accounting.put_accounts(ACCOUNTS)
    accounting.put_associations(ASSOCIATIONS)


def ours(state: AccountingState) -> tuple[object, object, object]:
    names = {account.name for account in ACCOUNTS}
    return (
        {name: one for name, one in state.accounts.items() if name in names},
        {key: one for key, one in state.associations.items() if key[1] in names},
        {name: one for name, one in state.qos.items() if name in {BURST.name, GUARANTEED.name}},
    )


def expected() -> tuple[object, object, object]:
    return (
        {one.name: one for one in ACCOUNTS},
        {(one.user, one.account): one for one in ASSOCIATIONS},
        {one.name: one for one in (BURST, GUARANTEED)},
    )


@pytest.fixture
def accounting(door: Door) -> Iterator[RestAccounting]:
    yield door.accounting
    door.accounting.delete_users([ALICE.user, BOB.user])
    door.accounting.delete_accounts([one.name for one in ACCOUNTS])
    door.accounting.delete_qos([GUARANTEED.name, BURST.name])
    state = door.accounting.read()
    assert not ({one.name for one in ACCOUNTS} & state.accounts.keys())
    assert not ({ALICE.user, BOB.user} & state.users)
    assert not ({GUARANTEED.name, BURST.name} & state.qos.keys())


def test_what_is_written_is_what_is_read(accounting: RestAccounting, witness: Witness) -> None:
    write_all(accounting)
    assert ours(accounting.read()) == expected()
    write_all(accounting)
    assert ours(accounting.read()) == expected()

    rows = witness.accounting(
        "assoc", "format=account,user,parentname,fairshare,grptres,grptresmins,qos,defaultqos,lineage"
    )
    assert ["vision", "", "hae-own-snu", "7", "gres/gpu:b200=0,gres/gpu=16", "gres/gpu=6000", "normal", "",
            "/hae-own/hae-own-snu/vision/"] in rows  # fmt: skip
    assert ["vision", "alice", "", "3", "", "", "burst-8,guaranteed-vision", "guaranteed-vision",
            "/hae-own/hae-own-snu/vision/0-alice/"] in rows  # fmt: skip
    assert ["vision", HOSTILE, "snu"] in witness.accounting("account", "format=account,description,organization")
    rows = witness.accounting(
        "qos", "format=name,priority,flags,preempt,preemptmode,grptres,maxtrespa,maxtrespj,maxwall,gracetime"
    )
    assert ["burst-8", "0", "DenyOnLimit,NoReserve", "", "requeue", "", "gres/gpu=8", "gres/gpu=0,node=4",
            "02:00:00", "00:00:05"] in rows  # fmt: skip
    assert ["guaranteed-vision", "10", "", "burst-8", "requeue", "gres/gpu:b200=16,gres/gpu=16", "", "", "",
            "00:00:00"] in rows  # fmt: skip
    defaults = witness.accounting("user", "name=alice,bob", "format=user,defaultaccount")
    assert defaults == [["alice", "vision"], ["bob", "language"]]


def test_what_a_record_does_not_say_is_cleared(accounting: RestAccounting) -> None:
    write_all(accounting)
    plain_qos = [Qos(name=one.name, description="gpuaas:plain") for one in (BURST, GUARANTEED)]
    plain_account = Account(name=VISION.name, parent=SHARE.name, description="gpuaas:plain", organization="kaist")
    plain_user = UserAssociation(user=ALICE.user, account=VISION.name, qos=frozenset({BURST.name}), is_default=True)
    accounting.put_qos(plain_qos)
    accounting.put_accounts([plain_account])
    accounting.put_associations([plain_user])
    state = accounting.read()
    assert [state.qos[one.name] for one in plain_qos] == plain_qos
    assert state.accounts[VISION.name] == plain_account
    assert state.associations[ALICE.user, VISION.name] == plain_user
    assert state.associations[BOB.user, LANGUAGE.name] == BOB


def test_limits_of_a_qos_change_one_by_one(accounting: RestAccounting) -> None:
    write_all(accounting)
    for limits in ({"gres/gpu": 0}, {"gres/gpu:b200": 3, "node": 1}, {"gres/gpu": 5, "gres/gpu:b200": 0}, {}):
        wanted = replace(GUARANTEED, grp_tres=limits)
        accounting.put_qos([wanted])
        assert accounting.read().qos[GUARANTEED.name] == wanted


def test_unknown_names_are_refused_and_nothing_is_written(accounting: RestAccounting) -> None:
    write_all(accounting)
    with pytest.raises(SlurmRefused, match="gres/gpu:nix"):
        accounting.put_qos([replace(GUARANTEED, priority=99), replace(BURST, grp_tres={"gres/gpu:nix": 1})])
    with pytest.raises(SlurmRefused, match="gres/gpu:nix"):
        accounting.put_accounts([replace(VISION, grp_tres={"gres/gpu:nix": 1})])
    with pytest.raises(SlurmRefused, match="nix"):
        accounting.put_qos([replace(GUARANTEED, preempt=frozenset({QosName("nix")}))])
    with pytest.raises(SlurmRefused, match="nix"):
        accounting.put_accounts([replace(VISION, parent=AccountName("nix"))])
    with pytest.raises(SlurmRefused, match="nix"):
        accounting.put_associations([replace(BOB, fairshare=9), replace(ALICE, account=AccountName("nix"))])
    with pytest.raises(SlurmRefused, match="nix"):
        accounting.put_associations([replace(BOB, qos=frozenset({QosName("nix")}))])
    with pytest.raises(InvalidInput, match="FAST"):
        accounting.put_qos([replace(BURST, flags=frozenset({"FAST"}))])
    with pytest.raises(InvalidInput, match="no QOS"):
        accounting.put_associations([replace(BOB, qos=frozenset())])
    assert ours(accounting.read()) == expected()


def test_a_default_account_moves_on_before_it_is_deleted(accounting: RestAccounting, witness: Witness) -> None:
    write_all(accounting)
    accounting.delete_associations([(ALICE.user, VISION.name), (UserName("mallory"), VISION.name)])
    state = accounting.read()
    assert (ALICE.user, VISION.name) not in state.associations
    assert state.associations[ALICE.user, LANGUAGE.name] == replace(ALICE_TOO, is_default=True)
    assert state.associations[BOB.user, LANGUAGE.name] == BOB
    accounting.delete_associations([(ALICE.user, LANGUAGE.name), (ALICE.user, VISION.name)])
    assert ALICE.user in accounting.read().users
    assert witness.accounting("assoc", "user=alice") == []


def test_deletions_take_only_what_is_named(accounting: RestAccounting) -> None:
    write_all(accounting)
    before = accounting.read()
    with pytest.raises(SlurmRefused, match="stand below"):
        accounting.delete_accounts([SHARE.name])
    with pytest.raises(SlurmRefused, match="stand below"):
        accounting.delete_accounts([ORGANISATION.name, VISION.name])
    assert accounting.read() == before
    accounting.delete_accounts([VISION.name])
    state = accounting.read()
    assert state.accounts.keys() == before.accounts.keys() - {VISION.name}
    assert state.associations[ALICE.user, LANGUAGE.name].is_default
    accounting.delete_accounts([VISION.name])
    accounting.delete_users([ALICE.user])
    accounting.delete_users([ALICE.user])
    assert accounting.read().users == before.users - {ALICE.user}
    accounting.delete_qos([BURST.name])
    accounting.delete_qos([BURST.name])
    state = accounting.read()
    assert state.qos.keys() == before.qos.keys() - {BURST.name}
    assert state.qos[GUARANTEED.name].preempt == frozenset()


class Counted:
    """Accounting that counts its requests and the programs it runs."""

    def __init__(self, settings: DoorSettings) -> None:
        self.calls = 0
        transport = httpx2.HTTPTransport(uds=str(settings.rest.socket))
        run = program(settings.sacctmgr)
        counted = self

        class Counting(httpx2.BaseTransport):
            def handle_request(self, request: httpx2.Request) -> httpx2.Response:
                counted.calls += 1
                return transport.handle_request(request)

        def sacctmgr(arguments: Sequence[str], /, *, stdin: str = "") -> str:
            counted.calls += 1
            return run(arguments, stdin=stdin)

        self.accounting = RestAccounting(RestWire(settings.rest, transport=Counting()), sacctmgr=sacctmgr)
        self.accounting.cluster()
        self.accounting.read()  # both ask once for what does not change

    def of(self, action: Callable[[], object]) -> int:
        before = self.calls
        action()
        return self.calls - before


def test_reading_takes_a_fixed_number_of_calls(settings: DoorSettings, accounting: RestAccounting) -> None:
    counted = Counted(settings)
    few = counted.of(counted.accounting.read)
    write_all(accounting)
    assert (few, counted.of(counted.accounting.read)) == (5, 5)


@pytest.mark.parametrize("name", ["night|shift", "x|||1||||\nmini|9|8|vision|alice||1||||"])
def test_a_name_that_looks_like_a_row_changes_no_reading(
    settings: DoorSettings, accounting: RestAccounting, name: str
) -> None:
    write_all(accounting)
    before = accounting.read()
    sacctmgr = program(settings.sacctmgr)
    sacctmgr(["--immediate", "add", "account", name])
    try:
        after = accounting.read()
    finally:
        sacctmgr(["--immediate", "delete", "account", name])
    assert after.associations == before.associations
    assert after.unmanaged == before.unmanaged
    assert {key: one for key, one in after.accounts.items() if key != name} == before.accounts
    assert name in after.accounts


def test_hundreds_of_records_are_written_in_a_few_calls(settings: DoorSettings, accounting: RestAccounting) -> None:
    write_all(accounting)
    count = 60
    qos = [replace(GUARANTEED, name=QosName(f"guaranteed-p{n:02}"), description=f"gpuaas:{n}") for n in range(count)]
    accounts = [
        replace(VISION, name=AccountName(f"p{n:02}"), description=f"gpuaas:{n}", grp_tres={"gres/gpu": n})
        for n in range(count)
    ]
    users = [
        UserAssociation(
            user=BOB.user, account=one.name, qos=frozenset({BURST.name, wanted.name}), default_qos=wanted.name
        )
        for one, wanted in zip(accounts, qos, strict=True)
    ]
    counted = Counted(settings)

    calls = counted.of(lambda: counted.accounting.put_qos(qos))
    calls += counted.of(lambda: counted.accounting.put_accounts(accounts))
    calls += counted.of(lambda: counted.accounting.put_associations(users))
    assert calls < 20
    state = accounting.read()
    assert [state.qos[one.name] for one in qos] == qos
    assert [state.accounts[one.name] for one in accounts] == accounts
    assert [state.associations[one.user, one.account] for one in users] == users
    accounting.delete_associations([(one.user, one.account) for one in users])
    accounting.delete_accounts([one.name for one in accounts])
    accounting.delete_qos([one.name for one in qos])
    assert ours(accounting.read()) == expected()


def test_each_requeue_of_a_job_is_a_run_of_its_own(
    controller: Controller, door: Door, jobs: Jobs, witness: Witness
) -> None:
    before = datetime.now(UTC) - timedelta(seconds=5)
    job = jobs.running("--requeue", "-w", "b200-04", gpus=2)
    until(
        "a second of run time",
        lambda: datetime.now(UTC) >= (job_of(controller, job).started or before) + timedelta(seconds=1),
    )
    controller.requeue(job)
    jobs.wait(job, "RUNNING")
    controller.cancel(job)
    jobs.wait(job, "CANCELLED")

    def runs() -> list[AccountingJob]:
        found = door.accounting.jobs_since(before, datetime.now(UTC) + timedelta(seconds=5))
        mine = sorted((run for run in found if run.job_id == job), key=lambda run: run.started or run.submitted)
        return mine if len(mine) == 2 and all(run.ended for run in mine) else []

    first, second = until("both runs in slurmdbd", runs)
    assert (first.tres_alloc["gres/gpu"], second.tres_alloc["gres/gpu:b200"]) == (2, 2)
    assert (first.user, first.account, first.nodes, first.cluster) == (USER, ACCOUNT, "b200-04", "mini")
    assert first.ended and second.started and first.ended <= second.started
    assert second.state == "CANCELLED"
