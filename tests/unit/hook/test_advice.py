"""What a user is told: advice for a job that will wait, in the user's language, and the licence of the gate."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import lupa.lua54
import pytest

from tests.unit.hook.harness import HOOK, LUA, NO_VAL, RECORDS, REFUSED, UNSET, Hook, project, snapshot_text

SIZED = [
    ("cluster", "mini", 8),
    ("partition", "b200-gov", "b200", 8, 2880, 64),
    project("nlp"),
    project("free", burst="burst-unlimited", borrow="-", guaranteed=8),
    ("member", "alice", "nlp", "nlp"),
    ("member", "dave", "free", "free"),
]


@pytest.fixture(params=LUA)
def hook(tmp_path: Path, request: pytest.FixtureRequest) -> Hook:
    return Hook(tmp_path / "snapshot", text=snapshot_text(RECORDS), lua=request.param)


def using(hook: Hook, guaranteed: int, burst: int, may_borrow: int) -> Hook:
    standing = (*project("nlp"), guaranteed, burst, may_borrow)
    hook.snapshot.write_text(snapshot_text([*SIZED[:2], standing, *SIZED[4:]]))
    return hook


# in use as guaranteed, as burst, may borrow; GPUs and QOS asked; words of the advice (none: it starts at once).
# The project has 16 guaranteed and may borrow 32.
ADVICE: list[tuple[str, tuple[int, int, int], int, str, list[str]]] = [
    ("room in the guarantee", (8, 0, 32), 8, "guaranteed", []),
    ("room to borrow", (16, 0, 32), 32, "burst", []),
    ("either will do", (16, 0, 8), 8, "guaranteed,burst", []),
    ("the guarantee is in use", (16, 0, 24), 8, "guaranteed",
     ["asks for 8 GPUs as guaranteed", "16 guaranteed GPUs 16 are in use", "0 GPUs would start as guaranteed",
      "24 GPUs as burst", "this size with --qos=burst"]),
    ("part of it", (8, 0, 0), 16, "guaranteed", ["8 GPUs would start as guaranteed", "at most --gpus=8"]),
    ("nothing is idle", (16, 0, 0), 8, "burst", ["0 GPUs as burst", "leave it in the queue"]),
    ("burst jobs fill the ceiling", (0, 48, 64), 8, "guaranteed", ["48 more as burst", "leave it in the queue"]),
    ("the ceiling bounds the burst side", (8, 32, 64), 16, "burst", ["8 GPUs as burst", "at most --gpus=8 with"]),
]  # fmt: skip


@pytest.mark.parametrize(("why", "use", "gpus", "qos", "words"), ADVICE, ids=[row[0] for row in ADVICE])
def test_advises_who_will_wait(
    hook: Hook, why: str, use: tuple[int, int, int], gpus: int, qos: str, words: list[str]
) -> None:
    outcome = using(hook, *use).submit(user_name="alice", qos=qos, tres_per_job=f"gres/gpu:{gpus}")
    assert outcome.accepted, outcome.message
    assert bool(outcome.message) == bool(words), outcome.message
    assert [word for word in words if word not in outcome.message] == [], outcome.message
    assert hook.complaints == []


def test_who_has_no_guarantee_is_not_told_of_one(hook: Hook) -> None:
    standing = (*project("nlp", guaranteed=0), 0, 24, 8)
    hook.snapshot.write_text(snapshot_text([*SIZED[:2], standing, *SIZED[4:]]))
    told = hook.submit(user_name="alice", qos="burst", tres_per_job="gres/gpu:16").message
    assert "no GPU is guaranteed, uses 24 as burst; right now 8 GPUs would start" in told
    assert "at most --gpus=8 with --qos=burst" in told
    nothing = project("nlp", guaranteed=0, burst="-", borrow="-")
    hook.snapshot.write_text(snapshot_text([*SIZED[:2], nothing, *SIZED[4:]]))
    told = hook.submit(user_name="alice", qos="burst", tres_per_job="gres/gpu:8").message
    assert "may not borrow; ask for a larger grant" in told


@pytest.mark.parametrize("waiting", [{"priority": 0}, {"dependency": "afterok:1"}, {"begin_time": 4_000_000_000}])
def test_a_job_that_waits_for_something_else_gets_no_advice(hook: Hook, waiting: dict[str, Any]) -> None:
    assert using(hook, 16, 0, 0).submit(user_name="alice", tres_per_job="gres/gpu:8", **waiting).message == ""


def test_a_change_of_a_pending_job_is_advised_and_of_a_running_one_is_not(hook: Hook) -> None:
    record = {"user_name": "alice", "account": "nlp", "qos": "guaranteed-nlp", "partition": "b200-gov",
              "time_limit": 60, "tres_per_job": "gres/gpu:8", "min_nodes": 1, "max_nodes": 1}  # fmt: skip
    using(hook, 16, 0, 0)
    assert "accepted but waits" in hook.modify({**record, "job_state": 0}, time_limit=90).message
    assert hook.modify({**record, "job_state": 1}, time_limit=90).message == ""


def test_borrowing_without_a_bound_ends_at_the_share(tmp_path: Path) -> None:
    hook = Hook(tmp_path / "snapshot", text=snapshot_text(SIZED))
    assert hook.submit(user_name="dave", qos="burst", tres_per_job="gres/gpu:64").accepted
    refused = hook.submit(user_name="dave", qos="burst", tres_per_job="gres/gpu:72")
    assert refused.code == REFUSED
    assert "burst (64 GPUs)" in refused.message and "--gpus=64 with --qos=burst" in refused.message


GATE: list[tuple[str, dict[str, Any], str | None]] = [
    ("a guaranteed job", {}, "placement:1"),
    ("beside its own", {"licenses": "matlab:2"}, "matlab:2,placement:1"),
    ("asked for already", {"licenses": "matlab,placement"}, "matlab,placement"),
    ("alternatives cannot be joined", {"licenses": "matlab|abaqus"}, "matlab|abaqus"),
    ("guaranteed in a list", {"qos": "burst,guaranteed"}, "placement:1"),
    ("burst", {"qos": "burst"}, None),
    ("an array", {"array_inx": "0-3"}, None),
    ("a component", {"het_job_offset": 0}, None),
]


@pytest.mark.parametrize(("why", "job", "licences"), GATE, ids=[row[0] for row in GATE])
def test_guaranteed_jobs_wait_at_the_gate(hook: Hook, why: str, job: dict[str, Any], licences: str | None) -> None:
    asked = {"user_name": "alice", "tres_per_job": "gres/gpu:8", **job}
    assert hook.submit(**asked).job.get("licenses") == job.get("licenses"), "no gate, no licence"
    hook.snapshot.write_text(snapshot_text([*RECORDS, ("gate", "placement")]))
    assert hook.submit(**asked).job.get("licenses") == licences


SEGMENTS: list[tuple[str, dict[str, Any], float | None]] = [
    ("a job at the gate", {}, 1),
    ("with segments of its own", {"segment_size": 4}, 4),
    ("burst that asks for the gate", {"qos": "burst", "licenses": "placement:1"}, 1),
    ("burst that does not", {"qos": "burst"}, None),
    ("an array", {"array_inx": "0-3"}, None),
]


def test_a_slurm_without_segments_is_asked_for_none(hook: Hook) -> None:
    hook.snapshot.write_text(snapshot_text([*RECORDS, ("gate", "placement", "segments")]))
    outcome = hook.submit(user_name="alice", tres_per_job="gres/gpu:8", segment_size=None)
    assert (outcome.job.get("licenses"), outcome.job.get("segment_size")) == ("placement:1", None)
    assert hook.complaints == []


@pytest.mark.parametrize(("why", "job", "segment"), SEGMENTS, ids=[row[0] for row in SEGMENTS])
def test_under_blocks_jobs_at_the_gate_name_segments(
    hook: Hook, why: str, job: dict[str, Any], segment: float | None
) -> None:
    asked = {"user_name": "alice", "tres_per_job": "gres/gpu:8", **job}
    unset = float(UNSET["segment_size"])
    hook.snapshot.write_text(snapshot_text([*RECORDS, ("gate", "placement")]))
    assert hook.submit(**asked).job["segment_size"] == job.get("segment_size", unset), "a tree needs none"
    hook.snapshot.write_text(snapshot_text([*RECORDS, ("gate", "placement", "segments")]))
    assert hook.submit(**asked).job["segment_size"] == (unset if segment is None else segment)


KOREAN = [
    ({"LANG": "ko_KR.UTF-8"}, True),
    ({"LANG": "ko"}, True),
    ({"LANG": "ko_KR.UTF-8", "LC_ALL": "C"}, False),
    ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "ko_KR.utf8"}, True),
    ({"LC_ALL": "", "LANG": "ko_KR.UTF-8"}, True),
    ({"LANG": "kok_IN"}, False),
    ({}, False),
]


@pytest.mark.parametrize(("environment", "korean"), KOREAN)
def test_speaks_the_users_language(hook: Hook, environment: dict[str, str], korean: bool) -> None:
    refused = hook.submit(user_name="alice", tres_per_job="gres/gpu:56", environment=hook.table(environment))
    assert ("GPU 56개를 요청하셨으나" in refused.message) == korean
    assert ("asks for 56 GPUs" in refused.message) != korean
    advised = using(hook, 16, 0, 24).submit(
        user_name="alice", tres_per_job="gres/gpu:8", time_limit=NO_VAL, environment=hook.table(environment)
    )
    assert ("작업은 접수되었으나 대기합니다" in advised.message) == korean


def test_both_languages_have_every_sentence_with_the_same_placeholders() -> None:
    source = re.search(r"^local MESSAGES = (\{.*?^\})", HOOK.read_text(), re.MULTILINE | re.DOTALL)
    assert source
    table = lupa.lua54.LuaRuntime().eval(source[1])
    placeholders = {
        language: {key: set(re.findall(r"{(\w+)}", text)) for key, text in table[language].items()}
        for language in ("en", "ko")
    }
    assert placeholders["en"] == placeholders["ko"]
