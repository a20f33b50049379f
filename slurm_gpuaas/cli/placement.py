"""`gpuaas placement`: where the placement gate put jobs, and why there."""

from __future__ import annotations

import click

from slurm_gpuaas.cli.context import Session, as_json, pass_session
from slurm_gpuaas.cli.output import print_json, print_table


@click.group()
def group() -> None:
    """Decisions of the placement gate: nodes, leaf groups, cost, and the reason.

    \b
    Example:
      gpuaas placement list --job 1234
    """


@group.command("list")
@click.option("--job", type=click.IntRange(min=1), metavar="JOBID", help="Of this job only.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Newest decisions.")
@as_json
@pass_session
def list_(session: Session, job: int | None, limit: int, as_json: bool) -> None:
    """List decisions, the newest first: researchers see those about their own jobs, administrators all.

    \b
    Examples:
      gpuaas placement list --job 1234
      gpuaas placement list --json | jq '.[].leaf_groups'
    """
    with session.connect() as client:
        placements = client.placements(job=job, limit=limit)
    if as_json:
        print_json(placements)
        return
    print_table(
        ("job", "#run", "at", "outcome", "nodes", "#leaf groups", "reason"),
        (
            (p.job, p.restarts + 1, p.decided_at, p.outcome, p.nodes or None, p.leaf_groups or None, p.reason)
            for p in placements
        ),
        empty="No job of yours went through the placement gate.",
    )
