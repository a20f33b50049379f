"""From open incidents to drained nodes, and what becomes of their jobs.

`tick` is level-triggered: it looks at incidents, nodes and jobs as they are, so it may be cut off anywhere and runs
again. What follows once nothing runs on a node is `life.LifeController`'s.

A drain reason that is not ours is never overwritten. A node that somebody put back in service stays there: its incident
is closed, not drained again. But a slurmctld that crashes forgets what it was told last, a drain as well. So a node
that is not draining any more counts as put back only once it was seen draining `LOST_WITHIN` after its drain; before
that it is drained again. Who wants it back earlier closes the incident.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog

from slurm_gpuaas.domain.incidents import Drain, Incident, IncidentState
from slurm_gpuaas.domain.jobs import Job, JobState
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.nodes import Node
from slurm_gpuaas.health.breaker import DRAINED, Breaker
from slurm_gpuaas.health.faults import fault_since, on_probation_since
from slurm_gpuaas.health.incidents import DRAINING_VERDICTS, drain_reason, is_reason_of, reason_over
from slurm_gpuaas.health.ledger import CONTROLLER, Evidence, IncidentLedger
from slurm_gpuaas.health.overrides import Override
from slurm_gpuaas.health.recovery import Recovery
from slurm_gpuaas.slurm.protocols import Controller, SlurmUnavailable

DRAINED_AGAIN: Final = "node.drain-again"
"""Audit action of a node whose drain Slurm had lost. The circuit breaker let it through once already."""
ASKED_TO_CHECKPOINT: Final = "job.checkpoint"
"""Audit action of a job that was sent the checkpoint signal, once for each run of it."""
LOST_WITHIN: Final = timedelta(minutes=1)
"""slurmctld writes what it was told to its disk after 5 s at most (SAVE_MAX_WAIT), however long it is away later on."""
SETTLED_AT_ONCE: Final = 25
"""Incidents of one transaction; reports of agents wait for it."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthSettings:
    """`shadow` records every decision and does nothing to Slurm. With a `checkpoint_signal`, jobs on a node whose fault
    lets them go on are sent it, and are requeued when they still run `checkpoint_wait` later."""

    shadow: bool = False
    checkpoint_signal: str | None = None
    checkpoint_wait: timedelta = timedelta(minutes=10)


