"""Reads and writes Slurm's topology.yaml (25.05 and later): the fabric as topology/tree and topology/block see it.

It is read as slurmctld reads it (tried with 26.05): every scalar is text, aliases are refused, what it does not know is
skipped.

A leaf group becomes one leaf switch of Slurm, since eight rail leaves a node would not be a tree. With more than one
pod, each pod is a switch between its leaf groups and the root. Nodes without a place in the fabric get a leaf without a
parent: Slurm knows them (it refuses a job that names a node which the file lacks) and no job spans them and others.

For topology/block an NVLink domain of several nodes is a block, and so is what domains leave of a leaf group. There are
no larger blocks of blocks: with them Slurm refuses jobs that would fit. The base size is that of most blocks; smaller
blocks are allowed from 25.05 on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Final, NamedTuple

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.policy import expand_nodes, fold_nodes
from slurm_gpuaas.topology.fabric import (
    UNATTACHED,
    Fabric,
    Fault,
    Finding,
    LeafGroup,
    Switch,
    free_name,
    invalid,
    natural,
)

LONGEST_FILE: Final = 16_000_000
DEEPEST: Final = 20
"""Levels of lists and mappings; a torus has eight."""
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
            lines += [f"      - switch: {_quoted(name)}", f"        {key}: {_quoted(members)}"]
    if plugin is not Plugin.TREE:
        default = str(plugin is Plugin.BLOCK).lower()
        lines += [f"- topology: {BLOCKS}", f"  cluster_default: {default}", "  block:"]
        rows = blocks(fabric, nodes=nodes)
        lines += [f"    block_sizes: [{block_size(rows)}]", "    blocks:"]
        for name, members in rows:
            lines += [f"      - block: {_quoted(name)}", f"        nodes: {_quoted(members)}"]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Names and node lists hold neither quotes nor backslashes; unquoted, `[001-002]` would be a list."""
    return f'"{text}"'


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
    """The tree as Slurm sees it, from the top: a switch, `children` or `nodes`, and which, as a host list.

    Leaf groups of a pod named as the root hang on it, beside the other pods. Pods that no switch joins (`Fabric.isles`)
    have no root, so that Slurm never spreads a job over them.
    """
    attached = {pod: groups for pod, groups in fabric.pods.items() if pod != UNATTACHED}
    apart = {group.name: group.nodes for group in fabric.pods.get(UNATTACHED, ())}
    leaves = {group.name for group in fabric.leaf_groups}
    root = free_name(ROOT, leaves)
    joined = {root: attached[next(iter(attached))]} if len(attached) == 1 else attached
    rows: list[tuple[str, str, str]] = []
    if len(joined) > 1 and not fabric.isles:
        tops = [*(pod for pod in joined if pod != root), *(group.name for group in joined.get(root, ()))]
        rows.append((root, "children", fold_nodes(tops)))
        joined = {pod: groups for pod, groups in joined.items() if pod != root}
    rows += [(pod, "children", fold_nodes(group.name for group in groups)) for pod, groups in joined.items()]
    rows += [(group.name, "nodes", group.nodes) for groups in attached.values() for group in groups]
    if missing := set(nodes) - set(fabric.arrays.nodes):
        name = free_name(UNATTACHED, leaves - apart.keys())
        apart[name] = fold_nodes([*missing, *(expand_nodes(apart[name]) if name in apart else ())])
    return [*rows, *((name, "nodes", members) for name, members in apart.items())]


def _or_none(value: object) -> object:
    return value or None


def _none_for_empty(value: object) -> object:
    return None if value == {} else value


def _listed(value: object) -> object:
    """One stands for a list of one, as slurmctld takes it."""
    return (value,) if isinstance(value, dict | str) else value


def _word(value: object) -> object:
    """slurmctld takes any other word for yes."""
    return value.lower() not in _NO if isinstance(value, str) else value


def _number(value: object) -> object:
    """slurmctld reads 0x10 as C does; nobody writes it."""
    if isinstance(value, str) and not (value.isascii() and value.isdigit() and len(value) <= 9):
        raise InvalidInput(f"{value!r:.40} is no whole number above 0.", way_out="Write one.")
    return value


_NO: Final = frozenset({"", "n", "no", "f", "false", "off", "0", "null", "~"})
Text = Annotated[str | None, BeforeValidator(_or_none)]
"""slurmctld writes an empty value for nothing."""


