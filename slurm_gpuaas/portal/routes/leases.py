"""Leases: a provider asks for government GPUs that nobody was awarded, the government decides."""

from collections.abc import Sequence
from datetime import date
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from slurm_gpuaas.domain.accounts import Person, PersonState
from slurm_gpuaas.domain.calendar import CalendarDay
from slurm_gpuaas.domain.errors import GpuaasError, InvalidInput, NotFound
from slurm_gpuaas.domain.leases import MOST_LESSEES, Lease, LeaseState
from slurm_gpuaas.domain.names import LeaseId, PersonId, PoolShareName, ProviderName
from slurm_gpuaas.domain.people import PortalRole
from slurm_gpuaas.domain.programmes import GpuCount, PoolShare
from slurm_gpuaas.domain.stages import Line
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.pool.lease_service import RULES
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
from slurm_gpuaas.portal.routes.fields import Text, line
from slurm_gpuaas.portal.visit import Needs, Visit
from slurm_gpuaas.portal.words import noted

OPERATORS: Final = frozenset({PortalRole.PROVIDER_OPERATOR})


class LeaseView(Answer):
    """`project`: the account in Slurm, once it is approved."""

    id: str
    provider: str
    share: str
    gpus: int
    starts: date
    ends: date
    reason: str
    state: str
    project: str
    members: tuple[str, ...]
    asked_by: str
    decided_by: str | None


class AskLease(BaseModel):
    """`members`: people of your provider who work with it, by number; nobody named: you."""

    model_config = ConfigDict(extra="forbid")

    share: PoolShareName
    gpus: GpuCount
    starts: CalendarDay
    ends: CalendarDay
    reason: Line
    members: tuple[PersonId, ...] = Field(default=(), max_length=MOST_LESSEES)


class RefuseLease(BaseModel):
    model_config = ConfigDict(extra="forbid")

    reason: Line


class EndLease(BaseModel):
    """`last_day` absent: as soon as possible."""

    model_config = ConfigDict(extra="forbid")

    last_day: CalendarDay | None = None
    reason: Line


def leases_feature(pool: PoolServer) -> Feature:
    return Feature(
        name="leases",
        routes=lambda portal: [_api(portal, pool), _pages(portal, pool)],
        nav=(NavEntry("/leases", noted("Leases"), "grant", Action.LEASE_READ, 47),),
        cards=lambda portal, visit: _cards(pool, visit),
        names={
            LeaseState: {
                LeaseState.ASKED: noted("Asked for"),
                LeaseState.APPROVED: noted("Approved"),
                LeaseState.REFUSED: noted("Refused"),
                LeaseState.WITHDRAWN: noted("Withdrawn"),
                LeaseState.ENDED: noted("Ended"),
            }
        },
        notices={
            "lease-asked": noted("The lease waits for the government's decision."),
            "lease-approved": noted("The lease was approved; its site has it at once."),
            "lease-refused": noted("The lease was refused."),
            "lease-ended": noted("The lease was ended or shortened."),
        },
    )


def _view(one: Lease) -> LeaseView:
    return LeaseView(
        id=one.id,
        provider=one.provider,
        share=one.share,
        gpus=one.gpus,
        starts=one.starts,
        ends=one.ends,
        reason=one.reason,
        state=one.state,
        project=one.project,
        members=one.members,
        asked_by=one.asked_by,
        decided_by=one.decided_by,
    )


def _number(text: str) -> LeaseId:
    try:
        return LeaseId(text)
    except InvalidInput:
        raise NotFound(told("There is no such lease.")) from None


def _visible(pool: PoolServer, visit: Visit) -> Sequence[Lease]:
    """The newest first."""
    leases, office = pool.store.register.leases, visit.person.office
    if visit.may(Action.LEASE_READ) is Scope.ALL:
        found = leases.all()
    else:
        found = leases.all(provider=str(office.provider)) if office.provider is not None else ()
    return sorted(found, key=lambda one: one.id, reverse=True)


def _lease(pool: PoolServer, visit: Visit, action: Action, number: str) -> Lease:
    lease = pool.store.register.leases.get(_number(number))
    visit.require(action, Owned(provider=lease.provider))
    return lease


def _colleagues(portal: Portal, provider: ProviderName | None) -> list[Person]:
    """Who of a provider may work with a lease."""
    return [
        one
        for one in portal.store.people.all()
        if one.state is PersonState.ACTIVE and one.office.role in OPERATORS and one.office.provider == provider
    ]


