"""Chooses domains of the fabric for a job: exactly the fewest, level by level from the top, then the best fit.

Pure: places, not names of hosts, go in and come out. A domain is the lowest thing that is counted (a leaf group with
some free nodes); its path names what it stands under (pod, leaf group). The cost of a choice is lexicographic, each
term counted over the whole choice:

1. domains used at each level, top first (pods, then leaf groups);
2. imbalance, where balance is asked: squares of the places in each domain, summed over domains and levels;
3. whole domains broken: lowest domains that were entirely free and are left partly used;
4. leftover: free places left in the domains used, weighted by what the waiting jobs' sizes could make of them;
5. risk: places that failures are expected to cost, the places' probabilities times all places asked, since one failure
   ends the whole job. So it grows with the job's size; but the size is the same for all choices, and risk decides only
   between those that are equal in all terms before it, whatever the size;
6. ends: seconds by which the ends of neighbours miss the job's own, summed over the places taken.

Every term is a sum over domains, so the cheapest way to take n places below a domain follows from those of its parts:
min-plus convolution up the tree, exact for every n at once. The terms are packed into as few 64-bit words as hold them,
compared word by word. Where one domain holds the request, nothing above it and beside it is looked at.

Cost: O(D) for a request that one lowest domain holds, O(count x places) additions in numpy otherwise, below the
domains that hold it (1,642 nodes: 0.1 ms and at most some ms).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Path = tuple[str, ...]
"""Names from the top level down to the domain itself."""
Words = NDArray[np.int64]
"""Packed costs: the first axis is the word, most significant first."""

_INFINITE: Final = 1 << 61
"""More than any cost in the first word; two of them still fit 64 bits."""
_WORD: Final = 1 << 60
PARTS: Final = 1000
"""Parts of a place in which leftovers are weighed."""
RISK_PARTS: Final = 1_000_000
LONGEST_END_S: Final = 30 * 86_400
"""Neighbours further from the job's end than this are all alike."""


@dataclass(frozen=True, slots=True)
class Domain:
    """Lowest domain: `free` of its `size` places can be taken now.

    Args:
        size: places of it in all; None where nobody knows, and then it never counts as whole.
        risks: probability that a place fails its job, ascending, for each free place; empty: none is known.
        ends: seconds by which the end of a place's neighbours misses the job's, in the order of `risks`.
    """

    path: Path
    free: int
    size: int | None = None
    risks: tuple[float, ...] = ()
    ends: tuple[float, ...] = ()

    @property
    def whole(self) -> bool:
        return self.free == self.size


