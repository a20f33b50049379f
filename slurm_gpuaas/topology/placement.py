"""Chooses domains of the fabric for a job: exactly the fewest, level by level from the top, then the best fit.

Pure: places, not names of hosts, go in and come out. A domain is the lowest thing that is counted (a leaf group with
some free nodes); its path names what it stands under (pod, leaf group). The cost of a choice is lexicographic:

1. domains used at each level, top first (pods, then leaf groups);
2. whole domains broken: lowest domains that were entirely free and are left partly used (0 or 1);
3. leftover: free places left in the domains used, all in one of them.

Terms 1 are the true minimum and 2, 3 the minimum under them, by dynamic programming over domains in path order: a state
is the number of domains used so far at each level and whether one of them was already broken; its value is the set of
totals that such choices reach, held as the bits of one integer. A choice with the fewest domains leaves less over than
any of its domains holds (else that domain could go), so which of them stays partly free is decided after.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, NamedTuple

Path = tuple[str, ...]
"""Names from the top level down to the domain itself."""


@dataclass(frozen=True, slots=True)
class Domain:
    """Lowest domain: `free` of its `size` places can be taken now."""

    path: Path
    free: int
    size: int

    @property
    def whole(self) -> bool:
        return self.free == self.size


class Cost(NamedTuple):
    """Compared term by term; see the module."""

    used: tuple[int, ...]
    broken: int
    leftover: int


@dataclass(frozen=True, slots=True)
class Choice:
    """How many places to take of which domains, in path order, and what that costs.

    `bound` is what no choice can beat in each term of `cost.used`, taken one by one. A sum above the bound is the price
    of a term further up.
    """

    takes: tuple[tuple[Path, int], ...]
    cost: Cost
    bound: tuple[int, ...]

    @property
    def gap(self) -> tuple[int, ...]:
        return tuple(used - bound for used, bound in zip(self.cost.used, self.bound, strict=True))


def choose(domains: Iterable[Domain], count: int, *, held: Collection[Path] = ()) -> Choice | None:
    """The cheapest choice of `count` places, the same whatever the order of `domains`; None where fewer are free.

    Args:
        held: domains the job stands in already (a job that gets a node replaced): they and what they stand under cost
            nothing more.
    """
    ordered = sorted((domain for domain in domains if domain.free > 0), key=lambda domain: domain.path)
    if count < 0 or sum(domain.free for domain in ordered) < count:
        return None
    depth = max((len(path) for path in (*(domain.path for domain in ordered), *held)), default=0)
    if count == 0:
        return Choice((), Cost((0,) * depth, 0, 0), (0,) * depth)
    paid = {path[:level] for path in held for level in range(1, depth + 1)}
    bound = tuple(_fewest(ordered, level, count, paid) for level in range(1, depth + 1))

    capacity = _Sweep(count, paid, (bound[0],), _MOST).over(ordered)
    used = min(key[:-1] for key, most in capacity.items() if most >= count)

    sweep = _Sweep(count, paid, used, _TOTALS)
    totals = sweep.over(ordered)
    cost, key, total = min(
        (Cost(used, broken=int(not tapped and total > count), leftover=total - count), (*used, tapped), total)
        for tapped in (1, 0)
        if (total := _least(totals.get((*used, tapped), 0), count)) is not None
    )
    chosen = sweep.traced(key, total)
    return Choice(_filled(chosen, count), cost, bound)


def runner_up(domains: Iterable[Domain], count: int, choice: Choice, *, held: Collection[Path] = ()) -> Choice | None:
    """The best choice that does without at least one domain of `choice`; None where there is none."""
    known = list(domains)
    others = (choose([domain for domain in known if domain.path != path], count, held=held) for path, _ in choice.takes)
    return min((other for other in others if other), key=lambda other: (other.cost, other.takes), default=None)


Key = tuple[int, ...]
"""Domains used so far at each level, then 1 where one of them was broken already."""

States = Mapping[Key, int]


@dataclass(frozen=True, slots=True)
class _Algebra:
    """What a state's value is: `add` takes a domain's places to it, `join` merges two ways to the same state."""

    empty: int
    add: Callable[[int, int, int], int]
    join: Callable[[int, int], int]
    tell_broken: bool


_MOST: Final = _Algebra(0, lambda most, free, count: most + free if most < count else -1, max, tell_broken=False)
"""The largest total; from `count` on, nothing is added any more."""

_TOTALS: Final = _Algebra(
    1, lambda totals, free, count: (totals & ((1 << count) - 1)) << free, lambda a, b: a | b, tell_broken=True
)
"""All totals, as bits; from `count` on, nothing is added any more."""


@dataclass(frozen=True, slots=True)
class _Step:
    """A subtree as the sweep met it: states before it, what entering it costs, and its domain or its own subtrees."""

    before: States
    price: int
    domain: Domain | None
    below: Sequence[_Step] = ()


class _Sweep:
    """One pass over the domains in path order; `limit` bounds the domains used at the levels it names."""

    def __init__(self, count: int, paid: Collection[Path], limit: Sequence[int], algebra: _Algebra) -> None:
        self._count = count
        self._paid = paid
        self._limit = limit
        self._algebra = algebra
        self._steps: Sequence[_Step] = ()

    def over(self, domains: Sequence[Domain]) -> States:
        start: States = {(0,) * (len(domains[0].path) + 1): self._algebra.empty}
        states, self._steps = self._level(domains, 0, start)
        return states

    def _level(self, domains: Sequence[Domain], level: int, states: States) -> tuple[States, Sequence[_Step]]:
        steps: list[_Step] = []
        for path, subtree in groupby(domains, key=lambda domain: domain.path[: level + 1]):
            members = list(subtree)
            price = int(path not in self._paid)
            inside = self._entered(states, level, price)
            if level + 1 < len(members[0].path):
                inside, below = self._level(members, level + 1, inside)
                steps.append(_Step(states, price, None, below))
            else:
                inside = self._taken(inside, members[0])
                steps.append(_Step(states, price, members[0]))
            states = self._joined(states, inside)
        return states, steps

    def _entered(self, states: States, level: int, price: int) -> States:
        bounded = level < len(self._limit)
        return {
            (*key[:level], key[level] + price, *key[level + 1 :]): value
            for key, value in states.items()
            if not bounded or key[level] + price <= self._limit[level]
        }

    def _taken(self, states: States, domain: Domain) -> States:
        tapped = int(self._algebra.tell_broken and not domain.whole)
        taken: dict[Key, int] = {}
        for key, value in states.items():
            more = self._algebra.add(value, domain.free, self._count)
            if more > 0:
                after = (*key[:-1], key[-1] | tapped)
                taken[after] = self._algebra.join(taken[after], more) if after in taken else more
        return taken

    def _joined(self, one: States, other: States) -> States:
        both = dict(one)
        for key, value in other.items():
            both[key] = self._algebra.join(both[key], value) if key in both else value
        return both

    def traced(self, key: Key, total: int) -> list[Domain]:
        """Domains of a choice that ends in this state, in path order; early domains are preferred."""
        chosen, _, _ = self._back(self._steps, 0, key, total)
        return chosen[::-1]

    def _back(self, steps: Sequence[_Step], level: int, key: Key, total: int) -> tuple[list[Domain], Key, int]:
        chosen: list[Domain] = []
        for step in reversed(steps):
            if step.before.get(key, 0) >> total & 1:
                continue
            if step.domain is None:
                within, key, total = self._back(step.below, level + 1, key, total)
                chosen += within
            else:
                chosen.append(step.domain)
                total -= step.domain.free
            key = (*key[:level], key[level] - step.price, *key[level + 1 :])
            if step.domain is not None and not step.domain.whole and not step.before.get(key, 0) >> total & 1:
                key = (*key[:-1], 0)  # it was the first broken one
        return chosen, key, total


def _fewest(domains: Sequence[Domain], level: int, count: int, paid: Collection[Path]) -> int:
    """Fewest domains of a level that hold `count`, were no other level to be thought of."""
    room: dict[Path, int] = {}
    for domain in domains:
        room[domain.path[:level]] = room.get(domain.path[:level], 0) + domain.free
    missing = count - sum(free for path, free in room.items() if path in paid)
    fewest = 0
    for free in sorted((free for path, free in room.items() if path not in paid), reverse=True):
        if missing <= 0:
            break
        missing -= free
        fewest += 1
    return fewest


def _least(totals: int, count: int) -> int | None:
    """The smallest total of at least `count`."""
    enough = totals >> count
    return count + (enough & -enough).bit_length() - 1 if enough else None


def _filled(chosen: Sequence[Domain], count: int) -> tuple[tuple[Path, int], ...]:
    """Places to take: all of each domain, less the leftover, which stays where a domain is broken already if it can."""
    excess = sum(domain.free for domain in chosen) - count
    takes: dict[Path, int] = {}
    for domain in sorted(chosen, key=lambda domain: (domain.whole, -domain.free, domain.path)):
        left = min(excess, domain.free)
        excess -= left
        takes[domain.path] = domain.free - left
    return tuple((domain.path, takes[domain.path]) for domain in chosen if takes[domain.path])
