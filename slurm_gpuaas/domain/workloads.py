"""A workload in figures, as its author declares it, and what was measured of earlier ones. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.names import GrantName
from slurm_gpuaas.domain.stages import Noun
from slurm_gpuaas.domain.told import told

LEAST_PARAMETERS: Final = 1e6
MOST_PARAMETERS: Final = 1e14
MOST_TOKENS: Final = 1e17
MOST_GPU_HOURS: Final = 1e9

Part = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Parameters = Annotated[float, Field(ge=LEAST_PARAMETERS, le=MOST_PARAMETERS, allow_inf_nan=False)]


class Kind(StrEnum):
    PRE_TRAINING = "pre-training"
    FINE_TUNING = "fine-tuning"
    LORA = "fine-tuning-lora"
    REINFORCEMENT = "reinforcement"
    INFERENCE = "inference"
    OTHER = "other"


class Precision(StrEnum):
    """Of the matrix products; master weights stay in 32 bits where there is an optimiser."""

    BF16 = "bf16"
    FP8 = "fp8"
    FP4 = "fp4"
    FP32 = "fp32"
    """TF32 Tensor Cores."""


class Measured(Noun):
    """One earlier grant of the applicant. Parts are from 0 to 1; absent: not measured.

    `mfu` is of the dense peak of its precision, `busy` of allocated GPU time, `allocated` of awarded GPU time, `ettr`
    of the time of jobs.
    """

    grant: GrantName
    gpu_hours: float = Field(gt=0, le=MOST_GPU_HOURS, allow_inf_nan=False, description="Its weight.")
    precision: Precision = Precision.BF16
    mfu: Part | None = None
    busy: Part | None = None
    allocated: Part | None = None
    ettr: Part | None = None


class Workload(Noun):
    """What is to run.

    `tokens` are those of the whole period: trained on, of rollouts, or served. `gpu_hours` says it for kind `other`.
    """

    kind: Kind
    parameters: Parameters | None = None
    active_parameters: Annotated[Parameters | None, Field(description="Per token, of a mixture of experts.")] = None
    tokens: float | None = Field(default=None, ge=1, le=MOST_TOKENS, allow_inf_nan=False)
    precision: Precision = Precision.BF16
    sequence_length: int = Field(default=4096, ge=1, le=100_000_000)
    layers: int | None = Field(default=None, ge=1, le=10_000)
    width: int | None = Field(default=None, ge=1, le=10_000_000)
    sharding: Literal["full", "none"] = Field(
        default="full", description="full: state is spread over all GPUs (FSDP, ZeRO-3, tensor and pipeline parallel)."
    )
    concurrent_sequences: int = Field(default=64, ge=1, le=10_000_000, description="At once, of inference.")
    peak_over_mean: float = Field(default=3.0, ge=1, le=1000, allow_inf_nan=False, description="Of served tokens.")
    gpu_hours: float | None = Field(default=None, gt=0, le=MOST_GPU_HOURS, allow_inf_nan=False)

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.kind is Kind.OTHER:
            if self.gpu_hours is None:
                raise InvalidInput(
                    told("A workload of kind other names no gpu_hours."), way_out=told("Say how many it needs.")
                )
            return self
        if self.parameters is None or self.tokens is None:
            raise InvalidInput(
                told("A workload of kind {kind} names no parameters or no tokens.", kind=self.kind),
                way_out=told("Name both, or use kind other with gpu_hours."),
            )
        if self.active_parameters is not None and self.active_parameters > self.parameters:
            raise InvalidInput(
                told(
                    "{active} parameters are active of {all}.",
                    active=f"{self.active_parameters:.3g}",
                    all=f"{self.parameters:.3g}",
                ),
                way_out=told("Name no more than all of them."),
            )
        return self
