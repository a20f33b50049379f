"""Requests and answers of gpuaasd's HTTP API v1 (`docs/reference/api.md`).

Requests forbid unknown fields. Answers may gain fields within v1; a client ignores those it does not know. Times are
UTC, GPU quantities are whole GPUs, use is GPU-seconds.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from slurm_gpuaas.domain.capacity import Level
from slurm_gpuaas.domain.incidents import Drain, EventKind, EventSource, IncidentState
from slurm_gpuaas.domain.jobs import JobId, PlacementOutcome
from slurm_gpuaas.domain.names import (
    GpuModel,
    GrantName,
    NodeName,
    OrganisationName,
    PartitionName,
    PoolName,
    ProjectName,
    ShareName,
    SiteName,
    UserName,
)
from slurm_gpuaas.domain.policy import PolicyDocument, Role
from slurm_gpuaas.domain.recoveries import RecoveryState

API = "/api/v1"


class Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


# -- Errors ------------------------------------------------------------------------------------------------------------


class Fault(Answer):
    """One wrong field of a request."""

    field: str
    message: str


class Problem(Answer):
    """RFC 9457 problem details. `exit_code` is what `gpuaas` exits with."""

    type: str
    title: str
    status: int
    detail: str
    way_out: str = ""
    exit_code: int = 1
    faults: tuple[Fault, ...] = ()


# -- Who and what ------------------------------------------------------------------------------------------------------


class Membership(Answer):
    project: ProjectName
    role: Role


class WhoAmI(Answer):
    uid: int
    user: str
    administrator: bool
    memberships: tuple[Membership, ...]


class ControllerStatus(Answer):
    name: str
    last_tick: datetime | None
    last_seconds: float
    ticks: int
    errors: int
    failures: int = Field(description="Failures in a row until now; 0 = the last tick went well.")
    last_error: str


class AgentStatus(Answer):
    node: NodeName
    seen_at: datetime
    silent: bool = Field(description="Not heard of for longer than agents.silent_after.")


class DriverStatus(Answer):
    """Which way to slurmctld is in use."""

    name: str
    fallback: bool = Field(description="The preferred driver failed and another one serves.")
    reason: str = Field(description="Why the fallback serves; empty when none does.")


class PortalStatus(Answer):
    """The portal as this site knows it. What it said last holds, however long ago that was."""

    url: str
    site: SiteName
    heard_at: datetime | None = Field(description="When it last answered; null = never.")
    skew_seconds: float = Field(description="How far its clock is ahead of this host's.")
    revision: int = Field(description="Of its documents that are here; 0 = none yet.")
    received_at: datetime | None
    taken: int = Field(description="Documents of it that are in force.")
    left_out: tuple[str, ...] = Field(description="What of it is not, and why; for administrators.")
    usage_waits: bool = Field(description="There is usage that it has not acknowledged.")


class Status(Answer):
    version: str
    cluster: str
    leader: bool
    started_at: datetime
    slurm_version: str = Field(description="Empty while slurmctld does not answer.")
    driver: DriverStatus
    read_at: datetime | None = Field(description="When nodes were last read from Slurm.")
    controllers: tuple[ControllerStatus, ...]
    agents: tuple[AgentStatus, ...]
    portal: PortalStatus | None = Field(default=None, description="null = this cluster is no site of a pool.")


# -- Policy ------------------------------------------------------------------------------------------------------------


class PolicyDocuments(Request):
    """A whole policy: what is not in it is not part of the policy any more."""

    documents: tuple[PolicyDocument, ...] = Field(max_length=200_000)
    expected_revision: int | None = Field(
        default=None, ge=0, description="Refuse (409) unless this is the revision of the policy that holds."
    )


class Policy(Answer):
    """The policy that holds; `revision` 0 is the empty policy of a new store."""

    revision: int
    applied_at: datetime | None
    actor: str
    documents: tuple[PolicyDocument, ...] = Field(description="The site's own.")
    from_portal: tuple[PolicyDocument, ...] = Field(default=(), description="In force beside them.")
    left_out: tuple[str, ...] = Field(default=(), description="What of the portal's is not in force, and why.")


class PlanRequest(Request):
    """Absent documents: compare Slurm with the policy that holds now."""

    documents: tuple[PolicyDocument, ...] | None = Field(default=None, max_length=200_000)


class Action(StrEnum):
    CREATE = "create"
    CHANGE = "change"
    DELETE = "delete"


class FieldChange(Answer):
    """Absent = not set."""

    field: str
    before: str | None
    after: str | None


class Change(Answer):
    action: Action
    kind: str
    name: str
    fields: tuple[FieldChange, ...] = ()
    changed_by: str = Field(default="", description="Who made Slurm differ by hand, where Slurm's transactions tell.")
    changed_at: datetime | None = Field(default=None, description="When that was.")
    from_portal: bool = Field(default=False, description="A document of the portal's, not of the site's own.")


class PolicyPlan(Answer):
    """What would change: in the declared policy, and in Slurm."""

    policy: tuple[Change, ...]
    slurm: tuple[Change, ...]
    conflicts: tuple[str, ...] = Field(default=(), description="Why nothing can be written until a person decides.")
    deferred: tuple[str, ...] = Field(default=(), description="What waits until jobs that still use it have ended.")
    warnings: tuple[str, ...] = ()
    revision: int = Field(default=0, description="Of the policy that the plan was made against.")

    @property
    def pending(self) -> bool:
        """Something would be written, or must be and cannot."""
        return bool(self.policy or self.slurm or self.conflicts)


class PolicyApplied(Answer):
    """What was done. `plan` is empty when everything was right already."""

    plan: PolicyPlan


# -- Projects, usage ---------------------------------------------------------------------------------------------------


class GrantView(Answer):
    name: GrantName
    pool: PoolName
    share: ShareName
    partition: PartitionName
    model: GpuModel
    gpus: int
    borrow_limit: int | None
    starts_at: datetime
    ends_at: datetime
    active: bool


class BudgetView(Answer):
    """GPU-seconds. `committed` is what running jobs may still use until their time limits."""

    budget: int
    used: int
    committed: int


class ProjectView(Answer):
    name: ProjectName
    organisation: OrganisationName
    title: str
    members: tuple[UserName, ...]
    grants: tuple[GrantView, ...]
    guaranteed_gpus: int = Field(description="Of active grants.")
    in_use_guaranteed: int
    in_use_burst: int
    pending_jobs: int
    budget: BudgetView | None


class TenantShare(Answer):
    """Where a project, or an organisation with all its projects, stands in a share. All in GPUs."""

    name: str
    organisation: OrganisationName
    project: ProjectName | None = Field(description="null for the organisation's sum.")
    guaranteed: int
    honoured: int = Field(description="Of `guaranteed`, what can be kept with the nodes that are in service.")
    fair_share: int = Field(description="What it should have now, bounded by what it has running and asks for.")
    in_use: int
    borrowed: int = Field(description="In use beyond the guarantee.")
    lent: int = Field(description="Of the guarantee, idle and used by others.")
    may_borrow: int = Field(description="What it could start as burst right now, without anybody giving way.")


class QuotaShare(Answer):
    """A share of a pool with its tenants, seen now."""

    pool: PoolName
    share: ShareName
    partition: PartitionName
    model: GpuModel
    capacity: int = Field(description="GPUs of nodes in service, and of others as far as jobs still run there.")
    tenants: tuple[TenantShare, ...]


class BudgetSide(Answer):
    """One side of a budget in the period in force: GPU-seconds, or whole Won. `left` includes grace."""

    awarded: int = Field(description="What the grants give; use, carry-over and grace never change it.")
    carried: int = Field(description="Left over by the period before, as far as the rule lets it.")
    grace: int
    used: int
    committed: int = Field(description="What running jobs may still use until their time limits.")
    left: int


class BudgetStatus(Answer):
    """A side that is null has no limit."""

    project: ProjectName
    period_start: datetime
    period_end: datetime = Field(description="First moment after it.")
    gpu_seconds: BudgetSide | None
    won: BudgetSide | None
    used_gpu_seconds: int = Field(description="In the period, also where that side has no limit.")
    used_won: int
    written_gpu_minutes: int | None = Field(
        description="Limit in Slurm (GrpTRESMins), which counts from the account's first day; null = no limit."
    )
    startable_gpu_minutes: int | None = Field(description="Largest GPUs x minutes that a new job may ask for.")
    used_percent: float = Field(description="Of awarded and carried; of the fuller side.")
    warning: int | None = Field(description="Highest of 50, 80 and 95 that it has reached.")
    runs_dry: datetime | None = Field(description="At the pace of the last seven days; null = not in this period.")


class UsageRow(Answer):
    """GPU-seconds of one group of runs. What `keys` hold is what was asked for in `by`.

    Won are exact sums that are rounded down once, here.
    """

    keys: dict[str, str]
    runs: int
    guaranteed: int
    burst: int
    guaranteed_won: int
    burst_won: int
    unpriced: int = Field(description="GPU-seconds of a model that had no rate; no Won are reckoned for them.")
    preempted: int = Field(description="Part whose run was preempted.")
    node_failed: int = Field(description="Part whose run ended with its node.")


class Usage(Answer):
    start: datetime
    end: datetime
    rows: tuple[UsageRow, ...]


# -- How busy GPUs were ------------------------------------------------------------------------------------------------


class GpuUse(Answer):
    """GPU-minutes: `known` + `unknown` are all. Missing samples are unknown, never idle."""

    known: int = Field(description="With at least one sample.")
    idle: int = Field(description="Known and below `idle_below_percent`.")
    unknown: int
    shared: int = Field(default=0, description="Part of the unknown: on nodes that the run shared with others.")
    busy_percent: float | None = Field(description="Mean over all known samples.")


class GpuUseRow(GpuUse):
    """One GPU of a node, one node of a job, or one job of a project. What a GPU alone has is null elsewhere."""

    name: str
    serial: str | None = None
    memory_percent: float | None = Field(default=None, description="Mean.")
    power_watts: float | None = Field(default=None, description="Mean.")
    temperature_celsius: float | None = Field(default=None, description="Highest.")
    processes: int | None = Field(default=None, description="Highest.")


class GpuUsage(Answer):
    """`curve` is the mean of `busy_percent` in equal parts of the time, null where nothing is known."""

    start: datetime
    end: datetime
    idle_below_percent: float
    total: GpuUse
    curve: tuple[float | None, ...]
    rows: tuple[GpuUseRow, ...]
    left_out: int = Field(default=0, description="Rows with fewer idle GPU-minutes than those shown.")


# -- Which limit applies -----------------------------------------------------------------------------------------------


class LimitBite(Answer):
    """A limit that stops the job."""

    level: str = Field(description="partition QOS, QOS, user, account or partition.")
    holder: str
    kind: str = Field(description="As sacctmgr calls it; empty for what a partition does not allow.")
    tres: str = Field(description="Empty for counts of jobs and for times.")
    limit: int = Field(description="Times in minutes.")
    in_use: int | None = Field(description="None: each job is held to it alone.")
    asked: int
    reason: str = Field(description="Slurm's word.")


class LimitHidden(Answer):
    """A limit that is set and does not hold for the job."""

    level: str
    holder: str
    kind: str
    tres: str
    limit: int
    why: str


class QuotaSide(Answer):
    """The job in one QOS."""

    qos: str
    outcome: str = Field(description="start, wait or refuse.")
    reason: str = Field(description="What squeue prints, or sbatch when it refuses; empty when it starts.")
    bites: tuple[LimitBite, ...] = Field(description="The limit of that reason first, then what stops the job next.")
    hidden: tuple[LimitHidden, ...]
    unjudged: tuple[str, ...] = Field(description="Limits of TRES that are not evaluated.")
    largest: int = Field(description="Most GPUs, up to those asked for, that limits would let start now.")
    preempts: bool = Field(description="It starts on GPUs of preemptible jobs.")


class QuotaExplanation(Answer):
    user: UserName
    project: ProjectName
    partition: PartitionName
    gpus: int
    model: GpuModel | None
    nodes: int
    minutes: int | None
    sides: tuple[QuotaSide, ...] = Field(description="The QOS asked for, or the user's default, first.")


class QuotaFinding(Answer):
    """Something that keeps limits in Slurm from doing what the policy relies on."""

    fault: str = Field(description="missing, loose, hidden, ceiling or overcommitted.")
    where: str
    what: str
    way_out: str


# -- Nodes, incidents --------------------------------------------------------------------------------------------------


class DrainOwner(StrEnum):
    GPUAAS = "gpuaas"
    PERSON = "person"


class NodeView(Answer):
    name: NodeName
    state: str = Field(description="Slurm's base state and flags, e.g. `idle+drain`.")
    partitions: tuple[PartitionName, ...]
    model: GpuModel | None
    gpus: int
    gpus_allocated: int
    reason: str
    drain_owner: DrainOwner | None
    incident: str | None = Field(description="Open incident of the node.")
    agent_seen_at: datetime | None


class NodeDrain(Request):
    reason: str = Field(min_length=3, max_length=200, description="For people; gpuaas never undoes this drain.")


class EventView(Answer):
    event_id: str
    kind: EventKind
    code: int
    source: EventSource
    seen_at: datetime
    pci: str | None
    gpu: int | None
    serial: str | None
    evidence: str


class IncidentView(Answer):
    id: str
    node: NodeName
    state: IncidentState
    drain: Drain
    headline: str
    rule: str = Field(description="What decided.")
    opened_at: datetime
    updated_at: datetime
    closed_at: datetime | None
    requeued_jobs: tuple[int, ...]
    acknowledged_by: str | None = None
    held_by: str | None = Field(default=None, description="Person who took it over: nothing is done by itself.")


class IncidentClose(Request):
    reason: str = Field(default="", max_length=500)


# -- Capacity ----------------------------------------------------------------------------------------------------------


class CapacityLevel(Answer):
    """The most whole nodes that one job could get now within one domain of a level."""

    level: Level
    domain: str = Field(description="The first such domain; empty for the fabric, or when nothing is free.")
    nodes: int
    gpus: int


class SizeCount(Answer):
    """`count` things have exactly so many free."""

    size: int
    count: int


class CapacityPoint(Answer):
    """What was kept of one moment; sizes in whole nodes."""

    at: datetime
    nodes: int
    free_nodes: int
    free_gpus: int
    largest_leaf_group: int
    largest_pod: int
    largest_fabric: int
    compact: int
    idle_leaf_groups: int
    fragmentation: float
    excess_leaf_groups: int


class CapacityView(Answer):
    """A partition now, as far as nodes go: a project's limits may allow less."""

    partition: PartitionName
    nodes: int = Field(description="In service.")
    free_nodes: int = Field(description="That a job of whole nodes could have now.")
    free_gpus: int = Field(description="With those on partly used nodes.")
    largest: tuple[CapacityLevel, ...] = Field(description="Per level, from the bottom.")
    compact: int = Field(
        description="Largest of 1, 2, 4, ... nodes that get as few leaf groups as on the empty partition."
    )
    segments: tuple[SizeCount, ...] = Field(description="Leaf groups with so many free nodes.")
    leaf_groups: int
    idle_leaf_groups: int = Field(description="All of whose nodes in service are free.")
    gpus_on_nodes: tuple[SizeCount, ...] = Field(description="Nodes with so many free GPUs.")
    fragmentation: float = Field(description="Share of free nodes in leaf groups that are partly used, 0 to 1.")
    excess_leaf_groups: int = Field(description="That running jobs use above what their sizes need.")
    spread_jobs: int = Field(description="Running jobs that use more than that.")
    history: tuple[CapacityPoint, ...] = Field(default=(), description="Where `since` was asked; oldest first.")


