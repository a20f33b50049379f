"""What one command of the pool may write, in one transaction: every write goes through here.

So an offer, a grant or a hold is never written without its row in the calendar, a grant never without a new revision of
its site's documents, and a test can end the process between any two writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Protocol, TypeVar

from pydantic import JsonValue

from slurm_gpuaas.domain.applications import Application, in_conflict
from slurm_gpuaas.domain.calendar import korean_day
from slurm_gpuaas.domain.errors import Refused
from slurm_gpuaas.domain.idle import Said
from slurm_gpuaas.domain.names import OrganisationName, PersonId
from slurm_gpuaas.domain.people import Actor
from slurm_gpuaas.domain.policy import Role
from slurm_gpuaas.domain.pool_grants import Hold, HoldKind, Offer, PoolGrant, PoolGrantState
from slurm_gpuaas.domain.stages import Happened, Noun
from slurm_gpuaas.domain.told import Told, told
from slurm_gpuaas.store.pool.register import Register, Shelf

Evidence = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Program:
    """A program of ours that acts by itself, e.g. `gpuaas-portal/pool`."""

    name: str


def name_of(actor: Actor | Program) -> str:
    """What the audit trail calls it."""
    return actor.name if isinstance(actor, Program) else str(actor.person)


class AuditTrail(Protocol):
    """Appends within the caller's transaction."""

    def append(
        self, actor: Actor | Program, action: str, subject: str, reason: str, evidence: Mapping[str, Evidence], /
    ) -> None: ...


Failpoint = Callable[[str], None]
"""Called with a name before each write. A test's ends the process there."""


def no_failpoint(place: str, /) -> None:
    """What runs in production."""


class Mail(StrEnum):
    """The texts that people get, in their own language; each has its values, e.g. `grant`, `reason`."""

    APPLICATION_SUBMITTED = "application.submitted"
    APPLICATION_WAITING = "application.waiting"
    APPLICATION_REFUSED = "application.refused"
    APPLICATION_PERIOD_OVER = "application.period-over"
    OFFER_MADE = "offer.made"
    OFFER_DECLINED = "offer.declined"
    OFFER_LAPSED = "offer.lapsed"
    GRANT_MADE = "grant.made"
    GRANT_STARTED = "grant.started"
    GRANT_CHANGED = "grant.changed"
    GRANT_CHANGE_REFUSED = "grant.change-refused"
    GRANT_SHRUNK = "grant.shrunk"
    GRANT_RECALLED = "grant.recalled"
    GRANT_RETURNED = "grant.returned"
    GRANT_ENDS_SOON = "grant.ends-soon"
    GRANT_ENDED = "grant.ended"
    GRANT_CLOSED = "grant.closed"
    GRANT_REPORT_MISSING = "grant.report-missing"
    IDLE_NOTICE = "idle.notice"
    IDLE_WARNING = "idle.warning"
    IDLE_FINAL_WARNING = "idle.final-warning"
    IDLE_REGULAR = "idle.regular"
    IDLE_EXEMPTED = "idle.exempted"
    IDLE_APPEAL_FILED = "idle.appeal-filed"
    IDLE_APPEAL_ALLOWED = "idle.appeal-allowed"
    IDLE_APPEAL_DENIED = "idle.appeal-denied"
    LEASE_APPROVED = "lease.approved"
    LEASE_REFUSED = "lease.refused"
    LEASE_SHORTENED = "lease.shortened"
    LEASE_ENDED = "lease.ended"


