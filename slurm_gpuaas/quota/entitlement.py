"""What each project is entitled to on one cluster at one moment: its grants there, added up. Pure.

The policy lets grants of one project overlap only within one share of a cluster, so a project stands in one share at a
time. Without a grant in force it stands where the latest one was, or where the first one will be, entitled to nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TypeVar

from slurm_gpuaas.domain.names import ClusterName, PartitionName, ProjectName
from slurm_gpuaas.domain.policy import Grant, Policy, Pool, Project, Share

Limit = TypeVar("Limit", int, timedelta)


class GrantState(StrEnum):
    ACTIVE = "active"
    EXPIRED = "expired"
    FUTURE = "future"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entitlement:
    """Sum of a project's grants in `share`: those in force, or else the ones that ended last or begin first.

    `gpus` is 0 unless the state is active. Of several grants, limits add up and one without a limit lifts it; the
    largest job, the longest wall time, weight and priority are those of the most generous grant. `starts_at` is when
    what is in force began. Budgets are `domain.budgets`'.
    """

    project: Project
    pool: Pool
    share: Share
    state: GrantState
    gpus: int
    borrow_limit: int | None
    lend_limit: int | None
    weight: int
    priority: int
    max_gpus_per_job: int | None
    max_time: timedelta | None
    starts_at: datetime
    ends_at: datetime

    @property
    def name(self) -> ProjectName:
        return self.project.name

    @property
    def active(self) -> bool:
        return self.state is GrantState.ACTIVE

    @property
    def may_borrow(self) -> bool:
        return self.active and self.borrow_limit != 0

    @property
    def ceiling(self) -> int | None:
        """GPUs in use at most, guaranteed and burst together; None without a bound, 0 without a grant in force."""
        if not self.active:
            return 0
        return None if self.borrow_limit is None else self.gpus + self.borrow_limit

    @property
    def partition(self) -> PartitionName:
        return self.pool.partition_of(self.share.name)


def entitlements(policy: Policy, cluster: ClusterName, moment: datetime) -> tuple[Entitlement, ...]:
    """One for each project with a grant on the cluster, by project name. Linear in projects and grants."""
    found = (_entitlement(policy, project, cluster, moment) for project in policy.projects)
    return tuple(entitlement for entitlement in found if entitlement is not None)


def _entitlement(policy: Policy, project: Project, cluster: ClusterName, moment: datetime) -> Entitlement | None:
    grants = [g for g in policy.grants_of(project.name) if policy.pool_by_name[g.pool].cluster == cluster]
    if not grants:
        return None
    state, counted = _counted(grants, moment)
    pool = policy.pool_by_name[counted[0].pool]
    return Entitlement(
        project=project,
        pool=pool,
        share=pool.share(counted[0].share),
        state=state,
        gpus=sum(grant.gpus for grant in counted) if state is GrantState.ACTIVE else 0,
        borrow_limit=_sum(grant.borrow_limit for grant in counted),
        lend_limit=_sum(grant.lend_limit for grant in counted),
        weight=max(grant.weight for grant in counted),
        priority=max(grant.priority for grant in counted),
        max_gpus_per_job=_most([grant.max_gpus_per_job for grant in counted]),
        max_time=_most([grant.max_time for grant in counted]),
        starts_at=min(grant.starts_at for grant in counted),
        ends_at=max(grant.ends_at for grant in counted),
    )


def _counted(grants: list[Grant], moment: datetime) -> tuple[GrantState, list[Grant]]:
    active = [grant for grant in grants if grant.active_at(moment)]
    if active:
        return GrantState.ACTIVE, active
    ended = [grant for grant in grants if grant.ends_at <= moment]
    if ended:
        return GrantState.EXPIRED, [max(ended, key=lambda grant: (grant.ends, grant.name))]
    return GrantState.FUTURE, [min(grants, key=lambda grant: (grant.starts, grant.name))]


def _sum(limits: Iterable[int | None]) -> int | None:
    total = 0
    for limit in limits:
        if limit is None:
            return None
        total += limit
    return total


def _most(limits: list[Limit | None]) -> Limit | None:
    stated = [limit for limit in limits if limit is not None]
    return max(stated) if len(stated) == len(limits) else None
