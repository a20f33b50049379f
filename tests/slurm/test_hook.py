"""The hook on real Slurm: submissions of real UNIX users, what Slurm then holds, and what users read when refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date, timedelta
from subprocess import CompletedProcess
from typing import Any

import pytest

from slurm_gpuaas.domain.policy import DOCUMENT, PolicyDocument
from slurm_gpuaas.testbed.instance import Instance
from tests.slurm.applied import SNAPSHOT, Applied, applied, cancel_all

pytestmark = pytest.mark.slurm

LONG_AGO, FAR_AHEAD = date(2020, 1, 1), date(2098, 12, 31)


def grant(project: str, gpus: int, **limits: Any) -> PolicyDocument:
    named = {"kind": "Grant", "name": f"grant-{project}", "project": project, "pool": "mini", "share": "gov"}
    return DOCUMENT.validate_python({"starts": LONG_AGO, "ends": FAR_AHEAD, **named, "gpus": gpus, **limits})


def policy() -> list[PolicyDocument]:
    shares = [{"name": "gov", "nodes": "b200-[01-06]"}, {"name": "own", "nodes": "b200-[07-08]"}]
    members = [("nlp", "alice"), ("vision", "alice"), ("vision", "bob"), ("old", "erin"), ("soon", "frank")]
    rows = [
        {"kind": "Organisation", "name": "univ"},
        *({"kind": "Project", "name": name, "organisation": "univ"} for name in ("nlp", "vision", "old", "soon")),
        *({"kind": "Member", "project": project, "user": user} for project, user in members),
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
    """Where researchers submit. Jobs are held, so that Slurm keeps them as they were accepted."""

    def __init__(self, mini: Instance) -> None:
        self._mini = mini

    def sbatch(self, user: str, *options: str) -> CompletedProcess[str]:
        argv = ["sbatch", "--parsable", "--hold", "--output=/dev/null", *options]
        return self._mini.exec(argv, user=user, stdin="#!/bin/bash\ntrue\n", check=False)

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
        for broken in (None, "", "gpuaas-snapshot 2 0 ab\n", text[:-20]):
            snapshot.unlink() if broken is None else snapshot.write_text(broken)
            assert desk.sbatch("alice", *share, "--gpus=8").returncode == 0, "accepted as it came"
            assert desk.sbatch("mallory", *share, "--gpus=8").returncode != 0, "Slurm knows its associations"
    finally:
        snapshot.write_text(text)
    log = mini.path("/var/log/slurm/slurmctld.log").read_text()
    assert "Slurm's own limits alone decide" in log
    assert "error in job_submit.lua" not in log
    assert "24 GPUs" not in desk.sbatch("alice", "--gpus=24").stderr, "the hook decides again"
