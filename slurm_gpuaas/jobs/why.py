"""Why a job waits, or where it runs and why there: `gpuaas job why`. Pure: Slurm's words, nodes and decisions in,
sentences and figures out.

Room is judged by nodes and GPUs alone, not by CPUs, memory, features or reservations.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from slurm_gpuaas.domain.capacity import Capacity
from slurm_gpuaas.domain.jobs import Job, JobPlacement, JobState, PlacementOutcome
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.nodes import Node, NodeFlag
from slurm_gpuaas.domain.policy import KST, fold_nodes
from slurm_gpuaas.jobs.gate_rules import ON_NODES, Pin, asks

# -- Slurm's words -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Meaning:
    """A reason of Slurm's in words, after "It waits:" or "It ended:", and what to do about it (may be nothing)."""

    says: str
    way_out: str = ""


_HELD: Final = "`scontrol release JOBID` lets it go"
_WRONG: Final = "cancel it and submit it again without that"
_ASK: Final = "ask a cluster administrator"

REASONS: Final[Mapping[str, Meaning]] = {
    "None": Meaning("Slurm has not looked at it yet", "look again in a moment"),
    "Priority": Meaning("jobs of higher priority wait in the partition, and it is behind them"),
    "Resources": Meaning("what it asks for is not free now"),
    "Dependency": Meaning("it waits for another job, as asked with --dependency"),
    "DependencyNeverSatisfied": Meaning(
        "the job that it depends on ended otherwise than asked: it will never start",
        "cancel it, or `scontrol update JobId=JOBID Dependency=`",
    ),
    "BeginTime": Meaning("its start time lies ahead: asked with --begin, or it was queued again a moment ago"),
    "JobHeldUser": Meaning("its user holds it", _HELD),
    "JobHeldAdmin": Meaning("an administrator holds it, or Slurm after a failed start", _ASK),
    "JobHoldMaxRequeue": Meaning(
        "it was queued again too often, and Slurm holds it", f"find out why it fails, then {_HELD}"
    ),
    "JobArrayTaskLimit": Meaning("as many tasks of its array run as it allows at once (--array=...%N)"),
    "Licenses": Meaning("licences that it asks for are in use"),
    "Reservation": Meaning("its reservation has not begun, or has no room", "`scontrol show reservation` shows it"),
    "ReservationDeleted": Meaning("its reservation was deleted", _WRONG),
    "ReservationInvalid": Meaning("its reservation is not one that it may use", _WRONG),
    "ReqNodeNotAvail": Meaning(
        "nodes that it needs are down, drained or reserved",
        "drop --nodelist, or wait until they are back; `gpuaas node list --drained` shows why",
    ),
    "NodeDown": Meaning("a node that it needs is down", "drop --nodelist, or wait until it is back"),
    "BadConstraints": Meaning("no set of nodes can ever give it what it asks for", _WRONG),
    "Constraints": Meaning("no set of nodes can give it what it asks for", _WRONG),
    "No_suitable_topology_unit_found": Meaning("no part of the topology has room for it as it asks"),
    "No_suitable_topology_unit_found_for_segment": Meaning("too few parts of the topology have room for its segments"),
    "PartitionDown": Meaning("its partition starts no jobs now", _ASK),
    "PartitionInactive": Meaning("its partition is inactive", _ASK),
    "PartitionConfig": Meaning(
        "its partition does not allow what it asks for", "ask for less, or for another partition"
    ),
    "PartitionNodeLimit": Meaning(
        "it asks for more nodes than the partition has in service or allows a job", "ask for fewer nodes"
    ),
    "PartitionTimeLimit": Meaning(
        "its time limit is above that of the partition", "lower it: `scontrol update JobId=JOBID TimeLimit=`"
    ),
    "QOSNotAllowed": Meaning(
        "the partition or its account does not admit its QOS", "`gpuaas quota explain` shows which do"
    ),
    "AccountNotAllowed": Meaning("the partition does not admit its account", "`gpuaas project list` shows yours"),
    "InvalidAccount": Meaning(
        "its account does not exist any more, or its user is not in it", "`gpuaas project list` shows yours"
    ),
    "InvalidQOS": Meaning(
        "its QOS does not exist any more, or is not for its user", "`gpuaas quota explain` shows which are"
    ),
    "AccountingPolicy": Meaning("an accounting policy stands in the way", "`gpuaas quota explain` shows which"),
    "MaxMemPerLimit": Meaning("it asks for more memory a node than the partition allows", "ask for less memory"),
    "Prolog": Meaning("its nodes are being prepared: it starts in a moment"),
    "Cleaning": Meaning("its earlier run is still being cleared away"),
    "FedJobLock": Meaning("another cluster of the federation is deciding on it"),
    "SchedDefer": Meaning("it was not startable at once, and Slurm defers what is left"),
    "FrontEndDown": Meaning("no front-end node is up", _ASK),
    "PowerNotAvail": Meaning("there is not enough power for it now"),
    "PowerReserved": Meaning("the power that it needs is reserved"),
    "BurstBufferResources": Meaning("burst-buffer space is in use"),
    "BurstBufferStageIn": Meaning("its data are being staged in"),
    "BurstBufferOperation": Meaning("staging its data failed", _ASK),
    "InactiveLimit": Meaning("it did nothing for too long and was ended"),
    "TimeLimit": Meaning("it reached its time limit", "ask for more --time, or write checkpoints"),
    "DeadLine": Meaning("its deadline (--deadline) was reached"),
    "NonZeroExitCode": Meaning("its script ended with an error", "its output file says which"),
    "RaisedSignal": Meaning("a signal ended it", "its output file may say why"),
    "OutOfMemory": Meaning("it used more memory than it asked for", "ask for more with --mem"),
    "JobLaunchFailure": Meaning("Slurm could not start it on its nodes", _ASK),
    "SystemFailure": Meaning("Slurm, or a file system that it needs, failed", _ASK),
}
"""Of Slurm 26.05, src/common/job_state_reason.c (read 2026-11-27); limits are in `LIMITS`."""

