"""Reads and writes Slurm's topology.yaml (25.05 and later): the fabric as topology/tree and topology/block see it.

A leaf group becomes one leaf switch of Slurm, since eight rail leaves a node would not be a tree. With more than one
pod, each pod is a switch between its leaf groups and the root. Nodes without a place in the fabric get a leaf without a
parent: Slurm knows them (it refuses a job that names a node which the file lacks) and no job spans them and others.

For topology/block an NVLink domain of several nodes is a block, and so is what domains leave of a leaf group. There are
no larger blocks of blocks: with them Slurm refuses jobs that would fit. The base size is that of most blocks; smaller
blocks are allowed from 25.05 on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from enum import StrEnum
from typing import Annotated, Final

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.policy import expand_nodes, fold_nodes
from slurm_gpuaas.topology.fabric import UNATTACHED, Fabric, LeafGroup, Switch, natural

LONGEST_FILE: Final = 16_000_000
TOPOLOGY: Final = "fabric"
"""Name of the topology; a partition could pick it with `Topology=fabric`."""

BLOCKS: Final = "blocks"
"""Name of the topology of blocks."""
ROOT: Final = "root"


class Plugin(StrEnum):
    """Slurm's topology plugin that shall plan with the file; `BOTH`: the cluster by its tree, and partitions by blocks
    that say `Topology=blocks`."""

    TREE = "tree"
    BLOCK = "block"
    BOTH = "both"


def render(fabric: Fabric, *, nodes: Collection[NodeName] = (), plugin: Plugin = Plugin.TREE) -> str:
    """The file's text. `nodes` are all nodes of slurm.conf, if some may be missing in the fabric."""
    lines = []
    if plugin is not Plugin.BLOCK:
        lines += [f"- topology: {TOPOLOGY}", "  cluster_default: true", "  tree:", "    switches:"]
        for name, key, members in switches(fabric, nodes=nodes):
            lines += [f"      - switch: {name}", f"        {key}: {members}"]
    if plugin is not Plugin.TREE:
        default = str(plugin is Plugin.BLOCK).lower()
        lines += [f"- topology: {BLOCKS}", f"  cluster_default: {default}", "  block:"]
        rows = blocks(fabric, nodes=nodes)
        lines += [f"    block_sizes: [{block_size(rows)}]", "    blocks:"]
        for name, members in rows:
            lines += [f"      - block: {name}", f"        nodes: {members}"]
    return "\n".join(lines) + "\n"


def blocks(fabric: Fabric, *, nodes: Collection[NodeName] = ()) -> list[tuple[str, str]]:
    """Name and nodes of each block, as a host list."""
    domains = [domain for domain in fabric.nvlink_domains if len(domain.node_names) > 1]
    inside = {node for domain in domains for node in domain.node_names}
    rows = [(domain.name, domain.nodes) for domain in domains]
    for name, key, members in switches(fabric, nodes=nodes):
        if key == "nodes" and (left := [node for node in expand_nodes(members) if node not in inside]):
            rows.append((name, fold_nodes(left)))
    return rows


def block_size(rows: Iterable[tuple[str, str]]) -> int:
    """Nodes of the base block: as many as most blocks have, the larger number among equals."""
    sizes = Counter(len(expand_nodes(members)) for name, members in rows if name != UNATTACHED)
    return max(sizes, key=lambda size: (sizes[size], size), default=1)


def switches(fabric: Fabric, *, nodes: Collection[NodeName] = ()) -> list[tuple[str, str, str]]:
    """The tree as Slurm sees it, from the top: a switch, `children` or `nodes`, and which, as a host list."""
    attached = {pod: groups for pod, groups in fabric.pods.items() if pod != UNATTACHED}
    rows: list[tuple[str, str, str]] = []
    if len(attached) > 1:
        rows.append((ROOT, "children", fold_nodes(attached)))
        rows += [(pod, "children", fold_nodes(group.name for group in groups)) for pod, groups in attached.items()]
    else:
        rows += [(ROOT, "children", fold_nodes(group.name for group in groups)) for groups in attached.values()]
    rows += [(group.name, "nodes", group.nodes) for groups in attached.values() for group in groups]
    loose = {node for group in fabric.pods.get(UNATTACHED, ()) for node in group.node_names}
    loose |= set(nodes) - set(fabric.arrays.nodes)
    if loose:
        rows.append((UNATTACHED, "nodes", fold_nodes(sorted(loose, key=natural))))
    return rows


class SwitchRow(BaseModel):
    """A switch as the file describes it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    switch: Annotated[str, BeforeValidator(str), Field(max_length=64)]
    children: str | None = None
    nodes: str | None = None


class _Tree(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    switches: tuple[SwitchRow, ...] = ()


class BlockRow(BaseModel):
    """A block as the file describes it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    block: Annotated[str, BeforeValidator(str), Field(max_length=64)]
    nodes: str | None = None


