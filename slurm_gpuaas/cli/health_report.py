"""`gpuaas health report|lemons`: how well hardware faults are lived with."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from datetime import timedelta

import click
from pydantic import BaseModel

from slurm_gpuaas.cli.context import Session, as_json, pass_session
from slurm_gpuaas.cli.days import day, midnight
from slurm_gpuaas.cli.output import print_facts, print_json, print_table
from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.reports import FleetFigures, HealthReport, Stages


@click.command()
@click.option("--from", "start", metavar="DAY", help="First Korean day. Default: 30 days before the last.")
@click.option("--to", "end", metavar="DAY", help="Last Korean day, included. Default: today.")
@click.option("--project", help="What faults cost this project only.")
@click.option(
    "--checkpoint-minutes", type=click.FloatRange(0.1, 10_000), help="Assumed time between checkpoints. Default: 60."
)
@click.option(
    "--checkpoint-write",
    type=click.FloatRange(0.01, 100_000),
    help="Assumed seconds that writing one takes. Default: 30.",
)
@click.option(
    "--restart-minutes",
    type=click.FloatRange(0.01, 10_000),
    help="Assumed time from a start to the first new step. Default: 5.",
)
@click.option("--csv", "as_csv", is_flag=True, help="Print one line a figure: section, name, figure, value.")
@as_json
@pass_session
def report(
    session: Session,
    start: str | None,
    end: str | None,
    project: str | None,
    checkpoint_minutes: float | None,
    checkpoint_write: float | None,
    restart_minutes: float | None,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Availability, time between failures, time to repair by stage, ETTR, and what faults cost. Researchers get what
    faults cost their own projects.

    What is not known is said and left out of medians. Where checkpoints matter, they are assumed as stated: nobody
    reports them.

    \b
    Examples:
      gpuaas health report --from 2027-01-01 --to 2027-01-31
      gpuaas health report --project vision --checkpoint-minutes 30
      gpuaas health report --json | jq .fleet.stages
    """
    if as_csv and as_json:
        raise InvalidInput("A report is printed in one form.", way_out="Give --csv or --json, not both.")
    first, last = day(start), day(end)
    with session.connect() as client:
        found = client.health_report(
            start=midnight(first) if first else None,
            end=midnight(last + timedelta(days=1)) if last else None,
            project=project,
            checkpoint_s=None if checkpoint_minutes is None else checkpoint_minutes * 60,
            write_s=checkpoint_write,
            restart_s=None if restart_minutes is None else restart_minutes * 60,
        )
    if as_json:
        print_json(found)
    elif as_csv:
        rows = csv.writer(sys.stdout, lineterminator="\n")
        rows.writerow(("section", "name", "figure", "value"))
        rows.writerows(_figures(found))
    else:
        _print(found)


@click.command()
@as_json
@pass_session
def lemons(session: Session, as_json: bool) -> None:
    """Nodes that keep failing, over 28 days, the worst first, each explained. From 40 points on a node is a lemon.

    \b
    Examples:
      gpuaas health lemons
      gpuaas health lemons --json | jq '.[] | select(.lemon)'
    """
    with session.connect() as client:
        found = client.lemons()
    if as_json:
        print_json(found)
        return
    print_table(
        ("node", "#score", "lemon", "largest job", "why"),
        (
            (one.node, f"{one.score:.0f}", one.lemon, one.limit.largest_job if one.limit else None, "; ".join(one.why))
            for one in found
        ),
        empty="Nothing speaks against any node.",
    )


