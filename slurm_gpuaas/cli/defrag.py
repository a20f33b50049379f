"""`gpuaas topology defrag`: which running jobs to move so that a large one fits on few leaf groups, and moving them."""

from __future__ import annotations

import sys

import click

from slurm_gpuaas.api.models import DefragPlan, DefragTerms, FabricSpan
from slurm_gpuaas.cli.context import Session, as_json, pass_session
from slurm_gpuaas.cli.output import print_json, print_table
from slurm_gpuaas.domain.capacity import Level
from slurm_gpuaas.domain.errors import ExitCode, InvalidInput
from slurm_gpuaas.domain.names import PartitionName


@click.command()
@click.option(
    "--plan",
    "apply",
    flag_value=False,
    type=bool,
    default=False,
    help="Show the moves, and move nothing (the default).",
)
@click.option("--apply", "apply", flag_value=True, type=bool, help="Show the moves, ask, and carry them out.")
@click.option(
    "--count", type=click.IntRange(1, 1_000_000), required=True, help="Whole nodes that there shall be room for."
)
@click.option("--partition", help="Whose nodes and jobs.  [default: the only one of the policy]")
@click.option(
    "--level",
    type=click.Choice([level.value for level in Level]),
    default=Level.FABRIC.value,
    show_default=True,
    help="One such domain must hold them all.",
)
@click.option("--guaranteed", is_flag=True, help="Guaranteed jobs may be moved too, not burst jobs alone.")
@click.option(
    "--min-left",
    type=click.IntRange(0, 1_000_000),
    default=30,
    show_default=True,
    metavar="MIN",
    help="Jobs whose time limit ends sooner are not moved.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
@pass_session
def defrag(
    session: Session,
    apply: bool,
    count: int,
    partition: str | None,
    level: str,
    guaranteed: bool,
    min_left: int,
    yes: bool,
    as_json: bool,
) -> None:
    """Make room for a job of --count whole nodes on the fewest pods and leaf groups, by moving running jobs.

    The plan has the fewest moves that leave no job on more leaf groups than it stands on, and among those the fewest
    GPU-hours lost. A moved job is requeued, starts again on the nodes that the plan names, and loses what it has not
    checkpointed. Exits with 1 if no moves make the room.

    \b
    Examples:
      gpuaas topology defrag --plan --count 32
      gpuaas topology defrag --plan --count 32 --partition own --level leaf-group --json
      gpuaas topology defrag --apply --count 32
    """
    terms = DefragTerms(
        count=count,
        partition=None if partition is None else PartitionName(partition),
        level=Level(level),
        guaranteed=guaranteed,
        min_left_minutes=min_left,
    )
    if apply and not yes and not sys.stdin.isatty():
        raise InvalidInput("Nobody can be asked here.", way_out="Give --yes, or look first with --plan.")
    with session.connect() as client:
        plan = client.defrag_plan(terms)
        print_json(plan) if as_json else print_plan(plan)
        if plan.reason:
            raise SystemExit(ExitCode.FAILED)
        if apply and plan.moves:
            if not yes:
                click.confirm(f"Requeue {_counted(len(plan.moves), 'job')}?", abort=True, err=as_json)
            client.defrag_apply(terms, plan)
            click.echo(
                f"{_counted(len(plan.moves), 'job')} requeued; `gpuaas placement list` shows where they start.",
                err=as_json,
            )


def print_plan(plan: DefragPlan) -> None:
    if plan.reason:
        click.echo(plan.reason)
    else:
        click.echo(f"Room for {_counted(plan.count, 'node')}: {plan.room} ({_span(plan.span)}; {_compared(plan)}).")
    if plan.moves:
        click.echo()
        print_table(
            ("job", "user", "from", "to", "leaf groups", "#GPU-hours lost", "why"),
            (
                (
                    str(move.job),
                    move.user,
                    move.nodes,
                    move.to,
                    f"{move.leaf_groups_before} -> {move.leaf_groups_after}",
                    move.lost_gpu_seconds / 3600,
                    move.why,
                )
                for move in plan.moves
            ),
            empty="",
        )
        click.echo()
        lost = f"{plan.lost_gpu_seconds / 3600:,.1f} GPU-hours"
        click.echo(f"{_counted(len(plan.moves), 'move')}, {_proof(plan)}. At most {lost} are lost.")
        if _spreads(plan):
            click.echo("! A job ends on more leaf groups than it stands on now; no plan was found without.")
    elif not plan.reason:
        click.echo("Nothing has to move.")
    if plan.staying and (plan.moves or plan.reason):
        stay = ", ".join(f"{one.jobs:,} {one.why}" for one in plan.staying)
        click.echo(f"Jobs that stay: {stay}.")


def _compared(plan: DefragPlan) -> str:
    now = f"now {_span(plan.now)}" if plan.now else "now it does not fit"
    return now if plan.ideal == plan.span else f"{now}, {_span(plan.ideal)} if every job could move"


def _proof(plan: DefragPlan) -> str:
    """Among all plans; where they were searched for apart, among those that spread no job."""
    bound, kind, others = plan.bound, "", ""
    if plan.unspread_bound is not None and not _spreads(plan):
        bound, kind = plan.unspread_bound, " that spread no job"
    if plan.bound < bound:
        others = f"; were jobs spread, it would take {plan.bound} at least"
    if len(plan.moves) > bound:
        above = f"{len(plan.moves) - bound} above the bound of {bound} that was proven in time"
        return above + (f" for plans{kind}" if kind else "") + others
    if plan.lost_bound < plan.lost_gpu_seconds:
        less = f"no such plan with as many loses less than {plan.lost_bound / 3600:,.1f} GPU-hours"
        return f"proven the fewest{kind}; {less}{others}"
    return f"proven the fewest{kind} and the cheapest of as many{others}"


def _spreads(plan: DefragPlan) -> bool:
    """A job ends on more leaf groups than it stands on."""
    return any(move.leaf_groups_after > move.leaf_groups_before for move in plan.moves)


def _span(span: FabricSpan | None) -> str:
    if span is None:
        return "-"
    groups = _counted(span.leaf_groups, "leaf group")
    return groups if span.pods == 1 else f"{groups} in {span.pods} pods"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")
