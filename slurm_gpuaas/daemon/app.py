"""The daemon's HTTP: routes to operations. Decides nothing but who is asking; `operations` decides what they may.

Two applications: the API on the UNIX socket, and what node agents and monitoring reach over TCP.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Path, Query, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp

from slurm_gpuaas import __version__
from slurm_gpuaas.api.models import (
    API,
    AuditView,
    BudgetStatus,
    CapacityView,
    DefragApplied,
    DefragApply,
    DefragPlan,
    DefragTerms,
    GpuUsage,
    IncidentClose,
    IncidentView,
    JobStart,
    JobWhy,
    NodeDrain,
    NodeView,
    PlacementView,
    PlanRequest,
    Policy,
    PolicyApplied,
    PolicyDocuments,
    PolicyPlan,
    Problem,
    ProjectView,
    QuotaExplanation,
    QuotaFinding,
    QuotaShare,
    SparesView,
    Status,
    TopologyPlan,
    TopologyRequest,
    Usage,
    WhoAmI,
)
from slurm_gpuaas.api.node_events import NODE_EVENTS_PATH, NodeEventAnswer, NodeEventBatch
from slurm_gpuaas.api.node_samples import NODE_SAMPLES_PATH, NodeSampleAnswer
from slurm_gpuaas.api.signing import Nonces
from slurm_gpuaas.daemon.health_routes import health_routes
from slurm_gpuaas.daemon.identity import Identities, Identity
from slurm_gpuaas.daemon.node_life_api import add_node_life
from slurm_gpuaas.daemon.operations import Operations, administrators_only
from slurm_gpuaas.daemon.problems import MEDIA_TYPE, install
from slurm_gpuaas.daemon.server import MAX_AGENT_BODY_BYTES, PEER_UID, BodyLimit
from slurm_gpuaas.daemon.signed import Signed
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.errors import InvalidInput, Refused
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.telemetry import SampleBatch
from slurm_gpuaas.metering.rules import Dimension

PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": description}
    for status, description in (
        (400, "The request is no HTTP or JSON that can be read."),
        (401, "Nobody knows who is asking."),
        (403, "A rule or a permission forbids it."),
        (404, "There is no such thing."),
        (409, "The state moved on, or somebody else owns the thing."),
        (413, "The body is too large."),
        (422, "The request is wrong as it stands."),
        (502, "Slurm was asked and said no."),
        (503, "Slurm, the store or the leader cannot be reached now."),
    )
}


@dataclass(frozen=True, kw_only=True)
class Wiring:
    """What the routes need of the daemon.

    Args:
        operations: raises `Unavailable` while this daemon stands by.
        not_ready: why the daemon is not ready to serve, one sentence each; empty = ready.
        metrics: the Prometheus page.
        master_key: key of the agents' keys; None = no agent may report.
        nonces: of both applications together: what one took the other must not take again.
    """

    operations: Callable[[], Operations]
    identities: Identities
    not_ready: Callable[[], Sequence[str]]
    metrics: Callable[[], bytes]
    master_key: bytes | None
    clock: Clock
    nonces: Nonces = field(default_factory=Nonces)


def make_api(wiring: Wiring) -> ASGIApp:
    """Everything, for the UNIX socket."""
    app = _bare("The API of gpuaasd on its UNIX socket.")
    app.include_router(_probes(wiring))
    app.include_router(_node_events(wiring))
    app.include_router(_api(wiring))
    return BodyLimit(app)


def make_agents_api(wiring: Wiring) -> ASGIApp:
    """Node events, samples, health and metrics, for the TCP listener."""
    app = _bare("What gpuaasd serves over TCP.")
    app.include_router(_probes(wiring))
    app.include_router(_node_events(wiring))
    return BodyLimit(app, MAX_AGENT_BODY_BYTES)


def _bare(description: str) -> FastAPI:
    # No documentation pages: they would load scripts from the Internet. /openapi.json is there.
    app = FastAPI(
        title="gpuaasd",
        version=__version__,
        description=description,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    install(app)
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        schema = generate()
        for path in schema["paths"].values():
            for operation in path.values():
                for status, answer in operation["responses"].items():
                    if status >= "400" and "application/json" in answer.get("content", {}):
                        answer["content"] = {MEDIA_TYPE: answer["content"]["application/json"]}
        return schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way
    return app


def _probes(wiring: Wiring) -> APIRouter:
    router = APIRouter(tags=["probes"])

    @router.get("/healthz", response_class=PlainTextResponse)
    def healthz() -> str:
        """The process lives and answers."""
        return "ok\n"

    @router.get(
        "/readyz",
        response_model=list[str],
        responses={503: {"description": "Why it is not ready.", "content": {"application/json": {}}}},
    )
    def readyz() -> JSONResponse:
        """This daemon leads and serves; 503 with the reasons when not."""
        reasons = list(wiring.not_ready())
        return JSONResponse(reasons, status_code=503 if reasons else 200)

    @router.get("/metrics", response_class=PlainTextResponse)
    def metrics() -> Response:
        """Prometheus metrics `gpuaas_*`. Slurm's own are served by slurmctld."""
        return Response(wiring.metrics(), media_type=CONTENT_TYPE_LATEST)

    return router


