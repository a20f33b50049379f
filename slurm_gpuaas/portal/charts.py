"""Small charts that the server draws: where each bar goes. Pure; `templates/money.html` makes the SVG of it.

A chart says what a table beside it says, never more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log10
from typing import Final

WIDTH: Final = 380
HEIGHT: Final = 170
LEFT: Final = 44
"""Room for the numbers of the axis."""
TOP: Final = 8
FOOT: Final = 13
"""Room for one line of the labels under the bars."""
GAP: Final = 0.28
"""Part of a bar's room that stays empty."""


@dataclass(frozen=True, slots=True)
class Series:
    """`ink`: class of `static/money.css` without its `ink-`."""

    name: str
    ink: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    ink: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """`labels` and `ticks` carry where they stand, a label its lines; `rows` are the same figures as a table."""

    width: int
    height: int
    left: int
    across: str
    series: tuple[Series, ...]
    bars: tuple[Bar, ...]
    labels: tuple[tuple[float, tuple[str, ...]], ...]
    ticks: tuple[tuple[float, str], ...]
    rows: tuple[tuple[str, tuple[int | float, ...]], ...]


def stacked(
    across: str,
    series: Sequence[Series],
    columns: Sequence[tuple[str, Sequence[int | float]]],
    *,
    most_labels: int = 12,
) -> Chart:
    """Columns of bars, one on the other from the bottom.

    Args:
        across: what the columns are.
        columns: label, of one or more lines, and one figure for each series, none below 0.
        most_labels: under the bars; where there are more columns, some go without.
    """
    top = ceiling(max((sum(figures) for _, figures in columns), default=0))
    lines = max((label.count("\n") + 1 for label, _ in columns), default=1)
    floor = HEIGHT - FOOT * lines
    tall = floor - TOP
    room = (WIDTH - LEFT) / max(len(columns), 1)
    bars, labels = [], []
    every = -(-len(columns) // most_labels)
    for place, (label, figures) in enumerate(columns):
        x, base = LEFT + place * room, float(floor)
        for one, figure in zip(series, figures, strict=True):
            height = tall * figure / top
            base -= height
            if figure > 0:
                bars.append(
                    Bar(
                        ink=one.ink,
                        x=round(x + room * GAP / 2, 2),
                        y=round(base, 2),
                        width=round(room * (1 - GAP), 2),
                        height=round(height, 2),
                    )
                )
        if place % every == 0:
            labels.append((round(x + room / 2, 2), tuple(label.split("\n"))))
    ticks = tuple((round(floor - tall * part / 2, 2), short(top * part / 2)) for part in range(3))
    return Chart(
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        across=across,
        series=tuple(series),
        bars=tuple(bars),
        labels=tuple(labels),
        ticks=ticks,
        rows=tuple((label.replace("\n", " "), tuple(figures)) for label, figures in columns),
    )


def ceiling(most: float) -> float:
    """The axis ends at 1, 2, 4, 5 or 8 times a power of ten, at least at 1."""
    if most <= 1:
        return 1.0
    power = 10.0 ** int(log10(most))
    return next((step * power for step in (1, 2, 4, 5, 8) if step * power >= most), 10 * power)


def short(number: float) -> str:
    """As an axis says it: 1.2M, 40k, 0.5."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:g}{letter}"
    return f"{number:g}"
