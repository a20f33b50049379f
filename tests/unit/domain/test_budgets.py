"""Budgets, row by row: what is awarded, carried over, used and left, what Slurm is told, and when it runs dry.

A price of one Won a GPU-second makes the two sides easy to compare; burst costs half.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm_gpuaas.domain.budgets import (
    PACE,
    WARNINGS,
    Budget,
    budgets,
    cuts,
    pace_window,
    periods,
    runs_dry,
    warning,
)
from slurm_gpuaas.domain.jobs import Job, JobId, JobState
from slurm_gpuaas.domain.names import (
    AccountName,
    ClusterName,
    GpuModel,
    PartitionName,
    ProjectName,
    QosName,
    UserName,
)
from slurm_gpuaas.domain.policy import KST, BudgetPeriod, Policy
from slurm_gpuaas.domain.usage import UsageRecord, UsageSum, Window
from tests.fakes import make_job
from tests.unit.policies import grant, policies, policy, project, rate

MINI = ClusterName("mini")
VISION = ProjectName("vision")
HOUR = 3600


def kst(month: int, day: int, hour: int = 0, *, year: int = 2027) -> datetime:
    return datetime(year, month, day, hour, tzinfo=KST)


@dataclass(frozen=True)
class Run:
    """A run of one GPU for whole hours; `limit` makes it one that still runs, with that time limit in hours."""

    started: datetime
    hours: int
    burst: bool = False
    limit: int | None = None

    @property
    def qos(self) -> QosName:
        return QosName("burst-8" if self.burst else "guaranteed-vision")

    def record(self, number: int) -> UsageRecord:
        return UsageRecord(
            cluster=MINI,
            job_id=JobId(number),
            user=UserName("alice"),
            account=AccountName("vision"),
            qos=self.qos,
            partition=PartitionName("mini-own"),
            model=GpuModel("b200"),
            gpus=1,
            started=self.started,
            ended=None if self.limit else self.started + timedelta(hours=self.hours),
            gpu_seconds=self.hours * HOUR,
            state="RUNNING" if self.limit else "COMPLETED",
        )

    def job(self, number: int) -> Job:
        return make_job(
            number,
            account="vision",
            qos=self.qos,
            gpus=1,
            state=JobState.RUNNING,
            started=self.started,
            time_limit=timedelta(hours=self.limit or 0),
        )


def summed(records: Sequence[UsageRecord], moments: Sequence[datetime]) -> list[UsageSum]:
    """What `Store.usage_sums` answers."""
    groups: dict[tuple[QosName, datetime | None], list[UsageRecord]] = defaultdict(list)
    for record in records:
        since = max((moment for moment in moments if moment <= record.started), default=None)
        groups[record.qos, since].append(record)
    return [
        UsageSum(
            account=AccountName("vision"),
            model=GpuModel("b200"),
            qos=qos,
            since=since,
            gpu_seconds=sum(record.gpu_seconds for record in group),
            ended=sum(record.gpu_seconds for record in group if record.ended),
        )
        for (qos, since), group in groups.items()
    ]


def all_of(policy: Policy, runs: Sequence[Run], at: datetime) -> Mapping[ProjectName, Budget]:
    records = [run.record(number) for number, run in enumerate(runs, 1)]
    return budgets(
        policy,
        MINI,
        at,
        summed(records, cuts(policy, MINI, at)),
        jobs=[run.job(number) for number, run in enumerate(runs, 1) if run.limit],
        running=[record for record in records if record.ended is None],
    )


def one_of(policy: Policy, runs: Sequence[Run] = (), at: datetime | None = None) -> Budget:
    return all_of(policy, runs, at or kst(3, 10))[VISION]


def granted(**fields: Any) -> Policy:
    """A grant of the year 2027."""
    return policy(project(), rate(), grant(**{"starts": "2027-01-01", "ends": "2027-12-31"} | fields))


MONTHLY = {"budget_gpu_hours": 100, "budget_period": "month"}
JANUARY, FEBRUARY, MARCH = kst(1, 5), kst(2, 5), kst(3, 5)

# Grant; runs; on 10 March in GPU-hours: awarded, carried, grace, used, committed, left, written to Slurm.
HOURS: list[tuple[str, dict[str, Any], list[Run], tuple[float, float, float, float, float, float, float]]] = [
    ("nothing used", {"budget_gpu_hours": 100}, [], (100, 0, 0, 0, 0, 100, 100)),
    ("use is taken from what is left, never from what is awarded or written",
     {"budget_gpu_hours": 100}, [Run(MARCH, 30)], (100, 0, 0, 30, 0, 70, 100)),
    ("a running job has taken all of its time limit",
     {"budget_gpu_hours": 100}, [Run(MARCH, 30, limit=50)], (100, 0, 0, 30, 20, 50, 100)),
    ("a job beyond its time limit has taken what it used",
     {"budget_gpu_hours": 100}, [Run(MARCH, 30, limit=20)], (100, 0, 0, 30, 0, 70, 100)),
    ("spent is nothing left, not less", {"budget_gpu_hours": 10}, [Run(MARCH, 30)], (10, 0, 0, 30, 0, 0, 30)),
    ("zero is a budget", {"budget_gpu_hours": 0}, [], (0, 0, 0, 0, 0, 0, 0)),
    ("burst counts as many GPU-hours as guaranteed",
     {"budget_gpu_hours": 100}, [Run(MARCH, 30, burst=True)], (100, 0, 0, 30, 0, 70, 100)),
    ("what was used before the grant is written on top",
     {"budget_gpu_hours": 100}, [Run(kst(12, 30, year=2026), 40)], (100, 0, 0, 0, 0, 100, 140)),
    ("a run belongs to the budget in force when it started",
     {"budget_gpu_hours": 100}, [Run(kst(12, 31, 23, year=2026), 40)], (100, 0, 0, 0, 0, 100, 140)),
    ("grace is on top of the award", {"budget_gpu_hours": 100, "grace": 20}, [Run(MARCH, 110)],
     (100, 0, 20, 110, 0, 10, 120)),
    ("each month has its own", MONTHLY, [Run(JANUARY, 100), Run(FEBRUARY, 90), Run(MARCH, 5)],
     (100, 0, 0, 5, 0, 95, 290)),
    ("nothing goes over unless the rule says so", MONTHLY, [], (100, 0, 0, 0, 0, 100, 100)),
    ("at most half of a month goes over", MONTHLY | {"carry_over": 50}, [Run(JANUARY, 100), Run(FEBRUARY, 10)],
     (100, 50, 0, 0, 0, 150, 260)),
    ("what is left goes over when it is less", MONTHLY | {"carry_over": 50}, [Run(JANUARY, 100), Run(FEBRUARY, 80)],
     (100, 20, 0, 0, 0, 120, 300)),
    ("months of nothing do not pile up", MONTHLY | {"carry_over": 50}, [], (100, 50, 0, 0, 0, 150, 150)),
    ("what went over twice is bounded by one month's half", MONTHLY | {"carry_over": 50}, [Run(FEBRUARY, 60)],
     (100, 50, 0, 0, 0, 150, 210)),
    ("all of it may go over", MONTHLY | {"carry_over": 100}, [Run(FEBRUARY, 30)], (100, 100, 0, 0, 0, 200, 230)),
    ("grace that was used is not taken from the next month", MONTHLY | {"carry_over": 50, "grace": 20},
     [Run(JANUARY, 100), Run(FEBRUARY, 120)], (100, 0, 20, 0, 0, 120, 340)),
    ("grace itself does not go over", MONTHLY | {"carry_over": 100, "grace": 20},
     [Run(JANUARY, 100), Run(FEBRUARY, 100)], (100, 0, 20, 0, 0, 120, 320)),
    ("a quarter", {"budget_gpu_hours": 300, "budget_period": "quarter"}, [Run(JANUARY, 70)],
     (300, 0, 0, 70, 0, 230, 300)),
    ("a month that the grant holds in part gives its part",
     {"budget_gpu_hours": 310, "budget_period": "month", "starts": "2027-03-08"}, [], (240, 0, 0, 0, 0, 240, 240)),
    ("the last month too", {"budget_gpu_hours": 310, "budget_period": "month", "ends": "2027-03-10"}, [],
     (100, 0, 0, 0, 0, 100, 100)),
    ("a run that goes on from the month before is not written before it ends",
     MONTHLY, [Run(kst(2, 28), 30, limit=60)], (100, 0, 0, 0, 0, 100, 100)),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "runs", "expected"), [row[1:] for row in HOURS], ids=[row[0] for row in HOURS])
def test_gpu_hours(fields: dict[str, Any], runs: list[Run], expected: tuple[float, ...]) -> None:
    found = one_of(granted(**fields), runs)
    side = found.gpu_seconds
    assert side and found.written_minutes is not None
    amounts = (side.awarded, side.carried, side.grace, side.used, side.committed, side.left)
    assert (*(float(amount) / HOUR for amount in amounts), found.written_minutes / 60) == expected


# Grant; runs; on 10 March: Won used, committed and left; GPU-hours that a new job may ask for, and those written.
WON: list[tuple[str, dict[str, Any], list[Run], tuple[float, float, float], float | None, float | None]] = [
    ("at the guaranteed price", {"budget_won": 360_000}, [Run(MARCH, 30)], (108_000, 0, 252_000), 70, 100),
    ("burst costs half, and what it did not cost is given back when it has ended",
     {"budget_won": 360_000}, [Run(MARCH, 30, burst=True)], (54_000, 0, 306_000), 85, 115),
    ("a running burst job gives nothing back yet: it may end early and take its discount with it",
     {"budget_won": 360_000}, [Run(MARCH, 30, burst=True, limit=50)], (54_000, 36_000, 270_000), 50, 100),
    ("a tenth of the price buys ten times as much",
     {"budget_won": 360_000, "price_percent": 10}, [], (0, 0, 360_000), 1_000, 1_000),
    ("who pays nothing has no limit in Won",
     {"budget_won": 360_000, "price_percent": 0}, [Run(MARCH, 30)], (0, 0, 360_000), None, None),
    ("the tighter side is written: Won", {"budget_won": 36_000, "budget_gpu_hours": 100}, [], (0, 0, 36_000), 10, 10),
    ("the tighter side is written: GPU-hours",
     {"budget_won": 360_000, "budget_gpu_hours": 10}, [], (0, 0, 360_000), 10, 10),
    ("spent", {"budget_won": 36_000}, [Run(MARCH, 30)], (108_000, 0, 0), 0, 30),
    ("grace is of Won too", {"budget_won": 360_000, "grace": 10}, [Run(MARCH, 100)], (360_000, 0, 36_000), 10, 110),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "runs", "won", "startable", "written"), [row[1:] for row in WON], ids=[row[0] for row in WON]
)
def test_won(
    fields: dict[str, Any],
    runs: list[Run],
    won: tuple[float, float, float],
    startable: float | None,
    written: float | None,
) -> None:
    found = one_of(granted(**fields), runs)
    assert found.won
    assert (float(found.won.used), float(found.won.committed), float(found.won.left)) == won
    assert _hours(found.startable_minutes) == startable
    assert _hours(found.written_minutes) == written


def _hours(minutes: int | None) -> float | None:
    return None if minutes is None else minutes / 60


class TestRates:
    DEARER = rate(name="b200-march", starts="2027-03-01", won_per_gpu_hour=7_200)

    def test_a_run_costs_what_was_in_force_when_it_started(self) -> None:
        dear = policy(project(), rate(), self.DEARER, grant(budget_won=10**6))
        assert float(one_of(dear, [Run(FEBRUARY, 10), Run(MARCH, 10)]).used_won) == 36_000 + 72_000

    def test_won_are_written_at_todays_price(self) -> None:
        before = policy(project(), rate(), grant(budget_won=720_000))
        after = policy(project(), rate(), self.DEARER, grant(budget_won=720_000))
        assert (one_of(before).written_minutes, one_of(after).written_minutes) == (200 * 60, 100 * 60)

    def test_a_running_job_of_a_dearer_day_is_reckoned_at_its_own_price(self) -> None:
        cheaper = rate(name="b200-march", starts="2027-03-01", won_per_gpu_hour=1_800)
        found = one_of(policy(project(), rate(), cheaper, grant(budget_won=360_000)), [Run(FEBRUARY, 10, limit=50)])
        assert found.won and found.startable_minutes is not None
        assert found.startable_minutes * 60 <= found.won.left, "no more than what is left pays at today's dearest price"


class TestSeveralGrants:
    def test_budgets_of_grants_in_force_add_up(self) -> None:
        both = policy(
            project(),
            grant(name="one", budget_gpu_hours=100, starts="2027-01-01"),
            grant(name="two", budget_gpu_hours=50, starts="2027-02-01"),
        )
        found = one_of(both, [Run(JANUARY, 30), Run(MARCH, 10)])
        assert found.gpu_seconds
        assert [int(n) for n in (found.gpu_seconds.awarded, found.gpu_seconds.used)] == [150 * HOUR, 40 * HOUR]
        assert found.period == Window(kst(1, 1), kst(1, 1, year=2028))

    def test_a_later_grant_takes_nothing_from_an_earlier_ones_days(self) -> None:
        renewed = policy(
            project(),
            grant(name="one", budget_gpu_hours=100, starts="2027-01-01", ends="2027-02-28"),
            grant(name="two", budget_gpu_hours=50, starts="2027-03-01"),
        )
        found = one_of(renewed, [Run(JANUARY, 100)])
        assert found.gpu_seconds and found.gpu_seconds.left == 50 * HOUR
        assert found.written_minutes == 150 * 60

    def test_a_grant_in_force_without_a_budget_lifts_it(self) -> None:
        lifted = policy(project(), grant(name="one", budget_gpu_hours=1), grant(name="two"))
        assert (one_of(lifted).gpu_seconds, one_of(lifted).written_minutes) == (None, None)

    def test_without_a_budget_in_force_on_the_cluster_there_is_none(self) -> None:
        assert all_of(granted(), [], kst(3, 10)) == {}
        assert all_of(granted(budget_gpu_hours=1), [], kst(3, 10, year=2028)) == {}
        assert cuts(granted(), MINI, kst(3, 10)) == ()
        assert cuts(granted(budget_gpu_hours=1), ClusterName("other"), kst(3, 10)) == ()


class TestEchoLoop:
    """What is written must never come back as an award. In the field a limit that was raised by its grace and read back
    as the base grew by 30 % a round: 18,800 became 15 million in 25 rounds."""

    def test_a_hundred_rounds_write_the_same(self) -> None:
        given = granted(budget_gpu_hours=18_800, grace=30, budget_period="month", carry_over=50)
        runs = [Run(FEBRUARY, 500), Run(MARCH, 700)]
        written = {one_of(given, runs, kst(3, 10) + timedelta(minutes=minute)).written_minutes for minute in range(100)}
        assert written == {(18_800 + 9_400) * 60 + 18_800 * 18 + 500 * 60}

    def test_what_is_used_moves_neither_award_nor_limit(self) -> None:
        given = granted(budget_gpu_hours=100, grace=30)
        found = [one_of(given, [Run(MARCH, hours, limit=90)]) for hours in range(1, 90)]
        assert {(int(one.gpu_seconds.awarded), one.written_minutes) for one in found if one.gpu_seconds} == {
            (100 * HOUR, 130 * 60)
        }


# Share that is used, in percent; the threshold that has been reached.
LADDER = [(0, None), (49, None), (50, 50), (79, 50), (80, 80), (94, 80), (95, 95), (100, 95), (130, 95)]


@pytest.mark.parametrize(("used", "reached"), LADDER)
def test_the_ladder_of_warnings(used: int, reached: int | None) -> None:
    found = one_of(granted(budget_gpu_hours=100, grace=30), [Run(MARCH, used)] if used else [])
    assert (found.warning, warning(Fraction(used, 100))) == (reached, reached)


def test_what_runs_may_still_come_back_and_warns_of_nothing() -> None:
    assert one_of(granted(budget_gpu_hours=100), [Run(MARCH, 10, limit=100)]).warning is None


# GPU-hours used by 10 March 00:00 and in the seven days before; when a budget of 100 for the year runs dry.
DRY: list[tuple[str, dict[str, Any], int, int, datetime | None]] = [
    ("nothing was used", {}, 0, 0, None),
    ("a hundred hours a week", {}, 50, 100, kst(3, 13, 12)),
    ("all is used", {}, 100, 100, kst(3, 10)),
    ("grace lasts a little longer", {"grace": 50}, 50, 100, kst(3, 17)),
    ("it lasts longer than its period", {"budget_period": "month"}, 10, 7, None),
    ("it lasts longer than the grant", {}, 10, 1, None),
    ("a grant of two days has its own pace", {"starts": "2027-03-08"}, 50, 50, kst(3, 12)),
]


@pytest.mark.parametrize(("fields", "used", "recent", "dry"), [row[1:] for row in DRY], ids=[row[0] for row in DRY])
def test_at_todays_pace_it_runs_dry(fields: dict[str, Any], used: int, recent: int, dry: datetime | None) -> None:
    at = kst(3, 10)
    found = one_of(granted(budget_gpu_hours=100, **fields), [Run(kst(3, 8), used)] if used else [], at)
    assert runs_dry(found, recent * HOUR, Fraction(0), at) == dry


def test_the_side_that_runs_dry_first_is_told() -> None:
    at = kst(3, 10)
    found = one_of(granted(budget_gpu_hours=100, budget_won=180_000), [Run(MARCH, 40)], at)
    assert runs_dry(found, 40 * HOUR, Fraction(144_000), at) == at + timedelta(days=7 * 36_000 / 144_000)
    assert pace_window(found, at) == Window(at - PACE, at)


# -- What must always hold


KINDS = st.sampled_from(BudgetPeriod)


@given(st.dates(date(2000, 1, 1), date(2060, 1, 1)), st.integers(1, 3_000), KINDS)
def test_periods_tile_the_span(first: date, days: int, kind: BudgetPeriod) -> None:
    start = datetime.combine(first, time(), KST)
    span = Window(start, start + timedelta(days=days))
    found = list(periods(span, kind))
    assert (found[0].start, found[-1].end) == (span.start, span.end)
    assert all(one.end == two.start and one.start < one.end for one, two in pairwise(found))
    assert all(two.start.day == 1 for two in found[1:])


def test_a_grant_without_an_end_has_periods_to_the_calendars_end() -> None:
    forever = granted(budget_gpu_hours=1, budget_period="quarter", ends="9999-12-31")
    assert one_of(forever, at=datetime(9999, 12, 1, tzinfo=UTC)).period.end.year == 9999


RUNS = st.builds(
    Run,
    started=st.integers(-60 * 24, 69 * 24).map(lambda hours: kst(1, 1) + timedelta(hours=hours)),
    hours=st.integers(0, 60),
    burst=st.booleans(),
    limit=st.none() | st.integers(1, 100),
)
RULES = st.fixed_dictionaries(
    {
        "budget_gpu_hours": st.integers(0, 500),
        "budget_won": st.integers(0, 10**6),
        "budget_period": st.sampled_from(("month", "quarter")),
        "carry_over": st.integers(0, 100),
        "grace": st.integers(0, 100),
        "price_percent": st.decimals(0, 100, places=2),
    }
)


@settings(max_examples=200)
@given(RULES, st.lists(RUNS, max_size=12))
def test_what_always_holds(rules: dict[str, Any], runs: list[Run]) -> None:
    found = one_of(granted(**rules), runs)
    bare = one_of(granted(**rules))
    for side, untouched in ((found.gpu_seconds, bare.gpu_seconds), (found.won, bare.won)):
        assert side and untouched
        assert side.awarded == untouched.awarded, "use never changes what is awarded"
        assert 0 <= side.carried <= side.awarded * rules["carry_over"] / 100 or side.carried == 0
        assert side.left == max(side.allowed - side.used - side.committed, 0)
        assert side.left + side.used + side.committed >= side.allowed
    ended = sum(run.hours * 60 for run in runs if not run.limit)
    assert found.written_minutes is not None and found.startable_minutes is not None
    assert found.written_minutes >= ended, "never below what has been used"
    assert found.gpu_seconds and found.won
    assert found.startable_minutes * 60 <= found.gpu_seconds.left
    price = Fraction(rules["price_percent"]) / 100
    assert found.startable_minutes * 60 * price <= found.won.left, "a job that starts can be paid to its end"
    assert found.warning in (None, *WARNINGS)


@settings(max_examples=50)
@given(policies(), st.integers(0, 700))
def test_every_policy_has_budgets_at_every_moment(drawn: Policy, days: int) -> None:
    at = datetime(2026, 5, 1, tzinfo=UTC) + timedelta(days=days)
    assert all(one.period.start <= at < one.period.end for one in budgets(drawn, MINI, at, []).values())