def _print(report: HealthReport) -> None:
    terms = report.terms
    print_facts(
        (
            ("from", report.start),
            ("to", report.end),
            (
                "assumed",
                f"a checkpoint every {_span(terms.interval.total_seconds())}, written in "
                f"{_span(terms.write.total_seconds())}; restart {_span(terms.restart.total_seconds())}",
            ),
        )
    )
    if report.fleet is not None:
        _print_fleet(report.fleet)
    click.echo("\nWhat faults cost, in GPU-hours")
    print_table(
        (
            "project", "#used", "#jobs hit", "#times", "#lost, expected", "#lost, at most", "#preempted", "#E[ETTR]",
        ),
        (
            (
                one.project,
                _hours(one.used),
                one.interrupted_jobs,
                one.interruptions,
                _hours(one.lost_expected),
                _hours(one.lost_most),
                _hours(one.preempted),
                _percent(one.ettr_expected),
            )
            for one in report.tenants
        ),
        empty="Nothing was used, nothing lost.",
    )  # fmt: skip
    if report.jobs:
        click.echo("\nJobs that lost most")
        print_table(
            ("#job", "project", "#GPUs", "#times", "waited", "#lost, at most", "ETTR", "#E[ETTR]", "best interval"),
            (
                (
                    str(one.job),
                    one.project,
                    one.gpus,
                    one.interruptions,
                    _span(one.waited_s),
                    _hours(one.lost_most),
                    f"{_percent(one.ettr_least)} to {_percent(one.ettr_most)}",
                    _percent(one.ettr_expected),
                    _span(one.best_interval_s),
                )
                for one in report.jobs
            ),
            empty="",
        )
    click.echo("\nNot known")
    for sentence in report.unknown:
        click.echo(f"  {sentence}")


def _print_fleet(fleet: FleetFigures) -> None:
    there = fleet.availability
    print_facts(
        (
            ("nodes, GPUs", f"{fleet.nodes:,}, {fleet.gpus:,}"),
            ("incidents", fleet.incidents),
            ("faults", f"{fleet.faults:,}, of which {fleet.unannounced:,} without an event"),
            ("availability", _percent(there.ratio) if there else None),
            ("without planned", _percent(there.ratio_unplanned) if there else None),
            (
                "node-hours out",
                f"{there.fault / 3600:,.1f} faults, {there.person / 3600:,.1f} people, "
                f"{there.planned / 3600:,.1f} planned"
                if there
                else None,
            ),
            ("MTBF of a node", _span(fleet.mtbf_s)),
            ("failures", _rate(fleet.failures_per_1000_node_days)),
            ("GPU-hours out", _hours(fleet.capacity_lost)),
            ("spares used", fleet.spares_used),
        )
    )
    click.echo("\nTime to repair, by stage")
    print_table(
        ("stage", "#known", "#unknown", "#mean", "#median", "#P90"),
        (
            (name, spread.known, spread.unknown, _span(spread.mean_s), _span(spread.median_s), _span(spread.p90_s))
            for name in Stages.model_fields
            for spread in [getattr(fleet.stages, name)]
        ),
        empty="",
    )
    click.echo("\nBy class of fault")
    print_table(
        ("class", "#incidents", "#out of service", "#jobs requeued"),
        ((one.fault_class, one.incidents, one.drained, one.requeued) for one in fleet.by_class),
        empty="Nothing failed.",
    )
    click.echo("\nNodes with most faults")
    print_table(
        ("node", "#faults", "#out"),
        ((one.node, one.faults, _span(one.out_s)) for one in fleet.worst_nodes),
        empty="None.",
    )


def _figures(report: HealthReport) -> Iterator[tuple[str, str, str, object]]:
    """Section, name, figure, value; what is not known is empty."""
    fleet = report.fleet
    if fleet is not None:
        yield from _of("fleet", "", fleet)
        if fleet.availability is not None:
            yield from _of("availability", "", fleet.availability)
        for stage in Stages.model_fields:
            yield from _of("stage", stage, getattr(fleet.stages, stage))
        for one in fleet.by_class:
            yield from _of("class", one.fault_class, one)
        for node in fleet.worst_nodes:
            yield from _of("node", node.node, node)
    for tenant in report.tenants:
        yield from _of("project", tenant.project, tenant)
    for job in report.jobs:
        yield from _of("job", str(job.job), job)


def _of(section: str, name: str, figures: BaseModel) -> Iterator[tuple[str, str, str, object]]:
    for figure, value in figures.model_dump(mode="json").items():
        if value is None or isinstance(value, int | float | str):
            yield section, name, figure, "" if value is None else value


def _hours(gpu_seconds: float) -> str:
    return f"{gpu_seconds / 3600:,.2f}"


def _percent(ratio: float | None) -> str | None:
    return None if ratio is None else f"{100 * ratio:.2f} %"


def _rate(failures: float | None) -> str | None:
    return None if failures is None else f"{failures:.2f} in 1,000 node-days"


def _span(seconds: float | None) -> str | None:
    """Three figures, in the unit that suits."""
    if seconds is None:
        return None
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"
