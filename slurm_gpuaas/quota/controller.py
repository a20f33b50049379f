"""Brings Slurm to what the policy says, and the hook's snapshot to the same moment.

Level-triggered: every run looks at everything, plans the difference and writes only that. What a run that was cut off
had done is seen by the next one, what it had not done is done then; nothing is replayed. The journal says which step
was under way (docs/design/0003-crash-safe-effects.md).
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Protocol

import structlog

from slurm_gpuaas.domain.audit import AuditEntry
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.errors import Conflict, InvalidInput
from slurm_gpuaas.domain.from_portal import Merged
from slurm_gpuaas.domain.names import ClusterName, ProjectName
from slurm_gpuaas.domain.policy import KST, Policy, Project, expand_nodes, fold_nodes
from slurm_gpuaas.quota.capacity import ShortGuarantee, shorted
from slurm_gpuaas.quota.desired import ADMINISTRATORS, CLOSED, Wanted, wanted
from slurm_gpuaas.quota.drift import explained
from slurm_gpuaas.quota.entitlement import Entitlement, entitlements
from slurm_gpuaas.quota.memory import AccountingMemory
from slurm_gpuaas.quota.partitions import Partitions
from slurm_gpuaas.quota.plan import (
    IDLE,
    Action,
    Busy,
    Change,
    DeleteAccounts,
    DeleteAssociations,
    DeleteQos,
    DeleteUsers,
    Plan,
    PutAccounts,
    PutAssociations,
    PutQos,
    Step,
    WritePartitions,
    digest,
    foreign_needs,
    gone_of,
    plan,
)
from slurm_gpuaas.slurm import protocols as slurm
from slurm_gpuaas.slurm.files import no_access, write_atomically
from slurm_gpuaas.slurm.protocols import Accounting, Controller, SlurmRefused, StillActive
from slurm_gpuaas.slurm.records import AccountingState, Transaction
from slurm_gpuaas.store import PolicyRevision, Store
from slurm_gpuaas.store.budgets import read_budgets

ACTOR: Final = "gpuaasd/policy"
CONVERGED: Final = "quota.converged"
"""Mark in the store: digest of the wanted state that Slurm was last brought to. What differs from it later is drift."""
DRIFT: Final = "quota.drift-reported"
SEEN: Final = "quota.last-transaction"
"""Mark in the store: Slurm's newest transaction when Slurm was last as wanted. Drift is in later ones."""
DRIFT_LOOKBACK: Final = timedelta(days=7)
"""How far back Slurm's transactions are searched for who made a difference."""
REFUSED_FOR: Final = timedelta(minutes=5)
"""So long an idle run does not ask slurmdbd again to delete what it refused; twice as long after each further refusal.
A run that slurmctld has forgotten has no end until somebody ends it."""
REFUSED_FOR_AT_MOST: Final = timedelta(hours=6)
SHORT: Final = "quota.short-told"

log = structlog.get_logger(__name__)


class NotConverged(SlurmRefused):
    """Slurm took a write and still says something else."""


class Failpoint(Protocol):
    """Called between any two effects with the place's name. A test's ends the process there."""

    def __call__(self, place: str, /) -> None: ...