class _Blocks(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    block_sizes: tuple[int, ...] = ()
    blocks: tuple[BlockRow, ...] = ()


def _or_none(value: object) -> object:
    return value or None


class Topology(BaseModel):
    """One topology of the file. slurmctld writes `{}` for what it is not (`scontrol show topoconf`)."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    topology: Annotated[str, BeforeValidator(str)] = ""
    cluster_default: bool = False
    tree: Annotated[_Tree | None, BeforeValidator(_or_none)] = None
    block: Annotated[_Blocks | None, BeforeValidator(_or_none)] = None


_FILE: Final[TypeAdapter[list[Topology]]] = TypeAdapter(list[Topology])


def parse(text: str, *, source: str = "topology.yaml") -> Fabric:
    """The fabric of the file's tree: the cluster's default topology, or the first that is a tree; without a tree, of
    its blocks, as leaf groups of one pod.

    The switches just above the leaves are the pods, unless there is one above all.

    Raises:
        InvalidInput: not YAML, neither tree nor blocks in it, or a tree that is none (a cycle, two parents, an unknown
            child).
    """
    topologies = sorted(read(text, source), key=lambda topology: not topology.cluster_default)
    trees = [topology.tree for topology in topologies if topology.tree]
    found = [topology.block for topology in topologies if topology.block]
    return fabric_of(trees[0].switches if trees else None, found[0].blocks if found else None, source)


def fabric_of(switches: Iterable[SwitchRow] | None, blocks: Iterable[BlockRow] | None, source: str) -> Fabric:
    """The fabric of a tree; without one, of blocks. `parse` says more, and what it raises."""
    if switches is None and blocks is None:
        raise InvalidInput(
            f"{source} holds neither tree nor blocks.", way_out="Give a file with a tree of switches or with blocks."
        )
    try:
        return _fabric(switches, source) if switches is not None else _fabric_of_blocks(blocks or (), source)
    except ValidationError as error:
        what = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise InvalidInput(f"{source}: {what}", way_out="Correct the file.") from None


def plugin_of(text: str, *, source: str = "topology.yaml") -> Plugin:
    """Which of Slurm's plugins plan with the file. Raises InvalidInput where it is no topology.yaml."""
    topologies = read(text, source)
    if not any(topology.block for topology in topologies):
        return Plugin.TREE
    return Plugin.BOTH if any(topology.tree for topology in topologies) else Plugin.BLOCK


def read(text: str, source: str) -> list[Topology]:
    """Raises InvalidInput where it is no topology.yaml."""
    if len(text) > LONGEST_FILE:
        raise InvalidInput(f"{source} has {len(text)} characters.", way_out=f"At most {LONGEST_FILE} are read.")
    try:
        return _FILE.validate_python(yaml.safe_load(text))
    except (yaml.YAMLError, RecursionError) as error:
        raise InvalidInput(f"{source} is not YAML: {str(error)[:300]}", way_out="Correct it.") from None
    except ValidationError as error:
        raise InvalidInput(
            f"{source} is not a topology.yaml: {error.errors()[0]['msg']} at {error.errors()[0]['loc']}.",
            way_out="See Slurm's topology.yaml manual page for its form.",
        ) from None


def _fabric_of_blocks(rows: Iterable[BlockRow], source: str) -> Fabric:
    groups = [
        LeafGroup(
            name=row.block,
            pod=UNATTACHED if row.block == UNATTACHED else BLOCKS,
            nodes=fold_nodes(expand_nodes(row.nodes)),
            switches=(row.block,),
        )
        for row in rows
        if row.nodes
    ]
    return Fabric(source=source, leaf_groups=tuple(sorted(groups, key=lambda group: group.pod == UNATTACHED)))


def _fabric(switches: Iterable[SwitchRow], source: str) -> Fabric:
    nodes: dict[str, str] = {}
    parent: dict[str, str] = {}
    names: set[str] = set()
    for entry in switches:
        if entry.switch in names:
            raise InvalidInput(f"{source}: switch {entry.switch} stands twice.", way_out="Rename one.")
        names.add(entry.switch)
        if entry.nodes and not entry.children:
            nodes[entry.switch] = fold_nodes(expand_nodes(entry.nodes))
        for child in expand_nodes(entry.children) if entry.children else ():
            if parent.setdefault(child, entry.switch) != entry.switch:
                raise InvalidInput(f"{source}: switch {child} has two parents.", way_out="Leave one of them.")
    if unknown := sorted(parent.keys() - names):
        raise InvalidInput(f"{source}: child {unknown[0]} is no switch of the file.", way_out="Describe it.")
    paths = {leaf: _upwards(leaf, parent, source) for leaf in nodes}
    # A pod is the switch next above the leaf; where that is the root (two levels), all are one pod named after it.
    groups = [
        LeafGroup(name=leaf, pod=paths[leaf][0] if paths[leaf] else UNATTACHED, nodes=nodes[leaf], switches=(leaf,))
        for leaf in nodes
    ]
    order = {pod: number for number, pod in reversed(list(enumerate(group.pod for group in groups)))}
    return Fabric(
        source=source,
        leaf_groups=tuple(sorted(groups, key=lambda group: order[group.pod])),
        spines=tuple(
            Switch(id=name, name=name, level=level)
            for name, level in sorted(_levels(paths.values()).items(), key=lambda item: (item[1], natural(item[0])))
        ),
    )


def _upwards(leaf: str, parent: dict[str, str], source: str) -> tuple[str, ...]:
    path: list[str] = []
    while (above := parent.get(path[-1] if path else leaf)) is not None:
        if above in path or above == leaf:
            raise InvalidInput(f"{source}: switch {above} is above itself.", way_out="Break the cycle.")
        path.append(above)
    return tuple(path)


def _levels(paths: Iterable[tuple[str, ...]]) -> dict[str, int]:
    levels: dict[str, int] = {}
    for path in paths:
        for level, name in enumerate(path, start=1):
            levels[name] = max(levels.get(name, 0), min(level, 8))
    return levels