class Slice(NamedTuple):
    """The request is made of groups of `size` places, each in one domain of `level` (0 is the top)."""

    level: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked of the domains.

    Args:
        count: places.
        required: level (0 is the top) of which one domain must hold all.
        slices: from the top down; each size divides the one before and the count.
        balanced: the domains used share the places as evenly as they can.
        held: domains the job stands in already (a job that gets a node replaced): they and what they stand under cost
            nothing more.
        mix: sizes of waiting jobs in places, and how many there are of each; empty: every place left over counts one.
    """

    count: int
    required: int | None = None
    slices: tuple[Slice, ...] = ()
    balanced: bool = False
    held: frozenset[Path] = frozenset()
    mix: Mapping[int, float] = field(default_factory=dict)

    def size_at(self, level: int) -> int:
        """Of slices at this level; 1 where there are none."""
        return next((one.size for one in self.slices if one.level == level), 1)


class Cost(NamedTuple):
    """Compared term by term; see the module. `leftover` is in places, `risk` in places lost, `ends` in seconds."""

    used: tuple[int, ...]
    imbalance: int = 0
    broken: int = 0
    leftover: float = 0
    risk: float = 0
    ends: float = 0


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


def choose(domains: Iterable[Domain], request: Request) -> Choice | None:
    """The cheapest choice, the same whatever the order of `domains`; None where the request does not fit."""
    ordered = sorted((domain for domain in domains if domain.free > 0), key=lambda domain: domain.path)
    depth = max((len(path) for path in (*(domain.path for domain in ordered), *request.held)), default=0)
    if request.count == 0:
        return Choice((), Cost((0,) * depth), (0,) * depth)
    if request.count < 0 or not ordered:
        return None
    forest = _Forest(ordered, depth, request)
    if (takes := forest.cheapest()) is None:
        return None
    return Choice(takes, forest.cost(takes), tuple(forest.fewest(level) for level in range(depth)))


def runner_up(domains: Iterable[Domain], request: Request, choice: Choice) -> Choice | None:
    """The best choice that does without the domain of which `choice` takes least; None where there is none."""
    if not choice.takes:
        return None
    least, _ = min(choice.takes, key=lambda take: (take[1], take[0]))
    return choose((domain for domain in domains if domain.path != least), request)


def fits(domains: Iterable[Domain], request: Request) -> int:
    """The most places that a request of this form could get now."""
    ordered = sorted((domain for domain in domains if domain.free > 0), key=lambda domain: domain.path)
    if not ordered:
        return 0
    return _Forest(ordered, len(ordered[0].path), request).most()


# -- The tree of domains -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Tree:
    """A domain of some level. `room`: places that can be had of it under the request's slices."""

    path: Path
    room: int
    leaf: int = -1
    """Number of the lowest domain it is; -1: it has parts."""
    parts: Sequence[_Tree] = ()


@dataclass(slots=True)
class _Table:
    """Cheapest costs of n places of a tree, for n up to its room, and the places that each part then takes."""

    costs: Words
    tree: _Tree
    steps: Sequence[NDArray[np.intp]] = ()
    parts: Sequence[_Table] = ()


