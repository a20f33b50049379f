"""What guarantees may count on when nodes are out of service, and who is shorted when that is too little. Pure.

Spare nodes stand in for lost ones first: what a share can promise changes only when more nodes are lost than it has
spares. Then guarantees are shorted in whole servers: the lowest priority first, equal ones in proportion (`honoured`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from slurm_gpuaas.domain.names import NodeName, OrganisationName, PartitionName, PoolName, ProjectName, ShareName
from slurm_gpuaas.domain.policy import Policy, Pool, Share
from slurm_gpuaas.quota.desired import NOTHING_SHORT
from slurm_gpuaas.quota.entitlement import Entitlement
from slurm_gpuaas.quota.tree import Tenant, TenantName, Tree, honoured


def organisation_tenant(name: OrganisationName) -> TenantName:
    return TenantName(f"organisation:{name}")


def tree_of(policy: Policy, entitled: Iterable[Entitlement], kept: Mapping[ProjectName, int] = NOTHING_SHORT) -> Tree:
    """The tenants of a share: organisations, which guarantee nothing of their own, above projects.

    Args:
        kept: of guarantees that cannot be kept in full.
    """
    entitled = tuple(entitled)
    organisations = {one.project.organisation for one in entitled}
    return Tree.of(
        [
            *(
                Tenant(
                    name=organisation_tenant(organisation.name),
                    weight=Fraction(organisation.weight),
                    priority=organisation.priority,
                )
                for organisation in policy.organisations
                if organisation.name in organisations
            ),
            *(
                Tenant(
                    name=TenantName(one.name),
                    parent=organisation_tenant(one.project.organisation),
                    guaranteed=kept.get(one.name, one.gpus),
                    borrow_limit=one.borrow_limit if one.active else 0,
                    lend_limit=one.lend_limit,
                    weight=Fraction(one.weight),
                    priority=one.priority,
                )
                for one in entitled
            ),
        ]
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortGuarantee:
    """A project's guarantee that cannot be kept in full, all in GPUs. `capacity` is what the share can promise now."""

    pool: PoolName
    share: ShareName
    project: ProjectName
    guaranteed: int
    honoured: int
    capacity: int


def promisable(pool: Pool, share: Share, lost: Collection[NodeName]) -> int:
    """GPUs that guarantees of the share may count on: nodes that are not lost, less the spares that are left."""
    there = len(share.node_names)
    healthy = sum(name not in lost for name in share.node_names)
    return max(0, min(healthy, there - share.spares)) * pool.gpus_per_node


def shorted(policy: Policy, entitled: Iterable[Entitlement], lost: Collection[NodeName]) -> tuple[ShortGuarantee, ...]:
    """Who is shorted while those nodes are lost, by project; nobody while every guarantee can be kept."""
    by_partition: dict[PartitionName, list[Entitlement]] = defaultdict(list)
    for one in entitled:
        by_partition[one.partition].append(one)
    found: list[ShortGuarantee] = []
    for here in by_partition.values():
        pool, share = here[0].pool, here[0].share
        capacity = promisable(pool, share, lost)
        if sum(one.gpus for one in here) <= capacity:
            continue
        _, short = honoured(tree_of(policy, here), capacity, unit=pool.gpus_per_node)
        kept: Mapping[TenantName, int] = {one.tenant: one.honoured for one in short}
        found += (
            ShortGuarantee(
                pool=pool.name,
                share=share.name,
                project=one.name,
                guaranteed=one.gpus,
                honoured=kept[TenantName(one.name)],
                capacity=capacity,
            )
            for one in here
            if TenantName(one.name) in kept
        )
    return tuple(sorted(found, key=lambda one: one.project))
