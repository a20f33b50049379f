"""Reports of agents on a real SQLite store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm_gpuaas.domain.gpus import GpuIdentity
from slurm_gpuaas.domain.incidents import CheckStatus, Drain, Incident, IncidentState, NodeEvent
from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.names import AccountName, ClusterName, NodeName, PartitionName, QosName, UserName
from slurm_gpuaas.domain.usage import UsageRecord
from slurm_gpuaas.health.intake import JOB_AT_FAULT, JOB_KILLS_NODES, Intake
from slurm_gpuaas.health.ledger import IncidentLedger
from slurm_gpuaas.health.repeats import repeat_policy
from slurm_gpuaas.health.triage import Sighting
from slurm_gpuaas.store import Store
from tests.fakes import FakeClock
from tests.stores import new_store
from tests.unit.health.sightings import NODE, OTHER, THIRD, after, check, xid

NODES = (NODE, OTHER, THIRD)


class Daemon:
    """What takes reports, and can be restarted. `jobs` are those that run on every node."""

    def __init__(self, store: Store) -> None:
        self.store, self.clock = store, FakeClock()
        self.jobs: tuple[int, ...] = (7,)
        self.user = ""
        """Whose the jobs are; empty: each is of a user of its own."""
        self.woken = 0
        self.restart()

    def restart(self) -> None:
        self.intake = Intake(
            IncidentLedger(self.store, self.clock),
            jobs_on=lambda node: {JobId(job): UserName(self.user or f"user{job}") for job in self.jobs},
            wake=self._wake,
        )

    def _wake(self) -> None:
        self.woken += 1

    def report(self, *sightings: Sighting) -> None:
        events = [one.event for one in sightings]
        self.clock.at = max(self.clock.at, *(event.seen_at for event in events))
        self.intake.ingest(events[0].node, events)

    def audit(self, action: str) -> int:
        return len(self.store.audit.newest(action=action))

    @property
    def only(self) -> Incident:
        (incident,) = self.store.incidents()
        return incident


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = new_store(tmp_path / "gpuaas.db")
    yield store
    store.close()


@pytest.fixture
def daemon(store: Store) -> Daemon:
    return Daemon(store)


def storm(number: int, code: int = 95) -> list[Sighting]:
    return [xid(code, after(milliseconds=n)) for n in range(number)]


def test_a_storm_of_one_error_is_one_incident_and_costs_few_rows(daemon: Daemon) -> None:
    events = storm(2_000)
    for begin in range(0, len(events), 200):
        daemon.report(*events[begin : begin + 200])
    assert len(daemon.store.events(limit=10_000)) == repeat_policy().burst.keep
    assert daemon.only.drain is Drain.NOW
    assert daemon.woken == 1
    told = [entry.evidence["events"] for entry in daemon.store.audit.newest(action="events.left-out")]
    assert told == [1_000, 100, 10, 1]


def test_a_worse_error_within_a_storm_is_kept(daemon: Daemon) -> None:
    daemon.report(*storm(50, code=31))
    daemon.report(xid(79, after(seconds=1)))
    assert (daemon.only.fault_class, daemon.woken) == ("hw_reboot", 1)


def test_an_error_that_goes_on_is_kept_every_five_seconds(daemon: Daemon) -> None:
    daemon.report(*storm(50))
    daemon.report(*(xid(95, after(seconds=6 * n)) for n in range(1, 4)))
    assert len(daemon.store.events(limit=100)) == repeat_policy().burst.keep + 3


def test_a_report_that_comes_twice_changes_nothing_even_after_a_restart(daemon: Daemon) -> None:
    events = [xid(94), xid(48, after(seconds=1))]
    daemon.report(*events)
    before = daemon.only
    daemon.restart()
    daemon.report(*events)
    assert daemon.only == before
    assert daemon.only.event_ids == (events[1].event.event_id, events[0].event.event_id)
    assert daemon.woken == 1
    assert [e.action for e in daemon.store.audit.newest()] == ["incident.open"]


def test_an_event_without_serial_gets_that_of_the_card_in_its_slot_then(daemon: Daemon) -> None:
    def sits(serial: str) -> None:
        gpu = GpuIdentity(index=3, uuid=f"GPU-{serial}", serial=serial, pci="0000:03:00")
        daemon.intake.ingest(NODE, [], gpus=[gpu])

    sits("1650")
    daemon.clock.at = after(hours=1)
    sits("1777")
    daemon.report(xid(79, after(minutes=5)), xid(48, after(hours=2)), xid(48, after(hours=2), gpu=5))
    assert {serial for incident in daemon.store.incidents() for serial in incident.serials} == {"1650", "1777"}
    assert [event.serial for event in daemon.store.events()] == ["1650", "1777", None]


def test_the_same_application_error_on_three_nodes_is_the_jobs_fault(daemon: Daemon) -> None:
    for number, node in enumerate(NODES):
        daemon.report(*(xid(31, after(hours=number, minutes=10 * n), node=node) for n in range(6)))
    assert daemon.audit(JOB_AT_FAULT) == 1
    (entry,) = daemon.store.audit.newest(action=JOB_AT_FAULT)
    assert (entry.subject, entry.evidence["nodes"]) == ("job 7", "b200-001,b200-002,b200-003")
    # What its errors had opened before the third node told is closed again.
    assert {i.state for i in daemon.store.incidents()} == {IncidentState.CLOSED}
    daemon.restart()
    daemon.report(*(xid(31, after(hours=4, minutes=10 * n)) for n in range(6)))
    assert daemon.audit(JOB_AT_FAULT) == 1
    assert {i.state for i in daemon.store.incidents()} == {IncidentState.CLOSED}


def test_page_faults_of_a_job_at_fault_do_not_count_against_the_gpu(daemon: Daemon) -> None:
    for node in NODES:
        daemon.report(xid(31, node=node))
    daemon.jobs = (8,)
    daemon.report(xid(31, after(hours=1)))
    assert not daemon.store.incidents()
    daemon.jobs = (9,)
    daemon.report(xid(31, after(hours=2)))
    assert daemon.only.rule.startswith("repeat rule page-fault-on-one-gpu")


@pytest.mark.parametrize(("user", "drain"), [("", Drain.WHEN_IDLE), ("mallory", Drain.REVIEW)])
def test_one_user_cannot_drain_a_node_with_errors_of_applications(daemon: Daemon, user: str, drain: Drain) -> None:
    daemon.user = user
    for number, job in enumerate((11, 12)):
        daemon.jobs = (job,)
        daemon.report(xid(31, after(hours=number)))
    assert daemon.only.drain is drain


def test_whose_the_earlier_job_was_is_known_after_a_restart(daemon: Daemon) -> None:
    run = UsageRecord(
        cluster=ClusterName("c"), job_id=JobId(7), user=UserName("user7"), account=AccountName("a"),
        qos=QosName("normal"), partition=PartitionName("p"), model=None, gpus=8, started=after(), ended=after(hours=1),
        gpu_seconds=8, state="FAILED",
    )  # fmt: skip
    daemon.report(xid(31))
    daemon.store.put_usage([run], at=daemon.clock.now())
    daemon.restart()
    daemon.jobs = (8,)
    daemon.report(xid(31, after(hours=2)))
    assert daemon.only.drain is Drain.WHEN_IDLE


def test_a_line_that_asks_for_more_is_kept_in_a_storm_of_its_code(daemon: Daemon) -> None:
    def line(status: str, n: int) -> Sighting:
        return xid(145, after(milliseconds=n), text=f"RLW_REMAP Nonfatal XC0 i0 Link 10 (0x00000004 {status} 0x0)")

    daemon.report(*(line("0x00000100", n) for n in range(50)), line("0x00000040", 60), line("0x00000040", 61))
    assert daemon.only.drain is Drain.NOW
    assert len(daemon.store.events(limit=100)) == repeat_policy().burst.keep + 1


def test_a_job_that_shares_its_nodes_with_another_is_not_blamed(daemon: Daemon) -> None:
    daemon.jobs = (7, 8)
    for node in NODES:
        daemon.report(xid(31, node=node))
    assert daemon.audit(JOB_AT_FAULT) == 0


def test_a_job_under_which_three_nodes_failed_is_named_once(daemon: Daemon) -> None:
    for number, node in enumerate(NODES):
        daemon.report(xid(79, after(hours=number), node=node), xid(45, after(hours=number, seconds=1), node=node))
    assert daemon.audit(JOB_KILLS_NODES) == 1
    rules = {i.node: i.rule for i in daemon.store.incidents()}
    assert rules[THIRD].endswith("; job 7 ran on 3 nodes that failed")
    assert "job 7" not in rules[OTHER]


def test_a_check_that_is_well_again_closes_its_suspicion_with_a_step_of_its_life(daemon: Daemon) -> None:
    daemon.report(check(CheckStatus.WARNING, drain=Drain.REVIEW))
    daemon.report(check(CheckStatus.OK, after(hours=1)))
    assert daemon.only.state is IncidentState.CLOSED
    (opened, closed) = daemon.store.transitions(incident=daemon.only.id)
    assert (opened.after, closed.after) == (IncidentState.SUSPECT, IncidentState.CLOSED)
    assert closed.cause == "Check nic is well again."
    assert len(daemon.only.event_ids) == 2


def test_an_event_told_after_the_repair_opens_nothing(daemon: Daemon) -> None:
    daemon.report(xid(79))
    ledger = IncidentLedger(daemon.store, daemon.clock)
    for state in (IncidentState.DRAINING, IncidentState.DRAINED, IncidentState.VERIFYING, IncidentState.PROBATION):
        ledger.change(daemon.only, "test", {}, state=state)
    daemon.clock.at = after(hours=2)
    ledger.change(daemon.only, "test", {}, state=IncidentState.CLOSED)
    daemon.clock.at = after(hours=3)
    late = xid(48, after(seconds=-10))
    daemon.report(late)
    assert late.event.event_id in daemon.only.event_ids
    assert daemon.only.state is IncidentState.CLOSED
    assert daemon.audit("event.late") == 1
    daemon.report(xid(48, after(hours=3)))
    assert len(daemon.store.incidents()) == 2


@pytest.mark.parametrize("others", [0, 300])
def test_a_report_asks_the_store_as_often_however_many_incidents_are_open_elsewhere(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    template = Incident(
        id="i0", node=OTHER, state=IncidentState.SUSPECT, drain=Drain.REVIEW, rule="r", headline="h",
        opened_at=after(hours=-1), updated_at=after(hours=-1),
    )  # fmt: skip
    with daemon.store.transaction():
        for number in range(others):
            node = NodeName(f"other-{number}")
            daemon.store.put_incident(template.model_copy(update={"id": f"i{number}", "node": node}))
    read: list[int] = []
    incidents = daemon.store.incidents

    def counted(**wanted: object) -> object:
        found = incidents(**wanted)  # type: ignore[arg-type]
        read.append(len(found))
        return found

    monkeypatch.setattr(daemon.store, "incidents", counted)
    events: list[NodeEvent] = [xid(31, after(minutes=n)).event for n in range(200)]
    daemon.intake.ingest(NODE, events)
    assert sum(read) <= 2
