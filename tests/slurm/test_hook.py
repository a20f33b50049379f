"""The hook on real Slurm: submissions of real UNIX users, what Slurm then holds, and what users read when refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from subprocess import CompletedProcess
from typing import Any

import pytest

from slurm_gpuaas.domain.clock import SystemClock
from slurm_gpuaas.domain.names import ClusterName
from slurm_gpuaas.domain.policy import DOCUMENT, PolicyDocument
from slurm_gpuaas.quota.estimate_files import EstimatePublisher
from slurm_gpuaas.testbed.instance import Instance
from tests.slurm.applied import SNAPSHOT, Applied, applied, cancel_all, scene_of

pytestmark = pytest.mark.slurm

LONG_AGO, FAR_AHEAD = date(2020, 1, 1), date(2098, 12, 31)


def grant(project: str, gpus: int, **limits: Any) -> PolicyDocument:
    named = {"kind": "Grant", "name": f"grant-{project}", "project": project, "pool": "mini", "share": "gov"}
    return DOCUMENT.validate_python({"starts": LONG_AGO, "ends": FAR_AHEAD, **named, "gpus": gpus, **limits})


KOREAN = {"LANG": "ko_KR.UTF-8"}
ENGLISH = {"LANG": "en_US.UTF-8"}


def policy() -> list[PolicyDocument]:
    shares = [{"name": "gov", "nodes": "b200-[01-06]"}, {"name": "own", "nodes": "b200-[07-08]"}]
    members = [("nlp", "alice"), ("vision", "alice"), ("vision", "bob"), ("old", "erin"), ("soon", "frank")]
    rows = [
        {"kind": "Organisation", "name": "univ"},
        *({"kind": "Project", "name": name, "organisation": "univ"} for name in ("nlp", "vision", "old", "soon")),
        *({"kind": "Member", "project": project, "user": user} for project, user in members),
        {"kind": "Rate", "name": "b200", "model": "b200", "won_per_gpu_hour": 2500, "burst_discount": 30,
         "starts": LONG_AGO, "basis": "a test"},
        {"kind": "Pool", "name": "mini", "cluster": "mini", "model": "b200", "max_time": timedelta(days=2),
         "shares": shares},
    ]  # fmt: skip
    return [
        *(DOCUMENT.validate_python(row) for row in rows),
        grant("nlp", 32, borrow_limit=16, ends=date(2097, 12, 31)),
        grant("vision", 16, borrow_limit=0, max_gpus_per_job=8, max_time=timedelta(hours=1), budget_gpu_hours=160),
        grant("old", 8, ends=date(2020, 12, 31)),
        grant("soon", 8, starts=date(2098, 1, 1)),
    ]


class Desk:
    """Where researchers submit. `sbatch` holds jobs, so that Slurm keeps them as they were accepted."""

    def __init__(self, mini: Instance) -> None:
        self._mini = mini

    def sbatch(self, user: str, *options: str) -> CompletedProcess[str]:
        argv = ["sbatch", "--parsable", "--hold", "--output=/dev/null", *options]
        return self._mini.exec(argv, user=user, stdin="#!/bin/bash\ntrue\n", check=False)

    def run(self, user: str, *options: str, environment: Mapping[str, str] = ENGLISH) -> CompletedProcess[str]:
        """A job that runs for long where it can start; nothing of the caller's environment is in it."""
        words = [f"{name}={value}" for name, value in environment.items()]
        argv = ["env", "-i", "PATH=/usr/bin:/bin", *words, "sbatch", "--parsable", "--output=/dev/null", *options]
        return self._mini.exec(argv, user=user, stdin="#!/bin/bash\nsleep 600\n", check=False)

    def started(self, number: str) -> None:
        self._mini.wait_for(f"Job {number} runs", lambda: self.job(number)["job_state"] == ["RUNNING"] or None)

    def scontrol(self, user: str, *words: str) -> CompletedProcess[str]:
        return self._mini.exec(["scontrol", *words], user=user, check=False)

    def job(self, number: str) -> dict[str, Any]:
        answer = json.loads(self._mini.exec(["scontrol", "show", "job", number, "--json"]).stdout)
        job: dict[str, Any] = answer["jobs"][0]
        return job


