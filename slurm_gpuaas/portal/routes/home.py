"""The home page: what matters to this person, from all parts of the portal."""

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request, Response

from slurm_gpuaas.portal.deeds import CALLED
from slurm_gpuaas.portal.feature import Feature, NavEntry, Portal
from slurm_gpuaas.portal.http import API, NOT_MODIFIED, PROBLEMS, Answer, with_etag
from slurm_gpuaas.portal.rights import RIGHTS, Action
from slurm_gpuaas.portal.visit import Needs, Visit
from slurm_gpuaas.portal.words import noted

MOST_EVENTS: Final = 6


class Me(Answer):
    """Who the portal takes the caller for, and what they may do: action to scope."""

    person: str
    name: str
    role: str
    organisation: str | None
    provider: str | None
    rights: dict[str, str]


def _routes(portal: Portal) -> list[APIRouter]:
    pages, api = APIRouter(include_in_schema=False), APIRouter(prefix=API, tags=["account"], responses=PROBLEMS)
    Who = Annotated[Visit, Depends(Needs(Action.HOME_READ))]

    @pages.get("/")
    def home(request: Request, visit: Who) -> Response:
        cards = [card for feature in portal.features for card in feature.cards(portal, visit)]
        me = visit.person.id
        events = portal.store.remembered(
            ("audit_entry",), ("what they did", me), lambda: portal.store.audit.newest(limit=MOST_EVENTS, actor=me)
        )
        return portal.page(
            request,
            visit,
            "home.html",
            asks=[card for card in cards if card.asks],
            tells=[card for card in cards if card.asks is None and not card.aside],
            aside=[card for card in cards if card.aside],
            events=events,
            deeds=CALLED,
        )

    @api.get("/me", response_model=Me, responses=NOT_MODIFIED)
    def me(request: Request, visit: Who) -> Response:
        """Who you are here, and what you may do."""
        office = visit.person.office
        rights = {str(action): str(visit.may(action)) for action in RIGHTS[office.role] if visit.may(action)}
        return with_etag(
            request,
            Me(
                person=visit.person.id,
                name=visit.person.name,
                role=office.role,
                organisation=office.organisation,
                provider=office.provider,
                rights=rights,
            ),
        )

    return [pages, api]


HOME: Final = Feature(name="home", routes=_routes, nav=(NavEntry("/", noted("Home"), "home", Action.HOME_READ, 0),))
