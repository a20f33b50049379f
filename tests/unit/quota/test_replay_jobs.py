"""Replaying a list of jobs: fixed quotas, lending and one pooled cluster, worked out by hand; what always holds."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm_gpuaas.cli.quota import group
from slurm_gpuaas.domain.jobs import ServiceClass
from slurm_gpuaas.quota import replay_trace
from slurm_gpuaas.quota.replay_jobs import Lent, Place, Rules, TraceJob, first_come, guarantees, lend, replay_jobs
from slurm_gpuaas.quota.tree import TenantName

A, B = TenantName("a"), TenantName("b")
OWED = {A: 8, B: 8}
RECLAIM_S = 60


def rules(*, interval_s: int = 300, checkpoint_s: int | None = None, percentile: int = 95) -> Rules:
    return Rules(interval_s=interval_s, reclaim_s=RECLAIM_S, checkpoint_s=checkpoint_s, percentile=percentile)


def listed(*jobs: tuple[TenantName, int, int, int]) -> tuple[TraceJob, ...]:
    """Jobs of (tenant, submitted, seconds, GPUs)."""
    return tuple(
        TraceJob(tenant=tenant, submitted_s=submitted, run_s=run_s, gpus=gpus)
        for tenant, submitted, run_s, gpus in jobs
    )


def waited(lent: Lent) -> list[int]:
    return [fate.waited_s for fate in lent.fates]


# -- Queues and guarantees ---------------------------------------------------------------------------------------------


def test_whoever_fits_goes_ahead_of_one_that_does_not() -> None:
    jobs = listed((A, 0, 100, 6), (A, 10, 100, 8), (A, 20, 50, 2))
    fates = first_come(jobs, [Place(0), Place(1), Place(2)], 8)
    assert [fates[Place(place)].waited_s for place in range(3)] == [0, 90, 0]


def test_a_guarantee_covers_the_percentile_of_demand_in_whole_servers_and_the_largest_job() -> None:
    # a asks for 12 GPUs in the first tenth of the time and for 3 in the rest; b never for more than its 20
    jobs = listed((A, 0, 1000, 3), (A, 0, 100, 9), (B, 0, 1, 20), (A, 1000, 1, 1))
    assert guarantees(jobs, 90) == {A: 16, B: 24}  # 9 is a's largest job
    jobs = listed((A, 0, 1000, 3), *[(A, 0, 100, 3)] * 3, (A, 1000, 1, 1))
    assert guarantees(jobs, 90) == {A: 8}
    assert guarantees(jobs, 91) == {A: 16}


# -- Lending -----------------------------------------------------------------------------------------------------------


def test_a_borrower_starts_on_idle_gpus_at_the_next_decision() -> None:
    lent = lend(listed((B, 0, 5000, 8), (B, 100, 1000, 8)), OWED, rules())
    assert waited(lent) == [0, 200]
    assert (lent.evictions, lent.churn_gpus, lent.changed_limits) == (0, 16, 2), "the loan begins and ends"


def test_an_owner_has_its_gpus_back_after_the_reclaim_time_and_the_borrower_its_old_place() -> None:
    jobs = listed((B, 0, 5000, 8), (B, 100, 1000, 8), (A, 800, 1000, 4))
    lent = lend(jobs, OWED, rules())
    assert lent.longest_owner_wait_s == RECLAIM_S
    # the borrower ran from 300 to 800, and begins anew at 2100, the first decision after a's end at 1860
    assert waited(lent) == [0, 200 + 1300, RECLAIM_S]
    assert (lent.evictions, lent.evicted_gpu_s) == (1, 500 * 8)
    assert lent.fates[1].ended_s == 3100


def test_a_checkpoint_saves_the_work_before_it() -> None:
    jobs = listed((B, 0, 5000, 8), (B, 100, 1000, 8), (A, 800, 1000, 4))
    lent = lend(jobs, OWED, rules(checkpoint_s=200))
    assert lent.evicted_gpu_s == 100 * 8
    assert lent.fates[1].ended_s == 2100 + 1000 - 400


def test_the_share_is_net_of_lost_work() -> None:
    jobs = listed((B, 0, 5000, 8), (B, 100, 1000, 8), (A, 800, 1000, 4))
    found = replay_jobs(jobs, rules(percentile=1))
    assert {one.tenant: one.guaranteed for one in found.tenants} == OWED
    fixed, lending, pooled = 4900 * 8, 1500 * 8 + 60 * 4, 300 * 4
    assert (found.fixed * 3600, found.lending * 3600, found.pooled * 3600) == pytest.approx((fixed, lending, pooled))
    assert found.lending_recovered_share == pytest.approx((fixed - lending - 4000) / (fixed - pooled))
    assert (found.tenants_worse, found.jobs_worse) == (0, 0)


JOBS = st.lists(
    st.tuples(st.sampled_from([A, B]), st.integers(0, 3000), st.integers(0, 2000), st.integers(1, 8)),
    min_size=1,
    max_size=25,
)


def replayed(rows: list[tuple[TenantName, int, int, int]], checkpoint_s: int | None) -> tuple[list[TraceJob], Lent]:
    jobs = list(listed(*sorted(rows, key=lambda row: row[1])))
    return jobs, lend(jobs, OWED, rules(checkpoint_s=checkpoint_s))


@settings(deadline=None)
@given(rows=JOBS, checkpoint_s=st.sampled_from([None, 100]))
def test_use_stays_within_capacity_and_guaranteed_use_within_guarantees(
    rows: list[tuple[TenantName, int, int, int]], checkpoint_s: int | None
) -> None:
    jobs, lent = replayed(rows, checkpoint_s)
    for moment in {run.held_s for run in lent.runs}:
        held: Counter[TenantName | None] = Counter()
        for run in lent.runs:
            if run.held_s <= moment < run.ended_s:
                held[None] += jobs[run.job].gpus
                if run.service is ServiceClass.GUARANTEED:
                    held[jobs[run.job].tenant] += jobs[run.job].gpus
        assert held[None] <= 16
        assert held[A] <= 8
        assert held[B] <= 8


@settings(deadline=None)
@given(rows=JOBS, checkpoint_s=st.sampled_from([None, 100]))
def test_no_owner_waits_beyond_the_reclaim_time(
    rows: list[tuple[TenantName, int, int, int]], checkpoint_s: int | None
) -> None:
    """Told from the runs alone: between any two events, whoever waits does not fit its tenant's unused guarantee."""
    jobs, lent = replayed(rows, checkpoint_s)
    assert lent.longest_owner_wait_s <= RECLAIM_S
    held_or_left = {moment for run in lent.runs for moment in (run.held_s, run.ended_s)}
    for moment in held_or_left | {job.submitted_s for job in jobs}:
        on = [run for run in lent.runs if run.held_s <= moment < run.ended_s]
        unused = dict(OWED)
        for run in on:
            if run.service is ServiceClass.GUARANTEED:
                unused[jobs[run.job].tenant] -= jobs[run.job].gpus
        placed = {run.job for run in on}
        for place, job in enumerate(jobs):
            waits = job.submitted_s <= moment < lent.fates[place].ended_s and Place(place) not in placed
            assert not waits or job.gpus > unused[job.tenant], (moment, place)


