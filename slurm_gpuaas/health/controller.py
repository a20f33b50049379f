"""From node events to drained nodes and requeued jobs.

`ingest` writes down what agents report and opens incidents; `tick` brings Slurm to what open incidents ask for. `tick`
is level-triggered: it looks at incidents, nodes and jobs as they are, so it may be cut off anywhere and runs again.

A drain reason that is not ours is never overwritten. A node that somebody put back in service stays there: its incident
is closed, not drained again. But a slurmctld that crashes forgets what it was told last, a drain as well. So a node
that is not draining any more counts as put back only once it was seen draining `LOST_WITHIN` after its drain; before
that it is drained again. Who wants it back earlier closes the incident.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog

from slurm_gpuaas.domain.audit import AuditEntry
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.errors import GpuaasError, InvalidInput, NotFound
from slurm_gpuaas.domain.incidents import Drain, Incident, IncidentState, NodeEvent
from slurm_gpuaas.domain.jobs import Job, JobId, JobState
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.nodes import Node
from slurm_gpuaas.health.incidents import DRAINING_VERDICTS, drain_reason, fold, is_reason_of
from slurm_gpuaas.health.overrides import Override
from slurm_gpuaas.health.triage import triage
from slurm_gpuaas.slurm.protocols import Controller, SlurmRefused
from slurm_gpuaas.store import Store

ACTOR: Final = "gpuaasd/health"
DRAINED: Final = "node.drain"
"""Audit action of a node that we drained; the circuit breaker counts them."""
DRAINED_AGAIN: Final = "node.drain-again"
"""Audit action of a node whose drain Slurm had lost. The circuit breaker let it through once already."""
LOST_WITHIN: Final = timedelta(minutes=1)
"""slurmctld writes what it was told to its disk after 5 s at most (SAVE_MAX_WAIT), however long it is away later on."""

_NOT_CLOSED: Final = tuple(state for state in IncidentState if state is not IncidentState.CLOSED)

Evidence = Mapping[str, str | int | float | bool | None]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthSettings:
    """`shadow` records every decision and does nothing to Slurm. The circuit breaker lets no more than `max_drains`
    nodes leave service within `drain_window`; further ones wait until the window has moved on. `overrides` are the
    site's own verdicts."""

    shadow: bool = False
    max_drains: int = 16
    drain_window: timedelta = timedelta(minutes=10)
    overrides: tuple[Override, ...] = ()


