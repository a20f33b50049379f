"""`gpuaas topology`: the fabric and placements on it. Needs no daemon, no Slurm and no root; `apply`, `capacity` and
`defrag` ask gpuaasd."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

import click
from pydantic import ValidationError

from slurm_gpuaas.cli.capacity import capacity
from slurm_gpuaas.cli.defrag import defrag
from slurm_gpuaas.cli.output import print_json, print_table
from slurm_gpuaas.cli.topology_apply import apply
from slurm_gpuaas.cli.topology_files import OUTPUT, TEXT, name_of, put, read_fabric
from slurm_gpuaas.cli.topology_import import group as import_group
from slurm_gpuaas.domain.errors import ExitCode, InvalidInput
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.policy import expand_nodes, fold_nodes
from slurm_gpuaas.domain.words import plural
from slurm_gpuaas.topology import (
    picture,
    slurm_conf,
    slurm_yaml,
    validation,
)
from slurm_gpuaas.topology.difference import compare
from slurm_gpuaas.topology.fabric import UNATTACHED, Fabric, LeafGroup, invalid, natural
from slurm_gpuaas.topology.problem import Problem, solve

FORMS = {"topology.yaml": slurm_yaml.render, "topology.conf": slurm_conf.render}
JUDGES = {"topology.yaml": validation.validate_yaml, "topology.conf": validation.validate_conf}
PLUGINS = [plugin.value for plugin in slurm_yaml.Plugin]


@click.group("topology")
def group() -> None:
    """Import, show, render and use the fabric's topology.

    \b
    Examples:
      ibnetdiscover | gpuaas topology import ibnetdiscover - --nodes 'b200-[001-129]' -o fabric.json
      gpuaas topology show fabric.json
      gpuaas topology check fabric.json
      gpuaas topology render fabric.json -o /etc/slurm/gpuaas/topology.yaml
      gpuaas topology apply fabric.json --dry-run
      gpuaas topology capacity
      gpuaas topology defrag --plan --count 32
    """


for command in (import_group, apply, capacity, defrag):
    group.add_command(command)


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
        put(picture.draw(known), output)
        return
    if as_json:
        print_json(known)
        return
    rows = [
        (group.pod, group.name, len(group.node_names), len(group.switches), _rails(group), group.nodes)
        for group in known.leaf_groups
    ]
    print_table(["pod", "leaf group", "#nodes", "#leaf switches", "rails", "node list"], rows, empty="No leaf group.")
    nodes = [len(group.node_names) for group in known.leaf_groups]
    loose = sum(len(group.node_names) for group in known.pods.get(UNATTACHED, ()))
    groups = [group for group in known.leaf_groups if group.pod != UNATTACHED]
    apart = f" ({loose} without a link)" if loose else ""
    above = plural(sum(spine.level > 1 for spine in known.spines), "switch", "switches")
    click.echo(
        f"{plural(sum(nodes), 'node')}{apart}, {plural(len(groups), 'leaf group')}, "
        f"{plural(len({group.pod for group in groups}), 'pod')}, "
        f"{plural(sum(spine.level == 1 for spine in known.spines), 'spine')}, {above} above them."
    )
    for domain in known.nvlink_domains:
        click.echo(f"NVLink domain {domain.name}: {domain.nodes}")
    for finding in known.findings:
        click.echo(f"! {finding.says}")


def _rails(group: LeafGroup) -> str:
    names = sorted({rail for rail in group.rails if NodeName.pattern.fullmatch(rail)}, key=natural)
    return fold_nodes(names) if names else "-"


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
    """What changed from BEFORE.json to AFTER.json: nodes that came, went or moved, leaf groups and pods that were
    joined, split or renamed, switches that came or went, findings that are new or gone. Exits with 2 if anything did.

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
@OUTPUT
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
    text = FORMS[form](read_fabric(fabric), nodes=wanted, plugin=slurm_yaml.Plugin(plugin))
    for problem in JUDGES[form](text):
        if problem.slurmctld is validation.Slurmctld.ENDS:
            raise InvalidInput(f"slurmctld would end with it: {problem.says}", way_out="Correct the fabric.json.")
        click.echo(f"! {problem.says}", err=True)
    put(text, output)


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
    judge = validation.validate_conf if (form or name_of(file, "")).endswith(".conf") else validation.validate_yaml
    problems = judge(file.read(), nodes=expand_nodes(nodes) if nodes else ())
    if as_json:
        click.echo(json.dumps([asdict(problem) for problem in problems], indent=2))
    else:
        rows = [(problem.slurmctld, problem.says) for problem in problems]
        print_table(["slurmctld", "what is wrong"], rows, empty="Nothing is wrong.")
    if problems:
        raise SystemExit(ExitCode.FAILED)


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
    Examples:
      gpuaas topology place --problem problem.json
      gpuaas topology place --problem - --json < problem.json | jq .assignment

    \b
    Example problem:
      {"levels": ["pod", "leaf"],
       "domains": [{"path": ["p1", "a"], "free": 4}, {"path": ["p1", "b"], "free": 2}],
       "request": {"count": 5}}
    """
    try:
        problem = Problem.model_validate_json(file.read())
    except ValidationError as error:
        raise invalid(name_of(file, "standard input"), error) from None
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
