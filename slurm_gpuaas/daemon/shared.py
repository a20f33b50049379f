"""One reading of Slurm's nodes and jobs serves everybody: controllers, API and metrics.

A reading is good for a short while, and a write through this door ends it: nobody decides on what we changed ourselves.
Those who ask while a reading is under way wait for it instead of starting another.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.jobs import Job, JobId
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.nodes import Node
from slurm_gpuaas.slurm.protocols import Controller
from slurm_gpuaas.slurm.records import JobChange, Reservation

Row = TypeVar("Row")

MAX_AGE = timedelta(seconds=1)


class _Reading(Generic[Row]):
    def __init__(self, read: Callable[[], Sequence[Row]], clock: Clock) -> None:
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._rows: Sequence[Row] = ()
        self._writes = 0
        self._rows_after: int | None = None
        self.at: datetime | None = None

    def get(self, max_age: timedelta) -> Sequence[Row]:
        with self._lock:
            now = self._clock.now()
            stale = self.at is None or now - self.at >= max_age
            if stale or self._rows_after != self._writes:
                # Counted before reading: a write while we read makes this reading serve its asker alone.
                writes = self._writes
                self._rows = self._read()
                self._rows_after, self.at = writes, now
            return self._rows

    def last(self) -> tuple[datetime | None, Sequence[Row]]:
        with self._lock:
            return self.at, self._rows

    def forget(self) -> None:
        self._writes += 1


class SharedController:
    """A `slurm.protocols.Controller` whose readings are shared.

    Args:
        max_age: how old a reading may be that is handed out.
        limited: nodes that the hook makes large jobs exclude, with the nodes of the largest job that they take: that
            is no wish of their users, so it is not shown.
    """

    def __init__(
        self,
        door: Controller,
        *,
        clock: Clock,
        max_age: timedelta = MAX_AGE,
        limited: Callable[[], Mapping[NodeName, int]] = dict,
    ) -> None:
        self._door = door
        self._max_age = max_age
        self._nodes = _Reading(door.nodes, clock)
        self._jobs = _Reading(lambda: without(door.jobs(), limited()), clock)
        self._jobs_again = _Reading(lambda: self._jobs.get(timedelta(0)), clock)

    def fresh(self) -> SharedController:
        """The same door for those who decide: reads anew each time, and what it read serves the others too."""
        fresh = copy(self)
        fresh._max_age = timedelta(0)
        return fresh

    @property
    def read_at(self) -> datetime | None:
        """When nodes were last read with success; None before the first time."""
        return self._nodes.at

    def last(self) -> tuple[datetime, Sequence[Node], Sequence[Job]] | None:
        """Nodes and jobs as they were last read, and when the older of the two was; asks nobody. None before that."""
        (nodes_at, nodes), (jobs_at, jobs) = self._nodes.last(), self._jobs.last()
        return None if nodes_at is None or jobs_at is None else (min(nodes_at, jobs_at), nodes, jobs)

    def version(self) -> str:
        return self._door.version()

    def nodes(self) -> Sequence[Node]:
        return self._nodes.get(self._max_age)

    def jobs(self) -> Sequence[Job]:
        return self._jobs.get(self._max_age)

    def jobs_again(self) -> Sequence[Job]:
        """For who misses a job in `jobs`: read anew, unless somebody else missed one within `max_age`."""
        return self._jobs_again.get(self._max_age)

    def drain(self, nodes: Sequence[NodeName], reason: str) -> None:
        self._then_forget(lambda: self._door.drain(nodes, reason))

    def resume(self, nodes: Sequence[NodeName]) -> None:
        self._then_forget(lambda: self._door.resume(nodes))

    def reboot(self, node: NodeName, reason: str) -> None:
        self._then_forget(lambda: self._door.reboot(node, reason))

    def requeue(self, job: JobId, *, restarts: int | None = None) -> None:
        self._then_forget(lambda: self._door.requeue(job, restarts=restarts))

    def cancel(self, job: JobId) -> None:
        self._then_forget(lambda: self._door.cancel(job))

    def signal(self, job: JobId, signal: str) -> None:
        self._door.signal(job, signal)

    def update_job(self, job: JobId, change: JobChange) -> None:
        self._then_forget(lambda: self._door.update_job(job, change))

    def reservations(self) -> Sequence[Reservation]:
        return self._door.reservations()

    def put_reservation(self, reservation: Reservation) -> None:
        self._then_forget(lambda: self._door.put_reservation(reservation))

    def delete_reservation(self, name: str) -> None:
        self._then_forget(lambda: self._door.delete_reservation(name))

    def reconfigure(self) -> None:
        self._then_forget(self._door.reconfigure)

    def _then_forget(self, write: Callable[[], None]) -> None:
        try:
            write()
        finally:
            # Also after a failure: the write may have taken effect and only its answer been lost.
            self._nodes.forget()
            self._jobs.forget()


def without(jobs: Sequence[Job], limited: Mapping[NodeName, int]) -> Sequence[Job]:
    """Jobs as if they did not exclude the nodes that are kept from jobs of their size.

    For a moment after a requeue Slurm calls every job a one-node job: one that ran before passes for a large one.
    """
    if not limited:
        return jobs

    def is_wish(job: Job, name: NodeName) -> bool:
        return name not in limited or (job.node_count <= limited[name] and not job.restarts)

    return [
        replace(job, excluded_nodes=tuple(name for name in job.excluded_nodes if is_wish(job, name)))
        if job.excluded_nodes
        else job
        for job in jobs
    ]
