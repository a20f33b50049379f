"""Nodes that are kept from large jobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.hook.harness import LUA, RECORDS, Hook, snapshot_text

LIMITED = (("limited", 1, "b200-007"), ("limited", 4, "b200-003,b200-009"))


@pytest.fixture(params=LUA)
def hook(tmp_path: Path, request: pytest.FixtureRequest) -> Hook:
    return Hook(tmp_path / "snapshot", text=snapshot_text([*RECORDS, *LIMITED]), lua=request.param)


def excluded(hook: Hook, **fields: object) -> object:
    outcome = hook.submit(user_name="dave", qos="burst", **fields)
    assert outcome.accepted, outcome.message
    assert hook.complaints == []
    return outcome.job.get("exc_nodes")


def test_a_large_job_excludes_the_nodes_that_are_kept_from_it(hook: Hook) -> None:
    assert excluded(hook, tres_per_job="gres/gpu:64") == "b200-007,b200-003,b200-009"


def test_a_job_of_a_few_nodes_excludes_only_those_with_a_smaller_limit(hook: Hook) -> None:
    assert excluded(hook, tres_per_job="gres/gpu:32") == "b200-007"


def test_a_small_job_may_have_every_node(hook: Hook) -> None:
    assert excluded(hook, tres_per_job="gres/gpu:8") is None


def test_what_its_user_excludes_stays_excluded(hook: Hook) -> None:
    job = {"tres_per_job": "gres/gpu:16", "exc_nodes": "b200-[001-002]"}
    assert excluded(hook, **job) == "b200-[001-002],b200-007"


def test_who_names_nodes_has_chosen(hook: Hook) -> None:
    assert excluded(hook, tres_per_job="gres/gpu:64", req_nodes="b200-007") is None


def test_the_largest_size_of_a_range_counts(hook: Hook) -> None:
    job = {"tres_per_node": "gres/gpu:8", "min_nodes": 1, "max_nodes": 8}
    assert excluded(hook, **job) == "b200-007,b200-003,b200-009"
