"""An award as a document: what `gpuaas pool award --json` prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal

from pydantic import BaseModel

from slurm_gpuaas.pool.award import Award, Awarded, gpus_of
from slurm_gpuaas.pool.award_reasons import why
from slurm_gpuaas.pool.award_whatif import differences

Number = int | float
"""A sum of scores: at most 13 digits, which a float holds exactly as they are written."""


class AwardRow(BaseModel):
    id: str
    pool: str
    gpus: int


class RefusedRow(BaseModel):
    id: str
    why: str


class PartialRow(BaseModel):
    """An award of less than was asked for."""

    id: str
    asked: int
    gpus: int
    why: str


class PoolRow(BaseModel):
    name: str
    model: str
    capacity: int
    awarded: int
    free: int
    awards: int


class CapRow(BaseModel):
    """Use of one cap by one organisation or region."""

    cap: str
    name: str
    limit: int
    awarded: int


class HeldRow(BaseModel):
    pool: str
    gpus: int


class ChangeRow(BaseModel):
    id: str
    before: HeldRow | None
    after: HeldRow | None
    gpus: int


class AwardAnswer(BaseModel):
    awards: list[AwardRow]
    refused: list[RefusedRow]
    objective: Number
    partial: list[PartialRow]
    pools: list[PoolRow]
    caps: list[CapRow]


class WhatIfAnswer(AwardAnswer):
    """The award as it would be, and what differs from the scenario's own."""

    base_objective: Number
    changes: list[ChangeRow]


def answer(award: Award) -> AwardAnswer:
    return AwardAnswer(
        awards=[AwardRow(id=id_, pool=one.pool.name, gpus=one.gpus) for id_, one in award.awarded.items()],
        refused=[RefusedRow(id=one.id, why=why(award, one)) for one in award.refused],
        objective=number(award.objective),
        partial=[
            PartialRow(id=id_, asked=one.application.gpus, gpus=one.gpus, why=why(award, one.application))
            for id_, one in award.awarded.items()
            if one.partial
        ],
        pools=list(_pools(award)),
        caps=list(_caps(award)),
    )


def what_if_answer(base: Award, other: Award) -> WhatIfAnswer:
    return WhatIfAnswer(
        **dict(answer(other)),
        base_objective=number(base.objective),
        changes=[
            ChangeRow(id=one.id, before=_held(one.before), after=_held(one.after), gpus=one.gpus)
            for one in differences(base, other)
        ],
    )


def number(value: Decimal) -> Number:
    return int(value) if value == value.to_integral_value() else float(value)


def _held(one: Awarded | None) -> HeldRow | None:
    return HeldRow(pool=one.pool.name, gpus=one.gpus) if one else None


def _pools(award: Award) -> Iterator[PoolRow]:
    for pool in award.scenario.pools:
        awards = award.by_pool.get(pool.name, ())
        yield PoolRow(
            name=pool.name,
            model=pool.model,
            capacity=pool.capacity,
            awarded=gpus_of(awards),
            free=award.free(pool),
            awards=len(awards),
        )


def _caps(award: Award) -> Iterator[CapRow]:
    caps = award.scenario.caps
    by_kind: tuple[tuple[str, int | None, Mapping[str, tuple[Awarded, ...]]], ...] = (
        ("organisation", caps.organisation, award.by_organisation),
        ("region", caps.region, award.by_region),
    )
    for kind, limit, groups in by_kind:
        if limit is not None:
            for name, awards in groups.items():
                yield CapRow(cap=kind, name=name, limit=limit, awarded=gpus_of(awards))
