"""What an award is decided on, as a document: pools, applications, caps (`gpuaas pool award --scenario FILE`)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Annotated, Final, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from slurm_gpuaas.domain.errors import InvalidInput

ANY: Final = "any"
"""In place of a model: every pool will do."""
MOST_GPUS: Final = 1_000_000
MOST_SCORE: Final = 1_000_000
MOST_POOLS: Final = 100
MOST_APPLICATIONS: Final = 5_000
SCORE_STEP: Final = Decimal("0.000001")
"""Scores count to six decimals: what lies below is noise of whoever took an average, and must not decide."""


def _as_text(value: object) -> object:
    """YAML reads a name such as 17 as a number."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("has characters that cannot be printed")
    return text


def _to_step(score: Decimal) -> Decimal:
    return score.quantize(SCORE_STEP, rounding=ROUND_HALF_EVEN)


Text = Annotated[str, Field(min_length=1, max_length=100), BeforeValidator(_as_text), AfterValidator(_one_line)]
Capacity = Annotated[int, Field(ge=0, le=MOST_GPUS, strict=True)]
Gpus = Annotated[int, Field(ge=1, le=MOST_GPUS, strict=True)]
Score = Annotated[Decimal, Field(ge=0, le=MOST_SCORE, allow_inf_nan=False), AfterValidator(_to_step)]

Period = Text | tuple[Text, Text] | Annotated[dict[Text, Text], Field(max_length=2)]
"""As the call writes it: 6, 2027-03 to 2027-08, [2027-03-01, 2027-08-31], {from: ..., to: ...}."""


def order_of(name: str) -> tuple[tuple[str | int, ...], str]:
    """Key of the order in which ids and names go: runs of digits count as numbers, so a2 is before a10."""
    parts = re.split(r"([0-9]+)", name)
    return tuple(int(part) if at % 2 else part for at, part in enumerate(parts)), name


class Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PoolOffer(Document):
    """A pool share: one award is in one of them."""

    name: Text
    provider: Text
    share: Text
    model: Text
    capacity: Capacity = Field(description="GPUs to award.")


class Application(Document):
    """`min_gpus`: with fewer it would rather have none. `period` is carried along and decides nothing: an award holds
    its GPUs over the whole call."""

    id: Text
    organisation: Text
    region: Text
    model: Text = Field(description="Or any.")
    gpus: Gpus
    min_gpus: Capacity
    score: Score
    period: Period | None = None

    @model_validator(mode="after")
    def _asks_for_enough(self) -> Self:
        if self.min_gpus > self.gpus:
            raise InvalidInput(
                f"Application {self.id} asks for {self.gpus} GPUs and needs {self.min_gpus} at least.",
                way_out="Let min_gpus be gpus or less.",
            )
        return self


class Caps(Document):
    """GPUs at most; absent is no cap."""

    organisation: Capacity | None = Field(default=None, description="Of all awards of an organisation together.")
    region: Capacity | None = Field(default=None, description="Of all awards of a region together.")
    per_project: Capacity | None = Field(default=None, description="Of one award.")


class Scenario(Document):
    pools: tuple[PoolOffer, ...] = Field(max_length=MOST_POOLS)
    applications: tuple[Application, ...] = Field(max_length=MOST_APPLICATIONS)
    caps: Caps = Caps()

    @model_validator(mode="before")
    @classmethod
    def _left_empty_is_absent(cls, fields: object) -> object:
        """`caps:` with nothing below it, as people leave it in a file."""
        if not isinstance(fields, dict):
            return fields
        return {name: value for name, value in fields.items() if value is not None or name != "caps"}

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        _check_unique("pool", (pool.name for pool in self.pools))
        _check_unique("application", (one.id for one in self.applications))
        for pool in self.pools:
            if pool.model == ANY:
                raise InvalidInput(
                    f"Pool {pool.name} has GPUs of model any, which names no model.",
                    way_out="Name the model, e.g. b200.",
                )
        return self


def _check_unique(what: str, names: Iterable[str]) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise InvalidInput(f"There are {count} {what}s {name}.", way_out=f"Give each {what} a name of its own.")