def _node_events(wiring: Wiring) -> APIRouter:
    router = APIRouter(tags=["agents"])
    signed = Signed(wiring.master_key, wiring.clock, wiring.nonces)

    @router.post(NODE_EVENTS_PATH, responses=PROBLEMS)
    def node_events(node: Annotated[NodeName, Depends(signed)], batch: NodeEventBatch) -> NodeEventAnswer:
        """Take an agent's report; it is in the store when this answers, and being acted upon. Safe to repeat."""
        if batch.node != node:
            raise InvalidInput(f"Node {node} signed a report of node {batch.node}.")
        operations = wiring.operations()
        operations.agents.saw(node, wiring.clock.now())
        return NodeEventAnswer(accepted=operations.intake.ingest(node, batch.events, gpus=batch.gpus))

    @router.post(NODE_SAMPLES_PATH, responses=PROBLEMS)
    def node_samples(node: Annotated[NodeName, Depends(signed)], batch: SampleBatch) -> NodeSampleAnswer:
        """Take samples of a node's GPUs; they outlive gpuaasd's end when this answers. Safe to repeat."""
        if batch.node != node:
            raise InvalidInput(f"Node {node} signed samples of node {batch.node}.")
        operations, now = wiring.operations(), wiring.clock.now()
        operations.agents.saw(node, now)
        return NodeSampleAnswer(accepted=operations.telemetry.add(batch, now=now))

    return router


class Unknown(Refused):
    """Nobody knows who is asking."""

    http_status = 401


