"""What is seen of nodes over time: when they were out of service and whose doing that was, which jobs they ran, who
excludes them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum

from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.names import NodeName, UserName
from slurm_gpuaas.domain.nodes import OWNER_MARK, Node, NodeBase, NodeFlag


class OutageCause(StrEnum):
    FAULT = "fault"
    """We drained it, Slurm did, or it is down."""
    PERSON = "person"
    """A drain whose reason is neither ours nor Slurm's own."""
    PLANNED = "planned"
    """Maintenance, a reboot that was asked for, or powered down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """A node that takes no new job, from `since` to `until` (None: still)."""

    node: NodeName
    since: datetime
    until: datetime | None
    cause: OutageCause
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Exclusion:
    """A job whose user wants it on other nodes than this one."""

    node: NodeName
    job: JobId
    user: UserName
    seen_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCount:
    """Runs of jobs that began on a node on one day (UTC): of jobs on it alone, and of jobs over several nodes."""

    node: NodeName
    day: date
    single: int
    multi: int


SLURMS_OWN_REASONS = (
    "Not responding",
    "Kill task failed",
    "Prolog error",
    "Epilog error",
    "batch job complete failure",
    "Low RealMemory",
    "Low CPUs",
    "Low socket*core",
    "Low TmpDisk",
    "gres/",
    "Node unexpectedly rebooted",
    "Duplicate jobid",
)
"""How reasons begin that slurmctld and slurmd set by themselves (SchedMD/slurm, src/slurmctld, src/slurmd; 26.05)."""


def outage_cause(node: Node, *, mending: bool = False) -> OutageCause | None:
    """Whose doing it is that a node takes no new job; None where it takes them.

    Args:
        mending: an incident of it is being repaired or verified. A reboot for that, or a reservation for tests, is no
            plan of anybody's.
    """
    if node.base is NodeBase.FUTURE or (node.usable and not mending):
        return None
    if node.draining or NodeFlag.FAIL in node.flags:
        owned = node.reason.startswith((OWNER_MARK, *SLURMS_OWN_REASONS))
        return OutageCause.FAULT if owned else OutageCause.PERSON
    if not mending and node.flags & (NodeFlag.MAINTENANCE | NodeFlag.REBOOT | NodeFlag.POWERED_DOWN):
        return OutageCause.PLANNED
    return OutageCause.FAULT
