"""Which Slurm objects a policy means. Pure: policy, cluster and moment in, accounting objects and partitions out.

The encoding and the measurements behind it are in docs/design/0002-quota-encoding.md. In short: accounts carry the tree
and the budget, each project has a QOS of its own whose GrpTRES is its guarantee, borrowing goes through a few shared
preemptible QOS, and a partition admits exactly the QOS of its projects.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.names import AccountName, ClusterName, GpuModel, PartitionName, ProjectName, QosName, UserName
from slurm_gpuaas.domain.policy import Policy, fold_nodes
from slurm_gpuaas.quota.entitlement import Entitlement, entitlements
from slurm_gpuaas.slurm.records import Account, AccountingState, PartitionSpec, Qos, Tres, UserAssociation

OWNED: Final = "gpuaas:"
"""Descriptions of our accounts and QOS start with it. What lacks it belongs to somebody else."""
ROOT: Final = "root"
"""Slurm's own top account, and the administrators'."""
GPU: Final = "gres/gpu"
MINUTE: Final = timedelta(minutes=1)
CLOSED: Final = QosName("closed")
"""Lets nothing start. A partition without a grant in force admits it alone (an empty AllowQos admits all), and members
who cannot be removed yet have nothing else."""
ADMINISTRATORS: Final = PartitionName("all")
"""Every node, for the account root alone. The include file keeps it, so that administrators can test any node."""

GUARANTEED_PRIORITY: Final = 1_000
BURST_PRIORITY: Final = 1
BURST_GRACE: Final = timedelta(seconds=20)
"""Between the signal and the end of a preempted job: time to write a checkpoint."""
MOST_BURST_QOS: Final = 32
"""Every guaranteed QOS names every burst QOS: bounded, so that this grows with projects and not with their square."""

NO_BUDGETS: Final[Mapping[ProjectName, int | None]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    accounting: AccountingState
    partitions: tuple[PartitionSpec, ...]


def wanted(
    policy: Policy,
    cluster: ClusterName,
    moment: datetime,
    *,
    written_minutes: Mapping[ProjectName, int | None] = NO_BUDGETS,
) -> Wanted:
    """Everything that should stand in Slurm for this policy at this moment.

    Args:
        written_minutes: limit of GPU-minutes of each project with a budget (`domain.budgets.Budget.written_minutes`).

    Raises:
        InvalidInput: two objects would need one Slurm name, or there are too many distinct borrow limits.
    """
    entitled = entitlements(policy, cluster, moment)
    if ROOT in {one.name for one in entitled}:
        raise InvalidInput(f"A project is named {ROOT}, which is Slurm's own account.", way_out="Rename it.")
    burst = _burst_qos(entitled)
    return Wanted(
        accounting=AccountingState(
            accounts=_accounts(entitled, written_minutes),
            users=frozenset(member.user for one in entitled for member in policy.members_of(one.name)),
            associations=_associations(policy, entitled),
            qos={qos.name: qos for qos in (*burst, *(_guaranteed_qos(one, burst) for one in entitled), _CLOSED_QOS)},
        ),
        partitions=_partitions(policy, cluster, entitled),
    )


def guaranteed_qos(project: ProjectName) -> QosName:
    return QosName(f"guaranteed-{project}")


def burst_qos(limit: int | None) -> QosName:
    return QosName("burst-unlimited" if limit is None else f"burst-{limit}")


def default_projects(policy: Policy, entitled: Iterable[Entitlement]) -> Mapping[UserName, ProjectName]:
    """The project of a user's jobs that name none: the first with a grant in force, else the first."""
    first: dict[UserName, ProjectName] = {}
    for one in sorted(entitled, key=lambda one: (not one.active, one.name)):
        for member in policy.members_of(one.name):
            first.setdefault(member.user, one.name)
    return first


# -- Accounts ----------------------------------------------------------------------------------------------------------


