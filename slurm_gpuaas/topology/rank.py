"""Rank order: neighbours in rank are neighbours in the fabric.

Collectives build rings and trees over ranks, so a ring over L leaf groups should cross between them L times, not once
a node. Fabric order does that: pod by pod, leaf group by leaf group, nodes by name. It reaches a job through Slurm's
own node order: with `TopologyParam=SwitchAsNodeRank,BlockAsNodeRank` nodes are ordered by their leaf switch or their
block (the latter from 25.11 on), in the order in which topology.yaml names them, and so are `SLURM_JOB_NODELIST` and
the ranks of every step. Slurm does not look at pods: the order follows them since we write leaf groups pod by pod. With
tree and blocks in one file the cluster's default topology orders all nodes. Without the parameter, or with that of the
other plugin, ranks follow node names (26.05.5, also for jobs with a node list of their own). tests/slurm/test_gate.py
asserts it inside jobs. torchrun numbers its processes by host name; job_templates/torchrun takes Slurm's order instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.topology.fabric import FabricArrays


def rank_order(fabric: FabricArrays, nodes: Iterable[NodeName]) -> tuple[NodeName, ...]:
    """The nodes in fabric order; nodes that the fabric does not know come last, by name."""
    unknown = len(fabric.nodes)
    return tuple(sorted(nodes, key=lambda node: (fabric.index.get(node, unknown), node)))


def crossings(fabric: FabricArrays, order: Sequence[NodeName]) -> int:
    """How often a ring over the nodes in this order passes from one leaf group to another."""
    groups = fabric.group[[fabric.index[node] for node in order]]
    return int(np.count_nonzero(groups != np.roll(groups, 1)))
