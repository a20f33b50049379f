"""Whatever arrives, in whichever order, however often, and wherever it dies: booked is what was used.

A history delivers versions of runs, books, closes months, changes prices and is killed between any two statements
to the database. What should be booked is worked out here from the runs alone, by other means than the code under test.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from slurm_gpuaas.domain.ledger import By, Entry, EntryKind, Payment, Sums, Verdict, WonRequest
from slurm_gpuaas.domain.months import Month
from slurm_gpuaas.domain.policy import KST
from slurm_gpuaas.domain.usage import RunKey, UsageChange, UsageRecord, key_of
from slurm_gpuaas.metering import bookkeeping
from slurm_gpuaas.metering.bookkeeping import Bookkeeper
from slurm_gpuaas.metering.rules import gpu_seconds_in
from slurm_gpuaas.metering.statements import Statement
from slurm_gpuaas.store.pool import PoolStore
from tests.unit.metering.books import ASKER, NAVER, OTHER, SNU, Books, kst, pool_rate, run, terms

CHEAPER_FROM = date(2026, 11, 15)
RATES = (pool_rate(), pool_rate(name="h200-late", won_per_gpu_hour=2_999, starts=CHEAPER_FROM))
MONTHS = [Month(2026, 9)]
while MONTHS[-1] < Month(2027, 6):
    MONTHS.append(MONTHS[-1].following)
RUNS = (
    run(1, kst(2026, 9, 30, 23, 59, 50), 0, running=True),
    run(1, kst(2026, 10, 2), 0, running=True, gpus=13, burst=True),
    run(2, kst(2026, 10, 31, 12), 0, running=True, gpus=1, model=None),
    run(3, kst(2026, 11, 14, 23, 59, 59), 0, running=True, account="speech"),
    run(4, kst(2026, 11, 15), 0, running=True, gpus=3),
    run(5, kst(2026, 10, 30), 0, running=True, gpus=7, account="foreign"),
)
"""A requeued job, borders of months and rates, an account without a grant."""
STATES = ("RUNNING", "COMPLETED", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "REQUEUED", "VANISHED")


class Crash(Exception):
    """The process dies here."""


class Expected(NamedTuple):
    account: str
    month: Month
    burst: bool
    free: bool
    dear: bool
    percent: Decimal


class Ledger:
    """The accounts, and all that was told to them."""

    def __init__(self, folder: Path) -> None:
        self.books = Books.new(folder, kst(2026, 9, 20))
        self.versions: list[UsageChange] = []
        self.delivered: dict[RunKey, UsageChange] = {}
        self.percent = Decimal(50)
        self.entries: list[Entry] = []
        self.issued: dict[str, Statement] = {}
        self.commands = self.hand_booked = 0

        for rate in RATES:
            self.books.keeper.add_rate(rate)
        self.books.keeper.set_terms(terms("vision"))
        self.books.keeper.set_terms(terms("speech"))

    # -- What is done, and where it dies

    def report(self, record: UsageRecord, seconds: int, state: str, late: bool, dies: int | None) -> None:
        """A run is begun, longer or shorter than was said, ended, or ended otherwise."""
        ended = None if state == "RUNNING" else record.started + timedelta(seconds=seconds)
        changed = replace(record, ended=ended, gpu_seconds=record.gpus * seconds, state=state)
        self.versions.append(UsageChange(number=len(self.versions), record=changed))
        if not late:
            self.deliver(self.versions[-1:], dies)

    def deliver_late(self, chosen: list[int], dies: int | None) -> None:
        """Versions that did not arrive yet, old ones after new ones, and again."""
        self.deliver([self.versions[number % len(self.versions)] for number in chosen if self.versions], dies)

    def deliver(self, batch: list[UsageChange], dies: int | None) -> None:
        if self.do(lambda keeper: keeper.take(batch), dies):
            for one in batch:
                known = self.delivered.get(key_of(one.record))
                if known is None or known.number < one.number:
                    self.delivered[key_of(one.record)] = one

    def book(self, everything: bool, dies: int | None) -> None:
        if self.do(lambda keeper: keeper.book_everything() if everything else keeper.book(), dies):
            self.is_booked()
            written = len(self.books.pool.ledger.entries())
            assert self.books.keeper.book_everything() == 0, "a second pass found something to book"
            assert len(self.books.pool.ledger.entries()) == written

    def a_month_ends(self, dies: int | None) -> None:
        self.books.keeper.book()
        store, clock = self.books.pool.ledger, self.books.clock
        closed = store.closed_through()
        due = closed.following if closed else store.first_month()
        if due is None or due == MONTHS[-1]:
            return
        clock.at = max(clock.at, due.window.end)
        done = self.do(lambda keeper: keeper.close(due), dies)
        heads = self.books.pool.ledger.statements(month=due)
        if done:
            self.issued |= {head.number: self.books.keeper.statement(head.number) for head in heads}
        assert done == (self.books.pool.ledger.closed_through() == due)
        assert done or not heads

    def the_discount_changes(self, percent: Decimal, dies: int | None) -> None:
        if self.do(lambda keeper: keeper.set_terms(terms(price_percent=percent)), dies):
            self.percent = percent

    def a_credit(self, won: int, dies: int | None, again: bool) -> None:
        self.commands += 1
        asked = WonRequest.model_validate(
            {
                "command": f"credit-{self.commands:06}",
                "kind": "credit",
                "organisation": SNU,
                "provider": NAVER,
                "won": won,
                "reason": "requeued by health",
            }
        )

        def both(keeper: Bookkeeper) -> None:
            keeper.ask(asked, ASKER)
            keeper.decide(asked.command, Verdict.APPROVED, OTHER)

        if not self.do(both, dies):
            both(self.books.keeper)  # whoever asked does it again, knowing nothing
        if again:
            both(self.books.keeper)
        self.hand_booked += won

    def a_payment(self, won: int, dies: int | None) -> None:
        self.commands += 1
        payment = Payment.model_validate(
            {"command": f"payment-{self.commands:06}", "organisation": SNU, "provider": NAVER, "won": won}
        )
        if not self.do(lambda keeper: keeper.pay(payment, ASKER), dies):
            self.books.keeper.pay(payment, ASKER)
        self.books.keeper.pay(payment, ASKER)
        self.hand_booked -= won

    def do(self, action: Callable[[Bookkeeper], object], dies: int | None) -> bool:
        """Whether it came to its end; otherwise the process died and another one opened the store."""
        if dies is None:
            action(self.books.keeper)
            return True
        try:
            with dying(self.books.pool, dies):
                action(self.books.keeper)
        except Crash:
            self.books.pool.close()
            pool = PoolStore.open(f"sqlite:///{self.books.file}")
            self.books = replace(self.books, pool=pool, keeper=Bookkeeper(pool.ledger, self.books.clock))
            return False
        return True

    # -- What must hold

    def entries_are_only_added(self) -> None:
        entries = list(self.books.pool.ledger.entries())
        assert entries[: len(self.entries)] == self.entries
        closed = self.books.pool.ledger.closed_through()
        for entry in entries[len(self.entries) :]:
            if entry.kind is EntryKind.CORRECTION:
                assert entry.used is not None
                assert closed is not None
                assert entry.used.month <= closed
                assert entry.refers == str(entry.used.month)
        self.entries = entries

    def issued_statements_never_change(self) -> None:
        for number, statement in self.issued.items():
            assert self.books.keeper.statement(number) == statement

    def what_is_owed_is_what_was_booked(self) -> None:
        """Over all statements of a pair, and what stands on none yet, no Won is missing and none is there twice."""
        heads = self.books.pool.ledger.statements(organisation=SNU)
        closed = self.books.pool.ledger.closed_through()
        mine = [entry for entry in self.entries if entry.organisation == SNU]
        issued = [entry for entry in mine if closed and entry.month <= closed]
        assert sum(head.supply - head.paid for head in heads) == sum(entry.amounts.won for entry in issued)
        if heads:
            assert heads[-1].due == sum(head.supply + head.vat - head.paid for head in heads)
        by_hand = sum(entry.amounts.won for entry in mine if entry.used is None)
        assert by_hand == self.hand_booked

    def sums_are_those_of_the_entries(self) -> None:
        wanted: dict[tuple[str, str, str], Sums] = defaultdict(Sums)
        for entry in self.entries:
            seconds, preempted, list_won, won = entry.amounts
            faults = seconds if entry.used and entry.used.fault else 0
            key = (str(entry.month), str(entry.kind), str(entry.used.month if entry.used else ""))
            wanted[key] = wanted[key].plus(Sums(seconds, preempted, faults, list_won, won))
        assert self.books.pool.ledger.sums.by(By.MONTH, By.KIND, By.USED_IN, without=()) == wanted

    def is_booked(self) -> None:
        """GPU-seconds are those of the runs, and Won their price, rounded down once for each key."""
        seconds: dict[Expected, int] = defaultdict(int)
        preempted: dict[Expected, int] = defaultdict(int)
        for run_ in self.delivered.values():
            for month in MONTHS:
                key = self.expected(run_.record, month)
                used = gpu_seconds_in(run_.record, month.window)
                seconds[key] += used
                preempted[key] += used if run_.record.state == "PREEMPTED" else 0
        booked: dict[Expected, tuple[int, int, int]] = defaultdict(lambda: (0, 0, 0))
        for entry in self.books.pool.ledger.entries():
            if used_ := entry.used:
                burst, dear = used_.service == "burst", used_.rate == "h200-2026"
                key = Expected(used_.account, used_.month, burst, used_.fault, dear, used_.percent)
                new = (entry.amounts.gpu_seconds, entry.amounts.preempted, entry.amounts.won)
                booked[key] = tuple(a + b for a, b in zip(booked[key], new, strict=True))  # type: ignore[assignment]
        wanted = {key: (used, preempted[key], won_of(key, used)) for key, used in seconds.items() if used}
        assert {key: sums for key, sums in booked.items() if any(sums)} == wanted

    def expected(self, record: UsageRecord, month: Month) -> Expected:
        free = record.state in ("NODE_FAIL", "BOOT_FAIL")
        ours = record.account != "foreign" and not free
        percent = self.percent if record.account == "vision" else Decimal(50)
        return Expected(
            account=record.account,
            month=month,
            burst=record.qos.startswith("burst-"),
            free=free,
            dear=ours and record.started < datetime(2026, 11, 15, tzinfo=KST),
            percent=percent if ours else Decimal(100),
        )


def won_of(key: Expected, gpu_seconds: int) -> int:
    if key.free or key.account == "foreign":
        return 0
    an_hour = Fraction(3_601 if key.dear else 2_999)
    burst = Fraction("0.6667") if key.burst else 1
    return int(gpu_seconds * an_hour * burst * Fraction(key.percent) / 100 / 3600)


@contextmanager
def dying(pool: PoolStore, statements: int) -> Iterator[None]:
    """Every statement to the database and every commit after so many of them raises."""
    left = statements

    def tick(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Crash

    engine = pool._engine
    for name in ("before_cursor_execute", "commit"):
        event.listen(engine, name, tick)
    try:
        yield
    finally:
        for name in ("before_cursor_execute", "commit"):
            event.remove(engine, name, tick)


@pytest.fixture(autouse=True)
def one_place_a_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a pass can die between its transactions."""
    monkeypatch.setattr(bookkeeping, "_AT_ONCE", 1)


