"""Which nodes are lemons now, from the store; and keeping them from large jobs where the configuration says so."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import structlog

from slurm_gpuaas.domain.audit import AuditEntry
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.names import ClusterName, NodeName
from slurm_gpuaas.domain.node_life import LimitKind
from slurm_gpuaas.domain.outages import OutageCause
from slurm_gpuaas.health.lemons import (
    LOOKS_BACK,
    Lemon,
    LemonSignals,
    lemon_score,
    limits_wanted,
)
from slurm_gpuaas.store import Store

ACTOR: Final = "gpuaasd/lemons"
LIFTED: Final = "node.limit-lifted"
"""Audit action: a node serves jobs of any size again. Where a person said so, it stays for as long as signals count."""
MOST: Final = 100_000

log = structlog.get_logger(__name__)


class LemonWatch:
    """Args:
    largest_job: nodes of the largest job that a lemon may serve; 0 sets no limit by itself.
    """

    def __init__(self, *, cluster: ClusterName, store: Store, clock: Clock, largest_job: int) -> None:
        self._cluster = cluster
        self._store = store
        self._clock = clock
        self._largest_job = largest_job

    def lemons(self) -> Sequence[Lemon]:
        """Nodes with any points, the worst first."""
        now = self._clock.now()
        found = [lemon_score(signals) for signals in read_signals(self._store, self._cluster, now)]
        return sorted((one for one in found if one.score), key=lambda one: (-one.score, one.signals.node))

    def tick(self) -> None:
        if not self._largest_job:
            return
        now, store = self._clock.now(), self._store
        nodes = len(store.observations.gpus_of_nodes())
        lifted = store.audit.newest(action=LIFTED, since=now - LOOKS_BACK, limit=MOST)
        by_people = {entry.subject for entry in lifted if entry.actor != ACTOR}
        lemons = [one for one in self.lemons() if one.signals.node not in by_people]
        new, over = limits_wanted(lemons, store.node_limits(), nodes, self._largest_job, now)
        with store.transaction():
            for limit in new:
                store.put_node_limit(limit)
                self._note("node.limit", limit.node, limit.why, limit.largest_job)
            for node in over:
                store.delete_node_limit(node, LimitKind.LEMON)
                self._note(LIFTED, node, "Its lemon score has fallen below half of what makes a lemon.", 0)

    def _note(self, action: str, node: NodeName, why: str, largest_job: int) -> None:
        evidence = {"largest_job": largest_job or None}
        self._store.audit.append(
            AuditEntry(at=self._clock.now(), actor=ACTOR, action=action, subject=node, reason=why, evidence=evidence)
        )
        log.info(action, node=node, why=why)


def read_signals(store: Store, cluster: ClusterName, now: datetime) -> Sequence[LemonSignals]:
    """Of every node of the inventory that any signal names."""
    since = now - LOOKS_BACK
    seen = store.observations
    incidents = store.incidents(since=since, limit=MOST)
    per_node = seen.gpus_of_nodes()
    jobs = {job for incident in incidents for job in incident.requeued_jobs}
    gpus = {run.job: run.gpus for run in seen.runs_of(cluster, jobs)}
    single: Counter[NodeName] = Counter()
    multi: Counter[NodeName] = Counter()
    for incident in incidents:
        for job in incident.requeued_jobs:
            size = gpus.get(JobId(job))
            if size is not None:  # not metered yet: it counts when it is
                (single if size <= per_node.get(incident.node, 0) else multi)[incident.node] += 1
    outs = Counter(
        one.node for one in seen.outages(since=since) if one.cause is OutageCause.FAULT and one.since >= since
    )
    xids = seen.codes(since=since)
    excluded = Counter(one.node for one in seen.exclusions(since=since))
    tickets = Counter(case.node for case in store.rma.find() if case.opened_at >= since)
    runs = defaultdict(int, seen.single_runs(since=since.date()))
    named = {*single, *multi, *outs, *xids, *excluded, *tickets} & per_node.keys()
    return [
        LemonSignals(
            node=node,
            excl_jobid_count=excluded[node],
            xid_cnt=len(xids.get(node, ())),
            tickets=tickets[node],
            out_count=outs[node],
            multi_node_node_fails=multi[node],
            single_node_node_fails=single[node],
            single_node_runs=runs[node] or None,
        )
        for node in sorted(named)
    ]
