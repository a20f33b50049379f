"""Carries nodes from drained to back in service: repair, verification, probation, one step at a time.

`lifecycle.next_step` decides. `tick` is level-triggered: it does what each state asks for (which is always safe to do
again), looks, and takes the step. Every step is one write of the store, after the effects that must precede it and
before those that may follow; so it may be cut off anywhere and goes on there.

It runs beside `HealthController`, in a thread of its own, so that nothing here delays a drain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import structlog

from slurm_gpuaas.domain.errors import Conflict, GpuaasError
from slurm_gpuaas.domain.incidents import Incident, IncidentState, RepairAttempt, RepairOutcome
from slurm_gpuaas.domain.node_life import LimitKind, NodeLimit
from slurm_gpuaas.domain.nodes import Node
from slurm_gpuaas.health.breaker import Breaker
from slurm_gpuaas.health.faults import fault_since, on_probation_since
from slurm_gpuaas.health.incidents import is_down_for_a_person, is_reason_of, reason_over
from slurm_gpuaas.health.ledger import IncidentLedger
from slurm_gpuaas.health.lifecycle import LifePlan, Seen, Step, new_verification, next_step, reboots, tests_for
from slurm_gpuaas.health.overrides import Override
from slurm_gpuaas.health.repair import Order, Workshop
from slurm_gpuaas.health.verify import TakenOver, Verifier
from slurm_gpuaas.slurm.protocols import Controller, SlurmRefused, SlurmUnavailable

NAME: Final = "life"
SWEEPS_EVERY: Final = timedelta(minutes=1)
_BOUND: Final = frozenset({IncidentState.PROBATION, IncidentState.VERIFYING})
"""States in which a node's limit of probation may stand; it is set right before the first."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LifeSettings:
    """`reboots_a_day`: a node that has had so many within a day is replaced. `probation` None = back at once; else the
    node takes jobs of at most `largest_job` nodes for so long. `verifies`: whether there are tests at all."""

    shadow: bool = False
    reboots_a_day: int = 3
    verifies: bool = False
    probation: timedelta | None = None
    largest_job: int = 1


