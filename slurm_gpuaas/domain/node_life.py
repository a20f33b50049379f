"""What bounds automatic action on nodes: nodes that take small jobs only."""

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


def smallest(limits: Iterable[NodeLimit]) -> Mapping[NodeName, NodeLimit]:
    """The limit that holds, of each limited node."""
    found: dict[NodeName, NodeLimit] = {}
    for limit in limits:
        if limit.node not in found or limit.largest_job < found[limit.node].largest_job:
            found[limit.node] = limit
    return found
