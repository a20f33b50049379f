"""What is kept of idle grants: days of use, rules, where a grant stands, its steps, exemptions and appeals. Pure.

What the rules make of it is `pool.idle`; here are the things that the pool's store holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Annotated, Any, Final, NamedTuple, Self

from pydantic import AwareDatetime, Field, JsonValue, StrictFloat, StrictInt, model_validator

from slurm_gpuaas.domain.calendar import CalendarDay
from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.names import AppealId, PersonId, PoolGrantId
from slurm_gpuaas.domain.stages import Line, Noun, Staged, Step, Text
from slurm_gpuaas.domain.told import Told, Value, told


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantDay:
    """What jobs of a grant did on a Korean day, as its site measured it, in GPU-seconds.

    Attributes:
        number: grows with every measurement of the site; of two for one day the greater one stands.
        allocated: held by jobs on the grant's own GPUs.
        busy: of it, GPUs that computed; None where too little is known.
        loaded: of it, GPUs that did not compute and had their memory full.
        lost: of the grant's GPUs, what faults and maintenance took.
        burst: borrowed GPUs, beside all that.
        peak: GPUs in use in the busiest hour.
    """

    grant: PoolGrantId
    day: date
    number: int
    allocated: int
    busy: int | None
    loaded: int
    lost: int
    burst: int
    peak: int


class BusySum(NamedTuple):
    """GPU-seconds over days on which it was known how busy GPUs were: `busy` of those that jobs held, `measured`."""

    measured: int = 0
    busy: int = 0

    def plus(self, other: BusySum) -> BusySum:
        return BusySum(self.measured + other.measured, self.busy + other.busy)


class Said(Noun):
    """A sentence as it is kept: its template and values, so that each reader is told it in their own language."""

    template: str = Field(max_length=1_000)
    values: dict[str, Annotated[StrictInt | StrictFloat | Said | date | str, Field(union_mode="left_to_right")]] = (
        Field(default={}, max_length=20)
    )

    @classmethod
    def of(cls, sentence: Told) -> Self:
        values = {name: cls.of(value) if isinstance(value, Told) else value for name, value in sentence.values.items()}
        return cls.model_validate({"template": sentence.template, "values": values})

    @property
    def told(self) -> Told:
        values: dict[str, Value] = {
            name: value.told if isinstance(value, Said) else value for name, value in self.values.items()
        }
        return Told(self.template, values)


class IdleRuleSet(Noun):
    """A version of the rules; the newest is in force. `rules` are `pool.idle_rules.IdleRules` as JSON."""

    number: int = Field(ge=1)
    rules: dict[str, JsonValue]
    by: PersonId
    at: AwareDatetime
    reason: Line


class IdleStanding(Noun):
    """`pool.idle.Standing` of a grant, between two mornings."""

    grant: PoolGrantId
    rung: str = Field(max_length=20)
    gpus: int
    since: date | None = None
    climbed: date | None = None
    stepped: date | None = None
    cool_until: date | None = None
    proposed: int | None = None
    shadow: bool = False


class IdleStep(Noun):
    """One step of a grant on the ladder, with the figures that it rests on; at most one a day."""

    grant: PoolGrantId
    day: CalendarDay
    before: str = Field(max_length=20)
    to: str = Field(max_length=20)
    why: Said
    proposal: Said | None = None
    shadow: bool
    figures: dict[str, JsonValue] = Field(default={}, max_length=40)


class IdleExemption(Noun):
    """From a day to a day (both included) idleness of the grant counts against nobody."""

    grant: PoolGrantId
    starts: CalendarDay
    ends: CalendarDay
    reason: Line
    by: PersonId

    @model_validator(mode="after")
    def _ends_after_start(self) -> Self:
        if self.ends < self.starts:
            raise InvalidInput(
                told("The exemption ends {ends}, before it starts {starts}.", ends=self.ends, starts=self.starts),
                way_out=told("Choose a later day."),
            )
        return self


class AppealState(StrEnum):
    OPEN = "open"
    ALLOWED = "allowed"
    DENIED = "denied"


class AppealStep(StrEnum):
    ALLOW = "allow"
    DENY = "deny"


_OPEN: Final = frozenset({AppealState.OPEN})
APPEAL_STEPS: Final[Mapping[StrEnum, Step[AppealState]]] = {
    AppealStep.ALLOW: Step(_OPEN, AppealState.ALLOWED),
    AppealStep.DENY: Step(_OPEN, AppealState.DENIED),
}


class IdleAppeal(Staged[AppealState]):
    """Stops the ladder of a grant until somebody else has decided."""

    id: AppealId
    grant: PoolGrantId
    reason: Text
    filed_by: PersonId
    filed_at: AwareDatetime
    decided_by: PersonId | None = None
    decided_at: AwareDatetime | None = None
    state: AppealState = AppealState.OPEN


def decided(at: datetime, by: PersonId) -> dict[str, Any]:
    """The fields that a decision sets, beside the state."""
    return {"decided_at": at, "decided_by": by}
