"""The form of an application: fields of a draft, each read and held against the programme's rules by itself. Pure.

A draft is texts as they were typed; nothing in it need make sense. `read` says what each field means and what is wrong
with it, so that the wizard tells a fault beside its field, in whatever order the steps are filled in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from enum import StrEnum
from functools import partial
from typing import Final, TypeVar

from pydantic import ValidationError

from slurm_gpuaas.domain.applications import (
    ApplicationRequest,
    Sized,
    check_budget,
    check_call,
    check_days,
    check_kind,
    check_model,
    check_size,
    check_start,
)
from slurm_gpuaas.domain.calendar import FURTHEST_DAY
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.errors import GpuaasError, InvalidInput
from slurm_gpuaas.domain.names import GpuModel
from slurm_gpuaas.domain.policy import MOST_GPUS, MOST_WON
from slurm_gpuaas.domain.programmes import PoolOrganisation, Programme
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.domain.workloads import (
    LEAST_PARAMETERS,
    MOST_GPU_HOURS,
    MOST_PARAMETERS,
    MOST_TOKENS,
    Kind,
    Measured,
    Precision,
    Workload,
)
from slurm_gpuaas.pool.proposal import Proposal, models_of, propose
from slurm_gpuaas.pool.sizing import Offered
from slurm_gpuaas.portal.routes.fields import choice, line, paragraphs

MOST_DAYS: Final = 1_100
"""As right-sizing takes them; a programme's own limit is shorter."""
ANY: Final = "any"


class FormStep(StrEnum):
    CALL = "call"
    PURPOSE = "purpose"
    SIZE = "size"
    PERIOD = "period"
    CHECK = "check"


FIELDS: Final[Mapping[FormStep, tuple[str, ...]]] = {
    FormStep.CALL: ("call", "title"),
    FormStep.PURPOSE: ("purpose", "workload"),
    FormStep.SIZE: (
        "kind",
        "model",
        "days",
        "precision",
        "parameters",
        "active_parameters",
        "tokens",
        "sequence_length",
        "layers",
        "width",
        "concurrent_sequences",
        "peak_over_mean",
        "gpu_hours",
    ),
    FormStep.PERIOD: ("starts", "days", "gpus", "min_gpus", "why", "budget_won"),
    FormStep.CHECK: (),
}
"""What is asked in each step. The period's days are asked where they decide on the size, and again with its start."""
ALL_FIELDS: Final = frozenset(name for names in FIELDS.values() for name in names)
STEP_OF: Final[Mapping[str, FormStep]] = {name: step for step in reversed([*FormStep]) for name in FIELDS[step]}
"""Where to mend a field: its first step."""

