"""Moves running jobs: notes the new nodes in each job, then requeues it; the placement gate does the rest.

All notes are written before the first requeue: a job that takes none (it ended, say) stops the whole before anything is
lost. A note without its requeue, after a crash in between, means nothing ten minutes later. A requeue carries the
restart count that was seen, so no job is moved twice. The gate does not look between two requeues. See
docs/design/0016-defragmentation.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import structlog

from slurm_gpuaas.domain.audit import AuditEntry
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.errors import Conflict
from slurm_gpuaas.domain.jobs import Job
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.policy import fold_nodes
from slurm_gpuaas.jobs.gate import AuditTrail
from slurm_gpuaas.jobs.gate_rules import Move
from slurm_gpuaas.jobs.move_rules import loss
from slurm_gpuaas.slurm.protocols import Controller, SlurmRefused
from slurm_gpuaas.slurm.records import JobChange

AGAIN = "Plan again, from what is so now."

log = structlog.get_logger(__name__)


class Mover:
    """Args:
    requeued: called when jobs were requeued, so that the gate looks at once.
    quiet: keeps the gate from looking while it is held: it would send a job whose new nodes another one is yet to
        leave back to its old ones.
    """

    def __init__(
        self,
        *,
        slurm: Controller,
        audit: AuditTrail,
        clock: Clock,
        requeued: Callable[[], None] = lambda: None,
        quiet: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self._slurm = slurm
        self._audit = audit
        self._clock = clock
        self._requeued = requeued
        self._quiet = quiet

    def carry_out(
        self, moves: Sequence[tuple[Job, Sequence[NodeName]]], *, room: Sequence[NodeName], actor: str
    ) -> None:
        """Move each job to its nodes, in this order.

        Raises:
            Conflict: Slurm would not have it; says how many jobs have moved.
        """
        now = self._clock.now()
        for job, to in moves:
            note = Move(nodes=frozenset(to), restarts=job.restarts, at=now)
            try:
                self._slurm.update_job(job.id, JobChange(admin_comment=note.written_to(job.admin_comment)))
            except SlurmRefused as refusal:
                raise Conflict(f"Job {job.id} cannot move, so none did: {refusal.message}", way_out=AGAIN) from None
        try:
            with self._quiet():
                self._requeue(moves, room=room, actor=actor)
        finally:
            self._requeued()

    def _requeue(
        self, moves: Sequence[tuple[Job, Sequence[NodeName]]], *, room: Sequence[NodeName], actor: str
    ) -> None:
        for done, (job, to) in enumerate(moves):
            self._record(job, to, room=room, actor=actor)
            try:
                self._slurm.requeue(job.id, restarts=job.restarts)
            except SlurmRefused as refusal:
                raise Conflict(
                    f"{done} of {len(moves)} jobs moved; job {job.id} was not requeued: {refusal.message}",
                    way_out=AGAIN,
                ) from None
            log.info("move.requeued", job=job.id, to=fold_nodes(to), by=actor)

    def _record(self, job: Job, to: Sequence[NodeName], *, room: Sequence[NodeName], actor: str) -> None:
        now = self._clock.now()
        self._audit.append(
            AuditEntry(
                at=now,
                actor=actor,
                action="job.move",
                subject=str(job.id),
                reason=f"To make room on {fold_nodes(room)}.",
                evidence={
                    "user": job.user,
                    "gpus": job.gpus,
                    "restarts": job.restarts,
                    "from": fold_nodes(job.nodes),
                    "to": fold_nodes(to),
                    "lost_gpu_seconds": loss(job, now),
                },
            )
        )
