"""Figures that right-sizing rests on, each with where it comes from. Data.

`checked` says how far a figure was verified. Peaks are dense:
NVIDIA's data sheets print twice as much for Tensor Cores, "with sparsity", which no training of ours has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from slurm_gpuaas.domain.names import GpuModel
from slurm_gpuaas.domain.workloads import Kind, Precision


class Checked(StrEnum):
    READ = "read"
    """In a copy, transcription or summary of the source, in November 2026; not in the source itself."""
    ASSUMED = "assumed"
    """Our judgement; `source` says from what."""


@dataclass(frozen=True, slots=True)
class Range:
    """Lowest, likely and highest value of a figure."""

    low: float
    likely: float
    high: float
    source: str
    checked: Checked


@dataclass(frozen=True, slots=True)
class Gpu:
    """`peak` in dense FLOP/s by precision; None: the model has none. `memory` in bytes as sold (GB = 10^9)."""

    peak: Mapping[Precision, float]
    memory: float
    source: str
    checked: Checked


T: Final = 1e12
GPUS: Final[Mapping[GpuModel, Gpu]] = {
    GpuModel("h200"): Gpu(
        peak={Precision.FP32: 494.5 * T, Precision.BF16: 989.5 * T, Precision.FP8: 1979 * T},
        memory=141e9,
        source="NVIDIA H200 Tensor Core GPU data sheet, H200 SXM: TF32 989, BF16 1,979, FP8 3,958 TFLOPS with "
        "sparsity, halved; 141 GB",
        checked=Checked.READ,
    ),
    GpuModel("b200"): Gpu(
        peak={
            Precision.FP32: 1100 * T,
            Precision.BF16: 2250 * T,
            Precision.FP8: 4500 * T,
            Precision.FP4: 9000 * T,
        },
        memory=180e9,
        source="NVIDIA Blackwell data sheet, HGX B200 per GPU: TF32 2.2, BF16 4.5, FP8 9, FP4 18 PFLOPS with sparsity, "
        "halved; 180 GB",
        checked=Checked.READ,
    ),
}

FORWARD: Final = 2.0
"""FLOPs of a forward pass per active parameter and token: a multiplication and an addition."""
FLOPS_SOURCE: Final = (
    "C = 6 N D: Kaplan et al. 2020 (arXiv 2001.08361, 2.1), used by Hoffmann et al. 2022 (arXiv 2203.15556); 2 N for "
    "the forward pass, 4 N for the backward pass"
)
PASSES: Final[Mapping[Kind, tuple[float, str, Checked]]] = {
    Kind.PRE_TRAINING: (3.0, "forward 1 + backward 2", Checked.READ),
    Kind.FINE_TUNING: (3.0, "forward 1 + backward 2", Checked.READ),
    Kind.LORA: (2.0, "forward 1 + backward 1: frozen weights need no gradients of their own", Checked.ASSUMED),
    Kind.REINFORCEMENT: (5.0, "rollout 1 + reference 1 + update 3, per token of the rollouts", Checked.ASSUMED),
    Kind.INFERENCE: (1.0, "forward 1", Checked.READ),
}
"""Forward passes' worth of FLOPs per token."""
ATTENTION_SOURCE: Final = "4 x layers x width x sequence FLOPs per token, PaLM (arXiv 2204.02311, appendix B)"

_DENSE = "Llama 3 405B: 38 to 43 % on 8,192 to 16,384 H100 in BF16 (arXiv 2407.21783, table 4)"
_TRAINING: Final[Mapping[Precision, Range]] = {
    Precision.BF16: Range(0.30, 0.38, 0.45, _DENSE, Checked.READ),
    Precision.FP32: Range(0.25, 0.35, 0.45, f"as BF16 of the TF32 peak; {_DENSE}", Checked.ASSUMED),
    Precision.FP8: Range(
        0.18,
        0.25,
        0.35,
        "of the FP8 peak; about 20 % reported for Llama 4 (390 TFLOPS of 1,979 on H100)",
        Checked.READ,
    ),
    Precision.FP4: Range(0.10, 0.15, 0.25, "no published run of this kind was found", Checked.ASSUMED),
}
_SMALLER = "smaller batches and shorter runs than pre-training: three quarters of its MFU"
_ROLLOUTS = (
    "rollouts take 60 % of the time or more with GPUs of the update idle (Hugging Face's survey of 16 RL libraries)"
)
_DECODING = "decoding is bound by memory, not by FLOPs; batches of tens of requests"


