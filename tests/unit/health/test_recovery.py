"""Jobs that lost nodes, on an in-memory Slurm and a real SQLite store. The test plays the scheduler."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from slurm_gpuaas.domain.incidents import Drain, Incident, IncidentState
from slurm_gpuaas.domain.jobs import Job, JobId, JobState
from slurm_gpuaas.domain.names import NodeName, PartitionName, QosName
from slurm_gpuaas.domain.nodes import NodeFlag
from slurm_gpuaas.domain.policy import expand_nodes
from slurm_gpuaas.domain.recoveries import Recovery as Record
from slurm_gpuaas.domain.recoveries import RecoveryState
from slurm_gpuaas.health.ledger import IncidentLedger
from slurm_gpuaas.health.recovery import Recovery, RecoverySettings
from slurm_gpuaas.health.recovery_rules import Candidate, Place, Stock
from slurm_gpuaas.health.spares import RESERVATION, SparePartition, Spares
from slurm_gpuaas.jobs.gate_rules import Pin
from slurm_gpuaas.jobs.pins import GatePins
from slurm_gpuaas.slurm.protocols import SlurmRefused
from slurm_gpuaas.store import Store
from tests.fakes import EPOCH, FakeClock, FakeController, make_job, make_node
from tests.stores import new_store

OWN = PartitionName("own")
NODES = expand_nodes("b200-[001-012]")
PLACES: dict[NodeName, Place] = {node: ("pod", f"leaf-{number // 4}") for number, node in enumerate(NODES)}
"""Three leaf groups of four: 001-004, 005-008, 009-012."""
JOB = JobId(7)
KEPT = f"gpuaas-recover-{JOB}"
PATIENCE = timedelta(minutes=2)


class Killed(Exception):
    """The daemon is gone, as by kill -9."""


class Site:
    def __init__(self, store: Store, *, spares: Sequence[str] = ()) -> None:
        self.clock = FakeClock()
        self.store = store
        self.slurm = FakeController([make_node(node) for node in NODES], clock=self.clock)
        self.spare_names = tuple(spares)
        self.requeued = 0
        self.restart()

    def restart(self) -> None:
        self.ledger = IncidentLedger(self.store, self.clock)
        self.spares = FixedSpares(self.spare_names)
        self.limits: dict[NodeName, int] = {}
        self.recovery = Recovery(
            slurm=self.slurm,
            ledger=self.ledger,
            settings=RecoverySettings(patience=PATIENCE, most_requeues=3),
            pins=GatePins(),
            spares=self.spares,
            partitions=lambda: {OWN: NODES},
            places=lambda: PLACES,
            limits=lambda: self.limits,
            requeued=self._count,
        )

    def _count(self) -> None:
        self.requeued += 1

    def run(self, job_id: int, nodes: str, **more: object) -> None:
        names = expand_nodes(nodes)
        changes = {
            name: more.pop(name)
            for name in ("excluded_nodes", "reservation", "features", "array_job_id")
            if name in more
        }
        job = make_job(job_id, node_count=len(names), **more)  # type: ignore[arg-type]
        self.slurm.job_by_id[job.id] = replace(job, **changes)  # type: ignore[arg-type]
        self.slurm.start(job_id, names)

    def lose(self, *nodes: str) -> None:
        """The nodes' faults are known and they are drained."""
        lost = {}
        for name in map(NodeName, nodes):
            self.slurm.drain([name], "gpuaas:test")
            incident = self.store.incident(f"i-{name}") or Incident(
                id=f"i-{name}",
                node=name,
                state=IncidentState.DRAINING,
                drain=Drain.NOW,
                rule="test",
                headline="XID 79",
                opened_at=self.clock.now(),
                updated_at=self.clock.now(),
            )
            self.store.put_incident(incident)
            lost[name] = incident
        self.recovery.rescue(lost)

    def schedule(self) -> None:
        """Start the job where it asks to be, if nobody is in its way."""
        job = self.job()
        if job.state is not JobState.PENDING or not job.required_nodes or job.eligible is None:
            return
        nodes = [self.slurm.node_by_name[node] for node in job.required_nodes]
        if job.eligible <= self.clock.now() and all(node.usable and not node.gpus_allocated for node in nodes):
            self.slurm.start(job.id, [node.name for node in nodes])

    def carry_on(self, ticks: int = 4) -> None:
        for _ in range(ticks):
            self.recovery.tick()
            self.clock.forward(timedelta(seconds=1))
            self.schedule()

    def job(self, number: int = JOB) -> Job:
        return self.slurm.job_by_id[JobId(number)]

    def record(self, number: int = JOB) -> Record:
        return self.store.recoveries(job_id=JobId(number))[0]

    def actions(self) -> list[str]:
        return [entry.action for entry in reversed(self.store.audit.newest())]


