"""A cluster as Slurm shows it, in the quota core's words, and the rulings that the placement gate asks for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest

from slurm_gpuaas.domain.giving_way import GivingWay
from slurm_gpuaas.domain.jobs import Job, JobId, JobState
from slurm_gpuaas.domain.names import ClusterName, NodeName, PartitionName, ProjectName
from slurm_gpuaas.domain.nodes import Node, NodeBase, NodeFlag
from slurm_gpuaas.domain.policy import Policy, expand_nodes
from slurm_gpuaas.quota.capacity import promisable, shorted
from slurm_gpuaas.quota.entitlement import entitlements
from slurm_gpuaas.quota.live import Scene, giving_way, live_shares, standings
from slurm_gpuaas.quota.tree import TenantName
from tests.fakes import EPOCH, make_job, make_node
from tests.unit.policies import grant, policy, pool, project

MINI = ClusterName("mini")
OWN = PartitionName("mini-own")
NODES = expand_nodes("b200-[01-08]")
POLICY = policy(
    pool(),
    project("owner"), grant("owner", gpus=32, borrow_limit=0),
    project("large"), grant("large", gpus=0),
    project("small"), grant("small", gpus=8, borrow_limit=24),
)  # fmt: skip


def running(
    job_id: int, account: str, nodes: str, *, burst: bool = True, age_s: int = 600, gpus: int | None = None
) -> Job:
    return make_job(
        job_id,
        account=account,
        qos="burst-mini-own" if burst else f"guaranteed-{account}",
        partition=OWN,
        state=JobState.RUNNING,
        nodes=expand_nodes(nodes),
        gpus=gpus,
        started=EPOCH - timedelta(seconds=age_s),
    )


def waiting(job_id: int, account: str, count: int, *, qos: str | None = None, gpus: int | None = None) -> Job:
    return make_job(
        job_id, account=account, qos=qos or f"guaranteed-{account}", partition=OWN, node_count=count, gpus=gpus,
        licenses="placement:1", reason="Licenses",
    )  # fmt: skip


def scene(jobs: Sequence[Job], nodes: Sequence[Node] = (), promised: dict[int, str] | None = None) -> Scene:
    given = {node.name: node for node in nodes}
    return Scene(
        now=EPOCH,
        jobs=jobs,
        nodes={name: given.get(name) or make_node(name) for name in NODES},
        promised={JobId(job): frozenset(expand_nodes(names)) for job, names in (promised or {}).items()},
    )


def rule(
    jobs: Sequence[Job], nodes: Sequence[Node] = (), promised: dict[int, str] | None = None
) -> dict[int, GivingWay]:
    pending = [job for job in jobs if job.licenses]
    return {int(job): one for job, one in giving_way(POLICY, MINI, scene(jobs, nodes, promised), pending).items()}


class TestCapacity:
    @pytest.mark.parametrize(
        ("why", "jobs", "nodes", "capacity"),
        [
            ("all nodes", [], [], 64),
            ("a drained node gives nothing", [], [make_node("b200-01", flags=NodeFlag.DRAIN)], 56),
            ("unless a job of ours still runs there",
             [running(1, "large", "b200-01")], [make_node("b200-01", flags=NodeFlag.DRAIN)], 64),
            ("a node that is down gives nothing", [], [make_node("b200-01", base=NodeBase.DOWN)], 56),
            ("what others run there is not ours",
             [make_job(9, account="root", partition="all", state=JobState.RUNNING, nodes=["b200-01"])], [], 56),
        ],
    )  # fmt: skip
    def test_it_is_what_the_nodes_can_give_now(
        self, why: str, jobs: list[Job], nodes: list[Node], capacity: int
    ) -> None:
        assert live_shares(POLICY, MINI, scene(jobs, nodes))[OWN].capacity == capacity, why

    def test_for_whole_nodes_the_rest_of_a_node_in_use_does_not_count(self) -> None:
        part = [running(1, "large", "b200-01", gpus=2)]
        assert live_shares(POLICY, MINI, scene(part))[OWN].capacity == 64
        assert live_shares(POLICY, MINI, scene(part), whole_nodes=True)[OWN].capacity == 58

    def test_every_share_has_its_own(self) -> None:
        shares = [{"name": "government", "nodes": "b200-[01-06]"}, {"name": "own", "nodes": "b200-[07-08]"}]
        both = policy(pool(shares=shares), project(), grant(), project("b"), grant("b", share="government", gpus=8))
        found = live_shares(both, MINI, scene([]))
        assert {name: share.capacity for name, share in found.items()} == {"mini-own": 16, "mini-government": 48}


class TestGivingWay:
    def test_the_youngest_of_the_furthest_over_its_share(self) -> None:
        jobs = [
            running(1, "small", "b200-01"),
            running(2, "large", "b200-[02-04]", age_s=900),
            running(3, "large", "b200-[05-08]", age_s=30),
            waiting(9, "owner", 4),
        ]
        assert rule(jobs)[9].victims == (3,)

    def test_a_guarantee_that_is_in_use_waits(self) -> None:
        jobs = [running(1, "owner", "b200-[01-04]", burst=False), waiting(9, "owner", 1)]
        assert rule(jobs)[9].waits
        assert not rule(jobs)[9].victims

    def test_two_jobs_share_one_guarantee(self) -> None:
        ruled = rule([waiting(8, "owner", 4), waiting(9, "owner", 1)])
        assert [ruled[8].waits, ruled[9].waits] == [False, True]

    def test_nodes_that_were_given_count_as_taken_and_whoever_is_there_as_gone(self) -> None:
        """The next look must not make a second victim for a job that is about to start."""
        jobs = [
            running(1, "large", "b200-[01-04]"),
            running(2, "large", "b200-[05-08]"),
            make_job(7, account="owner", qos="guaranteed-owner", partition=OWN, node_count=2),
            waiting(9, "owner", 2),
        ]
        assert rule(jobs, promised={7: "b200-[01-02]"})[9].victims == (), "b200-[03-04] come free"

    def test_burst_at_the_gate_gets_no_ruling(self) -> None:
        assert rule([waiting(9, "small", 1, qos="burst-mini-own")]) == {}

    def test_own_burst_below_the_ceiling_has_to_go_first(self) -> None:
        jobs = [running(1, "small", "b200-[01-04]"), waiting(9, "small", 1)]
        assert rule(jobs)[9].waits
        assert rule(jobs)[9].victims == (1,)

    def test_parts_of_nodes_would_not_make_whole_ones(self) -> None:
        jobs = [running(number, "large", f"b200-0{number}", gpus=4) for number in range(1, 9)]
        ruled = rule([*jobs, waiting(9, "owner", 1)])[9]
        assert (ruled.victims, ruled.waits) == ((), False), "Slurm preempts for it"

    def test_a_job_of_a_few_gpus_takes_a_part(self) -> None:
        jobs = [running(number, "large", f"b200-0{number}", gpus=8) for number in range(1, 9)]
        assert len(rule([*jobs, waiting(9, "owner", 1, gpus=2)])[9].victims) == 1

    def test_a_young_borrower_keeps_its_gpus(self) -> None:
        kind = policy(
            pool(min_run="PT10M"), project("owner"), grant("owner", gpus=32), project("large"), grant("large", gpus=0)
        )
        jobs = [running(1, "large", "b200-[01-08]", age_s=599), waiting(9, "owner", 4)]
        ask = [job for job in jobs if job.licenses]
        assert giving_way(kind, MINI, scene(jobs), ask)[JobId(9)].victims == ()
        jobs[0] = running(1, "large", "b200-[01-08]", age_s=600)
        assert giving_way(kind, MINI, scene(jobs), ask)[JobId(9)].victims == (1,)


class TestStandings:
    def test_projects_stand_below_their_organisation(self) -> None:
        ((_, ruling),) = standings(POLICY, MINI, scene([running(1, "large", "b200-[01-02]"), waiting(9, "small", 1)]))
        large, whole = ruling.standings[TenantName("large")], ruling.standings[TenantName("organisation:snu")]
        assert (large.in_use, large.borrowed, large.fair_share, large.may_borrow) == (16, 16, 16, 48)
        assert (whole.guaranteed, whole.in_use) == (40, 16)


class TestShorted:
    def lost(self, count: int) -> frozenset[NodeName]:
        return frozenset(NODES[:count])

    def short(self, given: Policy, lost: int) -> dict[ProjectName, int]:
        entitled = entitlements(given, MINI, EPOCH)
        return {one.project: one.honoured for one in shorted(given, entitled, self.lost(lost))}

    def test_nobody_while_the_guarantees_fit(self) -> None:
        assert self.short(policy(project(), grant(gpus=56)), lost=1) == {}

    def test_spares_stand_in_for_lost_nodes_first(self) -> None:
        shares = [{"name": "own", "nodes": "b200-[01-08]", "spares": 2}]
        given = policy(pool(shares=shares), project(), grant(gpus=48))
        one = given.pools[0]
        assert [promisable(one, one.shares[0], self.lost(lost)) for lost in range(4)] == [48, 48, 48, 40]
        assert [self.short(given, lost) for lost in (2, 3)] == [{}, {"vision": 40}]

    def test_the_lowest_priority_first_and_whole_servers(self) -> None:
        given = policy(
            project("a"),
            grant("a", gpus=24, priority=1),
            project("b"),
            grant("b", gpus=24),
            project("c"),
            grant("c", gpus=16),
        )
        assert self.short(given, lost=1) == {"b": 16}, "the larger of the two that come last"
        assert self.short(given, lost=4) == {"b": 8, "c": 0} or self.short(given, lost=4) == {"b": 0, "c": 8}
        assert self.short(given, lost=6) == {"a": 16, "b": 0, "c": 0}
