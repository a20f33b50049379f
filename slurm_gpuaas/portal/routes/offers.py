"""Offers: what an organisation is offered, what that costs at most, and its answer."""

from collections.abc import Sequence
from typing import Annotated, Final

from fastapi import APIRouter, Body, Depends, Query, Request, Response
from pydantic import Field

from slurm_gpuaas.api.models import Request as Asked
from slurm_gpuaas.domain.applications import Application
from slurm_gpuaas.domain.errors import Conflict, GpuaasError
from slurm_gpuaas.domain.names import OfferId
from slurm_gpuaas.domain.policy import MOST_WON
from slurm_gpuaas.domain.pool_grants import Offer, OfferState, PoolGrant
from slurm_gpuaas.domain.programmes import PoolShare
from slurm_gpuaas.domain.stages import Line
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.metering.estimate import Cost, cost
from slurm_gpuaas.metering.ledger import VAT_PERCENT, Tariff
from slurm_gpuaas.portal.feature import Card, Feature, NavEntry, Portal, go
from slurm_gpuaas.portal.grant_figures import GrantReader
from slurm_gpuaas.portal.http import (
    API,
    NOT_MODIFIED,
    PROBLEMS,
    Act,
    CursorText,
    FormAct,
    Limit,
    Page,
    key_of,
    page_of,
    with_etag,
)
from slurm_gpuaas.portal.pool import PoolServer
from slurm_gpuaas.portal.rights import Action
from slurm_gpuaas.portal.routes.fields import Faults, Text, line, number
from slurm_gpuaas.portal.routes.grant_desk import MOST_REASON, Desk, sentence
from slurm_gpuaas.portal.routes.grant_views import GrantView, OfferView, offer_owner, visible_offers
from slurm_gpuaas.portal.routes.grant_words import BADGES
from slurm_gpuaas.portal.visit import Needs, Visit
from slurm_gpuaas.portal.words import noted

ROWS: Final = 50


class Accept(Asked):
    """`most_won`: what you took it to cost at most, to be refused when it costs more by now."""

    most_won: int | None = Field(default=None, ge=0, le=MOST_WON)


class Decline(Asked):
    reason: Line


def offers_feature(pool: PoolServer) -> Feature:
    def routes(portal: Portal) -> Sequence[APIRouter]:
        return _routes(portal, _OfferDesk(portal, pool))

    def cards(portal: Portal, visit: Visit) -> Sequence[Card]:
        return _cards(pool, visit)

    return Feature(
        name="offers",
        routes=routes,
        nav=(NavEntry("/offers", noted("Offers"), "award", Action.OFFER_ANSWER, 30),),
        cards=cards,
        notices={
            "offer-accepted": noted("The offer is accepted: this is your grant."),
            "offer-declined": noted("The offer is declined. Its GPUs are free for others."),
        },
    )


class _OfferDesk:
    def __init__(self, portal: Portal, pool: PoolServer) -> None:
        self.pool = pool
        self.service = pool.service
        self.register = pool.store.register
        self.grants = Desk(portal, pool, GrantReader(pool, portal.clock))

    def found(self, visit: Visit, text: str, action: Action) -> tuple[Offer, Application, PoolShare]:
        """
        Raises:
            NotFound: there is no such offer.
            Refused: it is not within what the visitor may do.
        """
        offer = self.register.offers.get(number(OfferId, text))
        application = self.register.applications.get(offer.application)
        share = self.register.shares.get(offer.share)
        visit.require(action, offer_owner(offer, application.applicant, share))
        return offer, application, share

    def cost(self, offer: Offer, share: PoolShare, tariff: Tariff | None = None) -> Cost:
        return cost(
            tariff or self.pool.keeper.tariff(),
            share,
            offer.programme,
            percent=offer.price_percent,
            gpus=offer.gpus,
            starts=offer.starts,
            ends=offer.ends,
            budget=offer.budget_won,
        )

    def accept(self, act: Act, visit: Visit, offer: Offer, share: PoolShare, seen: int | None) -> PoolGrant:
        """
        Args:
            seen: what it was said to cost at most; None: nobody said.

        Raises:
            Conflict: it may cost more by now.
        """
        most = self.cost(offer, share).most
        if offer.state is OfferState.MADE and seen is not None and (most is None or most > seen):
            raise Conflict(
                told("What the offer costs at most has changed since you saw it."),
                way_out=told("Look at the new amount and accept again."),
            )
        return self.service.accept_offer(act, visit.actor, offer.id)

    def view(self, offer: Offer, application: Application, share: PoolShare, most: int | None) -> OfferView:
        request = application.request
        return OfferView(
            id=offer.id,
            application=offer.application,
            organisation=offer.organisation,
            programme=offer.programme,
            provider=share.provider,
            share=offer.share,
            model=share.model,
            gpus=offer.gpus,
            gpus_asked=request.gpus,
            starts=offer.starts,
            ends=offer.ends,
            starts_asked=request.starts,
            ends_asked=request.ends,
            price_percent=offer.price_percent,
            budget_won=offer.budget_won,
            most_won=most,
            answer_by=offer.open_until,
            state=offer.state,
        )