# -- Spares ------------------------------------------------------------------------------------------------------------


class SpareView(Answer):
    node: NodeName
    place: str = Field(description="Pod and leaf group, e.g. `pod-1/leaf-02`.")
    ready: bool = Field(description="Could take a broken node's place now: nothing but preemptible jobs runs on it.")
    jobs: tuple[int, ...]


class SparePool(Answer):
    partition: PartitionName
    asked: int = Field(description="By configuration, or by measured failures.")
    wanted: int = Field(description="Of these, as many as grants leave.")
    ready: int
    thin: bool = Field(description="Fewer are ready than asked for.")
    why: str
    nodes: tuple[SpareView, ...]


class RecoveryView(Answer):
    job: int
    user: str
    incident: str
    state: RecoveryState
    lost: tuple[NodeName, ...]
    kept: tuple[NodeName, ...]
    spares: tuple[NodeName, ...] = Field(description="In place of the lost ones.")
    begun_at: datetime
    ended_at: datetime | None
    why: str


class SparesView(Answer):
    pools: tuple[SparePool, ...]
    recoveries: tuple[RecoveryView, ...] = Field(description="Of the last 28 days, the newest first.")


# -- Topology ----------------------------------------------------------------------------------------------------------


class TopologyForm(StrEnum):
    FABRIC = "fabric.json"
    YAML = "topology.yaml"


