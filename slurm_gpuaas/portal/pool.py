"""The pool behind the portal: its service, the documents that follow from its grants, and the ledger that takes what
sites report. What is done here by itself is level-triggered: a turn may be cut off anywhere and is made again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Final, Protocol
from uuid import uuid4

import structlog

from slurm_gpuaas.domain.accounts import PersonState
from slurm_gpuaas.domain.audit_chain import AuditEvent
from slurm_gpuaas.domain.calendar import ONE_DAY
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.errors import GpuaasError
from slurm_gpuaas.domain.idle import BusySum, GrantDay
from slurm_gpuaas.domain.leases import LEASE_PROGRAMME, Lease
from slurm_gpuaas.domain.ledger import Reconciled, StatementHead, Terms, Titles
from slurm_gpuaas.domain.logins import Login
from slurm_gpuaas.domain.months import Month
from slurm_gpuaas.domain.names import ClusterName, CommandId, GrantName, HoldId, OrganisationName, SiteName
from slurm_gpuaas.domain.people import NOWHERE, Actor, PortalRole
from slurm_gpuaas.domain.policy import Grant, Role
from slurm_gpuaas.domain.pool_grants import PoolGrant
from slurm_gpuaas.domain.programmes import Membership, PoolShare
from slurm_gpuaas.domain.usage import UsageChange
from slurm_gpuaas.metering.bookkeeping import Bookkeeper
from slurm_gpuaas.metering.closing import Closing, ClosingState
from slurm_gpuaas.pool.documents import SiteDocuments
from slurm_gpuaas.pool.idle_service import IdleService
from slurm_gpuaas.pool.lease_service import LeaseService
from slurm_gpuaas.pool.service import PoolService
from slurm_gpuaas.pool.work import Evidence, Program, name_of
from slurm_gpuaas.portal.pictures import Pictures
from slurm_gpuaas.store.pool import PoolStore
from slurm_gpuaas.store.pool.sites import Site

TURN_S: Final = 0.5
"""Between two looks whether documents changed: what a person accepts is at its site within 5 s."""
DAYS_EVERY: Final = timedelta(minutes=1)
JUDGE_EVERY: Final = timedelta(hours=1)
"""Use of the day before may come late; a grant makes one step a day at most."""
BOOK_EVERY: Final = timedelta(hours=1)
RECONCILE_EVERY: Final = timedelta(days=1)
OFFICES: Final = Program("gpuaas-portal/people")
CLOSING: Final = Program("gpuaas-portal/closing")
"""Closes months."""
MEMBERS: Final = {PortalRole.TENANT_ADMIN: Role.TENANT_ADMIN, PortalRole.RESEARCHER: Role.RESEARCHER}
"""What the roles that have an organisation are in its projects."""
_UNFIT: Final = str.maketrans(dict.fromkeys(":,", " ") | {chr(code): " " for code in (*range(32), 127)})
"""What the comment of a UNIX account cannot hold."""

log = structlog.get_logger(__name__)


class PoolTrail:
    """The portal's chained trail, for the pool's service."""

    def __init__(self, store: PoolStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def append(
        self, actor: Actor | Program, action: str, subject: str, reason: str, evidence: Mapping[str, Evidence], /
    ) -> None:
        source = NOWHERE if isinstance(actor, Program) else actor.source
        self._store.audit.append(
            AuditEvent(
                at=self._clock.now(),
                actor=name_of(actor),
                role="" if isinstance(actor, Program) else actor.role,
                action=action,
                subject=subject,
                reason=reason,
                evidence=evidence,
                source=source.address,
                request=source.request,
            )
        )


class ReportedUse:
    """Usage of sites goes into the ledger; `cluster` of each record is the portal's own word for the site's."""

    def __init__(self, keeper: Bookkeeper) -> None:
        self._keeper = keeper

    def put(self, site: SiteName, changes: Sequence[UsageChange]) -> None:
        self._keeper.take(changes)


class ReportedDays:
    """What grants used on whole days, for the rules of idle grants."""

    def __init__(self, store: PoolStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def put(self, cluster: ClusterName, days: Sequence[GrantDay]) -> int:
        """How many are of grants on that cluster; others are not kept."""
        return self._store.register.days.take(cluster, days, at=self._clock.now())


class PoolServer:
    """What pages, sites and the turns work with.

    Args:
        map_folder: where pictures of what runs are kept; None = nowhere, so the map has no past.
    """

    def __init__(self, store: PoolStore, clock: Clock, *, map_folder: Path | None = None) -> None:
        self.store = store
        self.pictures = Pictures(store.sites, clock, map_folder)
        self._trail = PoolTrail(store, clock)
        self.service = PoolService(store=store, clock=clock, audit=self._trail)
        self.idle = IdleService(store=store, clock=clock, audit=self._trail, pool=self.service)
        self.leases = LeaseService(store=store, clock=clock, audit=self._trail)
        self.keeper = Bookkeeper(store.ledger, clock)
        self._clock = clock
        self._said: dict[ClusterName, int] = {}
        """Revision of the pool's documents that each cluster's site was last told."""
        self._days = _Every(DAYS_EVERY, clock)
        self._mornings = _Every(JUDGE_EVERY, clock)
        self._books = _Every(BOOK_EVERY, clock)
        self._equal = _Every(RECONCILE_EVERY, clock)
        self._lock = threading.Lock()

    def turn(self) -> None:
        """Do what is due: the steps of the day, documents for sites, bookings. One turn at a time."""
        with self._lock:
            self._belong()
            self.store.ledger.look_anew()  # `gpuaas-portal close-month` is a process of its own
            moved = self.idle.morning() if self._mornings.due() else 0
            if self._days.due() or moved:  # what is taken back is offered at once
                self.leases.tick()
                self.service.tick()
            for site in self.store.sites.all_now():
                if self._said.get(site.cluster) != self.store.register.revision(site.cluster):
                    self._tell(site)
            if self._books.due():
                self.book()
                self._close_months()
                if self._equal.due():
                    self.reconcile(self.months_to_reconcile())

    def book(self) -> None:
        """Book what is missing, by the terms of grants and leases as they are now."""
        self._put_terms(self.store.sites.all())
        self.keeper.book()

    def closing(self) -> Closing | None:
        """The month that is closed next, and what it waits for; None as long as nothing was ever booked."""

        def read() -> Closing | None:
            month = self.keeper.next_to_close()
            return None if month is None else self.keeper.closing(month, self.used_through())

        tables = ("ledger_entry", "closed_month", "grant_terms", "site", "site_report")
        return self.store.remembered(tables, "closing", read)

    def used_through(self) -> dict[ClusterName, datetime]:
        """Until when all runs that a cluster's Slurm knows are here, of each that has told."""
        found = {}
        for site in self.store.sites.all():
            received = self.store.sites.report(site.name)
            if received is not None and (through := received.report.get("used_through")) is not None:
                # Nobody knows what is to come.
                found[site.cluster] = min(datetime.fromisoformat(through), received.received_at)
        return found

    def close_month(self, month: Month, by: Program) -> Sequence[StatementHead]:
        """Issue the month's statements, which is told in the audit trail; all of it or nothing.

        Raises:
            Refused, Conflict: see `Bookkeeper.close`.
        """
        self.book()
        with self.store.transaction():
            heads = self.keeper.close(month, self.titles())
            supply = sum(head.supply for head in heads)
            self._trail.append(
                by, "ledger.close-month", str(month), "", {"statements": len(heads), "supply_won": supply}
            )
        return heads

    def _close_months(self) -> None:
        """Those that are due and of which all sites have told, one after the other."""
        while (found := self.closing()) is not None:
            state = found.state(self._clock.now())
            if state is not ClosingState.READY:
                if state is ClosingState.LATE:
                    missing = ", ".join(one.cluster for one in found.waits_for)
                    log.warning("ledger.month-late", month=str(found.month), missing=missing)
                return
            self.close_month(found.month, CLOSING)

    def months_to_reconcile(self) -> Sequence[Month]:
        """The present one and the one before, of which late records may still come."""
        now = Month.of(self._clock.now())
        return (now.back(1), now)

    def reconcile(self, months: Iterable[Month]) -> Sequence[Reconciled]:
        """Compare each site's runs with the ledger, and keep what was found."""
        sites = self.store.sites.all()
        return [self.keeper.show_equal(site.cluster, month) for month in months for site in sites]

    def busy(self, first: Month, last: Month) -> Mapping[GrantName, BusySum]:
        """How busy the GPUs of grants were in the months from `first` to `last`, as their sites told."""
        days = self.store.register.days.busy(first.first, last.following.first - ONE_DAY)
        return {GrantName(grant): one for grant, one in days.items()}

    def titles(self, organisation: OrganisationName | None = None) -> Titles:
        """What statements call things: those of one organisation, or all; providers' leases are among them."""
        register = self.store.register
        only_name = {} if organisation is None else {"name": str(organisation)}
        only = {} if organisation is None else {"organisation": str(organisation)}
        leases = register.leases.all()
        return Titles(
            organisations={one.organisation: f"{one.provider} 자체 이용 (own use)" for one in leases}
            | {one.name: one.title for one in register.organisations.all(**only_name)},
            programmes={LEASE_PROGRAMME: "제공사 임차 (무상)"}
            | {one.name: one.title.ko for one in register.programmes.all()},
            projects={one.project: one.reason for one in leases}
            | {one.project: one.title for one in register.grants.all(**only)},
        )

    def told(self, cluster: ClusterName) -> bool:
        """What the cluster's site is told holds all that was decided until now."""
        return self._said.get(cluster) == self.store.register.revision(cluster)

    def _belong(self) -> None:
        """Who belongs to an organisation follows from what people may be in the portal: nobody keeps a second list.
        Whoever is suspended, leaves or changes to another organisation loses its grants with it."""
        known = {one.name for one in self.store.register.organisations.all()}
        people = self.store.people.all_now()
        wanted = {
            (person.id, office.organisation): MEMBERS[office.role]
            for person in people
            if person.state is PersonState.ACTIVE and (office := person.office).organisation in known
        }
        there = {(one.person, one.organisation): one.role for one in self.store.register.memberships.all()}
        ours = {person.id for person in people}
        for person, organisation in sorted(one for one in there.keys() - wanted.keys() if one[0] in ours):
            self.service.end_membership(_once(), OFFICES, person, organisation)
        for (person, organisation), role in sorted(wanted.items() - there.items()):
            self.service.put_membership(
                _once(), OFFICES, Membership(person=person, organisation=organisation, role=role)
            )

    def _tell(self, site: Site) -> None:
        revision, documents = self.service.documents(site.cluster)
        self.store.sites.set_documents(
            site.name,
            (*documents.organisations, *documents.projects, *documents.members, *documents.grants),
            self._logins(documents),
            at=self._clock.now(),
        )
        self._put_terms([site])
        self._said[site.cluster] = revision

    def _logins(self, documents: SiteDocuments) -> Sequence[Login]:
        register = self.store.register
        identities = {one.login: one for one in register.identities.all()}
        names = self.store.people.names(sorted(one.person for one in identities.values()))
        return [
            Login(
                user=one.login,
                name=names.get(identities[one.login].person, "").translate(_UNFIT).strip()[:100],
                keys=one.ssh_keys,
                uid=identities[one.login].uid,
            )
            for one in documents.people
        ]

    def _put_terms(self, sites: Iterable[Site]) -> None:
        """What the accounts charge for the grants and leases at these sites. One that they refuse is told and holds up
        none: its use stays without a price, and it is tried again before every booking."""
        register, clusters = self.store.register, {site.cluster for site in sites}
        shares = {share.name: share for share in register.shares.all() if share.cluster in clusters}
        if not shares:
            return
        there = {"share": sorted(shares)}
        grants = [_terms(one, shares[one.share]) for one in register.grants.all(**there)]
        leases = [
            _terms_of_lease(one, one.hold, shares[one.share])
            for one in register.leases.all(**there, state=["approved", "ended"])
            if one.hold is not None
        ]
        for terms in (*grants, *leases):
            try:
                self.keeper.set_terms(terms)
            except GpuaasError as error:
                log.warning("ledger.terms-refused", grant=terms.grant.name, why=str(error))


