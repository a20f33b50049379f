"""`gpuaas topology capacity`: a partition's largest jobs, its free segments, and both over time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Final

import click

from slurm_gpuaas.api.models import CapacityView, SizeCount
from slurm_gpuaas.cli.context import Session, as_json, pass_session
from slurm_gpuaas.cli.output import print_facts, print_json, print_table, shown
from slurm_gpuaas.domain.capacity import Level

WIDEST: Final = 60
"""Columns of a bar or a sparkline."""
WITHIN: Final = {Level.LEAF_GROUP: "one leaf group", Level.POD: "one pod", Level.FABRIC: "the fabric"}
LEVELS: Final = "▁▂▃▄▅▆▇█"


class Ago(click.ParamType[timedelta]):
    """A stretch of time up to now."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        found = re.fullmatch(r"([0-9]{1,5})([mhd])", str(value))
        if found is None or not int(found[1]):
            self.fail(f"{value!r} is no stretch of time; write e.g. 90m, 24h or 7d.", param, ctx)
        return int(found[1]) * {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}[found[2]]


def print_capacity(found: CapacityView, *, over_time: bool) -> None:
    for line in summary(found):
        click.echo(shown(line))
    click.echo()
    print_table(
        ("largest job now within", "which", "#nodes", "#GPUs"),
        [
            *((WITHIN[row.level], row.domain or None, row.nodes, row.gpus) for row in found.largest),
            ("the fewest leaf groups", None, found.compact, None),
        ],
        empty="",
    )
    for title, counts in (("free nodes", found.segments), ("free GPUs", found.gpus_on_nodes)):
        what = "leaf groups" if counts is found.segments else "nodes"
        click.echo()
        rows = ((row.size, row.count, _bar(row, counts)) for row in counts)
        print_table((f"#{title}", f"#{what}", ""), rows, empty=f"No {what[:-1]} has {title}.")
    if over_time:
        click.echo()
        _print_history(found)


def summary(found: CapacityView) -> Iterator[str]:
    yield (
        f"Partition {found.partition}: {found.free_nodes} of {found.nodes} nodes are free, {found.free_gpus} GPUs in "
        f"all; {found.idle_leaf_groups} of {found.leaf_groups} leaf groups are idle."
    )
    spread = (
        f"running jobs: {found.excess_leaf_groups} leaf groups above what sizes need (jobs: {found.spread_jobs})"
        if found.spread_jobs
        else "no running job uses more leaf groups than it needs"
    )
    yield f"Fragmentation {found.fragmentation:.0%}; {spread}."


def _bar(row: SizeCount, counts: Sequence[SizeCount]) -> str:
    most = max(one.count for one in counts)
    return "█" * max(1, row.count * min(WIDEST, most) // most)


def _print_history(found: CapacityView) -> None:
    points = found.history
    if not points:
        click.echo("Nothing was kept of that time yet.")
        return
    click.echo(f"{len(points)} samples from {shown(points[0].at)} to {shown(points[-1].at)}:")
    series = (
        ("fragmentation", [100 * point.fragmentation for point in points], "%"),
        ("largest in a leaf group", [point.largest_leaf_group for point in points], " nodes"),
        ("largest in a pod", [point.largest_pod for point in points], " nodes"),
        ("free nodes", [point.free_nodes for point in points], ""),
    )
    print_facts(
        (name, f"{sparkline(values)}  {min(values):.0f} to {max(values):.0f}{unit}") for name, values, unit in series
    )


def sparkline(values: Sequence[float]) -> str:
    """Means of up to `WIDEST` equal parts of the values, in eighths between 0 and the highest value."""
    most = max(values)
    width = min(WIDEST, len(values))
    cuts = [number * len(values) // width for number in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(cuts)]
    return "".join(LEVELS[min(int(mean / most * len(LEVELS)), len(LEVELS) - 1) if most else 0] for mean in means)


@click.command()
@click.option("--partition", help="Of this partition only.")
@click.option("--since", type=Ago(), help="With what was kept of the time since then: 90m, 24h, 7d; at most 31d.")
@as_json
@pass_session
def capacity(session: Session, partition: str | None, since: timedelta | None, as_json: bool) -> None:
    """Show the largest job that could start now on each partition, per level, and how broken up free nodes are.

    Asks gpuaasd. Counts nodes, not what a project's limits allow. `compact` is the largest of 1, 2, 4, ... nodes that
    would get as few leaf groups as on the empty partition. Fragmentation is the share of the free nodes that are in
    partly used leaf groups.

    \b
    Examples:
      gpuaas topology capacity
      gpuaas topology capacity --partition haein-own --since 24h
      gpuaas topology capacity --json | jq '.[].largest'
    """
    with session.connect() as client:
        found = client.capacity(partition=partition, since=None if since is None else datetime.now(UTC) - since)
    if as_json:
        print_json(found)
        return
    if not found:
        click.echo("The policy has no partition on this cluster.")
    for number, one in enumerate(found):
        if number:
            click.echo()
        print_capacity(one, over_time=since is not None)
