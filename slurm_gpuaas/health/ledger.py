"""Writing down what happens to incidents: state, step of the node's life, audit entry and journal, in one way for all
who act on them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import structlog

from slurm_gpuaas.domain.audit import AuditEntry
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.errors import Conflict, GpuaasError, NotFound
from slurm_gpuaas.domain.incidents import OPEN_STATES, TRANSITIONS, Incident, IncidentState, Transition
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.slurm.protocols import SlurmRefused
from slurm_gpuaas.store import Store
from slurm_gpuaas.store.journal import EffectId

ACTOR: Final = "gpuaasd/health"
CONTROLLER: Final = "health"
"""Name in the journal of effects."""

Evidence = Mapping[str, str | int | float | bool | None]

log = structlog.get_logger(__name__)


class IncidentLedger:
    """Incidents in the store. `lock` makes reading an incident and writing it back one step: reports arrive while a
    tick is under way."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.store = store
        self.clock = clock
        self.lock = threading.RLock()
        self._told: set[tuple[str, str]] = set()

    def open(
        self, node: NodeName | None = None, *, states: Iterable[IncidentState] = OPEN_STATES
    ) -> Sequence[Incident]:
        """Incidents that are not closed (or in these states), oldest first; of one node or of all."""
        return self.store.incidents(node=node, states=states, limit=100_000)[::-1]

    def get(self, incident_id: str) -> Incident:
        """Raises:
        NotFound: there is no such incident.
        """
        found = self.store.incident(incident_id)
        if found is None:
            raise NotFound(f"There is no incident {incident_id:.60}.", way_out="`gpuaas incident list` shows them.")
        return found

    def open_one(self, incident_id: str) -> Incident:
        """
        Raises:
            NotFound: there is no such incident.
            Conflict: it is closed.
        """
        found = self.get(incident_id)
        if found.state is IncidentState.CLOSED:
            raise Conflict(
                f"Incident {found.id} of {found.node} is closed.", way_out=f"gpuaas incident list --node {found.node}"
            )
        return found

    def put_new(self, incident: Incident, evidence: Evidence) -> None:
        """An incident that was just opened."""
        with self.lock, self.store.transaction():
            self.store.put_incident(incident)
            self._step(incident, None, incident.rule, ACTOR)
            self.audit("incident.open", incident, evidence)

    def change(
        self,
        incident: Incident,
        action: str,
        evidence: Evidence,
        *,
        state: IncidentState | None = None,
        cause: str = "",
        actor: str = ACTOR,
        **fields: Any,
    ) -> Incident:
        """Write changed fields and, when given, a new state; with the audit entry `action`, all or nothing.

        A state follows only the one that the caller saw: what moved on meanwhile is left as it is, and so is what was
        closed. Gives the incident as it is in the store now.

        Raises:
            Conflict: that state cannot follow.

        Args:
            cause: why the state changes; the headline when empty.
            fields: of the incident.
        """
        now = self.clock.now()
        with self.lock, self.store.transaction():
            current = self.store.incident(incident.id) or incident
            closed = current.state is IncidentState.CLOSED
            if state is not None and not closed and current.state is not incident.state:
                return current
            target = current.state if closed or state is None else state
            if target is not current.state and target not in TRANSITIONS[current.state]:
                raise Conflict(
                    f"Incident {incident.id} is {current.state}, from where it cannot become {target}.",
                    way_out="`gpuaas incident show` says where it stands.",
                )
            changes: dict[str, Any] = {**fields, "state": target, "updated_at": now}
            if target is IncidentState.CLOSED and not closed:
                changes["closed_at"] = now
            changed = current.model_copy(update=changes)
            self.store.put_incident(changed)
            if target is not current.state:
                self._step(changed, current.state, cause or incident.headline, actor)
            self.audit(action, changed, evidence, actor=actor)
        log.info(action, incident=incident.id, node=incident.node, headline=incident.headline, **evidence)
        return changed

    def note(self, incident: Incident, **fields: Any) -> None:
        """Write fields that nobody needs to be told of."""
        with self.lock, self.store.transaction():
            current = self.store.incident(incident.id) or incident
            self.store.put_incident(current.model_copy(update=fields))

    def tell(self, action: str, incident: Incident, evidence: Evidence, *, key: str = "") -> None:
        """Write an audit entry once for an incident (and key) and run of the daemon, not once a tick."""
        if (action + key, incident.id) in self._told:
            return
        self._told.add((action + key, incident.id))
        self.audit(action, incident, evidence)
        log.warning(action, incident=incident.id, node=incident.node, headline=incident.headline, **evidence)

    def audit(self, action: str, incident: Incident, evidence: Evidence, *, actor: str = ACTOR) -> None:
        self.store.audit.append(
            AuditEntry(
                at=self.clock.now(),
                actor=actor,
                action=action,
                subject=incident.node,
                reason=incident.headline,
                evidence={"incident": incident.id, **evidence},
            )
        )

    def begin(self, kind: str, subject: str, detail: Evidence) -> EffectId:
        """Write down an effect on Slurm or a node before it starts; `end` it."""
        return self.store.journal.intend(
            controller=CONTROLLER, kind=kind, subject=subject, at=self.clock.now(), detail=detail
        )

    def end(self, effect: EffectId, *, done: bool) -> None:
        self.store.journal.close(effect, outcome="done" if done else "failed", at=self.clock.now())

    @contextmanager
    def journaled(self, kind: str, subject: str, detail: Evidence) -> Iterator[None]:
        """Around one effect."""
        effect = self.begin(kind, subject, detail)
        try:
            yield
        except GpuaasError:
            self.end(effect, done=False)
            raise
        self.end(effect, done=True)

    @contextmanager
    def one_refusal_stops_one(self, incident: Incident, key: str = "") -> Iterator[None]:
        """Slurm's refusal of one write must not keep the others waiting; that it cannot be reached stops the tick."""
        try:
            yield
        except SlurmRefused as refusal:
            self.tell("slurm.refused", incident, {"refusal": refusal.message, "subject": key or None}, key=key)

    def _step(self, incident: Incident, before: IncidentState | None, cause: str, actor: str) -> None:
        self.store.add_transition(
            Transition(
                incident=incident.id,
                node=incident.node,
                at=self.clock.now(),
                before=before,
                after=incident.state,
                cause=cause[:500],
                actor=actor,
            )
        )
