"""Why an application got nothing, or not all it asked for: every limit that stands against the next larger award.

An award is the best there is, so at least one limit does, unless more would add nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import reduce
from typing import Final

from slurm_gpuaas.domain.pool_grants import MOST_WHY
from slurm_gpuaas.domain.told import Told, told
from slurm_gpuaas.pool.award import Award, Awarded, gpus_of, sizes_of
from slurm_gpuaas.pool.award_scenario import ANY, Application, PoolOffer

HOLDERS_TOLD: Final = 3


class Limit(StrEnum):
    NO_POOL = "no_pool"
    """No pool has the model."""
    CAP = "cap"
    """A cap is below every award that would be large enough."""
    ORGANISATION = "organisation"
    REGION = "region"
    POOL_SIZE = "pool_size"
    """Every pool is smaller than that, even empty."""
    CAPACITY = "capacity"
    """Others hold the GPUs."""
    NO_SCORE = "no_score"
    """A partial award at score 0 adds nothing."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One limit that stands against a larger award.

    Attributes:
        needed: GPUs that the next larger award takes in addition.
        left: GPUs that the limit leaves.
        holders: awards that use the limit up, the best score first.
        sentences: the limit and its numbers.
    """

    limit: Limit
    needed: int
    left: int
    holders: tuple[Awarded, ...]
    sentences: tuple[Told, ...]


def why(award: Award, application: Application) -> str:
    """The reasons in one text, no longer than a decision's (`NotAwarded.why`): many long names are cut off."""
    text = " ".join(sentence for reason in reasons(award, application) for sentence in reason.sentences)
    return text if len(text) <= MOST_WHY else f"{text[: MOST_WHY - 1]}…"


def reasons(award: Award, application: Application) -> tuple[Reason, ...]:
    """Every limit that stands against more GPUs; none for a full award."""
    held = award.awarded.get(application.id)
    if held and not held.partial:
        return ()
    pools = [pool for pool in award.scenario.pools if application.model in (ANY, pool.model)]
    if not pools:
        return (_no_pool(award, application),)
    has = held.gpus if held else 0
    full, partial = sizes_of(award.scenario, application)
    larger = min((size for size in (full, *partial) if size > has), default=None)
    if larger is None:
        return (_capped(award, application),)
    found = (*_caps(award, application, larger - has), *_pools(award, application, pools, held, larger))
    return found or (_no_score(larger),)


def _no_pool(award: Award, application: Application) -> Reason:
    models = ", ".join(sorted({pool.model for pool in award.scenario.pools})) or "none"
    sentence = told("No pool has GPUs of model {model}; there are: {models}.", model=application.model, models=models)
    return Reason(Limit.NO_POOL, application.min_gpus, 0, (), (sentence,))


def _capped(award: Award, application: Application) -> Reason:
    caps = award.scenario.caps
    named = (
        (told("organisation"), caps.organisation),
        (told("per_project"), caps.per_project),
        (told("region"), caps.region),
    )
    most, cap = min(((value, name) for name, value in named if value is not None), default=(application.gpus, "gpus"))
    if application.id in award.awarded:
        sentence = told(
            "It asks for {gpus} GPUs; the cap {cap} allows {most}.", gpus=application.gpus, cap=cap, most=most
        )
    else:
        sentence = told(
            "It asks for {gpus} GPUs and needs {least} at least; the cap {cap} allows {most}, and no number of whole "
            "servers of 8 GPUs lies between.",
            gpus=application.gpus,
            least=application.min_gpus,
            cap=cap,
            most=most,
        )
    return Reason(Limit.CAP, application.min_gpus, most, (), (sentence,))


def _caps(award: Award, application: Application, needed: int) -> Iterator[Reason]:
    caps = award.scenario.caps
    for limit, cap, name, groups in (
        (Limit.ORGANISATION, caps.organisation, application.organisation, award.by_organisation),
        (Limit.REGION, caps.region, application.region, award.by_region),
    ):
        holders = groups.get(name, ())
        if cap is None or cap - gpus_of(holders) >= needed:
            continue
        values: dict[str, str | int] = {
            "name": name,
            "cap": cap,
            "awarded": gpus_of(holders),
            "needed": needed,
            "holders": _told_holders(holders),
        }
        sentence = (
            told(
                "Organisation {name} may have {cap} GPUs: {awarded} awarded and {needed} more pass it; {holders}.",
                **values,
            )
            if limit is Limit.ORGANISATION
            else told(
                "Region {name} may have {cap} GPUs: {awarded} awarded and {needed} more pass it; {holders}.", **values
            )
        )
        yield Reason(limit, needed, cap - gpus_of(holders), holders, (sentence, *_lower(award, application, holders)))


def _pools(
    award: Award, application: Application, pools: Sequence[PoolOffer], held: Awarded | None, size: int
) -> Iterator[Reason]:
    """Where no pool has room for an award of this size."""
    room = {pool: award.free(pool) + (held.gpus if held and held.pool == pool else 0) for pool in pools}
    left = max(room.values())
    if left >= size:
        return
    largest = max(pool.capacity for pool in pools)
    if largest < size:
        sentence = told(
            "An award of {size} GPUs is larger than every pool that it may be in; the largest has {largest}.",
            size=size,
            largest=largest,
        )
        yield Reason(Limit.POOL_SIZE, size, largest, (), (sentence,))
        return
    holders = tuple(one for pool in pools for one in award.by_pool.get(pool.name, ()) if one is not held)
    holders = tuple(sorted(holders, key=lambda one: -one.application.score))
    sentence = told(
        "An award of {size} GPUs fits no pool ({pools}): the most that one has left for it is {left} GPUs; {holders}.",
        size=size,
        pools=", ".join(pool.name for pool in pools),
        left=left,
        holders=_told_holders(holders),
    )
    yield Reason(Limit.CAPACITY, size, left, holders, (sentence, *_lower(award, application, holders)))


def _no_score(size: int) -> Reason:
    sentence = told("Its score is 0: a partial award of {size} GPUs would add nothing to the objective.", size=size)
    return Reason(Limit.NO_SCORE, size, size, (), (sentence,))


def _lower(award: Award, application: Application, holders: Sequence[Awarded]) -> Iterator[Told]:
    """Said, since it looks unjust: somebody with a lower score holds what this one would need."""
    lower = [one.application for one in holders if one.application.score < application.score]
    forced = [one for one in lower if one.id in award.must]
    if forced:
        yield told("Of them, {ids} must be awarded here.", ids=", ".join(one.id for one in forced))
    if len(lower) > len(forced):
        yield told(
            "{count} of them have scores below {score}: all awards together add up to more than with one to {id}.",
            count=len(lower) - len(forced),
            score=_told_score(application),
            id=application.id,
        )


def _told_holders(holders: Sequence[Awarded]) -> Told:
    """How many, and those with the lowest scores, who would be the first to give way."""
    if not holders:
        return told("nobody holds any")
    lowest = reduce(
        lambda before, one: told("{before}, {one}", before=before, one=one),
        [
            told(
                "{id} (score {score}, {gpus} GPUs)",
                id=one.application.id,
                score=_told_score(one.application),
                gpus=one.gpus,
            )
            for one in reversed(holders[-HOLDERS_TOLD:])
        ],
    )
    if len(holders) <= HOLDERS_TOLD:
        return told("held by {lowest}", lowest=lowest)
    return told("held by {count} awards, the lowest scores by {lowest}", count=len(holders), lowest=lowest)


def _told_score(application: Application) -> str:
    """As the desk shows it: two decimals at most."""
    return f"{round(application.score, 2).normalize():f}"
