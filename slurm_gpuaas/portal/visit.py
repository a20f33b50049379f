"""Who is asking, in which language, from where. Every route has one of these as a dependency and so says what it
takes: `Needs(action)`, `Anybody()` or `Machine(why)`; `app.make_portal` refuses to start with a route that has none.

A person comes with a session's cookie (then unsafe methods also need the session's CSRF token and an Origin of ours)
or with an API token.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Final

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from slurm_gpuaas.domain.accounts import ApiToken, Language, Person, PortalSession
from slurm_gpuaas.domain.audit_chain import AuditEvent, AuditResult
from slurm_gpuaas.domain.errors import GpuaasError, NotFound, Refused
from slurm_gpuaas.domain.people import Actor, Source
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.portal.rights import Action, Owned, Scope, allows, require, scope_of
from slurm_gpuaas.portal.secret import csrf_token, new_secret, same
from slurm_gpuaas.portal.words import Words, preferred

if TYPE_CHECKING:
    from slurm_gpuaas.portal.feature import Portal

SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
API_PREFIX: Final = "/api/"
CSRF_FIELD: Final = "csrf"
CSRF_HEADER: Final = "x-csrf-token"
REQUEST_ID: Final = "gpuaas.request_id"
"""Key of the ASGI scope under which the request's number stands."""


@dataclass(frozen=True, slots=True)
class Cookies:
    """Names and flags. `__Host-`: the browser takes and sends it over TLS only, to this host only."""

    protected: bool

    @property
    def session(self) -> str:
        return "__Host-gpuaas" if self.protected else "gpuaas-insecure"

    @property
    def visitor(self) -> str:
        """Of somebody who has not signed in: what their CSRF token is made from."""
        return "__Host-gpuaas-visitor" if self.protected else "gpuaas-insecure-visitor"

    @property
    def language(self) -> str:
        return "__Host-gpuaas-language" if self.protected else "gpuaas-insecure-language"


class Unknown(Refused):
    """Nobody knows who is asking."""

    http_status = 401

    def __init__(self) -> None:
        super().__init__(
            told("It is not known who is asking, or the session has ended."),
            way_out=told("Sign in, or give a valid API token."),
        )


class Forged(GpuaasError):
    """The request may have been sent by another web site. 419 is what several frameworks answer; browsers show it
    like any 4xx."""

    http_status = 419

    def __init__(self) -> None:
        super().__init__(
            told("This form is too old, or was not sent from this portal's own page. Nothing was changed."),
            way_out=told("Open the page again and send the form once more."),
        )


class Unseen(NotFound):
    """Not among what the visitor may see, which is all that was looked at: its text may say more than `problems` says
    of other things that are not found."""


@dataclass(frozen=True, kw_only=True)
class Guest:
    """Somebody, known or not.

    Args:
        secret: what the CSRF token is made from: the session's, or the visitor's.
        fresh: the visitor's secret is new, so the answer must set its cookie.
    """

    words: Words
    source: Source
    secret: str
    fresh: bool = False

    @property
    def csrf(self) -> str:
        return csrf_token(self.secret)


@dataclass(frozen=True, kw_only=True)
class Visit(Guest):
    """A person. Exactly one of `session` and `token` is there."""

    person: Person
    session: PortalSession | None = None
    token: ApiToken | None = None

    @property
    def actor(self) -> Actor:
        return replace(self.person.actor, source=self.source)

    def may(self, action: Action) -> Scope | None:
        """How far this visit may do it: what the role allows, and no more than the token was made for."""
        if self.token is not None and action not in self.token.scopes:
            return None
        return scope_of(self.person.office.role, action)

    def allows(self, action: Action, thing: Owned) -> bool:
        """Whether this visit may do it with the thing: by role, and with a token only what that was made for."""
        return self.may(action) is not None and allows(self.actor, action, thing)

    def require(self, action: Action, thing: Owned | None = None) -> Scope:
        """Raises:
        Refused: the role or the token does not allow it.
        NotYours: not with this thing.
        """
        if self.token is not None and action not in self.token.scopes:
            raise Refused(
                told("This token was not made for this ({action}).", action=action),
                way_out=told("Make a token with this action."),
            )
        return require(self.actor, action, thing)

    def event(
        self,
        action: str,
        subject: str,
        *,
        at: datetime,
        reason: str = "",
        evidence: Mapping[str, str | int | float | bool | None] | None = None,
        on_behalf_of: str = "",
        result: AuditResult = AuditResult.DONE,
    ) -> AuditEvent:
        """What this person did, for the audit trail."""
        return AuditEvent(
            at=at,
            actor=self.person.id,
            role=self.person.office.role,
            on_behalf_of=on_behalf_of,
            action=action,
            subject=subject,
            reason=reason,
            evidence=evidence or {},
            source=self.source.address,
            request=self.source.request,
            result=result,
        )


