"""`gpuaas policy`: plan, apply and export the declared state."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from typing import IO

import click

from slurm_gpuaas.api.models import Action, Change, Policy, PolicyPlan
from slurm_gpuaas.cli.context import Session, as_json, pass_session
from slurm_gpuaas.cli.documents import read_documents
from slurm_gpuaas.cli.output import print_json, print_table
from slurm_gpuaas.domain.errors import ExitCode, InvalidInput
from slurm_gpuaas.domain.from_portal import title

SIGNS = {Action.CREATE: ("+", "green"), Action.CHANGE: ("~", "yellow"), Action.DELETE: ("-", "red")}

FilesOption = click.option(
    "-f", "--file", "files", type=click.File(encoding="utf-8"), multiple=True, help="YAML file, or - for stdin."
)


@click.group()
def group() -> None:
    """Plan, apply and export the policy: organisations, projects, members, pools and grants.

    A policy is a set of YAML documents. It is whole: what is taken out of the files is taken out of Slurm.

    \b
    Examples:
      gpuaas policy plan -f policy.yaml
      gpuaas policy apply -f policy.yaml
      gpuaas policy export > policy.yaml
    """


@group.command()
@FilesOption
@as_json
@click.pass_context
def plan(ctx: click.Context, files: Sequence[IO[str]], as_json: bool) -> None:
    """Show what would change in Slurm; exit code 2 when something would.

    Without a file, Slurm is compared with the policy that holds now: what is shown is drift made by hand.

    \b
    Examples:
      gpuaas policy plan -f organisations.yaml -f grants.yaml
      gpuaas policy plan --json
    """
    session: Session = ctx.obj
    documents = read_documents(files) if files else None
    with session.connect() as client:
        result = client.plan(documents)
    print_json(result) if as_json else print_plan(result)
    if result.pending:
        ctx.exit(ExitCode.CHANGES_PENDING)


@group.command()
@FilesOption
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing (the same as plan).")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
@click.pass_context
def apply(ctx: click.Context, files: Sequence[IO[str]], dry_run: bool, yes: bool, as_json: bool) -> None:
    """Make the files the policy and bring Slurm to it.

    Shows what would change and asks first. Applying the same files again changes nothing.

    \b
    Examples:
      gpuaas policy apply -f policy.yaml
      gpuaas policy apply -f policy.yaml --yes --json
    """
    if not files:
        raise InvalidInput("No file was named.", way_out="Give the policy with -f FILE.")
    if dry_run:
        ctx.invoke(plan, files=files, as_json=as_json)
        return
    session: Session = ctx.obj
    documents = read_documents(files)
    revision = None
    with session.connect() as client:
        if not yes:
            if not sys.stdin.isatty():
                raise InvalidInput("Nobody can be asked here.", way_out="Give --yes, or look first with policy plan.")
            planned = client.plan(documents)
            print_plan(planned, err=as_json)
            if not planned.pending:
                if as_json:
                    print_json(planned)
                return
            revision = planned.revision
            click.confirm("Apply this?", abort=True, err=as_json)
        done = client.apply(documents, expected_revision=revision).plan
    if as_json:
        print_json(done)
    elif yes:
        print_plan(done, done=True)
    else:
        click.echo("Applied.")


@group.command()
@click.option(
    "--format",
    "form",
    type=click.Choice(["yaml", "json"]),
    default="yaml",
    show_default=True,
    help="How documents are written.",
)
@as_json
@pass_session
def export(session: Session, form: str, as_json: bool) -> None:
    """Print the site's own documents that hold now, ready to be applied again. The portal's are not among them.

    \b
    Examples:
      gpuaas policy export > policy.yaml
      gpuaas policy export --json | jq '.documents[] | select(.kind == "Grant")'
    """
    with session.connect() as client:
        policy = client.policy()
    if as_json or form == "json":
        print_json(policy)
    else:
        click.echo(policy_yaml(policy), nl=False)


@group.command()
@as_json
@pass_session
def show(session: Session, as_json: bool) -> None:
    """Show all documents in force, the portal's too, and what of the portal's is left out and why.

    \b
    Examples:
      gpuaas policy show
      gpuaas policy show --json | jq .left_out
    """
    with session.connect() as client:
        policy = client.policy()
    if as_json:
        print_json(policy)
        return
    rows = [(*title(one), "site") for one in policy.documents] + [(*title(one), "portal") for one in policy.from_portal]
    print_table(("kind", "name", "from"), rows, empty="No policy was applied yet.")
    for sentence in policy.left_out:
        click.secho(f"Left out: {sentence}", fg="yellow")


def policy_yaml(policy: Policy) -> str:
    import yaml

    documents = [
        {"kind": document.kind, **document.model_dump(mode="json", exclude_none=True, exclude={"kind"})}
        for document in policy.documents
    ]
    return yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True, explicit_start=True)


def print_plan(plan: PolicyPlan, *, done: bool = False, err: bool = False) -> None:
    """`done`: it was carried out. `err`: on standard error, where standard output is for a program."""
    for heading, changes in (("Policy", plan.policy), ("Slurm", plan.slurm)):
        if changes:
            click.secho(heading, bold=True, err=err)
            for change in changes:
                _print_change(change, err)
    for label, colour, sentences in (
        ("Conflict", "red", plan.conflicts),
        ("Deferred", "yellow", plan.deferred),
        ("Warning", "yellow", plan.warnings),
    ):
        for sentence in sentences:
            click.secho(f"{label}: {sentence}", fg=colour, err=err)
    if not plan.pending:
        click.echo("Slurm is as the policy says: nothing to do.", err=err)
        return
    counts = Counter(change.action for change in plan.slurm)
    summary = ", ".join(
        f"{counts[action]} {verb if done else f'to {action}'}"
        for action, verb in ((Action.CREATE, "created"), (Action.CHANGE, "changed"), (Action.DELETE, "deleted"))
    )
    click.secho(f"{'Done' if done else 'Plan'}: {summary} in Slurm.", bold=True, err=err)


def _print_change(change: Change, err: bool) -> None:
    sign, colour = SIGNS[change.action]
    by = f"  (by {change.changed_by} at {change.changed_at:%Y-%m-%d %H:%M:%S} UTC)" if change.changed_at else ""
    origin = "  (of the portal's)" if change.from_portal else ""
    click.secho(f"  {sign} {change.kind} {change.name}{origin}{by}", fg=colour, err=err)
    if change.action is Action.DELETE:
        return
    widest = max((len(field.field) for field in change.fields), default=0)
    for field in change.fields:
        before = f"{_shown(field.before)} -> " if change.action is Action.CHANGE else ""
        click.echo(f"      {field.field:<{widest}}  {before}{_shown(field.after)}", err=err)


def _shown(value: str | None) -> str:
    return "(not set)" if value is None else value if value else json.dumps(value, ensure_ascii=False)
