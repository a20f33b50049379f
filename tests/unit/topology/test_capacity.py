"""The largest job that could start now, and how broken up free nodes are: fabric and nodes in, figures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_gpuaas.domain.capacity import Capacity, Level
from slurm_gpuaas.domain.jobs import Job
from slurm_gpuaas.domain.names import NodeName, PartitionName
from slurm_gpuaas.domain.nodes import Node, NodeBase, NodeFlag
from slurm_gpuaas.domain.policy import expand_nodes
from slurm_gpuaas.topology.capacity import capacity
from slurm_gpuaas.topology.fabric import UNATTACHED, FabricArrays
from tests.fakes import make_job, make_node

OWN = PartitionName("own")
NODES = expand_nodes("n[1-12]")
FABRIC = FabricArrays.of(
    [("east", "a", NODES[:4]), ("east", "b", NODES[4:8]), ("west", "c", NODES[8:10]), ("west", "d", NODES[10:])]
)


def found(
    free: str,
    *,
    nodes: Sequence[Node] = (),
    running: Sequence[Job] = (),
    promised: str = "",
    fabric: FabricArrays = FABRIC,
    among: Sequence[NodeName] = NODES,
) -> Capacity:
    """`free` nodes are idle and all others in use, but for those given."""
    idle = set(expand_nodes(free)) if free else set()
    given = {node.name: node for node in nodes}
    busy = {"base": NodeBase.ALLOCATED, "gpus_allocated": 8}
    made = [given.get(n) or make_node(n, **({} if n in idle else busy)) for n in among]  # type: ignore[arg-type]
    return capacity(
        fabric,
        OWN,
        nodes=made,
        free=idle,
        promised=expand_nodes(promised) if promised else (),
        running=running,
    )


def sizes(capacity: Capacity) -> Mapping[str, tuple[str, int]]:
    return {one.level: (one.domain, one.nodes) for one in capacity.largest}


@pytest.mark.parametrize(
    ("free", "leaf_group", "pod", "fabric"),
    [
        ("n[1-12]", ("east/a", 4), ("east", 8), ("", 12)),
        ("n[1-2,5-7,9-12]", ("east/b", 3), ("east", 5), ("", 9)),
        ("n[4,5,9-12]", ("west/c", 2), ("west", 4), ("", 6)),
        ("n12", ("west/d", 1), ("west", 1), ("", 1)),
        ("", ("", 0), ("", 0), ("", 0)),
    ],
    ids=["empty partition", "most in one leaf group", "most in the other pod", "a single node", "nothing free"],
)
def test_the_largest_job_of_each_level(
    free: str, leaf_group: tuple[str, int], pod: tuple[str, int], fabric: tuple[str, int]
) -> None:
    assert sizes(found(free)) == {Level.LEAF_GROUP: leaf_group, Level.POD: pod, Level.FABRIC: fabric}


@pytest.mark.parametrize(
    ("free", "segments", "idle", "fragmentation"),
    [
        ("n[1-12]", {2: 2, 4: 2}, 4, 0.0),
        ("n[1-4,9]", {1: 1, 4: 1}, 1, 0.2),
        ("n[1-3,5-7]", {3: 2}, 0, 1.0),
        ("", {}, 0, 0.0),
    ],
    ids=["empty partition", "one node beside a job", "all beside jobs", "nothing free"],
)
def test_segments_and_fragmentation(free: str, segments: dict[int, int], idle: int, fragmentation: float) -> None:
    capacity = found(free)
    assert (capacity.segments, capacity.idle_leaf_groups) == (segments, idle)
    assert capacity.fragmentation == pytest.approx(fragmentation)


def test_a_broken_node_does_not_make_its_neighbours_fragments() -> None:
    capacity = found("n[1-3]", nodes=[make_node("n4", flags=NodeFlag.DRAIN)])
    assert (capacity.nodes, capacity.idle_leaf_groups, capacity.fragmentation) == (11, 1, 0.0)


@pytest.mark.parametrize(
    ("free", "compact"),
    [("n[1-12]", 8), ("n[1-3,5-7]", 2), ("n[1-4,5-7]", 4), ("n[1,5,9,11]", 1), ("", 0)],
    ids=["two whole groups", "two of four", "one whole group", "singles", "nothing free"],
)
def test_the_largest_job_that_would_not_be_spread(free: str, compact: int) -> None:
    """Eight nodes need two leaf groups here, four need one."""
    assert found(free).compact == compact


def test_running_jobs_that_are_spread_count_by_the_leaf_groups_too_many() -> None:
    jobs = [
        make_job(1, nodes=["n1", "n5", "n9"]),  # three for one
        make_job(2, nodes=["n2", "n3", "n4", "n6", "n7", "n8"]),  # two for two
        make_job(3, nodes=["n10"]),
        make_job(4, nodes=["elsewhere"]),
    ]
    capacity = found("n[11-12]", running=jobs)
    assert (capacity.excess_leaf_groups, capacity.spread_jobs) == (2, 1)


def test_jobs_of_a_few_gpus_see_what_partly_used_nodes_have_left() -> None:
    nodes = [
        make_node("n1", base=NodeBase.MIXED, gpus_allocated=6),
        make_node("n2", base=NodeBase.MIXED, gpus_allocated=6),
        make_node("n3", flags=NodeFlag.RESERVED),
        make_node("n4", flags=NodeFlag.DRAIN),
    ]
    capacity = found("n5", nodes=[*nodes, make_node("n6")], promised="n6")
    assert capacity.gpus_on_nodes == {2: 2, 8: 1}
    assert (capacity.free_nodes, capacity.free_gpus) == (1, 12)


def test_only_the_partitions_nodes_make_its_leaf_groups() -> None:
    capacity = found("n[1-2]", among=NODES[:2])
    assert (capacity.leaf_groups, capacity.idle_leaf_groups, capacity.compact) == (1, 1, 2)


def test_no_job_spans_nodes_without_a_place_in_the_fabric_and_others() -> None:
    fabric = FabricArrays.of([("east", "a", NODES[:4]), (UNATTACHED, "x", NODES[4:6]), (UNATTACHED, "y", NODES[6:8])])
    capacity = found("n[1-12]", fabric=fabric)
    assert sizes(capacity) == {Level.LEAF_GROUP: ("east/a", 4), Level.POD: ("east", 4), Level.FABRIC: ("", 4)}
    assert (capacity.free_nodes, capacity.compact) == (12, 4)


@given(free=st.sets(st.sampled_from(NODES)))
def test_a_level_holds_at_least_what_is_below_it_and_figures_agree(free: set[NodeName]) -> None:
    capacity = found(",".join(sorted(free)))
    leaf_group, pod, fabric = (one.nodes for one in capacity.largest)
    assert leaf_group <= pod <= fabric == len(free) == capacity.free_nodes
    assert sum(size * number for size, number in capacity.segments.items()) == len(free)
    assert all(one.gpus == 8 * one.nodes for one in capacity.largest)
    assert 0.0 <= capacity.fragmentation <= 1.0
    assert bool(capacity.compact) == bool(free)


@given(free=st.sets(st.sampled_from(NODES)))
def test_the_compact_size_is_what_trying_all_sets_of_leaf_groups_finds(free: set[NodeName]) -> None:
    groups = [set(NODES[:4]), set(NODES[4:8]), set(NODES[8:10]), set(NODES[10:])]

    def fewest(size: int, usable: set[NodeName]) -> int:
        return next(
            (n for n in range(1, 5) if any(sum(len(g & usable) for g in c) >= size for c in combinations(groups, n))), 9
        )

    fits = [size for size in (1, 2, 4, 8) if size <= len(free) and fewest(size, free) == fewest(size, set(NODES))]
    assert found(",".join(sorted(free))).compact == max(fits, default=0)
