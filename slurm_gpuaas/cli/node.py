"""`gpuaas node`: nodes as Slurm and the health controller see them."""

from __future__ import annotations

import click

from slurm_gpuaas.api.models import NodeView
from slurm_gpuaas.cli.context import Session, as_json, pass_session
from slurm_gpuaas.cli.output import print_facts, print_json, print_table, shown


@click.group()
def group() -> None:
    """Nodes as Slurm and the health controller see them.

    \b
    Examples:
      gpuaas node list --drained
      gpuaas node drain b200-007 --reason "cable swap"
      gpuaas node resume b200-007
    """


@group.command("list")
@click.option("--drained", is_flag=True, help="Only nodes that are set to drain.")
@as_json
@pass_session
def list_(session: Session, drained: bool, as_json: bool) -> None:
    """List nodes with whose drain it is and the open incident.

    \b
    Examples:
      gpuaas node list
      gpuaas node list --drained --json
    """
    with session.connect() as client:
        nodes = [node for node in client.nodes() if not drained or node.drain_owner]
    if as_json:
        print_json(nodes)
        return
    print_table(
        ("node", "state", "partitions", "model", "#gpus", "#in use", "drained by", "incident", "reason"),
        (
            (
                n.name,
                n.state,
                ", ".join(n.partitions) or None,
                n.model,
                n.gpus,
                n.gpus_allocated,
                n.drain_owner,
                n.incident,
                n.reason or None,
            )
            for n in nodes
        ),
        empty="No node is drained." if drained else "Slurm has no nodes.",
    )


@group.command()
@click.argument("node")
@as_json
@pass_session
def show(session: Session, node: str, as_json: bool) -> None:
    """Show one node.

    \b
    Example:
      gpuaas node show b200-007
    """
    with session.connect() as client:
        found = client.node(node)
    if as_json:
        print_json(found)
    else:
        _print(found)


@group.command()
@click.argument("node")
@click.option("--reason", required=True, help="For people, 3 to 200 characters; goes to Slurm and to the audit trail.")
@as_json
@pass_session
def drain(session: Session, node: str, reason: str, as_json: bool) -> None:
    """Let no new job start on a node. It is yours then: gpuaas never puts it back by itself.

    \b
    Example:
      gpuaas node drain b200-007 --reason "cable swap"
    """
    with session.connect() as client:
        drained = client.drain(node, reason)
    if as_json:
        print_json(drained)
    else:
        click.echo(f"Node {drained.name} is {drained.state}: {shown(drained.reason)}")


@group.command()
@click.argument("node")
@as_json
@pass_session
def resume(session: Session, node: str, as_json: bool) -> None:
    """Put a drained node back in service. A node with an open incident is refused: close the incident.

    \b
    Example:
      gpuaas node resume b200-007
    """
    with session.connect() as client:
        resumed = client.resume(node)
    if as_json:
        print_json(resumed)
    else:
        click.echo(f"Node {resumed.name} is {resumed.state}.")


def _print(node: NodeView) -> None:
    print_facts(
        (
            ("node", node.name),
            ("state", node.state),
            ("partitions", ", ".join(node.partitions) or None),
            ("gpus", f"{node.gpus_allocated} of {node.gpus} {node.model or ''} in use"),
            ("drained by", node.drain_owner),
            ("incident", node.incident),
            ("reason", node.reason or None),
            ("agent seen", node.agent_seen_at),
        )
    )
