"""One's own account: profile, password, SSH keys, sessions, API tokens."""

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Form, Request, Response

from slurm_gpuaas.domain.accounts import ApiToken, Language
from slurm_gpuaas.domain.audit_chain import iso
from slurm_gpuaas.domain.errors import GpuaasError, InvalidInput
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.portal.deeds import MAY
from slurm_gpuaas.portal.feature import Card, Feature, NavEntry, Portal, go
from slurm_gpuaas.portal.http import (
    API,
    NOT_MODIFIED,
    PROBLEMS,
    Answer,
    CursorText,
    Limit,
    Page,
    key_of,
    page_of,
    with_etag,
)
from slurm_gpuaas.portal.rights import RIGHTS, Action
from slurm_gpuaas.portal.routes.fields import Faults, Password, Text, line
from slurm_gpuaas.portal.visit import Needs, Visit
from slurm_gpuaas.portal.words import noted

DAYS_OFFERED: Final = (30, 90, 365)


class TokenView(Answer):
    id: str
    name: str
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None
    revoked_at: datetime | None


def _view(token: ApiToken) -> TokenView:
    return TokenView(
        id=token.id,
        name=token.name,
        scopes=token.scopes,
        created_at=token.created_at,
        expires_at=token.expires_at,
        used_at=token.used_at,
        revoked_at=token.revoked_at,
    )


PRODUCTS: Final = (
    ("Whale/", "Whale"), ("Edg/", "Edge"), ("OPR/", "Opera"), ("SamsungBrowser/", "Samsung Internet"),
    ("Firefox/", "Firefox"), ("CriOS/", "Chrome"), ("Chrome/", "Chrome"), ("Safari/", "Safari"),
)  # fmt: skip
"""By what they say of themselves; each also says that it is those after it."""
SYSTEMS: Final = (
    ("Windows", "Windows"), ("Android", "Android"), ("iPhone", "iPhone"), ("iPad", "iPad"), ("Mac OS X", "macOS"),
    ("Linux", "Linux"),
)  # fmt: skip


def browser_of(agent: str) -> str:
    """`Whale · Windows`, by which people know their browsers; what is not known, as it came."""
    names = [next((name for mark, name in known if mark in agent), "") for known in (PRODUCTS, SYSTEMS)]
    return " · ".join(filter(None, names)) or agent


def _newest(token: ApiToken) -> tuple[str, str]:
    return iso(token.created_at), token.id


