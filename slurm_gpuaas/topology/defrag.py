"""Makes room for a job of whole nodes: which running jobs to move, and where to. Pure.

The room is decided first: as few pods, then leaf groups, as nodes that are free or could be made free allow. Then the
fewest moves that make it, and among those the cheapest (`room.py`). Moved jobs are placed one after another, the
largest first, outside the room, and in an order in which nobody is on their nodes any more. None is to end on more leaf
groups than it stands on (to be spread): where one would, the program is solved again with their places in it, for the
fewest moves that spread none, which may be more. Jobs are spread only where that finds no plan that has an order.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence, Set
from dataclasses import dataclass, replace
from time import monotonic
from typing import Final

import numpy as np

from slurm_gpuaas.domain.capacity import Level
from slurm_gpuaas.domain.errors import Unavailable
from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.words import plural
from slurm_gpuaas.topology.fabric import FabricArrays, IntArray
from slurm_gpuaas.topology.placement import Domain, Request, choose, fits
from slurm_gpuaas.topology.placer import FabricPlacer
from slurm_gpuaas.topology.room import Counts, Solution, solve

_DEPTH: Final = {Level.POD: 0, Level.LEAF_GROUP: 1}
"""In the paths of the fabric."""
Used = tuple[int, int]
"""Pods and leaf groups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Movable:
    """A running job of whole nodes that may be requeued, and the GPU-seconds that are lost then."""

    job: JobId
    nodes: tuple[NodeName, ...]
    loss: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """
    Args:
        count: nodes that there shall be room for.
        level: of which one domain must hold them.
        usable: nodes that a job could be placed on, whoever is on them now.
        free: those that nobody is on.
        movable: jobs that may be moved, wholly on usable nodes.
    """

    count: int
    level: Level = Level.FABRIC
    usable: Collection[NodeName]
    free: Collection[NodeName]
    movable: Sequence[Movable]


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    job: JobId
    to: tuple[NodeName, ...]
    leaf_groups_before: int
    leaf_groups_after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Defragmentation:
    """The room, and the moves that make it, in an order in which they can be made.

    Args:
        reason: why no moves make such room; empty when they do.
        room: nodes that are free for the job afterwards.
        used: what the room stands on.
        ideal: what it would stand on, were every usable node free.
        now: what the job could get without moves; None where it does not fit.
        bound: no plan for such room has fewer moves.
        unspread_bound: no plan that spreads no job has fewer moves; None where these were not searched for apart.
        loss: GPU-seconds lost by all moves.
        loss_bound: no plan with as many moves loses less; of those that spread no job, where `unspread_bound` is given.
    """

    reason: str = ""
    room: tuple[NodeName, ...] = ()
    used: Used = (0, 0)
    ideal: Used = (0, 0)
    now: Used | None = None
    moves: tuple[Move, ...] = ()
    bound: int = 0
    unspread_bound: int | None = None
    loss: int = 0
    loss_bound: int = 0

    @property
    def gap(self) -> int:
        """Moves above the bound; 0 = proven the fewest of all plans."""
        return len(self.moves) - self.bound

    @property
    def spread(self) -> int:
        """Jobs that end on more leaf groups than they stand on."""
        return sum(move.leaf_groups_after > move.leaf_groups_before for move in self.moves)


def defragment(fabric: FabricArrays, question: Question, *, seconds: float) -> Defragmentation:
    """The room, and the fewest moves that make it.

    Args:
        seconds: after which the best plan so far is given, with the bounds that are proven.

    Raises:
        Unavailable: no plan was found in that time.
    """
    return _Planner(fabric, question).plan(monotonic() + seconds)