class FixedSpares:
    def __init__(self, names: Sequence[str]) -> None:
        self.left = frozenset(map(NodeName, names))

    def nodes(self) -> frozenset[NodeName]:
        return self.left

    def give(self, nodes: Collection[NodeName]) -> None:
        self.left -= frozenset(nodes)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = new_store(tmp_path / "gpuaas.db")
    yield store
    store.close()


@pytest.fixture
def site(store: Store) -> Site:
    return Site(store, spares=["b200-004", "b200-012"])


def test_a_job_keeps_its_nodes_and_gets_the_spare_of_its_leaf_group(site: Site) -> None:
    site.run(JOB, "b200-[001-003]")
    site.lose("b200-002")
    assert site.record().state is RecoveryState.PROMISED
    assert site.recovery.in_hand() == {JOB}
    site.carry_on()
    assert site.job().nodes == expand_nodes("b200-[001,003-004]")
    assert (site.job().restarts, site.job().reservation) == (1, "")
    assert site.slurm.reservation_by_name == {}
    record = site.record()
    assert record.state is RecoveryState.DONE
    assert record.why == "It keeps 2 nodes and gets spare b200-004 (same leaf group) for b200-002."
    assert site.recovery.in_hand() == frozenset()
    assert site.actions() == ["job.recover", "job.recovered"]
    assert (pin := Pin.of(site.job())) is not None, "the gate must know the nodes for its own"
    assert pin.restarts == site.job().restarts
    (incident,) = site.store.incidents()
    assert incident.requeued_jobs == (JOB,)


def test_the_nodes_are_kept_before_the_job_leaves_them(site: Site) -> None:
    site.run(JOB, "b200-[001-003]")
    site.lose("b200-002")
    site.recovery.tick()
    calls = site.slurm.calls
    assert calls.index("put_reservation") < calls.index("requeue") < calls.index("update_job")
    kept = site.slurm.reservation_by_name[KEPT]
    assert expand_nodes(kept.nodes) == expand_nodes("b200-[001,003-004]")
    assert (kept.users, kept.qos) == (("alice",), ())
    assert {"IGNORE_JOBS", "OVERLAP", "STATIC"} <= kept.flags
    assert "MAGNETIC" not in kept.flags, "other jobs of the user would slip in"


def test_who_does_preemptible_work_on_the_spare_makes_room_first(site: Site) -> None:
    site.run(JOB, "b200-[001-003]")
    site.run(8, "b200-004", qos="burst-haein-own")
    site.lose("b200-002")
    site.recovery.tick()
    assert site.job(8).state is JobState.PENDING
    site.carry_on()
    assert NodeName("b200-004") in site.job().nodes
    assert "job.make-room" in site.actions()


def test_without_a_spare_preemptible_work_makes_room_as_for_any_guaranteed_job(store: Store) -> None:
    site = Site(store)
    site.run(JOB, "b200-[001-003]")
    site.run(8, "b200-004", qos="burst-haein-own")
    site.run(9, "b200-[005-012]")
    site.lose("b200-002")
    site.carry_on()
    assert site.job().nodes == expand_nodes("b200-[001,003-004]")
    assert site.job(8).state is JobState.PENDING


