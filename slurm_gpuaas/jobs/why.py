"""Why a job waits, or where it runs and why there: `gpuaas job why`. Pure: Slurm's words, nodes and decisions in,
sentences and figures out.

Room is judged by nodes and GPUs alone, not by CPUs, memory, features or reservations.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from slurm_gpuaas.domain.capacity import Capacity
from slurm_gpuaas.domain.job_reasons import AT_THE_GATE, FOR_BETTER, Meaning, meaning_of_word, word_of
from slurm_gpuaas.domain.jobs import Job, JobPlacement, JobState, PlacementOutcome
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.nodes import Node, NodeFlag
from slurm_gpuaas.domain.policy import KST, fold_nodes
from slurm_gpuaas.jobs.gate_rules import ON_NODES, Pin, asks

# -- Why it waits ----------------------------------------------------------------------------------------------------


def waits_for_better(job: Job, placement: JobPlacement | None) -> bool:
    """It stays at the gate, and nodes are kept for it.

    Args:
        placement: the gate's latest decision about it.
    """
    if placement is None or placement.restarts != job.restarts:
        return False
    return placement.outcome is PlacementOutcome.WAITING and asks(job)


def meaning_of(job: Job, placement: JobPlacement | None = None) -> Meaning:
    """
    Args:
        placement: the gate's latest decision about it.
    """
    word = word_of(job.reason)
    if waits_for_better(job, placement):
        return FOR_BETTER
    if word == "Licenses" and asks(job):
        return AT_THE_GATE
    return meaning_of_word(job.reason)


def way_out(job: Job, placement: JobPlacement | None = None) -> str:
    """What its user can do about it, a sentence; empty where there is nothing to do.

    Args:
        placement: the gate's latest decision about it.
    """
    if job.state in ON_NODES or (job.state.ended and word_of(job.reason) == "None"):
        return ""
    found = meaning_of(job, placement).way_out.replace("JOBID", str(job.id))
    return f"{found[0].upper()}{found[1:]}." if found else ""


# -- Room --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Room for one job on the nodes of its partition, as far as nodes and GPUs go.

    Args:
        whole: it takes whole nodes.
        nodes: that it needs.
        gpus_per_node: on each of them.
        free: nodes that have as much for it now.
        enough_at: when there are enough, by the time limits of what runs, if nobody goes before it; now if there are;
            None if time limits do not tell.
    """

    whole: bool
    nodes: int
    gpus_per_node: int
    free: int
    enough_at: datetime | None

    @property
    def missing(self) -> int:
        return max(self.nodes - self.free, 0)


def room(
    job: Job,
    *,
    now: datetime,
    nodes: Collection[Node],
    jobs: Collection[Job],
    free: Collection[NodeName],
    promised: Collection[NodeName],
) -> Room | None:
    """None where the job asks for no GPUs, or the partition has none. Arguments as of `Rooms`."""
    return Rooms(now=now, nodes=nodes, jobs=jobs, free=free, promised=promised).of(job)


