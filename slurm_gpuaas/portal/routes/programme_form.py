"""A programme as a form, as a text, and as the changes that are about to be made. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, ClassVar, Final, TypeVar

import yaml
from pydantic import ValidationError

from slurm_gpuaas.domain.errors import GpuaasError, InvalidInput
from slurm_gpuaas.domain.faults import faults_of
from slurm_gpuaas.domain.policy import KST, MOST_GPUS, MOST_WON
from slurm_gpuaas.domain.programmes import MOST_POINTS, OrganisationKind, Programme
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.portal.routes.application_form import whole
from slurm_gpuaas.portal.routes.fields import line, paragraphs

T = TypeVar("T")
Typed = Mapping[str, Sequence[str]]

MOST_TEXT: Final = 50_000
"""A programme with 200 calls has some 20,000; the worst text of this length took 1.2 s of CPU to refuse."""
MOST_FAULTS: Final = 20
SPARE_ROWS: Final = 2
"""Empty rows of calls and criteria that a form offers."""
CALL_FIELDS: Final = ("call_number", "call_opens", "call_closes")
CRITERION_FIELDS: Final = ("criterion_key", "criterion_ko", "criterion_en", "criterion_weight")
_NUMBERS: Final[Mapping[str, Callable[[str], int]]] = {
    "longest_days": whole(1, 3_660),
    "reviews_needed": whole(1, 20),
    "least_score": whole(0, MOST_POINTS),
    "answer_days": whole(1, 90),
    "grace_days": whole(0, 365),
}
_OPTIONAL: Final[Mapping[str, Callable[[str], int]]] = {
    "beyond": whole(1, MOST_GPUS),
    "cap_won": whole(1, MOST_WON),
}
_CAPS: Final = ("organisation", "region", "per_project")


def filled(programme: Programme | None) -> dict[str, list[str]]:
    """The fields of the form for a programme, or for a new one."""
    if programme is None:
        start = {
            "sizes": "8, 16, 32, 64",
            "longest_days": "365",
            "reviews_needed": "2",
            "least_score": "0",
            "answer_days": "7",
            "warn_days": "30, 14, 3",
            "grace_days": "14",
        }
        return {name: [value] for name, value in start.items()}
    one = programme
    fields = {
        "name": [str(one.name)],
        "title_ko": [one.title.ko],
        "title_en": [one.title.en],
        "about": [one.about],
        "models": [", ".join(one.models)],
        "shares": [str(share) for share in one.shares],
        "sizes": [", ".join(map(str, one.sizes))],
        "warn_days": [", ".join(map(str, one.warn_days))],
        "call_number": [str(call.number) for call in one.calls],
        "call_opens": [_local(call.opens) for call in one.calls],
        "call_closes": [_local(call.closes) for call in one.calls],
        "criterion_key": [criterion.key for criterion in one.criteria],
        "criterion_ko": [criterion.title.ko for criterion in one.criteria],
        "criterion_en": [criterion.title.en for criterion in one.criteria],
        "criterion_weight": [str(criterion.weight) for criterion in one.criteria],
    }
    fields |= {f"price_{kind}": [f"{percent:f}"] for kind, percent in one.prices.items()}
    fields |= {name: [str(getattr(one, name))] for name in _NUMBERS}
    for name, value in (
        *((name, getattr(one, name)) for name in _OPTIONAL),
        *((f"cap_{name}", getattr(one.caps, name)) for name in _CAPS),
    ):
        fields[name] = [] if value is None else [str(value)]
    return fields


def read_form(typed: Typed) -> tuple[Programme | None, dict[str, str]]:
    """The programme that a form says; None with faults by field (`""`: of the programme as a whole)."""
    faults: dict[str, str] = {}

    def one(name: str, parse: Callable[[str], T], text: str | None = None, *, beside: str = "") -> T | None:
        try:
            return parse((_first(typed, name) if text is None else text).strip())
        except GpuaasError as error:
            faults.setdefault(beside or name, error.message)
            return None

    document: dict[str, Any] = {
        "name": one("name", line(30)),
        "title": {"ko": one("title_ko", line(200)), "en": one("title_en", line(200))},
        "about": one("about", paragraphs(4_000, 0)),
        "models": one("models", _words),
        "shares": list(typed.get("shares", ())),
        "sizes": one("sizes", _wholes(MOST_GPUS)),
        "warn_days": one("warn_days", _wholes(365)),
        "prices": {
            str(kind): one(f"price_{kind}", _percent)
            for kind in OrganisationKind
            if _first(typed, f"price_{kind}").strip()
        },
        "caps": {
            name: one(f"cap_{name}", whole(1, MOST_GPUS)) for name in _CAPS if _first(typed, f"cap_{name}").strip()
        },
        "calls": [
            {
                "number": one("calls", whole(1, 10_000), number),
                "opens": one("calls", _moment, opens),
                "closes": one("calls", _moment, closes),
            }
            for number, opens, closes in _rows(typed, CALL_FIELDS)
        ],
        "criteria": [
            {
                "key": one("criteria", line(30), key),
                "title": {"ko": one("criteria", line(200), ko), "en": one("criteria", line(200), en)},
                "weight": one("criteria", whole(1, 1_000), weight),
            }
            for key, ko, en, weight in _rows(typed, CRITERION_FIELDS)
        ],
    }
    document |= {name: one(name, parse) for name, parse in _NUMBERS.items()}
    document |= {name: one(name, parse) for name, parse in _OPTIONAL.items() if _first(typed, name).strip()}
    for name in ("prices", "shares", "criteria"):
        if not document[name] and not any(fault.startswith(name[:5]) for fault in faults):
            faults[name] = told("Give at least one.")
    if faults:
        return None, faults
    try:
        return Programme.model_validate(document), {}
    except ValidationError as error:
        return None, _beside(error)


_FIELD_OF: Final = {"title": "title_ko", "caps": "caps"}


def _beside(error: ValidationError) -> dict[str, str]:
    """Faults that only the whole programme shows, beside the field they are of; in the rules' own words."""
    faults: dict[str, str] = {}
    for fault in error.errors(include_url=False):
        place = str(fault["loc"][0]) if fault["loc"] else ""
        own = fault.get("ctx", {}).get("error")
        said = own.message if isinstance(own, GpuaasError) else told("This value cannot be taken.")
        faults.setdefault(_FIELD_OF.get(place, place), said)
    return faults


