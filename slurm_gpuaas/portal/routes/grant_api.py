"""The API of everything that is done with a grant."""

from typing import Annotated, Self

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import Field

from slurm_gpuaas.api.models import Request as Body
from slurm_gpuaas.domain.calendar import CalendarDay
from slurm_gpuaas.domain.names import PersonId
from slurm_gpuaas.domain.pool_grants import MOST_MEMBERS, ChangeState, GrantChange, PoolGrant
from slurm_gpuaas.domain.programmes import GpuCount
from slurm_gpuaas.domain.stages import Line, Text
from slurm_gpuaas.portal.http import (
    API,
    NOT_MODIFIED,
    PROBLEMS,
    Act,
    Answer,
    CursorText,
    IfMatch,
    Limit,
    Page,
    key_of,
    page_of,
    with_etag,
)
from slurm_gpuaas.portal.rights import Action
from slurm_gpuaas.portal.routes.grant_desk import Desk
from slurm_gpuaas.portal.routes.grant_views import (
    ChangeView,
    GrantView,
    change_view,
    visible_grants,
)
from slurm_gpuaas.portal.routes.replacing import unchanged
from slurm_gpuaas.portal.visit import Needs, Visit


class Members(Body):
    """All members, in whatever order."""

    members: tuple[PersonId, ...] = Field(max_length=MOST_MEMBERS)


class MembersView(Answer):
    """Numbers of people. The ETag is what `If-Match` of PUT asks for."""

    members: tuple[PersonId, ...]

    @classmethod
    def of(cls, grant: PoolGrant) -> Self:
        return cls(members=grant.members)


class NewTerms(Body):
    """`ends`: the last day. What shall stay is given as it is."""

    gpus: GpuCount
    ends: CalendarDay
    reason: Line


class Reason(Body):
    reason: Line


class Fewer(Body):
    """`gpus`: what is left to the grant."""

    gpus: GpuCount
    reason: Line


class Return(Body):
    """`last_day`: yesterday is at once."""

    last_day: CalendarDay
    reason: Line


class Report(Body):
    report: Text = Field(min_length=1)


def act_api(desk: Desk) -> APIRouter:
    api = APIRouter(prefix=API, tags=["grants"], responses=PROBLEMS)
    Reader = Annotated[Visit, Depends(Needs(Action.GRANT_READ))]
    Decider = Annotated[Visit, Depends(Needs(Action.GRANT_CHANGE))]
    Asker = Annotated[Visit, Depends(Needs(Action.GRANT_REQUEST))]
    MemberReader = Annotated[Visit, Depends(Needs(Action.MEMBER_READ))]
    Changer = Annotated[Visit, Depends(Needs(Action.MEMBER_CHANGE))]

    def shown(change: GrantChange) -> ChangeView:
        return change_view(change, desk.register.grants.get(change.grant))

    @api.get("/grants/{id}/members", response_model=MembersView, responses=NOT_MODIFIED)
    def members_of(request: Request, visit: MemberReader, id: str) -> Response:
        """Who works with the grant."""
        grant, _ = desk.found(visit, id, Action.MEMBER_READ)
        return with_etag(request, MembersView.of(grant))

    @api.put("/grants/{id}/members")
    def set_members(
        request: Request, visit: Changer, id: str, members: Members, act: Act, match: IfMatch = None
    ) -> GrantView:
        """Who works with the grant from now on: people of its organisation."""
        grant, _ = desk.found(visit, id, Action.MEMBER_CHANGE)
        with unchanged(desk.pool, request, act, lambda: MembersView.of(desk.register.grants.get(grant.id))):
            return desk.view(desk.service.set_members(act, visit.actor, grant.id, members.members))

    @api.post("/grants/{id}/changes")
    def ask_change(visit: Asker, id: str, terms: NewTerms, act: Act) -> ChangeView:
        """Ask for other terms: more or fewer GPUs, a later last day (a renewal) or an earlier one. One at a time:
        409 while another one is to be decided."""
        grant, _ = desk.found(visit, id, Action.GRANT_REQUEST)
        return shown(desk.service.ask_change(act, visit.actor, grant.id, terms.gpus, terms.ends, terms.reason))

    @api.get("/changes", response_model=Page[ChangeView], responses=NOT_MODIFIED)
    def list_changes(
        request: Request,
        visit: Reader,
        limit: Limit = 100,
        cursor: CursorText = None,
        state: Annotated[ChangeState | None, Query()] = None,
    ) -> Response:
        """Requests for other terms of grants that you may see, the newest first."""
        grants = {grant.id: grant for grant in visible_grants(desk.pool.store, visit)}
        before = key_of(cursor, str)[0] if cursor else None
        shelf = desk.register.changes
        found = [
            one
            for one in reversed(shelf.all(state=state.value) if state else shelf.all())
            if one.grant in grants and (before is None or one.id < before)
        ]
        rows, following = page_of(found[: limit + 1], limit, lambda one: (one.id,))
        items = tuple(change_view(one, grants[one.grant]) for one in rows)
        return with_etag(request, Page[ChangeView](items=items, next=following))

    @api.post("/changes/{id}/approve")
    def approve(visit: Decider, id: str, act: Act) -> GrantView:
        """The new terms hold from now on. Who asked, or belongs to the organisation, cannot decide."""
        change = desk.change(visit, id, Action.GRANT_CHANGE)
        return desk.view(desk.service.approve_change(act, visit.actor, change.id))

    @api.post("/changes/{id}/refuse")
    def refuse(visit: Decider, id: str, reason: Reason, act: Act) -> ChangeView:
        """Its people are told the reason."""
        change = desk.change(visit, id, Action.GRANT_CHANGE)
        return shown(desk.service.refuse_change(act, visit.actor, change.id, reason.reason))

    @api.post("/changes/{id}/drop")
    def drop(visit: Asker, id: str, act: Act) -> ChangeView:
        """Its organisation no longer wants it."""
        change = desk.change(visit, id, Action.GRANT_REQUEST)
        return shown(desk.service.drop_change(act, visit.actor, change.id))

    @api.post("/grants/{id}/shrink")
    def shrink(visit: Decider, id: str, fewer: Fewer, act: Act) -> GrantView:
        """Take part of an unused grant back, from today on."""
        grant, _ = desk.found(visit, id, Action.GRANT_CHANGE)
        return desk.view(desk.service.shrink_grant(act, visit.actor, grant.id, fewer.gpus, fewer.reason))

    @api.post("/grants/{id}/recall")
    def recall(visit: Decider, id: str, reason: Reason, act: Act) -> GrantView:
        """Take all of a grant back, from today on; its members keep their grace."""
        grant, _ = desk.found(visit, id, Action.GRANT_CHANGE)
        return desk.view(desk.service.recall_grant(act, visit.actor, grant.id, reason.reason))

    @api.post("/grants/{id}/return")
    def give_back(visit: Asker, id: str, wanted: Return, act: Act) -> GrantView:
        """Give a grant back early; yesterday as the last day is at once."""
        grant, _ = desk.found(visit, id, Action.GRANT_REQUEST)
        return desk.view(desk.service.return_grant(act, visit.actor, grant.id, wanted.last_day, wanted.reason))

    @api.post("/grants/{id}/report")
    def report(visit: Asker, id: str, report: Report, act: Act) -> GrantView:
        """Hand in the final report; handing it in again replaces it."""
        grant, _ = desk.found(visit, id, Action.GRANT_REQUEST)
        return desk.view(desk.service.hand_in_report(act, visit.actor, grant.id, report.report))

    return api
