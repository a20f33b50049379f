"""Accounts of the portal: people, how they sign in, sessions, tokens of programs. What each role may do is decided by
the portal's table of rights; here is only what an account can be."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.names import OrganisationName, PersonId, ProviderName, UserName
from slurm_gpuaas.domain.people import Actor, PortalRole
from slurm_gpuaas.domain.told import told

ORGANISATION_ROLES: Final = frozenset({PortalRole.TENANT_ADMIN, PortalRole.RESEARCHER})
"""Roles that hold within one organisation."""
PROVIDER_ROLES: Final = frozenset({PortalRole.PROVIDER_OPERATOR, PortalRole.PROVIDER_BILLING})
"""Roles that hold at one provider."""


class PersonState(StrEnum):
    INVITED = "invited"
    """Has a role but has not come yet."""
    ACTIVE = "active"
    SUSPENDED = "suspended"
    """May not sign in; what they did stays theirs."""


class RoleSource(StrEnum):
    """Who says which role a person has."""

    PORTAL = "portal"
    IDENTITY_PROVIDER = "identity-provider"
    """Claims at each sign-in; a person whom they no longer name may not sign in."""


class Language(StrEnum):
    KOREAN = "ko"
    ENGLISH = "en"


@dataclass(frozen=True, slots=True, kw_only=True)
class Office:
    """A role and where it holds.

    Raises:
        InvalidInput: a role of an organisation without one, a role of a provider without one, or either with too much.
    """

    role: PortalRole
    organisation: OrganisationName | None = None
    provider: ProviderName | None = None

    def __post_init__(self) -> None:
        if (self.organisation is not None) is not (self.role in ORGANISATION_ROLES):
            raise InvalidInput(
                told("An organisation belongs to the roles tenant admin and researcher, and only to them."),
                way_out=told("Give an organisation exactly with these roles."),
            )
        if (self.provider is not None) is not (self.role in PROVIDER_ROLES):
            raise InvalidInput(
                told("A provider belongs to the roles of providers, and only to them."),
                way_out=told("Give a provider exactly with these roles."),
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Args:
    login: of a local account; None = signs in at the identity provider only.
    """

    id: PersonId
    name: str
    email: str
    office: Office
    state: PersonState
    role_from: RoleSource
    created_at: datetime
    language: Language | None = None
    login: UserName | None = None

    @property
    def actor(self) -> Actor:
        return Actor(
            person=self.id,
            role=self.office.role,
            organisation=self.office.organisation,
            provider=self.office.provider,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PortalSession:
    """Args:
    digest: SHA-256 of the session's number in hexadecimal; the number itself is in the browser only.
    issuer, subject, sid: of the identity provider that the person came from; empty for local accounts.
    """

    digest: str
    person: PersonId
    created_at: datetime
    seen_at: datetime
    address: str
    browser: str
    issuer: str = ""
    subject: str = ""
    sid: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiToken:
    """A program's key to the API: it may do what its person may, of the actions in `scopes`.

    Args:
        id: public, to name and revoke it; the secret is stored as its SHA-256 only.
    """

    id: str
    person: PersonId
    name: str
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None = None
    revoked_at: datetime | None = None

    def valid(self, now: datetime) -> bool:
        return self.revoked_at is None and now < self.expires_at


class ChangeState(StrEnum):
    OPEN = "open"
    APPROVED = "approved"
    REFUSED = "refused"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True, kw_only=True)
class OfficeChange:
    """A role that somebody asked for and somebody else must approve."""

    id: int
    person: PersonId
    office: Office
    reason: str
    asked_by: PersonId
    asked_at: datetime
    state: ChangeState = ChangeState.OPEN
    decided_by: PersonId | None = None
    decided_at: datetime | None = None


def needs_second_person(before: Office | None, after: Office) -> bool:
    """Whether a role becomes a person's only when a second one approves: every role but a researcher's, since each of
    them decides about others, and a move to another organisation."""
    if after == before:
        return False
    return after.role is not PortalRole.RESEARCHER or (before is not None and before.organisation != after.organisation)
