"""A provider's own use of GPUs of the government's share that nobody was awarded: for a time, back on the day. Pure.

```text
lease   asked -> approved | refused | withdrawn       approved -> ended (on its last day, or earlier)
```
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from enum import StrEnum
from typing import Final, Self

from pydantic import Field, model_validator

from slurm_gpuaas.domain.calendar import CalendarDay, korean_day
from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.names import (
    HoldId,
    LeaseId,
    OrganisationName,
    PersonId,
    PoolShareName,
    ProgrammeName,
    ProjectName,
    ProviderName,
)
from slurm_gpuaas.domain.programmes import GpuCount
from slurm_gpuaas.domain.stages import Line, Staged, Step
from slurm_gpuaas.domain.told import told

MOST_LESSEES: Final = 100
LEASE_PROGRAMME: Final = ProgrammeName("lease")
"""What the accounts know leases under; no programme may have the name."""
LESSEE: Final = "-lease"
"""Ends the names of organisations that stand for a provider as the user of its leases; no other may end so."""


class LeaseState(StrEnum):
    ASKED = "asked"
    APPROVED = "approved"
    REFUSED = "refused"
    WITHDRAWN = "withdrawn"
    ENDED = "ended"


class LeaseStep(StrEnum):
    APPROVE = "approve"
    REFUSE = "refuse"
    WITHDRAW = "withdraw"
    SHORTEN = "end earlier"
    END = "end"


_ASKED: Final = frozenset({LeaseState.ASKED})
_APPROVED: Final = frozenset({LeaseState.APPROVED})
LEASE_STEPS: Final[Mapping[StrEnum, Step[LeaseState]]] = {
    LeaseStep.APPROVE: Step(_ASKED, LeaseState.APPROVED),
    LeaseStep.REFUSE: Step(_ASKED, LeaseState.REFUSED),
    LeaseStep.WITHDRAW: Step(_ASKED, LeaseState.WITHDRAWN),
    LeaseStep.SHORTEN: Step(_APPROVED, None),
    LeaseStep.END: Step(_APPROVED, LeaseState.ENDED),
}


class Lease(Staged[LeaseState]):
    """`hold` has its GPUs in the calendar, and is the name of its grant document at the site, once it is approved.
    `members`: people of the provider who work with it."""

    id: LeaseId
    provider: ProviderName
    share: PoolShareName
    gpus: GpuCount
    starts: CalendarDay
    ends: CalendarDay
    reason: Line
    members: tuple[PersonId, ...] = Field(default=(), max_length=MOST_LESSEES)
    asked_by: PersonId
    decided_by: PersonId | None = None
    hold: HoldId | None = None
    state: LeaseState = LeaseState.ASKED

    @model_validator(mode="after")
    def _ends_after_start(self) -> Self:
        if self.ends < self.starts:
            raise InvalidInput(
                told("The lease ends {ends}, before it starts {starts}.", ends=self.ends, starts=self.starts),
                way_out=told("Swap the days."),
            )
        return self

    @property
    def ended_on(self) -> date | None:
        """The Korean day from which on its GPUs were free again; None: they are not."""
        if self.state is not LeaseState.ENDED:
            return None
        return korean_day(next(one.at for one in reversed(self.history) if one.step == LeaseStep.END))

    def is_over(self, today: date) -> bool:
        return self.ends < today

    @property
    def organisation(self) -> OrganisationName:
        """Of the project at the site; not the provider's own name, which its site may have given away already."""
        return OrganisationName(f"{self.provider[:24].rstrip('-')}{LESSEE}")

    @property
    def project(self) -> ProjectName:
        """The Slurm account of the lease: its number makes it unique, the provider makes it readable."""
        return ProjectName(f"{self.provider[: 30 - len(self.id) - 1].rstrip('-')}-{self.id}")
