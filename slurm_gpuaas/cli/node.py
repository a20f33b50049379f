"""`gpuaas node`: nodes as Slurm and the health controller see them."""

from __future__ import annotations

import click

from slurm_gpuaas.api.health import NodeHistory
from slurm_gpuaas.api.models import NodeView
from slurm_gpuaas.cli.context import Session, as_json, pass_session
from slurm_gpuaas.cli.incident import print_steps
from slurm_gpuaas.cli.output import print_facts, print_json, print_table, shown
from slurm_gpuaas.domain.errors import InvalidInput, Refused


@click.group()
def group() -> None:
    """Nodes as Slurm and the health controller see them.

    \b
    Examples:
      gpuaas node list --drained
      gpuaas node show b200-007
      gpuaas node drain b200-007 --reason "cable swap"
      gpuaas node resume b200-007
      gpuaas node limit b200-007 --largest-job 4 --reason "fails every week"
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
    """Show one node: as it is now, and, for administrators, its life: steps, incidents, outages, what people did, its
    GPUs as cards with what they did elsewhere.

    \b
    Examples:
      gpuaas node show b200-007
      gpuaas node show b200-007 --json | jq .history.steps
    """
    with session.connect() as client:
        found = client.node(node)
        try:
            history = client.node_history(node)
        except Refused:
            history = None  # a researcher sees the node as it is
    if as_json:
        print_json(NodeShown(**dict(found), history=history))
        return
    _print(found)
    if history is not None:
        _print_history(history)


class NodeShown(NodeView):
    """What --json prints."""

    history: NodeHistory | None


@group.command()
@click.argument("node")
@click.option("--largest-job", type=click.IntRange(1, 100_000), help="Nodes of the largest job that may get the node.")
@click.option("--none", "lift", is_flag=True, help="Lift the limit.")
@click.option("--reason", default="", help="Why a limit is set, 3 to 400 characters.")
@as_json
@pass_session
def limit(session: Session, node: str, largest_job: int | None, lift: bool, reason: str, as_json: bool) -> None:
    """Keep a node from large jobs: one fault of it would end the work of all their nodes. Who has it, keeps it.

    \b
    Examples:
      gpuaas node limit b200-007 --largest-job 4 --reason "third ECC error this month"
      gpuaas node limit b200-007 --none
    """
    if lift == (largest_job is not None):
        raise InvalidInput("A limit is either set or lifted.", way_out="Give --largest-job N --reason TEXT, or --none.")
    if largest_job is not None and not reason:
        raise InvalidInput("A limit needs a reason.", way_out="Say with --reason why, in 3 to 400 characters.")
    with session.connect() as client:
        if largest_job is not None:
            client.limit_node(node, largest_job, reason)
        else:
            client.lift_limit(node)
        found = client.node_history(node)
    if as_json:
        print_json(found)
    elif found.limit is None:
        click.echo(f"Node {found.node} serves jobs of any size.")
    else:
        click.echo(f"Node {found.node} serves jobs of at most {found.limit.largest_job} nodes.")


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


def _print_history(history: NodeHistory) -> None:
    limit, lemon = history.limit, history.lemon
    print_facts(
        (
            ("stage", history.stage),
            ("limit", f"jobs of at most {limit.largest_job} nodes: {limit.why}" if limit else None),
            ("lemon score", f"{lemon.score:.0f}: {'; '.join(lemon.why)}" if lemon else "0"),
        )
    )
    click.echo("\nGPUs, with every incident that names the card, on other nodes too")
    print_table(
        ("gpu", "serial", "pci", "there", "first seen", "last seen", "incidents"),
        (
            (
                card.index,
                card.serial,
                card.pci,
                card.sits,
                card.first_seen,
                card.last_seen,
                "; ".join(f"{fault.at:%Y-%m-%d} {fault.node} {fault.headline}" for fault in card.faults) or None,
            )
            for card in history.cards
        ),
        empty="No card was reported by the node's agent.",
    )
    click.echo("\nIncidents")
    print_table(
        ("incident", "state", "opened", "closed", "what"),
        ((i.id, i.state, i.opened_at, i.closed_at, i.headline) for i in history.incidents),
        empty="No incident.",
    )
    click.echo("\nSteps of its life")
    print_steps(history.steps)
    click.echo("\nOut of service")
    print_table(
        ("since", "until", "whose", "reason"),
        ((o.since, o.until, o.cause, o.reason or None) for o in history.outages),
        empty="Not since nodes are watched.",
    )
    click.echo("\nBy people and limits")
    print_table(
        ("at", "who", "what", "reason"),
        ((d.at, d.actor, d.action, d.reason or None) for d in history.by_hand),
        empty="Nothing.",
    )
