"""Days of use on their way from a site to the portal: none before its end is metered, each again when it changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from slurm_gpuaas.api.pool_sites import UseDayRow, UseDaysPush, UseDaysTaken
from slurm_gpuaas.daemon.use_days import UseDays
from slurm_gpuaas.domain.errors import Unavailable
from slurm_gpuaas.domain.from_portal import PortalSet
from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.names import AccountName, ClusterName, PartitionName, QosName, UserName
from slurm_gpuaas.domain.usage import UsageRecord
from slurm_gpuaas.store import Store
from slurm_gpuaas.store.telemetry import Telemetry
from tests.fakes import FakeClock
from tests.stores import new_store
from tests.unit.daemon.test_pool_site import MINI, OWN, TERMS, VISION, doc

GRANT = doc(
    "Grant", name="g2027-00001", project="vision", pool=OWN.pools[0].name, share="government", gpus=8,
    starts="2027-01-03", ends="2027-12-31",
)  # fmt: skip
NINE = datetime(2027, 1, 6, 0, 0, tzinfo=UTC)


@dataclass
class World:
    folder: Path
    clock: FakeClock = field(default_factory=lambda: FakeClock(NINE))
    told: list[UseDayRow] = field(default_factory=list)
    down: bool = False
    metered: datetime | None = NINE

    def __post_init__(self) -> None:
        self.store: Store = new_store(self.folder / "store.db", terms=TERMS)
        self.telemetry = Telemetry(self.folder / "telemetry")
        self.store.replace_policy(OWN, actor="tests", at=self.clock.now())
        self.store.portal.put(
            PortalSet(revision=1, documents=(*VISION, GRANT), received_at=self.clock.now(), as_of=date(2027, 1, 1))
        )
        self.site = UseDays(
            cluster=MINI,
            portal=self,  # type: ignore[arg-type]
            store=self.store,
            samples=self.telemetry,
            clock=self.clock,
            metered=lambda: self.metered,
        )

    def days(self, push: UseDaysPush) -> UseDaysTaken:
        if self.down:
            raise Unavailable("down")
        self.told += push.rows
        return UseDaysTaken(taken=len(push.rows))

    def new(self) -> list[tuple[date, int]]:
        """Days that were told since one last asked, and what was held on them."""
        self.site.tick()
        found = [(row.day, row.allocated) for row in self.told]
        self.told.clear()
        return found

    def runs(self, begin: datetime, hours: int, *, job: int = 7, cluster: ClusterName = MINI) -> None:
        record = UsageRecord(
            cluster=cluster, job_id=JobId(job), user=UserName("bob"), account=AccountName("vision"),
            qos=QosName("guaranteed-vision"), partition=PartitionName("b200-government"), model=None, gpus=4,
            started=begin, ended=begin + timedelta(hours=hours), gpu_seconds=4 * hours * 3600, state="COMPLETED",
        )  # fmt: skip
        self.store.put_usage([record], at=self.clock.now())


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.telemetry.close()
    world.store.close()


def day(number: int) -> date:
    return date(2027, 1, number)


def hours(number: int) -> int:
    return 4 * number * 3600


def test_days_since_the_grant_are_told_once_and_the_last_a_second_time(world: World) -> None:
    world.runs(datetime(2027, 1, 4, 0, 0, tzinfo=UTC), 3)
    assert world.new() == [(day(3), 0), (day(4), hours(3)), (day(5), 0)]
    assert world.new() == []
    world.clock.forward(timedelta(days=1))
    world.metered = world.clock.now()
    assert world.new() == [(day(5), 0), (day(6), 0)]


@pytest.mark.parametrize("metered", [None, datetime(2027, 1, 3, 15, 30, tzinfo=UTC)])
def test_nothing_is_said_of_a_day_whose_end_is_not_metered(world: World, metered: Any) -> None:
    world.metered = metered
    assert world.new() == []


def test_a_late_record_tells_its_days_again_and_a_running_one_none(world: World) -> None:
    world.new()
    world.runs(datetime(2027, 1, 3, 14, 0, tzinfo=UTC), 2)  # 23:00 to 01:00 in Korea
    world.runs(datetime(2027, 1, 4, 0, 0, tzinfo=UTC), 2, job=8, cluster=ClusterName("other"))
    assert world.new() == [(day(3), hours(1)), (day(4), hours(1))]
    assert world.new() == []


def test_a_portal_that_was_away_is_told_everything(world: World) -> None:
    world.down = True
    for _ in range(2):
        with pytest.raises(Unavailable):
            world.new()
    world.down = False
    assert [one for one, _ in world.new()] == [day(3), day(4), day(5)]