def _api(wiring: Wiring) -> APIRouter:
    router = APIRouter(prefix=API, responses=PROBLEMS)

    def identity(request: Request) -> Identity:
        uid = request.scope.get(PEER_UID)
        if uid is None:
            raise Unknown("It is not known who is asking.", way_out="Ask over gpuaasd's UNIX socket.")
        return wiring.identities.of(uid)

    Who = Annotated[Identity, Depends(identity)]
    Do = Annotated[Operations, Depends(wiring.operations)]

    @router.get("/whoami")
    def whoami(who: Who, do: Do) -> WhoAmI:
        """Who gpuaasd takes you for."""
        return do.whoami(who)

    @router.get("/status")
    def status(who: Who, do: Do) -> Status:
        """The daemon's controllers, its way to Slurm, and the agents."""
        return do.status(who)

    @router.get("/policy")
    def policy(who: Who, do: Do) -> Policy:
        """The policy that holds. Administrators."""
        return do.policy(who)

    @router.post("/policy/plan")
    def plan(request: PlanRequest, who: Who, do: Do) -> PolicyPlan:
        """What would change if the documents were the policy. Administrators."""
        return do.plan(who, request.documents)

    @router.put("/policy")
    def apply(request: PolicyDocuments, who: Who, do: Do) -> PolicyApplied:
        """Make the documents the policy and bring Slurm to it; returns when Slurm is there. Administrators."""
        return PolicyApplied(plan=do.apply(who, request.documents, request.expected_revision))

    @router.get("/projects")
    def projects(who: Who, do: Do) -> list[ProjectView]:
        """Limits, use and budgets; researchers see their own projects."""
        return do.projects(who)

    @router.get("/quota/shares")
    def quota_shares(who: Who, do: Do) -> list[QuotaShare]:
        """Who is guaranteed, uses, borrows and lends how much now; researchers see their own projects."""
        return do.quota_shares(who)

    @router.get("/quota/explain")
    def quota_explain(
        who: Who,
        do: Do,
        gpus: Annotated[int, Query(ge=1, le=1_000_000)],
        user: Annotated[str | None, Query(max_length=32, description="By default who asks.")] = None,
        project: Annotated[str | None, Query(max_length=100, description="By default the user's own in Slurm.")] = None,
        model: Annotated[str | None, Query(max_length=30, description="By default the share's.")] = None,
        nodes: Annotated[int | None, Query(ge=1, le=1_000_000)] = None,
        minutes: Annotated[int | None, Query(ge=1, le=1_000_000)] = None,
        qos: Annotated[str | None, Query(max_length=100)] = None,
    ) -> QuotaExplanation:
        """What limits in Slurm would make of a job now; researchers ask about themselves."""
        return do.quota_explain(
            who, user=user, project=project, gpus=gpus, model=model, nodes=nodes, minutes=minutes, qos=qos
        )

    @router.get("/quota/check")
    def quota_check(who: Who, do: Do) -> list[QuotaFinding]:
        """What keeps limits in Slurm from doing what the policy relies on; researchers see their own projects."""
        return do.quota_check(who)

    @router.get("/usage")
    def usage(
        who: Who,
        do: Do,
        start: Annotated[datetime | None, Query(description="By default this Korean month's first moment.")] = None,
        end: Annotated[datetime | None, Query(description="Not included; by default now.")] = None,
        project: Annotated[str | None, Query(max_length=100)] = None,
        by: Annotated[list[Dimension] | None, Query(max_length=5)] = None,
    ) -> Usage:
        """Use of GPUs, as metered from Slurm's accounting; researchers see their own projects."""
        return do.usage(who, start=start, end=end, project=project, by=by or (Dimension.PROJECT,))

    @router.get("/usage/gpu")
    def gpu_usage(
        who: Who,
        do: Do,
        node: Annotated[str | None, Query(max_length=64)] = None,
        job: Annotated[int | None, Query(ge=1, le=2**31)] = None,
        project: Annotated[str | None, Query(max_length=100)] = None,
        start: Annotated[datetime | None, Query(description="By default a day ago; of a job, its start.")] = None,
        end: Annotated[datetime | None, Query(description="Not included; by default now.")] = None,
    ) -> GpuUsage:
        """How busy the GPUs of a node, a job or a project were; researchers ask about their own projects' jobs."""
        return do.gpu_usages.of(who, node=node, job=job, project=project, start=start, end=end)

    @router.get("/budgets")
    def budgets(who: Who, do: Do, project: Annotated[str | None, Query(max_length=100)] = None) -> list[BudgetStatus]:
        """Budgets of the period in force; researchers see their own projects."""
        return do.budgets(who, project=project)

    @router.get("/nodes")
    def nodes(who: Who, do: Do) -> list[NodeView]:
        """All nodes."""
        return do.nodes()

    @router.get("/nodes/{name}")
    def node(name: str, who: Who, do: Do) -> NodeView:
        """One node."""
        return do.node(name)

    @router.post("/nodes/{name}/drain")
    def drain(name: str, request: NodeDrain, who: Who, do: Do) -> NodeView:
        """Drain a node by hand. Administrators."""
        return do.drain(who, name, request.reason)

    @router.post("/nodes/{name}/resume")
    def resume(name: str, who: Who, do: Do) -> NodeView:
        """Put a node back in service. Administrators."""
        return do.resume(who, name)

    @router.get("/capacity")
    def capacity(
        who: Who,
        do: Do,
        partition: Annotated[str | None, Query(max_length=100)] = None,
        since: Annotated[datetime | None, Query(description="With what was kept from then on.")] = None,
    ) -> list[CapacityView]:
        """The largest job that could start now on each partition, per level, and how broken up free nodes are."""
        return do.capacity(partition=partition, since=since)

    @router.get("/spares")
    def spares(who: Who, do: Do) -> SparesView:
        """The spare nodes of each partition, why so many, and jobs that got some. Administrators."""
        administrators_only(who, "read the spares")
        return do.replacement.view()

    @router.get("/incidents")
    def incidents(
        who: Who, do: Do, closed: bool = False, node: Annotated[str | None, Query(max_length=64)] = None
    ) -> list[IncidentView]:
        """Incidents, the newest first. Administrators."""
        return do.incidents(who, closed=closed, node=node)

    @router.post("/incidents/{incident}/close")
    def close_incident(incident: str, request: IncidentClose, who: Who, do: Do) -> IncidentView:
        """Close an incident and put its node back in service. Administrators."""
        return do.close_incident(who, incident, request.reason)

    add_node_life(router, identity, wiring.operations)

    @router.post("/topology/plan")
    def topology_plan(request: TopologyRequest, who: Who, do: Do) -> TopologyPlan:
        """What would change if Slurm planned with it. Administrators."""
        return do.plan_topology(who, request)

    @router.put("/topology")
    def topology_apply(request: TopologyRequest, who: Who, do: Do) -> TopologyPlan:
        """Bring topology.yaml and slurmctld to it; returns when slurmctld shows it, raises when it does not and all is
        as before. Administrators."""
        return do.apply_topology(who, request)

    @router.get("/placements")
    def placements(
        who: Who,
        do: Do,
        job: Annotated[int | None, Query(ge=1, le=2**31)] = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
    ) -> list[PlacementView]:
        """Decisions of the placement gate, the newest first; researchers see those of their jobs."""
        return do.placements(who, job=job, limit=limit)

    @router.post("/jobs/{job}/start")
    def job_start(job: Annotated[int, Path(ge=1, le=2**31)], who: Who, do: Do) -> JobStart:
        """Whether a start that Slurm is about to make is called off; asked by PrologSlurmctld, as SlurmUser."""
        return do.job_start(who, job)

    @router.get("/jobs/{job}/why")
    def job_why(job: Annotated[int, Path(ge=1, le=2**31)], who: Who, do: Do) -> JobWhy:
        """Why a job waits, or where it runs and why there; researchers ask about their own."""
        return do.job_why(who, job)

    @router.post("/defrag/plan")
    def defrag_plan(request: DefragTerms, who: Who, do: Do) -> DefragPlan:
        """The fewest moves of running jobs that make room for a job of whole nodes. Administrators."""
        return do.defrag_plan(who, request)

    @router.post("/defrag/apply")
    def defrag_apply(request: DefragApply, who: Who, do: Do) -> DefragApplied:
        """Carry out a plan that still holds: its jobs are requeued. Administrators."""
        return do.defrag_apply(who, request)

    @router.get("/audit")
    def audit(
        who: Who,
        do: Do,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
        subject: Annotated[str | None, Query(max_length=200)] = None,
    ) -> list[AuditView]:
        """The audit trail, the newest first. Administrators."""
        return do.audit(who, limit=limit, subject=subject)

    router.include_router(health_routes(identity, wiring.operations))
    return router
