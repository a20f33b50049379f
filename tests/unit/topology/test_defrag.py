"""Making room: plans against every plan there is on small fabrics, proofs at full size, and what plans say."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm_gpuaas.domain.capacity import Level
from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.policy import expand_nodes, fold_nodes
from slurm_gpuaas.topology.defrag import Defragmentation, Movable, Question, Used, defragment
from slurm_gpuaas.topology.fabric import FabricArrays

NODES = expand_nodes("n[1-8]")
TWO = FabricArrays.of([("pod", "left", NODES[:4]), ("pod", "right", NODES[4:])])


def movable(job: int, nodes: str, loss: int = 100) -> Movable:
    return Movable(job=JobId(job), nodes=expand_nodes(nodes), loss=loss)


def plan(
    count: int,
    jobs: Sequence[Movable],
    *,
    busy: str = "",
    fabric: FabricArrays = TWO,
    level: Level = Level.FABRIC,
    seconds: float = 20,
) -> Defragmentation:
    """On a fabric where all nodes are free but those of the jobs and `busy` ones."""
    taken = {node for job in jobs for node in job.nodes} | set(expand_nodes(busy) if busy else ())
    free = [node for node in fabric.nodes if node not in taken]
    question = Question(count=count, level=level, usable=fabric.nodes, free=free, movable=jobs)
    return defragment(fabric, question, seconds=seconds)


def brief(found: Defragmentation) -> list[tuple[int, str]]:
    return [(move.job, fold_nodes(move.to)) for move in found.moves]


def test_one_job_of_each_leaf_group_the_cheaper_one_moves() -> None:
    found = plan(4, [movable(1, "n2", loss=50), movable(2, "n6", loss=40)])
    assert brief(found) == [(2, "n1")]
    assert (fold_nodes(found.room), found.used, found.ideal, found.now) == ("n[5-8]", (1, 1), (1, 1), (1, 2))
    assert (found.bound, found.gap, found.loss, found.loss_bound) == (1, 0, 40, 40)


def test_fewer_moves_come_before_a_smaller_loss() -> None:
    jobs = [movable(1, "n2", loss=1), movable(2, "n3", loss=1), movable(3, "n6", loss=9000)]
    assert brief(plan(4, jobs)) == [(3, "n1")]


def test_what_fits_already_needs_no_move() -> None:
    found = plan(4, [movable(1, "n2")])
    assert (found.moves, found.now, fold_nodes(found.room)) == ((), (1, 1), "n[5-8]")


def test_more_than_is_free_cannot_be_made_by_moving() -> None:
    found = plan(4, [movable(1, "n[1-3]"), movable(2, "n[5-6]")])
    assert found.reason == (
        "4 nodes cannot be had by moving jobs: 3 of 8 usable nodes are free, and moves change only which."
    )


def test_with_jobs_that_stay_the_room_is_the_best_that_can_be_made() -> None:
    found = plan(4, [movable(1, "n2")], busy="n[3,6]")
    assert (found.used, found.ideal, found.moves) == ((1, 2), (1, 1), ())


def test_a_required_leaf_group_that_jobs_stay_in_says_how_much_there_could_be() -> None:
    found = plan(4, [movable(1, "n2")], busy="n[3,6]", level=Level.LEAF_GROUP)
    assert found.reason == (
        "No leaf group has 4 nodes that are free or may be freed: 3 at most, 4 if every job on usable nodes could move."
    )


THREE = FabricArrays.of(
    [("pod", "a", NODES[:2]), ("pod", "b", NODES[2:5]), ("pod", "c", NODES[5:8])],
)


def test_rather_two_moves_than_a_job_that_is_spread() -> None:
    """Were the pair to move, the room were made by one move, onto n1 and n8: two are the fewest that spread no job."""
    jobs = [movable(1, "n[3-4]", loss=900), movable(2, "n6"), movable(3, "n7")]
    found = plan(3, jobs, fabric=THREE, busy="n2")
    assert brief(found) == [(2, "n1"), (3, "n5")]
    assert (found.bound, found.gap, found.unspread_bound, found.spread) == (1, 1, 2, 0)


def test_a_job_is_spread_where_no_plan_can_do_without() -> None:
    found = plan(3, [movable(1, "n[3-4]")], fabric=THREE, busy="n[2,6-7]")
    (move,) = found.moves
    assert (found.gap, found.unspread_bound, found.spread) == (0, None, 1)
    assert (fold_nodes(move.to), move.leaf_groups_before, move.leaf_groups_after) == ("n[1,8]", 1, 2)


def test_who_goes_onto_anothers_nodes_moves_after_it() -> None:
    """The only pair that can be had is one that another job leaves."""
    fabric = FabricArrays.of([("p", "a", NODES[:4]), ("p", "b", NODES[4:6]), ("p", "c", NODES[6:8])])
    jobs = [movable(1, "n[3-4]"), movable(2, "n5"), movable(3, "n7")]
    found = plan(4, jobs, fabric=fabric)
    is_in_order(found, jobs, free=[*NODES[:2], NODES[5], NODES[7]])
    assert (len(found.moves), found.spread) == (2, 0)


def test_jobs_that_would_swap_nodes_are_placed_anew() -> None:
    """Job 1 were to go onto n4, where job 3 is, and job 3 onto n6, where job 1 is."""
    names = expand_nodes("n[01-10]")
    fabric = FabricArrays.of(
        [("p", "a", names[:2]), ("p", "b", names[2:4]), ("q", "c", names[4:7]), ("q", "d", names[7:])]
    )
    jobs = [movable(1, "n[01,06,10]"), movable(2, "n[02,05]"), movable(3, "n[04,09]")]
    found = plan(3, jobs, fabric=fabric)
    is_in_order(found, jobs, free=[names[2], names[6], names[7]])
    assert (len(found.moves), found.bound, found.spread) == (2, 2, 0)


# -- Against every plan there is ---------------------------------------------------------------------------------------


def splits(count: int, rooms: Sequence[int], most: int) -> Iterator[tuple[int, ...]]:
    """Every way to take `count` of the rooms, of `most` of them at most."""
    for taken in product(*(range(min(room, count) + 1) for room in rooms)):
        if sum(taken) == count and sum(map(bool, taken)) <= most:
            yield taken


def housed(sizes: Sequence[tuple[int, int]], rooms: Sequence[int]) -> bool:
    """Whether jobs of (nodes, leaf groups at most) fit into what is left."""
    if not sizes:
        return True
    (count, most), *others = sizes
    return any(
        housed(others, [room - took for room, took in zip(rooms, taken, strict=True)])
        for taken in splits(count, rooms, most)
    )


class EveryPlan:
    """Answers by trying all sets of jobs."""

    def __init__(self, fabric: FabricArrays, question: Question) -> None:
        self._paths = fabric.paths
        self._stands = [self._counted(fabric, job.nodes) for job in question.movable]
        self._free = self._counted(fabric, question.free)
        self._question = question
        everything = [sum(column) for column in zip(self._free, *self._stands, strict=True)]
        self.used = min(map(self._used, splits(question.count, everything, len(everything))))

    def _counted(self, fabric: FabricArrays, nodes: Iterable[NodeName]) -> list[int]:
        groups = [int(fabric.group[fabric.index[node]]) for node in nodes]
        return [groups.count(group) for group in range(len(self._paths))]

    def _used(self, taken: Sequence[int]) -> Used:
        paths = [path for path, count in zip(self._paths, taken, strict=True) if count]
        return len({pod for pod, _ in paths}), len(paths)

    def best(self, *, house: bool) -> tuple[int, int] | None:
        """(moves, loss)"""
        jobs = range(len(self._stands))
        costs = [
            (size, sum(self._question.movable[job].loss for job in moved))
            for size in range(len(self._stands) + 1)
            for moved in combinations(jobs, size)
            if self._makes_room(moved, house=house)
        ]
        return min(costs, default=None)

    def _makes_room(self, moved: Sequence[int], *, house: bool) -> bool:
        rooms = [sum(column) for column in zip(self._free, *(self._stands[job] for job in moved), strict=True)]
        sizes = [(sum(self._stands[job]), sum(map(bool, self._stands[job]))) for job in moved] if house else []
        return any(
            self._used(taken) == self.used
            and housed(sizes, [room - took for room, took in zip(rooms, taken, strict=True)])
            for taken in splits(self._question.count, rooms, self.used[1])
        )


@st.composite
def cases(draw: st.DrawFn) -> tuple[FabricArrays, Question]:
    sizes = draw(st.lists(st.integers(1, 4), min_size=2, max_size=4))
    names = iter(expand_nodes("n[01-16]"))
    fabric = FabricArrays.of(
        [(f"p{number // 2}", f"g{number}", [next(names) for _ in range(size)]) for number, size in enumerate(sizes)]
    )
    free = draw(st.permutations(fabric.nodes))
    jobs = []
    for job in range(1, draw(st.integers(1, 6)) + 1):
        count = draw(st.sampled_from([1, 1, 2, 3]))
        if len(free) - count < 1:
            break
        nodes, free = free[:count], free[count:]
        jobs.append(Movable(job=JobId(job), nodes=tuple(nodes), loss=draw(st.integers(0, 9)) * 1000))
    busy = draw(st.integers(0, min(2, len(free) - 1)))
    question = Question(
        count=draw(st.integers(1, len(free) - busy)), usable=fabric.nodes, free=free[busy:], movable=jobs
    )
    return fabric, question


@settings(max_examples=150, deadline=None)
@given(cases())
def test_no_other_plan_has_fewer_moves_or_loses_less(case: tuple[FabricArrays, Question]) -> None:
    fabric, question = case
    found = defragment(fabric, question, seconds=20)
    every = EveryPlan(fabric, question)
    assert found.used == every.used
    best, best_of_all = every.best(house=True), every.best(house=False)
    assert best_of_all is not None
    assert bool(found.spread) == (best is None), "a job is spread only where no plan can do without"
    assert (len(found.moves), found.loss) == (best or best_of_all)
    assert (found.bound, found.gap) == (best_of_all[0], len(found.moves) - best_of_all[0])
    assert found.unspread_bound in (None, len(found.moves))
    assert found.unspread_bound is not None or found.gap == 0
    assert found.loss_bound == found.loss
    is_consistent(found, question)


def is_consistent(found: Defragmentation, question: Question) -> None:
    is_in_order(found, question.movable, free=question.free)
    assert len(set(found.room)) == question.count


def is_in_order(found: Defragmentation, jobs: Iterable[Movable], *, free: Iterable[NodeName]) -> None:
    """Each job moves onto as many nodes as it has, that are free by then or its own; those of the room stay free."""
    stands = {job.job: job.nodes for job in jobs}
    left = set(free)
    for move in found.moves:
        left.update(stands[move.job])
        assert left.issuperset(move.to), f"somebody else is on nodes of {move}"
        assert len(set(move.to)) == len(stands[move.job])
        left.difference_update(move.to)
    assert left.issuperset(found.room)


# -- At full size ------------------------------------------------------------------------------------------------------


def scattered(nodes: int, seed: int, *, filled: float) -> tuple[FabricArrays, Question]:
    """Leaf groups of 32, four to a pod; jobs of one node, some of up to 8, all over; a tenth may not move."""
    chance = random.Random(seed)
    names = expand_nodes(f"n[001-{nodes:03}]")
    groups = range(-(-nodes // 32))
    fabric = FabricArrays.of([(f"p{g // 4}", f"g{g:02}", names[32 * g : 32 * g + 32]) for g in groups])
    free = list(names)
    chance.shuffle(free)
    jobs: list[Movable] = []
    while len(free) > nodes * (1 - filled):
        count = chance.choice([1, 1, 1, 1, 1, 1, 2, 2, 4, 8])
        taken, free = free[:count], free[count:]
        if chance.random() < 0.9:
            loss = count * 8 * chance.randrange(86_400)
            jobs.append(Movable(job=JobId(len(jobs) + 1), nodes=tuple(taken), loss=loss))
    return fabric, Question(count=32, usable=names, free=free, movable=jobs)


@pytest.mark.parametrize("seed", range(8))
def test_on_129_nodes_the_plan_is_proven_the_best(seed: int) -> None:
    fabric, question = scattered(129, seed, filled=0.6)
    found = defragment(fabric, question, seconds=20)
    is_consistent(found, question)
    assert found.reason == ""
    assert (len(found.moves), found.spread) == (found.unspread_bound or found.bound, 0)
    assert found.loss_bound == found.loss


def test_on_957_nodes_the_gap_is_told_when_time_runs_out() -> None:
    fabric, question = scattered(957, 1, filled=0.6)
    found = defragment(fabric, question, seconds=4)
    is_consistent(found, question)
    assert 0 <= found.bound <= len(found.moves)
    assert 0 <= found.loss_bound <= found.loss
