"""`python -m tests.bench [GROUP ...]`: run the groups, print one table, write bench.json beside the Makefile."""

from __future__ import annotations

import importlib
import pkgutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

import tests.bench
from slurm_gpuaas.domain.errors import GpuaasError
from slurm_gpuaas.testbed.progress import shown
from tests.bench.model import BenchContext, BenchRow, write_json

REPORT = Path(__file__).parents[2] / "bench.json"
PREFIX = "group_"


def group_names() -> list[str]:
    names = (module.name for module in pkgutil.iter_modules(tests.bench.__path__))
    return sorted(name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX))


def measure(groups: Sequence[str], console: Console) -> Iterator[BenchRow]:
    """Rows of the groups, one group after the other."""
    with shown(console) as progress, closing(BenchContext(progress)) as context:
        for group in groups:
            yield from importlib.import_module(f"tests.bench.{PREFIX}{group}").run(context)


def table_of(rows: Sequence[BenchRow]) -> Table:
    table = Table(title="Medians, each measured side by side with its baseline in this run")
    table.add_column("name", no_wrap=True)
    for column in ("ours", "baseline"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("unit")
    for column in ("ratio", "runs"):
        table.add_column(column, justify="right")
    for row in rows:
        baseline = "" if row.baseline is None else f"{row.baseline:.4g}"
        ratio = "" if row.ratio is None else f"{row.ratio:.3g} x"
        table.add_row(row.name, f"{row.value:.4g}", baseline, row.unit, ratio, str(row.runs))
    return table


@click.command()
@click.argument("groups", nargs=-1, type=click.Choice(group_names()), metavar="[GROUP]...")
def main(groups: tuple[str, ...]) -> None:
    """Measure GROUPs (all by default) against the obvious alternative on real Slurm. Needs root."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the testbed is taken down on the way out
    rows: list[BenchRow] = []
    try:
        rows.extend(measure(groups or group_names(), Console(stderr=True)))
    except GpuaasError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    finally:  # what was measured before a group failed is worth reading
        write_json(rows, REPORT)
        Console().print(table_of(rows))


if __name__ == "__main__":
    main()
