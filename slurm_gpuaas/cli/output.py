"""Prints: tables for people, one JSON document for programs."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

import click
from pydantic import BaseModel

SEOUL = ZoneInfo("Asia/Seoul")
PIPE_WIDTH = 10_000
"""Columns when the output is no terminal: nothing is cut that a program may read."""


def print_json(value: BaseModel | Sequence[BaseModel]) -> None:
    plain = (
        value.model_dump(mode="json")
        if isinstance(value, BaseModel)
        else [row.model_dump(mode="json") for row in value]
    )
    click.echo(json.dumps(plain, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """A table, or the sentence `empty`. Columns whose name starts with '#' hold numbers and are set right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [[shown(value) for value in row] for row in rows]
    if not cells:
        click.echo(empty)
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column.removeprefix("#"), justify="right" if column.startswith("#") else "left")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    Console(width=width).print(table)


def print_facts(facts: Iterable[tuple[str, object]]) -> None:
    """`name: value` lines, aligned."""
    rows = [(name, shown(value)) for name, value in facts]
    widest = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        click.echo(f"{click.style(f'{name:<{widest}}', bold=True)}  {value}")


def shown(value: object) -> str:
    """As text on one line or more; what would steer a terminal is shown as the replacement character."""
    return _STEERING.sub("\N{REPLACEMENT CHARACTER}", _plain(value))


_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def _plain(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case datetime():
            return f"{value.astimezone(SEOUL):%Y-%m-%d %H:%M:%S}"
        case float():
            return f"{value:,.1f}"
        case int():
            return f"{value:,}"
        case _:
            return str(value)
