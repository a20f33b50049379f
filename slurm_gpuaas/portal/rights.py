"""Who may do what: one table, role x action x scope. Pages, API and commands all ask here, and nowhere else.

Pure. That nobody approves what they asked for themselves is no right but a rule about two people: `not_by_requester`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from slurm_gpuaas.domain.errors import Refused
from slurm_gpuaas.domain.names import OrganisationName, PersonId, ProviderName
from slurm_gpuaas.domain.people import Actor, PortalRole
from slurm_gpuaas.domain.told import told


class Scope(StrEnum):
    OWN = "own"
    """What is the person's."""
    ORGANISATION = "organisation"
    """What is the person's organisation's."""
    PROVIDER = "provider"
    """What runs at the person's provider."""
    ALL = "all"


class Action(StrEnum):
    # One's own account
    HOME_READ = "home.read"
    PROFILE_CHANGE = "profile.change"
    SESSION_MANAGE = "session.manage"
    TOKEN_MANAGE = "token.manage"  # noqa: S105
    # People
    PEOPLE_READ = "people.read"
    PEOPLE_INVITE = "people.invite"
    PEOPLE_CHANGE = "people.change"
    PEOPLE_APPROVE = "people.approve"
    # From application to grant
    PROGRAMME_READ = "programme.read"
    PROGRAMME_CHANGE = "programme.change"
    ORGANISATION_READ = "organisation.read"
    SHARE_READ = "share.read"
    """What pool shares have and have promised."""
    APPLICATION_READ = "application.read"
    APPLICATION_WRITE = "application.write"
    APPLICATION_REVIEW = "application.review"
    REVIEW_READ = "review.read"
    """See reviews, once one may: a reviewer after their own, an auditor always, an applicant never."""
    AWARD_READ = "award.read"
    AWARD_PROPOSE = "award.propose"
    AWARD_APPROVE = "award.approve"
    OFFER_ANSWER = "offer.answer"
    GRANT_READ = "grant.read"
    GRANT_REQUEST = "grant.request"
    """Ask for a renewal, a change, an early return, or appeal against a recall."""
    GRANT_CHANGE = "grant.change"
    MEMBER_READ = "member.read"
    MEMBER_CHANGE = "member.change"
    # What runs
    MAP_READ = "map.read"
    JOB_READ = "job.read"
    INCIDENT_READ = "incident.read"
    SITE_READ = "site.read"
    SITE_CHANGE = "site.change"
    """Register a site, renew its key."""
    LEASE_READ = "lease.read"
    LEASE_REQUEST = "lease.request"
    """A provider's use of government GPUs that nobody was awarded."""
    LEASE_APPROVE = "lease.approve"
    LEASE_END = "lease.end"
    """Its provider gives it back, the government takes it back with notice."""
    # Money
    RATE_READ = "rate.read"
    RATE_PROPOSE = "rate.propose"
    RATE_APPROVE = "rate.approve"
    USAGE_READ = "usage.read"
    STATEMENT_READ = "statement.read"
    LEDGER_READ = "ledger.read"
    LEDGER_CORRECT = "ledger.correct"
    REPORT_READ = "report.read"
    # What was done
    AUDIT_READ = "audit.read"


_EVERYBODY: Final = {
    Action.HOME_READ: Scope.OWN,
    Action.PROFILE_CHANGE: Scope.OWN,
    Action.SESSION_MANAGE: Scope.OWN,
    Action.TOKEN_MANAGE: Scope.OWN,
    Action.PROGRAMME_READ: Scope.ALL,
}

