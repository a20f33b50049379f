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
        packing.waiting[parcel] -= 1
        possible = [pool for pool in parcel.pools if pool >= first.get(parcel, 0) and packing.left[pool] >= parcel.gpus]
        for pool in possible:
            packing.left[pool] -= parcel.gpus
            if packing.fits():
                places.append(pool)
                first[parcel] = pool
                break
            packing.left[pool] += parcel.gpus
        else:
            raise AssertionError(f"{parcel.gpus} GPUs that fitted with all others fit nowhere.")
    return places


@dataclass(slots=True)
class _Packing:
    """`waiting`: how many of each kind have no place yet; `left`: GPUs of each pool without those that have one."""

    left: list[int]
    waiting: Counter[Parcel]
    deadline: float
    clock: Callable[[], float]
    odd: dict[Parcel, Counter[int]] = field(default_factory=dict)
    """Where the last program put those that are not whole servers, the hard part of filling pools to the last GPU."""

    def fits(self) -> bool:
        """Whether all that wait find a place: tried the quick ways first."""
        return self._packs_beside_odd() or _packs(self.waiting, self.left) or self._can_pack()

    def _packs_beside_odd(self) -> bool:
        if any(self.waiting[parcel] != placed.total() for parcel, placed in self.odd.items()):
            return False
        room = list(self.left)
        for parcel, placed in self.odd.items():
            for pool, count in placed.items():
                room[pool] -= parcel.gpus * count
        rest = {parcel: count for parcel, count in self.waiting.items() if parcel not in self.odd}
        return min(room, default=0) >= 0 and _packs(rest, room)

    def _can_pack(self) -> bool:
        waiting = {parcel: count for parcel, count in self.waiting.items() if count}
        program = IntegerProgram(self.deadline, self.clock)
        columns: dict[tuple[Parcel, int], int] = {}
        for parcel, count in waiting.items():
            there = [pool for pool in parcel.pools if self.left[pool] >= parcel.gpus]
            for pool in there:
                columns[parcel, pool] = program.column(min(count, self.left[pool] // parcel.gpus))
            if not there:
                return False
            program.row([(columns[parcel, pool], 1) for pool in there], low=count, high=count)
        sizes = {1, 2, 4, SERVER, *(parcel.gpus for parcel in waiting)}
        for pool, room in enumerate(self.left):
            inside = [(column, parcel.gpus) for (parcel, there), column in columns.items() if there == pool]
            for size in sizes:  # in units of each: a search does not see by itself that 12 GPUs hold one server
                if inside and (size == 1 or room % size):
                    program.row([(column, gpus // size) for column, gpus in inside if gpus >= size], high=room // size)
        try:
            found = program.maximise([])
        except Infeasible:
            return False
        self.odd = {parcel: Counter() for parcel in waiting if parcel.gpus % SERVER}
        for (parcel, pool), column in columns.items():
            if parcel in self.odd:
                self.odd[parcel][pool] = found[column]
        return True


def _packs(waiting: Mapping[Parcel, int], left: Sequence[int]) -> bool:
    """Whether the largest first, each into the fullest pool that holds it, finds a place for all. If not, another way
    may."""
    room = list(left)
    for parcel, count in sorted(waiting.items(), key=lambda one: (-one[0].gpus, len(one[0].pools))):
        for pool in sorted(parcel.pools, key=lambda pool: room[pool]):
            placed = min(count, room[pool] // parcel.gpus)
            room[pool] -= placed * parcel.gpus
            count -= placed
        if count:
            return False
    return True
