"""What the award solver is given: the applications that are ready for a decision, and the room that there is. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from fractions import Fraction

from pydantic import JsonValue

from slurm_gpuaas.domain.applications import Application, suits
from slurm_gpuaas.domain.calendar import Commitment, room
from slurm_gpuaas.domain.names import (
    ApplicationId,
    GpuModel,
    OrganisationName,
    PoolShareName,
    ProviderName,
    ShareName,
)
from slurm_gpuaas.domain.programmes import Caps, PoolOrganisation, PoolShare, Programme


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioPool:
    """`capacity`: GPUs free on every day of every application that could use them."""

    name: PoolShareName
    provider: ProviderName
    share: ShareName
    model: GpuModel
    capacity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioApplication:
    """`model` None takes any; `period` is the first and the last day."""

    id: ApplicationId
    organisation: OrganisationName
    region: str
    model: GpuModel | None
    gpus: int
    min_gpus: int
    score: Fraction
    period: tuple[date, date]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    pools: tuple[ScenarioPool, ...]
    applications: tuple[ScenarioApplication, ...]
    caps: Caps


def scenario(
    programme: Programme,
    scored: Sequence[tuple[Application, Fraction]],
    *,
    organisations: Mapping[OrganisationName, PoolOrganisation],
    shares: Iterable[PoolShare],
    commitments: Mapping[PoolShareName, Sequence[Commitment]],
    today: date,
) -> Scenario:
    """Of the applications whose period is not over.

    A share's capacity is its room over all days from the first to the last of the applications that it suits: where
    their periods differ that is on the safe side, never too much. Approval checks each award's own days.

    Args:
        scored: with their exact scores, only those that may be awarded.
        commitments: of each share, from today on.
    """
    able = [(application, points) for application, points in scored if application.request.ends >= today]
    pools = []
    for share in sorted(shares, key=lambda one: one.name):
        asking = [application.request for application, _ in able if suits(share, application.request, programme)]
        if asking:
            starts = max(today, min(request.starts for request in asking))
            ends = max(request.ends for request in asking)
            free = room(share.capacity, commitments.get(share.name, ()), starts, ends)
            pools.append(
                ScenarioPool(
                    name=share.name, provider=share.provider, share=share.share, model=share.model, capacity=free
                )
            )
    return Scenario(
        pools=tuple(pools),
        applications=tuple(
            ScenarioApplication(
                id=application.id,
                organisation=application.organisation,
                region=organisations[application.organisation].region,
                model=application.request.model,
                gpus=application.request.gpus,
                min_gpus=application.request.min_gpus,
                score=points,
                period=(max(today, application.request.starts), application.request.ends),
            )
            for application, points in sorted(able, key=lambda one: one[0].id)
        ),
        caps=programme.caps,
    )


def as_document(scenario: Scenario) -> dict[str, JsonValue]:
    """As `gpuaas pool award --scenario FILE` takes it. Scores are rounded to six decimals: files have no fractions."""
    return {
        "pools": [
            {
                "name": pool.name,
                "provider": pool.provider,
                "share": pool.share,
                "model": pool.model,
                "capacity": pool.capacity,
            }
            for pool in scenario.pools
        ],
        "applications": [
            {
                "id": one.id,
                "organisation": one.organisation,
                "region": one.region,
                "model": one.model or "any",
                "gpus": one.gpus,
                "min_gpus": one.min_gpus,
                "score": float(round(one.score, 6)),
                "period": [day.isoformat() for day in one.period],
            }
            for one in scenario.applications
        ],
        "caps": scenario.caps.model_dump(exclude_none=True),
    }