class Rooms:
    """Room on the nodes of one partition at one moment, for any number of jobs: jobs that need nodes alike share the
    search.

    Args:
        nodes: of the partition.
        jobs: all that run or wait.
        free: nodes that a whole-node job could have now.
        promised: nodes given to other jobs that are about to start.
    """

    def __init__(
        self,
        *,
        now: datetime,
        nodes: Collection[Node],
        jobs: Collection[Job],
        free: Collection[NodeName],
        promised: Collection[NodeName],
    ) -> None:
        self._now = now
        self._nodes = [
            node for node in nodes if node.usable and NodeFlag.RESERVED not in node.flags and node.name not in promised
        ]
        self._sizes = {node.gpus for node in nodes}
        self._free = free
        self._freed = _freed(jobs, now)
        self._roomy: dict[tuple[bool, int], tuple[int, list[datetime]]] = {}

    def of(self, job: Job) -> Room | None:
        """None where the job asks for no GPUs, or the partition has none."""
        most = max(self._sizes, default=0)
        if not job.gpus or not most:
            return None
        wanted = max(job.node_count, -(-job.gpus // most))
        each = -(-job.gpus // wanted)
        whole = any(job.gpus == wanted * size for size in self._sizes)
        if (whole, each) not in self._roomy:
            self._roomy[whole, each] = self._search(whole, each)
        free, at = self._roomy[whole, each]
        return Room(
            whole=whole,
            nodes=wanted,
            gpus_per_node=each,
            free=free,
            enough_at=at[wanted - 1] if len(at) >= wanted else None,
        )

    def _search(self, whole: bool, each: int) -> tuple[int, list[datetime]]:
        """Nodes that have as much now, and when each node that will have it does, in order of time."""
        at: list[datetime] = []
        available = 0
        for node in self._nodes:
            if node.gpus < each:
                continue
            if (node.name in self._free) if whole else (node.free_gpus >= each):
                available += 1
                at.append(self._now)
                continue
            freed = self._freed.get(node.name, ())
            if (moment := _roomy_at(node, freed, node.gpus if whole else each, self._now)) is not None:
                at.append(moment)
        return available, sorted(at)


def _freed(jobs: Collection[Job], now: datetime) -> Mapping[NodeName, Sequence[tuple[datetime | None, int]]]:
    """Of each node, when its jobs end by their time limits at the latest (None: nobody knows), and their GPUs there."""
    freed: dict[NodeName, list[tuple[datetime | None, int]]] = defaultdict(list)
    for job in jobs:
        if job.state in ON_NODES and job.nodes:
            end = _end(job)
            for name in job.nodes:
                freed[name].append((end and max(end, now), job.gpus // len(job.nodes)))
    return freed


def _end(job: Job) -> datetime | None:
    return None if job.started is None or job.time_limit is None else job.started + job.time_limit


def _roomy_at(node: Node, freed: Sequence[tuple[datetime | None, int]], gpus: int, now: datetime) -> datetime | None:
    """When the node has so many GPUs free; all of them: when nothing runs there any more."""
    ends = [end for end, _ in freed if end is not None]
    if gpus == node.gpus:
        return max(ends, default=now) if len(ends) == len(freed) else None
    free = node.gpus - node.gpus_allocated
    if free >= gpus:  # its last job is being cleared away
        return now
    for end, count in sorted((end, count) for end, count in freed if end is not None):
        free += count
        if free >= gpus:
            return end
    return None


# -- Sentences ---------------------------------------------------------------------------------------------------------


def sentences(job: Job, placement: JobPlacement | None, room: Room | None, capacity: Capacity | None) -> Iterator[str]:
    """Why it waits, or where it runs and why there; the way out of waiting apart (`meaning_of`).

    Args:
        placement: the gate's latest decision about it.
        room: for it now; only while it waits.
        capacity: of its partition, where it takes whole nodes.
    """
    meaning = meaning_of(job, placement)
    word = word_of(job.reason)
    if job.state in ON_NODES:
        yield from _running(job, placement)
    elif job.state.ended:
        because = "" if word == "None" else f" ({word}): {meaning.says}"
        yield f"Job {job.id} has ended, {job.state}{because}."
    else:
        yield f"Job {job.id} waits ({word}): {meaning.says}."
        yield from _decided(job, placement)
        if room is not None:
            yield from _room(job, room, capacity)


def _running(job: Job, placement: JobPlacement | None) -> Iterator[str]:
    where = "is suspended on" if job.state is JobState.SUSPENDED else "runs on"
    since = f" since {_time(job.started)}" if job.started else ""
    yield f"Job {job.id} {where} {fold_nodes(job.nodes)}{since}."
    if (end := _end(job)) is not None:
        yield f"It ends at {_time(end)} at the latest, by its time limit."
    if placement is None:
        yield "Slurm chose these nodes: it did not go through the placement gate."
    elif placement.outcome is PlacementOutcome.PINNED and set(placement.nodes) == set(job.nodes):
        yield f"The placement gate chose these nodes: {placement.reason}"
    else:
        yield f"Slurm chose these nodes: the placement gate left it to Slurm. {placement.reason}"


def _decided(job: Job, placement: JobPlacement | None) -> Iterator[str]:
    pin = Pin.of(job)
    if placement is not None and waits_for_better(job, placement):
        kept = f" and keeps {fold_nodes(placement.nodes)} for it" if placement.nodes else ""
        yield f"The placement gate lets it wait{kept}, since {_time(placement.decided_at)}: {placement.reason}"
    elif asks(job):
        return
    elif pin is not None:
        yield f"The placement gate gave it {fold_nodes(pin.nodes)} at {_time(pin.at)}; it starts there in a moment."
    elif placement is not None and placement.outcome is PlacementOutcome.OPENED:
        yield f"The placement gate left it to Slurm at {_time(placement.decided_at)}: {placement.reason}"


def _room(job: Job, room: Room, capacity: Capacity | None) -> Iterator[str]:
    if room.whole:
        needs, such = f"{room.nodes} whole node{'' if room.nodes == 1 else 's'}", ""
    else:
        needs = f"{room.gpus_per_node} GPUs on {'a node' if room.nodes == 1 else f'each of {room.nodes} nodes'}"
        such = " with as many GPUs"
    enough = "enough" if not room.missing else f"{room.missing} too few"
    yield f"It needs {needs}; partition {job.partition} has {room.free} free{such}: {enough}."
    if room.missing and room.enough_at is not None:
        yield (
            f"By time limits there are enough at {_time(room.enough_at)}: sooner if jobs end before their limits, "
            "later if others go first."
        )
    elif room.missing:
        yield "Time limits do not tell when: jobs without one run there, or too few nodes are in service."
    if capacity is not None and room.whole and room.nodes > 1:
        most = ", ".join(f"{one.nodes} in one {one.level.words}" for one in capacity.largest[:-1])
        yield f"The largest job that could start there now: {most}, {capacity.largest[-1].nodes} in all."
    if job.chooses and Pin.of(job) is None:
        yield "It also chooses among nodes (--nodelist, --exclude, --constraint or --reservation); that is not judged."


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(KST):%Y-%m-%d %H:%M} KST"
