"""Judges a topology.yaml or topology.conf before slurmctld does, also where slurmctld says nothing. Pure.

What slurmctld 26.05 does with each fault was tried (tests/slurm/test_validation.py): it ends, it starts with a warning
in its log, or it starts in silence and plans with a fabric that nobody meant. After a reconfigure that ends it, a
controller in the foreground is dead while `scontrol` returns 0.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import yaml

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.policy import expand_nodes, fold_nodes
from slurm_gpuaas.topology import slurm_conf

LONGEST_NAME: Final = 64
MOST_BLOCK_LEVELS: Final = 16


class Slurmctld(StrEnum):
    """What slurmctld makes of a fault."""

    ENDS = "slurmctld ends"
    WARNS = "slurmctld warns"
    SILENT = "slurmctld says nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A fault in the file, and what slurmctld makes of it."""

    slurmctld: Slurmctld
    says: str


@dataclass(frozen=True, slots=True)
class _Unit:
    """A switch or a block."""

    name: str
    children: str | None = None
    nodes: str | None = None


@dataclass(slots=True)
class _Topology:
    name: str = ""
    default: bool = False
    switches: list[_Unit] | None = None
    blocks: list[_Unit] | None = None
    block_sizes: list[int] | None = None
    unknown: list[str] = field(default_factory=list)


def validate_yaml(text: str, *, nodes: Collection[NodeName] = ()) -> list[Problem]:
    """Problems of a topology.yaml, the worst first; none: slurmctld starts with it, and plans with what it says.

    Args:
        nodes: all nodes of slurm.conf; without them nothing is said about nodes that are missing or unknown.
    """
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        return [_ends(f"It is not YAML: {str(error)[:200]}")]
    if document is None:
        return [_ends("It is empty.")]
    if not isinstance(document, list) or not all(isinstance(one, dict) for one in document):
        return [_ends("It is no list of topologies (`- topology: NAME`).")]
    return _sorted(_problems([_topology(one) for one in document], nodes, in_conf=False))


def validate_conf(text: str, *, nodes: Collection[NodeName] = ()) -> list[Problem]:
    """The same of a topology.conf, whose one topology is the default."""
    one = _Topology(default=True)
    found: list[Problem] = []
    for line in slurm_conf.lines(text):
        known = line.words
        if known is None:
            found.append(_ends(f"Line {line.number} is not understood: {line.text[:80]!r}."))
        elif "switchname" in known:
            one.switches = one.switches or []
            one.switches.append(_Unit(known["switchname"], known.get("switches"), known.get("nodes")))
        elif "blockname" in known:
            one.blocks = one.blocks or []
            one.blocks.append(_Unit(known["blockname"], None, known.get("nodes")))
        elif "blocksizes" in known:
            sizes = known["blocksizes"].split(",")
            one.block_sizes = [int(size) if size.isdecimal() else 0 for size in sizes]
    if not found and one.switches is None and one.blocks is None:
        return [_ends("It is empty.")]
    return _sorted([*found, *_problems([one], nodes, in_conf=True)])


def _topology(document: Mapping[object, object]) -> _Topology:
    one = _Topology(name=str(document.get("topology", "")), default=document.get("cluster_default") is True)
    one.unknown = [str(key) for key in document.keys() - {"topology", "cluster_default", "tree", "block", "flat"}]
    tree, block = document.get("tree"), document.get("block")
    if isinstance(tree, dict):
        one.switches = _units(one, tree, "switches", "switch")
    if isinstance(block, dict):
        one.blocks = _units(one, block, "blocks", "block")
        sizes = block.get("block_sizes")
        if isinstance(sizes, list):
            one.block_sizes = [size if isinstance(size, int) else 0 for size in sizes]
    return one


def _units(one: _Topology, document: Mapping[object, object], many: str, single: str) -> list[_Unit]:
    one.unknown += [str(key) for key in document.keys() - {many, "block_sizes"}]
    rows = document.get(many)
    units = []
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, dict):
            one.unknown += [str(key) for key in row.keys() - {single, "children", "nodes"}]
            words = {key: str(row[key]) for key in (single, "children", "nodes") if row.get(key) is not None}
            units.append(_Unit(words.get(single, ""), words.get("children"), words.get("nodes")))
    return units


# -- What is wrong -----------------------------------------------------------------------------------------------------


def _problems(topologies: Sequence[_Topology], nodes: Collection[NodeName], *, in_conf: bool) -> Iterator[Problem]:
    """`in_conf`: slurmctld is stricter with topology.conf."""
    for one in topologies:
        for key in one.unknown:
            yield _silent(f"Key {key!r:.40} of topology {one.name} is unknown, so what it says is not done.")
        try:
            if one.switches is not None:
                yield from _names("switch", one.switches, in_conf=in_conf)
                yield from _of_tree(one.switches, nodes, in_conf=in_conf)
            if one.blocks is not None:
                yield from _names("block", one.blocks, in_conf=in_conf)
                yield from _of_blocks(one.blocks, one.block_sizes, nodes)
        except InvalidInput as error:
            yield _ends(error.message)
    for name, number in Counter(one.name for one in topologies).items():
        if number > 1:
            yield _silent(f"{number} topologies are named {name}: only one of them can be meant.")
    defaults = [one.name for one in topologies if one.default]
    if len(defaults) > 1:
        yield _silent(f"Topologies {', '.join(defaults)} are all the cluster's default.")
    if not defaults and len(topologies) > 1:
        yield _silent("No topology is the cluster's default (`cluster_default: true`): Slurm takes the first.")