def test_preemptible_work_that_cannot_be_requeued_is_cancelled(site: Site) -> None:
    site.run(JOB, "b200-[001-003]")
    site.run(8, "b200-004", qos="burst-haein-own", requeue=False)
    site.lose("b200-002")
    site.recovery.tick()
    assert site.job(8).state is JobState.CANCELLED


def test_two_jobs_never_get_the_same_spare(site: Site) -> None:
    site.run(JOB, "b200-[001-003]")
    site.run(8, "b200-[005-008]")
    site.run(9, "b200-[009-011]", qos="guaranteed-lang")
    site.lose("b200-001", "b200-005", "b200-009")
    site.recovery.tick()
    promised = [node for number in (7, 8, 9) for node in site.record(number).spares]
    assert len(promised) == len(set(promised)) == 2, "there are two nodes for three jobs"
    plain = [number for number in (7, 8, 9) if site.record(number).state is RecoveryState.PLAIN]
    assert len(plain) == 1


def test_two_jobs_on_one_lost_node_both_come_back(store: Store) -> None:
    """Neither holds whole nodes, so neither keeps its nodes."""
    site = Site(store)
    site.run(JOB, "b200-[001-002]", gpus=8)
    site.run(8, "b200-[001-002]", gpus=8)
    site.lose("b200-001")
    assert {site.job(number).state for number in (7, 8)} == {JobState.PENDING}
    assert site.requeued == 2


def test_a_job_that_lost_two_nodes_gets_two(site: Site) -> None:
    site.run(JOB, "b200-[001-003]")
    site.lose("b200-001", "b200-002")
    site.carry_on()
    assert site.job().nodes == expand_nodes("b200-[003-004,012]"), "the spare of its leaf group, then one of its pod"


def test_a_node_that_breaks_while_the_job_is_brought_back_is_replaced_too(site: Site) -> None:
    site.run(JOB, "b200-[001-003]")
    site.lose("b200-002")
    site.recovery.tick()
    site.slurm.job_by_id[JOB] = replace(site.job(), node_count=1)  # as Slurm says for a moment after a requeue
    site.clock.forward(timedelta(seconds=1))
    site.lose("b200-003")
    site.carry_on()
    assert set(site.job().nodes) >= set(expand_nodes("b200-[001,004]"))
    assert not {NodeName("b200-002"), NodeName("b200-003")} & set(site.job().nodes)
    assert site.record().state is RecoveryState.DONE
    assert site.job().restarts == 1


def test_an_idle_node_that_somebody_was_quicker_on_is_given_up(store: Store) -> None:
    site = Site(store)
    site.run(JOB, "b200-[001-003]")
    site.lose("b200-002")
    assert site.record().spares == (NodeName("b200-004"),)
    site.run(8, "b200-004")
    site.carry_on(6)
    assert site.job().nodes == expand_nodes("b200-[001,003,005]")
    assert site.job(8).state is JobState.RUNNING


def test_nodes_that_waiting_jobs_were_given_are_not_taken(store: Store) -> None:
    site = Site(store)
    site.run(JOB, "b200-[001-003]")
    pin = Pin(nodes=frozenset([NodeName("b200-004")]), restarts=0, at=EPOCH)
    waiting = replace(make_job(8, admin_comment=pin.written_to("")), required_nodes=(NodeName("b200-004"),))
    site.slurm.job_by_id[waiting.id] = waiting
    site.lose("b200-002")
    assert site.record().spares == (NodeName("b200-005"),)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"qos": "burst-haein-own"}, "borrowed"),
        ({"array_job_id": JobId(7)}, "array"),
        ({"reservation": "course"}, "reservation course"),
        ({"features": "nvme"}, "features"),
        ({"partition": "other"}, "does not declare"),
        ({"gpus": 4}, "whole nodes"),
    ],
)
def test_what_cannot_keep_its_nodes_is_queued_again_like_any_other(
    site: Site, more: dict[str, object], why: str
) -> None:
    site.run(JOB, "b200-[001-003]", **more)
    site.lose("b200-002")
    assert site.record().state is RecoveryState.PLAIN
    assert why in site.record().why
    assert site.job().state is JobState.PENDING
    assert site.requeued == 1
    assert site.slurm.reservation_by_name == {}