class LifeController:
    """Args:
    slurm: its readings must be fresh.
    overrides: what the site decides itself.
    """

    name = NAME

    def __init__(
        self,
        *,
        slurm: Controller,
        ledger: IncidentLedger,
        workshop: Workshop,
        verifier: Verifier,
        breaker: Breaker,
        settings: LifeSettings,
        overrides: Sequence[Override] = (),
    ) -> None:
        self._slurm = slurm
        self._ledger = ledger
        self._workshop = workshop
        self._verifier = verifier
        self._breaker = breaker
        self._settings = settings
        self._overrides = tuple(overrides)
        self._plan = LifePlan(
            remedies=workshop.remedies,
            reboots_a_day=settings.reboots_a_day,
            tests=verifier.tests if settings.verifies else frozenset(),
            probation=settings.probation,
        )
        self._sweep_due = False
        self._swept_at: datetime | None = None

    def tick(self) -> None:
        """
        Raises:
            SlurmUnavailable: nothing more is tried.
            GpuaasError: what kept one incident from going on; the others were looked after all the same.
        """
        now = self._ledger.clock.now()
        due = self._sweep_due or self._swept_at is None or now - self._swept_at >= SWEEPS_EVERY
        if due and not self._settings.shadow:
            self._sweep()
            self._swept_at = now
        live = {IncidentState.REPAIRING, IncidentState.VERIFYING, IncidentState.PROBATION}
        if self._plan.remedies:
            live.add(IncidentState.DRAINED)
        incidents = [i for i in self._ledger.open(states=live) if i.held_by is None]
        if not incidents:
            return
        nodes = {node.name: node for node in self._slurm.nodes()}
        stopped_by = self._breaker.stops()
        trouble: GpuaasError | None = None
        for incident in incidents:
            node = nodes.get(incident.node)
            if node is None:
                continue  # a partial answer of Slurm must not move anything
            if scope := stopped_by(incident.node):
                self._ledger.tell("breaker.open", incident, {"scope": scope, "stopped": incident.state.value}, key=NAME)
                continue
            try:
                with self._ledger.one_refusal_stops_one(incident, incident.state.value):
                    self._live_or_leave(incident, node)
            except SlurmUnavailable:
                raise
            except GpuaasError as error:
                trouble = trouble or error
        if trouble:
            raise trouble

    def verify(self, incident_id: str, *, actor: str, reason: str) -> Incident:
        """A person says that the node is mended: test it, and let it back if it passes. It is held no more then.

        Raises:
            NotFound: there is no such incident.
            Conflict: no tests are configured, the node is not waiting for a person, or the incident is closed.
        """
        with self._ledger.lock:
            incident = self._ledger.open_one(incident_id)
            if not self._plan.tests:
                raise Conflict(
                    "No tests are configured.", way_out="Set health.verification, or close the incident instead."
                )
            tests = tests_for(incident, None, self._plan.tests)
            step = Step(after=IncidentState.VERIFYING, cause=reason or "A person says that it is mended.", tests=tests)
            if incident.state is IncidentState.VERIFYING:
                return incident
            return self._ledger.change(
                incident,
                "node.verify",
                {"why": reason, "tests": ", ".join(tests)},
                state=step.after,
                cause=step.cause,
                actor=actor,
                held_by=None,
                verification=new_verification(step, self._ledger.clock.now()),
            )

    def release(self, incident: Incident) -> None:
        """An incident was closed, whoever did it: take back what bounds its node.

        Args:
            incident: as it was before.
        """
        if not any(other.id != incident.id and other.state in _BOUND for other in self._ledger.open(incident.node)):
            self._ledger.store.delete_node_limit(incident.node, LimitKind.PROBATION)
        if incident.state is IncidentState.VERIFYING:
            try:
                self._verifier.clear(incident)
            except (SlurmRefused, SlurmUnavailable) as error:  # a job is still ending there, say
                self._sweep_due = True
                log.info("life.cleared-later", incident=incident.id, why=error.message)

    # -- One incident

    def _live_or_leave(self, incident: Incident, node: Node) -> None:
        try:
            self._live(incident, node)
        except TakenOver as taken:
            self._ledger.tell("node.taken-over", incident, {"kept": taken.reason}, key=taken.reason)
            if incident.state is IncidentState.VERIFYING and not self._settings.shadow:
                # The good node beside it must not wait for whoever works on this one.
                self._verifier.clear(incident)
                self._ledger.change(
                    incident,
                    "node.drained",
                    {"kept": taken.reason},
                    state=IncidentState.DRAINED,
                    cause=f"Taken over in the middle of its tests: {taken.reason}",
                )

    def _live(self, incident: Incident, node: Node) -> None:
        if node.draining and not is_reason_of(node.reason, incident):
            raise TakenOver(node)
        if incident.state is IncidentState.REPAIRING and is_down_for_a_person(node, incident):
            raise TakenOver(node)
        if self._settings.shadow:
            step = next_step(incident, self._seen(incident, node), self._plan, self._ledger.clock.now())
            if step is not None:
                self._ledger.tell(f"node.would-{step.after}", incident, {"why": step.cause}, key=step.cause)
            return
        if incident.state in {IncidentState.DRAINED, IncidentState.REPAIRING}:
            self._keep_out(incident, node)
        if incident.state is IncidentState.REPAIRING:
            seen = self._repair(incident, node)
        elif incident.state is IncidentState.VERIFYING:
            seen = self._verification(incident, node)
        else:
            seen = self._seen(incident, node)
        if incident.state is IncidentState.PROBATION and node.draining and not seen.fault_since:
            # It was resumed to be tested: slurmctld was killed and has forgotten that.
            self._resume(incident)
            return
        step = next_step(incident, seen, self._plan, self._ledger.clock.now())
        if step is not None:
            self._take(incident, step, seen)

    def _seen(self, incident: Incident, node: Node) -> Seen:
        store, now = self._ledger.store, self._ledger.clock.now()
        if incident.state is IncidentState.DRAINED:
            past = [attempt for one in store.incidents(node=incident.node, limit=50) for attempt in one.attempts]
            return Seen(node=node, reboots=reboots(past, now))
        since = on_probation_since(store, incident) if incident.state is IncidentState.PROBATION else None
        fault = since is not None and fault_since(store, incident, since, self._overrides)
        return Seen(node=node, fault_since=fault, on_probation_since=since)

    def _keep_out(self, incident: Incident, node: Node) -> None:
        """After a reboot Slurm has the node DOWN only, which ReturnToService may take back by itself."""
        if not node.draining and node.out_by_hand and is_reason_of(node.reason, incident):
            self._drain(incident, node)

    def _drain(self, incident: Incident, node: Node) -> None:
        reason = reason_over(node, incident)
        with self._ledger.journaled("drain", incident.node, {"incident": incident.id, "reason": reason}):
            self._slurm.drain([incident.node], reason)

    def _resume(self, incident: Incident) -> None:
        with self._ledger.journaled("resume", incident.node, {"incident": incident.id, "for": "probation"}):
            self._slurm.resume([incident.node])

    def _repair(self, incident: Incident, node: Node) -> Seen:
        attempt = incident.attempts[-1]
        if attempt.remedy not in self._workshop.remedies:
            detail = "no longer configured here"
            return Seen(node=node, repair=RepairOutcome.FAILED, repair_detail=detail)
        order = Order(
            incident=incident,
            attempt=attempt,
            number=len(incident.attempts),
            node=node,
            gpus=self._gpus(incident),
        )
        report = self._workshop.ask(order)
        if report.outcome is RepairOutcome.RUNNING and report.detail != attempt.detail:
            noted = attempt.model_copy(update={"detail": report.detail})
            self._ledger.note(incident, attempts=(*incident.attempts[:-1], noted))
        return Seen(node=node, repair=report.outcome, repair_detail=report.detail)

    def _gpus(self, incident: Incident) -> str:
        known = set(incident.event_ids)
        events = self._ledger.store.events(node=incident.node)
        gpus = {event.gpu for event in events if event.event_id in known and event.gpu is not None}
        return ",".join(map(str, sorted(gpus))) or "all"

    def _verification(self, incident: Incident, node: Node) -> Seen:
        verification = incident.verification
        assert verification is not None  # written with the state
        fault = fault_since(self._ledger.store, incident, verification.begun_at, self._overrides)
        if verification.passed is None:
            verdict = self._verifier.look(incident, verification)
            ended = None if verdict.passed is None else self._ledger.clock.now()
            changed = verification.model_copy(
                update={
                    "jobs": verdict.jobs,
                    "said": dict(verdict.said),
                    "detail": verdict.detail[:500],
                    "passed": verdict.passed,
                    "ended_at": ended,
                }
            )
            if changed != verification:
                # The verdict is written before anything follows from it: slurmctld forgets jobs that have ended.
                self._ledger.note(incident, verification=changed)
            verification = changed
        return Seen(
            node=node,
            verification=verification.passed,
            verification_detail=verification.detail,
            fault_since=fault,
        )

    # -- Steps

    def _take(self, incident: Incident, step: Step, seen: Seen) -> None:
        now = self._ledger.clock.now()
        changes: dict[str, Any] = {}
        if incident.state is IncidentState.REPAIRING:
            changes["attempts"] = _ended(incident, seen, self._ledger)
        if step.remedy is not None:
            changes["attempts"] = (*incident.attempts, RepairAttempt(remedy=step.remedy, begun_at=now))
        if step.after is IncidentState.VERIFYING:
            changes["verification"] = new_verification(step, now)
        if incident.state is IncidentState.VERIFYING:
            self._end_verification(incident, step)
            if step.after is IncidentState.DRAINED:
                changes["unproven_since"] = now  # Slurm may still lose that drain
        if incident.state is IncidentState.PROBATION:
            self._ledger.store.delete_node_limit(incident.node, LimitKind.PROBATION)
        action = "incident.close" if step.after is IncidentState.CLOSED else f"node.{step.after}"
        after = self._ledger.change(
            incident, action, {"why": step.cause[:500]}, state=step.after, cause=step.cause, **changes
        )
        if step.after is IncidentState.PROBATION and after.state is not step.after:
            self.release(after)  # closed by a person meanwhile

    def _end_verification(self, incident: Incident, step: Step) -> None:
        """Before the reservation goes, the node has what bounds it from then on."""
        if step.after is IncidentState.DRAINED:
            for node in self._slurm.nodes():
                if node.name == incident.node and not node.draining:
                    self._drain(incident, node)
        elif step.after is IncidentState.PROBATION:
            self._ledger.store.put_node_limit(
                NodeLimit(
                    node=incident.node,
                    kind=LimitKind.PROBATION,
                    largest_job=self._settings.largest_job,
                    why=f"on probation after incident {incident.id}",
                    since=self._ledger.clock.now(),
                )
            )
        self._verifier.clear(incident)

    def _sweep(self) -> None:
        """What a close or a crash left, also one of slurmctld right after a deletion: reservations of nodes that are
        not being verified, limits without probation."""
        self._sweep_due = False  # first: who asks for one meanwhile gets one
        try:
            for incident_id in self._verifier.leftovers():
                self._sweep_one(incident_id)
        except SlurmUnavailable:
            self._sweep_due = True
            raise
        on_probation = {i.node for i in self._ledger.open() if i.state in _BOUND}
        for limit in self._ledger.store.node_limits():
            if limit.kind is LimitKind.PROBATION and limit.node not in on_probation:
                self._ledger.store.delete_node_limit(limit.node, limit.kind)

    def _sweep_one(self, incident_id: str) -> None:
        incident = self._ledger.store.incident(incident_id)
        try:
            if incident is None:
                self._verifier.delete(incident_id)
            elif incident.state is not IncidentState.VERIFYING:
                self._verifier.clear(incident)
        except SlurmRefused as refusal:  # the others go on; this one is tried again
            self._sweep_due = True
            log.info("life.cleared-later", incident=incident_id, why=refusal.message)


def _ended(incident: Incident, seen: Seen, ledger: IncidentLedger) -> tuple[RepairAttempt, ...]:
    *before, last = incident.attempts
    changes = {"outcome": seen.repair, "detail": seen.repair_detail[:500], "ended_at": ledger.clock.now()}
    return (*before, last.model_copy(update=changes))
