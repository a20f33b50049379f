"""What right-sizing proposes to an applicant of a programme. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

from slurm_gpuaas.domain.applications import Sized
from slurm_gpuaas.domain.calendar import Commitment
from slurm_gpuaas.domain.names import GpuModel, GrantName, PoolGrantId
from slurm_gpuaas.domain.programmes import PoolShare, Programme
from slurm_gpuaas.domain.workloads import Kind, Measured, Workload
from slurm_gpuaas.pool import sizing_figures as known
from slurm_gpuaas.pool.sizing import Offered, Sizing, SizingQuestion, size

FEWEST_DAYS: Final = 7
"""A grant that has run for less says little about how it is used."""
LEAST_PART: Final = 0.0001
"""Stands for 0: parts of a measurement are above it."""
DAY_HOURS: Final = 24


@dataclass(frozen=True, slots=True)
class Proposal:
    """Attributes:
    model: the one whose sizing is proposed: of several the one that needs the most GPUs, since any may be awarded.
    counts: what each model needs.
    """

    model: GpuModel
    sizing: Sizing
    counts: Mapping[GpuModel, int]


def propose(
    workload: Workload, models: Sequence[GpuModel], *, days: int, measured: Sequence[Measured], offered: Offered
) -> Proposal:
    """
    Args:
        models: those that the applicant would take; not empty.

    Raises:
        ValidationError: of a model too little is known, or it does not have the precision.
        Refused: the memory needs more GPUs than are offered.
    """
    sizings = {model: _sized(workload, model, days, measured, offered) for model in models}
    model = max(sizings, key=lambda one: sizings[one].gpus)  # the first named of equals
    return Proposal(model, sizings[model], {one: sizing.gpus for one, sizing in sizings.items()})


def of_application(sized: Sized, *, days: int, offered: Offered) -> Sizing:
    """How the proposal of an application came about.

    Raises: as `propose`.
    """
    return _sized(sized.workload, sized.model, days, sized.measured, offered)


def _sized(workload: Workload, model: GpuModel, days: int, measured: Sequence[Measured], offered: Offered) -> Sizing:
    asked = {name: getattr(workload, name) for name in Workload.model_fields}
    return size(
        SizingQuestion.model_validate(
            {**asked, "model": model, "period_days": days, "measured": tuple(measured), "offered": offered}
        )
    )


def models_of(programme: Programme, model: GpuModel | None, kind: Kind) -> tuple[GpuModel, ...]:
    """What to size for: the model asked for, else all of the programme's that figures are known of."""
    if model is not None:
        return (model,)
    return tuple(one for one in programme.models if kind is Kind.OTHER or one in known.GPUS) or programme.models


def offered_by(programme: Programme, shares: Iterable[PoolShare]) -> Offered:
    """The programme's sizes, up to the largest that one of its shares could hold: a grant lies in one share.

    Args:
        shares: any; only the programme's count.
    """
    room = max((one.capacity for one in shares if one.name in programme.shares), default=0)
    room = min(room, programme.caps.per_project or room)
    largest = max(programme.sizes)
    if programme.beyond is not None and room // programme.beyond * programme.beyond > largest:
        most = room // programme.beyond * programme.beyond
    else:
        most = max((one for one in programme.sizes if one <= room), default=largest)
    return Offered(sizes=programme.sizes, step=programme.beyond or largest, most=most)


def measured_use(grant: PoolGrantId, held: Iterable[Commitment], used_seconds: int, until: date) -> Measured | None:
    """What part of its GPU time a grant had jobs on; None: nothing was reported of it, or it has hardly begun.

    Args:
        held: what the grant held, of the calendar; GPUs taken back do not count from their day on.
        used_seconds: GPU-seconds of jobs on its own GPUs, borrowed ones left out.
        until: the day that is not over yet.
    """
    spans = [(one.gpus, (min(one.ends, _before(until)) - one.starts).days + 1) for one in held]
    hours = sum(gpus * days * DAY_HOURS for gpus, days in spans if days > 0)
    if used_seconds <= 0 or sum(days for _, days in spans if days > 0) < FEWEST_DAYS:
        return None
    part = used_seconds / (hours * 3_600)
    return Measured(grant=GrantName(grant), gpu_hours=hours, allocated=min(max(part, LEAST_PART), 1.0))


def _before(day: date) -> date:
    return date.fromordinal(day.toordinal() - 1)
