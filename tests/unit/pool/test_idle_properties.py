"""What holds for the ladder whatever the use, the measurements and the order of judgements."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm_gpuaas.domain.names import PersonId
from slurm_gpuaas.pool.idle import Appeal, Excuses, Standing, excused_days, judge, step
from slurm_gpuaas.pool.idle_rules import Rung
from slurm_gpuaas.pool.idle_use import UseDay, UseTable
from tests.unit.pool.idle_days import GPUS, RULES, START, day, grant, rungs, walk

LEVELS = st.sampled_from([0.0, 0.0, 0.05, 0.2, 0.35, 0.6, 1.0])
PART = st.one_of(st.none(), LEVELS)


@st.composite
def uses(draw: st.DrawFn, days: int = 70) -> list[UseDay]:
    """Stretches of days of one kind each: ladders need some length to be climbed."""
    found: list[UseDay] = []
    while len(found) < days:
        long, allocated, computing = draw(st.integers(1, 30)), draw(PART), draw(PART)
        busy = None if allocated is None or computing is None else allocated * computing
        lost = draw(st.sampled_from([0.0, 0.0, 0.0, 0.3, 1.0]))
        peak = None if allocated is None else draw(st.sampled_from([0, 4, 12, GPUS]))
        found += [
            day(len(found) + n, allocated, busy, lost=lost, peak=peak) for n in range(min(long, days - len(found)))
        ]
    return found


mornings = st.lists(st.integers(1, 70), max_size=70)


@settings(max_examples=15, deadline=None)
@given(uses())
def test_nobody_climbs_without_every_step_before_and_its_waiting_days(use: list[UseDay]) -> None:
    for before, after in pairwise([None, *walk(use)[1]]):
        assert after is not None
        if after.to is Rung.REGULAR:
            continue
        assert after.before is (before.to if before else Rung.REGULAR)
        assert after.to is after.before.next
        if before is not None and after.to is not Rung.NOTICE:
            assert (after.day - before.day).days >= RULES.waits[after.to]
            assert after.evidence is not None
            assert after.evidence.since_step is not None
            assert after.evidence.since_step.days >= RULES.waits[after.to]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.floats(0.31, 1), st.floats(0.5, 1)), min_size=70, max_size=70))
def test_who_uses_more_than_the_thresholds_every_day_is_never_written_to(days: list[tuple[float, float]]) -> None:
    use = [day(n, allocated, allocated * computing, peak=4) for n, (allocated, computing) in enumerate(days)]
    assert walk(use)[1] == []


@settings(max_examples=15, deadline=None)
@given(uses(), st.integers(1, 69))
def test_days_without_measurements_take_nobody_up(use: list[UseDay], last: int) -> None:
    """Nothing of the days after `last` arrives any more: no step later than the rules let measurements age."""
    known = use[:last]
    steps = walk(known, days=range(1, 100))[1]
    measured = max((one.day for one in known if one.allocated is not None), default=START)
    assert all(one.day <= measured + timedelta(days=RULES.stale_days) for one in steps if one.to is not Rung.REGULAR)


@settings(max_examples=15, deadline=None)
@given(uses(), st.integers(1, 70))
def test_an_open_appeal_always_stops(use: list[UseDay], number: int) -> None:
    filed = START + timedelta(days=number)
    appeal = Appeal(grant=grant().name, filed=filed, reason="x", by=PersonId("p-holder1"))
    steps = walk(use, excuses=Excuses(appeals=[appeal]))[1]
    assert all(one.day < filed for one in steps if one.to is not Rung.REGULAR)


@settings(max_examples=15, deadline=None)
@given(uses(), mornings, st.randoms(use_true_random=False))
def test_repeats_and_the_order_of_rows_change_nothing(
    use: list[UseDay], days: list[int], shuffled: random.Random
) -> None:
    days = sorted(set(days))
    other = list(use)
    shuffled.shuffle(other)
    once = walk(use, days=days)
    assert walk(other, days=[one for one in days for _ in range(3)]) == once


@settings(max_examples=15, deadline=None)
@given(uses(), mornings)
def test_one_step_a_day_at_most_and_never_back_in_time(use: list[UseDay], days: list[int]) -> None:
    """Mornings come in any order."""
    steps = walk(use, days=days)[1]
    assert all(one.day < two.day for one, two in pairwise(steps))


@settings(max_examples=15, deadline=None)
@given(uses(), uses())
def test_after_a_correction_a_step_rests_on_the_corrected_days(wrong: list[UseDay], right: list[UseDay]) -> None:
    standing, _ = walk(wrong)
    outcome = step(standing, grant(), right, RULES, START + timedelta(days=71))
    if outcome.step is not None and outcome.step.to is not Rung.REGULAR:
        assert outcome.step.evidence is not None
        assert outcome.step.evidence.window.below(RULES.allocated_below, RULES.busy_below)
    elif outcome.step is None and standing.rung not in (Rung.REGULAR, Rung.RECALL):
        assert outcome.standing == standing


@settings(max_examples=10, deadline=None)
@given(uses())
def test_burst_and_more_use_never_bring_a_step_nearer(use: list[UseDay]) -> None:
    plain = walk(use)[1]
    assert rungs(walk([replace(one, burst=10**7) for one in use])[1]) == rungs(plain)
    whole = [replace(one, lost=0) if one.allocated is None else day(n, 1.0, 0.9) for n, one in enumerate(use)]
    assert walk(whole)[1] == []


@settings(max_examples=8, deadline=None)
@given(st.lists(uses(), min_size=2, max_size=4))
def test_many_grants_at_once_are_judged_as_each_alone(many: list[list[UseDay]]) -> None:
    of = grant()
    excused = np.stack([excused_days(of, START, 70, RULES, Excuses(), climbed=None, today=START) for _ in many])
    table = UseTable(START, 70, many, excused, [of.min_gpus] * len(many), RULES)

    def together(row: int) -> Iterator[object]:
        standing = Standing(grant=of.name, gpus=of.gpus)
        for number in range(1, 71):
            outcome = judge(standing, of, table, row, RULES, START + timedelta(days=number))
            standing = outcome.standing
            if outcome.step is not None:
                yield outcome.step

    assert [list(together(row)) for row in range(len(many))] == [walk(use)[1] for use in many]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(LEVELS, st.booleans()), min_size=30, max_size=60))
def test_windows_are_what_a_plain_loop_finds(days: list[tuple[float, bool]]) -> None:
    use = [day(n, level if measured else None, peak=None) for n, (level, measured) in enumerate(days)]
    table = UseTable(START, len(use), [use], np.zeros((1, len(use)), np.bool_), [8], RULES)
    for at in range(len(use)):
        counting = [n for n in range(at + 1) if days[n][1]][-RULES.window_days :]
        enough = len(counting) == RULES.window_days and counting[0] > at - RULES.look_back_days
        fresh = any(days[n][1] for n in range(max(0, at + 1 - RULES.stale_days), at + 1))
        assert bool(table.enough[0, at]) == (enough and fresh)
        if enough:
            mean = table.mean(0, int(table.window[0, at]), at + 1)
            assert (mean.days, mean.busy) == (RULES.window_days, None)
            assert abs(mean.allocated - sum(days[n][0] for n in counting) / RULES.window_days) < 1e-9
        peaks = sorted((use[n].peak or 0 for n in range(max(0, at + 1 - RULES.look_back_days), at + 1)), reverse=True)
        nth = peaks[RULES.burst_days - 1] if len(peaks) >= RULES.burst_days else 0
        assert int(table.needed[0, at]) == nth
