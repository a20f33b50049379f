"""Sign-in at an OpenID Connect provider: authorization code flow with PKCE, state and nonce; ID tokens whose issuer,
audience, signature, times and nonce are checked; back-channel logout.

Who the provider names is mapped to a role by configuration; nothing a person could write there themselves decides.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.httpx_client import OAuth2Client
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from slurm_gpuaas.domain.accounts import Office
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.errors import InvalidInput, Refused, Unavailable
from slurm_gpuaas.domain.names import OrganisationName
from slurm_gpuaas.domain.people import PortalRole
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.portal.accounts import Identity
from slurm_gpuaas.portal.config import OidcConfig, RoleRule
from slurm_gpuaas.portal.secret import digest, new_secret, same
from slurm_gpuaas.store.pool.people import SignInFlow

ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures with a key that only the provider has; `none` and HS256 are not among them."""
CLOCKS_DIFFER: Final = timedelta(seconds=60)
FLOW_LASTS: Final = timedelta(minutes=10)
"""From our sign-in page to the provider and back."""
KEYS_LAST: Final = timedelta(hours=1)
KEYS_LEAST: Final = timedelta(seconds=30)
"""Keys are not asked for more often, whatever key a token names."""
LOGOUT_EVENT: Final = "http://schemas.openid.net/event/backchannel-logout"
MOST_ANSWER: Final = 2**20


class SignInFailed(Refused):
    """The provider's answer is not one to our question, or cannot be believed."""

    http_status = 400

    def __init__(self, why: str) -> None:
        super().__init__(
            told("The sign-in at your organisation did not succeed."), way_out=told("Begin again at the sign-in page.")
        )
        self.why = why


@dataclass(frozen=True, slots=True)
class Begun:
    """Where the browser goes now, and what the store keeps of it."""

    url: str
    flow: SignInFlow


@dataclass(frozen=True, slots=True)
class LoggedOut:
    subject: str
    sid: str


@dataclass(frozen=True, slots=True)
class _Provider:
    """Its published metadata and keys.

    Args:
        read_at: when; the keys are read again after an hour, or when a token names one that is not there.
    """

    authorize: str
    token: str
    keys: KeySet
    read_at: datetime
    names_issuer: bool