_UNITS: Final = {
    "": 1.0,
    "k": 1e3,
    "m": 1e6,
    "b": 1e9,
    "g": 1e9,
    "t": 1e12,
    "만": 1e4,
    "억": 1e8,
    "조": 1e12,
}
_NUMBER: Final = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)(?:e\+?([0-9]{1,2}))?\s?([kmbgt만억조]?)")
MOST_DIGITS: Final = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What a draft is held against.

    Args:
        today: in Korea.
        measured: of the applicant's earlier grants.
    """

    programme: Programme
    organisation: PoolOrganisation
    clock: Clock
    today: date
    measured: tuple[Measured, ...]
    offered: Offered


@dataclass(slots=True, kw_only=True)
class Form:
    """A draft as it is understood.

    Attributes:
        faults: by field, what is wrong with it.
        request: the application, once nothing is.
        no_proposal: why right-sizing proposes nothing, although the workload is declared.
    """

    faults: dict[str, str] = field(default_factory=dict)
    request: ApplicationRequest | None = None
    workload: Workload | None = None
    model: GpuModel | None = None
    days: int | None = None
    ends: date | None = None
    proposal: Proposal | None = None
    no_proposal: GpuaasError | None = None

    def faults_of(self, step: FormStep) -> dict[str, str]:
        return {name: fault for name, fault in self.faults.items() if name in FIELDS[step]}

    def done(self, step: FormStep) -> bool:
        return self.request is not None if step is FormStep.CHECK else not self.faults_of(step)

    @property
    def proposed(self) -> int | None:
        return None if self.proposal is None else self.proposal.sizing.gpus


T = TypeVar("T")


class _Reader:
    """Fields of one draft, each with the checks of its own."""

    def __init__(self, fields: Mapping[str, str], faults: dict[str, str]) -> None:
        self._fields = fields
        self._faults = faults

    def text(self, name: str) -> str:
        return self._fields.get(name, "").strip()

    def read(self, name: str, parse: Callable[[str], T], *checks: Callable[[T], None]) -> T | None:
        """None when the field is wrong."""
        try:
            value = parse(self.text(name))
            for check in checks:
                check(value)
        except GpuaasError as error:
            self._faults[name] = error.message
            return None
        return value

    def optional(self, name: str, parse: Callable[[str], T], *checks: Callable[[T], None]) -> T | None:
        """None also when nothing is typed."""
        return self.read(name, parse, *checks) if self.text(name) else None


def read(fields: Mapping[str, str], desk: Desk) -> Form:
    """What the draft says, and all that is wrong with it."""
    form, rules = Form(), desk.programme
    reader = _Reader(fields, form.faults)
    now = desk.clock.now()
    call = reader.read(
        "call",
        whole(1, 10_000),
        lambda number: check_call(number, rules, now),
        lambda _: check_kind(desk.organisation, rules),
    )
    title = reader.read("title", line(200))
    purpose = reader.read("purpose", paragraphs(4_000))
    words = reader.read("workload", paragraphs(4_000))
    form.model = reader.read("model", _model, lambda model: check_model(model, rules))
    form.days = reader.read("days", whole(1, MOST_DAYS), lambda days: check_days(days, rules))
    form.workload = _workload(reader, form.faults)
    _propose(form, desk)
    starts = reader.read("starts", day, lambda starts: check_start(starts, now))
    if starts is not None and form.days is not None:
        form.ends = _last_day(starts, form.days, form.faults)
    gpus = reader.read("gpus", whole(1, MOST_GPUS), lambda gpus: check_size(gpus, rules))
    least = reader.read("min_gpus", whole(1, MOST_GPUS), lambda least: _check_least(least, gpus))
    why = reader.read("why", paragraphs(4_000, 0))
    tried = form.proposal is not None or form.no_proposal is not None
    if tried and gpus is not None and gpus != form.proposed and not why:
        form.faults.setdefault("why", _not_as_proposed(form.proposed))
    budget = reader.optional("budget_won", whole(1, MOST_WON))
    if "budget_won" not in form.faults:
        reader.read("budget_won", lambda _: budget, lambda budget: check_budget(budget, rules))
    if not form.faults and form.workload is not None:
        form.request = ApplicationRequest.model_validate(
            {
                "programme": rules.name,
                "call": call,
                "organisation": desk.organisation.name,
                "title": title,
                "purpose": purpose,
                "workload": words,
                "model": form.model,
                "gpus": gpus,
                "min_gpus": least,
                "starts": starts,
                "ends": form.ends,
                "budget_won": budget,
                "sized": sized(form.workload, form.proposal, form.model or rules.models[0], desk.measured, why or ""),
            }
        )
    return form


def sized(
    workload: Workload, proposal: Proposal | None, model: GpuModel, measured: tuple[Measured, ...], why: str
) -> Sized:
    """What an application keeps of its right-sizing.

    Args:
        model: stands for the proposal's where there is none.
    """
    return Sized(
        workload=workload,
        model=model if proposal is None else proposal.model,
        measured=measured,
        proposed=None if proposal is None else proposal.sizing.gpus,
        why=why,
    )


def _propose(form: Form, desk: Desk) -> None:
    if form.workload is None or form.days is None or "model" in form.faults:
        return
    models = models_of(desk.programme, form.model, form.workload.kind)
    try:
        form.proposal = propose(form.workload, models, days=form.days, measured=desk.measured, offered=desk.offered)
    except GpuaasError as error:
        form.no_proposal = error
    except ValidationError as error:
        form.no_proposal = reason(error)


def reason(error: ValidationError) -> GpuaasError:
    """The rule's own refusal within a validation's."""
    found = [one["ctx"]["error"] for one in error.errors() if "error" in one.get("ctx", {})]
    own = [one for one in found if isinstance(one, GpuaasError)]
    return own[0] if own else InvalidInput(told("A figure is outside what right-sizing can take."))


def _workload(reader: _Reader, faults: dict[str, str]) -> Workload | None:
    before = len(faults)
    kind = reader.read("kind", partial(choice, Kind))
    if kind is None:
        return None
    given: dict[str, object] = {"kind": kind}
    if kind is Kind.OTHER:
        given["gpu_hours"] = reader.read("gpu_hours", number(0.01, MOST_GPU_HOURS))
    else:
        given["parameters"] = reader.read("parameters", number(LEAST_PARAMETERS, MOST_PARAMETERS))
        given["tokens"] = reader.read("tokens", number(1, MOST_TOKENS))
        given["precision"] = reader.read("precision", partial(choice, Precision))
        parsers: Mapping[str, Callable[[str], float]] = {
            "active_parameters": number(LEAST_PARAMETERS, MOST_PARAMETERS),
            "sequence_length": whole(1, 100_000_000),
            "layers": whole(1, 10_000),
            "width": whole(1, 10_000_000),
            "concurrent_sequences": whole(1, 10_000_000),
            "peak_over_mean": number(1, 1_000),
        }
        for name, parse in parsers.items():
            value = reader.optional(name, parse)
            if value is not None:
                given[name] = value
    if len(faults) > before:
        return None
    try:
        return Workload.model_validate(given)
    except ValidationError as error:
        faults["active_parameters" if kind is not Kind.OTHER else "gpu_hours"] = reason(error).message
        return None


def _check_least(least: int, gpus: int | None) -> None:
    if gpus is not None and least > gpus:
        raise InvalidInput(told("At least {least} GPUs are more than the {gpus} asked for.", least=least, gpus=gpus))


def _not_as_proposed(proposed: int | None) -> str:
    if proposed is None:
        return told("Right-sizing proposes nothing; say why you need so many.")
    return told("Right-sizing proposes {proposed} GPUs; say why you need another number.", proposed=proposed)


def _last_day(starts: date, days: int, faults: dict[str, str]) -> date | None:
    if days > (FURTHEST_DAY - starts).days + 1:
        faults["starts"] = told("Nothing is promised beyond {day}.", day=FURTHEST_DAY)
        return None
    return starts + timedelta(days=days - 1)


# -- What is typed -----------------------------------------------------------------------------------------------------


def _plain(number: float) -> int | float:
    """Whole numbers are told in digits, as people write them, and never as 1e+06."""
    return int(number) if float(number).is_integer() else number


def number(least: float, most: float) -> Callable[[str], float]:
    """A parser of 8e9, 8B, 80억, 1,000.5 (thousands of millions are B, as in the names of models)."""

    def parse(text: str) -> float:
        found = _NUMBER.fullmatch(text.replace(",", "").lower()) if len(text) <= MOST_DIGITS else None
        if found is None:
            raise InvalidInput(told("Write a number, as in 8e9, 8B, 1.5T or 80억."))
        value = float(found[1]) * 10.0 ** int(found[2] or 0) * _UNITS[found[3]]
        if not least <= value <= most:
            raise InvalidInput(told("Write a number from {least} to {most}.", least=_plain(least), most=_plain(most)))
        return value

    return parse


def whole(least: int, most: int) -> Callable[[str], int]:
    """A parser of whole numbers; commas between thousands are taken."""

    def parse(text: str) -> int:
        digits = text.replace(",", "")
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 18 and least <= int(digits) <= most):
            raise InvalidInput(told("Write a whole number from {least} to {most}.", least=least, most=most))
        return int(digits)

    return parse


def day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidInput(told("Write a day as in 2027-03-01.")) from None


def _model(text: str) -> GpuModel | None:
    if text == ANY:
        return None
    try:
        return GpuModel(text)
    except InvalidInput:
        raise InvalidInput(told("Choose from the list.")) from None
