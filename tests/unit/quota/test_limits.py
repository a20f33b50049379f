"""Slurm's order of precedence, rule by rule. That slurmctld does the same is shown by `tests/slurm/test_explain.py`."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_gpuaas.domain.names import AccountName, GpuModel, PartitionName, QosName, UserName
from slurm_gpuaas.quota.limits import Asked, Outcome, Place, Prediction, asked, largest_that_starts, predict
from slurm_gpuaas.slurm.limit_records import (
    NO_LIMITS,
    NOTHING,
    WHOLE,
    AssociationLimits,
    InUse,
    Kind,
    PartitionLimits,
    QosLimits,
)
from slurm_gpuaas.slurm.records import Tres

GPU, TYPED, BILLING = "gres/gpu", "gres/gpu:b200", "billing"
TRES = ("cpu", "mem", "energy", "node", BILLING, "fs/disk", "vmem", "pages", GPU, TYPED)
LAB, TOP, ROOT, ALICE = AccountName("lab"), AccountName("top"), AccountName("root"), UserName("alice")

Limits = Mapping[Kind, Tres]


def gpus(limit: int) -> Limits:
    return {Kind.GRP_TRES: {GPU: limit}}


def use(count: int, *, minutes: int = 0, run_minutes: int = 0) -> InUse:
    return InUse(
        tres={GPU: count, TYPED: count, BILLING: count, "node": -(-count // 8)},
        minutes={GPU: minutes},
        run_minutes={GPU: run_minutes},
        jobs=int(count > 0),
        submitted=int(count > 0),
    )


def place(
    *,
    own: Limits = NO_LIMITS,
    part: Limits | None = None,
    user: Limits = NO_LIMITS,
    account: Limits = NO_LIMITS,
    parent: Limits = NO_LIMITS,
    flags: frozenset[str] = frozenset(),
    used: InUse = NOTHING,
    used_above: InUse | None = None,
    max_time: int | None = None,
    max_nodes: int | None = None,
    allow_qos: frozenset[QosName] = frozenset(),
    safe: bool = True,
    refuses: bool = False,
    weights: Mapping[str, float] | None = None,
) -> Place:
    """alice in lab below top; what is in use is hers, in the job's QOS, unless `used_above` says more."""
    above = used if used_above is None else used_above
    own_qos = QosLimits(name=QosName("own"), flags=flags, limits=own, in_use=used, by_account={LAB: used})
    return Place(
        user=ALICE,
        partition=PartitionLimits(
            name=PartitionName("p"),
            max_time=max_time,
            max_nodes=max_nodes,
            allow_qos=allow_qos,
            total_nodes=8,
            billing_weights={GPU: 1.0} if weights is None else weights,
        ),
        partition_qos=None if part is None else QosLimits(name=QosName("part"), limits=part, in_use=used),
        qos=own_qos,
        associations=(
            AssociationLimits(account=LAB, user=ALICE, limits=user, in_use=used),
            AssociationLimits(account=LAB, parent=TOP, limits=account, in_use=above),
            AssociationLimits(account=TOP, parent=ROOT, limits=parent, in_use=above),
            AssociationLimits(account=ROOT),
        ),
        safe=safe,
        refuses=refuses,
        priority_flags=frozenset(),
        tres=TRES,
    )


