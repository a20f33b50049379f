"""Which pool each award is in, when how much everybody gets is settled.

The rule: the larger award first, of equal ones that with the earlier id, goes into the first pool by name where it may
be and with which all others still find a place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from slurm_gpuaas.pool.integer_program import Infeasible, IntegerProgram

SERVER: Final = 8


class Parcel(NamedTuple):
    """GPUs of an award and the pools where it may be, by number."""

    gpus: int
    pools: tuple[int, ...]


def divide(
    parcels: Sequence[Parcel], capacities: Sequence[int], *, deadline: float, clock: Callable[[], float]
) -> list[int] | None:
    """The pool of each parcel; None where the pools cannot hold them all.

    Args:
        parcels: in the order of the rule.
        capacities: GPUs of each pool, in the order of names.

    Raises:
        NotProven: at the deadline.
    """
    packing = _Packing(list(capacities), Counter(parcels), deadline, clock)
    if not packing.fits():
        return None
    places: list[int] = []
    first: dict[Parcel, int] = {}  # where the last one of its kind is: what was too early for it is so for the next
    for parcel in parcels:
        possible = (pool for pool in parcel.pools if pool >= first.get(parcel, 0))
        pool = next((pool for pool in possible if packing.puts(parcel, pool)), None)
        if pool is None:
            raise AssertionError(f"{parcel.gpus} GPUs that fitted with all others fit nowhere.")
        places.append(pool)
        first[parcel] = pool
    return places


Places = dict[Parcel, Counter[int]]
"""How many of each kind are in each pool."""


@dataclass(slots=True)
class _Packing:
    """`waiting`: how many of each kind have no place yet; `left`: GPUs of each pool without those that have one."""

    left: list[int]
    waiting: Counter[Parcel]
    deadline: float
    clock: Callable[[], float]
    known: Places = field(default_factory=dict)
    """A way to place all that wait."""

    def puts(self, parcel: Parcel, pool: int) -> bool:
        """Place one of those that wait in this pool, if all others still find a place then."""
        if self.left[pool] < parcel.gpus:
            return False
        self.waiting[parcel] -= 1
        self.left[pool] -= parcel.gpus
        if self.known[parcel][pool]:
            self.known[parcel][pool] -= 1
            return True
        if self.fits():
            return True
        self.waiting[parcel] += 1
        self.left[pool] += parcel.gpus
        return False

    def fits(self) -> bool:
        """Whether all that wait find a place: tried the quick ways first."""
        found = self._packs_beside_odd() or _packs(self.waiting, self.left) or self._searched()
        if found is None:
            return False
        self.known = found
        return True

    def _packs_beside_odd(self) -> Places | None:
        """With those that are not whole servers, the hard part of filling pools to the last GPU, where they are known
        to fit."""
        odd = {parcel: placed for parcel, placed in self.known.items() if parcel.gpus % SERVER}
        if not odd or any(self.waiting[parcel] != placed.total() for parcel, placed in odd.items()):
            return None
        room = list(self.left)
        for parcel, placed in odd.items():
            for pool, count in placed.items():
                room[pool] -= parcel.gpus * count
        rest = {parcel: count for parcel, count in self.waiting.items() if parcel not in odd}
        found = _packs(rest, room) if min(room) >= 0 else None
        return None if found is None else {**odd, **found}

    def _searched(self) -> Places | None:
        program = IntegerProgram(self.deadline, self.clock)
        columns: dict[tuple[Parcel, int], int] = {}
        for parcel, count in self.waiting.items():
            there = [pool for pool in parcel.pools if self.left[pool] >= parcel.gpus]
            for pool in there:
                columns[parcel, pool] = program.column(min(count, self.left[pool] // parcel.gpus))
            if count and not there:
                return None
            program.row([(columns[parcel, pool], 1) for pool in there], low=count, high=count)
        sizes = {1, 2, 4, SERVER, *(parcel.gpus for parcel in self.waiting)}
        for pool, room in enumerate(self.left):
            inside = [(column, parcel.gpus) for (parcel, there), column in columns.items() if there == pool]
            for size in sizes:  # in units of each: a search does not see by itself that 12 GPUs hold one server
                if inside and (size == 1 or room % size):
                    program.row([(column, gpus // size) for column, gpus in inside if gpus >= size], high=room // size)
        try:
            found = program.maximise([])
        except Infeasible:
            return None
        places: Places = {parcel: Counter() for parcel in self.waiting}
        for (parcel, pool), column in columns.items():
            places[parcel][pool] = found[column]
        return places


def _packs(waiting: Mapping[Parcel, int], left: Sequence[int]) -> Places | None:
    """The largest first, each into the fullest pool that holds it. None: not all find a place so; another way may."""
    room = list(left)
    places: Places = {parcel: Counter() for parcel in waiting}
    for parcel, count in sorted(waiting.items(), key=lambda one: (-one[0].gpus, len(one[0].pools))):
        for pool in sorted(parcel.pools, key=lambda pool: room[pool]):
            placed = min(count, room[pool] // parcel.gpus)
            places[parcel][pool] = placed
            room[pool] -= placed * parcel.gpus
            count -= placed
        if count:
            return None
    return places
