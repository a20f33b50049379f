"""Room made between borrowers and below a project's own ceiling: one move, and what a crash in the middle leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from slurm_gpuaas.domain.jobs import JobId, JobState
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.jobs.gate_rules import promised
from slurm_gpuaas.quota.reclaim import HOLD, PREFIX, ReclaimController
from slurm_gpuaas.slurm.protocols import SlurmRefused
from slurm_gpuaas.slurm.records import Reservation
from slurm_gpuaas.store import Store
from tests.fakes import EPOCH, FakeClock, FakeController, make_job, make_node
from tests.stores import new_store
from tests.unit.quota.test_live import MINI, NODES, OWN, POLICY

SETTLE = timedelta(minutes=10)
MINUTE = timedelta(minutes=1)
BEGAN = 4
"""Minutes that it took to start the borrower's jobs."""


class Killed(BaseException):
    """The process is gone here."""


@dataclass
class World:
    store: Store
    clock: FakeClock = field(default_factory=FakeClock)

    def __post_init__(self) -> None:
        self.slurm = FakeController([make_node(name) for name in NODES], clock=self.clock)
        for number in range(4):
            self.add(number + 1, "large", user="bob")
            self.slurm.start(number + 1, NODES[2 * number : 2 * number + 2])
            self.clock.forward(timedelta(minutes=1))
        self.add(9, "small", user="carol", reason="Resources")

    def add(self, job_id: int, account: str, **others: object) -> None:
        job = make_job(job_id, account=account, qos="burst-mini-own", partition=OWN, node_count=2, **others)  # type: ignore[arg-type]
        self.slurm.job_by_id[job.id] = job

    def reclaim(self, *, shadow: bool = False) -> ReclaimController:
        return ReclaimController(
            cluster=MINI,
            slurm=self.slurm,
            store=self.store,
            clock=self.clock,
            promised=promised,
            settle=SETTLE,
            shadow=shadow,
        )

    def running(self) -> list[int]:
        return [int(job.id) for job in self.slurm.job_by_id.values() if job.state is JobState.RUNNING]

    def holds(self) -> dict[str, str]:
        return {name: one.nodes for name, one in self.slurm.reservation_by_name.items()}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    store = new_store(tmp_path / "store.db")
    store.replace_policy(POLICY, actor="root", at=EPOCH)
    yield World(store)
    store.close()


def test_the_youngest_job_of_the_borrower_above_its_share_gives_way_and_its_nodes_are_held(world: World) -> None:
    world.reclaim().tick()
    assert world.running() == [1, 2, 3]
    assert world.holds() == {f"{PREFIX}9": "b200-[07-08]"}
    (hold,) = world.slurm.reservation_by_name.values()
    assert hold.users == ("carol",)
    assert hold.flags == {"FLEX", "IGNORE_JOBS", "MAGNETIC"}
    (entry,) = world.store.audit.newest(action="job.give-way")
    assert (entry.subject, entry.evidence["for"], entry.evidence["gpus"]) == ("4", 9, 16)
    assert "fair share" in entry.reason


def test_while_its_move_is_under_way_a_share_makes_no_other(world: World) -> None:
    reclaim = world.reclaim()
    for _ in range(3):
        reclaim.tick()
    assert world.running() == [1, 2, 3]


def test_the_hold_ends_with_its_job(world: World) -> None:
    reclaim = world.reclaim()
    reclaim.tick()
    world.slurm.start(9, NODES[6:])
    reclaim.tick()
    assert world.holds(), "Slurm keeps it while the job runs in it"
    world.slurm.finish(9)
    reclaim.tick()
    assert not world.holds()


def test_nobody_gives_way_to_one_that_would_pass_its_fair_share(world: World) -> None:
    job = world.slurm.job_by_id[JobId(9)]
    world.slurm.job_by_id[job.id] = replace(job, node_count=4, gpus=32)
    owed = make_job(8, account="owner", qos="guaranteed-owner", partition=OWN, node_count=4)
    world.slurm.job_by_id[owed.id] = owed  # leaves 24 GPUs to borrow, of which 12 are fair
    world.reclaim().tick()
    assert world.running() == [1, 2, 3, 4]


