"""`gpuaas incident`: what happened to nodes, what was done, on which evidence."""

from __future__ import annotations

import click

from slurm_gpuaas.cli.context import Session, as_json, pass_session
from slurm_gpuaas.cli.incident_life import hold, release, verify
from slurm_gpuaas.cli.output import print_facts, print_json, print_table


@click.group()
def group() -> None:
    """Hardware incidents: what happened, what was done, on which evidence.

    \b
    Examples:
      gpuaas incident list
      gpuaas incident show ID
      gpuaas incident close ID --reason "GPU 3 replaced"
    """


group.add_command(hold)
group.add_command(release)
group.add_command(verify)


@group.command("list")
@click.option("--all", "closed", is_flag=True, help="Closed ones too.")
@click.option("--node", help="Of this node only.")
@as_json
@pass_session
def list_(session: Session, closed: bool, node: str | None, as_json: bool) -> None:
    """List incidents, the newest first.

    \b
    Examples:
      gpuaas incident list --all --node b200-007
      gpuaas incident list --json
    """
    with session.connect() as client:
        incidents = client.incidents(closed=closed, node=node)
    if as_json:
        print_json(incidents)
        return
    print_table(
        ("incident", "node", "state", "drain", "opened", "what"),
        ((i.id, i.node, i.state, i.drain, i.opened_at, i.headline) for i in incidents),
        empty="No incident." if closed else "No open incident.",
    )


@group.command()
@click.argument("incident")
@as_json
@pass_session
def show(session: Session, incident: str, as_json: bool) -> None:
    """Show one incident with its events.

    \b
    Examples:
      gpuaas incident show ID
      gpuaas incident show ID --json | jq .events
    """
    with session.connect() as client:
        found = client.incident(incident)
    if as_json:
        print_json(found)
        return
    print_facts(
        (
            ("incident", found.id),
            ("node", found.node),
            ("state", found.state),
            ("what", found.headline),
            ("drain", found.drain),
            ("rule", found.rule),
            ("opened", found.opened_at),
            ("updated", found.updated_at),
            ("closed", found.closed_at),
            ("requeued jobs", ", ".join(str(job) for job in found.requeued_jobs) or None),
        )
    )
    click.echo()
    print_table(
        ("seen", "kind", "#code", "gpu", "pci", "source", "evidence"),
        ((e.seen_at, e.kind, e.code, e.gpu, e.pci, e.source, e.evidence) for e in found.events),
        empty="No event is kept.",
    )


@group.command()
@click.argument("incident")
@click.option("--reason", default="", help="What was done about it, at most 500 characters; goes to the audit trail.")
@as_json
@pass_session
def close(session: Session, incident: str, reason: str, as_json: bool) -> None:
    """Close an incident; its node goes back to service when its drain is ours.

    \b
    Example:
      gpuaas incident close ID --reason "GPU 3 replaced, RMA 4711"
    """
    with session.connect() as client:
        closed = client.close_incident(incident, reason)
    if as_json:
        print_json(closed)
    else:
        click.echo(f"Incident {closed.id} of {closed.node} is {closed.state}.")
