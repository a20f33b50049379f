"""Nodes as Slurm reports them, and whose drain it is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Flag, StrEnum, auto

from slurm_gpuaas.domain.names import GpuModel, NodeName

OWNER_MARK = "gpuaas:"
"""Every drain reason that we set starts with it. Slurm appends to reasons, so ownership is matched by prefix."""


class NodeBase(StrEnum):
    """Slurm's base states of a node."""

    IDLE = "IDLE"
    ALLOCATED = "ALLOCATED"
    MIXED = "MIXED"
    DOWN = "DOWN"
    ERROR = "ERROR"
    FUTURE = "FUTURE"
    UNKNOWN = "UNKNOWN"


class NodeFlag(Flag):
    """Slurm's state flags that placement and health look at."""

    NONE = 0
    DRAIN = auto()
    FAIL = auto()
    NOT_RESPONDING = auto()
    COMPLETING = auto()
    RESERVED = auto()
    MAINTENANCE = auto()
    REBOOT = auto()
    POWERED_DOWN = auto()


_UNUSABLE = (
    NodeFlag.DRAIN
    | NodeFlag.FAIL
    | NodeFlag.NOT_RESPONDING
    | NodeFlag.MAINTENANCE
    | NodeFlag.REBOOT
    | NodeFlag.POWERED_DOWN
)


_OUT_OF_SERVICE = frozenset(flag.name for flag in _UNUSABLE) | {"DOWN", "ERROR", "FUTURE", "UNKNOWN"}


def out_of_service(state: str) -> bool:
    """Whether a state as `Node.state` writes it lets no new job start."""
    return not _OUT_OF_SERVICE.isdisjoint(state.split("+"))


@dataclass(frozen=True, slots=True)
class Node:
    """One node: state, and its GPUs (total and allocated, counted in whole GPUs).

    `booted`: when, as its slurmd said; None until it said so."""

    name: NodeName
    base: NodeBase
    flags: NodeFlag
    reason: str
    model: GpuModel | None
    gpus: int
    gpus_allocated: int
    booted: datetime | None = None

    @property
    def state(self) -> str:
        """Base state and flags as one text, e.g. `IDLE+DRAIN`."""
        return "+".join([self.base.value, *(flag.name or "" for flag in self.flags)])

    @property
    def drained(self) -> bool:
        """Set to drain and nothing runs on it any more."""
        return NodeFlag.DRAIN in self.flags and self.base in {NodeBase.IDLE, NodeBase.DOWN}

    @property
    def draining(self) -> bool:
        return NodeFlag.DRAIN in self.flags

    @property
    def out_by_hand(self) -> bool:
        """Set to take no job: draining, or DOWN as after a reboot that was asked for."""
        return self.draining or self.base is NodeBase.DOWN

    @property
    def drained_by_us(self) -> bool:
        return self.draining and self.reason.startswith(OWNER_MARK)

    @property
    def usable(self) -> bool:
        """A new job may be placed on it (as far as its state goes)."""
        return not self.flags & _UNUSABLE and self.base in {NodeBase.IDLE, NodeBase.ALLOCATED, NodeBase.MIXED}

    @property
    def free_gpus(self) -> int:
        """GPUs a job could get right now."""
        return self.gpus - self.gpus_allocated if self.usable and NodeFlag.COMPLETING not in self.flags else 0