def _scaled(by: float, source: str) -> Mapping[Precision, Range]:
    return {
        precision: Range(one.low * by, one.likely * by, one.high * by, source, Checked.ASSUMED)
        for precision, one in _TRAINING.items()
    }


MFU: Final[Mapping[Kind, Mapping[Precision, Range]]] = {
    Kind.PRE_TRAINING: _TRAINING,
    Kind.FINE_TUNING: _scaled(0.75, _SMALLER),
    Kind.LORA: _scaled(0.75, _SMALLER),
    Kind.REINFORCEMENT: _scaled(0.4, _ROLLOUTS),
    Kind.INFERENCE: _scaled(0.4, _DECODING),
}
"""Model FLOPs utilisation where nothing was measured: part of the dense peak."""

MOE_MFU: Final = 0.7
MOE_SOURCE: Final = "experts talk across GPUs: 70 % of a dense model's MFU"
LOWEST_MFU: Final = 0.05
"""Below it a program is mended, not given more GPUs."""
SPREAD: Final = 0.15
"""A single measurement is taken to be within 15 % either way."""

ETTR: Final = Range(
    0.80,
    0.90,
    0.97,
    "effective training time: over 90 % in Llama 3's 54 days (arXiv 2407.21783, 3.3.4)",
    Checked.READ,
)
ALLOCATED: Final = Range(
    0.70,
    0.85,
    1.0,
    "part of the period in which jobs run: data, debugging and evaluation take the rest",
    Checked.ASSUMED,
)

_ADAM: Final = "weights 2 + gradients 2 + Adam in 32 bits 12 (ZeRO, arXiv 1910.02054, 3.1)"
STATE_BYTES: Final[Mapping[Kind, tuple[float, str, Checked]]] = {
    Kind.PRE_TRAINING: (16.0, _ADAM, Checked.READ),
    Kind.FINE_TUNING: (16.0, _ADAM, Checked.READ),
    Kind.LORA: (2.2, "frozen weights 2 + 16 for adapters of 1 % of the parameters", Checked.ASSUMED),
    Kind.REINFORCEMENT: (20.0, "as training 16 + reference 2 + weights of the rollout engine 2", Checked.ASSUMED),
}
"""Bytes per parameter of what is kept between steps. In FP8 too: master weights and moments stay as they are."""
WEIGHT_BYTES: Final[Mapping[Precision, float]] = {
    Precision.FP32: 4.0,
    Precision.BF16: 2.0,
    Precision.FP8: 1.0,
    Precision.FP4: 0.5,
}
USABLE: Final = 0.75
USABLE_SOURCE: Final = "three quarters of a GPU's memory; the rest for activations, buffers and the CUDA context"
SERVING: Final = 0.9
SERVING_SOURCE: Final = "nine tenths of a GPU's memory, as serving engines are set up"
ALWAYS: Final = Range(1.0, 1.0, 1.0, "a service runs all the time", Checked.ASSUMED)

KV_BYTES: Final[tuple[tuple[float, int], ...]] = ((8e9, 131_072), (70e9, 327_680), (405e9, 516_096))
"""Parameters and bytes of KV cache per token in 16 bits, of Llama 3: 2 x layers x 8 KV heads x 128 x 2 bytes with 32,
80 and 126 layers (arXiv 2407.21783, table 3). A model is taken to need as much as the next larger one; DeepSeek's needs
less."""
KV_SOURCE: Final = "as Llama 3 of the next larger size (arXiv 2407.21783, table 3)"

LONG: Final = 4096
"""Tokens of a sequence up to which attention is little beside the weights: of 8 x 10^9 parameters in 32 layers of width
4,096 it is an eighth."""
MANY: Final = 128
"""GPUs from which the scaling of a program should have been measured."""
