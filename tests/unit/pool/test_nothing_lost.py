"""Whatever the order of awards, leases, idle steps, reported use, corrections and crashes: no pool is over-committed,
and no Won is lost or counted twice.

To what `AnyOrder` does the machine adds sites that report runs and days of use (late, twice, corrected), the provider's
leases, the ladder of idle grants, and turns of the portal's server. Turns and reports are cut off between any two
writes to the database. What is booked is compared with a reckoning of its own, from the runs alone.

`GPUAAS_SOAK=2000` makes so many examples instead of a few.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule
from sqlalchemy import event as sql

from slurm_gpuaas.domain.calendar import korean_day
from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.ledger import Entry, EntryKind, StatementHead
from slurm_gpuaas.domain.months import Month
from slurm_gpuaas.domain.names import (
    AccountName,
    ClusterName,
    PartitionName,
    PersonId,
    PoolShareName,
    ProviderName,
    QosName,
    SiteName,
    UserName,
)
from slurm_gpuaas.domain.people import Actor, PortalRole
from slurm_gpuaas.domain.policy import KST
from slurm_gpuaas.domain.pool_grants import PoolGrant, PoolGrantState
from slurm_gpuaas.domain.usage import UsageChange, UsageRecord
from slurm_gpuaas.pool.idle_rules import IdleRules, Rung
from slurm_gpuaas.pool.idle_service import IDLE
from slurm_gpuaas.pool.lease_service import LeaseService
from slurm_gpuaas.pool.work import Program
from slurm_gpuaas.portal.pool import PoolServer, ReportedUse
from tests.unit.metering.books import pool_rate
from tests.unit.pool.ladder import QUICK, Ladder, grant_day
from tests.unit.pool.scene import DIRECTOR, NAVER, NHN, OF, OFFICER
from tests.unit.pool.test_never_overcommitted import SOAK, AnyOrder, Killed

WON: dict[str, int] = {"h200": 4_001, "b200": 6_007}
"""An hour of a GPU; no whole number of Won a GPU-second."""
KILL = st.integers(0, 30)
LEASED = "Own models."
"""Why a provider leases: its holds are told by it from those that nobody asked for."""


def operator(cluster: str) -> Actor:
    return Actor(
        person=PersonId(f"p-operator{cluster}"), role=PortalRole.PROVIDER_OPERATOR, provider=ProviderName(cluster)
    )


class Holder(NamedTuple):
    """A grant or a lease, as the accounts should know it."""

    name: str
    project: str
    share: PoolShareName
    starts: date
    ends: date
    percent: Decimal


class NothingLost(AnyOrder):
    def __init__(self) -> None:
        super().__init__()
        self.runs: dict[tuple[str, int], UsageRecord] = {}
        """What each site's Slurm knows, by cluster and job: the truth."""
        self.sent: list[tuple[ClusterName, int, UsageChange]] = []
        self.number = 0
        self.told: dict[str, datetime] = {}
        """Until when each site said that all of its runs are told."""
        self.issued: dict[str, StatementHead] = {}

    # -- The portal's server and its crashes

    @property
    def server(self) -> PoolServer:
        """As just started: everything is due."""
        return PoolServer(self.pool.store, self.pool.clock)

    @property
    def ladder(self) -> Ladder:
        return Ladder(self.pool)

    @property
    def leases_of(self) -> LeaseService:
        pool = self.pool
        return LeaseService(store=pool.store, clock=pool.clock, audit=pool.audit, failpoint=pool.failpoint)

    @contextmanager
    def dying(self, at: int) -> Iterator[None]:
        """The process ends before the write of that number to the database, 0: never."""
        left = at

        def count(_connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
            nonlocal left
            if statement.lstrip()[:6].upper() in ("INSERT", "UPDATE", "DELETE"):
                left -= 1
                if left == 0:
                    raise Killed(statement[:40])

        engine = self.pool.store._engine
        sql.listen(engine, "before_cursor_execute", count)
        try:
            yield
        except Killed:
            self.restart()
        finally:
            sql.remove(engine, "before_cursor_execute", count)

    @initialize()
    def rates_and_sites_are_there(self) -> None:
        for share in (NAVER, NHN):
            cluster = ClusterName(share.split(".")[0])
            self.pool.store.sites.add(SiteName(cluster), cluster=cluster, provider=ProviderName(cluster))
        self.rated: dict[str, date] = {}
        """First day of each model's rate."""
        self.a_rate_comes("h200", 0)
        self.ladder.service.put_rules(self.pool.id, OFFICER, IdleRules.model_validate(QUICK), "As decided.")

    @rule(model=st.sampled_from(sorted(WON)), kill=st.integers(0, 3))
    def a_rate_comes(self, model: str, kill: int) -> None:
        """Late, for what was used and booked without one; not for months that are closed."""
        if model in self.rated:
            return
        closed = self.pool.store.ledger.closed_through()
        starts = closed.following.first if closed else date(2026, 1, 1)
        rate = pool_rate(
            name=f"{model}-2027", model=model, won_per_gpu_hour=WON[model], burst_discount=50, starts=starts
        )
        for once in (kill, 0):
            with self.dying(once):
                self.server.keeper.add_rate(rate)
        self.rated[model] = starts

    @rule(kill=KILL)
    def server_turns(self, kill: int) -> None:
        """Cut off anywhere, the next turn does the rest, and one more finds nothing to do."""
        with self.dying(kill):
            self.server.turn()
        self.server.turn()
        before = self.everything()
        self.server.turn()
        assert self.everything() == before
        self.books_are_right()
        assert not [one for one in self.register.leases.all(state="approved") if one.is_over(self.pool.today)]

    @rule(kill=KILL)
    def accounts_book_by_themselves(self, kill: int) -> None:
        """Also use of grants whose terms the portal has not come to put in force yet: these change its price then."""
        with self.dying(kill):
            self.server.keeper.book()

    @rule(which=st.integers(0, 1), behind=st.integers(0, 40), kill=st.integers(0, 2))
    def a_site_tells_how_far_it_has_come(self, which: int, behind: int, kill: int) -> None:
        share, now = (NAVER, NHN)[which], self.pool.clock.now()
        cluster, through = share.split(".")[0], now - timedelta(hours=behind)
        said = {"sent_at": now.isoformat(), "cluster": cluster, "version": "1", "slurm_version": "", "revision": 1}
        said |= {"used_through": through.isoformat(), "shares": [], "incidents": [], "findings": []}
        for once in (kill, 0):
            with self.dying(once):
                self.pool.store.sites.put_report(SiteName(cluster), said, sent_at=now, received_at=now)
        newest = self.pool.store.sites.report(SiteName(cluster))
        assert newest is not None
        self.told[cluster] = datetime.fromisoformat(newest.report["used_through"])

    # -- What sites report

    @property
    def holders(self) -> list[Holder]:
        """Grants and leases that have had GPUs, or will."""
        leases = [one for one in self.register.leases.all() if one.hold is not None]
        return [
            *(
                Holder(one.id, one.project, one.share, one.starts, max(one.starts, one.ends), one.price_percent)
                for one in self.register.grants.all()
            ),
            *(Holder(one.hold, one.project, one.share, one.starts, one.ends, Decimal(0)) for one in leases),
        ]

    def a_grant(self, which: int) -> PoolGrant | None:
        grants = self.register.grants.all()
        return grants[-1 - which % len(grants)] if grants else None

    @rule(
        which=st.integers(0, 9),
        job=st.integers(1, 4),
        back=st.integers(-40, 3),
        hours=st.integers(1, 900),
        burst=st.booleans(),
        state=st.sampled_from(["COMPLETED", "NODE_FAIL", "PREEMPTED"]),
        kill=st.integers(0, 8),
        hour=st.integers(0, 23),
    )
    def a_run_is_reported(
        self, which: int, job: int, back: int, hours: int, burst: bool, state: str, kill: int, hour: int = 0
    ) -> None:
        """A run as Slurm has it; of a job that is known, a correction of its length."""
        holders = self.holders
        if not holders:
            return
        grant = holders[-1 - which % len(holders)]
        cluster = self.register.shares.get(grant.share).cluster
        started = datetime.combine(grant.starts, datetime.min.time(), UTC) + timedelta(
            days=-back, hours=hour, seconds=17 * job
        )
        run = UsageRecord(
            cluster=cluster,
            job_id=JobId(job),
            user=UserName("kim"),
            account=AccountName(grant.project),
            qos=QosName(f"{'burst' if burst else 'guaranteed'}-{grant.project}"),
            partition=PartitionName("p"),
            model=self.register.shares.get(grant.share).model,
            gpus=job,
            started=started,
            ended=started + timedelta(hours=hours),
            gpu_seconds=job * hours * 3600,
            state=state,
        )
        if (known := self.runs.get((cluster, job))) is not None:
            length = timedelta(hours=hours)
            run = replace(known, ended=known.started + length, gpu_seconds=known.gpus * hours * 3600, state=state)
        self.number += 1
        self.runs[cluster, job] = run
        site = self.pool.store.sites.find(SiteName(cluster))
        assert site is not None
        push = (cluster, site.acknowledged, UsageChange(number=self.number, record=run))
        self.sent.append(push)
        self.push(*push, kill=kill)
        self.push(*push)

    def push(self, cluster: ClusterName, after: int, change: UsageChange, *, kill: int = 0) -> None:
        with self.dying(kill):
            sites, sink = self.pool.store.sites, ReportedUse(self.server.keeper)
            sites.take_usage(SiteName(cluster), after=after, changes=[change], sink=sink)

    @rule(which=st.integers(0, 99))
    def an_old_report_comes_again(self, which: int) -> None:
        if self.sent:
            self.push(*self.sent[which % len(self.sent)])

    @rule(
        which=st.integers(0, 9),
        uses=st.lists(st.sampled_from([0.0, 0.0, 0.02, 0.5, 1.0]), min_size=1, max_size=6),
        number=st.integers(1, 3),
        kill=st.integers(0, 2),
    )
    def days_of_use_are_reported(self, which: int, uses: list[float], number: int, kill: int) -> None:
        """Of the last days, each the first time, again or corrected."""
        grant = self.a_grant(which)
        if grant is None:
            return
        yesterday = self.pool.today - timedelta(days=1)
        days = [grant_day(grant, yesterday - timedelta(days=back), use, number=number) for back, use in enumerate(uses)]
        cluster = self.register.shares.get(grant.share).cluster
        for once in (kill, 0):
            with self.dying(once):
                self.register.days.take(cluster, days, at=self.pool.clock.now())

    @rule(which=st.integers(0, 9), days=st.integers(1, 8), kill=st.integers(0, 12))
    def a_grant_idles(self, which: int, days: int, kill: int) -> None:
        """Day after day, and each morning the server looks."""
        grant = self.a_grant(which)
        for _ in range(days if grant is not None else 0):
            assert grant is not None
            yesterday = self.pool.today
            cluster = self.register.shares.get(grant.share).cluster
            self.register.days.take(cluster, [grant_day(grant, yesterday, 0.0)], at=self.pool.clock.now())
            self.pool.clock.forward(timedelta(days=1))
            with self.dying(kill):
                self.server.idle.morning()
            self.server.idle.morning()
            assert self.server.idle.morning() == 0

    # -- Exemptions, appeals, leases

    @rule(which=st.integers(0, 9), days=st.integers(-1, 9), kill=st.integers(0, 5))
    def is_exempted(self, which: int, days: int, kill: int) -> None:
        if (grant := self.a_grant(which)) is not None:
            ends = self.pool.today + timedelta(days=days)
            self.give(lambda _, id: self.ladder.service.exempt(id, DIRECTOR, grant.id, ends, "Known."), kill)

    @rule(which=st.integers(0, 9), allow=st.booleans(), decide=st.booleans(), kill=st.integers(0, 5))
    def is_appealed(self, which: int, allow: bool, decide: bool, kill: int) -> None:
        if (grant := self.a_grant(which)) is None:
            return
        actor = OF[grant.organisation]
        self.give(lambda _, id: self.ladder.service.appeal(id, actor, grant.id, "We need it."), kill)
        open_ones = self.register.appeals.all(state="open")
        if decide and open_ones:
            number = open_ones[0].id
            self.give(lambda _, id: self.ladder.service.decide_appeal(id, DIRECTOR, number, allow, "So."), kill)

    @rule(
        share=st.sampled_from([NAVER, NHN]),
        gpus=st.sampled_from([8, 16, 24]),
        after=st.integers(0, 20),
        days=st.integers(6, 40),
        kill=st.integers(0, 12),
    )
    def a_provider_leases(self, share: Any, gpus: int, after: int, days: int, kill: int) -> None:
        starts = self.pool.today + timedelta(days=after)
        ends, actor = starts + timedelta(days=days), operator(share.split(".")[0])
        lease = self.give(lambda _, id: self.leases_of.ask(id, actor, share, gpus, starts, ends, LEASED, ()), kill)
        if lease is not None:
            self.give(lambda _, id: self.leases_of.approve(id, DIRECTOR, lease.id), kill)

    @rule(which=st.integers(0, 9), kill=st.integers(0, 12))
    def a_lease_is_approved_again(self, which: int, kill: int) -> None:
        leases = self.register.leases.all()
        if leases:
            lease = leases[which % len(leases)]
            again = self.give(lambda _, id: self.leases_of.approve(id, DIRECTOR, lease.id), kill)
            assert again is None or lease.state == "asked"

    @rule(which=st.integers(0, 9), own=st.booleans(), days=st.integers(-1, 30), kill=st.integers(0, 9))
    def a_lease_is_ended(self, which: int, own: bool, days: int, kill: int) -> None:
        leases = self.register.leases.all()
        if leases:
            lease = leases[which % len(leases)]
            actor, last_day = operator(lease.provider) if own else OFFICER, self.pool.today + timedelta(days=days)
            self.give(lambda _, id: self.leases_of.end(id, actor, lease.id, last_day, "Back."), kill)

    # -- What must hold

    def books_are_right(self) -> None:
        """After a turn: for each grant and lease, GPU-seconds and Won in the ledger are those of its runs, reckoned
        here anew; what stands on issued statements, and what on none yet, is all of it."""
        entries = list(self.pool.store.ledger.entries())
        assert sum(one.amounts.gpu_seconds for one in entries) == sum(one.gpu_seconds for one in self.runs.values())
        booked: dict[tuple[str, str], tuple[int, int, int]] = defaultdict(lambda: (0, 0, 0))
        for entry in entries:
            if entry.grant is not None and entry.used is not None and not entry.used.fault:
                used, _, list_won, won = entry.amounts
                key = entry.grant, str(entry.used.month)
                before = booked[key]
                booked[key] = before[0] + used, before[1] + list_won, before[2] + won
        assert {key: sums for key, sums in booked.items() if any(sums)} == self.wanted()
        self.months_are_closed_once(entries)

    def months_are_closed_once(self, entries: list[Entry]) -> None:
        """In order, by the portal itself, when all sites with grants had told; and a statement never changes."""
        ledger, clock = self.pool.store.ledger, self.pool.clock
        closed, heads = ledger.closed_through(), ledger.statements()
        assert {head.number: head for head in heads}.items() >= self.issued.items()
        fresh = [head for head in heads if head.number not in self.issued]
        self.issued |= {head.number: head for head in fresh}
        audited = self.pool.store.audit.newest(limit=500, action="ledger.close-month")
        months = [one.subject for one in reversed(audited)]
        assert months == sorted(set(months))
        assert {one.actor for one in audited} <= {"gpuaas-portal/closing"}
        assert (max(months) if months else None) == (None if closed is None else str(closed))
        first = min((one.month for one in entries), default=None)
        due = closed.following if closed else first
        issued = [one for one in entries if closed is not None and one.month <= closed]
        assert sum(one.amounts.won for one in issued) == sum(head.supply for head in heads)
        if due is None:
            return
        missing = [
            one
            for one in self.holders
            if one.starts < due.following.first
            and one.ends >= due.first
            and self.told.get(one.share.split(".")[0], due.window.start) < due.window.end
        ]
        if not missing:
            assert clock.now() < due.window.end + timedelta(days=1, hours=9), "nothing stands against closing the month"

    def wanted(self) -> dict[tuple[str, str], tuple[int, int, int]]:
        """By grant or lease and Korean month of use: GPU-seconds, Won at the list price and to be paid, these rounded
        down once for each class."""
        holders = {one.project: one for one in self.holders}
        seconds: dict[tuple[str, int, int, bool, bool], int] = defaultdict(int)
        for run in self.runs.values():
            if run.state == "NODE_FAIL" or korean_day(run.started) < holders[run.account].starts:
                continue
            moment, end = run.started, run.started + timedelta(seconds=run.gpu_seconds // run.gpus)
            while moment < end:
                there = moment.astimezone(KST)
                first = datetime(there.year + there.month // 12, there.month % 12 + 1, 1, tzinfo=KST)
                until = min(first.astimezone(UTC), end)
                rated = korean_day(run.started) >= self.rated.get(str(run.model), date.max)
                key = run.account, there.year, there.month, run.qos.startswith("burst"), rated
                seconds[key] += run.gpus * int((until - moment).total_seconds())
                moment = until
        found: dict[tuple[str, str], tuple[int, int, int]] = defaultdict(lambda: (0, 0, 0))
        for (account, year, month, burst, rated), used in seconds.items():
            one = holders[account]
            won = WON[self.register.shares.get(one.share).model] if rated else 0
            price = Fraction(won, 3600) / (2 if burst else 1)
            there_in = one.name, f"{year}-{month:02}"
            before = found[there_in]
            found[there_in] = (
                before[0] + used,
                before[1] + int(used * price),
                before[2] + int(used * price * Fraction(one.percent) / 100),
            )
        return dict(found)

    @invariant()
    def what_idle_rules_took_is_what_they_announced(self) -> None:
        """Each recall takes once, after three warnings, by measured days alone."""
        for grant in self.register.grants.all():
            steps = sorted(self.register.idle_steps.all(grant=grant.id), key=lambda one: one.day)
            taken = [one for one in steps if one.to == Rung.RECALL]
            events = [one for one in grant.history if one.by == IDLE.name]
            assert len(events) == len(taken), (grant.id, events, steps)
            for place, one in enumerate(steps):
                if one.to == Rung.RECALL:
                    before = [step.to for step in steps[max(0, place - 3) : place]]
                    assert before == [Rung.NOTICE, Rung.WARNING, Rung.FINAL_WARNING]
                    assert one.figures["days"] >= QUICK["window_days"]

    @invariant()
    def a_lease_holds_what_it_says(self) -> None:
        approved = self.register.leases.all(state="approved")
        for lease in approved:
            hold = self.register.holds.get(lease.hold)
            assert (hold.gpus, hold.share, hold.ends, hold.released) == (lease.gpus, lease.share, lease.ends, False)
        held = sorted(one.id for one in self.register.holds.all() if one.reason == LEASED and not one.released)
        assert held == sorted(one.hold for one in approved), "given twice, or kept after its end"


NothingLost.TestCase.settings = settings(
    max_examples=SOAK or 4,
    stateful_step_count=50 if SOAK else 15,
    deadline=None,
    phases=[Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
TestNothingLost = NothingLost.TestCase


def test_a_grant_that_idles_is_recalled_and_its_use_is_paid_for_all_the_same() -> None:
    """The way through the machine that must not be left to chance."""
    machine = NothingLost()
    try:
        machine.rates_and_sites_are_there()
        machine.some_have_applied(gpus=[8, 8], wait=True)
        machine.answers_an_offer(which=0, yes=1, kill=0)
        machine.days_pass(days=1)
        machine.server_turns(kill=3)
        for kill in range(9):
            machine.a_run_is_reported(0, 1, 0, 30 * (kill + 1), False, "COMPLETED", kill % 5)
            machine.server_turns(kill=kill)  # a day after the one before: what was corrected since is booked
            machine.a_grant_idles(which=0, days=1, kill=kill)
            machine.nothing_is_overcommitted()
            machine.what_idle_rules_took_is_what_they_announced()
        (grant,) = machine.register.grants.all()
        machine.server_turns(kill=5)
        assert grant.state in (PoolGrantState.ENDING, PoolGrantState.ENDED)
        assert [one for one in machine.register.idle_steps.all(grant=grant.id) if one.to == Rung.RECALL]
        assert list(machine.pool.store.ledger.entries())
    finally:
        machine.teardown()


@pytest.fixture
def granted() -> Iterator[NothingLost]:
    """Two grants of 8 GPUs, on one share each, accepted and not known to the accounts yet."""
    machine = NothingLost()
    machine.rates_and_sites_are_there()
    machine.some_have_applied(gpus=[8, 8], wait=True)
    for which in (0, 1):
        machine.answers_an_offer(which=which, yes=1, kill=0)
    yield machine
    machine.teardown()


@pytest.mark.parametrize("kill", range(6))
def test_use_that_was_booked_before_its_terms_and_its_rate_is_priced_when_they_come(
    granted: NothingLost, kill: int
) -> None:
    """Also when the process ends while they are put in force: what is to be booked anew is noted with them."""
    nhn = [one.share for one in reversed(granted.holders)].index(NHN)
    granted.a_run_is_reported(nhn, 1, 0, 30, False, "COMPLETED", 0)
    granted.accounts_book_by_themselves(0)
    (entry,) = granted.pool.store.ledger.entries()
    assert (entry.grant, entry.amounts.list_won) == (None, 0)
    with granted.dying(kill):
        granted.server.book()
    granted.server_turns(0)
    (known,) = (one for one in granted.pool.store.ledger.entries() if one.amounts.gpu_seconds > 0 and one.grant)
    assert (known.provider, known.amounts.list_won) == ("nhn", 0)
    granted.a_rate_comes("b200", kill)
    granted.server_turns(0)
    assert sum(one.amounts.list_won for one in granted.pool.store.ledger.entries()) == 30 * WON["b200"]


def test_a_lease_is_free_and_its_gpu_hours_are_in_the_accounts(granted: NothingLost) -> None:
    granted.a_provider_leases(NAVER, 8, 0, 20, 0)
    (lease,) = granted.register.leases.all()
    granted.nothing_is_overcommitted()
    granted.a_run_is_reported(0, 2, 0, 5, False, "COMPLETED", 0)  # the newest holder is the lease
    for kill in range(4):
        granted.server_turns(kill)
    (entry,) = granted.pool.store.ledger.entries()
    assert (entry.grant, entry.organisation, entry.programme) == (lease.hold, "naver-lease", "lease")
    assert (entry.amounts.gpu_seconds, entry.amounts.won) == (2 * 5 * 3600, 0)
    assert entry.amounts.list_won == 2 * 5 * WON["h200"]
    again = granted.give(lambda _, id: granted.leases_of.approve(id, DIRECTOR, lease.id))
    assert again is None, "it would hold its GPUs twice"
    for days in (5, -1):  # shortened, then over at once
        granted.a_lease_is_ended(0, True, days, 0)
        granted.a_lease_holds_what_it_says()
        granted.nothing_is_overcommitted()
    granted.server_turns(0)
    assert granted.pool.store.ledger.terms_versions()[lease.hold][-1][1].grant.ends < lease.ends


def test_a_month_that_is_closed_by_hand_has_use_whose_terms_the_accounts_did_not_know_yet(granted: NothingLost) -> None:
    """`gpuaas-portal close-month` may come before any turn of the server."""
    naver = [one.share for one in reversed(granted.holders)].index(NAVER)
    granted.a_run_is_reported(naver, 1, 0, 30, False, "COMPLETED", 0)
    granted.pool.clock.at = datetime(2027, 2, 1, tzinfo=UTC)
    assert not list(granted.pool.store.ledger.entries())
    granted.server.close_month(Month(2027, 1), Program("gpuaas-portal"))
    (head,) = granted.pool.store.ledger.statements()
    (entry,) = granted.pool.store.ledger.entries()
    assert (str(head.month), entry.month, entry.amounts.gpu_seconds) == ("2027-01", head.month, 30 * 3600)
    assert (head.supply, entry.amounts.list_won) == (entry.amounts.won, 30 * WON["h200"])
    granted.accounts_book_by_themselves(0)
    assert list(granted.pool.store.ledger.entries()) == [entry]


def test_a_month_closes_by_itself_whole_or_not_at_all(granted: NothingLost) -> None:
    granted.a_run_is_reported(0, 1, 0, 30, False, "COMPLETED", 0)
    granted.a_run_is_reported(1, 2, 0, 30, False, "COMPLETED", 0)
    ledger, clock = granted.pool.store.ledger, granted.pool.clock
    clock.at = datetime(2027, 2, 1, 23, 59, tzinfo=UTC)  # a minute before nine on the second, in Korea
    for which in (0, 1):
        granted.a_site_tells_how_far_it_has_come(which, 30, 0)
    since = (date(2027, 1, 31) - granted.holders[-1].starts).days
    granted.a_run_is_reported(0, 3, -since, 1, False, "COMPLETED", 0, 15)  # after midnight in Korea: of February
    granted.server_turns(0)
    assert ledger.closed_through() is None, "not before its hour"
    clock.forward(timedelta(minutes=1))
    granted.a_site_tells_how_far_it_has_come(1, 34, 0)  # an hour before the month's end
    granted.server_turns(0)
    assert ledger.closed_through() is None, "not without the use of a site"
    clock.forward(timedelta(minutes=1))
    granted.a_site_tells_how_far_it_has_come(1, 33, 0)
    kill = 0
    while granted.pool.store.ledger.closed_through() is None:
        kill += 1
        with granted.dying(kill):
            granted.server.turn()
        assert kill < 50
        ledger = granted.pool.store.ledger  # of the process that came after it
        if ledger.closed_through() is None:
            assert not ledger.statements()
            assert not granted.pool.store.audit.newest(limit=1, action="ledger.close-month")
    assert kill > 3, "it could have died in between"
    assert len(ledger.statements()) == 2
    granted.server_turns(0)
    granted.a_run_is_reported(0, 1, 0, 40, False, "COMPLETED", 0)  # corrected, too late
    granted.server_turns(0)
    (late,) = (one for one in granted.pool.store.ledger.entries() if one.kind is EntryKind.CORRECTION)
    assert (str(late.month), late.refers) == ("2027-02", "2027-01")
