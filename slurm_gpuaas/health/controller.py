"""From open incidents to drained nodes, and what follows.

`tick` is level-triggered: it looks at incidents, nodes and jobs as they are, so it may be cut off anywhere and runs
again.

A drain reason that is not ours is never overwritten. A node that somebody put back in service stays there: its incident
is closed, not drained again. But a slurmctld that crashes forgets what it was told last, a drain as well. So a node
that is not draining any more counts as put back only once it was seen draining `LOST_WITHIN` after its drain; before
that it is drained again. Who wants it back earlier closes the incident.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog

from slurm_gpuaas.domain.incidents import Drain, Incident, IncidentState
from slurm_gpuaas.domain.nodes import Node
from slurm_gpuaas.health.incidents import DRAINING_VERDICTS, drain_reason, is_reason_of
from slurm_gpuaas.health.ledger import CONTROLLER, Evidence, IncidentLedger
from slurm_gpuaas.health.recovery import Recovery
from slurm_gpuaas.slurm.protocols import Controller

DRAINED: Final = "node.drain"
"""Audit action of a node that we drained; the circuit breaker counts them."""
DRAINED_AGAIN: Final = "node.drain-again"
"""Audit action of a node whose drain Slurm had lost. The circuit breaker let it through once already."""
LOST_WITHIN: Final = timedelta(minutes=1)
"""slurmctld writes what it was told to its disk after 5 s at most (SAVE_MAX_WAIT), however long it is away later on."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthSettings:
    """`shadow` records every decision and does nothing to Slurm. The circuit breaker lets no more than `max_drains`
    nodes leave service within `drain_window`; further ones wait until the window has moved on."""

    shadow: bool = False
    max_drains: int = 16
    drain_window: timedelta = timedelta(minutes=10)


class HealthController:
    """Args:
    slurm: its readings must be fresh: whose drain a node carries is decided on them.
    """

    name = CONTROLLER

    def __init__(
        self, *, slurm: Controller, ledger: IncidentLedger, recovery: Recovery, settings: HealthSettings
    ) -> None:
        self._slurm = slurm
        self._ledger = ledger
        self._recovery = recovery
        self._settings = settings
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
            return self._ledger.change(
                current, "incident.close", {"why": reason}, state=IncidentState.CLOSED, cause=reason, actor=actor
            )

    def tick(self) -> None:
        if not self._began:
            # What a crash left open is seen again below, never replayed.
            self._ledger.store.journal.interrupt(self.name, at=self._ledger.clock.now())
            self._began = True
        incidents = self._ledger.open()
        if not any(incident.drain in DRAINING_VERDICTS for incident in incidents):
            return
        nodes = {node.name: node for node in self._slurm.nodes()}
        for incident in incidents:
            if incident.state is not IncidentState.SUSPECT:
                self._settle(incident, nodes.get(incident.node))
        wanted = [i for i in incidents if i.state is IncidentState.SUSPECT and i.drain in DRAINING_VERDICTS]
        for incident in self._within_breaker(wanted):
            with self._ledger.one_refusal_stops_one(incident):
                self._drain(incident, nodes.get(incident.node))
        lost = {
            incident.node: incident
            for incident in self._ledger.open()
            if incident.drain is Drain.NOW and incident.state is IncidentState.DRAINING
        }
        if lost:
            self._recovery.rescue(lost)

    def _drain(self, incident: Incident, node: Node | None) -> None:
        """Take the node out of service for new jobs, unless it is out already."""
        current = self._ledger.store.incident(incident.id)
        if current is not None and current.state is IncidentState.CLOSED:
            return  # a person closed it while the tick was under way
        reason = drain_reason(incident)
        if node is None:
            self._ledger.tell("node.unknown", incident, {"problem": "Slurm has no such node"})
        elif self._settings.shadow:
            self._ledger.tell("node.would-drain", incident, {"reason": reason, "rule": incident.rule})
        elif is_reason_of(node.reason, incident) and node.draining:
            # We had drained it and were cut off before we wrote so.
            self._drained(incident, DRAINED, {"reason": node.reason})
        elif node.draining:
            self._drained(incident, "node.already-drained", {"kept": node.reason, "rule": incident.rule})
        else:
            with self._ledger.journaled("drain", incident.node, {"incident": incident.id, "reason": reason}):
                self._slurm.drain([incident.node], reason)
            again = incident.state is not IncidentState.SUSPECT
            self._drained(incident, DRAINED_AGAIN if again else DRAINED, {"reason": reason, "rule": incident.rule})

    def _drained(self, incident: Incident, action: str, evidence: Evidence) -> None:
        now = self._ledger.clock.now()  # Slurm may still lose it
        self._ledger.change(incident, action, evidence, state=IncidentState.DRAINING, unproven_since=now)

    def _settle(self, incident: Incident, node: Node | None) -> None:
        """Follow what became of a node that was drained for an incident."""
        if node is None:
            return  # a partial answer of Slurm must not close anything
        since = incident.unproven_since
        if not node.draining and since is not None:
            with self._ledger.one_refusal_stops_one(incident):
                self._drain(incident, node)
            return
        if not node.draining:
            why = "The node was put back in service."
            self._ledger.change(incident, "incident.close", {"why": why}, state=IncidentState.CLOSED, cause=why)
            return
        if since is not None and self._ledger.clock.now() - since >= LOST_WITHIN:
            self._ledger.note(incident, unproven_since=None)  # the drain has outlived the time Slurm could lose it
        if node.drained and incident.state is IncidentState.DRAINING:
            cause = "Nothing runs on the node any more."
            self._ledger.change(
                incident, "node.drained", {"reason": node.reason}, state=IncidentState.DRAINED, cause=cause
            )

    def _within_breaker(self, wanted: Sequence[Incident]) -> Sequence[Incident]:
        """As many incidents as may drain a node now; the rest is told of once."""
        since = self._ledger.clock.now() - self._settings.drain_window
        most = self._settings.max_drains
        drained = len(self._ledger.store.audit.newest(action=DRAINED, since=since, limit=most)) if wanted else 0
        room = most - drained
        for incident in wanted[room:]:
            minutes = self._settings.drain_window.total_seconds() / 60
            evidence = {"drained": drained, "max_drains": most, "window_minutes": minutes}
            self._ledger.tell("breaker.open", incident, evidence)
        return wanted[:room]