class TopologyRequest(Request):
    """The topology that Slurm shall plan with."""

    text: str | None = Field(
        default=None, max_length=16_000_000, description="Absent: what the file said before its last change."
    )
    form: TopologyForm = Field(default=TopologyForm.FABRIC, description="Of the text.")
    plugin: Literal["tree", "block", "both"] | None = Field(
        default=None, description="What a fabric.json is written for; absent: what plans now."
    )
    digest: str | None = Field(
        default=None, max_length=64, description="Of the plan that was shown: 409 if it is another one by now."
    )


class TopologyMove(Answer):
    """Nodes that go from one leaf switch or block to another."""

    nodes: str = Field(description="Folded node list.")
    before: str
    after: str


class TopologyPlan(Answer):
    """How Slurm gets there, or got there. All empty: it plans so already."""

    file: str
    digest: str = Field(description="Of the plan and the file's new text; to apply this and nothing else.")
    write: bool = Field(description="The file says something else.")
    moves: tuple[TopologyMove, ...]
    reconfigure: bool = Field(description="slurmctld reads its files again; without it, moves are dynamic updates.")
    changes: tuple[str, ...] = Field(description="What changes beside the places of nodes.")
    warnings: tuple[str, ...] = Field(description="What is odd and does no harm.")
    jobs: tuple[int, ...] = Field(description="Jobs that run on nodes that move; they go on.")

    @property
    def pending(self) -> bool:
        return self.write or bool(self.moves) or self.reconfigure