@settings(deadline=None)
@given(rows=JOBS)
def test_every_job_runs_to_its_end_and_lost_work_is_what_ran_in_vain(
    rows: list[tuple[TenantName, int, int, int]],
) -> None:
    jobs, lent = replayed(rows, None)
    ran = sum((run.ended_s - run.started_s) * jobs[run.job].gpus for run in lent.runs)
    assert ran == sum(job.run_s * job.gpus for job in jobs) + lent.evicted_gpu_s
    for job, fate in zip(jobs, lent.fates, strict=True):
        assert fate.ended_s - job.submitted_s >= job.run_s + fate.waited_s >= job.run_s


# -- The command -------------------------------------------------------------------------------------------------------

HEADER = "timestamp,duration,num_gpus,gpu_time,cluster\n"
GOOD = "2017-10-09 07:01:55,66.0,1,66.0,11cb48\n"


def test_the_command_reads_jobs_in_any_order_past_empty_lines(tmp_path: Path) -> None:
    trace = tmp_path / "jobs.csv"
    rows = ["2020-01-01 00:01:40,1000,8,0,b\n", "2020-01-01 00:00:00,5000,8,0,b\n", "2020-01-01 00:00:00,10,8,0,a\n"]
    trace.write_text(HEADER + "".join(rows) + "\n")
    result = CliRunner().invoke(group, ["replay", str(trace), "--percentile", "1", "--json"])
    answer = json.loads(result.stdout)
    assert (answer["gpus"], answer["longest_owner_wait_s"], answer["evictions"]) == (16, 0, 0)
    assert answer["fixed"] == pytest.approx(4900 * 8 / 3600)
    assert answer["lending"] == pytest.approx(200 * 8 / 3600)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("", "no rows"),
        (GOOD + "yesterday,1,1,1,a\n", "Line 3"),
        ("2017-10-09 07:01:55,-1,1,1,a\n", "it runs -1 s"),
        ("2017-10-09 07:01:55,nan,1,1,a\n", "it runs nan s"),
        ("2017-10-09 07:01:55,1,0,1,a\n", "it has 0 GPUs"),
        ("2017-10-09 07:01:55,1,1.5,1,a\n", "Line 2"),
        ("2017-10-09 07:01:55,1,1,1, \n", "it has no cluster"),
        ("2017-10-09 07:01:55,1\n", "it is too short"),
        ("2017-10-09 07:01:55,1_0,1,1,a\n", "it runs 1_0 s"),
        ("2017-10-09 07:01:55,1,1_0,1,a\n", "1_0 is no whole number"),
        ("2017-10-09 07:01:55,1,1,1,a\x1b[2J\n", "cannot be shown"),
        (f"2017-10-09 07:01:55,1,1,1,{'a' * 3000}\n", "over 100 characters"),
    ],
)
def test_what_is_no_job_is_refused_in_a_sentence(tmp_path: Path, rows: str, says: str) -> None:
    trace = tmp_path / "jobs.csv"
    trace.write_text(HEADER + rows)
    result = CliRunner().invoke(group, ["replay", str(trace)])
    assert says in str(result.exception)


