"""Policies for tests: small builders, and hypothesis strategies over whole policies."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any

from hypothesis import strategies as st

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.policy import DOCUMENT, Policy, PolicyDocument


def document(kind: str, **fields: Any) -> PolicyDocument:
    return DOCUMENT.validate_python({"kind": kind, **fields})


def pool(name: str = "mini", **fields: Any) -> PolicyDocument:
    shares = fields.pop("shares", [{"name": "own", "nodes": "b200-[01-08]"}])
    return document("Pool", **{"name": name, "cluster": "mini", "model": "b200", "shares": shares} | fields)


def project(name: str = "vision", organisation: str = "snu") -> PolicyDocument:
    return document("Project", name=name, organisation=organisation)


def member(user: str = "alice", of: str = "vision", **fields: Any) -> PolicyDocument:
    return document("Member", project=of, user=user, **fields)


def grant(of: str = "vision", **fields: Any) -> PolicyDocument:
    defaults: Mapping[str, Any] = {
        "name": f"{of}-1",
        "project": of,
        "pool": "mini",
        "share": "own",
        "gpus": 16,
        "starts": "2026-01-01",
        "ends": "2027-12-31",
    }
    return document("Grant", **{**defaults, **fields})


def rate(**fields: Any) -> PolicyDocument:
    """One Won a GPU-second of b200, half of it as burst."""
    defaults: Mapping[str, Any] = {
        "name": "b200-2026",
        "model": "b200",
        "won_per_gpu_hour": 3_600,
        "burst_discount": 50,
        "starts": "2026-01-01",
        "basis": "Notice 2026-1",
    }
    return document("Rate", **{**defaults, **fields})


def policy(*documents: PolicyDocument) -> Policy:
    """The documents with the organisation `snu` and the pool `mini`, unless they bring their own."""
    kinds = {type(one).__name__ for one in documents}
    given = [document("Organisation", name="snu")] if "Organisation" not in kinds else []
    given += [pool()] if "Pool" not in kinds else []
    return Policy.of([*given, *documents])


def small() -> Policy:
    """One project of two members with a grant."""
    return policy(project(), member("alice"), member("bob"), grant(borrow_limit=8))


PROJECTS = ("audio", "bio", "chem", "data")
USERS = ("alice", "bob", "carol", "dave")
DAYS = st.dates(min_value=date(2026, 6, 1), max_value=date(2027, 6, 30))


@st.composite
def _grants(draw: st.DrawFn, name: str) -> PolicyDocument:
    starts = draw(DAYS)
    budget = draw(st.none() | st.integers(0, 1_000))
    won = draw(st.none() | st.integers(0, 10**9))
    period = draw(st.sampled_from(("grant", "month", "quarter"))) if (budget, won) != (None, None) else "grant"
    return grant(
        name,
        name=f"{name}-{draw(st.integers(1, 3))}",
        share=draw(st.sampled_from(("government", "own"))),
        gpus=draw(st.integers(0, 64)),
        borrow_limit=draw(st.none() | st.integers(0, 64)),
        lend_limit=draw(st.none() | st.integers(0, 64)),
        weight=draw(st.integers(0, 9)),
        priority=draw(st.integers(-3, 3)),
        starts=starts,
        ends=starts + timedelta(days=draw(st.integers(0, 300))),
        budget_gpu_hours=budget,
        budget_won=won,
        budget_period=period,
        carry_over=0 if period == "grant" else draw(st.integers(0, 100)),
        grace=0 if (budget, won) == (None, None) else draw(st.integers(0, 100)),
        price_percent=draw(st.decimals(0, 100, places=2)),
        max_gpus_per_job=draw(st.none() | st.integers(1, 64)),
        max_time=draw(st.none() | st.integers(1, 10_000).map(lambda minutes: timedelta(minutes=minutes))),
    )


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    """Valid policies over two shares, up to four projects and users, grants in every state."""
    shares = [{"name": "government", "nodes": "b200-[01-04]", "spares": draw(st.integers(0, 2))},
              {"name": "own", "nodes": "b200-[05-08]"}]  # fmt: skip
    documents: list[PolicyDocument] = [
        document("Organisation", name="snu"),
        document("Organisation", name="kaist", weight=draw(st.integers(0, 9)), priority=draw(st.integers(-3, 3))),
        pool(
            shares=shares,
            max_time=draw(st.integers(1, 100).map(lambda hours: timedelta(hours=hours))),
            min_run=timedelta(seconds=draw(st.integers(0, 3_600))),
            grace=timedelta(seconds=draw(st.integers(0, 600))),
        ),
        rate(),
    ]
    for name in draw(st.sets(st.sampled_from(PROJECTS))):
        documents.append(project(name, draw(st.sampled_from(("snu", "kaist")))))
        users = draw(st.sets(st.sampled_from(USERS)))
        documents += [member(user, name) for user in sorted(users)]
        given: list[PolicyDocument] = []
        for candidate in draw(st.lists(_grants(name), max_size=2)):
            try:  # grants of one name, or of two shares at once, are no policy
                policy(project(name), pool(shares=shares), rate(), *given, candidate)
            except InvalidInput:
                continue
            given.append(candidate)
        documents += given
    return Policy.of(documents)
