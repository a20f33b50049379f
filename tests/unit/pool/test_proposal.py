"""What right-sizing is given of a programme and of earlier grants."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_gpuaas.domain.calendar import Commitment
from slurm_gpuaas.domain.names import PoolGrantId
from slurm_gpuaas.pool.proposal import FEWEST_DAYS, measured_use, offered_by
from tests.unit.pool.scene import NAVER, NHN, programme, share

GRANT = PoolGrantId("g2027-00001")
FIRST = date(2027, 1, 1)
DAY = 24 * 3_600


def held(gpus: int, first: int, days: int) -> Commitment:
    starts = FIRST + timedelta(days=first)
    return Commitment(holder=GRANT, share=NHN, gpus=gpus, starts=starts, ends=starts + timedelta(days=days - 1))


@pytest.mark.parametrize(
    ("rules", "capacities", "most"),
    [
        pytest.param({"beyond": None}, (32, 64), 64, id="the largest size"),
        pytest.param({"beyond": None}, (8, 20), 16, id="a size that the largest share holds"),
        pytest.param({"beyond": 8}, (32, 99), 96, id="steps above it"),
        pytest.param({"beyond": 8}, (4, 4), 64, id="no share that holds a size: not what decides"),
        pytest.param({"beyond": 8, "caps": {"per_project": 32}}, (32, 200), 32, id="no more than a project may have"),
    ],
)
def test_what_a_programme_offers(rules: dict[str, object], capacities: tuple[int, int], most: int) -> None:
    offered = offered_by(programme(**rules), [share(NAVER, capacities[0]), share(NHN, capacities[1])])
    assert offered.most == most
    assert programme(**rules).offers_size(offered.most)


@given(
    beyond=st.none() | st.integers(1, 64),
    capacity=st.integers(0, 1_000),
    gpus=st.floats(0, 2_000),
    cap=st.integers(1, 200),
)
def test_only_sizes_of_the_programme_are_proposed(beyond: int | None, capacity: int, gpus: float, cap: int) -> None:
    rules = programme(beyond=beyond, caps={"per_project": cap})
    assert rules.offers_size(offered_by(rules, [share(NHN, capacity)]).up(gpus))


@pytest.mark.parametrize(
    ("spans", "days", "used_gpu_days", "part"),
    [
        pytest.param([(16, 0, 60)], 10, 80, 0.5, id="half of ten days"),
        pytest.param([(16, 0, 5), (8, 5, 55)], 10, 90, 0.75, id="shrunk on the way"),
        pytest.param([(16, 0, 60)], 10, 200, 1.0, id="a run that is still going counts up to all"),
        pytest.param([(16, 0, 60)], FEWEST_DAYS - 1, 80, None, id="hardly begun"),
        pytest.param([(16, 0, 60)], 10, 0, None, id="nothing reported"),
        pytest.param([(16, 20, 60)], 10, 80, None, id="still to begin"),
    ],
)
def test_what_part_of_a_grant_was_in_use(
    spans: list[tuple[int, int, int]], days: int, used_gpu_days: int, part: float | None
) -> None:
    commitments = [held(*span) for span in spans]
    found = measured_use(GRANT, commitments, used_gpu_days * DAY, FIRST + timedelta(days=days))
    assert (None if found is None else found.allocated) == part
