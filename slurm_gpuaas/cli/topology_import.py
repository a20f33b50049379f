"""`gpuaas topology import`: from what tools and Slurm say to fabric.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TextIO, TypedDict, TypeVar, Unpack

import click

from slurm_gpuaas.cli.topology_files import OUTPUT, TEXT, name_of, put
from slurm_gpuaas.domain.errors import ExitCode, InvalidInput
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.policy import expand_nodes
from slurm_gpuaas.topology import iblinkinfo, ibnetdiscover, ibstat, nvidia_smi, nvlink, slurm_conf, slurm_yaml
from slurm_gpuaas.topology.discovery import Discovery
from slurm_gpuaas.topology.fabric import Fabric, Fault
from slurm_gpuaas.topology.ibstat import Reports

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


@click.group("import")
def group() -> None:
    """Read a fabric and write it as fabric.json (docs/reference/fabric.schema.json is its schema). Exits with 1, all
    the same, where the text is cut or not wholly understood.

    \b
    Examples:
      ibnetdiscover | gpuaas topology import ibnetdiscover - --nodes 'b200-[001-129]' -o fabric.json
      gpuaas topology import topology.yaml /etc/slurm/topology.yaml -o fabric.json
    """


@group.command("ibnetdiscover")
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
    _write(_fabric(ibnetdiscover.read(file.read()), name_of(file, "ibnetdiscover"), **known), output)


@group.command("iblinkinfo")
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
    _write(_fabric(iblinkinfo.read(file.read()), name_of(file, "iblinkinfo"), **known), output)


def _fabric(found: Discovery, source: str, **known: Unpack[Known]) -> Fabric:
    """
    Raises:
        InvalidInput: two answers to which adapters count, or none in the matrix.
    """
    rails = frozenset((known["rails"] or "").replace(",", " ").split())
    if topo := known["topo"]:
        if rails:
            raise InvalidInput("--rails and --topo both say which adapters count.", way_out="Give one of them.")
        matrix = nvidia_smi.parse(topo.read(), source=name_of(topo, "nvidia-smi topo -m"))
        rails = frozenset(matrix.rails())
        if not rails:
            raise InvalidInput(f"{name_of(topo, 'The matrix')} holds no adapter.", way_out="Name them with --rails.")
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
                reports[node] = ibstat.parse(path.read_text(encoding="utf-8-sig", errors="replace"))
    except OSError as error:
        raise InvalidInput(f"{error.filename} cannot be read: {error.strerror}.", way_out="Allow it.") from None
    if not reports:
        raise InvalidInput(f"{folder} holds no file.", way_out="Write what `ibstat` prints on NODE to a file NODE.txt.")
    return reports


@group.command("topology.yaml")
@click.argument("file", type=TEXT)
@OUTPUT
def from_topology_yaml(file: TextIO, output: Path | None) -> None:
    """From the tree in Slurm's topology.yaml in FILE (- for standard input).

    \b
    Example:
      gpuaas topology import topology.yaml /etc/slurm/topology.yaml -o fabric.json
    """
    _write(slurm_yaml.parse(file.read(), source=name_of(file, "topology.yaml")), output)


@group.command("topology.conf")
@click.argument("file", type=TEXT)
@OUTPUT
def from_topology_conf(file: TextIO, output: Path | None) -> None:
    """From the tree or the blocks in Slurm's topology.conf in FILE (- for standard input).

    \b
    Example:
      gpuaas topology import topology.conf /etc/slurm/topology.conf | gpuaas topology render -
    """
    _write(slurm_conf.parse(file.read(), source=name_of(file, "topology.conf")), output)


def _write(fabric: Fabric, output: Path | None) -> None:
    """Exits with 1 where some of the text was not understood, so that a command after `&&` does not run."""
    for finding in fabric.findings:
        click.echo(f"! {finding.says}", err=True)
    put(json.dumps(fabric.model_dump(mode="json"), indent=2) + "\n", output)
    if any(finding.fault in (Fault.CUT_TEXT, Fault.STRANGE_TEXT) for finding in fabric.findings):
        raise SystemExit(ExitCode.FAILED)
