"""Rates: what is in force and from when; proposing one, which a second person puts in force."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from slurm_gpuaas.domain.accounts import Language
from slurm_gpuaas.domain.calendar import korean_day
from slurm_gpuaas.domain.errors import GpuaasError, InvalidInput, NotFound, Refused
from slurm_gpuaas.domain.ledger import AskedRate, PoolRate, RateRequest, Verdict
from slurm_gpuaas.domain.names import CommandId, GpuModel, ProgrammeName, ProviderName, RateName, ShareName
from slurm_gpuaas.domain.policy import FIRST_DAY, MOST_WON_PER_GPU_HOUR, Percent
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.portal.feature import Card, Feature, NavEntry, Portal, go
from slurm_gpuaas.portal.http import (
    API,
    NOT_MODIFIED,
    PROBLEMS,
    Act,
    Answer,
    CursorText,
    FormAct,
    Limit,
    Page,
    key_of,
    page_of,
    with_etag,
)
from slurm_gpuaas.portal.pool import PoolServer
from slurm_gpuaas.portal.rights import Action, Owned, Scope
from slurm_gpuaas.portal.routes.fields import Faults, Text, line, short_name
from slurm_gpuaas.portal.routes.money import MONEY_NAMES
from slurm_gpuaas.portal.visit import Needs, Visit
from slurm_gpuaas.portal.words import noted

DECIDED_SHOWN: Final = 20
LAST_START: Final = date(9998, 12, 31)
"""Months are counted so far."""


class RateView(Answer):
    """`until`: last day before another rate for the same model, share and programme follows; null = until further
    notice. `in_force`: today in Korea."""

    name: str
    model: str
    share: str | None
    programme: str | None
    won_per_gpu_hour: int
    burst_discount: float
    starts: date
    until: date | None
    in_force: bool
    basis: str


class ProposalView(Answer):
    id: str
    rate: RateView
    provider: str | None
    proposed_by: str
    proposed_at: datetime
    verdict: str
    decided_by: str | None
    decided_at: datetime | None
    why: str


class RateProposal(BaseModel):
    """A rate as it shall be. Without share or programme it is for all of them."""

    model_config = ConfigDict(extra="forbid")

    name: RateName
    model: GpuModel
    share: ShareName | None = None
    programme: ProgrammeName | None = None
    won_per_gpu_hour: int = Field(ge=0, le=MOST_WON_PER_GPU_HOUR)
    burst_discount: Percent = Decimal(0)
    starts: date = Field(ge=FIRST_DAY, le=LAST_START)
    basis: str = Field(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")


class Refusal(BaseModel):
    model_config = ConfigDict(extra="forbid")

    why: str = Field(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")


def rates_feature(pool: PoolServer) -> Feature:
    """The price list, and the two people that a rate needs."""
    return Feature(
        name="rates",
        routes=lambda portal: _routes(portal, pool),
        cards=lambda portal, visit: _cards(portal, visit, pool),
        nav=(NavEntry("/rates", noted("Rates"), "won", Action.RATE_READ, 56),),
        names=MONEY_NAMES,
        notices={
            "rate-proposed": noted("The rate is proposed; another person puts it in force."),
            "rate-approved": noted("The rate is in force from its first day."),
            "rate-refused": noted("The proposal was refused; who made it sees why."),
        },
    )


def _routes(portal: Portal, pool: PoolServer) -> list[APIRouter]:
    pages, api = APIRouter(include_in_schema=False), APIRouter(prefix=API, tags=["money"], responses=PROBLEMS)
    Reader = Annotated[Visit, Depends(Needs(Action.RATE_READ))]
    Proposer = Annotated[Visit, Depends(Needs(Action.RATE_PROPOSE))]
    Approver = Annotated[Visit, Depends(Needs(Action.RATE_APPROVE))]
    desk = RateDesk(portal, pool)

    def rates_page(
        request: Request, visit: Visit, *, status: int = 200, faults: Mapping[str, str] | None = None, **typed: str
    ) -> Response:
        today = korean_day(portal.clock.now())
        rates = desk.rates(today)
        empty = dict.fromkeys(
            ("name", "model", "share", "programme", "won_per_gpu_hour", "burst_discount", "starts", "basis"), ""
        )
        proposals = desk.proposals(visit, None, DECIDED_SHOWN)
        waiting = desk.proposals(visit, Verdict.OPEN, None)
        people = [one for asked in (*proposals, *waiting) for one in (asked.asked_by, asked.decided_by or "")]
        return portal.page(
            request,
            visit,
            "rates.html",
            status=status,
            rates=[one for one in rates if one.in_force],
            coming=[one for one in rates if one.starts > today],
            past=[one for one in rates if one.starts <= today and not one.in_force],
            waiting=waiting,
            decided=[one for one in proposals if one.verdict is not Verdict.OPEN],
            names=portal.store.people.names(people),
            models=desk.models(visit),
            shares=sorted({one.share for one in pool.store.register.shares.all()}),
            programme_options=[
                (str(one.name), one.title.ko if visit.words.language is Language.KOREAN else one.title.en)
                for one in pool.store.register.programmes.all()
            ],
            may_propose=visit.may(Action.RATE_PROPOSE),
            may_approve=visit.may(Action.RATE_APPROVE),
            faults=faults or {},
            typed=empty | typed,
        )

    @pages.get("/rates")
    def rates(request: Request, visit: Reader) -> Response:
        return rates_page(request, visit)

    @pages.post("/rates/propose")
    def propose_form(
        request: Request,
        visit: Proposer,
        act: FormAct,
        name: Text = "",
        model: Text = "",
        share: Text = "",
        programme: Text = "",
        won_per_gpu_hour: Text = "",
        burst_discount: Text = "",
        starts: Text = "",
        basis: Text = "",
    ) -> Response:
        faults = Faults()
        parts: dict[str, Any] = {
            "name": faults.read("name", _rate_name, name),
            "model": faults.read("model", lambda text: short_name(GpuModel, text), model),
            "share": faults.read("share", lambda text: short_name(ShareName, text), share) if share else None,
            "programme": faults.read("programme", lambda text: short_name(ProgrammeName, text), programme)
            if programme
            else None,
            "won_per_gpu_hour": faults.read("won_per_gpu_hour", _won, won_per_gpu_hour),
            "burst_discount": faults.read("burst_discount", _percent, burst_discount or "0"),
            "starts": faults.read("starts", _day, starts),
            "basis": faults.read("basis", line(500), basis),
        }
        if not faults.told:
            try:
                desk.propose(visit, act, PoolRate(**parts))
                return go("/rates", "rate-proposed")
            except GpuaasError as error:
                faults.told["name"] = error.message
        return rates_page(
            request,
            visit,
            status=422,
            faults=faults.told,
            name=name,
            model=model,
            share=share,
            programme=programme,
            won_per_gpu_hour=won_per_gpu_hour,
            burst_discount=burst_discount,
            starts=starts,
            basis=basis,
        )

    @pages.post("/rates/proposals/{id}/approve")
    def approve_form(visit: Approver, id: str) -> Response:
        desk.decide(visit, id, Verdict.APPROVED, "")
        return go("/rates", "rate-approved")

    @pages.post("/rates/proposals/{id}/refuse")
    def refuse_form(visit: Approver, id: str, why: Text = "") -> Response:
        desk.decide(visit, id, Verdict.REFUSED, line(500)(why.strip()))
        return go("/rates", "rate-refused")

    @api.get("/rates", response_model=Page[RateView], responses=NOT_MODIFIED)
    def list_rates(request: Request, visit: Reader, limit: Limit = 100, cursor: CursorText = None) -> Response:
        """All rates that are, were or will be in force, by name."""
        after = key_of(cursor, str)[0] if cursor else ""
        found = [one for one in desk.rates(korean_day(portal.clock.now())) if one.name > after]
        found.sort(key=lambda one: one.name)
        items, following = page_of(found[: limit + 1], limit, lambda one: (one.name,))
        return with_etag(request, Page[RateView](items=tuple(items), next=following))

    @api.post("/rates", response_model=ProposalView, status_code=201)
    def propose(visit: Proposer, act: Act, asked: RateProposal) -> ProposalView:
        """Propose a rate; somebody else puts it in force."""
        return desk.view(desk.propose(visit, act, PoolRate(**dict(asked))))

    @api.get("/rates/proposals", response_model=Page[ProposalView], responses=NOT_MODIFIED)
    def list_proposals(request: Request, visit: Reader, limit: Limit = 100, cursor: CursorText = None) -> Response:
        """Proposals that you may see, the newest first."""
        found = desk.proposals(visit, None, None)
        if cursor:
            before = key_of(cursor, str, str)
            found = [one for one in found if (one.asked_at.isoformat(), one.request.command) < before]
        items, following = page_of(
            found[: limit + 1], limit, lambda one: (one.asked_at.isoformat(), one.request.command)
        )
        return with_etag(request, Page[ProposalView](items=tuple(map(desk.view, items)), next=following))

    @api.post("/rates/proposals/{id}/approve", response_model=ProposalView)
    def approve(visit: Approver, id: str) -> ProposalView:
        """Put a proposed rate in force. Who proposed it cannot."""
        return desk.view(desk.decide(visit, id, Verdict.APPROVED, ""))

    @api.post("/rates/proposals/{id}/refuse", response_model=ProposalView)
    def refuse(visit: Approver, id: str, said: Refusal) -> ProposalView:
        """Refuse a proposed rate, and say why."""
        return desk.view(desk.decide(visit, id, Verdict.REFUSED, said.why.strip()))

    return [pages, api]


class RateDesk:
    """What pages and API do with rates."""

    def __init__(self, portal: Portal, pool: PoolServer) -> None:
        self._portal = portal
        self._pool = pool
        self._store = portal.store

    def rates(self, today: date) -> list[RateView]:
        """All, by model and first day."""
        rates = sorted(self._store.ledger.rates(), key=lambda one: (one.model, one.programme or "", one.share or ""))
        return [view_of(one, rates, today) for one in sorted(rates, key=lambda one: (one.model, one.starts))]

    def models(self, visit: Visit) -> list[GpuModel]:
        """For which a rate may be proposed: those of the pool; a provider's billing, those of its provider."""
        provider = visit.person.office.provider if visit.may(Action.RATE_PROPOSE) is Scope.PROVIDER else None
        shares = self._pool.store.register.shares.all()
        return sorted({one.model for one in shares if provider in (None, one.provider)})

    def proposals(self, visit: Visit, verdict: Verdict | None, limit: int | None) -> list[AskedRate]:
        """Those that the visitor may see, the newest first. A price list is for everybody who pays by it, what is
        proposed is not."""
        scope = visit.may(Action.RATE_READ)
        found = self._store.ledger.rate_requests.all(verdict, limit=limit if scope is Scope.ALL else None)
        if scope is Scope.ALL:
            return list(found)
        mine = visit.person.office.provider if scope is Scope.PROVIDER else None
        return [one for one in found if mine is not None and one.request.provider == mine][:limit]

    def propose(self, visit: Visit, act: CommandId, rate: PoolRate) -> AskedRate:
        """
        Raises:
            Refused: the provider has no GPUs of the model.
            NotFound: the pool has no such share or programme.
        """
        provider: ProviderName | None = None
        if visit.require(Action.RATE_PROPOSE) is Scope.PROVIDER:
            provider = visit.person.office.provider
            visit.require(Action.RATE_PROPOSE, Owned(provider=provider))
        if rate.model not in self.models(visit):
            raise Refused(
                told("You have no GPUs of model {model}.", model=rate.model), way_out=told("Choose from the list.")
            )
        shares = {one.share for one in self._pool.store.register.shares.all()}
        if rate.share is not None and rate.share not in shares:
            raise NotFound(told("There is no share {share}.", share=rate.share), way_out=told("Choose from the list."))
        if rate.programme is not None:
            self._pool.store.register.programmes.get(rate.programme)
        request = RateRequest(command=act, rate=rate, provider=provider)
        with self._store.transaction():
            if self._pool.keeper.propose_rate(request, visit.actor):
                self._store.audit.append(
                    visit.event(
                        "rate.propose",
                        rate.name,
                        at=self._portal.clock.now(),
                        reason=rate.basis,
                        evidence={
                            "model": rate.model,
                            "won_per_gpu_hour": rate.won_per_gpu_hour,
                            "burst_discount": str(rate.burst_discount),
                            "share": rate.share,
                            "programme": rate.programme,
                            "starts": str(rate.starts),
                        },
                    )
                )
            return self._proposal(act)

    def decide(self, visit: Visit, id: str, verdict: Verdict, why: str) -> AskedRate:
        with self._store.transaction():
            if self._pool.keeper.decide_rate(id, verdict, visit.actor, why):
                asked = self._proposal(id)
                action = "rate.approve" if verdict is Verdict.APPROVED else "rate.refuse"
                self._store.audit.append(
                    visit.event(
                        action,
                        asked.request.rate.name,
                        at=self._portal.clock.now(),
                        reason=why,
                        on_behalf_of=asked.asked_by,
                    )
                )
            return self._proposal(id)

    def _proposal(self, id: str) -> AskedRate:
        found = self._store.ledger.rate_requests.find(id)
        if found is None:
            raise NotFound(told("There is no such proposal."), way_out=told("List the rates."))
        return found

    def view(self, asked: AskedRate) -> ProposalView:
        today = korean_day(self._portal.clock.now())
        return ProposalView(
            id=asked.request.command,
            rate=view_of(asked.request.rate, self._store.ledger.rates(), today),
            provider=asked.request.provider,
            proposed_by=asked.asked_by,
            proposed_at=asked.asked_at,
            verdict=asked.verdict,
            decided_by=asked.decided_by,
            decided_at=asked.decided_at,
            why=asked.why,
        )


