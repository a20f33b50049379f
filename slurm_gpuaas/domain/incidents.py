"""Hardware events, the incidents they become, and the life that a node leads through them.

`docs/design/0019-life-of-a-node.md` draws the life cycle; `health/lifecycle.py` holds its rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.names import GpuModel, NodeName

EARLIEST_EVENT: Final = datetime(2000, 1, 1, tzinfo=UTC)
LATEST_EVENT: Final = datetime(2100, 1, 1, tzinfo=UTC)
"""Bounds of the moment an event may claim; every database we know keeps what lies between."""


class EventSource(StrEnum):
    NVML = "nvml"
    KERNEL_LOG = "kernel-log"
    CHECK = "check"


class EventKind(StrEnum):
    XID = "xid"
    SXID = "sxid"
    FALLEN = "fallen"
    CHECK = "check"
    """What a health check found; `check` names it, `code` is 0."""


class CheckStatus(StrEnum):
    """A check's answer, in the order of the exit codes of Nagios plugins (0 to 3)."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"
    UNKNOWN = "unknown"


class Drain(StrEnum):
    """What an event asks for."""

    NO = "no"
    WHEN_IDLE = "when_idle"
    NOW = "now"
    REVIEW = "review"


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
    serial: str | None = Field(default=None, max_length=64, description="Of the GPU: it follows the card.")
    uuid: str | None = Field(default=None, max_length=64)
    product: GpuModel | None = Field(default=None, description="What the codes mean differs by product.")
    driver_version: str | None = Field(default=None, max_length=40)
    check: str | None = Field(default=None, max_length=60, description="Name of the check that found it.")
    status: CheckStatus | None = Field(default=None, description="A check's answer.")
    drain: Drain | None = Field(default=None, description="What a check asks for.")
    evidence: str = Field(default="", max_length=2_000, description="The line or NVML reading it came from.")
    boot_id: str = Field(default="", max_length=64, description="Kernel boot id of the node when it happened.")
    recovery_action: str | None = Field(
        default=None, max_length=64, description="What the driver asks for, in XID 154's words; None when not known."
    )


class IncidentState(StrEnum):
    """How far an incident has come; but for the last, that is also where its node is in its life."""

    SUSPECT = "suspect"
    """Something asks for attention; the node is in service."""
    DRAINING = "draining"
    DRAINED = "drained"
    REPAIRING = "repairing"
    VERIFYING = "verifying"
    PROBATION = "probation"
    """Back in service for small jobs."""
    RMA = "rma"
    """Out of service until its part is replaced."""
    CLOSED = "closed"


OPEN_STATES: Final = tuple(state for state in IncidentState if state is not IncidentState.CLOSED)

IN_SERVICE: Final = "in service"
"""Stage of a node without an open incident."""

_WORST_FIRST: Final = (
    IncidentState.RMA,
    IncidentState.REPAIRING,
    IncidentState.VERIFYING,
    IncidentState.DRAINED,
    IncidentState.DRAINING,
    IncidentState.PROBATION,
    IncidentState.SUSPECT,
)


class Remedy(StrEnum):
    """Rungs of the repair ladder."""

    RESET = "reset"
    """Reset of the GPUs."""
    REBOOT = "reboot"
    REPLACE = "replace"
    """A part or the whole host, by people: a ticket."""


class RepairOutcome(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class RepairAttempt(BaseModel):
    """One rung of the ladder as it was tried."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    remedy: Remedy
    begun_at: AwareDatetime
    ended_at: AwareDatetime | None = None
    outcome: RepairOutcome = RepairOutcome.RUNNING
    detail: str = Field(default="", max_length=500)


class Verification(BaseModel):
    """Tests of a node before its return, run as Slurm jobs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tests: tuple[str, ...]
    jobs: tuple[JobId, ...] = ()
    said: dict[str, str] = Field(default={}, description="Tests that have ended: `passed` or `skipped itself`.")
    begun_at: AwareDatetime
    ended_at: AwareDatetime | None = None
    passed: bool | None = None
    detail: str = Field(default="", max_length=500)


class Incident(BaseModel):
    """One fault of one node from its first event to its end: what was seen, which rule decided, what was done.

    `id` is in the drain reason (`gpuaas:<id>: ...`), so it is short and has no spaces or colons.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$")
    node: NodeName
    state: IncidentState
    drain: Drain
    fault_class: str = Field(default="unknown", max_length=20, description="Of the event that decided.")
    rule: str = Field(max_length=500, description="What decided.")
    headline: str = Field(max_length=500, description="Short evidence, as in the drain reason.")
    opened_at: datetime
    updated_at: datetime
    closed_at: datetime | None = None
    event_ids: tuple[str, ...] = ()
    serials: tuple[str, ...] = Field(default=(), description="GPUs that its events name, by serial number.")
    requeued_jobs: tuple[int, ...] = ()
    attempts: tuple[RepairAttempt, ...] = ()
    verification: Verification | None = Field(default=None, description="The last one.")
    acknowledged_by: str | None = Field(default=None, max_length=100)
    held_by: str | None = Field(
        default=None, max_length=100, description="Person who took the node over; nothing is done by itself then."
    )
    unproven_since: datetime | None = Field(
        default=None,
        description="When its node was drained, while slurmctld could still lose that; None when it is on its disk.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One step of an incident and so of its node's life. `before` is None for the first."""

    incident: str
    node: NodeName
    at: datetime
    before: IncidentState | None
    after: IncidentState
    cause: str
    actor: str


def stage(open_incidents: Iterable[Incident]) -> str:
    """Where a node is in its life, by its incidents: the worst of their states, or `in service`."""
    states = {incident.state for incident in open_incidents}
    return next((state.value for state in _WORST_FIRST if state in states), IN_SERVICE)


TRANSITIONS: Final[Mapping[IncidentState, frozenset[IncidentState]]] = MappingProxyType(
    {
        IncidentState.SUSPECT: frozenset({IncidentState.DRAINING, IncidentState.CLOSED}),
        IncidentState.DRAINING: frozenset({IncidentState.DRAINED, IncidentState.CLOSED}),
        IncidentState.DRAINED: frozenset(
            {
                IncidentState.DRAINING,
                IncidentState.REPAIRING,
                IncidentState.VERIFYING,
                IncidentState.RMA,
                IncidentState.CLOSED,
            }
        ),
        IncidentState.REPAIRING: frozenset(
            {IncidentState.DRAINED, IncidentState.VERIFYING, IncidentState.RMA, IncidentState.CLOSED}
        ),
        IncidentState.VERIFYING: frozenset(
            {IncidentState.DRAINED, IncidentState.PROBATION, IncidentState.RMA, IncidentState.CLOSED}
        ),
        IncidentState.PROBATION: frozenset({IncidentState.DRAINING, IncidentState.CLOSED}),
        IncidentState.RMA: frozenset({IncidentState.REPAIRING, IncidentState.VERIFYING, IncidentState.CLOSED}),
        IncidentState.CLOSED: frozenset(),
    }
)
"""What may follow what. A person may close an incident at any time; back to `drained` means the next rung, or a drain
that Slurm had lost (`draining`)."""
