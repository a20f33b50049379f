"""What the API says of room for jobs: capacity values for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from slurm_gpuaas.api.models import CapacityLevel, CapacityPoint, CapacityView, SizeCount
from slurm_gpuaas.domain.capacity import Capacity, CapacitySample, Largest


def capacity_view(found: Capacity, history: Sequence[CapacitySample]) -> CapacityView:
    fields = asdict(found) | {
        "largest": tuple(map(level_view, found.largest)),
        "segments": _counts(found.segments),
        "gpus_on_nodes": _counts(found.gpus_on_nodes),
        "history": tuple(CapacityPoint.model_validate(sample, from_attributes=True) for sample in history),
    }
    return CapacityView(**fields)


def level_view(largest: Largest) -> CapacityLevel:
    return CapacityLevel.model_validate(largest, from_attributes=True)


def _counts(counts: Mapping[int, int]) -> tuple[SizeCount, ...]:
    return tuple(SizeCount(size=size, count=count) for size, count in counts.items())
