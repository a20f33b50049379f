"""Grants, offers and changes as pages and API show them: who may see which, and their models."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Final

from pydantic import Field

from slurm_gpuaas.domain.calendar import ONE_DAY, korean_day, start_of
from slurm_gpuaas.domain.names import OfferId, PersonId, PoolGrantId
from slurm_gpuaas.domain.pool_grants import (
    GrantChange,
    Offer,
    PoolGrant,
)
from slurm_gpuaas.domain.programmes import PoolShare
from slurm_gpuaas.domain.slurm_accounts import burst_qos, guaranteed_qos
from slurm_gpuaas.pool.grant_use import HOUR_SECONDS
from slurm_gpuaas.portal.grant_figures import Delivered, Delivery, Figures
from slurm_gpuaas.portal.http import Answer
from slurm_gpuaas.portal.rights import Action, Owned, Scope
from slurm_gpuaas.portal.visit import Visit
from slurm_gpuaas.store.pool import PoolStore

ENDS_SOON_DAYS: Final = 30


# -- Who sees what -----------------------------------------------------------------------------------------------------


def grant_owner(grant: PoolGrant, share: PoolShare) -> Owned:
    return Owned(people=frozenset(grant.members), organisation=grant.organisation, provider=share.provider)


def offer_owner(offer: Offer, applicant: PersonId, share: PoolShare) -> Owned:
    return Owned(people=frozenset({applicant}), organisation=offer.organisation, provider=share.provider)


def visible_grants(store: PoolStore, visit: Visit, action: Action = Action.GRANT_READ) -> list[PoolGrant]:
    """By number."""
    shelf, office = store.register.grants, visit.person.office
    match visit.may(action):
        case Scope.ALL:
            return list(shelf.all())
        case Scope.PROVIDER:
            mine = [share.name for share in store.register.shares.all() if share.provider == office.provider]
            return list(shelf.all(share=mine)) if mine else []
        case Scope.ORGANISATION if office.organisation:
            return list(shelf.all(organisation=office.organisation))
        case Scope.OWN if office.organisation:
            mine_too = shelf.all(organisation=office.organisation)
            return [grant for grant in mine_too if visit.person.id in grant.members]
    return []


def visible_offers(store: PoolStore, visit: Visit) -> list[Offer]:
    """By number."""
    register, office = store.register, visit.person.office
    if visit.may(Action.GRANT_READ) is Scope.ALL:
        return list(register.offers.all())
    shares = {share.name: share for share in register.shares.all()}
    if office.provider:
        mine = [name for name, share in shares.items() if share.provider == office.provider]
        return list(register.offers.all(share=mine)) if mine else []
    if office.organisation is None:
        return []
    offers = register.offers.all(organisation=office.organisation)
    applicants = {one.id: one.applicant for one in register.applications.all(organisation=office.organisation)}
    return [
        one
        for one in offers
        if visit.allows(Action.GRANT_READ, offer_owner(one, applicants[one.application], shares[one.share]))
    ]


# -- Models of the API -------------------------------------------------------------------------------------------------


class OfferView(Answer):
    id: OfferId
    application: str
    organisation: str
    programme: str
    provider: str
    share: str
    model: str
    gpus: int
    gpus_asked: int
    starts: date
    ends: date
    starts_asked: date
    ends_asked: date
    price_percent: Decimal = Field(description="Part of the rate that is paid.")
    budget_won: int | None
    most_won: int | None = Field(description="What it costs at most, without VAT; null while a day has no rate.")
    answer_by: datetime = Field(description="It lapses then.")
    state: str


class Use(Answer):
    """GPU-hours include runs that were lost or preempted. Won are without VAT."""

    gpu_hours: float
    gpu_hours_this_month: float
    gpu_hours_burst: float
    gpu_hours_lost_to_faults: float
    percent_of_awarded: int | None
    won: int
    won_this_month: int
    gpus_in_use: int
    gpus_in_use_burst: int


class NextLimit(Answer):
    limit: str
    at: datetime | None = Field(description="null: it bites now.")


class GrantView(Answer):
    id: PoolGrantId
    title: str
    organisation: str
    programme: str
    provider: str
    cluster: str
    share: str
    model: str
    project: str
    state: str
    gpus: int
    starts: date
    ends: date
    days_left: int | None = Field(description="Until the last day; null once it has no GPUs.")
    grace_until: date | None
    price_percent: Decimal
    budget_won: int | None
    won_left: int | None = Field(description="null without a budget in force.")
    application: str
    offer: str
    report: bool = Field(description="The final report is handed in.")
    use: Use
    next_limit: NextLimit
    as_of: datetime | None = Field(description="When the site reported last.")
    stale: bool


class SlurmNames(Answer):
    account: str
    qos: str
    burst_qos: str


class DeliveryView(Answer):
    """`taken`: the site has the grant's documents and puts them in force by itself."""

    state: Delivery
    site: str | None
    why: str
    silent: bool


