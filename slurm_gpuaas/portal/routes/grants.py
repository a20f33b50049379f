"""Grants: what is mine and all there are, one in full, and the page that says how to start."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query, Request, Response

from slurm_gpuaas.domain.accounts import Language
from slurm_gpuaas.domain.calendar import korean_day
from slurm_gpuaas.domain.names import PoolGrantId
from slurm_gpuaas.domain.pool_grants import ChangeState, PoolGrant, PoolGrantState
from slurm_gpuaas.domain.programmes import PoolShare, Programme
from slurm_gpuaas.pool.grant_use import HOUR_SECONDS, Limit
from slurm_gpuaas.portal.feature import Card, Feature, NavEntry, Portal
from slurm_gpuaas.portal.grant_figures import Delivery, GrantReader
from slurm_gpuaas.portal.http import (
    API,
    NOT_MODIFIED,
    PROBLEMS,
    CursorText,
    Page,
    key_of,
    page_of,
    with_etag,
)
from slurm_gpuaas.portal.http import (
    Limit as MostItems,
)
from slurm_gpuaas.portal.pages import is_htmx
from slurm_gpuaas.portal.pool import PoolServer
from slurm_gpuaas.portal.rights import Action, Scope
from slurm_gpuaas.portal.routes.fields import number
from slurm_gpuaas.portal.routes.grant_api import act_api
from slurm_gpuaas.portal.routes.grant_decisions import change_pages, decision_pages
from slurm_gpuaas.portal.routes.grant_desk import Desk
from slurm_gpuaas.portal.routes.grant_requests import member_pages, request_pages
from slurm_gpuaas.portal.routes.grant_start import Start, start_of_grant
from slurm_gpuaas.portal.routes.grant_views import (
    ENDS_SOON_DAYS,
    GrantDetail,
    GrantView,
    days_left,
    delivery_view,
    grant_fields,
    grant_owner,
    hours_left,
    slurm_names,
    visible_grants,
    won_left,
)
from slurm_gpuaas.portal.routes.grant_words import BADGES, NAMES, bite_text, history, history_views, note_texts
from slurm_gpuaas.portal.visit import Needs, Visit
from slurm_gpuaas.portal.words import noted

ROWS: Final = 50
Filter = Annotated[str, Query(max_length=200)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a list is narrowed to; empty = everything."""

    programme: str = ""
    organisation: str = ""
    provider: str = ""
    state: str = ""
    soon: bool = False

    def fits(self, grant: PoolGrant, share: PoolShare, today: date) -> bool:
        return (
            self.programme in ("", grant.programme)
            and self.organisation in ("", grant.organisation)
            and self.provider in ("", share.provider)
            and self.state in ("", grant.state)
            and (not self.soon or (grant.holds and grant.ends <= today + timedelta(days=ENDS_SOON_DAYS)))
        )


def grants_feature(pool: PoolServer) -> Feature:
    def routes(portal: Portal) -> Sequence[APIRouter]:
        reader = GrantReader(pool, portal.clock)
        desk = Desk(portal, pool, reader)
        acts = [part(desk) for part in (member_pages, request_pages, change_pages, decision_pages, act_api)]
        return (*acts, *_routes(portal, pool, reader))

    def cards(portal: Portal, visit: Visit) -> Sequence[Card]:
        return _cards(pool, GrantReader(pool, portal.clock), portal, visit)

    return Feature(
        name="grants",
        routes=routes,
        nav=(
            NavEntry("/grants", noted("Grants"), "grant", Action.GRANT_READ, 31),
            NavEntry("/changes", noted("Requests for changes"), "waiting", Action.GRANT_CHANGE, 32),
        ),
        cards=cards,
        names=NAMES,
        notices={
            "members-changed": noted("The members were changed. The site has them within seconds."),
            "change-asked": noted("Your request waits for a decision."),
            "change-approved": noted("The change was approved and holds from now on."),
            "change-refused": noted("The request was refused."),
            "change-dropped": noted("The request was taken back."),
            "grant-shrunk": noted("The GPUs were taken back."),
            "grant-recalled": noted("The grant was recalled."),
            "grant-returned": noted("The grant was given back."),
            "report-taken": noted("The final report was handed in."),
        },
    )