class HealthController:
    """Args:
    slurm: its readings must be fresh: whose drain a node carries is decided on them.
    released: called with an incident as it was before it was closed.
    settled: called when nothing runs on a drained node any more: what follows need not wait for its next turn.
    again: called when something is left to do that the next tick should not wait for.
    overrides: what the site decides itself.
    """

    name = CONTROLLER

    def __init__(
        self,
        *,
        slurm: Controller,
        ledger: IncidentLedger,
        recovery: Recovery,
        breaker: Breaker,
        settings: HealthSettings,
        released: Callable[[Incident], None] = lambda incident: None,
        settled: Callable[[], None] = lambda: None,
        again: Callable[[], None] = lambda: None,
        overrides: Sequence[Override] = (),
    ) -> None:
        self._slurm = slurm
        self._ledger = ledger
        self._recovery = recovery
        self._breaker = breaker
        self._settings = settings
        self._released = released
        self._settled = settled
        self._again = again
        self._overrides = tuple(overrides)
        self._began = False

    def close(self, incident_id: str, *, actor: str, reason: str) -> Incident:
        """End an incident on a person's word. Its node stays as it is. Closing a closed one changes nothing.

        Raises:
            NotFound: there is no such incident.
        """
        with self._ledger.lock:
            current = self._ledger.get(incident_id)
            if current.state is IncidentState.CLOSED:
                return current
            closed = self._ledger.change(
                current, "incident.close", {"why": reason}, state=IncidentState.CLOSED, cause=reason, actor=actor
            )
        self._released(current)
        return closed

    def hold(self, incident_id: str, *, actor: str, reason: str) -> Incident:
        """A person takes an incident over: nothing is done for it by itself until it is released or closed.

        Raises:
            NotFound: there is no such incident.
            Conflict: it is closed.
        """
        return self._held(incident_id, actor, "incident.hold", reason, actor=actor)

    def release(self, incident_id: str, *, actor: str, reason: str) -> Incident:
        """Hand an incident back; it goes on from where its node is now.

        Raises:
            NotFound: there is no such incident.
            Conflict: it is closed.
        """
        return self._held(incident_id, None, "incident.release", reason, actor=actor)

    def _held(self, incident_id: str, by: str | None, action: str, reason: str, *, actor: str) -> Incident:
        with self._ledger.lock:
            current = self._ledger.open_one(incident_id)
            if current.held_by == by:
                return current
            return self._ledger.change(current, action, {"why": reason}, actor=actor, held_by=by)

    def tick(self) -> None:
        if not self._began:
            # What a crash left open is seen again below, never replayed.
            self._ledger.store.journal.interrupt(self.name, at=self._ledger.clock.now())
            self._began = True
        incidents = [i for i in self._ledger.open() if i.drain in DRAINING_VERDICTS and i.held_by is None]
        if not incidents:
            return
        nodes = {node.name: node for node in self._slurm.nodes()}
        wanted = [i for i in incidents if i.state is IncidentState.SUSPECT or self._failed_probation(i)]
        # A node that is out already does not leave service: the breaker counts it for nothing.
        out_already = [i for i in wanted if i.node in nodes and nodes[i.node].draining]
        leaving = [i for i in wanted if i.node not in nodes or not nodes[i.node].draining]
        drained = self._drain_all([*out_already, *self._within_breaker(leaving, len(nodes))], nodes)
        self._rescue()
        if drained:
            # When many nodes fail at once, those that are out already can wait for those that are not.
            self._again()
            return
        out = [(i, nodes[i.node]) for i in incidents if i.state in _OUT and i.node in nodes]  # an answer may be partial
        for begin in range(0, len(out), SETTLED_AT_ONCE):
            self._settle(out[begin : begin + SETTLED_AT_ONCE])

    # -- Out of service

    def _failed_probation(self, incident: Incident) -> bool:
        if incident.state is not IncidentState.PROBATION:
            return False
        since = on_probation_since(self._ledger.store, incident)
        return since is not None and fault_since(self._ledger.store, incident, since, self._overrides)

    def _within_breaker(self, wanted: Sequence[Incident], nodes: int) -> Sequence[Incident]:
        """Those that may drain their node now; the rest is told of once."""
        if self._settings.shadow:
            return wanted
        allowed = self._breaker.admit([incident.node for incident in wanted], nodes=nodes)
        if len(allowed) < len({incident.node for incident in wanted}):
            stopped_by = self._breaker.stops()
            for incident in wanted:
                if incident.node not in allowed:
                    self._ledger.tell("breaker.open", incident, {"scope": stopped_by(incident.node)})
        return [incident for incident in wanted if incident.node in allowed]

    def _drain_all(self, incidents: Sequence[Incident], nodes: Mapping[NodeName, Node]) -> int:
        """Take nodes out of service for new jobs, those that are not out already. Gives how many that were.

        Many may fail at once: intents are written in one transaction and outcomes in another, and between them are
        calls to Slurm alone. Nodes are read again right before those: somebody else's drain may have come since.
        """
        ours = [incident for incident in incidents if self._is_to_drain(incident, nodes.get(incident.node))]
        if not ours:
            return 0
        with self._ledger.lock, self._ledger.store.transaction():
            effects = [self._ledger.begin("drain", incident.node, _evidence(incident)) for incident in ours]
        nodes = {node.name: node for node in self._slurm.nodes()}
        current = [self._ledger.store.incident(incident.id) for incident in ours]
        still = {i.id for i in current if i and i.held_by is None and i.state is not IncidentState.CLOSED}
        done: set[str] = set()
        away: SlurmUnavailable | None = None
        for incident in ours:
            node = nodes.get(incident.node)
            if node is None or node.draining or incident.id not in still:
                continue  # looked at again on the next tick
            try:
                with self._ledger.one_refusal_stops_one(incident):
                    self._slurm.drain([incident.node], reason_over(node, incident))
                    done.add(incident.id)
            except SlurmUnavailable as error:
                away = error
                break
        with self._ledger.lock, self._ledger.store.transaction():
            for incident, effect in zip(ours, effects, strict=True):
                self._ledger.end(effect, done=incident.id in done)
                if incident.id in done:
                    again = incident.state in _OUT
                    self._drained(incident, DRAINED_AGAIN if again else DRAINED, _evidence(incident))
        if away:
            raise away
        return len(done)

    def _is_to_drain(self, incident: Incident, node: Node | None) -> bool:
        """False when there is nothing to do for us, or not now; that is written down."""
        if node is None:
            self._ledger.tell("node.unknown", incident, {"problem": "Slurm has no such node"})
        elif self._settings.shadow:
            self._ledger.tell("node.would-drain", incident, _evidence(incident))
        elif node.draining and is_reason_of(node.reason, incident):
            self._drained(incident, DRAINED, {"reason": node.reason})  # we were cut off before we wrote so
        elif node.draining:
            self._drained(incident, "node.already-drained", {"kept": node.reason, "rule": incident.rule})
        else:
            return True
        return False

    def _drained(self, incident: Incident, action: str, evidence: Evidence) -> None:
        now = self._ledger.clock.now()  # Slurm may still lose it
        state = None if incident.state in _OUT - _LEAVING else IncidentState.DRAINING
        self._ledger.change(incident, action, evidence, state=state, unproven_since=now)

    def _settle(self, out: Sequence[tuple[Incident, Node]]) -> None:
        """Follow what became of nodes that were drained for incidents: one transaction, then what it asks of Slurm."""
        again, released = list[tuple[Incident, Node]](), list[Incident]()
        emptied = False
        with self._ledger.lock, self._ledger.store.transaction():
            for incident, node in out:
                since = incident.unproven_since
                if not node.out_by_hand and since is not None:
                    again.append((incident, node))
                    continue
                if not node.out_by_hand:
                    why = "The node was put back in service."
                    closed = self._ledger.change(
                        incident, "incident.close", {"why": why}, state=IncidentState.CLOSED, cause=why
                    )
                    if closed.state is IncidentState.CLOSED:
                        released.append(incident)
                    continue
                if since is not None and self._ledger.clock.now() - since >= LOST_WITHIN:
                    self._ledger.note(incident, unproven_since=None)  # outlived the time in which Slurm could lose it
                if node.drained and incident.state is IncidentState.DRAINING:
                    cause = "Nothing runs on the node any more."
                    evidence = {"reason": node.reason}
                    self._ledger.change(incident, "node.drained", evidence, state=IncidentState.DRAINED, cause=cause)
                    emptied = True
        for incident in released:
            self._released(incident)
        if emptied:
            self._settled()
        if again:
            self._drain_all([incident for incident, _ in again], {node.name: node for _, node in again})

    # -- Its jobs

    def _rescue(self) -> None:
        """Bring back the jobs that are lost, and let those that may go on write a checkpoint first."""
        draining = [i for i in self._ledger.open(states=[IncidentState.DRAINING]) if i.held_by is None]
        stopped_by = self._breaker.stops() if draining else None
        draining = [i for i in draining if stopped_by is not None and not stopped_by(i.node)]
        lost = {incident.node: incident for incident in draining if incident.drain is Drain.NOW}
        if self._settings.checkpoint_signal and not self._settings.shadow:
            asked = [incident for incident in draining if incident.node not in lost]
            jobs = self._slurm.jobs() if asked else ()
            lost |= {incident.node: incident for incident in asked if self._waited_for_checkpoints(incident, jobs)}
        if lost and not self._settings.shadow:
            self._recovery.rescue(lost)

    def _waited_for_checkpoints(self, incident: Incident, jobs: Sequence[Job]) -> bool:
        """Ask each job on the node once to write a checkpoint. True when they have had their time for it."""
        asked: dict[tuple[object, object], datetime] = {}
        for entry in self._ledger.store.audit.newest(
            action=ASKED_TO_CHECKPOINT, subject=incident.node, since=incident.opened_at, limit=10_000
        ):
            asked[entry.evidence.get("job"), entry.evidence.get("restarts")] = entry.at
        name = self._settings.checkpoint_signal or ""
        for job in jobs:
            if job.state is not JobState.RUNNING or incident.node not in job.nodes or (job.id, job.restarts) in asked:
                continue
            evidence: Evidence = {"job": job.id, "restarts": job.restarts, "signal": name}
            with self._ledger.one_refusal_stops_one(incident, f"signal {job.id}"):
                with self._ledger.journaled("signal", str(job.id), {"incident": incident.id, **evidence}):
                    self._slurm.signal(job.id, name)
                self._ledger.audit(ASKED_TO_CHECKPOINT, incident, evidence)
                asked[job.id, job.restarts] = self._ledger.clock.now()
        over = self._ledger.clock.now() - self._settings.checkpoint_wait
        return bool(asked) and min(asked.values()) <= over


_LEAVING: Final = frozenset({IncidentState.DRAINING, IncidentState.DRAINED})
_OUT: Final = _LEAVING | {IncidentState.REPAIRING, IncidentState.RMA}
"""States whose nodes are drained or DOWN; during verification a reservation keeps others out."""


def _evidence(incident: Incident) -> Evidence:
    return {"reason": drain_reason(incident), "rule": incident.rule}