class _Part(BaseModel):
    """What slurmctld does not know, and skips in silence, is kept in `model_extra`."""

    model_config = ConfigDict(frozen=True, extra="allow")


class SwitchRow(_Part):
    """A switch as the file describes it."""

    switch: str
    children: Text = None
    nodes: Text = None


class BlockRow(_Part):
    """A block as the file describes it."""

    block: str
    nodes: Text = None


class RingRow(_Part):
    """A ring as the file describes it."""

    ring: str
    nodes: Text = None


class Tree(_Part):
    """The switches of topology/tree."""

    switches: Annotated[tuple[SwitchRow, ...], BeforeValidator(_listed), Field(min_length=1)]


class Blocks(_Part):
    """The blocks of topology/block."""

    block_sizes: Annotated[tuple[Annotated[int, BeforeValidator(_number)], ...], BeforeValidator(_listed)] = ()
    blocks: Annotated[tuple[BlockRow, ...], BeforeValidator(_listed), Field(min_length=1)]


class Rings(_Part):
    """The rings of topology/ring (26.05 and later)."""

    rings: Annotated[tuple[RingRow, ...], BeforeValidator(_listed), Field(min_length=1)]


class _Cells(_Part):
    """Cells of a torus along its axes, or a place in it."""

    x: Annotated[int, BeforeValidator(_number), Field(ge=1)]
    y: Annotated[int, BeforeValidator(_number), Field(ge=1)]
    z: Annotated[int, BeforeValidator(_number), Field(ge=1)]


class _Region(_Part):
    anchor: object = None
    dims: object = None
    nodes: Text = None


class TorusRow(_Part):
    """A torus as the file describes it; anchors and placements are not looked into."""

    name: str
    dims: _Cells
    nodes: Text = None
    regions: Annotated[tuple[_Region, ...], BeforeValidator(_listed)] = ()
    placements: object = None

    @property
    def all_nodes(self) -> str | None:
        return self.nodes or ",".join(region.nodes for region in self.regions if region.nodes) or None


class Toruses(_Part):
    """The tori of topology/torus3d (26.05 and later)."""

    toruses: Annotated[tuple[TorusRow, ...], BeforeValidator(_listed), Field(min_length=1)]


class Row(NamedTuple):
    """A switch, a block, a ring or a torus; `children` and `nodes` as host lists."""

    name: str
    children: str | None
    nodes: str | None


class Topology(_Part):
    """One topology of the file, of one kind. For what it is not slurmctld writes `{}` (`scontrol show topoconf`), also
    for `flat`, with which it would not start."""

    topology: str = ""
    cluster_default: Annotated[bool, BeforeValidator(_word)] = False
    tree: Annotated[Tree | None, BeforeValidator(_none_for_empty)] = None
    block: Annotated[Blocks | None, BeforeValidator(_none_for_empty)] = None
    ring: Annotated[Rings | None, BeforeValidator(_none_for_empty)] = None
    torus3d: Annotated[Toruses | None, BeforeValidator(_none_for_empty)] = None
    flat: Annotated[bool | dict[str, object], BeforeValidator(_word)] = False

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> Topology:
        kinds = self._kinds
        if len(kinds) != 1:
            what = f"is of kind {' and '.join(kinds)}" if kinds else "has no kind"
            raise InvalidInput(f"Topology {self.topology:.80} {what}.", way_out=f"Give it one of {', '.join(KINDS)}.")
        return self

    @property
    def _kinds(self) -> list[str]:
        kinds = [kind for kind in KINDS if kind != "flat" and getattr(self, kind)]
        return [*kinds, "flat"] if self.flat is True or (self.flat is not False and not kinds) else kinds

    @property
    def kind(self) -> str:
        """One of `KINDS`."""
        return self._kinds[0]

    @property
    def rows(self) -> tuple[Row, ...]:
        """Its switches, blocks, rings or tori."""
        if self.tree:
            return tuple(Row(row.switch, row.children, row.nodes) for row in self.tree.switches)
        if self.block:
            return tuple(Row(row.block, None, row.nodes) for row in self.block.blocks)
        if self.ring:
            return tuple(Row(row.ring, None, row.nodes) for row in self.ring.rings)
        return tuple(Row(one.name, None, one.all_nodes) for one in self.torus3d.toruses) if self.torus3d else ()


KINDS: Final = ("tree", "block", "flat", "ring", "torus3d")
_FILE: Final[TypeAdapter[tuple[Topology, ...]]] = TypeAdapter(tuple[Topology, ...])


