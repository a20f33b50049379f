"""GPU-seconds and Won: what counts, in which window, for whom."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.policy import Policy
from slurm_gpuaas.domain.usage import UsageRecord, Window
from slurm_gpuaas.metering.accounting import meter
from slurm_gpuaas.metering.rules import (
    Dimension,
    day,
    gpu_seconds_in,
    metered_until,
    month,
    pricing,
    totals,
)
from slurm_gpuaas.slurm.records import AccountingJob
from tests.unit.metering.runs import T0, at, run
from tests.unit.policies import grant, policy, pool, project, rate

NOVEMBER = month(2026, 11)


def metered(job: AccountingJob, as_of: int = 0) -> UsageRecord:
    record = meter(job, as_of=at(as_of))
    assert record is not None
    return record


def test_an_ended_run_counts_its_gpus_times_its_seconds() -> None:
    assert metered(run(gpus=16, start=100, end=160, state="COMPLETED")).gpu_seconds == 16 * 60


def test_a_running_one_counts_until_now_and_says_until_when() -> None:
    record = metered(run(gpus=8, start=100), as_of=150)
    assert (record.gpu_seconds, record.ended, metered_until(record)) == (400, None, at(150))


def test_a_run_that_starts_after_our_clock_counts_nothing_yet() -> None:
    assert metered(run(start=10), as_of=5).gpu_seconds == 0


@pytest.mark.parametrize(
    "job",
    [run(start=None, state="CANCELLED"), run(gpus=0, start=0, end=50, state="COMPLETED")],
    ids=["never started", "no GPU"],
)
def test_a_run_without_gpus_or_start_is_not_usage(job: AccountingJob) -> None:
    assert meter(job, as_of=at(100)) is None


def test_the_model_is_unsaid_when_a_run_has_two() -> None:
    one, both = run(), {"gres/gpu": 16, "gres/gpu:b200": 8, "gres/gpu:h200": 8}
    assert metered(one).model == "b200"
    mixed = AccountingJob(**{f: getattr(one, f) for f in one.__slots__} | {"tres_alloc": both})
    assert metered(mixed).model is None


def test_sacct_states_with_words_after_them_are_cut() -> None:
    assert metered(run(start=0, end=5, state="CANCELLED by 1000")).state == "CANCELLED"


def test_a_name_we_cannot_hold_is_said() -> None:
    with pytest.raises(InvalidInput, match="user name"):
        meter(run(user="DOMAIN\\alice"), as_of=at(0))


def test_korean_days_and_months_start_at_15_utc() -> None:
    assert day(date(2026, 11, 22)).start.astimezone(UTC) == datetime(2026, 11, 21, 15, tzinfo=UTC)
    assert Window(day(date(2026, 11, 1)).start, day(date(2026, 11, 30)).end) == NOVEMBER
    assert month(2026, 12).end == month(2027, 1).start


seconds = st.integers(min_value=-400_000, max_value=400_000)


@given(
    start=seconds,
    length=st.integers(min_value=0, max_value=300_000),
    gpus=st.integers(min_value=1, max_value=1_032),
    cuts=st.lists(seconds, max_size=8),
    running=st.booleans(),
)
def test_windows_that_tile_a_period_add_up_to_it(
    start: int, length: int, gpus: int, cuts: list[int], running: bool
) -> None:
    end = start + length
    job = run(start=start, end=None if running else end, gpus=gpus, state="RUNNING" if running else "COMPLETED")
    record = metered(job, as_of=end)
    edges = [-1_000_000, *sorted(cuts), 1_000_000]
    parts = [gpu_seconds_in(record, Window(at(a), at(b))) for a, b in pairwise(edges)]
    assert sum(parts) == record.gpu_seconds == gpus * length


def test_a_job_over_new_year_in_korea_is_cut_at_midnight_there() -> None:
    midnight = month(2027, 1).start
    job = run(start=int((midnight - T0).total_seconds()) - 3600, end=int((midnight - T0).total_seconds()) + 7200)
    record = metered(job)
    assert [gpu_seconds_in(record, month(2026, 12)), gpu_seconds_in(record, month(2027, 1))] == [8 * 3600, 8 * 7200]


def test_totals_keep_guaranteed_burst_preempted_and_failed_apart() -> None:
    records = [
        metered(run(1, start=0, end=100, state="COMPLETED")),
        metered(run(2, start=0, end=50, state="PREEMPTED", qos="burst-unlimited")),
        metered(run(2, start=60, end=70, state="COMPLETED", qos="burst-unlimited")),
        metered(run(3, start=0, end=30, state="NODE_FAIL")),
        metered(run(4, start=0, end=10, state="COMPLETED", account="speech", qos="guaranteed-speech", user="bob")),
    ]
    speech, vision = totals(records, NOVEMBER)
    assert (speech.key, speech.gpu_seconds, speech.burst) == (("speech",), 80, 0)
    assert (vision.key, vision.runs, vision.guaranteed, vision.burst) == (("vision",), 4, 8 * 130, 8 * 60)
    assert (vision.preempted, vision.node_failed) == (8 * 50, 8 * 30)


@given(
    jobs=st.lists(
        st.builds(
            run,
            st.integers(1, 50),
            start=st.integers(0, 1_000),
            end=st.integers(1_000, 2_000),
            gpus=st.sampled_from([1, 8, 128]),
            state=st.sampled_from(["COMPLETED", "PREEMPTED", "NODE_FAIL"]),
            user=st.sampled_from(["alice", "bob"]),
            account=st.sampled_from(["vision", "speech"]),
            qos=st.sampled_from(["guaranteed-vision", "burst-8"]),
        )
    )
)
def test_every_split_adds_up_to_the_same_total(jobs: list[AccountingJob]) -> None:
    records = [metered(job) for job in jobs]
    whole = sum(record.gpu_seconds for record in records)
    for by in ([], [Dimension.USER], [Dimension.PROJECT, Dimension.QOS], list(Dimension)):
        assert sum(total.gpu_seconds for total in totals(records, NOVEMBER, by=by)) == whole


# -- Won


def priced(**grant_fields: Any) -> Policy:
    """A policy of these runs' cluster: a Won a GPU-second until 2 November, then two; burst costs half."""
    return policy(
        project(),
        pool(
            name="haein", cluster="haein", shares=[{"name": "own", "nodes": "b200-[001-008]", "partition": "b200-own"}]
        ),
        rate(),
        rate(name="b200-later", starts="2026-11-02", won_per_gpu_hour=7_200),
        grant(pool="haein", **grant_fields),
    )


