"""`gpuaas spare`: the nodes that stand in for broken ones."""

from __future__ import annotations

import click

from slurm_gpuaas.cli.context import Session, as_json, pass_session
from slurm_gpuaas.cli.output import print_json, print_table, shown
from slurm_gpuaas.domain.policy import fold_nodes


@click.group()
def group() -> None:
    """Spare nodes: which, why so many, and who got some.

    \b
    Examples:
      gpuaas spare list
      gpuaas spare list --json | jq '.pools[] | select(.thin)'
    """


@group.command("list")
@as_json
@pass_session
def list_(session: Session, as_json: bool) -> None:
    """List the spare nodes of each partition, why so many, and the jobs that lost nodes in the last 28 days.

    \b
    Examples:
      gpuaas spare list
      gpuaas spare list --json | jq '.recoveries[] | select(.state == "done")'
    """
    with session.connect() as client:
        found = client.spares()
    if as_json:
        print_json(found)
        return
    if not found.pools:
        click.echo("No spares are kept; health.spares.nodes of gpuaasd's configuration says how many.")
    for pool in found.pools:
        thin = "  THIN" if pool.thin else ""
        click.echo(shown(f"Partition {pool.partition}: {pool.ready} of {pool.asked} spares ready.{thin}"))
        click.echo(shown(pool.why))
        print_table(
            ("node", "leaf group", "ready", "jobs"),
            ((one.node, one.place, one.ready, ", ".join(map(str, one.jobs)) or None) for one in pool.nodes),
            empty="No node is one now.",
        )
        click.echo()
    print_table(
        ("#job", "user", "state", "begun", "#seconds", "lost", "spares", "why"),
        (
            (
                str(one.job),
                one.user,
                one.state,
                one.begun_at,
                None if one.ended_at is None else f"{(one.ended_at - one.begun_at).total_seconds():.1f}",
                fold_nodes(one.lost),
                fold_nodes(one.spares) if one.spares else None,
                one.why,
            )
            for one in found.recoveries
        ),
        empty="No job of several nodes lost some.",
    )
