"""Placement over domains. Cases are written `leaf: free/size`, a pod a line."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from itertools import combinations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm_gpuaas.topology.placement import Choice, Cost, Domain, Request, Slice, choose, runner_up
from tests.unit.topology import slurm_tree


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
    choice = choose(domains(*pods), Request(count=count))
    assert takes(choice) == expected, case
    assert (choice and choice.cost) == (cost and Cost(cost[0], broken=cost[1], leftover=cost[2])), case


def test_a_fabric_without_room_has_no_placement() -> None:
    assert choose([], Request(count=1)) is None


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
    assert takes(choose(known, Request(count=count, held=frozenset(paths)))) == expected, case


def test_the_gap_is_the_price_of_fewer_pods() -> None:
    choice = choose(domains("a 2/4 b 2/4 c 2/4", "d 4/4", "e 2/4"), Request(count=6))
    assert choice is not None
    assert (choice.cost.used, choice.bound, choice.gap) == ((1, 3), (1, 2), (0, 1))


def test_the_runner_up_is_the_best_choice_without_one_of_the_chosen() -> None:
    known = domains("a 4/4 b 3/4 c 2/4")
    choice = choose(known, Request(count=2))
    assert choice is not None
    assert takes(choice) == {"c": 2}
    assert takes(runner_up(known, Request(count=2), choice)) == {"b": 2}


@st.composite
def questions(draw: st.DrawFn) -> tuple[list[Domain], Request]:
    """A small fabric of pods and leaf groups, and any form of request."""
    known = []
    for pod in range(draw(st.integers(1, 3))):
        for leaf in range(draw(st.integers(1, 3))):
            size = draw(st.integers(1, 4))
            free = draw(st.integers(0, size))
            risks = sorted(draw(st.lists(st.sampled_from([0.0, 0.1, 0.3]), min_size=free, max_size=free)))
            ends = [draw(st.sampled_from([0.0, 60.0, 600.0]))] * free
            sized = draw(st.sampled_from([size, size, None]))
            known.append(
                Domain(
                    (f"p{pod}", f"l{leaf}"),
                    free,
                    sized,
                    tuple(risks) if draw(st.booleans()) else (),
                    tuple(ends) if draw(st.booleans()) else (),
                )
            )
    slices: tuple[Slice, ...] = draw(
        st.sampled_from([(), (), (), (Slice(0, 2),), (Slice(1, 2),), (Slice(1, 3),), (Slice(0, 4), Slice(1, 2))])
    )
    step = slices[0].size if slices else 1
    request = Request(
        count=draw(st.integers(1, max(1, 12 // step))) * step,
        required=draw(st.sampled_from([None, None, 0, 1])),
        slices=slices,
        balanced=draw(st.booleans()),
        held=frozenset(draw(st.lists(st.sampled_from([one.path for one in known]), max_size=2))),
        mix=draw(st.sampled_from([{}, {1: 2, 2: 1}, {4: 1, 3: 1}])),
    )
    return known, request


def best(known: Sequence[Domain], request: Request) -> Cost | None:
    """The optimum by looking at everything that could be taken."""
    free = [domain for domain in known if domain.free]
    takes = product(*(range(domain.free + 1) for domain in free))
    costs = (priced(list(zip(free, one, strict=True)), request) for one in takes if sum(one) == request.count)
    return min((cost for cost in costs if cost), default=None)


def priced(takes: Sequence[tuple[Domain, int]], request: Request) -> Cost | None:
    """What it costs, from the definition; None where the request forbids it."""
    shares: Counter[tuple[str, ...]] = Counter()
    for domain, places in takes:
        for level in (1, 2):
            shares[domain.path[:level]] += places
    shares = +shares
    if any(places % request.size_at(len(path) - 1) for path, places in shares.items()):
        return None
    if request.required is not None and sum(len(path) == request.required + 1 for path in shares) > 1:
        return None
    paid = {path[:level] for path in request.held for level in (1, 2)}
    waiting = sum(size * number for size, number in request.mix.items())

    def weight(left: int) -> float:
        lost = sum(size * number * (left % size) for size, number in request.mix.items())
        return round(lost * 1000 / waiting) / 1000 if request.mix else left

    used = [(domain, places) for domain, places in takes if places]
    return Cost(
        used=tuple(sum(len(path) == level and path not in paid for path in shares) for level in (1, 2)),
        imbalance=sum(places**2 for places in shares.values()) if request.balanced else 0,
        broken=sum(domain.whole and places < domain.free for domain, places in used),
        leftover=round(sum(weight(domain.free - places) for domain, places in used), 6),
        risk=round(sum(sum(domain.risks[:places]) for domain, places in used) * request.count, 6),
        ends=sum(sum(domain.ends[:places]) for domain, places in used),
    )


@settings(deadline=None, max_examples=400)
@given(question=questions(), order=st.randoms())
def test_placement_is_valid_exact_and_blind_to_order(
    question: tuple[list[Domain], Request], order: random.Random
) -> None:
    known, request = question
    choice = choose(known, request)
    found = choice and choice.cost._replace(leftover=round(choice.cost.leftover, 6), risk=round(choice.cost.risk, 6))
    assert found == best(known, request)
    shuffled = list(known)
    order.shuffle(shuffled)
    assert choose(shuffled, request) == choice
    if choice:
        free = {domain.path: domain.free for domain in known}
        assert sum(places for _, places in choice.takes) == request.count
        assert all(0 < places <= free[path] for path, places in choice.takes)
        assert priced([(one, dict(choice.takes).get(one.path, 0)) for one in known], request) is not None
        assert min(choice.gap) >= 0


@settings(deadline=None, max_examples=200)
@given(question=questions(), held=st.sets(st.integers(0, 11), max_size=3), count=st.integers(1, 6))
def test_a_replacement_is_valid_and_adds_the_fewest_domains(
    question: tuple[list[Domain], Request], held: set[int], count: int
) -> None:
    known, _ = question
    paths = {known[i].path for i in held if i < len(known)}
    choice = choose(known, Request(count=count, held=frozenset(paths)))
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


@settings(deadline=None, max_examples=400)
@given(question=questions(), count=st.integers(1, 20))
def test_placement_is_never_worse_than_slurms_tree(question: tuple[list[Domain], Request], count: int) -> None:
    known, _ = question
    theirs, ours = slurm_tree.takes(known, count), choose(known, Request(count=count))
    assert (ours is None) == (theirs is None)
    if ours and theirs:
        cost = priced([(domain, theirs.get(domain.path, 0)) for domain in known], Request(count=count))
        assert cost is not None
        assert (*ours.cost.used, ours.cost.broken, ours.cost.leftover) <= (*cost.used, cost.broken, cost.leftover)
