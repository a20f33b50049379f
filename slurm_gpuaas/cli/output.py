"""Prints: tables for people, one JSON document for programs."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Literal
from zoneinfo import ZoneInfo

import click
from pydantic import BaseModel

SEOUL = ZoneInfo("Asia/Seoul")
PIPE_WIDTH = 10_000
"""Columns when the output is no terminal: nothing is cut that a program may read."""
LONGEST_WORD = 20
"""Longer words are broken where there is no room."""
GAP = 2
"""Between two columns."""


def print_json(value: BaseModel | Sequence[BaseModel]) -> None:
    plain = (
        value.model_dump(mode="json")
        if isinstance(value, BaseModel)
        else [row.model_dump(mode="json") for row in value]
    )
    click.echo(json.dumps(plain, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """A table, or the sentence `empty`. Columns whose name starts with '#' hold numbers and are set right.

    On a narrow terminal text is broken into lines; names and numbers stay whole, since people copy them.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [[shown(value) for value in row] for row in rows]
    if not cells:
        click.echo(empty)
        return
    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
    names = [column.removeprefix("#") for column in columns]
    widths = _widths([names, *cells], console.width)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for column, name, width in zip(columns, names, widths, strict=True):
        justify: Literal["left", "right"] = "right" if column.startswith("#") else "left"
        table.add_column(name, justify=justify, width=width, overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    console.width = max(console.width, sum(widths) + GAP * len(widths))
    console.print(table, crop=False)


def _widths(rows: Sequence[Sequence[str]], room: int) -> list[int]:
    """Widths of a table's columns: at least the longest word, so that none is broken; what room is left goes to the
    narrowest column that needs it. The sum may be more than there is room."""
    from rich.cells import cell_len

    columns = list(zip(*rows, strict=True))
    ideal = [max(1, *(cell_len(line) for text in column for line in text.split("\n"))) for column in columns]
    if sum(ideal) + GAP * (len(ideal) - 1) <= room:
        return ideal
    words = [[min(cell_len(word), LONGEST_WORD) for text in column for word in text.split()] for column in columns]
    widths = [max(lengths, default=1) for lengths in words]
    left = room - sum(widths) - GAP * (len(widths) - 1)
    while left > 0 and (growing := [n for n, width in enumerate(widths) if width < ideal[n]]):
        narrowest = min(growing, key=lambda n: widths[n])
        widths[narrowest] += 1
        left -= 1
    return widths


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