class Oidc:
    """Args:
    redirect: the portal's own address to come back to, as registered at the provider.
    """

    def __init__(self, config: OidcConfig, *, redirect: str, clock: Clock) -> None:
        self._config = config
        self._redirect = redirect
        self._clock = clock
        self._secret = (
            config.client_secret_file.read_text(encoding="utf-8").strip() if config.client_secret_file else None
        )
        self._known: _Provider | None = None
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return self._config.name or (urlsplit(self._config.issuer).hostname or "")

    @property
    def issuer(self) -> str:
        return self._config.issuer

    def forget_before(self) -> datetime:
        """Sign-ins begun before it are too late."""
        return self._clock.now() - FLOW_LASTS

    def begin(self, browser_secret: str, back_to: str) -> Begun:
        """Raises:
        Unavailable: the provider does not answer.
        """
        state, nonce, verifier = new_secret(), new_secret(), new_secret() + new_secret()
        with self._client() as client:
            url, _ = client.create_authorization_url(
                self._provider().authorize, state=state, code_verifier=verifier, nonce=nonce
            )
        return Begun(
            str(url),
            SignInFlow(
                digest=digest(state),
                browser_digest=digest(browser_secret),
                nonce=nonce,
                verifier=verifier,
                back_to=back_to,
                created_at=self._clock.now(),
            ),
        )

    def finish(self, flow: SignInFlow | None, browser_secret: str, query: Mapping[str, str]) -> Identity:
        """Args:
            flow: what `begin` made for the query's state; None = nothing.
            query: of the address that the browser was sent back to.

        Raises:
            SignInFailed: the provider refused, the answer is another browser's, late, or cannot be believed.
            Unavailable: the provider does not answer.
        """
        now = self._clock.now()
        if flow is None or now - flow.created_at > FLOW_LASTS:
            raise SignInFailed("no such state, or too late")
        if not same(flow.browser_digest, digest(browser_secret)):
            raise SignInFailed("begun in another browser")
        if "error" in query:
            raise SignInFailed(f"provider says {query['error'][:100]}")
        provider = self._provider()
        # RFC 9207: an answer that names its issuer must name this one; a provider that promises to must do so.
        if query.get("iss", self._config.issuer if not provider.names_issuer else "") != self._config.issuer:
            raise SignInFailed("answer of another issuer")
        try:
            with self._client() as client:
                answer = client.fetch_token(
                    provider.token,
                    code=query.get("code", ""),
                    code_verifier=flow.verifier,
                    grant_type="authorization_code",
                )
        except AuthlibBaseError as error:
            raise SignInFailed(f"token endpoint: {error}") from error
        except httpx2.HTTPError as error:
            raise self._no_answer(error) from error
        claims = self._claims(str(answer.get("id_token", "")), nonce=flow.nonce)
        return self._identity(claims)

    def logged_out(self, token: str) -> LoggedOut:
        """Whose session has ended at the provider (OpenID Connect Back-Channel Logout 1.0, 2.6).

        Raises:
            SignInFailed: it is no logout token of this provider for us.
        """
        claims = self._claims(token, nonce=None)
        events = claims.get("events")
        if not isinstance(events, dict) or LOGOUT_EVENT not in events:
            raise SignInFailed("no logout token")
        subject, sid = str(claims.get("sub") or ""), str(claims.get("sid") or "")
        if not subject and not sid:
            raise SignInFailed("a logout token without sub and sid")
        return LoggedOut(subject, sid)

    def _claims(self, token: str, *, nonce: str | None) -> Mapping[str, Any]:
        """Claims of an ID token (with the nonce that it must have) or a logout token (that must have none)."""
        try:
            decoded = self._decode(token)
            registry = jwt.JWTClaimsRegistry(
                now=lambda: int(self._clock.now().timestamp()),
                leeway=int(CLOCKS_DIFFER.total_seconds()),
                iss={"essential": True, "value": self._config.issuer},
                aud={"essential": True, "value": self._config.client_id},
                iat={"essential": True},
                exp={"essential": True},
                # a logout token may name a session instead of a subject, and must not have a nonce
                sub={"essential": nonce is not None},
                nonce={"essential": True, "value": nonce} if nonce else {"essential": False},
            )
            registry.validate(decoded.claims)
        except (JoseError, ValueError) as error:
            raise SignInFailed(f"token: {error}") from error
        claims: Mapping[str, Any] = decoded.claims
        if nonce is None and "nonce" in claims:
            raise SignInFailed("a logout token with a nonce")
        if claims.get("azp", self._config.client_id) != self._config.client_id:
            raise SignInFailed("token for another party")
        return claims

    def _decode(self, token: str) -> jwt.Token:
        """With the provider's keys; once more with new ones when it names a key that is not among them."""
        provider = self._provider()
        try:
            return jwt.decode(token, provider.keys, algorithms=list(ALGORITHMS))
        except (JoseError, ValueError):
            if self._clock.now() - provider.read_at < KEYS_LEAST:
                raise
            return jwt.decode(token, self._provider(newer_than=provider.read_at).keys, algorithms=list(ALGORITHMS))

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        return Identity(
            issuer=self._config.issuer,
            subject=_text(claims.get("sub"), 255),
            sid=_text(claims.get("sid"), 255),
            name=_text(claims.get("name") or claims.get("preferred_username"), 200),
            email=_text(claims.get("email"), 254).lower(),
            email_verified=claims.get("email_verified") is True,
            office=office_of(claims, self._config.roles, self._config.organisation_claim),
        )

    def _client(self) -> OAuth2Client:
        return OAuth2Client(
            client_id=self._config.client_id,
            client_secret=self._secret,
            token_endpoint_auth_method="client_secret_basic" if self._secret else "none",
            scope=" ".join(self._config.scopes),
            redirect_uri=self._redirect,
            code_challenge_method="S256",
            timeout=self._config.timeout.total_seconds(),
            follow_redirects=False,
        )

    def _provider(self, *, newer_than: datetime | None = None) -> _Provider:
        with self._lock:
            now = self._clock.now()
            known = self._known
            if known is None or now - known.read_at > KEYS_LAST or (newer_than and known.read_at <= newer_than):
                known = self._known = self._read(now)
            return known

    def _read(self, now: datetime) -> _Provider:
        try:
            with httpx2.Client(timeout=self._config.timeout.total_seconds()) as client:
                found = _json(client, self._config.issuer.rstrip("/") + "/.well-known/openid-configuration")
                if found.get("issuer") != self._config.issuer:
                    raise InvalidInput(
                        f"The identity provider calls itself {found.get('issuer')!r:.200}, not {self._config.issuer}.",
                        way_out="Write oidc.issuer exactly as it does.",
                    )
                keys = KeySet.import_key_set({"keys": _json(client, str(found["jwks_uri"]))["keys"]})
            return _Provider(
                authorize=str(found["authorization_endpoint"]),
                token=str(found["token_endpoint"]),
                keys=keys,
                read_at=now,
                names_issuer=found.get("authorization_response_iss_parameter_supported") is True,
            )
        except (httpx2.HTTPError, KeyError, TypeError, ValueError, JoseError) as error:
            raise self._no_answer(error) from error

    def _no_answer(self, error: Exception) -> Unavailable:
        return Unavailable(
            told(
                "The identity provider {name} does not answer as it should ({error}).",
                name=self.name,
                error=type(error).__name__,
            ),
            way_out=told("Try again in a minute."),
        )


def _json(client: httpx2.Client, url: str) -> dict[str, Any]:
    answer = client.get(url)
    answer.raise_for_status()
    if len(answer.content) > MOST_ANSWER:
        raise ValueError(f"{url} answers {len(answer.content)} bytes")
    found = answer.json()
    if not isinstance(found, dict):
        raise TypeError(f"{url} answers no JSON object")
    return found


def _text(value: object, most: int) -> str:
    """A claim as text of one line; what is none, is empty."""
    return "".join(c for c in value if c.isprintable())[:most] if isinstance(value, str) else ""


def office_of(claims: Mapping[str, Any], rules: Sequence[RoleRule], organisation_claim: str) -> Office | None:
    """The role that the first matching rule gives; None = none does, or the organisation's name is none."""
    for rule in rules:
        held = claims.get(rule.claim)
        values = held if isinstance(held, list) else [held]
        if rule.value not in values:
            continue
        organisation = rule.organisation
        if rule.role in {PortalRole.TENANT_ADMIN, PortalRole.RESEARCHER} and organisation is None:
            try:
                organisation = OrganisationName(claims.get(organisation_claim, ""))
            except InvalidInput:
                return None
        return Office(role=rule.role, organisation=organisation, provider=rule.provider)
    return None
