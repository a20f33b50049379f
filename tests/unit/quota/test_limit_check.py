"""Whether limits do what the policy relies on: each way in which they may not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from slurm_gpuaas.domain.names import AccountName, ClusterName, GpuModel, QosName
from slurm_gpuaas.domain.policy import Policy
from slurm_gpuaas.domain.slurm_accounts import guaranteed_qos
from slurm_gpuaas.quota.desired import account_chain, burst_of
from slurm_gpuaas.quota.entitlement import Entitlement, entitlements
from slurm_gpuaas.quota.limit_check import Fault, Finding, check, places_of, reach
from slurm_gpuaas.slurm.limit_records import (
    NO_LIMITS,
    AssociationLimits,
    Kind,
    LimitState,
    PartitionLimits,
    QosLimits,
)
from slurm_gpuaas.slurm.records import Tres
from tests.unit.policies import document, grant, member, pool, project

GPU, TYPED, BILLING = "gres/gpu", "gres/gpu:b200", "billing"
TRES = ("cpu", "mem", "energy", "node", BILLING, "fs/disk", "vmem", "pages", GPU, TYPED)
NOW = datetime(2027, 1, 4, tzinfo=UTC)
Limits = Mapping[Kind, Tres]


def entitled(gpus: int = 16, borrow_limit: int | None = 8) -> Entitlement:
    policy = Policy.of(
        [
            document("Organisation", name="snu"),
            pool(),
            project("vision"),
            member("alice", "vision"),
            grant("vision", gpus=gpus, borrow_limit=borrow_limit),
        ]
    )
    (one,) = entitlements(policy, ClusterName("mini"), NOW)
    return one


def state(
    one: Entitlement,
    *,
    own: Limits | None = None,
    burst: Limits = NO_LIMITS,
    account: Limits | None = None,
    part: Limits | None = None,
    above: Limits = NO_LIMITS,
    weights: Mapping[str, float] | None = None,
) -> LimitState:
    """As the policy writes it, unless said otherwise."""
    project_account, organisation, share = account_chain(one)
    own = {Kind.GRP_TRES: {GPU: one.gpus, TYPED: one.gpus}} if own is None else own
    account = {Kind.GRP_TRES: {BILLING: one.ceiling or 0}} if account is None else account
    root = AccountName("root")
    associations = [
        AssociationLimits(account=project_account, parent=organisation, limits=account),
        AssociationLimits(account=organisation, parent=share, limits=above),
        AssociationLimits(account=share, parent=root),
        AssociationLimits(account=root),
    ]
    qos = [
        QosLimits(name=guaranteed_qos(one.name), limits=own),
        QosLimits(name=burst_of(one), limits=burst),
        *([] if part is None else [QosLimits(name=QosName("floating"), limits=part)]),
    ]
    return LimitState(
        associations={(each.account, None, None): each for each in associations},
        qos={each.name: each for each in qos},
        partitions={
            one.partition: PartitionLimits(
                name=one.partition,
                qos=None if part is None else QosName("floating"),
                total_nodes=8,
                billing_weights={GPU: 1.0} if weights is None else weights,
            )
        },
        safe=True,
        refuses=False,
        priority_flags=frozenset(),
        tres=TRES,
    )


def found(one: Entitlement, has: LimitState, *, budget: int | None = None, gpus: int = 64) -> list[Finding]:
    budgets = {} if budget is None else {one.name: budget}
    return list(check([one], budgets, has, {one.partition: gpus}))


def faults(findings: list[Finding]) -> set[str]:
    return {str(one.fault) for one in findings}


def test_what_the_policy_writes_is_sound() -> None:
    one = entitled()
    account = {Kind.GRP_TRES: {BILLING: 24}, Kind.GRP_TRES_MINS: {GPU: 6_000}}
    assert found(one, state(one, account=account), budget=6_000) == []
    unbound = entitled(borrow_limit=None)
    assert found(unbound, state(unbound, account=NO_LIMITS)) == []


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"own": NO_LIMITS}, {"missing"}),
        ({"own": {Kind.GRP_TRES: {GPU: 16}}}, {"missing"}),
        ({"own": {Kind.GRP_TRES: {GPU: 20, TYPED: 20}}}, {"loose"}),
        ({"own": {Kind.GRP_TRES: {GPU: 8, TYPED: 8}}}, set()),  # shorted
        ({"account": NO_LIMITS}, {"missing", "ceiling"}),
        ({"part": {Kind.GRP_TRES: {GPU: 60}}}, {"hidden"}),
        ({"burst": {Kind.GRP_TRES: {BILLING: 60}}}, {"hidden", "ceiling"}),
        ({"weights": {}}, {"ceiling"}),
        ({"part": {Kind.GRP_TRES: {BILLING: 60}}}, {"hidden", "ceiling"}),
        ({"part": {Kind.GRP_TRES: {"node": 2}}}, set()),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value),
)
def test_each_way_in_which_a_limit_does_not_do_its_work(changed: Mapping[str, Limits], expected: set[str]) -> None:
    one = entitled()
    assert faults(found(one, state(one, **changed))) == expected  # type: ignore[arg-type]


def test_a_budget_that_is_not_in_slurm_or_is_hidden_is_found() -> None:
    one = entitled()
    assert faults(found(one, state(one), budget=100)) == {"missing"}
    account = {Kind.GRP_TRES: {BILLING: 24}, Kind.GRP_TRES_MINS: {GPU: 100}}
    assert faults(found(one, state(one, account=account, part={Kind.GRP_TRES_MINS: {GPU: 9}}), budget=100)) == {
        "hidden"
    }


def test_an_account_or_qos_that_is_not_there_is_named() -> None:
    one = entitled()
    has = state(one)
    (missing,) = found(one, replace(has, qos={burst_of(one): has.qos[burst_of(one)]}))
    assert (missing.fault, missing.what) == (Fault.MISSING, f"Slurm has no QOS {guaranteed_qos(one.name)}.")
    assert faults(found(one, replace(has, associations={}))) == {"missing"}


def test_guarantees_above_the_gpus_in_service_are_found() -> None:
    one = entitled()
    (finding,) = found(one, state(one), gpus=8)
    assert (finding.fault, finding.project) == (Fault.OVERCOMMITTED, None)
    assert "16 GPUs" in finding.what and "8 are in service" in finding.what


REACHES: list[tuple[str, Mapping[str, object], int | None, str]] = [
    ("ceiling as billing", {}, 24, ""),
    # the measured trap: an account's gres/gpu does not hold jobs of a QOS that sets gres/gpu itself
    ("ceiling as GPUs of the account", {"account": {Kind.GRP_TRES: {GPU: 24}}}, 40, "burst-mini-own guaranteed-vision"),
    ("nothing holds burst", {"account": NO_LIMITS}, None, ""),
    ("burst bounded by its QOS", {"account": NO_LIMITS, "burst": {Kind.GRP_TRES: {GPU: 8}}}, 24, ""),
    ("burst bounded for each account", {"account": NO_LIMITS, "burst": {Kind.MAX_TRES_PA: {GPU: 8}}}, 24, ""),
    ("an account above", {"account": NO_LIMITS, "above": {Kind.GRP_TRES: {BILLING: 10}}}, 10, ""),
    ("half a GPU is billed", {"weights": {GPU: 0.5}}, 48, ""),
    ("a floating partition", {"part": {Kind.GRP_TRES: {GPU: 20}}, "account": NO_LIMITS}, 20, ""),
]


@pytest.mark.parametrize(("changed", "gpus", "order"), [row[1:] for row in REACHES], ids=[row[0] for row in REACHES])
def test_reach_is_what_the_best_order_of_jobs_gives(
    changed: Mapping[str, object], gpus: int | None, order: str
) -> None:
    one = entitled()
    most = reach(places_of(one, state(one, **changed)), GpuModel("b200"))  # type: ignore[arg-type]
    assert most.gpus == gpus
    if order:
        assert " ".join(most.order) == order
