"""The integer program of making room: which domains to clear, and which jobs move for it. Pure: counts in and out.

    x[j] = 1           job j moves, and leaves stands[j, g] nodes of leaf group g
    y[g] = 1, z[p] = 1 leaf group g, pod p holds a part of the room; there are at most as many as are asked for
    w[j, g]            x[j] and y[g]: what j leaves makes room only where the room is
    t[g]               nodes of the room: t[g] <= free[g] y[g] + sum of stands[j, g] w[j, g]; they sum up to the count

Where it matters where the moved jobs go, to no more leaf groups than they stand on, that is in it too:

    a[j, g], b[j, g]   nodes of g that job j of several nodes goes to; whether any: b[j] sums up to its groups at most
    s[g]               one-node jobs that go to g
    t[g] + s[g] + sum of a[j, g] <= free[g] + sum of stands[j, g] x[j]

First the fewest moves, then among those the least loss; HiGHS proves both, or says how far it got.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf
from time import monotonic
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from slurm_gpuaas.topology.fabric import BoolArray, IntArray

Floats = NDArray[np.float64]

LARGEST_LOSS: Final = 1000.0
"""What the largest loss is in the program: HiGHS keeps constraints, and proves, to about a millionth."""
EXACT: Final = 1e-6
OPTIMAL: Final = 0
"""What `scipy.optimize.milp` calls a solution that is proven."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """
    Args:
        free: nodes that nobody is on, shape (groups,).
        pod: number of each leaf group's pod, shape (groups,).
        stands: nodes of each group that a job is on, shape (jobs, groups).
        loss: of moving each job, not negative, shape (jobs,).
        count: nodes of the room.
        pods, groups: that it may stand on at most.
    """

    free: IntArray
    pod: IntArray
    stands: IntArray
    loss: IntArray
    count: int
    pods: int
    groups: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """
    Args:
        moves: jobs that move, shape (jobs,).
        room: nodes of the room in each group, shape (groups,).
        homes: where jobs of several nodes go, shape (jobs, groups); None where that was not asked.
        bound: no solution has fewer moves.
        loss_bound: none with as many moves loses less.
    """

    moves: BoolArray
    room: IntArray
    homes: IntArray | None
    bound: int
    loss_bound: int


def solve(counts: Counts, *, housed: bool, until: float, least: int = 0) -> Solution | None:
    """The best solution found; each of the two searches takes half of the time that is left at most.

    Args:
        housed: moved jobs must find nodes on as few leaf groups as they stand on.
        until: of `time.monotonic`.
        least: moves that are known to be needed.

    Returns:
        None where there is no solution, or none was found in time.
    """
    program = _Program(counts, housed=housed)
    jobs = len(counts.loss)
    fewest = program.least(np.ones(jobs), until, moves=(least, jobs))
    if fewest.values is None:
        return None
    moves = int(program.moves(fewest.values).sum())
    unit = max(counts.loss.max(initial=0), 1) / LARGEST_LOSS
    cheapest = program.least(counts.loss / unit, until, moves=(least, moves))
    values = fewest.values if cheapest.values is None else cheapest.values
    chosen = program.moves(values)
    loss = int(counts.loss[chosen].sum())
    return Solution(
        moves=chosen,
        room=program.whole(values, program.t),
        homes=program.homes(values),
        bound=max(ceil(fewest.bound - EXACT), least),
        loss_bound=loss if cheapest.optimal else min(int(cheapest.bound * unit), loss),
    )


@dataclass(frozen=True, slots=True)
class _Found:
    values: Floats | None
    bound: float
    optimal: bool


class _Program:
    """Variables stand one after the other; `t` and the like are their first numbers, shapes as above."""

    def __init__(self, counts: Counts, *, housed: bool) -> None:
        jobs, groups = counts.stands.shape
        pods = int(counts.pod.max()) + 1
        self._counts = counts
        self._pairs = np.argwhere(counts.stands > 0)
        self._several = np.flatnonzero(counts.stands.sum(axis=1) > 1) if housed else np.zeros(0, dtype=np.intp)
        self.x = np.arange(jobs)
        self.y = self.x.size + np.arange(groups)
        self.z = self.y[-1] + 1 + np.arange(pods)
        self.w = self.z[-1] + 1 + np.arange(len(self._pairs))
        self.t = self.z[-1] + 1 + len(self._pairs) + np.arange(groups)
        self.s = self.t[-1] + 1 + np.arange(groups if housed else 0)
        homes = len(self._several) * groups
        self.a = (self.t[-1] + 1 + self.s.size + np.arange(homes)).reshape(-1, groups)
        self.b = (self.t[-1] + 1 + self.s.size + homes + np.arange(homes)).reshape(-1, groups)
        self._size = int(self.t[-1]) + 1 + self.s.size + 2 * homes
        self._upper = np.ones(self._size)
        self._upper[self.t] = np.minimum(counts.free + counts.stands.sum(axis=0), counts.count)
        self._upper[self.s] = self._upper[self.a] = inf
        self._rows = _Rows()
        self._room()
        if housed:
            self._homes()

    def _room(self) -> None:
        counts, rows = self._counts, self._rows
        rows.add([(t, 1) for t in self.t], counts.count, counts.count)
        rows.add([(y, 1) for y in self.y], -inf, counts.groups)
        rows.add([(z, 1) for z in self.z], -inf, counts.pods)
        left: list[list[tuple[np.integer[Any], float]]] = [[] for _ in self.y]
        for (job, group), w in zip(self._pairs, self.w, strict=True):
            left[group].append((w, -int(counts.stands[job, group])))
            rows.add([(w, 1), (self.x[job], -1)], -inf, 0)
            rows.add([(w, 1), (self.y[group], -1)], -inf, 0)
        for group, (y, t) in enumerate(zip(self.y, self.t, strict=True)):
            rows.add([(y, 1), (self.z[counts.pod[group]], -1)], -inf, 0)
            rows.add([(t, 1), (y, -int(counts.free[group])), *left[group]], -inf, 0)
            rows.add([(t, 1), (y, -float(self._upper[t]))], -inf, 0)

    def _homes(self) -> None:
        counts, rows = self._counts, self._rows
        sizes = counts.stands.sum(axis=1)
        for number, job in enumerate(self._several):
            x, size = self.x[job], int(sizes[job])
            rows.add([*((a, 1) for a in self.a[number]), (x, -size)], 0, 0)
            rows.add([*((b, 1) for b in self.b[number]), (x, -int((counts.stands[job] > 0).sum()))], -inf, 0)
            for a, b in zip(self.a[number], self.b[number], strict=True):
                rows.add([(a, 1), (b, -size)], -inf, 0)
        rows.add([*((s, 1) for s in self.s), *((self.x[job], -1) for job in np.flatnonzero(sizes == 1))], 0, 0)
        for group, (t, s) in enumerate(zip(self.t, self.s, strict=True)):
            leaving = [
                (self.x[job], -int(counts.stands[job, group])) for job in np.flatnonzero(counts.stands[:, group])
            ]
            rows.add([(t, 1), (s, 1), *((a, 1) for a in self.a[:, group]), *leaving], -inf, int(counts.free[group]))

    def least(self, cost: Floats, until: float, *, moves: tuple[int, int]) -> _Found:
        """The least sum of `cost` over the jobs that move, which are so many at least and at most."""
        from scipy.optimize import Bounds, LinearConstraint, milp  # takes half a second, and is asked for rarely

        objective = np.zeros(self._size)
        objective[self.x] = cost
        moving = np.zeros((1, self._size))
        moving[0, self.x] = 1
        constraints = [LinearConstraint(*self._rows.matrix(self._size)), LinearConstraint(moving, *moves)]
        seconds = max((until - monotonic()) / 2, 0.05)
        found = milp(
            objective,
            integrality=np.ones(self._size),
            bounds=Bounds(0, self._upper),
            constraints=constraints,
            options={"time_limit": seconds, "mip_rel_gap": 0.0},
        )
        bound = max(found.mip_dual_bound or 0.0, 0.0)
        return _Found(found.x, bound, found.status == OPTIMAL)

    def moves(self, values: Floats) -> BoolArray:
        chosen: BoolArray = values[self.x] > 0.5
        return chosen

    def whole(self, values: Floats, numbers: IntArray) -> IntArray:
        return np.rint(values[numbers]).astype(np.intp)

    def homes(self, values: Floats) -> IntArray | None:
        if self.s.size == 0:
            return None
        homes = np.zeros_like(self._counts.stands)
        homes[self._several] = self.whole(values, self.a)
        return homes


class _Rows:
    """Constraints, row by row."""

    def __init__(self) -> None:
        self._row: list[int] = []
        self._column: list[np.integer[Any]] = []
        self._value: list[float] = []
        self._lower: list[float] = []
        self._upper: list[float] = []

    def add(self, terms: Sequence[tuple[np.integer[Any], float]], lower: float, upper: float) -> None:
        self._row += [len(self._lower)] * len(terms)
        self._column += [column for column, _ in terms]
        self._value += [value for _, value in terms]
        self._lower.append(lower)
        self._upper.append(upper)

    def matrix(self, columns: int) -> tuple[Any, list[float], list[float]]:
        from scipy.sparse import csr_array

        shape = (len(self._lower), columns)
        return csr_array((self._value, (self._row, self._column)), shape=shape), self._lower, self._upper