@pytest.mark.parametrize("place", ["put_reservation", "requeue"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_anywhere_the_next_run_ends_the_move_and_nobody_gives_way_twice(
    world: World, place: str, when: str
) -> None:
    def die(method: str) -> None:
        if method == place:
            raise Killed

    setattr(world.slurm, when, die)
    with pytest.raises(Killed):
        world.reclaim().tick()
    setattr(world.slurm, when, lambda method: None)
    reclaim = world.reclaim()
    for _ in range(3):
        reclaim.tick()
    assert world.running() == [1, 2, 3]
    assert world.slurm.job_by_id[JobId(4)].restarts == 1
    # once the victim is gone its nodes are free, and Slurm starts the job by itself
    assert world.holds() == ({} if (place, when) == ("requeue", "after") else {f"{PREFIX}9": "b200-[07-08]"})


def test_nobody_else_on_the_held_nodes_is_touched(world: World) -> None:
    """Also while the victim is slow to end."""
    reclaim = world.reclaim()
    reclaim.tick()
    world.add(10, "owner", user="alice")
    world.slurm.start(10, NODES[6:])
    for _ in range(3):
        reclaim.tick()
    assert 10 in world.running()
    assert len(world.store.audit.newest(action="job.give-way")) == 1


def minutes_of(world: World, action: str) -> list[int]:
    return sorted(round((one.at - EPOCH) / MINUTE) - BEGAN for one in world.store.audit.newest(action=action))


def test_a_job_that_starts_in_none_of_its_holds_gets_them_ever_more_rarely(world: World) -> None:
    """It waits for something that we do not know of; without this somebody would be evicted every three minutes."""
    reclaim = world.reclaim()
    for _ in range(90):
        reclaim.tick()
        if world.slurm.job_by_id[JobId(4)].state is JobState.PENDING and not world.holds():
            world.slurm.start(4, NODES[6:])
        world.clock.forward(MINUTE)
    assert minutes_of(world, "job.give-way") == [0, 6, 19, 52, 85]
    assert minutes_of(world, "reclaim.in-vain") == [3, 9, 22, 55, 88]
    assert world.store.audit.newest(action="reclaim.in-vain")[0].subject == "9"


def test_one_that_ran_in_its_hold_may_get_another_after_a_requeue(world: World) -> None:
    reclaim = world.reclaim()
    reclaim.tick()
    world.slurm.start(9, NODES[6:])
    reclaim.tick()
    world.clock.forward(MINUTE)
    world.slurm.requeue(JobId(9))
    world.slurm.start(4, NODES[6:])
    world.slurm.job_by_id[JobId(9)] = replace(world.slurm.job_by_id[JobId(9)], reason="Resources")
    reclaim.tick()
    assert world.running() == [1, 2, 3]
    assert list(world.holds()) == [f"{PREFIX}9"]
    assert not world.store.audit.newest(action="reclaim.in-vain")


def test_a_job_barred_for_a_while_keeps_no_other_one_waiting(world: World) -> None:
    """It takes no part in the decision, where it would use up what those behind it are owed."""
    reclaim = world.reclaim()
    reclaim.tick()
    world.add(10, "small", user="erin", reason="Resources")
    world.clock.forward(HOLD)
    world.slurm.start(4, NODES[6:])
    reclaim.tick()
    assert world.running() == [1, 2, 3]
    assert list(world.holds()) == [f"{PREFIX}10"]


def test_burst_without_requeue_ends_when_it_gives_way(world: World) -> None:
    """As in Slurm's own preemption."""
    world.slurm.job_by_id[JobId(4)] = replace(world.slurm.job_by_id[JobId(4)], requeue=False)
    world.reclaim().tick()
    assert world.running() == [1, 2, 3]
    assert world.slurm.job_by_id[JobId(4)].state is JobState.CANCELLED
    assert world.holds() == {f"{PREFIX}9": "b200-[07-08]"}
    (entry,) = world.store.audit.newest(action="job.give-way")
    assert (entry.subject, entry.evidence["requeued"]) == ("4", False)


def test_for_a_victim_that_slurm_does_not_let_go_the_next_youngest_gives_way(world: World) -> None:
    requeue = world.slurm.requeue

    def busy(job: JobId, *, restarts: int | None = None) -> None:
        if job == 4:
            raise SlurmRefused("Job is in a transitional state.")
        requeue(job, restarts=restarts)

    world.slurm.requeue = busy  # type: ignore[method-assign]
    reclaim = world.reclaim()
    for _ in range(3):
        reclaim.tick()
        world.clock.forward(timedelta(seconds=5))
    assert world.running() == [1, 2, 4]
    assert world.holds() == {f"{PREFIX}9": "b200-[05-06]"}
    tried = [(one.subject, one.outcome) for one in world.store.journal.newest("gpuaasd/reclaim")]
    assert sorted(tried) == [("3", "done"), ("4", "failed")]
    assert not world.store.audit.newest(action="reclaim.in-vain"), "no try of the waiting job's"


def test_a_refused_hold_concerns_its_job_alone(world: World) -> None:
    put = world.slurm.put_reservation

    def choosy(reservation: Reservation) -> None:
        if reservation.users == ("carol",):
            raise SlurmRefused("Invalid user.")
        put(reservation)

    world.slurm.put_reservation = choosy  # type: ignore[method-assign]
    world.add(10, "small", user="erin", reason="Resources")
    reclaim = world.reclaim()
    for _ in range(2):
        reclaim.tick()
    assert world.running() == [1, 2, 3]
    assert list(world.holds()) == [f"{PREFIX}10"]
    (entry,) = world.store.audit.newest(action="reclaim.in-vain")
    assert (entry.subject, entry.reason) == ("9", "Slurm held no nodes for it: Invalid user.")


def test_a_hold_that_cannot_be_deleted_stops_nothing(world: World) -> None:
    """Another job of its user's may run in it."""
    world.reclaim().tick()
    world.clock.forward(MINUTE)
    world.slurm.start(4, NODES[6:])

    def busy(name: str) -> None:
        raise SlurmRefused("Requested reservation is in use.")

    world.slurm.delete_reservation = busy  # type: ignore[method-assign]
    world.reclaim().tick()
    assert world.running() == [1, 2, 3]


@pytest.mark.parametrize(
    "choice",
    [{"excluded_nodes": NODES[:1]}, {"features": "gen5"}, {"required_nodes": NODES[:2]}, {"licenses": "matlab:1"}],
)
def test_nobody_gives_way_to_a_job_that_waits_for_more_than_nodes(world: World, choice: dict[str, Any]) -> None:
    job = world.slurm.job_by_id[JobId(9)]
    reason = "Licenses" if "licenses" in choice else "Resources"
    world.slurm.job_by_id[job.id] = replace(job, reason=reason, **choice)
    world.reclaim().tick()
    assert world.running() == [1, 2, 3, 4]


def test_a_shadow_moves_nobody(world: World) -> None:
    world.reclaim(shadow=True).tick()
    assert world.running() == [1, 2, 3, 4]
    assert not world.holds()


@pytest.mark.parametrize("requeue", [True, False])
def test_own_burst_below_the_ceiling_goes_without_a_hold(world: World, requeue: bool) -> None:
    for number in (3, 4, 9):
        world.slurm.job_by_id.pop(JobId(number))
    for name in NODES[4:]:
        world.slurm.node_by_name[NodeName(name)] = make_node(name)
    world.add(5, "small", user="carol")
    world.slurm.job_by_id[JobId(5)] = replace(world.slurm.job_by_id[JobId(5)], node_count=4, gpus=32, requeue=requeue)
    world.slurm.start(5, NODES[4:])
    own = make_job(
        9, user="carol", account="small", qos="guaranteed-small", partition=OWN, licenses="placement:1",
        reason="AssocGrpBilling",
    )  # fmt: skip
    world.slurm.job_by_id[own.id] = own
    world.reclaim().tick()
    assert world.running() == [1, 2]
    assert not world.holds()
