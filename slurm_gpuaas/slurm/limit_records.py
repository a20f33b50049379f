"""Limits as Slurm holds them, and what is in use against them, as values.

`Kind` has sacctmgr's names. A limit is found by its kind and the TRES it is of; counts and times are of `WHOLE`, since
they are of no TRES. What is absent is not limited; 0 allows nothing. Sizes are counts, times are whole minutes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from slurm_gpuaas.domain.names import AccountName, PartitionName, QosName, UserName
from slurm_gpuaas.slurm.records import NO_TRES, Tres

WHOLE: Final = ""
"""The TRES of limits that are of none: jobs, submitted jobs, wall time."""


class Kind(StrEnum):
    """What a limit bounds. Grp: all jobs of its holder together. PA, PU: of an account, of a user, in a QOS."""

    GRP_TRES = "GrpTRES"
    GRP_TRES_MINS = "GrpTRESMins"
    GRP_TRES_RUN_MINS = "GrpTRESRunMins"
    GRP_JOBS = "GrpJobs"
    GRP_SUBMIT = "GrpSubmitJobs"
    GRP_WALL = "GrpWall"
    MAX_TRES = "MaxTRES"
    MAX_TRES_NODE = "MaxTRESPerNode"
    MAX_TRES_MINS = "MaxTRESMins"
    MAX_WALL = "MaxWall"
    MAX_JOBS = "MaxJobs"
    MAX_SUBMIT = "MaxSubmitJobs"
    MIN_TRES = "MinTRES"
    MAX_TRES_PA = "MaxTRESPA"
    MAX_TRES_PU = "MaxTRESPU"
    MAX_RUN_MINS_PA = "MaxTRESRunMinsPA"
    MAX_RUN_MINS_PU = "MaxTRESRunMinsPU"
    MAX_JOBS_PA = "MaxJobsPA"
    MAX_JOBS_PU = "MaxJobsPU"
    MAX_SUBMIT_PA = "MaxSubmitJobsPA"
    MAX_SUBMIT_PU = "MaxSubmitJobsPU"


Limits = Mapping[Kind, Tres]
NO_LIMITS: Limits = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class InUse:
    """What counts against limits now: of running jobs `tres`, `run_minutes` (kept for them until their time limits) and
    `jobs`; of all that ran `minutes` and `wall`; `submitted` are running and waiting jobs."""

    tres: Tres = field(default_factory=lambda: NO_TRES)
    minutes: Tres = field(default_factory=lambda: NO_TRES)
    run_minutes: Tres = field(default_factory=lambda: NO_TRES)
    jobs: int = 0
    submitted: int = 0
    wall: int = 0


NOTHING: Final = InUse()


@dataclass(frozen=True, slots=True, kw_only=True)
class QosLimits:
    """`flags` as the REST API spells them. `limit_factor` multiplies sizes that associations allow; None = no factor.
    `by_account` and `by_user` are what jobs of one account, of one user, use in this QOS."""

    name: QosName
    flags: frozenset[str] = frozenset()
    usage_factor: float = 1.0
    limit_factor: float | None = None
    limits: Limits = field(default_factory=lambda: NO_LIMITS)
    in_use: InUse = NOTHING
    by_account: Mapping[AccountName, InUse] = field(default_factory=dict)
    by_user: Mapping[UserName, InUse] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociationLimits:
    """An account (`user` None) or a user in an account, for one partition or (None) for all.

    Slurm hands limits for each job (Max...) down to associations that have none of their own; they stand in each.
    """

    account: AccountName
    user: UserName | None = None
    partition: PartitionName | None = None
    parent: AccountName | None = None
    limits: Limits = field(default_factory=lambda: NO_LIMITS)
    in_use: InUse = NOTHING

    def __str__(self) -> str:
        where = f"account {self.account}" if self.user is None else f"user {self.user} in {self.account}"
        return where if self.partition is None else f"{where} (partition {self.partition})"


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionLimits:
    """`allow_qos` and `allow_accounts` empty: all. Times are minutes, None unlimited (`default_time`: none set)."""

    name: PartitionName
    qos: QosName | None = None
    allow_qos: frozenset[QosName] = frozenset()
    deny_qos: frozenset[QosName] = frozenset()
    allow_accounts: frozenset[AccountName] = frozenset()
    deny_accounts: frozenset[AccountName] = frozenset()
    max_time: int | None = None
    default_time: int | None = None
    min_nodes: int = 0
    max_nodes: int | None = None
    total_nodes: int = 0
    nodes: str = ""
    billing_weights: Mapping[str, float] = field(default_factory=dict)
    """Of TRES names; empty: a job's CPUs are billed."""
    up: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """A user's association, with the accounts above it (nearest first, without root) and the QOS it may use."""

    user: UserName
    account: AccountName
    partition: PartitionName | None
    above: tuple[AccountName, ...]
    qos: frozenset[QosName]
    default_qos: QosName | None
    is_default: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitState:
    """What slurmctld judges jobs by, read in one go.

    `safe`: AccountingStorageEnforce has safe, so that a job must be payable to its end. `refuses`: EnforcePartLimits
    is on, so that what a partition does not allow is refused at submit. `priority_flags` (PriorityFlags) tell how
    weighted TRES become a job's billing.
    """

    associations: Mapping[tuple[AccountName, UserName | None, PartitionName | None], AssociationLimits]
    qos: Mapping[QosName, QosLimits]
    partitions: Mapping[PartitionName, PartitionLimits]
    safe: bool
    refuses: bool
    priority_flags: frozenset[str]
    tres: tuple[str, ...]
    """Names of all TRES, in Slurm's order, in which it looks at limits."""