class _Forest:
    """The domains as trees, and one question about them."""

    def __init__(self, domains: Sequence[Domain], depth: int, request: Request) -> None:
        self._domains = domains
        self._depth = depth
        self._request = request
        self._paid = {path[:level] for path in request.held for level in range(1, depth + 1)}
        self._trees = self._grown(range(len(domains)), 0)
        self._terms = _Terms(domains, depth, request, self._paid)

    def _grown(self, numbers: Sequence[int], level: int) -> list[_Tree]:
        trees = []
        size = self._request.size_at(level)
        for path, below in groupby(numbers, key=lambda number: self._domains[number].path[: level + 1]):
            members = list(below)
            if level + 1 == self._depth:
                free = self._domains[members[0]].free
                trees.append(_Tree(path, free - free % size, members[0]))
            else:
                parts = self._grown(members, level + 1)
                room = sum(part.room for part in parts)
                trees.append(_Tree(path, room - room % size, parts=parts))
        return trees

    def at(self, level: int) -> list[_Tree]:
        trees = self._trees
        for _ in range(level):
            trees = [part for tree in trees for part in tree.parts]
        return trees

    def most(self) -> int:
        if self._request.required is not None:
            return max((tree.room for tree in self.at(self._request.required)), default=0)
        return sum(tree.room for tree in self._trees)

    def fewest(self, level: int) -> int:
        """Domains of a level that hold the request, were no other level to be thought of."""
        missing = self._request.count - sum(tree.room for tree in self.at(level) if tree.path in self._paid)
        rooms = (tree.room for tree in self.at(level) if tree.path not in self._paid)
        return _least(rooms, missing)

    def cheapest(self) -> tuple[tuple[Path, int], ...] | None:
        count = self._request.count
        found: list[tuple[tuple[int, ...], list[tuple[int, int]]]] = []
        for roots in self._candidates():
            table = self._table(_Tree((), count, parts=roots), -1)
            if table.costs.shape[1] > count and table.costs[0, count] < _INFINITE:
                found.append((tuple(table.costs[:, count].tolist()), list(_traced(table, count))))
        if not found:
            return None
        _, takes = min(found)
        return tuple((self._domains[number].path, places) for number, places in takes)

    def _candidates(self) -> list[list[_Tree]]:
        """Sets of trees, one of which holds the cheapest choice: single domains as low as one can hold it."""
        count = self._request.count
        if sum(tree.room for tree in self._trees) < count:
            return []
        if self._paid and self._request.required is None:
            return [self._trees]
        required = self._request.required
        holding = [[tree for tree in self.at(level) if tree.room >= count] for level in range(self._depth)]
        lowest = sum(bool(trees) for trees in holding) - 1  # what stands above one that holds it holds it too
        if required is not None and lowest < required:
            return []
        if self._paid:
            return [[_within(tree)] for tree in holding[required or 0]]
        if lowest < 0:
            return [self._trees]
        if lowest == self._depth - 1:
            return [[self._cheapest_alone(holding[lowest])]]
        needed = [_least((part.room for part in tree.parts), count) for tree in holding[lowest]]
        return [[_within(tree)] for tree, parts in zip(holding[lowest], needed, strict=True) if parts == min(needed)]

    def _cheapest_alone(self, trees: Sequence[_Tree]) -> _Tree:
        """Of lowest domains that each hold the request, the cheapest; by path among equals."""
        costs = self._terms.taking(np.array([tree.leaf for tree in trees]), self._request.count)
        return trees[int(_first_least(costs))]

    def _table(self, tree: _Tree, level: int) -> _Table:
        """Costs of what is taken of a tree; the root of all, at level -1, costs nothing itself."""
        most = min(tree.room, self._request.count)
        if tree.leaf >= 0:
            return _Table(self._allowed(self._terms.options(tree.leaf, most), level), tree)
        parts = [self._table(part, len(part.path) - 1) for part in tree.parts]
        costs, steps = parts[0].costs, [np.arange(parts[0].costs.shape[1], dtype=np.intp)]
        for part in parts[1:]:
            costs, step = _merged(costs, part.costs, self._request.count)
            steps.append(step)
        if level >= 0:
            costs = self._allowed(costs + self._terms.entering(tree.path, level, costs.shape[1]), level)
        return _Table(costs, tree, steps, parts)

    def _allowed(self, costs: Words, level: int) -> Words:
        """Whole slices only."""
        if (size := self._request.size_at(level)) > 1:
            costs = costs.copy()
            costs[0, np.arange(costs.shape[1]) % size != 0] = _INFINITE
        return costs

    def cost(self, takes: Iterable[tuple[Path, int]]) -> Cost:
        return self._terms.cost(takes)


def _within(tree: _Tree) -> _Tree:
    """The top domain that the tree stands under, with nothing else below it."""
    for level in range(len(tree.path) - 1, 0, -1):
        tree = _Tree(tree.path[:level], tree.room, parts=[tree])
    return tree


def _least(rooms: Iterable[int], missing: int) -> int:
    """Fewest of these that hold as much, the largest first."""
    fewest = 0
    for room in sorted(rooms, reverse=True):
        if missing <= 0:
            break
        missing -= room
        fewest += 1
    return fewest


def _merged(before: Words, more: Words, most: int) -> tuple[Words, NDArray[np.intp]]:
    """Cheapest costs of n places of both, and how many of them the second gives: the fewest among equals."""
    words, had = before.shape
    given = more.shape[1]
    total = min(had + given - 2, most) + 1
    padded = np.zeros((words, given - 1 + total), dtype=np.int64)
    padded[0] = _INFINITE
    padded[:, given - 1 : given - 1 + had] = before[:, :total]
    stride = padded.strides[1]
    # [word, n, t]: what was there for n - t places
    earlier = np.lib.stride_tricks.as_strided(
        padded[:, given - 1 :], (words, total, given), (padded.strides[0], stride, -stride), writeable=False
    )
    both = earlier + more[:, np.newaxis, :]
    if words == 1:
        step = both[0].argmin(axis=1)
    else:
        least = np.ones(both.shape[1:], dtype=np.bool_)
        for word in both:
            word = np.where(least, word, np.iinfo(np.int64).max)
            least = word == word.min(axis=1, keepdims=True)
        step = least.argmax(axis=1)
    costs = np.take_along_axis(both, step[np.newaxis, :, np.newaxis], axis=2)[:, :, 0]
    costs[0] = np.minimum(costs[0], _INFINITE)
    return costs, step


