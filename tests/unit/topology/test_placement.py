"""Placement over domains. Cases are written `leaf: free/size`, a pod a line."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm_gpuaas.topology.placement import Choice, Cost, Domain, choose, runner_up


def domains(*pods: str) -> list[Domain]:
    """`domains("a 4/4 b 2/4", "c 4/4")`: leaf groups a and b in pod p1, c in pod p2."""
    found = []
    for number, pod in enumerate(pods, start=1):
        words = pod.split()
        for name, room in zip(words[::2], words[1::2], strict=True):
            free, size = map(int, room.split("/"))
            found.append(Domain((f"p{number}", name), free, size))
    return found


def takes(choice: Choice | None) -> dict[str, int] | None:
    return {path[-1]: places for path, places in choice.takes} if choice else None


@pytest.mark.parametrize(
    ("case", "pods", "count", "expected", "cost"),
    [
        ("one node goes where a leaf group is broken already", ["a 4/4 b 1/4 c 3/4"], 1, {"b": 1}, ((1, 1), 0, 0)),
        ("of broken ones the tightest", ["a 4/4 b 3/4 c 2/4"], 1, {"c": 1}, ((1, 1), 0, 1)),
        ("a whole one is broken when nothing else is free", ["a 4/4 b 0/4"], 1, {"a": 1}, ((1, 1), 1, 3)),
        ("a roomier broken one before a tighter whole one", ["a 2/2 b 3/4"], 1, {"b": 1}, ((1, 1), 0, 2)),
        ("a whole leaf group for a job of its size", ["a 3/4 b 4/4"], 4, {"b": 4}, ((1, 1), 0, 0)),
        ("best fit in one leaf group", ["a 4/4 b 3/4"], 3, {"b": 3}, ((1, 1), 0, 0)),
        ("one leaf group although node order would spread it", ["a 2/4 b 4/4"], 4, {"b": 4}, ((1, 1), 0, 0)),
        ("two leaf groups when none holds it", ["a 3/4 b 3/4 c 1/4"], 4, {"a": 3, "c": 1}, ((1, 2), 0, 0)),
        ("fewest first, fit second", ["a 2/4 b 2/4 c 2/4 d 3/4"], 5, {"a": 2, "d": 3}, ((1, 2), 0, 0)),
        ("the leftover stays in the broken one", ["a 4/4 b 3/4"], 6, {"a": 4, "b": 2}, ((1, 2), 0, 1)),
        ("a pod that holds it beats leaves of two pods", ["a 3/4 b 3/4", "c 4/4"], 6, {"a": 3, "b": 3}, ((1, 2), 0, 0)),
        (
            "one pod with more leaf groups beats two pods with fewer",
            ["a 2/4 b 2/4 c 2/4", "d 4/4", "e 2/4"],
            6,
            {"a": 2, "b": 2, "c": 2},
            ((1, 3), 0, 0),
        ),
        (
            "of pods that hold it, the one with fewer leaf groups",
            ["a 2/4 b 2/4 c 2/4", "d 4/4 e 2/4"],
            6,
            {"d": 4, "e": 2},
            ((1, 2), 0, 0),
        ),
        ("everything", ["a 1/4 b 4/4", "c 2/4"], 7, {"a": 1, "b": 4, "c": 2}, ((2, 3), 0, 0)),
        ("more than there is", ["a 1/4 b 4/4", "c 2/4"], 8, None, None),
        ("nothing free", ["a 0/4"], 1, None, None),
        ("nothing asked", ["a 1/4"], 0, {}, ((0, 0), 0, 0)),
    ],
)
def test_placement(
    case: str,
    pods: list[str],
    count: int,
    expected: dict[str, int] | None,
    cost: tuple[tuple[int, ...], int, int] | None,
) -> None:
    choice = choose(domains(*pods), count)
    assert takes(choice) == expected, case
    assert (choice and choice.cost) == (cost and Cost(*cost)), case


def test_a_fabric_without_room_has_no_placement() -> None:
    assert choose([], 1) is None


@pytest.mark.parametrize(
    ("case", "pods", "held", "count", "expected"),
    [
        ("a spare in the leaf group of the survivors", ["a 1/4 b 4/4"], ["a"], 1, {"a": 1}),
        ("else in their pod", ["a 0/4 b 4/4", "c 1/4"], ["a"], 1, {"b": 1}),
        ("else the tightest broken one anywhere", ["a 0/4", "c 4/4 d 1/4"], ["a"], 1, {"d": 1}),
        ("several survivors' groups cost nothing more", ["a 1/4 b 1/4 c 4/4"], ["a", "b"], 2, {"a": 1, "b": 1}),
    ],
)
def test_replacement(case: str, pods: list[str], held: list[str], count: int, expected: dict[str, int]) -> None:
    known = domains(*pods)
    paths = [domain.path for domain in known if domain.path[-1] in held]
    assert takes(choose(known, count, held=paths)) == expected, case


def test_the_gap_is_the_price_of_fewer_pods() -> None:
    choice = choose(domains("a 2/4 b 2/4 c 2/4", "d 4/4", "e 2/4"), 6)
    assert choice is not None
    assert (choice.cost.used, choice.bound, choice.gap) == ((1, 3), (1, 2), (0, 1))


def test_the_runner_up_is_the_best_choice_without_one_of_the_chosen() -> None:
    known = domains("a 4/4 b 3/4 c 2/4")
    choice = choose(known, 2)
    assert choice is not None
    assert takes(choice) == {"c": 2}
    assert takes(runner_up(known, 2, choice)) == {"b": 2}


fabrics = st.lists(
    st.lists(
        st.integers(1, 4).flatmap(lambda size: st.tuples(st.integers(0, size), st.just(size))), min_size=1, max_size=4
    ),
    min_size=1,
    max_size=3,
).map(
    lambda pods: [
        Domain((f"p{p}", f"l{p}{leaf}"), free, size)
        for p, pod in enumerate(pods)
        for leaf, (free, size) in enumerate(pod)
    ]
)


def best(known: Sequence[Domain], count: int) -> Cost | None:
    """The optimum by looking at every set of domains."""
    costs = []
    free = [domain for domain in known if domain.free]
    for number in range(1, len(free) + 1):
        for chosen in combinations(free, number):
            leftover = sum(domain.free for domain in chosen) - count
            if leftover < 0 or any(domain.free <= leftover for domain in chosen):
                continue
            broken = int(leftover > 0 and all(domain.whole for domain in chosen))
            costs.append(Cost((len({domain.path[0] for domain in chosen}), number), broken, leftover))
    return min(costs, default=None)


@settings(deadline=None, max_examples=300)
@given(known=fabrics, count=st.integers(1, 20), order=st.randoms())
def test_placement_is_valid_exact_and_blind_to_order(known: list[Domain], count: int, order: object) -> None:
    choice = choose(known, count)
    assert (choice and choice.cost) == best(known, count)
    shuffled = list(known)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    assert choose(shuffled, count) == choice
    if choice:
        free = {domain.path: domain.free for domain in known}
        assert sum(places for _, places in choice.takes) == count
        assert all(0 < places <= free[path] for path, places in choice.takes)
        assert len(choice.takes) == choice.cost.used[-1]
        assert min(choice.gap) >= 0
        assert choice.gap[0] == 0


@settings(deadline=None, max_examples=200)
@given(known=fabrics, held=st.sets(st.integers(0, 11), max_size=3), count=st.integers(1, 6))
def test_a_replacement_is_valid_and_adds_the_fewest_domains(known: list[Domain], held: set[int], count: int) -> None:
    paths = {known[i].path for i in held if i < len(known)}
    choice = choose(known, count, held=paths)
    free = sum(domain.free for domain in known)
    assert (choice is None) == (free < count)
    if choice is None:
        return
    used = {path for path, _ in choice.takes} - paths
    assert len(used) == choice.cost.used[1]
    assert len({path[0] for path in used} - {path[0] for path in paths}) == choice.cost.used[0]
    assert sum(places for _, places in choice.takes) == count
    outside = [domain for domain in known if domain.path not in paths]
    missing = count - sum(domain.free for domain in known if domain.path in paths)
    fewest = min(
        (len({d.path[0] for d in chosen} - {path[0] for path in paths}), len(chosen))
        for number in range(len(outside) + 1)
        for chosen in combinations(outside, number)
        if sum(d.free for d in chosen) >= missing
    )
    assert choice.cost.used == fewest
