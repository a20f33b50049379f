"""How many GPUs a declared workload needs, and how that was worked out. Pure.

    GPUs = FLOPs / (dense peak x MFU x effective training time x part of the period in use x seconds of the period)

with what was measured of the applicant's earlier grants in place of assumptions, never below what the memory needs, and
rounded up to a size that is offered. The answer is an interval: most of its factors are known to a tenth or two. Every
factor comes with its source (`sizing_figures`). It proposes; people award.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import ceil
from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from slurm_gpuaas.domain.errors import InvalidInput, Refused
from slurm_gpuaas.domain.names import GpuModel
from slurm_gpuaas.domain.policy import MOST_GPUS
from slurm_gpuaas.domain.stages import Noun
from slurm_gpuaas.domain.told import Told, told
from slurm_gpuaas.domain.workloads import Kind, Measured, Workload
from slurm_gpuaas.pool import sizing_figures as known
from slurm_gpuaas.pool.sizing_figures import Range

DAY_SECONDS: Final = 86_400


class Offered(Noun):
    """Sizes of the programme: `sizes` and, above the largest, multiples of `step`, up to `most`; single GPUs up to
    `singles`."""

    sizes: tuple[Annotated[int, Field(ge=1, le=MOST_GPUS)], ...] = Field(default=(8, 16, 32, 64), max_length=50)
    step: int = Field(default=64, ge=1, le=MOST_GPUS)
    most: int = Field(default=256, ge=1, le=MOST_GPUS)
    singles: int = Field(default=0, ge=0, le=MOST_GPUS)

    def up(self, gpus: float) -> int:
        """The least size that is offered and holds so many; `most` where none does."""
        least = max(1, ceil(gpus))
        if least <= min(self.singles, self.most):
            return least
        fitting = [size for size in self.sizes if size >= least]
        return min(min(fitting) if fitting else ceil(least / self.step) * self.step, self.most)


class SizingQuestion(Workload):
    """A workload, what was measured before, and what is offered."""

    model: GpuModel
    period_days: int = Field(ge=1, le=1100)
    measured: tuple[Measured, ...] = Field(default=(), max_length=1000)
    offered: Offered = Offered()

    @model_validator(mode="after")
    def _gpu_is_known(self) -> Self:
        if self.kind is Kind.OTHER:
            return self
        if self.model not in known.GPUS:
            raise InvalidInput(
                told("No peak of model {model} is known.", model=self.model),
                way_out=told("Known are {models}.", models=", ".join(sorted(known.GPUS))),
            )
        if self.precision not in known.GPUS[self.model].peak:
            raise InvalidInput(
                told("A {model} has no {precision}.", model=self.model, precision=self.precision),
                way_out=told("Choose another precision."),
            )
        return self


class Origin(StrEnum):
    DECLARED = "declared"
    MEASURED = "measured"
    READ = "read"
    ASSUMED = "assumed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One factor. `low` and `high` equal `value` where it is taken for exact."""

    name: str
    value: float
    unit: str
    origin: Origin
    source: str
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """Attributes:
    gpus: proposed: the likely number, rounded up to a size that is offered.
    low, high: the same of the best and of the worst factors.
    least: what the memory needs.
    exact: GPUs before rounding: at best, likely, at worst.
    """

    gpus: int
    low: int
    high: int
    least: int
    exact: tuple[float, float, float]
    formula: str
    figures: tuple[Figure, ...]
    steps: tuple[Told, ...]
    cautions: tuple[Told, ...]


FORMULA: Final = "GPUs = FLOPs / (peak x MFU x ETTR x in use x seconds)"
FORMULA_HOURS: Final = "GPUs = GPU-hours / (in use x hours)"


