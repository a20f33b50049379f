"""From what stands to what should: the plan's order, what it leaves alone, and where it ends."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Any

import pytest
from hypothesis import given, settings

from slurm_gpuaas.domain.jobs import JobState
from slurm_gpuaas.domain.names import AccountName, ClusterName, PartitionName, ProjectName, QosName, UserName
from slurm_gpuaas.domain.policy import Policy, expand_nodes
from slurm_gpuaas.quota.desired import CLOSED, FENCE, wanted
from slurm_gpuaas.quota.partitions import Partitions, render
from slurm_gpuaas.quota.plan import (
    IDLE,
    Action,
    Busy,
    DeleteAccounts,
    DeleteAssociations,
    DeleteQos,
    DeleteUsers,
    Plan,
    PutAccounts,
    PutAssociations,
    PutQos,
    Step,
    WritePartitions,
    digest,
    plan,
)
from slurm_gpuaas.slurm.records import Account, AccountingState, PartitionSpec, Qos, UserAssociation
from tests.fakes import FakeAccounting, make_job
from tests.unit.policies import grant, member, policies, policy, pool, project, small

NOW = datetime(2027, 1, 4, 9, 0, tzinfo=UTC)
ALICE, BOB, VISION = UserName("alice"), UserName("bob"), AccountName("vision")
FOREIGN_ACCOUNT = Account(name=AccountName("physics"), parent=None, description="Physics", organization="physics")
FOREIGN_QOS = Qos(name=QosName("normal"), description="Normal QOS default")
FOREIGN_ASSOCIATION = UserAssociation(
    user=ALICE, account=FOREIGN_ACCOUNT.name, qos=frozenset({FOREIGN_QOS.name}), is_default=True
)
FOREIGN = AccountingState(
    accounts={FOREIGN_ACCOUNT.name: FOREIGN_ACCOUNT},
    users=frozenset({ALICE, UserName("zoe")}),
    associations={(ALICE, FOREIGN_ACCOUNT.name): FOREIGN_ASSOCIATION},
    qos={FOREIGN_QOS.name: FOREIGN_QOS},
)


def goal(policy: Policy) -> AccountingState:
    return wanted(policy, ClusterName("mini"), NOW).accounting


def carry_out(steps: tuple[Step, ...], slurm: FakeAccounting) -> None:
    for step in steps:
        match step.write:
            case PutQos(qos):
                slurm.put_qos(qos)
            case PutAccounts(accounts):
                slurm.put_accounts(accounts)
            case PutAssociations(associations):
                slurm.put_associations(associations)
            case DeleteAssociations(keys):
                slurm.delete_associations(keys)
            case DeleteUsers(users):
                slurm.delete_users(users)
            case DeleteAccounts(accounts):
                slurm.delete_accounts(accounts)
            case DeleteQos(names):
                slurm.delete_qos(names)


def brought_to(state: AccountingState, start: AccountingState = FOREIGN) -> FakeAccounting:
    """Slurm after the plan for a state; the fake refuses what real Slurm refuses (unknown parents, QOS, ...)."""
    slurm = FakeAccounting(start)
    carry_out(plan(slurm.read(), state).steps, slurm)
    return slurm


def titles(found: Plan) -> list[str]:
    return [step.title for step in found.steps]


@settings(deadline=None, max_examples=30)
@given(before=policies(), after=policies())
def test_from_any_policy_to_any_other_the_plan_arrives_and_a_second_one_is_empty(before: Policy, after: Policy) -> None:
    slurm = brought_to(goal(before))
    carry_out(plan(slurm.read(), goal(after)).steps, slurm)
    now = slurm.read()
    assert plan(now, goal(after)) == Plan()
    assert {name for name, one in now.accounts.items() if one.description.startswith("gpuaas:")} == set(
        goal(after).accounts
    )
    assert all(now.qos[name] == one for name, one in goal(after).qos.items())
    assert now.users == goal(after).users | FOREIGN.users


@settings(deadline=None, max_examples=30)
@given(before=policies(), after=policies())
def test_what_is_not_ours_is_never_touched(before: Policy, after: Policy) -> None:
    slurm = brought_to(goal(before))
    carry_out(plan(slurm.read(), goal(after)).steps, slurm)
    now = slurm.read()
    assert now.accounts[FOREIGN_ACCOUNT.name] == FOREIGN_ACCOUNT
    assert now.qos[FOREIGN_QOS.name] == FOREIGN_QOS
    assert now.associations[ALICE, FOREIGN_ACCOUNT.name] == FOREIGN_ASSOCIATION
    assert UserName("zoe") in now.users, "a user without an association is not ours"


@settings(deadline=None, max_examples=30)
@given(before=policies(), after=policies())
def test_cut_off_after_any_step_the_next_plan_still_arrives(before: Policy, after: Policy) -> None:
    whole = plan(brought_to(goal(before)).read(), goal(after)).steps
    for done in range(len(whole)):
        slurm = brought_to(goal(before))
        carry_out(whole[:done], slurm)
        carry_out(plan(slurm.read(), goal(after)).steps, slurm)
        assert plan(slurm.read(), goal(after)).steps == ()


@settings(deadline=None, max_examples=30)
@given(before=policies(), after=policies())
def test_a_plan_does_not_depend_on_the_order_in_which_slurm_lists_things(before: Policy, after: Policy) -> None:
    now = brought_to(goal(before)).read()
    backwards = AccountingState(
        accounts=dict(reversed(list(now.accounts.items()))),
        users=now.users,
        associations=dict(reversed(list(now.associations.items()))),
        qos=dict(reversed(list(now.qos.items()))),
    )
    assert plan(backwards, goal(after)) == plan(now, goal(after))


@settings(deadline=None, max_examples=30)
@given(one=policies(), other=policies())
def test_digests_are_equal_exactly_for_equal_states(one: Policy, other: Policy) -> None:
    assert (digest(goal(one)) == digest(goal(other))) == (goal(one) == goal(other))


Limit = tuple[str, str, str]
"""Kind, name and field; of one TRES."""


def limits(state: AccountingState) -> dict[Limit, float]:
    """Every limit of every object; infinite where none is set."""
    found: dict[Limit, float] = defaultdict(lambda: inf)
    for account in state.accounts.values():
        for field in ("grp_tres", "grp_tres_mins"):
            found.update(
                {("account", account.name, f"{field}/{tres}"): n for tres, n in getattr(account, field).items()}
            )
    for qos in state.qos.values():
        for field in ("grp_tres", "max_tres_per_job", "max_tres_per_account"):
            found.update({("qos", qos.name, f"{field}/{tres}"): n for tres, n in getattr(qos, field).items()})
        if qos.max_wall is not None:
            found["qos", qos.name, "max_wall"] = qos.max_wall.total_seconds()
    return found


def prefixes(before: Policy, after: Policy) -> Iterator[AccountingState]:
    """Slurm before the first step of a plan, and after each."""
    slurm = brought_to(goal(before))
    steps = plan(slurm.read(), goal(after)).steps
    yield slurm.read()
    for step in steps:
        carry_out((step,), slurm)
        yield slurm.read()


def staying(before: Policy, after: Policy) -> set[str]:
    """Names of objects that are there before and after."""
    one, other = goal(before), goal(after)
    return {*(one.accounts.keys() & other.accounts.keys()), *(one.qos.keys() & other.qos.keys())}


class TestCutOffAfterAnyStep:
    @settings(deadline=None, max_examples=60)
    @given(before=policies(), after=policies())
    def test_no_limit_is_below_both_what_it_was_and_what_it_will_be(self, before: Policy, after: Policy) -> None:
        old, new = limits(goal(before)), limits(goal(after))
        kept = staying(before, after)
        for state in prefixes(before, after):
            now = limits(state)
            for limit in (one for one in {*old, *new, *now} if one[1] in kept):
                assert now[limit] in {min(old[limit], new[limit]), max(old[limit], new[limit])}, limit

    @settings(deadline=None, max_examples=60)
    @given(before=policies(), after=policies())
    def test_no_qos_preempts_fewer_than_before_and_fewer_than_after(self, before: Policy, after: Policy) -> None:
        old, new = goal(before).qos, goal(after).qos
        for state in prefixes(before, after):
            for name in old.keys() & new.keys():
                now = state.qos[name].preempt
                there = state.qos.keys()
                assert now >= old[name].preempt & there or now >= new[name].preempt

    @settings(deadline=None, max_examples=60)
    @given(before=policies(), after=policies())
    def test_no_partition_has_less_than_before_while_another_limit_or_partition_is_still_to_gain(
        self, before: Policy, after: Policy
    ) -> None:
        live = {spec.name: spec for spec in wanted(before, ClusterName("mini"), NOW).partitions}
        then = {spec.name: spec for spec in wanted(after, ClusterName("mini"), NOW).partitions}
        old = dict(live)
        found = Partitions(file=render(live.values()), live=dict(live), wanted=tuple(then.values()))
        for step in plan(brought_to(goal(before)).read(), goal(after), partitions=found).steps:
            lowers = step.title.startswith(("lower", "move", "narrow", "remove"))
            if isinstance(step.write, WritePartitions):
                lowers = bool(step.write.delete)
                assert not lowers or all(_gives(live.get(name), spec) for name, spec in then.items())
                live.update({spec.name: spec for spec in step.write.put})
                lowers = not all(_gives(live[name], spec) for name, spec in old.items() if name in live)
            if lowers:
                assert all(_gives(live.get(name), spec) for name, spec in then.items()), step.title

    @settings(deadline=None, max_examples=60)
    @given(before=policies(), after=policies())
    def test_no_limit_has_gone_down_while_another_has_still_to_go_up(self, before: Policy, after: Policy) -> None:
        old, new = limits(goal(before)), limits(goal(after))
        kept = staying(before, after)
        for state in prefixes(before, after):
            now = limits(state)
            of = [one for one in {*old, *new} if one[1] in kept]
            if any(now[one] < old[one] for one in of):
                assert all(now[one] == max(old[one], new[one]) for one in of if new[one] > old[one])
                assert state.accounts.keys() >= goal(after).accounts.keys()
                assert state.qos.keys() >= goal(after).qos.keys()
                assert state.associations.keys() >= goal(after).associations.keys()

    @settings(deadline=None, max_examples=60)
    @given(before=policies(), after=policies())
    def test_no_member_has_fewer_qos_than_before_and_fewer_than_after(self, before: Policy, after: Policy) -> None:
        old, new = goal(before).associations, goal(after).associations
        for state in prefixes(before, after):
            for key in old.keys() & new.keys():
                now = state.associations[key].qos
                assert now >= old[key].qos or now >= new[key].qos


class TestOrder:
    def test_across_kinds_raises_then_lowers_then_moves_then_deletes(self) -> None:
        shares = [{"name": "own", "nodes": "b200-[01-04]"}, {"name": "government", "nodes": "b200-[05-08]"}]

        def of(audio: dict[str, Any], vision: dict[str, Any]) -> Policy:
            names = ("audio", "vision")
            projects = [project(name) for name in names]
            return policy(pool(shares=shares), *projects, grant("audio", **audio), grant("vision", **vision))

        start = brought_to(
            goal(of({"gpus": 16, "borrow_limit": 8}, {"gpus": 8, "borrow_limit": 8})), AccountingState()
        ).read()
        after = of({"gpus": 8, "borrow_limit": 0}, {"gpus": 24, "borrow_limit": 0, "share": "government"})
        found = plan(start, goal(after))
        assert [(step.title, [change.name for change in step.changes]) for step in found.steps] == [
            ("put QOS without preemption", ["burst-mini-government"]),
            ("put and raise QOS", ["guaranteed-vision"]),
            ("put and raise accounts", ["mini-government", "mini-government-snu", "vision"]),
            ("lower QOS", ["guaranteed-audio", "guaranteed-vision"]),
            ("lower accounts", ["audio"]),
            ("move accounts", ["vision"]),
        ]

    def test_limits_that_go_up_and_down_in_one_object_are_two_writes(self) -> None:
        def of(**fields: Any) -> Policy:
            return policy(project(), grant(budget_gpu_hours=100, **fields))

        def with_minutes(of: Policy, minutes: int) -> AccountingState:
            return wanted(of, ClusterName("mini"), NOW, written_minutes={ProjectName("vision"): minutes}).accounting

        start = brought_to(with_minutes(of(borrow_limit=0), 600))
        found = plan(start.read(), with_minutes(of(borrow_limit=8), 60))
        assert [
            (step.title, [(one.field, one.before, one.after) for one in step.changes[0].fields]) for step in found.steps
        ] == [
            ("put and raise accounts", [("grp_tres", "billing=16", "billing=24")]),
            ("lower accounts", [("grp_tres_mins", "gres/gpu=600", "gres/gpu=60")]),
        ]

    def test_the_number_of_writes_does_not_grow_with_projects(self) -> None:
        def of(count: int, gpus: int) -> Policy:
            names = [f"p{number}" for number in range(count)]
            parts = [(project(name), member(name, name), grant(name, gpus=gpus, borrow_limit=gpus)) for name in names]
            return policy(*(one for part in parts for one in part))

        few, many = (plan(brought_to(goal(of(n, 1))).read(), goal(of(n, 0))) for n in (2, 20))
        assert titles(few) == titles(many)

    def test_a_partition_lets_in_who_comes_before_limits_go_down_and_keeps_who_goes_until_then(self) -> None:
        def a(*qos: str) -> PartitionSpec:
            return replace(_partition("a"), allow_qos=tuple(map(QosName, qos)))

        def of(*gpus: int) -> AccountingState:
            names = ("audio", "vision")
            return goal(policy(*map(project, names), *(grant(n, gpus=g) for n, g in zip(names, gpus, strict=True))))

        live = a("burst-mini-own", "guaranteed-audio")
        found = Partitions(
            file=render([live]), live={live.name: live}, wanted=(a("burst-mini-own", "guaranteed-vision"),)
        )
        steps = plan(brought_to(of(16, 0)).read(), of(8, 16), partitions=found).steps
        written = [
            (step.title, step.write.put[0].allow_qos if isinstance(step.write, WritePartitions) else None)
            for step in steps
        ]
        assert written == [
            ("put and raise QOS", None),
            ("open partitions", ("burst-mini-own", "guaranteed-audio", "guaranteed-vision")),
            ("lower QOS", None),
            ("write partitions", ("burst-mini-own", "guaranteed-vision")),
        ]

    def test_few_bulk_writes_parents_first_deletions_last(self) -> None:
        start = brought_to(goal(small()), AccountingState()).read()
        after = policy(project("audio"), member("carol", "audio"), grant("audio", borrow_limit=8))
        assert titles(plan(start, goal(after))) == [
            "put and raise QOS",
            "put and raise accounts",
            "put members",
            "remove users",
            "remove accounts",
            "remove QOS",
        ]

    def test_raised_before_lowered(self) -> None:
        def two(audio: int, vision: int) -> Policy:
            return policy(project("audio"), project(), grant("audio", gpus=audio), grant("vision", gpus=vision))

        found = plan(brought_to(goal(two(8, 8))).read(), goal(two(0, 16)))
        assert [(step.title, [change.name for change in step.changes]) for step in found.steps] == [
            ("put and raise QOS", ["guaranteed-vision"]),
            ("lower QOS", ["guaranteed-audio"]),
        ]

    def test_a_change_shows_each_field_before_and_after(self) -> None:
        found = plan(brought_to(goal(small())).read(), goal(policy(project(), grant(gpus=8, borrow_limit=8))))
        (change,) = found.steps[0].changes
        assert (change.action, change.kind, change.name) == (Action.CHANGE, "qos", "guaranteed-vision")
        assert [(one.field, one.before, one.after) for one in change.fields] == [
            ("grp_tres", "gres/gpu=16,gres/gpu:b200=16", "gres/gpu=8,gres/gpu:b200=8")
        ]

    def test_partitions_are_compared_with_what_runs(self) -> None:
        before = tuple(_partition(name) for name in ("a", "b", "d"))
        wanted = (_partition("a", hours=2), _partition("c"), _partition("d"))
        live = {spec.name: spec for spec in before}
        found = Partitions(file=render(before), live=live, wanted=wanted)
        steps = plan(AccountingState(), AccountingState(), partitions=found).steps
        assert [(step.title, [(one.action, one.name) for one in step.changes]) for step in steps] == [
            ("open partitions", [(Action.CHANGE, "a"), (Action.CREATE, "c")]),
            ("write partitions", [(Action.DELETE, "b")]),
        ]
        done = replace(found, file=render(wanted), live={spec.name: spec for spec in wanted})
        assert plan(AccountingState(), AccountingState(), partitions=done).steps == ()

    def test_a_partition_of_that_name_which_is_not_in_our_file_is_somebody_elses(self) -> None:
        spec = _partition("a")
        found = plan(
            AccountingState(),
            AccountingState(),
            partitions=Partitions(file=None, live={spec.name: spec}, wanted=(_partition("a", hours=2),)),
        )
        assert found.conflicts == ("The policy needs partition a, which exists and is not ours.",)
        assert found.steps == ()


def _gives(now: PartitionSpec | None, spec: PartitionSpec) -> bool:
    """Whether a partition has all that this one has."""
    if now is None or spec.nodes == "ALL":
        return now is not None
    nodes = set(expand_nodes(spec.nodes)) <= set(expand_nodes(now.nodes))
    return nodes and set(spec.allow_qos) - {CLOSED} <= set(now.allow_qos) and spec.max_time <= now.max_time


class TestAdministratorsPartition:
    """It lets in the QOS `normal` only; open, it would be a way around every ceiling."""

    GOAL = wanted(small(), ClusterName("mini"), NOW)
    OPEN = replace(FENCE, allow_qos=(), billing_weights="")

    def found(self, file: str, fence: PartitionSpec | None) -> Partitions:
        live = {spec.name: spec for spec in self.GOAL.partitions if spec.name != FENCE.name}
        live |= {} if fence is None else {fence.name: fence}
        return Partitions(file=file, live=live, wanted=self.GOAL.partitions)

    @pytest.mark.parametrize("fence", [OPEN, None], ids=["open", "gone"])
    def test_open_or_gone_in_the_running_slurm_it_is_drift_and_put_back(self, fence: PartitionSpec | None) -> None:
        found = self.found(render(self.GOAL.partitions), fence)
        (step,) = plan(AccountingState(), AccountingState(), partitions=found).steps
        assert isinstance(step.write, WritePartitions)
        assert (step.write.put, step.write.delete) == ((FENCE,), ())
        assert step.changes[0].name == "all"
        assert (
            plan(AccountingState(), AccountingState(), partitions=self.found(render(self.GOAL.partitions), FENCE)).steps
            == ()
        )

    def test_a_file_of_an_earlier_release_closes_it_in_the_running_slurm_too(self) -> None:
        found = self.found("PartitionName=all Nodes=ALL AllowAccounts=root MaxTime=INFINITE State=UP\n", self.OPEN)
        found = replace(found, live={self.OPEN.name: self.OPEN})
        steps = plan(AccountingState(), AccountingState(), partitions=found).steps
        assert FENCE in [spec for step in steps if isinstance(step.write, WritePartitions) for spec in step.write.put]

    def test_no_policy_deletes_it(self) -> None:
        bare = wanted(Policy(), ClusterName("mini"), NOW).partitions
        assert FENCE.name not in replace(self.found(render(self.GOAL.partitions), FENCE), wanted=bare).delete

    def test_without_a_qos_normal_it_lets_nobody_in(self) -> None:
        found = self.found("", FENCE).fenced(set())
        assert next(spec for spec in found.wanted if spec.name == FENCE.name).allow_qos == (CLOSED,)
        assert found.fenced({QosName("normal")}) == found


def _partition(name: str, hours: int = 1) -> PartitionSpec:
    return PartitionSpec(
        name=PartitionName(name), nodes="n[1-2]", allow_qos=(QosName("closed"),), max_time=timedelta(hours=hours)
    )


class TestDrift:
    def test_an_object_of_ours_changed_by_hand_is_set_back(self) -> None:
        slurm = brought_to(goal(small()))
        name = QosName("guaranteed-vision")
        slurm.qos_by_name[name] = replace(slurm.qos_by_name[name], grp_tres={})
        (step,) = plan(slurm.read(), goal(small())).steps
        (field,) = step.changes[0].fields
        assert (field.field, field.before, field.after) == ("grp_tres", None, "gres/gpu=16,gres/gpu:b200=16")

    def test_a_member_added_by_hand_is_removed(self) -> None:
        slurm = brought_to(goal(small()))
        inherited = frozenset(list(slurm.qos_by_name)[:1])
        slurm.put_associations([UserAssociation(user=UserName("mallory"), account=VISION, qos=inherited)])
        assert titles(plan(slurm.read(), goal(small()))) == ["remove users"]

    def test_the_default_account_that_a_user_chose_stays(self) -> None:
        two = policy(project("audio"), project(), member(of="audio"), member(), grant("audio"), grant())
        slurm = brought_to(goal(two), AccountingState())
        for key in [(ALICE, AccountName("audio")), (ALICE, VISION)]:
            one = slurm.association_by_key[key]
            slurm.association_by_key[key] = replace(one, is_default=one.account == VISION)
        assert plan(slurm.read(), goal(two)).steps == ()

    def test_a_project_in_which_nothing_starts_any_more_is_not_the_default_of_a_user_with_another(self) -> None:
        slurm = brought_to(goal(policy(project(), project("audio"), member(), grant(), grant("audio", gpus=8))))
        slurm.association_by_key[ALICE, VISION] = replace(slurm.association_by_key[ALICE, VISION], is_default=True)
        del slurm.association_by_key[ALICE, FOREIGN_ACCOUNT.name]
        moved = goal(policy(project(), project("audio"), member(of="audio"), grant(), grant("audio", gpus=8)))
        busy = Busy.of([make_job(1, user="alice", state=JobState.RUNNING)])
        carry_out(plan(slurm.read(), moved, busy=busy).steps, slurm)
        assert slurm.association_by_key[ALICE, AccountName("audio")].is_default
        assert slurm.association_by_key[ALICE, VISION].qos == {"closed"}
        assert plan(slurm.read(), moved, busy=busy).steps == ()


class TestConflicts:
    @pytest.mark.parametrize(
        "taken",
        [
            AccountingState(accounts={VISION: replace(FOREIGN_ACCOUNT, name=VISION)}),
            AccountingState(
                qos={QosName("guaranteed-vision"): replace(FOREIGN_QOS, name=QosName("guaranteed-vision"))}
            ),
        ],
        ids=["account", "QOS"],
    )
    def test_a_name_that_somebody_else_has_stops_everything(self, taken: AccountingState) -> None:
        found = plan(taken, goal(small()))
        assert found.steps == ()
        (sentence,) = found.conflicts
        assert "vision" in sentence
        assert "not ours" in sentence

    def test_so_does_an_account_of_another_cluster(self) -> None:
        taken = AccountingState(accounts_abroad={VISION: replace(FOREIGN_ACCOUNT, name=VISION)})
        (sentence,) = plan(taken, goal(small())).conflicts
        assert "vision" in sentence


class TestWhatIsElsewhere:
    WITHOUT_BOB = policy(project(), member("alice"), grant(borrow_limit=8))
    BELOW_ROOT = UserAssociation(user=BOB, account=AccountName("root"), qos=frozenset())
    FOR_A_PARTITION = replace(BELOW_ROOT, account=FOREIGN_ACCOUNT.name)

    @pytest.mark.parametrize("rest", [BELOW_ROOT, FOR_A_PARTITION], ids=["below root", "for a partition"])
    @pytest.mark.parametrize("is_default", [True, False])
    def test_a_user_with_another_association_keeps_it(self, rest: UserAssociation, is_default: bool) -> None:
        slurm = brought_to(goal(small()))
        slurm.association_by_key[BOB, VISION] = replace(
            slurm.association_by_key[BOB, VISION], is_default=not is_default
        )
        rest = replace(rest, is_default=is_default)
        actual = replace(slurm.read(), unmanaged={(BOB, rest.account): rest})
        found = plan(actual, goal(self.WITHOUT_BOB))
        assert titles(found) == (["remove members"] if is_default else ["narrow members"])
        assert bool(found.deferred) != is_default, "Slurm does not delete a default account while there is another"
        assert plan(actual, goal(small())).steps == (), "nor is the user's default taken from there"

    def test_a_user_whom_another_cluster_knows_leaves_this_one_only(self) -> None:
        slurm = brought_to(goal(small()))
        found = plan(replace(slurm.read(), abroad=frozenset({BOB})), goal(self.WITHOUT_BOB))
        assert titles(found) == ["remove members"]
        assert found.steps[0].write == DeleteAssociations(((BOB, VISION),))

    def test_an_account_of_another_cluster_is_not_surplus(self) -> None:
        slurm = brought_to(goal(small()))
        other = replace(slurm.account_by_name[VISION], name=AccountName("nlp"), description="gpuaas:project:nlp")
        assert plan(replace(slurm.read(), accounts_abroad={other.name: other}), goal(small())).steps == ()


class TestWhatJobsStillUse:
    """Slurm refuses to delete what a job that has not ended uses."""

    def test_a_member_with_jobs_is_barred_and_goes_when_they_have_ended(self) -> None:
        slurm = brought_to(goal(small()))
        without_bob = policy(project(), member("alice"), grant(borrow_limit=8))
        busy = Busy.of([make_job(1, user="bob", state=JobState.RUNNING)])
        found = plan(slurm.read(), goal(without_bob), busy=busy)
        carry_out(found.steps, slurm)
        barred = slurm.association_by_key[BOB, VISION]
        assert barred.qos == {"closed"}
        assert barred.default_qos == "closed"
        assert found.deferred == (
            "Member bob@vision may start nothing and stays until its jobs have ended "
            "(scancel --user=bob --account=vision).",
        )
        assert plan(slurm.read(), goal(without_bob), busy=busy).steps == ()
        carry_out(plan(slurm.read(), goal(without_bob), busy=IDLE).steps, slurm)
        assert (BOB, VISION) not in slurm.association_by_key

    def test_a_project_with_jobs_keeps_its_account_and_qos_until_they_have_ended(self) -> None:
        slurm = brought_to(goal(small()))
        busy = Busy.of([make_job(1, user="bob", state=JobState.RUNNING)])
        carry_out(plan(slurm.read(), goal(policy()), busy=busy).steps, slurm)
        assert VISION in slurm.account_by_name
        assert QosName("guaranteed-vision") in slurm.qos_by_name
        assert (ALICE, VISION) not in slurm.association_by_key, "alice has no job"
        carry_out(plan(slurm.read(), goal(policy())).steps, slurm)
        assert slurm.account_by_name.keys() == {FOREIGN_ACCOUNT.name}

    def test_ended_jobs_hold_nothing(self) -> None:
        assert Busy.of([make_job(1, state=JobState.COMPLETED)]) == Busy()

    def test_a_slurm_administrator_is_barred_and_not_deleted(self) -> None:
        slurm = brought_to(goal(small()), AccountingState())
        actual = replace(slurm.read(), administrators=frozenset({BOB}))
        found = plan(actual, goal(policy(project(), member("alice"), grant(borrow_limit=8))))
        assert titles(found) == ["narrow members"]
        assert "bob is a Slurm administrator" in found.deferred[0]

    def test_an_account_of_ours_with_a_foreign_one_below_stays(self) -> None:
        slurm = brought_to(goal(small()))
        below = replace(FOREIGN_ACCOUNT, name=AccountName("sub"), parent=VISION)
        slurm.account_by_name[below.name] = below
        found = plan(slurm.read(), goal(policy()))
        carry_out(found.steps, slurm)
        assert VISION in slurm.account_by_name
        assert any("Account vision stays" in sentence for sentence in found.deferred)
