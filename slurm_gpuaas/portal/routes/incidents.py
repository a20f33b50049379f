"""Incidents: what broke, which jobs it hit, what was done, when it was back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query, Request, Response

from slurm_gpuaas.domain.incidents import IncidentState
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.portal.feature import Feature, NavEntry, Portal
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
from slurm_gpuaas.portal.pool import PoolServer
from slurm_gpuaas.portal.rights import Action
from slurm_gpuaas.portal.routes.looks import ClusterText, ages, onlooker
from slurm_gpuaas.portal.running import IncidentNow, incidents_seen
from slurm_gpuaas.portal.visit import Needs, Unseen, Visit
from slurm_gpuaas.portal.words import noted

Looks = Annotated[Visit, Depends(Needs(Action.INCIDENT_READ))]
NodeText = Annotated[str, Query(max_length=64, description="Part of the node's name.")]
FIRST: Final = 50


class Shown(StrEnum):
    OPEN = "open"
    CLOSED = "closed"


STAGES: Final[Mapping[StrEnum, str]] = {
    IncidentState.SUSPECT: noted("Noticed"),
    IncidentState.DRAINING: noted("No new jobs: draining"),
    IncidentState.DRAINED: noted("Drained"),
    IncidentState.REPAIRING: noted("Being repaired"),
    IncidentState.VERIFYING: noted("Being tested"),
    IncidentState.PROBATION: noted("Back in service, watched"),
    IncidentState.RMA: noted("Waiting for a part"),
    IncidentState.CLOSED: noted("Closed"),
}


class StepView(Answer):
    state: IncidentState
    at: datetime


class IncidentView(Answer):
    """
    Args:
        jobs: that it hit, as far as they are yours to know.
        back_at: since when its node is in service again.
        as_of: when its site told of it.
    """

    id: str
    cluster: str
    node: str
    gpu: int | None
    xid: int | None
    headline: str
    rule: str
    state: IncidentState
    opened_at: datetime
    back_at: datetime | None
    requeued_at: datetime | None
    steps: tuple[StepView, ...]
    jobs: tuple[int, ...]
    as_of: datetime


def incidents_feature(pool: PoolServer) -> Feature:
    def routes(portal: Portal) -> Sequence[APIRouter]:
        return (_pages(portal, pool), _api(pool))

    return Feature(
        name="incidents",
        routes=routes,
        nav=(NavEntry("/incidents", noted("Incidents"), "incident", Action.INCIDENT_READ, 24),),
        names={
            IncidentState: STAGES,
            Shown: {Shown.OPEN: noted("Open"), Shown.CLOSED: noted("Closed")},
        },
    )


def _seen(pool: PoolServer, visit: Visit, shown: Shown | None, cluster: str, node: str) -> list[IncidentNow]:
    return [
        one
        for one in incidents_seen(pool.pictures.live.known, onlooker(pool, visit, Action.INCIDENT_READ))
        if (shown is None or one.open is (shown is Shown.OPEN))
        and cluster in ("", one.cluster.name)
        and node in one.incident.node
    ]


def _found(pool: PoolServer, visit: Visit, number: str) -> IncidentNow:
    found = next((one for one in _seen(pool, visit, None, "", "") if one.id == number), None)
    if found is None:
        raise Unseen(
            told("There is no such incident, or it did not hit anything of yours."),
            way_out=told("Incidents are shown until a week after they were closed."),
        )
    return found


def _after(found: list[IncidentNow], cursor: str | None) -> list[IncidentNow]:
    if cursor is None:
        return found
    key = key_of(cursor, int, str, str)
    return [one for one in found if one.key > key]


def _pages(portal: Portal, pool: PoolServer) -> APIRouter:
    pages = APIRouter(include_in_schema=False)

    @pages.get("/incidents")
    def incidents(
        request: Request,
        visit: Looks,
        state: str = "",
        cluster: ClusterText = "",
        node: NodeText = "",
        cursor: CursorText = None,
    ) -> Response:
        chosen = Shown(state) if state in set(Shown) else None
        found = _seen(pool, visit, chosen, cluster, node.strip())
        rows, following = page_of(_after(found, cursor)[: FIRST + 1], FIRST, lambda one: one.key)
        return portal.page(
            request,
            visit,
            "incidents.html",
            incidents=rows,
            next=following,
            clusters=sorted(pool.pictures.live.known),
            states=list(Shown),
            chosen=chosen,
            cluster=cluster,
            node=node,
            ages=ages(pool),
        )

    @pages.get("/incidents/{incident_id}")
    def incident(request: Request, visit: Looks, incident_id: str) -> Response:
        one = _found(pool, visit, incident_id)
        return portal.page(
            request, visit, "incident.html", one=one, may_jobs=visit.may(Action.JOB_READ), ages=ages(pool)
        )

    return pages


def _api(pool: PoolServer) -> APIRouter:
    api = APIRouter(prefix=API, tags=["incidents"], responses=PROBLEMS)

    @api.get("/incidents", response_model=Page[IncidentView], responses=NOT_MODIFIED)
    def incidents(
        request: Request,
        visit: Looks,
        state: Shown | None = None,
        cluster: ClusterText = "",
        node: NodeText = "",
        limit: Limit = 100,
        cursor: CursorText = None,
    ) -> Response:
        """Incidents that you may see, the newest first; closed ones for a week."""
        found = _after(_seen(pool, visit, state, cluster, node), cursor)
        rows, following = page_of(found[: limit + 1], limit, lambda one: one.key)
        return with_etag(request, Page(items=tuple(map(_view, rows)), next=following))

    @api.get("/incidents/{incident_id}", response_model=IncidentView, responses=NOT_MODIFIED)
    def one_incident(request: Request, visit: Looks, incident_id: str) -> Response:
        """An incident that you may see; its number is `CLUSTER:ID`."""
        return with_etag(request, _view(_found(pool, visit, incident_id)))

    return api


def _view(one: IncidentNow) -> IncidentView:
    incident = one.incident
    return IncidentView(
        id=one.id,
        cluster=one.cluster.name,
        node=incident.node,
        gpu=incident.gpu,
        xid=incident.xid,
        headline=incident.headline,
        rule=incident.rule,
        state=one.state,
        opened_at=one.opened_at,
        back_at=one.back_at,
        requeued_at=incident.requeued_at,
        steps=tuple(StepView(state=step.state, at=step.at) for step in incident.steps),
        jobs=tuple(job.id for job in one.hit),
        as_of=one.as_of,
    )