def _first_least(costs: Words) -> int:
    """Column of the least costs, compared word by word; the first among equals."""
    return min(range(costs.shape[1]), key=lambda column: tuple(costs[:, column].tolist()))


def _traced(table: _Table, count: int) -> Iterable[tuple[int, int]]:
    """(number of the lowest domain, places) of the choice, in path order."""
    if table.tree.leaf >= 0:
        return [(table.tree.leaf, count)] if count else []
    takes = []
    for part, step in zip(reversed(table.parts), reversed(table.steps), strict=True):
        given = int(step[count])
        takes.append((part, given))
        count -= given
    return [one for part, given in reversed(takes) if given for one in _traced(part, given)]


# -- What it costs -----------------------------------------------------------------------------------------------------


class _Terms:
    """Costs of single domains, packed so that sums compare as the terms do, one after the other."""

    def __init__(self, domains: Sequence[Domain], depth: int, request: Request, paid: Collection[Path]) -> None:
        self._domains = domains
        self._depth = depth
        self._request = request
        self._paid = paid
        self._number = {domain.path: number for number, domain in enumerate(domains)}
        self._free = np.array([domain.free for domain in domains], dtype=np.int64)
        self._whole = np.array([domain.whole for domain in domains], dtype=np.bool_)
        most = int(self._free.max())
        self._left = _weights(most, request.mix)
        risky = any(domain.risks for domain in domains)
        ending = any(domain.ends for domain in domains)
        self._risks = [_summed(domain.risks, domain.free, RISK_PARTS) for domain in domains] if risky else None
        self._ends = [_summed(domain.ends, domain.free, 1, LONGEST_END_S) for domain in domains] if ending else None
        used = [len({domain.path[: level + 1] for domain in domains}) for level in range(depth)]
        count = min(request.count, int(self._free.sum()))
        self._places = _Places(
            used=used,
            imbalance=depth * count**2 if request.balanced else 0,
            broken=len(domains) if self._whole.any() else 0,
            leftover=len(domains) * int(self._left.max()),
            risk=sum(int(one[-1]) for one in self._risks or ()),
            ends=sum(int(one[-1]) for one in self._ends or ()),
        )

    def options(self, number: int, most: int) -> Words:
        """Of taking 0 to `most` places of a lowest domain; shape (words, most + 1)."""
        places = np.arange(most + 1)
        costs = self._costs(np.array([number]), places)
        costs[:, 0] = 0
        return costs

    def taking(self, numbers: NDArray[np.intp], places: int) -> Words:
        """Of taking so many places of each of these lowest domains alone; shape (words, domains)."""
        return self._costs(numbers, np.array([places]))

    def _costs(self, numbers: NDArray[np.intp], places: NDArray[np.intp]) -> Words:
        """One domain and many numbers of places, or many domains and one."""
        left = self._free[numbers] - places
        costs = self._places.zeros(left.size)
        prices = [int(self._domains[number].path not in self._paid) for number in numbers]
        self._places.add(costs, "used", np.array(prices), level=self._depth - 1)
        if self._request.balanced:
            self._places.add(costs, "imbalance", places * places)
        self._places.add(costs, "broken", self._whole[numbers] & (left > 0))
        self._places.add(costs, "leftover", self._left[np.maximum(left, 0)])
        for name, sums in (("risk", self._risks), ("ends", self._ends)):
            if sums is not None:
                values = sums[numbers[0]][places] if len(numbers) == 1 else [sums[n][places[0]] for n in numbers]
                self._places.add(costs, name, np.asarray(values))
        return costs

    def entering(self, path: Path, level: int, length: int) -> Words:
        """Of 0 to `length` - 1 places under a domain above the lowest, for that domain itself."""
        costs = self._places.zeros(length)
        self._places.add(costs, "used", np.full(length, int(path not in self._paid)), level=level)
        if self._request.balanced:
            self._places.add(costs, "imbalance", np.arange(length) ** 2)
        costs[:, 0] = 0
        return costs

    def cost(self, takes: Iterable[tuple[Path, int]]) -> Cost:
        """Of a choice, counted anew from what it takes."""
        rows = [(self._number[path], path, places) for path, places in takes]
        shares: dict[Path, int] = {}
        for _, path, places in rows:
            for level in range(1, self._depth + 1):
                shares[path[:level]] = shares.get(path[:level], 0) + places
        new = [path for path in shares if path not in self._paid]
        lefts = [(number, int(self._free[number]) - places) for number, _, places in rows]
        risk = sum(int(self._risks[number][places]) for number, _, places in rows) if self._risks else 0
        ends = sum(int(self._ends[number][places]) for number, _, places in rows) if self._ends else 0
        leftover = sum(int(self._left[left]) for _, left in lefts)
        return Cost(
            used=tuple(sum(len(path) == level for path in new) for level in range(1, self._depth + 1)),
            imbalance=sum(places**2 for places in shares.values()) if self._request.balanced else 0,
            broken=sum(bool(self._whole[number]) and left > 0 for number, left in lefts),
            leftover=leftover // PARTS if leftover % PARTS == 0 else leftover / PARTS,
            risk=risk * self._request.count / RISK_PARTS,
            ends=ends,
        )


