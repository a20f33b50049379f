"""The health controller on an in-memory Slurm and a real SQLite store."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.incidents import EventKind, EventSource, Incident, IncidentState, NodeEvent
from slurm_gpuaas.domain.jobs import JobId, JobState
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.nodes import NodeBase, NodeFlag
from slurm_gpuaas.health.breaker import Breaker, BreakerLimits
from slurm_gpuaas.health.controller import LOST_WITHIN, HealthController, HealthSettings
from slurm_gpuaas.health.intake import Intake
from slurm_gpuaas.health.ledger import IncidentLedger
from slurm_gpuaas.health.recovery import Recovery
from slurm_gpuaas.slurm.protocols import SlurmUnavailable
from slurm_gpuaas.store import Store
from tests.fakes import EPOCH, FakeClock, FakeController, make_job, make_node
from tests.stores import new_store

NODE, OTHER = NodeName("b200-001"), NodeName("b200-002")


def xid(
    code: int,
    *,
    node: NodeName = NODE,
    sequence: int = 1,
    gpu: int = 3,
    action: str | None = None,
    seen_at: datetime = EPOCH,
) -> NodeEvent:
    return NodeEvent(
        event_id=f"{node}/boot/kmsg/{sequence}",
        node=node,
        kind=EventKind.XID,
        code=code,
        source=EventSource.KERNEL_LOG,
        seen_at=seen_at,
        pci="0000:61:00",
        gpu=gpu,
        evidence=f"NVRM: Xid (PCI:0000:61:00): {code}, pid=1, name=python3, text",
        recovery_action=action,
    )


class Site:
    """One site: fake Slurm, real store, and a controller that can be restarted."""

    def __init__(
        self,
        store: Store,
        *,
        nodes: int = 2,
        settings: HealthSettings | None = None,
        limits: BreakerLimits | None = None,
    ) -> None:
        self.clock = FakeClock()
        self.store = store
        self.slurm = FakeController([make_node(f"b200-{i:03d}") for i in range(1, nodes + 1)], clock=self.clock)
        self.settings = settings or HealthSettings()
        self.limits = limits or BreakerLimits(share=100, per_leaf=100)
        self.woken = 0
        self.restart()

    def restart(self) -> None:
        ledger = IncidentLedger(self.store, self.clock)
        self.intake = Intake(ledger, wake=self._wake)
        self.breaker = Breaker(store=self.store, clock=self.clock, limits=self.limits, leaves=dict)
        self.health = HealthController(
            slurm=self.slurm,
            ledger=ledger,
            recovery=Recovery(slurm=self.slurm, ledger=ledger),
            breaker=self.breaker,
            settings=self.settings,
        )

    def _wake(self) -> None:
        self.woken += 1

    def outlive_a_crash(self) -> None:
        """Wait until slurmctld has what it was told on its disk, and see it there."""
        self.clock.forward(LOST_WITHIN)
        self.health.tick()

    def lose_drain(self) -> None:
        """slurmctld was killed before it wrote the drain down, and is back."""
        self.slurm.node_by_name[NODE] = make_node(NODE)

    def run(self, job_id: int, *nodes: str, requeue: bool = True) -> None:
        self.slurm.job_by_id[JobId(job_id)] = make_job(job_id, node_count=len(nodes), requeue=requeue)
        self.slurm.start(job_id, nodes)

    def report(self, *events: NodeEvent) -> None:
        for event in events:
            self.intake.ingest(event.node, [event])

    @property
    def incident(self) -> Incident:
        (incident,) = self.store.incidents()
        return incident

    def reason(self, node: NodeName = NODE) -> str:
        return self.slurm.node_by_name[node].reason

    def actions(self) -> list[str]:
        return [entry.action for entry in reversed(self.store.audit.newest())]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = new_store(tmp_path / "gpuaas.db")
    yield store
    store.close()


@pytest.fixture
def site(store: Store) -> Site:
    return Site(store)


def test_fatal_xid_drains_the_node_with_its_evidence_and_requeues_its_job(site: Site) -> None:
    site.run(7, "b200-001", "b200-002")
    site.report(xid(79))
    assert site.woken == 1
    site.health.tick()
    assert site.reason() == f"gpuaas:{site.incident.id}: XID 79 GPU has fallen off the bus, GPU 3 (0000:61:00)"
    job = site.slurm.job_by_id[JobId(7)]
    assert (job.state, job.restarts) == (JobState.PENDING, 1)
    assert site.incident.requeued_jobs == (7,)
    assert site.slurm.calls.index("drain") < site.slurm.calls.index("requeue")
    site.health.tick()
    assert site.incident.state is IncidentState.DRAINED
    assert site.actions() == ["incident.open", "node.drain", "job.requeue", "node.drained"]


def test_the_same_event_twice_is_one_incident(site: Site) -> None:
    site.report(xid(79), xid(79))
    site.restart()
    site.report(xid(79))
    site.health.tick()
    assert site.incident.event_ids == ("b200-001/boot/kmsg/1",)
    assert site.slurm.calls.count("drain") == 1


@pytest.mark.parametrize("code", [13, 31, 43, 45])
def test_an_application_error_is_kept_and_does_nothing(site: Site, code: int) -> None:
    site.report(xid(code))
    site.health.tick()
    assert site.store.incidents() == ()
    assert len(site.store.events()) == 1
    assert site.slurm.calls == []


def test_contained_error_drains_but_lets_jobs_finish(site: Site) -> None:
    site.run(7, "b200-001")
    site.report(xid(94))
    site.health.tick()
    assert NodeFlag.DRAIN in site.slurm.node_by_name[NODE].flags
    assert site.slurm.job_by_id[JobId(7)].state is JobState.RUNNING
    site.slurm.finish(7)
    site.health.tick()
    assert site.incident.state is IncidentState.DRAINED


def test_unknown_xid_waits_for_a_person(site: Site) -> None:
    site.report(xid(9999))
    site.health.tick()
    assert (site.incident.state, site.incident.drain) == (IncidentState.SUSPECT, "review")
    assert site.slurm.calls == []


def test_a_worse_event_raises_the_incident(site: Site) -> None:
    site.run(7, "b200-001")
    site.report(xid(94, sequence=1))
    site.health.tick()
    site.report(xid(79, sequence=2))
    site.health.tick()
    assert site.incident.drain == "now"
    assert site.incident.headline.startswith("XID 79")
    assert site.slurm.job_by_id[JobId(7)].state is JobState.PENDING
    assert site.slurm.calls.count("drain") == 1


def test_the_drivers_recovery_action_decides_before_the_catalogue(site: Site) -> None:
    site.report(xid(154, action="Node Reboot Required"))
    site.health.tick()
    assert site.incident.rule == "driver's recovery action: Node Reboot Required"
    assert site.incident.state is IncidentState.DRAINING


def test_a_foreign_drain_keeps_its_reason_and_lost_jobs_are_still_requeued(site: Site) -> None:
    site.run(7, "b200-001")
    site.slurm.drain([NODE], "cable swap, kim")
    site.report(xid(79))
    site.health.tick()
    assert site.reason() == "cable swap, kim"
    assert site.slurm.job_by_id[JobId(7)].state is JobState.PENDING
    assert "node.already-drained" in site.actions()


def test_a_node_put_back_by_a_person_is_not_drained_again(site: Site) -> None:
    site.report(xid(79))
    site.health.tick()
    site.outlive_a_crash()
    site.slurm.resume([NODE])
    site.health.tick()
    site.health.tick()
    assert site.incident.state is IncidentState.CLOSED
    assert NodeFlag.DRAIN not in site.slurm.node_by_name[NODE].flags


@pytest.mark.parametrize("away", [timedelta(seconds=1), timedelta(hours=2)])
def test_a_drain_that_slurm_lost_is_set_again(site: Site, away: timedelta) -> None:
    site.report(xid(79))
    site.health.tick()
    reason = site.reason()
    site.lose_drain()
    site.run(7, "b200-001")
    site.clock.forward(away)
    site.restart()
    site.health.tick()
    assert site.reason() == reason
    assert site.incident.state == "draining"
    assert site.slurm.job_by_id[JobId(7)].state is JobState.PENDING
    assert site.actions().count("node.drain-again") == 1
    # Set again, it may be lost again; on disk, it is a person's to take back.
    site.lose_drain()
    site.health.tick()
    assert site.reason() == reason
    site.outlive_a_crash()
    site.slurm.resume([NODE])
    site.health.tick()
    assert site.incident.state is IncidentState.CLOSED
    assert not site.slurm.node_by_name[NODE].draining


def test_a_foreign_drain_that_slurm_lost_is_followed_by_ours(site: Site) -> None:
    site.slurm.drain([NODE], "cable swap, kim")
    site.report(xid(79))
    site.health.tick()
    site.lose_drain()
    site.health.tick()
    assert site.reason().startswith(f"gpuaas:{site.incident.id}:")


def test_drains_set_again_do_not_open_the_breaker(store: Store) -> None:
    site = Site(store, limits=BreakerLimits(drains=1))
    site.report(xid(79))
    site.health.tick()
    site.lose_drain()
    site.health.tick()
    assert site.slurm.node_by_name[NODE].draining
    assert "breaker.open" not in site.actions()


def test_closing_the_incident_puts_a_node_back_at_once(site: Site) -> None:
    site.report(xid(79))
    site.health.tick()
    site.health.close(site.incident.id, actor="kim", reason="false alarm")
    site.slurm.resume([NODE])
    site.health.tick()
    assert not site.slurm.node_by_name[NODE].draining


def test_a_new_fault_after_the_return_is_a_new_incident(site: Site) -> None:
    site.report(xid(79, sequence=1))
    site.health.tick()
    site.outlive_a_crash()
    site.slurm.resume([NODE])
    site.health.tick()
    site.report(xid(48, sequence=2, seen_at=site.clock.now()))
    site.health.tick()
    assert [incident.state for incident in site.store.incidents()].count(IncidentState.CLOSED) == 1
    assert "XID 48" in site.reason()


def test_a_partial_answer_of_slurm_closes_nothing(site: Site) -> None:
    site.report(xid(79))
    site.health.tick()
    held = site.slurm.node_by_name.pop(NODE)
    site.health.tick()
    assert site.incident.state is IncidentState.DRAINING
    site.slurm.node_by_name[NODE] = held


def test_slurm_down_loses_nothing(site: Site) -> None:
    site.run(7, "b200-001")
    site.slurm.go_down()
    site.report(xid(79))
    with pytest.raises(SlurmUnavailable):
        site.health.tick()
    site.restart()
    site.slurm.come_back()
    site.health.tick()
    assert site.reason().startswith("gpuaas:")
    assert site.slurm.job_by_id[JobId(7)].state is JobState.PENDING


class Killed(Exception):
    """The daemon dies here."""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("method", ["nodes", "drain", "jobs", "requeue"])
def test_killed_at_any_call_the_next_run_ends_the_work_once(site: Site, method: str, when: str) -> None:
    site.run(7, "b200-001")
    site.report(xid(79))

    def die(called: str) -> None:
        if called == method:
            raise Killed

    untouched = getattr(site.slurm, when)
    setattr(site.slurm, when, die)
    with pytest.raises(Killed):
        site.health.tick()
    setattr(site.slurm, when, untouched)
    site.restart()
    site.health.tick()
    site.health.tick()
    assert site.slurm.job_by_id[JobId(7)].restarts == 1
    assert site.incident.state is IncidentState.DRAINED
    assert site.reason().count("gpuaas:") == 1
    assert site.actions().count("node.drain") == 1
    assert not [effect for effect in site.store.journal.newest("health") if effect.outcome == "open"]


def test_breaker_stops_a_drain_storm_until_a_person_resets_it(store: Store) -> None:
    site = Site(store, nodes=5, limits=BreakerLimits(drains=2, share=100))
    names = sorted(site.slurm.node_by_name)
    for job, node in enumerate(names, start=1):
        site.run(job, node)
    site.report(*(xid(79, node=node) for node in names))
    site.health.tick()
    site.restart()
    site.clock.forward(timedelta(hours=1))
    site.health.tick()
    assert sum(node.draining for node in site.slurm.node_by_name.values()) == 2
    assert "requeue" not in site.slurm.calls, "jobs are left alone, too"
    assert site.actions().count("breaker.trip") == 1
    assert len(store.incidents()) == 5
    (trip,) = store.breaker_trips()
    assert trip.why.startswith("2 nodes left service within 10 min (limit 2); b200-00")
    site.breaker.reset("cluster", actor="kim", reason="a switch was swapped")
    site.health.tick()
    assert sum(node.draining for node in site.slurm.node_by_name.values()) == 4
    assert "requeue" not in site.slurm.calls, "it has tripped again"


def test_shadow_mode_records_and_does_nothing(store: Store) -> None:
    site = Site(store, settings=HealthSettings(shadow=True))
    site.run(7, "b200-001")
    site.report(xid(79))
    site.health.tick()
    site.health.tick()
    assert site.slurm.job_by_id[JobId(7)].state is JobState.RUNNING
    assert not site.slurm.node_by_name[NODE].draining
    assert site.actions() == ["incident.open", "node.would-drain"]


def test_a_job_that_may_not_be_requeued_is_left_and_told_of(site: Site) -> None:
    site.run(7, "b200-001", requeue=False)
    site.report(xid(79))
    site.health.tick()
    site.health.tick()
    assert site.slurm.job_by_id[JobId(7)].state is JobState.RUNNING
    assert site.actions().count("job.left") == 1


def test_one_refused_node_does_not_hold_up_the_others(site: Site) -> None:
    site.report(xid(79, node=NodeName("gone-001")), xid(79))
    site.health.tick()
    assert site.reason().startswith("gpuaas:")
    assert "node.unknown" in site.actions()


def test_a_node_cannot_speak_for_another(site: Site) -> None:
    with pytest.raises(InvalidInput, match="b200-001 reported an event of node b200-002"):
        site.intake.ingest(NODE, [xid(79, node=OTHER)])


def test_an_incident_closed_while_a_tick_is_under_way_drains_nothing(site: Site) -> None:
    site.report(xid(79))

    def close(method: str) -> None:
        if method == "nodes":
            site.health.close(site.incident.id, actor="kim", reason="known")

    site.slurm.before = close
    site.health.tick()
    assert "drain" not in site.slurm.calls
    assert site.incident.state is IncidentState.CLOSED


def test_an_idle_site_asks_slurm_nothing(site: Site) -> None:
    for _ in range(3):
        site.health.tick()
    assert site.slurm.calls == []


def test_a_down_node_counts_as_drained_once_drained(site: Site) -> None:
    site.report(xid(79))
    site.health.tick()
    node = site.slurm.node_by_name[NODE]
    site.slurm.node_by_name[NODE] = make_node("b200-001", base=NodeBase.DOWN, flags=node.flags, reason=node.reason)
    site.health.tick()
    assert site.incident.state is IncidentState.DRAINED


def test_a_node_that_is_down_for_somebodys_reason_is_drained_under_that_reason(site: Site) -> None:
    site.slurm.node_by_name[NODE] = make_node(NODE, base=NodeBase.DOWN, reason="board is on my desk, kim")
    site.report(xid(79))
    site.health.tick()
    node = site.slurm.node_by_name[NODE]
    assert (node.draining, node.reason) == (True, "board is on my desk, kim")


def test_a_node_that_slurm_itself_set_down_is_drained_under_our_reason(site: Site) -> None:
    site.slurm.node_by_name[NODE] = make_node(NODE, base=NodeBase.DOWN, reason="Not responding")
    site.report(xid(79))
    site.health.tick()
    assert site.reason().startswith(f"gpuaas:{site.incident.id}:")


def test_nodes_that_are_out_already_trip_no_breaker(store: Store) -> None:
    site = Site(store, nodes=5, limits=BreakerLimits(drains=1, share=100))
    names = sorted(site.slurm.node_by_name)
    site.slurm.drain(names[:4], "cooling works, kim")
    site.report(*(xid(79, node=node) for node in names))
    site.health.tick()
    assert site.breaker.trips() == ()
    assert site.reason(names[4]).startswith("gpuaas:")
    assert {site.reason(name) for name in names[:4]} == {"cooling works, kim"}


def test_a_job_that_may_go_on_is_asked_once_for_a_checkpoint_and_requeued_after_the_wait(store: Store) -> None:
    wait = timedelta(minutes=10)
    site = Site(store, settings=HealthSettings(checkpoint_signal="USR1", checkpoint_wait=wait))
    site.run(7, "b200-001")
    site.report(xid(94))
    for _ in range(3):
        site.health.tick()
        site.restart()
    assert site.slurm.signals == [(7, "USR1")]
    assert site.slurm.job_by_id[JobId(7)].state is JobState.RUNNING
    site.clock.forward(wait)
    site.health.tick()
    assert site.slurm.job_by_id[JobId(7)].state is JobState.PENDING
    site.health.tick()
    assert site.incident.state is IncidentState.DRAINED
    assert site.slurm.signals == [(7, "USR1")]


def test_a_lost_job_is_not_asked_for_a_checkpoint(store: Store) -> None:
    site = Site(store, settings=HealthSettings(checkpoint_signal="USR1"))
    site.run(7, "b200-001")
    site.report(xid(79))
    site.health.tick()
    assert site.slurm.signals == []
    assert site.slurm.job_by_id[JobId(7)].state is JobState.PENDING
