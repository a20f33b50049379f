"""What people are told of by themselves, and whether they were."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from slurm_gpuaas.domain.names import NodeName


class AlertKind(StrEnum):
    INCIDENT = "incident"
    """A node was, or is to be, taken out of service."""
    BREAKER = "breaker"
    """It has tripped: nothing acts on nodes by itself there."""
    SPARES = "spares"
    """Fewer spares than the policy keeps."""
    REPAIR = "repair"
    """A rung of the repair ladder did not help."""
    RMA = "rma"
    AGENTS = "agents"
    """Node agents are silent: faults of their nodes are not seen."""


class Severity(StrEnum):
    WARNING = "warning"
    CRITICAL = "critical"


class Condition(BaseModel):
    """Something that holds now and that people should know. One `key` is one thing, however often it is seen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str = Field(max_length=120)
    kind: AlertKind
    severity: Severity
    summary: str = Field(max_length=500)
    nodes: tuple[NodeName, ...] = ()
    incident: str | None = Field(default=None, max_length=40)
    acknowledged: bool = Field(default=False, description="Somebody looks after it: it is not told again.")


class Told(BaseModel):
    """What one channel was last told of an alert."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: AwareDatetime
    resolved: bool
    nodes: tuple[NodeName, ...] = Field(default=(), description="That it named then.")


class Alert(BaseModel):
    """A condition since it held. `told` is by channel (`webhook`, `mail`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    condition: Condition
    raised_at: AwareDatetime
    resolved_at: AwareDatetime | None = None
    told: Mapping[str, Told] = Field(default_factory=dict)