@pytest.fixture(scope="module")
def in_force(mini: Instance) -> Iterator[Applied]:
    with applied(mini, policy()) as both:
        yield both


@pytest.fixture
def desk(mini: Instance, in_force: Applied) -> Iterator[Desk]:
    yield Desk(mini)
    cancel_all(mini)


ACCEPTED = [
    ("one GPU", "alice", ["--gpus=1"], ("nlp", "guaranteed-nlp", 1, 1)),
    ("another project", "alice", ["--account=vision", "--gpus=1"], ("vision", "guaranteed-vision", 1, 1)),
    ("a total over nodes", "alice", ["--gpus=32"], ("nlp", "guaranteed-nlp", 32, 4)),
    ("by node", "alice", ["-N2", "--gpus-per-node=8"], ("nlp", "guaranteed-nlp", 16, 2)),
    ("by task", "alice", ["--ntasks=16", "--gpus-per-task=1"], ("nlp", "guaranteed-nlp", 16, 2)),
    ("--gres with its model", "alice", ["-N1", "--gres=gpu:b200:4"], ("nlp", "guaranteed-nlp", 4, 1)),
    ("burst", "alice", ["--qos=burst", "--gpus=16"], ("nlp", "burst-mini-gov", 16, 2)),
    ("an array", "alice", ["--array=0-99%2", "--gpus=8"], ("nlp", "guaranteed-nlp", 8, 1)),
]


@pytest.mark.parametrize(("why", "user", "options", "expected"), ACCEPTED, ids=[row[0] for row in ACCEPTED])
def test_fills_in_what_was_left_out(
    desk: Desk, why: str, user: str, options: list[str], expected: tuple[str, str, int, int]
) -> None:
    answer = desk.sbatch(user, *options)
    assert answer.returncode == 0, answer.stderr
    job = desk.job(answer.stdout.strip())
    account, qos, gpus, nodes = expected
    requested = dict(item.split("=") for item in job["tres_req_str"].split(","))
    assert (job["account"], job["qos"], job["partition"]) == (account, qos, "mini-gov")
    assert requested["gres/gpu"] == requested["gres/gpu:b200"] == str(gpus), "Slurm counts it typed and untyped"
    assert requested["node"] == str(nodes)
    assert job["time_limit"]["number"] == (60 if account == "vision" else 2880)


REFUSED = [
    ("a non-member", "mallory", ["--gpus=1"], ["mallory is in no project"]),
    ("a project of others", "bob", ["--account=nlp", "--gpus=1"], ["bob is not in project nlp", "--account: vision"]),
    (
        "over the guarantee and the borrow limit",
        "alice",
        ["--gpus=56"],
        ["56 GPUs", "(32 GPUs)", "(48 GPUs)", "--gpus=32"],
    ),
    ("over the guarantee", "alice", ["--gpus=40"], ["guaranteed (32 GPUs)", "this size with --qos=burst"]),
    ("over the limit of a job", "bob", ["--gpus=16"], ["16 GPUs", "8 GPUs a job", "--gpus=8"]),
    ("too long", "bob", ["--gpus=1", "--time=2:00:00"], ["0-02:00:00", "0-01:00:00", "--time=0-01:00:00"]),
    ("a wrong model", "alice", ["--gpus=h200:8"], ["h200", "granted b200", "--gpus=b200:N"]),
    ("another share", "alice", ["--gpus=1", "--partition=mini-own"], ["mini-own", "--partition=mini-gov"]),
    ("an expired grant", "erin", ["--gpus=1"], ["ended on 2020-12-31", "renew"]),
    ("a grant to come", "frank", ["--gpus=1"], ["starts on 2098-01-01"]),
    ("CPUs only", "alice", ["--ntasks=4"], ["no GPU", "--gpus=1"]),
    ("parts of nodes", "alice", ["-N2", "--gpus-per-node=4"], ["8 GPUs on 2 nodes", "whole nodes", "--nodes=1"]),
    ("an array beyond the budget", "bob", ["--gpus=8", "--array=0-39%1"], ["320 GPU-hours", "160", "40 array tasks"]),
    ("a heterogeneous job", "alice", ["--gpus=16", ":", "--gpus=24"], ["asks for 40 GPUs", "32 GPUs"]),
    ("a component without GPUs", "alice", ["--gpus=8", ":", "--ntasks=1"], ["no GPU"]),
]


