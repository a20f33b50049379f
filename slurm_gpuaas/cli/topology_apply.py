"""`gpuaas topology apply`: brings a topology to Slurm, through gpuaasd."""

from __future__ import annotations

import sys
from typing import TextIO

import click

from slurm_gpuaas.api.models import TopologyForm, TopologyPlan, TopologyRequest
from slurm_gpuaas.cli.context import Session, as_json, pass_session
from slurm_gpuaas.cli.output import print_json
from slurm_gpuaas.cli.topology_files import TEXT, name_of
from slurm_gpuaas.domain.errors import ExitCode, InvalidInput
from slurm_gpuaas.topology import slurm_yaml


@click.command()
@click.argument("file", type=TEXT, required=False)
@click.option(
    "--format",
    "form",
    type=click.Choice([form.value for form in TopologyForm]),
    help="Of FILE. Default: topology.yaml where its name ends with .yaml or .yml, else fabric.json.",
)
@click.option("--undo", is_flag=True, help="Instead of FILE: what topology.yaml said before its last change.")
@click.option(
    "--plugin",
    type=click.Choice([plugin.value for plugin in slurm_yaml.Plugin]),
    help="Slurm's topology plugin that a fabric.json is written for. Default: what plans now.",
)
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing; exit with 2 if it would.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
@pass_session
def apply(
    session: Session,
    file: TextIO | None,
    form: str | None,
    undo: bool,
    plugin: str | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Bring Slurm to the fabric in FILE, a fabric.json or a topology.yaml (- for standard input). gpuaasd does it,
    running jobs go on, and if slurmctld does not take it all is as before.

    Nodes that moved between leaf groups take a dynamic update each; anything else takes a reconfigure. Leaf groups and
    pods of a fabric.json keep the names under which Slurm knows most of their nodes.

    \b
    Examples:
      gpuaas topology apply fabric.json --dry-run
      gpuaas topology apply fabric.json --yes --json
      gpuaas topology apply - --format topology.yaml --yes < new.yaml
      gpuaas topology apply --undo
    """
    request = _request(file, form, undo, plugin)
    with session.connect() as client:
        if dry_run or not yes:
            if not dry_run and not sys.stdin.isatty():
                raise InvalidInput("Nobody can be asked here.", way_out="Give --yes, or look first with --dry-run.")
            planned = client.plan_topology(request)
            if dry_run and as_json:
                print_json(planned)
            else:
                _print_plan(planned, err=as_json)
            if dry_run and planned.pending:
                raise SystemExit(ExitCode.CHANGES_PENDING)
            if dry_run:
                return
            if planned.pending:
                click.confirm("Apply this?", abort=True, err=as_json)
            request = request.model_copy(update={"digest": planned.digest})
        done = client.apply_topology(request)
    if as_json:
        print_json(done)
    elif yes:
        _print_plan(done)
    elif done.pending:
        click.echo("Applied.")


def _request(file: TextIO | None, chosen: str | None, undo: bool, plugin: str | None) -> TopologyRequest:
    if (file is None) is not undo:
        raise InvalidInput("It is not clear what to apply.", way_out="Name a FILE, or give --undo.")
    if file is None:
        return TopologyRequest()
    yaml = name_of(file, "").endswith((".yaml", ".yml"))
    form = TopologyForm(chosen) if chosen else TopologyForm.YAML if yaml else TopologyForm.FABRIC
    if plugin and form is TopologyForm.YAML:
        raise InvalidInput("A topology.yaml says itself what it is for.", way_out="Leave --plugin out.")
    text = file.read(slurm_yaml.LONGEST_FILE + 1)
    if len(text) > slurm_yaml.LONGEST_FILE:
        raise InvalidInput(f"{name_of(file, 'The input')} has more than {slurm_yaml.LONGEST_FILE} characters.")
    return TopologyRequest.model_validate({"text": text, "form": form, "plugin": plugin})


def _print_plan(plan: TopologyPlan, *, err: bool = False) -> None:
    """`err`: on standard error, where standard output is for a program."""
    for warning in plan.warnings:
        click.echo(f"! {warning}", err=err)
    for change in plan.changes:
        click.echo(change, err=err)
    for move in plan.moves:
        click.echo(f"~ {move.nodes}: from {move.before} to {move.after}", err=err)
    if plan.jobs:
        click.echo(f"Jobs that run on them and go on: {', '.join(map(str, plan.jobs))}.", err=err)
    how = "slurmctld reconfigures" if plan.reconfigure else "dynamic updates" if plan.moves else "only the file changes"
    click.echo(f"{plan.file}: {how}." if plan.pending else "Slurm plans with it already: nothing to do.", err=err)
