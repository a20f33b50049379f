"""Builders of terms, rates and reported runs, and accounts in a file of their own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.ledger import PoolRate, Terms
from slurm_gpuaas.domain.names import (
    AccountName,
    ClusterName,
    GpuModel,
    OrganisationName,
    PartitionName,
    PersonId,
    ProviderName,
    QosName,
    UserName,
)
from slurm_gpuaas.domain.people import Actor, PortalRole
from slurm_gpuaas.domain.policy import KST
from slurm_gpuaas.domain.usage import UsageChange, UsageRecord
from slurm_gpuaas.metering.bookkeeping import Bookkeeper
from slurm_gpuaas.store.pool import PoolStore
from tests.fakes import FakeClock
from tests.stores import new_pool_store
from tests.unit.policies import grant

CLUSTER = ClusterName("naver")
SNU, NAVER = OrganisationName("snu"), ProviderName("naver")
VISION = AccountName("vision")
ASKER = Actor(person=PersonId("p-billing01"), role=PortalRole.PROVIDER_BILLING)
OTHER = Actor(person=PersonId("p-billing02"), role=PortalRole.PROVIDER_BILLING)


def kst(*when: int) -> datetime:
    return datetime(*when, tzinfo=KST).astimezone(UTC)  # type: ignore[arg-type, misc]


def terms(project: str = "vision", **fields: Any) -> Terms:
    """A grant of 16 GPUs for 2026 and 2027 at half the rate."""
    own = {
        "organisation": fields.pop("organisation", SNU),
        "programme": fields.pop("programme", "call-2026"),
        "provider": fields.pop("provider", NAVER),
        "cluster": fields.pop("cluster", CLUSTER),
        "model": fields.pop("model", "h200"),
    }
    document = grant(project, **{"pool": "h200", "share": "gov", "price_percent": 50} | fields)
    return Terms.model_validate({"grant": document.model_dump(), **own})


def pool_rate(**fields: Any) -> PoolRate:
    """3,601 Won a GPU-hour: no whole number of Won a GPU-second, so that rounding shows."""
    return PoolRate.model_validate(
        {
            "name": "h200-2026",
            "model": "h200",
            "won_per_gpu_hour": 3_601,
            "burst_discount": Decimal("33.33"),
            "starts": "2026-01-01",
            "basis": "Notice 2026-1",
        }
        | fields
    )


def run(
    job: int,
    started: datetime,
    seconds: int,
    *,
    gpus: int = 8,
    state: str = "COMPLETED",
    running: bool = False,
    account: str = VISION,
    burst: bool = False,
    model: str | None = "h200",
    cluster: str = CLUSTER,
) -> UsageRecord:
    return UsageRecord(
        cluster=ClusterName(cluster),
        job_id=JobId(job),
        user=UserName("alice"),
        account=AccountName(account),
        qos=QosName(f"{'burst' if burst else 'guaranteed'}-{account}"),
        partition=PartitionName("h200-gov"),
        model=None if model is None else GpuModel(model),
        gpus=gpus,
        started=started,
        ended=None if running else started + timedelta(seconds=seconds),
        gpu_seconds=gpus * seconds,
        state="RUNNING" if running else state,
    )


def reported(number: int, record: UsageRecord, **changes: Any) -> UsageChange:
    return UsageChange(number=number, record=replace(record, **changes))


@dataclass
class Books:
    """A bookkeeper over a store of its own."""

    file: Path
    clock: FakeClock
    pool: PoolStore
    keeper: Bookkeeper

    @classmethod
    def new(cls, folder: Path, at: datetime) -> Books:
        pool, clock = new_pool_store(folder / "pool.db"), FakeClock(at)
        return cls(folder / "pool.db", clock, pool, Bookkeeper(pool.ledger, clock))

    def take(self, *records: UsageRecord, number: int = 1) -> int:
        return self.keeper.take(UsageChange(number=number, record=record) for record in records)

    @property
    def gpu_seconds(self) -> int:
        return sum(entry.amounts.gpu_seconds for entry in self.pool.ledger.entries())

    @property
    def won(self) -> int:
        return sum(entry.amounts.won for entry in self.pool.ledger.entries() if entry.used)
