"""Who gives way to a waiting job, as a value: what the quota core rules and the placement gate carries out."""

from __future__ import annotations

from dataclasses import dataclass

from slurm_gpuaas.domain.jobs import JobId


@dataclass(frozen=True, slots=True, kw_only=True)
class GivingWay:
    """The ruling about one waiting guaranteed job.

    Args:
        waits: it could not start now: its guarantee is in use, or its project's own burst jobs, which Slurm would not
            preempt for it, fill its project's ceiling and have to go first.
        victims: burst jobs that give way to it; none when there is room, or when nobody can make room.
        why: one sentence for people.
    """

    job: JobId
    waits: bool = False
    victims: tuple[JobId, ...] = ()
    why: str
