"""`gpuaas topology`: the fabric and placements on it. Only `apply` needs gpuaasd, nothing Slurm or root."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

import click
from pydantic import ValidationError

from slurm_gpuaas.api.models import TopologyForm, TopologyPlan, TopologyRequest
from slurm_gpuaas.cli.context import Session, as_json, pass_session
from slurm_gpuaas.cli.output import print_json, print_table
from slurm_gpuaas.domain.errors import ExitCode, InvalidInput
from slurm_gpuaas.domain.policy import expand_nodes
from slurm_gpuaas.topology import ibnetdiscover, picture, slurm_conf, slurm_yaml, validation
from slurm_gpuaas.topology.difference import compare
from slurm_gpuaas.topology.fabric import Fabric, invalid, parse_fabric
from slurm_gpuaas.topology.problem import Problem, solve

FORMS = {"topology.yaml": slurm_yaml.render, "topology.conf": slurm_conf.render}
PLUGINS = [plugin.value for plugin in slurm_yaml.Plugin]
TEXT = click.File("r", encoding="utf-8", errors="replace")


@click.group("topology")
def group() -> None:
    """Import, show, render and use the fabric's topology.

    \b
    Examples:
      ibnetdiscover | gpuaas topology import ibnetdiscover - --nodes 'b200-[001-129]' -o fabric.json
      gpuaas topology show fabric.json
      gpuaas topology check fabric.json
      gpuaas topology apply fabric.json --dry-run
    """


@group.group("import")
def import_() -> None:
    """Read a fabric and write it as fabric.json (docs/reference/fabric.schema.json is its schema)."""


@import_.command("ibnetdiscover")
@click.argument("file", type=TEXT)
@click.option("--nodes", help="The cluster's nodes; other hosts of the fabric are left out. Default: every host.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Default: standard output.")
def from_ibnetdiscover(file: TextIO, nodes: str | None, output: Path | None) -> None:
    """From the output of the real `ibnetdiscover` in FILE (- for standard input).

    What is odd in the cabling or the text is said on standard error and kept in fabric.json.

    \b
    Examples:
      ibnetdiscover | gpuaas topology import ibnetdiscover - --nodes 'b200-[001-129]' -o fabric.json
      gpuaas topology import ibnetdiscover saved.txt > fabric.json
    """
    wanted = expand_nodes(nodes) if nodes else ()
    _write(ibnetdiscover.parse(file.read(), nodes=wanted, source=_name(file, "ibnetdiscover")), output)


@import_.command("topology.yaml")
@click.argument("file", type=TEXT)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Default: standard output.")
def from_topology_yaml(file: TextIO, output: Path | None) -> None:
    """From the tree in Slurm's topology.yaml in FILE (- for standard input).

    \b
    Example:
      gpuaas topology import topology.yaml /etc/slurm/topology.yaml -o fabric.json
    """
    _write(slurm_yaml.parse(file.read(), source=_name(file, "topology.yaml")), output)


@group.command()
@click.argument("fabric", type=TEXT)
@click.option("--json", "as_json", is_flag=True, help="The fabric as one JSON document.")
@click.option("--svg", "as_svg", is_flag=True, help="A picture, with what the findings touch.")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="For --svg. Default: standard output."
)
def show(fabric: TextIO, as_json: bool, as_svg: bool, output: Path | None) -> None:
    """Leaf groups, pods and findings of FABRIC.json.

    \b
    Examples:
      gpuaas topology show fabric.json
      gpuaas topology show fabric.json --json | jq .findings
      gpuaas topology show fabric.json --svg -o fabric.svg
    """
    if (as_json and as_svg) or (output and not as_svg):
        raise InvalidInput("--json and --svg are two forms, and -o is for --svg.", way_out="Give one of them.")
    known = read_fabric(fabric)
    if as_svg:
        _put(picture.draw(known), output)
        return
    if as_json:
        print_json(known)
        return
    rows = [
        (group.pod, group.name, len(group.node_names), len(group.switches), group.nodes) for group in known.leaf_groups
    ]
    print_table(["pod", "leaf group", "#nodes", "#leaf switches", "node list"], rows, empty="No leaf group.")
    nodes = sum(len(group.node_names) for group in known.leaf_groups)
    click.echo(
        f"{nodes} nodes, {len(known.leaf_groups)} leaf groups, {len(known.pods)} pods, "
        f"{sum(spine.level == 1 for spine in known.spines)} spines, "
        f"{sum(spine.level > 1 for spine in known.spines)} switches above them."
    )
    for finding in known.findings:
        click.echo(f"! {finding.says}")


@group.command()
@click.argument("fabric", type=TEXT)
@click.option("--json", "as_json", is_flag=True, help="The findings as one JSON list.")
def check(fabric: TextIO, as_json: bool) -> None:
    """What is wrong in the cabling of FABRIC.json, and which nodes it touches; exits with 1 if anything is.

    Found by what most of its kind are: slow links, lost and crossed rails, lost leaves and uplinks, nodes cabled into
    two leaf groups, nodes without a link, adapters without a host.

    \b
    Examples:
      ibnetdiscover | gpuaas topology import ibnetdiscover - | gpuaas topology check -
      gpuaas topology check fabric.json --json | jq -r '.[].nodes'
    """
    known = read_fabric(fabric)
    if as_json:
        click.echo(json.dumps([finding.model_dump(mode="json") for finding in known.findings], indent=2))
    else:
        rows = [(finding.fault, finding.nodes or "-", finding.says) for finding in known.findings]
        print_table(["fault", "node list", "what"], rows, empty="Nothing is wrong.")
    if known.findings:
        raise SystemExit(ExitCode.FAILED)


@group.command()
@click.argument("before", type=TEXT)
@click.argument("after", type=TEXT)
@click.option("--json", "as_json", is_flag=True, help="The differences as one JSON document.")
def diff(before: TextIO, after: TextIO, as_json: bool) -> None:
    """What changed from BEFORE.json to AFTER.json: nodes that came, went or moved, findings that are new or gone. Exits
    with 2 if anything did.

    \b
    Example:
      gpuaas topology diff fabric.json fabric-today.json
    """
    found = compare(read_fabric(before), read_fabric(after))
    if as_json:
        print_json(found)
    else:
        for line in found.lines():
            click.echo(line)
        if not found:
            click.echo("Nothing changed.")
    if found:
        raise SystemExit(ExitCode.CHANGES_PENDING)


@group.command()
@click.argument("fabric", type=TEXT)
@click.option(
    "--format", "form", type=click.Choice(list(FORMS)), default="topology.yaml", show_default=True, help="Form."
)
@click.option(
    "--plugin",
    type=click.Choice(PLUGINS),
    default=slurm_yaml.Plugin.TREE.value,
    show_default=True,
    help="Slurm's topology plugin that plans with it.",
)
@click.option("--nodes", help="All nodes of slurm.conf: those the fabric lacks are added apart, as Slurm demands.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Default: standard output.")
def render(fabric: TextIO, form: str, plugin: str, nodes: str | None, output: Path | None) -> None:
    """Write FABRIC.json as Slurm's topology.yaml (Slurm 25.05 and later) or topology.conf (every Slurm).

    gpuaasd reads topology.yaml, whichever of the two Slurm reads.

    \b
    Examples:
      gpuaas topology render fabric.json --nodes 'b200-[001-129]' -o /etc/slurm/gpuaas/topology.yaml
      gpuaas topology render fabric.json --format topology.conf -o /etc/slurm/topology.conf
      gpuaas topology render fabric.json --plugin both
    """
    wanted = expand_nodes(nodes) if nodes else ()
    _put(FORMS[form](read_fabric(fabric), nodes=wanted, plugin=slurm_yaml.Plugin(plugin)), output)


@group.command()
@click.argument("file", type=TEXT)
@click.option(
    "--format", "form", type=click.Choice(list(FORMS)), help="Default: by the file's name, else topology.yaml."
)
@click.option("--nodes", help="All nodes of slurm.conf, to find those that are missing or unknown.")
@click.option("--json", "as_json", is_flag=True, help="The problems as one JSON list.")
def validate(file: TextIO, form: str | None, nodes: str | None, as_json: bool) -> None:
    """What is wrong with FILE (topology.yaml or topology.conf), and what slurmctld would make of it; exits with 1 if
    anything is.

    Half of what can be wrong slurmctld takes in silence, and plans with a fabric that nobody meant. A file with which
    it ends must never reach it: after a reconfigure it may be dead.

    \b
    Examples:
      gpuaas topology validate /etc/slurm/gpuaas/topology.yaml --nodes 'b200-[001-129]'
      gpuaas topology render fabric.json | gpuaas topology validate -
    """
    judge = validation.validate_conf if (form or _name(file, "")).endswith(".conf") else validation.validate_yaml
    problems = judge(file.read(), nodes=expand_nodes(nodes) if nodes else ())
    if as_json:
        click.echo(json.dumps([asdict(problem) for problem in problems], indent=2))
    else:
        rows = [(problem.slurmctld, problem.says) for problem in problems]
        print_table(["slurmctld", "what is wrong"], rows, empty="Nothing is wrong.")
    if problems:
        raise SystemExit(ExitCode.FAILED)


@group.command()
@click.argument("file", type=TEXT, required=False)
@click.option("--undo", is_flag=True, help="Instead of FILE: what topology.yaml said before its last change.")
@click.option(
    "--plugin",
    type=click.Choice(PLUGINS),
    help="Slurm's topology plugin that a fabric.json is written for. Default: what plans now.",
)
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing; exit with 2 if it would.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
@pass_session
def apply(
    session: Session,
    file: TextIO | None,
    undo: bool,
    plugin: str | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Bring Slurm to the fabric in FILE: a fabric.json, or by its name a topology.yaml. gpuaasd does it, running jobs
    go on, and if slurmctld does not take it all is as before.

    Nodes that moved between leaf groups take a dynamic update each; anything else takes a reconfigure. Leaf groups and
    pods of a fabric.json keep the names under which Slurm knows most of their nodes.

    \b
    Examples:
      gpuaas topology apply fabric.json --dry-run
      gpuaas topology apply fabric.json --yes --json
      gpuaas topology apply --undo
    """
    request = _request(file, undo, plugin)
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
        done = client.apply_topology(request)
    if as_json:
        print_json(done)
    elif yes:
        _print_plan(done)
    elif done.pending:
        click.echo("Applied.")


