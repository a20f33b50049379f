"""Where a site knows better than driver and catalogue: codes that it decides itself, each with a reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, RootModel, model_validator

from slurm_gpuaas.domain.incidents import Drain, EventKind
from slurm_gpuaas.health.catalogue import FaultClass, Product


class Override(BaseModel):
    """One code of one product (or of all) and what it means at this site."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    code: int | None = Field(default=None, ge=0, le=1_000_000, description="XID; 79 is a GPU that fell off the bus.")
    sxid: int | None = Field(default=None, ge=0, le=1_000_000, description="SXid of an NVSwitch.")
    product: Product | None = Field(default=None, description="Absent: every product.")
    drain: Drain | None = Field(default=None, description="Absent: as driver or catalogue say.")
    fault_class: FaultClass | None = Field(
        default=None, alias="class", description="Absent: as driver or catalogue say."
    )
    reason: str = Field(min_length=3, max_length=200, description="Shown with every verdict that it decides.")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if (self.code is None) == (self.sxid is None):
            raise ValueError("give either code or sxid")
        if self.drain is None and self.fault_class is None:
            raise ValueError("give drain or class, or both")
        return self


class Overrides(RootModel[tuple[Override, ...]]):
    """The list of a file."""


def override_of(overrides: Sequence[Override], kind: EventKind, code: int, product: Product | None) -> Override | None:
    """The override of a code: one that names the product before one that names none; of two alike the first."""
    fitting = [
        override
        for override in overrides
        if (override.sxid if kind is EventKind.SXID else override.code) == code and override.product in {None, product}
    ]
    return min(fitting, key=lambda override: override.product is None, default=None)
