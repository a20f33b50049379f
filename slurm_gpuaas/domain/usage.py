"""Metered use of GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from slurm_gpuaas.domain.jobs import JobId, ServiceClass
from slurm_gpuaas.domain.names import AccountName, ClusterName, GpuModel, PartitionName, QosName, UserName


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time: `start` belongs to it, `end` does not."""

    start: datetime
    end: datetime


BURST_PREFIX: Final = "burst-"
"""How the quota core names the QOS of borrowed GPUs."""


def service_class(qos: QosName) -> ServiceClass:
    """Everything that was not borrowed counts as guaranteed, foreign QOS too."""
    return ServiceClass.BURST if qos.startswith(BURST_PREFIX) else ServiceClass.GUARANTEED


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRecord:
    """One run of one job as Slurm's accounting holds it. A requeued job has several, told apart by `started`.

    `gpu_seconds` = GPUs x seconds between `started` and `ended` (or until `as_of` while it runs). `nodes` is Slurm's
    host list; empty for what was metered before it was kept.
    """

    cluster: ClusterName
    job_id: JobId
    user: UserName
    account: AccountName
    qos: QosName
    partition: PartitionName
    model: GpuModel | None
    gpus: int
    started: datetime
    ended: datetime | None
    gpu_seconds: int
    state: str
    nodes: str = ""


class RunKey(NamedTuple):
    """What makes a run the same run whenever it is read again."""

    cluster: ClusterName
    job_id: JobId
    started: datetime


def key_of(record: UsageRecord) -> RunKey:
    return RunKey(record.cluster, record.job_id, record.started)


class RunEnd(NamedTuple):
    """Orders runs that have ended by their end; no two are alike."""

    ended: datetime
    cluster: ClusterName
    job_id: JobId
    started: datetime

    @classmethod
    def of(cls, record: UsageRecord) -> RunEnd:
        assert record.ended is not None
        return cls(record.ended, record.cluster, record.job_id, record.started)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageChange:
    """A record as it is since the change of that number; a later change of any record has a greater one."""

    number: int
    record: UsageRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageSum:
    """GPU-seconds of the runs of one account, model and QOS that started in one stretch of time.

    `since` is the stretch's first moment, None for the one before all others. `ended` is the part of runs that have
    ended: it never changes again.
    """

    account: AccountName
    model: GpuModel | None
    qos: QosName
    since: datetime | None
    gpu_seconds: int
    ended: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SizedUse:
    """GPU-seconds of an account's runs of one size (GPUs)."""

    account: AccountName
    gpus: int
    gpu_seconds: int


@dataclass(frozen=True, slots=True)
class JobRun:
    """What the health report needs of one run of a job. `state` is how accounting says it ended."""

    job: JobId
    account: AccountName
    gpus: int
    started: datetime
    ended: datetime | None
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Preemption:
    """A running job ended so that another one could start."""

    victim: JobId
    made_room_for: JobId
    at: datetime