_EXPLAIN: Final = "`gpuaas quota explain` shows the limit, and what would start"
_LESS: Final = "ask for less, or use another QOS: `gpuaas quota explain` shows what would start"

LIMITS: Final[Sequence[tuple[re.Pattern[str], Meaning]]] = tuple(
    (re.compile(pattern), meaning)
    for pattern, meaning in (
        (r"QOSMin", Meaning("it asks for less than its QOS demands", "ask for more, or use another QOS")),
        (
            r"(QOSGrp|AssocGrp).*(RunMinutes)",
            Meaning("what running jobs may still use until their time limits is at a limit", _EXPLAIN),
        ),
        (
            r"(QOSGrp|AssocGrp).*Minutes",
            Meaning(
                "what is left of the budget does not pay it until its time limit",
                "a shorter --time costs less; `gpuaas budget` shows what is left",
            ),
        ),
        (r"QOSGrp", Meaning("running jobs with its QOS have together as much as the QOS allows", _EXPLAIN)),
        (
            r"AssocGrp",
            Meaning("running jobs of its account, or of one above it, have together as much as it allows", _EXPLAIN),
        ),
        (r"(QOS|Assoc)Max.*(PerJob|PerNode|Wall)", Meaning("it asks for more than a job may have", _LESS)),
        (r"(QOS|Assoc)?Max.*", Meaning("its user or account has as much as it may have at once", _EXPLAIN)),
        (r"QOS(Job|Resource|Time|UsageThreshold)", Meaning("a limit of its QOS is reached", _EXPLAIN)),
        (r"Association(Job|Resource|Time)Limit", Meaning("a limit of its account or user is reached", _EXPLAIN)),
    )
)
"""Limits, by the beginning of Slurm's word; the first that matches."""

AT_THE_GATE: Final = Meaning(
    "it is at the placement gate, which looks for its nodes and lets it go within a moment", "look again in a moment"
)

FOR_BETTER: Final = Meaning(
    "it waits at the placement gate for better nodes, as its user allows",
    "`scontrol update JobId=JOBID Comment=` ends this wait",
)


def word_of(reason: str) -> str:
    """Slurm's word without what it adds: `ReqNodeNotAvail, UnavailableNodes:n1`."""
    return reason.partition(",")[0].strip() or "None"


def limit_meaning(reason: str) -> Meaning | None:
    """None where no limit holds the job."""
    word = word_of(reason)
    if word in REASONS:
        return None
    return next((meaning for pattern, meaning in LIMITS if pattern.match(word)), None)


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
    unknown = Meaning(f"Slurm says {word:.80}", "`man squeue` explains it under JOB REASON CODES")
    return REASONS.get(word) or limit_meaning(job.reason) or unknown


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
    """None where the job asks for no GPUs, or the partition has none. O(nodes + nodes of jobs).

    Args:
        nodes: of the job's partition.
        jobs: all that run or wait.
        free: nodes that a whole-node job could have now.
        promised: nodes given to other jobs that are about to start.
    """
    most = max((node.gpus for node in nodes), default=0)
    if not job.gpus or not most:
        return None
    wanted = max(job.node_count, -(-job.gpus // most))
    each = -(-job.gpus // wanted)
    whole = any(job.gpus == wanted * node.gpus for node in nodes)
    freed = _freed(jobs, now)
    at: list[datetime] = []
    available = 0
    for node in nodes:
        if not node.usable or NodeFlag.RESERVED in node.flags or node.name in promised or node.gpus < each:
            continue
        if (node.name in free) if whole else (node.free_gpus >= each):
            available += 1
            at.append(now)
        elif (moment := _roomy_at(node, freed.get(node.name, ()), node.gpus if whole else each, now)) is not None:
            at.append(moment)
    at.sort()
    return Room(
        whole=whole,
        nodes=wanted,
        gpus_per_node=each,
        free=available,
        enough_at=at[wanted - 1] if len(at) >= wanted else None,
    )


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