@pytest.mark.parametrize("gpus", ["99999999999999999999", str(2**63 - 1), "1000001", "1_0"])
def test_gpus_beyond_all_reason_in_a_table_of_minutes_are_refused(tmp_path: Path, gpus: str) -> None:
    trace = tmp_path / "minutes.csv"
    trace.write_text(f"vc,time,running_gpu_num,pending_gpu_num,idle_gpu_num\na,0,0,0,{gpus}\n")
    assert "Line 2" in str(CliRunner().invoke(group, ["replay", str(trace)]).exception)


def test_a_byte_order_mark_is_read_past_and_a_column_twice_refused(tmp_path: Path) -> None:
    trace = tmp_path / "jobs.csv"
    trace.write_text("\ufeff" + HEADER + GOOD)
    assert CliRunner().invoke(group, ["replay", str(trace)]).exit_code == 0
    trace.write_text(HEADER.replace("gpu_time", "num_gpus") + GOOD)
    assert "num_gpus twice" in str(CliRunner().invoke(group, ["replay", str(trace)]).exception)


def test_more_rows_than_can_be_held_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_trace, "MOST_ROWS", 2)
    trace = tmp_path / "jobs.csv"
    trace.write_text(HEADER + GOOD * 3)
    assert "more than 2 rows" in str(CliRunner().invoke(group, ["replay", str(trace)]).exception)


def test_options_for_jobs_are_refused_for_a_table_of_minutes(tmp_path: Path) -> None:
    trace = tmp_path / "minutes.csv"
    trace.write_text("vc,time,running_gpu_num,pending_gpu_num,idle_gpu_num\na,0,0,0,8\n")
    result = CliRunner().invoke(group, ["replay", str(trace), "--percentile", "90"])
    assert result.exit_code == 2
    assert "table of minutes" in result.output
