"""Where node agents send samples of their GPUs (`domain.telemetry.SampleBatch`), signed like events (`signing`)."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict

NODE_SAMPLES_PATH: Final = "/api/v1/node-samples"


class NodeSampleAnswer(BaseModel):
    """`accepted` counts slots that outlive gpuaasd's end now, those that were there before included."""

    model_config = ConfigDict(frozen=True)

    accepted: int
