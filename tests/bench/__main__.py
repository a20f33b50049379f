"""`python -m tests.bench [GROUP ...]`: run the groups, print one table, write bench.json beside the Makefile."""

from __future__ import annotations

import importlib
import pkgutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

import tests.bench
from slurm_gpuaas.domain.errors import ExitCode, GpuaasError
from slurm_gpuaas.testbed.progress import shown
from tests.bench.model import BenchContext, BenchRow, write_json

REPORT = Path(__file__).parents[2] / "bench.json"
PREFIX = "group_"


def group_names() -> list[str]:
    names = (module.name for module in pkgutil.iter_modules(tests.bench.__path__))
    return sorted(name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX))


Group = Callable[[BenchContext], list[BenchRow]]


def group(name: str) -> Group:
    found: Group = importlib.import_module(f"tests.bench.{PREFIX}{name}").run
    return found


@dataclass
class Measured:
    """Rows of the groups so far, and why groups that failed did."""

    rows: list[BenchRow] = field(default_factory=list)
    failed: dict[str, Exception] = field(default_factory=dict)

    def add(self, groups: Mapping[str, Group], context: BenchContext) -> None:
        """Run the groups, one after the other. One that fails costs the others nothing: the next has a new testbed."""
        for name, run in groups.items():
            try:
                self.rows.extend(run(context))
            except (GpuaasError, AssertionError) as error:
                self.failed[name] = error
                context.close()

    def tell(self, console: Console) -> None:
        console.print(table_of(self.rows))
        for name, error in self.failed.items():
            click.echo(f"Error: group {name} failed and has no rows: {error}", err=True)


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
    measured = Measured()
    try:
        with shown(Console(stderr=True)) as progress, closing(BenchContext(progress)) as context:
            measured.add({name: group(name) for name in groups or group_names()}, context)
    finally:  # what was measured before an end like Ctrl-C is worth reading
        write_json(measured.rows, REPORT)
        measured.tell(Console())
    if measured.failed:
        sys.exit(ExitCode.FAILED)


if __name__ == "__main__":
    main()
