"""Hardware events and the incidents they become."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from slurm_gpuaas.domain.names import NodeName

EARLIEST_EVENT: Final = datetime(2000, 1, 1, tzinfo=UTC)
LATEST_EVENT: Final = datetime(2100, 1, 1, tzinfo=UTC)
"""Bounds of the moment an event may claim; every database we know keeps what lies between."""


class EventSource(StrEnum):
    NVML = "nvml"
    KERNEL_LOG = "kernel-log"


class EventKind(StrEnum):
    XID = "xid"
    SXID = "sxid"
    FALLEN = "fallen"


class NodeEvent(BaseModel):
    """One hardware event as an agent reports it. `event_id` is deterministic (node, boot, source, sequence), so that a
    report that arrives twice is one event."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    event_id: str = Field(max_length=200)
    node: NodeName
    kind: EventKind
    code: int = Field(ge=0, le=1_000_000)
    source: EventSource
    seen_at: AwareDatetime = Field(ge=EARLIEST_EVENT, le=LATEST_EVENT)
    pci: str | None = Field(default=None, max_length=20, description="`dddd:bb:dd`, lower case, no function.")
    gpu: int | None = Field(default=None, ge=0, le=255, description="NVML index on the node.")
    serial: str | None = Field(default=None, max_length=64)
    evidence: str = Field(default="", max_length=2_000, description="The line or NVML reading it came from.")
    boot_id: str = Field(default="", max_length=64, description="Kernel boot id of the node when it happened.")
    recovery_action: str | None = Field(
        default=None, max_length=64, description="What the driver asks for, in XID 154's words; None when not known."
    )


class IncidentState(StrEnum):
    """Life of an incident; issue-5 states (verifying, probation, RMA) extend it."""

    OPEN = "open"
    DRAINING = "draining"
    DRAINED = "drained"
    CLOSED = "closed"


class Drain(StrEnum):
    """What an event asks for."""

    NO = "no"
    WHEN_IDLE = "when_idle"
    NOW = "now"
    REVIEW = "review"


class Incident(BaseModel):
    """One fault of one node from its first event to its end: what was seen, which rule decided, what was done.

    `id` is in the drain reason (`gpuaas:<id>: ...`), so it is short and has no spaces or colons.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$")
    node: NodeName
    state: IncidentState
    drain: Drain
    rule: str = Field(max_length=500, description="What decided.")
    headline: str = Field(max_length=500, description="Short evidence, as in the drain reason.")
    opened_at: datetime
    updated_at: datetime
    closed_at: datetime | None = None
    event_ids: tuple[str, ...] = ()
    requeued_jobs: tuple[int, ...] = ()
    unproven_since: datetime | None = Field(
        default=None,
        description="When its node was drained, while slurmctld could still lose that; None when it is on its disk.",
    )
