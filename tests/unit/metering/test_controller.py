"""Metering over time: restarts, late records and repeated reads change nothing in the sum."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_gpuaas.metering.controller import AccountingReader, MeteringController, UsageStore
from slurm_gpuaas.metering.rules import VANISHED
from slurm_gpuaas.slurm.protocols import SlurmUnavailable
from slurm_gpuaas.slurm.records import AccountingJob
from tests.stores import new_store
from tests.unit.metering.runs import CLUSTER, T0, MemoryStore, Slurmdbd, SteppedClock, at, run

OVERLAP = timedelta(seconds=100)


@dataclass
class World:
    slurmdbd: Slurmdbd = field(default_factory=Slurmdbd)
    store: MemoryStore = field(default_factory=MemoryStore)
    clock: SteppedClock = field(default_factory=SteppedClock)

    kept: MeteringController | None = None

    def tick(self, when: int, *, restarted: bool = True) -> None:
        """`restarted`: of a controller that has just been started; nothing is carried over but the store."""
        self.clock.moment = at(when)
        if restarted or self.kept is None:
            self.kept = controller(self, self.store)
        self.last = self.kept.tick()

    @property
    def gpu_seconds(self) -> int:
        return sum(record.gpu_seconds for record in self.store.records.values())


def controller(world: World, store: UsageStore, accounting: AccountingReader | None = None) -> MeteringController:
    return MeteringController(
        cluster=CLUSTER,
        accounting=accounting or world.slurmdbd,
        store=store,
        clock=world.clock,
        begin=T0 - timedelta(days=1),
        overlap=OVERLAP,
    )


def test_a_running_job_grows_and_its_end_settles_it() -> None:
    world = World()
    world.slurmdbd.deliver(run(start=0), when=0)
    world.tick(50)
    assert world.gpu_seconds == 8 * 50
    world.slurmdbd.deliver(run(start=0, end=70, state="COMPLETED"), when=70)
    world.tick(80)
    assert world.gpu_seconds == 8 * 70
    assert world.store.usage(running=True) == []


def test_runs_of_a_requeued_job_count_each() -> None:
    world = World()
    world.slurmdbd.deliver(run(start=0, end=10, state="PREEMPTED"), when=10)
    world.slurmdbd.deliver(run(start=20, end=50, state="COMPLETED"), when=50)
    world.tick(60)
    assert sorted((r.gpu_seconds, r.state) for r in world.store.records.values()) == [
        (80, "PREEMPTED"),
        (240, "COMPLETED"),
    ]


def test_a_whole_run_delivered_late_within_the_overlap_is_seen() -> None:
    world = World()
    world.tick(100)
    world.slurmdbd.deliver(run(start=20, end=30, state="COMPLETED"), when=110)
    world.tick(120)
    assert world.gpu_seconds == 80


def test_an_end_delivered_long_after_the_overlap_still_settles_the_run() -> None:
    world = World()
    world.slurmdbd.deliver(run(start=0), when=0)
    world.tick(500)
    world.slurmdbd.deliver(run(start=0, end=50, state="NODE_FAIL"), when=550)
    world.tick(600)
    assert world.gpu_seconds == 400


def test_a_run_that_accounting_forgot_stops_counting_where_it_was_last_seen() -> None:
    world = World()
    world.slurmdbd.deliver(run(start=0), when=0)
    world.tick(50)
    world.slurmdbd.deliveries.clear()
    world.tick(90)
    world.tick(500)
    (record,) = world.store.records.values()
    assert (record.gpu_seconds, record.ended, record.state) == (400, at(50), VANISHED)
    assert len(world.slurmdbd.reads) == 4, "Only the tick that missed the run may ask for it again."


def test_a_run_without_length_ends_in_the_state_that_accounting_tells() -> None:
    """Seen running in the second in which metering begins, it ended in that second."""
    world = World()
    metering = MeteringController(
        cluster=CLUSTER, accounting=world.slurmdbd, store=world.store, clock=world.clock, begin=at(0), overlap=OVERLAP
    )
    world.slurmdbd.deliver(run(start=0), when=0)
    world.clock.moment = at(1)
    metering.tick()
    world.slurmdbd.deliver(run(start=0, end=0, state="NODE_FAIL"), when=1)
    world.clock.moment = at(2)
    metering.tick()
    (record,) = world.store.records.values()
    assert (record.gpu_seconds, record.ended, record.state) == (0, at(0), "NODE_FAIL")


def test_an_unreachable_slurmdbd_changes_nothing() -> None:
    world = World()
    world.slurmdbd.deliver(run(start=0), when=0)
    world.tick(50)

    class Down:
        def jobs_since(self, start: object, end: object) -> list[AccountingJob]:
            raise SlurmUnavailable("slurmdbd does not answer.")

    world.clock.moment = at(400)
    with pytest.raises(SlurmUnavailable):
        controller(world, world.store, Down()).tick()
    assert world.gpu_seconds == 400


def test_one_unreadable_run_does_not_stop_the_others() -> None:
    world = World()
    world.slurmdbd.deliver(run(1, start=0, end=10, user="DOMAIN\\alice", state="COMPLETED"), when=10)
    world.slurmdbd.deliver(run(2, start=0, end=10, state="COMPLETED"), when=10)
    world.tick(20)
    assert world.gpu_seconds == 80
    assert len(world.last.unreadable) == 1
    assert "Job 1 of account 'vision'" in world.last.unreadable[0]


runs_over_time = st.lists(
    st.tuples(
        st.integers(0, 900),  # start
        st.integers(0, 300),  # length
        st.sampled_from([1, 4, 8, 64]),
        st.integers(0, 90),  # delay of both messages, below the overlap
    ),
    max_size=12,
)


@given(
    lives=runs_over_time,
    ticks=st.lists(st.tuples(st.integers(0, 1_400), st.booleans()), max_size=20),
)
def test_whatever_the_ticks_restarts_and_delays_the_sum_is_the_sum_of_the_runs(
    lives: list[tuple[int, int, int, int]], ticks: list[tuple[int, bool]]
) -> None:
    world = World()
    for job_id, (start, length, gpus, delay) in enumerate(lives, start=1):
        world.slurmdbd.deliver(run(job_id, start=start, gpus=gpus), when=start + delay)
        ended = run(job_id, start=start, end=start + length, gpus=gpus, state="COMPLETED")
        world.slurmdbd.deliver(ended, when=start + length + delay)
    for when, restarted in [*sorted(ticks), (1_500, False), (1_500, False)]:
        world.tick(when, restarted=restarted)
    assert world.gpu_seconds == sum(length * gpus for _, length, gpus, _ in lives)
    assert world.store.usage(running=True) == []


def test_the_real_store_keeps_a_run_once_however_often_it_is_read(tmp_path: Path) -> None:
    world = World()
    store = new_store(tmp_path / "gpuaas.db")
    world.slurmdbd.deliver(run(1, start=0, end=30, state="PREEMPTED"), when=30)
    world.slurmdbd.deliver(run(1, start=40), when=40)
    for when in (50, 60, 60):
        world.clock.moment = at(when)
        controller(world, store).tick()
    assert [(r.started, r.gpu_seconds, r.state) for r in store.usage()] == [
        (at(0), 240, "PREEMPTED"),
        (at(40), 160, "RUNNING"),
    ]
    assert store.usage_ended_last(CLUSTER) == at(30)
    store.close()