N = TypeVar("N", bound=Noun)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One command under way: who does it, when, and what it writes."""

    register: Register
    audit: AuditTrail
    failpoint: Failpoint
    action: str
    actor: Actor | Program
    now: datetime

    @property
    def today(self) -> date:
        return korean_day(self.now)

    @property
    def by(self) -> str:
        return name_of(self.actor)

    @property
    def person(self) -> PersonId:
        """
        Raises:
            Refused: no person does it.
        """
        if isinstance(self.actor, Program):
            raise Refused(told("{program} cannot do what a person answers for.", program=self.actor.name))
        return self.actor.person

    # -- Writes

    def put(self, shelf: Shelf[N], noun: N) -> N:
        self.failpoint(f"{self.action}: {type(noun).__name__}")
        shelf.put(noun)
        return noun

    def put_offer(self, offer: Offer) -> Offer:
        self.put(self.register.offers, offer)
        self.failpoint(f"{self.action}: calendar")
        self.register.calendar.hold(offer.id, offer.commitment, since=self.today)
        return offer

    def put_grant(self, grant: PoolGrant) -> PoolGrant:
        self.put(self.register.grants, grant)
        self.failpoint(f"{self.action}: calendar")
        self.register.calendar.hold(grant.id, grant.commitment, since=self.today)
        self.failpoint(f"{self.action}: revision")
        self.register.raise_revision(self.register.shares.get(grant.share).cluster)
        return grant

    def put_hold(self, hold: Hold) -> Hold:
        self.put(self.register.holds, hold)
        self.failpoint(f"{self.action}: calendar")
        self.register.calendar.hold(hold.id, hold.commitment, since=self.today)
        if hold.kind is HoldKind.LEASE:
            self.failpoint(f"{self.action}: revision")
            self.register.raise_revision(self.register.shares.get(hold.share).cluster)
        return hold

    def sites_changed(self, grants: Iterable[PoolGrant]) -> None:
        """The documents of these grants' sites are others now."""
        shares = {grant.share for grant in grants if grant.state is not PoolGrantState.ENDED}
        for cluster in sorted({self.register.shares.get(share).cluster for share in shares}):
            self.failpoint(f"{self.action}: revision")
            self.register.raise_revision(cluster)

    def happened(self, step: StrEnum, reason: str = "") -> Happened:
        """The first step of a new thing's history."""
        return Happened(at=self.now, by=self.by, step=str(step), reason=reason)

    def record(self, subject: str, reason: str = "", **evidence: Evidence) -> None:
        self.failpoint(f"{self.action}: audit")
        self.audit.append(self.actor, self.action, subject, reason, evidence)

    def mail(self, people: Iterable[PersonId], template: Mail, **parts: JsonValue) -> None:
        """A sentence among the parts that was `told` is told to each reader in their own language."""
        parts = {
            name: Said.of(part).model_dump(mode="json") if isinstance(part, Told) else part
            for name, part in parts.items()
        }
        for person in sorted(set(people)):
            self.failpoint(f"{self.action}: mail")
            self.register.outbox.put(person, template.value, parts, at=self.now)

    def number(self, letter: str) -> str:
        """The next number of a kind in this Korean year."""
        self.failpoint(f"{self.action}: number")
        year = f"{letter}{self.today.year}"
        return f"{year}-{self.register.next_number(year):05}"

    # -- Who may

    def colleagues(self, organisation: OrganisationName) -> frozenset[PersonId]:
        return frozenset(one.person for one in self.register.memberships.all(organisation=organisation))

    def people(self, organisation: OrganisationName, *others: PersonId) -> frozenset[PersonId]:
        """Whom a mail about the organisation's GPUs goes to: its administrators, and others while they belong to it."""
        members = self.register.memberships.all(organisation=organisation)
        return frozenset(one.person for one in members if one.role is Role.TENANT_ADMIN or one.person in others)

    def check_belongs(self, organisation: OrganisationName) -> None:
        """
        Raises:
            Refused: who acts is no member of the organisation.
        """
        if self.person not in self.colleagues(organisation):
            raise Refused(
                told("{person} is no member of {organisation}.", person=self.person, organisation=organisation),
                way_out=told("Ask an administrator of the organisation to add you."),
            )

    def check_impartial(self, application: Application) -> None:
        """
        Raises:
            Refused: who acts has a conflict of interest.
        """
        if in_conflict(self.person, application, self.colleagues(application.organisation)):
            raise Refused(
                told(
                    "{person} belongs to {organisation} and cannot judge its application {application}.",
                    person=self.person,
                    organisation=application.organisation,
                    application=application.id,
                ),
                way_out=told("Leave it to somebody without a conflict of interest."),
            )
