"""The controller over fakes: what it writes, what it leaves, what it says when Slurm does not do as told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from slurm_gpuaas.domain.errors import Conflict, InvalidInput, Unavailable
from slurm_gpuaas.domain.jobs import JobId, JobState
from slurm_gpuaas.domain.names import (
    AccountName,
    ClusterName,
    GpuModel,
    NodeName,
    PartitionName,
    QosName,
    UserName,
)
from slurm_gpuaas.domain.policy import Policy
from slurm_gpuaas.domain.usage import UsageRecord
from slurm_gpuaas.quota.controller import (
    REFUSED_FOR,
    NotConverged,
    PolicyController,
    no_failpoint,
)
from slurm_gpuaas.quota.live import Scene
from slurm_gpuaas.quota.publisher import VerdictPublisher
from slurm_gpuaas.slurm.files import write_atomically
from slurm_gpuaas.slurm.protocols import SlurmUnavailable
from slurm_gpuaas.slurm.records import Account, AccountingJob
from slurm_gpuaas.store import Store
from tests.fakes import EPOCH, FakeAccounting, FakeClock, FakeController, FakePartitions, make_job, make_node
from tests.stores import new_store
from tests.unit.policies import grant, member, policy, pool, project, small

MINI = ClusterName("mini")
OWN = PartitionName("mini-own")
VISION = QosName("guaranteed-vision")


class Killed(BaseException):
    """The process ended here."""


class KillAt:
    """Ends the run at the n-th failpoint; counts them without n."""

    def __init__(self, number: int | None = None) -> None:
        self.number = number
        self.places: list[str] = []

    def __call__(self, place: str, /) -> None:
        self.places.append(place)
        if len(self.places) == self.number:
            raise Killed(place)


@dataclass
class World:
    folder: Path
    store: Store
    slurm: FakeAccounting
    controller: FakeController
    live: FakePartitions
    clock: FakeClock

    @property
    def partitions(self) -> Path:
        return self.folder / "partitions.conf"

    @property
    def snapshot(self) -> Path:
        return self.folder / "snapshot"

    def policies(self, *, report_only: bool = False, failpoint: KillAt | None = None) -> PolicyController:
        return PolicyController(
            cluster=MINI,
            store=self.store,
            accounting=self.slurm,
            controller=self.controller,
            partitions=self.live,
            partition_file=self.partitions,
            clock=self.clock,
            report_only=report_only,
            failpoint=failpoint or no_failpoint,
        )

    def publisher(self) -> VerdictPublisher:
        return VerdictPublisher(
            cluster=MINI,
            store=self.store,
            scene=lambda: scene(self.controller, self.clock),
            file=self.snapshot,
            clock=self.clock,
        )


def scene(controller: FakeController, clock: FakeClock) -> Scene:
    nodes = {node.name: node for node in controller.nodes()}
    return Scene(now=clock.now(), jobs=controller.jobs(), nodes=nodes, promised={})


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    clock = FakeClock()
    nodes = [make_node(f"b200-{number:02}") for number in range(1, 9)]
    store = new_store(tmp_path / "store.db")
    yield World(
        tmp_path, store, FakeAccounting(clock=clock), FakeController(nodes, clock=clock), FakePartitions(), clock
    )
    store.close()


class TestApply:
    def test_a_folder_that_is_not_ours_is_named_with_the_way_out(self, world: World) -> None:
        policies = world.policies()
        world.partitions.mkdir()
        with pytest.raises(Unavailable, match=r"partitions\.conf cannot be read: Is a directory.*tmpfiles") as caught:
            policies.apply(small(), actor="root")
        assert caught.value.way_out.startswith(str(world.folder))
        with pytest.raises(Unavailable, match="cannot be written: No such file"):
            write_atomically(world.folder / "none" / "partitions.conf", "")

    def test_slurm_store_and_include_file_follow_the_policy(self, world: World) -> None:
        outcome = world.policies().apply(small(), actor="root")
        assert (outcome.revision.revision, outcome.done) == (1, True)
        assert world.store.policy() == small()
        assert world.slurm.qos_by_name[VISION].grp_tres["gres/gpu"] == 16
        assert "PartitionName=mini-own Nodes=b200-[01-08]" in world.partitions.read_text()
        assert world.live.by_name[OWN].allow_qos == ("burst-mini-own", "guaranteed-vision")

    def test_applied_again_nothing_is_written_anywhere(self, world: World) -> None:
        world.policies().apply(small(), actor="root")
        slurm, audit = world.slurm.records_written, len(world.store.audit.newest(limit=1_000))
        for outcome in (world.policies().reconcile(), world.policies().apply(small(), actor="root")):
            assert outcome.plan.steps == ()
        assert world.slurm.records_written == slurm
        assert len(world.store.audit.newest(limit=1_000)) == audit

    def test_every_object_is_in_the_audit_trail_with_who_and_why(self, world: World) -> None:
        world.policies().apply(small(), actor="alice")
        (entry,) = world.store.audit.newest(subject="guaranteed-vision")
        assert (entry.actor, entry.action, entry.reason) == ("alice", "qos.create", "policy revision 1")
        assert entry.evidence["grp_tres"] == "gres/gpu=16,gres/gpu:b200=16"
        (applied,) = world.store.audit.newest(action="policy.apply")
        assert (applied.actor, applied.subject) == ("alice", "revision 1")

    def test_a_plan_writes_nothing(self, world: World) -> None:
        found = world.policies().plan(small())
        assert found.steps
        assert world.slurm.records_written == 0
        assert world.store.policy() == Policy()
        assert not world.partitions.exists()

    def test_more_guarantees_than_gpus_are_refused_and_nothing_is_stored(self, world: World) -> None:
        with pytest.raises(InvalidInput, match="64 GPUs; 72 are guaranteed"):
            world.policies().apply(policy(project(), member(), grant(gpus=72)), actor="root")
        assert world.store.policy() == Policy()
        assert world.slurm.qos_by_name == {}

    def test_a_conflict_stops_it_before_anything_is_stored(self, world: World) -> None:
        name = AccountName("vision")
        world.slurm.account_by_name[name] = Account(name=name, parent=None, description="Vision", organization="lab")
        with pytest.raises(Conflict, match="Slurm account vision, which exists and is not ours"):
            world.policies().apply(small(), actor="root")
        assert world.store.policy() == Policy()
        assert world.slurm.records_written == 0

    def test_nodes_that_slurm_does_not_have_are_a_conflict(self, world: World) -> None:
        with pytest.raises(
            Conflict, match=r"Partition mini-own names 2 nodes that Slurm does not have: b200-\[09-10\]"
        ):
            world.policies().apply(policy(pool(shares=[{"name": "own", "nodes": "b200-[01-10]"}])), actor="root")
        assert not world.partitions.exists()

    def test_what_cannot_be_put_into_slurm_is_refused(self, world: World) -> None:
        with pytest.raises(InvalidInput):
            world.policies().apply(policy(project("root"), grant("root")), actor="root")

    def test_slurm_away_stores_nothing(self, world: World) -> None:
        world.slurm.go_down()
        with pytest.raises(SlurmUnavailable):
            world.policies().apply(small(), actor="root")
        assert world.store.policy() == Policy()

    def test_slurm_going_away_half_way_the_next_run_goes_on(self, world: World) -> None:
        def fail(method: str) -> None:
            if method == "put_associations":
                raise SlurmUnavailable("slurmdbd does not answer (test).")

        world.slurm.before = fail
        with pytest.raises(SlurmUnavailable):
            world.policies().apply(small(), actor="root")
        world.slurm.come_back()
        assert [step.title for step in world.policies().reconcile().plan.steps] == ["put members", "write partitions"]
        assert world.policies().reconcile().plan.steps == ()

    def test_a_write_that_slurm_took_and_did_not_do_is_an_error_with_object_and_field(self, world: World) -> None:
        def lose(method: str) -> None:
            if method == "put_qos" and VISION in world.slurm.qos_by_name:
                world.slurm.qos_by_name[VISION] = replace(world.slurm.qos_by_name[VISION], grp_tres={})

        world.slurm.after = lose
        with pytest.raises(NotConverged, match=r"qos guaranteed-vision.*grp_tres is None, not gres/gpu=16"):
            world.policies().apply(small(), actor="root")


class TestRunsWithoutAnEnd:
    """slurmdbd has no end of a run and refuses to delete what it uses; slurmctld has forgotten the job."""

    FORGOTTEN = AccountingJob(
        job_id=7, name="train", user="bob", account="vision", qos="guaranteed-vision", partition="mini-own",
        cluster="mini", state="RUNNING", submitted=EPOCH, started=EPOCH, ended=None, nodes="b200-01",
    )  # fmt: skip

    @pytest.mark.parametrize("names_no_runs", [False, True], ids=["it says which", "it does not say which"])
    def test_what_they_use_waits_and_the_rest_goes(self, world: World, names_no_runs: bool) -> None:
        other = policy(project("audio"), member("alice", "audio"), grant("audio"))
        policies = world.policies()
        policies.apply(small(), actor="root")
        world.slurm.runs, world.slurm.names_no_runs = [self.FORGOTTEN], names_no_runs
        outcome = policies.apply(other, actor="root")
        assert any("bob@vision may start nothing" in sentence for sentence in outcome.plan.deferred)
        assert world.slurm.association_by_key[UserName("bob"), AccountName("vision")].qos == {"closed"}
        assert AccountName("vision") in world.slurm.account_by_name
        assert (UserName("alice"), AccountName("vision")) not in world.slurm.association_by_key
        assert AccountName("audio") in world.slurm.account_by_name

    def test_asked_again_after_a_while_and_gone_when_they_have_ended(self, world: World) -> None:
        policies = world.policies()
        policies.apply(small(), actor="root")
        world.slurm.runs = [self.FORGOTTEN]
        policies.apply(policy(), actor="root")
        before = world.slurm.calls.count("delete_users")
        for _ in range(3):
            world.clock.forward(timedelta(seconds=30))
            outcome = policies.reconcile()
            assert outcome.plan.steps == ()
            assert any("no end of job 7 (bob@vision)" in sentence for sentence in outcome.plan.deferred)
        assert world.slurm.calls.count("delete_users") == before, "slurmdbd is not asked on every tick"
        world.clock.forward(REFUSED_FOR)
        assert policies.reconcile().plan.deferred, "asked again, refused again"
        world.slurm.runs = []
        world.clock.forward(2 * REFUSED_FOR)
        assert policies.reconcile().plan.deferred == ()
        assert AccountName("vision") not in world.slurm.account_by_name
        assert world.slurm.user_names == set()

    def test_what_a_refused_deletion_had_deleted_is_in_the_audit_trail(self, world: World) -> None:
        policies = world.policies()
        policies.apply(small(), actor="root")
        world.slurm.runs, world.slurm.deletes_in_parts = [self.FORGOTTEN], True
        outcome = policies.apply(policy(), actor="root")
        assert world.slurm.user_names == {"bob"}
        assert [one.subject for one in world.store.audit.newest(action="user.delete")] == ["alice"]
        assert "alice" in [change.name for change in outcome.plan.changes]

    def test_where_it_names_no_run_nobody_is_said_to_have_jobs(self, world: World) -> None:
        policies = world.policies()
        policies.apply(small(), actor="root")
        world.slurm.runs, world.slurm.names_no_runs = [self.FORGOTTEN], True
        outcome = policies.apply(policy(), actor="root")
        (alice,) = [sentence for sentence in outcome.plan.deferred if "alice@vision" in sentence]
        assert "together with others, and named no job" in alice
        assert "scancel" not in alice

    def test_slurmdbd_is_asked_ever_more_rarely_and_at_once_when_somebody_applies(self, world: World) -> None:
        policies = world.policies()
        policies.apply(small(), actor="root")
        world.slurm.runs = [self.FORGOTTEN]
        policies.apply(policy(), actor="root")
        before = world.slurm.calls.count("delete_users")
        for _ in range(24 * 60):
            world.clock.forward(timedelta(minutes=1))
            policies.reconcile()
        assert (
            world.slurm.calls.count("delete_users") - before == 9
        )  # after 5, 15, 35, 75, 155, 315, 635, 995, 1355 min
        policies.apply(policy(), actor="root")
        assert world.slurm.calls.count("delete_users") - before == 10

    def test_the_journal_says_that_slurm_refused(self, world: World) -> None:
        policies = world.policies()
        policies.apply(small(), actor="root")
        world.slurm.runs = [self.FORGOTTEN]
        policies.apply(policy(), actor="root")
        refused = [one for one in world.store.journal.newest("gpuaasd/policy") if one.outcome == "failed"]
        assert [one.subject for one in refused] == ["remove users"]
        assert {one.outcome for one in world.store.journal.newest("gpuaasd/policy")} == {"done", "failed"}


class TestCrash:
    def test_killed_at_any_place_the_next_run_converges_and_accounts_for_the_step(self, tmp_path: Path) -> None:
        def after_a_kill(number: int | None, name: str) -> tuple[World, KillAt]:
            folder = tmp_path / name
            folder.mkdir()
            nodes = [make_node(f"b200-{i:02}") for i in range(1, 9)]
            store = new_store(Path(folder, "store.db"))
            world = World(folder, store, FakeAccounting(), FakeController(nodes), FakePartitions(), FakeClock())
            world.policies().apply(small(), actor="root")
            kill = KillAt(number)
            changed = policy(project("audio"), member("carol", "audio"), grant("audio", borrow_limit=16))
            try:
                world.policies(failpoint=kill).apply(changed, actor="root")
            except Killed:
                world.policies().reconcile()
            return world, kill

        whole, counted = after_a_kill(None, "whole")
        assert len(counted.places) > 20, "every step has its places"
        for number, place in enumerate(counted.places, 1):
            world, _ = after_a_kill(number, str(number))
            assert world.slurm.read() == whole.slurm.read(), place
            assert world.partitions.read_text() == whole.partitions.read_text(), place
            assert world.live.by_name == whole.live.by_name, place
            effects = world.store.journal.newest("gpuaasd/policy")
            assert all(one.outcome != "open" for one in effects), place
            interrupted = [one.subject for one in effects if one.outcome == "interrupted"]
            told = [entry.subject for entry in world.store.audit.newest(action="effect.interrupted")]
            assert told == interrupted, place
            assert world.policies().reconcile().plan.steps == (), place
            world.store.close()


class TestDrift:
    def test_what_was_changed_by_hand_is_put_back_and_said(self, world: World) -> None:
        world.policies().apply(small(), actor="root")
        world.slurm.qos_by_name[VISION] = replace(world.slurm.qos_by_name[VISION], grp_tres={})
        world.policies().reconcile()
        assert world.slurm.qos_by_name[VISION].grp_tres["gres/gpu"] == 16
        (entry, _) = world.store.audit.newest(subject="guaranteed-vision")
        assert (entry.actor, entry.reason) == ("gpuaasd/policy", "drift")
        assert entry.evidence["grp_tres"] == "- -> gres/gpu=16,gres/gpu:b200=16"

    def test_an_include_file_changed_by_hand_is_put_back(self, world: World) -> None:
        world.policies().apply(small(), actor="root")
        world.partitions.write_text("PartitionName=mini-own Nodes=ALL\n")
        world.policies().reconcile()
        assert "AllowQos=burst-mini-own,guaranteed-vision" in world.partitions.read_text()

    def test_a_running_partition_changed_by_hand_is_put_back(self, world: World) -> None:
        world.policies().apply(small(), actor="root")
        world.live.by_name[OWN] = replace(world.live.by_name[OWN], allow_qos=())
        world.policies().reconcile()
        assert world.live.by_name[OWN].allow_qos == ("burst-mini-own", "guaranteed-vision")
        entry = world.store.audit.newest(subject=OWN)[0]
        assert (entry.action, entry.reason) == ("partition.change", "drift")

    def test_a_partition_that_leaves_the_policy_closes_and_goes_when_its_jobs_have_ended(self, world: World) -> None:
        world.policies().apply(small(), actor="root")
        job = make_job(1, partition=OWN, nodes=["b200-01"], state=JobState.RUNNING)
        world.controller.job_by_id[job.id] = job
        world.policies().apply(Policy(), actor="root")
        assert world.live.by_name[OWN].allow_qos == ("closed",)
        assert OWN in world.partitions.read_text()
        del world.controller.job_by_id[job.id]
        world.policies().reconcile()
        assert OWN not in world.live.by_name
        assert OWN not in world.partitions.read_text()

    def test_report_only_says_it_once_and_leaves_it(self, world: World) -> None:
        controller = world.policies(report_only=True)
        controller.apply(small(), actor="root")
        world.slurm.qos_by_name[VISION] = replace(world.slurm.qos_by_name[VISION], priority=5)
        for _ in range(3):
            outcome = controller.reconcile()
            assert (outcome.done, len(outcome.plan.changes)) == (False, 1)
        assert world.slurm.qos_by_name[VISION].priority == 5
        assert [one.subject for one in world.store.audit.newest(action="drift")] == ["guaranteed-vision"]

    def test_report_only_still_writes_what_the_calendar_changes(self, world: World) -> None:
        controller = world.policies(report_only=True)
        controller.apply(policy(project(), grant(ends="2027-01-31")), actor="root")
        world.clock.forward(timedelta(days=60))
        assert controller.reconcile().done
        assert world.slurm.qos_by_name[VISION].grp_tres["gres/gpu"] == 0

    def test_report_only_finishes_what_a_crash_left(self, world: World) -> None:
        with pytest.raises(Killed):
            world.policies(report_only=True, failpoint=KillAt(4)).apply(small(), actor="root")
        assert world.policies(report_only=True).reconcile().done
        assert VISION in world.slurm.qos_by_name


class TestLostNodes:
    def test_guarantees_that_cannot_be_kept_are_shorted_once_the_loss_has_settled_and_come_back(
        self, world: World
    ) -> None:
        policies = world.policies()
        policies.apply(policy(project(), member(), grant(gpus=64)), actor="root")

        def limit() -> int:
            policies.reconcile()
            return world.slurm.qos_by_name[VISION].grp_tres["gres/gpu"]

        def see() -> None:
            world.store.put_nodes(world.controller.node_by_name.values(), at=world.clock.now())

        see()
        world.controller.drain([NodeName("b200-03")], "gpuaas:test")
        see()
        world.clock.forward(timedelta(minutes=9))
        assert limit() == 64, "a reboot is no loss"
        world.clock.forward(timedelta(minutes=1))
        assert limit() == 56
        (entry,) = world.store.audit.newest(action="guarantee.short")
        assert "can promise 56 GPUs now: vision gets 56 of 64" in entry.reason
        assert limit() == 56
        assert len(world.store.audit.newest(action="guarantee.short")) == 1, "said once"
        world.controller.resume([NodeName("b200-03")])
        see()
        assert limit() == 64
        assert world.store.audit.newest(action="guarantee.kept")


class TestCalendar:
    def test_a_grant_ends_by_itself(self, world: World) -> None:
        world.policies().apply(policy(project(), member(), grant(ends="2027-01-31", borrow_limit=8)), actor="root")
        world.clock.forward(timedelta(days=60))
        world.policies().reconcile()
        assert world.slurm.qos_by_name[VISION].grp_tres["gres/gpu"] == 0
        assert world.slurm.account_by_name[AccountName("vision")].grp_tres == {"billing": 0}
        assert "AllowQos=closed" in world.partitions.read_text()
        assert AccountName("vision") in world.slurm.account_by_name, "its history stays"
        assert "\texpired\t" in _body_after(world)


class TestBudget:
    def test_slurm_gets_what_was_spent_before_the_grant_plus_the_budget(self, world: World) -> None:
        start = datetime(2026, 12, 31, 15, tzinfo=EPOCH.tzinfo)
        world.store.put_usage(
            [
                _run(1, start - timedelta(days=9), start - timedelta(days=8), 6_000),
                _run(2, start - timedelta(hours=1), None, 60_000),
                _run(3, start + timedelta(hours=1), None, 120),
            ],
            at=world.clock.now(),
        )
        world.policies().apply(
            policy(project(), member(), grant(starts="2027-01-01", budget_gpu_hours=10)), actor="root"
        )
        limit = world.slurm.account_by_name[AccountName("vision")].grp_tres_mins
        assert limit == {"gres/gpu": 100 + 600}, "a run that goes on is not counted: the limit would move all the time"
        assert "\t598\t" in _body_after(world), "600 minutes less the 2 of the run since"

    def test_the_hook_is_told_what_running_jobs_have_not_taken(self, world: World) -> None:
        world.policies().apply(policy(project(), member(), grant(budget_gpu_hours=10)), actor="root")
        job = make_job(7, account="vision", time_limit=timedelta(minutes=30))
        world.controller.job_by_id[job.id] = job
        assert "\t600\t" in _body_after(world), "a waiting job has taken nothing"
        world.controller.start(7, ["b200-01"])
        assert "\t360\t" in _body_after(world), "600 minutes less 8 GPUs for 30"
        world.clock.forward(timedelta(minutes=10))
        world.store.put_usage([_run(7, EPOCH, None, 8 * 600)], at=world.clock.now())
        assert "\t360\t" in _body_after(world), "what it has used is a part of what it has taken"
        world.controller.finish(7)
        world.store.put_usage([_run(7, EPOCH, EPOCH + timedelta(minutes=10), 8 * 600)], at=world.clock.now())
        assert "\t520\t" in _body_after(world), "it ended early and gives 160 minutes back"

    def test_without_slurms_answer_the_snapshot_is_kept_fresh_all_the_same(self, world: World) -> None:
        world.policies().apply(policy(project(), member(), grant(budget_gpu_hours=10)), actor="root")
        world.controller.go_down()
        assert "\t600\t" in _body_after(world)

    def test_nothing_is_written_while_jobs_use_what_they_were_promised(self, world: World) -> None:
        monthly = grant(budget_gpu_hours=10, budget_period="month", carry_over=50, grace=20)
        world.policies().apply(policy(project(), member(), monthly), actor="root")
        for minutes in (1, 2, 3):
            world.store.put_usage([_run(7, EPOCH, None, minutes * 480)], at=world.clock.now())
            world.clock.forward(timedelta(minutes=1))
            assert world.policies().reconcile().plan.steps == ()


class TestSnapshot:
    def test_written_when_the_content_changes_or_the_stamp_is_old(self, world: World) -> None:
        world.policies().apply(small(), actor="root")
        publisher = world.publisher()
        assert publisher.tick()
        assert not publisher.tick()
        world.clock.forward(timedelta(minutes=1))
        assert publisher.tick(), "the hook takes an old stamp for a dead daemon"
        world.policies().apply(policy(), actor="root")
        assert publisher.tick()

    def test_a_snapshot_that_somebody_removed_comes_back(self, world: World) -> None:
        publisher = world.publisher()
        publisher.tick()
        world.snapshot.unlink()
        assert publisher.tick()

    def test_only_our_group_may_read_it(self, world: World) -> None:
        world.publisher().tick()
        assert world.snapshot.stat().st_mode & 0o777 == 0o640


def _body_after(world: World) -> str:
    world.publisher().tick()
    return world.snapshot.read_text()


def _run(job: int, started: datetime, ended: datetime | None, gpu_seconds: int) -> UsageRecord:
    return UsageRecord(
        cluster=MINI,
        job_id=JobId(job),
        user=UserName("alice"),
        account=AccountName("vision"),
        qos=VISION,
        partition=PartitionName("mini-own"),
        model=GpuModel("b200"),
        gpus=8,
        started=started,
        ended=ended,
        gpu_seconds=gpu_seconds,
        state="RUNNING",
    )
