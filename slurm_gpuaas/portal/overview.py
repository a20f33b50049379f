"""The pool at one look: what there is, who has it, what runs, and how old each of it is. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final

from slurm_gpuaas.api.pool_sites import ShareReport, SiteReport
from slurm_gpuaas.domain.calendar import Commitment
from slurm_gpuaas.domain.ledger import Sums
from slurm_gpuaas.domain.months import Month
from slurm_gpuaas.domain.names import ClusterName, GpuModel, ProgrammeName, ProviderName
from slurm_gpuaas.domain.pool_grants import PoolGrant
from slurm_gpuaas.domain.programmes import PoolShare, Programme, Title

STALE_AFTER: Final = timedelta(minutes=10)
"""Sites report every half minute; what is older may have changed."""
MONTHS_BACK: Final = 11
MONTHS_AHEAD: Final = 6
_GRANT: Final = "g"
"""First letter of a grant's number; offers and holds have others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareState:
    """GPUs of one share.

    Attributes:
        capacity: that can be promised, as declared.
        awarded: of grants today; `kept`: of offers, leases and reservations today.
        guaranteed, burst: running, as its site says; `idle`: on healthy nodes, without a job; `out`: broken or drained.
            None where no site reports the share.
        reported_at: when the portal received that; None = never.
        late: it is older than it should be.
    """

    provider: ProviderName
    cluster: ClusterName
    share: str
    model: GpuModel
    capacity: int
    awarded: int
    kept: int
    guaranteed: int | None
    burst: int | None
    idle: int | None
    out: int | None
    reported_at: datetime | None
    late: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgrammeState:
    """Grants that have GPUs now or later, and money since the programme's first grant.

    Attributes:
        budget: of these grants together; None where none has one.
        won: charged; `list_won`: what it would have been without anybody's discount.
    """

    name: ProgrammeName
    title: Title
    grants: int
    organisations: int
    gpus: int
    budget: int | None
    won: int
    list_won: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A site's newest report, and when it came."""

    report: SiteReport
    at: datetime


def share_states(
    shares: Sequence[PoolShare],
    calendar: Mapping[str, Sequence[Commitment]],
    reports: Mapping[ClusterName, Received],
    *,
    today: date,
    now: datetime,
) -> tuple[ShareState, ...]:
    """By provider, model and share.

    Args:
        calendar: by name of the share.
    """
    return tuple(
        _state(share, calendar.get(share.name, ()), reports.get(share.cluster), today, now)
        for share in sorted(shares, key=lambda one: (one.provider, one.model, one.name))
    )


def _state(
    share: PoolShare, rows: Sequence[Commitment], received: Received | None, today: date, now: datetime
) -> ShareState:
    held = [one for one in rows if one.starts <= today <= one.ends]
    awarded = sum(one.gpus for one in held if one.holder.startswith(_GRANT))
    said = _said(share, received.report.shares) if received else None
    return ShareState(
        provider=share.provider,
        cluster=share.cluster,
        share=share.share,
        model=share.model,
        capacity=share.capacity,
        awarded=awarded,
        kept=sum(one.gpus for one in held) - awarded,
        guaranteed=said.guaranteed if said else None,
        burst=said.burst if said else None,
        idle=max(said.healthy - said.guaranteed - said.burst, 0) if said else None,
        out=max(said.capacity - said.healthy, 0) if said else None,
        reported_at=received.at if received and said else None,
        late=not (received and said) or now - received.at > STALE_AFTER,
    )


def _said(share: PoolShare, reports: Iterable[ShareReport]) -> ShareReport | None:
    return next((one for one in reports if (one.pool, one.share) == (share.pool, share.share)), None)


def awarded_by_month(
    shares: Sequence[PoolShare], calendar: Mapping[str, Sequence[Commitment]], today: date
) -> tuple[tuple[GpuModel, ...], tuple[tuple[Month, tuple[int, ...]], ...]]:
    """Models, and GPUs of grants of each model: on the first of each month, and today of the present one."""
    models = tuple(sorted({share.model for share in shares}))
    present = Month(today.year, today.month)
    month = present.back(MONTHS_BACK)
    months: list[Month] = []
    while len(months) <= MONTHS_BACK + MONTHS_AHEAD:
        months.append(month)
        month = month.following
    rows = []
    for one in months:
        day = today if one == present else one.first
        rows.append((one, tuple(_awarded(shares, calendar, model, day) for model in models)))
    return models, tuple(rows)


def _awarded(
    shares: Sequence[PoolShare], calendar: Mapping[str, Sequence[Commitment]], model: GpuModel, day: date
) -> int:
    return sum(
        row.gpus
        for share in shares
        if share.model == model
        for row in calendar.get(share.name, ())
        if row.starts <= day <= row.ends and row.holder.startswith(_GRANT)
    )


def programme_states(
    programmes: Sequence[Programme], grants: Sequence[PoolGrant], sums: Mapping[tuple[str, ...], Sums]
) -> tuple[ProgrammeState, ...]:
    """
    Args:
        grants: those that have GPUs now or later; others are passed over.
        sums: of all entries but payments, by programme.
    """
    return tuple(
        _programme(one, [grant for grant in grants if grant.programme == one.name], sums.get((one.name,), Sums()))
        for one in programmes
    )


def _programme(programme: Programme, grants: Sequence[PoolGrant], booked: Sums) -> ProgrammeState:
    live = [grant for grant in grants if grant.holds]
    budgets = [grant.budget_won for grant in live if grant.budget_won is not None]
    return ProgrammeState(
        name=programme.name,
        title=programme.title,
        grants=len(live),
        organisations=len({grant.organisation for grant in live}),
        gpus=sum(grant.gpus for grant in live),
        budget=sum(budgets) if budgets else None,
        won=booked.won,
        list_won=booked.list_won,
    )
