"""`gpuaas incident hold|release|verify`: a person takes a node over, hands it back, or says that it is mended."""

from __future__ import annotations

import click

from slurm_gpuaas.api.models import IncidentView
from slurm_gpuaas.cli.context import Session, as_json, pass_session
from slurm_gpuaas.cli.output import print_json


@click.command()
@click.argument("incident")
@click.option("--reason", default="", help="At most 500 characters; goes to the audit trail.")
@as_json
@pass_session
def hold(session: Session, incident: str, reason: str, as_json: bool) -> None:
    """Take an incident over: nothing is done for it by itself until it is released, verified or closed.

    \b
    Example:
      gpuaas incident hold ID --reason "looking at the cable myself"
    """
    with session.connect() as client:
        _tell(client.hold_incident(incident, reason), "held; nothing is done for it by itself", as_json)


@click.command()
@click.argument("incident")
@click.option("--reason", default="", help="At most 500 characters; goes to the audit trail.")
@as_json
@pass_session
def release(session: Session, incident: str, reason: str, as_json: bool) -> None:
    """Hand an incident back: its node's life goes on from where it is.

    \b
    Example:
      gpuaas incident release ID
    """
    with session.connect() as client:
        _tell(client.release_incident(incident, reason), "released and goes on by itself", as_json)


@click.command()
@click.argument("incident")
@click.option("--reason", default="", help="What was done; at most 500 characters, goes to the audit trail.")
@as_json
@pass_session
def verify(session: Session, incident: str, reason: str, as_json: bool) -> None:
    """Say that a drained node, or one sent for repair, is mended: it is tested and goes back when it passes. An
    incident that was held goes on by itself then.

    \b
    Example:
      gpuaas incident verify ID --reason "GPU 3 replaced, RMA 4711"
    """
    with session.connect() as client:
        _tell(client.verify_incident(incident, reason), "tested; its node comes back when it passes", as_json)


def _tell(incident: IncidentView, what: str, as_json: bool) -> None:
    if as_json:
        print_json(incident)
    else:
        click.echo(f"Incident {incident.id} of {incident.node} ({incident.state}) is {what}.")