def size(question: SizingQuestion) -> Sizing:
    """
    Raises:
        Refused: the memory needs more GPUs than are offered, or more than one where state is not spread.
    """
    in_use = _measured(question.measured, lambda one: one.allocated, known.ALLOCATED, lowest=known.ALLOCATED.low)
    figures: list[Figure] = []
    if question.kind is Kind.OTHER:
        hours = 24.0 * question.period_days
        asked = question.gpu_hours or 0.0
        exact = tuple(asked / (part * hours) for part in (in_use[0].high, in_use[0].likely, in_use[0].low))
        figures += [_declared("GPU-hours", asked, "GPU-hours"), _ranged("in use", in_use)]
        steps = [
            told(
                "{hours} GPU-hours in {days} days with {use} % of them in use need {likely} GPUs ({low} to {high}).",
                hours=round(asked),
                days=question.period_days,
                use=round(100 * in_use[0].likely),
                likely=_shown(exact[1]),
                low=_shown(exact[0]),
                high=_shown(exact[2]),
            )
        ]
        return _answer(question, (exact[0], exact[1], exact[2]), 1, FORMULA_HOURS, figures, steps)
    needed, work, steps = _by_flops(question, in_use)
    least, memory, told_memory = _by_memory(question)
    return _answer(question, needed, least, FORMULA, [*work, *memory], [*steps, told_memory])


_Known = tuple[Range, Origin]
"""A figure's range, and whether it was measured."""


def _by_flops(question: SizingQuestion, in_use: _Known) -> tuple[tuple[float, float, float], list[Figure], list[Told]]:
    kind, gpu = question.kind, known.GPUS[question.model]
    parameters, tokens = question.parameters or 0.0, question.tokens or 0.0
    active = question.active_parameters or parameters
    passes, passes_source, passes_checked = known.PASSES[kind]
    attention = 4.0 * (question.layers or 0) * (question.width or 0) * question.sequence_length
    peak_over_mean = question.peak_over_mean if kind is Kind.INFERENCE else 1.0
    flops = passes * (known.FORWARD * active + attention) * tokens * peak_over_mean
    peak = gpu.peak[question.precision]
    mfu = _mfu(question)
    if kind is Kind.INFERENCE:
        ettr = in_use = (known.ALWAYS, Origin.ASSUMED)
    else:
        ettr = _measured(question.measured, lambda one: one.ettr, known.ETTR, lowest=0.5)
    seconds = float(question.period_days * DAY_SECONDS)

    def gpus(of: Callable[[Range], float]) -> float:
        return flops / (peak * of(mfu[0]) * of(ettr[0]) * of(in_use[0]) * seconds)

    exact = gpus(lambda one: one.high), gpus(lambda one: one.likely), gpus(lambda one: one.low)
    figures = [
        _declared("active parameters", active, "parameters"),
        _declared("tokens", tokens, "tokens"),
        _fixed("passes", passes, "forward passes", Origin(passes_checked), f"{passes_source}; {known.FLOPS_SOURCE}"),
        _fixed("peak", peak, "FLOP/s, dense", Origin(gpu.checked), gpu.source),
        _ranged("MFU", mfu),
        _ranged("ETTR", ettr),
        _ranged("in use", in_use),
        _declared("period", seconds, "s"),
    ]
    if attention:
        figures.append(_fixed("attention", attention, "FLOPs per token", Origin.READ, known.ATTENTION_SOURCE))
    if kind is Kind.INFERENCE:
        figures.append(_declared("peak over mean", peak_over_mean, ""))
    steps = [
        told(
            "{passes} x 2 FLOPs x {parameters} parameters x {tokens} tokens, with attention and peaks as named, are "
            "{flops} FLOPs.",
            passes=f"{passes:g}",
            parameters=_brief(active),
            tokens=_brief(tokens),
            flops=f"{flops:.3g}",
        ),
        told(
            "One {model} does {peak} TFLOP/s in {precision}, dense; of it {mfu} % are reached, {ettr} % of that time "
            "is effective, and jobs run in {use} % of the period.",
            model=question.model,
            peak=round(peak / 1e12),
            precision=question.precision,
            mfu=round(100 * mfu[0].likely),
            ettr=round(100 * ettr[0].likely),
            use=round(100 * in_use[0].likely),
        ),
        told(
            "In {days} days that needs {likely} GPUs ({low} to {high}).",
            days=question.period_days,
            likely=_shown(exact[1]),
            low=_shown(exact[0]),
            high=_shown(exact[2]),
        ),
    ]
    return exact, figures, steps


