"""What a choice can be worth at most, and so which awards no best choice holds (Lagrange).

With any prices on the rows that candidates compete in, a choice is worth at most what the rows' room costs and what
the awards make beyond their prices. What the members of a group make together is the best within its limit, found by
going through its GPUs one by one (a knapsack), so the limit needs no price: limits of organisations are small, and
priced they leave a bound that closes nothing.

All is added up in whole numbers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Whole = NDArray[np.int64]

FINEST: Final = 2**20
"""Prices count in fractions of this at best. Any prices give a right bound; finer ones give a tighter one."""
LARGEST: Final = 2**52
"""No worth and no price of an alternative is larger, in these fractions, so that 64 bits hold sums of a thousand."""
NEVER: Final = -(2**60)
"""Worth of what cannot be."""


class Alternative(NamedTuple):
    """Something that a candidate may have.

    Args:
        award: its column; None is nothing.
        servers: of a partial award, else 0.
        gpus, worth: of all of it.
    """

    candidate: int
    award: int | None
    servers: int
    gpus: int
    worth: int


@dataclass(frozen=True, kw_only=True)
class Market:
    """Args:
    alternatives: one at least; of all candidates, each candidate's together, in the order of their numbers.
    group: of each candidate, its number in `limits`; None = it is in none.
    limits: GPUs that a group's members may have together.
    room: of each priced row.
    taken: what each alternative takes of each priced row.
    kept: what a unit takes of each priced row, and how many there may be, of columns of no candidate.
    """

    alternatives: Sequence[Alternative]
    group: Sequence[int | None]
    limits: Sequence[int]
    room: Whole
    taken: Whole
    kept: Sequence[tuple[Whole, int]]

    @cached_property
    def worth(self) -> Whole:
        """Of each alternative."""
        return np.array([one.worth for one in self.alternatives], dtype=np.int64)

    @cached_property
    def first(self) -> Whole:
        """Of each candidate that may have something, the number of its first alternative."""
        candidates = np.array([one.candidate for one in self.alternatives])
        return np.flatnonzero(np.diff(candidates, prepend=-1))

    @cached_property
    def alone(self) -> NDArray[np.bool_]:
        """Which of them nothing but prices limits."""
        return np.array([self.group[self.alternatives[at].candidate] is None for at in self.first])

    @cached_property
    def members(self) -> Sequence[tuple[int, Sequence[Mapping[int, Sequence[int]]]]]:
        """GPUs of each limit, and its members' alternatives by their GPUs."""
        found: dict[int, dict[int, dict[int, list[int]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
        for at, one in enumerate(self.alternatives):
            group = self.group[one.candidate]
            if group is not None and one.gpus <= self.limits[group]:
                found[group][one.candidate][one.gpus].append(at)
        return [(self.limits[group], list(members.values())) for group, members in found.items()]

    def priced(self, prices: Sequence[float]) -> Priced:
        """At these prices of a unit of each row, in worth. Those of the relaxed program are meant: better ones were
        looked for (150 steps of subgradients) and not found."""
        wanted = np.maximum(prices, 0.0)
        costs = [np.abs(self.taken) @ wanted, *(np.abs(takes) @ wanted for takes, _ in self.kept)]
        largest = max([1.0, float(self.worth.max()), *(float(np.max(cost)) for cost in costs)])
        fraction = min(FINEST, int(LARGEST / largest))
        return Priced(self, np.rint(wanted * fraction).astype(np.int64), fraction)


@dataclass
class Priced:
    """A market at prices, in fractions of worth, one a row. With none at all the bound is right, too."""

    market: Market
    prices: Whole
    fraction: int

    def __post_init__(self) -> None:
        market = self.market
        self.gain = market.worth * self.fraction - market.taken @ self.prices
        """What each alternative makes beyond its price."""
        self._most = np.maximum.reduceat(self.gain, market.first)
        """What each candidate makes at most."""
        gain = self.gain.tolist()
        self._best = [
            [{gpus: max(ats, key=gain.__getitem__) for gpus, ats in of.items()} for of in members]
            for _, members in market.members
        ]
        """Of each member of each group the best alternative for so many GPUs."""
        self._up_to = [self._walk(best, limit) for (limit, _), best in zip(market.members, self._best, strict=True)]

    def _walk(self, members: Sequence[Mapping[int, int]], limit: int) -> list[Whole]:
        """For the first 0, 1, ... of them: what they make together with at most so many GPUs."""
        tables = [np.zeros(limit + 1, dtype=np.int64)]
        for best in members:
            before = tables[-1]
            after = np.full(limit + 1, NEVER, dtype=np.int64)
            for gpus, at in best.items():
                np.maximum(after[gpus:], before[: limit + 1 - gpus] + self.gain[at], out=after[gpus:])
            tables.append(after)
        return tables

    @cached_property
    def bound(self) -> int:
        """No choice is worth more, in fractions."""
        room = sum(int(price) * int(there) for price, there in zip(self.prices, self.market.room, strict=True))
        kept = sum(max(0, -int(takes @ self.prices)) * most for takes, most in self.market.kept)
        alone: int = sum(self._most[self.market.alone].tolist())
        return room + kept + alone + sum(int(tables[-1][-1]) for tables in self._up_to)

    @property
    def short(self) -> Whole:
        """What each alternative makes less than its candidate's best."""
        return np.repeat(self._most, self._counts) - self.gain

    def possible(self, least: int) -> Iterator[Alternative]:
        """Alternatives that a choice may have which is worth as much as `least`."""
        spare = self.bound - least * self.fraction
        market = self.market
        alone = np.repeat(market.alone, self._counts)
        for at in np.flatnonzero(alone & (self.short <= spare)).tolist():
            yield market.alternatives[at]
        for group, (limit, members) in enumerate(market.members):
            before = self._up_to[group]
            behind = self._walk(self._best[group][::-1], limit)[::-1]
            best = before[-1][-1]
            for number, member in enumerate(members):
                for gpus, ats in member.items():
                    room = limit + 1 - gpus
                    rest = (before[number][:room] + behind[number + 1][:room][::-1]).max()
                    for at in ats:
                        if best - rest - self.gain[at] <= spare:
                            yield market.alternatives[at]

    @property
    def _counts(self) -> Whole:
        """How many alternatives each candidate has that has some."""
        return np.diff(self.market.first, append=len(self.gain))
