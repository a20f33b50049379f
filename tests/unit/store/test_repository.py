"""The store gives back what it was given, on every database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from sqlalchemy.exc import IntegrityError, StatementError

from slurm_gpuaas.domain.audit import AuditEntry
from slurm_gpuaas.domain.capacity import CapacitySample
from slurm_gpuaas.domain.errors import Conflict
from slurm_gpuaas.domain.incidents import Drain, EventKind, EventSource, Incident, IncidentState, NodeEvent
from slurm_gpuaas.domain.jobs import JobId, JobPlacement, PlacementOutcome
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
from slurm_gpuaas.store import Store
from tests.fakes import make_node
from tests.unit.policies import policies, small

NOW = datetime(2027, 1, 4, 9, 0, 0, 123456, tzinfo=UTC)
NODE = NodeName("b200-01")


def event(number: int = 1, *, seen_at: datetime = NOW) -> NodeEvent:
    return NodeEvent(
        event_id=f"b200-01/boot/nvml/{number}",
        node=NODE,
        kind=EventKind.XID,
        code=79,
        source=EventSource.NVML,
        seen_at=seen_at,
        pci="0000:3b:00",
        gpu=3,
        evidence="GPU has fallen off the bus",
    )


def incident(name: str = "i1", **fields: object) -> Incident:
    values = {
        "id": name,
        "node": NODE,
        "state": IncidentState.SUSPECT,
        "drain": Drain.NOW,
        "rule": "catalogue: XID 79",
        "headline": "XID 79",
        "opened_at": NOW,
        "updated_at": NOW,
    }
    return Incident.model_validate(values | fields)


def run_of(job: int = 7, *, started: datetime = NOW, ended: datetime | None = None, seconds: int = 60) -> UsageRecord:
    return UsageRecord(
        cluster=ClusterName("mini"),
        job_id=JobId(job),
        user=UserName("alice"),
        account=AccountName("vision"),
        qos=QosName("guaranteed-vision"),
        partition=PartitionName("mini-own"),
        model=GpuModel("b200"),
        gpus=8,
        started=started,
        ended=ended,
        gpu_seconds=seconds,
        state="RUNNING",
    )


class TestPolicy:
    def test_a_new_store_has_the_empty_policy_at_revision_0(self, store: Store) -> None:
        policy, revision = store.policy_and_revision()
        assert (policy, revision.revision, revision.applied_at) == (Policy(), 0, None)

    @settings(
        max_examples=25,
        deadline=None,
        # Both databases run this very test, so it has two executors.
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.too_slow,
            HealthCheck.differing_executors,
        ],
    )
    @given(policy=policies())
    def test_any_policy_comes_back_as_it_was(self, store: Store, policy: Policy) -> None:
        store.replace_policy(policy, actor="root", at=NOW)
        assert store.policy() == policy

    def test_the_same_policy_again_is_no_new_revision(self, store: Store) -> None:
        first = store.replace_policy(small(), actor="root", at=NOW)
        again = store.replace_policy(small(), actor="alice", at=NOW + timedelta(hours=1))
        assert first == again == store.policy_revision()
        assert (first.revision, first.actor, first.applied_at) == (1, "root", NOW)

    def test_a_change_made_from_an_older_revision_is_refused_and_changes_nothing(self, store: Store) -> None:
        store.replace_policy(small(), actor="root", at=NOW)
        with pytest.raises(Conflict, match="revision 1"):
            store.replace_policy(Policy(), actor="alice", at=NOW, expected_revision=0)
        assert store.policy() == small()

    def test_a_transaction_that_fails_leaves_the_policy_in_force(self, store: Store) -> None:
        store.replace_policy(small(), actor="root", at=NOW)
        with pytest.raises(RuntimeError), store.transaction():
            store.replace_policy(Policy(), actor="root", at=NOW)
            raise RuntimeError
        assert store.policy() == small()
        assert store.policy_revision().revision == 1


class TestNodeEvents:
    def test_an_event_that_arrives_twice_is_one_event(self, store: Store) -> None:
        assert store.add_event(event(), received_at=NOW)
        assert not store.add_event(event(), received_at=NOW + timedelta(hours=1))
        assert store.events() == (event(),)

    def test_the_newest_events_are_kept_by_a_limit_oldest_of_them_first(self, store: Store) -> None:
        for number in range(5):
            store.add_event(event(number, seen_at=NOW + timedelta(seconds=number)), received_at=NOW)
        found = store.events(node=NODE, limit=2)
        assert [one.event_id[-1] for one in found] == ["3", "4"]
        assert store.events(node=NodeName("b200-02")) == ()
        assert len(store.events(since=NOW + timedelta(seconds=3))) == 2


class TestIncidents:
    def test_putting_an_incident_again_replaces_it(self, store: Store) -> None:
        store.put_incident(incident())
        closed = incident(
            state=IncidentState.CLOSED, closed_at=NOW, event_ids=("a", "b"), requeued_jobs=(1, 2), headline="한글"
        )
        store.put_incident(closed)
        assert store.incident("i1") == closed
        assert store.incidents(states=[IncidentState.SUSPECT]) == ()
        assert store.incidents(node=NODE, states=[IncidentState.CLOSED]) == (closed,)

    def test_newest_first(self, store: Store) -> None:
        store.put_incident(incident("old", opened_at=NOW - timedelta(days=1)))
        store.put_incident(incident("new"))
        assert [one.id for one in store.incidents()] == ["new", "old"]

    def test_those_opened_since_a_moment(self, store: Store) -> None:
        for number, days in enumerate((0, 2, 4)):
            store.put_incident(incident(f"i{number}", opened_at=NOW - timedelta(days=days)))
        assert [one.id for one in store.incidents(since=NOW - timedelta(days=2))] == ["i0", "i1"]

    def test_an_unknown_one_is_none(self, store: Store) -> None:
        assert store.incident("nowhere") is None


class TestNodes:
    def test_the_inventory_is_what_slurm_shows_and_only_differences_are_written(self, store: Store) -> None:
        assert store.put_nodes([make_node("b200-01"), make_node("b200-02")], at=NOW) == 2
        assert store.put_nodes([make_node("b200-01"), make_node("b200-02")], at=NOW) == 0
        assert store.put_nodes([make_node("b200-02", reason="gpuaas:i1: XID 79")], at=NOW) == 2, "one gone, one changed"
        assert store.node_names() == {"b200-02"}


class TestPlacements:
    def test_one_decision_a_run_the_newest_first(self, store: Store) -> None:
        first = JobPlacement(
            cluster=ClusterName("mini"),
            job_id=JobId(1),
            restarts=0,
            decided_at=NOW,
            outcome=PlacementOutcome.PINNED,
            nodes=(NODE, NodeName("b200-02")),
            leaf_groups=1,
            cost=1.5,
            runner_up_cost=2.0,
            reason="fewest leaf groups",
        )
        again = JobPlacement(
            cluster=ClusterName("mini"),
            job_id=JobId(1),
            restarts=1,
            decided_at=NOW + timedelta(minutes=1),
            outcome=PlacementOutcome.OPENED,
        )
        store.put_placement(first)
        store.put_placement(first)
        store.put_placement(again)
        assert store.placements(job_id=JobId(1)) == (again, first)
        assert store.placements(job_id=JobId(2)) == ()


class TestCapacity:
    def test_samples_come_back_oldest_first_and_old_ones_are_forgotten(self, store: Store) -> None:
        def sample(hours: int, partition: str = "own") -> CapacitySample:
            return CapacitySample(
                cluster=ClusterName("mini"),
                partition=PartitionName(partition),
                at=NOW + timedelta(hours=hours),
                nodes=8,
                free_nodes=3,
                free_gpus=30,
                largest_leaf_group=2,
                largest_pod=3,
                largest_fabric=3,
                compact=2,
                idle_leaf_groups=0,
                fragmentation=1 / 3,
                excess_leaf_groups=1,
            )

        samples = [sample(2), sample(0), sample(1), sample(1, "gov")]
        mini, haein = ClusterName("mini"), ClusterName("haein")
        store.put_capacity(mini, samples, forget_before=NOW)
        store.put_capacity(mini, samples[:1], forget_before=NOW)
        assert [one.at for one in store.capacity(ClusterName("mini"), since=NOW)] == sorted(one.at for one in samples)
        store.put_capacity(haein, (), forget_before=NOW + timedelta(hours=2))
        assert len(store.capacity(mini, since=NOW)) == len(samples), "another cluster forgets its own"
        store.put_capacity(mini, (), forget_before=NOW + timedelta(hours=2))
        assert store.capacity(mini, since=NOW) == (sample(2),)
        assert store.capacity(haein, since=NOW) == ()


class TestUsage:
    def test_a_run_read_again_replaces_its_record(self, store: Store) -> None:
        store.put_usage([run_of(seconds=60)], at=NOW)
        ended = run_of(ended=NOW + timedelta(seconds=20), seconds=160)
        store.put_usage([ended], at=NOW)
        assert store.usage() == (ended,)

    def test_a_requeued_job_has_a_record_for_each_run(self, store: Store) -> None:
        store.put_usage([run_of(), run_of(started=NOW + timedelta(hours=1))], at=NOW)
        assert len(store.usage()) == 2

    def test_a_window_takes_what_overlaps_it(self, store: Store) -> None:
        hour = timedelta(hours=1)
        store.put_usage(
            [
                run_of(1, started=NOW, ended=NOW + hour),
                run_of(2, started=NOW + hour, ended=NOW + 2 * hour),
                run_of(3, started=NOW + 2 * hour),
            ],
            at=NOW,
        )

        def jobs(since: datetime, until: datetime) -> list[int]:
            return [one.job_id for one in store.usage(since=since, until=until)]

        assert jobs(NOW + hour, NOW + 2 * hour) == [2]
        assert jobs(NOW + hour / 2, NOW + 3 * hour) == [1, 2, 3]
        assert [one.job_id for one in store.usage(running=True)] == [3]
        assert store.usage(accounts=[AccountName("speech")]) == ()

    def test_sums_are_cut_at_moments_and_tell_what_has_ended(self, store: Store) -> None:
        hour = timedelta(hours=1)
        store.put_usage(
            [
                run_of(1, ended=NOW + timedelta(seconds=5), seconds=40),
                run_of(2, seconds=2),
                run_of(3, started=NOW - hour, ended=NOW + hour, seconds=7),
                run_of(4, started=NOW + hour, seconds=9),
            ],
            at=NOW,
        )

        def sums(*cuts: datetime) -> list[tuple[datetime | None, int, int]]:
            return [(one.since, one.gpu_seconds, one.ended) for one in store.usage_sums(ClusterName("mini"), cuts)]

        assert sums() == [(None, 58, 47)]
        assert sums(NOW, NOW + hour) == [(None, 7, 7), (NOW, 42, 40), (NOW + hour, 9, 0)]
        assert store.usage_sums(ClusterName("other"), ()) == []

    def test_sums_follow_every_write_and_nothing_that_was_taken_back(self, store: Store) -> None:
        mini, cut = ClusterName("mini"), NOW + timedelta(hours=1)

        def sums() -> list[int]:
            return [one.gpu_seconds for one in store.usage_sums(mini, [cut])]

        store.put_usage([run_of(1, seconds=1), run_of(2, started=cut, seconds=10)], at=NOW)
        assert (sums(), sums()) == ([1, 10], [1, 10])
        store.put_usage([run_of(1, seconds=2)], at=NOW)
        assert sums() == [2, 10]
        with pytest.raises(ZeroDivisionError), store.transaction():
            store.put_usage([run_of(2, started=cut, seconds=20)], at=NOW)
            assert sums() == [2, 20], "one's own writes are seen"
            raise ZeroDivisionError
        assert sums() == [2, 10]
        with store.transaction():
            store.put_usage([run_of(2, started=cut, seconds=30)], at=NOW)
        assert sums() == [2, 30]

    def test_the_database_refuses_what_no_rule_could_have_made(self, store: Store) -> None:
        with pytest.raises(IntegrityError):
            store.put_usage([run_of(seconds=-1)], at=NOW)
        assert store.usage() == ()


class TestAudit:
    def test_newest_first_and_an_action_finds_what_is_below_it(self, store: Store) -> None:
        entries = [
            AuditEntry(at=NOW, actor="root", action="policy.apply", subject="revision 1", evidence={"documents": 3}),
            AuditEntry(at=NOW, actor="gpuaasd/policy", action="qos.create", subject="guaranteed-vision", reason="r"),
        ]
        store.audit.append(*entries)
        assert store.audit.newest() == tuple(reversed(entries))
        assert store.audit.newest(action="policy") == (entries[0],)
        assert store.audit.newest(action="pol") == ()
        assert store.audit.newest(actor="root", subject="revision 1") == (entries[0],)
        assert store.audit.newest(since=NOW + timedelta(seconds=1)) == ()


class TestJournal:
    def test_an_effect_without_an_end_is_found_by_the_next_run_once(self, store: Store) -> None:
        journal = store.journal
        done = journal.intend(controller="c", kind="k", subject="one", at=NOW)
        journal.close(done, outcome="done", at=NOW)
        journal.intend(controller="c", kind="k", subject="two", at=NOW, detail={"objects": "a b"})
        journal.intend(controller="other", kind="k", subject="three", at=NOW)
        (found,) = journal.interrupt("c", at=NOW)
        assert (found.subject, found.outcome, found.detail) == ("two", "interrupted", {"objects": "a b"})
        assert journal.interrupt("c", at=NOW) == ()
        assert [one.outcome for one in journal.newest("c")] == ["interrupted", "done"]

    def test_an_intent_outlives_the_transaction_around_its_failed_effect(self, store: Store) -> None:
        store.journal.intend(controller="c", kind="k", subject="s", at=NOW)
        with pytest.raises(RuntimeError), store.transaction():
            raise RuntimeError
        assert len(store.journal.interrupt("c", at=NOW)) == 1


class TestMarks:
    def test_the_last_value_stands(self, store: Store) -> None:
        assert store.mark("m") is None
        store.set_mark("m", "one", at=NOW)
        store.set_mark("m", "two", at=NOW)
        assert store.mark("m") == "two"


class TestMoments:
    def test_another_zone_comes_back_as_the_same_moment_in_utc(self, store: Store) -> None:
        seoul = NOW.astimezone(ZoneInfo("Asia/Seoul"))
        store.audit.append(AuditEntry(at=seoul, actor="a", action="b", subject="c"))
        (entry,) = store.audit.newest()
        assert entry.at == NOW
        assert entry.at.tzinfo is UTC

    def test_a_moment_without_a_zone_is_refused(self, store: Store) -> None:
        with pytest.raises(StatementError, match="no time zone"):
            store.audit.append(AuditEntry(at=NOW.replace(tzinfo=None), actor="a", action="b", subject="c"))