def _routes(portal: Portal, desk: _OfferDesk) -> list[APIRouter]:
    pages, api = APIRouter(include_in_schema=False), APIRouter(prefix=API, tags=["offers"], responses=PROBLEMS)
    Reader = Annotated[Visit, Depends(Needs(Action.GRANT_READ))]
    Answerer = Annotated[Visit, Depends(Needs(Action.OFFER_ANSWER))]
    register = desk.register

    def part(
        visit: Visit, state: OfferState | None, limit: int, cursor: str | None
    ) -> tuple[Sequence[tuple[Offer, Application, PoolShare]], str | None]:
        """The newest first."""
        before = key_of(cursor, str)[0] if cursor else None
        fitting = [
            offer
            for offer in reversed(visible_offers(desk.pool.store, visit))
            if (before is None or offer.id < before) and state in (None, offer.state)
        ]
        rows, following = page_of(fitting[: limit + 1], limit, lambda offer: (offer.id,))
        asked = register.applications.all(id=[str(offer.application) for offer in rows])
        applications = {one.id: one for one in asked}
        shares = {share.name: share for share in register.shares.all()}
        return [(one, applications[one.application], shares[one.share]) for one in rows], following

    @pages.get("/offers")
    def offers(request: Request, visit: Reader, cursor: CursorText = None) -> Response:
        rows, following = part(visit, None, ROWS, cursor)
        return portal.page(
            request,
            visit,
            "offers.html",
            rows=[
                {"offer": offer, "application": application, "share": share, "badge": BADGES[offer.state]}
                for offer, application, share in rows
            ],
            following=following,
        )

    def page(
        request: Request,
        visit: Visit,
        found: tuple[Offer, Application, PoolShare],
        *,
        status: int = 200,
        faults: Faults | None = None,
        fault: str = "",
        reason: str = "",
    ) -> Response:
        offer, application, share = found
        price = desk.cost(offer, share)
        grants = register.grants.all(offer=str(offer.id))
        owner = offer_owner(offer, application.applicant, share)
        return portal.page(
            request,
            visit,
            "offer.html",
            status=status,
            offer=offer,
            asked=application.request,
            share=share,
            badge=BADGES[offer.state],
            programme=register.programmes.get(offer.programme),
            cost=price,
            with_vat=None if price.most is None else price.most * (100 + VAT_PERCENT) // 100,
            vat=VAT_PERCENT,
            grant=grants[0] if grants else None,
            days=(offer.ends - offer.starts).days + 1,
            may_answer=offer.state is OfferState.MADE and visit.allows(Action.OFFER_ANSWER, owner),
            may_apply=visit.allows(Action.APPLICATION_READ, owner),
            faults=faults.told if faults else {},
            fault=fault,
            reason=reason,
        )

    @pages.get("/offers/{id}")
    def offer_page(request: Request, visit: Reader, id: str) -> Response:
        return page(request, visit, desk.found(visit, id, Action.GRANT_READ))

    @pages.post("/offers/{id}/accept")
    def accept(request: Request, visit: Answerer, id: str, act: FormAct, most: Text = "", sure: Text = "") -> Response:
        found = offer, _, share = desk.found(visit, id, Action.OFFER_ANSWER)
        faults, fault = Faults(), ""
        if not sure:
            faults.told["sure"] = told("Confirm what it costs first.")
        else:
            seen = int(most) if most.isascii() and most.isdigit() and len(most) <= 20 else None
            try:
                grant = desk.accept(act, visit, offer, share, seen)
                return go(f"/grants/{grant.id}", "offer-accepted")
            except GpuaasError as error:
                fault = sentence(visit, error)
        return page(request, visit, _again(desk, found), status=422, faults=faults, fault=fault)

    @pages.post("/offers/{id}/decline")
    def decline(request: Request, visit: Answerer, id: str, act: FormAct, reason: Text = "") -> Response:
        found = offer, _, _ = desk.found(visit, id, Action.OFFER_ANSWER)
        faults, fault = Faults(), ""
        why = faults.read("reason", line(MOST_REASON), reason)
        if why is not None:
            try:
                desk.service.decline_offer(act, visit.actor, offer.id, why)
                return go(f"/offers/{offer.id}", "offer-declined")
            except GpuaasError as error:
                fault = sentence(visit, error)
        return page(request, visit, _again(desk, found), status=422, faults=faults, fault=fault, reason=reason)

    # -- API

    @api.get("/offers", response_model=Page[OfferView], responses=NOT_MODIFIED)
    def list_offers(
        request: Request,
        visit: Reader,
        limit: Limit = 100,
        cursor: CursorText = None,
        state: Annotated[OfferState | None, Query()] = None,
    ) -> Response:
        """Offers that you may see, the newest first."""
        rows, following = part(visit, state, limit, cursor)
        tariff = desk.pool.keeper.tariff()
        items = tuple(
            desk.view(offer, application, share, desk.cost(offer, share, tariff).most)
            for offer, application, share in rows
        )
        return with_etag(request, Page[OfferView](items=items, next=following))

    @api.get("/offers/{id}", response_model=OfferView, responses=NOT_MODIFIED)
    def one_offer(request: Request, visit: Reader, id: str) -> Response:
        """An offer, what was asked for, and what it costs at most."""
        offer, application, share = desk.found(visit, id, Action.GRANT_READ)
        return with_etag(request, desk.view(offer, application, share, desk.cost(offer, share).most))

    @api.post("/offers/{id}/accept")
    def accept_offer(visit: Answerer, id: str, act: Act, accept: Annotated[Accept | None, Body()] = None) -> GrantView:
        """The offer becomes a grant; its site has it within seconds."""
        offer, _, share = desk.found(visit, id, Action.OFFER_ANSWER)
        return desk.grants.view(desk.accept(act, visit, offer, share, accept.most_won if accept else None))

    @api.post("/offers/{id}/decline")
    def decline_offer(visit: Answerer, id: str, decline: Decline, act: Act) -> OfferView:
        """Its GPUs are free for others."""
        offer, application, share = desk.found(visit, id, Action.OFFER_ANSWER)
        declined = desk.service.decline_offer(act, visit.actor, offer.id, decline.reason)
        return desk.view(declined, application, share, desk.cost(declined, share).most)

    return [pages, api]


def _again(desk: _OfferDesk, found: tuple[Offer, Application, PoolShare]) -> tuple[Offer, Application, PoolShare]:
    """As it is now: somebody may have been faster."""
    offer, application, share = found
    return desk.register.offers.get(offer.id), application, share


def _cards(pool: PoolServer, visit: Visit) -> list[Card]:
    if visit.may(Action.OFFER_ANSWER) is None:
        return []
    open_ones = [one for one in visible_offers(pool.store, visit) if one.state is OfferState.MADE]
    words = visit.words
    if not open_ones:
        return []
    first = min(open_ones, key=lambda one: one.open_until)
    detail = words.say("{offer} can be answered until {moment}", offer=first.id, moment=first.open_until)
    path = f"/offers/{first.id}" if len(open_ones) == 1 else "/offers"
    count = len(open_ones)
    return [Card(label=words.say("Offers to answer"), value=words.value(count), detail=detail, path=path, asks=count)]