def _mfu(question: SizingQuestion) -> _Known:
    """Measured in the same precision, else assumed; never above the part of the time in which GPUs were busy at all."""
    assumed = known.MFU[question.kind][question.precision]
    if question.active_parameters is not None and question.active_parameters < (question.parameters or 0.0):
        by, source = known.MOE_MFU, f"{assumed.source}; {known.MOE_SOURCE}"
        assumed = Range(assumed.low * by, assumed.likely * by, assumed.high * by, source, known.Checked.ASSUMED)
    same = [one for one in question.measured if one.precision is question.precision]
    found, origin = _measured(same, lambda one: one.mfu, assumed, lowest=known.LOWEST_MFU)
    busy = _mean([(one.busy, one.gpu_hours) for one in question.measured])
    if busy is None or busy >= found.high:
        return found, origin
    most = max(busy, known.LOWEST_MFU)
    source = f"{found.source}; no more than the {100 * busy:.0f} % of the time in which GPUs were busy"
    return Range(min(found.low, most), min(found.likely, most), min(found.high, most), source, found.checked), origin


def _by_memory(question: SizingQuestion) -> tuple[int, list[Figure], Told]:
    gpu, parameters = known.GPUS[question.model], question.parameters or 0.0
    if question.kind is Kind.INFERENCE:
        weights = parameters * known.WEIGHT_BYTES[question.precision]
        per_token = next((each for size, each in known.KV_BYTES if size >= parameters), known.KV_BYTES[-1][1])
        cache = float(per_token) * question.sequence_length * question.concurrent_sequences
        state, usable, usable_source = weights + cache, known.SERVING, known.SERVING_SOURCE
        figures = [
            _fixed("weights", weights, "bytes", Origin.DECLARED, "parameters x bytes of the precision"),
            _fixed("KV cache", float(per_token), "bytes per token", Origin.ASSUMED, known.KV_SOURCE),
        ]
    else:
        per_parameter, source, checked = known.STATE_BYTES[question.kind]
        state, usable, usable_source = parameters * per_parameter, known.USABLE, known.USABLE_SOURCE
        figures = [_fixed("state", per_parameter, "bytes per parameter", Origin(checked), source)]
    room = gpu.memory * usable
    figures += [
        _fixed("memory", gpu.memory, "bytes", Origin(gpu.checked), gpu.source),
        _fixed("usable memory", usable, "", Origin.ASSUMED, usable_source),
    ]
    least = ceil(state / room)
    if question.sharding == "none" and least > 1:
        raise Refused(
            told(
                "{state} GB do not fit on one {model}, which has {room} GB for them.",
                state=round(state / 1e9),
                model=question.model,
                room=round(room / 1e9),
            ),
            way_out=told("Spread the state over GPUs (sharding: full)."),
        )
    sentence = told(
        "{state} GB of weights and state, {room} GB of each GPU for them: at least {least}.",
        state=_shown(state / 1e9),
        room=round(room / 1e9),
        least=least,
    )
    return least, figures, sentence


def _answer(
    question: SizingQuestion,
    exact: tuple[float, float, float],
    least: int,
    formula: str,
    figures: Sequence[Figure],
    steps: Sequence[Told],
) -> Sizing:
    offered = question.offered
    if least > offered.most:
        raise Refused(
            told("Its memory needs {least} GPUs; at most {most} are offered.", least=least, most=offered.most),
            way_out=told("Use a smaller model, LoRA or another GPU model."),
        )
    low, gpus, high = (offered.up(max(one, least)) for one in exact)
    rounded = told(
        "Rounded up to a size that is offered: {gpus} GPUs ({low} to {high}).", gpus=gpus, low=low, high=high
    )
    return Sizing(
        gpus=gpus,
        low=low,
        high=high,
        least=least,
        exact=exact,
        formula=formula,
        figures=tuple(figures),
        steps=(*steps, rounded),
        cautions=tuple(_cautions(question, gpus, exact[1])),
    )


