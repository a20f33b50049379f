"""How a site is now, as the portal is told: capacity and health of each share, incidents open and lately closed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from slurm_gpuaas import __version__
from slurm_gpuaas.api.pool_sites import MOST_FINDINGS, Finding, IncidentReport, ShareReport, SiteReport
from slurm_gpuaas.domain.incidents import OPEN_STATES, Incident
from slurm_gpuaas.domain.jobs import Job, JobState, ServiceClass
from slurm_gpuaas.domain.names import ClusterName
from slurm_gpuaas.domain.nodes import Node
from slurm_gpuaas.domain.policy import Policy
from slurm_gpuaas.domain.usage import service_class
from slurm_gpuaas.store import Store

CLOSED_FOR: Final = timedelta(days=7)
"""Incidents that were closed before that are told no more."""


def site_report(
    store: Store,
    cluster: ClusterName,
    *,
    now: datetime,
    slurm_version: str,
    nodes: Sequence[Node],
    jobs: Sequence[Job],
    findings: tuple[Finding, ...],
) -> SiteReport:
    open_ones = store.incidents(states=OPEN_STATES, limit=MOST_FINDINGS)
    recent = store.incidents(since=now - 4 * CLOSED_FOR, limit=MOST_FINDINGS)
    closed = [one for one in recent if one.closed_at is not None and one.closed_at >= now - CLOSED_FOR]
    revision, _ = store.portal.known()
    return SiteReport(
        sent_at=now,
        cluster=cluster,
        version=__version__,
        slurm_version=slurm_version[:40],
        revision=revision,
        shares=shares_of(store.policy(), cluster, now, nodes, jobs),
        incidents=tuple(map(_incident, (*open_ones, *closed)[:MOST_FINDINGS])),
        findings=findings,
    )


def shares_of(
    policy: Policy, cluster: ClusterName, now: datetime, nodes: Sequence[Node], jobs: Sequence[Job]
) -> tuple[ShareReport, ...]:
    """One for each share of the cluster's pools."""
    by_name = {node.name: node for node in nodes}
    granted: Counter[tuple[str, str]] = Counter()
    for grant in policy.grants:
        if grant.active_at(now):
            granted[grant.pool, grant.share] += grant.gpus
    used: Counter[tuple[str, ServiceClass]] = Counter()
    for job in jobs:
        if job.state is JobState.RUNNING:
            used[job.partition, service_class(job.qos)] += job.gpus
    return tuple(
        ShareReport(
            pool=pool.name,
            share=share.name,
            model=pool.model,
            granted=granted[pool.name, share.name],
            capacity=pool.capacity(share.name),
            healthy=sum(
                node.gpus for name in share.node_names if (node := by_name.get(name)) is not None and node.usable
            ),
            guaranteed=used[pool.partition_of(share.name), ServiceClass.GUARANTEED],
            burst=used[pool.partition_of(share.name), ServiceClass.BURST],
        )
        for pool in policy.pools
        if pool.cluster == cluster
        for share in pool.shares
    )


def _incident(one: Incident) -> IncidentReport:
    return IncidentReport(
        id=one.id,
        node=one.node,
        state=one.state,
        opened_at=one.opened_at,
        closed_at=one.closed_at,
        title=one.headline[:200],
    )
