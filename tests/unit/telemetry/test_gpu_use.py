"""Whose minutes they were: runs on nodes, counted in what telemetry knows of these."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.names import AccountName, ClusterName, NodeName, PartitionName, QosName, UserName
from slurm_gpuaas.domain.telemetry import SLOTS_A_MINUTE, UNKNOWN, Metric
from slurm_gpuaas.domain.usage import UsageRecord, Window
from slurm_gpuaas.metering.gpu_use import MOST_POINTS, Curve, Stay, Use, measure, measure_node, minute_of, stays_of
from slurm_gpuaas.store.telemetry import Telemetry
from tests.unit.telemetry.batches import NOW, batch

MINUTE = timedelta(minutes=1)
ONE, TWO = NodeName("b200-001"), NodeName("b200-002")
LATER = NOW + timedelta(hours=2)
"""When one asks: all samples have arrived."""
WINDOW = Window(NOW - timedelta(hours=1), NOW + timedelta(hours=1))


def run(
    *, gpus: int, started: datetime = NOW, minutes: float | None = 10, job: int = 7, nodes: str = ONE
) -> UsageRecord:
    return UsageRecord(
        cluster=ClusterName("mini"),
        job_id=JobId(job),
        user=UserName("nobody"),
        account=AccountName("vision"),
        qos=QosName("guaranteed-vision"),
        partition=PartitionName("own"),
        model=None,
        gpus=gpus,
        started=started,
        ended=None if minutes is None else started + minutes * MINUTE,
        gpu_seconds=0,
        state="COMPLETED",
        nodes=nodes,
    )


@pytest.fixture
def telemetry(tmp_path: Path) -> Iterator[Telemetry]:
    telemetry = Telemetry(tmp_path)
    yield telemetry
    telemetry.close()


def busy(telemetry: Telemetry, node: str, minutes: Sequence[int], *, gpus: int = 2, at: datetime = NOW) -> None:
    """The same code for all samples of a minute, on all GPUs."""
    codes = [code for code in minutes for _ in range(SLOTS_A_MINUTE)]
    telemetry.add(batch(at, [codes] * gpus, node=node), now=LATER)


def use_of(
    telemetry: Telemetry, records: Sequence[UsageRecord], nodes: Sequence[NodeName], now: datetime = LATER
) -> dict[str, Use]:
    stays = [stay for record in records for stay in stays_of(str(record.job_id), record, nodes, WINDOW, now=now)]
    return measure(telemetry, stays, Curve(minute_of(WINDOW.start), minute_of(WINDOW.end)))


@pytest.mark.parametrize(
    ("second", "minute"), [(0, 0), (29, 0), (30, 0), (31, 1), (60, 1), (90, 1), (91, 2)], ids=lambda value: str(value)
)
def test_a_minute_is_of_the_run_that_has_its_middle(second: int, minute: int) -> None:
    assert minute_of(datetime.fromtimestamp(second, UTC)) == minute


def test_a_run_on_a_whole_node_has_its_busy_idle_and_unknown_minutes(telemetry: Telemetry) -> None:
    busy(telemetry, ONE, [180] * 4 + [0] * 3 + [UNKNOWN] * 3)
    use = use_of(telemetry, [run(gpus=2)], [ONE])["7"]
    assert (use.tally.known, use.tally.idle, use.tally.unknown, use.shared) == (14, 6, 6, 0)
    assert use.tally.mean_busy == pytest.approx(4 * 90 / 7)


def test_two_runs_one_after_the_other_share_no_minute(telemetry: Telemetry) -> None:
    busy(telemetry, ONE, [180] * 5 + [0] * 5)
    second = run(gpus=2, job=8, started=NOW + 4.7 * MINUTE, minutes=5.3)
    found = use_of(telemetry, [run(gpus=2, minutes=4.7), second], [ONE])
    assert (found["7"].tally.known, found["7"].tally.idle) == (10, 0)
    assert (found["8"].tally.known, found["8"].tally.idle) == (10, 10)


def test_a_run_that_shared_its_node_is_unknown_there(telemetry: Telemetry) -> None:
    busy(telemetry, ONE, [180] * 10, gpus=8)
    use = use_of(telemetry, [run(gpus=2)], [ONE])["7"]
    assert (use.tally.known, use.tally.idle, use.tally.unknown, use.shared) == (0, 0, 20, 20)


def test_of_a_node_that_says_nothing_all_is_unknown(telemetry: Telemetry) -> None:
    busy(telemetry, ONE, [180] * 10)
    use = use_of(telemetry, [run(gpus=4)], [ONE, TWO])["7"]
    assert (use.tally.known, use.tally.unknown, use.shared) == (20, 20, 0)


def test_a_gpu_that_telemetry_never_saw_is_unknown_beside_the_others(telemetry: Telemetry) -> None:
    busy(telemetry, ONE, [180] * 10, gpus=7)
    use = use_of(telemetry, [run(gpus=8)], [ONE])["7"]
    assert (use.tally.known, use.tally.unknown) == (70, 10)


def test_only_the_part_within_the_window_counts(telemetry: Telemetry) -> None:
    busy(telemetry, ONE, [180] * 60, at=WINDOW.start)
    busy(telemetry, ONE, [180] * 60)
    whole = run(gpus=2, started=WINDOW.start - timedelta(days=3), minutes=None)
    use = use_of(telemetry, [whole], [ONE])["7"]
    assert (use.tally.known, use.tally.unknown) == (240, 0)


def test_what_is_still_on_its_way_is_not_unknown(telemetry: Telemetry) -> None:
    busy(telemetry, ONE, [180] * 9)
    use = use_of(telemetry, [run(gpus=2, minutes=None)], [ONE], now=NOW + 11 * MINUTE)["7"]
    assert (use.tally.known, use.tally.unknown) == (18, 0)
    use = use_of(telemetry, [run(gpus=2, minutes=None)], [ONE], now=NOW + 14 * MINUTE)["7"]
    assert (use.tally.known, use.tally.unknown) == (18, 4)


def test_a_run_over_days_is_counted_from_both(telemetry: Telemetry) -> None:
    midnight = NOW.replace(hour=0)
    busy(telemetry, ONE, [180] * 20, at=midnight - 10 * MINUTE)
    window = Window(midnight - timedelta(hours=1), midnight + timedelta(hours=1))
    curve = Curve(minute_of(window.start), minute_of(window.end))
    stays = stays_of("7", run(gpus=2, started=midnight - 10 * MINUTE, minutes=20), [ONE], window, now=LATER)
    assert measure(telemetry, stays, curve)["7"].tally.known == 40
    assert [point is not None for point in curve.percent()] == [25 <= number < 35 for number in range(MOST_POINTS)]
    telemetry.tick(now=NOW + timedelta(days=5))
    assert measure(telemetry, stays, curve)["7"].tally.known == 40


def test_a_curve_has_no_points_shorter_than_a_minute(telemetry: Telemetry) -> None:
    busy(telemetry, ONE, [180, 90, UNKNOWN, 0])
    curve = Curve(minute_of(NOW), minute_of(NOW + 4 * MINUTE))
    measure(telemetry, [Stay("7", ONE, 2, curve.first, curve.end)], curve)
    assert curve.percent() == (90.0, 45.0, None, 0.0)
    assert Curve(5, 5).percent() == ()


def test_a_node_tells_each_of_its_gpus(telemetry: Telemetry) -> None:
    rest = {Metric.MEMORY: 100, Metric.POWER: 70, Metric.TEMPERATURE: 61, Metric.PROCESSES: 2}
    told = batch(NOW, [[180] * 40, [0] * 40], serials=["a", None], rest=rest)
    telemetry.add(told, now=LATER)
    stay = Stay("", ONE, 3, minute_of(NOW), minute_of(NOW + 12 * MINUTE))
    first, second, third = measure_node(telemetry, stay, minute_of(LATER), Curve(stay.first, stay.end))
    assert (first.serial, first.tally.known, first.tally.idle, first.tally.unknown) == ("a", 10, 0, 2)
    assert dict(first.rest) == {
        Metric.MEMORY: 50.0,
        Metric.POWER: 700.0,
        Metric.TEMPERATURE: 61.0,
        Metric.PROCESSES: 2.0,
    }
    assert (second.serial, second.tally.idle) == (None, 10)
    assert (third.tally.known, third.tally.unknown, third.rest[Metric.POWER]) == (0, 12, None)