class Needs:
    """The route is for people who may do `action`. Gives their `Visit`; whether they may do it with a certain thing,
    the route asks `Visit.require` or `rights.allows` once it has the thing."""

    def __init__(self, action: Action) -> None:
        self.action = action

    @property
    def declares(self) -> str:
        return str(self.action)

    async def __call__(self, request: Request) -> Visit:
        portal = portal_of(request)
        # Most are at hand: a thread for each would cost more than finding out who it is.
        visit = identify(portal, request, at_hand=True) or await run_in_threadpool(identify, portal, request)
        if visit is None:
            portal.limits.address.take(source_of(request).address)
            raise Unknown
        request.state.visit = visit
        portal.limits.person.take(visit.person.id)
        if visit.session is not None and request.method not in SAFE:
            await refuse_forged(portal, request, visit)
        request.state.scope = scope = visit.may(self.action)
        if scope is None:
            why = "role" if visit.token is None else "role or token"
            await run_in_threadpool(note_refused, request, visit, self.action, why)
        visit.require(self.action)
        return visit


class Anybody:
    """The route is for people who have not signed in. Gives a `Guest`; unsafe methods need the visitor's CSRF token."""

    def __init__(self, why: str) -> None:
        self.declares = why

    async def __call__(self, request: Request) -> Guest:
        portal = portal_of(request)
        source = source_of(request)
        portal.limits.address.take(source.address)
        kept = request.cookies.get(portal.cookies.visitor, "")
        fresh = not 40 <= len(kept) <= 64
        guest = Guest(
            words=portal.words(language_of(portal, request, None)),
            source=source,
            secret=new_secret() if fresh else kept,
            fresh=fresh,
        )
        request.state.visit = guest
        if request.method not in SAFE:
            await refuse_forged(portal, request, guest)
        return guest


class Machine:
    """The route is for a program that proves itself in its own way (a signature, a key), or tells nothing secret."""

    def __init__(self, why: str, *, limited: bool = True) -> None:
        """Args:
        limited: whether the address's rate limit counts it; not for files, which many people behind one address load.
        """
        self.declares = why
        self._limited = limited

    async def __call__(self, request: Request) -> Source:
        source = source_of(request)
        if self._limited:
            portal_of(request).limits.address.take(source.address)
        return source


def note_refused(request: Request, visit: Visit, action: str, why: str) -> None:
    """Into the audit trail, once a minute for each person and action."""
    portal = portal_of(request)
    event = visit.event(
        action,
        request.url.path,
        at=portal.clock.now(),
        reason=why,
        evidence={"method": request.method},
        result=AuditResult.REFUSED,
    )
    portal.refusals.note(event)


def portal_of(request: Request) -> "Portal":
    portal: Portal = request.app.state.portal
    return portal


def source_of(request: Request) -> Source:
    return Source(
        address=request.client.host if request.client else "",
        browser=request.headers.get("user-agent", ""),
        request=request.scope.get(REQUEST_ID, ""),
    )


def language_of(portal: "Portal", request: Request, person: Person | None) -> Language:
    """What was chosen in this browser, else in the profile, else what the browser prefers, else the portal's."""
    chosen = request.cookies.get(portal.cookies.language, "")
    if chosen in set(Language):
        return Language(chosen)
    if person is not None and person.language is not None:
        return person.language
    return preferred(request.headers.get("accept-language", ""), portal.config.language)


def identify(portal: "Portal", request: Request, *, at_hand: bool = False) -> Visit | None:
    """Who it is: by API token where one is given, else by session; None = nobody that we know.

    Args:
        at_hand: neither read nor write the store; None where that has to be done.
    """
    source = source_of(request)
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme:
        if scheme.lower() != "bearer" or not request.url.path.startswith(API_PREFIX):
            return None
        with_token = portal.accounts.token(given.strip(), at_hand=at_hand)
        if with_token is None:
            return None
        token, person = with_token
        words = portal.words(language_of(portal, request, person))
        return Visit(words=words, source=source, secret="", person=person, token=token)
    secret = request.cookies.get(portal.cookies.session, "")
    known = portal.accounts.session(secret, at_hand=at_hand) if 40 <= len(secret) <= 64 else None
    if known is None:
        return None
    session, person = known
    words = portal.words(language_of(portal, request, person))
    return Visit(words=words, source=source, secret=secret, person=person, session=session)


async def refuse_forged(portal: "Portal", request: Request, guest: Guest) -> None:
    """Raises:
    Forged: the Origin is another than ours or missing, or the CSRF token is not the session's.
    """
    if request.headers.get("origin", "").lower() != portal.config.public_url:
        raise Forged
    given = request.headers.get(CSRF_HEADER)
    if given is None and not request.headers.get("content-type", "").startswith("application/json"):
        field = (await request.form()).get(CSRF_FIELD)
        given = field if isinstance(field, str) else None
    if given is None or not same(given, guest.csrf):
        raise Forged
