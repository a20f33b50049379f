"""`gpuaas budget`: what is awarded, used, promised and left, and when it runs dry."""

from __future__ import annotations

from collections.abc import Iterator

import click

from slurm_gpuaas.api.models import BudgetSide, BudgetStatus
from slurm_gpuaas.cli.context import Session, as_json, pass_session
from slurm_gpuaas.cli.output import SEOUL, print_json, print_table


@click.command()
@click.option("--project", help="Of this project only.")
@as_json
@pass_session
def budget(session: Session, project: str | None, as_json: bool) -> None:
    """Show budgets of the period in force, in GPU-hours and Won.

    Researchers see their own projects. `committed` is what running jobs may still use until their time limits. A job
    starts only when `can start` holds all of it: GPUs x time limit. `written` is the limit in Slurm, which counts from
    the account's first day. `runs dry` is reckoned at the pace of the last seven days.

    \b
    Examples:
      gpuaas budget
      gpuaas budget --project vision
      gpuaas budget --json | jq '.[] | {project, runs_dry}'
    """
    with session.connect() as client:
        budgets = client.budgets(project=project)
    if as_json:
        print_json(budgets)
        return
    print_table(
        (
            *("project", "period", "unit", "#awarded", "#carried", "#grace", "#used", "#committed", "#left"),
            *("#used %", "warning", "runs dry", "#can start (GPU-h)", "#written (GPU-h)"),
        ),
        (row for one in budgets for row in _rows(one)),
        empty="No project that you may see has a budget in force.",
    )


def _rows(one: BudgetStatus) -> Iterator[tuple[object, ...]]:
    """A row a side; what is of the whole budget stands in the first."""
    first = f"{one.period_start.astimezone(SEOUL):%Y-%m-%d}"
    whole: tuple[object, ...] = (
        f"{one.used_percent:.1f}",
        None if one.warning is None else f"{one.warning} %",
        None if one.runs_dry is None else f"{one.runs_dry.astimezone(SEOUL):%Y-%m-%d}",
        *(
            None if minutes is None else minutes / 60
            for minutes in (one.startable_gpu_minutes, one.written_gpu_minutes)
        ),
    )
    head: tuple[object, ...] = (one.project, f"from {first}")
    for unit, side, scale in (("GPU-hours", one.gpu_seconds, 3600), ("Won", one.won, 1)):
        if side is not None:
            yield (*head, unit, *(_amount(amount, scale) for amount in _amounts(side)), *whole)
            head, whole = ("", ""), ("",) * len(whole)


def _amounts(side: BudgetSide) -> tuple[int, ...]:
    return side.awarded, side.carried, side.grace, side.used, side.committed, side.left


def _amount(amount: int, scale: int) -> object:
    return amount if scale == 1 else amount / scale