def _once() -> CommandId:
    return CommandId(str(uuid4()))


def _terms(grant: PoolGrant, share: PoolShare) -> Terms:
    """The grant's own days and GPUs: its site's document has others while its grace lasts."""
    charged = Grant(
        name=grant.id,
        project=grant.project,
        pool=share.pool,
        share=share.share,
        gpus=grant.gpus,
        starts=grant.starts,
        ends=max(grant.starts, grant.ends),
        budget_won=grant.budget_won,
        price_percent=grant.price_percent,
    )
    return Terms(
        grant=charged,
        organisation=grant.organisation,
        programme=grant.programme,
        provider=share.provider,
        cluster=share.cluster,
        model=share.model,
    )


def _terms_of_lease(lease: Lease, hold: HoldId, share: PoolShare) -> Terms:
    """Free, and in the accounts all the same: its GPU-hours stand on statements with their list price."""
    gone = lease.ended_on
    charged = Grant(
        name=GrantName(hold),
        project=lease.project,
        pool=share.pool,
        share=share.share,
        gpus=0 if gone is not None and gone <= lease.starts else lease.gpus,
        borrow_limit=0,
        starts=lease.starts,
        ends=lease.ends if gone is None else max(lease.starts, min(lease.ends, gone - ONE_DAY)),
        price_percent=Decimal(0),
    )
    return Terms(
        grant=charged,
        organisation=lease.organisation,
        programme=LEASE_PROGRAMME,
        provider=lease.provider,
        cluster=share.cluster,
        model=share.model,
    )


class _Every:
    """Due at once, and then again after each span."""

    def __init__(self, span: timedelta, clock: Clock) -> None:
        self._span = span
        self._clock = clock
        self._next: datetime | None = None

    def due(self) -> bool:
        now = self._clock.now()
        if self._next is not None and now < self._next:
            return False
        self._next = now + self._span
        return True


class Turning(Protocol):
    """What has something to do again and again; a turn may be cut off anywhere and is made again."""

    def turn(self) -> None: ...


class PoolTurns:
    """Turns in a thread of their own, until it is stopped. A turn that fails is told and made again."""

    def __init__(
        self,
        pool: Turning,
        *,
        name: str = "pool",
        every_s: float = TURN_S,
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        self._pool = pool
        self._name = name
        self._every_s = every_s
        self._failed = failed
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Waits for the turn under way."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self._pool.turn()
            except GpuaasError as error:
                self._failed()
                log.warning(f"{self._name}.turn-failed", why=str(error))
            self._over.wait(self._every_s)
