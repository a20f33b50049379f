"""`gpuaas usage`: GPU-hours used; `gpuaas usage gpu`: how busy the GPUs were."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import click

from slurm_gpuaas.cli.context import Session, as_json, pass_session
from slurm_gpuaas.cli.days import day, midnight
from slurm_gpuaas.cli.gpu_usage import gpu
from slurm_gpuaas.cli.output import print_json, print_table
from slurm_gpuaas.domain.errors import InvalidInput

DIMENSIONS = ("project", "user", "model", "qos", "cluster")


@click.group(invoke_without_command=True)
@click.option("--project", help="Of this project only.")
@click.option("--from", "start", metavar="DAY", help="First Korean day, e.g. 2027-01-01. Default: this month's first.")
@click.option("--to", "end", metavar="DAY", help="Last Korean day, included. Default: today.")
@click.option(
    "--by",
    type=click.Choice(DIMENSIONS),
    multiple=True,
    default=("project",),
    show_default=True,
    help="Split by this; may be given several times.",
)
@as_json
@pass_session
@click.pass_context
def usage(
    ctx: click.Context,
    session: Session,
    project: str | None,
    start: str | None,
    end: str | None,
    by: Sequence[str],
    as_json: bool,
) -> None:
    """Show GPU-hours used, as Slurm's accounting holds them.

    Researchers see their own projects. Won are reckoned at the rate in force when a run started, guaranteed and burst
    apart; use of a model without a rate costs none and is named below the table. `preempted` and `node failed` are the
    parts whose run ended so.

    \b
    Examples:
      gpuaas usage
      gpuaas usage --project vision --from 2027-01-01 --to 2027-01-31 --by user --by model
      gpuaas usage --json
      gpuaas usage gpu --project vision       how busy the GPUs were
    """
    if ctx.invoked_subcommand is not None:
        if project or start or end or as_json:
            raise InvalidInput("Options stand behind the command they are for.", way_out="`gpuaas usage gpu --json`.")
        return
    first = day(start)
    last = day(end)
    with session.connect() as client:
        answer = client.usage(
            start=midnight(first) if first else None,
            end=midnight(last + timedelta(days=1)) if last else None,
            project=project,
            by=by,
        )
    if as_json:
        print_json(answer)
        return
    print_table(
        (
            *by,
            "#runs",
            "#GPU-hours",
            "#guaranteed",
            "#burst",
            "#guaranteed Won",
            "#burst Won",
            "#preempted",
            "#node failed",
        ),
        (
            (
                *(row.keys[name] for name in by),
                row.runs,
                *(_hours(part) for part in (row.guaranteed + row.burst, row.guaranteed, row.burst)),
                row.guaranteed_won,
                row.burst_won,
                *(_hours(part) for part in (row.preempted, row.node_failed)),
            )
            for row in answer.rows
        ),
        empty="Nothing was used in that time.",
    )
    if unpriced := sum(row.unpriced for row in answer.rows):
        click.echo(f"{_hours(unpriced)} GPU-hours have no price: no Rate of their model was in force.")


def _hours(seconds: int) -> str:
    """Two places: a minute on eight GPUs is 0.13."""
    return f"{seconds / 3600:,.2f}"


usage.add_command(gpu)
