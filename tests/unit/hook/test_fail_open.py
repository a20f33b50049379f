"""Whatever happens to the snapshot, Slurm's own limits stay in force and jobs are accepted as they came."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest

from tests.unit.hook.harness import NOW, RECORDS, Hook, project, snapshot_text

TOO_MANY = {"user_name": "alice", "tres_per_job": "gres/gpu:9999"}

BROKEN = {
    "empty": "",
    "another format": "gpuaas-snapshot 1 1 abc\n",
    "not a number": snapshot_text([("cluster", "mini", 8), ("partition", "p", "b200", "many", 1)]),
    "cut short": snapshot_text(RECORDS)[:-5],
    "a project without its partition": snapshot_text(
        [("cluster", "mini", 8), project("nlp"), ("member", "alice", "nlp", "nlp")]
    ),
    "another cluster's": snapshot_text([("cluster", "kakao", 8)]),
    "without a cluster": snapshot_text(RECORDS[1:]),
    "an index that leads nowhere": re.sub(r"\n\d{9}\n", "\n999999999\n", snapshot_text(RECORDS)),
    "an index of letters": re.sub(r"\n\d{9}\n", "\nabcdefghi\n", snapshot_text(RECORDS)),
    "more buckets than there are": re.sub(r"index\t\d+", "index\t90000000", snapshot_text(RECORDS)),
    "no bucket": re.sub(r"index\t\d+", "index\t0", snapshot_text(RECORDS)),
    "binary": "\x00\x01\x02" * 100,
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_snapshot_leaves_the_job_to_slurm(tmp_path: Path, text: str) -> None:
    hook = Hook(tmp_path / "snapshot", text=text)
    outcome = hook.submit(**TOO_MANY)
    assert outcome.accepted
    assert outcome.job["tres_per_job"] == TOO_MANY["tres_per_job"]
    assert len(hook.complaints) == 1
    assert "Slurm's own limits alone decide" in hook.complaints[0]


def test_a_missing_snapshot_leaves_the_job_to_slurm_and_says_so_once_a_minute(tmp_path: Path) -> None:
    hook = Hook(tmp_path / "snapshot")
    for _ in range(100):
        assert hook.submit(**TOO_MANY).accepted
    assert len(hook.complaints) == 1
    hook.now = NOW + timedelta(seconds=60)
    assert hook.submit(**TOO_MANY).accepted
    assert len(hook.complaints) == 2


def test_an_old_snapshot_leaves_the_job_to_slurm_until_it_is_renewed(tmp_path: Path) -> None:
    hook = Hook(tmp_path / "snapshot", text=snapshot_text(RECORDS))
    assert not hook.submit(**TOO_MANY).accepted
    hook.now = NOW + timedelta(minutes=16)
    assert hook.submit(**TOO_MANY).accepted
    assert "960 s old" in hook.complaints[0]
    hook.snapshot.write_text(snapshot_text(RECORDS, generated=hook.now))
    assert not hook.submit(**TOO_MANY).accepted


def test_a_new_head_is_read_and_an_unchanged_one_is_not(tmp_path: Path) -> None:
    text = snapshot_text(RECORDS)
    hook = Hook(tmp_path / "snapshot", text=text)
    job = {"user_name": "alice", "tres_per_job": "gres/gpu:24"}
    assert not hook.submit(**job).accepted
    hook.snapshot.write_text(text.replace("cluster\tmini", "cluster\tcafe"))
    assert not hook.submit(**job).accepted, "the same hash: the head is not read again"
    assert hook.complaints == []
    larger = [*RECORDS[:3], project("nlp", guaranteed=24), ("member", "alice", "nlp", "nlp")]
    hook.snapshot.write_text(snapshot_text(larger))
    assert hook.submit(**job).accepted


def test_records_that_went_missing_under_the_same_hash_leave_the_job_to_slurm(tmp_path: Path) -> None:
    hook = Hook(tmp_path / "snapshot", text=snapshot_text(RECORDS))
    assert not hook.submit(**TOO_MANY).accepted
    head, _, _ = hook.snapshot.read_text().partition("\n")
    hook.snapshot.write_text(head + "\n")
    assert hook.submit(**{**TOO_MANY, "user_name": "bob"}).accepted
    assert "cut short" in hook.complaints[0]


def test_a_broken_body_is_replaced_by_the_next_good_one(tmp_path: Path) -> None:
    hook = Hook(tmp_path / "snapshot", text=snapshot_text(RECORDS))
    assert not hook.submit(**TOO_MANY).accepted
    hook.snapshot.write_text(BROKEN["not a number"])
    assert hook.submit(**TOO_MANY).accepted
    hook.snapshot.write_text(snapshot_text(RECORDS))
    assert not hook.submit(**TOO_MANY).accepted


def test_an_expired_grant_is_noticed_between_two_snapshots(tmp_path: Path) -> None:
    records = [*RECORDS[:3], project("nlp", ends="2026-11-23"), ("member", "alice", "nlp", "nlp")]
    hook = Hook(tmp_path / "snapshot", text=snapshot_text(records))
    job = {"user_name": "alice", "tres_per_job": "gres/gpu:1"}
    assert hook.submit(**job).accepted
    hook.now = NOW + timedelta(hours=12)
    hook.snapshot.write_text(snapshot_text(records, generated=hook.now))
    assert "ended on 2026-11-22" in hook.submit(**job).message


def test_records_of_a_newer_daemon_are_passed_over(tmp_path: Path) -> None:
    hook = Hook(tmp_path / "snapshot", text=snapshot_text([*RECORDS, ("weather", "rain")]))
    assert not hook.submit(**TOO_MANY).accepted
    assert hook.complaints == []


def test_every_name_is_found_among_thousands(tmp_path: Path) -> None:
    names = [f"p{number}" for number in range(700)] + ["a", "zz", "p-1", "p_1", "p.1"]
    records = [*RECORDS[:2], *(project(name) for name in names), *(("member", f"u{n}", n, n) for n in names)]
    hook = Hook(tmp_path / "snapshot", text=snapshot_text(records))
    found = {name: hook.submit(user_name=f"u{name}", tres_per_job="gres/gpu:1") for name in names}
    assert [name for name, outcome in found.items() if outcome.job.get("account") != name] == []
    for absent in ("p", "p7000", "", "~"):
        assert "is in no project" in hook.submit(user_name=f"u{absent}", tres_per_job="gres/gpu:1").message
    assert hook.complaints == []
