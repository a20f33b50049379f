"""Which nodes a job gets in place of those it lost, and which jobs keep the rest of theirs. Pure.

A job of several whole nodes keeps those that are well. Each lost node is replaced by the nearest one that is there: in
its own leaf group, else in its pod, else anywhere; of equally near ones a spare before a node that is free by chance,
since on a spare nobody can have been quicker, and one with nobody on it before one whose preemptible job has to go.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from slurm_gpuaas.domain.jobs import Job, JobId, JobState, ServiceClass
from slurm_gpuaas.domain.names import NodeName, PartitionName
from slurm_gpuaas.domain.nodes import Node, NodeBase, NodeFlag
from slurm_gpuaas.domain.policy import fold_nodes
from slurm_gpuaas.domain.recoveries import Recovery
from slurm_gpuaas.domain.usage import service_class
from slurm_gpuaas.domain.words import plural
from slurm_gpuaas.slurm.records import Reservation

PREFIX: Final = "gpuaas-recover-"
KEEPS: Final = frozenset({"FLEX", "IGNORE_JOBS", "OVERLAP", "STATIC", "NO_HOLD_JOBS_AFTER_END"})
"""A job of days starts in a reservation of minutes and runs on after it (FLEX); the spares' own reservation is in
nobody's way (OVERLAP); Slurm replaces no node of it by itself (STATIC); a job that is still waiting when it runs out
waits like any other."""
ON_NODES: Final = frozenset({JobState.RUNNING, JobState.SUSPENDED})
WINDOW: Final = timedelta(hours=24)
"""Requeues of a job are counted over it."""

Place = tuple[str, str]
"""Pod and leaf group (or block) of a node."""
NOWHERE: Final[Place] = ("", "")
"""Of nodes that the topology does not name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A node that could replace a lost one. `loss` is the GPU-seconds of preemptible jobs that would have to go."""

    node: NodeName
    gpus: int
    spare: bool
    loss: int = 0

    @property
    def order(self) -> tuple[bool, int, NodeName]:
        return not self.spare, self.loss, self.node


def reservation_name(job: JobId) -> str:
    return f"{PREFIX}{job}"


def reservation_for(recovery: Recovery, start: datetime, *, until: datetime) -> Reservation:
    """Keeps the nodes of a recovery for the job, which names it, and for nobody else."""
    return Reservation(
        name=reservation_name(recovery.job_id),
        start=start,
        duration=until.replace(microsecond=0) - start,
        users=(recovery.user,),
        nodes=fold_nodes(recovery.nodes),
        flags=KEEPS,
    )


def goes_plainly(job: Job, nodes: Mapping[NodeName, Node], *, pinned_by_us: bool, known: frozenset[NodeName]) -> str:
    """Why a job does not keep its nodes but is queued again like any other; empty when it keeps them.

    Args:
        pinned_by_us: the nodes that it asks for are ours, not its user's wish.
        known: nodes of its partition that the policy declares.
    """
    if len(job.nodes) < 2:
        return "It ran on one node: any other one does."
    if service_class(job.qos) is ServiceClass.BURST:
        return "It runs on borrowed GPUs."
    if job.array_job_id is not None:
        return "It is a task of an array: a change would pin all its tasks to the same nodes."
    if job.required_nodes and not pinned_by_us:
        return "Its user names its nodes."
    if job.reservation:
        return f"It runs in reservation {job.reservation}."
    if job.features:
        return "It asks for features: Slurm knows which nodes have them."
    if not known.issuperset(job.nodes):
        return f"The policy does not declare its nodes in partition {job.partition}."
    if job.gpus != sum(nodes[name].gpus for name in job.nodes if name in nodes):
        return "It does not hold whole nodes."
    return ""


def too_often(earlier: Iterable[Recovery], most: int, now: datetime) -> int:
    """How often the job was requeued by us in the last 24 h, when that is as often as it may be; else 0."""
    count = sum(now - one.begun_at <= WINDOW for one in earlier)
    return count if count >= most else 0


def candidates(
    nodes: Iterable[Node],
    jobs: Iterable[Job],
    *,
    spares: frozenset[NodeName],
    taken: Collection[NodeName],
    now: datetime,
) -> list[Candidate]:
    """Nodes that could replace a lost one now: spares and others on which nobody is or only preemptible jobs run.

    Args:
        taken: nodes that are broken, promised to somebody, or in another reservation. O(nodes + jobs).
    """
    losses: dict[NodeName, int] = defaultdict(int)
    busy: set[NodeName] = set()
    for job in jobs:
        if job.state in ON_NODES:
            if service_class(job.qos) is ServiceClass.BURST:
                seconds = int(max(now - job.started, timedelta(0)).total_seconds()) if job.started else 0
                for name in job.nodes:
                    losses[name] += job.gpus * seconds + 1
            else:
                busy.update(job.nodes)
    return [
        Candidate(node=node.name, gpus=node.gpus, spare=node.name in spares, loss=losses.get(node.name, 0))
        for node in nodes
        if node.usable
        and node.gpus
        and node.name not in taken
        and node.name not in busy
        and (node.name in spares or not node.flags & (NodeFlag.COMPLETING | NodeFlag.RESERVED))
        and (node.name in losses or node.base is NodeBase.IDLE)
    ]


class Stock:
    """Candidates by place; each is given once.

    Args:
        places: pod and leaf group of each node.
        partitions: nodes of each partition.
    """

    def __init__(
        self,
        found: Iterable[Candidate],
        places: Mapping[NodeName, Place],
        partitions: Mapping[PartitionName, Collection[NodeName]],
    ) -> None:
        self._places = places
        self._of: dict[PartitionName, dict[Place, list[Candidate]]] = {}
        self._given: set[NodeName] = set()
        by_name = {one.node: one for one in found}
        for partition, names in partitions.items():
            here: dict[Place, list[Candidate]] = defaultdict(list)
            for name in names:
                if name in by_name:
                    here[self._place(name)].append(by_name[name])
            for group in here.values():
                group.sort(key=lambda one: one.order)
            self._of[partition] = here

    def replace(
        self, job: Job, lost: Sequence[NodeName], *, of: int, avoid: frozenset[NodeName]
    ) -> tuple[NodeName, ...] | None:
        """A node for each lost one, all or none.

        Args:
            of: nodes that the job runs on. For a moment after a requeue Slurm calls every job a one-node job.
            avoid: nodes that the job shall not get.
        """
        gpus = job.gpus // of
        chosen: list[NodeName] = []
        for name in lost:
            found = self._nearest(job.partition, self._place(name), gpus, avoid.union(chosen))
            if found is None:
                return None
            chosen.append(found)
        self._given.update(chosen)
        return tuple(chosen)

    def _nearest(
        self, partition: PartitionName, place: Place, gpus: int, avoid: frozenset[NodeName]
    ) -> NodeName | None:
        groups = self._of.get(partition, {})
        rings: tuple[Iterable[Place], ...] = (
            (place,),
            (other for other in groups if other[0] == place[0] and other != place),
            (other for other in groups if other[0] != place[0]),
        )
        for ring in rings:
            firsts = (self._first(groups.get(other, ()), gpus, avoid) for other in ring)
            best = min((one for one in firsts if one is not None), key=lambda one: one.order, default=None)
            if best is not None:
                return best.node
        return None

    def _first(self, group: Iterable[Candidate], gpus: int, avoid: frozenset[NodeName]) -> Candidate | None:
        fitting = (one for one in group if one.node not in self._given and one.node not in avoid and one.gpus == gpus)
        return next(fitting, None)

    def _place(self, name: NodeName) -> Place:
        return self._places.get(name, NOWHERE)


def sentence(recovery: Recovery, spares: frozenset[NodeName], places: Mapping[NodeName, Place]) -> str:
    """What was chosen, for people."""
    parts = []
    for node, lost in zip(recovery.spares, recovery.lost, strict=False):
        kind = "spare" if node in spares else "node"
        near, far = places.get(node, NOWHERE), places.get(lost, NOWHERE)
        where = "same leaf group" if near == far else "same pod" if near[0] == far[0] else "another pod"
        parts.append(f"{kind} {node} ({where}) for {lost}")
    return f"It keeps {plural(len(recovery.kept), 'node')} and gets {', '.join(parts)}."
