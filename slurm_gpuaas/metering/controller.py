"""Reads Slurm's accounting on each tick and keeps the store's usage equal to it.

Three rules make it exact whatever happens in between:

- Records are upserted under (cluster, job id, start) in one transaction: reading a run again, after a crash or in two
  ticks, is the same as reading it once.
- How far metering has come is derived from the records themselves, so it cannot disagree with them. Each tick reads
  from an overlap before that, and sees records which slurmctld delivers late. An outage of slurmdbd needs no overlap:
  nothing was read meanwhile, so nothing moved on.
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
from slurm_gpuaas.domain.names import ClusterName
from slurm_gpuaas.domain.usage import RunKey, UsageRecord, key_of
from slurm_gpuaas.metering.accounting import meter
from slurm_gpuaas.metering.rules import close_vanished, metered_until
from slurm_gpuaas.slurm.records import AccountingJob

_SECOND: Final = timedelta(seconds=1)
OVERLAP: Final = timedelta(hours=1)
"""How late slurmctld may deliver a whole run (start and end) that we never saw running: far beyond its retry pace."""


class AccountingReader(Protocol):
    """The one thing metering asks of Slurm; `slurm.protocols.Accounting` has it."""

    def jobs_since(self, start: datetime, end: datetime) -> Sequence[AccountingJob]:
        """Runs of jobs that overlap [start, end), every requeue of a job as a run of its own."""
        ...


class UsageStore(Protocol):
    """Where usage is kept; `store.repository.Store` has it."""

    def put_usage(self, records: Iterable[UsageRecord], *, at: datetime) -> None:
        """Insert or replace the records under (cluster, job id, started), in one transaction at that moment."""
        ...

    def usage(
        self, *, since: datetime | None = None, until: datetime | None = None, running: bool = False
    ) -> Sequence[UsageRecord]:
        """Records of all clusters that overlap [since, until); `running`: only those without an end."""
        ...

    def usage_ended_last(self, cluster: ClusterName) -> datetime | None:
        """The latest end of any record of the cluster."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class MeteringTick:
    """What one tick did. `unreadable` says which runs could not be held and why, one sentence each."""

    records: int
    vanished: int
    unreadable: tuple[str, ...]


class MeteringController:
    """Metering of one cluster.

    Args:
        begin: the first moment that is metered.
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
        # What the last tick read: most runs of the overlap have ended and need not be written again.
        self._written: Mapping[RunKey, UsageRecord] = {}

    def tick(self) -> MeteringTick:
        """Bring the store up to now.

        Raises:
            SlurmUnavailable: slurmdbd did not answer; nothing was changed and the next tick catches up.
        """
        now = self._clock.now()
        running = self._running()
        reached = self._reached(running)
        start = self._begin if reached is None else max(min(reached, now) - self._overlap, self._begin)
        unreadable: list[str] = []
        records = self._read(start, now, unreadable)
        unseen = {key_of(record): record for record in running if key_of(record) not in records}
        vanished: Mapping[RunKey, UsageRecord] = {}
        if unseen:
            # A second before: accounting leaves out a run that ended exactly at the start, as one without length does.
            found = self._read(min(record.started for record in unseen.values()) - _SECOND, now, unreadable)
            records |= {key: found[key] for key in unseen if key in found}
            vanished = {key: close_vanished(record) for key, record in unseen.items() if key not in found}
        changed = [record for key, record in records.items() if self._written.get(key) != record]
        self._store.put_usage([*changed, *vanished.values()], at=now)
        self._written = records
        return MeteringTick(
            records=len(records),
            vanished=len(vanished),
            unreadable=tuple(dict.fromkeys(unreadable)),
        )

    def _running(self) -> Sequence[UsageRecord]:
        return [record for record in self._store.usage(running=True) if record.cluster == self._cluster]

    def _reached(self, running: Sequence[UsageRecord]) -> datetime | None:
        """Up to when the store knows anything of the cluster."""
        ended = self._store.usage_ended_last(self._cluster)
        return max([metered_until(record) for record in running] + ([ended] if ended else []), default=None)

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
