"""Won are exact, and rounded once."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_gpuaas.domain.jobs import ServiceClass
from slurm_gpuaas.domain.money import Price, whole_won

PERCENT = st.decimals(0, 100, places=2)
RATES = st.integers(0, 10_000_000)

# Rate a GPU-hour, burst discount, percent of the market price; Won of one GPU-hour as guaranteed and as burst.
PRICES = [
    ("market price", 5_000, "0", "100", 5_000, 5_000),
    ("a third off for burst", 5_000, "33.33", "100", 5_000, 3_333),
    ("a start-up pays a tenth", 5_000, "50", "10", 500, 250),
    ("a young firm pays half of a twentieth", 5_000, "0", "2.5", 125, 125),
    ("a university pays nothing", 5_000, "50", "0", 0, 0),
    ("burst is free", 5_000, "100", "100", 5_000, 0),
    ("less than a Won is not charged", 1, "0", "99.99", 0, 0),
]


@pytest.mark.parametrize(("rate", "discount", "percent", "guaranteed", "burst"), [row[1:] for row in PRICES],
                         ids=[row[0] for row in PRICES])  # fmt: skip
def test_an_hour_costs(rate: int, discount: str, percent: str, guaranteed: int, burst: int) -> None:
    price = Price.of(rate, burst_discount=Decimal(discount), price_percent=Decimal(percent))
    found = [whole_won(3600 * price.of_class(service)) for service in (ServiceClass.GUARANTEED, ServiceClass.BURST)]
    assert found == [guaranteed, burst]


@given(rate=RATES, discount=PERCENT, percent=PERCENT, parts=st.lists(st.integers(0, 10**9)))
def test_the_parts_cost_exactly_what_the_whole_costs(
    rate: int, discount: Decimal, percent: Decimal, parts: list[int]
) -> None:
    price = Price.of(rate, burst_discount=discount, price_percent=percent)
    for each in (price.guaranteed, price.burst):
        assert sum((part * each for part in parts), Fraction(0)) == sum(parts) * each
        assert all(part * each - 1 < whole_won(part * each) <= part * each for part in parts)


@given(rate=RATES, discount=PERCENT, percent=PERCENT)
def test_burst_is_never_dearer(rate: int, discount: Decimal, percent: Decimal) -> None:
    price = Price.of(rate, burst_discount=discount, price_percent=percent)
    assert 0 <= price.burst <= price.guaranteed
