"""What the API says of jobs, their placement and the room for them: the core's values for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from slurm_gpuaas.api.models import (
    CapacityLevel,
    CapacityPoint,
    CapacityView,
    JobRoom,
    JobWhy,
    PlacementView,
    QuotaExplanation,
    SizeCount,
)
from slurm_gpuaas.domain.capacity import Capacity, CapacitySample, Largest
from slurm_gpuaas.domain.jobs import Job, JobPlacement
from slurm_gpuaas.domain.policy import fold_nodes
from slurm_gpuaas.jobs import why


def placement_view(placement: JobPlacement) -> PlacementView:
    return PlacementView(
        job=placement.job_id,
        restarts=placement.restarts,
        decided_at=placement.decided_at,
        outcome=placement.outcome,
        nodes=fold_nodes(placement.nodes) if placement.nodes else "",
        leaf_groups=placement.leaf_groups,
        cost=placement.cost,
        runner_up_cost=placement.runner_up_cost,
        reason=placement.reason,
    )


def job_why_view(
    job: Job,
    placement: JobPlacement | None,
    *,
    room: why.Room | None = None,
    capacity: Capacity | None = None,
    quota: QuotaExplanation | None = None,
    untold: Sequence[str] = (),
) -> JobWhy:
    """`untold`: what could not be found out, in sentences."""
    return JobWhy(
        job=job.id,
        user=job.user,
        state=job.state,
        reason=job.reason,
        partition=job.partition,
        gpus=job.gpus,
        nodes=fold_nodes(job.nodes) if job.nodes else "",
        says=(*why.sentences(job, placement, room, capacity), *untold),
        way_out=why.way_out(job, placement),
        placement=None if placement is None else placement_view(placement),
        room=None if room is None else JobRoom(**asdict(room), missing=room.missing),
        largest=() if capacity is None else tuple(map(_level, capacity.largest)),
        quota=quota,
    )


def capacity_view(found: Capacity, history: Sequence[CapacitySample]) -> CapacityView:
    fields = asdict(found) | {
        "largest": tuple(map(_level, found.largest)),
        "segments": _counts(found.segments),
        "gpus_on_nodes": _counts(found.gpus_on_nodes),
        "history": tuple(CapacityPoint.model_validate(sample, from_attributes=True) for sample in history),
    }
    return CapacityView(**fields)


def _level(largest: Largest) -> CapacityLevel:
    return CapacityLevel.model_validate(largest, from_attributes=True)


def _counts(counts: Mapping[int, int]) -> tuple[SizeCount, ...]:
    return tuple(SizeCount(size=size, count=count) for size, count in counts.items())