class _Loader(yaml.BaseLoader):
    """Every scalar is text, as slurmctld takes it: `001` is a name and `yes` too. Aliases, which let a short file grow
    without bound, are an error, to it as well."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.repeated: list[str] = []
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(problem=f"line {self.line + 1}: an alias is not read")
        self._depth += 1
        if self._depth > DEEPEST:
            raise yaml.composer.ComposerError(problem=f"line {self.line + 1}: more than {DEEPEST} levels")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        self.repeated += [key for key, number in keys.items() if number > 1]
        return super().construct_mapping(node, deep)


class File(NamedTuple):
    """What a topology.yaml says, and what slurmctld passes over in it: keys that stand twice in a mapping, of which the
    last one counts, and whether there is more behind its first document."""

    topologies: tuple[Topology, ...]
    repeated: Sequence[str]
    more: bool


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


def read(text: str, source: str) -> tuple[Topology, ...]:
    """Raises InvalidInput where it is no topology.yaml, or not clear."""
    file = load(text, source)
    if file.repeated:
        raise InvalidInput(f"{source}: key {file.repeated[0]!r:.40} stands twice.", way_out="Leave one of them.")
    if file.more:
        raise InvalidInput(f"{source} holds a second document.", way_out="Put all topologies into one list.")
    return file.topologies


def load(text: str, source: str) -> File:
    """Raises InvalidInput where slurmctld would not take it for a topology.yaml."""
    if len(text) > LONGEST_FILE:
        raise InvalidInput(f"{source} has {len(text)} characters.", way_out=f"At most {LONGEST_FILE} are read.")
    try:
        loader = _Loader(text)
        document = loader.get_data()
        more = loader.check_node()
    except yaml.YAMLError as error:
        raise InvalidInput(f"{source} is not YAML: {str(error)[:300]}", way_out="Correct it.") from None
    if not document or not isinstance(document, list):
        raise InvalidInput(
            f"{source} is not a topology.yaml: it is no list of topologies (`- topology: NAME`).",
            way_out="See Slurm's topology.yaml manual page for its form.",
        )
    try:
        return File(_FILE.validate_python(document), loader.repeated, more)
    except ValidationError as error:
        raise invalid(f"{source} is not a topology.yaml", error) from None


def _fabric_of_blocks(rows: Iterable[BlockRow], source: str) -> Fabric:
    rows = [row for row in rows if row.nodes]
    pod = free_name(BLOCKS, {row.block for row in rows})
    groups = [
        LeafGroup(
            name=row.block,
            pod=UNATTACHED if row.block == UNATTACHED else pod,
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
    # A pod is the switch next above the leaf; where that is the root (two levels), all are one pod named after it. One
    # leaf that is all there is needs none above it.
    alone = free_name(ROOT, nodes) if len(nodes.keys() - {UNATTACHED}) == 1 else UNATTACHED
    pods = {leaf: path[0] if path else UNATTACHED if leaf == UNATTACHED else alone for leaf, path in paths.items()}
    groups = [LeafGroup(name=leaf, pod=pods[leaf], nodes=nodes[leaf], switches=(leaf,)) for leaf in nodes]
    order = {pod: number for number, pod in reversed(list(enumerate(group.pod for group in groups)))}
    return Fabric(
        source=source,
        leaf_groups=tuple(sorted(groups, key=lambda group: order[group.pod])),
        spines=tuple(
            Switch(id=name, name=name, level=level)
            for name, level in sorted(_levels(paths.values()).items(), key=lambda item: (item[1], natural(item[0])))
        ),
        findings=tuple(_left_out(paths)),
    )


def _left_out(paths: Mapping[str, tuple[str, ...]]) -> Iterator[Finding]:
    """What of the tree the fabric has no place for."""
    roots = sorted({path[-1] if path else leaf for leaf, path in paths.items() if leaf != UNATTACHED}, key=natural)
    if len(roots) > 1:
        says = f"{len(roots)} switches have none above them: {', '.join(roots)[:500]}. No job may span them."
        yield Finding(fault=Fault.ISLES, says=says)
        if max(map(len, paths.values())) > 1:
            yield Finding(fault=Fault.LEFT_OUT, says="Some of them have two levels below: all get one root.")
    if between := sorted({name for path in paths.values() for name in path[1:-1]}, key=natural):
        says = f"{len(between)} switches between pods and root are left out: {', '.join(between)[:500]}."
        yield Finding(fault=Fault.LEFT_OUT, says=says)


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
