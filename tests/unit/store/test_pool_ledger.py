"""The pool's accounts in the database: what was kept comes back, and what is append-only cannot be changed."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from alembic import command
from sqlalchemy import inspect, text
from sqlalchemy.exc import DatabaseError

from slurm_gpuaas.domain.errors import NotFound
from slurm_gpuaas.domain.ledger import By, Verdict
from slurm_gpuaas.domain.months import Month
from slurm_gpuaas.domain.usage import key_of
from slurm_gpuaas.metering.bookkeeping import Bookkeeper
from slurm_gpuaas.store.engine import POOL, migrations, open_engine, upgrade
from slurm_gpuaas.store.pool import PoolStore
from tests.fakes import FakeClock
from tests.unit.metering.books import kst, pool_rate, reported, run, terms

OCTOBER = Month(2026, 10)
APPEND_ONLY = {
    "ledger_entry": "won",
    "statement": "supply",
    "closed_month": "month",
    "pool_rate": "basis",
    "grant_terms": "version",
}


def a_closed_month(url: str) -> PoolStore:
    pool = PoolStore.open(url)
    keeper = Bookkeeper(pool.ledger, FakeClock(kst(2026, 11, 5)))
    keeper.add_rate(pool_rate())
    keeper.set_terms(terms())
    keeper.take([reported(1, run(1, kst(2026, 10, 31, 23), 7200))])
    keeper.close(OCTOBER)
    return pool


def test_what_is_kept_comes_back(url: str) -> None:
    pool = a_closed_month(url)
    first, kept = run(1, kst(2026, 10, 31, 23), 7200), pool.ledger
    assert kept.runs([key_of(first)]) == {key_of(first): reported(1, first)}
    assert kept.terms() == [terms()]
    assert kept.rates() == [pool_rate()]
    assert kept.closed_through() == OCTOBER
    (head,) = kept.statements()
    assert kept.statement(head.number) == head
    with pytest.raises(NotFound, match="2026-10-kakao-0001"):
        kept.statement("2026-10-kakao-0001")
    pool.close()


def test_a_rate_for_a_share_or_a_programme_comes_back(url: str) -> None:
    pool = PoolStore.open(url)
    rates = [
        pool_rate(name="a", share="gov", burst_discount=Decimal("12.34")),
        pool_rate(name="b", programme="call-2026", starts=date(2026, 7, 1)),
    ]
    for rate in rates:
        pool.ledger.add_rate(rate)
    assert pool.ledger.rates() == rates
    pool.close()


def test_sums_of_entries_are_made_of_those_that_were_there_before(url: str) -> None:
    pool = a_closed_month(url)
    keeper = Bookkeeper(pool.ledger, FakeClock(kst(2026, 11, 5)))
    keeper.take([reported(2, run(2, kst(2026, 10, 5), 60, state="NODE_FAIL"))])
    keeper.book()
    before = pool.ledger.sums.by(*By, without=())
    pool.close()
    engine = open_engine(url)
    command.downgrade(migrations(engine, POOL), "pool_0005")
    upgrade(engine, POOL)
    engine.dispose()
    pool = PoolStore.open(url)
    assert pool.ledger.sums.by(*By, without=()) == before
    assert sum(one.faults for one in before.values()) == 480
    pool.close()


def test_what_is_append_only_cannot_be_changed(url: str) -> None:
    a_closed_month(url).close()
    engine = open_engine(url)
    for table, column in APPEND_ONLY.items():
        with engine.connect() as connection:
            assert connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() > 0
        for change in (f"DELETE FROM {table}", f"UPDATE {table} SET {column} = {column}"):
            with pytest.raises(DatabaseError, match=f"{table} is append-only"), engine.begin() as connection:
                connection.execute(text(change))
    engine.dispose()


def test_a_closed_month_takes_no_entry_from_anybody(url: str) -> None:
    pool = a_closed_month(url)
    engine = open_engine(url)
    columns = (
        "at, kind, month, organisation, provider, fault, gpu_seconds, preempted, list_won, won, refers, reason, "
        "asked_by, approved_by"
    )
    values = (
        "'2026-11-06 00:00:00', 'credit', '{}', 'snu', 'naver', false, 0, 0, -1, -1, '', '', 'p-aaaaaa', 'p-bbbbbb'"
    )
    with pytest.raises(DatabaseError, match="the month is closed"), engine.begin() as connection:
        connection.execute(text(f"INSERT INTO ledger_entry ({columns}) VALUES ({values.format('2026-10')})"))
    with engine.begin() as connection:
        connection.execute(text(f"INSERT INTO ledger_entry ({columns}) VALUES ({values.format('2026-11')})"))
    one_person = values.format("2026-11").replace("p-bbbbbb", "p-aaaaaa")
    with pytest.raises(DatabaseError, match="two_people"), engine.begin() as connection:
        connection.execute(text(f"INSERT INTO ledger_entry ({columns}) VALUES ({one_person})"))
    pool.close()
    engine.dispose()


def test_requests_wait_for_a_verdict(url: str) -> None:
    pool = a_closed_month(url)
    assert [pool.ledger.requests(verdict) for verdict in Verdict] == [[], [], []]
    assert pool.ledger.request("nobody-asked") is None
    pool.close()


def test_the_ledger_can_be_taken_back_and_made_again(url: str) -> None:
    engine = open_engine(url)
    upgrade(engine, POOL)
    command.downgrade(migrations(engine, POOL), "pool_0002")
    assert "ledger_entry" not in inspect(engine).get_table_names()
    command.upgrade(migrations(engine, POOL), "head")
    assert "ledger_entry" in inspect(engine).get_table_names()
    engine.dispose()


def test_moments_are_kept_in_utc(url: str) -> None:
    pool = a_closed_month(url)
    assert {entry.at for entry in pool.ledger.entries()} == {datetime(2026, 11, 4, 15, tzinfo=UTC)}
    pool.close()
