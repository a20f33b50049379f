"""The ladder of an unused grant, situation by situation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta

import pytest
from pydantic import ValidationError

from slurm_gpuaas.domain.errors import InvalidInput, Refused
from slurm_gpuaas.domain.names import GrantName, PersonId, ProgrammeName
from slurm_gpuaas.pool.idle import (
    Appeal,
    Excuses,
    Exemption,
    Justification,
    Standing,
    Step,
    step,
    suspended,
    undo,
)
from slurm_gpuaas.pool.idle_rules import IdleRules, Mode, Rung
from slurm_gpuaas.pool.idle_use import DAY_SECONDS, UseDay
from tests.unit.pool.idle_days import GPUS, RULES, START, day, flat, grant, rungs, walk

HOLDER, OFFICER, OPERATOR = PersonId("p-holder1"), PersonId("p-officer"), PersonId("p-operate")
UP = [Rung.NOTICE, Rung.WARNING, Rung.FINAL_WARNING, Rung.RECALL]
NAME = grant().name


def on(number: int) -> date:
    return START + timedelta(days=number)


def bursts(days: int, every: int, long: int, *, height: float = 1.0) -> list[UseDay]:
    return [day(n, height if n % every < long else 0.0, 0.9 * height if n % every < long else 0.0) for n in range(days)]


CALM: dict[str, list[UseDay]] = {
    "used all the time": flat(120, 0.9, 0.8),
    "used just above the thresholds": flat(120, 0.31, 0.16),
    "a training run each week, two days of it": bursts(120, 7, 2),
    "evaluation at each month's end, two days of it, after a first week of trials": flat(7, 0.9, 0.8)
    + [day(n, 1.0, 0.9) if on(n + 2).day <= 2 else day(n, 0.0, 0.0) for n in range(7, 240)],
    "7 of 8 GPUs are needed for a day now and then": [
        day(n, 0.875, 0.8, peak=28) if n % 14 < 2 else day(n, 0.0, 0.0) for n in range(120)
    ],
    "a model server with full memory waits for questions": [day(n, 1.0, 0.01, loaded=0.99) for n in range(120)],
    "GPU use is not measured, and jobs hold the GPUs": flat(120, 0.9),
    "nothing is measured": flat(120, None),
    "two weeks away": flat(40, 0.9, 0.8) + flat(13, 0.0, 0.0, first=40) + flat(60, 0.9, 0.8, first=53),
    "the cluster is out for a month": flat(40, 0.9, 0.8)
    + [day(n, 0.0, 0.0, lost=1.0) for n in range(40, 70)]
    + flat(30, 0.9, 0.8, first=70),
    "most of the cluster is out, and nobody tries the rest": [day(n, 0.0, 0.0, lost=0.6) for n in range(60)],
    "two fifths of the cluster are out, the rest is in use": [day(n, 0.2, 0.2, lost=0.4) for n in range(120)],
}


@pytest.mark.parametrize("situation", CALM)
def test_nobody_is_written_to_when(situation: str) -> None:
    assert rungs(walk(CALM[situation])[1]) == []


HIT: dict[str, tuple[list[UseDay], int]] = {
    "never used": (flat(80, 0.0, 0.0), 0),
    "held by jobs that compute nothing": (flat(80, 1.0, 0.0), 0),
    "a quarter is used": (flat(80, 0.25, 0.2), 16),
    "one server is used": ([day(n, 0.2, 0.2, peak=8) for n in range(80)], 16),
    "borrowed GPUs are used, its own are not": ([day(n, 0.0, 0.0, burst=1.0) for n in range(80)], 0),
    "used once, then never": (flat(1, 1.0, 0.9) + flat(120, 0.0, 0.0, first=1), 0),
    "GPU use is not measured, and jobs hold few": (flat(80, 0.2), 16),
}


@pytest.mark.parametrize("situation", HIT)
def test_gpus_are_taken_back_after_all_steps_when(situation: str) -> None:
    use, keeps = HIT[situation]
    standing, steps = walk(use)
    assert rungs(steps) == UP
    assert standing.proposed == keeps
    taken = steps[-1].evidence
    assert taken is not None
    assert (taken.gpus, taken.proposed, taken.rules) == (GPUS, keeps, "1")


def test_steps_come_after_the_window_and_the_waiting_days_on_working_days() -> None:
    steps = walk(flat(80, 0.0, 0.0))[1]
    days = [one.day for one in steps]
    # 14 days that count end on 05-19; 05-24 and 05-25, 06-03 and 06-06 are holidays.
    assert days == [date(2026, 5, 20), date(2026, 5, 29), date(2026, 6, 8), date(2026, 6, 15)]
    assert all(one.weekday() < 5 and one not in RULES.holidays for one in days)


def test_a_week_of_holidays_postpones_a_notice_and_use_in_it_still_counts() -> None:
    """Chuseok 2026: 09-24 to 09-26; here the whole week off by notice of the government."""
    week = [date(2026, 9, day) for day in range(21, 28)]
    rules = RULES.model_copy(update={"more_holidays": tuple(week)})
    busy_until = (date(2026, 9, 14) - START).days
    use = flat(busy_until, 0.9, 0.8) + flat(60, 0.0, 0.0, first=busy_until)
    plain, holiday = walk(use)[1], walk(use, rules=rules)[1]
    assert holiday[0].day - plain[0].day <= timedelta(days=7)
    assert holiday[0].day > date(2026, 10, 5)
    worked = [day(n, 1.0, 0.9) if on(n) in week else day(n, 0.1, 0.1) for n in range(busy_until + 30)]
    window = walk(worked, rules=rules)[1]
    assert all(one.evidence is None or one.evidence.window.allocated < 0.3 for one in window)


def test_what_is_not_measured_for_a_while_makes_no_step_then_and_what_was_measured_goes_on_counting() -> None:
    use = flat(20, 0.0, 0.0) + flat(30, None, first=20) + flat(40, 0.0, 0.0, first=50)
    steps = walk(use)[1]
    gap = [one for one in steps if on(23) < one.day <= on(50)]
    assert gap == []
    assert rungs(steps) == UP


def test_ramp_up_and_the_last_days_are_left_alone() -> None:
    rules = RULES.model_copy(update={"ramp_up_days": 21})
    assert walk(flat(80, 0.0, 0.0), rules=rules)[1][0].day >= on(21 + 14)
    short = grant(days=35 + 14)
    assert walk(flat(48, 0.0, 0.0), of=short)[1][-1].day <= short.ends - timedelta(days=rules.before_end_days)


def test_use_after_a_warning_ends_the_ladder_and_cools_down() -> None:
    use = flat(25, 0.0, 0.0) + flat(10, 0.9, 0.8, first=25) + flat(120, 0.0, 0.0, first=35)
    standing, steps = walk(use)
    assert rungs(steps)[:3] == [Rung.NOTICE, Rung.WARNING, Rung.REGULAR]
    back = next(one for one in steps if one.to is Rung.REGULAR)
    after = [one for one in steps if one.day > back.day]
    assert after[0].to is Rung.NOTICE
    assert after[0].day > back.day + timedelta(days=RULES.cool_down_days)
    assert standing.rung is Rung.RECALL


def test_use_after_a_step_is_looked_at_by_itself_and_not_only_in_the_window() -> None:
    """Three busy days of fourteen leave the window low, but somebody is back."""
    first = walk(flat(80, 0.0, 0.0))[1]
    notice = (first[0].day - START).days
    use = flat(notice + 4, 0.0, 0.0) + flat(3, 0.8, 0.75, first=notice + 4)
    due = range(1, notice + 8)
    assert rungs(walk(use, days=due)[1]) == [Rung.NOTICE]


def test_a_little_more_use_than_the_threshold_does_not_swing_the_ladder() -> None:
    """Between low and back: it stays, and is let go after a window without a reason to go up."""
    use = flat(14, 0.2, 0.2) + flat(40, 0.35, 0.18, first=14)
    steps = walk([replace(one, peak=8) for one in use])[1]
    assert rungs(steps) == [Rung.NOTICE, Rung.REGULAR]
    assert (steps[1].day - steps[0].day).days >= RULES.window_days


def test_an_exemption_of_the_grant_its_programme_or_all_stops_the_ladder() -> None:
    of = replace(grant(), programme=ProgrammeName("research"))
    for what in ({"grant": NAME}, {"programme": ProgrammeName("research")}, {}):
        exemption = Exemption(**what, starts=on(0), ends=on(60), reason="Data centre moves.", by=OFFICER)
        steps = walk(flat(80, 0.0, 0.0), of=of, excuses=Excuses(exemptions=[exemption]))[1]
        assert steps[0].day > on(60 + RULES.window_days)
    other = Exemption(programme=ProgrammeName("industry"), starts=on(0), ends=on(60), reason="x", by=OFFICER)
    assert rungs(walk(flat(80, 0.0, 0.0), of=of, excuses=Excuses(exemptions=[other]))[1]) == UP


def test_a_researcher_who_waits_for_data_says_so_and_has_time() -> None:
    plain = walk(flat(120, 0.0, 0.0))[1]
    filed = plain[0].day + timedelta(days=1)
    why = Justification(grant=NAME, filed=filed, until=filed + timedelta(days=300), reason="Data arrive.", by=HOLDER)
    steps = walk(flat(120, 0.0, 0.0), excuses=Excuses(justifications=[why]))[1]
    assert steps[0] == plain[0]
    pause = steps[1].day - plain[1].day
    assert timedelta(days=RULES.justification_days - 4) <= pause <= timedelta(days=RULES.justification_days + 4)
    many = [replace(why, filed=filed + timedelta(days=14 * n)) for n in range(6)]
    bounded = walk(flat(120, 0.0, 0.0), excuses=Excuses(justifications=many))[1]
    assert rungs(bounded) == UP, "justifications can be repeated without end"
    early = replace(why, filed=START)
    assert walk(flat(120, 0.0, 0.0), excuses=Excuses(justifications=[early]))[1] == plain


def test_use_during_a_justification_counts_for_its_holder() -> None:
    notice = walk(flat(120, 0.0, 0.0))[1][0].day
    number = (notice - START).days
    why = Justification(grant=NAME, filed=notice, until=notice + timedelta(days=13), reason="Data.", by=HOLDER)
    use = flat(number + 6, 0.0, 0.0) + flat(8, 1.0, 0.9, first=number + 6)
    assert rungs(walk(use, excuses=Excuses(justifications=[why]))[1]) == [Rung.NOTICE, Rung.REGULAR]


def test_an_appeal_suspends_until_it_is_decided_and_ends_the_ladder_when_upheld() -> None:
    use = flat(150, 0.0, 0.0)
    plain = walk(use)[1]
    filed = plain[2].day + timedelta(days=1)
    appeal = Appeal(grant=NAME, filed=filed, reason="We publish in June.", by=HOLDER)
    assert walk(use, excuses=Excuses(appeals=[appeal]))[1] == plain[:3]
    decided = {"decided": filed + timedelta(days=30), "decided_by": OFFICER}
    rejected = walk(use, excuses=Excuses(appeals=[replace(appeal, **decided, upheld=False)]))[1]  # type: ignore[arg-type]
    assert rungs(rejected) == UP
    assert rejected[-1].day >= filed + timedelta(days=30 + RULES.waits[Rung.RECALL])
    upheld = walk(use, excuses=Excuses(appeals=[replace(appeal, **decided, upheld=True)]))[1]  # type: ignore[arg-type]
    assert rungs(upheld)[:4] == [*UP[:3], Rung.REGULAR]
    assert upheld[4].day > upheld[3].day + timedelta(days=RULES.cool_down_days)


def test_an_appeal_also_stops_what_is_proposed_already() -> None:
    standing, steps = walk(flat(80, 0.0, 0.0))
    day = steps[-1].day + timedelta(days=1)
    appeal = Appeal(grant=NAME, filed=day, reason="No.", by=HOLDER)
    assert suspended(grant(), day, RULES, Excuses(), climbed=standing.climbed) is None
    stopped = suspended(grant(), day, RULES, Excuses(appeals=[appeal]), climbed=standing.climbed)
    assert stopped == f"The appeal of {day} is not decided."
    upheld = replace(appeal, decided=day, decided_by=OFFICER, upheld=True)
    stopped = suspended(grant(), day, RULES, Excuses(appeals=[upheld]), climbed=standing.climbed)
    assert stopped == f"The appeal of {day} was upheld."
    rejected = Excuses(appeals=[replace(upheld, upheld=False)])
    assert suspended(grant(), day, RULES, rejected, climbed=standing.climbed) is None


def test_nobody_decides_their_own_appeal_and_none_is_half_decided() -> None:
    with pytest.raises(Refused, match="not decided by who filed it"):
        Appeal(grant=NAME, filed=START, reason="x", by=HOLDER, decided=on(1), decided_by=HOLDER, upheld=True)
    with pytest.raises(InvalidInput, match="half decided"):
        Appeal(grant=NAME, filed=START, reason="x", by=HOLDER, decided=on(1))
    with pytest.raises(InvalidInput, match="before it was filed"):
        Appeal(grant=NAME, filed=on(1), reason="x", by=HOLDER, decided=START, decided_by=OFFICER, upheld=True)


def test_a_step_is_taken_back_by_a_person_and_its_waiting_days_begin_anew() -> None:
    use = flat(150, 0.0, 0.0)
    standing, steps = walk(use)
    today = steps[-1].day + timedelta(days=1)
    undone = undo(standing, RULES, today, by=OPERATOR)
    assert undone.step is not None
    assert (undone.step.before, undone.step.to, undone.step.by) == (Rung.RECALL, Rung.FINAL_WARNING, OPERATOR)
    assert undone.standing.proposed is None
    number = (today - START).days
    again = walk(use, standing=undone.standing, days=range(number, number + 20))[1]
    assert rungs(again) == [Rung.RECALL]
    assert again[0].day >= today + timedelta(days=RULES.waits[Rung.RECALL])
    notice = walk(use, days=range(1, (steps[0].day - START).days + 1))[0]
    bottom = undo(notice, RULES, steps[0].day, by=OPERATOR).standing
    assert (bottom.rung, bottom.since, bottom.climbed) == (Rung.REGULAR, None, None)
    assert bottom.cool_until == steps[0].day + timedelta(days=RULES.cool_down_days)
    with pytest.raises(Refused):
        undo(bottom, RULES, today, by=OPERATOR)


def test_shadow_says_what_would_have_happened_and_real_steps_begin_at_the_bottom() -> None:
    shadow = RULES.model_copy(update={"mode": Mode.SHADOW})
    use = flat(80, 0.0, 0.0)
    standing, steps = walk(use, rules=shadow)
    assert rungs(steps) == UP
    assert all(one.shadow for one in steps)
    real = walk(flat(120, 0.0, 0.0), standing=standing, days=range(81, 120))[1]
    assert real[0].to is Rung.NOTICE
    assert not any(one.shadow for one in real)


def test_a_grant_that_was_shrunk_begins_anew() -> None:
    standing, _ = walk(flat(80, 0.25, 0.2))
    assert standing.rung is Rung.RECALL
    shrunk = grant(gpus=16)
    use = [day(n, 0.25, 0.2) for n in range(80)] + [day(n, 0.5, 0.4, gpus=16) for n in range(80, 100)]
    standing, steps = walk(use, of=shrunk, standing=standing, days=range(81, 101))
    assert (steps, standing.gpus, standing.rung) == ([], 16, Rung.REGULAR)


def test_a_correction_that_comes_late_ends_the_ladder_on_the_next_day() -> None:
    wrong, right = flat(40, 0.0, 0.0), flat(40, 0.9, 0.8)
    standing, steps = walk(wrong)
    assert steps[-1].to is not Rung.REGULAR
    assert rungs(walk(right, standing=standing, days=[41])[1]) == [Rung.REGULAR]


def test_judging_late_takes_one_step_a_day_and_skips_none() -> None:
    use = flat(200, 0.0, 0.0)
    steps = walk(use, days=[100, 100, 100, 101, 150, 199])[1]
    assert rungs(steps) == [Rung.NOTICE, Rung.WARNING, Rung.FINAL_WARNING][: len(steps)]
    assert len({one.day for one in steps}) == len(steps)


def test_a_morning_before_the_last_step_changes_nothing() -> None:
    standing, steps = walk(flat(80, 0.0, 0.0))
    assert walk(flat(80, 0.0, 0.0), standing=standing, days=[10, 20])[0] == standing
    assert steps


def test_days_that_no_calendar_knows_take_nothing_from_anybody() -> None:
    start = date(2031, 1, 1)
    of = replace(grant(), starts=start, ends=date(2031, 12, 31))
    use = [UseDay(day=start + timedelta(days=n), gpus=GPUS, allocated=0, busy=0, peak=0) for n in range(100)]
    outcome = step(Standing(grant=NAME, gpus=GPUS), of, use, RULES, start + timedelta(days=100))
    assert outcome.step is None


def test_evidence_holds_the_numbers_of_the_window() -> None:
    use = [replace(day(n, 0.25, 0.1, loaded=0.1, burst=0.5), peak=5) for n in range(60)]
    notice: Step = walk(use)[1][0]
    evidence = notice.evidence
    assert evidence is not None
    assert (evidence.first, evidence.last) == (on(0), on(13))
    assert evidence.window.days == 14
    assert evidence.window.allocated == pytest.approx(0.25)
    assert evidence.window.busy == pytest.approx(0.2)
    assert (evidence.needed, evidence.proposed) == (5, 8)
    assert evidence.loaded == round(0.1 * GPUS * 24 * 14)
    assert evidence.burst == round(0.5 * GPUS * 24 * 14)
    assert notice.why == "Over 14 days 25 % of it was allocated and 20 % busy."
    assert (evidence.since_step, notice.proposal) == (None, None)


@pytest.mark.parametrize(
    ("min_gpus", "peak", "keeps"),
    [
        (8, 1, 8),  # never less than a server for who used some
        (24, 1, 24),  # nor less than is of use
        (8, 12, 16),  # 12 and a quarter on top are 15: two servers
        (8, 13, 24),  # 16.25: three
        (8, 19, 24),  # 23.75
    ],
)
def test_a_grant_is_shrunk_to_what_it_needs_in_whole_servers(min_gpus: int, peak: int, keeps: int) -> None:
    use = [day(n, 0.2, 0.16, peak=peak) for n in range(80)]
    assert walk(use, of=grant(min_gpus=min_gpus))[0].proposed == keeps


def test_one_day_at_the_peak_may_be_chance_two_are_a_need() -> None:
    once = [day(n, 0.2, 0.2, peak=32 if n % 40 == 0 else 6) for n in range(80)]
    twice = [day(n, 0.2, 0.2, peak=32 if n % 7 == 6 else 6) for n in range(80)]
    assert walk(once)[0].proposed == 8
    assert walk(twice)[1] == []


@pytest.mark.parametrize(
    "use",
    [
        {"gpus": -1},
        {"gpus": 8, "lost": 8 * DAY_SECONDS + 1},
        {"gpus": 8, "allocated": 8 * DAY_SECONDS + 1, "peak": 8},
        {"gpus": 8, "allocated": 5, "busy": -5, "peak": 1},
        {"gpus": 8, "allocated": 5},
        {"gpus": 8, "peak": 5},
        {"gpus": 8, "allocated": 5, "peak": 9},
        {"gpus": 8, "burst": -1},
    ],
)
def test_a_day_that_cannot_be_is_refused(use: dict[str, int]) -> None:
    with pytest.raises(InvalidInput):
        UseDay(day=START, **use)


def test_a_day_twice_and_another_grants_standing_are_refused() -> None:
    with pytest.raises(InvalidInput, match="twice"):
        walk([day(0, 0.5), day(0, 0.4)])
    with pytest.raises(InvalidInput, match="not of vision"):
        step(Standing(grant=GrantName("other"), gpus=8), grant(), [], RULES, on(3))


@pytest.mark.parametrize(
    "rules",
    [
        {"allocated_back": 10},
        {"busy_back": 10},
        {"waits": {"warning": 7}},
        {"waits": {"warning": 7, "final-warning": 7, "recall": 0}},
        {"waits": {"warning": 7, "final-warning": 7, "recall": 7, "notice": 7}},
        {"look_back_days": 10},
        {"burst_days": 36},
        {"window_dayz": 14},
        {"allocated_below": float("nan")},
        {"window_days": 10**9},
    ],
)
def test_rules_that_contradict_themselves_are_refused(rules: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        IdleRules.model_validate(rules)


def test_busy_only_decides_where_half_of_the_days_tell_of_it() -> None:
    few: Sequence[UseDay] = [day(n, 0.9, 0.0 if n % 14 < 6 else None, peak=0 if n % 14 < 6 else 2) for n in range(60)]
    most: Sequence[UseDay] = [day(n, 0.9, 0.0 if n % 14 < 8 else None, peak=0 if n % 14 < 8 else 2) for n in range(60)]
    assert walk(few)[1] == []
    assert rungs(walk(most)[1])[:1] == [Rung.NOTICE]
