"""What a policy means in Slurm: each test is a rule of docs/design/0002-quota-encoding.md."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.names import AccountName, ClusterName, PartitionName, ProjectName, QosName, UserName
from slurm_gpuaas.domain.policy import Policy, PolicyDocument
from slurm_gpuaas.quota.desired import FENCE, Wanted, wanted
from slurm_gpuaas.quota.entitlement import GrantState, entitlements
from slurm_gpuaas.slurm.records import Account, PartitionSpec, Qos, UserAssociation
from tests.unit.policies import document, grant, member, policies, policy, pool, project

MINI = ClusterName("mini")
NOW = datetime(2027, 1, 4, 9, 0, tzinfo=UTC)


def want(policy: Policy, moment: datetime = NOW, **written: int | None) -> Wanted:
    minutes = {ProjectName(name): minutes for name, minutes in written.items()}
    return wanted(policy, MINI, moment, written_minutes=minutes)


def qos(policy: Policy, name: str = "guaranteed-vision", moment: datetime = NOW) -> Qos:
    return want(policy, moment).accounting.qos[QosName(name)]


def account(policy: Policy, name: str = "vision", **written: int | None) -> Account:
    return want(policy, NOW, **written).accounting.accounts[AccountName(name)]


def association(policy: Policy, user: str = "alice", of: str = "vision") -> UserAssociation:
    return want(policy).accounting.associations[UserName(user), AccountName(of)]


def partition(policy: Policy, name: str = "mini-own", moment: datetime = NOW) -> PartitionSpec:
    return next(one for one in want(policy, moment).partitions if one.name == PartitionName(name))


class TestAccounts:
    def test_a_project_stands_below_its_organisation_below_its_share(self) -> None:
        accounts = want(policy(project(), grant())).accounting.accounts
        assert list(accounts) == ["mini-own", "mini-own-snu", "vision"], "parents come before children"
        assert [one.parent for one in accounts.values()] == [None, "mini-own", "mini-own-snu"]
        assert [one.description for one in accounts.values()] == [
            "gpuaas:share:mini/own",
            "gpuaas:organisation:mini/own/snu",
            "gpuaas:project:vision",
        ]

    def test_the_limit_of_gpu_minutes_stands_on_the_account_and_absent_is_not_zero(self) -> None:
        granted = policy(project(), grant())
        assert account(granted, vision=6_250).grp_tres_mins == {"gres/gpu": 6_250}
        assert account(granted, vision=0).grp_tres_mins == {"gres/gpu": 0}
        assert account(granted, vision=None).grp_tres_mins == {}
        assert account(granted).grp_tres_mins == {}

    def test_a_project_without_a_grant_on_the_cluster_has_nothing_there(self) -> None:
        elsewhere = policy(project(), member(), pool(cluster="other"), grant())
        state = want(elsewhere)
        assert (state.accounting.accounts, state.accounting.associations, state.partitions) == ({}, {}, (FENCE,))

    def test_two_things_of_one_slurm_name_are_refused(self) -> None:
        with pytest.raises(InvalidInput, match="share:mini/own and project:mini-own"):
            want(policy(project("mini-own"), grant("mini-own")))

    def test_a_project_cannot_be_slurms_top_account(self) -> None:
        with pytest.raises(InvalidInput, match="root"):
            want(policy(project("root"), grant("root")))


class TestGuaranteedQos:
    def test_its_limit_is_the_guarantee_by_both_names_of_the_gpu(self) -> None:
        assert qos(policy(project(), grant(gpus=24))).grp_tres == {"gres/gpu": 24, "gres/gpu:b200": 24}

    def test_grants_in_force_add_up_and_the_most_generous_job_limits_count(self) -> None:
        two = policy(
            project(),
            grant(name="a", gpus=8, max_gpus_per_job=8, max_time="PT1H"),
            grant(name="b", gpus=16, max_gpus_per_job=16, max_time="PT3H"),
        )
        assert qos(two).grp_tres["gres/gpu"] == 24
        assert qos(two).max_tres_per_job == {"gres/gpu": 16, "gres/gpu:b200": 16}
        assert qos(two).max_wall == timedelta(hours=3)

    def test_one_grant_without_a_job_limit_lifts_it(self) -> None:
        two = policy(project(), grant(name="a", max_gpus_per_job=8, max_time="PT1H"), grant(name="b"))
        assert (qos(two).max_tres_per_job, qos(two).max_wall) == ({}, None)

    @pytest.mark.parametrize(
        ("moment", "state", "gpus"),
        [
            (datetime(2026, 12, 31, 14, 59, 59, tzinfo=UTC), GrantState.FUTURE, 0),
            (datetime(2026, 12, 31, 15, 0, tzinfo=UTC), GrantState.ACTIVE, 16),
            (datetime(2027, 1, 31, 14, 59, 59, tzinfo=UTC), GrantState.ACTIVE, 16),
            (datetime(2027, 1, 31, 15, 0, tzinfo=UTC), GrantState.EXPIRED, 0),
        ],
        ids=["the second before its first Korean day", "first second", "last second", "the second after"],
    )
    def test_a_grant_guarantees_from_its_first_korean_day_to_its_last(
        self, moment: datetime, state: GrantState, gpus: int
    ) -> None:
        january = policy(project(), grant(starts="2027-01-01", ends="2027-01-31"))
        assert entitlements(january, MINI, moment)[0].state is state
        assert qos(january, moment=moment).grp_tres["gres/gpu"] == gpus

    def test_it_preempts_the_burst_of_its_share_and_is_preempted_by_none(self) -> None:
        both = policy(project(), grant(borrow_limit=8), project("audio"), grant("audio"))
        assert qos(both).preempt == {"burst-mini-own"}
        assert all(
            not name.startswith("guaranteed") for one in want(both).accounting.qos.values() for name in one.preempt
        )


class TestBurstQos:
    def test_all_projects_of_a_share_borrow_through_one_that_has_no_limit(self) -> None:
        state = want(
            policy(
                pool(grace="PT5S", min_run="PT10M"),
                *(project(name) for name in ("audio", "bio", "chem")),
                grant("audio", borrow_limit=8),
                grant("bio", borrow_limit=16),
                grant("chem"),
            )
        )
        (burst,) = (one for name, one in state.accounting.qos.items() if name.startswith("burst"))
        assert burst.name == "burst-mini-own"
        assert (burst.grp_tres, burst.max_tres_per_account) == ({}, {})
        assert burst.preempt_mode == {"REQUEUE"}
        assert burst.priority < want(policy(project(), grant())).accounting.qos[QosName("guaranteed-vision")].priority
        assert (burst.grace, burst.preempt_exempt) == (timedelta(seconds=5), timedelta(minutes=10))

    def test_a_borrow_limit_of_0_is_no_burst_at_all(self) -> None:
        none = policy(project(), member(), grant(borrow_limit=0))
        assert association(none).qos == {"guaranteed-vision"}
        assert partition(none).allow_qos == ("guaranteed-vision",)

    def test_preempt_entries_grow_with_projects_and_not_with_their_square(self) -> None:
        names = [f"p{number}" for number in range(40)]
        many = policy(*(project(name) for name in names), *(grant(name, gpus=1) for name in names))
        assert sum(len(one.preempt) for one in want(many).accounting.qos.values()) == 40

    def test_two_shares_of_one_burst_qos_are_refused(self) -> None:
        def one(name: str, share: str, node: str) -> PolicyDocument:
            return pool(name, shares=[{"name": share, "nodes": node, "partition": node}])

        both = policy(
            one("a", "b-c", "n1"), one("a-b", "c", "n2"), project("x"), project("y", "kaist"),
            document("Organisation", name="snu"), document("Organisation", name="kaist"),
            grant("x", pool="a", share="b-c", gpus=1), grant("y", pool="a-b", share="c", gpus=1),
        )  # fmt: skip
        with pytest.raises(InvalidInput, match="burst-a-b-c"):
            want(both)


class TestCeiling:
    def test_it_is_guarantee_and_borrow_limit_together_as_billing(self) -> None:
        assert account(policy(project(), grant(gpus=16, borrow_limit=8))).grp_tres == {"billing": 24}
        assert account(policy(project(), grant(gpus=16, borrow_limit=0))).grp_tres == {"billing": 16}
        assert account(policy(project(), grant(gpus=16))).grp_tres == {}, "absent is no bound"

    def test_no_account_has_a_limit_of_gpus_that_a_qos_would_hide(self) -> None:
        accounts = want(policy(project(), grant(borrow_limit=8))).accounting.accounts.values()
        assert all("gres/gpu" not in one.grp_tres for one in accounts)

    def test_billing_of_a_job_is_its_gpus(self) -> None:
        assert partition(policy(project(), grant())).billing_weights == "GRES/gpu=1"


class TestShortGuarantees:
    def test_what_is_kept_of_a_guarantee_is_written_and_the_ceiling_stays(self) -> None:
        short = wanted(
            policy(project(), grant(gpus=16, borrow_limit=8)), MINI, NOW, honoured={ProjectName("vision"): 8}
        ).accounting
        assert short.qos[QosName("guaranteed-vision")].grp_tres == {"gres/gpu": 8, "gres/gpu:b200": 8}
        assert short.accounts[AccountName("vision")].grp_tres == {"billing": 24}


class TestMembers:
    def test_a_member_may_use_the_projects_own_qos_and_its_burst(self) -> None:
        one = association(policy(project(), member(), grant(borrow_limit=8)))
        assert one.qos == {"guaranteed-vision", "burst-mini-own"}
        assert one.default_qos == "guaranteed-vision"
        assert one.is_default

    def test_the_default_project_is_the_first_with_a_grant_in_force(self) -> None:
        two = policy(
            project("audio"), project("vision"), member(of="audio"), member(of="vision"),
            grant("audio", starts="2025-01-01", ends="2025-12-31"), grant("vision"),
        )  # fmt: skip
        assert not association(two, of="audio").is_default
        assert association(two, of="vision").is_default

    def test_after_the_grant_the_member_stays_and_may_not_borrow(self) -> None:
        ended = policy(project(), member(), grant(starts="2025-01-01", ends="2025-12-31", borrow_limit=8))
        assert association(ended).qos == {"guaranteed-vision"}
        assert qos(ended).grp_tres["gres/gpu"] == 0


class TestPartitions:
    def test_a_share_admits_exactly_the_qos_of_its_projects(self) -> None:
        shares = [{"name": "government", "nodes": "b200-[01-06]"}, {"name": "own", "nodes": "b200-[07-08]"}]
        both = policy(
            pool(shares=shares, max_time="P2D"),
            project("audio"), grant("audio", share="own", borrow_limit=0),
            project("vision"), grant("vision", share="government"),
            project("zoo"), grant("zoo", share="government", starts="2025-01-01", ends="2025-12-31"),
        )  # fmt: skip
        assert partition(both, "mini-own").allow_qos == ("guaranteed-audio",)
        assert partition(both, "mini-government").allow_qos == ("burst-mini-government", "guaranteed-vision")
        assert partition(both, "mini-government").nodes == "b200-[01-06]"
        assert partition(both, "mini-government").max_time == timedelta(days=2)

    def test_a_share_without_a_grant_in_force_admits_nobody(self) -> None:
        assert partition(policy()).allow_qos == ("closed",)
        assert want(policy()).accounting.qos[QosName("closed")].grp_tres == {"gres/gpu": 0}

    def test_the_administrators_partition_cannot_be_taken(self) -> None:
        with pytest.raises(InvalidInput, match="named all"):
            want(policy(pool(shares=[{"name": "own", "nodes": "b200-01", "partition": "all"}])))


class TestMoves:
    def test_a_later_grant_in_another_share_moves_the_account(self) -> None:
        shares = [{"name": "government", "nodes": "b200-[01-06]"}, {"name": "own", "nodes": "b200-[07-08]"}]
        moving = policy(
            pool(shares=shares), project(),
            grant(name="a", share="own", starts="2026-01-01", ends="2026-12-31"),
            grant(name="b", share="government", starts="2027-01-01", ends="2027-12-31"),
        )  # fmt: skip
        before = want(moving, datetime(2026, 6, 1, tzinfo=UTC)).accounting.accounts[AccountName("vision")]
        after = want(moving).accounting.accounts[AccountName("vision")]
        assert (before.parent, after.parent) == ("mini-own-snu", "mini-government-snu")


@settings(deadline=None, max_examples=30)
@given(policy=policies())
def test_guarantees_in_slurm_add_up_to_the_grants_in_force(policy: Policy) -> None:
    limits = [one.grp_tres["gres/gpu"] for name, one in want(policy).accounting.qos.items() if name.startswith("guar")]
    assert sum(limits) == sum(one.gpus for one in policy.grants if one.active_at(NOW))


@settings(deadline=None, max_examples=30)
@given(policy=policies())
def test_the_order_of_documents_does_not_matter(policy: Policy) -> None:
    assert want(Policy.of(reversed(policy.documents))) == want(policy)


def test_every_object_says_that_it_is_ours() -> None:
    state = want(policy(project(), member(), grant(), document("Organisation", name="snu"))).accounting
    descriptions = [one.description for one in state.accounts.values()]
    descriptions += [one.description for one in state.qos.values()]
    assert all(description.startswith("gpuaas:") for description in descriptions)
