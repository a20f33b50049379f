"""Minutes and hours are what one would reckon by hand, sample by sample; what is missing counts nowhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm_gpuaas.domain.telemetry import IDLE_BELOW_PERCENT, UNKNOWN, Metric, decode, encode
from slurm_gpuaas.store.telemetry.rollup import SAMPLES, Codes, Tally, mean_of, merged, minutes_of, tally

SAMPLE = st.none() | st.integers(0, 200)


@pytest.mark.parametrize(
    ("metric", "value", "code"),
    [
        (Metric.BUSY, 0.0, 0),
        (Metric.BUSY, 100.0, 200),
        (Metric.BUSY, 49.8, 100),
        (Metric.BUSY, None, UNKNOWN),
        (Metric.BUSY, -1.0, UNKNOWN),
        (Metric.BUSY, 4_294_967_295.0, UNKNOWN),  # what some drivers say for "do not know"
        (Metric.BUSY, math.nan, UNKNOWN),
        (Metric.MEMORY, 100.4, UNKNOWN),
        (Metric.POWER, 704.0, 70),
        (Metric.POWER, 9_999.0, 254),
        (Metric.TEMPERATURE, 61.0, 61),
        (Metric.PROCESSES, 400.0, 254),
    ],
)
def test_a_reading_has_one_code_and_what_cannot_be_is_unknown(metric: Metric, value: float | None, code: int) -> None:
    assert encode(metric, value) == code


@given(st.floats(0, 100))
def test_a_code_is_within_half_a_step_of_the_reading(percent: float) -> None:
    value = decode(Metric.BUSY, encode(Metric.BUSY, percent))
    assert value is not None
    assert abs(value - percent) <= 0.25


@given(st.lists(st.lists(SAMPLE, min_size=4, max_size=4), min_size=1, max_size=30))
@settings(max_examples=200, deadline=None)
def test_a_tally_of_minutes_is_that_of_their_samples(minutes: list[list[int | None]]) -> None:
    codes = np.array([[UNKNOWN if one is None else one for minute in minutes for one in minute]], np.uint8)
    busy, known = mean_of(codes, 4)
    found = tally(busy, known)

    told = [[one for one in minute if one is not None] for minute in minutes]
    means = [sum(minute) / len(minute) for minute in told if minute]
    samples = [one for minute in told for one in minute]
    assert (found.known, found.unknown, found.samples) == (len(means), len(minutes) - len(means), len(samples))
    # A minute's mean is kept to half a percent, so one next to the threshold may fall to either side of it.
    threshold = IDLE_BELOW_PERCENT * 2
    assert sum(mean < threshold - 0.5 for mean in means) <= found.idle <= sum(mean < threshold + 0.5 for mean in means)
    if samples:
        assert found.mean_busy == pytest.approx(sum(samples) / len(samples) / 2, abs=0.25)
    else:
        assert found.mean_busy is None


def test_missing_is_unknown_never_idle() -> None:
    silent = np.full((3, 8), UNKNOWN, np.uint8)
    busy, known = mean_of(silent, 4)
    assert tally(busy, known) == Tally(known=0, idle=0, unknown=6)
    assert tally(busy, known).mean_busy is None


def table(*minutes: tuple[int, int]) -> Codes:
    """One GPU's minutes (busy, known samples), nothing else known."""
    made = np.full((SAMPLES + 1, 1, len(minutes)), UNKNOWN, np.uint8)
    made[0, 0], made[SAMPLES, 0] = zip(*minutes, strict=True)
    return made


@pytest.mark.parametrize(
    ("older", "newer", "expected"),
    [
        ((100, 4), (UNKNOWN, 0), (100, 4)),
        ((UNKNOWN, 0), (100, 4), (100, 4)),
        ((80, 2), (100, 4), (100, 4)),
        ((80, 4), (100, 2), (80, 4)),
        ((80, 2), (100, 2), (80, 2)),
        ((UNKNOWN, 0), (UNKNOWN, 0), (UNKNOWN, 0)),
    ],
)
def test_of_two_tellings_of_a_minute_the_fuller_stands(
    older: tuple[int, int], newer: tuple[int, int], expected: tuple[int, int]
) -> None:
    once = merged(table(older), table(newer))
    assert (once[0, 0, 0], once[SAMPLES, 0, 0]) == expected
    np.testing.assert_array_equal(merged(once, table(newer)), once)


def test_a_gpu_that_only_one_telling_has_is_kept() -> None:
    wide = minutes_of(np.full((5, 2, 4), 20, np.uint8), 4)
    assert merged(table((80, 4)), wide).shape == (SAMPLES + 1, 2, 1)
    assert merged(wide, table((80, 4)))[0].tolist() == [[20], [20]]