def _check_members(portal: Portal, visit: Visit, members: Sequence[PersonId]) -> None:
    """
    Raises:
        InvalidInput: somebody is not an operator of the visitor's provider.
    """
    there = {one.id for one in _colleagues(portal, visit.person.office.provider)}
    if strangers := sorted(set(members) - there):
        raise InvalidInput(
            told("{people} are no operators of your provider.", people=", ".join(strangers)),
            way_out=told("Name people of your provider who have an account here."),
        )


# -- API ---------------------------------------------------------------------------------------------------------------


def _api(portal: Portal, pool: PoolServer) -> APIRouter:
    api = APIRouter(prefix=API, tags=["leases"], responses=PROBLEMS)
    Reader = Annotated[Visit, Depends(Needs(Action.LEASE_READ))]
    Asker = Annotated[Visit, Depends(Needs(Action.LEASE_REQUEST))]
    Approver = Annotated[Visit, Depends(Needs(Action.LEASE_APPROVE))]
    Ender = Annotated[Visit, Depends(Needs(Action.LEASE_END))]

    @api.get("/leases", response_model=Page[LeaseView], responses=NOT_MODIFIED)
    def leases(request: Request, visit: Reader, limit: Limit = 100, cursor: CursorText = None) -> Response:
        """Leases that you may see, the newest first."""
        found = list(_visible(pool, visit))
        if cursor is not None:
            (before,) = key_of(cursor, str)
            found = [one for one in found if one.id < before]
        items, following = page_of(found[: limit + 1], limit, lambda one: (str(one.id),))
        return with_etag(request, Page[LeaseView](items=tuple(map(_view, items)), next=following))

    @api.post("/leases")
    def ask(visit: Asker, asked: AskLease, act: Act) -> LeaseView:
        """Ask for GPUs of your provider's government share that nobody was awarded, for a time."""
        share = pool.store.register.shares.get(asked.share)
        visit.require(Action.LEASE_REQUEST, Owned(provider=share.provider))
        _check_members(portal, visit, asked.members)
        return _view(
            pool.leases.ask(
                act, visit.actor, share.name, asked.gpus, asked.starts, asked.ends, asked.reason, asked.members
            )
        )

    @api.post("/leases/{number}/approve")
    def approve(visit: Approver, number: str, act: Act) -> LeaseView:
        """It holds its GPUs from now on, and its site has it at once. Not by who asked for it."""
        return _view(pool.leases.approve(act, visit.actor, _lease(pool, visit, Action.LEASE_APPROVE, number).id))

    @api.post("/leases/{number}/refuse")
    def refuse(visit: Approver, number: str, asked: RefuseLease, act: Act) -> LeaseView:
        """It gets nothing. Not by who asked for it."""
        lease = _lease(pool, visit, Action.LEASE_APPROVE, number)
        return _view(pool.leases.refuse(act, visit.actor, lease.id, asked.reason))

    @api.post("/leases/{number}/end")
    def end(visit: Ender, number: str, asked: EndLease, act: Act) -> LeaseView:
        """Give it back, or take it back with notice, before its last day. Before the decision: withdraw it."""
        lease = _lease(pool, visit, Action.LEASE_END, number)
        return _view(pool.leases.end(act, visit.actor, lease.id, asked.last_day, asked.reason))

    return api


# -- Pages -------------------------------------------------------------------------------------------------------------