# Run; percent of the market price; Won as guaranteed and as burst.
PRICED = [
    ("guaranteed", run(end=10), 100, (80, 0)),
    ("burst, at its discount", run(end=10, qos="burst-8"), 100, (0, 40)),
    ("a start-up pays a tenth", run(end=10), 10, (8, 0)),
    ("a run costs what was in force when it started", run(end=40 * 3600), 100, (8 * 40 * 3600, 0)),
    ("the later rate", run(start=24 * 3600, end=24 * 3600 + 10), 100, (160, 0)),
    ("an account that is no project pays the whole price", run(end=10, account="foreign"), 10, (80, 0)),
]


@pytest.mark.parametrize(("job", "percent", "won"), [row[1:] for row in PRICED], ids=[row[0] for row in PRICED])
def test_what_a_run_costs(job: AccountingJob, percent: int, won: tuple[int, int]) -> None:
    (total,) = totals([metered(job)], NOVEMBER, price=pricing(priced(price_percent=percent)))
    assert (int(total.guaranteed_won), int(total.burst_won), total.unpriced) == (*won, 0)


def test_a_run_without_one_model_costs_what_its_partition_does() -> None:
    record = replace(metered(run(end=10)), model=None)
    (total,) = totals([record], NOVEMBER, price=pricing(priced()))
    assert (int(total.guaranteed_won), total.unpriced) == (80, 0)


def test_use_of_a_model_without_a_rate_is_told_and_costs_nothing() -> None:
    (total,) = totals([metered(run(end=10, model="h200"))], NOVEMBER, price=pricing(priced()))
    assert (int(total.guaranteed_won), int(total.burst_won), total.unpriced) == (0, 0, 80)


@given(st.integers(0, 86_400), st.integers(1, 7 * 86_400), st.lists(st.integers(0, 9 * 86_400), max_size=5))
def test_windows_that_tile_a_time_cost_exactly_what_it_costs(start: int, length: int, cuts: list[int]) -> None:
    record, price = metered(run(start=start, end=start + length)), pricing(priced())
    moments = [at(second) for second in sorted({0, *cuts, 10 * 86_400})]
    parts = [totals([record], Window(one, two), price=price) for one, two in pairwise(moments)]
    whole = totals([record], Window(moments[0], moments[-1]), price=price)
    assert sum(total.guaranteed_won for part in parts for total in part) == whole[0].guaranteed_won
