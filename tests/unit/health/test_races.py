"""The eleven races of owning a node beside people, Slurm and other daemons: one test each."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from slurm_gpuaas.daemon.leader import FileLeadership
from slurm_gpuaas.domain.incidents import EventKind, EventSource, IncidentState, NodeEvent
from slurm_gpuaas.domain.jobs import JobId, JobState
from slurm_gpuaas.health.breaker import BreakerLimits
from slurm_gpuaas.slurm.protocols import SlurmUnavailable
from slurm_gpuaas.slurm.records import Reservation
from tests.fakes import EPOCH
from tests.unit.health.life_site import NODE, OTHER, LifeSite

MakeSite = Callable[..., LifeSite]


def once(site: LifeSite, point: str, then: Callable[[], object]) -> None:
    """Do something right before (and only before the first) such call."""

    def act(name: str) -> None:
        if name == point:
            site.on_point = lambda name: None
            then()

    site.on_point = act


def test_1_an_administrator_drains_between_our_reading_and_our_write(make_site: MakeSite) -> None:
    site = make_site()
    site.fault()
    # Our first reading of the nodes is over when the intent is written down.
    intend = site.store.journal.intend

    def beaten_to_it(**named: object) -> object:
        site.slurm.drain([NODE], "cable swap, kim")
        return intend(**named)  # type: ignore[arg-type]

    site.store.journal.intend = beaten_to_it  # type: ignore[method-assign,assignment]
    site.health.tick()
    assert site.reason() == "cable swap, kim"
    site.store.journal.intend = intend  # type: ignore[method-assign]
    site.tick(10)
    assert site.reason() == "cable swap, kim"
    assert site.incident.state is IncidentState.DRAINED, "it waits for kim"
    assert "resume" not in site.slurm.calls


def test_1_an_administrator_drains_over_our_drain_before_the_node_is_tested(make_site: MakeSite) -> None:
    site = make_site()
    site.fault()
    site.until(IncidentState.VERIFYING)
    once(site, "slurm put_reservation", lambda: site.slurm.drain([NODE], "not this one, kim"))
    site.tick(5)
    assert site.reason() == "not this one, kim"
    assert site.submitted == []
    assert "node.taken-over" in site.actions()
    assert site.incident.state is IncidentState.DRAINED, "it waits for kim"
    assert site.slurm.reservation_by_name == {}, "the good node beside it does not"


def test_2_our_return_comes_after_a_second_fault_of_the_same_node(make_site: MakeSite) -> None:
    site = make_site()
    site.fault(sequence=1)
    site.until(IncidentState.VERIFYING)
    site.life.tick()
    site.clock.forward(timedelta(seconds=1))
    site.schedule()  # all tests pass
    site.fault(sequence=2)
    site.life.tick()
    assert site.incident.state is IncidentState.DRAINED
    assert not site.in_service()
    assert site.reason().startswith(f"gpuaas:{site.incident.id}:")


def test_3_a_job_ends_between_being_chosen_and_requeued(make_site: MakeSite) -> None:
    site = make_site(nodes=3)
    site.run_job(7, NODE)
    site.run_job(8, OTHER)
    site.fault(node=NODE)
    site.fault(node=OTHER, sequence=2)
    once(site, "slurm requeue", lambda: site.slurm.finish(7))
    site.health.tick()
    assert site.slurm.job_by_id[JobId(7)].state is JobState.COMPLETED, "it is not run again"
    assert site.slurm.job_by_id[JobId(8)].restarts == 1, "the next one is not held up"


def test_4_a_node_reboots_while_our_agent_is_down(make_site: MakeSite) -> None:
    """Its kernel log is empty then, but what the agent had spooled comes late: the fault counts all the same."""
    site = make_site()
    site.clock.forward(timedelta(minutes=20))
    site.report(*_late_events(site))
    site.health.tick()
    assert site.incident.state is IncidentState.DRAINING
    site.until(IncidentState.PROBATION)
    assert site.in_service(), "and what happened before its verification does not count against it"


def test_5_slurm_gives_an_empty_answer(make_site: MakeSite) -> None:
    site = make_site()
    site.fault()
    site.until(IncidentState.VERIFYING)
    state, nodes = site.incident.state, dict(site.slurm.node_by_name)
    site.slurm.node_by_name.clear()
    site.health.tick()
    site.life.tick()
    assert site.incident.state is state
    site.slurm.node_by_name.update(nodes)
    site.until(IncidentState.PROBATION)


def test_6_two_daemons_never_lead_at_once(tmp_path: Path) -> None:
    first, second = FileLeadership(tmp_path), FileLeadership(tmp_path)
    assert first.acquire()
    assert not second.acquire()
    first.release()
    assert second.acquire()
    second.release()


def test_6_a_daemon_that_was_only_thought_dead_doubles_nothing(make_site: MakeSite) -> None:
    site = make_site()
    site.run_job(7, NODE)
    site.fault()
    old = site.health, site.life
    site.restart()
    for _ in range(12):
        site.tick()
        for controller in old:
            controller.tick()
    assert site.incident.state is IncidentState.PROBATION
    assert site.slurm.job_by_id[JobId(7)].restarts == 1
    assert len(site.submitted) == 1
    assert site.slurm.calls.count("drain") == 1
    assert [len(shop.orders) for shop in site.shops.values()] == [1, 0, 0]


def test_7_a_job_that_was_requeued_has_the_same_number(make_site: MakeSite) -> None:
    site = make_site()
    site.run_job(7, NODE)
    site.fault()
    # Between our reading and our write it was requeued by somebody else and runs on a good node.
    requeued = site.slurm.requeue

    def beaten_to_it() -> None:
        requeued(JobId(7))
        site.slurm.start(7, [OTHER])

    once(site, "slurm requeue", beaten_to_it)
    site.health.tick()
    site.health.tick()
    job = site.slurm.job_by_id[JobId(7)]
    assert (job.state, job.nodes, job.restarts) == (JobState.RUNNING, (OTHER,), 1)


def test_8_a_good_node_that_is_promised_is_never_taken_for_a_test(make_site: MakeSite) -> None:
    site = make_site(nodes=3, remedies=())
    promised = Reservation(
        name="gpuaas-spares", start=EPOCH, duration=timedelta(days=1), users=("root",), nodes="b200-002"
    )
    site.slurm.reservation_by_name[promised.name] = promised
    site.fault()
    site.until(IncidentState.DRAINED)
    site.life.verify(site.incident.id, actor="kim", reason="mended")
    site.life.tick()
    (ours,) = (one for one in site.slurm.reservation_by_name.values() if one.name.startswith("gpuaas-verify-"))
    assert ours.nodes == "b200-[001,003]"
    assert site.slurm.reservation_by_name[promised.name] == promised


def test_9_stale_log_lines_read_again_do_nothing(make_site: MakeSite) -> None:
    site = make_site()
    events = _late_events(site)
    site.report(*events)
    site.until(IncidentState.PROBATION)
    site.clock.forward(timedelta(minutes=1))
    site.report(*events)
    site.tick(3)
    assert site.incident.state is IncidentState.PROBATION
    assert len(site.store.incidents()) == 1


def test_10_slurmctld_is_down_and_nothing_is_dropped(make_site: MakeSite) -> None:
    site = make_site()
    site.run_job(7, NODE)
    site.fault()
    untouched = site.slurm.before
    site.slurm.go_down()
    for _ in range(3):
        with pytest.raises(SlurmUnavailable):
            site.health.tick()
    site.slurm.before = untouched
    site.until(IncidentState.VERIFYING)
    site.slurm.go_down()
    with pytest.raises(SlurmUnavailable):
        site.life.tick()
    site.slurm.before = untouched
    site.until(IncidentState.PROBATION)
    assert site.slurm.job_by_id[JobId(7)].restarts == 1


def test_11_a_fabric_event_hits_a_rack(make_site: MakeSite) -> None:
    """Four nodes of a leaf group leave service, then its breaker trips; a node elsewhere is drained all the same."""
    site = make_site(nodes=12, limits=BreakerLimits(share=100, drains=16, per_leaf=4))
    names = sorted(site.slurm.node_by_name)
    site.leaves = {name: "leaf-1" if number < 8 else "leaf-2" for number, name in enumerate(names)}
    for number, name in enumerate(names[:8]):
        site.fault(node=name, sequence=number)
    site.fault(node=names[-1], sequence=99)
    site.health.tick()
    drained = [name for name in names if site.slurm.node_by_name[name].draining]
    assert len([name for name in drained if site.leaves[name] == "leaf-1"]) == 4
    assert names[-1] in drained
    (trip,) = site.breaker.trips()
    assert trip.scope == "leaf leaf-1"
    assert "4 nodes of the leaf group left service within 10 min (limit 4)" in trip.why
    assert len(site.store.incidents()) == 9, "detection goes on"


def _late_events(site: LifeSite) -> list[NodeEvent]:
    """Events of an earlier boot, as an agent's spool holds them."""
    return [
        NodeEvent(
            event_id=f"{NODE}/before/kmsg/1",
            node=NODE,
            kind=EventKind.XID,
            code=95,
            source=EventSource.KERNEL_LOG,
            seen_at=site.clock.now() - timedelta(minutes=15),
            gpu=3,
            boot_id="before",
            evidence="NVRM: Xid (PCI:0000:61:00): 95, pid=1, name=python3, text",
        )
    ]