def _cautions(question: SizingQuestion, gpus: int, needed: float) -> Iterable[Told]:
    if needed > gpus:
        yield told(
            "{gpus} GPUs are the most that is offered; the work would take {days} days, not {period}.",
            gpus=gpus,
            days=ceil(question.period_days * min(needed / gpus, 1e6)),
            period=question.period_days,
        )
    if gpus >= known.MANY:
        yield told(
            "From {many} GPUs on, measure how the program scales before the award: this formula takes it to be even.",
            many=known.MANY,
        )
    if question.kind is not Kind.OTHER:
        if question.sequence_length > known.LONG and not (question.layers and question.width):
            yield told(
                "Sequences of {length} tokens: name layers and width, attention is left out.",
                length=question.sequence_length,
            )
        low = [one for one in question.measured if one.mfu is not None and one.mfu < known.LOWEST_MFU]
        if low:
            yield told(
                "Grant {grant} reached {mfu} % of the peak; mend the program first. {lowest} % were taken.",
                grant=low[0].grant,
                mfu=round(100 * (low[0].mfu or 0.0), 1),
                lowest=round(100 * known.LOWEST_MFU),
            )
    used = _mean([(one.allocated, one.gpu_hours) for one in question.measured])
    if used is not None and used < known.ALLOCATED.low:
        yield told(
            "Earlier grants had jobs on {used} % of their GPU time; {least} % are expected.",
            used=round(100 * used),
            least=round(100 * known.ALLOCATED.low),
        )


# -- Figures -----------------------------------------------------------------------------------------------------------


def _measured(
    measured: Iterable[Measured], of: Callable[[Measured], float | None], assumed: Range, *, lowest: float
) -> _Known:
    """The mean by GPU-hours with a spread on either side of what single grants had; assumed where none has it.

    Not below `lowest`: earlier waste does not earn more GPUs.
    """
    found = [(value, one.gpu_hours) for one in measured if (value := of(one)) is not None]
    mean = _mean(found)
    if mean is None:
        return assumed, Origin(assumed.checked)
    values = [value for value, _ in found]
    source = f"measured in {len(found)} earlier grants, with {100 * known.SPREAD:.0f} % either way"

    def bounded(value: float) -> float:
        return min(max(value, lowest), 1.0)

    return (
        Range(
            bounded(min(values) * (1 - known.SPREAD)),
            bounded(mean),
            bounded(max(values) * (1 + known.SPREAD)),
            source,
            known.Checked.READ,
        ),
        Origin.MEASURED,
    )


def _mean(values: Iterable[tuple[float | None, float]]) -> float | None:
    there = [(value, weight) for value, weight in values if value is not None]
    return sum(value * weight for value, weight in there) / sum(weight for _, weight in there) if there else None


def _fixed(name: str, value: float, unit: str, origin: Origin, source: str) -> Figure:
    return Figure(name=name, value=value, unit=unit, origin=origin, source=source, low=value, high=value)


def _declared(name: str, value: float, unit: str) -> Figure:
    return _fixed(name, value, unit, Origin.DECLARED, "application")


def _ranged(name: str, figure: _Known) -> Figure:
    found, origin = figure
    return Figure(
        name=name, value=found.likely, unit="", origin=origin, source=found.source, low=found.low, high=found.high
    )


def _brief(count: float) -> str:
    """7B, 2T, as people who train models write it."""
    for size, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if count >= size:
            return f"{count / size:.3g}{suffix}"
    return f"{count:,.0f}"


def _shown(value: float) -> str:
    """Two figures that count, or whole thousands."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
