"""Samples are kept once, as long as they should, whatever breaks in between."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from slurm_gpuaas.domain.errors import InvalidInput, Unavailable
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.telemetry import UNKNOWN, Metric, SampleBatch
from slurm_gpuaas.store.telemetry import Keep, Telemetry
from slurm_gpuaas.store.telemetry.chunk import Block, write_chunk
from slurm_gpuaas.store.telemetry.telemetry import BusyDay
from tests.unit.telemetry.batches import NODE, NOW, SERIALS, batch, files

DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
TODAY = NOW.date()
NINE = 9 * 60
"""The minute of the day that `NOW` begins."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "telemetry"


@pytest.fixture
def telemetry(folder: Path) -> Iterator[Telemetry]:
    telemetry = Telemetry(folder)
    yield telemetry
    telemetry.close()


def known(telemetry: Telemetry, day: date = TODAY, node: NodeName = NODE) -> BusyDay | None:
    return dict(telemetry.busy(day, [node])).get(node)


def busy(telemetry: Telemetry, minute: int = NINE, day: date = TODAY) -> list[int]:
    found = known(telemetry, day)
    return [] if found is None else found.busy[:, minute].tolist()


def reopened(telemetry: Telemetry, folder: Path) -> Telemetry:
    """After a kill -9: nothing was closed or synced."""
    return Telemetry(folder)


def test_samples_can_be_read_as_soon_as_they_are_taken(telemetry: Telemetry) -> None:
    assert telemetry.add(batch(NOW, [[180] * 4, [0] * 4], serials=SERIALS), now=NOW + MINUTE) == 4
    found = known(telemetry)
    assert found is not None
    assert (found.serials, found.busy[:, NINE].tolist(), found.samples[:, NINE].tolist()) == (SERIALS, [180, 0], [4, 4])
    assert found.busy[0, NINE + 1] == UNKNOWN
    assert int(found.samples.sum()) == 8


def test_the_same_batch_twice_is_once(telemetry: Telemetry, folder: Path) -> None:
    told = batch(NOW, [[180, 160, UNKNOWN, 100]])
    for _ in range(2):
        telemetry.add(told, now=NOW + MINUTE)
    before = known(telemetry)
    telemetry.tick(now=NOW + 2 * HOUR)
    assert files(folder) == ["hour/2027-01-04T09"]
    telemetry.add(told, now=NOW + 2 * HOUR)
    telemetry.tick(now=NOW + 2 * HOUR)
    after = known(telemetry)
    assert before is not None
    assert after is not None
    np.testing.assert_array_equal(before.busy, after.busy)
    np.testing.assert_array_equal(before.samples, after.samples)
    assert (after.busy[0, NINE], after.samples[0, NINE]) == (147, 3)


def test_what_is_known_is_not_made_unknown_by_a_later_batch(telemetry: Telemetry) -> None:
    telemetry.add(batch(NOW, [[180] * 4]), now=NOW)
    telemetry.add(batch(NOW, [[UNKNOWN] * 4]), now=NOW)
    assert busy(telemetry) == [180]


def test_a_gpu_that_appears_later_was_unknown_before(telemetry: Telemetry) -> None:
    telemetry.add(batch(NOW, [[180] * 4], serials=["a"]), now=NOW)
    telemetry.add(batch(NOW + MINUTE, [[160] * 4, [20] * 4], serials=[None, "b"]), now=NOW)
    found = known(telemetry)
    assert found is not None
    assert found.serials == ("a", "b")
    assert found.busy[:, NINE : NINE + 2].tolist() == [[180, 160], [UNKNOWN, 20]]


def test_a_batch_over_a_full_hour_is_kept_in_both(telemetry: Telemetry, folder: Path) -> None:
    begin = NOW - timedelta(seconds=30)
    telemetry.add(batch(begin, [[100, 100, 40, 40]]), now=NOW)
    assert files(folder) == ["log/2027-01-04T08", "log/2027-01-04T09"]
    assert (busy(telemetry, NINE - 1), busy(telemetry, NINE)) == ([100], [40])
    reread = reopened(telemetry, folder)
    assert (busy(reread, NINE - 1), busy(reread, NINE)) == ([100], [40])


