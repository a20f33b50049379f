"""The ladder of idle grants at work: judges each morning by what sites measured, and does what the rules say.

A step is one transaction: where the grant stands, the step with its figures, the audit entry, the mails and, at the
top, the GPUs that are taken through `PoolService`. Nothing is scheduled: a morning that was missed, came twice or was
cut off anywhere leaves nothing undone and nothing done twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, time, timedelta
from typing import Final

from slurm_gpuaas.domain.calendar import ONE_DAY, Commitment, korean_day
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.errors import Conflict, Refused
from slurm_gpuaas.domain.idle import (
    APPEAL_STEPS,
    AppealState,
    AppealStep,
    GrantDay,
    IdleAppeal,
    IdleExemption,
    IdleRuleSet,
    IdleStanding,
    IdleStep,
    Said,
    decided,
)
from slurm_gpuaas.domain.names import AppealId, CommandId, GrantName, PoolGrantId
from slurm_gpuaas.domain.policy import KST
from slurm_gpuaas.domain.pool_grants import PoolGrant, PoolGrantState, check_other_person
from slurm_gpuaas.domain.stages import stepped
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.pool.commands import Service, command
from slurm_gpuaas.pool.idle import (
    MOST_LOOK_BACK,
    Appeal,
    Excuses,
    Exemption,
    Outlook,
    Standing,
    Step,
    WatchedGrant,
    outlook,
    step,
)
from slurm_gpuaas.pool.idle_replay import IdleReplay, Recorded, replay
from slurm_gpuaas.pool.idle_rules import IdleRules, Rung
from slurm_gpuaas.pool.idle_use import DAY_SECONDS, UseDay
from slurm_gpuaas.pool.service import PoolService
from slurm_gpuaas.pool.work import AuditTrail, Evidence, Failpoint, Mail, Program, Work, no_failpoint
from slurm_gpuaas.store.pool import PoolStore

IDLE: Final = Program("gpuaas-portal/idle")
"""Carries out the rules for idle grants."""
MORNING: Final = time(9)
"""No step before it, Korean time: yesterday's use has arrived, and who gets a mail can call somebody."""
LONGEST_EXEMPTION: Final = timedelta(days=366)
_MAILS: Final[Mapping[Rung, Mail]] = {
    Rung.REGULAR: Mail.IDLE_REGULAR,
    Rung.NOTICE: Mail.IDLE_NOTICE,
    Rung.WARNING: Mail.IDLE_WARNING,
    Rung.FINAL_WARNING: Mail.IDLE_FINAL_WARNING,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A grant with GPUs, and all that its judgement rests on."""

    grant: PoolGrant
    watched: WatchedGrant
    standing: Standing
    use: Sequence[UseDay]
    excuses: Excuses

    def outlook(self, rules: IdleRules, today: date) -> Outlook:
        return outlook(self.standing, self.watched, self.use, rules, today, self.excuses)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What rules would do. `today`: steps of this morning, from where grants stand; `replay`: on all recorded days,
    from the bottom."""

    today: tuple[Step, ...]
    replay: IdleReplay


class IdleService(Service):
    """Safe to share between threads.

    Args:
        pool: what shrinks and recalls grants.
    """

    def __init__(
        self,
        *,
        store: PoolStore,
        clock: Clock,
        audit: AuditTrail,
        pool: PoolService,
        failpoint: Failpoint = no_failpoint,
    ) -> None:
        super().__init__(store=store, clock=clock, audit=audit, failpoint=failpoint)
        self._pool = pool

    # -- What people do ------------------------------------------------------------------------------------------------

    @command("idle.put-rules", IdleRuleSet)
    def put_rules(self, work: Work, rules: IdleRules, reason: str) -> IdleRuleSet:
        """Rules that are in force from now on. Their version is their number: what was in force stays as it was."""
        before = work.register.idle_rules.newest()
        number = 1 if before is None else before.number + 1
        found = IdleRuleSet(
            number=number,
            rules=rules.model_copy(update={"version": str(number)}).model_dump(mode="json"),
            by=work.person,
            at=work.now,
            reason=reason,
        )
        work.failpoint("idle.put-rules: rules")
        work.register.idle_rules.add(found)
        work.record("idle-rules", reason, number=number, mode=rules.mode, basis=rules.basis)
        return found

    @command("idle.exempt", IdleExemption)
    def exempt(self, work: Work, id: PoolGrantId, ends: date, reason: str) -> IdleExemption:
        """Idleness of the grant counts against nobody from today on; a running exemption gets another end. One that
        ends yesterday is over.

        Raises:
            Conflict: the grant has no GPUs any more.
            Refused: it would end before yesterday or too late.
        """
        grant = self._holding(work, id)
        latest = work.today + LONGEST_EXEMPTION
        running = next((one for one in work.register.exemptions.all(grant=id) if one.ends >= work.today), None)
        first = work.today if running is None or running.starts == work.today else work.today - ONE_DAY
        if not first <= ends <= latest:
            raise Refused(
                told("An exemption ends between {first} and {latest}.", first=first, latest=latest),
                way_out=told("Choose a day in between."),
            )
        starts = work.today if running is None else running.starts
        exemption = IdleExemption(grant=id, starts=starts, ends=ends, reason=reason, by=work.person)
        work.put(work.register.exemptions, exemption)
        work.record(id, reason, starts=str(starts), ends=str(ends))
        self._mail(work, grant, Mail.IDLE_EXEMPTED, ends=str(ends), reason=reason)
        return exemption

    @command("idle.appeal", IdleAppeal)
    def appeal(self, work: Work, id: PoolGrantId, reason: str) -> IdleAppeal:
        """Its people object to what was announced: nothing is taken until somebody else has decided.

        Raises:
            Conflict: nothing was announced, or an appeal was filed since the notice.
            Refused: the actor is no member of the organisation, or gives no reason.
        """
        grant = self._holding(work, id)
        work.check_belongs(grant.organisation)
        standing = self._standing(grant)
        if standing.climbed is None or standing.shadow:
            raise Conflict(
                told("Nothing was announced for grant {grant}.", grant=id),
                way_out=told("Appeal when a notice has come."),
            )
        if filed := self._filed_since(id, standing.climbed):
            raise Conflict(
                told("Appeal {appeal} was filed already; it is {state}.", appeal=filed[-1].id, state=filed[-1].state),
                way_out=told("One appeal is possible from notice to recall; use the GPUs or return them."),
            )
        if not reason.strip():
            raise Refused(told("An appeal needs its reason."), way_out=told("Say why the GPUs are needed."))
        appeal = IdleAppeal(
            id=AppealId(work.number("e")), grant=id, reason=reason, filed_by=work.person, filed_at=work.now
        )
        work.put(work.register.appeals, appeal)
        work.record(id, reason, appeal=appeal.id, rung=standing.rung)
        self._mail(work, grant, Mail.IDLE_APPEAL_FILED, appeal=appeal.id)
        return appeal

    @command("idle.decide-appeal", IdleAppeal)
    def decide_appeal(self, work: Work, id: AppealId, allow: bool, reason: str) -> IdleAppeal:
        """Allowed, the grant goes back to the bottom of the ladder on the next morning; denied, the ladder goes on.

        Raises:
            Refused: the actor filed it, or belongs to the grant's organisation.
            Conflict: it is decided.
        """
        appeal = work.register.appeals.get(id)
        check_other_person(work.person, appeal.filed_by)
        grant = work.register.grants.get(appeal.grant)
        work.check_impartial(work.register.applications.get(grant.application))
        by = AppealStep.ALLOW if allow else AppealStep.DENY
        appeal = stepped(
            appeal, id, APPEAL_STEPS, by, by=work.by, at=work.now, reason=reason, **decided(work.now, work.person)
        )
        work.put(work.register.appeals, appeal)
        work.record(grant.id, reason, appeal=id, state=appeal.state, filed_by=appeal.filed_by)
        template = Mail.IDLE_APPEAL_ALLOWED if allow else Mail.IDLE_APPEAL_DENIED
        self._mail(work, grant, template, appeal=id, reason=reason)
        return appeal

    def _holding(self, work: Work, id: PoolGrantId) -> PoolGrant:
        grant = work.register.grants.get(id)
        if not grant.holds:
            raise Conflict(told("Grant {grant} has no GPUs any more.", grant=id))
        return grant

    def _mail(self, work: Work, grant: PoolGrant, template: Mail, **parts: str | int | None) -> None:
        work.mail(work.people(grant.organisation, *grant.members), template, grant=grant.id, **parts)

    # -- What the morning brings ---------------------------------------------------------------------------------------

    def morning(self) -> int:
        """Judge every grant that has GPUs, and take the steps that are due. Run at any time, as often as you like.

        Returns:
            How many steps were taken.
        """
        now = self._clock.now()
        if now.astimezone(KST).time() < MORNING:
            return 0
        rules, today = self.rules(), korean_day(now)
        moved = [
            one.grant.id
            for one in self.watch(self.store.register.grants.all(state=PoolGrantState.ACTIVE), today)
            if step(one.standing, one.watched, one.use, rules, today, one.excuses).step is not None
        ]
        return sum(self._judge(id) for id in moved)

    def _judge(self, id: PoolGrantId) -> bool:
        """One grant, in a transaction of its own, by what is there now."""
        work = self.work("idle.judge", IDLE)
        with self.store.transaction():
            found = self.watch([work.register.grants.get(id)], work.today)
            for one in found:
                rules = self.rules()
                outcome = step(one.standing, one.watched, one.use, rules, work.today, one.excuses)
                if outcome.step is not None:
                    self._take(
                        replace(work, action=f"idle.{outcome.step.to}"), one.grant, outcome.standing, outcome.step
                    )
                    return True
        return False

    def _take(self, work: Work, grant: PoolGrant, standing: Standing, taken: Step) -> None:
        figures = _figures(taken)
        work.put(work.register.standings, _kept(grant.id, standing))
        work.put(
            work.register.idle_steps,
            IdleStep(
                grant=grant.id,
                day=taken.day,
                before=taken.before,
                to=taken.to,
                why=Said.of(taken.why),
                proposal=None if taken.proposal is None else Said.of(taken.proposal),
                shadow=taken.shadow,
                figures=dict(figures),
            ),
        )
        work.record(grant.id, taken.why, **figures)
        if taken.shadow:
            return
        if taken.to is Rung.RECALL:
            self._take_back(work, grant, taken)
        else:
            self._mail(
                work,
                grant,
                _MAILS[taken.to],
                why=taken.why,
                gpus=grant.gpus,
                proposed=0 if taken.evidence is None else taken.evidence.proposed,
            )

    def _take_back(self, work: Work, grant: PoolGrant, taken: Step) -> None:
        """Through the pool's own commands, within this transaction."""
        assert taken.evidence is not None
        command = CommandId(f"idle-{grant.id}-{taken.day}")
        reason = told("{why} {proposal}", why=taken.why, proposal=taken.proposal or "")
        if taken.evidence.proposed:
            self._pool.shrink_grant(command, IDLE, grant.id, taken.evidence.proposed, reason)
        else:
            self._pool.recall_grant(command, IDLE, grant.id, reason)

    # -- Questions -----------------------------------------------------------------------------------------------------

    def rules(self) -> IdleRules:
        """Those in force; before somebody sets some, the defaults, which only watch."""
        found = self.store.register.idle_rules.newest()
        return IdleRules() if found is None else IdleRules.model_validate(found.rules)

    def watch(self, grants: Iterable[PoolGrant], today: date) -> list[Watched]:
        """What the judgement of each rests on; those without GPUs today are left out."""
        there = [one for one in grants if one.holds and one.starts <= today <= one.ends]
        if not there:
            return []
        register, ids = self.store.register, [one.id for one in there]
        days = register.days.of(ids, since=today - MOST_LOOK_BACK)
        least = {one.id: one.request.min_gpus for one in register.applications.all(id=[g.application for g in there])}
        standings = {one.grant: one for one in register.standings.all(grant=ids)}
        excuses = self._excuses(ids)
        return [
            Watched(
                grant=one,
                watched=WatchedGrant(
                    name=GrantName(one.id),
                    gpus=one.gpus,
                    min_gpus=min(least[one.application], one.gpus),
                    starts=one.starts,
                    ends=one.ends,
                    programme=one.programme,
                ),
                standing=_standing(one, standings.get(one.id)),
                use=_use(days.get(one.id, ()), register.calendar.of_holder(one.id)),
                excuses=excuses[one.id],
            )
            for one in there
        ]

    def may_appeal(self, grant: PoolGrant) -> bool:
        """Whether `appeal` would take one now, from somebody whose grant it is."""
        standing = self._standing(grant)
        if not grant.holds or standing.climbed is None or standing.shadow:
            return False
        return not self._filed_since(grant.id, standing.climbed)

    def _filed_since(self, id: PoolGrantId, climbed: date) -> list[IdleAppeal]:
        return [one for one in self.store.register.appeals.all(grant=id) if korean_day(one.filed_at) >= climbed]

    def _standing(self, grant: PoolGrant) -> Standing:
        return _standing(grant, self.store.register.standings.find(grant.id))

    def _excuses(self, ids: Sequence[PoolGrantId]) -> Mapping[PoolGrantId, Excuses]:
        exemptions: dict[PoolGrantId, list[Exemption]] = defaultdict(list)
        appeals: dict[PoolGrantId, list[Appeal]] = defaultdict(list)
        for one in self.store.register.exemptions.all(grant=ids):
            exemptions[one.grant].append(
                Exemption(grant=GrantName(one.grant), starts=one.starts, ends=one.ends, reason=one.reason, by=one.by)
            )
        for filed in self.store.register.appeals.all(grant=ids):
            appeals[filed.grant].append(_appeal(filed))
        return {id: Excuses(exemptions=exemptions[id], appeals=appeals[id]) for id in ids}

    def try_rules(self, rules: IdleRules) -> Trial:
        """What these rules would do; nothing is written."""
        today = korean_day(self._clock.now())
        found = self.watch(self.store.register.grants.all(state=PoolGrantState.ACTIVE), today)
        steps = (step(one.standing, one.watched, one.use, rules, today, one.excuses).step for one in found)
        exemptions = [exemption for one in found for exemption in one.excuses.exemptions]
        return Trial(
            today=tuple(one for one in steps if one is not None),
            replay=replay([Recorded(one.watched, one.use) for one in found], rules, exemptions),
        )


def _standing(grant: PoolGrant, kept: IdleStanding | None) -> Standing:
    if kept is None:
        return Standing(grant=GrantName(grant.id), gpus=grant.gpus)
    if kept.gpus != grant.gpus:  # another size begins anew
        return Standing(grant=GrantName(grant.id), gpus=grant.gpus, stepped=kept.stepped, cool_until=kept.cool_until)
    return Standing(
        grant=GrantName(grant.id),
        gpus=kept.gpus,
        rung=Rung(kept.rung),
        since=kept.since,
        climbed=kept.climbed,
        stepped=kept.stepped,
        cool_until=kept.cool_until,
        proposed=kept.proposed,
        shadow=kept.shadow,
    )


def _kept(grant: PoolGrantId, standing: Standing) -> IdleStanding:
    return IdleStanding(
        grant=grant,
        rung=standing.rung,
        gpus=standing.gpus,
        since=standing.since,
        climbed=standing.climbed,
        stepped=standing.stepped,
        cool_until=standing.cool_until,
        proposed=standing.proposed,
        shadow=standing.shadow,
    )


def _appeal(filed: IdleAppeal) -> Appeal:
    return Appeal(
        grant=GrantName(filed.grant),
        filed=korean_day(filed.filed_at),
        reason=filed.reason,
        by=filed.filed_by,
        decided=None if filed.decided_at is None else korean_day(filed.decided_at),
        decided_by=filed.decided_by,
        upheld=None if filed.state is AppealState.OPEN else filed.state is AppealState.ALLOWED,
    )


def _use(days: Iterable[GrantDay], held: Sequence[Commitment]) -> list[UseDay]:
    """Days of use against what the grant held on each, by the calendar. A site may tell more than that, of a day on
    which the grant was made smaller: more than all is all."""
    found = []
    for one in days:
        gpus = next((row.gpus for row in held if row.starts <= one.day <= row.ends), 0)
        if not gpus:
            continue
        most = gpus * DAY_SECONDS
        allocated = min(one.allocated, most)
        found.append(
            UseDay(
                day=one.day,
                gpus=gpus,
                lost=min(one.lost, most),
                allocated=allocated,
                busy=None if one.busy is None else min(one.busy, allocated),
                loaded=min(one.loaded, most),
                peak=min(one.peak, gpus),
                burst=one.burst,
            )
        )
    return found


def _figures(taken: Step) -> dict[str, Evidence]:
    """What a step rests on, for audit trail and pages; percentages of what could be used."""
    figures: dict[str, Evidence] = {"before": taken.before, "to": taken.to, "shadow": taken.shadow}
    evidence = taken.evidence
    if evidence is None:
        return figures
    busy = evidence.window.busy
    return figures | {
        "rules": evidence.rules,
        "basis": evidence.basis,
        "first": str(evidence.first),
        "last": str(evidence.last),
        "days": evidence.window.days,
        "allocated_percent": round(100 * evidence.window.allocated, 1),
        "busy_percent": None if busy is None else round(100 * busy, 1),
        "gpus": evidence.gpus,
        "needed": evidence.needed,
        "proposed": evidence.proposed,
        "excused": evidence.excused,
        "loaded_gpu_hours": evidence.loaded,
        "burst_gpu_hours": evidence.burst,
    }


def measured_until(days: Iterable[UseDay]) -> date | None:
    """The newest day that was measured."""
    return max((one.day for one in days if one.allocated is not None), default=None)
