"""Samples of GPUs as small whole numbers: what is measured, in which steps, and how unknown is written.

One byte a reading, on the wire, in memory and on disk. 255 is unknown in all of them, never idle.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StrictInt,
    WithJsonSchema,
    model_validator,
)

from slurm_gpuaas.domain.names import NodeName

SLOT_S: Final = 15
"""A sample belongs to the slot that its moment falls into, counted from 1970. A second one of a slot changes nothing
that is known."""
SLOTS_A_MINUTE: Final = 60 // SLOT_S
MAX_GPUS: Final = 16
"""Of one node."""
MAX_SLOTS: Final = 240
"""Of one batch at most: an hour."""
UNKNOWN: Final = 255

IDLE_BELOW_PERCENT: Final = 5.0
"""A GPU-minute below this is idle: health checks and monitoring touch a GPU that no job uses for a percent or two."""

OLDEST_SAMPLE: Final = timedelta(days=1)
"""What came so late is not taken any more."""
NEWEST_SAMPLE: Final = timedelta(minutes=5)
"""So far may a node's clock be ahead."""


class Metric(StrEnum):
    """What is read of a GPU, in the order in which samples hold it.

    `busy`: share of the time in which at least one kernel ran, in percent (NVML's utilisation; it says nothing of how
    much of the GPU the kernel used). `memory`: used, in percent of all. `power`: W. `temperature`: degrees Celsius.
    `processes`: how many compute processes.
    """

    BUSY = "busy"
    MEMORY = "memory"
    POWER = "power"
    TEMPERATURE = "temperature"
    PROCESSES = "processes"


METRICS: Final = tuple(Metric)

STEP: Final[Mapping[Metric, float]] = {
    Metric.BUSY: 0.5,
    Metric.MEMORY: 0.5,
    Metric.POWER: 10.0,  # NVML itself is right within 5 W
    Metric.TEMPERATURE: 1.0,
    Metric.PROCESSES: 1.0,
}
"""What one step of a code is worth, in the metric's unit."""

HIGHEST: Final[Mapping[Metric, int]] = {
    Metric.BUSY: 200,
    Metric.MEMORY: 200,
    Metric.POWER: 254,
    Metric.TEMPERATURE: 254,
    Metric.PROCESSES: 254,
}
"""The highest code that is a value."""


def encode(metric: Metric, value: float | None) -> int:
    """The code of a reading. What cannot be (a negative value, 300 % busy) is unknown; what has no upper bound by its
    nature is cut at the highest code."""
    if value is None or not math.isfinite(value) or value < 0:
        return UNKNOWN
    code = math.floor(value / STEP[metric] + 0.5)
    if code <= HIGHEST[metric]:
        return code
    return UNKNOWN if metric in (Metric.BUSY, Metric.MEMORY) else HIGHEST[metric]


def decode(metric: Metric, code: float) -> float | None:
    """The value of a code, or of a mean of codes that are known."""
    return None if code == UNKNOWN else code * STEP[metric]


_CODES: Final = tuple(bytes(range(HIGHEST[metric] + 1)) + bytes([UNKNOWN]) for metric in METRICS)
"""Those that each metric may have."""

Serial = Annotated[str, Field(max_length=64, pattern=r"^[!-~]+$")]


def _decoded(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except ValueError:
        raise ValueError("it is not base64") from None


Base64 = Annotated[
    bytes,
    BeforeValidator(_decoded),
    PlainSerializer(lambda value: base64.b64encode(value).decode(), when_used="json"),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
]


class SampleBatch(BaseModel):
    """Samples of consecutive slots of all GPUs of one node, by the node's clock.

    `values` (base64 in JSON) has one code for each metric, slot and GPU, in this order of nesting. A GPU or a slot that
    was not read is unknown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    node: NodeName
    first: StrictInt = Field(
        ge=0, lt=2**32, multiple_of=SLOT_S, description="Begin of the first slot, in seconds since 1970."
    )
    serials: tuple[Serial | None, ...] = Field(
        min_length=1, max_length=MAX_GPUS, description="Of the GPUs by NVML index; null where it is not known."
    )
    values: Base64 = Field(min_length=len(METRICS), max_length=len(METRICS) * MAX_SLOTS * MAX_GPUS)

    @model_validator(mode="after")
    def _whole_and_in_range(self) -> Self:
        column, odd = divmod(len(self.values), len(METRICS))
        slots, rest = divmod(column, len(self.serials))
        if odd or rest or not 1 <= slots <= MAX_SLOTS:
            raise ValueError(f"{len(self.values)} values are not 1 to {MAX_SLOTS} slots of {len(self.serials)} GPUs")
        for number, (metric, known) in enumerate(zip(METRICS, _CODES, strict=True)):
            if self.values[number * column : (number + 1) * column].translate(None, known):
                raise ValueError(f"{metric} has a code above {HIGHEST[metric]} that is not {UNKNOWN}")
        return self

    @property
    def slots(self) -> int:
        return len(self.values) // (len(METRICS) * len(self.serials))
