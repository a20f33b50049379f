"""Runs of jobs that have ended, as one visitor may see them: from the usage that sites report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from slurm_gpuaas.domain.calendar import korean_day
from slurm_gpuaas.domain.jobs import JobId, JobState, ServiceClass
from slurm_gpuaas.domain.ledger import Terms
from slurm_gpuaas.domain.money import Won
from slurm_gpuaas.domain.months import Month
from slurm_gpuaas.domain.names import AccountName, ClusterName
from slurm_gpuaas.domain.told import Told, told
from slurm_gpuaas.domain.usage import RunEnd, UsageRecord, service_class
from slurm_gpuaas.portal.pool import PoolServer
from slurm_gpuaas.portal.rights import Scope
from slurm_gpuaas.portal.running import Onlooker

LAST: Final = timedelta(days=30)
"""How far back ended runs are shown; the statements have all of them as sums."""
SHORT: Final = timedelta(minutes=2)
"""A run that failed sooner most likely never began its work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """What is to be said of how a run ended, and what to do; the texts may hold `JOBID`."""

    text: Told
    way_out: str = ""


REMARKS: Final[Mapping[str, Remark]] = {
    JobState.COMPLETED: Remark(text=told("It ended by itself, without an error.")),
    JobState.CANCELLED: Remark(text=told("Somebody cancelled it.")),
    JobState.FAILED: Remark(
        text=told("Its program ended with an error."),
        way_out=told("Look at the end of its output; `sacct -j JOBID -o jobid,exitcode` gives the exit code."),
    ),
    JobState.TIMEOUT: Remark(
        text=told("It reached its time limit and was ended."),
        way_out=told("Ask for more time, or save checkpoints and go on from the last one."),
    ),
    JobState.DEADLINE: Remark(
        text=told("It could not have ended before its deadline, so Slurm ended it."),
        way_out=told("Give it a later deadline or a shorter time limit."),
    ),
    JobState.OUT_OF_MEMORY: Remark(
        text=told("It took more main memory than it had asked for."),
        way_out=told("Ask for more with --mem, or use fewer loader processes."),
    ),
    JobState.PREEMPTED: Remark(
        text=told("Its GPUs were borrowed, and the grant that they belong to needed them."),
        way_out=told("Save checkpoints, so that it goes on from the last one when it runs again."),
    ),
    JobState.NODE_FAIL: Remark(
        text=told("A fault of the hardware ended it. This run is free of charge."),
        way_out=told("If it did not begin again by itself, submit it again; its nodes are being looked at."),
    ),
    JobState.BOOT_FAIL: Remark(
        text=told("A node did not start for it. This run is free of charge."),
        way_out=told("If it did not begin again by itself, submit it again."),
    ),
}
FAILED_AT_ONCE: Final = Remark(
    text=told("Its program ended with an error right after it began."),
    way_out=told("Most often a path, a module or a container is not there: look at the first lines of its output."),
)
OTHERWISE: Final = Remark(text=told("Slurm's accounting says no more of how it ended."))


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedRun:
    """
    Args:
        terms: of the grant it ran on; None: on none of the pool's.
        won: by itself, without VAT; None where nobody is charged.
        as_of: until when its site told everything.
    """

    record: UsageRecord
    terms: Terms | None
    won: Won | None
    as_of: datetime | None

    @property
    def ended(self) -> datetime:
        return RunEnd.of(self.record).ended

    @property
    def service(self) -> ServiceClass:
        return service_class(self.record.qos)

    @property
    def how(self) -> JobState | None:
        """None for a word of Slurm's that we do not know."""
        return JobState(self.record.state) if self.record.state in set(JobState) else None

    @property
    def lasted(self) -> timedelta:
        return self.ended - self.record.started

    @property
    def remark(self) -> Remark:
        if self.record.state == JobState.FAILED and self.lasted < SHORT:
            return FAILED_AT_ONCE
        return REMARKS.get(self.record.state, OTHERWISE)


class EndedRuns:
    """What one visitor may see of them. A tenant sees what ran on grants of its organisation, a researcher of that what
    ran under their login, a provider all that ran on its clusters."""

    def __init__(self, pool: PoolServer, onlooker: Onlooker, now: datetime) -> None:
        self._pool = pool
        self._onlooker = onlooker
        self._since = now - LAST
        self._tariff = pool.keeper.tariff()

    def newest(
        self,
        limit: int,
        before: RunEnd | None = None,
        *,
        cluster: str = "",
        grant: str = "",
        state: str | None = None,
        job: int | None = None,
    ) -> list[EndedRun]:
        """The last that ended first."""
        onlooker = self._onlooker
        if onlooker.scope is Scope.OWN and onlooker.login is None:
            return []
        records: list[UsageRecord] = []
        for name, accounts in self._places(grant).items():
            if accounts and cluster in ("", name):
                records += self._pool.store.ledger.newest_ended(
                    name,
                    accounts,
                    since=self._since,
                    limit=limit,
                    before=before,
                    user=onlooker.login if onlooker.scope is Scope.OWN else None,
                    state=state,
                    job=None if job is None else JobId(job),
                )
        told_until = self.told_until()
        records.sort(key=RunEnd.of, reverse=True)
        return [self._run(one, told_until.get(one.cluster)) for one in records[:limit]]

    def told_until(self) -> Mapping[ClusterName, datetime | None]:
        """Of the clusters that the visitor may see runs of, by name: until when everything that ended is here."""
        told_until = self._pool.used_through()
        return {cluster: told_until.get(cluster) for cluster in self._places("")}

    def grants(self) -> Sequence[str]:
        """Numbers of the grants that may have runs here, the newest first."""
        return sorted({str(one.grant.name) for one in self._tariff.terms if self._sees(one)}, reverse=True)

    def _sees(self, terms: Terms) -> bool:
        onlooker = self._onlooker
        if onlooker.sees_all_of(terms.provider):
            return True
        return onlooker.organisation is not None and onlooker.organisation == terms.organisation

    def _places(self, grant: str) -> Mapping[ClusterName, set[AccountName]]:
        """Accounts by cluster; with `grant`, that of the grant."""
        seen = [one for one in self._tariff.terms if self._sees(one) and grant in ("", one.grant.name)]
        found: dict[ClusterName, set[AccountName]] = {}
        for one in seen:
            found.setdefault(one.cluster, set()).add(one.account)
        if not grant:
            month = Month.of(self._since)
            for site in self._pool.store.sites.all():
                if self._onlooker.sees_all_of(site.provider):
                    used = self._pool.store.ledger.accounts_used(site.cluster, month)
                    found.setdefault(site.cluster, set()).update(used)
        return found

    def _run(self, record: UsageRecord, as_of: datetime | None) -> EndedRun:
        terms = self._tariff.terms_at(record.cluster, record.account, korean_day(record.started))
        return EndedRun(record=record, terms=terms, won=self._pool.keeper.won_of(record), as_of=as_of)
