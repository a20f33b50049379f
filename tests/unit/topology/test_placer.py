"""From a fabric and free nodes to a named set."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.placement import Surroundings
from slurm_gpuaas.domain.policy import expand_nodes, fold_nodes
from slurm_gpuaas.topology.fabric import FabricArrays
from slurm_gpuaas.topology.placer import FabricPlacer

NODES = expand_nodes("n[1-8]")
FABRIC = FabricArrays.of([("east", "left", NODES[:4]), ("east", "right", NODES[4:])])
PLACER = FabricPlacer(FABRIC)


def placed(count: int, free: str, kept: str = "", among: str = "n[1-8]") -> str | None:
    placement = PLACER.place(
        count, free=expand_nodes(free), among=expand_nodes(among), kept=expand_nodes(kept) if kept else ()
    )
    return fold_nodes(placement.nodes) if placement else None


def test_the_first_free_nodes_of_the_chosen_leaf_group() -> None:
    assert placed(2, "n[2-4,5-8]") == "n[2-3]"


def test_what_is_left_over_is_judged_by_what_waits() -> None:
    free = expand_nodes("n[1-3,5-6]")
    fullest = PLACER.place(1, free=free, among=NODES)
    for_pairs = PLACER.place(1, free=free, among=NODES, around=Surroundings(mix={2: 3}))
    assert fullest is not None
    assert for_pairs is not None
    assert (fold_nodes(fullest.nodes), fold_nodes(for_pairs.nodes)) == ("n5", "n1")


def test_only_nodes_of_the_partition_are_taken_or_judged() -> None:
    """Of the partition's nodes, left is whole and right is broken."""
    assert placed(1, "n[1-2,5-8]", among="n[1-2,5-8]") == "n1"
    assert placed(1, "n[1-2,5,7-8]", among="n[1-2,5-8]") == "n5"


def test_a_kept_node_counts_and_need_not_be_free() -> None:
    assert placed(3, "n[3,5-8]", kept="n[1-2]") == "n[1-3]"


def test_nodes_the_fabric_does_not_know_are_never_given() -> None:
    assert PLACER.place(9, free=[*NODES, NodeName("x")], among=[*NODES, NodeName("x")]) is None


def test_the_reasons_are_a_sentence() -> None:
    placement = PLACER.place(4, free=NODES[1:], among=NODES)
    assert placement is not None
    assert placement.why == "4 nodes of east/right: 1 leaf group, 0 left over, the fewest possible; no alternative."
    placement = PLACER.place(2, free=NODES[1:], among=NODES)
    assert placement is not None
    assert placement.why == (
        "2 nodes of east/left: 1 leaf group, 1 left over, the fewest possible; "
        "runner-up right: 1 leaf group, breaks a whole one, 2 left over."
    )
    assert placement.runner_up_cost is not None
    assert placement.cost < placement.runner_up_cost


def test_a_replacement_is_judged_as_a_whole_set() -> None:
    placement = PLACER.place(4, free=NODES[4:], among=NODES, kept=NODES[:3])
    assert placement is not None
    assert (placement.pods, placement.leaf_groups, placement.gap) == (1, 2, 0)
    assert placement.why.startswith("1 node of east/right: 2 leaf groups, breaks a whole one, 3 left over")


@given(free=st.sets(st.sampled_from(NODES)), kept=st.sets(st.sampled_from(NODES), max_size=3), count=st.integers(1, 9))
def test_a_set_is_of_the_right_size_and_in_rank_order(free: set[NodeName], kept: set[NodeName], count: int) -> None:
    count = max(count, len(kept))
    placement = PLACER.place(count, free=free, among=NODES, kept=sorted(kept))
    assert (placement is None) == (len(free | kept) < count)
    if placement:
        assert len(set(placement.nodes)) == count
        assert kept <= set(placement.nodes) <= free | kept
        assert list(placement.nodes) == [node for node in NODES if node in placement.nodes]
        assert placement.leaf_groups == len({FABRIC.group[FABRIC.index[node]] for node in placement.nodes})
