"""Makes room for a job of whole nodes: which running jobs to move, and where to. Pure.

The room is decided first: as few pods, then leaf groups, as nodes that are free or could be made free allow. Then the
fewest moves that make it, and among those the cheapest (`room.py`). Moved jobs are placed one after another, the
largest first, outside the room. None ends on more leaf groups than it stands on: where placing them so would spread
one, the program is solved again with their places in it; only where that finds no solution are they spread.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Final

import numpy as np

from slurm_gpuaas.domain.errors import Unavailable
from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.words import plural
from slurm_gpuaas.topology.fabric import FabricArrays, IntArray
from slurm_gpuaas.topology.placement import Domain, Request, choose, fits
from slurm_gpuaas.topology.placer import FabricPlacer
from slurm_gpuaas.topology.room import Counts, Solution, solve

LEVELS: Final = ("pod", "leaf group")
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
        level: 0: one pod must hold them, 1: one leaf group; None: as few as can.
        usable: nodes that a job could be placed on, whoever is on them now.
        free: those that nobody is on.
        movable: jobs that may be moved, wholly on usable nodes.
    """

    count: int
    level: int | None = None
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
        loss: GPU-seconds lost by all moves.
        loss_bound: no plan with as many moves loses less.
    """

    reason: str = ""
    room: tuple[NodeName, ...] = ()
    used: Used = (0, 0)
    ideal: Used = (0, 0)
    now: Used | None = None
    moves: tuple[Move, ...] = ()
    bound: int = 0
    loss: int = 0
    loss_bound: int = 0

    @property
    def gap(self) -> int:
        """Moves above the bound; 0 = proven the fewest."""
        return len(self.moves) - self.bound


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
        moves = self._moves(found)
        if any(move.leaf_groups_after > move.leaf_groups_before for move in moves):
            housed = solve(counts, housed=True, until=until, least=found.bound)
            if housed is not None:
                found, moves = housed, self._moves(housed)
        return Defragmentation(
            room=self._named(self._room(found)),
            used=used,
            ideal=ideal,
            now=self._fewest(self._free),
            moves=moves,
            bound=found.bound,
            loss=int(counts.loss[found.moves].sum()),
            loss_bound=found.loss_bound,
        )

    def _too_small(self, clearable: Collection[NodeName]) -> str:
        level = self._question.level or 0
        most, could = (
            fits(self._domains(nodes), Request(count=1, required=level)) for nodes in (clearable, self._usable)
        )
        return (
            f"No {LEVELS[level]} has {self._question.count} nodes that are free or may be freed: {most} at most, "
            f"{could} if every job on usable nodes could move."
        )

    def _fewest(self, nodes: Iterable[NodeName]) -> Used | None:
        choice = choose(self._domains(nodes), Request(count=self._question.count, required=self._question.level))
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
        moving = self._moving(found)
        room = self._room(found)
        there = self._free - room
        later = {node for one in moving for node in one.nodes} - room
        homes = (
            dict(zip((one.job for one in self._movable), found.homes, strict=True)) if found.homes is not None else {}
        )
        moves = []
        for one in sorted(moving, key=lambda one: (-len(one.nodes), one.job)):
            before = self._spans(one.nodes)
            wanted = homes.get(one.job)
            if wanted is not None and wanted.any():
                to = self._at(wanted, there, later)
            else:
                to = self._placed(len(one.nodes), before, there, later)
            there = there.difference(to)
            later = later.difference(to)
            moves.append(Move(job=one.job, to=to, leaf_groups_before=before, leaf_groups_after=self._spans(to)))
        return self._in_order(moves, {one.job: one.nodes for one in moving})

    def _placed(
        self, count: int, before: int, there: Collection[NodeName], later: Collection[NodeName]
    ) -> tuple[NodeName, ...]:
        """On nodes that are free already, unless that spreads it."""
        placer = FabricPlacer(self._fabric)
        placement = placer.place(count, free=there, among=self._usable)
        if placement is None or placement.leaf_groups > before:
            placement = placer.place(count, free={*there, *later}, among=self._usable) or placement
        assert placement is not None  # as many nodes are left as moved jobs stand on, or the room would not fit
        return placement.nodes

    def _at(self, wanted: IntArray, there: Collection[NodeName], later: Collection[NodeName]) -> tuple[NodeName, ...]:
        left = wanted.copy()
        to = []
        for node in (*self._named(there), *self._named(later)):
            group = self._fabric.group[self._fabric.index[node]]
            if left[group]:
                left[group] -= 1
                to.append(node)
        return self._named(to)

    def _spans(self, nodes: Iterable[NodeName]) -> int:
        return int(np.count_nonzero(self._per_group(nodes)))

    def _in_order(self, moves: Sequence[Move], stands: dict[JobId, tuple[NodeName, ...]]) -> tuple[Move, ...]:
        """Whoever goes onto nodes of another moves after it. Two that swap nodes have no such order."""
        waiting = list(moves)
        ordered = []
        while waiting:
            occupied = {one.job: set(stands[one.job]) for one in waiting}
            one = next(
                (
                    move
                    for move in waiting
                    if not any(nodes.intersection(move.to) for job, nodes in occupied.items() if job != move.job)
                ),
                waiting[0],
            )
            waiting.remove(one)
            ordered.append(one)
        return tuple(ordered)
