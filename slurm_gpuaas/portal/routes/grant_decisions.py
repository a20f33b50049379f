"""What the programme's office does with grants: decides on other terms, takes GPUs back."""

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query, Request, Response

from slurm_gpuaas.domain.calendar import ONE_DAY
from slurm_gpuaas.domain.errors import GpuaasError
from slurm_gpuaas.domain.pool_grants import ChangeState, GrantChange, PoolGrant, recalled
from slurm_gpuaas.portal.feature import go
from slurm_gpuaas.portal.http import (
    CursorText,
    FormAct,
    key_of,
    page_of,
)
from slurm_gpuaas.portal.rights import Action
from slurm_gpuaas.portal.routes.fields import Faults, line, whole
from slurm_gpuaas.portal.routes.fields import Text as FormText
from slurm_gpuaas.portal.routes.grant_desk import MOST_REASON, Desk, sentence
from slurm_gpuaas.portal.routes.grant_views import (
    days_left,
)
from slurm_gpuaas.portal.routes.grant_words import BADGES
from slurm_gpuaas.portal.visit import Needs, Visit

ROWS: Final = 50
State = Annotated[str, Query(max_length=20)]

# -- Other terms -------------------------------------------------------------------------------------------------------


def change_pages(desk: Desk) -> APIRouter:
    pages = APIRouter(include_in_schema=False)
    Decider = Annotated[Visit, Depends(Needs(Action.GRANT_CHANGE))]
    Asker = Annotated[Visit, Depends(Needs(Action.GRANT_REQUEST))]

    @pages.get("/changes")
    def changes(request: Request, visit: Decider, cursor: CursorText = None, state: State = "asked") -> Response:
        wanted = state if state in set(ChangeState) else ""
        before = key_of(cursor, str)[0] if cursor else None
        shelf = desk.register.changes
        found = [
            one
            for one in reversed(shelf.all(state=wanted) if wanted else shelf.all())
            if before is None or one.id < before
        ]
        rows, following = page_of(found[: ROWS + 1], ROWS, lambda one: (one.id,))
        grants = {one.id: one for one in desk.register.grants.all(id=[str(row.grant) for row in rows])}
        shares = {one.name: one for one in desk.register.shares.all()}
        names = desk.pool.store.people.names([str(row.asked_by) for row in rows])
        return desk.portal.page(
            request,
            visit,
            "changes.html",
            rows=[
                {
                    "change": row,
                    "grant": grants[row.grant],
                    "share": shares[grants[row.grant].share],
                    "asker": names.get(row.asked_by, row.asked_by),
                    "at": row.history[0].at if row.history else None,
                    "badge": BADGES[row.state],
                    "room": _room(desk, row, grants[row.grant]) if row.state is ChangeState.ASKED else None,
                }
                for row in rows
            ],
            state=state,
            states=list(ChangeState),
            following=following,
        )

    @pages.post("/changes/{id}/approve")
    def approve(visit: Decider, id: str, act: FormAct) -> Response:
        desk.service.approve_change(act, visit.actor, desk.change(visit, id, Action.GRANT_CHANGE).id)
        return go("/changes", "change-approved")

    @pages.post("/changes/{id}/refuse")
    def refuse(visit: Decider, id: str, act: FormAct, reason: FormText = "") -> Response:
        change = desk.change(visit, id, Action.GRANT_CHANGE)
        desk.service.refuse_change(act, visit.actor, change.id, line(MOST_REASON)(reason.strip()))
        return go("/changes", "change-refused")

    @pages.post("/changes/{id}/drop")
    def drop(visit: Asker, id: str, act: FormAct) -> Response:
        change = desk.change(visit, id, Action.GRANT_REQUEST)
        desk.service.drop_change(act, visit.actor, change.id)
        return go(f"/grants/{change.grant}", "change-dropped")

    return pages