def _accounts(
    entitled: tuple[Entitlement, ...], written_minutes: Mapping[ProjectName, int | None]
) -> Mapping[AccountName, Account]:
    """Share, organisation, project: parents before children."""
    shares: dict[str, Account] = {}
    organisations: dict[str, Account] = {}
    projects = []
    for one in entitled:
        share = AccountName(f"{one.pool.name}-{one.share.name}")
        organisation = AccountName(f"{share}-{one.project.organisation}")
        where = f"{one.pool.name}/{one.share.name}"
        shares[where] = Account(
            name=share, parent=None, description=f"{OWNED}share:{where}", organization=one.pool.name
        )
        organisations[f"{where}/{one.project.organisation}"] = Account(
            name=organisation,
            parent=share,
            description=f"{OWNED}organisation:{where}/{one.project.organisation}",
            organization=one.project.organisation,
        )
        minutes = written_minutes.get(one.name)
        projects.append(
            Account(
                name=AccountName(one.name),
                parent=organisation,
                description=f"{OWNED}project:{one.name}",
                organization=one.project.organisation,
                grp_tres_mins={} if minutes is None else {GPU: minutes},
            )
        )
    accounts: dict[AccountName, Account] = {}
    for account in (*shares.values(), *organisations.values(), *projects):
        other = accounts.setdefault(account.name, account)
        if other is not account:
            raise InvalidInput(
                f"Two things need the Slurm account {account.name}: {other.description.removeprefix(OWNED)} "
                f"and {account.description.removeprefix(OWNED)}.",
                way_out="Rename one of them.",
            )
    return accounts


def _associations(
    policy: Policy, entitled: tuple[Entitlement, ...]
) -> Mapping[tuple[UserName, AccountName], UserAssociation]:
    defaults = default_projects(policy, entitled)
    associations = {}
    for one in entitled:
        own = guaranteed_qos(one.name)
        qos = frozenset({own, burst_qos(one.borrow_limit)} if one.may_borrow else {own})
        for member in policy.members_of(one.name):
            account = AccountName(one.name)
            associations[member.user, account] = UserAssociation(
                user=member.user,
                account=account,
                qos=qos,
                default_qos=own,
                is_default=defaults[member.user] == one.name,
            )
    return associations


# -- QOS ---------------------------------------------------------------------------------------------------------------

_CLOSED_QOS: Final = Qos(name=CLOSED, description=f"{OWNED}closed", grp_tres={GPU: 0})


def _guaranteed_qos(one: Entitlement, burst: Iterable[Qos]) -> Qos:
    return Qos(
        name=guaranteed_qos(one.name),
        description=f"{OWNED}guaranteed:{one.name}",
        priority=GUARANTEED_PRIORITY,
        grp_tres=_gpus(one.gpus, one.pool.model),
        max_tres_per_job={} if one.max_gpus_per_job is None else _gpus(one.max_gpus_per_job, one.pool.model),
        # Slurm counts whole minutes.
        max_wall=None if one.max_time is None else max(one.max_time // MINUTE, 1) * MINUTE,
        preempt=frozenset(qos.name for qos in burst),
    )


def _burst_qos(entitled: Iterable[Entitlement]) -> list[Qos]:
    limits = {one.borrow_limit for one in entitled if one.may_borrow}
    if len(limits) > MOST_BURST_QOS:
        raise InvalidInput(
            f"The grants in force have {len(limits)} distinct borrow limits; a cluster takes {MOST_BURST_QOS}.",
            way_out="Round borrow_limit, e.g. to whole nodes.",
        )
    return [
        Qos(
            name=burst_qos(limit),
            description=f"{OWNED}burst:{'unlimited' if limit is None else limit}",
            priority=BURST_PRIORITY,
            # Untyped: it also counts typed requests, and projects of every model share this QOS.
            max_tres_per_account={} if limit is None else {GPU: limit},
            preempt_mode=frozenset({"REQUEUE"}),
            grace=BURST_GRACE,
        )
        for limit in sorted(limits, key=lambda limit: (limit is None, limit))
    ]


def _gpus(count: int, model: GpuModel) -> Tres:
    """Both names: Slurm does not hold a request for plain `gpu` to a typed limit."""
    return {GPU: count, f"{GPU}:{model}": count}


# -- Partitions --------------------------------------------------------------------------------------------------------


def _partitions(policy: Policy, cluster: ClusterName, entitled: tuple[Entitlement, ...]) -> tuple[PartitionSpec, ...]:
    admitted: dict[PartitionName, set[QosName]] = defaultdict(set)
    for one in entitled:
        if one.active:
            admitted[one.partition].add(guaranteed_qos(one.name))
        if one.may_borrow:
            admitted[one.partition].add(burst_qos(one.borrow_limit))
    specs = [
        PartitionSpec(
            name=pool.partition_of(share.name),
            nodes=fold_nodes(share.node_names),
            allow_qos=tuple(sorted(admitted[pool.partition_of(share.name)])) or (CLOSED,),
            max_time=pool.max_time,
        )
        for pool in policy.pools
        if pool.cluster == cluster
        for share in pool.shares
    ]
    if ADMINISTRATORS in {spec.name for spec in specs}:
        raise InvalidInput(
            f"A share's partition is named {ADMINISTRATORS}, which is the administrators'.",
            way_out="Give the share another `partition`.",
        )
    return tuple(sorted(specs, key=lambda spec: spec.name))
