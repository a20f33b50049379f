"""Scenarios for tests, and the award found by trying everything."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from slurm_gpuaas.pool.award import Award
from slurm_gpuaas.pool.award_scenario import ANY, Application, Scenario, order_of

Place = tuple[str, int]
"""Pool and GPUs."""


def scenario(applications: list[dict[str, Any]], pools: dict[str, tuple[str, int]], **caps: int | None) -> Scenario:
    """`pools`: model and capacity by name. Applications: what is left out is unimportant."""
    usual = {"organisation": "snu", "region": "seoul", "model": "b200", "score": 80}
    return Scenario.model_validate(
        {
            "pools": [
                {"name": name, "provider": "nhn", "share": "government", "model": model, "capacity": capacity}
                for name, (model, capacity) in pools.items()
            ],
            "applications": [
                {"id": f"a{number}", "min_gpus": one["gpus"], **usual, **one}
                for number, one in enumerate(applications, start=1)
            ],
            "caps": caps,
        }
    )


def places_of(award: Award) -> dict[str, Place]:
    return {id_: (one.pool.name, one.gpus) for id_, one in award.awarded.items()}


def best_by_trying(known: Scenario, must: frozenset[str] = frozenset()) -> dict[str, Place] | None:
    """The best of all possible awards, compared as the rules say; None: not all of `must` can be awarded."""
    applications = sorted(known.applications, key=lambda one: order_of(one.id))
    pools = sorted((pool.name for pool in known.pools), key=order_of)

    def key(places: dict[str, Place]) -> tuple[Any, ...]:
        held = [places.get(one.id) for one in applications]
        by_size = sorted((place for place in held if place), key=lambda place: -place[1])
        return (
            sum((one.score * place[1] for one, place in zip(applications, held, strict=True) if place), Decimal(0)),
            -sum(1 for one, place in zip(applications, held, strict=True) if place and place[1] < one.gpus),
            [place[1] if place else 0 for place in held],
            [-pools.index(pool) for pool, _ in by_size],
        )

    every = (places for places in _possible(known, applications) if must <= places.keys())
    return max(every, key=key, default=None)


def _possible(known: Scenario, applications: list[Application]) -> Iterator[dict[str, Place]]:
    caps = known.caps
    left = {pool.name: pool.capacity for pool in known.pools}
    held: Counter[tuple[str, str]] = Counter()

    def fits(one: Application, gpus: int) -> bool:
        return (
            (caps.per_project is None or gpus <= caps.per_project)
            and (caps.organisation is None or held["organisation", one.organisation] + gpus <= caps.organisation)
            and (caps.region is None or held["region", one.region] + gpus <= caps.region)
        )

    def walk(at: int, places: dict[str, Place]) -> Iterator[dict[str, Place]]:
        if at == len(applications):
            yield dict(places)
            return
        one = applications[at]
        yield from walk(at + 1, places)
        for gpus in {one.gpus, *range(8, one.gpus, 8)}:
            if gpus < one.min_gpus or not fits(one, gpus):
                continue
            for pool in known.pools:
                if one.model in (ANY, pool.model) and left[pool.name] >= gpus:
                    left[pool.name] -= gpus
                    held["organisation", one.organisation] += gpus
                    held["region", one.region] += gpus
                    places[one.id] = pool.name, gpus
                    yield from walk(at + 1, places)
                    del places[one.id]
                    left[pool.name] += gpus
                    held["organisation", one.organisation] -= gpus
                    held["region", one.region] -= gpus

    yield from walk(0, {})


def call(
    seed: int,
    *,
    applications: int = 500,
    asked: float = 3.0,
    sizes: tuple[int, ...] = (8, 8, 16, 16, 32, 64, 128),
    small: float = 0.1,
    scores: tuple[float, ...] | None = None,
    decimals: int = 1,
    capped: bool = True,
) -> Scenario:
    """A call like the first national one: six pool shares at three providers.

    Args:
        asked: GPUs asked for by GPUs that there are; capacities are set by it.
        small: part of the applications that ask for 1 to 7 GPUs.
        scores: that occur; absent: any from 50 to 100.
    """
    chance = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for number in range(applications):
        gpus = chance.randint(1, 7) if chance.random() < small else chance.choice(sizes)
        organisation = chance.randrange(120)
        rows.append(
            {
                "id": f"a2026-{number:05}",
                "organisation": f"organisation-{organisation}",
                "region": f"region-{organisation % 17}",
                "model": ANY if chance.random() < 0.2 else chance.choice(("h200", "b200", "b200")),
                "gpus": gpus,
                "min_gpus": chance.choice((1, min(8, gpus), -(-gpus // 2), gpus)),
                "score": chance.choice(scores) if scores else round(chance.uniform(50, 100), decimals),
                "period": "2027-03 to 2027-08",
            }
        )
    shares = {
        "naver-government": ("h200", 2296),
        "naver-own": ("h200", 760),
        "kakao-government": ("b200", 2040),
        "kakao-own": ("b200", 384),
        "nhn-government": ("b200", 6120),
        "nhn-own": ("b200", 1536),
    }
    there = sum(row["gpus"] for row in rows) / asked
    whole = sum(gpus for _, gpus in shares.values())
    pools = {name: (model, int(gpus * there / whole)) for name, (model, gpus) in shares.items()}
    caps: dict[str, int | None] = (
        {"organisation": max(8, int(there / 40)), "region": max(8, int(there / 9)), "per_project": 96} if capped else {}
    )
    return scenario(rows, pools, **caps)
