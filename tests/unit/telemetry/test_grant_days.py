"""What a project used of its own GPUs on a Korean day: exact where Slurm knows it, honest where samples are missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_gpuaas.domain.names import AccountName, NodeName, QosName
from slurm_gpuaas.domain.outages import Outage, OutageCause
from slurm_gpuaas.domain.telemetry import UNKNOWN, Metric
from slurm_gpuaas.domain.usage import UsageRecord
from slurm_gpuaas.metering.grant_days import DayUse, day_of, lost_by_grant, use_of_day
from slurm_gpuaas.store.telemetry import Telemetry
from tests.unit.telemetry.batches import batch
from tests.unit.telemetry.test_gpu_use import ONE, TWO, run

DAY = date(2027, 1, 4)
MIDNIGHT = day_of(DAY).start
NINE = datetime(2027, 1, 4, 0, 0, tzinfo=UTC)
"""In the morning in Korea."""
VISION = AccountName("vision")
HOUR = 3600


@pytest.fixture
def telemetry(tmp_path: Path) -> Iterator[Telemetry]:
    telemetry = Telemetry(tmp_path)
    yield telemetry
    telemetry.close()


def hours(telemetry: Telemetry, code: int, *, count: int = 1, at: datetime = NINE, memory: int = UNKNOWN) -> None:
    """Two GPUs of node ONE, all samples of hours alike."""
    for number in range(count):
        begin = at + timedelta(hours=number)
        told = batch(begin, [[code] * 240] * 2, node=ONE, rest={Metric.MEMORY: memory})
        telemetry.add(told, now=begin + timedelta(hours=2))


def used(telemetry: Telemetry, *runs: UsageRecord, day: date = DAY) -> DayUse:
    return use_of_day(telemetry, [measured(one) for one in runs], day)[VISION]


def measured(one: UsageRecord) -> UsageRecord:
    assert one.ended is not None
    return replace(one, gpu_seconds=one.gpus * int((one.ended - one.started).total_seconds()))


def two_hours(**more: object) -> UsageRecord:
    return replace(run(gpus=2, started=NINE, minutes=120), **more)  # type: ignore[arg-type]


def test_gpus_that_computed_are_busy(telemetry: Telemetry) -> None:
    hours(telemetry, 160, count=2)
    assert used(telemetry, two_hours()) == DayUse(allocated=4 * HOUR, busy=4 * HOUR, peak=2)


def test_a_job_that_sleeps_is_held_and_not_busy(telemetry: Telemetry) -> None:
    hours(telemetry, 0, count=2, memory=2)
    assert used(telemetry, two_hours()) == DayUse(allocated=4 * HOUR, busy=0, peak=0)


def test_a_model_server_that_waits_is_loaded(telemetry: Telemetry) -> None:
    hours(telemetry, 0, count=2, memory=180)
    assert used(telemetry, two_hours()) == DayUse(allocated=4 * HOUR, busy=0, loaded=4 * HOUR, peak=2)


def test_half_of_the_samples_stand_for_all_and_less_for_nothing(telemetry: Telemetry) -> None:
    hours(telemetry, 160)
    assert used(telemetry, two_hours()).busy == 4 * HOUR
    assert used(telemetry, replace(run(gpus=2, started=NINE, minutes=130))).busy is None


def test_a_shared_node_tells_nothing_of_one_job(telemetry: Telemetry) -> None:
    hours(telemetry, 0, count=2)
    assert used(telemetry, two_hours(gpus=1)) == DayUse(allocated=2 * HOUR, busy=None, peak=1)


def test_without_any_job_nothing_is_held_and_that_is_known(telemetry: Telemetry) -> None:
    assert use_of_day(telemetry, [], DAY) == {}
    over = used(telemetry, two_hours(), day=DAY + timedelta(days=1))
    assert over == DayUse()


def test_borrowed_gpus_are_told_apart(telemetry: Telemetry) -> None:
    assert used(telemetry, two_hours(qos=QosName("burst-vision"))) == DayUse(burst=4 * HOUR)


def test_a_run_over_midnight_is_cut_there_in_korean_time(telemetry: Telemetry) -> None:
    over = run(gpus=2, started=MIDNIGHT - timedelta(hours=1), minutes=180, nodes="")
    assert [used(telemetry, over, day=day).allocated for day in (DAY - timedelta(days=1), DAY)] == [2 * HOUR, 4 * HOUR]


@given(
    st.lists(
        st.tuples(st.integers(-40_000, 90_000), st.integers(1, 200_000), st.integers(1, 16), st.booleans()), max_size=8
    )
)
def test_the_days_of_runs_add_up_to_the_runs(runs: list[tuple[int, int, int, bool]]) -> None:
    class Nothing:
        def busy(self, day: object, nodes: object) -> Iterator[None]:
            return iter(())

        def rest(self, day: object, node: object) -> None:
            return None

    records = [
        measured(
            replace(
                run(gpus=gpus, started=MIDNIGHT + timedelta(seconds=begin), nodes=f"{ONE},{TWO}"),
                ended=MIDNIGHT + timedelta(seconds=begin + length),
                qos=QosName("burst-vision" if burst else "guaranteed-vision"),
            )
        )
        for begin, length, gpus, burst in runs
    ]
    days = [use_of_day(Nothing(), records, DAY + timedelta(days=number)) for number in range(-1, 5)]  # type: ignore[arg-type]
    found = [one[VISION] for one in days if VISION in one]
    assert sum(one.allocated + one.burst for one in found) == sum(one.gpu_seconds for one in records)
    assert all(one.peak * 86_400 >= one.allocated for one in found)


class TestLost:
    def outage(self, node: str, first: float, hours: float) -> Outage:
        since = MIDNIGHT + timedelta(hours=first)
        until = since + timedelta(hours=hours)
        return Outage(node=NodeName(node), since=since, until=until, cause=OutageCause.FAULT, reason="")

    def test_what_is_left_falls_short_and_each_grant_bears_its_part(self) -> None:
        nodes = {ONE: 8, TWO: 8}
        found = lost_by_grant({"a": 12, "b": 4}, nodes, [self.outage(ONE, 6, 12)], DAY)
        assert found == {"a": 6 * 12 * HOUR, "b": 2 * 12 * HOUR}

    def test_spares_make_up_for_broken_nodes(self) -> None:
        assert lost_by_grant({"a": 8}, {ONE: 8, TWO: 8}, [self.outage(ONE, 0, 24)], DAY) == {"a": 0}

    def test_two_outages_of_one_node_at_a_time_are_one(self) -> None:
        twice = [self.outage(ONE, 0, 12), self.outage(ONE, 6, 6), self.outage("other", 0, 24)]
        assert lost_by_grant({"a": 8}, {ONE: 8}, twice, DAY) == {"a": 8 * 12 * HOUR}
