"""What pages and API show of idle grants, from one reckoning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from slurm_gpuaas.domain.calendar import korean_day
from slurm_gpuaas.domain.idle import IdleAppeal, IdleExemption, IdleRuleSet
from slurm_gpuaas.domain.names import PoolGrantId
from slurm_gpuaas.domain.pool_grants import PoolGrant, PoolGrantState
from slurm_gpuaas.pool.idle import Outlook
from slurm_gpuaas.pool.idle_file import ReplayAnswer, StepAnswer
from slurm_gpuaas.pool.idle_rules import IdleRules, Rung
from slurm_gpuaas.pool.idle_service import Watched, measured_until
from slurm_gpuaas.portal.http import Answer
from slurm_gpuaas.portal.pool import PoolServer
from slurm_gpuaas.portal.rights import Action, Owned, Scope
from slurm_gpuaas.portal.visit import Visit


@dataclass(frozen=True, slots=True)
class AtRisk:
    """A grant with GPUs, as the rules see it this morning."""

    grant: PoolGrant
    outlook: Outlook
    measured_until: date | None
    exempt_until: date | None
    appeal: IdleAppeal | None

    @property
    def at_risk(self) -> bool:
        return self.outlook.low or self.outlook.standing.rung is not Rung.REGULAR

    @property
    def allocated(self) -> float | None:
        evidence = self.outlook.evidence
        return None if evidence is None or not evidence.window.days else round(100 * evidence.window.allocated, 1)

    @property
    def busy(self) -> float | None:
        evidence = self.outlook.evidence
        busy = None if evidence is None else evidence.window.busy
        return None if busy is None else round(100 * busy, 1)


class IdleGrantView(Answer):
    """Percentages are of what the grant could have used over the last `days` days that count, `first` to `last`; null:
    not measured."""

    grant: str
    organisation: str
    programme: str
    share: str
    gpus: int
    rung: Rung
    low: bool
    allocated_percent: float | None
    busy_percent: float | None
    days: int
    first: date | None
    last: date | None
    needed: int | None
    proposed: int | None
    next: Rung | None
    next_on: date | None
    held: str | None
    measured_until: date | None
    exempt_until: date | None
    appeal: str | None


class RulesView(Answer):
    """`number` 0: nobody has set any, and these are the defaults, which only watch."""

    number: int
    by: str | None
    at: datetime | None
    reason: str
    rules: IdleRules


class TrialView(Answer):
    """`today`: what would happen this morning; `replay`: on all recorded days, as if nobody read the mails."""

    today: tuple[StepAnswer, ...]
    replay: ReplayAnswer


class ExemptionView(Answer):
    grant: str
    starts: date
    ends: date
    reason: str
    by: str


class AppealView(Answer):
    id: str
    grant: str
    reason: str
    state: str
    filed_by: str
    filed_at: datetime
    decided_by: str | None
    decided_at: datetime | None
    decision: str


def owned(pool: PoolServer, grant: PoolGrant) -> Owned:
    share = pool.store.register.shares.get(grant.share)
    return Owned(people=frozenset(grant.members), organisation=grant.organisation, provider=share.provider)


def visible(pool: PoolServer, visit: Visit) -> Sequence[PoolGrant]:
    """Grants in force that the visitor may read, by number."""
    register, office = pool.store.register, visit.person.office
    active = PoolGrantState.ACTIVE.value
    match visit.may(Action.GRANT_READ):
        case Scope.ALL:
            return register.grants.all(state=active)
        case Scope.PROVIDER if office.provider is not None:
            shares = [one.name for one in register.shares.all() if one.provider == office.provider]
            return register.grants.all(state=active, share=shares)
        case Scope.ORGANISATION if office.organisation is not None:
            return register.grants.all(state=active, organisation=office.organisation)
        case Scope.OWN if office.organisation is not None:
            mine = register.grants.all(state=active, organisation=office.organisation)
            return tuple(one for one in mine if visit.person.id in one.members)
        case _:
            return ()


def reckon(pool: PoolServer, grants: Sequence[PoolGrant], now: datetime) -> list[AtRisk]:
    rules, today = pool.idle.rules(), korean_day(now)
    watched = pool.idle.watch(grants, today)
    open_ones = {one.grant: one for one in pool.store.register.appeals.all(state="open")}
    return [_at_risk(one, rules, today, open_ones.get(one.grant.id)) for one in watched]


def _at_risk(one: Watched, rules: IdleRules, today: date, appeal: IdleAppeal | None) -> AtRisk:
    exempt = [exemption.ends for exemption in one.excuses.exemptions if exemption.starts <= today <= exemption.ends]
    return AtRisk(one.grant, one.outlook(rules, today), measured_until(one.use), max(exempt, default=None), appeal)


def view_of(one: AtRisk) -> IdleGrantView:
    evidence, outlook = one.outlook.evidence, one.outlook
    return IdleGrantView(
        grant=one.grant.id,
        organisation=one.grant.organisation,
        programme=one.grant.programme,
        share=one.grant.share,
        gpus=one.grant.gpus,
        rung=outlook.standing.rung,
        low=outlook.low,
        allocated_percent=one.allocated,
        busy_percent=one.busy,
        days=0 if evidence is None else evidence.window.days,
        first=evidence and evidence.first,
        last=evidence and evidence.last,
        needed=evidence and evidence.needed,
        proposed=evidence and evidence.proposed,
        next=outlook.next,
        next_on=outlook.on,
        held=outlook.held,
        measured_until=one.measured_until,
        exempt_until=one.exempt_until,
        appeal=one.appeal and one.appeal.id,
    )


def rules_view(found: IdleRuleSet | None) -> RulesView:
    if found is None:
        return RulesView(number=0, by=None, at=None, reason="", rules=IdleRules())
    return RulesView(
        number=found.number,
        by=found.by,
        at=found.at,
        reason=found.reason,
        rules=IdleRules.model_validate(found.rules),
    )


def exemption_view(one: IdleExemption) -> ExemptionView:
    return ExemptionView(grant=one.grant, starts=one.starts, ends=one.ends, reason=one.reason, by=one.by)


def appeal_view(one: IdleAppeal) -> AppealView:
    return AppealView(
        id=one.id,
        grant=one.grant,
        reason=one.reason,
        state=one.state,
        filed_by=one.filed_by,
        filed_at=one.filed_at,
        decided_by=one.decided_by,
        decided_at=one.decided_at,
        decision=one.history[-1].reason if one.history else "",
    )


def appeals_of(pool: PoolServer, visit: Visit, grants: Sequence[PoolGrantId] | None = None) -> list[IdleAppeal]:
    """Those that the visitor may read, the newest first."""
    register = pool.store.register
    found = register.appeals.all() if grants is None else register.appeals.all(grant=grants)
    named = {one.id: one for one in register.grants.all(id=sorted({one.grant for one in found}))} if found else {}
    return [
        one
        for one in sorted(found, key=lambda one: one.id, reverse=True)
        if visit.allows(Action.GRANT_READ, owned(pool, named[one.grant]))
    ]
