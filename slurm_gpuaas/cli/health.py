"""`gpuaas health`: what health policy does, and would do."""

from __future__ import annotations

from datetime import datetime
from typing import IO, BinaryIO

import click

from slurm_gpuaas.cli.breaker import breaker
from slurm_gpuaas.cli.context import as_json
from slurm_gpuaas.cli.health_report import lemons, report
from slurm_gpuaas.cli.output import print_json, print_table, shown
from slurm_gpuaas.cli.site_overrides import overrides_option, read_overrides
from slurm_gpuaas.domain.incidents import EARLIEST_EVENT
from slurm_gpuaas.domain.names import GpuModel, NodeName
from slurm_gpuaas.health.replay import Replay, ReplayReport, read_lines


@click.group("health")
def group() -> None:
    """What health policy does, would do, and how well it works.

    \b
    Examples:
      gpuaas health report --from 2027-01-01 --to 2027-01-31
      gpuaas health lemons
      gpuaas health breaker
      gpuaas health replay /var/log/kern.log
    """


group.add_command(breaker)
group.add_command(report)
group.add_command(lemons)


@group.command()
@click.argument("log", type=click.File("rb"), default="-")
@click.option("--node", default="node", show_default=True, help="Whose log it is, where its lines do not say.")
@click.option("--product", help="What the node's GPUs are, e.g. b200.")
@click.option("--driver", help="Version of the node's driver, e.g. 580.95.05.")
@click.option(
    "--max-drains",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Nodes that may leave service within 10 min, as health.breaker.drains of gpuaasd.",
)
@overrides_option
@as_json
def replay(
    log: BinaryIO,
    node: str,
    product: str | None,
    driver: str | None,
    max_drains: int,
    overrides: IO[str] | None,
    as_json: bool,
) -> None:
    """Say what policy would do to a recorded kernel log (LOG, or standard input), and which rule decided.

    Needs no daemon and changes nothing. A line is as the kernel log, dmesg, `dmesg -T` or `journalctl -k -o short-iso`
    give it, or a JSON object {"at": time, "node": name, "jobs": [ids], "line": text}, of which only the line must be
    there.

    \b
    Examples:
      gpuaas health replay --node b200-007 kern.log
      dmesg | gpuaas health replay
      gpuaas health replay fleet.jsonl --json | jq '.incidents[] | select(.drain == "now")'
    """
    replayed = Replay(
        node=NodeName(node),
        product=GpuModel(product) if product else None,
        driver=driver,
        max_drains=max_drains,
        overrides=read_overrides(overrides),
    ).run(read_lines(log))
    if as_json:
        print_json(replayed)
    else:
        _print(replayed)


def _print(report: ReplayReport) -> None:
    def when(at: datetime | None) -> object:
        return f"+{(at - EARLIEST_EVENT).total_seconds():,.1f} s" if at and report.since_boot else at

    for one in report.assumptions:
        click.echo(one)
    left = f", {report.left_out:,} of them repeated in a storm" if report.left_out else ""
    click.echo(f"{report.lines:,} lines, {report.events:,} events{left}.\n")
    print_table(
        ("opened", "node", "#events", "drain", "drained", "what", "would", "rule"),
        (
            (when(i.opened_at), i.node, i.events, i.drain, when(i.drained_at), i.headline, "; ".join(i.would), i.rule)
            for i in report.incidents
        ),
        empty="Nothing would open an incident.",
    )
    if report.breaker:
        click.echo(
            f"\nThe circuit breaker would trip at {shown(when(report.breaker.at))}; {report.breaker.waiting} incidents "
            "would then wait for a person who resets it."
        )
    for fault in report.jobs_at_fault:
        click.echo(f"\n{fault[:1].upper()}{fault[1:]}.")
