"""Right-sizing as an answer of the API and as pages show it."""

from __future__ import annotations

from typing import Final

from pydantic import ConfigDict, Field

from slurm_gpuaas.domain.names import GpuModel, ProgrammeName
from slurm_gpuaas.domain.stages import Noun
from slurm_gpuaas.domain.workloads import Kind, Precision, Workload
from slurm_gpuaas.pool.proposal import Proposal
from slurm_gpuaas.pool.sizing import Figure, Origin
from slurm_gpuaas.portal.http import Answer
from slurm_gpuaas.portal.routes.application_form import MOST_DAYS
from slurm_gpuaas.portal.words import Names, Words, noted


class SizingAsked(Noun):
    """A workload to be sized for a programme. `model` null: any of the programme's."""

    programme: ProgrammeName
    model: GpuModel | None = None
    days: int = Field(ge=1, le=MOST_DAYS)
    workload: Workload


class FigureView(Answer):
    """`low` and `high` equal `value` where it is taken for exact."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    name: str
    value: float
    low: float
    high: float
    unit: str
    origin: Origin
    source: str


class SizingView(Answer):
    """`exact`: GPUs before rounding, at best, likely and at worst. `models`: what each model would need; `model` needs
    the most."""

    model: GpuModel
    models: dict[str, int]
    gpus: int
    low: int
    high: int
    least: int
    exact: tuple[float, float, float]
    formula: str
    figures: tuple[FigureView, ...]
    steps: tuple[str, ...]
    cautions: tuple[str, ...]


def sizing_view(proposal: Proposal, words: Words) -> SizingView:
    """Sentences in the reader's language."""
    found = proposal.sizing
    return SizingView(
        model=proposal.model,
        models={str(model): count for model, count in proposal.counts.items()},
        gpus=found.gpus,
        low=found.low,
        high=found.high,
        least=found.least,
        exact=found.exact,
        formula=found.formula,
        figures=tuple(FigureView.model_validate(one) for one in found.figures),
        steps=tuple(words.tell(one) for one in found.steps),
        cautions=tuple(words.tell(one) for one in found.cautions),
    )


_RAISED: Final = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def plain(value: float) -> str:
    """12.5, 8 × 10⁹."""
    if value < 10_000:
        return f"{value:,.4g}"
    mantissa, exponent = f"{value:.3e}".split("e")
    return f"{float(mantissa):g} × 10{str(int(exponent)).translate(_RAISED)}"


def figure_value(figure: Figure, value: float) -> str:
    """Parts of a whole, which have no unit, as percent."""
    return f"{100 * value:.0f} %" if not figure.unit and value <= 1 else plain(value)


FIGURES: Final = (
    noted("GPU-hours"),
    noted("active parameters"),
    noted("tokens"),
    noted("passes"),
    noted("peak"),
    noted("MFU"),
    noted("ETTR"),
    noted("in use"),
    noted("period"),
    noted("attention"),
    noted("peak over mean"),
    noted("weights"),
    noted("KV cache"),
    noted("state"),
    noted("memory"),
    noted("usable memory"),
)
"""What pages call the factors of `pool.sizing`."""

SIZING_NAMES: Final[Names] = {
    Kind: {
        Kind.PRE_TRAINING: noted("Pre-training"),
        Kind.FINE_TUNING: noted("Fine-tuning, all parameters"),
        Kind.LORA: noted("Fine-tuning with LoRA"),
        Kind.REINFORCEMENT: noted("Reinforcement learning"),
        Kind.INFERENCE: noted("Inference"),
        Kind.OTHER: noted("Something else, in GPU-hours"),
    },
    Precision: {
        Precision.BF16: noted("BF16"),
        Precision.FP8: noted("FP8"),
        Precision.FP4: noted("FP4"),
        Precision.FP32: noted("FP32 (TF32)"),
    },
    Origin: {
        Origin.DECLARED: noted("declared"),
        Origin.MEASURED: noted("measured"),
        Origin.READ: noted("published"),
        Origin.ASSUMED: noted("assumed"),
    },
}
