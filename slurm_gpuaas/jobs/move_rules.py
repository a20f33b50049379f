"""Which running jobs may be moved to make room, and what that costs. Pure.

A move is a requeue: a job that was promised its GPUs (guaranteed), or that Slurm would not put on other nodes, stays.
Nothing tells when a job last wrote a checkpoint, so all of its run counts as lost: what is said is a bound from above.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime, timedelta

from slurm_gpuaas.domain.jobs import Job, JobId, JobState, ServiceClass
from slurm_gpuaas.domain.names import NodeName, PartitionName
from slurm_gpuaas.domain.nodes import Node, NodeFlag
from slurm_gpuaas.domain.usage import service_class
from slurm_gpuaas.jobs.gate_rules import ON_NODES, Pin, is_free, promised


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """
    Args:
        partition: whose nodes and jobs it is about.
        guaranteed: guaranteed jobs may be requeued too.
        min_run: a job keeps its nodes at least so long, as under preemption.
        min_left: a job whose time limit ends sooner is not moved: it leaves by itself.
    """

    partition: PartitionName
    guaranteed: bool
    min_run: timedelta
    min_left: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A partition at one moment.

    Args:
        usable: nodes that a job could be placed on, whoever is on them.
        free: those that nobody is on or is about to start on.
        movable: jobs that may be moved.
        staying: how many others there are, by why they stay.
    """

    usable: frozenset[NodeName]
    free: frozenset[NodeName]
    movable: tuple[Job, ...]
    staying: Mapping[str, int]

    def differs(self, moves: Sequence[MoveOrder], room: Collection[NodeName]) -> str:
        """Why the moves do not make this room any more; empty when they do."""
        by_id = {job.id: job for job in self.movable}
        left = set(self.free)
        for move in moves:
            job = by_id.get(move.job)
            if job is None:
                return f"Job {move.job} has ended or may not be moved any more."
            if (job.restarts, set(job.nodes)) != (move.restarts, set(move.nodes)):
                return f"Job {move.job} runs on other nodes now."
            if len(set(move.to)) != len(job.nodes):
                return f"Job {move.job} runs on {len(job.nodes)} nodes, and is to go to {len(set(move.to))}."
            left.update(job.nodes)
        given = [node for move in moves for node in move.to] + list(room)
        if taken := sorted(set(given) - left):
            return f"Node {taken[0]} is not free any more."
        if len(given) != len(set(given)) or len(moves) != len({move.job for move in moves}):
            return "A node or a job is named twice."
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveOrder:
    """A job as it was seen (its restarts and nodes), and the nodes that it is to go to."""

    job: JobId
    restarts: int
    nodes: tuple[NodeName, ...]
    to: tuple[NodeName, ...]


def standing(
    jobs: Sequence[Job],
    nodes: Mapping[NodeName, Node],
    names: Collection[NodeName],
    terms: Terms,
    now: datetime,
) -> Standing:
    """
    Args:
        names: nodes of the partition.
    """
    on_nodes = [job for job in jobs if job.state in ON_NODES]
    load = Counter(node for job in on_nodes for node in job.nodes)
    waited_for = {node for given in promised(jobs).values() for node in given}
    known = [nodes[name] for name in names if name in nodes]
    usable = {node.name for node in known if node.usable and NodeFlag.RESERVED not in node.flags} - waited_for
    free = {node.name for node in known if is_free(node) and not load[node.name]} & usable
    movable, staying = [], Counter[str]()
    for job in on_nodes:
        if not set(job.nodes).isdisjoint(names):
            alone = all(load[node] == 1 for node in job.nodes)
            if reason := _stays(job, nodes, terms, now, usable=usable, alone=alone):
                staying[reason] += 1
            else:
                movable.append(job)
    return Standing(usable=frozenset(usable), free=frozenset(free), movable=tuple(movable), staying=staying)


def _stays(
    job: Job,
    nodes: Mapping[NodeName, Node],
    terms: Terms,
    now: datetime,
    *,
    usable: Set[NodeName],
    alone: bool,
) -> str:
    """Why the job may not be moved, or nothing."""
    if job.state is JobState.SUSPENDED:
        return "suspended"
    if job.partition != terms.partition:
        return "in another partition"
    if not job.requeue:
        return "interactive or --no-requeue"
    if service_class(job.qos) is ServiceClass.GUARANTEED and not terms.guaranteed:
        return "guaranteed"
    if job.array_job_id is not None:
        return "a task of an array"
    if job.excluded_nodes or job.features or job.reservation or (job.required_nodes and Pin.of(job) is None):
        return "its user has a say in its nodes"
    if not usable >= set(job.nodes):
        return "on a node that is out of service, reserved or promised"
    if not alone or job.gpus != sum(nodes[name].gpus for name in job.nodes):
        return "not on whole nodes"
    if age(job, now) < terms.min_run:
        return f"ran less than {terms.min_run.total_seconds() / 60:.0f} min"
    if job.time_limit is not None and job.time_limit - age(job, now) < terms.min_left:
        return f"ends within {terms.min_left.total_seconds() / 60:.0f} min"
    return ""


def age(job: Job, now: datetime) -> timedelta:
    """Of this run."""
    return max(now - job.started, timedelta(0)) if job.started else timedelta(0)


def loss(job: Job, now: datetime) -> int:
    """GPU-seconds of this run: at most so much is lost by a requeue."""
    return job.gpus * int(age(job, now).total_seconds())


def why(job: Job, now: datetime) -> str:
    """Why it may be moved, for people."""
    hours = age(job, now).total_seconds() / 3600
    left = "" if job.time_limit is None else f", {job.time_limit.total_seconds() / 3600 - hours:.1f} h left"
    return f"{service_class(job.qos)}, may be requeued, runs {hours:.1f} h{left}"
