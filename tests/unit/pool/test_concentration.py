"""Caps of a programme: what earlier rounds hold counts, at drafting, at approval and down the waiting list."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_gpuaas.domain.calendar import Commitment
from slurm_gpuaas.domain.errors import Refused
from slurm_gpuaas.domain.names import OrganisationName
from slurm_gpuaas.domain.programmes import Caps, Region
from slurm_gpuaas.pool.concentration import Cap, Holding, check_caps, over_caps, room_under_caps
from tests.unit.pool.scene import DIRECTOR, KIM, NHN, TODAY, Pool, organisation, programme


def holding(of: str, gpus: int, first: int, last: int) -> Holding:
    """From one day to another, counted from today."""
    days = {"starts": TODAY + timedelta(days=first), "ends": TODAY + timedelta(days=last)}
    return Holding(OrganisationName(of), Region.SEOUL, Commitment(holder="a2027-00001", share=NHN, gpus=gpus, **days))


holdings = st.builds(
    lambda of, gpus, first, days: holding(of, gpus, first, first + days),
    st.sampled_from(["snu", "kaist"]),
    st.integers(1, 40),
    st.integers(0, 6),
    st.integers(0, 6),
)


@given(st.lists(holdings, max_size=6), st.integers(1, 60), st.integers(1, 90), st.integers(0, 6), st.integers(0, 6))
def test_exactly_the_room_under_the_caps_can_be_awarded(
    held: list[Holding], by_organisation: int, by_region: int, first: int, days: int
) -> None:
    rules = programme(caps=Caps(organisation=by_organisation, region=by_region))
    window = holding("snu", 1, first, first + days).commitment
    room = room_under_caps(rules, organisation("snu"), held, window.starts, window.ends)
    assert room is not None

    def passes(gpus: int) -> bool:
        """The days of the window alone: on others the held ones may pass a cap by themselves."""
        inside = [
            replace(one, commitment=replace(one.commitment, starts=max(one.commitment.starts, window.starts), ends=end))
            for one in held
            if (end := min(one.commitment.ends, window.ends)) >= max(one.commitment.starts, window.starts)
        ]
        return bool(over_caps(rules, [holding("snu", gpus, first, first + days)], inside, since=TODAY))

    assert passes(room + 1)
    if room:
        assert not passes(room)


def test_a_cap_that_is_passed_is_told_with_its_day_and_what_is_held_already() -> None:
    rules = programme(caps=Caps(organisation=32))
    held = [holding("snu", 16, 0, 10), holding("snu", 8, 5, 20), holding("kaist", 32, 0, 30)]
    (over,) = over_caps(rules, [holding("snu", 16, 8, 40)], held, since=TODAY)
    assert (over.cap, over.name, over.gpus, over.held, over.day) == (
        Cap.ORGANISATION,
        "snu",
        40,
        24,
        TODAY + timedelta(days=8),
    )
    assert over_caps(rules, [holding("snu", 16, 11, 40)], held, since=TODAY) == ()


def test_a_cap_that_others_pass_stops_nobody_else() -> None:
    rules = programme(caps=Caps(organisation=8))
    assert over_caps(rules, [holding("snu", 8, 0, 9)], [holding("kaist", 64, 0, 9)], since=TODAY) == ()


def test_one_award_is_held_against_its_own_cap() -> None:
    rules = programme(caps=Caps(per_project=16))
    check_caps(rules, [holding("snu", 16, 0, 9)], [], since=TODAY)
    with pytest.raises(Refused, match="cap of one award is 16"):
        check_caps(rules, [holding("snu", 24, 0, 9)], [], since=TODAY)
    assert room_under_caps(rules, organisation("snu"), [], TODAY, TODAY) == 16
    assert room_under_caps(programme(), organisation("snu"), [], TODAY, TODAY) is None


# -- In the service ----------------------------------------------------------------------------------------------------


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    pool = Pool.new(tmp_path / "pool.db", programme(caps=Caps(organisation=32)))
    yield pool
    pool.store.close()


def test_rounds_that_keep_the_cap_each_alone_do_not_pass_it_together(pool: Pool) -> None:
    one, two = pool.reviewed(gpus=32), pool.reviewed(gpus=16)
    pool.closed()
    first, second = pool.drafted((one, NHN, 32)), pool.drafted((two, NHN, 16))
    pool.service.approve_award(pool.id, DIRECTOR, first.id)
    with pytest.raises(Refused, match="snu would have 48 GPUs on 2027-02-01, 32 of them already now; its cap is 32"):
        pool.service.approve_award(pool.id, DIRECTOR, second.id)
    assert len(pool.register.offers.all()) == 1
    with pytest.raises(Refused, match="snu would have 48"):
        pool.drafted((two, NHN, 16))


def test_a_declined_offer_no_longer_counts(pool: Pool) -> None:
    one, two = pool.reviewed(gpus=32), pool.reviewed(gpus=32)
    pool.closed()
    offer = pool.offered(one, NHN)
    pool.service.decline_offer(pool.id, KIM, offer.id, "too late")
    assert pool.offered(two, NHN).gpus == 32


def test_the_waiting_list_keeps_the_caps(pool: Pool) -> None:
    one, two, other = pool.reviewed(gpus=16), pool.reviewed(gpus=32, points=90), pool.reviewed("kaist", gpus=8)
    pool.closed()
    award = pool.drafted((one, NHN, 16), waiting=(two, other))
    pool.service.approve_award(pool.id, DIRECTOR, award.id)
    pool.service.tick()
    offered = {offer.application: offer.gpus for offer in pool.register.offers.all()}
    assert offered == {one.id: 16, two.id: 16, other.id: 8}  # two: what the cap leaves, in whole servers


def test_who_is_at_the_cap_is_passed_over_on_the_waiting_list(pool: Pool) -> None:
    one, two, other = pool.reviewed(gpus=32), pool.reviewed(gpus=8, points=90), pool.reviewed("kaist", gpus=8)
    pool.closed()
    pool.service.approve_award(pool.id, DIRECTOR, pool.drafted((one, NHN, 32), waiting=(two, other)).id)
    pool.service.tick()
    assert {offer.application for offer in pool.register.offers.all()} == {one.id, other.id}
    assert [waiting.id for waiting in pool.service.waiting_list(programme().name)] == [two.id]