_TABLE: Final[Mapping[PortalRole, Mapping[Action, Scope]]] = {
    PortalRole.GOVERNMENT: {
        Action.PEOPLE_READ: Scope.ALL,
        Action.PEOPLE_INVITE: Scope.ALL,
        Action.PEOPLE_CHANGE: Scope.ALL,
        Action.PEOPLE_APPROVE: Scope.ALL,
        Action.PROGRAMME_CHANGE: Scope.ALL,
        Action.ORGANISATION_READ: Scope.ALL,
        Action.SHARE_READ: Scope.ALL,
        Action.APPLICATION_READ: Scope.ALL,
        Action.APPLICATION_REVIEW: Scope.ALL,
        Action.REVIEW_READ: Scope.ALL,
        Action.AWARD_READ: Scope.ALL,
        Action.AWARD_PROPOSE: Scope.ALL,
        Action.AWARD_APPROVE: Scope.ALL,
        Action.GRANT_READ: Scope.ALL,
        Action.GRANT_CHANGE: Scope.ALL,
        Action.MAP_READ: Scope.ALL,
        Action.INCIDENT_READ: Scope.ALL,
        Action.SITE_READ: Scope.ALL,
        Action.SITE_CHANGE: Scope.ALL,
        Action.LEASE_READ: Scope.ALL,
        Action.LEASE_APPROVE: Scope.ALL,
        Action.LEASE_END: Scope.ALL,
        Action.RATE_READ: Scope.ALL,
        Action.RATE_PROPOSE: Scope.ALL,
        Action.RATE_APPROVE: Scope.ALL,
        Action.USAGE_READ: Scope.ALL,
        Action.STATEMENT_READ: Scope.ALL,
        Action.REPORT_READ: Scope.ALL,
        Action.AUDIT_READ: Scope.ALL,
    },
    PortalRole.PROVIDER_OPERATOR: {
        Action.SHARE_READ: Scope.PROVIDER,
        Action.AWARD_READ: Scope.PROVIDER,
        Action.GRANT_READ: Scope.PROVIDER,
        Action.MAP_READ: Scope.PROVIDER,
        Action.JOB_READ: Scope.PROVIDER,
        Action.INCIDENT_READ: Scope.PROVIDER,
        Action.SITE_READ: Scope.PROVIDER,
        Action.LEASE_READ: Scope.PROVIDER,
        Action.LEASE_REQUEST: Scope.PROVIDER,
        Action.LEASE_END: Scope.PROVIDER,
        Action.RATE_READ: Scope.PROVIDER,
        Action.USAGE_READ: Scope.PROVIDER,
    },
    PortalRole.PROVIDER_BILLING: {
        Action.SHARE_READ: Scope.PROVIDER,
        Action.GRANT_READ: Scope.PROVIDER,
        Action.RATE_READ: Scope.PROVIDER,
        Action.RATE_PROPOSE: Scope.PROVIDER,
        Action.USAGE_READ: Scope.PROVIDER,
        Action.STATEMENT_READ: Scope.PROVIDER,
        Action.LEDGER_READ: Scope.PROVIDER,
        Action.LEDGER_CORRECT: Scope.PROVIDER,
    },
    PortalRole.TENANT_ADMIN: {
        Action.PEOPLE_READ: Scope.ORGANISATION,
        Action.PEOPLE_INVITE: Scope.ORGANISATION,
        Action.PEOPLE_CHANGE: Scope.ORGANISATION,
        Action.PEOPLE_APPROVE: Scope.ORGANISATION,
        Action.ORGANISATION_READ: Scope.ORGANISATION,
        Action.APPLICATION_READ: Scope.ORGANISATION,
        Action.APPLICATION_WRITE: Scope.ORGANISATION,
        Action.OFFER_ANSWER: Scope.ORGANISATION,
        Action.GRANT_READ: Scope.ORGANISATION,
        Action.GRANT_REQUEST: Scope.ORGANISATION,
        Action.MEMBER_READ: Scope.ORGANISATION,
        Action.MEMBER_CHANGE: Scope.ORGANISATION,
        Action.MAP_READ: Scope.ORGANISATION,
        Action.JOB_READ: Scope.ORGANISATION,
        Action.INCIDENT_READ: Scope.ORGANISATION,
        Action.RATE_READ: Scope.ORGANISATION,
        Action.USAGE_READ: Scope.ORGANISATION,
        Action.STATEMENT_READ: Scope.ORGANISATION,
    },
    PortalRole.RESEARCHER: {
        Action.ORGANISATION_READ: Scope.ORGANISATION,
        Action.APPLICATION_READ: Scope.OWN,
        Action.APPLICATION_WRITE: Scope.OWN,
        Action.GRANT_READ: Scope.OWN,
        Action.MEMBER_READ: Scope.OWN,
        Action.MAP_READ: Scope.OWN,
        Action.JOB_READ: Scope.OWN,
        Action.INCIDENT_READ: Scope.OWN,
        Action.USAGE_READ: Scope.OWN,
    },
    PortalRole.AUDITOR: {
        Action.PEOPLE_READ: Scope.ALL,
        Action.ORGANISATION_READ: Scope.ALL,
        Action.SHARE_READ: Scope.ALL,
        Action.APPLICATION_READ: Scope.ALL,
        Action.REVIEW_READ: Scope.ALL,
        Action.AWARD_READ: Scope.ALL,
        Action.GRANT_READ: Scope.ALL,
        Action.MEMBER_READ: Scope.ALL,
        Action.MAP_READ: Scope.ALL,
        Action.INCIDENT_READ: Scope.ALL,
        Action.SITE_READ: Scope.ALL,
        Action.LEASE_READ: Scope.ALL,
        Action.RATE_READ: Scope.ALL,
        Action.USAGE_READ: Scope.ALL,
        Action.STATEMENT_READ: Scope.ALL,
        Action.LEDGER_READ: Scope.ALL,
        Action.REPORT_READ: Scope.ALL,
        Action.AUDIT_READ: Scope.ALL,
    },
}

