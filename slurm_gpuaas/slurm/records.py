"""Slurm's accounting objects and the changes we make to controller objects, as values.

Limits keep three things apart: a TRES that is absent from a mapping has no limit; 0 allows nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final

from slurm_gpuaas.domain.names import AccountName, NodeName, PartitionName, QosName, UserName

Tres = Mapping[str, int]
"""TRES name (`gres/gpu`, `gres/gpu:b200`, `node`) to count."""

NO_TRES: Tres = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A Slurm account with the association of the account itself (its place in the tree and its limits).

    `parent=None` is directly below Slurm's own `root`, which is itself never read or written.
    """

    name: AccountName
    parent: AccountName | None
    description: str
    organization: str
    grp_tres: Tres = field(default_factory=lambda: NO_TRES)
    grp_tres_mins: Tres = field(default_factory=lambda: NO_TRES)
    fairshare: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class UserAssociation:
    """A user's association with an account. `qos` are the QOS the user may use there, at least one.

    A user has exactly one default account as soon as there is any association; Slurm picks the first made unless one
    says `is_default`.
    """

    user: UserName
    account: AccountName
    qos: frozenset[QosName]
    default_qos: QosName | None = None
    is_default: bool = False
    fairshare: int = 1


QOS_FLAGS: Final = frozenset(
    {
        "DENY_LIMIT",
        "ENFORCE_USAGE_THRESHOLD",
        "NO_DECAY",
        "NO_RESERVE",
        "OVERRIDE_PARTITION_QOS",
        "PARTITION_MAXIMUM_NODE",
        "PARTITION_MINIMUM_NODE",
        "PARTITION_TIME_LIMIT",
        "REQUIRED_RESERVATION",
        "USAGE_FACTOR_SAFE",
    }
)
"""Flags of a QOS, spelt as the REST API does (`DENY_LIMIT` is sacctmgr's DenyOnLimit)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Qos:
    """`preempt_mode` are REST words (`REQUEUE`, `CANCEL`, ...); empty means the cluster's own. `max_wall` is in whole
    minutes, `grace` and `preempt_exempt` in whole seconds."""

    name: QosName
    description: str
    priority: int = 0
    grp_tres: Tres = field(default_factory=lambda: NO_TRES)
    max_tres_per_job: Tres = field(default_factory=lambda: NO_TRES)
    max_tres_per_account: Tres = field(default_factory=lambda: NO_TRES)
    max_wall: timedelta | None = None
    preempt: frozenset[QosName] = frozenset()
    preempt_mode: frozenset[str] = frozenset()
    flags: frozenset[str] = frozenset()
    grace: timedelta = timedelta(0)
    preempt_exempt: timedelta = timedelta(0)
    """A running job is not preempted before it ran so long (PreemptExemptTime)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountingState:
    """Everything of one cluster's accounting that we may own: read in one go, compared, written as a difference.

    The rest is what must outlive us: `unmanaged` are associations that we never write, below root or for one partition
    only; slurmdbd may serve other clusters, which share users and accounts by name: `abroad` are the users who have
    associations there, `accounts_abroad` the accounts that only they have. `administrators` are the users with an
    AdminLevel (operators too).
    """

    accounts: Mapping[AccountName, Account] = field(default_factory=dict)
    users: frozenset[UserName] = frozenset()
    associations: Mapping[tuple[UserName, AccountName], UserAssociation] = field(default_factory=dict)
    qos: Mapping[QosName, Qos] = field(default_factory=dict)
    administrators: frozenset[UserName] = frozenset()
    unmanaged: Mapping[tuple[UserName, AccountName], UserAssociation] = field(default_factory=dict)
    abroad: frozenset[UserName] = frozenset()
    accounts_abroad: Mapping[AccountName, Account] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """A change of accounting objects as slurmdbd noted it. `number` grows; `action` is Slurm's, e.g. `Modify QOS`.

    `accounts` and `users` are those of the associations it changed, `names` of QOS, accounts or users: empty where
    Slurm notes numbers only.
    """

    number: int
    at: datetime
    actor: str
    action: str
    accounts: frozenset[str] = frozenset()
    users: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionSpec:
    """A partition that we own: what its line in the generated include file says."""

    name: PartitionName
    nodes: str
    allow_qos: tuple[QosName, ...]
    max_time: timedelta
    default: bool = False
    topology: str | None = None
    billing_weights: str = ""
    """TRESBillingWeights: what a job's `billing` counts; empty = Slurm's own, its CPUs."""


@dataclass(frozen=True, slots=True, order=True)
class TopologyUnit:
    """A leaf switch or block of one of slurmctld's topologies."""

    topology: str
    unit: str

    def __str__(self) -> str:
        """As scontrol takes it."""
        return f"{self.topology}:{self.unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobChange:
    """One update of a job; what is None stays as it is. All of it reaches slurmctld in one message.

    Args:
        unhold: Slurm works out the priority of a held job again, as `scontrol release` has it do.
    """

    required_nodes: tuple[NodeName, ...] | None = None
    excluded_nodes: tuple[NodeName, ...] | None = None
    licenses: str | None = None
    reservation: str | None = None
    start_time: datetime | None = None
    priority: int | None = None
    admin_comment: str | None = None
    qos: QosName | None = None
    unhold: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """`qos` may use it, of Slurm 25.11 on. No API of theirs tells it (scontrol alone does): what is read has none, and
    writing none leaves it as it is."""

    name: str
    start: datetime
    duration: timedelta
    users: tuple[str, ...]
    nodes: str = ""
    licenses: str = ""
    flags: frozenset[str] = frozenset()
    qos: tuple[QosName, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountingJob:
    """One run of one job in slurmdbd. `gpus` are allocated GPUs; times are UTC; `ended` is None while it runs."""

    job_id: int
    name: str
    user: str
    account: str
    qos: str
    partition: str
    cluster: str
    state: str
    submitted: datetime
    started: datetime | None
    ended: datetime | None
    nodes: str
    tres_alloc: Tres = field(default_factory=lambda: NO_TRES)
