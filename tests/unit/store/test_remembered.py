"""What is remembered of the pool's store: never staler than the last write of this process, nor for longer than a turn
than that of another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from slurm_gpuaas.domain.accounts import Office, Person, PersonState, RoleSource
from slurm_gpuaas.domain.names import PersonId
from slurm_gpuaas.domain.people import PortalRole
from slurm_gpuaas.store.pool import PoolStore

NOW = datetime(2026, 11, 28, 9, tzinfo=UTC)
PEOPLE = ("person",)


@pytest.fixture
def file(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/pool.db"


@pytest.fixture
def store(file: str) -> PoolStore:
    return PoolStore.open(file)


def somebody(number: int) -> Person:
    return Person(
        id=PersonId(f"p-{number:016x}"),
        name=f"Kim {number}",
        email=f"kim{number}@example.org",
        office=Office(role=PortalRole.AUDITOR),
        state=PersonState.ACTIVE,
        role_from=RoleSource.PORTAL,
        created_at=NOW,
    )


class Counted:
    """Makes 1, 2, 3, ..."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self) -> int:
        self.made += 1
        return self.made


def test_it_is_made_again_after_a_write_to_its_tables_only(store: PoolStore) -> None:
    count = Counted()
    assert [store.remembered(PEOPLE, "count", count) for _ in range(3)] == [1, 1, 1]
    store.people.saw({})
    store.register.outbox.unsent()
    assert store.remembered(PEOPLE, "count", count) == 1
    store.people.add(somebody(1))
    assert [store.remembered(PEOPLE, "count", count) for _ in range(2)] == [2, 2]


def test_it_holds_for_the_minute_for_which_it_was_made(store: PoolStore) -> None:
    count = Counted()
    assert [store.remembered(PEOPLE, "count", count, as_of=minute) for minute in (1, 1, 2, 2)] == [1, 1, 2, 2]


def test_what_is_not_there_is_not_kept(store: PoolStore) -> None:
    assert store.people.session("no such digest") is None
    assert store.people.session("no such digest", at_hand=True) is None
    assert not store._sessions._remembered


def test_of_many_only_those_not_known_are_made(store: PoolStore) -> None:
    asked: list[Sequence[int]] = []

    def squares(keys: Sequence[int]) -> Mapping[int, int]:
        asked.append(keys)
        return {key: key * key for key in keys}

    assert store.remembered_each(PEOPLE, "squares", (1, 2), squares) == {1: 1, 2: 4}
    assert store.remembered_each(PEOPLE, "squares", (2, 3), squares) == {2: 4, 3: 9}
    assert asked == [[1, 2], [3]]
    store.people.add(somebody(1))
    store.remembered_each(PEOPLE, "squares", (2,), squares)
    assert asked[2:] == [[2]]


def test_who_is_added_by_another_process_is_seen_by_everybody_after_the_next_turn(file: str, store: PoolStore) -> None:
    store.people.add(somebody(1))
    assert len(store.people.all_now()) == len(store.people.all()) == 1
    assert store.people.names([somebody(2).id]) == {}
    other = PoolStore.open(file)
    other.people.add(somebody(2))
    other.close()
    assert len(store.people.all()) == 1, "nobody has looked yet"
    assert len(store.people.all_now()) == 2
    assert len(store.people.all()) == 2
    assert store.people.names([somebody(2).id]) == {somebody(2).id: "Kim 2"}


def test_a_turn_that_finds_nothing_new_makes_nothing_be_read_again(store: PoolStore) -> None:
    store.people.add(somebody(1))
    store.people.all_now()
    count = Counted()
    store.remembered(PEOPLE, "count", count)
    store.people.all_now()
    assert store.remembered(PEOPLE, "count", count) == 1
