"""What the hook decides, row by row: the request, and what comes of it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.unit.hook.harness import INFINITE, LUA, NOW, RECORDS, REFUSED, Hook, project, snapshot_text


@pytest.fixture(params=LUA)
def hook(tmp_path: Path, request: pytest.FixtureRequest) -> Hook:
    return Hook(tmp_path / "snapshot", text=snapshot_text(RECORDS), lua=request.param)


def of(user: str, **fields: object) -> dict[str, Any]:
    return {"user_name": user, **fields}


ONE_GPU = {"tres_per_job": "gres/gpu:1"}

ACCEPTED = [
    ("account, QOS, partition, model and time are filled in",
     of("alice", **ONE_GPU),
     {"account": "nlp", "qos": "guaranteed-nlp", "partition": "b200-gov", "tres_per_job": "gres/gpu:b200:1",
      "time_limit": 2880, "min_nodes": 1, "max_nodes": 1}),
    ("the only project is used without a default", of("bob", **ONE_GPU), {"account": "vision", "time_limit": 60}),
    ("another project of the user", of("alice", account="vision", **ONE_GPU), {"qos": "guaranteed-vision"}),
    ("an account in capitals is Slurm's account", of("alice", account="VISION", **ONE_GPU), {"account": "vision"}),
    ("what the user said stays", of("alice", partition="b200-gov", qos="guaranteed-nlp", time_limit=30, **ONE_GPU),
     {"partition": "b200-gov", "qos": "guaranteed-nlp", "time_limit": 30}),
    ("--qos=burst means the project's burst QOS", of("alice", qos="burst", tres_per_job="gres/gpu:32"),
     {"qos": "burst-32"}),
    ("both sides, as far as each holds it", of("alice", qos="burst,guaranteed", tres_per_job="gres/gpu:16"),
     {"qos": "burst-32,guaranteed-nlp"}),
    ("burst as large as guarantee and borrow limit together", of("alice", qos="burst", tres_per_job="gres/gpu:48"),
     {"qos": "burst-32", "min_nodes": 6}),
    ("both sides, but only one holds it", of("alice", qos="guaranteed,burst", tres_per_job="gres/gpu:24"),
     {"qos": "burst-32"}),
    ("borrowing without a bound", of("dave", qos="burst", tres_per_job="gres/gpu:800"), {"min_nodes": 100}),
    ("a total of several nodes is pinned to the fewest", of("alice", tres_per_job="gres/gpu:16"),
     {"min_nodes": 2, "max_nodes": 2}),
    ("a total in a range of nodes is pinned within it",
     of("alice", tres_per_job="gres/gpu:16", min_nodes=1, max_nodes=4), {"min_nodes": 2, "max_nodes": 2}),
    ("whole nodes by node", of("alice", tres_per_node="gres/gpu:8", min_nodes=2, max_nodes=2),
     {"tres_per_node": "gres/gpu:b200:8", "min_nodes": 2}),
    ("a range of whole nodes stays", of("alice", tres_per_node="gres/gpu:8", min_nodes=1, max_nodes=2),
     {"min_nodes": 1, "max_nodes": 2}),
    ("GPUs a task", of("alice", tres_per_task="cpu=4,gres/gpu=1", num_tasks=16),
     {"tres_per_task": "cpu=4,gres/gpu:b200:1", "min_nodes": 2}),
    ("GPUs a task, tasks a node", of("alice", tres_per_task="gres/gpu:1", ntasks_per_node=8, min_nodes=2, max_nodes=2),
     {"min_nodes": 2}),
    ("GPUs a node, nodes from the tasks", of("alice", tres_per_node="gres/gpu:8", num_tasks=16, ntasks_per_node=8),
     {"min_nodes": 2, "max_nodes": 2}),
    ("GPUs a socket", of("alice", tres_per_socket="gres/gpu:4", sockets_per_node=2),
     {"tres_per_socket": "gres/gpu:b200:4"}),
    ("tasks a GPU alone", of("alice", num_tasks=16, ntasks_per_gpu=2), {"tres_per_job": "gres/gpu:b200:8"}),
    ("--gres with another resource beside it", of("alice", tres_per_node="gres/nic:1,gres/gpu:b200:2"),
     {"tres_per_node": "gres/nic:1,gres/gpu:b200:2"}),
    ("a model alone asks for one", of("alice", tres_per_node="gres/gpu:b200"), {"tres_per_node": "gres/gpu:b200:1"}),
    ("a model in capitals", of("alice", tres_per_job="gres/gpu:B200:2"), {"tres_per_job": "gres/gpu:b200:2"}),
    ("the model picks the grant", of("grace", tres_per_job="gres/gpu:h200:8"),
     {"partition": "h200-gov", "time_limit": 1440}),
    ("the partition picks the grant", of("grace", partition="h200-gov", **ONE_GPU),
     {"tres_per_job": "gres/gpu:h200:1"}),
    ("--exclusive with every GPU of the node", of("alice", tres_per_job="gres/gpu:8", shared=0), {"min_nodes": 1}),
    ("an array is judged task by task", of("alice", tres_per_job="gres/gpu:16", array_inx="0-99%2"),
     {"qos": "guaranteed-nlp"}),
    ("an array within the budget", of("bob", array_inx="0-19", time_limit=60, tres_per_job="gres/gpu:8"), {}),
    ("an administrator's job is left alone", of("gpuaas"), {"min_nodes": 4294967294}),
    ("root's job is left alone", of("root"), {"min_nodes": 4294967294}),
    ("a partition that is not ours is left to Slurm", of("mallory", partition="cpu"), {"partition": "cpu"}),
]  # fmt: skip


@pytest.mark.parametrize(("why", "job", "expected"), ACCEPTED, ids=[row[0] for row in ACCEPTED])
def test_accepts(hook: Hook, why: str, job: dict[str, Any], expected: dict[str, Any]) -> None:
    outcome = hook.submit(**job)
    assert outcome.accepted, outcome.message
    assert outcome.message == ""
    assert {name: outcome.job[name] for name in expected} == expected
    assert hook.complaints == []


REFUSALS = [
    ("no project", of("mallory", **ONE_GPU), ["mallory is in no project", "ask"]),
    ("not in the project", of("bob", account="nlp", **ONE_GPU), ["bob is not in project nlp", "--account: vision"]),
    ("no such account", of("alice", account="nlpp", **ONE_GPU), ["not in project nlpp", "nlp, vision"]),
    ("two accounts", of("alice", account="nlp,vision", **ONE_GPU), ["not in project nlp,vision"]),
    ("part of an account", of("alice", account="isio", **ONE_GPU), ["not in project isio"]),
    ("several projects, no default", of("heidi", **ONE_GPU), ["2 projects", "--account: nlp, vision"]),
    ("no GPU", of("alice"), ["no GPU", "every node of partition b200-gov has 8", "--gpus=1"]),
    ("zero GPUs", of("alice", tres_per_node="gres/gpu:0"), ["no GPU"]),
    ("wrong model", of("alice", tres_per_job="gres/gpu:h200:8"), ["h200", "granted b200", "--gpus=b200:N"]),
    ("two models", of("grace", tres_per_job="gres/gpu:h200:1,gres/gpu:b200:1"), ["cannot be read"]),
    ("two models in two options", of("grace", tres_per_job="gres/gpu:h200:1", tres_per_node="gres/gpu:b200:1"),
     ["h200, b200", "one model"]),
    ("wrong partition", of("alice", partition="h200-gov", **ONE_GPU), ["h200-gov", "--partition=b200-gov"]),
    ("two partitions", of("grace", partition="b200-gov,h200-gov", **ONE_GPU), ["one share", "--partition=b200-gov"]),
    ("expired", of("erin", **ONE_GPU), ["ended on 2026-09-30", "renew"]),
    ("not begun", of("frank", **ONE_GPU), ["starts on 2027-03-01"]),
    ("above the limit of a job", of("bob", tres_per_job="gres/gpu:16"), ["16 GPUs", "8 GPUs a job", "--gpus=8"]),
    ("fits burst only", of("alice", tres_per_job="gres/gpu:24"),
     ["24 GPUs", "guaranteed (16 GPUs)", "burst (48 GPUs)", "--gpus=16 with --qos=guaranteed",
      "this size with --qos=burst"]),
    ("fits neither", of("alice", tres_per_job="gres/gpu:56"), ["--gpus=16 with", "--gpus=48 with --qos=burst"]),
    ("may not borrow", of("carol", tres_per_job="gres/gpu:24"), ["wholly as burst (none)", "--gpus=16"]),
    ("asks to borrow and may not", of("carol", qos="burst", **ONE_GPU),
     ["may not borrow", "this size with --qos=guaranteed"]),
    ("nothing guaranteed", of("dave", **ONE_GPU), ["guaranteed (0 GPUs)", "burst (no bound)", "--qos=burst"]),
    ("another project's QOS", of("alice", qos="guaranteed-vision", **ONE_GPU),
     ["guaranteed-vision", "--qos=guaranteed"]),
    ("too long", of("bob", time_limit=61, **ONE_GPU), ["0-01:01:00", "0-01:00:00", "--time=0-01:00:00"]),
    ("longer than the partition", of("alice", time_limit=2881, **ONE_GPU), ["2-00:01:00", "--time=2-00:00:00"]),
    ("unlimited", of("alice", time_limit=INFINITE, **ONE_GPU), ["wall time of unlimited", "--time=2-00:00:00"]),
    ("an array beyond the budget, whatever runs at once",
     of("bob", array_inx="0-39%1", time_limit=60, tres_per_job="gres/gpu:8"),
     ["320 GPU-hours", "8 GPUs x 0-01:00:00 x 40 array tasks", "160 of its budget", "--time=0-00:30:00"]),
    ("an array with steps", of("bob", array_inx="0-99:2,200", time_limit=60, tres_per_job="gres/gpu:8"),
     ["x 51 array tasks"]),
    ("part of several nodes", of("alice", tres_per_node="gres/gpu:4", min_nodes=2, max_nodes=2),
     ["8 GPUs", "2 nodes", "whole nodes of 8", "--nodes=1 --gpus=8"]),
    ("a total that is no whole nodes", of("alice", tres_per_job="gres/gpu:12"), ["12 GPUs", "2 nodes", "--gpus=8"]),
    ("a total spread wide", of("alice", tres_per_job="gres/gpu:16", min_nodes=4, max_nodes=4),
     ["16 GPUs", "4 nodes", "--nodes=2 --gpus-per-node=8"]),
    ("a total on too few nodes", of("alice", tres_per_job="gres/gpu:16", min_nodes=1, max_nodes=1),
     ["16 GPUs", "1 node,", "--nodes=2"]),
    ("--exclusive with one GPU", of("alice", shared=0, **ONE_GPU),
     ["1 GPU on 1 node", "takes all 8", "--gpus-per-node=8"]),
    ("GPUs a socket without sockets", of("alice", tres_per_socket="gres/gpu:4"), ["--gpus-per-node=N"]),
    ("unreadable", of("alice", tres_per_job="xgres/gpu:4"), ["cannot be read", "--gpus=N"]),
    ("twice", of("alice", tres_per_node="gres/gpu:4,gres/gpu:4"), ["cannot be read"]),
    ("not a number", of("alice", tres_per_node="gres/gpu:b200:-1"), ["cannot be read"]),
    ("very many", of("alice", tres_per_job="gres/gpu:1" + "0" * 22), ["asks for 10000"]),
]  # fmt: skip


@pytest.mark.parametrize(("why", "job", "words"), REFUSALS, ids=[row[0] for row in REFUSALS])
def test_refuses_with_numbers_and_the_way_out(hook: Hook, why: str, job: dict[str, Any], words: list[str]) -> None:
    before = dict(job)
    outcome = hook.submit(**job)
    assert outcome.code == REFUSED
    assert "\n" not in outcome.message and outcome.message.endswith("."), "one sentence"
    assert [word for word in words if word not in outcome.message] == [], outcome.message
    assert {name: outcome.job[name] for name in before} == before, "a refused job is left as it came"
    assert hook.complaints == []


def test_components_of_a_heterogeneous_job_count_together(hook: Hook) -> None:
    first = of("alice", tres_per_job="gres/gpu:8", het_job_offset=0)
    second = of("alice", tres_per_job="gres/gpu:16", het_job_offset=1)
    assert hook.submit(**first).accepted
    refused = hook.submit(**second)
    assert not refused.accepted
    assert "asks for 24 GPUs" in refused.message
    assert hook.submit(**of("alice", tres_per_job="gres/gpu:16")).accepted, "a plain job counts for itself"
    assert hook.submit(**first).accepted, "a new heterogeneous job starts at zero"


def test_budget_of_a_heterogeneous_job_is_one(hook: Hook) -> None:
    hook.snapshot.write_text(snapshot_text([*RECORDS, project("tight", budget=400), ("member", "ivan", "-", "tight")]))
    part = of("ivan", tres_per_job="gres/gpu:4", time_limit=60)
    assert hook.submit(**part, het_job_offset=0).accepted
    refused = hook.submit(**part, het_job_offset=1)
    assert "asks for 8 GPU-hours" in refused.message
    assert "4 GPU-hours of earlier components" in refused.message


def test_time_left_out_that_the_budget_cannot_pay_says_so(hook: Hook) -> None:
    hook.snapshot.write_text(snapshot_text([*RECORDS, project("tight", budget=600), ("member", "ivan", "-", "tight")]))
    refused = hook.submit(**of("ivan", tres_per_job="gres/gpu:8"))
    assert "the longest allowed as --time was left out" in refused.message
    assert "--time=0-01:15:00" in refused.message


def test_the_default_partition_decides_for_people_of_other_services(hook: Hook) -> None:
    hook.partitions = {"cpu": True, "b200-gov": False}
    assert hook.submit(user_name="mallory").accepted
    hook.partitions = {"cpu": False, "b200-gov": True}
    assert not hook.submit(user_name="mallory").accepted


def test_a_users_name_is_asked_for_once_a_minute(hook: Hook) -> None:
    assert hook.submit(**of("alice", user_id=7, **ONE_GPU)).job["account"] == "nlp"
    assert hook.submit(**of("bob", user_id=7, **ONE_GPU)).job["account"] == "nlp", "still the remembered name"
    assert hook.submit(**of("bob", user_id=8, **ONE_GPU)).job["account"] == "vision"
    hook.now = NOW + timedelta(minutes=1)
    assert hook.submit(**of("bob", user_id=7, **ONE_GPU)).job["account"] == "vision"


def test_a_hostile_name_cannot_write_to_the_terminal(hook: Hook) -> None:
    message = hook.submit(**of("alice", account="\x1b[2Jx\n%s{user}" + "y" * 500, **ONE_GPU)).message
    assert "\x1b" not in message and "\n" not in message
    assert len(message) < 300


RECORD = {
    "user_name": "alice",
    "account": "nlp",
    "qos": "guaranteed-nlp",
    "partition": "b200-gov",
    "time_limit": 60,
    "min_nodes": 1,
    "max_nodes": 1,
    "tres_per_job": "gres/gpu:b200:8",
    "tres_fmt_req_str": "cpu=1,mem=1M,node=1,billing=1,gres/gpu=8,gres/gpu:b200=8",
}

CHANGES: list[tuple[str, dict[str, Any], dict[str, Any], list[str], dict[str, Any]]] = [
    ("a priority is not ours", {}, {"priority": 5}, [], {"priority": 5}),
    ("a shorter time always passes", {"user_name": "erin", "account": "old"}, {"time_limit": 30}, [], {}),
    ("a longer time within the limit", {}, {"time_limit": 2880}, [], {"time_limit": 2880}),
    ("a time beyond the limit", {}, {"time_limit": 2881}, ["2-00:01:00", "--time=2-00:00:00"], {}),
    ("a longer time under an ended grant", {"user_name": "erin", "account": "old", "qos": "guaranteed-old"},
     {"time_limit": 90}, ["ended on 2026-09-30"], {}),
    ("more GPUs than its nodes have", {}, {"tres_per_job": "gres/gpu:24"}, ["1 node,", "--nodes=3"], {}),
    ("more GPUs than guaranteed", {}, {"tres_per_job": "gres/gpu:24", "min_nodes": 3, "max_nodes": 3},
     ["24 GPUs", "--gpus=16"], {}),
    ("more GPUs, untyped", {}, {"tres_per_job": "gres/gpu:4"}, [], {"tres_per_job": "gres/gpu:b200:4"}),
    ("no GPUs any more", {}, {"tres_per_job": "gres/gpu:0"}, ["no GPU"], {}),
    ("burst by its short name", {}, {"qos": "burst"}, [], {"qos": "burst-32"}),
    ("another project of the user", {}, {"account": "vision"}, [], {"account": "vision", "qos": "guaranteed-vision"}),
    ("a project of others", {}, {"account": "nolend"}, ["not in project nolend", "nlp, vision"], {}),
    ("a foreign partition", {}, {"partition": "cpu"}, [], {"partition": "cpu"}),
    ("nodes of a job by node", {"tres_per_job": None, "tres_per_node": "gres/gpu:b200:8"},
     {"min_nodes": 4, "max_nodes": 4}, ["32 GPUs", "--gpus=16"], {}),
    ("tasks of a job are derived from its GPUs",
     {"tres_per_job": None, "tres_per_task": "gres/gpu:b200:2", "min_nodes": 1},
     {"time_limit": 90}, [], {}),
    ("an array's budget counts all tasks", {"account": "vision", "qos": "guaranteed-vision", "array_task_cnt": 40,
                                           "time_limit": 10},
     {"time_limit": 60}, ["40 array tasks", "--time=0-00:30:00"], {}),
]  # fmt: skip


@pytest.mark.parametrize(("why", "record", "change", "words", "expected"), CHANGES, ids=[row[0] for row in CHANGES])
def test_judges_changes(
    hook: Hook, why: str, record: dict[str, Any], change: dict[str, Any], words: list[str], expected: dict[str, Any]
) -> None:
    outcome = hook.modify({**RECORD, **record}, **change)
    assert outcome.accepted == (not words), outcome.message
    assert [word for word in words if word not in outcome.message] == [], outcome.message
    assert {name: outcome.job[name] for name in expected} == expected
    assert hook.complaints == []


def test_the_owner_is_known_before_the_job_has_run(hook: Hook) -> None:
    nameless = {**RECORD, "user_name": None}
    assert "--time=2-00:00:00" in hook.modify(nameless, user_name="alice", time_limit=9999).message


def test_what_an_operator_changes_is_not_judged(hook: Hook) -> None:
    assert hook.modify(RECORD, by=0.0, time_limit=99_999).accepted