def _routes(portal: Portal, pool: PoolServer, reader: GrantReader) -> list[APIRouter]:
    pages, api = APIRouter(include_in_schema=False), APIRouter(prefix=API, tags=["grants"], responses=PROBLEMS)
    Reader = Annotated[Visit, Depends(Needs(Action.GRANT_READ))]
    register = pool.store.register

    def found(visit: Visit, text: str) -> tuple[PoolGrant, PoolShare]:
        grant = register.grants.get(number(PoolGrantId, text))
        share = reader.share_of(grant)
        visit.require(Action.GRANT_READ, grant_owner(grant, share))
        return grant, share

    def part(
        visit: Visit, wanted: Wanted, limit: int, cursor: str | None
    ) -> tuple[Sequence[tuple[PoolGrant, PoolShare]], str | None]:
        """The newest first."""
        before = key_of(cursor, str)[0] if cursor else None
        shares = {share.name: share for share in register.shares.all()}
        today = korean_day(portal.clock.now())
        fitting = [
            (grant, shares[grant.share])
            for grant in reversed(visible_grants(pool.store, visit))
            if (before is None or grant.id < before) and wanted.fits(grant, shares[grant.share], today)
        ]
        return page_of(fitting[: limit + 1], limit, lambda one: (one[0].id,))

    @pages.get("/grants")
    def grants(
        request: Request,
        visit: Reader,
        cursor: CursorText = None,
        programme: Filter = "",
        organisation: Filter = "",
        provider: Filter = "",
        state: Filter = "",
        soon: Filter = "",
    ) -> Response:
        wanted = Wanted(programme=programme, organisation=organisation, provider=provider, state=state, soon=bool(soon))
        rows, following = part(visit, wanted, ROWS, cursor)
        figures = reader.figures([grant for grant, _ in rows])
        now = portal.clock.now()
        everything = visit.may(Action.GRANT_READ) is Scope.ALL
        return portal.page(
            request,
            visit,
            "grants-rows.html" if is_htmx(request) else "grants.html",
            rows=[
                {
                    "grant": grant,
                    "share": share,
                    "figures": figures[grant.id],
                    "badge": BADGES[grant.state],
                    "bite": bite_text(visit.words, grant, figures[grant.id].bite, now),
                    "hours": figures[grant.id].use.total // HOUR_SECONDS,
                }
                for grant, share in rows
            ],
            following=following,
            wanted={
                "programme": programme,
                "organisation": organisation,
                "provider": provider,
                "state": state,
                "soon": soon,
            },
            states=list(PoolGrantState),
            soon_days=ENDS_SOON_DAYS,
            programmes=[(one.name, _title(one, visit)) for one in register.programmes.all()] if everything else [],
            providers=sorted({(share.provider, share.provider) for share in register.shares.all()})
            if everything
            else [],
            everything=everything,
            mine=visit.may(Action.GRANT_READ) is Scope.OWN,
        )

    @pages.get("/grants/{id}")
    def grant_page(request: Request, visit: Reader, id: str) -> Response:
        grant, share = found(visit, id)
        figures, now = reader.figures([grant])[grant.id], portal.clock.now()
        changes = register.changes.all(grant=grant.id, state=ChangeState.ASKED.value)
        owner = grant_owner(grant, share)
        return portal.page(
            request,
            visit,
            "grant.html",
            grant=grant,
            share=share,
            figures=figures,
            badge=BADGES[grant.state],
            bite=bite_text(visit.words, grant, figures.bite, now),
            bites_now=figures.bite.at is None,
            notes=note_texts(visit.words, grant, figures),
            days_left=days_left(grant, now),
            hours_left=hours_left(grant, now),
            won_left=won_left(figures),
            hours=figures.use.total // HOUR_SECONDS,
            hours_month=figures.use.this_month // HOUR_SECONDS,
            changes=changes,
            events=history(pool.service, grant, visit),
            delivery=reader.delivery(grant),
            programme=register.programmes.get(grant.programme),
            may_request=visit.allows(Action.GRANT_REQUEST, owner),
            may_members=visit.allows(Action.MEMBER_READ, owner),
            may_change=visit.allows(Action.GRANT_CHANGE, owner),
            may_apply=visit.allows(Action.APPLICATION_READ, owner),
            may_jobs=visit.allows(Action.JOB_READ, owner),
            may_statements=visit.allows(Action.STATEMENT_READ, owner),
        )

    @pages.get("/grants/{id}/delivery")
    def delivery_part(request: Request, visit: Reader, id: str) -> Response:
        """Only the part of the page that says whether the site has the documents; asked for again until it has."""
        grant, _ = found(visit, id)
        delivery = reader.delivery(grant)
        if is_htmx(request) and delivery.state is Delivery.ON_THE_WAY:
            return Response(status_code=204)  # nothing to put in: a screen reader is not told the same again and again
        return portal.page(request, visit, "grant-delivery.html", grant=grant, delivery=delivery)

    @pages.get("/grants/{id}/start")
    def start(request: Request, visit: Reader, id: str) -> Response:
        grant, share = found(visit, id)
        shown: Start = start_of_grant(pool.store, reader, grant, share, visit, now=portal.clock.now())
        return portal.page(request, visit, "grant-start.html", grant=grant, share=share, start=shown)

    # -- API

    @api.get("/grants", response_model=Page[GrantView], responses=NOT_MODIFIED)
    def list_grants(
        request: Request,
        visit: Reader,
        limit: MostItems = 100,
        cursor: CursorText = None,
        programme: Filter = "",
        organisation: Filter = "",
        provider: Filter = "",
        state: Annotated[PoolGrantState | None, Query()] = None,
        ends_soon: Annotated[bool, Query(description=f"Within {ENDS_SOON_DAYS} days.")] = False,
    ) -> Response:
        """Grants that you may see, the newest first."""
        wanted = Wanted(
            programme=programme,
            organisation=organisation,
            provider=provider,
            state=str(state or ""),
            soon=ends_soon,
        )
        rows, following = part(visit, wanted, limit, cursor)
        figures, now = reader.figures([grant for grant, _ in rows]), portal.clock.now()
        items = tuple(
            GrantView.model_validate(grant_fields(grant, share, figures[grant.id], now)) for grant, share in rows
        )
        return with_etag(request, Page[GrantView](items=items, next=following))

    @api.get("/grants/{id}", response_model=GrantDetail, responses=NOT_MODIFIED)
    def one_grant(request: Request, visit: Reader, id: str) -> Response:
        """A grant with its use, what limits it, its names in Slurm and its history."""
        grant, share = found(visit, id)
        figures = reader.figures([grant])[grant.id]
        shows = visit.allows(Action.MEMBER_READ, grant_owner(grant, share))
        detail = GrantDetail.model_validate(
            grant_fields(grant, share, figures, portal.clock.now())
            | {
                "members": grant.members if shows and visit.may(Action.MEMBER_READ) else None,
                "slurm": slurm_names(grant, share),
                "delivery": delivery_view(reader.delivery(grant)),
                "notes": note_texts(visit.words, grant, figures),
                "history": tuple(history_views(history(pool.service, grant, visit))),
            }
        )
        return with_etag(request, detail)

    return [pages, api]


