"""`gpuaas status`: is the daemon well, and how does it reach Slurm."""

from __future__ import annotations

import click

from slurm_gpuaas.api.models import PortalStatus
from slurm_gpuaas.cli.context import Session, as_json, pass_session
from slurm_gpuaas.cli.output import print_facts, print_json, print_table, shown


@click.command()
@as_json
@pass_session
def status(session: Session, as_json: bool) -> None:
    """Show the daemon's controllers, the way to Slurm in use, and agents that are silent.

    \b
    Examples:
      gpuaas status
      gpuaas status --json | jq .driver
    """
    with session.connect() as client:
        found = client.status()
    if as_json:
        print_json(found)
        return
    driver = found.driver
    silent = [agent.node for agent in found.agents if agent.silent]
    print_facts(
        (
            ("gpuaasd", f"{found.version}, up since {shown(found.started_at)}"),
            ("cluster", f"{found.cluster}, Slurm {found.slurm_version or 'does not answer'}"),
            ("driver", f"{driver.name} (fallback: {driver.reason})" if driver.fallback else driver.name),
            ("nodes read", found.read_at),
            ("agents", f"{len(found.agents)} known, {len(silent)} silent{': ' if silent else ''}{', '.join(silent)}"),
        )
    )
    if found.portal is not None:
        _print_portal(found.portal)
    click.echo()
    print_table(
        ("controller", "last tick", "#seconds", "#ticks", "#errors", "last error"),
        (
            (c.name, c.last_tick, f"{c.last_seconds:.3f}", c.ticks, c.errors, c.last_error or None)
            for c in found.controllers
        ),
        empty="No controller runs.",
    )


def _print_portal(portal: PortalStatus) -> None:
    click.echo()
    print_facts(
        (
            ("portal", f"{portal.url}, this is site {portal.site}"),
            ("last heard", portal.heard_at or "never"),
            ("clock", f"{portal.skew_seconds:+.1f} s against this host's"),
            ("documents", f"revision {portal.revision}, {portal.taken} in force, {len(portal.left_out)} left out"),
            ("received", portal.received_at),
            ("usage", "waits to be told" if portal.usage_waits else "told"),
        )
    )
    for sentence in portal.left_out:
        click.secho(f"Left out: {sentence}", fg="yellow")
