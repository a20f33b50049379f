"""Where a job goes, as a value: what placement decides and the gate, the health controller and the store speak of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from slurm_gpuaas.domain.names import NodeName


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a placement weighs beside the nodes that are free.

    Args:
        mix: nodes that other waiting jobs ask for, and how many jobs ask for as many; empty: nobody waits.
        risks: probability that a node fails its job; nodes that are not named have none.
        ends: seconds from now until what runs on a busy node ends by its time limit.
        runs_s: seconds that the job runs by its time limit; None: nobody knows.
    """

    mix: Mapping[int, int] = field(default_factory=dict)
    risks: Mapping[NodeName, float] = field(default_factory=dict)
    ends: Mapping[NodeName, float] = field(default_factory=dict)
    runs_s: float | None = None


NOTHING_AROUND: Final = Surroundings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A set of nodes in rank order, and why it is the best.

    Args:
        pods, leaf_groups: how many the set spans.
        broken: leaf groups that were wholly free and are left partly used.
        cost: lexicographic cost as one number, lower is better; comparable for one fabric only.
        gap: pods and leaf groups above what no set can beat; 0 = proven optimal in both.
        runner_up_cost: cost of the best set that was rejected; None where there was no other.
        why: one sentence for people.
    """

    nodes: tuple[NodeName, ...]
    pods: int
    leaf_groups: int
    broken: int
    cost: float
    gap: int
    runner_up_cost: float | None
    why: str
