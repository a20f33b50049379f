"""What could start now on a partition, and how broken up its free nodes are: as values, and as kept over time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from slurm_gpuaas.domain.names import ClusterName, PartitionName


class Level(StrEnum):
    """What a job can be kept within, from the bottom."""

    LEAF_GROUP = "leaf-group"
    POD = "pod"
    FABRIC = "fabric"

    @property
    def words(self) -> str:
        """For people."""
        return self.replace("-", " ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Largest:
    """The most whole nodes that one job could get now within one domain of a level.

    Args:
        domain: the first such domain in fabric order, e.g. `pod-1/leaf-02`; empty for the fabric, or when nothing is
            free.
        gpus: of these nodes.
    """

    level: Level
    domain: str
    nodes: int
    gpus: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """One partition at one moment, as far as nodes go: limits of projects are not looked at.

    Args:
        nodes: in service.
        free_nodes: that a job of whole nodes could have: idle, and not given to a job that is about to start.
        free_gpus: with those on partly used nodes.
        largest: per level, from the bottom.
        compact: the largest of 1, 2, 4, ... nodes that would now get as few leaf groups as on the empty partition; 0
            when nothing is free.
        segments: leaf groups that have exactly so many free nodes, by that number, from 1.
        idle_leaf_groups: of `leaf_groups`, those of which all nodes in service are free.
        gpus_on_nodes: nodes that have exactly so many free GPUs, by that number, from 1.
        fragmentation: share of the free nodes in leaf groups that are partly used, 0 to 1; 0 when nothing is free.
        excess_leaf_groups: leaf groups that running jobs use above what their sizes need on the empty partition.
        spread_jobs: running jobs that use more than that.
    """

    partition: PartitionName
    nodes: int
    free_nodes: int
    free_gpus: int
    largest: tuple[Largest, ...]
    compact: int
    segments: Mapping[int, int]
    leaf_groups: int
    idle_leaf_groups: int
    gpus_on_nodes: Mapping[int, int]
    fragmentation: float
    excess_leaf_groups: int
    spread_jobs: int

    def most(self, level: Level) -> int:
        """Whole nodes that a job could get within one domain of the level."""
        return next(one.nodes for one in self.largest if one.level is level)


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacitySample:
    """What is kept of a partition's capacity at one moment; names as in `Capacity`, sizes in whole nodes."""

    cluster: ClusterName
    partition: PartitionName
    at: datetime
    nodes: int
    free_nodes: int
    free_gpus: int
    largest_leaf_group: int
    largest_pod: int
    largest_fabric: int
    compact: int
    idle_leaf_groups: int
    fragmentation: float
    excess_leaf_groups: int

    @classmethod
    def of(cls, capacity: Capacity, *, cluster: ClusterName, at: datetime) -> CapacitySample:
        return cls(
            cluster=cluster,
            partition=capacity.partition,
            at=at,
            nodes=capacity.nodes,
            free_nodes=capacity.free_nodes,
            free_gpus=capacity.free_gpus,
            largest_leaf_group=capacity.most(Level.LEAF_GROUP),
            largest_pod=capacity.most(Level.POD),
            largest_fabric=capacity.most(Level.FABRIC),
            compact=capacity.compact,
            idle_leaf_groups=capacity.idle_leaf_groups,
            fragmentation=capacity.fragmentation,
            excess_leaf_groups=capacity.excess_leaf_groups,
        )
