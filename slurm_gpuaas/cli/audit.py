"""`gpuaas audit`: who did what, why, with which evidence."""

from __future__ import annotations

import click

from slurm_gpuaas.cli.context import Session, as_json, pass_session
from slurm_gpuaas.cli.output import print_json, print_table


@click.group()
def group() -> None:
    """The audit trail: who did what, why, with which evidence.

    \b
    Example:
      gpuaas audit list --limit 20
    """


@group.command("list")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Newest entries.")
@click.option("--subject", help="About this only, e.g. a node or a project.")
@as_json
@pass_session
def list_(session: Session, limit: int, subject: str | None, as_json: bool) -> None:
    """List entries, the newest first. For administrators.

    \b
    Examples:
      gpuaas audit list --subject b200-007
      gpuaas audit list --json | jq '.[] | select(.action == "policy.apply")'
    """
    with session.connect() as client:
        entries = client.audit(limit=limit, subject=subject)
    if as_json:
        print_json(entries)
        return
    print_table(
        ("at", "actor", "action", "subject", "reason"),
        ((e.at, e.actor, e.action, e.subject, e.reason or None) for e in entries),
        empty="Nothing is recorded.",
    )
