"""Names the nodes of a placement: from a fabric and free nodes to a set in rank order, with its reasons."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import numpy as np

from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.placement import Placement
from slurm_gpuaas.topology.fabric import BoolArray, FabricArrays, IntArray
from slurm_gpuaas.topology.placement import Choice, Cost, Domain, Path, Request, choose, runner_up

NO_MIX: Final[Mapping[int, int]] = MappingProxyType({})
"""Nobody else waits."""


class FabricPlacer:
    """Places jobs on one fabric. Stateless: equal questions get equal answers."""

    def __init__(self, fabric: FabricArrays) -> None:
        self._fabric = fabric

    @property
    def fabric(self) -> FabricArrays:
        return self._fabric

    def place(
        self,
        count: int,
        *,
        free: Collection[NodeName],
        among: Collection[NodeName],
        kept: Sequence[NodeName] = (),
        mix: Mapping[int, int] = NO_MIX,
    ) -> Placement | None:
        """The best `count` nodes; None where the fabric has not as many free ones.

        Args:
            free: nodes that can be taken now.
            among: all nodes the job may run on (its partition's): a leaf group is whole when all of these are free.
            kept: nodes the job keeps; they count towards `count` and need not be free.
            mix: nodes that other waiting jobs ask for, and how many jobs ask for as many.
        """
        fabric = self._fabric
        kept = [node for node in kept if node in fabric.index]
        keep = fabric.mask(kept)
        takeable = fabric.mask(free) & fabric.mask(among) & ~keep
        domains = self._domains(takeable, fabric.mask(among))
        held = frozenset(fabric.paths[group] for group in fabric.group[keep])
        request = Request(count=count - len(kept), held=held, mix=mix)
        choice = choose(domains, request)
        if choice is None:
            return None
        other = runner_up(domains, request, choice)
        cost = with_held(choice.cost, held)
        return Placement(
            nodes=tuple(fabric.nodes[i] for i in np.flatnonzero(keep | self._nodes(choice, takeable))),
            pods=cost.used[0],
            leaf_groups=cost.used[1],
            cost=score(cost),
            gap=sum(choice.gap),
            runner_up_cost=score(with_held(other.cost, held)) if other else None,
            why=explained(choice, other, held),
        )

    def _domains(self, takeable: BoolArray, among: BoolArray) -> list[Domain]:
        fabric = self._fabric
        groups = len(fabric.paths)
        free = np.bincount(fabric.group[takeable], minlength=groups)
        size = np.bincount(fabric.group[among], minlength=groups)
        return [Domain(fabric.paths[g], int(free[g]), int(size[g])) for g in range(groups) if free[g]]

    def _nodes(self, choice: Choice, takeable: BoolArray) -> BoolArray:
        """The first takeable nodes of each leaf group."""
        fabric = self._fabric
        take = np.zeros(len(fabric.paths), dtype=np.intp)
        number: dict[Path, int] = {path: group for group, path in enumerate(fabric.paths)}
        for path, places in choice.takes:
            take[number[path]] = places
        before: IntArray = np.cumsum(takeable) - takeable
        first: IntArray = before[np.searchsorted(fabric.group, np.arange(len(fabric.paths)))]
        nth: BoolArray = takeable & (before - first[fabric.group] < take[fabric.group])
        return nth


def with_held(cost: Cost, held: Collection[Path]) -> Cost:
    """The cost of the whole set, where `cost` is what was added to domains that are held."""
    pods, leaf_groups = cost.used
    return cost._replace(used=(pods + len({path[0] for path in held}), leaf_groups + len(held)))


def score(cost: Cost) -> float:
    """The lexicographic cost as one number, for lists and graphs: millions for pods, thousands for leaf groups, 500 for
    a whole leaf group broken, 1 for each node left over. Holds its order below 1,000 leaf groups of 500 nodes."""
    pods, leaf_groups = cost.used
    return pods * 1e6 + leaf_groups * 1e3 + cost.broken * 500.0 + cost.leftover


def explained(choice: Choice, other: Choice | None, held: Collection[Path]) -> str:
    where = ", ".join(f"{plural(places, 'node')} of {'/'.join(path)}" for path, places in choice.takes) or "no new node"
    best = "the fewest possible" if not any(choice.gap) else f"{sum(choice.gap)} above what more pods would allow"
    sentence = f"{where}: {described(with_held(choice.cost, held))}, {best}"
    if other is None:
        return f"{sentence}; no alternative."
    names = [path[-1] for path, _ in other.takes]
    shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    return f"{sentence}; runner-up {shown}: {described(with_held(other.cost, held))}."


def described(cost: Cost) -> str:
    pods, leaf_groups = cost.used
    broken = ", breaks a whole one" if cost.broken else ""
    where = plural(leaf_groups, "leaf group") + (f" in {plural(pods, 'pod')}" if pods > 1 else "")
    return f"{where}{broken}, {cost.leftover:.3g} left over"


def plural(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
