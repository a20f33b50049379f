"""`gpuaas health breaker`: what has stopped acting on nodes, and letting it go on."""

from __future__ import annotations

import click

from slurm_gpuaas.cli.context import Session, as_json, pass_session
from slurm_gpuaas.cli.output import print_json, print_table
from slurm_gpuaas.domain.errors import InvalidInput


@click.command()
@click.option("--reset", "scope", metavar="SCOPE", help="Let it go on: `cluster` or `leaf NAME`, as shown.")
@click.option("--reason", default="", help="Why that is safe, at most 500 characters; goes to the audit trail.")
@as_json
@pass_session
def breaker(session: Session, scope: str | None, reason: str, as_json: bool) -> None:
    """Circuit breakers that have tripped: nothing acts on the nodes of their scope, while detection goes on.

    \b
    Examples:
      gpuaas health breaker
      gpuaas health breaker --reset cluster --reason "the switch is back"
      gpuaas health breaker --reset "leaf pod-1/leaf-02" --reason "its uplink was replaced"
    """
    if scope is not None and not reason:
        raise InvalidInput("A reset needs a reason.", way_out="Say with --reason why it is safe to go on.")
    with session.connect() as client:
        trips = client.breakers() if scope is None else client.reset_breaker(scope, reason)
    if as_json:
        print_json(trips)
        return
    print_table(
        ("scope", "since", "why"), ((trip.scope, trip.at, trip.why) for trip in trips), empty="None has tripped."
    )