# -- Placements, audit -------------------------------------------------------------------------------------------------


class PlacementView(Answer):
    """One decision of the placement gate about one run of a job."""

    job: int
    restarts: int
    decided_at: datetime
    outcome: PlacementOutcome
    nodes: str = Field(description="Folded node list; empty when Slurm was left to place the job.")
    leaf_groups: int
    cost: float
    runner_up_cost: float | None
    reason: str


class JobStart(Answer):
    """What is to become of a start that Slurm is about to make."""

    call_off: bool = Field(description="Queue the job again: it waits for better nodes.")


class JobRoom(Answer):
    """Room for a waiting job on the nodes of its partition, as far as nodes and GPUs go."""

    whole: bool = Field(description="It takes whole nodes.")
    nodes: int = Field(description="That it needs.")
    gpus_per_node: int
    free: int = Field(description="Nodes that have as much for it now.")
    missing: int
    enough_at: datetime | None = Field(
        description="When there are enough by time limits, if nobody goes before it; null when these do not tell."
    )


class JobWhy(Answer):
    """Why a job waits, or where it runs and why there."""

    job: int
    user: UserName
    state: str
    reason: str = Field(description="Slurm's word.")
    partition: PartitionName
    gpus: int
    nodes: str = Field(description="Folded node list; empty while it waits.")
    says: tuple[str, ...] = Field(description="Sentences for people.")
    way_out: str
    placement: PlacementView | None = Field(description="The placement gate's latest decision about it.")
    room: JobRoom | None = Field(description="Only while it waits, and where it asks for GPUs.")
    largest: tuple[CapacityLevel, ...] = Field(description="Largest job that could start in its partition now.")
    quota: QuotaExplanation | None = Field(description="Where a limit holds it.")


