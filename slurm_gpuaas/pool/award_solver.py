"""Which applications get how many GPUs: the best choice, stage by stage, each an integer program.

The objective is lexicographic: worth times GPUs, then fewer partial awards, then as much as can be for the first
candidate, then for the second, and so on. Every stage keeps what those before it reached
(docs/design/0023-the-award.md has the proof).

Pools that serve the same candidates are one bin here. Whether what is chosen for a bin can be divided among its pools
is for `award_pools` to say; rows that every division keeps make it nearly always so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from functools import cached_property
from math import gcd
from typing import Final

import numpy as np

from slurm_gpuaas.pool.award_bound import Alternative, Market
from slurm_gpuaas.pool.award_table import best_choice
from slurm_gpuaas.pool.integer_program import Infeasible, IntegerProgram, NotProven, Terms, WrongAnswer, value_of

SERVER: Final = 8
"""GPUs of a whole server: partial awards are multiples of it."""
MOST_SIZES: Final = 12
"""Sizes that a bin has rows for; more only slow the solver."""
FIRST_GUESS: Final = 64
"""Candidates that are first guessed at together."""
WIDEST_BLOCK: Final = 2**12
"""Largest sum of weights when several candidates are settled by one program."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An application as the solver sees it.

    Attributes:
        worth: of one GPU.
        full: GPUs of a full award; 0 where it cannot have one.
        low, high: servers of a partial award, each below `full` if that is not 0; low > high: it cannot have one.
        bins: that it may be in.
        groups: whose limits its GPUs count against.
        must: it has to be awarded.
    """

    worth: int
    full: int
    low: int
    high: int
    bins: tuple[int, ...]
    groups: tuple[int, ...] = ()
    must: bool = False

    @property
    def most(self) -> int:
        """GPUs of its largest award."""
        return max(self.full, SERVER * self.high if self.low <= self.high else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Candidates, who goes before whom first; `bins`: the capacities of each one's pools; `limits`: those of groups. In
    GPUs."""

    candidates: tuple[Candidate, ...]
    bins: tuple[tuple[int, ...], ...]
    limits: tuple[int, ...] = ()

    @property
    def largest_sum(self) -> int:
        """No choice is worth more. Has to be at most `integer_program.LARGEST_SUM`."""
        room, total = sum(map(sum, self.bins)), 0
        for worth, most in sorted(((one.worth, one.most) for one in self.candidates), reverse=True):
            taken = min(most, room)
            total, room = total + worth * taken, room - taken
        return total


@dataclass(frozen=True, slots=True)
class Chosen:
    """GPUs of each candidate, 0 for none, and a bin in which it may have them: one of perhaps several that are as
    good."""

    gpus: tuple[int, ...]
    bins: tuple[int | None, ...]


def solve(problem: Problem, *, deadline: float, clock: Callable[[], float]) -> Chosen:
    """The best choice.

    Args:
        deadline: on `clock`, in seconds.

    Raises:
        NotProven: at the deadline; with numbers where not even the largest worth is proven.
        Infeasible: not all that must be awarded can be.
        WrongAnswer: the solver is at fault.
    """
    choice = _Choice(problem, IntegerProgram(deadline, clock))
    listed = choice.listed()
    if listed is not None:
        return choice.chosen(listed)
    best = choice.most_worth()
    listed = choice.listed(reached=value_of(choice.worth, best))
    if listed is not None:
        return choice.chosen(listed)
    try:
        if choice.has_rival(best):
            best = choice.fewest_partial(best)
            best = choice.earlier_first(best)
    except NotProven as error:
        raise NotProven(None, None) from error  # what it knows is of a later stage
    return choice.chosen(best)


class _Kind(Enum):
    FULL = auto()
    PARTIAL = auto()
    SERVERS = auto()
    """How many of them: the column after its PARTIAL."""
    IN_POOL = auto()
    """Servers that a pool keeps for awards of whole servers; of no candidate."""


