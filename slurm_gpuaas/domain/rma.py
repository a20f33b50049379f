"""Parts on their way to the manufacturer and back: one case a card, or a node where no serial number is known."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from slurm_gpuaas.domain.names import NodeName


class RmaState(StrEnum):
    OPENED = "opened"
    SENT = "sent"
    """The manufacturer has the ticket, or the part."""
    REPLACED = "replaced"
    """A replacement, or the mended part, is here."""
    REFUSED = "refused"
    """The manufacturer does not replace it."""
    CLOSED = "closed"


RMA_STEPS: Final[Mapping[RmaState, frozenset[RmaState]]] = MappingProxyType(
    {
        RmaState.OPENED: frozenset({RmaState.SENT, RmaState.CLOSED}),
        RmaState.SENT: frozenset({RmaState.REPLACED, RmaState.REFUSED, RmaState.CLOSED}),
        RmaState.REPLACED: frozenset({RmaState.CLOSED}),
        RmaState.REFUSED: frozenset({RmaState.SENT, RmaState.CLOSED}),
        RmaState.CLOSED: frozenset(),
    }
)
"""What may follow what: a refused case may be sent again."""


class RmaNote(BaseModel):
    """One thing that was done or learnt. `state` is the one it led to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: AwareDatetime
    actor: str = Field(max_length=100)
    state: RmaState
    text: str = Field(default="", max_length=1_000)


class RmaCase(BaseModel):
    """One part. `serial` None: the whole node, or a card whose serial number nobody has read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^r[0-9a-f]{10}$")
    node: NodeName
    serial: str | None = Field(default=None, max_length=64)
    incident: str | None = Field(default=None, max_length=40)
    state: RmaState
    opened_at: AwareDatetime
    updated_at: AwareDatetime
    vendor_case: str = Field(default="", max_length=60, description="The manufacturer's number of it.")
    new_serial: str = Field(default="", max_length=64, description="Of the part that came in its place.")
    notes: tuple[RmaNote, ...] = ()