class _Places:
    """Where each term stands in the words: terms are given their largest sums, the most significant first."""

    def __init__(
        self, *, used: Sequence[int], imbalance: int, broken: int, leftover: int, risk: int, ends: int
    ) -> None:
        named = {f"used {level}": most for level, most in enumerate(used)}
        named |= {"imbalance": imbalance, "broken": broken, "leftover": leftover, "risk": risk, "ends": ends}
        words: list[list[tuple[str, int]]] = [[]]
        product = 1
        for name, most in named.items():
            if most == 0:
                continue
            if product * (most + 1) >= _WORD:
                words.append([])
                product = 1
            words[-1].append((name, most))
            product *= most + 1
        self._words = len(words)
        self._at: dict[str, tuple[int, int]] = {}
        for number, word in enumerate(words):
            factor = 1
            for name, most in reversed(word):
                self._at[name] = number, factor
                factor *= most + 1

    def zeros(self, length: int) -> Words:
        return np.zeros((self._words, length), dtype=np.int64)

    def add(self, costs: Words, term: str, values: NDArray[np.generic], *, level: int | None = None) -> None:
        name = term if level is None else f"{term} {level}"
        if name in self._at:
            word, factor = self._at[name]
            costs[word] += values.astype(np.int64) * factor


def _weights(most: int, mix: Mapping[int, float]) -> NDArray[np.int64]:
    """What 0 to `most` places left over weigh, in `PARTS` of a place: those that jobs of the mix could not fill, each
    size by its share of the waiting places. Without a mix, every place counts."""
    left = np.arange(most + 1)
    if not mix:
        return left * PARTS
    total = sum(size * number for size, number in mix.items())
    lost = sum(size * number * (left % size) for size, number in mix.items())
    return np.rint(lost * PARTS / total).astype(np.int64)


def _summed(values: Sequence[float], places: int, parts: int, most: float = 1.0) -> NDArray[np.int64]:
    """Sums of the first 0, 1, ... values; of nothing where none is known."""
    known = np.clip(np.array(values or (0.0,) * places), 0.0, most)
    return np.concatenate(([0], np.cumsum(np.rint(known * parts).astype(np.int64))))
