"""What GPUs cost at most before anybody used them."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_gpuaas.domain.ledger import PoolRate
from slurm_gpuaas.domain.names import ProgrammeName
from slurm_gpuaas.metering.estimate import Cost, cost
from slurm_gpuaas.metering.ledger import Tariff
from tests.unit.metering.books import pool_rate
from tests.unit.pool.scene import NAVER, share

FIRST = date(2027, 2, 1)
DAYS = 28


def at_most(*rates: PoolRate, percent: str = "100", gpus: int = 8, days: int = DAYS, budget: int | None = None) -> Cost:
    return cost(
        Tariff((), rates),
        share(NAVER, 64),
        ProgrammeName("national"),
        percent=Decimal(percent),
        gpus=gpus,
        starts=FIRST,
        ends=FIRST + timedelta(days=days - 1),
        budget=budget,
    )


def rate(won: int, starts: str = "2027-01-01") -> PoolRate:
    return pool_rate(name=f"h200-{starts}", won_per_gpu_hour=won, starts=starts, burst_discount=50)


HOURS = 8 * DAYS * 24


@pytest.mark.parametrize(
    ("found", "most", "burst_hour", "capped"),
    [
        pytest.param(at_most(rate(4_000)), HOURS * 4_000, 2_000, False, id="whole-price"),
        pytest.param(at_most(rate(4_000), percent="2.5"), HOURS * 100, 50, False, id="own-share"),
        pytest.param(at_most(percent="0"), 0, 0, False, id="free-without-a-rate"),
        pytest.param(at_most(), None, None, False, id="no-rate"),
        pytest.param(at_most(budget=5_000), 5_000, None, True, id="no-rate-and-a-budget"),
        pytest.param(at_most(rate(4_000), budget=5_000), 5_000, 2_000, True, id="budget-first"),
        pytest.param(at_most(rate(4_000), budget=10**9), HOURS * 4_000, 2_000, False, id="budget-never"),
        pytest.param(
            at_most(rate(4_000), rate(5_000, "2027-02-15")), HOURS // 2 * 9_000, 2_000, False, id="a-rate-follows"
        ),
        pytest.param(at_most(rate(4_000, "2027-02-02")), None, None, False, id="first-day-has-no-rate"),
        pytest.param(at_most(rate(4_000), rate(9_000, "2027-03-01")), HOURS * 4_000, 2_000, False, id="after-the-end"),
    ],
)
def test_the_most(found: Cost, most: int | None, burst_hour: int | None, capped: bool) -> None:
    assert (found.most, found.burst_hour, found.capped) == (most, burst_hour, capped)


@given(
    days=st.integers(2, 400),
    cut=st.data(),
    gpus=st.integers(1, 1_000),
    won=st.integers(0, 20_000),
    later=st.integers(0, 20_000),
)
def test_two_parts_of_a_period_cost_together_what_the_whole_costs(
    days: int, cut: st.DataObject, gpus: int, won: int, later: int
) -> None:
    rates = (rate(won), rate(later, "2027-03-10"))
    first = cut.draw(st.integers(1, days - 1))

    def part(starts: date, length: int) -> int:
        found = cost(
            Tariff((), rates),
            share(NAVER, 64),
            ProgrammeName("national"),
            percent=Decimal(100),
            gpus=gpus,
            starts=starts,
            ends=starts + timedelta(days=length - 1),
            budget=None,
        ).most
        assert found is not None
        return found

    assert part(FIRST, days) == part(FIRST, first) + part(FIRST + timedelta(days=first), days - first)
