"""Which pool each award is in, when how much everybody gets is settled.

The rule: each award in turn goes into the first pool where it may be and with which all later awards still find a place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from slurm_gpuaas.pool.integer_program import Infeasible, IntegerProgram


class Parcel(NamedTuple):
    """GPUs of an award and the pools where it may be, by number."""

    gpus: int
    pools: tuple[int, ...]


def divide(
    parcels: Sequence[Parcel], capacities: Sequence[int], *, deadline: float, clock: Callable[[], float]
) -> list[int] | None:
    """The pool of each parcel; None where the pools cannot hold them all.

    Args:
        parcels: who chooses before whom first.
        capacities: GPUs of each pool, the preferred pool first.

    Raises:
        NotProven: at the deadline.
    """
    left, waiting = list(capacities), Counter(parcels)

    def fits() -> bool:
        return _packs(waiting, left) or _can_pack(waiting, left, deadline, clock)

    if not fits():
        return None
    places: list[int] = []
    for parcel in parcels:
        waiting[parcel] -= 1
        possible = [pool for pool in sorted(parcel.pools) if left[pool] >= parcel.gpus]
        for pool in possible:
            left[pool] -= parcel.gpus
            if pool == possible[-1] or fits():  # it is in one of them, so in the last if in no other
                places.append(pool)
                break
            left[pool] += parcel.gpus
    return places


def _packs(waiting: Mapping[Parcel, int], left: Sequence[int]) -> bool:
    """Whether the largest first, each into the fullest pool that holds it, places all. If not, another way may."""
    room = list(left)
    for parcel, count in sorted(waiting.items(), key=lambda one: (-one[0].gpus, len(one[0].pools))):
        for pool in sorted(parcel.pools, key=lambda pool: room[pool]):
            placed = min(count, room[pool] // parcel.gpus)
            room[pool] -= placed * parcel.gpus
            count -= placed
        if count:
            return False
    return True


def _can_pack(
    waiting: Mapping[Parcel, int], left: Sequence[int], deadline: float, clock: Callable[[], float]
) -> bool:
    program = IntegerProgram(deadline, clock)
    inside: list[list[tuple[int, int]]] = [[] for _ in left]
    for parcel, count in waiting.items():
        if not count:
            continue
        columns = []
        for pool in parcel.pools:
            if left[pool] >= parcel.gpus:
                column = program.column(min(count, left[pool] // parcel.gpus))
                columns.append((column, 1))
                inside[pool].append((column, parcel.gpus))
        if not columns:
            return False
        program.row(columns, low=count, high=count)
    for terms, room in zip(inside, left, strict=True):
        if terms:
            program.row(terms, high=room)
    try:
        program.maximise([])
    except Infeasible:
        return False
    return True