@pytest.mark.parametrize(("why", "user", "options", "words"), REFUSED, ids=[row[0] for row in REFUSED])
def test_refuses_with_numbers_and_the_way_out(
    desk: Desk, why: str, user: str, options: list[str], words: list[str]
) -> None:
    answer = desk.sbatch(user, *options)
    assert answer.returncode != 0, answer.stdout
    assert [word for word in words if word not in answer.stderr] == [], answer.stderr


HOSTILE = [
    ["--gres=gpu:99999999999999999999999"], ["--gpus=%n%s%d"], ["--gpus=4294967294"], ["--gpus-per-node=65534"],
    ["--gres=gpu:b200:1,gpu:b200:1"], ["--gres=gpu::"], ["--gres=" + "gpu:1," * 2000], ["--gpus=b200:1,h200:1"],
    ["--gpus=1", "--account=\x1b[2Jroot"], ["--gpus=1", "--account=" + "a" * 5000], ["--gpus=1", "--qos=,,,"],
    ["--gpus=1", "--partition=,"], ["--gpus=1", "--partition=mini-gov,mini-gov"], ["--gpus=1", "--array=0-4294967295"],
    ["--gpus=1", "--array=9-1"], ["--gpus=1", "--array=" + ",".join(map(str, range(1000)))],
    ["--nodes=1-4294967293", "--gpus=1"], ["--nodes=500000", "--gpus-per-node=8"],
    ["--gpus=1", "--time=UNLIMITED"], ["--gpus=1", "--time=4294967293"],
    ["--ntasks=4000000000", "--gpus-per-task=8"], ["--ntasks-per-gpu=60000", "--gpus=8"],
    ["--gpus-per-socket=8", "--sockets-per-node=60000"],
    ["--tres-per-task=gres/gpu=1,gres/gpu=2"], ["--gpus=1", "--comment=" + "\n" * 900],
    ["--gpus=1", "--licenses=placement:999999"],
]  # fmt: skip


def test_hostile_submissions_break_nothing(mini: Instance, desk: Desk) -> None:
    log = mini.path("/var/log/slurm/slurmctld.log")
    before = log.stat().st_size
    for options in HOSTILE:
        desk.sbatch("alice", *options)  # whatever the answer is
    with log.open() as stream:
        stream.seek(before)
        assert "Slurm's own limits alone decide" not in stream.read(), "the hook failed inside"
    assert "UP" in mini.exec(["scontrol", "ping"]).stdout
    assert desk.sbatch("alice", "--gpus=1").returncode == 0


def test_a_heterogeneous_job_within_the_guarantee_is_accepted(desk: Desk) -> None:
    answer = desk.sbatch("alice", "--gpus=16", ":", "--gpus=16")
    assert answer.returncode == 0, answer.stderr


def test_changes_are_judged_and_administrators_are_not(desk: Desk) -> None:
    job = desk.sbatch("bob", "--gpus=4", "--time=10").stdout.strip()
    assert desk.scontrol("bob", "update", f"jobid={job}", "timelimit=60").returncode == 0
    refused = desk.scontrol("bob", "update", f"jobid={job}", "timelimit=90")
    assert refused.returncode != 0
    assert "--time=0-01:00:00" in refused.stderr + refused.stdout
    assert desk.job(job)["time_limit"]["number"] == 60
    assert desk.scontrol("root", "update", f"jobid={job}", "timelimit=90").returncode == 0
    assert desk.job(job)["time_limit"]["number"] == 90


