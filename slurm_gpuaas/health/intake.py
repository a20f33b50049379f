"""Taking reports of node agents: events are written down once, and open or join incidents."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.gpus import GpuIdentity
from slurm_gpuaas.domain.incidents import IncidentState, NodeEvent
from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.health.incidents import fold
from slurm_gpuaas.health.ledger import IncidentLedger
from slurm_gpuaas.health.triage import triage


class Intake:
    """Args:
    jobs_on: jobs that run on a node as last read; asked once a report with events.
    wake: called when an incident was opened or got worse, so that acting on it need not wait for the next tick.
    """

    def __init__(
        self,
        ledger: IncidentLedger,
        *,
        jobs_on: Callable[[NodeName], Sequence[JobId]] = lambda node: (),
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._ledger = ledger
        self._jobs_on = jobs_on
        self._wake = wake

    def ingest(self, node: NodeName, events: Sequence[NodeEvent], *, gpus: Sequence[GpuIdentity] | None = None) -> int:
        """Take an agent's report; safe to repeat. Gives how many of the events are in the store now: all of them.

        Args:
            gpus: what sits in the node, where the agent says so.

        Raises:
            InvalidInput: an event is of another node than the one that signed the report.
        """
        for event in events:
            if event.node != node:
                raise InvalidInput(f"Node {node} reported an event of node {event.node}.")
        if gpus is not None:
            self._ledger.store.put_gpus(node, gpus, at=self._ledger.clock.now())
        if events:
            jobs = self._jobs_on(node)
            with self._ledger.lock:
                worse = self._record(node, events, jobs)
            if worse:
                self._wake()
        return len(events)

    def _record(self, node: NodeName, events: Sequence[NodeEvent], jobs: Sequence[JobId]) -> bool:
        """Write down events and the incidents they join or open, all or nothing. True when an incident got worse."""
        store, now = self._ledger.store, self._ledger.clock.now()
        with store.transaction():
            before = {incident.id: incident for incident in self._ledger.open(node)}
            after = dict(before)
            for event in events:
                if not store.add_event(event, received_at=now, jobs=jobs):
                    continue
                verdict = triage(event)
                incident = fold(tuple(after.values()), event, verdict, now)
                if incident is None:
                    continue
                if incident.id not in after:
                    evidence = {"event": event.event_id, "rule": verdict.rule, "line": event.evidence}
                    self._ledger.put_new(incident, evidence)
                after[incident.id] = incident
            changed = [incident for incident in after.values() if incident != before.get(incident.id)]
            for incident in changed:
                store.put_incident(incident)
        probation = IncidentState.PROBATION
        return any(i.id not in before or before[i.id].drain is not i.drain or i.state is probation for i in changed)
