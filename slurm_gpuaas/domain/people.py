"""People of the portal and what they may be. Who may do what is decided by the portal's table of rights."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from slurm_gpuaas.domain.names import OrganisationName, PersonId, ProviderName


class PortalRole(StrEnum):
    """One person has one role at a time; `organisation` or `provider` says where it holds."""

    GOVERNMENT = "government"
    PROVIDER_OPERATOR = "provider-operator"
    PROVIDER_BILLING = "provider-billing"
    TENANT_ADMIN = "tenant-admin"
    RESEARCHER = "researcher"
    AUDITOR = "auditor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a request comes from: address, the browser's own word for itself, and the request's number in the log."""

    address: str = ""
    browser: str = ""
    request: str = ""


NOWHERE: Final = Source()
"""Of what no request asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who does something, as what, from where. Two-person rules compare `person`, never the role; `source` is for the
    audit trail and makes nobody another actor."""

    person: PersonId
    role: PortalRole
    organisation: OrganisationName | None = None
    provider: ProviderName | None = None
    source: Source = field(default=NOWHERE, compare=False)
