"""What node agents send: batches of hardware events, signed (`signing`)."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from slurm_gpuaas.domain.gpus import GpuIdentity
from slurm_gpuaas.domain.incidents import NodeEvent
from slurm_gpuaas.domain.names import NodeName

NODE_EVENTS_PATH: Final = "/api/v1/node-events"
MAX_BATCH: Final = 200
"""Events of one request at most."""


def is_loopback(host: str) -> bool:
    """Whether what is sent to this host stays on the machine. Elsewhere node events travel over TLS only."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class NodeEventBatch(BaseModel):
    """POST body. All events are of `node`, oldest first. Without events it says that the agent lives."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    node: NodeName
    events: tuple[NodeEvent, ...] = Field(default=(), max_length=MAX_BATCH)
    gpus: tuple[GpuIdentity, ...] | None = Field(
        default=None, max_length=256, description="What sits in the node; sent at start and when it changed."
    )
    driver_version: str | None = Field(default=None, max_length=40, description="With `gpus`.")
    boot_id: str | None = Field(default=None, max_length=64, description="With `gpus`.")


class NodeEventAnswer(BaseModel):
    """`accepted` counts events that are in the store now, those that were there before included."""

    model_config = ConfigDict(frozen=True)

    accepted: int
