"""Charts: bars stand on each other, within the picture, as high as their figures."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_gpuaas.portal.charts import HEIGHT, LEFT, TOP, WIDTH, Series, ceiling, short, stacked

TWO = (Series("one", "first"), Series("two", "second"))
FIGURES = st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), max_size=24)


@given(FIGURES)
def test_bars_stand_on_each_other_within_the_picture(figures: list[tuple[int, int]]) -> None:
    chart = stacked("Month", TWO, [(str(place), pair) for place, pair in enumerate(figures)])
    assert len(chart.bars) == sum(figure > 0 for pair in figures for figure in pair)
    assert len(chart.labels) <= 12
    assert [row for _, row in chart.rows] == figures
    for bar in chart.bars:
        assert bar.x >= LEFT and bar.x + bar.width <= WIDTH + 0.01
        assert bar.y >= TOP - 0.1 and bar.y + bar.height <= HEIGHT
    for lower, upper in pairwise(chart.bars):
        if lower.x == upper.x:
            assert upper.y + upper.height == pytest.approx(lower.y, abs=0.02)


def test_a_bar_is_as_high_as_its_figure() -> None:
    chart = stacked("Month", TWO, [("a", (50, 25)), ("b", (100, 0))])
    heights = [bar.height for bar in chart.bars]
    assert [heights[0] / heights[2], heights[1] / heights[2]] == pytest.approx([0.5, 0.25], abs=0.001)
    assert [text for _, text in chart.ticks] == ["0", "50", "100"]
    assert chart.bars[2].y == TOP


@pytest.mark.parametrize(
    ("most", "axis"), [(0, 1), (1, 1), (1.5, 2), (2, 2), (3, 4), (4.1, 5), (6, 8), (8.1, 10), (99, 100), (1_032, 2_000)]
)
def test_an_axis_ends_at_a_round_number(most: float, axis: float) -> None:
    assert ceiling(most) == axis


@given(st.floats(0, 1e15))
def test_an_axis_is_never_lower_than_its_bars_and_not_much_higher(most: float) -> None:
    assert most <= ceiling(most) <= max(2 * most, 1)


@pytest.mark.parametrize(("number", "text"), [(0, "0"), (0.5, "0.5"), (2_000, "2k"), (1_500_000, "1.5M"), (4e12, "4T")])
def test_an_axis_speaks_shortly(number: float, text: str) -> None:
    assert short(number) == text