class HealthController:
    """Args:
    slurm: its readings must be fresh: whose drain a node carries is decided on them.
    wake: called when an incident was opened or got worse, so that `tick` runs now and not at its next turn.
    requeued: called when jobs were requeued: whoever places them need not wait for its next turn.
    """

    name = "health"

    def __init__(
        self,
        *,
        slurm: Controller,
        store: Store,
        clock: Clock,
        settings: HealthSettings,
        wake: Callable[[], None] = lambda: None,
        requeued: Callable[[], None] = lambda: None,
    ) -> None:
        self._slurm = slurm
        self._store = store
        self._clock = clock
        self._settings = settings
        self._wake = wake
        self._requeued = requeued
        # Reading an incident and writing it back is one step: reports arrive while a tick is under way.
        self._lock = threading.Lock()
        self._told: set[tuple[str, str]] = set()
        self._began = False

    # -- reports

    def ingest(self, node: NodeName, events: Sequence[NodeEvent]) -> int:
        """Take an agent's report; safe to repeat. Gives how many of the events are in the store now: all of them.

        Raises:
            InvalidInput: an event is of another node than the one that signed the report.
        """
        for event in events:
            if event.node != node:
                raise InvalidInput(f"Node {node} reported an event of node {event.node}.")
        with self._lock:
            worse = self._record(node, events)
        if worse:
            self._wake()
        return len(events)

    def _record(self, node: NodeName, events: Sequence[NodeEvent]) -> bool:
        """Write down events and the incidents they join or open, all or nothing. True when an incident got worse."""
        now = self._clock.now()
        with self._store.transaction():
            before = {incident.id: incident for incident in self._open(node)}
            after = dict(before)
            for event in events:
                if not self._store.add_event(event, received_at=now):
                    continue
                verdict = triage(event, self._settings.overrides)
                incident = fold(tuple(after.values()), event, verdict, now)
                if incident is None:
                    continue
                if incident.id not in after:
                    evidence = {"event": event.event_id, "rule": verdict.rule, "line": event.evidence}
                    self._audit("incident.open", incident, evidence)
                after[incident.id] = incident
            changed = [incident for incident in after.values() if incident != before.get(incident.id)]
            for incident in changed:
                self._store.put_incident(incident)
        return any(i.id not in before or before[i.id].drain is not i.drain for i in changed)

    def _open(self, node: NodeName | None = None) -> Sequence[Incident]:
        """Incidents that are not closed, oldest first; of one node or of all."""
        return self._store.incidents(node=node, states=_NOT_CLOSED, limit=100_000)[::-1]

    def close(self, incident_id: str, *, actor: str, reason: str) -> Incident:
        """End an incident on a person's word. Its node stays as it is. Closing a closed one changes nothing.

        Raises:
            NotFound: there is no such incident.
        """
        now = self._clock.now()
        with self._lock, self._store.transaction():
            current = self._store.incident(incident_id)
            if current is None:
                raise NotFound(f"There is no incident {incident_id:.60}.")
            if current.state is IncidentState.CLOSED:
                return current
            closed = current.model_copy(update={"state": IncidentState.CLOSED, "updated_at": now, "closed_at": now})
            self._store.put_incident(closed)
            self._audit("incident.close", closed, {"why": reason}, actor=actor)
        log.info("incident.close", incident=closed.id, node=closed.node, actor=actor, why=reason)
        return closed

    # -- acting

    def tick(self) -> None:
        if not self._began:
            # What a crash left open is seen again below, never replayed.
            self._store.journal.interrupt(self.name, at=self._clock.now())
            self._began = True
        incidents = self._open()
        if not any(incident.drain in DRAINING_VERDICTS for incident in incidents):
            return
        nodes = {node.name: node for node in self._slurm.nodes()}
        for incident in incidents:
            if incident.state is not IncidentState.OPEN:
                self._settle(incident, nodes.get(incident.node))
        wanted = [i for i in incidents if i.state is IncidentState.OPEN and i.drain in DRAINING_VERDICTS]
        for incident in self._within_breaker(wanted):
            with self._one_failure_stops_one(incident):
                self._drain(incident, nodes.get(incident.node))
        self._requeue()

    def _drain(self, incident: Incident, node: Node | None) -> None:
        """Take the node out of service for new jobs, unless it is out already."""
        current = self._store.incident(incident.id)
        if current is not None and current.state is IncidentState.CLOSED:
            return  # a person closed it while the tick was under way
        reason = drain_reason(incident)
        if node is None:
            self._tell("node.unknown", incident, {"problem": "Slurm has no such node"})
        elif self._settings.shadow:
            self._tell("node.would-drain", incident, {"reason": reason, "rule": incident.rule})
        elif is_reason_of(node.reason, incident) and node.draining:
            # We had drained it and were cut off before we wrote so.
            self._change(incident, IncidentState.DRAINING, DRAINED, {"reason": node.reason}, unproven=True)
        elif node.draining:
            evidence = {"kept": node.reason, "rule": incident.rule}
            self._change(incident, IncidentState.DRAINING, "node.already-drained", evidence, unproven=True)
        else:
            with self._journaled("drain", incident.node, {"incident": incident.id, "reason": reason}):
                self._slurm.drain([incident.node], reason)
            again = incident.state is not IncidentState.OPEN
            evidence = {"reason": reason, "rule": incident.rule}
            self._change(incident, IncidentState.DRAINING, DRAINED_AGAIN if again else DRAINED, evidence, unproven=True)

    def _settle(self, incident: Incident, node: Node | None) -> None:
        """Follow what became of a node that was drained for an incident."""
        if node is None:
            return  # a partial answer of Slurm must not close anything
        since = incident.unproven_since
        if not node.draining and since is not None:
            with self._one_failure_stops_one(incident):
                self._drain(incident, node)
            return
        if not node.draining:
            self._change(incident, IncidentState.CLOSED, "incident.close", {"why": "The node was put back in service."})
            return
        if since is not None and self._clock.now() - since >= LOST_WITHIN:
            self._prove(incident)
        if node.drained and incident.state is IncidentState.DRAINING:
            self._change(incident, IncidentState.DRAINED, "node.drained", {"reason": node.reason})

    def _prove(self, incident: Incident) -> None:
        """Note that the drain has outlived the time in which Slurm could lose it."""
        with self._lock, self._store.transaction():
            current = self._store.incident(incident.id) or incident
            self._store.put_incident(current.model_copy(update={"unproven_since": None}))

    def _requeue(self) -> None:
        """Requeue what runs on nodes whose fault has cost the jobs already. Drained first, so they land elsewhere."""
        lost = {
            incident.node: incident
            for incident in self._open()
            if incident.drain is Drain.NOW and incident.state is IncidentState.DRAINING
        }
        if not lost:
            return
        for job in self._slurm.jobs():
            incident = next((lost[node] for node in job.nodes if node in lost), None)
            if incident is None or job.state not in {JobState.RUNNING, JobState.SUSPENDED}:
                continue
            evidence: Evidence = {
                "job": job.id,
                "user": job.user,
                "nodes": len(job.nodes),
                "restarts": job.restarts,
            }
            if not job.requeue:
                self._tell("job.left", incident, {**evidence, "why": "submitted with --no-requeue"}, key=str(job.id))
                continue
            with self._one_failure_stops_one(incident, job):
                with self._journaled("requeue", str(job.id), {"incident": incident.id, "node": incident.node}):
                    self._slurm.requeue(job.id, restarts=job.restarts)
                self._requeued()
                self._change(incident, incident.state, "job.requeue", evidence, requeued=job.id)

    def _within_breaker(self, wanted: Sequence[Incident]) -> Sequence[Incident]:
        """As many incidents as may drain a node now; the rest is told of once."""
        since = self._clock.now() - self._settings.drain_window
        most = self._settings.max_drains
        drained = len(self._store.audit.newest(action=DRAINED, since=since, limit=most)) if wanted else 0
        room = most - drained
        for incident in wanted[room:]:
            minutes = self._settings.drain_window.total_seconds() / 60
            evidence = {"drained": drained, "max_drains": most, "window_minutes": minutes}
            self._tell("breaker.open", incident, evidence)
        return wanted[:room]

    # -- writing down

    def _change(
        self,
        incident: Incident,
        state: IncidentState,
        action: str,
        evidence: Evidence,
        *,
        requeued: JobId | None = None,
        unproven: bool = False,
    ) -> None:
        """Args:
        unproven: the node was drained just now, so that Slurm may still lose it.
        """
        now = self._clock.now()
        with self._lock, self._store.transaction():
            current = self._store.incident(incident.id) or incident
            if current.state is IncidentState.CLOSED:
                state = IncidentState.CLOSED  # a person closed it while the tick was under way
            changes: dict[str, object] = {"state": state, "updated_at": now}
            if state is IncidentState.CLOSED:
                changes["closed_at"] = now
            if unproven:
                changes["unproven_since"] = now
            if requeued is not None and requeued not in current.requeued_jobs:
                changes["requeued_jobs"] = (*current.requeued_jobs, requeued)
            changed = current.model_copy(update=changes)
            self._store.put_incident(changed)
            self._audit(action, changed, evidence)
        log.info(action, incident=incident.id, node=incident.node, headline=incident.headline, **evidence)

    def _tell(
        self,
        action: str,
        incident: Incident,
        evidence: Evidence,
        *,
        key: str = "",
    ) -> None:
        """Write an audit entry once for an incident (and key) and run of the daemon, not once a tick."""
        if (action + key, incident.id) in self._told:
            return
        self._told.add((action + key, incident.id))
        self._audit(action, incident, evidence)
        log.warning(action, incident=incident.id, node=incident.node, headline=incident.headline, **evidence)

    def _audit(self, action: str, incident: Incident, evidence: Evidence, *, actor: str = ACTOR) -> None:
        self._store.audit.append(
            AuditEntry(
                at=self._clock.now(),
                actor=actor,
                action=action,
                subject=incident.node,
                reason=incident.headline,
                evidence={"incident": incident.id, **evidence},
            )
        )

    @contextmanager
    def _journaled(self, kind: str, subject: str, detail: Evidence) -> Iterator[None]:
        effect = self._store.journal.intend(
            controller=self.name, kind=kind, subject=subject, at=self._clock.now(), detail=detail
        )
        try:
            yield
        except GpuaasError:
            self._store.journal.close(effect, outcome="failed", at=self._clock.now())
            raise
        self._store.journal.close(effect, outcome="done", at=self._clock.now())

    @contextmanager
    def _one_failure_stops_one(self, incident: Incident, job: Job | None = None) -> Iterator[None]:
        """Slurm's refusal of one write must not keep the others waiting; that it cannot be reached stops the tick."""
        try:
            yield
        except SlurmRefused as refusal:
            key = str(job.id) if job else ""
            evidence = {"refusal": refusal.message, "job": job.id if job else None}
            self._tell("slurm.refused", incident, evidence, key=key)
