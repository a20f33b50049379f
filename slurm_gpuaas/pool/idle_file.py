"""Days of use as files, and what a replay of them answers. Pure.

A row holds GPU-hours of one grant on one Korean day. Rows are sums of what others measured, so their fields have
bounds, and a cell that is left empty is not measured.
"""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import date
from typing import IO, Annotated, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.faults import faults_of
from slurm_gpuaas.domain.names import GrantName, ProgrammeName
from slurm_gpuaas.domain.policy import MOST_GPUS, Day
from slurm_gpuaas.pool.idle import Evidence, Step, WatchedGrant
from slurm_gpuaas.pool.idle_replay import IdleReplay, Recorded
from slurm_gpuaas.pool.idle_rules import Rung
from slurm_gpuaas.pool.idle_use import UseDay

MOST_ROWS: Final = 4_000_000
MOST_BYTES: Final = 400_000_000
HOUR: Final = 3600


def _empty_is_absent(value: object) -> object:
    return None if value == "" else value


Hours = Annotated[float, Field(ge=0, le=24 * MOST_GPUS, allow_inf_nan=False)]
Absent = BeforeValidator(_empty_is_absent)


class UseRow(BaseModel):
    """`peak_gpus`: GPUs in use in the busiest hour; absent, with `allocated_gpu_hours` there: what these need at least.
    `starts`, `ends`, `programme` and `min_gpus` are taken from a grant's newest row; absent days: those of its first
    and last row."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    grant: GrantName
    day: Day
    gpus: int = Field(ge=1, le=MOST_GPUS)
    allocated_gpu_hours: Annotated[Hours | None, Absent] = None
    busy_gpu_hours: Annotated[Hours | None, Absent] = None
    loaded_gpu_hours: Annotated[Hours | None, Absent] = None
    lost_gpu_hours: Annotated[Hours | None, Absent] = None
    burst_gpu_hours: Annotated[Hours | None, Absent] = None
    peak_gpus: Annotated[int | None, Field(ge=0, le=MOST_GPUS), Absent] = None
    programme: Annotated[ProgrammeName | None, Absent] = None
    min_gpus: Annotated[int | None, Field(ge=0, le=MOST_GPUS), Absent] = None
    starts: Annotated[Day | None, Absent] = None
    ends: Annotated[Day | None, Absent] = None

    @property
    def use(self) -> UseDay:
        allocated = _seconds(self.allocated_gpu_hours)
        peak = self.peak_gpus
        if peak is None and allocated is not None:
            peak = -(-allocated // (24 * HOUR))
        return UseDay(
            day=self.day,
            gpus=self.gpus,
            lost=_seconds(self.lost_gpu_hours) or 0,
            allocated=allocated,
            busy=_seconds(self.busy_gpu_hours),
            loaded=_seconds(self.loaded_gpu_hours) or 0,
            peak=peak,
            burst=_seconds(self.burst_gpu_hours) or 0,
        )


def _seconds(hours: float | None) -> int | None:
    return None if hours is None else round(hours * HOUR)


_ROW: Final = TypeAdapter(UseRow)


def read_uses(file: IO[str]) -> list[Recorded]:
    """Grants in order of their names; a file that begins with '[' is JSON.

    Raises:
        InvalidInput: a row that cannot be, with its number; or too much.
    """
    text = file.read(MOST_BYTES + 1)
    if len(text) > MOST_BYTES:
        raise InvalidInput(f"The file has more than {MOST_BYTES:,} characters.", way_out="Replay a part of it.")
    rows: dict[GrantName, list[tuple[UseRow, UseDay]]] = defaultdict(list)
    for number, fields in enumerate(_fields(text), 1):
        if number > MOST_ROWS:
            raise InvalidInput(f"The file has more than {MOST_ROWS:,} rows.", way_out="Replay a part of it.")
        try:
            row = _ROW.validate_python(fields)
            rows[row.grant].append((row, row.use))
        except ValidationError as error:
            place, fault = next(faults_of(error))
            where = ".".join(map(str, place)) or "the row"
            raise InvalidInput(f"Row {number}, {where}: {fault}.", way_out="Correct it; --help shows rows.") from None
        except InvalidInput as error:
            raise InvalidInput(f"Row {number}: {error.message}", way_out=error.way_out) from None
    return [_recorded(name, of) for name, of in sorted(rows.items())]


def _fields(text: str) -> Iterator[Mapping[str, object]]:
    if text.lstrip("\ufeff \t\r\n").startswith("["):
        try:
            yield from json.loads(text.lstrip("\ufeff"))
        except (ValueError, RecursionError) as error:
            raise InvalidInput(f"The file is no JSON: {error}.", way_out="Correct it.") from None
        return
    reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")), strict=True, restkey="more than the header")
    try:
        yield from reader
    except csv.Error as error:
        raise InvalidInput(f"The file is no CSV, at line {reader.line_num}: {error}.", way_out="Correct it.") from None


def _recorded(name: GrantName, rows: list[tuple[UseRow, UseDay]]) -> Recorded:
    last = max(rows, key=lambda one: one[0].day)[0]
    grant = WatchedGrant(
        name=name,
        gpus=last.gpus,
        min_gpus=last.min_gpus or 0,
        starts=last.starts or min(row.day for row, _ in rows),
        ends=last.ends or last.day,
        programme=last.programme,
    )
    return Recorded(grant, [use for _, use in rows])


# -- The answer --------------------------------------------------------------------------------------------------------


class Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class StepAnswer(Answer):
    """`allocated` and `busy` are parts of what could be used, over the window; `busy` null: not known."""

    day: date
    grant: str
    before: Rung
    to: Rung
    why: str
    proposal: str | None
    allocated: float | None
    busy: float | None
    needed: int | None
    proposed: int | None


class HitAnswer(Answer):
    """GPU-days: `freed` until the grant's end, and of them `wanted` by use that was recorded later."""

    day: date
    grant: str
    gpus: int
    keeps: int
    freed: int
    wanted: int
    wrongly: bool
    why: str