# -- As text -----------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):  # not C's, which composes without asking
    """Safe; a key given twice and a reference (which can blow a short text up) are errors. Days stay text."""

    yaml_implicit_resolvers: ClassVar = {  # type: ignore[misc]  # as PyYAML itself overrides it
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "references are not taken", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for name, _ in node.value:
            if not isinstance(name, yaml.ScalarNode) or name.value in seen:
                raise yaml.constructor.ConstructorError(None, None, "a key is given twice, or no word", name.start_mark)
            seen.add(name.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping


def read_text(text: str) -> tuple[Programme | None, list[str]]:
    """The programme of a YAML or JSON text; None with what is wrong, each with its place."""
    if len(text) > MOST_TEXT:
        return None, [told("The text has more than {most} characters.", most=MOST_TEXT)]
    try:
        value = yaml.load(text, _Loader)  # noqa: S506  # it is safe: a SafeLoader that takes less
        return Programme.model_validate(value), []
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        return None, [
            told(
                "Line {line}: {problem}.",
                line=mark.line + 1 if mark else 1,
                problem=str(getattr(error, "problem", None) or "this cannot be read"),
            )
        ]
    except ValidationError as error:
        found = [
            told("{place}: {fault}.", place=".".join(map(str, place)) or "–", fault=fault)
            for place, fault in faults_of(error)
        ]
        return None, [*found[:MOST_FAULTS]]
    except (TypeError, ValueError, RecursionError):
        return None, [told("A value cannot be read.")]


def written(programme: Programme) -> str:
    """As YAML, to be changed and pasted again."""
    said = yaml.safe_dump(programme.model_dump(mode="json"), allow_unicode=True, sort_keys=False, width=100)
    return str(said)


# -- What changes ------------------------------------------------------------------------------------------------------


def digest(programme: Programme | None) -> str:
    """Of what somebody saw before they changed it; '' of nothing."""
    return "" if programme is None else hashlib.sha256(programme.model_dump_json().encode()).hexdigest()[:24]


def changes(before: Programme | None, after: Programme) -> list[tuple[str, str, str]]:
    """Place, value before and value after, of all that differs; '' where there was or is nothing."""
    old = {} if before is None else _flat(before)
    new = _flat(after)
    places = [*new, *(place for place in old if place not in new)]
    return [(one, old.get(one, ""), new.get(one, "")) for one in places if old.get(one, "") != new.get(one, "")]


_KEYS: Final = {"calls": "number", "criteria": "key"}


def _flat(programme: Programme) -> dict[str, str]:
    flat: dict[str, str] = {}

    def walk(place: str, value: object) -> None:
        match value:
            case dict():
                for name, inner in value.items():
                    walk(f"{place}.{name}" if place else str(name), inner)
            case tuple() if place in _KEYS:
                for row in value:
                    key = row[_KEYS[place]]
                    walk(f"{place}.{key}", {name: inner for name, inner in row.items() if name != _KEYS[place]})
            case tuple():
                flat[place] = ", ".join(map(str, value))
            case datetime():
                flat[place] = value.astimezone(KST).strftime("%Y-%m-%d %H:%M:%S KST")
            case Decimal():
                flat[place] = f"{value.normalize():f}"
            case None:
                pass
            case _:
                flat[place] = str(value)

    walk("", programme.model_dump())
    return flat


# -- Parts of fields ---------------------------------------------------------------------------------------------------


def _first(typed: Typed, name: str) -> str:
    values = typed.get(name)
    return values[0] if values else ""


def _rows(typed: Typed, names: Sequence[str]) -> list[tuple[str, ...]]:
    """Rows in which anything is typed."""
    columns = [typed.get(name, ()) for name in names]
    most = max(map(len, columns), default=0)
    rows = [tuple(column[at] if at < len(column) else "" for column in columns) for at in range(most)]
    return [row for row in rows if any(value.strip() for value in row)]


def rows_shown(typed: Typed, names: Sequence[str]) -> list[tuple[str, ...]]:
    """With empty ones at the end."""
    return [*_rows(typed, names), *[("",) * len(names)] * SPARE_ROWS]


def _words(text: str) -> list[str]:
    found = [word for word in text.replace(",", " ").split() if word]
    if not found or len(found) > 100:
        raise InvalidInput(told("Write names with commas between them."))
    return found


def _wholes(most: int) -> Callable[[str], list[int]]:
    def parse(text: str) -> list[int]:
        return [whole(1, most)(part) for part in text.replace(",", " ").split()[:100]]

    return parse


def _percent(text: str) -> str:
    try:
        percent = Decimal(text) if len(text) <= 10 else Decimal(-1)
    except InvalidOperation:
        percent = Decimal(-1)
    if not (percent.is_finite() and 0 <= percent <= 100 and percent == percent.quantize(Decimal("0.01"))):
        raise InvalidInput(told("Write a percentage from 0 to 100 with at most two decimals."))
    return str(percent)


def _local(moment: datetime) -> str:
    local = moment.astimezone(KST).replace(tzinfo=None)
    return local.isoformat(timespec="seconds" if local.second else "minutes")


def _moment(text: str) -> datetime:
    """A field of days and times is in Korean time."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(told("Write day and time, as in 2027-03-01T09:00.")) from None
    return moment.replace(tzinfo=KST) if moment.tzinfo is None else moment
