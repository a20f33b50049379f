"""A warning is said once a threshold and period, whatever happens in between."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.names import AccountName, ClusterName, GpuModel, PartitionName, QosName, UserName
from slurm_gpuaas.domain.usage import UsageRecord
from slurm_gpuaas.metering.warnings import ACTION, BudgetWarnings
from slurm_gpuaas.store import Store
from tests.fakes import EPOCH, FakeClock
from tests.stores import new_store
from tests.unit.policies import grant, policy, project, rate


class World:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.clock = FakeClock()
        self.warnings = self.restarted()

    def restarted(self) -> BudgetWarnings:
        return BudgetWarnings(cluster=ClusterName("mini"), store=self.store, clock=self.clock)

    def grant(self, **fields: Any) -> None:
        given = policy(project(), rate(), grant(budget_period="month", **fields))
        self.store.replace_policy(given, actor="root", at=self.clock.now())

    def use(self, hours: int, job: int = 1) -> None:
        """The project's one run since the epoch has used so many GPU-hours."""
        self.store.put_usage(
            [
                UsageRecord(
                    cluster=ClusterName("mini"),
                    job_id=JobId(job),
                    user=UserName("alice"),
                    account=AccountName("vision"),
                    qos=QosName("guaranteed-vision"),
                    partition=PartitionName("mini-own"),
                    model=GpuModel("b200"),
                    gpus=1,
                    started=EPOCH if job == 1 else self.clock.now(),
                    ended=None,
                    gpu_seconds=hours * 3600,
                    state="RUNNING",
                )
            ],
            at=self.clock.now(),
        )

    @property
    def said(self) -> list[str]:
        """Oldest first."""
        return [entry.reason for entry in reversed(self.store.audit.newest(action=ACTION, limit=100))]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    store = new_store(tmp_path / "store.db")
    yield World(store)
    store.close()


def test_each_threshold_is_said_once_over_restarts(world: World) -> None:
    world.grant(budget_gpu_hours=100)
    for hours in (10, 49, 50, 60, 79, 80, 96, 100):
        world.use(hours)
        world.warnings.tick()
        world.restarted().tick()
    assert world.said == [f"{percent} % of the budget is used." for percent in (50, 80, 95)]


def test_an_entry_has_the_numbers(world: World) -> None:
    world.grant(budget_gpu_hours=100, budget_won=1_000_000)
    world.use(52)
    assert world.warnings.tick() == 1
    (entry,) = world.store.audit.newest(action=ACTION)
    assert (entry.actor, entry.subject) == ("gpuaasd/metering", "vision")
    assert entry.evidence == {
        "period": "2027-01-01",
        "gpu_hours_used": 52,
        "gpu_hours_of": 100,
        "won_used": 187_200,
        "won_of": 1_000_000,
    }


def test_a_leap_says_every_threshold_that_it_passed(world: World) -> None:
    world.grant(budget_gpu_hours=100)
    world.use(97)
    assert world.warnings.tick() == 3


def test_the_fuller_side_warns(world: World) -> None:
    world.grant(budget_gpu_hours=1_000, budget_won=36_000)
    world.use(6)
    world.warnings.tick()
    assert world.said == ["50 % of the budget is used."]


def test_each_period_warns_anew(world: World) -> None:
    world.grant(budget_gpu_hours=100)
    world.use(60)
    world.warnings.tick()
    world.clock.forward(timedelta(days=31))
    assert world.warnings.tick() == 0
    world.use(60, job=2)
    assert world.warnings.tick() == 1


def test_a_raised_budget_warns_again_when_it_is_reached(world: World) -> None:
    world.grant(budget_gpu_hours=100)
    world.use(60)
    world.warnings.tick()
    world.grant(budget_gpu_hours=200)
    world.warnings.tick()
    world.use(110)
    world.restarted().tick()
    assert world.said == ["50 % of the budget is used."] * 2


def test_without_a_budget_nothing_is_said(world: World) -> None:
    world.store.replace_policy(policy(project(), grant()), actor="root", at=world.clock.now())
    world.use(1_000)
    assert world.warnings.tick() == 0
