"""What a run of a job counts, in which month, for whom, and what is left of a budget. Pure: values in, values out.

A run is one stay of a job on its nodes. A requeued job has several, told apart by their start, and each counts by
itself. GPU-seconds are allocated GPUs x whole seconds of wall time (Slurm's times are whole seconds), so windows that
tile a period add up to the period exactly. A suspended job keeps its GPUs and goes on counting.

Nothing here knows rates or money; it never asks Slurm or the store.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from enum import StrEnum
from typing import Final, NamedTuple

from slurm_gpuaas.domain.jobs import Job, JobId, JobState, ServiceClass
from slurm_gpuaas.domain.names import (
    AccountName,
    ClusterName,
    GpuModel,
    PartitionName,
    ProjectName,
    QosName,
    UserName,
)
from slurm_gpuaas.domain.policy import KST, Policy
from slurm_gpuaas.domain.usage import UsageRecord
from slurm_gpuaas.slurm.records import AccountingJob, Tres

GPU: Final = "gres/gpu"
BURST_PREFIX: Final = "burst-"
"""How the quota core names the QOS of borrowed GPUs."""
VANISHED: Final = "VANISHED"
"""State of a run that we saw running and that accounting no longer knows (purged, or its record was lost)."""


class RunKey(NamedTuple):
    """What makes a run the same run whenever it is read again."""

    cluster: ClusterName
    job_id: JobId
    started: datetime


def key_of(record: UsageRecord) -> RunKey:
    return RunKey(record.cluster, record.job_id, record.started)


# -- From accounting to usage ------------------------------------------------------------------------------------------


def meter(run: AccountingJob, *, as_of: datetime) -> UsageRecord | None:
    """The usage of one run: whole when it has ended, until `as_of` while it runs; None when it never held a GPU.

    Raises:
        InvalidInput: the run's user, account or QOS has a name that this product cannot hold.
    """
    gpus = run.tres_alloc.get(GPU, 0)
    if run.started is None or gpus == 0:
        return None
    ended = run.ended and max(run.ended, run.started)
    return UsageRecord(
        cluster=ClusterName(run.cluster),
        job_id=JobId(run.job_id),
        user=UserName(run.user),
        account=AccountName(run.account),
        qos=QosName(run.qos),
        partition=PartitionName(run.partition),
        model=_only_model(run.tres_alloc),
        gpus=gpus,
        started=run.started,
        ended=ended,
        gpu_seconds=gpus * _whole_seconds((ended or as_of) - run.started),
        state=run.state.split()[0] if run.state else "",  # sacct's "CANCELLED by 1000"
    )


def metered_until(record: UsageRecord) -> datetime:
    """The moment up to which `gpu_seconds` counts."""
    return record.ended or record.started + timedelta(seconds=record.gpu_seconds // record.gpus)


def close_vanished(record: UsageRecord) -> UsageRecord:
    """End a run that accounting no longer knows where we last saw it running: nobody pays for what nobody can show."""
    return replace(record, ended=metered_until(record), state=VANISHED)


def _only_model(tres: Tres) -> GpuModel | None:
    """The GPU model, when the run has GPUs of one model only."""
    models = [name.removeprefix(f"{GPU}:") for name, count in tres.items() if name.startswith(f"{GPU}:") and count]
    return GpuModel(models[0]) if len(models) == 1 else None


def _whole_seconds(span: timedelta) -> int:
    """0 for a negative span: Slurm's clock may be ahead of ours by a moment."""
    return max(span // timedelta(seconds=1), 0)


# -- Windows -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time: `start` belongs to it, `end` does not."""

    start: datetime
    end: datetime


def day(of: date) -> Window:
    """A Korean day."""
    return Window(_midnight(of), _midnight(of + timedelta(days=1)))


def month(year: int, number: int) -> Window:
    """A Korean month; `number` from 1."""
    first = date(year, number, 1)
    following = date(year + number // 12, number % 12 + 1, 1)
    return Window(_midnight(first), _midnight(following))


def _midnight(of: date) -> datetime:
    return datetime.combine(of, time(), KST)


def gpu_seconds_in(record: UsageRecord, window: Window) -> int:
    """The part of a run's GPU-seconds that falls into the window."""
    start = max(record.started, window.start)
    return record.gpus * _whole_seconds(min(metered_until(record), window.end) - start)


# -- Totals ------------------------------------------------------------------------------------------------------------


class Dimension(StrEnum):
    """What totals can be split by. The project of a run is its Slurm account."""

    PROJECT = "project"
    USER = "user"
    MODEL = "model"
    QOS = "qos"
    CLUSTER = "cluster"


def service_class(qos: QosName) -> ServiceClass:
    """Everything that was not borrowed counts as guaranteed, foreign QOS too."""
    return ServiceClass.BURST if qos.startswith(BURST_PREFIX) else ServiceClass.GUARANTEED


LOST_TO_PREEMPTION: Final = frozenset({JobState.PREEMPTED})
LOST_TO_FAULTS: Final = frozenset({JobState.NODE_FAIL, JobState.BOOT_FAIL})


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageTotal:
    """GPU-seconds of one group in a window; `guaranteed` + `burst` = all of it.

    `preempted` and `node_failed` are the parts whose run ended so (whatever was not checkpointed then is lost).
    """

    key: tuple[str, ...]
    runs: int
    guaranteed: int
    burst: int
    preempted: int
    node_failed: int

    @property
    def gpu_seconds(self) -> int:
        return self.guaranteed + self.burst


def totals(
    records: Iterable[UsageRecord], window: Window, *, by: Sequence[Dimension] = (Dimension.PROJECT,)
) -> list[UsageTotal]:
    """Totals of the window, one for each combination of `by` that used anything, sorted by key."""
    groups: dict[tuple[str, ...], list[tuple[UsageRecord, int]]] = defaultdict(list)
    for record in records:
        if used := gpu_seconds_in(record, window):
            groups[tuple(_value(record, dimension) for dimension in by)].append((record, used))
    return [_total(key, group) for key, group in sorted(groups.items())]


def _total(key: tuple[str, ...], group: Sequence[tuple[UsageRecord, int]]) -> UsageTotal:
    burst = sum(used for record, used in group if service_class(record.qos) is ServiceClass.BURST)
    return UsageTotal(
        key=key,
        runs=len(group),
        guaranteed=sum(used for _, used in group) - burst,
        burst=burst,
        preempted=sum(used for record, used in group if record.state in LOST_TO_PREEMPTION),
        node_failed=sum(used for record, used in group if record.state in LOST_TO_FAULTS),
    )


def _value(record: UsageRecord, dimension: Dimension) -> str:
    match dimension:
        case Dimension.PROJECT:
            return record.account
        case Dimension.USER:
            return record.user
        case Dimension.MODEL:
            return record.model or "mixed"
        case Dimension.QOS:
            return record.qos
        case Dimension.CLUSTER:
            return record.cluster


# -- Budgets -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """GPU-seconds that a project may use from `start` on."""

    start: datetime
    gpu_seconds: int


def budgets_in_force(policy: Policy, cluster: ClusterName, at: datetime) -> Mapping[ProjectName, Budget]:
    """The budget of each project that has one on the cluster.

    Budgets of grants in force at the same time add up and count from the first of their starts; a grant without a
    budget lifts it.
    """
    found: dict[ProjectName, Budget] = {}
    for project in policy.projects:
        active = [
            grant
            for grant in policy.grants_of(project.name)
            if grant.active_at(at) and policy.pool_by_name[grant.pool].cluster == cluster
        ]
        hours = [grant.budget_gpu_hours for grant in active if grant.budget_gpu_hours is not None]
        if active and len(hours) == len(active):
            start = min(grant.starts_at for grant in active)
            found[project.name] = Budget(start=start, gpu_seconds=sum(hours) * 3600)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetUse:
    """A project's budget, all in GPU-seconds.

    Attributes:
        metered: used by runs that started since the budget did. A run belongs where it started, as the limit in
            Slurm counts it: that one is raised by what earlier runs used.
        committed: what its running jobs may still use until their time limits.
    """

    budget: int
    metered: int
    committed: int

    @property
    def left_gpu_minutes(self) -> int:
        """What a new job may ask for, in GPU-minutes; 0 when the budget is spent or promised."""
        return max(self.budget - self.metered - self.committed, 0) // 60


def committed(job: Job, at: datetime) -> int:
    """GPU-seconds a running job may still use. A job without a wall-time limit, which no partition of ours allows,
    promises nothing."""
    if job.state.ended or job.started is None or job.time_limit is None or job.state is JobState.PENDING:
        return 0
    return job.gpus * _whole_seconds(job.started + job.time_limit - at)
