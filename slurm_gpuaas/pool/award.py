"""The award: who gets how many GPUs in which pool, the best there is, and why.

Rules, the first that tells two choices apart decides:

1. the larger sum of score times GPUs awarded;
2. the fewer partial awards;
3. more GPUs for the application with the earlier id, then for the next, and so on;
4. the earlier pool, by name, for the larger award, of equal ones that with the earlier id, then for the next.

An application gets all it asked for, or whole servers of 8 below that but not under its minimum, or nothing; from one
pool; within the caps. Pure: the same scenario gives the same award whatever the order of its rows, and nothing is read
or written.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from math import gcd, isfinite
from typing import Final

from slurm_gpuaas.domain.errors import GpuaasError, InvalidInput, Refused
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.pool.award_pools import Parcel, divide
from slurm_gpuaas.pool.award_scenario import ANY, SCORE_STEP, Application, PoolOffer, Scenario, order_of
from slurm_gpuaas.pool.award_solver import SERVER, Candidate, Chosen, Problem, solve
from slurm_gpuaas.pool.integer_program import LARGEST_SUM, Infeasible, NotProven

TIME_LIMIT_S: Final = 300.0


class OutOfTime(GpuaasError):
    """No award is proven to be the best in the time given. A worse one is never passed off as it."""


@dataclass(frozen=True, slots=True)
class Awarded:
    """`gpus` of `pool` for `application`, all that it asked for or part of it."""

    application: Application
    pool: PoolOffer
    gpus: int

    @property
    def partial(self) -> bool:
        return self.gpus < self.application.gpus


@dataclass(frozen=True)
class Award:
    """What was decided on a scenario.

    Attributes:
        awarded: by id, in the order of ids (`order_of`).
        refused: in the same order.
        must: ids of those that had to be awarded something.
    """

    scenario: Scenario
    awarded: Mapping[str, Awarded]
    refused: tuple[Application, ...]
    must: frozenset[str]

    @cached_property
    def objective(self) -> Decimal:
        """Score times GPUs awarded, summed, exactly."""
        return sum((one.application.score * one.gpus for one in self.awarded.values()), Decimal(0))

    @cached_property
    def by_pool(self) -> Mapping[str, tuple[Awarded, ...]]:
        """Awards in each pool, those of the best score first."""
        return self._grouped(lambda one: one.pool.name)

    @cached_property
    def by_organisation(self) -> Mapping[str, tuple[Awarded, ...]]:
        return self._grouped(lambda one: one.application.organisation)

    @cached_property
    def by_region(self) -> Mapping[str, tuple[Awarded, ...]]:
        return self._grouped(lambda one: one.application.region)

    def free(self, pool: PoolOffer) -> int:
        """GPUs of the pool that nobody was awarded."""
        return pool.capacity - gpus_of(self.by_pool.get(pool.name, ()))

    def _grouped(self, group: Callable[[Awarded], str]) -> Mapping[str, tuple[Awarded, ...]]:
        found: dict[str, list[Awarded]] = defaultdict(list)
        for one in sorted(self.awarded.values(), key=lambda one: -one.application.score):
            found[group(one)].append(one)
        return {name: tuple(found[name]) for name in sorted(found, key=order_of)}


def gpus_of(awards: Sequence[Awarded]) -> int:
    return sum(one.gpus for one in awards)


def sizes_of(scenario: Scenario, application: Application) -> tuple[int, range]:
    """What an award may be within the caps: GPUs of a full one, 0 if there is none, and of partial ones."""
    caps = scenario.caps
    allowed = [cap for cap in (caps.per_project, caps.organisation, caps.region) if cap is not None]
    most = min([application.gpus, *allowed])
    low = -(-max(application.min_gpus, 1) // SERVER) * SERVER
    high = min(most, application.gpus - 1) // SERVER * SERVER
    return application.gpus if most == application.gpus else 0, range(low, high + 1, SERVER)


def award(
    scenario: Scenario,
    *,
    must: frozenset[str] = frozenset(),
    time_limit_s: float = TIME_LIMIT_S,
    clock: Callable[[], float] = time.monotonic,
) -> Award:
    """Decide on a scenario.

    Args:
        must: ids of applications that have to be awarded something, whatever it costs the others.
        time_limit_s: of `clock`.

    Raises:
        OutOfTime: it is not proven in that time.
        InvalidInput: `must` names an application that there is not; scores times GPUs are too large to be added
        exactly. Refused: not all of `must` can be awarded.
    """
    applications = sorted(scenario.applications, key=lambda one: order_of(one.id))
    unknown = must.difference(one.id for one in applications)
    if unknown:
        raise InvalidInput(
            f"There is no application {min(unknown, key=order_of)}.", way_out="Name one of the scenario's applications."
        )
    pools = sorted((pool for pool in scenario.pools if pool.capacity), key=lambda pool: order_of(pool.name))
    deadline = clock() + time_limit_s
    try:
        for bins in (_bins_by_model(pools), [(pool,) for pool in pools]):
            problem = _problem(scenario, applications, bins, must)
            _check_sums(problem)
            chosen = solve(problem, deadline=deadline, clock=clock)
            places = _places(applications, chosen, pools, deadline, clock)
            if places is not None:
                return _award(scenario, applications, chosen, places, pools, must)
    except NotProven as error:
        raise _out_of_time(error, time_limit_s) from error
    except Infeasible as error:
        raise Refused(
            f"Not all of {', '.join(sorted(must, key=order_of))} can be awarded: their least useful sizes do "
            "not fit the pools and caps together.",
            way_out="Raise a capacity or a cap, or ask for fewer.",
        ) from error
    raise AssertionError("Awards chosen pool by pool do not fit their pools.")


def _bins_by_model(pools: Sequence[PoolOffer]) -> list[tuple[PoolOffer, ...]]:
    by_model: dict[str, list[PoolOffer]] = defaultdict(list)
    for pool in pools:
        by_model[pool.model].append(pool)
    return [tuple(by_model[model]) for model in sorted(by_model, key=order_of)]


def _problem(
    scenario: Scenario,
    applications: Sequence[Application],
    bins: Sequence[Sequence[PoolOffer]],
    must: frozenset[str],
) -> Problem:
    """Scores become whole numbers: in millionths, divided by what all have in common."""
    steps = [int(one.score / SCORE_STEP) for one in applications]
    common = gcd(*steps) or 1
    limits: list[int] = []
    groups: dict[tuple[str, str], int] = {}
    for what, cap in (("organisation", scenario.caps.organisation), ("region", scenario.caps.region)):
        if cap is None:
            continue
        for name, asked in _asked_by(applications, what).items():
            if asked > cap:  # otherwise it cannot bind
                groups[what, name] = len(limits)
                limits.append(cap)
    candidates = []
    for application, step in zip(applications, steps, strict=True):
        full, partial = sizes_of(scenario, application)
        if not step and application.id not in must:
            partial = range(0)  # adds nothing to the sum, and a partial award to their number
        candidates.append(
            Candidate(
                worth=step // common,
                full=full,
                low=partial[0] // SERVER if partial else 1,
                high=partial[-1] // SERVER if partial else 0,
                bins=tuple(at for at, pools in enumerate(bins) if application.model in (ANY, pools[0].model)),
                groups=tuple(
                    groups[key]
                    for key in (("organisation", application.organisation), ("region", application.region))
                    if key in groups
                ),
                must=application.id in must,
            )
        )
    return Problem(
        candidates=tuple(candidates),
        bins=tuple(tuple(pool.capacity for pool in pools) for pools in bins),
        limits=tuple(limits),
    )


def _asked_by(applications: Sequence[Application], what: str) -> Counter[str]:
    asked: Counter[str] = Counter()
    for one in applications:
        asked[one.organisation if what == "organisation" else one.region] += one.gpus
    return asked


def _check_sums(problem: Problem) -> None:
    if problem.largest_sum > LARGEST_SUM:
        raise InvalidInput(
            f"Scores times GPUs add up to as much as {problem.largest_sum:.1e} steps of the finest score, more "
            f"than the {LARGEST_SUM:.1e} that are added exactly.",
            way_out="Give scores with fewer digits.",
        )


def _places(
    applications: Sequence[Application],
    chosen: Chosen,
    pools: Sequence[PoolOffer],
    deadline: float,
    clock: Callable[[], float],
) -> dict[str, int] | None:
    """Number of the pool of each award; None: the pools cannot hold what was chosen for them together."""
    awards = [(one, gpus) for one, gpus in zip(applications, chosen.gpus, strict=True) if gpus]
    awards.sort(key=lambda award: -award[1])  # equal ones stay in the order of ids
    parcels = [
        Parcel(gpus, tuple(at for at, pool in enumerate(pools) if one.model in (ANY, pool.model)))
        for one, gpus in awards
    ]
    places = divide(parcels, [pool.capacity for pool in pools], deadline=deadline, clock=clock)
    if places is None:
        return None
    return {one.id: place for (one, _), place in zip(awards, places, strict=True)}


def _award(
    scenario: Scenario,
    applications: Sequence[Application],
    chosen: Chosen,
    places: Mapping[str, int],
    pools: Sequence[PoolOffer],
    must: frozenset[str],
) -> Award:
    gpus = dict(zip((one.id for one in applications), chosen.gpus, strict=True))
    return Award(
        scenario,
        {one.id: Awarded(one, pools[places[one.id]], gpus[one.id]) for one in applications if gpus[one.id]},
        tuple(one for one in applications if not gpus[one.id]),
        must,
    )


def _out_of_time(error: NotProven, time_limit_s: float) -> OutOfTime:
    if error.best and error.bound is not None and isfinite(error.bound):
        gap = max(0.0, (error.bound - error.best) / error.best)
        known = told("the best found so far may be {gap:.4%} below the best there is", gap=gap)
    else:
        known = told("the largest sum may be known, but not which of several awards with that sum goes first")
    return OutOfTime(
        f"No award was proven to be the best in {time_limit_s:g} s: {known}.",
        way_out="Give it more time (--time-limit), or fewer distinct scores, caps or sizes.",
    )
