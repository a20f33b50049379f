"""Reads Slurm's accounting on each tick and keeps the store's usage equal to it.

Three rules make it exact whatever happens in between:

- Records are upserted under (cluster, job id, start) together with the watermark, in one transaction: reading a run
  again, after a crash or in two ticks, is the same as reading it once.
- Each tick reads from an overlap before the watermark, so that records which slurmctld delivers late are seen. The
  watermark moves only when slurmdbd answered, so its own outages need no overlap.
- A run that the store holds as running and that the tick did not see (its end was delivered very late, or it was
  purged) is asked for from its start.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.jobs import Job
from slurm_gpuaas.domain.names import ClusterName, ProjectName
from slurm_gpuaas.domain.policy import Policy
from slurm_gpuaas.domain.usage import UsageRecord
from slurm_gpuaas.metering.rules import (
    BudgetUse,
    RunKey,
    budget_window,
    budgets,
    close_vanished,
    key_of,
    meter,
)
from slurm_gpuaas.slurm.records import AccountingJob

OVERLAP: Final = timedelta(hours=1)
"""How late slurmctld may deliver a whole run (start and end) that we never saw running: far beyond its retry pace."""


class AccountingReader(Protocol):
    """The one thing metering asks of Slurm; `slurm.protocols.Accounting` has it."""

    def jobs_since(self, start: datetime, end: datetime) -> Sequence[AccountingJob]:
        """Runs of jobs that overlap [start, end), every requeue of a job as a run of its own."""
        ...


class UsageStore(Protocol):
    """Where usage is kept."""

    def usage_watermark(self, cluster: ClusterName) -> datetime | None:
        """Up to when the cluster's usage has been read; None when it never was."""
        ...

    def put_usage(self, cluster: ClusterName, records: Sequence[UsageRecord], *, watermark: datetime) -> None:
        """Insert or replace the records under (cluster, job id, started) and set the watermark, in one transaction."""
        ...

    def running_usage(self, cluster: ClusterName) -> Sequence[UsageRecord]:
        """Records without an end."""
        ...

    def usage(self, start: datetime, end: datetime) -> Sequence[UsageRecord]:
        """Records of all clusters that overlap [start, end)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class MeteringTick:
    """What one tick did. `unreadable` says which runs could not be held and why, one sentence each."""

    at: datetime
    read_from: datetime
    records: int
    vanished: int
    unreadable: tuple[str, ...]


class MeteringController:
    """Metering of one cluster.

    Args:
        begin: the first moment that is metered when the store has no watermark yet.
    """

    def __init__(
        self,
        *,
        cluster: ClusterName,
        accounting: AccountingReader,
        store: UsageStore,
        clock: Clock,
        begin: datetime,
        overlap: timedelta = OVERLAP,
    ) -> None:
        self._cluster = cluster
        self._accounting = accounting
        self._store = store
        self._clock = clock
        self._begin = begin
        self._overlap = overlap

    def tick(self) -> MeteringTick:
        """Bring the store up to now.

        Raises:
            SlurmUnavailable: slurmdbd did not answer; nothing was changed and the next tick catches up.
        """
        now = self._clock.now()
        watermark = self._store.usage_watermark(self._cluster)
        start = self._begin if watermark is None else max(min(watermark, now) - self._overlap, self._begin)
        unreadable: list[str] = []
        records = self._read(start, now, unreadable)
        unseen = {key_of(r): r for r in self._store.running_usage(self._cluster) if key_of(r) not in records}
        vanished: Mapping[RunKey, UsageRecord] = {}
        if unseen:
            found = self._read(min(record.started for record in unseen.values()), now, unreadable)
            records |= {key: found[key] for key in unseen if key in found}
            vanished = {key: close_vanished(record) for key, record in unseen.items() if key not in found}
        self._store.put_usage(self._cluster, [*records.values(), *vanished.values()], watermark=now)
        return MeteringTick(
            at=now,
            read_from=start,
            records=len(records),
            vanished=len(vanished),
            unreadable=tuple(dict.fromkeys(unreadable)),
        )

    def budgets(self, policy: Policy, jobs: Iterable[Job]) -> Mapping[ProjectName, BudgetUse]:
        """Budget use of the projects that have one, for the hook's snapshot; call it after `tick`."""
        now = self._clock.now()
        windows = [w for p in policy.projects if (w := budget_window(policy.grants_of(p.name), now))]
        if not windows:
            return {}
        records = self._store.usage(min(window.start for window in windows), now)
        return budgets(policy, records, jobs, now)

    def _read(self, start: datetime, end: datetime, unreadable: list[str]) -> dict[RunKey, UsageRecord]:
        records: dict[RunKey, UsageRecord] = {}
        for run in self._accounting.jobs_since(start, end):
            try:
                record = meter(run, as_of=end)
            except InvalidInput as error:
                # A foreign account may hold a user name that we cannot: it must not stop everybody's metering.
                unreadable.append(f"Job {run.job_id} of account {run.account!r} is not metered: {error.message}")
                continue
            if record:
                records[key_of(record)] = record
        return records