def test_nodes_that_its_user_excluded_are_not_chosen(site: Site) -> None:
    site.run(JOB, "b200-[001-003]", excluded_nodes=(NodeName("b200-004"),))
    site.lose("b200-002")
    site.carry_on()
    assert site.job().nodes == expand_nodes("b200-[001,003,012]")
    assert site.job().excluded_nodes == (NodeName("b200-004"),)


def test_a_job_submitted_with_no_requeue_is_left(site: Site) -> None:
    site.run(JOB, "b200-[001-003]", requeue=False)
    site.lose("b200-002")
    assert site.job().state is JobState.RUNNING
    assert site.actions() == ["job.left"]


def test_a_job_that_does_not_start_in_time_is_let_go(site: Site) -> None:
    site.run(JOB, "b200-[001-003]")
    site.lose("b200-002")
    for _ in range(3):
        site.recovery.tick()
    site.clock.forward(PATIENCE + timedelta(seconds=1))
    site.recovery.tick()
    job = site.job()
    assert (job.state, job.required_nodes, job.reservation, job.admin_comment) == (JobState.PENDING, (), "", "")
    assert site.slurm.reservation_by_name == {}
    assert site.record().state is RecoveryState.LET_GO
    assert site.recovery.in_hand() == frozenset()
    assert site.requeued == 1


def test_a_job_that_ends_meanwhile_leaves_nothing_behind(site: Site) -> None:
    site.run(JOB, "b200-[001-003]")
    site.lose("b200-002")
    site.recovery.tick()
    site.slurm.cancel(JOB)
    site.recovery.tick()
    assert site.slurm.reservation_by_name == {}
    assert site.record().state is RecoveryState.LET_GO


def test_a_job_that_lost_its_nodes_too_often_is_held(site: Site) -> None:
    for round_, node in enumerate(("b200-001", "b200-002", "b200-003", "b200-005")):
        if round_ == 0:
            site.run(JOB, "b200-001")
        else:
            site.slurm.start(JOB, [node])
        site.lose(node)
        site.recovery.tick()
    assert site.job().priority == 0
    assert site.record().state is RecoveryState.HELD
    assert site.actions()[-1] == "job.hold"
    assert "4 times in 24 h" in site.record().why


def test_a_node_that_cost_it_a_run_before_is_not_given_to_it_again(site: Site) -> None:
    site.run(JOB, "b200-[001-003]")
    site.lose("b200-002")
    site.carry_on()
    site.slurm.resume([NodeName("b200-002")])
    site.lose("b200-004")
    site.carry_on()
    assert site.job().nodes == expand_nodes("b200-[001,003,012]"), "b200-002 is back, and nearer"


def test_a_node_on_probation_is_not_given_to_a_large_job(site: Site) -> None:
    site.limits = {NodeName("b200-004"): 1}
    site.run(JOB, "b200-[001-003]")
    site.lose("b200-002")
    assert site.record().spares == (NodeName("b200-012"),)


def test_a_requeue_that_slurmctld_forgot_is_done_again(site: Site) -> None:
    site.run(JOB, "b200-[001-003]")
    before = site.job()
    site.lose("b200-002")
    nodes = dict(site.slurm.node_by_name)
    site.recovery.tick()
    assert site.record().state is RecoveryState.PLACED
    # It was killed before it wrote any of that down.
    site.slurm.job_by_id[JOB] = before
    site.slurm.node_by_name.update(nodes)
    site.slurm.reservation_by_name.clear()
    site.carry_on(6)
    assert site.job().nodes == expand_nodes("b200-[001,003-004]")
    assert site.record().state is RecoveryState.DONE
    assert site.slurm.reservation_by_name == {}


