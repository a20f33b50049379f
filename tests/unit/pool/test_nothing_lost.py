"""Whatever the order of awards, leases, idle steps, reported use, corrections and crashes: no pool is over-committed,
and no Won is lost or counted twice.

To what `AnyOrder` does the machine adds sites that report runs and days of use (late, twice, corrected), the provider's
leases, the ladder of idle grants, and turns of the portal's server. Turns and reports are cut off between any two
writes to the database. What is booked is compared with a reckoning of its own, from the runs alone.

`GPUAAS_SOAK=2000` makes so many examples instead of a few.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule
from sqlalchemy import event as sql

from slurm_gpuaas.domain.calendar import korean_day
from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.names import (
    AccountName,
    ClusterName,
    PartitionName,
    PersonId,
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
from slurm_gpuaas.portal.pool import PoolServer, ReportedUse
from tests.unit.metering.books import pool_rate
from tests.unit.pool.ladder import QUICK, Ladder, grant_day
from tests.unit.pool.scene import DIRECTOR, NAVER, NHN, OF, OFFICER
from tests.unit.pool.test_never_overcommitted import AnyOrder, Killed

WON: dict[str, int] = {"h200": 4_001, "b200": 6_007}
"""An hour of a GPU; no whole number of Won a GPU-second."""
SOAK = int(os.environ.get("GPUAAS_SOAK", "0"))
KILL = st.integers(0, 30)


def operator(cluster: str) -> Actor:
    return Actor(
        person=PersonId(f"p-operator{cluster}"), role=PortalRole.PROVIDER_OPERATOR, provider=ProviderName(cluster)
    )


class NothingLost(AnyOrder):
    def __init__(self) -> None:
        super().__init__()
        self.runs: dict[tuple[str, int], UsageRecord] = {}
        """What each site's Slurm knows, by cluster and job: the truth."""
        self.sent: list[tuple[ClusterName, int, UsageChange]] = []
        self.number = 0

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
        for model, won in WON.items():
            rate = pool_rate(name=f"{model}-2027", model=model, won_per_gpu_hour=won, burst_discount=50)
            self.server.keeper.add_rate(rate)
        self.ladder.service.put_rules(self.pool.id, OFFICER, IdleRules.model_validate(QUICK), "As decided.")

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

    # -- What sites report

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
    )
    def a_run_is_reported(
        self, which: int, job: int, back: int, hours: int, burst: bool, state: str, kill: int
    ) -> None:
        """A run as Slurm has it; of a job that is known, a correction of its length."""
        grant = self.a_grant(which)
        if grant is None:
            return
        cluster = self.register.shares.get(grant.share).cluster
        started = datetime.combine(grant.starts, datetime.min.time(), UTC) + timedelta(days=-back, seconds=17 * job)
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
        lease = self.give(
            lambda _, id: self.leases_of.ask(id, actor, share, gpus, starts, ends, "Own models.", ()), kill
        )
        if lease is not None:
            self.give(lambda _, id: self.leases_of.approve(id, DIRECTOR, lease.id), kill)

    @rule(which=st.integers(0, 9), own=st.booleans(), days=st.integers(-1, 30), kill=st.integers(0, 9))
    def a_lease_is_ended(self, which: int, own: bool, days: int, kill: int) -> None:
        leases = self.register.leases.all()
        if leases:
            lease = leases[which % len(leases)]
            actor, last_day = operator(lease.provider) if own else OFFICER, self.pool.today + timedelta(days=days)
            self.give(lambda _, id: self.leases_of.end(id, actor, lease.id, last_day, "Back."), kill)

    # -- What must hold

    def books_are_right(self) -> None:
        """After a turn: GPU-seconds and Won in the ledger are those of the runs, reckoned here anew."""
        entries = list(self.pool.store.ledger.entries())
        assert sum(one.amounts.gpu_seconds for one in entries) == sum(one.gpu_seconds for one in self.runs.values())
        wanted = self.wanted_won()
        assert sum(one.amounts.list_won for one in entries) == sum(one for one, _ in wanted)
        assert sum(one.amounts.won for one in entries) == sum(one for _, one in wanted)

    def wanted_won(self) -> list[tuple[int, int]]:
        """At the list price and to be paid, rounded down once for each grant, month of use and class."""
        grants = {one.project: one for one in self.register.grants.all()}
        seconds: dict[tuple[str, int, int, bool], int] = defaultdict(int)
        for run in self.runs.values():
            grant = grants[run.account]
            if run.state == "NODE_FAIL" or korean_day(run.started) < grant.starts:
                continue
            moment, end = run.started, run.started + timedelta(seconds=run.gpu_seconds // run.gpus)
            while moment < end:
                there = moment.astimezone(KST)
                first = datetime(there.year + there.month // 12, there.month % 12 + 1, 1, tzinfo=KST)
                until = min(first.astimezone(UTC), end)
                key = run.account, there.year, there.month, run.qos.startswith("burst")
                seconds[key] += run.gpus * int((until - moment).total_seconds())
                moment = until
        found = []
        for (account, _, _, burst), used in seconds.items():
            grant = grants[account]
            price = Fraction(WON[self.register.shares.get(grant.share).model], 3600) / (2 if burst else 1)
            found.append((int(used * price), int(used * price * Fraction(grant.price_percent) / 100)))
        return found

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
        for lease in self.register.leases.all(state="approved"):
            hold = self.register.holds.get(lease.hold)
            assert (hold.gpus, hold.share, hold.ends, hold.released) == (lease.gpus, lease.share, lease.ends, False)


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
            machine.a_run_is_reported(0, 1, 1, 30 * (kill + 1), False, "COMPLETED", kill % 5)
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