def job(count: int, *, typed: bool = True, nodes: int | None = None, minutes: int | None = 60) -> Asked:
    return asked(
        count, model=GpuModel("b200") if typed else None, nodes=nodes or max(-(-count // 8), 1), minutes=minutes
    )


DENY, OVER = frozenset({"DENY_LIMIT"}), frozenset({"OVERRIDE_PARTITION_QOS"})

RULES: list[tuple[str, Place, Asked, str]] = [
    ("no limit", place(), job(64), "start"),
    ("QOS full", place(own=gpus(8), used=use(8)), job(8), "wait QOSGrpGRES"),
    ("partition QOS hides the QOS", place(part=gpus(24), own=gpus(8), used=use(8)), job(8), "start"),
    ("unless OverPartQOS", place(part=gpus(24), own=gpus(8), flags=OVER, used=use(8)), job(8), "wait QOSGrpGRES"),
    ("with OverPartQOS the partition QOS still sets other TRES",
     place(part={Kind.GRP_TRES: {"node": 1}}, own=gpus(64), flags=OVER), job(16), "wait QOSGrpNodeLimit"),
    ("other TRES names stand side by side",
     place(part={Kind.GRP_TRES: {"node": 1}}, own=gpus(64), used=use(8)), job(8), "wait QOSGrpNodeLimit"),
    ("QOS hides the account", place(own=gpus(64), account=gpus(8), used=use(8)), job(8), "start"),
    ("and the parent account", place(own=gpus(64), parent=gpus(8), used=use(8)), job(8), "start"),
    ("typed stands beside untyped",
     place(own=gpus(64), account={Kind.GRP_TRES: {TYPED: 8}}, used=use(8)), job(8), "wait AssocGrpGRES"),
    ("a job without a model passes a typed limit",
     place(account={Kind.GRP_TRES: {TYPED: 8}}, used=use(8)), job(8, typed=False), "start"),
    ("associations do not hide each other", place(user=gpus(64), parent=gpus(8), used=use(8)), job(8),
     "wait AssocGrpGRES"),
    ("use of others in the account counts", place(account=gpus(16), used_above=use(16)), job(8), "wait AssocGrpGRES"),
    ("billing follows the weights",
     place(account={Kind.GRP_TRES: {BILLING: 16}}, weights={GPU: 2.0}), job(9), "wait AssocGrpBilling"),
    ("billing without weights is CPUs", place(account={Kind.GRP_TRES: {BILLING: 16}}, weights={}), job(64), "start"),
    ("MaxTRESPA", place(own={Kind.MAX_TRES_PA: {GPU: 8}}, used=use(8)), job(8), "wait MaxGRESPerAccount"),
    ("MaxTRES of the QOS", place(own={Kind.MAX_TRES: {GPU: 8}}), job(16), "wait QOSMaxGRESPerJob"),
    ("MaxTRES of the user", place(user={Kind.MAX_TRES: {GPU: 8}}), job(16), "wait AssocMaxGRESPerJob"),
    ("MaxTRES of an account is looked at where it was handed down to", place(account={Kind.MAX_TRES: {GPU: 8}}),
     job(16), "start"),
    ("MaxTRESPerNode", place(own={Kind.MAX_TRES_NODE: {GPU: 4}}), job(8), "wait QOSMaxGRESPerNode"),
    ("MinTRES", place(own={Kind.MIN_TRES: {GPU: 4}}), job(2), "wait QOSMinGRES"),
    ("MaxJobsPU hides MaxJobs", place(own={Kind.MAX_JOBS_PU: {WHOLE: 9}}, user={Kind.MAX_JOBS: {WHOLE: 1}},
     used=use(8)), job(8), "start"),
    ("MaxJobs", place(user={Kind.MAX_JOBS: {WHOLE: 1}}, used=use(8)), job(8), "wait AssocMaxJobsLimit"),
    ("GrpJobs before sizes", place(own=gpus(8), account={Kind.GRP_JOBS: {WHOLE: 1}}, used=use(8)), job(8),
     "wait AssocGrpJobsLimit"),
    ("nodes before GPUs", place(own=gpus(8), account={Kind.GRP_TRES: {"node": 1}}), job(16), "wait AssocGrpNodeLimit"),
    ("MaxWall", place(own={Kind.MAX_WALL: {WHOLE: 30}}), job(8), "wait QOSMaxWallDurationPerJobLimit"),
    ("a job without a time takes it from MaxWall", place(own={Kind.MAX_WALL: {WHOLE: 30}}), job(8, minutes=None),
     "start"),
    ("DenyOnLimit refuses what alone is too large", place(own=gpus(8), flags=DENY), job(16), "refuse QOSGrpGRES"),
    ("but lets wait what is too large with what is in use", place(own=gpus(8), flags=DENY, used=use(8)), job(8),
     "wait QOSGrpGRES"),
    ("DenyOnLimit counts limits of associations too", place(account=gpus(8), flags=DENY), job(16),
     "refuse AssocGrpGRES"),
    ("submitted jobs refuse without DenyOnLimit", place(account={Kind.GRP_SUBMIT: {WHOLE: 1}}, used=use(8)), job(8),
     "refuse AssocGrpSubmitJobsLimit"),
    ("budget spent", place(account={Kind.GRP_TRES_MINS: {GPU: 480}}, used=use(0, minutes=480)), job(1, minutes=1),
     "wait AssocGrpGRESMinutes"),
    ("budget kept for running jobs",
     place(account={Kind.GRP_TRES_MINS: {GPU: 960}}, used=use(8, run_minutes=481)), job(8), "wait AssocGrpGRESMinutes"),
    ("budget to the last minute",
     place(account={Kind.GRP_TRES_MINS: {GPU: 960}}, used=use(8, run_minutes=480)), job(8), "start"),
    ("without safe only what is spent counts",
     place(account={Kind.GRP_TRES_MINS: {GPU: 960}}, used=use(8, minutes=900), safe=False), job(8), "start"),
    ("a job without any time limit is never payable", place(account={Kind.GRP_TRES_MINS: {GPU: 10**9}}),
     job(8, minutes=None), "wait AssocGrpGRESMinutes"),
    ("a budget of the QOS hides the account's",
     place(own={Kind.GRP_TRES_MINS: {GPU: 10**6}}, account={Kind.GRP_TRES_MINS: {GPU: 1}}), job(8), "start"),
    ("partition's time", place(max_time=30), job(8), "wait PartitionTimeLimit"),
    ("QOS flag PartitionTimeLimit", place(max_time=30, flags=frozenset({"PARTITION_TIME_LIMIT"})), job(8), "start"),
    ("EnforcePartLimits refuses", place(max_time=30, refuses=True), job(8), "refuse PartitionTimeLimit"),
    ("more nodes than there are", place(), job(72), "wait PartitionNodeLimit"),
    ("more nodes than the partition lets", place(max_nodes=1), job(16), "wait PartitionNodeLimit"),
    ("QOS that the partition does not admit", place(allow_qos=frozenset({QosName("x")})), job(8), "wait QOSNotAllowed"),
    ("0 allows nothing", place(own=gpus(0)), job(1), "wait QOSGrpGRES"),
]  # fmt: skip


@pytest.mark.parametrize(("where", "what", "expected"), [row[1:] for row in RULES], ids=[row[0] for row in RULES])
def test_rule(where: Place, what: Asked, expected: str) -> None:
    found = predict(where, what)
    assert f"{found.outcome} {found.reason}".strip() == expected, found.bites


def hidden(found: Prediction) -> list[tuple[str, str]]:
    return [(one.holder, one.why) for one in found.hidden]


def test_what_hides_a_limit_is_named() -> None:
    found = predict(place(part=gpus(24), own=gpus(8), account=gpus(4)), job(8))
    why = "partition QOS part sets GrpTRES gres/gpu=24, which comes first"
    assert hidden(found) == [("QOS own", why), ("account lab", why)]


def test_a_typed_limit_that_passes_the_job_by_is_named() -> None:
    found = predict(place(own={Kind.GRP_TRES: {TYPED: 4}}), job(8, typed=False))
    assert hidden(found) == [("QOS own", "the job does not name this GPU model")]


def test_limits_of_other_tres_are_said_to_be_unjudged() -> None:
    found = predict(place(account={Kind.GRP_TRES: {"mem": 5}}), job(8))
    assert found.unjudged == ("account lab: GrpTRES mem=5",)


def test_all_that_stops_a_job_is_told_in_slurms_order() -> None:
    found = predict(
        place(own=gpus(8), account={Kind.GRP_TRES: {BILLING: 8}}, user={Kind.MAX_JOBS: {WHOLE: 1}}, used=use(8)), job(8)
    )
    assert [bite.reason for bite in found.bites] == ["AssocMaxJobsLimit", "QOSGrpGRES", "AssocGrpBilling"]
    assert [(bite.limit, bite.in_use, bite.asked) for bite in found.bites] == [(1, 1, 1), (8, 8, 8), (8, 8, 8)]


@given(limit=st.integers(0, 40), used=st.integers(0, 40), billing=st.integers(0, 40), most=st.integers(1, 64))
def test_the_largest_starts_and_one_more_does_not(limit: int, used: int, billing: int, most: int) -> None:
    where = place(own=gpus(limit), account={Kind.GRP_TRES: {BILLING: billing}}, used=use(used))
    largest = largest_that_starts(where, job, most)
    assert largest == max(min(limit - used, billing - used, most), 0)
    if largest:
        assert predict(where, job(largest)).outcome is Outcome.START
    if largest < most:
        assert predict(where, job(largest + 1)).outcome is Outcome.WAIT


def test_no_size_satisfies_a_minimum_above_what_is_left() -> None:
    where = place(own={Kind.GRP_TRES: {GPU: 8}, Kind.MIN_TRES: {GPU: 4}}, used=use(6))
    assert largest_that_starts(where, job, 8) == 0
