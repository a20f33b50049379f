"""`gpuaas incident`: what happened to nodes, what was done, on which evidence."""

from __future__ import annotations

from collections.abc import Sequence

import click

from slurm_gpuaas.api.health import StepView
from slurm_gpuaas.api.models import IncidentView
from slurm_gpuaas.cli.context import Session, as_json, pass_session
from slurm_gpuaas.cli.incident_life import hold, release, verify
from slurm_gpuaas.cli.output import print_facts, print_json, print_table, shown


@click.group()
def group() -> None:
    """Hardware incidents: what happened, what was done, on which evidence.

    \b
    Examples:
      gpuaas incident list
      gpuaas incident show ID
      gpuaas incident ack ID --note "on my way to the rack"
      gpuaas incident hold ID --reason "looking at the cable myself"
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
        ("incident", "node", "state", "drain", "opened", "looked after by", "what"),
        ((i.id, i.node, i.state, i.drain, i.opened_at, _who(i), i.headline) for i in incidents),
        empty="No incident." if closed else "No open incident.",
    )


def _who(incident: IncidentView) -> str | None:
    return f"{incident.held_by} (held)" if incident.held_by else incident.acknowledged_by


@group.command()
@click.argument("incident")
@as_json
@pass_session
def show(session: Session, incident: str, as_json: bool) -> None:
    """Show one incident in full: each step of it, what was tried, what was seen, which jobs it touched.

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
            ("class", found.fault_class),
            ("rule", found.rule),
            ("opened", found.opened_at),
            ("updated", found.updated_at),
            ("closed", found.closed_at),
            ("acknowledged by", found.acknowledged_by),
            ("held by", found.held_by),
            ("GPUs", ", ".join(found.serials) or None),
            ("requeued jobs", ", ".join(str(job) for job in found.requeued_jobs) or None),
        )
    )
    click.echo()
    print_steps(found.steps)
    if found.attempts:
        click.echo()
        print_table(
            ("repair", "begun", "ended", "outcome", "what"),
            ((a.remedy, a.begun_at, a.ended_at, a.outcome, a.detail or None) for a in found.attempts),
            empty="",
        )
    if (tests := found.verification) is not None:
        click.echo()
        print_facts(
            (
                ("verification", ", ".join(tests.tests)),
                ("passed", tests.passed),
                ("begun", tests.begun_at),
                ("ended", tests.ended_at),
                ("jobs", ", ".join(map(str, tests.jobs)) or None),
                ("result", tests.detail or None),
            )
        )
    click.echo()
    print_table(
        ("seen", "kind", "#code", "gpu", "serial", "pci", "source", "jobs", "evidence"),
        (
            (
                e.seen_at,
                e.kind,
                str(e.code),
                e.gpu,
                e.serial,
                e.pci,
                e.source,
                ", ".join(map(str, e.jobs)) or None,
                e.evidence,
            )
            for e in found.events
        ),
        empty="No event is kept.",
    )


def print_steps(steps: Sequence[StepView]) -> None:
    print_table(
        ("at", "from", "to", "by", "cause"),
        ((s.at, s.before, s.after, s.actor, s.cause) for s in steps),
        empty="No step is recorded.",
    )


@group.command()
@click.argument("incident")
@click.option("--note", default="", help="For the audit trail, at most 500 characters.")
@as_json
@pass_session
def ack(session: Session, incident: str, note: str, as_json: bool) -> None:
    """Say that you look after an incident: others see your name, and its alert is not repeated. Nothing else changes.

    \b
    Example:
      gpuaas incident ack ID --note "ticket 4711"
    """
    with session.connect() as client:
        found = client.acknowledge(incident, note)
    if as_json:
        print_json(found)
    else:
        click.echo(f"Incident {found.id} of {found.node} is acknowledged by {shown(found.acknowledged_by)}.")


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
