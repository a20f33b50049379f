"""Nodes for a job that lost some of its own: given in the gate's way, so that the gate knows them for promised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from slurm_gpuaas.domain.jobs import Job, JobId
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.jobs.gate_rules import Pin, asks, promised, without_gate, without_pin
from slurm_gpuaas.slurm.records import JobChange


class GatePins:
    def promised(self, jobs: Sequence[Job]) -> Mapping[JobId, frozenset[NodeName]]:
        """Nodes that waiting jobs were given and are about to start on."""
        return promised(jobs)

    def are_ours(self, job: Job) -> bool:
        """Whether the nodes that the job asks for are those that we gave it, not its user's wish."""
        return Pin.of(job) is not None

    def put(self, job: Job, nodes: Sequence[NodeName], now: datetime) -> JobChange:
        """The change that gives a waiting job these nodes; what its user excluded stays excluded."""
        pin = Pin(nodes=frozenset(nodes), restarts=job.restarts, at=now)
        return JobChange(
            required_nodes=tuple(nodes),
            licenses=without_gate(job.licenses) if asks(job) else None,
            admin_comment=pin.written_to(job.admin_comment),
        )

    def take(self, job: Job) -> JobChange:
        """The change that takes back what `put` gave."""
        return JobChange(required_nodes=(), admin_comment=without_pin(job.admin_comment))
