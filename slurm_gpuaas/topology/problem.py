"""A placement question as a document, and its answer: what `gpuaas topology place` reads and prints."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.topology import placement
from slurm_gpuaas.topology.fabric import natural
from slurm_gpuaas.topology.placement import Choice, Domain, Path, Slice, choose, fits, runner_up

MOST_MOMENTS: Final = 50
"""Later moments within the wait that are looked at, evenly among those at which something ends."""
TERMS: Final = ("imbalance", "broken", "leftover", "risk", "ends")


class Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ProblemDomain(Document):
    """A lowest domain: a node (`free` 0 or 1) or a group of nodes with a count of free ones."""

    path: tuple[str, ...] = Field(min_length=1, max_length=16, description="A name per level, top first.")
    free: int = Field(ge=0, le=100_000)
    usable: bool = Field(default=True, description="Out of service when false: nothing of it is taken.")
    risk: float = Field(default=0.0, ge=0, le=1, description="Probability that a place of it fails the job.")
    ends_in_s: float | None = Field(
        default=None,
        ge=0,
        description="When what runs there ends. A busy node is free then.",
    )

    @property
    def room(self) -> int:
        return self.free if self.usable else 0


class ProblemSlice(Document):
    level: str
    size: int = Field(ge=1, le=100_000)


class Request(Document):
    count: int = Field(ge=1, le=100_000)
    required: str | None = Field(default=None, description="Level of which one domain must hold all of it.")
    preferred: str | None = Field(default=None, description="The same, if it can be; the answer says if it cannot.")
    slices: tuple[ProblemSlice, ...] = Field(
        default=(), max_length=16, description="Groups that stand in one domain of a level each; top level first."
    )
    balanced: bool = Field(default=False, description="The domains used share it as evenly as they can.")
    wait_s: float = Field(default=0.0, ge=0, description="Longest wait for a place that spans fewer domains.")
    runs_s: float | None = Field(default=None, ge=0, description="How long it runs, for neighbours that end with it.")


class Problem(Document):
    levels: tuple[str, ...] = Field(min_length=1, max_length=16, description="Names of the levels, top first.")
    domains: tuple[ProblemDomain, ...] = Field(max_length=100_000)
    request: Request

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if len(set(self.levels)) < len(self.levels):
            raise InvalidInput("Two levels have the same name.", way_out="Rename one.")
        paths: set[Path] = set()
        for domain in self.domains:
            if len(domain.path) != len(self.levels):
                raise InvalidInput(
                    f"Domain {'/'.join(domain.path):.80} has {len(domain.path)} names; there are {len(self.levels)} "
                    "levels.",
                    way_out="Give a name per level, top first.",
                )
            if domain.path in paths:
                raise InvalidInput(f"Domain {'/'.join(domain.path):.80} stands twice.", way_out="Leave one of them.")
            paths.add(domain.path)
        request = self.request
        for level in (request.required, request.preferred, *(one.level for one in request.slices)):
            if level not in (None, *self.levels):
                raise InvalidInput(f"There is no level {level!r:.40}.", way_out=f"Use one of {', '.join(self.levels)}.")
        depths = [self.levels.index(one.level) for one in request.slices]
        if any(lower <= upper for upper, lower in pairwise(depths)):
            raise InvalidInput(
                f"Slices of {request.slices[0].level} and below are not in the order of the levels.",
                way_out=f"Give at most one per level, top first: {', '.join(self.levels)}.",
            )
        sizes = (request.count, *(one.size for one in request.slices))
        for whole, part in pairwise(sizes):
            if whole % part:
                raise InvalidInput(
                    f"{whole} cannot be made of slices of {part}.", way_out=f"Ask for {whole - whole % part or part}."
                )
        return self


class Assigned(Document):
    path: tuple[str, ...]
    count: int


class Alternative(Document):
    assignment: tuple[Assigned, ...]
    cost: dict[str, int | float]


class Answer(Document):
    """`assignment` is in rank order; None when nothing fits, and `reason` then says how much would.

    `cost` has a term per level (domains used) and then, compared in this order: `imbalance` (squares of the shares,
    where balance was asked), `broken` (parent domains that were wholly free and are left partly used), `leftover` (free
    places left in the lowest domains that count), `risk` (places lost to failures to be expected, times the count) and
    `ends` (seconds between the job's end and its neighbours'). `lower_bound` is per level what no assignment can beat,
    each level taken by itself; `gap` is the difference. `start_in_s` is 0 for a place that is free now.
    """

    assignment: tuple[Assigned, ...] | None
    start_in_s: float = 0.0
    cost: dict[str, int | float] = Field(default_factory=dict)
    lower_bound: dict[str, int] = Field(default_factory=dict)
    gap: dict[str, int] = Field(default_factory=dict)
    why: str = ""
    runner_up: Alternative | None = None
    reason: str = ""


def solve(problem: Problem) -> Answer:
    """The best assignment; the same whatever the order of the domains."""
    now = _Solver(problem, 0.0)
    best = now
    for moment in _moments(problem):
        later = _Solver(problem, moment)
        if later.choice and (best.choice is None or later.choice.cost.used < best.choice.cost.used):
            best = later
    return best.answer(now)


def _moments(problem: Problem) -> Sequence[float]:
    """When a busy node gets free, within the wait; of groups nobody knows how many of them do."""
    if not _are_nodes(problem):
        return ()
    ends = sorted(
        {
            row.ends_in_s
            for row in problem.domains
            if row.usable and row.free == 0 and row.ends_in_s is not None and row.ends_in_s <= problem.request.wait_s
        }
    )
    if len(ends) <= MOST_MOMENTS:
        return ends
    return [ends[round(at * (len(ends) - 1) / (MOST_MOMENTS - 1))] for at in range(MOST_MOMENTS)]


def _are_nodes(problem: Problem) -> bool:
    return len(problem.levels) > 1 and all(row.free <= 1 for row in problem.domains)


class _Solver:
    """The problem at one moment from now."""

    def __init__(self, problem: Problem, moment: float) -> None:
        self._problem = problem
        self._moment = moment
        # Nodes of a parent differ in risk only: counting parents is the same question, and a small one.
        self._nodes = _are_nodes(problem)
        self._levels = problem.levels[:-1] if self._nodes else problem.levels
        self._rows = sorted(problem.domains, key=lambda row: [natural(name) for name in row.path])
        self._domains = self._lowest()
        self._request = self._asked()
        self.choice = choose(self._domains, self._request) if self._request else None

    def answer(self, now: _Solver) -> Answer:
        choice = self.choice
        if choice is None or self._request is None:
            return Answer(assignment=None, reason=self._reason())
        other = runner_up(self._domains, self._request, choice)
        bound = dict(zip(self._levels, choice.bound, strict=True)) | self._nodes_used(choice)
        cost = self._cost(choice)
        return Answer(
            assignment=self._assignment(choice),
            start_in_s=self._moment,
            cost=cost,
            lower_bound=bound,
            gap={level: int(cost[level]) - least for level, least in bound.items()},
            why=self._why(choice, now),
            runner_up=Alternative(assignment=self._assignment(other), cost=self._cost(other)) if other else None,
        )

    def _room(self, row: ProblemDomain) -> int:
        if row.usable and row.free == 0 and self._nodes and row.ends_in_s is not None:
            return int(0 < self._moment >= row.ends_in_s)
        return row.room

    def _asked(self) -> placement.Request | None:
        """None where a node would have to hold more than one."""
        request = self._problem.request
        levels = self._problem.levels
        slices = [Slice(levels.index(one.level), one.size) for one in request.slices]
        required = None if request.required is None else levels.index(request.required)
        if self._nodes:
            lowest = len(levels) - 1
            if any(one.level == lowest and one.size > 1 for one in slices) or (
                required == lowest and request.count > 1
            ):
                return None
            slices = [one for one in slices if one.level < lowest]
            required = lowest - 1 if required == lowest else required
        return placement.Request(
            count=request.count, required=required, slices=tuple(slices), balanced=request.balanced
        )

    def _lowest(self) -> list[Domain]:
        return self._by_parent() if self._nodes else [self._group(row) for row in self._rows]

    def _group(self, row: ProblemDomain) -> Domain:
        room = self._room(row)
        # How large a group is is not said, so none counts as whole.
        return Domain(row.path, room, None, (row.risk,) * room, self._misses(row.ends_in_s, room))

    def _by_parent(self) -> list[Domain]:
        parents: dict[Path, list[ProblemDomain]] = defaultdict(list)
        for row in self._rows:
            parents[row.path[:-1]].append(row)
        found = []
        for path, below in parents.items():
            risks = tuple(sorted(row.risk for row in below if self._room(row)))
            busy = [row.ends_in_s for row in below if not self._room(row) and row.ends_in_s is not None]
            ends = self._misses(max(busy, default=None), len(risks))
            found.append(Domain(path, len(risks), len(below), risks, ends))
        return found

    def _misses(self, ends_in_s: float | None, places: int) -> tuple[float, ...]:
        runs_s = self._problem.request.runs_s
        if runs_s is None or ends_in_s is None:
            return ()
        return (abs(ends_in_s - self._moment - runs_s),) * places

    def _assignment(self, choice: Choice) -> tuple[Assigned, ...]:
        """The least risky nodes of each domain, in rank order."""
        takes = dict(choice.takes)
        chosen: dict[Path, int] = {}
        for row in sorted(self._rows, key=lambda row: row.risk) if self._nodes else self._rows:
            key = row.path[:-1] if self._nodes else row.path
            if count := min(self._room(row), takes.get(key, 0)):
                takes[key] -= count
                chosen[row.path] = count
        return tuple(Assigned(path=row.path, count=chosen[row.path]) for row in self._rows if row.path in chosen)

    def _cost(self, choice: Choice) -> dict[str, int | float]:
        used = dict(zip(self._levels, choice.cost.used, strict=True)) | self._nodes_used(choice)
        return {**used, **{term: getattr(choice.cost, term) for term in TERMS}}

    def _nodes_used(self, choice: Choice) -> dict[str, int]:
        return {self._problem.levels[-1]: sum(places for _, places in choice.takes)} if self._nodes else {}

    def _why(self, choice: Choice, now: _Solver) -> str:
        used = dict(zip(self._levels, choice.cost.used, strict=True))
        terms = ", ".join(
            f"{used[level]} {level} ({'the fewest possible' if used[level] == bound else f'{bound} with more above'})"
            for level, bound in zip(self._levels, choice.bound, strict=True)
        )
        broken = f"breaks {choice.cost.broken} whole" if choice.cost.broken > 1 else "breaks a whole one"
        parts = [terms, broken if choice.cost.broken else "breaks no whole one", f"{choice.cost.leftover:g} left over"]
        preferred = self._problem.request.preferred
        if preferred is not None and used.get(preferred, 1) > 1:
            parts.append(f"no one {preferred} holds it")
        if self._moment:
            spans = (
                "nothing fits now" if now.choice is None else f"now it would be {_spanned(now.choice, self._levels)}"
            )
            parts.append(f"starts in {self._moment:g} s: {spans}")
        return "; ".join(parts) + "."

    def _reason(self) -> str:
        request = self._problem.request
        most = fits(self._domains, self._request) if self._request else int(any(map(self._room, self._rows)))
        where = f"one {request.required} of the fabric" if request.required else "the fabric"
        form = "".join(f" in slices of {one.size} a {one.level}" for one in request.slices)
        return f"{request.count} do not fit{form}: {where} has {most} free at most."


def _spanned(choice: Choice, levels: Sequence[str]) -> str:
    return ", ".join(f"{used} {level}" for level, used in zip(levels, choice.cost.used, strict=True))