@pytest.mark.parametrize(
    ("at", "taken"),
    [
        (timedelta(0), True),
        (timedelta(minutes=5), True),
        (timedelta(minutes=5, seconds=30), False),
        (-timedelta(hours=23, minutes=59), True),
        (-timedelta(hours=24, minutes=1), False),
    ],
)
def test_a_clock_that_is_off_is_bounded(telemetry: Telemetry, at: timedelta, taken: bool) -> None:
    told = batch(NOW + at, [[180]])
    if taken:
        telemetry.add(told, now=NOW)
    else:
        with pytest.raises(InvalidInput, match="synchronise"):
            telemetry.add(told, now=NOW)


def test_a_killed_daemon_loses_nothing_that_it_answered(telemetry: Telemetry, folder: Path) -> None:
    telemetry.add(batch(NOW, [[180] * 4]), now=NOW)
    assert busy(reopened(telemetry, folder)) == [180]


def test_a_torn_log_loses_only_its_last_line(telemetry: Telemetry, folder: Path) -> None:
    telemetry.add(batch(NOW, [[180] * 4]), now=NOW)
    telemetry.add(batch(NOW + MINUTE, [[20] * 4]), now=NOW)
    log = folder / "log" / "2027-01-04T09"
    os.truncate(log, log.stat().st_size - 5)
    again = reopened(telemetry, folder)
    assert (busy(again), busy(again, NINE + 1)) == ([180], [UNKNOWN])
    again.add(batch(NOW + MINUTE, [[20] * 4]), now=NOW)
    assert busy(reopened(again, folder), NINE + 1) == [20]


def test_a_damaged_line_of_a_log_costs_no_other(telemetry: Telemetry, folder: Path) -> None:
    for minute in range(3):
        telemetry.add(batch(NOW + minute * MINUTE, [[100 + minute] * 4]), now=NOW)
    log = folder / "log" / "2027-01-04T09"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(lines[0] + b"\0" * 40 + b"\n" + lines[2])
    again = reopened(telemetry, folder)
    assert [busy(again, NINE + minute) for minute in range(3)] == [[100], [UNKNOWN], [102]]


