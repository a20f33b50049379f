"""What bounds automatic action on nodes: the circuit breaker's trips, and nodes that take small jobs only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from slurm_gpuaas.domain.names import NodeName


class LimitKind(StrEnum):
    """Who limits a node; each has its own word on it, and the smallest holds."""

    PROBATION = "probation"
    LEMON = "lemon"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLimit:
    """A node takes no job of more than `largest_job` nodes."""

    node: NodeName
    kind: LimitKind
    largest_job: int
    why: str
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerTrip:
    """The circuit breaker of a scope (`cluster`, or `leaf NAME`) stopped what acts on nodes there.

    Only a person resets it. `why` has the numbers.
    """

    scope: str
    at: datetime
    why: str
    reset_at: datetime | None = None
    reset_by: str = ""
    reset_reason: str = ""


def smallest(limits: Iterable[NodeLimit]) -> Mapping[NodeName, NodeLimit]:
    """The limit that holds, of each limited node."""
    found: dict[NodeName, NodeLimit] = {}
    for limit in limits:
        if limit.node not in found or limit.largest_job < found[limit.node].largest_job:
            found[limit.node] = limit
    return found