def _of_tree(switches: Sequence[_Unit], nodes: Collection[NodeName], *, in_conf: bool) -> Iterator[Problem]:
    known = {switch.name for switch in switches}
    parents: dict[str, list[str]] = defaultdict(list)
    for switch in switches:
        if switch.children is not None and switch.nodes is not None:
            says = f"Switch {switch.name} has nodes and switches: it must have one of them."
            yield _ends(says) if in_conf else _warns(says)
        if switch.children is None and not switch.nodes:
            yield _silent(f"Switch {switch.name} has neither nodes nor switches.")
        for child in expand_nodes(switch.children) if switch.children else ():
            parents[child].append(switch.name)
    for name, above in parents.items():
        if name not in known:
            yield _ends(f"Switch {above[0]} names switch {name}, which is not described.")
        elif name in above:
            yield _ends(f"Switch {name} is its own parent.")
        elif len(above) > 1:
            yield _silent(f"Switch {name} has {len(above)} parents, {' and '.join(above)}: only one of them counts.")
    for cycle in _cycles(parents):
        yield _ends(f"Switches {', '.join(cycle)} are above each other.")
    roots = [switch.name for switch in switches if switch.name not in parents]
    if len(roots) > 1:
        yield _warns(f"{len(roots)} switches have none above them ({', '.join(roots[:5])}): no job may span them.")
    yield from _places("leaf", [(one.name, one.nodes) for one in switches if one.nodes], nodes, twice=Slurmctld.WARNS)


def _of_blocks(blocks: Sequence[_Unit], sizes: Sequence[int] | None, nodes: Collection[NodeName]) -> Iterator[Problem]:
    yield from _places("block", [(one.name, one.nodes) for one in blocks if one.nodes], nodes, twice=Slurmctld.SILENT)
    numbers = [len(expand_nodes(one.nodes)) for one in blocks if one.nodes]
    if not sizes:
        yield _silent("There are no block sizes: Slurm takes the smallest block for all.")
        return
    base = sizes[0]
    if min(sizes) < 1:
        yield _ends(f"Block sizes {', '.join(map(str, sizes))} are not all whole numbers above 0.")
    elif any(size != base * 2**power for power, size in zip(_powers(base, sizes), sizes, strict=True)):
        yield _ends(f"Block sizes {', '.join(map(str, sizes))} are not {base} times growing powers of two.")
    elif len(sizes) > MOST_BLOCK_LEVELS:
        yield _ends(f"{len(sizes)} block sizes are more than {MOST_BLOCK_LEVELS}.")
    elif numbers and base > max(numbers):
        yield _silent(f"The base block has {base} nodes, and no block has more than {max(numbers)}.")
    elif numbers and base < min(numbers):
        yield _silent(f"The base block has {base} nodes, and every block has at least {min(numbers)}.")


def _powers(base: int, sizes: Sequence[int]) -> Iterator[int]:
    """The power of two of each size, growing; one that it is not where there is none."""
    last = -1
    for size in sizes:
        power = max((size // base).bit_length() - 1, 0) if base > 0 else 0
        yield power if power > last else last + 1
        last = power


def _names(what: str, units: Sequence[_Unit], *, in_conf: bool) -> Iterator[Problem]:
    for name, number in Counter(unit.name for unit in units).items():
        if number > 1:
            yield _ends(f"The name {name} stands for {number} of kind {what}.")
        if len(name) > LONGEST_NAME:
            says = f"{what.capitalize()} name {name[:20]}... has {len(name)} characters, {LONGEST_NAME} at most."
            yield _ends(says) if in_conf and what == "switch" else _silent(says)


def _places(
    what: str, places: Iterable[tuple[str, str | None]], nodes: Collection[NodeName], *, twice: Slurmctld
) -> Iterator[Problem]:
    where: dict[NodeName, list[str]] = defaultdict(list)
    for name, members in places:
        for node in expand_nodes(members) if members else ():
            where[node].append(name)
    for node, names in where.items():
        if len(names) > 1:
            yield Problem(slurmctld=twice, says=f"Node {node} is in {len(names)} places, {' and '.join(names)}.")
    if nodes:
        if missing := set(nodes) - where.keys():
            yield _warns(f"{len(missing)} nodes are in no {what}: {fold_nodes(sorted(missing))}. No job gets them.")
        if unknown := where.keys() - set(nodes):
            yield _warns(f"{len(unknown)} nodes are not in slurm.conf: {fold_nodes(sorted(unknown))}.")


def _cycles(parents: Mapping[str, Sequence[str]]) -> Iterator[list[str]]:
    """Of two switches or more; each once."""
    seen: set[str] = set()
    for start in parents:
        path: list[str] = []
        at: str | None = start
        while at is not None and at not in path and at not in seen:
            path.append(at)
            at = next(iter(parents.get(at, ())), None)
        if at is not None and at in path and len(path[path.index(at) :]) > 1:
            yield sorted(path[path.index(at) :])
        seen.update(path)


def _ends(says: str) -> Problem:
    return Problem(slurmctld=Slurmctld.ENDS, says=says)


def _warns(says: str) -> Problem:
    return Problem(slurmctld=Slurmctld.WARNS, says=says)


def _silent(says: str) -> Problem:
    return Problem(slurmctld=Slurmctld.SILENT, says=says)


def _sorted(problems: Iterable[Problem]) -> list[Problem]:
    order = list(Slurmctld)
    return sorted(problems, key=lambda problem: order.index(problem.slurmctld))
