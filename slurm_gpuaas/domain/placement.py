"""Where a job goes, as a value: what placement decides and the gate, the health controller and the store speak of."""

from __future__ import annotations

from dataclasses import dataclass

from slurm_gpuaas.domain.names import NodeName


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A set of nodes in rank order, and why it is the best.

    Args:
        pods, leaf_groups: how many the set spans.
        cost: lexicographic cost as one number, lower is better; comparable for one fabric only.
        gap: pods and leaf groups above what no set can beat; 0 = proven optimal in both.
        runner_up_cost: cost of the best set that was rejected; None where there was no other.
        why: one sentence for people.
    """

    nodes: tuple[NodeName, ...]
    pods: int
    leaf_groups: int
    cost: float
    gap: int
    runner_up_cost: float | None
    why: str