def test_a_disk_that_takes_no_more_is_said_and_costs_nothing_that_was_kept(
    telemetry: Telemetry, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    telemetry.add(batch(NOW, [[180] * 4]), now=NOW)
    with monkeypatch.context() as disk:
        disk.setattr(os, "pwrite", full)
        with pytest.raises(Unavailable, match="No space left"):
            telemetry.add(batch(NOW + MINUTE, [[20] * 4]), now=NOW)
    telemetry.add(batch(NOW + 2 * MINUTE, [[40] * 4]), now=NOW)
    again = reopened(telemetry, folder)
    assert [busy(again, NINE + minute) for minute in range(3)] == [[180], [UNKNOWN], [40]]


def fill(telemetry: Telemetry, *, until: datetime, begin: datetime = NOW) -> None:
    """An hour a batch, with the daemon's ticks in between."""
    at = begin
    while at < until:
        rest = {Metric.MEMORY: 150, Metric.POWER: 70, Metric.TEMPERATURE: 60, Metric.PROCESSES: 1}
        telemetry.add(batch(at, [[180] * 240], rest=rest), now=at + HOUR)
        telemetry.tick(now=at + HOUR)
        at += HOUR


def test_what_is_kept_how_long(telemetry: Telemetry, folder: Path) -> None:
    midnight = datetime.combine(TODAY, NOW.timetz()) - 9 * HOUR
    fill(telemetry, begin=midnight, until=midnight + DAY)
    expected = {
        DAY + MINUTE: ({"hour", "log"}, 1440),
        DAY + HOUR: ({"hour"}, 1440),
        2 * DAY + HOUR: ({"busy", "rest", "rest-hours"}, 1440),
        8 * DAY - MINUTE: ({"busy", "rest", "rest-hours"}, 1440),
        8 * DAY + MINUTE: ({"busy", "rest-hours"}, 24),
        91 * DAY - MINUTE: ({"busy", "rest-hours"}, 24),
        91 * DAY + MINUTE: (set(), None),
    }
    for after, (kinds, points) in expected.items():
        telemetry.tick(now=midnight + after)
        assert {name.split("/")[0] for name in files(folder)} == kinds, after
        found, rest = known(telemetry), telemetry.rest(TODAY, NODE)
        if points is None:
            assert found is None
            assert rest is None
            continue
        assert found is not None
        assert (found.busy == 180).all(), after
        assert (found.samples == 4).all(), after
        assert rest is not None
        assert rest.codes.shape == (4, 1, points), after
        assert rest.codes[:, 0].min(axis=1).tolist() == [150, 70, 60, 1], after


def test_hours_without_samples_of_a_day_are_unknown(telemetry: Telemetry) -> None:
    telemetry.add(batch(NOW, [[180] * 4], serials=["a"]), now=NOW)
    telemetry.tick(now=NOW + 3 * DAY)
    found = known(telemetry)
    assert found is not None
    assert found.serials == ("a",)
    assert (found.busy[0] != UNKNOWN).nonzero()[0].tolist() == [NINE]
    assert int(found.samples.sum()) == 4


def test_samples_that_come_late_are_merged_into_the_written_hour(telemetry: Telemetry, folder: Path) -> None:
    telemetry.add(batch(NOW, [[180] * 4]), now=NOW)
    telemetry.tick(now=NOW + 2 * HOUR)
    telemetry.add(batch(NOW + MINUTE, [[20] * 4]), now=NOW + 20 * HOUR)
    telemetry.add(batch(NOW, [[40] * 4], node="b200-002"), now=NOW + 20 * HOUR)
    assert (busy(telemetry), busy(telemetry, NINE + 1)) == ([180], [20])
    telemetry.tick(now=NOW + 20 * HOUR)
    assert files(folder) == ["hour/2027-01-04T09"]
    assert (busy(telemetry), busy(telemetry, NINE + 1)) == ([180], [20])
    other = known(telemetry, node=NodeName("b200-002"))
    assert other is not None
    assert other.busy[0, NINE] == 40


Step = Callable[[Path], None]


def crash_points() -> list[tuple[str, Step]]:
    """What a crash may leave of a day that was being put together, made from the files before and after."""

    def hours_beside_a_whole_day(before: Path) -> None:
        pass

    def only_busy(after: Path) -> None:
        for kind in ("rest", "rest-hours"):
            shutil.rmtree(after / kind)
            (after / kind).mkdir()

    def some_hours_gone(after: Path) -> None:
        for path in sorted((after / "hour").iterdir())[:2]:
            path.unlink()

    def a_file_half_written(after: Path) -> None:
        only_busy(after)
        (after / "rest" / ".2027-01-04.new").write_bytes(b"gpuaas-telem")

    return [
        ("the day is whole, its hours are still there", hours_beside_a_whole_day),
        ("one of the three files", only_busy),
        ("hours half deleted", some_hours_gone),
        ("a file half written", a_file_half_written),
    ]


@pytest.mark.parametrize(("where", "damage"), crash_points(), ids=[name for name, _ in crash_points()])
def test_killed_while_a_day_is_put_together_nothing_is_lost(where: str, damage: Step, tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    telemetry = Telemetry(before)
    fill(telemetry, until=NOW + 5 * HOUR)
    telemetry.tick(now=NOW + 6 * HOUR)
    shutil.copytree(before, after)
    again = Telemetry(after)
    again.tick(now=NOW + 3 * DAY)
    shutil.copytree(before / "hour", after / "hour", dirs_exist_ok=True)
    damage(after)
    again = Telemetry(after)
    again.tick(now=NOW + 3 * DAY)
    assert files(after / "hour") == []
    assert busy(again, NINE + 299) == [180]
    found = known(again)
    assert found is not None
    assert int((found.samples == 4).sum()) == 300
    assert again.rest(TODAY, NODE) is not None


def test_a_log_that_was_written_to_its_chunk_but_not_deleted_is_read_once(telemetry: Telemetry, folder: Path) -> None:
    telemetry.add(batch(NOW, [[180, UNKNOWN, UNKNOWN, UNKNOWN]]), now=NOW)
    log = (folder / "log" / "2027-01-04T09").read_bytes()
    telemetry.tick(now=NOW + 2 * HOUR)
    (folder / "log" / "2027-01-04T09").write_bytes(log)
    again = reopened(telemetry, folder)
    again.tick(now=NOW + 2 * HOUR)
    found = known(again)
    assert found is not None
    assert (found.busy[0, NINE], int(found.samples.sum())) == (180, 1)


@pytest.mark.parametrize("damage", ["cut", "index", "empty"])
def test_a_damaged_chunk_is_unknown_time_and_no_error(telemetry: Telemetry, folder: Path, damage: str) -> None:
    fill(telemetry, until=NOW + 2 * HOUR)
    telemetry.tick(now=NOW + 4 * HOUR)
    path = folder / "hour" / "2027-01-04T09"
    whole = path.read_bytes()
    path.write_bytes(
        {"cut": whole[:-10], "index": whole[:-30] + b"x" + whole[-29:], "empty": b""}[damage],
    )
    assert (busy(telemetry, NINE), busy(telemetry, NINE + 60)) == ([UNKNOWN], [180])
    telemetry.tick(now=NOW + 3 * DAY)
    assert (busy(telemetry, NINE), busy(telemetry, NINE + 60)) == ([UNKNOWN], [180])


def test_a_damaged_block_costs_one_node(tmp_path: Path) -> None:
    telemetry = Telemetry(tmp_path)
    table = np.full((2, 1, 1440), 100, np.uint8)
    nodes = [NodeName(f"n{number}") for number in range(3)]
    path = tmp_path / "busy" / TODAY.isoformat()
    write_chunk(path, [(node, Block((None,), table)) for node in nodes])
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"\x78", len(raw) // 4) + 8] ^= 0xFF
    path.write_bytes(bytes(raw))
    assert len(dict(telemetry.busy(TODAY, nodes))) == 2


def test_what_is_not_ours_in_the_folder_is_left_alone(telemetry: Telemetry, folder: Path) -> None:
    for kind in ("log", "hour", "busy"):
        (folder / kind / "README").write_text("mine")
    again = reopened(telemetry, folder)
    again.tick(now=NOW + 100 * DAY)
    assert files(folder) == ["busy/README", "hour/README", "log/README"]


def test_a_folder_that_cannot_be_used_is_said_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="cannot be used"):
        Telemetry(tmp_path / "file")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"values": b"\0" * 4}, "at least 5"),
        ({"values": b"\0" * 6}, "are not 1 to 240 slots"),
        ({"values": b"\0" * 1205}, "are not 1 to 240 slots"),
        ({"values": bytes([201]) + b"\0" * 4}, "busy has a code above 200"),
        ({"values": b"\0" + bytes([254]) + b"\0" * 3}, "memory has a code above 200"),
        ({"first": 7}, "multiple of 15"),
        ({"first": -15}, "greater than or equal"),
        ({"first": 15 * 2**30}, "less than"),
        ({"serials": ()}, "at least 1"),
        ({"serials": (None,) * 17}, "at most 16"),
        ({"serials": ("a\nb",)}, "pattern"),
        ({"serials": ("x" * 65,)}, "at most 64"),
        ({"node": "a/b"}, "not a valid node name"),
        ({"more": 1}, "not permitted"),
    ],
)
def test_a_batch_that_is_not_as_it_should_be_is_refused(change: dict[str, object], why: str) -> None:
    good = {"node": NODE, "first": 15, "serials": (None,), "values": b"\0" * 5}
    SampleBatch.model_validate(good)
    with pytest.raises((ValidationError, InvalidInput), match=why):
        SampleBatch.model_validate({**good, **change})


