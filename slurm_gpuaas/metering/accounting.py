"""From a run as Slurm's accounting holds it to usage. The only rule of metering that knows Slurm's records."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.names import (
    AccountName,
    ClusterName,
    GpuModel,
    PartitionName,
    QosName,
    UserName,
)
from slurm_gpuaas.domain.usage import UsageRecord
from slurm_gpuaas.metering.rules import whole_seconds
from slurm_gpuaas.slurm.records import AccountingJob, Tres

GPU: Final = "gres/gpu"


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
        gpu_seconds=gpus * whole_seconds((ended or as_of) - run.started),
        state=run.state.split()[0] if run.state else "",  # sacct's "CANCELLED by 1000"
        nodes=run.nodes,
    )


def _only_model(tres: Tres) -> GpuModel | None:
    """The GPU model, when the run has GPUs of one model only."""
    models = [name.removeprefix(f"{GPU}:") for name, count in tres.items() if name.startswith(f"{GPU}:") and count]
    return GpuModel(models[0]) if len(models) == 1 else None