def no_failpoint(place: str, /) -> None:
    """What runs in production."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """`done` tells whether the plan's steps were written (False: drift that is only reported)."""

    plan: Plan
    revision: PolicyRevision
    done: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Inputs:
    """All that a wanted state follows from, so that an idle run need not derive it again."""

    policy: Policy
    entitled: tuple[Entitlement, ...]
    written_minutes: Mapping[ProjectName, int | None]
    short: tuple[ShortGuarantee, ...]

    def same_as(self, other: _Inputs) -> bool:
        """The store hands out one policy object as long as it is in force."""
        return self.policy is other.policy and (self.entitled, self.written_minutes, self.short) == (
            other.entitled,
            other.written_minutes,
            other.short,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Goal:
    inputs: _Inputs
    wanted: Wanted
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Refused:
    """What slurmdbd would not delete at that moment, because of runs that slurmctld need not know of; and for how long
    it is not asked again."""

    busy: Busy
    at: datetime
    wait: timedelta

    def holds(self, now: datetime) -> bool:
        return self.at <= now < self.at + self.wait


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """`digest` names the wanted state; `drifted`: Slurm was brought to it before."""

    digest: str
    plan: Plan
    short: tuple[ShortGuarantee, ...]
    drifted: bool


class PolicyController:
    """Safe to call from several threads: one run at a time.

    Args:
        partition_file: include file of slurm.conf; its folder must be writable.
        settle: a node out of service for so long counts as lost; guarantees that cannot be kept are shorted.
        report_only: report drift made by hand instead of correcting it. What the policy or the calendar changes is
            always written.
    """

    def __init__(
        self,
        *,
        cluster: ClusterName,
        store: Store,
        accounting: Accounting,
        controller: Controller,
        partitions: slurm.Partitions,
        partition_file: Path,
        clock: Clock,
        settle: timedelta = timedelta(minutes=10),
        report_only: bool = False,
        failpoint: Failpoint = no_failpoint,
    ) -> None:
        self._cluster = cluster
        self._store = store
        self._accounting = accounting
        self._controller = controller
        self._partitions = partitions
        self._partition_file = partition_file
        self._clock = clock
        self._settle = settle
        self._report_only = report_only
        self._failpoint = failpoint
        self._lock = threading.Lock()
        self._memory = AccountingMemory(accounting, clock)
        self._goal: _Goal | None = None
        self._refused: _Refused | None = None

    def plan(self, own: Policy | None = None) -> Plan:
        """What would change in Slurm with these documents of the site's own (default: those in force). Writes nothing.

        Raises:
            InvalidInput: the policy cannot be put into Slurm.
            SlurmUnavailable: Slurm cannot be read.
        """
        return self.preview(own)[1]

    def preview(self, own: Policy | None = None) -> tuple[Merged, Plan]:
        """As `plan`, with what would be in force."""
        with self._lock:
            actual = self._memory.read(afresh=True)
            found, _ = self._with_portal(own, actual)
            return found, self._read(found.policy, actual).plan

    def apply(self, own: Policy, *, actor: str, expected_revision: int | None = None) -> Outcome:
        """Put the site's own documents in force and bring Slurm to them. Nothing is stored when the plan has a
        conflict. Documents of the portal's are kept, and never in the way: those that no longer fit are left out.

        Raises:
            InvalidInput: the policy cannot be put into Slurm, or promises more GPUs than a share has.
            Conflict: a name we need is somebody else's in Slurm, or `expected_revision` is not the one in force.
            SlurmUnavailable, SlurmRefused: when Slurm cannot be read, nothing is stored; when a write fails, the policy
                is in force and the next run goes on.
        """
        with self._lock:
            if broken := own.overcommitted(self._clock.now()):
                raise InvalidInput(
                    " ".join(broken), way_out="Nothing was changed: grant fewer GPUs, or let them start later."
                )
            self._refused = None  # somebody asks: slurmdbd is asked again too
            actual = self._memory.read(afresh=True)
            found, refused = self._with_portal(own, actual)
            reading = self._read(found.policy, actual)
            _refuse_conflicts(reading.plan)
            with self._store.transaction():
                before = self._store.policy_revision()
                revision = self._store.replace_policy(
                    own, actor=actor, at=self._clock.now(), expected_revision=expected_revision
                )
                self._keep_refused(refused)
                if revision != before:
                    self._store.audit.append(
                        AuditEntry(
                            at=self._clock.now(),
                            actor=actor,
                            action="policy.apply",
                            subject=f"revision {revision.revision}",
                            evidence={"documents": len(own.documents), "changes": len(reading.plan.changes)},
                        )
                    )
            self._failpoint("quota.policy-stored")
            done = self._converge(reading, found.policy, actor=actor, reason=f"policy revision {revision.revision}")
            return Outcome(plan=done, revision=revision, done=True)

    def reconcile(self) -> Outcome:
        """Bring Slurm to the policy in force; no write, in Slurm or in the store, when it is there.

        Accounting is read whole when Slurm's transaction log has grown, and every ten minutes (`AccountingMemory`).

        Raises:
            Conflict: a name we need is somebody else's in Slurm.
            SlurmUnavailable, SlurmRefused: the next run goes on.
        """
        with self._lock:
            actual = self._memory.read(afresh=False)
            self._look_from_today()
            found, refused = self._with_portal(None, actual)
            self._keep_refused(refused)
            policy, revision = found.policy, self._store.policy_revision()
            reading = self._read(policy, actual)
            _refuse_conflicts(reading.plan)
            if reading.drifted and self._report_only:
                self._report(reading.plan)
                return Outcome(plan=reading.plan, revision=revision, done=False)
            reason = "drift" if reading.drifted else f"policy revision {revision.revision}"
            self._tell_short(reading.short)
            done = self._converge(reading, policy, actor=ACTOR, reason=reason)
            return Outcome(plan=done, revision=revision, done=True)

    # -- The portal's documents

    def _look_from_today(self) -> None:
        _, as_of = self._store.portal.known()
        today = self._clock.now().astimezone(KST).date()
        if as_of is not None and as_of != today:
            self._store.portal.look_from(today)

    def _with_portal(self, own: Policy | None, actual: AccountingState) -> tuple[Merged, Mapping[ProjectName, str]]:
        """What is in force, or would be with these documents of the site's own; and which projects of the portal's are
        not, since Slurm has something else under a name that they need."""
        held, refused = self._store.in_force(), self._store.portal.refused()
        if own is None and not refused:
            found = held
        else:
            found = self._store.with_portal(held.own if own is None else own, refused={})
        theirs = {document.name for document in found.taken if isinstance(document, Project)}
        if not theirs:
            return found, {}
        entitled = entitlements(found.policy, self._cluster, self._clock.now())
        needs = foreign_needs(actual, (one for one in entitled if one.name in theirs))
        if own is None and needs == refused:
            return held, refused
        return (self._store.with_portal(found.own, refused=needs) if needs else found), needs

    def _keep_refused(self, refused: Mapping[ProjectName, str]) -> None:
        if refused == self._store.portal.refused():
            return
        now = self._clock.now()
        with self._store.transaction():
            self._store.portal.set_refused(refused)
            self._store.audit.append(
                *(
                    AuditEntry(at=now, actor=ACTOR, action="portal.left-out", subject=project, reason=why)
                    for project, why in refused.items()
                )
            )

    # -- Observe and plan

    def _read(self, policy: Policy, actual: AccountingState | None = None) -> _Reading:
        """`actual`: what was just read of Slurm's accounting; None = read it now."""
        goal = self._goal_of(policy)
        actual = actual or self._memory.read(afresh=True)
        parts = self._read_partitions(goal.wanted).fenced(actual.qos.keys())
        found = plan(actual, goal.wanted.accounting, partitions=parts, busy=IDLE)
        if any(
            isinstance(step.write, DeleteAssociations | DeleteAccounts | DeleteQos | DeleteUsers)
            for step in found.steps
        ):
            busy = Busy.of(self._controller.jobs()) | self._still_refused()
            found = plan(actual, goal.wanted.accounting, partitions=parts, busy=busy)
        if any(isinstance(step.write, WritePartitions) for step in found.steps):
            found = found.with_conflicts(self._unknown_nodes(goal.wanted))
        named = _sha256(f"{goal.digest} {parts.text}")
        drifted = self._store.mark(CONVERGED) == named
        if drifted and found.steps:
            found = explained(found, self._transactions())
        return _Reading(digest=named, plan=found, short=goal.inputs.short, drifted=drifted)

    def _still_refused(self) -> Busy:
        held = self._refused is not None and self._refused.holds(self._clock.now())
        return self._refused.busy if self._refused is not None and held else IDLE

    def _goal_of(self, policy: Policy) -> _Goal:
        now = self._clock.now()
        entitled = entitlements(policy, self._cluster, now)
        budgets = read_budgets(self._store, policy, self._cluster, now)
        inputs = _Inputs(
            policy=policy,
            entitled=entitled,
            written_minutes={project: budget.written_minutes for project, budget in budgets.items()},
            short=shorted(policy, entitled, self._store.nodes_lost(before=now - self._settle)),
        )
        if self._goal is None or not self._goal.inputs.same_as(inputs):
            kept = {one.project: one.honoured for one in inputs.short}
            goal = wanted(policy, self._cluster, now, written_minutes=inputs.written_minutes, honoured=kept)
            self._goal = _Goal(inputs=inputs, wanted=goal, digest=digest(goal.accounting))
        return self._goal

    def _transactions(self) -> Sequence[Transaction]:
        """Of others, since Slurm was last brought to the wanted state."""
        seen = int(self._store.mark(SEEN) or 0)
        found = self._accounting.transactions(self._clock.now() - DRIFT_LOOKBACK)
        return [one for one in found if one.number > seen]

    def _read_partitions(self, goal: Wanted) -> Partitions:
        try:
            text = self._partition_file.read_text()
        except FileNotFoundError:
            text = None
        except OSError as error:
            raise no_access(self._partition_file, "read", error) from None
        found = Partitions(file=text, live=self._partitions.read(), wanted=goal.partitions)
        if not found.delete:
            return found
        # One that jobs are still in stays until they have ended, and lets nothing new start.
        occupied = {job.partition for job in self._controller.jobs() if not job.state.ended}
        leaving = (replace(found.live[name], allow_qos=(CLOSED,)) for name in found.delete if name in occupied)
        return replace(found, wanted=tuple(sorted((*goal.partitions, *leaving), key=lambda spec: spec.name)))

    def _unknown_nodes(self, goal: Wanted) -> tuple[str, ...]:
        """slurmctld would not start again with a partition of nodes it does not have."""
        known = {node.name for node in self._controller.nodes()}
        named = (spec for spec in goal.partitions if spec.name != ADMINISTRATORS)
        missing = {spec.name: set(expand_nodes(spec.nodes)) - known for spec in named}
        return tuple(
            f"Partition {name} names {len(nodes)} nodes that Slurm does not have: {fold_nodes(nodes)}."
            for name, nodes in sorted(missing.items())
            if nodes
        )

    # -- Apply

    def _converge(self, reading: _Reading, policy: Policy, *, actor: str, reason: str) -> Plan:
        """The plan as it was carried out: what slurmdbd would not delete yet is deferred."""
        self._close_interrupted()
        done: list[Step] = []
        while not self._carried_out(reading.plan, done, actor, reason):
            reading = self._read(policy)
        if self._refused is not None and not self._refused.holds(self._clock.now()):
            self._refused = None  # asked again, and not refused
        if done:
            self._verify(policy)
            self._failpoint("quota.verified")
        if done or not reading.drifted:
            now = self._clock.now()
            if self._memory.newest is not None:
                self._store.set_mark(SEEN, str(self._memory.newest), at=now)
            self._store.set_mark(CONVERGED, reading.digest, at=now)
        return replace(reading.plan, steps=tuple(done))

    def _carried_out(self, found: Plan, done: list[Step], actor: str, reason: str) -> bool:
        """False when slurmdbd refused a deletion: the way from here is another, without what it refused."""
        for step in found.steps:
            try:
                self._carry_out(f"quota.{len(done) + 1}", step, actor, reason)
            except StillActive as error:
                self._defer(step, error)
                if went := gone_of(step, self._memory.read(afresh=True)):
                    # slurmdbd refuses a whole request, and a step may be several
                    now = self._clock.now()
                    with self._store.transaction():
                        self._store.audit.append(*(_audited(change, actor, reason, now) for change in went))
                    done.append(replace(step, changes=went))
                return False
            done.append(step)
        return True

    def _defer(self, step: Step, error: StillActive) -> None:
        """Each refusal puts more aside, at the last all of the step, so that the run comes to an end."""
        known = self._still_refused()
        busy = known | Busy.of_runs(error.runs)
        if busy == known:
            busy |= Busy.of_step(step.write)
        if busy == known:
            raise error
        self._refused = _Refused(busy=busy, at=self._clock.now(), wait=self._next_wait())
        log.info("quota.deferred", step=step.title, why=str(error))

    def _next_wait(self) -> timedelta:
        if self._refused is None:
            return REFUSED_FOR
        if self._refused.holds(self._clock.now()):
            return self._refused.wait  # another refusal of the same run
        return min(self._refused.wait * 2, REFUSED_FOR_AT_MOST)

    def _close_interrupted(self) -> None:
        with self._store.transaction():
            now = self._clock.now()
            self._store.audit.append(
                *(
                    AuditEntry(
                        at=now,
                        actor=ACTOR,
                        action="effect.interrupted",
                        subject=effect.subject,
                        reason="The daemon ended before it saw the answer; what Slurm has now was read again.",
                        evidence={"begun": effect.intended_at.isoformat(), **effect.detail},
                    )
                    for effect in self._store.journal.interrupt(ACTOR, at=now)
                )
            )

    def _carry_out(self, place: str, step: Step, actor: str, reason: str) -> None:
        effect = self._store.journal.intend(
            controller=ACTOR,
            kind=type(step.write).__name__,
            subject=step.title,
            at=self._clock.now(),
            detail={"objects": " ".join(change.name for change in step.changes), "reason": reason},
        )
        self._failpoint(f"{place}.intended")
        try:
            self._write(place, step)
        except StillActive:
            self._store.journal.close(effect, outcome="failed", at=self._clock.now())
            raise
        self._failpoint(f"{place}.written")
        now = self._clock.now()
        with self._store.transaction():
            self._store.journal.close(effect, outcome="done", at=now)
            self._store.audit.append(*(_audited(change, actor, reason, now) for change in step.changes))
        self._failpoint(f"{place}.done")

    def _write(self, place: str, step: Step) -> None:
        match step.write:
            case PutQos(qos):
                self._accounting.put_qos(qos)
            case PutAccounts(accounts):
                self._accounting.put_accounts(accounts)
            case PutAssociations(associations):
                self._accounting.put_associations(associations)
            case WritePartitions(text, put, delete):
                self._partitions.delete(delete)
                self._failpoint(f"{place}.partitions-deleted")
                write_atomically(self._partition_file, text)
                self._failpoint(f"{place}.file-written")
                self._partitions.put(put)
            case DeleteAssociations(keys):
                self._accounting.delete_associations(keys)
            case DeleteUsers(users):
                self._accounting.delete_users(users)
            case DeleteAccounts(accounts):
                self._accounting.delete_accounts(accounts)
            case DeleteQos(qos):
                self._accounting.delete_qos(qos)

    def _verify(self, policy: Policy) -> None:
        left = self._read(policy).plan.steps
        if left:
            change = left[0].changes[0]
            what = "; ".join(f"{one.field} is {one.before}, not {one.after}" for one in change.fields)
            raise NotConverged(
                f"Slurm took every write, but {change.kind} {change.name} is still to {change.action}"
                f"{f': {what}' if what else ''} ({sum(len(step.changes) for step in left)} objects differ).",
                way_out="It is tried again on the next tick; see slurmdbd's log if it stays.",
            )

    def _tell_short(self, short: tuple[ShortGuarantee, ...]) -> None:
        """Say once whose guarantee cannot be kept, and once that all can be again."""
        seen = _sha256(repr(short)) if short else ""
        if (self._store.mark(SHORT) or "") == seen:
            return
        now = self._clock.now()
        entries = [
            AuditEntry(
                at=now,
                actor=ACTOR,
                action="guarantee.short",
                subject=one.project,
                reason=f"Share {one.share} of pool {one.pool} can promise {one.capacity} GPUs now: {one.project} gets "
                f"{one.honoured} of {one.guaranteed} guaranteed ones.",
                evidence={"guaranteed": one.guaranteed, "honoured": one.honoured, "capacity": one.capacity},
            )
            for one in short
        ]
        kept = AuditEntry(
            at=now, actor=ACTOR, action="guarantee.kept", subject="all", reason="Every guarantee can be kept."
        )
        with self._store.transaction():
            self._store.set_mark(SHORT, seen, at=now)
            self._store.audit.append(*(entries or [kept]))
        for one in short:
            log.warning("guarantee.short", project=one.project, guaranteed=one.guaranteed, honoured=one.honoured)

    def _report(self, found: Plan) -> None:
        """Say what differs once, not on every tick."""
        seen = _sha256(repr(found.changes))
        if self._store.mark(DRIFT) == seen:
            return
        now = self._clock.now()
        with self._store.transaction():
            self._store.set_mark(DRIFT, seen, at=now)
            self._store.audit.append(
                *(_audited(change, ACTOR, "drift, only reported", now, "drift.") for change in found.changes)
            )


def _refuse_conflicts(found: Plan) -> None:
    if found.conflicts:
        raise Conflict(
            " ".join(found.conflicts),
            way_out="Nothing was written. Rename it in the policy or in Slurm, or correct the policy's node lists.",
        )


def _audited(change: Change, actor: str, reason: str, at: datetime, prefix: str = "") -> AuditEntry:
    return AuditEntry(
        at=at,
        actor=actor,
        action=f"{prefix}{change.kind}.{change.action}",
        subject=change.name,
        reason=reason,
        evidence={
            one.field: one.after if change.action is Action.CREATE else f"{one.before or '-'} -> {one.after or '-'}"
            for one in change.fields
        }
        | ({"changed_by": change.origin.actor, "changed_at": change.origin.at.isoformat()} if change.origin else {}),
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
