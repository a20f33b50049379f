"""Names the nodes of a placement: from a fabric and free nodes to a set in rank order, with its reasons."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.placement import NOTHING_AROUND, Placement, Surroundings
from slurm_gpuaas.domain.words import plural
from slurm_gpuaas.topology.fabric import BoolArray, FabricArrays, FloatArray, IntArray
from slurm_gpuaas.topology.placement import Choice, Cost, Domain, Path, Request, choose, runner_up


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
        around: Surroundings = NOTHING_AROUND,
    ) -> Placement | None:
        """The best `count` nodes; None where the fabric has not as many free ones.

        Args:
            free: nodes that can be taken now.
            among: all nodes the job may run on (its partition's): a leaf group is whole when all of these are free.
            kept: nodes the job keeps; they count towards `count` and need not be free.
            around: what else is weighed.
        """
        fabric = self._fabric
        kept = [node for node in kept if node in fabric.index]
        keep, own = fabric.mask(kept), fabric.mask(among)
        takeable = fabric.mask(free) & own & ~keep
        risks = self._values(around.risks)
        domains = self._domains(takeable, own, risks, self._misses(around))
        held = frozenset(fabric.paths[group] for group in fabric.group[keep])
        request = Request(count=count - len(kept), held=held, mix=around.mix)
        choice = choose(domains, request)
        if choice is None:
            return None
        other = runner_up(domains, request, choice)
        cost = with_held(choice.cost, held)
        return Placement(
            nodes=tuple(fabric.nodes[i] for i in np.flatnonzero(keep | self._nodes(choice, takeable, risks))),
            pods=cost.used[0],
            leaf_groups=cost.used[1],
            broken=cost.broken,
            cost=score(cost),
            gap=sum(choice.gap),
            runner_up_cost=score(with_held(other.cost, held)) if other else None,
            why=explained(choice, other, held),
        )

    def _domains(
        self, takeable: BoolArray, among: BoolArray, risks: FloatArray | None, misses: FloatArray | None
    ) -> list[Domain]:
        fabric = self._fabric
        groups = len(fabric.paths)
        free = np.bincount(fabric.group[takeable], minlength=groups)
        size = np.bincount(fabric.group[among], minlength=groups)
        risky: dict[int, tuple[float, ...]] = {}
        if risks is not None:
            for group in np.unique(fabric.group[takeable & (risks > 0)]):
                risky[group] = tuple(np.sort(risks[takeable & (fabric.group == group)]).tolist())
        return [
            Domain(
                fabric.paths[g],
                int(free[g]),
                int(size[g]),
                risky.get(g, ()),
                () if misses is None else (float(misses[g]),) * int(free[g]),
            )
            for g in range(groups)
            if free[g]
        ]

    def _values(self, values: Mapping[NodeName, float]) -> FloatArray | None:
        """Per node, 0 where none is named; None where there are none at all."""
        known = [(self._fabric.index[node], value) for node, value in values.items() if node in self._fabric.index]
        if not known:
            return None
        array = np.zeros(len(self._fabric.nodes))
        numbers, figures = zip(*known, strict=True)
        array[list(numbers)] = figures
        return array

    def _misses(self, around: Surroundings) -> FloatArray | None:
        """Seconds between the job's end and the last one of each leaf group's jobs; 0 where none runs."""
        ends = None if around.runs_s is None else self._values(around.ends)
        if ends is None or around.runs_s is None:
            return None
        last = np.zeros(len(self._fabric.paths))
        np.maximum.at(last, self._fabric.group, ends)
        return np.where(last > 0, np.abs(last - around.runs_s), 0.0)

    def _nodes(self, choice: Choice, takeable: BoolArray, risks: FloatArray | None) -> BoolArray:
        """Takeable nodes of each leaf group: the least risky, then the first."""
        fabric = self._fabric
        number: dict[Path, int] = {path: group for group, path in enumerate(fabric.paths)}
        chosen = np.zeros(len(takeable), dtype=np.bool_)
        for path, places in choice.takes:
            first, after = np.searchsorted(fabric.group, (number[path], number[path] + 1))
            nodes: IntArray = first + np.flatnonzero(takeable[first:after])
            if risks is not None:
                nodes = nodes[np.argsort(risks[nodes], kind="stable")]
            chosen[nodes[:places]] = True
        return chosen


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
    risk = f", {cost.risk:.2g} nodes at risk" if cost.risk else ""
    return f"{where}{broken}, {cost.leftover:.3g} left over{risk}"
