"""What could start now, segments, queue and releases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm_gpuaas.domain.fleet_map import Cells, CellState, FleetLayout
from slurm_gpuaas.portal.map.placement import near_pairs, packed
from slurm_gpuaas.portal.map.rail import SEGMENTS, Waiting, rail, rooms
from slurm_gpuaas.portal.map.source import UnitNodes
from tests.unit.portal_map.fleets import NOW, cluster


def cells_of(layout: FleetLayout, free: list[int]) -> Cells:
    cells = Cells.unknown(layout.cells)
    cells.state[:] = CellState.BUSY
    cells.idle[:] = 0
    cells.state[free] = CellState.FREE
    return cells


def nodes(*numbers: int) -> list[int]:
    return [cell for node in numbers for cell in range(node * 8, node * 8 + 8)]


@pytest.mark.parametrize(
    ("free", "whole", "unit", "gpus", "segments"),
    [
        ([], 0, (0, ""), 0, []),
        (nodes(0)[:5], 0, (0, ""), 5, []),
        (nodes(0, 1), 2, (2, "su00"), 8, [2]),
        (nodes(0, 4, 5, 6), 4, (3, "su01"), 8, [1, 2]),
        (nodes(*range(8)), 8, (4, "su00"), 8, [4, 4]),
    ],
)
def test_room_counts_wholly_free_nodes_by_unit(
    free: list[int], whole: int, unit: tuple[int, str], gpus: int, segments: list[int]
) -> None:
    layout = FleetLayout((cluster(),))
    (room,) = rooms(layout, cells_of(layout, free))
    assert (room.nodes, (room.unit_nodes, room.unit_name), room.node_gpus) == (whole, unit, gpus)
    assert list(room.segments) == [segments.count(size) for size in SEGMENTS]


def test_no_job_is_promised_nodes_of_two_shares() -> None:
    layout = FleetLayout((cluster(own=1),))
    found = {room.share: (room.nodes, room.unit_nodes) for room in rooms(layout, cells_of(layout, nodes(*range(8))))}
    assert found == {"government": (6, 3), "own": (2, 1)}


@given(st.lists(st.booleans(), min_size=64, max_size=64))
@settings(max_examples=60, deadline=None)
def test_a_segment_counts_under_the_largest_size_that_it_holds(free: list[bool]) -> None:
    layout = FleetLayout((cluster(units=1, nodes=64),))
    (room,) = rooms(layout, cells_of(layout, nodes(*(n for n, is_free in enumerate(free) if is_free))))
    held = [size for size in SEGMENTS if size <= sum(free)]
    assert list(room.segments) == [int(bool(held) and size == held[-1]) for size in SEGMENTS]


def test_the_median_wait_is_that_of_all_sites_together() -> None:
    layout = FleetLayout((cluster(),))
    now = int(NOW.timestamp()) // 60
    waiting = [
        Waiting("Priority", 8, (now - 10,)),
        Waiting("Resources", 24, (now - 100, now - 50, now - 1)),
        Waiting("Priority", 16, (now - 20, now - 30)),
    ]
    sums = rail(layout, Cells.unknown(layout.cells), {}, waiting, NOW)
    assert sums["waiting"] == [["Priority", 3, 24, 20], ["Resources", 3, 24, 50]]


def test_releases_fall_into_the_hour_in_which_the_limit_ends_and_no_other() -> None:
    layout = FleetLayout((cluster(),))
    at = NOW.timestamp()
    jobs = {
        str(n): {"until": at + after, "gpus": n}
        for n, after in enumerate((-1, 0, 3599, 3600, 24 * 3600 - 1, 24 * 3600))
    }
    releases = rail(layout, Cells.unknown(layout.cells), {**jobs, "9": {"gpus": 99}}, [], NOW)["releases"]
    assert {hour: gpus for hour, gpus in enumerate(releases) if gpus} == {0: 1 + 2, 1: 3, 23: 4}


@pytest.mark.parametrize(("won", "told"), [(1_000, 3_000), (None, None)])
def test_held_but_idle_gpus_have_a_price_only_where_all_prices_are_known(won: int | None, told: int | None) -> None:
    layout = FleetLayout((cluster(won=won),))
    cells = cells_of(layout, nodes(7))
    cells.idle[:3] = 10
    cells.idle[3] = 9
    cells.idle[4] = 65_535
    cells.idle[60] = 500  # free: nobody pays for it
    sums = rail(layout, cells, {}, [], NOW)
    assert (sums["idle"], sums.get("won")) == (3, told)


@pytest.mark.parametrize(
    ("wanted", "room", "units"),
    [
        (4, {"a": 8, "b": 4}, {"b": 4}),
        (10, {"a": 8, "b": 4, "c": 2}, {"a": 8, "c": 2}),
        (13, {"a": 8, "b": 4}, {}),
        (1, {}, {}),
    ],
)
def test_a_job_is_packed_on_the_fewest_units_and_leaves_the_least_over(
    wanted: int, room: dict[str, int], units: dict[str, int]
) -> None:
    assert packed(wanted, room) == tuple(UnitNodes(unit=unit, nodes=count) for unit, count in units.items())


@given(st.integers(1, 40), st.lists(st.integers(0, 12), max_size=6))
@settings(deadline=None)
def test_packing_takes_no_more_units_than_any_choice_could(wanted: int, sizes: list[int]) -> None:
    chosen = packed(wanted, {f"u{n}": size for n, size in enumerate(sizes)})
    roomiest = np.cumsum(sorted(sizes, reverse=True))
    assert len(chosen) == (int(np.searchsorted(roomiest, wanted)) + 1 if sum(sizes) >= wanted else 0)
    assert sum(one.nodes for one in chosen) in {0, wanted}


@pytest.mark.parametrize(("counts", "near"), [([1], 1), ([4], 1), ([2, 2], 1 / 3), ([1, 1, 1], 0), ([3, 1], 0.5)])
def test_near_pairs_are_those_within_one_unit(counts: list[int], near: float) -> None:
    assert near_pairs(counts) == pytest.approx(near)
