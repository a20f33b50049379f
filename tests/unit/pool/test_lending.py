"""Government GPUs lent to a provider's own share, and back on the day."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm_gpuaas.domain.calendar import FURTHEST_DAY, Commitment, peak
from slurm_gpuaas.domain.errors import InvalidInput, Refused
from slurm_gpuaas.domain.names import PoolShareName
from slurm_gpuaas.pool.lending import (
    Lease,
    LendingRules,
    earliest_start,
    first_return,
    give_back,
    lend,
)

TODAY = date(2027, 1, 1)
CAPACITY = 64
SHARE = PoolShareName("nhn.b200.government")
RULES = LendingRules(longest_days=60, shortest_days=7, notice_days=14, cleaning_days=1)


def on(number: int) -> date:
    return TODAY + timedelta(days=number)


def row(id: str, gpus: int, first: int, last: int) -> Commitment:
    return Commitment(holder=id, share=SHARE, gpus=gpus, starts=on(first), ends=on(last))


def lease(id: str, gpus: int, first: int, last: int) -> Lease:
    return Lease(holder=id, share=SHARE, gpus=gpus, starts=on(first), ends=on(last))


def asked(calendar: list[Commitment], *, gpus: int = CAPACITY, first: int = 0, last: int = 29) -> list[Lease]:
    return lend(SHARE, CAPACITY, calendar, gpus=gpus, starts=on(first), until=on(last), rules=RULES, holder="r")


@pytest.mark.parametrize(
    ("calendar", "gpus", "leases"),
    [
        pytest.param([], 24, [lease("r.1", 24, 0, 29)], id="what is free is lent"),
        pytest.param([], 30, [lease("r.1", 24, 0, 29)], id="in whole servers"),
        pytest.param([row("a", 40, -90, 200)], 64, [lease("r.1", 24, 0, 29)], id="only what nobody has"),
        pytest.param([row("a", 64, 20, 200)], 64, [lease("r.1", 64, 0, 18)], id="until cleaning before an award"),
        pytest.param(
            [row("a", 16, 20, 200), row("b", 32, 25, 200)],
            64,
            [lease("r.1", 16, 0, 29), lease("r.2", 32, 0, 23), lease("r.3", 16, 0, 18)],
            id="less and less as awards begin",
        ),
        pytest.param([row("a", 64, 7, 200)], 64, [], id="not for days that are not worth it"),
        pytest.param([row("a", 64, 8, 200)], 64, [lease("r.1", 64, 0, 6)], id="a week is"),
        pytest.param([row("a", 64, -9, -1)], 8, [], id="nor before the last holder's GPUs are clean"),
        pytest.param([row("a", 64, -9, -2)], 8, [lease("r.1", 8, 0, 29)], id="clean again"),
        pytest.param([lease("x", 64, -9, -1)], 8, [lease("r.1", 8, 0, 29)], id="nothing to clean after a lease"),
        pytest.param([row("a", 64, 10, 12)], 64, [lease("r.1", 64, 0, 8)], id="a lease does not come back by itself"),
        pytest.param([row("a", 80, 0, 100)], 8, [], id="nothing where there is less than nothing"),
    ],
)
def test_leases(calendar: list[Commitment], gpus: int, leases: list[Lease]) -> None:
    assert asked(calendar, gpus=gpus) == leases


def test_no_lease_is_longer_than_the_rules_allow() -> None:
    assert asked([], last=400) == [lease("r.1", 64, 0, 59)]


def test_requests_that_cannot_be_are_refused() -> None:
    with pytest.raises(InvalidInput):
        asked([], gpus=0)
    with pytest.raises(InvalidInput):
        asked([], last=-1)


def test_an_award_that_comes_later_takes_the_youngest_lease_first_and_in_time() -> None:
    calendar = [lease("old", 32, -20, 60), lease("young", 32, -10, 50), row("new", 40, 20, 100)]
    short = {one.lease.holder: one.ends for one in give_back(CAPACITY, calendar, today=TODAY, rules=RULES)}
    assert short == {"young": on(18), "old": on(18)}
    calendar[2] = row("new", 32, 20, 100)
    short = {one.lease.holder: one.ends for one in give_back(CAPACITY, calendar, today=TODAY, rules=RULES)}
    assert short == {"young": on(18)}


def test_a_lease_that_has_not_begun_goes_without_notice() -> None:
    calendar = [lease("later", 64, 3, 50), row("new", 8, 4, 100)]
    found = give_back(CAPACITY, calendar, today=TODAY, rules=RULES)
    assert [(one.lease.holder, one.ends) for one in found] == [("later", None)]


def test_an_award_sooner_than_notice_is_refused_and_told_its_first_day() -> None:
    calendar: list[Commitment] = [lease("x", 64, -3, 50)]
    first = first_return(TODAY, RULES)
    assert first == on(16)
    with pytest.raises(Refused, match=f"Let it start on {first} or later"):
        give_back(CAPACITY, [*calendar, row("new", 8, 15, 40)], today=TODAY, rules=RULES)
    found = give_back(CAPACITY, [*calendar, row("new", 8, 16, 40)], today=TODAY, rules=RULES)
    assert found[0].ends == on(14), "14 days of notice, a day of cleaning"


def test_a_share_that_is_over_committed_without_leases_is_said() -> None:
    with pytest.raises(InvalidInput, match="without leases hold more"):
        give_back(CAPACITY, [row("a", 40, 0, 9), row("b", 40, 5, 9)], today=TODAY, rules=RULES)
    with pytest.raises(Refused, match="the share has 64"):
        earliest_start(CAPACITY, [], gpus=72, wanted=TODAY, days=5, today=TODAY, rules=RULES)


rows = st.builds(
    lambda number, gpus, first, long: row(f"c{number}", gpus, first, first + long),
    st.integers(0, 10**6),
    st.integers(0, 32),
    st.integers(-20, 80),
    st.integers(0, 60),
)


def within(capacity: int, calendar: list[Commitment]) -> list[Commitment]:
    """Those that fit, one after another, as the calendar itself takes them."""
    kept: list[Commitment] = []
    for number, one in enumerate(calendar):
        if peak([*kept, one], on(-20), on(150)).gpus <= capacity:
            kept.append(replace(one, holder=f"c{number}"))
    return kept


def holds(one: Commitment, number: int) -> bool:
    return one.starts <= on(number) <= one.ends


@settings(max_examples=60, deadline=None)
@given(st.lists(rows, max_size=12), st.integers(1, 80), st.integers(-5, 40), st.integers(0, 90))
def test_no_day_is_over_committed_and_every_lease_ends_before_a_known_start(
    calendar: list[Commitment], gpus: int, first: int, long: int
) -> None:
    firm = within(CAPACITY, calendar)
    leases = asked(firm, gpus=gpus, first=first, last=first + long)
    for number in range(first, first + long + 2):
        held = sum(one.gpus for one in [*firm, *leases] if holds(one, number))
        assert held <= CAPACITY
        cleaned = [replace(one, starts=one.starts - timedelta(days=1)) for one in firm]
        lent = sum(one.gpus for one in leases if holds(one, number))
        assert not lent or lent + sum(one.gpus for one in cleaned if holds(one, number)) <= CAPACITY
    assert sum(one.gpus for one in leases) <= gpus
    assert all(7 <= (one.ends - one.starts).days + 1 <= 60 and one.gpus % 8 == 0 for one in leases)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(rows, max_size=8), st.lists(rows, max_size=4), st.integers(1, 64), st.integers(0, 60), st.integers(1, 60)
)
def test_a_new_award_starts_on_the_first_day_it_can_and_its_leases_are_back_by_then(
    calendar: list[Commitment], lent: list[Commitment], gpus: int, wanted: int, days: int
) -> None:
    fitting = within(CAPACITY, [*calendar, *lent])
    mixed: list[Commitment] = [
        Lease(holder=f"l{number}", share=SHARE, gpus=one.gpus, starts=one.starts, ends=one.ends)
        if number % 3 == 0
        else one
        for number, one in enumerate(fitting)
    ]
    start = earliest_start(CAPACITY, mixed, gpus=gpus, wanted=on(wanted), days=days, today=TODAY, rules=RULES)
    assert start >= on(wanted)
    new = Commitment(holder="new", share=SHARE, gpus=gpus, starts=start, ends=start + timedelta(days=days - 1))
    shortened = {one.lease.holder: one.ends for one in give_back(CAPACITY, [*mixed, new], today=TODAY, rules=RULES)}
    after = [
        one if one.holder not in shortened else replace(one, ends=shortened[one.holder])  # type: ignore[arg-type]
        for one in [*mixed, new]
        if one.holder not in shortened or shortened[one.holder] is not None
    ]
    assert peak(after, on(-20), on(250)).gpus <= CAPACITY
    begun = [shortened[one.holder] for one in mixed if one.holder in shortened and one.starts <= TODAY]
    assert all(end is not None and end >= on(RULES.notice_days) for end in begun)
    if start > on(wanted):
        sooner = replace(new, starts=start - timedelta(days=1), ends=new.ends - timedelta(days=1))
        dirty = [replace(one, ends=one.ends + timedelta(days=1)) if isinstance(one, Lease) else one for one in mixed]
        assert peak([*dirty, sooner], sooner.starts, sooner.ends).gpus > CAPACITY


def test_after_a_lease_that_ends_by_itself_there_is_time_to_clean() -> None:
    found = earliest_start(CAPACITY, [lease("x", 64, -9, 3)], gpus=8, wanted=on(2), days=9, today=TODAY, rules=RULES)
    assert found == on(5)


def test_a_row_without_an_end_is_written_to_the_calendars_last_day() -> None:
    forever = Commitment(holder="a", share=SHARE, gpus=60, starts=TODAY, ends=FURTHEST_DAY)
    assert asked([forever]) == []
    found = earliest_start(CAPACITY, [forever], gpus=4, wanted=on(2), days=9, today=TODAY, rules=RULES)
    assert found == on(2)