RIGHTS: Final[Mapping[PortalRole, Mapping[Action, Scope]]] = MappingProxyType(
    {role: MappingProxyType(_EVERYBODY | dict(_TABLE[role])) for role in PortalRole}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Owned:
    """Whose a thing is. What is not known is None, and then no scope but ALL reaches it."""

    people: frozenset[PersonId] = frozenset()
    organisation: OrganisationName | None = None
    provider: ProviderName | None = None


class NotYours(Refused):
    """The role may do it, but not with this thing. Whoever reads the answer must not learn from it that the thing is
    there: `problems` answers as if it were not."""

    def __init__(self, action: Action) -> None:
        super().__init__(
            told("This is not within what your role covers ({action}).", action=action),
            way_out=told("Ask somebody of the organisation or provider that it belongs to."),
        )
        self.action = action


def scope_of(role: PortalRole, action: Action) -> Scope | None:
    """How far the role may do it; None = not at all."""
    return RIGHTS[role].get(action)


def allows(actor: Actor, action: Action, thing: Owned) -> bool:
    match scope_of(actor.role, action):
        case Scope.ALL:
            return True
        case Scope.ORGANISATION:
            return actor.organisation is not None and actor.organisation == thing.organisation
        case Scope.PROVIDER:
            return actor.provider is not None and actor.provider == thing.provider
        case Scope.OWN:
            return actor.person in thing.people
        case None:
            return False


def require(actor: Actor, action: Action, thing: Owned | None = None) -> Scope:
    """Args:
        thing: None = any; the answer's scope then says what the caller may show or change.

    Raises:
        Refused: the role may not do it.
        NotYours: not with this thing.
    """
    scope = scope_of(actor.role, action)
    if scope is None:
        raise Refused(
            told("Your role does not allow this ({action}).", action=action),
            way_out=told("Ask somebody whose role does, or have your role changed."),
        )
    if thing is not None and not allows(actor, action, thing):
        raise NotYours(action)
    return scope


def not_by_requester(actor: Actor, requester: PersonId) -> None:
    """Two-person rule: people are compared, whatever roles they have had meanwhile.

    Raises:
        Refused: it is the same person.
    """
    if actor.person == requester:
        raise Refused(
            told("Who asks for something does not approve it."),
            way_out=told("Let a second person decide."),
        )
