"""The largest job that could start now on a partition, per level, and how broken up its free nodes are. Pure.

A leaf group is judged by the partition's nodes in it, and is idle when all of them that are in service are free: a
broken node does not make its neighbours fragments. Fragmentation is the share of the free nodes in leaf groups that are
not idle. It says nothing of jobs; what these pay already is in `excess_leaf_groups`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

import numpy as np

from slurm_gpuaas.domain.capacity import Capacity, Largest, Level
from slurm_gpuaas.domain.jobs import Job
from slurm_gpuaas.domain.names import NodeName, PartitionName
from slurm_gpuaas.domain.nodes import Node, NodeFlag
from slurm_gpuaas.topology.fabric import UNATTACHED, BoolArray, FabricArrays, IntArray


def capacity(
    fabric: FabricArrays,
    partition: PartitionName,
    *,
    nodes: Collection[Node],
    free: Collection[NodeName],
    promised: Collection[NodeName] = (),
    running: Iterable[Job] = (),
) -> Capacity:
    """O(nodes + nodes of jobs + leaf groups x log leaf groups).

    Args:
        nodes: the partition's, as Slurm reports them. Those that the fabric does not know count as free nodes and GPUs
            only: no job spans them and others.
        free: nodes that a whole-node job could have now.
        promised: nodes given to jobs that are about to start on them.
        running: the partition's jobs on nodes.
    """
    serving = frozenset(node.name for node in nodes if node.usable)
    groups = _Groups(fabric, nodes, free, serving)
    tree = _trees(fabric)
    reached = groups.best(tree)
    gpus = Counter(_free_gpus(node, promised) for node in nodes)
    excess = list(_excess(fabric, groups.size, running))
    whole = groups.idle & (groups.free > 0)
    free_in_fabric = int(groups.free.sum())
    return Capacity(
        partition=partition,
        nodes=len(serving),
        free_nodes=sum(node.name in free for node in nodes),
        free_gpus=sum(count * number for count, number in gpus.items()),
        largest=(
            groups.largest(Level.LEAF_GROUP, np.arange(len(tree)), ["/".join(path) for path in fabric.paths]),
            groups.largest(Level.POD, _pods(fabric), [pod for pod, _ in fabric.paths]),
            groups.largest(Level.FABRIC, tree, [""] * len(tree)),
        ),
        compact=_compact(groups.free * reached, groups.size * reached),
        segments=dict(sorted(Counter(groups.free[groups.free > 0].tolist()).items())),
        leaf_groups=int((groups.size > 0).sum()),
        idle_leaf_groups=int(whole.sum()),
        gpus_on_nodes={count: number for count, number in sorted(gpus.items()) if count},
        fragmentation=float(groups.free[~whole].sum() / free_in_fabric) if free_in_fabric else 0.0,
        excess_leaf_groups=sum(excess),
        spread_jobs=sum(map(bool, excess)),
    )


class _Groups:
    """Per leaf group: the partition's nodes, those that are free, their GPUs, and whether all in service are free."""

    def __init__(
        self,
        fabric: FabricArrays,
        nodes: Collection[Node],
        free: Collection[NodeName],
        serving: Collection[NodeName],
    ) -> None:
        known = [node for node in nodes if node.name in fabric.index]
        at = np.array([fabric.group[fabric.index[node.name]] for node in known], dtype=np.intp)
        is_free: BoolArray = np.array([node.name in free for node in known], dtype=np.bool_)
        usable: BoolArray = np.array([node.name in serving for node in known], dtype=np.bool_)
        gpus = np.array([node.gpus for node in known], dtype=np.intp)
        number = len(fabric.paths)
        self.size: IntArray = np.bincount(at, minlength=number)
        self.free: IntArray = np.bincount(at[is_free], minlength=number)
        self.gpus: IntArray = np.bincount(at[is_free], weights=gpus[is_free], minlength=number).astype(np.intp)
        self.idle: BoolArray = self.free == np.bincount(at[usable | is_free], minlength=number)

    def best(self, domain: IntArray) -> BoolArray:
        """The leaf groups of the domain with the most free nodes; `domain`: number of each one's domain."""
        within: BoolArray = domain == np.bincount(domain, weights=self.free).argmax()
        return within

    def largest(self, level: Level, domain: IntArray, names: Sequence[str]) -> Largest:
        within = self.best(domain)
        nodes = int(self.free[within].sum())
        name = names[int(within.argmax())] if nodes else ""
        return Largest(level=level, domain=name, nodes=nodes, gpus=int(self.gpus[within].sum()))


def _pods(fabric: FabricArrays) -> IntArray:
    """Number of each leaf group's pod; a group without known links is one by itself."""
    numbers: dict[tuple[str, str], int] = {}
    keys = [(pod, leaf if pod == UNATTACHED else "") for pod, leaf in fabric.paths]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.intp)


def _trees(fabric: FabricArrays) -> IntArray:
    """Number of the tree that each leaf group hangs on: all in one, but for groups without known links."""
    apart = np.array([pod == UNATTACHED for pod, _ in fabric.paths], dtype=np.bool_)
    return np.where(apart, np.cumsum(apart), 0)


def _compact(free: IntArray, size: IntArray) -> int:
    """The largest power of two that needs no more leaf groups among the free nodes than among all."""
    have = np.cumsum(-np.sort(-free))
    sizes = 2 ** np.arange(int(have[-1]).bit_length())
    empty = np.cumsum(-np.sort(-size))
    fits = np.searchsorted(have, sizes) <= np.searchsorted(empty, sizes)
    return int(sizes[fits].max(initial=0))


def _excess(fabric: FabricArrays, size: IntArray, running: Iterable[Job]) -> Iterable[int]:
    """Of each job, leaf groups above what its size needs on the empty partition."""
    empty = np.cumsum(-np.sort(-size))
    for job in running:
        used = [int(fabric.group[fabric.index[name]]) for name in job.nodes if name in fabric.index]
        yield max(len(set(used)) - int(np.searchsorted(empty, len(used))) - 1, 0)


def _free_gpus(node: Node, promised: Collection[NodeName]) -> int:
    """What a job of a few GPUs could have there."""
    full = node.gpus_allocated >= node.gpus  # asked first: flags take most of the time of a large partition
    return 0 if full or NodeFlag.RESERVED in node.flags or node.name in promised else node.free_gpus