def _title(programme: Programme, visit: Visit) -> str:
    return programme.title.ko if visit.words.language is Language.KOREAN else programme.title.en


# -- Home --------------------------------------------------------------------------------------------------------------


def _cards(pool: PoolServer, reader: GrantReader, portal: Portal, visit: Visit) -> list[Card]:
    scope, words = visit.may(Action.GRANT_READ), visit.words
    if scope is None:
        return []
    live = [grant for grant in visible_grants(pool.store, visit) if grant.holds]
    cards = [
        Card(
            label=words.say("Grants"),
            value=words.value(len(live)),
            detail=_most_urgent(reader, live, portal, visit)
            if scope in (Scope.OWN, Scope.ORGANISATION)
            else words.say("{gpus} in all", gpus=words.gpus(sum(grant.gpus for grant in live))),
            path="/grants",
        )
    ]
    if visit.may(Action.GRANT_CHANGE):
        asked = pool.store.register.changes.all(state=ChangeState.ASKED.value)
        others = sum(change.asked_by != visit.person.id for change in asked)
        cards.append(
            Card(
                label=words.say("Changes to decide"),
                value=words.value(others),
                detail=words.say("requests for other terms of grants"),
                path="/changes",
                asks=others,
            )
        )
    return cards


def _most_urgent(reader: GrantReader, grants: Sequence[PoolGrant], portal: Portal, visit: Visit) -> str:
    """What bites first of a few grants of one's own."""
    figures, now = reader.figures(grants), portal.clock.now()
    biting = [
        (figures[grant.id].bite.at or now, grant.id, grant)
        for grant in grants
        if figures[grant.id].bite.limit not in (Limit.START, Limit.OVER)
    ]
    if not biting:
        return ""
    _, id, grant = min(biting)
    return f"{id}: {bite_text(visit.words, grant, figures[id].bite, now)}"