def test_a_job_that_is_not_ours_is_left_to_slurm(mini: Instance, desk: Desk) -> None:
    mini.exec(["scontrol", "create", "partitionname=cpu", "nodes=b200-08", "state=up"])
    answer = desk.sbatch("alice", "--partition=cpu", "--account=nlp", "--ntasks=4")
    assert answer.returncode == 0, answer.stderr
    job = desk.job(answer.stdout.strip())
    assert "gres/gpu" not in job["tres_req_str"]
    cancel_all(mini)
    mini.exec(["scontrol", "delete", "partitionname=cpu"])


def test_without_a_snapshot_slurms_own_limits_hold(mini: Instance, desk: Desk) -> None:
    snapshot = mini.path(SNAPSHOT)
    text = snapshot.read_text()
    # what Slurm itself has to be told then
    share = ["--partition=mini-gov", "--account=nlp", "--qos=guaranteed-nlp"]
    try:
        for broken in (None, "", "gpuaas-snapshot 3 0 ab\n", text.replace(" 3 ", " 1 ", 1), text[:-20]):
            snapshot.unlink() if broken is None else snapshot.write_text(broken)
            assert desk.sbatch("alice", *share, "--gpus=8").returncode == 0, "accepted as it came"
            assert desk.sbatch("mallory", *share, "--gpus=8").returncode != 0, "Slurm knows its associations"
    finally:
        snapshot.write_text(text)
    log = mini.path("/var/log/slurm/slurmctld.log").read_text()
    assert "Slurm's own limits alone decide" in log
    assert "error in job_submit.lua" not in log
    assert "24 GPUs" not in desk.sbatch("alice", "--gpus=24").stderr, "the hook decides again"


SPEAKS = [(KOREAN, "GPU 56개를 요청하셨으나", "요청하십시오"), (ENGLISH, "asks for 56 GPUs", "use at most"),
          ({**KOREAN, "LC_ALL": "C"}, "asks for 56 GPUs", "use at most")]  # fmt: skip


@pytest.mark.parametrize(("environment", "asked", "way_out"), SPEAKS)
def test_refuses_in_the_users_language(desk: Desk, environment: dict[str, str], asked: str, way_out: str) -> None:
    refused = desk.run("alice", "--gpus=56", environment=environment)
    assert refused.returncode != 0
    assert asked in refused.stderr and way_out in refused.stderr


def test_advises_jobs_that_wait_and_only_those(desk: Desk, in_force: Applied) -> None:
    first = desk.run("alice", "--gpus=32", "--time=60")
    assert (first.returncode, first.stderr) == (0, ""), "it starts at once"
    desk.started(first.stdout.strip())
    in_force.publisher.tick()
    second = desk.run("alice", "--gpus=8", "--time=60")
    assert second.returncode == 0, second.stderr
    assert "of project nlp's 32 guaranteed GPUs 32 are in use" in second.stderr
    assert "16 GPUs as burst; to start now use this size with --qos=burst" in second.stderr
    assert "작업은 접수되었으나 대기합니다" in desk.run("alice", "--gpus=8", environment=KOREAN).stderr
    advised = desk.run("alice", "--gpus=8", "--qos=burst")
    assert (advised.returncode, advised.stderr) == (0, ""), "what the advice says starts at once"
    desk.started(advised.stdout.strip())
    for waiting in (["--hold"], ["--begin=tomorrow"], [f"--dependency=afterok:{first.stdout.strip()}"]):
        assert desk.run("alice", "--gpus=8", *waiting).stderr == "", "it waits for something else"
    changed = desk.scontrol("alice", "update", f"jobid={second.stdout.strip()}", "timelimit=90")
    assert changed.returncode == 0
    assert "accepted but waits" in changed.stdout + changed.stderr
    changed = desk.scontrol("alice", "update", f"jobid={second.stdout.strip()}", "comment=x")
    assert changed.stdout + changed.stderr == "", "a change that asks for nothing"


