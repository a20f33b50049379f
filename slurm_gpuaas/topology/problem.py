"""A placement question as a document, and its answer: what `gpuaas topology place` reads and prints."""

from __future__ import annotations

from collections import defaultdict
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.topology.fabric import natural
from slurm_gpuaas.topology.placement import Choice, Domain, Path, choose, runner_up


class Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ProblemDomain(Document):
    """A lowest domain: a node (`free` 0 or 1) or a group of nodes with a count of free ones."""

    path: tuple[str, ...] = Field(min_length=1, max_length=16, description="A name per level, top first.")
    free: int = Field(ge=0, le=100_000)
    usable: bool = Field(default=True, description="Out of service when false: nothing of it is taken.")

    @property
    def room(self) -> int:
        return self.free if self.usable else 0


class Request(Document):
    count: int = Field(ge=1, le=100_000)
    required: str | None = Field(default=None, description="Level of which one domain must hold all of it.")


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
        if self.request.required not in (None, *self.levels):
            raise InvalidInput(
                f"There is no level {self.request.required!r:.40}.", way_out=f"Use one of {', '.join(self.levels)}."
            )
        return self


class Assigned(Document):
    path: tuple[str, ...]
    count: int


class Alternative(Document):
    assignment: tuple[Assigned, ...]
    cost: dict[str, int]


class Answer(Document):
    """`assignment` is in rank order; None when nothing fits, and `reason` then says how much would.

    `cost` has a term per level (domains used), then `broken` (a parent domain that was wholly free and is left partly
    used) and `leftover` (free places left in the lowest domains that count), compared in this order. `lower_bound` is
    per level what no assignment can beat, each level taken by itself; `gap` is the difference.
    """

    assignment: tuple[Assigned, ...] | None
    cost: dict[str, int] = Field(default_factory=dict)
    lower_bound: dict[str, int] = Field(default_factory=dict)
    gap: dict[str, int] = Field(default_factory=dict)
    why: str = ""
    runner_up: Alternative | None = None
    reason: str = ""


def solve(problem: Problem) -> Answer:
    """The best assignment; the same whatever the order of the domains."""
    return _Solver(problem).answer()


class _Solver:
    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._rows = sorted(problem.domains, key=lambda row: [natural(name) for name in row.path])
        # Nodes are not told apart within their parent: counting parents is the same question, and a small one.
        self._nodes = len(problem.levels) > 1 and all(row.free <= 1 for row in self._rows)
        self._levels = problem.levels[:-1] if self._nodes else problem.levels

    def answer(self) -> Answer:
        request = self._problem.request
        best: tuple[Choice, list[Domain]] | None = None
        most = 0
        for domains in self._scopes():
            most = max(most, sum(domain.free for domain in domains))
            choice = choose(domains, request.count)
            if choice and (best is None or (choice.cost, choice.takes) < (best[0].cost, best[0].takes)):
                best = choice, domains
        if best is None:
            where = f"one {request.required} of the fabric" if request.required else "the fabric"
            return Answer(assignment=None, reason=f"{request.count} do not fit: {where} has {most} free at most.")
        choice, domains = best
        other = runner_up(domains, request.count, choice)
        bound = dict(zip(self._levels, choice.bound, strict=True)) | self._nodes_used(choice)
        cost = self._cost(choice)
        return Answer(
            assignment=self._assignment(choice),
            cost=cost,
            lower_bound=bound,
            gap={level: cost[level] - least for level, least in bound.items()},
            why=self._why(choice),
            runner_up=Alternative(assignment=self._assignment(other), cost=self._cost(other)) if other else None,
        )

    def _scopes(self) -> list[list[Domain]]:
        """The domains to choose among: all, or those under each domain of the required level."""
        required = self._problem.request.required
        if required is None:
            return [self._domains(self._rows)]
        depth = self._problem.levels.index(required) + 1
        scopes: dict[Path, list[ProblemDomain]] = defaultdict(list)
        for row in self._rows:
            scopes[row.path[:depth]].append(row)
        return [self._domains(rows) for rows in scopes.values()]

    def _domains(self, rows: list[ProblemDomain]) -> list[Domain]:
        if not self._nodes:
            # How large a group is is not said, so none counts as whole.
            return [Domain(row.path, row.room, row.room + 1) for row in rows]
        parents: dict[Path, list[ProblemDomain]] = defaultdict(list)
        for row in rows:
            parents[row.path[:-1]].append(row)
        return [Domain(path, sum(row.room for row in below), len(below)) for path, below in parents.items()]

    def _assignment(self, choice: Choice) -> tuple[Assigned, ...]:
        takes = dict(choice.takes)
        assigned: list[Assigned] = []
        for row in self._rows:
            key = row.path[:-1] if self._nodes else row.path
            count = min(row.room, takes.get(key, 0))
            if count:
                takes[key] -= count
                assigned.append(Assigned(path=row.path, count=count))
        return tuple(assigned)

    def _cost(self, choice: Choice) -> dict[str, int]:
        used = dict(zip(self._levels, choice.cost.used, strict=True)) | self._nodes_used(choice)
        return {**used, "broken": choice.cost.broken, "leftover": choice.cost.leftover}

    def _nodes_used(self, choice: Choice) -> dict[str, int]:
        return {self._problem.levels[-1]: sum(places for _, places in choice.takes)} if self._nodes else {}

    def _why(self, choice: Choice) -> str:
        terms = ", ".join(
            f"{used} {level} ({'the fewest possible' if used == bound else f'{bound} with more above'})"
            for level, used, bound in zip(self._levels, choice.cost.used, choice.bound, strict=True)
        )
        broken = "breaks a whole one" if choice.cost.broken else "breaks no whole one"
        return f"{terms}; {broken}; {choice.cost.leftover} left over."
