"""Who gives way on real Slurm: the quota core's choice while it lives, Slurm's own when it does not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import pytest

from slurm_gpuaas.domain.clock import SystemClock
from slurm_gpuaas.domain.jobs import Job, JobId, JobState
from slurm_gpuaas.domain.names import ClusterName
from slurm_gpuaas.jobs.gate import RESERVATION, GateSettings, PlacementGate
from slurm_gpuaas.jobs.gate_rules import promised
from slurm_gpuaas.quota.reclaim import PREFIX, QuotaRulings, ReclaimController
from slurm_gpuaas.testbed.instance import Instance
from slurm_gpuaas.topology import slurm_yaml
from slurm_gpuaas.topology.placer import FabricPlacer
from tests.slurm.applied import Applied, applied, cancel_all
from tests.unit.policies import document, grant, member, pool, project

pytestmark = pytest.mark.slurm

CLUSTER = ClusterName("mini")
SETTLE = timedelta(minutes=10)
PARTITION = "mini-own"
TOPOLOGY = "/etc/slurm/gpuaas/topology.yaml"
DOCUMENTS = [
    document("Organisation", name="snu"),
    pool(grace="PT0S"),
    project("owner"), member("alice", "owner"), grant("owner", gpus=32, borrow_limit=0),
    project("large"), member("bob", "large"), grant("large", gpus=0),
    project("small"), member("carol", "small"), grant("small", gpus=8, borrow_limit=24),
]  # fmt: skip


@dataclass
class Desk:
    """The testbed with this policy in force, a gate and a reclaim controller that the test ticks."""

    mini: Instance
    site: Applied

    def __post_init__(self) -> None:
        fabric = slurm_yaml.parse(self.mini.path(TOPOLOGY).read_text())
        share = DOCUMENTS[1].shares[0]  # type: ignore[union-attr]
        self.gate = PlacementGate(
            cluster=CLUSTER,
            slurm=self.site.slurm,
            store=self.site.store,
            placer=lambda: FabricPlacer(fabric.arrays),
            partitions=lambda: {DOCUMENTS[1].partition_of(share.name): share.node_names},  # type: ignore[union-attr]
            clock=SystemClock(),
            settings=GateSettings(),
            quota=QuotaRulings(cluster=CLUSTER, store=self.site.store, settle=SETTLE),
        )
        self.reclaim = ReclaimController(
            cluster=CLUSTER,
            slurm=self.site.slurm,
            store=self.site.store,
            clock=SystemClock(),
            promised=promised,
            settle=SETTLE,
        )
        self.gate.tick()

    def submit(self, user: str, project: str, qos: str, nodes: int, *options: str) -> JobId:
        argv = ["sbatch", "--parsable", f"--account={project}", f"--partition={PARTITION}", f"--qos={qos}"]
        argv += [f"--nodes={nodes}", "--gpus-per-node=b200:8", "--time=60", "--requeue", "--output=/dev/null"]
        return JobId(int(self.mini.exec([*argv, *options, "--wrap=sleep 600"], user=user, cwd="/tmp").stdout))

    def burst(self, user: str, project: str, nodes: int, *options: str) -> JobId:
        """One that runs."""
        job = self.submit(user, project, "burst-mini-own", nodes, *options)
        self.wait(job, JobState.RUNNING)
        return job

    def guaranteed(self, user: str, project: str, nodes: int, *options: str) -> JobId:
        return self.submit(user, project, f"guaranteed-{project}", nodes, "--licenses=placement:1", *options)

    def job(self, job_id: JobId) -> Job:
        return next(job for job in self.site.slurm.jobs() if job.id == job_id)

    def wait(self, job: JobId, state: JobState, seconds: float = 30) -> None:
        self.mini.wait_for(f"Job {job} {state}", lambda: self.job(job).state is state or None, seconds=seconds)

    def idle(self, count: int) -> None:
        """Wait until so many nodes are idle."""

        def idle() -> bool:
            nodes = self.mini.exec(["sinfo", "-h", "-N", "-t", "idle", "-o", "%N"]).stdout.split()
            return len(set(nodes)) == count

        self.mini.wait_for(f"{count} idle nodes", idle)

    def running(self, *jobs: JobId) -> list[bool]:
        return [self.job(job).state is JobState.RUNNING for job in jobs]


@pytest.fixture(scope="module")
def site(mini: Instance) -> Iterator[Applied]:
    with applied(mini, DOCUMENTS) as both:
        mini.path("/run/gpuaas/snapshot").unlink()  # these tests say themselves what the hook would say
        yield both
        both.publisher.tick()


@pytest.fixture
def desk(mini: Instance, site: Applied) -> Iterator[Desk]:
    yield Desk(mini, site)
    for reservation in site.slurm.reservations():
        if reservation.name == RESERVATION:
            site.slurm.delete_reservation(RESERVATION)
    cancel_all(mini)
    mini.wait_for("Idle nodes", lambda: not mini.exec(["sinfo", "-h", "-N", "-t", "alloc,mix,comp"]).stdout)
    for reservation in site.slurm.reservations():
        if reservation.name.startswith(PREFIX):
            site.slurm.delete_reservation(reservation.name)


def test_the_youngest_jobs_of_whoever_is_furthest_over_its_share_give_way(desk: Desk) -> None:
    """Slurm by itself would take the smallest, whose borrower stays within its guarantee and a little more."""
    small = desk.burst("carol", "small", 1)
    old, *young = [desk.burst("bob", "large", nodes) for nodes in (3, 2, 2)]
    mine = desk.guaranteed("alice", "owner", 4)
    desk.mini.wait_for("At the gate", lambda: desk.job(mine).reason == "Licenses" or None)
    desk.gate.tick()
    desk.wait(mine, JobState.RUNNING)
    assert desk.running(small, old, *young) == [True, True, False, False]
    (entry,) = desk.site.store.audit.newest(action="job.place", limit=1)
    assert set(str(entry.evidence["gives_way"]).split()) == set(map(str, young))


def test_a_guaranteed_job_starts_without_the_daemon_by_slurms_own_preemption(desk: Desk) -> None:
    desk.burst("bob", "large", 8)
    mine = desk.submit("alice", "owner", "guaranteed-owner", 4)  # the hook without a snapshot adds no licence
    desk.wait(mine, JobState.RUNNING)


def test_a_job_whose_guarantee_is_in_use_waits_at_the_gate_and_costs_nobody_anything(desk: Desk) -> None:
    first = desk.guaranteed("alice", "owner", 4)
    desk.mini.wait_for("At the gate", lambda: desk.job(first).reason == "Licenses" or None)
    desk.gate.tick()
    desk.wait(first, JobState.RUNNING)
    borrowed = desk.burst("bob", "large", 4)
    second = desk.guaranteed("alice", "owner", 4)
    desk.mini.wait_for("Held by its limit", lambda: desk.job(second).reason == "QOSGrpGRES" or None)
    desk.gate.tick()
    assert desk.job(second).licenses, "it keeps its licence"
    assert desk.running(borrowed) == [True]
    desk.site.slurm.cancel(first)
    desk.idle(4)
    desk.gate.tick()
    desk.wait(second, JobState.RUNNING)
    assert desk.running(borrowed) == [True], "its own nodes were free again"


def test_a_borrower_above_its_fair_share_gives_back_to_one_below(desk: Desk) -> None:
    jobs = [desk.burst("bob", "large", 2) for _ in range(3)]
    # Slurm tells starts to the second: of two in one second neither is the younger
    newest = max(job.started for job in map(desk.job, jobs) if job.started)
    desk.mini.wait_for("The next second", lambda: SystemClock().now() >= newest + timedelta(seconds=1) or None)
    jobs.append(desk.burst("bob", "large", 2))
    mine = desk.submit("carol", "small", "burst-mini-own", 2)
    desk.mini.wait_for("Waits for nodes", lambda: desk.job(mine).reason in ("Resources", "Priority") or None)
    desk.reclaim.tick()
    desk.wait(mine, JobState.RUNNING)
    assert desk.running(*jobs).count(False) == 1
    assert not desk.running(jobs[3])[0], "the youngest"
    before = [job.id for job in desk.site.slurm.jobs() if job.state is JobState.RUNNING]
    for _ in range(3):
        desk.reclaim.tick()
    assert [job.id for job in desk.site.slurm.jobs() if job.state is JobState.RUNNING] == before, "nobody swaps"


def test_a_borrower_without_requeue_gives_back_too(desk: Desk) -> None:
    """Slurm refuses to requeue it; its own preemption would cancel it. Which of jobs of one second it is, is open."""
    jobs = [desk.burst("bob", "large", 2, "--no-requeue") for _ in range(4)]
    mine = desk.submit("carol", "small", "burst-mini-own", 2)
    desk.mini.wait_for("Waits for nodes", lambda: desk.job(mine).reason in ("Resources", "Priority") or None)
    desk.reclaim.tick()
    desk.wait(mine, JobState.RUNNING)
    states = [JobState.RUNNING] * 3 + [JobState.CANCELLED]
    desk.mini.wait_for("One to give way", lambda: sorted((desk.job(job).state for job in jobs), reverse=True) == states)


def test_a_reclaim_between_borrowers_that_was_cut_off_goes_on(desk: Desk) -> None:
    """The hold was made, and the daemon died before it requeued the victims."""
    for _ in range(4):
        desk.burst("bob", "large", 2)
    mine = desk.submit("carol", "small", "burst-mini-own", 2)
    desk.mini.wait_for("Waits for nodes", lambda: desk.job(mine).reason in ("Resources", "Priority") or None)
    requeue = desk.site.slurm.requeue

    def die(job: JobId, *, restarts: int | None = None) -> None:
        raise KeyboardInterrupt

    desk.site.slurm.requeue = die  # type: ignore[method-assign]
    try:
        with pytest.raises(KeyboardInterrupt):
            desk.reclaim.tick()
    finally:
        desk.site.slurm.requeue = requeue  # type: ignore[method-assign]
    desk.reclaim.tick()
    desk.wait(mine, JobState.RUNNING)


def test_own_burst_that_fills_the_ceiling_gives_way_to_the_guaranteed_job(desk: Desk) -> None:
    """Slurm would let it wait for the account's limit for ever and preempt nobody."""
    own = desk.burst("carol", "small", 4)
    mine = desk.guaranteed("carol", "small", 1)
    desk.mini.wait_for("Held by its ceiling", lambda: desk.job(mine).reason == "AssocGrpBilling" or None)
    desk.gate.tick()
    assert desk.job(mine).licenses
    desk.reclaim.tick()
    assert desk.running(own) == [False]
    desk.idle(8)
    desk.gate.tick()
    desk.wait(mine, JobState.RUNNING)