def _routes(portal: Portal) -> list[APIRouter]:
    pages, api = APIRouter(include_in_schema=False), APIRouter(prefix=API, tags=["account"], responses=PROBLEMS)
    Owner = Annotated[Visit, Depends(Needs(Action.PROFILE_CHANGE))]
    Sessions = Annotated[Visit, Depends(Needs(Action.SESSION_MANAGE))]
    Tokener = Annotated[Visit, Depends(Needs(Action.TOKEN_MANAGE))]

    def profile_page(
        request: Request,
        visit: Visit,
        *,
        status: int = 200,
        faults: dict[str, str] | None = None,
        fault: str = "",
        **typed: str,
    ) -> Response:
        person = visit.person
        values = {
            "name": person.name,
            "language": str(person.language or ""),
        }
        return portal.page(
            request, visit, "profile.html", status=status, faults=faults or {}, fault=fault, typed=values | typed
        )

    @pages.get("/profile")
    def profile(request: Request, visit: Owner) -> Response:
        return profile_page(request, visit)

    @pages.post("/profile")
    def save(
        request: Request,
        visit: Owner,
        name: Text = "",
        language: Text = "",
    ) -> Response:
        faults = Faults()
        shown = faults.read("name", line(200), name)
        chosen = Language(language) if language in set(Language) else None
        fault = ""
        if shown is not None:
            person = replace(visit.person, name=shown, language=chosen)
            try:
                portal.accounts.save_profile(person, visit.source)
            except GpuaasError as error:
                fault = f"{visit.words.tell(error.message)} {visit.words.tell(error.way_out)}"
            else:
                answer = go("/profile", "saved")
                if chosen is not None:
                    portal.set_cookie(answer, portal.cookies.language, chosen, days=365)
                return answer
        return profile_page(
            request,
            visit,
            status=422,
            faults=faults.told,
            fault=fault,
            name=name,
            language=language,
        )

    @pages.post("/profile/password")
    def password(
        request: Request, visit: Owner, old: Password = "", new: Password = "", again: Password = ""
    ) -> Response:
        portal.limits.sign_in.take(visit.source.address)
        try:
            if new != again:
                raise InvalidInput(told("The two passwords differ."))
            if visit.session is not None:
                portal.accounts.change_password(visit.session, visit.person, old=old, new=new, source=visit.source)
        except GpuaasError as error:
            return profile_page(request, visit, status=422, faults={"old": error.message})
        return go("/profile", "password")

    @pages.get("/sessions")
    def sessions(request: Request, visit: Sessions) -> Response:
        return portal.page(
            request,
            visit,
            "sessions.html",
            sessions=portal.accounts.live_sessions(visit.person.id),
            own=visit.session,
            browser_of=browser_of,
        )

    @pages.post("/sessions/close")
    def close(visit: Sessions, session: Annotated[str, Form(max_length=64)]) -> Response:
        portal.accounts.close_other(visit.person, session, visit.source)
        return go("/sessions", "session-closed")

    def tokens_page(
        request: Request,
        visit: Visit,
        *,
        status: int = 200,
        made: str = "",
        faults: dict[str, str] | None = None,
        name: str = "",
        days: int = 90,
        chosen: Collection[Action] = (),
    ) -> Response:
        return portal.page(
            request,
            visit,
            "tokens.html",
            status=status,
            tokens=portal.accounts.tokens(visit.person.id),
            actions=sorted(RIGHTS[visit.person.office.role]),
            days_offered=[
                (str(days), visit.words.say("{days} days", days=days))
                for days in DAYS_OFFERED
                if days <= portal.config.sessions.token_days
            ],
            made=made,
            faults=faults or {},
            name=name,
            days=days,
            chosen=chosen,
            may_words=MAY,
        )

    @pages.get("/tokens")
    def tokens(request: Request, visit: Tokener) -> Response:
        return tokens_page(request, visit)

    @pages.post("/tokens")
    def make(
        request: Request,
        visit: Tokener,
        name: Text = "",
        days: Annotated[int, Form(ge=1, le=100_000)] = DAYS_OFFERED[0],
        scopes: Annotated[list[Action] | None, Form(max_length=100)] = None,
    ) -> Response:
        faults = Faults()
        shown = faults.read("name", line(100), name)
        if shown is not None:
            try:
                _, secret = portal.accounts.make_token(
                    visit.person, name=shown, scopes=scopes or (), days=days, source=visit.source
                )
            except InvalidInput as error:
                faults.told["scopes"] = error.message
            else:
                return tokens_page(request, visit, made=secret)
        return tokens_page(request, visit, status=422, faults=faults.told, name=name, days=days, chosen=scopes or ())

    @pages.post("/tokens/revoke")
    def revoke(visit: Tokener, token: Annotated[str, Form(max_length=20)]) -> Response:
        portal.accounts.revoke_token(visit.person, token, visit.source)
        return go("/tokens", "token-revoked")

    @api.get("/tokens", response_model=Page[TokenView], responses=NOT_MODIFIED)
    def list_tokens(request: Request, visit: Tokener, limit: Limit = 100, cursor: CursorText = None) -> Response:
        """Your tokens, without their secrets, the newest first."""
        tokens = sorted(portal.accounts.tokens(visit.person.id), key=_newest, reverse=True)
        if cursor is not None:
            before = key_of(cursor, str, str)
            tokens = [one for one in tokens if _newest(one) < before]
        items, following = page_of(tokens[: limit + 1], limit, _newest)
        return with_etag(request, Page[TokenView](items=tuple(map(_view, items)), next=following))

    @api.delete("/tokens/{token}", status_code=204)
    def revoke_token(visit: Tokener, token: str) -> None:
        """Revoke a token of yours; a second time changes nothing."""
        portal.accounts.revoke_token(visit.person, token[:20], visit.source)

    return [pages, api]


def _cards(portal: Portal, visit: Visit) -> list[Card]:
    words, now = visit.words, portal.clock.now()
    sessions = len(portal.accounts.live_sessions(visit.person.id))
    tokens = [token for token in portal.accounts.tokens(visit.person.id) if token.valid(now)]
    last = max((token.used_at for token in tokens if token.used_at), default=None)
    if last is not None:
        used = words.say("last used {ago}", ago=words.ago(last, now))
    else:
        used = words.say("in force, not used yet") if tokens else words.say("in force")
    return [
        Card(
            label=words.say("Your sessions"),
            value=words.value(sessions),
            detail=words.say("browsers signed in now"),
            path="/sessions",
            aside=True,
        ),
        Card(
            label=words.say("Your API tokens"),
            value=words.value(len(tokens)),
            detail=used,
            path="/tokens",
            aside=True,
        ),
    ]


ACCOUNT: Final = Feature(
    name="account",
    routes=_routes,
    nav=(
        NavEntry("/profile", noted("Profile"), "person", Action.PROFILE_CHANGE, 90),
        NavEntry("/sessions", noted("Sessions"), "screen", Action.SESSION_MANAGE, 91),
        NavEntry("/tokens", noted("API tokens"), "key", Action.TOKEN_MANAGE, 92),
    ),
    cards=_cards,
    notices={
        "saved": noted("Your profile was saved."),
        "password": noted("Your password was changed; your other sessions were closed."),
        "session-closed": noted("The session was closed."),
        "token-revoked": noted("The token was revoked."),
    },
)