@given(raw=st.binary(max_size=400))
@settings(max_examples=200, deadline=None)
def test_no_body_crashes_the_reading(raw: bytes) -> None:
    with suppress(ValidationError, InvalidInput):
        SampleBatch.model_validate_json(raw)


SAMPLES_ = st.lists(st.sampled_from([0, 8, 100, 200, UNKNOWN]), min_size=1, max_size=40)


@given(st.lists(st.tuples(st.integers(0, 500), SAMPLES_), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_order_and_repetition_of_batches_do_not_matter_within_an_hour_that_is_open(
    tmp_path_factory: pytest.TempPathFactory, told: list[tuple[int, list[int]]]
) -> None:
    """Each slot has one true reading; batches tell parts of them."""
    truth = np.random.default_rng(len(told)).integers(0, 201, 600)
    batches = [
        batch(
            NOW + timedelta(seconds=15 * first),
            [[int(truth[first + n]) if code != UNKNOWN else UNKNOWN for n, code in enumerate(codes)]],
        )
        for first, codes in told
    ]
    results = []
    for order in (batches, [*reversed(batches), *batches]):
        telemetry = Telemetry(tmp_path_factory.mktemp("order"), Keep())
        for one in order:
            telemetry.add(one, now=NOW + 3 * HOUR)
        found = known(telemetry)
        assert found is not None
        results.append((found.busy.tolist(), found.samples.tolist()))
        telemetry.close()
    assert results[0] == results[1]
