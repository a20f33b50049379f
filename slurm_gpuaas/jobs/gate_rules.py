"""What the placement gate does with each waiting job. Pure: a picture of the cluster in, decisions out.

A job at the gate asks for a licence that our reservation holds. It gets nodes only when its whole set is free now, and
waits for a better one if its user allows that, with the set kept for it. Otherwise it is opened at once without nodes,
because a job that waits for a licence gets no backfill reservation and everybody passes it. One whose guarantee is in
use stays: it could not start anyway, and once let go Slurm would choose who gives way to it. For a guaranteed job the
quota core rules who gives way: the job gets their nodes, and Slurm preempts there whoever is burst. A job that got
nodes and does not start on them soon (a limit holds it, somebody was quicker, a node broke) is let go of them: the gate
never makes a job later by more than `patience` and what its user allows.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Final, Protocol, Self

from slurm_gpuaas.domain.giving_way import GivingWay
from slurm_gpuaas.domain.jobs import Job, JobId, JobState, PlacementOutcome, ServiceClass
from slurm_gpuaas.domain.names import NodeName, PartitionName
from slurm_gpuaas.domain.nodes import Node, NodeBase, NodeFlag
from slurm_gpuaas.domain.placement import Placement, Surroundings
from slurm_gpuaas.domain.policy import expand_nodes, fold_nodes
from slurm_gpuaas.domain.usage import service_class

LICENSE: Final = "placement"
FOR_NODES: Final = frozenset({"None", "Licenses", "Priority", "Resources"})
"""Pending reasons of jobs that wait for nodes, as far as Slurm has told; any other job may never start."""

ON_NODES: Final = frozenset({JobState.RUNNING, JobState.SUSPENDED})
SLURM_HOLDS: Final = "BadConstraints"
"""Reason of a job that Slurm itself has held (priority 0), since no nodes could ever give it what it asks for."""
NOT_YET: Final = frozenset(
    {
        "BeginTime",
        "Dependency",
        "DependencyNeverSatisfied",
        "JobArrayTaskLimit",
        "JobHeldAdmin",
        "JobHeldUser",
        "Reservation",
    }
)
"""Pending reasons of jobs that could not start with or without the gate: they stay at it until they can."""


class Placer(Protocol):
    """Chooses nodes. Pure: equal questions get equal answers."""

    def place(
        self,
        count: int,
        *,
        free: Collection[NodeName],
        among: Collection[NodeName],
        kept: Sequence[NodeName] = (),
        around: Surroundings = ...,
    ) -> Placement | None:
        """The best `count` nodes out of `free` (and all of `kept`, which the job stands on already), or None.

        Args:
            among: all nodes the job may ever run on; what is left over is judged against them.
            around: what else is weighed.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do with a job: pin it to the nodes of `placement`, open it without nodes (`placement` is None), or keep
    these nodes for it `until` a moment while it waits for better ones.

    `reason` is for people; `clears_pin` says that nodes we gave it before are to be taken back; `again` that it ran
    before and need not wait for Slurm's requeue delay; `unholds` that a hold of Slurm's own ends; `victims` give way on
    its nodes.
    """

    job: Job
    placement: Placement | None
    reason: str
    clears_pin: bool = False
    again: bool = False
    unholds: bool = False
    victims: tuple[JobId, ...] = ()
    until: datetime | None = None

    @property
    def outcome(self) -> PlacementOutcome:
        if self.until:
            return PlacementOutcome.WAITING
        return PlacementOutcome.PINNED if self.placement else PlacementOutcome.OPENED


@dataclass(frozen=True, slots=True)
class Kept:
    """Nodes that are reserved from a moment on: jobs that end by then may be on them."""

    nodes: frozenset[NodeName]
    until: datetime


@dataclass(frozen=True, kw_only=True)
class Picture:
    """The cluster at one moment.

    Args:
        partitions: nodes of each partition that we know.
        patience: how long a job may wait on the nodes it was given.
        grace: how long whoever gives way in a partition may take to end.
        rulings: who gives way to waiting guaranteed jobs; a job without one is none of the quota core's.
        kept: nodes kept for jobs that wait for better ones; the job may have them at any time.
        reserved: nodes of all other reservations.
        longest_wait: no job waits longer for better nodes.
        risks: probability that a node fails a job, where it is known to be above the others'.
        limits: most nodes of a job that may have one of these nodes.
        recovering: jobs that lost nodes and are being brought back: the gate leaves them alone.
    """

    now: datetime
    jobs: Sequence[Job]
    nodes: Mapping[NodeName, Node]
    partitions: Mapping[PartitionName, Collection[NodeName]]
    patience: timedelta
    grace: Mapping[PartitionName, timedelta] = field(default_factory=dict)
    rulings: Mapping[JobId, GivingWay] = field(default_factory=dict)
    kept: Mapping[JobId, Kept] = field(default_factory=dict)
    reserved: Sequence[Kept] = ()
    longest_wait: timedelta = timedelta(0)
    risks: Mapping[NodeName, float] = field(default_factory=dict)
    limits: Mapping[NodeName, int] = field(default_factory=dict)
    recovering: AbstractSet[JobId] = frozenset()

    @cached_property
    def waiting(self) -> Mapping[PartitionName, Mapping[int, int]]:
        """Sizes of the jobs of each partition that wait for nodes only, and how many there are of each."""
        sizes: dict[PartitionName, Counter[int]] = defaultdict(Counter)
        for job in self.jobs:
            if job.state is JobState.PENDING and job.priority and job.eligible is not None and job.eligible <= self.now:
                sizes[job.partition][job.node_count] += 1
        return sizes

    def others(self, job: Job) -> Mapping[int, int]:
        """The sizes that wait beside this job."""
        return +(Counter(self.waiting.get(job.partition, {})) - Counter([job.node_count]))

    @cached_property
    def ends(self) -> Mapping[NodeName, float]:
        """Seconds from now until the jobs on a node end by their time limits."""
        ends: dict[NodeName, float] = {}
        for job in self.jobs:
            if job.state in ON_NODES and job.started is not None and job.time_limit is not None:
                left = max((job.started + job.time_limit - self.now).total_seconds(), 0.0)
                ends.update((node, max(left, ends.get(node, 0.0))) for node in job.nodes)
        return ends

    def around(self, job: Job) -> Surroundings:
        runs = None if job.time_limit is None else job.time_limit.total_seconds()
        return Surroundings(mix=self.others(job), risks=self.risks, ends=self.ends, runs_s=runs)

    def closed(self, job: Job) -> set[NodeName]:
        """Nodes that are reserved for others before the job would end, or kept from jobs of its size."""
        ends = None if job.time_limit is None else self.now + job.time_limit
        others = [*self.reserved, *(kept for number, kept in self.kept.items() if number != job.id)]
        reserved = {node for one in others if ends is None or ends > one.until for node in one.nodes}
        # For a moment after a requeue Slurm calls every job a one-node job: its GPUs tell more.
        nodes = {name: self.nodes[name].gpus for name in self.limits if name in self.nodes}
        return reserved | {
            name
            for name, gpus in nodes.items()
            if max(job.node_count, -(-job.gpus // gpus) if gpus else 1) > self.limits[name]
        }

    def own(self, job: Job) -> set[NodeName]:
        """Nodes kept for the job that are idle: Slurm calls them reserved when the wait is over, but not for it."""
        kept = self.kept.get(job.id)
        idle = {name for name in kept.nodes if name in self.nodes and _is_idle(self.nodes[name])} if kept else set()
        return idle - self.occupied() if idle else idle

    def whole(self, job: Job) -> Sequence[NodeName]:
        """Nodes of the job's partition of which it takes all GPUs; empty where it takes parts."""
        gpus, rest = divmod(job.gpus, max(job.node_count, 1))
        return () if rest else self._by_gpus.get((job.partition, gpus), ())

    @cached_property
    def _by_gpus(self) -> Mapping[tuple[PartitionName, int], Sequence[NodeName]]:
        found: dict[tuple[PartitionName, int], list[NodeName]] = defaultdict(list)
        for partition, names in self.partitions.items():
            for name in names:
                if name in self.nodes and self.nodes[name].gpus:
                    found[partition, self.nodes[name].gpus].append(name)
        return found

    @cached_property
    def first(self) -> Mapping[PartitionName, JobId]:
        """Of the jobs that wait for nodes, the next one of each partition and those it shares nodes with."""
        waiting = [job for job in self.jobs if self._waits_for_nodes(job)]
        found = {}
        for partition, nodes in self.partitions.items():
            own = set(nodes)
            near = {other for other, others in self.partitions.items() if not own.isdisjoint(others)}
            if rivals := [job for job in waiting if job.partition in near]:
                found[partition] = min(rivals, key=_order).id
        return found

    def _waits_for_nodes(self, job: Job) -> bool:
        if job.state is not JobState.PENDING or job.priority == 0 or Pin.of(job) is not None:
            return False
        eligible = job.eligible is not None and job.eligible <= self.now
        return job.id in self.kept or (eligible and job.reason in FOR_NODES)

    def occupied(self) -> set[NodeName]:
        return occupied(self.jobs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """Nodes that we gave a job, as its administrator's comment says: in one update with the nodes themselves, so that a
    pin and the knowledge that it is ours come and go together, whatever crashes.

    Args:
        nodes: in any order.
        restarts: the run of the job that they were for.
        at: when.
    """

    nodes: frozenset[NodeName]
    restarts: int
    at: datetime

    def written_to(self, comment: str) -> str:
        """The comment with this pin in place of an older one; what others wrote stays."""
        return f"{without_pin(comment)} {self._text('placed')}".strip()

    def _text(self, word: str) -> str:
        moment = self.at.astimezone(UTC).isoformat(timespec="seconds")
        return f"gpuaas:{word}({fold_nodes(self.nodes)};{self.restarts};{moment})"

    @classmethod
    def of(cls, job: Job) -> Self | None:
        """None when the job's required nodes, if it has any, are its user's own."""
        pin = None if asks(job) or not job.required_nodes else cls._read(job.admin_comment, "placed")
        return pin if pin is not None and pin.nodes == set(job.required_nodes) else None

    @classmethod
    def _read(cls, comment: str, word: str) -> Self | None:
        found = next((note for note in _NOTE.finditer(comment) if note[1] == word), None)
        if found is None:
            return None
        try:
            nodes = frozenset(expand_nodes(found[2]))
            pin = cls(nodes=nodes, restarts=int(found[3]), at=datetime.fromisoformat(found[4]))
        except ValueError:
            return None
        return pin if pin.at.tzinfo else None


class Move(Pin):
    """Nodes for a job's next run, noted beside its pin while it still runs: it is requeued right after. One that is not
    (a crash in between) means nothing ten minutes later."""

    def written_to(self, comment: str) -> str:
        """The comment with this move in place of an older one; what others wrote stays, a pin too."""
        rest = _NOTE.sub(lambda note: "" if note[1] == "move" else note[0], comment)
        return f"{rest.strip()} {self._text('move')}".strip()

    @classmethod
    def of(cls, job: Job) -> Self | None:
        """None unless the job was requeued once since the note."""
        move = cls._read(job.admin_comment, "move")
        return move if move is not None and job.restarts == move.restarts + 1 else None

    def holds(self, now: datetime) -> bool:
        return now - self.at <= MOVE_HOLDS


MOVE_HOLDS: Final = timedelta(minutes=10)
_NOTE: Final = re.compile(r"gpuaas:(placed|move)\(([^;()]{1,100000});(\d{1,9});([0-9T:+-]{1,40})\)")


def without_pin(comment: str) -> str:
    """The comment without anything of ours: a new pin, or none, settles a move too."""
    return _NOTE.sub("", comment).strip()


def asks(job: Job) -> bool:
    """Whether the job asks for the gate's licence."""
    return any(_license_name(wanted) == LICENSE for wanted in job.licenses.split(","))


def with_gate(licenses: str) -> str:
    return f"{licenses},{LICENSE}:1" if licenses else f"{LICENSE}:1"


def without_gate(licenses: str) -> str:
    """The licences a job asks for, less the gate's; empty clears them."""
    return ",".join(wanted for wanted in licenses.split(",") if wanted and _license_name(wanted) != LICENSE)


def _license_name(wanted: str) -> str:
    return wanted.strip().partition(":")[0].partition("@")[0]


def concerned(job: Job) -> bool:
    """Whether the gate has to look at the job at all."""
    return job.state is JobState.PENDING and (asks(job) or Pin.of(job) is not None or Move.of(job) is not None)


def promised(jobs: Iterable[Job]) -> Mapping[JobId, frozenset[NodeName]]:
    """Nodes that waiting jobs were given for this run and have not started on yet."""
    pins = ((job, Pin.of(job)) for job in jobs if job.state is JobState.PENDING and job.priority)
    return {job.id: pin.nodes for job, pin in pins if pin is not None and pin.restarts == job.restarts}


def asking(jobs: Iterable[Job], now: datetime) -> list[Job]:
    """Jobs at the gate that could start now, in the order of deciding."""
    return [job for job in in_order(jobs) if asks(job) and _could_start(job, now)]


def in_order(jobs: Iterable[Job], kept: Collection[JobId] = ()) -> list[Job]:
    """Jobs that the gate has to look at, those that nodes are kept for among them."""
    return sorted((job for job in jobs if concerned(job) or _returned(job, kept)), key=_order)


def _returned(job: Job, kept: Collection[JobId]) -> bool:
    """Whether the job comes back from a start that was called off (`looks_again`)."""
    return job.id in kept and job.state is JobState.PENDING and not job.required_nodes


def _order(job: Job) -> tuple[int, datetime, JobId]:
    return -job.priority, job.submitted, job.id


def _could_start(job: Job, now: datetime) -> bool:
    return job.priority != 0 and job.reason not in NOT_YET and job.eligible is not None and job.eligible <= now


def decide(picture: Picture, placer: Placer) -> list[Decision]:
    """A decision for each job that needs one now; no node is given twice.

    Jobs that run again come first and keep what is left of their nodes, or move; then the highest priority."""
    pending = [job for job in in_order(picture.jobs, picture.kept) if job.id not in picture.recovering]
    occupied = picture.occupied()
    room = _Room(picture, occupied)
    decisions: list[Decision] = []
    again: list[tuple[Job, Pin]] = []
    moved: set[JobId] = set()
    for job in pending:
        if (decision := _moved(job, occupied | room.clearing, picture, placer)) is not None:
            decisions.append(decision)
            moved.add(job.id)
            occupied |= _given(decision)
    room.free -= occupied
    pending = [job for job in pending if job.id not in moved]
    for job in pending:
        if (pin := Pin.of(job)) is None:
            continue
        if job.priority == 0:  # a held job keeps nobody from its nodes
            if job.reason == SLURM_HOLDS:
                decisions.append(_unheld(job))
            continue
        if pin.restarts != job.restarts:
            again.append((job, pin))
            room.free -= set(_survivors(pin, occupied, picture))
        elif released := _released(job, pin, picture):
            decisions.append(released)
        else:
            room.free -= pin.nodes
    for job, pin in again:
        decisions.append(_replaced(job, pin, room.free, occupied, picture, placer))
        room.free -= _given(decisions[-1])
    for job in pending:
        at_gate = asks(job) or _returned(job, picture.kept)
        if at_gate and (decision := _placed(job, room, picture, placer)):
            decisions.append(decision)
            room.give(decision, picture)
    return decisions


class _Room:
    """What is free, less what decisions give away.

    Args:
        free: nodes that a whole-node job could have now.
        clearing: nodes that waiting jobs were given; on some of them somebody gives way. Nobody else gets them.
        gpus: what is free on each usable node, for jobs of a part of it.
    """

    def __init__(self, picture: Picture, occupied: Collection[NodeName]) -> None:
        self.free = free_nodes(picture.nodes.values(), occupied)
        self.clearing: set[NodeName] = set()
        self.gpus = {name: node.free_gpus for name, node in picture.nodes.items() if node.free_gpus}
        by_id = {job.id: job for job in picture.jobs}
        for number, nodes in promised(picture.jobs).items():
            self._take(by_id[number], nodes, picture)

    def give(self, decision: Decision, picture: Picture) -> None:
        if decision.until is not None and decision.job.id in picture.kept:
            return  # reserved already, and lent until then
        self._take(decision.job, _given(decision), picture)

    def _take(self, job: Job, nodes: Collection[NodeName], picture: Picture) -> None:
        self.free -= set(nodes)
        for name in nodes:
            left = self.gpus.get(name, 0) - job.gpus // max(job.node_count, 1)
            if left > 0:
                self.gpus[name] = left
            else:
                self.gpus.pop(name, None)
                self.clearing.add(name)


def _given(decision: Decision) -> set[NodeName]:
    return set(decision.placement.nodes) if decision.placement else set()


def occupied(jobs: Iterable[Job]) -> set[NodeName]:
    """Nodes with a job on them."""
    return {node for job in jobs if job.state in ON_NODES for node in job.nodes}


def free_nodes(nodes: Iterable[Node], taken: Collection[NodeName]) -> set[NodeName]:
    """Nodes that a whole-node job could start on now, less those that are taken."""
    return {node.name for node in nodes if is_free(node) and node.name not in taken}


def is_free(node: Node) -> bool:
    """Whether a whole-node job could start on it now."""
    return _is_idle(node) and NodeFlag.RESERVED not in node.flags


def _is_idle(node: Node) -> bool:
    return node.usable and node.base is NodeBase.IDLE and NodeFlag.COMPLETING not in node.flags


def _placed(job: Job, room: _Room, picture: Picture, placer: Placer) -> Decision | None:
    """First decision about a job at the gate; None leaves it there."""
    # What Slurm queues again it delays: not for a job that nodes are kept for.
    if job.priority == 0 or not (job.id in picture.kept or _could_start(job, picture.now)):
        return None
    ruling = picture.rulings.get(job.id)
    if ruling and ruling.waits:
        return None
    if why := _not_ours_to_place(job, picture):
        return Decision(job=job, placement=None, reason=why)
    if not (fitting := picture.whole(job)):
        return _part_of_a_node(job, ruling, room, picture, placer)
    among = picture.partitions[job.partition]
    closed = picture.closed(job)
    free = room.free | picture.own(job)
    nodes = [name for name in fitting if name in free and name not in closed]
    around = picture.around(job)

    def place(nodes: Collection[NodeName]) -> Placement | None:
        enough = len(nodes) >= job.node_count
        return placer.place(job.node_count, free=nodes, among=among, around=around) if enough else None

    placement = place(nodes)
    if waiting := _waiting(job, placement, nodes, picture, place):
        return waiting
    kept = picture.kept.get(job.id)
    if placement is None and kept and len(kept.nodes) == job.node_count:
        placement = place(_usable(kept.nodes, picture))  # to whom they were lent is just leaving them
    if placement is not None:
        return Decision(job=job, placement=placement, reason=placement.why, again=not asks(job))
    if ruling and ruling.victims:
        theirs = _nodes_of(ruling.victims, among, picture).difference(room.clearing, closed)
        if (placement := place([*nodes, *sorted(theirs - set(nodes))])) is not None:
            reason = f"{ruling.why} {placement.why}"
            return Decision(job=job, placement=placement, reason=reason, victims=ruling.victims)
    reason = f"It needs {job.node_count} free nodes of partition {job.partition}; {len(nodes)} are free."
    return Decision(job=job, placement=None, reason=reason)


def _usable(names: Iterable[NodeName], picture: Picture) -> list[NodeName]:
    return [name for name in names if name in picture.nodes and picture.nodes[name].usable]


WAITS: Final = re.compile(r"(?:^|\s)gpuaas:wait=([0-9]{1,6})([smh])(?:\s|$)")
UNITS: Final = {"s": 1, "m": 60, "h": 3600}
WORTH: Final = 0.05
"""A job waits for better nodes no longer than this part of its time limit: what a good place saves is of that order
(Arnold, arXiv 2509.15940: +10.6 % end to end from alignment at 9,600 GPUs)."""


def allowed_wait(job: Job) -> timedelta:
    """How long its user lets the job wait for better nodes: `--comment="gpuaas:wait=10m"`."""
    found = WAITS.search(job.comment)
    return timedelta(seconds=int(found[1]) * UNITS[found[2]]) if found else timedelta(0)


def longest_wait(allowed: timedelta, limit: timedelta | None, longest: timedelta) -> timedelta:
    """What it pays to wait: see `WORTH`."""
    return min(allowed, longest) if limit is None else min(allowed, longest, limit * WORTH)


def is_better(one: Placement, other: Placement) -> bool:
    """Whether it is worth a wait: fewer pods or leaf groups, or no whole leaf group broken."""
    return (one.pods, one.leaf_groups, one.broken) < (other.pods, other.leaf_groups, other.broken)


def _waiting(
    job: Job,
    placement: Placement | None,
    free: Collection[NodeName],
    picture: Picture,
    place: Callable[[Collection[NodeName]], Placement | None],
) -> Decision | None:
    """The job waits for better nodes, or goes on doing so; None where it does not.

    It pays only if by time limits better ones get free in time. Only the next job of its partition may wait: another
    one would make who is before it wait, too. Of one node all are alike.
    """
    kept = picture.kept.get(job.id)
    wait = longest_wait(allowed_wait(job), job.time_limit, picture.longest_wait)
    until = kept.until if kept else picture.now + wait
    left = until - picture.now
    if job.node_count < 2 or not timedelta(0) < left <= wait or picture.first.get(job.partition) != job.id:
        return None
    if kept and not len(kept.nodes) == job.node_count == len(_usable(kept.nodes, picture)):
        return None
    if placement is None:
        reason = f"It waits {left.total_seconds():.0f} s at most: its nodes are lent until then."
        return Decision(job=job, placement=None, reason=reason, until=until) if kept else None
    better = place([*free, *_free_within(left, picture.whole(job), picture, free)])
    if better is None or not is_better(better, placement):
        return None
    reason = f"It waits {left.total_seconds():.0f} s at most for {better.why} Free for it now: {placement.why}"
    return Decision(job=job, placement=placement, reason=reason, until=until)


def _free_within(
    left: timedelta, fitting: Iterable[NodeName], picture: Picture, free: Collection[NodeName]
) -> list[NodeName]:
    """Nodes whose jobs end in this time by their limits."""
    there = set(free)
    return [
        name
        for name in fitting
        if name not in there
        and picture.nodes[name].usable
        and picture.ends.get(name, left.total_seconds() + 1) <= left.total_seconds()
    ]


def looks_again(job: Job, picture: Picture, placer: Placer) -> Decision | None:
    """Whether a job that Slurm is about to start, on nodes of Slurm's choice, goes back to the gate because its user
    lets it wait for better ones. Its nodes are kept for it then. None: it starts.

    Not if somebody before it waits: it fills in then, and would do so no more. Once only, and again while its nodes
    are kept and the gate has not got hold of it yet: seconds after it queued the job again Slurm starts it on them.
    """
    wait = longest_wait(allowed_wait(job), job.time_limit, picture.longest_wait)
    if not wait or not job.requeue or job.node_count < 2 or _not_ours_to_place(job, picture):
        return None
    if job.restarts:
        return _called_off_again(job, picture, placer)
    before = (other for other in picture.jobs if other.id == picture.first.get(job.partition))
    if any(_order(other) < _order(job) for other in before) or not (fitting := picture.whole(job)):
        return None
    among = picture.partitions[job.partition]
    free = free_nodes(picture.nodes.values(), picture.occupied()).union(job.nodes) - picture.closed(job)
    soon = [name for name in fitting if name in free]
    soon += _free_within(wait, fitting, picture, soon)
    placement = placer.place(len(job.nodes), free=(), among=among, kept=job.nodes)
    better = placer.place(len(job.nodes), free=soon, among=among, around=picture.around(job))
    if placement is None or better is None:
        return None
    if (better.pods, better.leaf_groups) >= (placement.pods, placement.leaf_groups):
        return None
    reason = (
        f"Slurm would start it on {placement.leaf_groups} leaf groups; it may wait {wait.total_seconds():.0f} s for "
        f"{better.why}"
    )
    return Decision(job=job, placement=placement, reason=reason, until=picture.now + wait)


MOST_RESTARTS: Final = 5
"""Of a job whose start is called off again; it takes Slurm about 5 s each (26.05)."""


def _called_off_again(job: Job, picture: Picture, placer: Placer) -> Decision | None:
    kept = picture.kept.get(job.id)
    if kept is None or kept.until <= picture.now or kept.nodes != set(job.nodes) or job.restarts > MOST_RESTARTS:
        return None
    placement = placer.place(len(job.nodes), free=(), among=picture.partitions[job.partition], kept=job.nodes)
    if placement is None:
        return None
    reason = f"Slurm would start it once more before the gate had it back: {placement.why}"
    return Decision(job=job, placement=placement, reason=reason, until=kept.until)


def _part_of_a_node(job: Job, ruling: GivingWay | None, room: _Room, picture: Picture, placer: Placer) -> Decision:
    """A job of a few GPUs goes where they fit tightest, best on a node in use; if nobody has them free, to whom they
    are taken from."""
    closed = picture.closed(job).union(room.clearing)
    among = [name for name in picture.partitions[job.partition] if name in picture.nodes and name not in closed]
    if job.node_count == 1 and job.gpus:
        if placement := _tightest(job, among, room, picture, placer):
            return Decision(job=job, placement=placement, reason=placement.why)
        if ruling and ruling.victims and (placement := _from_victims(job, ruling, among, picture, placer)):
            reason = f"{ruling.why} {placement.why}"
            return Decision(job=job, placement=placement, reason=reason, victims=ruling.victims)
    reason = f"{job.gpus} GPUs on {job.node_count} nodes are no whole nodes."
    return Decision(job=job, placement=None, reason=reason)


def _tightest(job: Job, among: Collection[NodeName], room: _Room, picture: Picture, placer: Placer) -> Placement | None:
    fitting = [(gpus, name) for name in among if (gpus := room.gpus.get(name, 0)) >= job.gpus]
    least = min((gpus for gpus, _ in fitting), default=0)
    names = [name for gpus, name in fitting if gpus == least]
    # A leaf group is whole when all its nodes are free, not when all fit as tightly.
    among = picture.partitions[job.partition]
    return placer.place(1, free=names, among=among, around=Surroundings(risks=picture.risks)) if names else None


def _from_victims(
    job: Job, ruling: GivingWay, among: Collection[NodeName], picture: Picture, placer: Placer
) -> Placement | None:
    freed: Counter[NodeName] = Counter()
    for victim in picture.jobs:
        if victim.id in ruling.victims:
            freed.update({name: victim.gpus // len(victim.nodes) for name in victim.nodes})
    # Slurm preempts whom it likes on the node, so only one where it can take nobody else is given
    others = {
        name
        for other in picture.jobs
        if other.state in ON_NODES and other.id not in ruling.victims and service_class(other.qos) is ServiceClass.BURST
        for name in other.nodes
    }
    names = [
        name
        for name in among
        if name in freed and name not in others and _free_after(picture.nodes[name], freed[name]) >= job.gpus
    ]
    return placer.place(1, free=names, among=among) if names else None


def _free_after(node: Node, freed: int) -> int:
    return node.free_gpus + freed if node.usable else 0


def _nodes_of(victims: Collection[JobId], among: Collection[NodeName], picture: Picture) -> set[NodeName]:
    """Usable nodes that are wholly the victims'."""
    theirs = {name for job in picture.jobs if job.id in victims for name in job.nodes}
    others = {name for job in picture.jobs if job.state in ON_NODES and job.id not in victims for name in job.nodes}
    return {name for name in theirs - others if name in among and name in picture.nodes and picture.nodes[name].usable}


def _not_ours_to_place(job: Job, picture: Picture) -> str:
    """Why Slurm shall place the job, or nothing."""
    if job.array_job_id is not None:
        return "A change to an array would pin all its tasks to the same nodes."
    if job.required_nodes:
        return "It names its nodes itself."
    if job.reservation:
        return f"It runs in reservation {job.reservation}."
    if job.excluded_nodes or job.features:
        return "It excludes nodes or asks for features: Slurm knows which fit."
    if _is_limited(job):
        return f"A limit holds it: {job.reason}."
    if job.partition not in picture.partitions:
        return f"The nodes of partition {job.partition} are not declared in the policy."
    if job.node_count > 1 and not picture.whole(job):
        return f"{job.gpus} GPUs on {job.node_count} nodes are no whole nodes."
    return ""


def _is_whole(gpus: int, count: int, node: Node) -> bool:
    """Whether a job of so many GPUs on `count` such nodes takes all their GPUs."""
    return count > 0 and gpus == count * node.gpus


def _is_limited(job: Job) -> bool:
    return job.reason.startswith(("QOS", "Assoc"))


def _released(job: Job, pin: Pin, picture: Picture) -> Decision | None:
    """Take a pin back that does the job no good; None leaves it."""
    if _is_limited(job):
        reason = f"A limit holds it: {job.reason}."
    elif broken := sorted(name for name in pin.nodes if name not in picture.nodes or not picture.nodes[name].usable):
        reason = f"{broken[0]} went out of service before it started."
    elif picture.now - pin.at <= _patience(job, pin, picture) or _is_clearing(pin.nodes, picture.nodes):
        return None
    else:
        seconds = (picture.now - pin.at).total_seconds()
        reason = f"It did not start on its nodes in {seconds:.0f} s ({job.reason})."
    return Decision(job=job, placement=None, reason=reason, clears_pin=True)


def _unheld(job: Job) -> Decision:
    """Slurm holds for ever what it cannot start: where the nodes that we chose left the partition, or somebody excluded
    them, since then."""
    return Decision(
        job=job, placement=None, reason="Slurm held it: it may not start on its nodes.", clears_pin=True, unholds=True
    )


def _patience(job: Job, pin: Pin, picture: Picture) -> timedelta:
    """Longer while somebody gives way on its nodes."""
    grace = picture.grace.get(job.partition, timedelta(0))
    return picture.patience + grace if pin.nodes & picture.occupied() else picture.patience


def _is_clearing(names: Iterable[NodeName], nodes: Mapping[NodeName, Node]) -> bool:
    """Whether an earlier job is just leaving one of the nodes: it will be free in a moment."""
    return any(NodeFlag.COMPLETING in nodes[name].flags for name in names if name in nodes)


def _survivors(pin: Pin, occupied: Collection[NodeName], picture: Picture) -> list[NodeName]:
    """Nodes of a pin that are in service and not taken by another job; they may still be clearing."""
    return [
        name
        for name in sorted(pin.nodes)
        if name in picture.nodes and picture.nodes[name].usable and name not in occupied
    ]


def _moved(job: Job, taken: Collection[NodeName], picture: Picture, placer: Placer) -> Decision | None:
    """The job was requeued to make room: onto the nodes noted for it. None where it was not, or they are not there any
    more; then it is treated as one that runs again, or left to Slurm."""
    move = Move.of(job)
    if move is None or job.priority == 0 or _is_limited(job) or not move.holds(picture.now):
        return None
    kept = _survivors(move, picture.closed(job).union(taken), picture)
    if len(kept) < len(move.nodes):
        return None
    among = picture.partitions.get(job.partition, ())
    placement = placer.place(len(kept), free=(), among=among, kept=kept)
    if placement is None:
        return None
    return Decision(job=job, placement=placement, reason=f"Moved to make room: {placement.why}", again=True)


def _replaced(
    job: Job,
    pin: Pin,
    free: AbstractSet[NodeName],
    occupied: Collection[NodeName],
    picture: Picture,
    placer: Placer,
) -> Decision:
    """The job runs again: on what is left of its old set, and the best spares for the rest."""
    closed = picture.closed(job)
    kept = _survivors(pin, closed.union(occupied), picture)
    among = picture.partitions.get(job.partition, ())
    # Counted by its old set: for a moment after a requeue Slurm calls every job a one-node job.
    room = [
        name
        for name in among
        if name in free
        and name not in kept
        and name not in closed
        and _is_whole(job.gpus, len(pin.nodes), picture.nodes[name])
    ]
    placement = None if _is_limited(job) else placer.place(len(pin.nodes), free=room, among=among, kept=kept)
    lost = len(pin.nodes) - len(kept)
    if placement is None:
        reason = f"{lost} of its {len(pin.nodes)} nodes are gone and {len(room)} spares are free: Slurm places it."
        return Decision(job=job, placement=None, reason=reason, clears_pin=True, again=True)
    reason = f"{len(kept)} of its {len(pin.nodes)} nodes are left; {placement.why}"
    return Decision(job=job, placement=placement, reason=reason, again=True)