class ReplayAnswer(Answer):
    grants: int
    days: int
    awarded_gpu_days: int
    unused_gpu_days: int
    freed_gpu_days: int
    wanted_gpu_days: int
    wrongly: int
    steps_by_rung: dict[Rung, int]
    hits: tuple[HitAnswer, ...]
    steps: tuple[StepAnswer, ...]


def answer_of(found: IdleReplay) -> ReplayAnswer:
    hits = tuple(
        HitAnswer(
            day=hit.step.day,
            grant=hit.step.grant,
            gpus=hit.kept + hit.taken,
            keeps=hit.kept,
            freed=hit.freed,
            wanted=hit.wanted,
            wrongly=hit.wrongly,
            why=hit.step.why,
        )
        for hit in found.hits
    )
    return ReplayAnswer(
        grants=found.grants,
        days=found.days,
        awarded_gpu_days=found.awarded,
        unused_gpu_days=found.unused,
        freed_gpu_days=sum(hit.freed for hit in hits),
        wanted_gpu_days=sum(hit.wanted for hit in hits),
        wrongly=sum(hit.wrongly for hit in hits),
        steps_by_rung=dict(found.by_rung),
        hits=hits,
        steps=tuple(map(step_answer, found.steps)),
    )


def step_answer(step: Step) -> StepAnswer:
    return _step(step, step.evidence)


def _step(step: Step, evidence: Evidence | None) -> StepAnswer:
    return StepAnswer(
        day=step.day,
        grant=step.grant,
        before=step.before,
        to=step.to,
        why=step.why,
        proposal=step.proposal,
        allocated=evidence and round(evidence.window.allocated, 4),
        busy=None if evidence is None or evidence.window.busy is None else round(evidence.window.busy, 4),
        needed=evidence and evidence.needed,
        proposed=evidence and evidence.proposed,
    )
