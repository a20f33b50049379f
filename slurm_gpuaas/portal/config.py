"""What gpuaas-portal can be told: one YAML file, every field of it here. An unknown key is an error, never ignored.

Environment variables `GPUAAS_PORTAL_<FIELD>` (nested: `GPUAAS_PORTAL_STORE__URL`) stand above the file.
`etc/gpuaas-portal.yaml` shows what is set most.
"""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, ClassVar, Final, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, FilePath, model_validator
from pydantic_settings import SettingsConfigDict

from slurm_gpuaas.api.node_events import is_loopback
from slurm_gpuaas.domain.accounts import Language, Office
from slurm_gpuaas.domain.clock import Span
from slurm_gpuaas.domain.names import OrganisationName, ProviderName
from slurm_gpuaas.domain.people import PortalRole
from slurm_gpuaas.service.log import LogConfig
from slurm_gpuaas.service.settings import Section, Settings

DEFAULT_CONFIG: Final = Path("/etc/gpuaas/gpuaas-portal.yaml")


def _origin(url: str) -> str:
    """Raises:
    ValueError: it is more or less than scheme, host and port.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"https", "http"} or not parts.hostname or parts.path.strip("/") or parts.query:
        raise ValueError("write scheme, host and port only, as in https://gpu.example.org")
    if parts.username or parts.fragment:
        raise ValueError("write scheme, host and port only, as in https://gpu.example.org")
    return f"{parts.scheme}://{parts.netloc}".lower()


def _issuer(url: str) -> str:
    """Raises:
    ValueError: tokens would come over plain HTTP.
    """
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname or "")):
        raise ValueError("an identity provider is asked over https")
    return url


class StoreConfig(Section):
    url: str = Field(
        default="sqlite:////var/lib/gpuaas-portal/pool.db",
        description="SQLAlchemy URL of the pool's store: `sqlite:////path` or `postgresql+psycopg://user@host/name`.",
    )


class TlsConfig(Section):
    certificate: FilePath = Field(description="PEM file with the certificate chain.")
    key: FilePath = Field(description="PEM file with the private key.")


class ListenConfig(Section):
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=6890, ge=1, le=65535, description="TCP port.")
    tls: TlsConfig | None = Field(
        default=None, description="Certificate. Absent = plain HTTP: on loopback, behind a proxy that speaks TLS."
    )
    proxies: tuple[IPv4Network | IPv6Network, ...] = Field(
        default=(), description="Proxies whose X-Forwarded-For and X-Forwarded-Proto are believed. Nobody else's are."
    )

    @model_validator(mode="after")
    def _plain_on_loopback_only(self) -> Self:
        if self.tls is None and not is_loopback(self.host):
            raise ValueError(f"host is {self.host}, which other machines reach: give tls, or listen on 127.0.0.1")
        return self


class RoleRule(Section):
    """Who has a value among a claim's gets the role. The first rule that matches decides."""

    claim: str = Field(min_length=1, max_length=100, description="A claim of the ID token, e.g. `groups`.")
    value: str = Field(min_length=1, max_length=200, description="What it is, or holds.")
    role: PortalRole
    provider: ProviderName | None = Field(default=None, description="Of the roles of providers.")
    organisation: OrganisationName | None = Field(
        default=None, description="Of tenant admins and researchers; absent = from `organisation_claim`."
    )

    @model_validator(mode="after")
    def _where(self) -> Self:
        of_organisation = self.role in {PortalRole.TENANT_ADMIN, PortalRole.RESEARCHER}
        Office(
            role=self.role,
            provider=self.provider,
            organisation=self.organisation or (OrganisationName("any") if of_organisation else None),
        )
        return self


class OidcConfig(Section):
    """An OpenID Connect provider; people sign in there, with what factors it asks for."""

    name: str = Field(default="", max_length=60, description="What the button says, e.g. `GPU Pool SSO`.")
    issuer: Annotated[str, AfterValidator(_issuer)] = Field(
        description="Issuer, exactly as its ID tokens have it; .well-known/openid-configuration is read below it."
    )
    client_id: str = Field(min_length=1, max_length=200)
    client_secret_file: FilePath | None = Field(
        default=None, description="File with the client's secret. Absent = a public client (PKCE alone)."
    )
    scopes: tuple[str, ...] = Field(default=("openid", "profile", "email"), description="What is asked for.")
    timeout: Span = Field(default=timedelta(seconds=10), description="Longest wait for it.")
    roles: tuple[RoleRule, ...] = Field(
        default=(), description="Claims to roles. Without a match only who was invited may come in."
    )
    organisation_claim: str = Field(default="organisation", description="Claim with the organisation's name.")


