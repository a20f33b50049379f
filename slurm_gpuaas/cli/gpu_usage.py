"""`gpuaas usage gpu`: how busy GPUs were."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import click

from slurm_gpuaas.api.models import GpuUsage, GpuUse, GpuUseRow
from slurm_gpuaas.cli.capacity import LEVELS, Ago
from slurm_gpuaas.cli.context import Session, as_json, pass_session
from slurm_gpuaas.cli.output import print_json, print_table, shown
from slurm_gpuaas.domain.errors import InvalidInput


@click.command()
@click.option("--node", help="The GPUs of this node. Administrators.")
@click.option("--job", type=click.IntRange(1, 2**31), help="The GPUs that this job had, by node.")
@click.option("--project", help="The GPUs that jobs of this project had, those first that idled longest.")
@click.option("--since", type=Ago(), help="Of the time since then: 90m, 24h, 7d; at most 100d. [1d; a job: its start]")
@as_json
@pass_session
def gpu(
    session: Session, node: str | None, job: int | None, project: str | None, since: timedelta | None, as_json: bool
) -> None:
    """Show how busy the GPUs of a node, a job or a project were.

    Busy is the share of time in which at least one kernel ran. A GPU-minute is idle when that is below 5 % of it, and
    unknown when no sample of it arrived (the agent, the GPU or gpuaasd was away): unknown is never counted as idle. Of
    jobs that share a node it is not known which GPUs were theirs; those are unknown, too.

    \b
    Examples:
      gpuaas usage gpu --node b200-001
      gpuaas usage gpu --job 4711
      gpuaas usage gpu --project vision --since 7d --json
    """
    if sum(one is not None for one in (node, job, project)) != 1:
        raise InvalidInput("One of --node, --job and --project is needed.", way_out="See `gpuaas usage gpu --help`.")
    start = None if since is None else datetime.now(UTC) - since
    with session.connect() as client:
        found = client.gpu_usage(node=node, job=job, project=project, start=start)
    if as_json:
        print_json(found)
        return
    for line in summary(found):
        click.echo(line)
    if any(point is not None for point in found.curve):
        click.echo(f"\nbusy  {sparkline(found.curve)}  0 to 100 %; a dot where nothing is known")
    click.echo()
    _print_rows(found, node=node is not None)
    if found.left_out:
        click.echo(f"{found.left_out} more jobs idled less.")


def summary(found: GpuUsage) -> Iterator[str]:
    total = found.total
    yield f"{shown(found.start)} to {shown(found.end)}: {_hours(total.known + total.unknown)} GPU-hours"
    if total.known:
        yield (
            f"{_hours(total.known)} known, {shown(total.busy_percent)} % busy on average; {_hours(total.idle)} of them "
            f"idle (below {found.idle_below_percent:g} %)"
        )
    if total.unknown:
        where = f", {_hours(total.shared)} of them on nodes shared with other jobs" if total.shared else ""
        yield f"{_hours(total.unknown)} unknown{where}"


def sparkline(points: Sequence[float | None]) -> str:
    """One character a point; 0 to 100."""
    top = len(LEVELS) - 1
    return "".join("·" if point is None else LEVELS[round(min(point, 100) / 100 * top)] for point in points)


def _print_rows(found: GpuUsage, *, node: bool) -> None:
    of_gpu = ("serial number", "#memory %", "#W", "#°C at most", "#processes") if node else ()
    print_table(
        ("", "#busy %", "#idle h", "#known h", "#unknown h", *of_gpu),
        ((row.name, *_use(row), *(_of_gpu(row) if node else ())) for row in found.rows),
        empty="No GPUs were used in that time.",
    )


def _use(row: GpuUse) -> tuple[object, ...]:
    return row.busy_percent, _hours(row.idle), _hours(row.known), _hours(row.unknown)


def _of_gpu(row: GpuUseRow) -> tuple[object, ...]:
    return row.serial, row.memory_percent, row.power_watts, row.temperature_celsius, row.processes


def _hours(minutes: int) -> str:
    """Two places: a minute on eight GPUs is 0.13."""
    return f"{minutes / 60:,.2f}"
