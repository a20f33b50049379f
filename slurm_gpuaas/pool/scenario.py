"""What the award solver is given: the applications that are ready for a decision, and the room that there is. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from fractions import Fraction

from slurm_gpuaas.domain.applications import Application, suits
from slurm_gpuaas.domain.calendar import Commitment, room
from slurm_gpuaas.domain.names import OrganisationName, PoolShareName
from slurm_gpuaas.domain.programmes import PoolOrganisation, PoolShare, Programme
from slurm_gpuaas.pool.award_scenario import ANY, SCORE_STEP, Caps, PoolOffer, Scenario
from slurm_gpuaas.pool.award_scenario import Application as ScenarioApplication


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
                PoolOffer(name=share.name, provider=share.provider, share=share.share, model=share.model, capacity=free)
            )
    return Scenario(
        pools=tuple(pools),
        applications=tuple(
            ScenarioApplication(
                id=application.id,
                organisation=application.organisation,
                region=organisations[application.organisation].region,
                model=application.request.model or ANY,
                gpus=application.request.gpus,
                min_gpus=application.request.min_gpus,
                score=_decimal(points),
                period=(str(max(today, application.request.starts)), str(application.request.ends)),
            )
            for application, points in sorted(able, key=lambda one: one[0].id)
        ),
        caps=Caps(**dict(programme.caps)),
    )


def _decimal(points: Fraction) -> Decimal:
    """To the six decimals that scores count to, half to even."""
    return Decimal(round(points / Fraction(SCORE_STEP))) * SCORE_STEP
