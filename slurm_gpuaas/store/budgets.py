"""Budgets as the store's metered use has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from slurm_gpuaas.domain.budgets import Budget
from slurm_gpuaas.domain.jobs import Job
from slurm_gpuaas.domain.names import ClusterName, ProjectName
from slurm_gpuaas.domain.policy import Policy
from slurm_gpuaas.store.repository import Store


def read_budgets(
    store: Store, policy: Policy, cluster: ClusterName, at: datetime, *, jobs: Iterable[Job] = ()
) -> Mapping[ProjectName, Budget]:
    """The budget of each project that has one in force on the cluster.

    Args:
        store: metered up to about `at`.
        jobs: what slurmctld holds; without them nothing is committed.
    """
    return store.known_budgets.read(
        policy,
        cluster,
        at,
        sums=lambda moments: store.usage_sums(cluster, moments),
        running=lambda: store.usage(running=True),
        jobs=jobs,
    )
