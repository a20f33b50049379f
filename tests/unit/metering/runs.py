"""Builders of runs and a world of accounting for the metering tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from slurm_gpuaas.domain.names import ClusterName
from slurm_gpuaas.domain.usage import RunKey, UsageRecord, key_of
from slurm_gpuaas.slurm.records import AccountingJob

CLUSTER = ClusterName("haein")
T0 = datetime(2026, 11, 1, tzinfo=UTC)


def at(seconds: int) -> datetime:
    return T0 + timedelta(seconds=seconds)


def run(
    job_id: int = 1,
    *,
    start: int | None = 0,
    end: int | None = None,
    gpus: int = 8,
    state: str = "RUNNING",
    account: str = "vision",
    user: str = "alice",
    qos: str = "guaranteed-vision",
    model: str = "b200",
) -> AccountingJob:
    """A run from `start` to `end`, in seconds after T0."""
    return AccountingJob(
        job_id=job_id,
        name="train",
        user=user,
        account=account,
        qos=qos,
        partition="b200-own",
        cluster=CLUSTER,
        state=state,
        submitted=T0 - timedelta(minutes=1),
        started=None if start is None else at(start),
        ended=None if end is None else at(end),
        nodes="b200-001",
        tres_alloc={"gres/gpu": gpus, f"gres/gpu:{model}": gpus, "node": 1} if gpus else {"cpu": 2},
    )


@dataclass
class Slurmdbd:
    """Accounting with a log of what reached it and when: `(delivered, run)`; a later delivery replaces the run."""

    deliveries: list[tuple[datetime, AccountingJob]] = field(default_factory=list)
    reads: list[tuple[datetime, datetime]] = field(default_factory=list)

    def deliver(self, job: AccountingJob, when: int) -> None:
        self.deliveries.append((at(when), job))

    def jobs_since(self, start: datetime, end: datetime) -> Sequence[AccountingJob]:
        self.reads.append((start, end))
        known: dict[tuple[int, datetime | None], AccountingJob] = {}
        for delivered, job in self.deliveries:
            if delivered <= end:
                known[job.job_id, job.started] = job
        return [j for j in known.values() if j.started and j.started < end and (j.ended is None or j.ended > start)]


@dataclass
class MemoryStore:
    """`UsageStore` in memory."""

    records: dict[RunKey, UsageRecord] = field(default_factory=dict)

    def put_usage(self, records: Iterable[UsageRecord], *, at: datetime) -> None:
        self.records |= {key_of(record): record for record in records}

    def usage(
        self, *, since: datetime | None = None, until: datetime | None = None, running: bool = False
    ) -> Sequence[UsageRecord]:
        return [
            record
            for record in self.records.values()
            if (until is None or record.started < until)
            and (since is None or record.ended is None or record.ended > since)
            and not (running and record.ended)
        ]

    def usage_ended_last(self, cluster: ClusterName) -> datetime | None:
        return max((record.ended for record in self.records.values() if record.ended), default=None)


@dataclass
class SteppedClock:
    moment: datetime = T0

    def now(self) -> datetime:
        return self.moment