def test_a_job_that_slurm_itself_requeued_and_started_is_left_where_it_runs(site: Site) -> None:
    site.run(JOB, "b200-[001-003]")
    site.run(8, "b200-004", qos="burst-haein-own")
    site.lose("b200-002")
    site.slurm.requeue(JOB)
    site.slurm.start(JOB, expand_nodes("b200-[005-007]"))
    site.carry_on()
    assert site.job().restarts == 1
    assert site.job(8).state is JobState.RUNNING
    assert site.recovery.in_hand() == frozenset()
    assert (site.record().state, site.record().why) == (RecoveryState.LET_GO, "It runs on b200-[005-007] instead.")
    assert site.slurm.reservation_by_name == {}


def test_a_stray_keep_that_slurm_does_not_delete_holds_nothing_up(site: Site) -> None:
    site.run(JOB, "b200-[001-003]")
    site.lose("b200-002")
    site.recovery.tick()
    stray = replace(site.slurm.reservation_by_name[KEPT], name="gpuaas-recover-99")
    site.slurm.reservation_by_name[stray.name] = stray
    site.restart()
    delete = site.slurm.delete_reservation

    def refuse(name: str) -> None:
        if name == stray.name:
            raise SlurmRefused("Requested reservation is in use.")
        delete(name)

    site.slurm.delete_reservation = refuse  # type: ignore[method-assign]
    site.carry_on()
    assert site.record().state is RecoveryState.DONE


def test_the_ledgers_lock_is_taken_before_the_stores(site: Site) -> None:
    """Reports take them in this order; the other way round each would wait for the other."""
    put, owned = site.store.put_recovery, []

    def watched(record: Record) -> None:
        owned.append(site.ledger.lock._is_owned())  # type: ignore[attr-defined]
        put(record)

    site.store.put_recovery = watched  # type: ignore[method-assign,assignment]
    site.run(JOB, "b200-001")
    site.run(8, "b200-[002-003]")
    site.lose("b200-001", "b200-002")
    site.carry_on()
    assert len(owned) > 3
    assert all(owned)


def _kill_points() -> list[tuple[str, int, bool]]:
    """Every write of a recovery, killed before it reached Slurm and after."""
    writes = [("put_reservation", 1), ("requeue", 1), ("requeue", 2), ("update_job", 1), ("update_job", 2)]
    writes += [("delete_reservation", 1), ("jobs", 2), ("jobs", 3), ("jobs", 4), ("jobs", 5)]
    return [(method, number, after) for method, number in writes for after in (False, True)]


@pytest.mark.parametrize(("method", "number", "after"), _kill_points())
def test_a_daemon_killed_at_any_step_is_carried_on_by_the_next(
    site: Site, method: str, number: int, after: bool
) -> None:
    site.run(JOB, "b200-[001-003]")
    site.run(8, "b200-004", qos="burst-haein-own")
    seen = 0

    def kill(called: str) -> None:
        nonlocal seen
        seen += called == method
        if called == method and seen == number:
            raise Killed

    setattr(site.slurm, "after" if after else "before", kill)
    killed = False
    try:
        site.lose("b200-002")
        site.carry_on(6)
    except Killed:
        killed = True
    site.slurm.after = site.slurm.before = lambda method: None
    assert killed, f"{method} was not called {number} times: this shows nothing"
    site.clock.forward(timedelta(seconds=2))
    site.restart()
    site.lose("b200-002")  # the incident is still draining: the controller asks again
    site.carry_on(6)
    assert site.job().nodes == expand_nodes("b200-[001,003-004]")
    assert (site.job().restarts, site.job().reservation) == (1, "")
    assert site.slurm.reservation_by_name == {}
    assert site.record().state is RecoveryState.DONE
    assert site.job(8).restarts == 1
    assert all(effect.outcome != "open" for effect in site.store.journal.newest("recovery"))