def _room(desk: Desk, change: GrantChange, grant: PoolGrant) -> int | None:
    """GPUs that the share could give this grant over the days of the change, its own included; None: it is over."""
    if not grant.holds or change.ends < grant.starts:
        return None
    starts = max(grant.starts, desk.today)
    if change.ends < starts:
        return None
    until = min(change.ends, grant.ends)
    now = desk.service.room(grant.share, starts, until) + grant.gpus
    if change.ends <= grant.ends:
        return now
    return min(now, desk.service.room(grant.share, grant.ends + ONE_DAY, change.ends))


# -- What the programme's office decides -------------------------------------------------------------------------------


def decision_pages(desk: Desk) -> APIRouter:
    pages = APIRouter(include_in_schema=False)
    Decider = Annotated[Visit, Depends(Needs(Action.GRANT_CHANGE))]

    def page(
        request: Request,
        visit: Visit,
        grant: PoolGrant,
        *,
        status: int = 200,
        faults: Faults | None = None,
        fault: str = "",
        **typed: str,
    ) -> Response:
        return desk.portal.page(
            request,
            visit,
            "grant-take-back.html",
            status=status,
            grant=grant,
            figures=desk.reader.figures([grant])[grant.id],
            days_left=days_left(grant, desk.portal.clock.now()),
            faults=faults.told if faults else {},
            fault=fault,
            typed={"gpus": "", "reason": "", "recall_reason": ""} | typed,
        )

    @pages.get("/grants/{id}/take-back")
    def take_back(request: Request, visit: Decider, id: str) -> Response:
        grant, _ = desk.found(visit, id, Action.GRANT_CHANGE)
        return page(request, visit, grant)

    @pages.post("/grants/{id}/shrink")
    def shrink(
        request: Request,
        visit: Decider,
        id: str,
        act: FormAct,
        gpus: FormText = "",
        reason: FormText = "",
        sure: FormText = "",
    ) -> Response:
        grant, _ = desk.found(visit, id, Action.GRANT_CHANGE)
        faults, fault = Faults(), ""
        left = faults.read("gpus", whole(1, max(1, grant.gpus - 1)), gpus)
        why = faults.read("reason", line(MOST_REASON), reason)
        if left is not None and why is not None:
            try:
                if sure:
                    desk.service.shrink_grant(act, visit.actor, grant.id, left, why)
                    return go(f"/grants/{grant.id}", "grant-shrunk")
                return desk.confirm(
                    request,
                    visit,
                    grant,
                    act="shrink",
                    gpus_back=grant.gpus - left,
                    left=left,
                    fields={"gpus": gpus, "reason": reason},
                    reason=why,
                )
            except GpuaasError as error:
                fault = sentence(visit, error)
        return page(request, visit, grant, status=422, faults=faults, fault=fault, gpus=gpus, reason=reason)

    @pages.post("/grants/{id}/recall")
    def recall(
        request: Request, visit: Decider, id: str, act: FormAct, recall_reason: FormText = "", sure: FormText = ""
    ) -> Response:
        grant, _ = desk.found(visit, id, Action.GRANT_CHANGE)
        faults, fault = Faults(), ""
        why = faults.read("recall_reason", line(MOST_REASON), recall_reason)
        if why is not None:
            try:
                if sure:
                    desk.service.recall_grant(act, visit.actor, grant.id, why)
                    return go(f"/grants/{grant.id}", "grant-recalled")
                after = recalled(grant, by=visit.person.id, at=desk.portal.clock.now(), reason=why)
                return desk.confirm(
                    request,
                    visit,
                    grant,
                    act="recall",
                    gpus_back=grant.gpus,
                    grace=after.grace_until,
                    fields={"recall_reason": recall_reason},
                    reason=why,
                )
            except GpuaasError as error:
                fault = sentence(visit, error)
        return page(request, visit, grant, status=422, faults=faults, fault=fault, recall_reason=recall_reason)

    return pages
