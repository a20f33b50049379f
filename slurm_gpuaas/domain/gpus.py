"""GPUs as cards: known by serial number, wherever they sit."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from slurm_gpuaas.domain.names import NodeName


class GpuIdentity(BaseModel):
    """One GPU as its node's agent reports it. `pci` is `dddd:bb:dd`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: int = Field(ge=0, le=255, description="NVML index on the node.")
    uuid: str = Field(max_length=64)
    serial: str | None = Field(default=None, max_length=64)
    pci: str = Field(max_length=20)
    name: str = Field(default="", max_length=80, description="As NVML names it, e.g. `NVIDIA B200`.")
    vbios: str = Field(default="", max_length=40)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuStay:
    """A card in one slot of one node, from when it was first to when it was last seen there."""

    serial: str
    node: NodeName
    index: int
    pci: str
    uuid: str
    first_seen: datetime
    last_seen: datetime
