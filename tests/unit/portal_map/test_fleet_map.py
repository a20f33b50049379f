"""Pictures as bytes, and what sites push."""

from __future__ import annotations

import base64
import json
import zlib
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.fleet_map import (
    CELL_BYTES,
    Cells,
    FleetLayout,
    Picture,
    delta,
    head,
    merge_patch,
    merged,
    read,
    whole,
)
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.site_frame import SiteFrame
from tests.unit.portal_map.fleets import NOW, cluster, frame, job

keys = st.text("abc", min_size=1, max_size=2)
leaves = st.integers(-5, 5) | st.text(max_size=3) | st.lists(st.integers(0, 3), max_size=3)
tables = st.recursive(leaves, lambda inner: st.dictionaries(keys, inner, max_size=3), max_leaves=10)
objects = st.dictionaries(keys, tables, max_size=4)


@st.composite
def pictures(draw: st.DrawFn, count: int, sequence: int) -> Picture:
    raw = draw(st.binary(min_size=count * CELL_BYTES, max_size=count * CELL_BYTES))
    moment = draw(st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1))).replace(tzinfo=UTC)
    moment -= timedelta(microseconds=moment.microsecond % 1000)
    return Picture(7, sequence, moment, Cells(np.frombuffer(raw, np.uint8).copy()), draw(objects))


def same(one: Picture, other: Picture) -> bool:
    return (one.layout, one.sequence, one.moment, one.table) == (
        other.layout,
        other.sequence,
        other.moment,
        other.table,
    ) and one.cells.raw.tobytes() == other.cells.raw.tobytes()


@given(st.data(), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_whatever_two_pictures_are_whole_and_delta_bring_back_the_second(data: st.DataObject, count: int) -> None:
    before, after = data.draw(pictures(count, 1)), data.draw(pictures(count, 2))
    assert same(read(whole(before)), before)
    assert same(read(delta(before, after), before), after)


@given(objects, objects)
@settings(max_examples=50, deadline=None)
def test_a_merge_patch_turns_one_table_into_the_other_and_leaves_the_first_alone(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    kept = json.dumps(before, sort_keys=True)
    assert merged(before, merge_patch(before, after)) == after
    assert json.dumps(before, sort_keys=True) == kept


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_a_damaged_picture_is_refused_or_read_whole_and_never_crashes(data: st.DataObject) -> None:
    good = bytearray(whole(data.draw(pictures(3, 1))))
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(good[: data.draw(st.integers(0, len(good)))])
    try:
        picture = read(cut)
    except ValueError:
        return
    assert picture.cells.count == head(cut).cells


def test_a_delta_is_refused_without_its_base_or_with_another() -> None:
    one, two, three = (Picture(7, n, NOW, Cells.unknown(4)) for n in (1, 2, 3))
    for base in (None, three, Picture(8, 1, NOW, Cells.unknown(4)), Picture(7, 1, NOW, Cells.unknown(5))):
        with pytest.raises(ValueError, match="difference to picture 1"):
            read(delta(one, two), base)


def test_a_picture_that_unpacks_to_more_than_it_says_is_refused_without_unpacking_it() -> None:
    data = bytearray(whole(Picture(7, 1, NOW, Cells.unknown(4))))
    with pytest.raises(ValueError, match="does not hold the 38 bytes"):
        read(bytes(data[:36]) + zlib.compress(bytes(20_000_000)))


def test_cells_of_a_node_follow_the_layout() -> None:
    a, b = cluster("alpha", units=2, nodes=3), cluster("beta", units=1, nodes=2)
    layout = FleetLayout((a, b))
    assert layout.cells == 6 * 8 + 2 * 8
    assert layout.of_node(b, NodeName("beta-001")) == slice(56, 64)
    assert layout.number != FleetLayout((b, a)).number


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"uuid_tails": ("abcd",)}, "1 UUIDs"),
        ({"uuid_tails": ("<script>",) * 64}, "strange UUID"),
        ({"gpus_per_node": 17}, "less than or equal to 16"),
        ({"won_per_gpu_hour": -1}, "greater than or equal to 0"),
        ({"surprise": 1}, "Extra inputs"),
    ],
)
def test_a_layout_that_makes_no_sense_is_refused(change: dict[str, Any], says: str) -> None:
    told = json.loads(cluster().model_dump_json(exclude_none=True)) | change
    with pytest.raises(ValidationError, match=says):
        type(cluster()).model_validate(told)


def test_a_layout_that_names_a_node_twice_or_no_share_is_refused() -> None:
    told = json.loads(cluster().model_dump_json())
    twice = json.loads(json.dumps(told))
    twice["units"][1]["nodes"][0] = told["units"][0]["nodes"][0]
    with pytest.raises(ValidationError, match="names a node twice"):
        type(cluster()).model_validate(twice)
    told["units"][0]["shares"].pop()
    with pytest.raises(ValidationError, match="4 nodes and 3 shares"):
        type(cluster()).model_validate(told)


def test_a_frame_survives_its_way_as_json() -> None:
    sent = frame(cluster(), {job(1): range(8), job(2, "baekdu-lab"): range(8, 12)})
    got = SiteFrame.model_validate_json(sent.model_dump_json(exclude_defaults=True))
    assert got == sent
    assert got.unpacked().job.tolist() == [1] * 8 + [2] * 4 + [0] * 52


def test_a_frame_that_names_a_job_twice_is_refused() -> None:
    with pytest.raises(ValidationError, match="names a job twice"):
        frame(cluster(), {job(1): range(8), job(1, "baekdu-lab"): range(8, 12)})


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        ({"state": {0: 8}}, "state 8"),
        ({"job": {0: 2}}, "of job 2; there are 1 jobs"),
        ({"job": {0: 0}}, "held by no job"),
        ({"job": {20: 1}}, "free with one"),
    ],
)
def test_a_frame_whose_cells_contradict_its_jobs_is_refused(edit: dict[str, dict[int, int]], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        frame(cluster(), {job(1): range(8)}, edit=edit).unpacked()


@pytest.mark.parametrize(
    "planes",
    ["", "not base64!", base64.b64encode(b"no zlib").decode(), base64.b64encode(zlib.compress(bytes(10**7))).decode()],
)
def test_planes_that_are_not_what_they_should_be_are_refused(planes: str) -> None:
    good = frame(cluster(), {})
    with pytest.raises(InvalidInput, match="cannot be read"):
        good.model_copy(update={"planes": planes}).unpacked()
