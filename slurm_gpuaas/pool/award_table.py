"""The best choice by going through all that may be it: where few candidates stay open, however large their sizes.

An integer program is bad at such problems: that no other choice is worth exactly as much is a question of sums of
large numbers (subset sum), and between two bounds branch and bound tries them all.

With prices on the rows (`award_bound`) no choice is worth more than a bound, and a choice falls short of it by what its
alternatives make less than the best ones of their candidates, and by the price of room that nobody takes. Neither is
ever negative. So, to find all choices that fall short by no more than `spare`, candidates are gone through one after
another, and a beginning that has lost more is dropped. Two beginnings that leave the candidates behind them as much of
every row can go on in the same ways: only the better one is kept, by worth, then fewer partial awards, then more for
the earlier candidate. What those behind must still lose is told by each row alone, as if the others had no end: the
least for each room that is left of it, found from the last candidate to the first. So a beginning that no sizes behind
it fill up goes at once, not when the last of them has been tried. If what is found in the end falls short by no more
than `spare`, it is the best of all; if not, `spare` is made half as large again. All in whole numbers: no tolerance
and no solver has a say in the proof.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from slurm_gpuaas.pool.award_bound import Priced, Whole
from slurm_gpuaas.pool.integer_program import NotProven

FIRST_SPARE: Final = 2**16
"""The first `spare` is the bound by this."""
MOST_OPEN: Final = 48
"""Candidates that have more than one alternative left. Problems with more are not tried."""
MOST_BEGINNINGS: Final = 2**20
"""With one candidate more, before the worse of those alike are dropped: some 100 MB, and a second to sort them. A
problem with more is given up."""
MOST_IN_ALL: Final = 2**22
"""With all candidates one after another: some seconds. A problem with more is given up."""
MOST_AHEAD: Final = 2**23
"""Least losses that are kept, 8 bytes each. Rows beyond them, of some 100,000 GPUs, are not looked ahead on."""
LARGEST_WORD: Final = 2**62
"""Of a packing."""
LARGEST_LOSS: Final = 2**60
"""In fractions of worth; 64 bits hold sums of it and an alternative."""


def best_choice(
    priced: Priced, binding: NDArray[np.bool_], reached: int | None, *, deadline: float, clock: Callable[[], float]
) -> Mapping[int, int] | None:
    """GPUs of each candidate in the best choice; None: there are too many to go through, or there is none.

    Args:
        priced: a market without groups and without columns of no candidate: its rows are all that limits a choice.
        binding: rows of the market that do not follow from others.
        deadline: on `clock`, in seconds.

    Raises:
        NotProven: at the deadline.
    """
    market = priced.market
    at_most = priced.bound + sum(map(int.__mul__, priced.prices.tolist(), market.room.tolist()))
    if at_most > LARGEST_LOSS:
        return None
    spare = max(1, priced.bound // FIRST_SPARE) if reached is None else priced.bound - reached * priced.fraction
    while True:
        table = _Table.of(priced, spare, binding)
        best = table.best(deadline, clock) if len(table.order) <= MOST_OPEN else None
        if best is None:
            return None
        short = [priced.bound - worth * priced.fraction for worth in best.worth.tolist()]
        if short and short[0] <= spare:
            return table.gpus_of(best)
        if spare >= priced.bound:  # nothing is worth less than 0
            return None
        spare = min([spare + spare // 2 + 1, *short])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Beginnings:
    """What the candidates gone through may have, one way a column.

    Attributes:
        taken: of each row, with the room that no candidate behind them can take.
        lost: to the best alternatives, and the price of that room; in fractions of worth.
        gpus: of the open candidates, a word or more (`_Table.by_id`).
    """

    taken: Whole
    worth: Whole
    lost: Whole
    partial: Whole
    gpus: Whole

    def __len__(self) -> int:
        return len(self.worth)

    def only(self, which: NDArray[np.bool_] | Whole) -> _Beginnings:
        return _Beginnings(
            taken=self.taken[:, which],
            worth=self.worth[which],
            lost=self.lost[which],
            partial=self.partial[which],
            gpus=self.gpus[:, which],
        )

    def best_of_alike(self, packing: Whole) -> _Beginnings:
        """The best of those that can go on in the same ways.

        Args:
            packing: of `taken` (`_packing`).
        """
        alike = packing @ self.taken
        order = np.lexsort((*-self.gpus[::-1], self.partial, -self.worth, *alike))
        differs = (np.diff(alike[:, order], axis=1, prepend=-1) != 0).any(axis=0)
        return self.only(order[differs])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """What is gone through. Alternatives have the market's numbers.

    Attributes:
        spare: that a choice may lose, in fractions of worth.
        options: alternatives of each candidate that lose no more.
        order: candidates that have several, in the order in which they are gone through: those of many sizes last, when
            little room is left to choose for.
        sizes: GPUs that each of them may have, from the fewest, by its number.
        by_id: its column of the packing of which of its sizes each of them has, in the order of their numbers.
        short: what each alternative makes less than its candidate's best.
        taken, room: of the rows that may bind.
        unused: price of what nobody takes of them.
    """

    priced: Priced
    spare: int
    options: Sequence[Whole]
    order: Sequence[int]
    sizes: Mapping[int, Sequence[int]]
    by_id: Mapping[int, Whole]
    short: Whole
    taken: Whole
    room: Whole
    unused: Whole

    @classmethod
    def of(cls, priced: Priced, spare: int, binding: NDArray[np.bool_]) -> _Table:
        market, short = priced.market, priced.short
        options = [ats[short[ats] <= spare] for ats in np.split(np.arange(len(short)), market.first[1:])]
        sizes = {
            number: sorted({market.alternatives[at].gpus for at in ats})
            for number, ats in enumerate(options)
            if len(ats) > 1
        }
        taken = np.maximum(0, market.taken)  # an award in units of a size, which a straight line puts below 0
        most = np.sum([taken[ats].max(axis=0) for ats in options], axis=0)
        rows = binding & ((most > market.room) | (priced.prices > 0))
        packing = _packing([len(of) for of in sizes.values()])
        return cls(
            priced=priced,
            spare=spare,
            options=options,
            order=sorted(sizes, key=lambda number: (len(sizes[number]), -sizes[number][-1], number)),
            sizes=sizes,
            by_id=dict(zip(sizes, packing.T, strict=True)),
            short=short,
            taken=taken[:, rows],
            room=market.room[rows],
            unused=priced.prices[rows],
        )

    def best(self, deadline: float, clock: Callable[[], float]) -> _Beginnings | None:
        """The best choice, if one is found; None: there are too many to go through."""
        found = self._start()
        packing = _packing([int(room) + 1 for room in self.room])
        highest = [self.taken[self.options[number]].max(axis=0) for number in self.order]
        later = np.sum([np.zeros_like(self.room), *highest], axis=0)
        ahead = self._least_ahead()
        count = 0
        for place, (number, takes) in enumerate(zip(self.order, highest, strict=True)):
            if clock() >= deadline:
                raise NotProven(None, None)
            later -= takes
            longer = self._longer(found, number, later, [{row: of[place] for row, of in one.items()} for one in ahead])
            count += len(longer or ())
            if longer is None or count > MOST_IN_ALL:
                return None
            found = longer.best_of_alike(packing)
        return found

    def _least_ahead(self) -> Sequence[Mapping[int, Sequence[Whole]]]:
        """What the candidates behind each one in `order` lose at least, by the room that is left of a row; no more than
        `spare` and 1. Rows that no candidate takes both of stand together: their losses add up.

        Steps: rows x room x alternatives.
        """
        found: list[tuple[set[int], dict[int, Sequence[Whole]]]] = []
        cells = 0
        for row in np.argsort(self.room, kind="stable").tolist():
            cells += (int(self.room[row]) + 1) * len(self.order)
            if cells > MOST_AHEAD:
                break
            takers = {number for number in self.order if self.taken[self.options[number], row].any()}
            members, together = next((one for one in found if not one[0] & takers), (set[int](), {}))
            if not together:
                found.append((members, together))
            members |= takers
            together[row] = self._least_of_row(row)
        return [together for _, together in found]

    def _least_of_row(self, row: int) -> Sequence[Whole]:
        room = int(self.room[row])
        least = np.minimum(np.arange(room + 1) * self.unused[row], self.spare + 1)
        behind = [least]
        for number in self.order[:0:-1]:
            before, least = least, np.full(room + 1, self.spare + 1)
            for at in self.options[number].tolist():
                taken = int(self.taken[at, row])
                np.minimum(least[taken:], before[: room + 1 - taken] + self.short[at], out=least[taken:])
            behind.append(least)
        return behind[::-1]

    def gpus_of(self, best: _Beginnings) -> Mapping[int, int]:
        """Of each candidate."""
        alternatives = self.priced.market.alternatives
        gpus = {number: alternatives[ats[0]].gpus for number, ats in enumerate(self.options)}
        for number, sizes in self.sizes.items():
            factors = self.by_id[number]
            word = int(np.flatnonzero(factors)[0])
            gpus[number] = sizes[int(best.gpus[word, 0]) // int(factors[word]) % len(sizes)]
        return gpus

    def _start(self) -> _Beginnings:
        """What those have that have one alternative, their best."""
        sole = np.array([ats[0] for ats in self.options if len(ats) == 1], dtype=np.int64)
        market = self.priced.market
        taken = self.taken[sole].sum(axis=0)[:, None]
        start = _Beginnings(
            taken=taken,
            worth=market.worth[sole].sum(keepdims=True),
            lost=np.zeros(1, dtype=np.int64),
            partial=np.array([sum(market.alternatives[at].servers > 0 for at in sole)], dtype=np.int64),
            gpus=np.zeros((len(next(iter(self.by_id.values()), ())), 1), dtype=np.int64),
        )
        return start.only((taken <= self.room[:, None]).all(axis=0))

    def _longer(
        self, found: _Beginnings, number: int, later: Whole, ahead: Sequence[Mapping[int, Whole]]
    ) -> _Beginnings | None:
        """With each alternative of one candidate more; None: too many.

        Args:
            later: what the candidates behind it take at most.
            ahead: of rows that stand together, what they lose at least, by the room that is left of each.
        """
        parts: list[_Beginnings] = []
        for at in self.options[number].tolist():
            one = self.priced.market.alternatives[at]
            taken = found.taken + self.taken[at][:, None]
            never = np.maximum(0, (self.room - later)[:, None] - taken)
            lost = found.lost + self.short[at] + self.unused @ never
            taken += never
            fits = np.flatnonzero((taken <= self.room[:, None]).all(axis=0) & (lost <= self.spare))
            for together in ahead:
                least = lost[fits]
                for row, of in together.items():
                    least += np.minimum(of[self.room[row] - taken[row, fits]], self.spare + 1 - least)
                fits = fits[least <= self.spare]
            size = self.sizes[number].index(one.gpus)
            parts.append(
                _Beginnings(
                    taken=taken[:, fits],
                    worth=found.worth[fits] + one.worth,
                    lost=lost[fits],
                    partial=found.partial[fits] + (one.servers > 0),
                    gpus=found.gpus[:, fits] + size * self.by_id[number][:, None],
                )
            )
            if sum(map(len, parts)) > MOST_BEGINNINGS:
                return None
        return _Beginnings(
            taken=np.concatenate([part.taken for part in parts], axis=1),
            worth=np.concatenate([part.worth for part in parts]),
            lost=np.concatenate([part.lost for part in parts]),
            partial=np.concatenate([part.partial for part in parts]),
            gpus=np.concatenate([part.gpus for part in parts], axis=1),
        )


def _packing(sizes: Sequence[int]) -> Whole:
    """Words x sizes: what whole numbers, each from 0 to below its size, are multiplied by so that the sums are a few
    words of 64 bits that tell them apart and go in their order."""
    words: list[list[int]] = [[]]
    product = 1
    for at, size in enumerate(sizes):
        if product * size > LARGEST_WORD:
            words.append([])
            product = 1
        words[-1].append(at)
        product *= size
    packing = np.zeros((len(words), len(sizes)), dtype=np.int64)
    for word, inside in enumerate(words):
        factor = 1
        for at in reversed(inside):
            packing[word, at] = factor
            factor *= sizes[at]
    return packing