@dataclass(frozen=True, slots=True)
class _Column:
    kind: _Kind
    candidate: int
    bin: int
    gpus: int
    """That one unit awards."""
    pool: int | None = None
    """Of the bin, where it matters: of IN_POOL, and of awards that are not whole servers."""


@dataclass
class _Choice:
    """The program of a problem. A FULL or PARTIAL column is 1 where its candidate has that award in that bin."""

    problem: Problem
    program: IntegerProgram
    columns: list[_Column] = field(default_factory=list)
    of: list[list[int]] = field(default_factory=list)
    """Columns of each candidate."""
    shared: list[int] = field(default_factory=list)
    """Rows that candidates compete in."""
    group_of_row: dict[int, int] = field(default_factory=dict)
    """Of those that are limits of groups."""
    implied: set[int] = field(default_factory=set)
    """Those that follow from another one, in whole numbers; they are there for fractions."""
    room: list[int] = field(default_factory=list)
    """GPUs of each bin that settled candidates leave."""
    limits: list[int] = field(default_factory=list)
    """GPUs of each group that settled candidates leave."""
    partials: int = 0
    """Partial awards that settled candidates leave."""
    twin_rank: dict[Candidate, int] = field(default_factory=dict)
    """Of the last settled candidate of its kind: a later twin cannot do better."""

    def __post_init__(self) -> None:
        for number, candidate in enumerate(self.problem.candidates):
            self.of.append([])
            for bin_ in candidate.bins:
                self._add_awards(number, candidate, bin_)
            awards = [(at, 1) for at in self.of[number] if self.columns[at].kind is not _Kind.SERVERS]
            if candidate.must and not awards:
                raise Infeasible
            if awards:
                self.program.row(awards, low=int(candidate.must), high=1)
        self.partials = len(self.of)
        self.room, self.limits = [sum(capacities) for capacities in self.problem.bins], list(self.problem.limits)
        self._add_limits()
        for bin_, capacities in enumerate(self.problem.bins):
            self._add_room(bin_, capacities)

    def _add_awards(self, number: int, candidate: Candidate, bin_: int) -> None:
        capacities = self.problem.bins[bin_]
        largest = max(capacities)
        pools = range(len(capacities)) if candidate.full % SERVER else (None,)
        for pool in pools:
            if 0 < candidate.full <= (largest if pool is None else capacities[pool]):
                self._add(_Column(_Kind.FULL, number, bin_, candidate.full, pool), 1)
        high = min(candidate.high, largest // SERVER)
        if candidate.low <= high:
            partial = self._add(_Column(_Kind.PARTIAL, number, bin_, 0), 1)
            servers = self._add(_Column(_Kind.SERVERS, number, bin_, SERVER), high)
            self.program.row([(servers, 1), (partial, -candidate.low)], low=0)
            self.program.row([(servers, 1), (partial, -high)], high=0)

    def _add(self, column: _Column, most: int) -> int:
        self.columns.append(column)
        at = self.program.column(most)
        if column.kind is not _Kind.IN_POOL:
            self.of[column.candidate].append(at)
        return at

    def _add_limits(self) -> None:
        members: dict[int, list[int]] = defaultdict(list)
        for candidate, columns in zip(self.problem.candidates, self.of, strict=True):
            for group in candidate.groups:
                members[group] += columns
        for group, columns in members.items():
            limit = self.problem.limits[group]
            rows = [self.program.row(self._gpus(columns), high=limit)]
            for size in sorted({SERVER, limit // 2 + 1}):  # whole servers; of awards above half the limit only one
                if limit % size and (terms := list(self._in_units(columns, size))):
                    rows += [self.program.row(terms, high=limit // size * size)]
            self.shared += rows
            self.implied.update(rows[1:])
            self.group_of_row.update(dict.fromkeys(rows, group))

    def _add_room(self, bin_: int, capacities: Sequence[int]) -> None:
        """A bin's room in GPUs and, for awards of some sizes, in units of that size: pools of 12 and 12 GPUs hold two
        awards of 8, not three.

        In units of d GPUs a pool has room for capacity // d, and an award takes gpus // d of it at least. For a
        partial award that is at least (gpus - d + gcd(d, 8)) / d, a straight line. Rows are multiplied by d.
        """
        inside = [at for at, column in enumerate(self.columns) if column.bin == bin_]
        self.shared.append(self.program.row(self._gpus(inside), high=sum(capacities)))
        if len(capacities) > 1 and any(self.columns[at].pool is not None for at in inside):
            self._add_pools(bin_, inside)
        for size in self._sizes(inside):
            room = sum(capacity // size * size for capacity in capacities)
            if room < sum(capacities):
                row = self.program.row(list(self._in_units(inside, size)), high=room)
                self.shared.append(row)
                if len(capacities) == 1:
                    self.implied.add(row)

    def _add_pools(self, bin_: int, inside: Sequence[int]) -> None:
        """Awards that are not whole servers are in a pool, not just in a bin: beside them each pool keeps whole
        servers, and those of all pools are enough for the other awards of the bin. Together the others could fill the
        bin to a last GPU that lies in the wrong pool."""
        kept: list[tuple[int, int]] = []
        for pool, capacity in enumerate(self.problem.bins[bin_]):
            servers = self._add(_Column(_Kind.IN_POOL, -1, bin_, 0, pool), capacity // SERVER)
            kept.append((servers, -SERVER))
            odd = [(at, self.columns[at].gpus) for at in inside if self.columns[at].pool == pool]
            self.shared.append(self.program.row([*odd, (servers, SERVER)], high=capacity))
        whole = self._gpus(at for at in inside if self.columns[at].pool is None)
        self.shared.append(self.program.row([*whole, *kept], high=0))

    def _sizes(self, inside: Iterable[int]) -> list[int]:
        columns = [self.columns[at] for at in inside]
        sizes = {column.gpus for column in columns if column.kind is _Kind.FULL and column.gpus > SERVER}
        if len(sizes) > MOST_SIZES:
            sizes = {SERVER << power for power in range(MOST_SIZES) if SERVER << power <= max(sizes)}
        return sorted({SERVER, *sizes})

    def _in_units(self, inside: Iterable[int], size: int) -> Iterator[tuple[int, int]]:
        for at in inside:
            column = self.columns[at]
            if column.kind is _Kind.FULL and column.gpus >= size:
                yield at, column.gpus // size * size
            elif column.kind is _Kind.SERVERS and SERVER * self.program.most[at] >= size:
                yield at, SERVER
                if size > gcd(size, SERVER):
                    yield at - 1, gcd(size, SERVER) - size

    def _gpus(self, columns: Iterable[int]) -> list[tuple[int, int]]:
        return [(at, self.columns[at].gpus) for at in columns if self.columns[at].gpus]

    @cached_property
    def worth(self) -> Terms:
        """Of a unit of each column that awards GPUs."""
        return [
            (at, self.problem.candidates[column.candidate].worth * column.gpus)
            for at, column in enumerate(self.columns)
            if column.gpus
        ]

    def listed(self, reached: int | None = None) -> list[int] | None:
        """The best choice of all stages at once, by going through them (`award_table`); None: they are too many, or
        their best breaks a row.

        Servers that pools keep are left out there and their rows as wide as they could make them: the answer is the
        best of a wider problem, and so of this one if it keeps the rows.

        Args:
            reached: the largest worth, where it is known: less has to be gone through then.
        """
        if not any(self.of):
            return None
        market = self._market([None] * len(self.of), self.shared)
        kept = {at: most for at, most in enumerate(self.program.most) if self.columns[at].kind is _Kind.IN_POOL}
        wider = IntegerProgram(self.program.deadline, self.program.clock, self.program.most)
        for row in self.program.rows:
            more = sum(max(0, -step) * kept.get(at, 0) for at, step in row.terms)
            high = None if row.high is None else row.high + more
            wider.row([(at, step) for at, step in row.terms if at not in kept], low=row.low, high=high)
        prices = wider.prices(self.worth)
        room = np.array([wider.rows[row].high for row in self.shared], dtype=np.int64)
        priced = replace(market, room=room, kept=()).priced([prices[row] for row in self.shared])
        binding = np.array([row not in self.implied for row in self.shared])
        gpus = best_choice(priced, binding, reached, deadline=self.program.deadline, clock=self.program.clock)
        if gpus is None:
            return None
        found = self._tried((number, self._rank_of(number, gpus[number])) for number in range(len(self.of)))
        if found is None and not kept:
            raise WrongAnswer("the best of all choices breaks a row")
        return found

    # -- Stages: each returns values of all columns and leaves in the program what it reached --------------------------

    def most_worth(self) -> list[int]:
        best = self.program.maximise(self.worth)
        reached = value_of(self.worth, best)
        self._rule_out(reached)
        self.program.row(self.worth, low=reached)
        return best

    def has_rival(self, best: list[int]) -> bool:
        """Whether another choice may be better at the later stages: one that is worth as much and gives somebody
        more."""
        gains: list[tuple[int, int]] = []
        rows = len(self.program.rows)
        for number in range(len(self.of)):
            rank = self._rank(number, best)
            if rank >= self._highest_rank(number):
                continue
            awards = [
                at for at in self.of[number] if self.columns[at].kind is not _Kind.SERVERS and self.program.most[at]
            ]
            if rank == 0:
                gains += ((at, 1) for at in awards)
            else:
                more = self.program.column(1)
                self.program.row(
                    [*((at, r) for at, r in self._ranks(number) if self.program.most[at]), (more, -rank - 1)], low=0
                )
                gains.append((more, 1))
        if not gains:
            return False
        self.program.row(gains, low=1)
        try:
            self.program.maximise([])
        except Infeasible:
            return False
        else:
            return True
        finally:
            del self.program.rows[rows:]
            del self.program.most[len(self.columns) :]

    def fewest_partial(self, best: list[int]) -> list[int]:
        partial = [(at, -1) for at, column in enumerate(self.columns) if column.kind is _Kind.PARTIAL]
        if value_of(partial, best):
            best = self.program.maximise(partial, best)
        self.partials = -value_of(partial, best)
        self.program.row(partial, low=-self.partials)
        return best

    def earlier_first(self, best: list[int]) -> list[int]:
        """As much as can be for each candidate in turn, without loss to those before it.

        Where many choices tie, the guess that the next candidates all get the most that there is room for is mostly
        right, and quickly tried; where it is wrong, they are settled by weights.
        """
        settled, width = 0, FIRST_GUESS
        while settled < len(self.of):
            best = self._earlier_twins_more(best)
            block = [settled]
            if self._rank(settled, best) < self._highest_rank(settled):
                guessed = self._guess(settled, width) if width else None
                if guessed:
                    block, best = guessed
                    width *= 2
                else:
                    width //= 4
                    block, weights = self._block(settled)
                    best = self.program.maximise(weights, best)
                best = self._earlier_twins_more(best)
            for number in block:
                self._keep(number, best)
            settled += len(block)
        return best

    def chosen(self, best: Sequence[int]) -> Chosen:
        gpus = tuple(self._gpus_of(number, best) for number in range(len(self.of)))
        bins = tuple(
            next((self.columns[at].bin for at in columns if best[at] and self.columns[at].gpus), None)
            for columns in self.of
        )
        return Chosen(gpus, bins)

    # -- Before the second stage ---------------------------------------------------------------------------------------

    def _rule_out(self, reached: int) -> None:
        """Close what no best choice can hold, so that the later stages have little left to search (`award_bound`)."""
        if not any(self.of):
            return
        group = self._weighed_groups()
        rows = [row for row in self.shared if self.group_of_row.get(row) not in {*group} - {None}]
        market = self._market(group, rows)
        prices = self.program.prices(self.worth)
        priced = market.priced([prices[row] for row in rows])
        if priced.bound < reached * priced.fraction:
            raise WrongAnswer("the largest worth is above its own bound")
        sizes: dict[int, int] = {}
        without: set[int] = set()
        for one in priced.possible(reached):
            if one.award is None:
                without.add(one.candidate)
            else:
                sizes[one.award] = max(one.servers, sizes.get(one.award, 0))
        for number, columns in enumerate(self.of):
            awards = [at for at in columns if self.columns[at].kind is not _Kind.SERVERS]
            if awards and number not in without:
                self.program.row([(at, 1) for at in awards], low=1)
            for at in awards:
                if at not in sizes:
                    self._close(at)
                elif self.columns[at].kind is _Kind.PARTIAL:
                    self.program.most[at + 1] = sizes[at]

    def _market(self, group: Sequence[int | None], rows: Sequence[int]) -> Market:
        """The problem with prices on these rows, and each candidate's group weighed exactly."""
        takes = np.zeros((len(self.columns), len(rows)), dtype=np.int64)
        for place, row in enumerate(rows):
            for column, coefficient in self.program.rows[row].terms:
                takes[column, place] = coefficient
        alternatives = [one for number in range(len(self.of)) for one in self._alternatives(number)]
        taken = np.zeros((len(alternatives), len(rows)), dtype=np.int64)
        for place, one in enumerate(alternatives):
            if one.award is not None:
                taken[place] = takes[one.award]
            if one.award is not None and one.servers:
                taken[place] += one.servers * takes[one.award + 1]
        return Market(
            alternatives=alternatives,
            group=group,
            limits=self.problem.limits,
            room=np.array([self.program.rows[row].high for row in rows], dtype=np.int64),
            taken=taken,
            kept=[
                (takes[at], self.program.most[at])
                for at, column in enumerate(self.columns)
                if column.kind is _Kind.IN_POOL
            ],
        )

    def _alternatives(self, number: int) -> Iterator[Alternative]:
        """All that a candidate may have; a partial award once for each number of servers."""
        candidate = self.problem.candidates[number]
        if not candidate.must:
            yield Alternative(number, None, 0, 0, 0)
        for at in self.of[number]:
            if self.columns[at].kind is _Kind.FULL:
                yield Alternative(number, at, 0, candidate.full, candidate.worth * candidate.full)
            elif self.columns[at].kind is _Kind.PARTIAL:
                for servers in range(candidate.low, self.program.most[at + 1] + 1):
                    gpus = SERVER * servers
                    yield Alternative(number, at, servers, gpus, candidate.worth * gpus)

    def _weighed_groups(self) -> list[int | None]:
        """Of each candidate the group whose limit is weighed exactly: the smallest ones that share no member."""
        members: dict[int, list[int]] = defaultdict(list)
        for number, candidate in enumerate(self.problem.candidates):
            for group in candidate.groups:
                members[group].append(number)
        found: list[int | None] = [None] * len(self.problem.candidates)
        for group in sorted(members, key=lambda group: (len(members[group]), group)):
            if all(found[number] is None for number in members[group]):
                for number in members[group]:
                    found[number] = group
        return found

    def _close(self, award: int) -> None:
        self.program.most[award] = 0
        if self.columns[award].kind is _Kind.PARTIAL:
            self.program.most[award + 1] = 0

    # -- The third stage -----------------------------------------------------------------------------------------------

    def _earlier_twins_more(self, best: list[int]) -> list[int]:
        """Twins, candidates that differ in nothing, swap awards until the earlier has the larger one."""
        twins: dict[Candidate, list[int]] = defaultdict(list)
        for number, candidate in enumerate(self.problem.candidates):
            twins[candidate].append(number)
        swapped = list(best)
        for alike in twins.values():
            order = sorted(alike, key=lambda number: -self._gpus_of(number, best))
            for number, other in zip(alike, order, strict=True):
                for at, there in zip(self.of[number], self.of[other], strict=True):
                    swapped[at] = best[there]
        return swapped

    def _guess(self, first: int, width: int) -> tuple[list[int], list[int]] | None:
        """Candidates from the first on and a choice where each has its highest rank after those before; None: there is
        none."""
        block = range(first, min(first + width, len(self.of)))
        found = self._tried((number, self._highest_rank(number)) for number in block)
        return None if found is None else (list(block), found)

    def _tried(self, ranks: Iterable[tuple[int, int]]) -> list[int] | None:
        """A choice where candidates have these ranks, each read when those before it are settled; None: there is none.
        Nothing stays settled."""
        rows, most = len(self.program.rows), list(self.program.most)
        room, limits, twins, partials = list(self.room), list(self.limits), dict(self.twin_rank), self.partials
        try:
            for number, rank in ranks:
                self._settle(number, rank)
            return self.program.maximise([])
        except Infeasible:
            return None
        finally:
            del self.program.rows[rows:]
            self.program.most[:] = most
            self.room, self.limits, self.twin_rank, self.partials = room, limits, twins, partials

    def _block(self, first: int) -> tuple[list[int], Terms]:
        """Candidates from the first on, and weights by which one step of an earlier one outweighs all that later ones
        can get."""
        block: list[int] = []
        product = 1
        for number in range(first, len(self.of)):
            steps = self._highest_rank(number) + 1
            if block and product * steps > WIDEST_BLOCK:
                break
            product *= steps
            block.append(number)
        weights: list[tuple[int, int]] = []
        weight = 1
        for number in reversed(block):
            weights += ((at, weight * rank) for at, rank in self._ranks(number) if self.program.most[at])
            weight *= self._highest_rank(number) + 1
        return block, weights

    def _ranks(self, number: int) -> list[tuple[int, int]]:
        """Columns and what a unit of each counts: a server of a partial award 1, a full award more than all of them."""
        servers = self._most_servers(number)
        return [
            (at, 1 if kind is _Kind.SERVERS else servers + 1)
            for at in self.of[number]
            if (kind := self.columns[at].kind) is not _Kind.PARTIAL
        ]

    def _most_servers(self, number: int) -> int:
        of_kind = (at for at in self.of[number] if self.columns[at].kind is _Kind.SERVERS)
        return max((self.program.most[at] for at in of_kind), default=0)

    def _rank(self, number: int, best: Sequence[int]) -> int:
        return value_of(self._ranks(number), best)

    def _rank_of(self, number: int, gpus: int) -> int:
        """Of an award of so many GPUs."""
        full = gpus > 0 and gpus == self.problem.candidates[number].full
        return self._most_servers(number) + 1 if full else gpus // SERVER

    def _highest_rank(self, number: int) -> int:
        """No award of the candidate ranks higher, after what is settled."""
        candidate, servers = self.problem.candidates[number], self._most_servers(number)
        room = max((self.room[bin_] for bin_ in candidate.bins), default=0)
        room = min(room, *(self.limits[group] for group in candidate.groups), candidate.most)
        full = any(self.columns[at].kind is _Kind.FULL and self.program.most[at] for at in self.of[number])
        if full and candidate.full <= room:
            highest = servers + 1
        else:
            highest = min(servers, room // SERVER) if self.partials else 0
            highest = highest if highest >= candidate.low else 0
        return min(highest, self.twin_rank.get(candidate, highest))

    def _keep(self, number: int, best: Sequence[int]) -> None:
        self._settle(number, self._rank(number, best))

    def _settle(self, number: int, rank: int) -> None:
        """Leave the candidate this award and no other. In which bin stays open."""
        candidate, servers = self.problem.candidates[number], self._most_servers(number)
        full = rank > servers
        gpus = candidate.full if full else SERVER * rank
        self.twin_rank[candidate] = rank
        self.partials -= bool(gpus and not full)
        for group in candidate.groups:
            self.limits[group] -= gpus
        if len(candidate.bins) == 1:
            self.room[candidate.bins[0]] -= gpus
        if gpus:
            self.program.row(
                [(at, step) for at, step in self._ranks(number) if self.program.most[at]], low=rank, high=rank
            )
        for at in self.of[number]:
            if not gpus or (self.columns[at].kind is _Kind.FULL) != full:
                self.program.most[at] = 0

    def _gpus_of(self, number: int, best: Sequence[int]) -> int:
        return value_of(self._gpus(self.of[number]), best)