# -- Making room -------------------------------------------------------------------------------------------------------


class DefragTerms(Request):
    """Room for a job of `count` whole nodes, and who may be moved for it."""

    count: int = Field(ge=1, le=1_000_000)
    partition: PartitionName | None = Field(default=None, description="By default the only one of the policy.")
    level: Level = Field(default=Level.FABRIC, description="One such domain must hold it all.")
    guaranteed: bool = Field(default=False, description="Guaranteed jobs may be moved too.")
    min_left_minutes: int = Field(
        default=30, ge=0, le=1_000_000, description="A job whose time limit ends sooner is not moved."
    )


class FabricSpan(Answer):
    pods: int
    leaf_groups: int


class DefragMove(Answer):
    """One job that is requeued, and the nodes it goes to."""

    job: JobId
    user: str
    account: str
    restarts: int
    gpus: int
    nodes: str
    to: str
    leaf_groups_before: int
    leaf_groups_after: int
    lost_gpu_seconds: int = Field(description="Of its whole run: at most so much, less what it has checkpointed.")
    why: str = Field(description="Why it may be moved.")


class Staying(Answer):
    why: str
    jobs: int


class DefragPlan(Answer):
    """The fewest moves that make the room and leave no job on more leaf groups than it stands on (spread); among those
    the least that is lost."""

    partition: PartitionName
    count: int
    reason: str = Field(description="Why no moves make the room; empty when they do.")
    room: str = Field(description="Node list that is free for the job afterwards.")
    span: FabricSpan | None = Field(description="What the room stands on; null without one.")
    ideal: FabricSpan | None = Field(description="What it could stand on, were every usable node free.")
    now: FabricSpan | None = Field(description="What the job could get without moves; null where it does not fit.")
    moves: tuple[DefragMove, ...] = Field(description="In the order in which they are made.")
    bound: int = Field(description="No plan has fewer moves, be jobs spread or not.")
    gap: int = Field(description="Moves above the bound; 0 = proven the fewest of all plans.")
    unspread_bound: int | None = Field(
        description="No plan that spreads no job has fewer moves; null where these were not searched for apart."
    )
    lost_gpu_seconds: int
    lost_bound: int = Field(
        description="No plan with as many moves loses less; of those that spread no job, where `unspread_bound` is set."
    )
    staying: tuple[Staying, ...] = Field(description="Running jobs that may not be moved, by why.")


class DefragOrder(Request):
    """A move as it was planned: the job must still run on `nodes`, and have restarted as often."""

    job: JobId
    restarts: int = Field(ge=0, le=2**31)
    nodes: str = Field(min_length=1, max_length=100_000)
    to: str = Field(min_length=1, max_length=100_000)


class DefragApply(DefragTerms):
    """A plan to carry out, with the terms that it was made on; refused (409) unless it still holds."""

    room: str = Field(min_length=1, max_length=100_000)
    moves: tuple[DefragOrder, ...] = Field(min_length=1, max_length=10_000)


class DefragApplied(Answer):
    jobs: tuple[JobId, ...] = Field(description="Requeued; the placement gate puts them on their new nodes.")


class AuditView(Answer):
    at: datetime
    actor: str
    action: str
    subject: str
    reason: str
    evidence: dict[str, str | int | float | bool | None]