LICENCES = [
    (["--gpus=8"], "placement:1"),
    (["--gpus=8", "--array=0-3"], ""),
    (["--gpus=8", "--qos=burst"], ""),
]


@pytest.mark.parametrize(("options", "licences"), LICENCES)
def test_guaranteed_jobs_get_the_gates_licence(mini: Instance, desk: Desk, options: list[str], licences: str) -> None:
    snapshot = mini.path(SNAPSHOT)
    text = snapshot.read_text()
    head, cluster, rest = text.split("\n", 2)
    stamp = head.rpartition(" ")[0]
    try:
        snapshot.write_text(f"{stamp} {'ab' * 32}\n{cluster}\ngate\tplacement\n{rest}")
        answer = desk.sbatch("alice", *options)
        assert answer.returncode == 0, answer.stderr
        assert desk.job(answer.stdout.strip().partition(";")[0])["licenses"] == licences
    finally:
        snapshot.write_text(text)


@pytest.fixture
def estimates(mini: Instance, in_force: Applied) -> Iterator[EstimatePublisher]:
    folder = mini.path("/run/gpuaas/estimates")
    yield EstimatePublisher(
        cluster=ClusterName("mini"),
        store=in_force.store,
        scene=lambda: scene_of(in_force.slurm),
        folder=folder,
        clock=SystemClock(),
        uid_of=lambda user: int(mini.exec(["id", "-u", user]).stdout),
    )
    shutil.rmtree(folder)


def test_the_clients_say_cost_budget_and_wait_before_they_submit(
    desk: Desk, mini: Instance, estimates: EstimatePublisher
) -> None:
    estimates.tick()
    said = desk.run("bob", "--gpus=8", "--time=30")
    assert said.returncode == 0 and said.stdout.strip().isdigit(), "stdout is for programs"
    assert "10,000 Won at most (8 GPUs x 0-00:30:00, guaranteed of project vision)" in said.stderr
    assert "160 GPU-hours of the budget are left; there is room for it now" in said.stderr
    korean = desk.run("bob", "--gpus=8", "--time=30", environment=KOREAN)
    assert "예상: 최대 10,000원(GPU 8개 x 0-00:30:00, 과제 vision의 보장분)" in korean.stderr
    assert "7,000 Won" in desk.run("alice", "--account=nlp", "--qos=burst", "--gpus=8", "--time=30").stderr
    script = "#!/bin/bash\n#SBATCH --gpus=2 --time=60\n"
    assert "5,000 Won" in mini.exec(["sbatch", "--hold", "--output=/dev/null"], user="bob", stdin=script).stderr
    own = mini.exec(["id", "-u", "bob"]).stdout.strip()
    assert mini.exec(["cat", f"/run/gpuaas/estimates/{own}"], user="alice", check=False).returncode != 0
    desk.started(said.stdout.strip())
    step = ["env", f"SLURM_JOB_ID={said.stdout.strip()}", "srun", "--gpus=1", "--overlap", "true"]
    assert "Estimate" not in mini.exec(step, user="bob", check=False).stderr, "a step costs nothing more"


def test_nothing_in_the_clients_plugin_stops_a_submission(
    desk: Desk, mini: Instance, estimates: EstimatePublisher
) -> None:
    estimates.tick()
    shares = mini.path("/run/gpuaas/estimates/shares")
    for text in ("", "gpuaas-estimates 1 x\n", "\x00" * 5000, "gpuaas-estimates 1 9999999999\nby\t\n"):
        shares.write_text(text)
        assert desk.sbatch("bob", "--gpus=1").returncode == 0
    shutil.rmtree(shares.parent)
    assert desk.sbatch("bob", "--gpus=1").returncode == 0
    shares.parent.mkdir()
