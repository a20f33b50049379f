"""A provider's lease has its GPUs once, none of another's, and none after its end."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest

from slurm_gpuaas.domain.errors import Conflict, Refused
from slurm_gpuaas.domain.leases import Lease
from slurm_gpuaas.domain.names import PersonId, ProviderName
from slurm_gpuaas.domain.people import Actor, PortalRole
from slurm_gpuaas.domain.pool_grants import HoldKind
from slurm_gpuaas.pool.lease_service import LeaseService
from tests.unit.pool.scene import DIRECTOR, NAVER, Pool

OPERATOR = Actor(person=PersonId("p-operator"), role=PortalRole.PROVIDER_OPERATOR, provider=ProviderName("naver"))
DAYS = 20


class Leasing:
    """32 GPUs of one provider, nobody's yet."""

    def __init__(self, file: Path) -> None:
        self.pool = Pool.new(file)
        self.service = LeaseService(store=self.pool.store, clock=self.pool.clock, audit=self.pool.audit)

    @property
    def last_day(self) -> date:
        return self.pool.today + timedelta(days=DAYS)

    def asks(self, gpus: int) -> Lease:
        return self.service.ask(self.pool.id, OPERATOR, NAVER, gpus, self.pool.today, self.last_day, "Own models.", ())

    def approves(self, lease: Lease) -> Lease:
        return self.service.approve(self.pool.id, DIRECTOR, lease.id)

    def gets(self, gpus: int) -> Lease:
        return self.approves(self.asks(gpus))

    @property
    def free(self) -> int:
        """Today, once the calendar is what its nouns say."""
        assert self.pool.faults() == []
        return self.pool.service.room(NAVER, self.pool.today, self.pool.today)


@pytest.fixture
def leasing(tmp_path: Path) -> Iterator[Leasing]:
    found = Leasing(tmp_path / "pool.db")
    yield found
    found.pool.store.close()


def test_what_is_leased_is_not_free_for_another_lease(leasing: Leasing) -> None:
    leasing.gets(24)
    assert leasing.free == 8
    with pytest.raises(Refused, match="has 8 GPUs free"):
        leasing.asks(16)
    leasing.gets(8)
    assert leasing.free == 0


def test_of_two_requests_for_the_same_gpus_the_second_is_refused_when_it_is_decided(leasing: Leasing) -> None:
    first, second = leasing.asks(24), leasing.asks(24)
    assert leasing.free == 32, "nothing is held by asking"
    leasing.approves(first)
    with pytest.raises(Refused, match="has 8 GPUs free"):
        leasing.approves(second)
    assert leasing.free == 8


def test_days_for_cleaning_count_when_a_request_is_decided(leasing: Leasing) -> None:
    """Between the request and its approval the day after its end was promised."""
    lease = leasing.asks(32)
    next_day = leasing.last_day + timedelta(days=1)
    leasing.pool.service.hold(
        leasing.pool.id, DIRECTOR, HoldKind.RESERVATION, NAVER, 8, next_day, next_day, "The next call."
    )
    with pytest.raises(Refused, match="days for cleaning"):
        leasing.approves(lease)
    assert leasing.free == 32


def test_a_lease_is_approved_once_also_where_there_is_room_for_it_twice(leasing: Leasing) -> None:
    lease = leasing.gets(8)
    with pytest.raises(Conflict):
        leasing.approves(lease)
    assert leasing.free == 24


def test_a_lease_that_is_given_back_at_once_is_free_at_once(leasing: Leasing) -> None:
    lease = leasing.gets(8)
    ended = leasing.service.end(leasing.pool.id, OPERATOR, lease.id, None, "Done.")
    assert (ended.state, leasing.free) == ("ended", 32)


def test_a_lease_that_ends_earlier_is_free_from_the_day_after(leasing: Leasing) -> None:
    lease, day = leasing.gets(8), leasing.pool.today + timedelta(days=7)
    leasing.service.end(leasing.pool.id, OPERATOR, lease.id, day, "Done then.")
    room = leasing.pool.service.room
    assert (room(NAVER, day, day), room(NAVER, day + timedelta(days=1), leasing.last_day)) == (24, 32)
    assert leasing.free == 24


def test_on_the_day_after_its_last_it_is_over_and_holds_nothing(leasing: Leasing) -> None:
    lease = leasing.gets(8)
    leasing.pool.until(lease.ends)
    assert (leasing.service.tick(), leasing.free) == (0, 24)
    leasing.pool.until(lease.ends + timedelta(days=1))
    assert (leasing.service.tick(), leasing.free) == (1, 32)
    assert leasing.pool.register.leases.get(lease.id).state == "ended"
    assert all(one.released for one in leasing.pool.register.holds.all())
    assert leasing.service.tick() == 0