class SessionsConfig(Section):
    idle: Span = Field(default=timedelta(minutes=30), description="A session that is not used for so long ends.")
    longest: Span = Field(default=timedelta(hours=10), description="A session ends after so long in any case.")
    failures: int = Field(default=5, ge=1, le=100, description="Wrong passwords in a row before a local account locks.")
    locked_for: Span = Field(default=timedelta(minutes=15), description="How long it then stays locked.")
    invitation: Span = Field(default=timedelta(days=7), description="How long an invitation can be taken up.")
    token_days: int = Field(default=365, ge=1, le=3650, description="Longest life of an API token, in days.")


class LimitsConfig(Section):
    """Requests a minute; what is over waits (429 with Retry-After)."""

    person: int = Field(default=1_200, ge=1, description="Of one person, in the browser and by tokens together.")
    address: int = Field(default=600, ge=1, description="Of one address without a session.")
    sign_in: int = Field(default=20, ge=1, description="Tries to sign in from one address.")


class AuditConfig(Section):
    anchor_file: Path | None = Field(
        default=None,
        description=(
            "File to which the last entry's number and hash are added once a day. Keep it where this server cannot "
            "change it later, e.g. an append-only mount. Absent = no anchors."
        ),
    )


class SitesConfig(Section):
    master_key: Path = Field(
        default=Path("/etc/gpuaas/sites.key"),
        description="File (0600) with the key that those of sites are made from. Without it no site is served.",
    )


class MapConfig(Section):
    folder: Path | None = Field(
        default=None,
        description=(
            "Folder of the server for pictures of what runs: a week of them, 0.3 GB for 13,136 GPUs, and the newest of "
            "each site. Absent = after a restart the map has no past, and a site is blank until it is heard."
        ),
    )


class MailSecurity(StrEnum):
    TLS = "tls"
    """From the first byte, commonly on port 465."""
    STARTTLS = "starttls"
    """Asked for before anything is said, commonly on port 587; a server that has none gets no mail."""
    NONE = "none"
    """On loopback: a mail server of this machine."""


class MailConfig(Section):
    """An SMTP server that takes the portal's mails."""

    host: str = Field(min_length=1, max_length=253, description="Name of the mail server.")
    port: int = Field(default=587, ge=1, le=65535, description="TCP port.")
    security: MailSecurity = Field(default=MailSecurity.STARTTLS, description="`tls`, `starttls` or `none`.")
    ca_file: FilePath | None = Field(
        default=None, description="PEM file of who may sign its certificate. Absent = the system's."
    )
    sender: str = Field(
        max_length=254,
        pattern=r"^[A-Za-z0-9._+-]{1,64}@[A-Za-z0-9.-]{1,189}$",
        description="From whom mails come: an address, as in gpu-pool@example.org.",
    )
    login: str | None = Field(default=None, max_length=200, description="Name to log in with. Absent = without.")
    password_file: FilePath | None = Field(default=None, description="File with its password.")
    timeout: Span = Field(default=timedelta(seconds=30), description="Longest wait for an answer of the server.")

    @model_validator(mode="after")
    def _protected(self) -> Self:
        if self.security is MailSecurity.NONE and not is_loopback(self.host):
            raise ValueError(f"security is none and the server is {self.host}: mails would travel in the clear")
        if (self.login is None) != (self.password_file is None):
            raise ValueError("login and password_file go together")
        return self


class Config(Settings):
    model_config = SettingsConfigDict(env_prefix="GPUAAS_PORTAL_")
    example: ClassVar[str] = "etc/gpuaas-portal.yaml"

    public_url: Annotated[str, AfterValidator(_origin)] = Field(
        description="What browsers have in their address bar: scheme, host and port. Forms from elsewhere are refused."
    )
    name: str = Field(default="GPU Pool", max_length=60, description="Name of the service, on every page.")
    name_ko: str = Field(default="", max_length=60, description="The same in Korean; absent = `name`.")
    language: Language = Field(
        default=Language.KOREAN, description="Of who has chosen none and whose browser says none."
    )
    insecure_http: bool = Field(
        default=False,
        description="For development: allow a public_url with http. Every page says that nothing is protected.",
    )
    store: StoreConfig = StoreConfig()
    listen: ListenConfig = ListenConfig()
    oidc: OidcConfig | None = Field(
        default=None, description="Sign-in at an identity provider. Absent = local accounts."
    )
    sessions: SessionsConfig = SessionsConfig()
    limits: LimitsConfig = LimitsConfig()
    audit: AuditConfig = AuditConfig()
    sites: SitesConfig = SitesConfig()
    map: MapConfig = MapConfig()
    mail: MailConfig | None = Field(
        default=None, description="Where mails go. Absent = nowhere: people read them on the page of messages."
    )
    log: LogConfig = LogConfig()

    @model_validator(mode="after")
    def _protected(self) -> Self:
        if self.public_url.startswith("http:") and not self.insecure_http:
            raise ValueError(f"public_url is {self.public_url}: sessions would travel in the clear; use https")
        return self
