"""Things of the pool that pass through states: what may follow what is a table, and each step leaves its mark. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from slurm_gpuaas.domain.errors import Conflict
from slurm_gpuaas.domain.told import told

Line = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")
]
"""One line for people, any script."""
Text = Annotated[
    str, StringConstraints(strip_whitespace=True, max_length=4_000, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f]*$")
]
"""Some paragraphs for people, any script."""
MOST_EVENTS = 50
"""The newest steps that a thing carries with it; the audit trail has all of them."""


class Noun(BaseModel):
    """Immutable, and a misspelt field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Happened(Noun):
    """One step of a thing's history. `by` is a person's number, or the program for what it did by itself."""

    at: AwareDatetime
    by: str = Field(max_length=60)
    step: str = Field(max_length=30)
    reason: Text = ""


S = TypeVar("S", bound=StrEnum)


class Staged(Noun, Generic[S]):
    """What passes through states."""

    state: S
    history: tuple[Happened, ...] = Field(default=(), max_length=MOST_EVENTS)


@dataclass(frozen=True, slots=True)
class Step(Generic[S]):
    """Leads from each of `sources` to `target`; a target of None stays where it is."""

    sources: frozenset[S]
    target: S | None


T = TypeVar("T", bound=Staged[Any])


def stepped(
    thing: T,
    name: str,
    steps: Mapping[StrEnum, Step[Any]],
    step: StrEnum,
    *,
    by: str,
    at: datetime,
    reason: str = "",
    **changes: object,
) -> T:
    """The thing after the step, with its history.

    Args:
        name: what to call the thing in a refusal, e.g. its number.
        changes: other fields that the step sets.

    Raises:
        Conflict: the step does not follow from the thing's state.
    """
    rule = steps[step]
    if thing.state not in rule.sources:
        raise Conflict(
            told(
                "{name} is {state}; {step} is possible only while it is {states}.",
                name=name,
                state=str(thing.state),
                step=str(step),
                states=" or ".join(sorted(rule.sources)),
            ),
            way_out=told("Look at its page: somebody may have been faster."),
        )
    happened = Happened(at=at, by=by, step=str(step), reason=reason)
    fields = thing.model_dump() | changes
    history = (*thing.history, happened)[-MOST_EVENTS:]
    fields |= {"state": rule.target or thing.state, "history": history}
    return type(thing).model_validate(fields)
