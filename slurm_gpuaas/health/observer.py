"""Writes down what is seen of nodes at each reading of Slurm: outages, runs that begin, exclusions. Acts on nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.incidents import IncidentState
from slurm_gpuaas.domain.jobs import Job, JobId
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.nodes import Node
from slurm_gpuaas.domain.outages import Exclusion
from slurm_gpuaas.health.lemons import LOOKS_BACK
from slurm_gpuaas.store import Store
from slurm_gpuaas.store.observations import counted

COUNTED_UNTIL: Final = "runs.counted"
"""Mark: runs that began before this moment are counted."""
SAYS_SOMETHING: Final = 8
"""A job that excludes more nodes than these keeps off a part of the cluster, not off a bad node."""
KEEPS: Final = LOOKS_BACK + timedelta(days=7)


class NodeObserver:
    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._excluding: set[tuple[JobId, NodeName]] = set()
        self._until: datetime | None = None
        self._last_second: set[JobId] = set()

    def tick(self, nodes: Sequence[Node], jobs: Sequence[Job]) -> None:
        """Args:
        jobs: with ended ones that slurmctld still knows; what they exclude is their users' own wish.
        """
        now = self._clock.now()
        mending = self._store.incidents(states=[IncidentState.REPAIRING, IncidentState.VERIFYING], limit=100_000)
        self._store.observations.follow(nodes, now, mending={incident.node for incident in mending})
        self._note_exclusions(jobs, now)
        self._count_runs(jobs, now)

    def _note_exclusions(self, jobs: Iterable[Job], now: datetime) -> None:
        wishes = {
            (job.id, node): job
            for job in jobs
            if job.excluded_nodes and len(job.excluded_nodes) <= SAYS_SOMETHING
            for node in job.excluded_nodes
        }
        new = [
            Exclusion(node=node, job=number, user=job.user, seen_at=now)
            for (number, node), job in wishes.items()
            if (number, node) not in self._excluding
        ]
        if new:
            self._store.observations.add_exclusions(new, forget_before=now - KEEPS)
        self._excluding = set(wishes)

    def _count_runs(self, jobs: Iterable[Job], now: datetime) -> None:
        if self._until is None:
            mark = self._store.mark(COUNTED_UNTIL)
            self._until = datetime.fromisoformat(mark) if mark else now
        # Slurm's times are whole seconds: runs of the last one that was counted may still come.
        begun = [
            (job, job.started)
            for job in jobs
            if job.nodes
            and job.started is not None
            and (job.started > self._until or (job.started == self._until and job.id not in self._last_second))
        ]
        if not begun:
            return
        latest = max(started for _, started in begun)
        same = {job.id for job, started in begun if started == latest}
        self._last_second = same | self._last_second if latest == self._until else same
        self._until = latest
        runs = [(node, started.date(), len(job.nodes) == 1) for job, started in begun for node in job.nodes]
        with self._store.transaction():
            self._store.observations.count_runs(counted(runs), forget_before=(now - KEEPS).date())
            self._store.set_mark(COUNTED_UNTIL, latest.isoformat(), at=now)
