"""What is left of a budget: less what was used since it began, less what running jobs may still use."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta

import pytest

from slurm_gpuaas.domain.jobs import Job, JobId, JobState
from slurm_gpuaas.domain.names import (
    AccountName,
    ClusterName,
    GpuModel,
    GrantName,
    NodeName,
    OrganisationName,
    PartitionName,
    PoolName,
    ProjectName,
    QosName,
    ShareName,
    UserName,
)
from slurm_gpuaas.domain.policy import Grant, Organisation, Policy, Pool, Project, Share
from slurm_gpuaas.metering.controller import budget_use
from slurm_gpuaas.metering.rules import BudgetUse, meter
from slurm_gpuaas.slurm.records import AccountingJob
from tests.unit.metering.runs import CLUSTER, T0, MemoryStore, at, run

VISION = ProjectName("vision")
BEGAN = -9 * 3600
"""The grant begins on 1 November in Korea, nine hours before T0."""


def policy(**grant: object) -> Policy:
    """One project, `vision`, with one grant of 16 GPUs in November."""
    document = Grant(
        **{
            "name": GrantName("vision.2026"),
            "project": ProjectName("vision"),
            "pool": PoolName("b200"),
            "share": ShareName("own"),
            "gpus": 16,
            "starts": date(2026, 11, 1),
            "ends": date(2026, 11, 30),
        }
        | grant
    )
    return Policy.of(
        [
            Organisation(name=OrganisationName("kaist")),
            Project(name=ProjectName("vision"), organisation=OrganisationName("kaist")),
            Pool(
                name=PoolName("b200"),
                cluster=ClusterName("haein"),
                model=GpuModel("b200"),
                shares=(Share(name=ShareName("own"), nodes="b200-[001-008]"),),
            ),
            document,
        ]
    )


def running_job(*, started: int, limit: timedelta | None, state: JobState = JobState.RUNNING) -> Job:
    return Job(
        id=JobId(7),
        name="train",
        user=UserName("alice"),
        account=AccountName("vision"),
        qos=QosName("guaranteed-vision"),
        partition=PartitionName("b200-own"),
        state=state,
        reason="None",
        nodes=(NodeName("b200-001"),),
        node_count=1,
        gpus=8,
        model=GpuModel("b200"),
        licenses="",
        priority=1,
        submitted=T0,
        eligible=T0,
        started=at(started),
        time_limit=limit,
        requeue=True,
        restarts=0,
    )


def use_of(policy: Policy, runs: Sequence[AccountingJob], jobs: Sequence[Job] = (), *, now: int) -> BudgetUse:
    store = MemoryStore()
    store.put_usage([record for job in runs if (record := meter(job, as_of=at(now)))])
    return budget_use(store, policy, CLUSTER, jobs, at(now))[VISION]


def test_a_budget_loses_what_was_used_and_what_running_jobs_may_still_use() -> None:
    runs = [run(1, start=0, end=1800, state="COMPLETED"), run(7, start=1800)]
    jobs = [running_job(started=1800, limit=timedelta(hours=2))]
    use = use_of(policy(budget_gpu_hours=100), runs, jobs, now=3600)
    assert (use.budget, use.metered, use.committed) == (360_000, 8 * 3600, 8 * 5400)
    assert use.left_gpu_minutes == 6000 - 480 - 720


def test_a_spent_budget_has_nothing_left_rather_than_less() -> None:
    runs = [run(start=0, end=90_000, state="COMPLETED")]
    assert use_of(policy(budget_gpu_hours=10), runs, now=90_000).left_gpu_minutes == 0


def test_zero_is_a_budget_and_absent_is_none() -> None:
    assert use_of(policy(budget_gpu_hours=0), [], now=0).left_gpu_minutes == 0
    assert budget_use(MemoryStore(), policy(), CLUSTER, [], at(0)) == {}


def test_a_budget_on_another_cluster_is_not_ours() -> None:
    assert budget_use(MemoryStore(), policy(budget_gpu_hours=1), ClusterName("naver"), [], at(0)) == {}


def test_a_run_is_charged_to_the_budget_in_force_when_it_started() -> None:
    runs = [
        run(1, start=BEGAN - 60, end=BEGAN + 60, state="COMPLETED"),
        run(2, start=BEGAN, end=BEGAN + 30, state="COMPLETED"),
        run(3, start=0, end=60, state="COMPLETED", account="speech"),
    ]
    assert use_of(policy(budget_gpu_hours=1), runs, now=60).metered == 8 * 30


@pytest.mark.parametrize("state", [JobState.PENDING, JobState.COMPLETED])
def test_only_running_jobs_commit_budget(state: JobState) -> None:
    jobs = [running_job(started=0, limit=timedelta(hours=1), state=state)]
    assert use_of(policy(budget_gpu_hours=1), [], jobs, now=0).committed == 0