@group.command()
def schema() -> None:
    """Print the JSON Schema of fabric.json.

    \b
    Example:
      gpuaas topology schema > fabric.schema.json
    """
    click.echo(json.dumps(Fabric.model_json_schema(), indent=2))


@group.command()
@click.option(
    "--problem", "file", type=TEXT, required=True, help="JSON: levels, domains, request. - for standard input."
)
@click.option("--json", "as_json", is_flag=True, help="The answer as one JSON document.")
def place(file: TextIO, as_json: bool) -> None:
    """Choose the best domains for a request: the fewest, level by level from the top, then the best fit.

    \b
    Example problem:
      {"levels": ["pod", "leaf"],
       "domains": [{"path": ["p1", "a"], "free": 4}, {"path": ["p1", "b"], "free": 2}],
       "request": {"count": 5}}
    """
    try:
        problem = Problem.model_validate_json(file.read())
    except ValidationError as error:
        raise invalid(_name(file, "standard input"), error) from None
    answer = solve(problem)
    if as_json:
        print_json(answer)
        return
    if answer.assignment is None:
        click.echo(answer.reason)
        return
    rows = [("/".join(row.path), row.count) for row in answer.assignment]
    print_table(["domain", "#count"], rows, empty="Nothing.")
    click.echo(answer.why)


