"""`gpuaas rma`: parts on their way to the manufacturer and back."""

from __future__ import annotations

import click

from slurm_gpuaas.api.health import RmaDetail
from slurm_gpuaas.cli.context import Session, as_json, pass_session
from slurm_gpuaas.cli.output import print_facts, print_json, print_table, shown
from slurm_gpuaas.domain.rma import RmaState

STATES = [state.value for state in RmaState if state not in {RmaState.OPENED, RmaState.CLOSED}]


@click.group()
def group() -> None:
    """Parts on their way to the manufacturer and back. An incident that ends in RMA opens a case for each card.

    \b
    Examples:
      gpuaas rma list
      gpuaas rma ticket CASE
      gpuaas rma update CASE --state sent --vendor-case 4711
    """


@group.command("list")
@click.option("--all", "closed", is_flag=True, help="Closed ones too.")
@click.option("--node", help="Of this node only.")
@click.option("--serial", help="Of this card only.")
@as_json
@pass_session
def list_(session: Session, closed: bool, node: str | None, serial: str | None, as_json: bool) -> None:
    """List cases, the newest first.

    \b
    Examples:
      gpuaas rma list
      gpuaas rma list --all --serial 1655224000123
    """
    with session.connect() as client:
        cases = client.rma_cases(closed=closed, node=node, serial=serial)
    if as_json:
        print_json(cases)
        return
    print_table(
        ("case", "node", "serial", "state", "vendor case", "opened", "incident"),
        ((c.id, c.node, c.serial, c.state, c.vendor_case or None, c.opened_at, c.incident) for c in cases),
        empty="No case." if closed else "No open case.",
    )


@group.command()
@click.argument("case")
@as_json
@pass_session
def show(session: Session, case: str, as_json: bool) -> None:
    """Show one case with all that was noted.

    \b
    Example:
      gpuaas rma show CASE
    """
    with session.connect() as client:
        found = client.rma_case(case)
    if as_json:
        print_json(found)
        return
    print_facts(
        (
            ("case", found.id),
            ("node", found.node),
            ("serial", found.serial),
            ("state", found.state),
            ("vendor case", found.vendor_case or None),
            ("replaced by", found.new_serial or None),
            ("incident", found.incident),
        )
    )
    click.echo()
    print_table(
        ("at", "who", "state", "note"),
        ((note.at, note.actor, note.state, note.text or None) for note in found.notes),
        empty="Nothing was noted.",
    )


@group.command()
@click.argument("case")
@pass_session
def ticket(session: Session, case: str) -> None:
    """Print the text for the manufacturer's ticket: what happened, the evidence, serial number, slot, what was tried.

    \b
    Example:
      gpuaas rma ticket CASE | mail -s "RMA" support@example.org
    """
    with session.connect() as client:
        found = client.rma_case(case)
    for line in found.ticket.splitlines():
        click.echo(shown(line))


@group.command("open")
@click.argument("node")
@click.option("--serial", help="Of the card; without one the case is about the node.")
@click.option("--incident", help="That led to it; its evidence goes into the ticket.")
@click.option("--reason", required=True, help="What is broken, 3 to 500 characters.")
@as_json
@pass_session
def open_(session: Session, node: str, serial: str | None, incident: str | None, reason: str, as_json: bool) -> None:
    """Open a case by hand.

    \b
    Example:
      gpuaas rma open b200-007 --serial 1655224000123 --reason "fan does not turn"
    """
    with session.connect() as client:
        found = client.open_rma(node, serial=serial, incident=incident, reason=reason)
    _say(found, as_json)


@group.command()
@click.argument("case")
@click.option("--state", type=click.Choice(STATES), help="How far it is.")
@click.option("--note", default="", help="What was done or learnt, at most 1,000 characters.")
@click.option("--vendor-case", help="The manufacturer's number of it.")
@click.option("--new-serial", help="Of the part that came in its place.")
@as_json
@pass_session
def update(
    session: Session,
    case: str,
    state: str | None,
    note: str,
    vendor_case: str | None,
    new_serial: str | None,
    as_json: bool,
) -> None:
    """Write down what was done: opened -> sent -> replaced (or refused) -> closed.

    \b
    Examples:
      gpuaas rma update CASE --state sent --vendor-case 4711
      gpuaas rma update CASE --state replaced --new-serial 1655224000456
    """
    with session.connect() as client:
        found = client.update_rma(
            case,
            state=None if state is None else RmaState(state),
            note=note,
            vendor_case=vendor_case,
            new_serial=new_serial,
        )
    _say(found, as_json)


@group.command()
@click.argument("case")
@click.option("--note", default="", help="Why, at most 1,000 characters.")
@as_json
@pass_session
def close(session: Session, case: str, note: str, as_json: bool) -> None:
    """Close a case. The node's incident is closed apart: gpuaas incident close.

    \b
    Example:
      gpuaas rma close CASE --note "new card is in and tested"
    """
    with session.connect() as client:
        found = client.update_rma(case, state=RmaState.CLOSED, note=note)
    _say(found, as_json)


def _say(case: RmaDetail, as_json: bool) -> None:
    if as_json:
        print_json(case)
    else:
        click.echo(f"Case {case.id} of {case.node} ({shown(case.serial)}) is {case.state}.")
