"""The client of gpuaasd's HTTP API, over its UNIX socket. Problems come back as the error they were raised as."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx2
from pydantic import BaseModel, TypeAdapter, ValidationError

from slurm_gpuaas.api import DEFAULT_SOCKET
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
from slurm_gpuaas.api.models import (
    API,
    AuditView,
    BudgetStatus,
    CapacityView,
    DefragApplied,
    DefragApply,
    DefragOrder,
    DefragPlan,
    DefragTerms,
    GpuUsage,
    IncidentClose,
    IncidentView,
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
from slurm_gpuaas.api.node_life import Because, BreakerReset, BreakerView
from slurm_gpuaas.domain.errors import Conflict, GpuaasError, InvalidInput, NotFound, Refused, Unavailable
from slurm_gpuaas.domain.faults import faults_of
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.policy import PolicyDocument
from slurm_gpuaas.domain.reports import HealthReport
from slurm_gpuaas.domain.rma import RmaState

A = TypeVar("A", bound=BaseModel)

_ERRORS: Mapping[int, type[GpuaasError]] = {
    401: Refused,
    403: Refused,
    404: NotFound,
    409: Conflict,
    413: InvalidInput,
    422: InvalidInput,
    503: Unavailable,
}
"""HTTP status to the error it was; everything else is a plain `GpuaasError`."""

READ_TIMEOUT_S = 30.0
APPLY_TIMEOUT_S = 600.0


class Client:
    """Blocking; one connection. Use it as a context manager.

    Every method raises the `GpuaasError` that gpuaasd answered with, or `Unavailable` when it cannot be reached.
    """

    def __init__(self, socket: Path = Path(DEFAULT_SOCKET), *, transport: httpx2.BaseTransport | None = None) -> None:
        self._socket = socket
        self._http = httpx2.Client(
            transport=transport or httpx2.HTTPTransport(uds=str(socket)),
            base_url="http://gpuaasd",
            timeout=httpx2.Timeout(READ_TIMEOUT_S, connect=5.0),
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.close()

    def status(self) -> Status:
        return self._get("/status", Status)

    def whoami(self) -> WhoAmI:
        return self._get("/whoami", WhoAmI)

    def policy(self) -> Policy:
        return self._get("/policy", Policy)

    def plan(self, documents: Sequence[PolicyDocument] | None = None) -> PolicyPlan:
        request = _request(PlanRequest, documents=None if documents is None else tuple(documents))
        return self._send("POST", "/policy/plan", PolicyPlan, request, timeout=APPLY_TIMEOUT_S)

    def apply(self, documents: Sequence[PolicyDocument], *, expected_revision: int | None = None) -> PolicyApplied:
        """`expected_revision`: refuse when somebody applied another policy since."""
        request = _request(PolicyDocuments, documents=tuple(documents), expected_revision=expected_revision)
        return self._send("PUT", "/policy", PolicyApplied, request, timeout=APPLY_TIMEOUT_S)

    def quota_shares(self) -> Sequence[QuotaShare]:
        return self._list("/quota/shares", QuotaShare)

    def quota_explain(
        self,
        *,
        user: str | None = None,
        project: str | None = None,
        gpus: int,
        model: str | None = None,
        nodes: int | None = None,
        minutes: int | None = None,
        qos: str | None = None,
    ) -> QuotaExplanation:
        return self._get(
            "/quota/explain",
            QuotaExplanation,
            user=user,
            project=project,
            gpus=gpus,
            model=model,
            nodes=nodes,
            minutes=minutes,
            qos=qos,
        )

    def quota_check(self) -> Sequence[QuotaFinding]:
        return self._list("/quota/check", QuotaFinding)

    def projects(self) -> Sequence[ProjectView]:
        return self._list("/projects", ProjectView)

    def usage(
        self,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        project: str | None = None,
        by: Sequence[str] = (),
    ) -> Usage:
        return self._get("/usage", Usage, start=start, end=end, project=project, by=list(by) or None)

    def gpu_usage(
        self,
        *,
        node: str | None = None,
        job: int | None = None,
        project: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> GpuUsage:
        """Of one of the three. `start` is by default a day ago, or the job's first start."""
        return self._get("/usage/gpu", GpuUsage, node=node, job=job, project=project, start=start, end=end)

    def budgets(self, *, project: str | None = None) -> Sequence[BudgetStatus]:
        return self._list("/budgets", BudgetStatus, project=project)

    def nodes(self) -> Sequence[NodeView]:
        return self._list("/nodes", NodeView)

    def node(self, name: str) -> NodeView:
        return self._get(f"/nodes/{NodeName(name)}", NodeView)

    def drain(self, node: str, reason: str) -> NodeView:
        return self._send("POST", f"/nodes/{NodeName(node)}/drain", NodeView, _request(NodeDrain, reason=reason))

    def resume(self, node: str) -> NodeView:
        return self._send("POST", f"/nodes/{NodeName(node)}/resume", NodeView, None)

    def spares(self) -> SparesView:
        return self._get("/spares", SparesView)

    def capacity(self, *, partition: str | None = None, since: datetime | None = None) -> Sequence[CapacityView]:
        """`since`: with what was kept from then on."""
        return self._list("/capacity", CapacityView, partition=partition, since=since)

    def incidents(self, *, closed: bool = False, node: str | None = None) -> Sequence[IncidentView]:
        return self._list("/incidents", IncidentView, closed=closed or None, node=node)

    def incident(self, incident: str) -> IncidentDetail:
        return self._get(f"/incidents/{_segment(incident)}", IncidentDetail)

    def acknowledge(self, incident: str, note: str) -> IncidentDetail:
        path = f"/incidents/{_segment(incident)}/ack"
        return self._send("POST", path, IncidentDetail, _request(IncidentAck, note=note))

    def node_history(self, node: str) -> NodeHistory:
        return self._get(f"/nodes/{NodeName(node)}/history", NodeHistory)

    def limit_node(self, node: str, largest_job: int, reason: str) -> LimitView:
        request = _request(LimitRequest, largest_job=largest_job, reason=reason)
        return self._send("PUT", f"/nodes/{NodeName(node)}/limit", LimitView, request)

    def lift_limit(self, node: str) -> None:
        self._call("DELETE", f"/nodes/{NodeName(node)}/limit")

    def lemons(self) -> Sequence[LemonView]:
        return self._list("/health/lemons", LemonView)

    def health_report(
        self,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        project: str | None = None,
        checkpoint_s: float | None = None,
        write_s: float | None = None,
        restart_s: float | None = None,
    ) -> HealthReport:
        """Of [start, end), by default the last 30 days; what is left out of checkpoints is assumed."""
        return self._get(
            "/health/report",
            HealthReport,
            start=start,
            end=end,
            project=project,
            checkpoint_s=checkpoint_s,
            write_s=write_s,
            restart_s=restart_s,
        )

    def rma_cases(
        self, *, closed: bool = False, node: str | None = None, serial: str | None = None
    ) -> Sequence[RmaView]:
        return self._list("/rma", RmaView, closed=closed or None, node=node, serial=serial)

    def rma_case(self, case: str) -> RmaDetail:
        return self._get(f"/rma/{_segment(case, 'an RMA case')}", RmaDetail)

    def open_rma(self, node: str, *, serial: str | None, incident: str | None, reason: str) -> RmaDetail:
        request = _request(RmaOpen, node=node, serial=serial, incident=incident, reason=reason)
        return self._send("POST", "/rma", RmaDetail, request)

    def update_rma(
        self,
        case: str,
        *,
        state: RmaState | None = None,
        note: str = "",
        vendor_case: str | None = None,
        new_serial: str | None = None,
    ) -> RmaDetail:
        request = _request(RmaUpdate, state=state, note=note, vendor_case=vendor_case, new_serial=new_serial)
        return self._send("POST", f"/rma/{_segment(case, 'an RMA case')}", RmaDetail, request)

    def close_incident(self, incident: str, reason: str) -> IncidentView:
        path = f"/incidents/{_segment(incident)}/close"
        return self._send("POST", path, IncidentView, _request(IncidentClose, reason=reason))

    def hold_incident(self, incident: str, reason: str) -> IncidentView:
        path = f"/incidents/{_segment(incident)}/hold"
        return self._send("POST", path, IncidentView, _request(Because, reason=reason))

    def release_incident(self, incident: str, reason: str) -> IncidentView:
        path = f"/incidents/{_segment(incident)}/release"
        return self._send("POST", path, IncidentView, _request(Because, reason=reason))

    def verify_incident(self, incident: str, reason: str) -> IncidentView:
        path = f"/incidents/{_segment(incident)}/verify"
        return self._send("POST", path, IncidentView, _request(Because, reason=reason))

    def breakers(self) -> Sequence[BreakerView]:
        return self._list("/health/breaker", BreakerView)

    def reset_breaker(self, scope: str, reason: str) -> Sequence[BreakerView]:
        """What is tripped still."""
        content = _request(BreakerReset, scope=scope, reason=reason).model_dump_json().encode()
        answer = self._call("POST", "/health/breaker/reset", content=content)
        return TypeAdapter(list[BreakerView]).validate_json(answer)

    def plan_topology(self, request: TopologyRequest) -> TopologyPlan:
        return self._send("POST", "/topology/plan", TopologyPlan, request, timeout=APPLY_TIMEOUT_S)

    def apply_topology(self, request: TopologyRequest) -> TopologyPlan:
        return self._send("PUT", "/topology", TopologyPlan, request, timeout=APPLY_TIMEOUT_S)

    def placements(self, *, job: int | None = None, limit: int = 100) -> Sequence[PlacementView]:
        return self._list("/placements", PlacementView, job=job, limit=limit)

    def job_why(self, job: int) -> JobWhy:
        return self._get(f"/jobs/{job}/why", JobWhy)

    def defrag_plan(self, terms: DefragTerms) -> DefragPlan:
        return self._send("POST", "/defrag/plan", DefragPlan, terms)

    def defrag_apply(self, terms: DefragTerms, plan: DefragPlan) -> DefragApplied:
        """Refused when the plan does not hold any more."""
        moves = [move.model_dump(include=set(DefragOrder.model_fields)) for move in plan.moves]
        request = _request(DefragApply, **terms.model_dump(), room=plan.room, moves=moves)
        return self._send("POST", "/defrag/apply", DefragApplied, request, timeout=APPLY_TIMEOUT_S)

    def audit(self, *, limit: int = 100, subject: str | None = None) -> Sequence[AuditView]:
        return self._list("/audit", AuditView, limit=limit, subject=subject)

    def _get(self, path: str, answer: type[A], **query: object) -> A:
        return answer.model_validate_json(self._call("GET", path, query=query))

    def _list(self, path: str, row: type[A], **query: object) -> list[A]:
        return TypeAdapter(list[row]).validate_json(self._call("GET", path, query=query))  # type: ignore[valid-type]

    def _send(
        self, method: str, path: str, answer: type[A], body: BaseModel | None, *, timeout: float = READ_TIMEOUT_S
    ) -> A:
        content = None if body is None else body.model_dump_json().encode()
        return answer.model_validate_json(self._call(method, path, content=content, timeout=timeout))

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        content: bytes | None = None,
        timeout: float = READ_TIMEOUT_S,
    ) -> bytes:
        params: dict[str, Any] = {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in (query or {}).items()
            if value is not None
        }
        try:
            answer = self._http.request(
                method,
                API + path,
                params=params,
                content=content,
                headers={"Content-Type": "application/json"} if content is not None else {},
                timeout=httpx2.Timeout(timeout, connect=5.0),
            )
        except httpx2.TimeoutException:
            raise Unavailable(
                f"gpuaasd did not answer within {timeout:.0f} s.",
                way_out="What was asked may still be carried out; look at `gpuaas status` and ask again.",
            ) from None
        except httpx2.TransportError as error:
            raise Unavailable(
                f"gpuaasd cannot be reached at {self._socket} ({str(error) or type(error).__name__}).",
                way_out="Start it (systemctl start gpuaasd), or name its socket with --socket or GPUAAS_SOCKET.",
            ) from None
        if answer.is_success:
            return answer.content
        raise _error_of(answer)


def _error_of(answer: httpx2.Response) -> GpuaasError:
    try:
        problem = Problem.model_validate_json(answer.content)
    except ValidationError:
        return GpuaasError(
            f"gpuaasd answered {answer.status_code} with something that is no problem document.",
            way_out="Check that the socket is gpuaasd's.",
        )
    return _ERRORS.get(problem.status, GpuaasError)(problem.detail, way_out=problem.way_out)


def _request(kind: type[A], **fields: object) -> A:
    """
    Raises:
        InvalidInput: a field is not as the API wants it.
    """
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, place))}: {what}" for place, what in faults_of(error))
        raise InvalidInput(f"{faults}.", way_out="Correct it; --help tells the limits.") from None


def _segment(name: str, what: str = "an incident") -> str:
    """A name as one segment of a path.

    Raises:
        InvalidInput: it would name another path.
    """
    if name in ("", ".", "..") or "/" in name:
        way_out = f"`gpuaas {'incident' if what == 'an incident' else 'rma'} list` shows them."
        raise InvalidInput(f"{name!r:.60} is not {what}.", way_out=way_out)
    return quote(name, safe="")