def _pages(portal: Portal, pool: PoolServer) -> APIRouter:
    pages = APIRouter(include_in_schema=False)
    Reader = Annotated[Visit, Depends(Needs(Action.LEASE_READ))]
    Asker = Annotated[Visit, Depends(Needs(Action.LEASE_REQUEST))]
    Approver = Annotated[Visit, Depends(Needs(Action.LEASE_APPROVE))]
    Ender = Annotated[Visit, Depends(Needs(Action.LEASE_END))]

    def shares_of(visit: Visit) -> list[PoolShare]:
        provider = visit.person.office.provider
        return [one for one in pool.store.register.shares.all() if one.provider == provider]

    def page(request: Request, visit: Visit, fault: str = "", **typed: str) -> Response:
        found = _visible(pool, visit)
        asks = visit.may(Action.LEASE_REQUEST)
        people = sorted({person for one in found for person in (one.asked_by, *one.members)})
        return portal.page(
            request,
            visit,
            "leases.html",
            status=422 if fault else 200,
            leases=found,
            names=portal.store.people.names(people),
            may_ask=asks,
            may_approve=visit.may(Action.LEASE_APPROVE),
            may_end={one.id for one in found if visit.allows(Action.LEASE_END, Owned(provider=one.provider))},
            shares=[(str(one.name), str(one.name)) for one in shares_of(visit)] if asks else [],
            colleagues=[(str(one.id), one.name) for one in _colleagues(portal, visit.person.office.provider)],
            rules=RULES,
            fault=fault,
            typed={"share": "", "gpus": "8", "starts": "", "ends": "", "reason": ""} | typed,
        )

    def told_fault(request: Request, visit: Visit, error: GpuaasError, **typed: str) -> Response:
        return page(request, visit, f"{visit.words.tell(error.message)} {visit.words.tell(error.way_out)}", **typed)

    @pages.get("/leases")
    def leases(request: Request, visit: Reader) -> Response:
        return page(request, visit)

    @pages.post("/leases")
    def ask(
        request: Request,
        visit: Asker,
        act: FormAct,
        share: Text = "",
        gpus: Text = "",
        starts: Text = "",
        ends: Text = "",
        reason: Text = "",
        member: Text = "",
    ) -> Response:
        try:
            name = next((one.name for one in shares_of(visit) if one.name == share), None)
            if name is None:
                raise InvalidInput(told("Choose a share of your provider."))
            members = (PersonId(member),) if member else ()
            _check_members(portal, visit, members)
            pool.leases.ask(
                act, visit.actor, name, _count(gpus), _day(starts), _day(ends), line(200)(reason.strip()), members
            )
        except GpuaasError as error:
            return told_fault(request, visit, error, share=share, gpus=gpus, starts=starts, ends=ends, reason=reason)
        return go("/leases", "lease-asked")

    @pages.post("/leases/{number}/approve")
    def approve(request: Request, visit: Approver, number: str, act: FormAct) -> Response:
        lease = _lease(pool, visit, Action.LEASE_APPROVE, number)
        try:
            pool.leases.approve(act, visit.actor, lease.id)
        except GpuaasError as error:
            return told_fault(request, visit, error)
        return go("/leases", "lease-approved")

    @pages.post("/leases/{number}/refuse")
    def refuse(request: Request, visit: Approver, number: str, act: FormAct, reason: Text = "") -> Response:
        lease = _lease(pool, visit, Action.LEASE_APPROVE, number)
        try:
            pool.leases.refuse(act, visit.actor, lease.id, line(200)(reason.strip()))
        except GpuaasError as error:
            return told_fault(request, visit, error)
        return go("/leases", "lease-refused")

    @pages.post("/leases/{number}/end")
    def end(
        request: Request, visit: Ender, number: str, act: FormAct, last_day: Text = "", reason: Text = ""
    ) -> Response:
        lease = _lease(pool, visit, Action.LEASE_END, number)
        try:
            day = _day(last_day) if last_day.strip() else None
            pool.leases.end(act, visit.actor, lease.id, day, line(200)(reason.strip()))
        except GpuaasError as error:
            return told_fault(request, visit, error)
        return go("/leases", "lease-ended")

    return pages


def _count(text: str) -> int:
    """
    Raises:
        InvalidInput: it is no count of GPUs.
    """
    if not (text.strip().isascii() and text.strip().isdigit() and 1 <= len(text.strip()) <= 6 and int(text)):
        raise InvalidInput(told("Write a number of GPUs."))
    return int(text)


def _day(text: str) -> date:
    """
    Raises:
        InvalidInput: it is no day.
    """
    try:
        return date.fromisoformat(text.strip())
    except ValueError:
        raise InvalidInput(told("Write a day, as in 2027-03-31.")) from None


def _cards(pool: PoolServer, visit: Visit) -> list[Card]:
    words = visit.words
    if visit.may(Action.LEASE_APPROVE):
        asked = len(pool.store.register.leases.all(state="asked"))
        return [
            Card(
                label=words.say("Leases"),
                value=words.value(asked),
                detail=words.say("asked for by providers, to decide"),
                path="/leases",
                asks=asked,
            )
        ]
    if visit.may(Action.LEASE_REQUEST):
        there = [one for one in _visible(pool, visit) if one.state is LeaseState.APPROVED]
        return [
            Card(
                label=words.say("Leased GPUs"),
                value=words.gpus(sum(one.gpus for one in there)),
                detail=words.say("of the government's share, in force or to come"),
                path="/leases",
            )
        ]
    return []
