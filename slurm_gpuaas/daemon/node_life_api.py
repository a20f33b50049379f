"""Routes about what acts on nodes by itself: holding and releasing incidents, verification, the circuit breaker."""

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Request

from slurm_gpuaas.api.health import IncidentDetail
from slurm_gpuaas.api.node_life import Because, BreakerReset, BreakerView
from slurm_gpuaas.daemon.health_views import incident_detail
from slurm_gpuaas.daemon.identity import Identity
from slurm_gpuaas.daemon.operations import Operations, administrators_only


def add_node_life(
    router: APIRouter, identity: Callable[[Request], Identity], operations: Callable[[], Operations]
) -> None:
    Who = Annotated[Identity, Depends(identity)]
    Do = Annotated[Operations, Depends(operations)]

    @router.post("/incidents/{incident}/hold")
    def hold_incident(incident: str, request: Because, who: Who, do: Do) -> IncidentDetail:
        """Take an incident over: nothing is done for it by itself any more. Administrators."""
        administrators_only(who, "hold incidents")
        do.node_life.health.hold(incident, actor=who.user, reason=request.reason)
        return incident_detail(do, who, incident)

    @router.post("/incidents/{incident}/release")
    def release_incident(incident: str, request: Because, who: Who, do: Do) -> IncidentDetail:
        """Hand an incident back to the daemon. Administrators."""
        administrators_only(who, "release incidents")
        do.node_life.health.release(incident, actor=who.user, reason=request.reason)
        do.node_life.wake.set()
        return incident_detail(do, who, incident)

    @router.post("/incidents/{incident}/verify")
    def verify_incident(incident: str, request: Because, who: Who, do: Do) -> IncidentDetail:
        """Say that a drained node, or one sent for repair, is mended: it is tested and goes back. Administrators."""
        administrators_only(who, "have nodes verified")
        do.node_life.life.verify(incident, actor=who.user, reason=request.reason)
        do.node_life.wake.set()
        return incident_detail(do, who, incident)

    @router.get("/health/breaker")
    def breaker(who: Who, do: Do) -> list[BreakerView]:
        """Circuit breakers that have tripped; empty = none. Administrators."""
        administrators_only(who, "see the circuit breaker")
        return _tripped(do)

    @router.post("/health/breaker/reset")
    def reset_breaker(request: BreakerReset, who: Who, do: Do) -> list[BreakerView]:
        """Let what acts on nodes go on; gives what is tripped still. Administrators."""
        administrators_only(who, "reset the circuit breaker")
        do.node_life.breaker.reset(request.scope, actor=who.user, reason=request.reason)
        do.node_life.wake.set()
        return _tripped(do)


def _tripped(do: Operations) -> list[BreakerView]:
    return [BreakerView(scope=trip.scope, at=trip.at, why=trip.why) for trip in do.node_life.breaker.trips()]