def view_of(rate: PoolRate, rates: Sequence[PoolRate], today: date) -> RateView:
    """The rate among all that are decided; one that is only proposed is not in force."""
    same = (rate.model, rate.share, rate.programme)
    following = [one.starts for one in rates if (one.model, one.share, one.programme) == same]
    next_day = min((day for day in following if day > rate.starts), default=None)
    until = None if next_day is None else date.fromordinal(next_day.toordinal() - 1)
    begun = rate in rates and rate.starts <= today
    return RateView(
        name=rate.name,
        model=rate.model,
        share=rate.share,
        programme=rate.programme,
        won_per_gpu_hour=rate.won_per_gpu_hour,
        burst_discount=float(rate.burst_discount),
        starts=rate.starts,
        until=until,
        in_force=begun and (until is None or today <= until),
        basis=rate.basis,
    )


def _rate_name(text: str) -> RateName:
    try:
        return RateName(text)
    except InvalidInput:
        raise InvalidInput(
            told("Write a name of lower-case letters, digits, '-' and '.', a letter first, at most 60 characters.")
        ) from None


def _won(text: str) -> int:
    digits = text.replace(",", "")
    if not digits.isascii() or not digits.isdigit() or len(digits) > 9 or int(digits) > MOST_WON_PER_GPU_HOUR:
        raise InvalidInput(told("Write whole Won, from 0 to {most}.", most=MOST_WON_PER_GPU_HOUR))
    return int(digits)


def _percent(text: str) -> Decimal:
    try:
        percent = Decimal(text) if len(text) <= 6 else Decimal(-1)
    except InvalidOperation:
        percent = Decimal(-1)
    if not (percent.is_finite() and 0 <= percent <= 100 and percent == round(percent, 2)):
        raise InvalidInput(told("Write percent from 0 to 100, with at most two decimals."))
    return percent


def _day(text: str) -> date:
    try:
        day = date.fromisoformat(text) if len(text) == 10 else None
    except ValueError:
        day = None
    if day is None or not FIRST_DAY <= day <= LAST_START:
        raise InvalidInput(told("That is no day."), way_out=told("Write it as in 2026-11-28."))
    return day


def _cards(portal: Portal, visit: Visit, pool: PoolServer) -> list[Card]:
    if visit.may(Action.RATE_APPROVE) is None:
        return []
    waiting = [
        one for one in RateDesk(portal, pool).proposals(visit, Verdict.OPEN, None) if one.asked_by != visit.person.id
    ]
    if not waiting:
        return []
    return [
        Card(
            label=visit.words.say("Rates to decide"),
            value=visit.words.value(len(waiting)),
            detail=visit.words.say("proposed by others"),
            path="/rates",
            asks=len(waiting),
        )
    ]
