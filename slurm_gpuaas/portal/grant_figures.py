"""What the portal knows of grants beside their terms: use, money, what their sites say; for many grants at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from slurm_gpuaas.api.pool_sites import SiteReport
from slurm_gpuaas.domain.budgets import Budget, pace_window, runs_dry
from slurm_gpuaas.domain.calendar import korean_day
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.jobs import ServiceClass
from slurm_gpuaas.domain.ledger import Place, UseKey
from slurm_gpuaas.domain.money import Won
from slurm_gpuaas.domain.months import Month
from slurm_gpuaas.domain.names import AccountName, ClusterName, PoolGrantId, UserName
from slurm_gpuaas.domain.pool_grants import PoolGrant
from slurm_gpuaas.domain.programmes import PoolShare
from slurm_gpuaas.metering.ledger import Tariff, entitled, recent_use, standing
from slurm_gpuaas.pool.grant_use import Bite, GrantUse, grant_use, next_limit
from slurm_gpuaas.portal.pool import PoolServer
from slurm_gpuaas.store.pool.sites import Site

STALE_AFTER: Final = timedelta(minutes=5)
"""Sites report every minute unless theirs is set otherwise (`portal.interval` of gpuaasd)."""
FIGURES_FROM: Final = ("pool_grant", "pool_share", "commitment", "grant_terms", "pool_rate", "use_sum", "reported_run")
"""Tables that figures follow from; they are remembered for the minute in which they were made."""
SILENT_AFTER: Final = timedelta(minutes=2)
"""A site's question for documents lasts a minute at most; the next one follows at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of one grant.

    Attributes:
        won, won_this_month: what its use costs, as the ledger books it within the hour.
        in_use, in_use_burst: GPUs of running jobs, guaranteed and borrowed.
        dry_at: when the budget is used up at today's pace; None: not before the grant ends, or there is none.
        as_of: when its site reported last; None = never.
    """

    use: GrantUse
    won: Won
    won_this_month: Won
    in_use: int
    in_use_burst: int
    budget: Budget | None
    dry_at: datetime | None
    bite: Bite
    as_of: datetime | None
    stale: bool


class Delivery(StrEnum):
    """How far a grant's documents are on their way to its cluster."""

    NO_SITE = "no-site"
    """No gpuaasd is registered for the cluster."""
    ON_THE_WAY = "on-the-way"
    TAKEN = "taken"
    LEFT_OUT = "left-out"
    """The site has them and cannot put the grant in force."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """`why`: what the site says of what it left out. `silent`: it has not asked for so long that it may be away."""

    state: Delivery
    site: Site | None
    why: str = ""
    silent: bool = False


class GrantReader:
    """Safe to share between threads."""

    def __init__(self, pool: PoolServer, clock: Clock) -> None:
        self._pool = pool
        self._store = pool.store
        self._clock = clock

    def site_of(self, cluster: ClusterName) -> Site | None:
        return next((site for site in self._store.sites.all() if site.cluster == cluster), None)

    def share_of(self, grant: PoolGrant) -> PoolShare:
        return self._store.register.shares.get(grant.share)

    # -- Figures

    def figures(self, grants: Sequence[PoolGrant]) -> Mapping[PoolGrantId, Figures]:
        """A handful of queries for each cluster and month, however many grants; of those with a budget also the runs of
        the last days."""
        if not grants:
            return {}
        now = self._clock.now()
        minute = now.replace(second=0, microsecond=0)
        by_id = {grant.id: grant for grant in grants}
        found = self._store.remembered_each(
            FIGURES_FROM,
            "figures",
            by_id,
            lambda ids: self._figures([by_id[id] for id in ids], minute),
            as_of=minute,
        )
        reports = {cluster: self._reported(cluster) for cluster in {cluster for cluster, _ in found.values()}}
        return {
            id: replace(one, as_of=(told := reports[cluster]), stale=told is None or now - told > STALE_AFTER)
            for id, (cluster, one) in found.items()
        }

    def _figures(self, grants: Sequence[PoolGrant], now: datetime) -> Mapping[PoolGrantId, tuple[ClusterName, Figures]]:
        """All but what the sites said of themselves."""
        tariff = self._pool.keeper.tariff()
        shares = {share.name: share for share in self._store.register.shares.all()}
        clusters = {grant.id: shares[grant.share].cluster for grant in grants}
        use = self._use(grants, clusters, now)
        running = self._running(grants, clusters)
        held = self._store.register.calendar.of_holders([grant.id for grant in grants])
        found = {}
        for grant in grants:
            cluster, account = clusters[grant.id], AccountName(grant.project)
            mine = use[cluster, account]
            month = Month.of(now)
            won = _won(mine, tariff)
            budget, dry_at = self._budget(tariff, cluster, account, mine, now)
            in_use = running.get((cluster, account, ServiceClass.GUARANTEED), 0)
            figures = Figures(
                use=grant_use(mine, held[grant.id], month, now),
                won=Won(sum(won.values())),
                won_this_month=Won(won.get(month, 0)),
                in_use=in_use,
                in_use_burst=running.get((cluster, account, ServiceClass.BURST), 0),
                budget=budget,
                dry_at=dry_at,
                bite=next_limit(grant, in_use, budget, dry_at, now),
                as_of=None,
                stale=True,
            )
            found[grant.id] = (cluster, figures)
        return found

    def _reported(self, cluster: ClusterName) -> datetime | None:
        site = self.site_of(cluster)
        report = None if site is None else self._store.sites.report(site.name)
        return None if report is None else report.received_at

    def _use(
        self, grants: Iterable[PoolGrant], clusters: Mapping[PoolGrantId, ClusterName], now: datetime
    ) -> Mapping[tuple[ClusterName, AccountName], Mapping[UseKey, int]]:
        places = {
            Place(clusters[grant.id], AccountName(grant.project), month)
            for grant in grants
            for month in _months(grant, now)
        }
        found: dict[tuple[ClusterName, AccountName], dict[UseKey, int]] = defaultdict(dict)
        for key, used in self._store.ledger.use(places).items():
            found[key.cluster, key.account][key] = used
        return found

    def _running(
        self, grants: Iterable[PoolGrant], clusters: Mapping[PoolGrantId, ClusterName]
    ) -> Mapping[tuple[ClusterName, AccountName, ServiceClass], int]:
        accounts: dict[ClusterName, list[AccountName]] = defaultdict(list)
        for grant in grants:
            accounts[clusters[grant.id]].append(AccountName(grant.project))
        return {
            (cluster, account, service): gpus
            for cluster, some in accounts.items()
            for (account, service), gpus in self._store.ledger.running(cluster, some).items()
        }

    def _budget(
        self, tariff: Tariff, cluster: ClusterName, account: AccountName, use: Mapping[UseKey, int], now: datetime
    ) -> tuple[Budget | None, datetime | None]:
        found = standing(tariff, cluster, account, use, now)
        if found is None:
            return None, None
        window = pace_window(found.budget, now)
        seconds, won = recent_use(tariff, self._store.ledger.runs_of(cluster, account, window), window)
        return found.budget, runs_dry(found.budget, seconds, won, now)

    # -- On the way to the site

    def delivery(self, grant: PoolGrant) -> Delivered:
        cluster = self.share_of(grant).cluster
        told = self._pool.told(cluster)  # before the revision: what is told later has a greater one
        site = self.site_of(cluster)
        if site is None:
            return Delivered(state=Delivery.NO_SITE, site=None)
        revision = self._store.sites.revision(site.name)
        if not told or site.held != revision:
            seen = site.seen_at
            silent = seen is None or self._clock.now() - seen > SILENT_AFTER
            return Delivered(state=Delivery.ON_THE_WAY, site=site, silent=silent)
        for kind, name, why in self._left_out(site, revision):
            if (kind, name) in {
                ("Grant", grant.id),
                ("Project", grant.project),
                ("Organisation", grant.organisation),
            }:
                return Delivered(state=Delivery.LEFT_OUT, site=site, why=why)
        return Delivered(state=Delivery.TAKEN, site=site)

    def person_left_out(self, grant: PoolGrant, site: Site, login: UserName) -> str:
        """Why the site has no such login, or does not let it into the project; empty when it says nothing."""
        mine = {("Person", str(login)), ("Member", f"{login} in {grant.project}")}
        found = (why for kind, name, why in self._left_out(site, site.held) if (kind, name) in mine)
        return next(found, "")

    def _left_out(self, site: Site, revision: int) -> Iterator[tuple[str, str, str]]:
        """What the site says that it did not take of this revision: kind, name, why."""
        received = self._store.sites.report(site.name)
        if received is None:
            return
        report = SiteReport.model_validate(received.report)
        if report.revision == revision:
            yield from ((one.kind, one.name, one.why) for one in report.findings)


def _months(grant: PoolGrant, now: datetime) -> Iterator[Month]:
    """From the grant's first to the present one; runs that began in its last days may end after it."""
    first, today = grant.starts, korean_day(now)
    month, last = Month(first.year, first.month), Month(today.year, today.month)
    while month <= last:
        yield month
        month = month.following


def _won(use: Mapping[UseKey, int], tariff: Tariff) -> Mapping[Month, int]:
    found: dict[Month, int] = defaultdict(int)
    for key, amounts in entitled(use, tariff).items():
        found[key.month] += amounts.won
    return found
