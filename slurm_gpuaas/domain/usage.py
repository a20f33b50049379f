"""Metered use of GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.names import AccountName, ClusterName, GpuModel, PartitionName, QosName, UserName


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRecord:
    """One run of one job as Slurm's accounting holds it. A requeued job has several, told apart by `started`.

    `gpu_seconds` = GPUs x seconds between `started` and `ended` (or until `as_of` while it runs).
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