def dies_after(most: int) -> st.SearchStrategy[int | None]:
    """Every fourth time after so many statements at most."""
    return st.one_of(st.none(), st.none(), st.none(), st.integers(0, most))


REPORT = st.tuples(
    st.just(Ledger.report),
    st.sampled_from(RUNS),
    st.integers(0, 4_000_000),
    st.sampled_from(STATES),
    st.booleans(),
    dies_after(20),
)
BOOK = st.tuples(st.just(Ledger.book), st.booleans(), dies_after(60))
LATE = st.tuples(st.just(Ledger.deliver_late), st.lists(st.integers(0, 100), min_size=1, max_size=6), dies_after(30))
CLOSE = st.tuples(st.just(Ledger.a_month_ends), dies_after(80))
DISCOUNT = st.tuples(
    st.just(Ledger.the_discount_changes),
    st.sampled_from([Decimal(0), Decimal("33.33"), Decimal(50)]),
    dies_after(20),
)
CREDIT = st.tuples(st.just(Ledger.a_credit), st.integers(-5_000, -1), dies_after(20), st.booleans())
PAYMENT = st.tuples(st.just(Ledger.a_payment), st.integers(1, 50_000), dies_after(20))
OFTEN = [REPORT, REPORT, REPORT, REPORT, LATE, BOOK, BOOK, CLOSE, CLOSE, DISCOUNT, CREDIT, PAYMENT]
STEPS: st.SearchStrategy[tuple[Any, ...]] = st.sampled_from(OFTEN).flatmap(lambda step: step)


@pytest.mark.usefixtures("one_place_a_transaction")
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(st.lists(REPORT, min_size=1, max_size=4), st.lists(STEPS, min_size=5, max_size=20))
def test_booked_is_what_was_used_whatever_happens(first: list[tuple[Any, ...]], steps: list[tuple[Any, ...]]) -> None:
    with TemporaryDirectory(prefix="ledger-") as folder:
        ledger = Ledger(Path(folder))
        for action, *told in (*first, *steps):
            action(ledger, *told)
            ledger.entries_are_only_added()
            ledger.issued_statements_never_change()
            ledger.what_is_owed_is_what_was_booked()
            ledger.sums_are_those_of_the_entries()
        ledger.books.keeper.book()
        ledger.is_booked()
        ledger.books.pool.close()
