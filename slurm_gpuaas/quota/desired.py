"""Which Slurm objects a policy means. Pure: policy, cluster and moment in, accounting objects and partitions out.

The encoding and the measurements behind it are in docs/design/0002-quota-encoding.md. In short: accounts carry the
tree, the budget and the ceiling (as `billing`, so that it hides no GPU limit), each project has a QOS of its own whose
GrpTRES is its guarantee, borrowing goes through one preemptible QOS of the share, and a partition admits exactly the
QOS of its projects.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.names import (
    AccountName,
    ClusterName,
    GpuModel,
    PartitionName,
    ProjectName,
    QosName,
    UserName,
)
from slurm_gpuaas.domain.policy import Policy, fold_nodes
from slurm_gpuaas.domain.slurm_accounts import ROOT, burst_qos, guaranteed_qos, organisation_account, share_account
from slurm_gpuaas.quota.entitlement import Entitlement, entitlements
from slurm_gpuaas.slurm.records import Account, AccountingState, PartitionSpec, Qos, Tres, UserAssociation

OWNED: Final = "gpuaas:"
"""Descriptions of our accounts and QOS start with it. What lacks it belongs to somebody else."""
GPU: Final = "gres/gpu"
MINUTE: Final = timedelta(minutes=1)
CLOSED: Final = QosName("closed")
"""Lets nothing start. A partition without a grant in force admits it alone (an empty AllowQos admits all), and members
who cannot be removed yet have nothing else."""
ADMINISTRATORS: Final = PartitionName("all")
"""Every node, so that administrators can test any of them; for jobs of `ADMINISTRATORS_QOS` only."""
ADMINISTRATORS_QOS: Final = QosName("normal")
"""Slurm's own QOS, which no project has. `AllowAccounts=root` would keep nobody out: it lets in all accounts below
root."""

GUARANTEED_PRIORITY: Final = 1_000
BURST_PRIORITY: Final = 1
BILLING: Final = "billing"
BILLING_WEIGHTS: Final = "GRES/gpu=1"
"""On our partitions a job's `billing` is its GPUs, however they were asked for. A limit of this name stands beside
limits of GPUs, where one of the same name would hide them or be hidden."""

FENCE: Final = PartitionSpec(
    name=ADMINISTRATORS,
    nodes="ALL",
    allow_qos=(ADMINISTRATORS_QOS,),
    max_time=timedelta.max,
    billing_weights=BILLING_WEIGHTS,
)
"""Were it open to the QOS of projects, every ceiling would end there."""

NO_BUDGETS: Final[Mapping[ProjectName, int | None]] = MappingProxyType({})
NOTHING_SHORT: Final[Mapping[ProjectName, int]] = MappingProxyType({})


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
    honoured: Mapping[ProjectName, int] = NOTHING_SHORT,
) -> Wanted:
    """Everything that should stand in Slurm for this policy at this moment.

    Args:
        written_minutes: limit of GPU-minutes of each project with a budget (`domain.budgets.Budget.written_minutes`).
        honoured: what is kept of guarantees that cannot be kept in full now.

    Raises:
        InvalidInput: two objects would need one Slurm name.
    """
    entitled = entitlements(policy, cluster, moment)
    if ROOT in {AccountName(one.name) for one in entitled}:
        raise InvalidInput(f"A project is named {ROOT}, which is Slurm's own account.", way_out="Rename it.")
    burst = _burst_qos(entitled)
    guaranteed = [_guaranteed_qos(one, honoured.get(one.name, one.gpus)) for one in entitled]
    return Wanted(
        accounting=AccountingState(
            accounts=_accounts(entitled, written_minutes),
            users=frozenset(member.user for one in entitled for member in policy.members_of(one.name)),
            associations=_associations(policy, entitled),
            qos={qos.name: qos for qos in (*burst, *guaranteed, _CLOSED_QOS)},
        ),
        partitions=_partitions(policy, cluster, entitled),
    )


def burst_of(one: Entitlement) -> QosName:
    return burst_qos(one.pool.name, one.share.name)


def account_chain(one: Entitlement) -> tuple[AccountName, AccountName, AccountName]:
    """Accounts of the project, its organisation in the share, and the share."""
    pool, share = one.pool.name, one.share.name
    organisation = organisation_account(pool, share, one.project.organisation)
    return AccountName(one.name), organisation, share_account(pool, share)


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
        project, organisation, share = account_chain(one)
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
                name=project,
                parent=organisation,
                description=f"{OWNED}project:{one.name}",
                organization=one.project.organisation,
                grp_tres={} if one.ceiling is None else {BILLING: one.ceiling},
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
        qos = frozenset({own, burst_of(one)} if one.may_borrow else {own})
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


def _guaranteed_qos(one: Entitlement, gpus: int) -> Qos:
    return Qos(
        name=guaranteed_qos(one.name),
        description=f"{OWNED}guaranteed:{one.name}",
        priority=GUARANTEED_PRIORITY,
        grp_tres=_gpus(gpus, one.pool.model),
        max_tres_per_job={} if one.max_gpus_per_job is None else _gpus(one.max_gpus_per_job, one.pool.model),
        # Slurm counts whole minutes.
        max_wall=None if one.max_time is None else max(one.max_time // MINUTE, 1) * MINUTE,
        preempt=frozenset({burst_of(one)}),
    )


def _burst_qos(entitled: Iterable[Entitlement]) -> list[Qos]:
    """One for each share that has projects, whether any of them may borrow or not: guaranteed QOS name it."""
    found: dict[QosName, Qos] = {}
    for one in entitled:
        where = f"{one.pool.name}/{one.share.name}"
        qos = Qos(
            name=burst_of(one),
            description=f"{OWNED}burst:{where}",
            priority=BURST_PRIORITY,
            preempt_mode=frozenset({"REQUEUE"}),
            grace=one.pool.grace,
            preempt_exempt=one.pool.min_run,
        )
        if found.setdefault(qos.name, qos) != qos:
            raise InvalidInput(
                f"Two shares need the Slurm QOS {qos.name}: {where} and {found[qos.name].description}.",
                way_out="Rename a pool or a share.",
            )
    return list(found.values())


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
            admitted[one.partition].add(burst_of(one))
    specs = [
        PartitionSpec(
            name=pool.partition_of(share.name),
            nodes=fold_nodes(share.node_names),
            allow_qos=tuple(sorted(admitted[pool.partition_of(share.name)])) or (CLOSED,),
            max_time=pool.max_time,
            billing_weights=BILLING_WEIGHTS,
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
    return tuple(sorted([*specs, FENCE], key=lambda spec: spec.name))
