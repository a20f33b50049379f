"""What the parts of the portal share, and how a part hangs itself onto it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from slurm_gpuaas.domain.accounts import Language
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.names import OrganisationName
from slurm_gpuaas.portal.accounts import Accounts
from slurm_gpuaas.portal.config import Config
from slurm_gpuaas.portal.oidc import Oidc
from slurm_gpuaas.portal.pages import Pages
from slurm_gpuaas.portal.rate import RateLimit
from slurm_gpuaas.portal.refusals import Refusals
from slurm_gpuaas.portal.rights import Action
from slurm_gpuaas.portal.visit import Cookies, Guest, Visit
from slurm_gpuaas.portal.words import Dictionary, Names, Words
from slurm_gpuaas.store.pool import PoolStore


@dataclass(frozen=True, slots=True)
class NavEntry:
    """A line of the rail, for who may do `action`.

    Args:
        path: of the page; it is marked as current there and below it.
        label: English, marked with `words.noted`.
        icon: id of a symbol in `static/icons.svg`.
        order: the smaller, the higher up.
    """

    path: str
    label: str
    icon: str
    action: Action
    order: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One number of the home page, already in words.

    Args:
        detail: one sentence under it.
        asks: how many things wait for this very person to act; shown first, and not at all where it is 0. None = it
            only tells.
        aside: of the person's own account or the register: shown last and small.
    """

    label: str
    value: str
    detail: str = ""
    path: str = ""
    asks: int | None = None
    aside: bool = False


def _no_cards(portal: Portal, visit: Visit) -> Sequence[Card]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """A part of the portal: its routes and what they bring along.

    Args:
        routes: makes the routers; each route declares who it is for (`visit.Needs`).
        cards: what it puts on a person's home page.
        templates, static: folders of its own.
        catalogues: folder with `ko/*.po`.
        names: English names of its enumerations' members.
        notices: by code, what a page says after an act (`?said=code`), English, marked with `words.noted`.
    """

    name: str
    routes: Callable[[Portal], Sequence[APIRouter]]
    nav: Sequence[NavEntry] = ()
    cards: Callable[[Portal, Visit], Sequence[Card]] = _no_cards
    templates: Path | None = None
    static: Path | None = None
    catalogues: Path | None = None
    names: Names = field(default_factory=dict)
    notices: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    person: RateLimit
    address: RateLimit
    sign_in: RateLimit


@dataclass(frozen=True, slots=True, kw_only=True)
class Portal:
    """What routes work with; `visit.portal_of(request)` finds it."""

    config: Config
    store: PoolStore
    clock: Clock
    accounts: Accounts
    oidc: Oidc | None
    limits: Limits
    refusals: Refusals
    pages: Pages
    dictionary: Dictionary
    features: Sequence[Feature]
    notices: Mapping[str, str]
    entries: Sequence[NavEntry] = field(init=False)
    """All of the rail, in order."""

    def __post_init__(self) -> None:
        entries = sorted((entry for feature in self.features for entry in feature.nav), key=lambda entry: entry.order)
        object.__setattr__(self, "entries", tuple(entries))

    @property
    def cookies(self) -> Cookies:
        return Cookies(protected=not self.config.insecure_http)

    def words(self, language: Language) -> Words:
        return self.dictionary[language]

    def page(self, request: Request, guest: Guest, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
        """A page with everything its frame needs: rail, language, CSRF token, notice."""
        visit = guest if isinstance(guest, Visit) else None
        nav, here = self.nav(visit) if visit else (), request.url.path
        said = self.notices.get(request.query_params.get("said", ""), "")
        answer = self.pages.answer(
            guest.words.language,
            template,
            status=status,
            visit=visit,
            words=guest.words,
            csrf=guest.csrf,
            nav=nav,
            here=here,
            current=_current(nav, here),
            now=self.clock.now(),
            notice=guest.words.tell(said),
            title_of=self.title_of,
            **values,
        )
        if guest.fresh:
            self.set_cookie(answer, self.cookies.visitor, guest.secret)
        # Pages hold names and tokens: no cache keeps them, and "back" after signing out shows nothing.
        answer.headers["Cache-Control"] = "no-store"
        return answer

    def title_of(self, organisation: OrganisationName) -> str:
        """By which people know it; an office may name one that is not registered."""
        found = self.store.register.organisations.find(organisation)
        return organisation if found is None else found.title

    def nav(self, visit: Visit) -> tuple[NavEntry, ...]:
        return tuple([entry for entry in self.entries if visit.may(entry.action)])

    def set_cookie(self, answer: HTMLResponse | RedirectResponse, name: str, value: str, *, days: int = 0) -> None:
        """`days` = 0: until the browser ends."""
        answer.set_cookie(
            name,
            value,
            max_age=days * 86_400 or None,
            path="/",
            httponly=True,
            secure=not self.config.insecure_http,
            samesite="lax",
        )

    def drop_cookie(self, answer: HTMLResponse | RedirectResponse, name: str) -> None:
        answer.delete_cookie(name, path="/", httponly=True, secure=not self.config.insecure_http, samesite="lax")


def _current(nav: Sequence[NavEntry], here: str) -> str:
    """Path of the entry that a page is of or below; empty: of none."""
    found = [one.path for one in nav if here == one.path or (one.path != "/" and here.startswith(f"{one.path}/"))]
    return max(found, key=len, default="")


def go(path: str, said: str = "") -> RedirectResponse:
    """After an act: to a page of ours, which then says so."""
    separator = "&" if "?" in path else "?"
    return RedirectResponse(f"{path}{separator}said={said}" if said else path, status_code=303)