class _Planner:
    def __init__(self, fabric: FabricArrays, question: Question) -> None:
        self._fabric = fabric
        self._question = question
        self._usable = {node for node in question.usable if node in fabric.index}
        self._free = self._usable.intersection(question.free)
        self._movable = [one for one in question.movable if self._usable.issuperset(one.nodes)]

    def plan(self, until: float) -> Defragmentation:
        clearable = self._free.union(*(one.nodes for one in self._movable))
        used, ideal = self._fewest(clearable), self._fewest(self._usable)
        count = self._question.count
        if len(self._free) < count:
            return Defragmentation(
                reason=f"{plural(count, 'node')} cannot be had by moving jobs: {len(self._free)} of "
                f"{len(self._usable)} usable nodes are free, and moves change only which."
            )
        if used is None or ideal is None:
            return Defragmentation(reason=self._too_small(clearable))
        counts = self._counts(used)
        found = solve(counts, housed=False, until=until)
        if found is None:
            raise Unavailable("No plan was found in time.", way_out="Ask again, or for fewer nodes.")
        plan = Defragmentation(used=used, ideal=ideal, now=self._fewest(self._free), bound=found.bound)
        plan = self._with(found, plan)
        if plan.spread and (housed := solve(counts, housed=True, until=until, least=found.bound)) is not None:
            plan = replace(plan, unspread_bound=housed.bound)
            plan = min(self._with(housed, plan), plan, key=lambda one: (one.spread, len(one.moves)))
        return plan

    def _with(self, found: Solution, plan: Defragmentation) -> Defragmentation:
        return replace(
            plan,
            room=self._named(self._room(found)),
            moves=self._moves(found),
            loss=sum(one.loss for one in self._moving(found)),
            loss_bound=found.loss_bound,
        )

    def _too_small(self, clearable: Collection[NodeName]) -> str:
        level = self._question.level
        most, could = (
            fits(self._domains(nodes), Request(count=1, required=_DEPTH.get(level)))
            for nodes in (clearable, self._usable)
        )
        return (
            f"No {level.words} has {self._question.count} nodes that are free or may be freed: {most} at most, "
            f"{could} if every job on usable nodes could move."
        )

    def _fewest(self, nodes: Iterable[NodeName]) -> Used | None:
        required = _DEPTH.get(self._question.level)
        choice = choose(self._domains(nodes), Request(count=self._question.count, required=required))
        if choice is None:
            return None
        pods, leaf_groups = choice.cost.used
        return pods, leaf_groups

    def _domains(self, nodes: Iterable[NodeName]) -> list[Domain]:
        return [Domain(path, int(free)) for path, free in zip(self._fabric.paths, self._per_group(nodes), strict=True)]

    def _per_group(self, nodes: Iterable[NodeName]) -> IntArray:
        index, group = self._fabric.index, self._fabric.group
        return np.bincount([group[index[node]] for node in nodes], minlength=len(self._fabric.paths)).astype(np.intp)

    def _counts(self, used: Used) -> Counts:
        pods = list(dict.fromkeys(pod for pod, _ in self._fabric.paths))
        stands = [self._per_group(one.nodes) for one in self._movable]
        return Counts(
            free=self._per_group(self._free),
            pod=np.array([pods.index(pod) for pod, _ in self._fabric.paths], dtype=np.intp),
            stands=np.array(stands, dtype=np.intp).reshape(-1, len(self._fabric.paths)),
            loss=np.array([one.loss for one in self._movable], dtype=np.intp),
            count=self._question.count,
            pods=used[0],
            groups=used[1],
        )

    # -- Names

    def _moving(self, found: Solution) -> list[Movable]:
        return [one for one, moves in zip(self._movable, found.moves, strict=True) if moves]

    def _room(self, found: Solution) -> set[NodeName]:
        """Nodes that are in use now first: moved jobs then go to nodes that are free already."""
        leaving = {node for one in self._moving(found) for node in one.nodes}
        left = found.room.copy()
        room = set()
        for node in (*self._named(leaving), *self._named(self._free)):
            group = self._fabric.group[self._fabric.index[node]]
            if left[group]:
                left[group] -= 1
                room.add(node)
        return room

    def _named(self, nodes: Iterable[NodeName]) -> tuple[NodeName, ...]:
        """In fabric order."""
        return tuple(sorted(nodes, key=self._fabric.index.__getitem__))

    def _moves(self, found: Solution) -> tuple[Move, ...]:
        """In an order in which each goes onto nodes that nobody else is on by then.

        Where those that are left would swap nodes, one of them is placed anew, on what is free by then and its own
        nodes. That is always enough: so many nodes as it leaves to the room are free beside its others.
        """
        room = self._room(found)
        free = self._free - room
        waiting = self._targets(found, room)
        moves = []
        while waiting:
            job = next((one for one, to in waiting.items() if free.union(one.nodes).issuperset(to)), None)
            if job is None:
                job, waiting[job] = self._anew(list(waiting)[::-1], free, room)
            to = waiting.pop(job)
            free = free.union(job.nodes).difference(room, to)
            before, after = self._spans(job.nodes), self._spans(to)
            moves.append(Move(job=job.job, to=to, leaf_groups_before=before, leaf_groups_after=after))
        return tuple(moves)

    def _anew(
        self, waiting: Iterable[Movable], free: Set[NodeName], room: Set[NodeName]
    ) -> tuple[Movable, tuple[NodeName, ...]]:
        """The first that is not spread by it; if all are, the one that is spread least."""
        spread = []
        for job in waiting:
            to = self._placed(job, (free | set(job.nodes)) - room)
            more = self._spans(to) - self._spans(job.nodes)
            if more <= 0:
                return job, to
            spread.append((more, job.job, job, to))
        _, _, job, to = min(spread)
        return job, to

    def _targets(self, found: Solution, room: Collection[NodeName]) -> dict[Movable, tuple[NodeName, ...]]:
        """The largest job first: on nodes that are free already, else those and its own, else those and any that are
        left, unless that would spread it."""
        moving = self._moving(found)
        free = self._free.difference(room)
        left = {node for one in moving for node in one.nodes}.difference(room)
        homes = (
            dict(zip((one.job for one in self._movable), found.homes, strict=True)) if found.homes is not None else {}
        )
        targets = {}
        for one in sorted(moving, key=lambda one: (-len(one.nodes), one.job)):
            own = left.intersection(one.nodes)
            wanted = homes.get(one.job)
            if wanted is not None and wanted.any():
                to = self._at(wanted, free, own, left - own)
            else:
                to = self._placed(one, free, free | own, free | left)
            targets[one] = to
            free, left = free.difference(to), left.difference(to)
        return targets

    def _placed(self, job: Movable, *choices: Collection[NodeName]) -> tuple[NodeName, ...]:
        """On the first choice that does not spread it; on the last if all do. That one is large enough."""
        placer = FabricPlacer(self._fabric)
        before = self._spans(job.nodes)
        for nodes in choices:
            placement = placer.place(len(job.nodes), free=nodes, among=self._usable)
            if placement is not None and placement.leaf_groups <= before:
                break
        assert placement is not None
        return placement.nodes

    def _at(self, wanted: IntArray, *choices: Collection[NodeName]) -> tuple[NodeName, ...]:
        """So many of each leaf group, of the first choice as far as it goes."""
        left = wanted.copy()
        to = []
        for node in (node for nodes in choices for node in self._named(nodes)):
            group = self._fabric.group[self._fabric.index[node]]
            if left[group]:
                left[group] -= 1
                to.append(node)
        return self._named(to)

    def _spans(self, nodes: Iterable[NodeName]) -> int:
        return int(np.count_nonzero(self._per_group(nodes)))
