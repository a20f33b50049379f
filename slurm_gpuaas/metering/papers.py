"""How money and time are written on paper: CSV for spreadsheets, HTML for the printer. Pure.

A spreadsheet takes a cell that begins with `=`, `+`, `-` or `@` for a formula, whoever wrote it. Texts that begin so
get an apostrophe in front; numbers are written as numbers.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import ROUND_DOWN, Decimal
from fractions import Fraction
from functools import cache
from typing import Any, Final

import jinja2

from slurm_gpuaas.domain.money import SECONDS_OF_AN_HOUR
from slurm_gpuaas.domain.policy import KST

Cell = str | int | Decimal

_FORMULA: Final = frozenset("=+-@＝＋－＠|%")
_CONTROL: Final = frozenset("\t\r\n\0")


def csv_of(headings: Sequence[str], rows: Iterable[Sequence[Cell]]) -> bytes:
    """UTF-8 with the byte order mark that Excel needs to read Korean."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(headings)
    writer.writerows([harmless(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    return out.getvalue().encode("utf-8-sig")


def harmless(text: str) -> str:
    """The text as no spreadsheet takes it for a formula."""
    if text[:1] in _CONTROL or text.lstrip()[:1] in _FORMULA:
        return "'" + text
    return text


def gpu_hours(gpu_seconds: int) -> Decimal:
    """Hundredths of a GPU-hour, cut off."""
    return (Decimal(gpu_seconds) / SECONDS_OF_AN_HOUR).quantize(Decimal("0.01"), rounding=ROUND_DOWN)


def won(amount: int) -> str:
    return f"{amount:,}"


def unit_price(won_an_hour: Fraction) -> str:
    """Won per GPU-hour; hundredths where a percentage made some."""
    return won(int(won_an_hour)) if won_an_hour.denominator == 1 else f"{float(won_an_hour):,.2f}"


def percent(number: Decimal) -> str:
    return f"{number.normalize():f}"


def korean_day(moment: datetime) -> str:
    return f"{moment.astimezone(KST):%Y-%m-%d}"


def servers(gpus: int, gpus_per_node: int = 8) -> str:
    """GPUs as the programme counts them: 장 are cards, 대 whole servers."""
    return f"{gpus:,}장" + (f"({gpus // gpus_per_node:,}대)" if gpus and gpus % gpus_per_node == 0 else "")


@cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("slurm_gpuaas.metering"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "won": won,
        "hours": lambda seconds: f"{gpu_hours(seconds):,}",
        "percent": percent,
        "day": korean_day,
        "servers": servers,
    }
    return environment


def html_of(template: str, **values: Any) -> str:
    return _templates().get_template(template).render(values)
