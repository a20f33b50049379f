"""HTTP routes about hardware health; `health_views` says who may what."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from slurm_gpuaas.api.health import (
    IncidentAck,
    IncidentDetail,
    LemonView,
    LimitRequest,
    LimitView,
    NodeHistory,
    RmaDetail,
    RmaOpen,
    RmaUpdate,
    RmaView,
)
from slurm_gpuaas.daemon import health_views as views
from slurm_gpuaas.daemon.identity import Identity
from slurm_gpuaas.daemon.operations import Operations
from slurm_gpuaas.domain.reports import CheckpointTerms, HealthReport

ASSUMED = CheckpointTerms()


def health_routes(identity: Callable[..., Identity], operations: Callable[[], Operations]) -> APIRouter:
    """Args:
    identity: who is asking.
    operations: raises `Unavailable` while this daemon stands by.
    """
    router = APIRouter()
    Who = Annotated[Identity, Depends(identity)]
    Do = Annotated[Operations, Depends(operations)]

    @router.get("/incidents/{incident}")
    def incident(incident: str, who: Who, do: Do) -> IncidentDetail:
        """One incident in full: steps, repairs, verification, events. Administrators."""
        return views.incident_detail(do, who, incident)

    @router.post("/incidents/{incident}/ack")
    def acknowledge(incident: str, request: IncidentAck, who: Who, do: Do) -> IncidentDetail:
        """Say that somebody looks after an incident. Administrators."""
        return views.acknowledge(do, who, incident, request)

    @router.get("/nodes/{name}/history")
    def node_history(name: str, who: Who, do: Do) -> NodeHistory:
        """A node's life: steps, incidents, outages, what people did, its cards and their faults. Administrators."""
        return views.node_history(do, who, name)

    @router.put("/nodes/{name}/limit")
    def set_limit(name: str, request: LimitRequest, who: Who, do: Do) -> LimitView:
        """Keep a node from jobs over so many nodes. Administrators."""
        return views.set_limit(do, who, name, request)

    @router.delete("/nodes/{name}/limit", status_code=204)
    def lift_limit(name: str, who: Who, do: Do) -> Response:
        """Let a node serve jobs of any size again. Administrators."""
        views.lift_limit(do, who, name)
        return Response(status_code=204)

    @router.get("/health/lemons")
    def lemons(who: Who, do: Do) -> list[LemonView]:
        """Nodes that keep failing, the worst first, each explained. Administrators."""
        return views.lemons(do, who)

    @router.get("/health/report")
    def health_report(
        who: Who,
        do: Do,
        start: Annotated[datetime | None, Query(description="By default 30 days before the end.")] = None,
        end: Annotated[datetime | None, Query(description="Not included; by default now.")] = None,
        project: Annotated[str | None, Query(max_length=100)] = None,
        checkpoint_s: Annotated[float, Query(ge=1, le=604_800)] = ASSUMED.interval.total_seconds(),
        write_s: Annotated[float, Query(ge=0.001, le=604_800)] = ASSUMED.write.total_seconds(),
        restart_s: Annotated[float, Query(ge=0.001, le=604_800)] = ASSUMED.restart.total_seconds(),
    ) -> HealthReport:
        """Availability, time between failures and to repair, what faults cost; researchers see their own projects."""
        terms = CheckpointTerms.model_validate({"interval": checkpoint_s, "write": write_s, "restart": restart_s})
        return views.health_report(do, who, start=start, end=end, project=project, terms=terms)

    @router.get("/rma")
    def rma_cases(
        who: Who,
        do: Do,
        closed: bool = False,
        node: Annotated[str | None, Query(max_length=64)] = None,
        serial: Annotated[str | None, Query(max_length=64)] = None,
    ) -> list[RmaView]:
        """RMA cases, the newest first. Administrators."""
        return views.rma_cases(do, who, closed=closed, node=node, serial=serial)

    @router.post("/rma")
    def rma_open(request: RmaOpen, who: Who, do: Do) -> RmaDetail:
        """Open an RMA case by hand. Administrators."""
        return views.rma_open(do, who, request)

    @router.get("/rma/{case}")
    def rma_case(case: str, who: Who, do: Do) -> RmaDetail:
        """One RMA case with the text of its ticket. Administrators."""
        return views.rma_case(do, who, case)

    @router.post("/rma/{case}")
    def rma_update(case: str, request: RmaUpdate, who: Who, do: Do) -> RmaDetail:
        """Write down what was done about an RMA case. Administrators."""
        return views.rma_update(do, who, case, request)

    return router
