"""Which driver serves, and that every call is put to the other one at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from slurm_gpuaas.domain.jobs import JobId, JobState
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.slurm.failover import FailoverController, InUse
from slurm_gpuaas.slurm.protocols import Controller, SlurmctldAway, SlurmRefused, SlurmUnavailable
from slurm_gpuaas.slurm.pyslurm_driver import NotByThisDriver
from slurm_gpuaas.slurm.records import JobChange, Reservation
from tests.fakes import EPOCH, FakeClock, FakeController, make_job, make_node

NODE = NodeName("b200-01")
JOB = JobId(1)


class Named(FakeController):
    def __init__(self, name: str) -> None:
        super().__init__([make_node(NODE)], [make_job(JOB)])
        self.name = name
        self.slurmctld_away = False

    def check(self) -> None:
        if self.slurmctld_away:
            raise SlurmctldAway("slurmctld does not answer (test).")
        self.before("check")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def pair(clock: FakeClock) -> tuple[Named, Named, FailoverController, list[InUse]]:
    changes: list[InUse] = []
    first, second = Named("pyslurm"), Named("slurmrestd")
    return first, second, FailoverController(first, second, clock=clock, on_change=changes.append), changes


CALLS: dict[str, Callable[[Controller], object]] = {
    "version": lambda slurm: slurm.version(),
    "nodes": lambda slurm: slurm.nodes(),
    "jobs": lambda slurm: slurm.jobs(),
    "drain": lambda slurm: slurm.drain([NODE], "gpuaas:1: x"),
    "resume": lambda slurm: slurm.resume([NODE]),
    "requeue": lambda slurm: slurm.requeue(JOB),
    "cancel": lambda slurm: slurm.cancel(JOB),
    "signal": lambda slurm: slurm.signal(JOB, "USR1"),
    "reboot": lambda slurm: slurm.reboot(NODE, "gpuaas:1: x"),
    "update_job": lambda slurm: slurm.update_job(JOB, JobChange(priority=1)),
    "reservations": lambda slurm: slurm.reservations(),
    "put_reservation": lambda slurm: slurm.put_reservation(
        Reservation(name="r", start=EPOCH, duration=timedelta(hours=1), users=("root",))
    ),
    "delete_reservation": lambda slurm: slurm.delete_reservation("r"),
    "reconfigure": lambda slurm: slurm.reconfigure(),
}


@pytest.mark.parametrize("method", CALLS)
def test_every_call_goes_to_the_preferred_driver_and_to_the_other_when_it_cannot(method: str, clock: FakeClock) -> None:
    first, second, both, changes = pair(clock)
    CALLS[method](both)
    assert (first.calls, second.calls, changes) == ([method], [], [])
    first.go_down()
    CALLS[method](both)
    assert (first.calls, second.calls) == ([method, method], [method])
    assert both.name == "slurmrestd"


def test_the_switch_and_the_return_are_told_once_each_with_time_and_cause(clock: FakeClock) -> None:
    first, _, both, changes = pair(clock)
    first.go_down()
    clock.forward(timedelta(seconds=5))
    both.nodes()
    both.nodes()
    first.come_back()
    clock.forward(timedelta(seconds=5))
    both.nodes()
    both.nodes()
    assert [(change.driver, change.since - EPOCH) for change in changes] == [
        ("slurmrestd", timedelta(seconds=5)),
        ("pyslurm", timedelta(seconds=10)),
    ]
    assert "does not answer" in changes[0].why
    assert both.in_use == InUse(driver="pyslurm", since=changes[1].since)


def test_a_refusal_is_an_answer_and_is_not_asked_twice(clock: FakeClock) -> None:
    _, second, both, changes = pair(clock)
    with pytest.raises(SlurmRefused, match="nix"):
        both.drain([NodeName("nix")], "gpuaas:1: x")
    assert (second.calls, changes) == ([], [])


def test_what_the_preferred_driver_has_no_words_for_goes_to_the_other_without_a_switch(clock: FakeClock) -> None:
    first, second, both, changes = pair(clock)

    def cannot(method: str) -> None:
        raise NotByThisDriver(method)

    first.before = cannot
    CALLS["put_reservation"](both)
    assert "r" in second.reservation_by_name
    assert (both.name, changes) == ("pyslurm", [])


def test_a_requeue_whose_answer_was_lost_is_not_done_twice(clock: FakeClock) -> None:
    _, second, both, _ = pair(clock)
    seen = replace(second.job_by_id[JOB], state=JobState.RUNNING, nodes=(NODE,), restarts=0)

    def requeued_but_late(method: str) -> None:
        # By the time the other driver is asked the job runs again, on other nodes.
        second.job_by_id[JOB] = replace(seen, restarts=1)
        raise SlurmUnavailable("no answer in time (test)")

    both._preferred.before = requeued_but_late  # type: ignore[attr-defined]
    both.requeue(JOB, restarts=seen.restarts)
    assert second.job_by_id[JOB].state is JobState.RUNNING
    both.requeue(JOB, restarts=1)
    assert second.job_by_id[JOB].state is JobState.PENDING


def test_both_down_is_unavailable(clock: FakeClock) -> None:
    first, second, both, _ = pair(clock)
    first.go_down()
    second.go_down()
    with pytest.raises(SlurmUnavailable):
        both.nodes()


def test_a_slurmctld_that_is_away_is_told_without_waiting_for_both_drivers(clock: FakeClock) -> None:
    first, second, both, _ = pair(clock)
    first.go_down()
    second.slurmctld_away = True
    for _ in range(3):
        with pytest.raises(SlurmctldAway):
            both.nodes()
    assert (first.calls, second.calls) == (["nodes"], [])
    first.come_back()
    second.slurmctld_away = False
    both.nodes()
    assert both.name == "pyslurm"


def test_a_slurmrestd_that_is_away_does_not_keep_the_preferred_driver_from_returning(clock: FakeClock) -> None:
    first, second, both, _ = pair(clock)
    first.go_down()
    both.nodes()
    first.come_back()
    second.go_down()
    both.nodes()
    assert both.name == "pyslurm"
