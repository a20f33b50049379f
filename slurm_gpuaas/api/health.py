"""Requests and answers about hardware health: incidents in full, a node's history, lemons, RMA cases."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from slurm_gpuaas.api.models import Answer, EventView, IncidentView, Request
from slurm_gpuaas.domain.incidents import IncidentState, RepairAttempt, Verification
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.node_life import LimitKind
from slurm_gpuaas.domain.outages import OutageCause
from slurm_gpuaas.domain.rma import RmaState


class StepView(Answer):
    """One step of an incident, and so of its node's life."""

    incident: str
    at: datetime
    before: IncidentState | None
    after: IncidentState
    cause: str
    actor: str


class IncidentEvent(EventView):
    jobs: tuple[int, ...] = Field(description="That ran on the node when the report came.")


class IncidentDetail(IncidentView):
    fault_class: str
    serials: tuple[str, ...] = Field(description="GPUs that its events name.")
    attempts: tuple[RepairAttempt, ...]
    verification: Verification | None
    steps: tuple[StepView, ...] = Field(description="Oldest first.")
    events: tuple[IncidentEvent, ...]


class IncidentAck(Request):
    note: str = Field(default="", max_length=500, description="For the audit trail.")


class LimitView(Answer):
    node: NodeName
    kind: LimitKind
    largest_job: int = Field(description="Nodes of the largest job that gets this node.")
    why: str
    since: datetime


class LimitRequest(Request):
    largest_job: int = Field(ge=1, le=100_000)
    reason: str = Field(min_length=3, max_length=400)


class LemonView(Answer):
    """Meta's signals by their names (arXiv 2410.21680), over 28 days; the score is ours."""

    node: NodeName
    score: float = Field(description="0 to 100.")
    lemon: bool
    why: tuple[str, ...]
    excl_jobid_count: int
    xid_cnt: int
    tickets: int
    out_count: int
    multi_node_node_fails: int
    single_node_node_fails: int
    single_node_runs: int | None
    single_node_node_failure_rate: float | None
    limit: LimitView | None


class OutageView(Answer):
    since: datetime
    until: datetime | None
    cause: OutageCause
    reason: str


class CardFault(Answer):
    """An incident that names a card, wherever the card sat then."""

    incident: str
    node: NodeName
    at: datetime
    headline: str


class CardView(Answer):
    serial: str
    index: int
    pci: str
    first_seen: datetime
    last_seen: datetime
    sits: bool = Field(description="It is the last card that was seen in its slot.")
    faults: tuple[CardFault, ...]


class DoneByHand(Answer):
    at: datetime
    actor: str
    action: str
    reason: str


class NodeHistory(Answer):
    node: NodeName
    stage: str = Field(description="Of its life: `in service`, or the state of its worst open incident.")
    limit: LimitView | None
    lemon: LemonView | None = Field(description="Null: nothing speaks against the node.")
    incidents: tuple[IncidentView, ...] = Field(description="Newest first.")
    steps: tuple[StepView, ...] = Field(description="Oldest first.")
    outages: tuple[OutageView, ...] = Field(description="Oldest first, as far as they were watched.")
    by_hand: tuple[DoneByHand, ...] = Field(description="Drains, resumes and limits by people; newest first.")
    cards: tuple[CardView, ...]


class RmaNoteView(Answer):
    at: datetime
    actor: str
    state: RmaState
    text: str


class RmaView(Answer):
    id: str
    node: NodeName
    serial: str | None
    incident: str | None
    state: RmaState
    opened_at: datetime
    updated_at: datetime
    vendor_case: str
    new_serial: str
    notes: tuple[RmaNoteView, ...]


class RmaDetail(RmaView):
    ticket: str = Field(description="Text for the manufacturer.")


class RmaOpen(Request):
    node: NodeName
    serial: str | None = Field(default=None, min_length=1, max_length=64)
    incident: str | None = Field(default=None, max_length=40)
    reason: str = Field(min_length=3, max_length=500)


class RmaUpdate(Request):
    state: RmaState | None = None
    note: str = Field(default="", max_length=1_000)
    vendor_case: str | None = Field(default=None, max_length=60)
    new_serial: str | None = Field(default=None, max_length=64)