def _request(file: TextIO | None, undo: bool, plugin: str | None) -> TopologyRequest:
    if (file is None) is not undo:
        raise InvalidInput("It is not clear what to apply.", way_out="Name a FILE, or give --undo.")
    if file is None:
        return TopologyRequest()
    form = TopologyForm.YAML if _name(file, "").endswith((".yaml", ".yml")) else TopologyForm.FABRIC
    if plugin and form is TopologyForm.YAML:
        raise InvalidInput("A topology.yaml says itself what it is for.", way_out="Leave --plugin out.")
    text = file.read(slurm_yaml.LONGEST_FILE + 1)
    if len(text) > slurm_yaml.LONGEST_FILE:
        raise InvalidInput(f"{_name(file, 'The input')} has more than {slurm_yaml.LONGEST_FILE} characters.")
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


def read_fabric(file: TextIO) -> Fabric:
    """
    Raises:
        InvalidInput: not a fabric.json; says where.
    """
    return parse_fabric(file.read(), source=_name(file, "standard input"))


def _write(fabric: Fabric, output: Path | None) -> None:
    for finding in fabric.findings:
        click.echo(f"! {finding.says}", err=True)
    _put(json.dumps(fabric.model_dump(mode="json"), indent=2) + "\n", output)


def _put(text: str, output: Path | None) -> None:
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"{output} cannot be written: {error.strerror}.", way_out="Choose another file.") from None


def _name(file: TextIO, default: str) -> str:
    name = getattr(file, "name", "-")
    return default if name in ("-", "<stdin>") else Path(name).name