class HistoryEvent(Answer):
    """`by` is a person's number where you may know it, or who it was."""

    at: datetime
    what: str
    step: str
    by: str
    reason: str


class GrantDetail(GrantView):
    members: tuple[str, ...] | None = Field(description="Numbers of people; null where you may not see them.")
    slurm: SlurmNames
    delivery: DeliveryView
    notes: tuple[str, ...]
    history: tuple[HistoryEvent, ...]


class ChangeView(Answer):
    id: str
    grant: str
    organisation: str
    gpus: int
    ends: date
    gpus_now: int
    ends_now: date
    reason: str
    asked_by: str
    decided_by: str | None
    state: str


def use_view(figures: Figures) -> Use:
    use = figures.use
    return Use(
        gpu_hours=use.total / HOUR_SECONDS,
        gpu_hours_this_month=use.this_month / HOUR_SECONDS,
        gpu_hours_burst=use.burst / HOUR_SECONDS,
        gpu_hours_lost_to_faults=use.fault / HOUR_SECONDS,
        percent_of_awarded=use.percent,
        won=figures.won,
        won_this_month=figures.won_this_month,
        gpus_in_use=figures.in_use,
        gpus_in_use_burst=figures.in_use_burst,
    )


def grant_fields(grant: PoolGrant, share: PoolShare, figures: Figures, now: datetime) -> dict[str, object]:
    """What `GrantView` and `GrantDetail` have in common."""
    return {
        "id": grant.id,
        "title": grant.title,
        "organisation": grant.organisation,
        "programme": grant.programme,
        "provider": share.provider,
        "cluster": share.cluster,
        "share": grant.share,
        "model": share.model,
        "project": grant.project,
        "state": grant.state,
        "gpus": grant.gpus,
        "starts": grant.starts,
        "ends": grant.ends,
        "days_left": days_left(grant, now),
        "grace_until": grant.grace_until,
        "price_percent": grant.price_percent,
        "budget_won": grant.budget_won,
        "won_left": won_left(figures),
        "application": grant.application,
        "offer": grant.offer,
        "report": grant.report is not None,
        "use": use_view(figures),
        "next_limit": NextLimit(limit=figures.bite.limit, at=figures.bite.at),
        "as_of": figures.as_of,
        "stale": figures.stale,
    }


def change_view(change: GrantChange, grant: PoolGrant) -> ChangeView:
    return ChangeView(
        id=change.id,
        grant=change.grant,
        organisation=grant.organisation,
        gpus=change.gpus,
        ends=change.ends,
        gpus_now=grant.gpus,
        ends_now=grant.ends,
        reason=change.reason,
        asked_by=change.asked_by,
        decided_by=change.decided_by,
        state=change.state,
    )


def slurm_names(grant: PoolGrant, share: PoolShare) -> SlurmNames:
    return SlurmNames(
        account=grant.project, qos=guaranteed_qos(grant.project), burst_qos=burst_qos(share.pool, share.share)
    )


def delivery_view(found: Delivered) -> DeliveryView:
    return DeliveryView(
        state=found.state, site=found.site.name if found.site else None, why=found.why, silent=found.silent
    )


def days_left(grant: PoolGrant, now: datetime) -> int | None:
    return max(0, (grant.ends - korean_day(now)).days) if grant.holds else None


def hours_left(grant: PoolGrant, now: datetime) -> int | None:
    """GPU-hours that all its GPUs still have."""
    if not grant.holds:
        return None
    begins = max(now, start_of(grant.starts))
    return int(grant.gpus * max(0.0, (start_of(grant.ends + ONE_DAY) - begins).total_seconds())) // HOUR_SECONDS


def won_left(figures: Figures) -> int | None:
    budget = figures.budget
    return None if budget is None or budget.won is None else int(budget.won.left)
