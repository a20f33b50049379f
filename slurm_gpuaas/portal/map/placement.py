"""How a job lies on the units of its cluster, and how it could lie better. Pure.

Nodes of one unit talk through one leaf switch (two hops), others through the spine (four). What counts is how many
pairs of nodes share a unit; fewest units come first, as in `topology.placement`, which decides where jobs start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import comb

from slurm_gpuaas.portal.map.source import UnitNodes


def near_pairs(counts: Sequence[int]) -> float:
    """Part of all pairs of nodes that lie in one unit, from nodes a unit; 1 for a single node."""
    pairs = comb(sum(counts), 2)
    return sum(comb(count, 2) for count in counts) / pairs if pairs else 1.0


def packed(nodes: int, room: Mapping[str, int]) -> tuple[UnitNodes, ...]:
    """`nodes` on the fewest units of those with `room`: the roomiest in turn, and the last part where it leaves the
    least over. Empty when there is not room enough."""
    chosen: list[UnitNodes] = []
    left = dict(room)
    while nodes > 0:
        fitting = [(size, unit) for unit, size in left.items() if size >= nodes]
        size, unit = min(fitting) if fitting else max(((size, unit) for unit, size in left.items()), default=(0, ""))
        if size == 0:
            return ()
        chosen.append(UnitNodes(unit=unit, nodes=min(size, nodes)))
        nodes -= min(size, nodes)
        del left[unit]
    return tuple(chosen)