def test_a_keep_of_nobody_is_deleted_after_a_start(site: Site) -> None:
    site.run(JOB, "b200-[001-003]")
    site.lose("b200-002")
    site.recovery.tick()
    kept = site.slurm.reservation_by_name[KEPT]
    site.carry_on()
    site.slurm.put_reservation(kept)
    site.restart()
    site.recovery.tick()
    assert site.slurm.reservation_by_name == {}


def test_150_nodes_at_once_cost_one_reading_and_two_writes_a_job(store: Store) -> None:
    nodes = expand_nodes("n[001-900]")
    site = Site(store)
    site.slurm.node_by_name = {name: make_node(name) for name in nodes}
    places = {name: ("pod", f"leaf-{number // 32}") for number, name in enumerate(nodes)}
    site.recovery = Recovery(
        slurm=site.slurm, ledger=site.ledger, pins=GatePins(), partitions=lambda: {OWN: nodes}, places=lambda: places
    )
    for number in range(75):
        job = make_job(number + 1, node_count=8)
        site.slurm.job_by_id[job.id] = job
        site.slurm.start(job.id, nodes[8 * number : 8 * number + 8])
    lost = [name for number in range(75) for name in nodes[8 * number : 8 * number + 2]]
    site.slurm.calls.clear()
    site.lose(*lost)
    assert site.slurm.calls.count("jobs") == site.slurm.calls.count("nodes") == 1
    site.recovery.tick()
    assert site.slurm.calls.count("put_reservation") == 75
    assert site.slurm.calls.count("requeue") == 75
    assert site.slurm.calls.count("jobs") <= 6
    spares = [node for number in range(75) for node in site.record(number + 1).spares]
    assert len(spares) == len(set(spares)) == 150


def candidate(name: str, *, spare: bool = True, loss: int = 0, gpus: int = 8) -> Candidate:
    return Candidate(node=NodeName(name), gpus=gpus, spare=spare, loss=loss)


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        ([candidate("b200-009"), candidate("b200-003", spare=False)], "b200-003"),
        ([candidate("b200-003", spare=False), candidate("b200-004")], "b200-004"),
        ([candidate("b200-003", loss=99), candidate("b200-004", loss=9)], "b200-004"),
        ([candidate("b200-009"), candidate("b200-005", spare=False)], "b200-009"),
        ([candidate("b200-003", gpus=4), candidate("b200-009")], "b200-009"),
        ([candidate("b200-003", gpus=4)], None),
    ],
)
def test_the_nearest_node_replaces_a_lost_one_then_a_spare_then_the_least_loss(
    there: list[Candidate], chosen: str | None
) -> None:
    stock = Stock(there, PLACES, {OWN: NODES})
    job = make_job(7, nodes=["b200-001", "b200-002"])
    found = stock.replace(job, [NodeName("b200-001")], of=2, avoid=frozenset())
    assert found == (None if chosen is None else (NodeName(chosen),))


def test_a_spare_that_is_used_is_taken_out_of_the_pool_before_others_can_start_there(store: Store) -> None:
    site = Site(store)
    spares = Spares(
        slurm=site.slurm,
        ledger=site.ledger,
        count=1,
        partitions=lambda: [SparePartition(name=OWN, nodes=NODES, qos=QosName("burst-x"), guaranteed=0)],
        places=lambda: PLACES,
        promised=lambda: site.recovery.promised(),
    )
    site.recovery = Recovery(
        slurm=site.slurm,
        ledger=site.ledger,
        pins=GatePins(),
        spares=spares,
        partitions=lambda: {OWN: NODES},
        places=lambda: PLACES,
    )
    site.run(JOB, "b200-[001-003]")
    spares.tick()
    assert site.slurm.reservation_by_name[RESERVATION].nodes == "b200-004"
    site.lose("b200-002")
    site.recovery.tick()
    assert RESERVATION not in site.slurm.reservation_by_name
    site.carry_on()
    spares.tick()
    assert site.slurm.reservation_by_name[RESERVATION].nodes == "b200-005"
    assert NodeFlag.DRAIN in site.slurm.node_by_name[NodeName("b200-002")].flags
