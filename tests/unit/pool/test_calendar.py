"""The sweep over the calendar against counting day by day."""

from __future__ import annotations

from datetime import date, timedelta

from hypothesis import given
from hypothesis import strategies as st

from slurm_gpuaas.domain.calendar import Commitment, cut, overcommitted, peak, room
from slurm_gpuaas.domain.names import PoolShareName

FIRST = date(2027, 1, 1)
SHARE = PoolShareName("nhn.b200.government")
DAYS = st.integers(0, 20).map(lambda days: FIRST + timedelta(days=days))


@st.composite
def commitments(draw: st.DrawFn) -> Commitment:
    starts, ends = sorted((draw(DAYS), draw(DAYS)))
    return Commitment(
        holder=draw(st.sampled_from(["g1", "g2"])), share=SHARE, gpus=draw(st.integers(1, 9)), starts=starts, ends=ends
    )


CALENDARS = st.lists(commitments(), max_size=12)


def by_day(calendar: list[Commitment], starts: date, ends: date) -> list[tuple[int, date]]:
    days = [starts + timedelta(days=number) for number in range((ends - starts).days + 1)]
    return [(sum(one.gpus for one in calendar if one.starts <= day <= one.ends), day) for day in days]


@given(CALENDARS, DAYS, DAYS)
def test_the_peak_is_the_fullest_day_and_the_first_such(calendar: list[Commitment], one: date, two: date) -> None:
    starts, ends = sorted((one, two))
    days = by_day(calendar, starts, ends)
    most = max(gpus for gpus, _ in days)
    found = peak(calendar, starts, ends)
    assert (found.gpus, found.day) == (most, next(day for gpus, day in days if gpus == most))


@given(CALENDARS, DAYS, DAYS, st.integers(0, 30))
def test_what_there_is_room_for_never_overcommits_and_one_more_does(
    calendar: list[Commitment], one: date, two: date, spare: int
) -> None:
    starts, ends = sorted((one, two))
    capacity = peak(calendar, FIRST, FIRST + timedelta(days=20)).gpus + spare
    free = room(capacity, calendar, starts, ends)
    new = [Commitment(holder="new", share=SHARE, gpus=gpus, starts=starts, ends=ends) for gpus in (free, free + 1)]
    assert overcommitted(capacity, [*calendar, new[0]], since=FIRST) is None
    assert overcommitted(capacity, [*calendar, new[1]], since=FIRST) is not None


@given(CALENDARS, DAYS)
def test_cutting_leaves_the_past_and_takes_the_rest(calendar: list[Commitment], since: date) -> None:
    before = since - timedelta(days=1)
    left = list(cut(calendar, since))
    assert by_day(left, FIRST, before) == by_day(calendar, FIRST, before)
    assert all(gpus == 0 for gpus, _ in by_day(left, since, FIRST + timedelta(days=21)))


def test_on_one_day_what_has_ended_makes_room_for_what_begins() -> None:
    first = Commitment(holder="g1", share=SHARE, gpus=8, starts=FIRST, ends=date(2027, 1, 10))
    second = Commitment(holder="g2", share=SHARE, gpus=8, starts=date(2027, 1, 11), ends=date(2027, 1, 20))
    assert overcommitted(8, [first, second], since=FIRST) is None
