"""The hook's snapshot, field by field."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from itertools import pairwise

from hypothesis import given, settings

from slurm_gpuaas.domain.names import ClusterName, ProjectName, UserName
from slurm_gpuaas.domain.policy import Policy
from slurm_gpuaas.quota.verdict import Gate, Standing, body, bucket_of, stamped
from tests.unit.policies import grant, member, policies, policy, pool, project

NOW = datetime(2027, 1, 4, 9, 0, tzinfo=UTC)
MINI = ClusterName("mini")
WIDTHS = {"cluster": 3, "partition": 6, "gate": 2, "project": 14, "member": 4, "bypass": 2, "index": 2}


def records(policy: Policy, **left: int) -> dict[str, list[list[str]]]:
    text = body(policy, MINI, NOW, left={ProjectName(name): minutes for name, minutes in left.items()})
    found: dict[str, list[list[str]]] = {kind: [] for kind in WIDTHS}
    for kind, *fields in records_in(text):
        found[kind].append(fields)
    return found


def records_in(text: str) -> list[list[str]]:
    return [line.split("\t") for line in text.splitlines() if not line.isdecimal()]


def test_the_records_of_a_policy() -> None:
    found = records(
        policy(
            pool(max_time="P1D"),
            project(),
            member("alice"),
            member("bob"),
            grant(borrow_limit=8, max_gpus_per_job=8, max_time="PT12H", ends="2027-12-31"),
        ),
        vision=500,
    )
    assert found["cluster"] == [["mini", "8"]]
    assert found["partition"] == [["mini-own", "b200", "8", "1440", "64"]]
    (fields,) = found["project"]
    assert fields[:5] == ["vision", "guaranteed-vision", "burst-mini-own", "mini-own", "b200"]
    assert fields[5:10] == ["16", "8", "8", "720", "500"]
    assert fields[10:] == ["1767193200", "1830265200", "active"]
    assert sorted(found["member"]) == [["alice", "vision", "vision"], ["bob", "vision", "vision"]]
    assert found["bypass"] == [["gpuaas"], ["root"], ["slurm"]]


def test_what_is_not_limited_is_a_dash() -> None:
    (fields,) = records(policy(project(), grant()))["project"]
    assert fields[2] == "burst-mini-own"
    assert fields[6:10] == ["-", "-", "-", "-"]


def test_a_grant_that_ended_gives_nothing_and_says_when() -> None:
    (fields,) = records(policy(project(), grant(starts="2026-01-01", ends="2026-06-30")))["project"]
    assert (fields[2], fields[5], fields[-1]) == ("-", "0", "expired")
    assert fields[-2] == str(int(datetime(2026, 6, 30, 15, tzinfo=UTC).timestamp()))


def test_the_first_line_names_the_body() -> None:
    text = body(policy(), MINI, NOW, bypass=[UserName("root")])
    head, rest = stamped(text, NOW).split("\n", 1)
    assert head == f"gpuaas-snapshot 3 1799053200 {hashlib.sha256(rest.encode()).hexdigest()}"


def test_gate_and_standing_are_told_where_known() -> None:
    standing = {ProjectName("vision"): Standing(guaranteed_in_use=8, burst_in_use=16, may_borrow=24)}
    lines = body(policy(project(), grant()), MINI, NOW, gate=Gate(license="placement"), standing=standing).splitlines()
    assert "gate\tplacement" in lines
    assert [line.split("\t")[14:] for line in lines if line.startswith("project")] == [["8", "16", "24"]]
    assert "gate" not in body(policy(project(), grant()), MINI, NOW)


@given(policy=policies())
@settings(deadline=None, max_examples=30)
def test_every_member_and_project_lies_in_the_bucket_of_its_name_and_nowhere_else(policy: Policy) -> None:
    text = body(policy, MINI, NOW)
    head, _, rest = text.partition("index\t")
    assert not any(kind in ("member", "project") for kind, *_ in records_in(head))
    number, _, rest = rest.partition("\n")
    buckets = int(number)
    bounds = [int(rest[at : at + 9]) for at in range(0, (buckets + 1) * 10, 10)]
    lines = rest.encode()[(buckets + 1) * 10 :]
    assert (bounds[0], bounds[-1]) == (0, len(lines))
    for bucket, (first, stop) in enumerate(pairwise(bounds)):
        for kind, name, *_ in records_in(lines[first:stop].decode()):
            assert bucket_of(f"{kind}\t{name}", buckets) == bucket


@settings(deadline=None, max_examples=30)
@given(policy=policies())
def test_every_record_has_its_width_and_only_plain_text(policy: Policy) -> None:
    for fields in records_in(body(policy, MINI, NOW)):
        assert len(fields) == WIDTHS[fields[0]]
        assert all(field and field.isascii() and field.isprintable() for field in fields)
