"""Jobs as Slurm's controller reports them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NewType

from slurm_gpuaas.domain.names import AccountName, ClusterName, GpuModel, NodeName, PartitionName, QosName, UserName

JobId = NewType("JobId", int)


class JobState(StrEnum):
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUSPENDED = "SUSPENDED"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"
    FAILED = "FAILED"
    TIMEOUT = "TIMEOUT"
    NODE_FAIL = "NODE_FAIL"
    PREEMPTED = "PREEMPTED"
    BOOT_FAIL = "BOOT_FAIL"
    DEADLINE = "DEADLINE"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"

    @property
    def ended(self) -> bool:
        return self not in {JobState.PENDING, JobState.RUNNING, JobState.SUSPENDED}


class ServiceClass(StrEnum):
    """How a job holds its GPUs for its whole run: guaranteed ones, or borrowed ones that may be taken back."""

    GUARANTEED = "guaranteed"
    BURST = "burst"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job (or one array task). `nodes` is empty while pending; `reason` is Slurm's word, e.g. `Licenses`; `requeue`
    says whether Slurm would requeue it: never an interactive one, whatever it was submitted with."""

    id: JobId
    name: str
    user: UserName
    account: AccountName
    qos: QosName
    partition: PartitionName
    state: JobState
    reason: str
    nodes: tuple[NodeName, ...]
    node_count: int
    gpus: int
    model: GpuModel | None
    licenses: str
    priority: int
    submitted: datetime
    eligible: datetime | None
    started: datetime | None
    time_limit: timedelta | None
    requeue: bool
    restarts: int
    admin_comment: str = ""
    array_job_id: JobId | None = None
    required_nodes: tuple[NodeName, ...] = ()
    reservation: str = ""
    excluded_nodes: tuple[NodeName, ...] = ()
    features: str = ""
    """What its user asks of nodes (`--constraint`)."""
    comment: str = ""
    """Its user's own words (`--comment`)."""
    exit_code: int = 0
    """Of its batch script, once it has ended."""

    @property
    def chooses(self) -> bool:
        """Whether its user has a say in which nodes it gets."""
        return bool(self.required_nodes or self.excluded_nodes or self.features or self.reservation)


class PlacementOutcome(StrEnum):
    """What the placement gate did with a job."""

    PINNED = "pinned"
    OPENED = "opened"
    """Let go without nodes of its own: Slurm places it."""
    WAITING = "waiting"
    """Waits for a better place, with nodes that are kept for it until a moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPlacement:
    """One decision of the placement gate about one run of a job (`restarts` counts requeues).

    `leaf_groups` and `cost` are those of `nodes`; `runner_up_cost` is the best rejected set's, None without one.
    """

    cluster: ClusterName
    job_id: JobId
    restarts: int
    decided_at: datetime
    outcome: PlacementOutcome
    nodes: tuple[NodeName, ...] = ()
    leaf_groups: int = 0
    cost: float = 0.0
    runner_up_cost: float | None = None
    reason: str = ""
