"""Bringing back the jobs that a fault has cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from slurm_gpuaas.domain.incidents import Incident
from slurm_gpuaas.domain.jobs import JobState
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.health.ledger import Evidence, IncidentLedger
from slurm_gpuaas.slurm.protocols import Controller


class Recovery:
    """Requeues what runs on nodes whose fault has cost the jobs already. They were drained first, so jobs land
    elsewhere.

    Args:
        requeued: called when jobs were requeued: whoever places them need not wait for its next turn.
    """

    def __init__(
        self, *, slurm: Controller, ledger: IncidentLedger, requeued: Callable[[], None] = lambda: None
    ) -> None:
        self._slurm = slurm
        self._ledger = ledger
        self._requeued = requeued

    def rescue(self, lost: Mapping[NodeName, Incident]) -> None:
        """Args:
        lost: nodes whose jobs cannot go on, with the incident that says so.
        """
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
                why = {**evidence, "why": "submitted with --no-requeue"}
                self._ledger.tell("job.left", incident, why, key=str(job.id))
                continue
            with self._ledger.one_refusal_stops_one(incident, str(job.id)):
                with self._ledger.journaled("requeue", str(job.id), {"incident": incident.id, "node": incident.node}):
                    self._slurm.requeue(job.id, restarts=job.restarts)
                self._requeued()
                jobs = self._ledger.get(incident.id).requeued_jobs
                self._ledger.change(
                    incident, "job.requeue", evidence, requeued_jobs=jobs if job.id in jobs else (*jobs, job.id)
                )
