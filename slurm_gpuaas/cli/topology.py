"""`gpuaas topology`: the fabric and placements on it. Needs no daemon, no Slurm and no root; `apply`, `capacity` and
`defrag` ask gpuaasd."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TextIO, TypedDict, TypeVar, Unpack

import click
from pydantic import ValidationError

from slurm_gpuaas.api.models import TopologyForm, TopologyPlan, TopologyRequest
from slurm_gpuaas.cli.capacity import Ago, print_capacity
from slurm_gpuaas.cli.context import Session, as_json, pass_session
from slurm_gpuaas.cli.defrag import defrag
from slurm_gpuaas.cli.output import print_json, print_table
from slurm_gpuaas.domain.errors import ExitCode, InvalidInput
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.policy import expand_nodes, fold_nodes
from slurm_gpuaas.topology import (
    iblinkinfo,
    ibnetdiscover,
    ibstat,
    nvidia_smi,
    nvlink,
    picture,
    slurm_conf,
    slurm_yaml,
    validation,
)
from slurm_gpuaas.topology.difference import compare
from slurm_gpuaas.topology.discovery import Discovery
from slurm_gpuaas.topology.fabric import Fabric, LeafGroup, invalid, natural, parse_fabric
from slurm_gpuaas.topology.ibstat import Reports
from slurm_gpuaas.topology.problem import Problem, solve

FORMS = {"topology.yaml": slurm_yaml.render, "topology.conf": slurm_conf.render}
PLUGINS = [plugin.value for plugin in slurm_yaml.Plugin]
TEXT = click.File("r", encoding="utf-8", errors="replace")
OUTPUT = click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Default: standard output."
)
NODES = click.option(
    "--nodes", help="The cluster's nodes; other hosts of the fabric are left out. Default: every host."
)
IBSTAT = click.option(
    "--ibstat",
    "reports",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Files NODE or NODE.txt, what `ibstat` printed there: adapters go by GUID, not by description.",
)
RAILS = click.option(
    "--rails",
    metavar="ADAPTERS",
    help="Adapters of the compute fabric, such as mlx5_0,mlx5_3; others (storage) are left out. Default: all.",
)
TOPO = click.option(
    "--topo",
    type=TEXT,
    metavar="FILE",
    help="What `nvidia-smi topo -m` printed on a node, instead of --rails: each GPU's nearest adapter is a rail.",
)
NVLINK = click.option(
    "--nvlink",
    type=TEXT,
    metavar="FILE",
    help="NVLink domains: lines of `gpuaas-agent --print-nvlink`, or NODE, cluster UUID and clique of nvidia-smi.",
)
Command = TypeVar("Command", bound=Callable[..., None])


class Known(TypedDict):
    """What the operator knows besides the text."""

    nodes: str | None
    reports: Path | None
    rails: str | None
    topo: TextIO | None
    nvlink: TextIO | None


def _discovery_options(command: Command) -> Command:
    return NODES(IBSTAT(RAILS(TOPO(NVLINK(command)))))


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


group.add_command(defrag)


@group.group("import")
def import_() -> None:
    """Read a fabric and write it as fabric.json (docs/reference/fabric.schema.json is its schema)."""


@import_.command("ibnetdiscover")
@click.argument("file", type=TEXT)
@_discovery_options
@OUTPUT
def from_ibnetdiscover(file: TextIO, output: Path | None, **known: Unpack[Known]) -> None:
    """From the output of the real `ibnetdiscover` in FILE (- for standard input).

    What is odd in the cabling or the text is said on standard error and kept in fabric.json.

    \b
    Examples:
      ibnetdiscover | gpuaas topology import ibnetdiscover - --nodes 'b200-[001-129]' -o fabric.json
      gpuaas topology import ibnetdiscover saved.txt --ibstat ibstat.d --topo topo.txt > fabric.json
    """
    _write(_fabric(ibnetdiscover.read(file.read()), _name(file, "ibnetdiscover"), **known), output)


@import_.command("iblinkinfo")
@click.argument("file", type=TEXT)
@_discovery_options
@OUTPUT
def from_iblinkinfo(file: TextIO, output: Path | None, **known: Unpack[Known]) -> None:
    """From the output of the real `iblinkinfo`, with or without -l, in FILE (- for standard input).

    It gives the fabric that ibnetdiscover gives.

    \b
    Examples:
      iblinkinfo -l | gpuaas topology import iblinkinfo - --nodes 'b200-[001-129]' -o fabric.json
      gpuaas topology import iblinkinfo saved.txt --rails mlx5_0,mlx5_3,mlx5_4,mlx5_5 > fabric.json
    """
    _write(_fabric(iblinkinfo.read(file.read()), _name(file, "iblinkinfo"), **known), output)


def _fabric(found: Discovery, source: str, **known: Unpack[Known]) -> Fabric:
    """
    Raises:
        InvalidInput: two answers to which adapters count, or none in the matrix.
    """
    rails = frozenset((known["rails"] or "").replace(",", " ").split())
    if topo := known["topo"]:
        if rails:
            raise InvalidInput("--rails and --topo both say which adapters count.", way_out="Give one of them.")
        matrix = nvidia_smi.parse(topo.read(), source=_name(topo, "nvidia-smi topo -m"))
        rails = frozenset(matrix.rails())
        if not rails:
            raise InvalidInput(f"{_name(topo, 'The matrix')} holds no adapter.", way_out="Name them with --rails.")
        found = replace(found, findings=[*found.findings, *matrix.findings()])
    fabric = found.fabric(
        source,
        nodes=expand_nodes(known["nodes"]) if known["nodes"] else (),
        reports=_reports(known["reports"]) if known["reports"] else {},
        rails=rails,
    )
    return nvlink.add(fabric, known["nvlink"].read()) if known["nvlink"] else fabric


def _reports(folder: Path) -> Reports:
    """
    Raises:
        InvalidInput: the folder holds no report, or a file that cannot be read or is named after no node.
    """
    reports = {}
    try:
        for path in sorted(folder.iterdir()):
            if path.is_file() and not path.name.startswith("."):
                node = NodeName(path.name.removesuffix(".txt"))
                reports[node] = ibstat.parse(path.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise InvalidInput(f"{error.filename} cannot be read: {error.strerror}.", way_out="Allow it.") from None
    if not reports:
        raise InvalidInput(f"{folder} holds no file.", way_out="Write what `ibstat` prints on NODE to a file NODE.txt.")
    return reports


@import_.command("topology.yaml")
@click.argument("file", type=TEXT)
@OUTPUT
def from_topology_yaml(file: TextIO, output: Path | None) -> None:
    """From the tree in Slurm's topology.yaml in FILE (- for standard input).

    \b
    Example:
      gpuaas topology import topology.yaml /etc/slurm/topology.yaml -o fabric.json
    """
    _write(slurm_yaml.parse(file.read(), source=_name(file, "topology.yaml")), output)


@import_.command("topology.conf")
@click.argument("file", type=TEXT)
@OUTPUT
def from_topology_conf(file: TextIO, output: Path | None) -> None:
    """From the tree or the blocks in Slurm's topology.conf in FILE (- for standard input).

    \b
    Example:
      gpuaas topology import topology.conf /etc/slurm/topology.conf | gpuaas topology render -
    """
    _write(slurm_conf.parse(file.read(), source=_name(file, "topology.conf")), output)


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
        (group.pod, group.name, len(group.node_names), len(group.switches), _rails(group), group.nodes)
        for group in known.leaf_groups
    ]
    print_table(["pod", "leaf group", "#nodes", "#leaf switches", "rails", "node list"], rows, empty="No leaf group.")
    nodes = sum(len(group.node_names) for group in known.leaf_groups)
    click.echo(
        f"{nodes} nodes, {len(known.leaf_groups)} leaf groups, {len(known.pods)} pods, "
        f"{sum(spine.level == 1 for spine in known.spines)} spines, "
        f"{sum(spine.level > 1 for spine in known.spines)} switches above them."
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


@group.command()
@click.option("--partition", help="Of this partition only.")
@click.option("--since", type=Ago(), help="With what was kept of the time since then: 90m, 24h, 7d; at most 31d.")
@as_json
@pass_session
def capacity(session: Session, partition: str | None, since: timedelta | None, as_json: bool) -> None:
    """Show the largest job that could start now on each partition, per level, and how broken up free nodes are.

    Asks gpuaasd. Counts nodes, not what a project's limits allow. `compact` is the largest of 1, 2, 4, ... nodes that
    would get as few leaf groups as on the empty partition. Fragmentation is the share of the free nodes that are in
    partly used leaf groups.

    \b
    Examples:
      gpuaas topology capacity
      gpuaas topology capacity --partition haein-own --since 24h
      gpuaas topology capacity --json | jq '.[].largest'
    """
    with session.connect() as client:
        found = client.capacity(partition=partition, since=None if since is None else datetime.now(UTC) - since)
    if as_json:
        print_json(found)
        return
    if not found:
        click.echo("The policy has no partition on this cluster.")
    for number, one in enumerate(found):
        if number:
            click.echo()
        print_capacity(one, over_time=since is not None)


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
