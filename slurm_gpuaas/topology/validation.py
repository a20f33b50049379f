"""Judges a topology.yaml or topology.conf before slurmctld does, also where slurmctld says nothing. Pure.

What slurmctld 26.05 does with each fault was tried (tests/slurm/test_validation.py): it ends, it starts with a warning
in its log, or it starts in silence and plans with a fabric that nobody meant. After a reconfigure that ends it, a
controller in the foreground is dead while `scontrol` returns 0.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pydantic import BaseModel

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.policy import expand_nodes, fold_nodes
from slurm_gpuaas.topology import slurm_conf, slurm_yaml
from slurm_gpuaas.topology.slurm_yaml import Blocks, Row, SwitchRow, Topology

LONGEST_NAME: Final = 64
MOST_BLOCK_LEVELS: Final = 16
_OPERATORS: Final = frozenset("!&^")
"""Of node lists, in tools other than Slurm."""


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


def validate_yaml(text: str, *, nodes: Collection[NodeName] = ()) -> list[Problem]:
    """Problems of a topology.yaml, the worst first; none: slurmctld starts with it, and plans with what it says.

    Args:
        nodes: all nodes of slurm.conf; without them nothing is said about nodes that are missing or unknown.
    """
    try:
        file = slurm_yaml.load(text, "The file")
    except InvalidInput as error:
        return [_ends(error.message)]
    return _sorted([*_of_file(file), *_problems(file.topologies, nodes, in_conf=False)])


def validate_conf(text: str, *, nodes: Collection[NodeName] = ()) -> list[Problem]:
    """The same of a topology.conf, whose one topology is the default."""
    try:
        topology, twice = slurm_conf.read(text, "The file")
    except InvalidInput as error:
        return [_ends(error.message)]
    repeated = [_warns(f"Key {key} stands twice on a line: the last one counts.") for key in twice]
    return _sorted([*repeated, *_problems([topology], nodes, in_conf=True)])


# -- What is wrong -----------------------------------------------------------------------------------------------------


def _of_file(file: slurm_yaml.File) -> Iterator[Problem]:
    """What slurmctld skips, or takes for something else."""
    for key in dict.fromkeys(file.repeated):
        yield _silent(f"Key {key!r:.40} stands twice in a mapping: the last one counts.")
    if file.more:
        yield _silent("There is a second document in the file, which is not read.")
    for one in file.topologies:
        if one.kind != "flat" and one.flat is not False:
            yield _ends(f"Topology {one.topology:.80} is {one.kind} and `flat: {{}}`: leave flat out.")
        for key in _unknown(one):
            yield _silent(f"Key {key!r:.40} of topology {one.topology:.80} is unknown, so what it says is not done.")
        if not one.topology:
            yield _silent("A topology has no name: no partition can choose it.")
    for name, number in Counter(one.topology for one in file.topologies).items():
        if number > 1:
            yield _silent(f"{number} topologies are named {name:.80}: only one of them can be meant.")
    defaults = [one.topology for one in file.topologies if one.cluster_default]
    if len(defaults) > 1:
        yield _silent(f"Topologies {', '.join(defaults[:5])} are all the cluster's default.")
    if not defaults and len(file.topologies) > 1:
        yield _silent("No topology is the cluster's default (`cluster_default: true`): Slurm takes the first.")


def _unknown(part: BaseModel) -> Iterator[str]:
    """Keys that slurmctld does not know, at any depth."""
    yield from part.model_extra or ()
    for _, value in part:
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, BaseModel):
                yield from _unknown(one)


def _problems(topologies: Sequence[Topology], nodes: Collection[NodeName], *, in_conf: bool) -> Iterator[Problem]:
    """`in_conf`: slurmctld is stricter with topology.conf."""
    for one in topologies:
        try:
            yield from _names(_UNIT[one.kind], one.rows, in_conf=in_conf)
            if one.tree:
                yield from _of_tree(one.tree.switches, nodes, in_conf=in_conf)
            elif one.block:
                yield from _of_blocks(one.block, nodes)
            elif one.ring or one.torus3d:
                yield from _places(_UNIT[one.kind], one.rows, nodes, twice=Slurmctld.SILENT)
        except InvalidInput as error:
            yield _ends(error.message)


_UNIT: Final = {"tree": "switch", "block": "block", "ring": "ring", "torus3d": "torus", "flat": ""}


def _of_tree(switches: Sequence[SwitchRow], nodes: Collection[NodeName], *, in_conf: bool) -> Iterator[Problem]:
    known = {switch.switch for switch in switches}
    parents: dict[str, list[str]] = defaultdict(list)
    for switch in switches:
        name = switch.switch
        if switch.model_fields_set >= {"children", "nodes"}:  # also where one of them is empty
            says = f"Switch {name} has nodes and switches: it must have one of them, and no empty key for the other."
            yield _ends(says) if in_conf else _warns(says)
        elif "children" in switch.model_fields_set and not switch.children:
            yield _ends(f"Switch {name} has an empty list of switches.")
        elif switch.children is None and not switch.nodes:
            yield _silent(f"Switch {name} has neither nodes nor switches.")
        for child in expand_nodes(switch.children) if switch.children else ():
            parents[child].append(name)
    for name, above in parents.items():
        if name not in known:
            yield _ends(f"Switch {above[0]} names switch {name}, which is not described.")
        elif name in above:
            yield _ends(f"Switch {name} is its own parent.")
        elif len(above) > 1:
            yield _silent(f"Switch {name} has {len(above)} parents, {' and '.join(above)}: only one of them counts.")
    for cycle in _cycles(parents):
        yield _ends(f"Switches {', '.join(cycle[:20])} are above each other.")
    roots = [switch.switch for switch in switches if switch.switch not in parents]
    if len(roots) > 1:
        yield _warns(f"{len(roots)} switches have none above them ({', '.join(roots[:5])}): no job may span them.")
    leaves = [Row(one.switch, None, one.nodes) for one in switches]
    yield from _places("leaf", leaves, nodes, twice=Slurmctld.WARNS)


def _of_blocks(block: Blocks, nodes: Collection[NodeName]) -> Iterator[Problem]:
    rows = [Row(one.block, None, one.nodes) for one in block.blocks]
    yield from _places("block", rows, nodes, twice=Slurmctld.SILENT)
    numbers = [len(expand_nodes(one.nodes)) for one in rows if one.nodes]
    sizes = block.block_sizes
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


def _names(what: str, units: Sequence[Row], *, in_conf: bool) -> Iterator[Problem]:
    for name, number in Counter(unit.name for unit in units).items():
        if number > 1:
            yield _ends(f"The name {name:.80} stands for {number} of kind {what}.")
        if not name:
            yield _silent(f"A {what} has no name.")
        if len(name) > LONGEST_NAME:
            says = f"{what.capitalize()} name {name[:20]}... has {len(name)} characters, {LONGEST_NAME} at most."
            yield _ends(says) if in_conf and what == "switch" else _silent(says)


def _places(what: str, places: Iterable[Row], nodes: Collection[NodeName], *, twice: Slurmctld) -> Iterator[Problem]:
    where: dict[NodeName, list[str]] = defaultdict(list)
    for name, _, members in places:
        if members and (operators := _OPERATORS & set(members)):
            yield _warns(
                f"{what.capitalize()} {name:.80} has {min(operators)} in its nodes, which Slurm does not know."
            )
        for node in expand_nodes(members) if members else ():
            where[node].append(name)
    for node, names in where.items():
        if len(names) > 1:
            yield Problem(slurmctld=twice, says=f"Node {node} is in {len(names)} places, {' and '.join(names[:5])}.")
    if nodes:
        if missing := set(nodes) - where.keys():
            yield _warns(f"{len(missing)} nodes are in no {what}: {fold_nodes(sorted(missing))}. No job gets them.")
        if unknown := where.keys() - set(nodes):
            yield _warns(f"{len(unknown)} nodes are not in slurm.conf: {fold_nodes(sorted(unknown))}.")


def _cycles(parents: Mapping[str, Sequence[str]]) -> Iterator[list[str]]:
    """Of two switches or more; each once."""
    seen: set[str] = set()
    for start in parents:
        path: dict[str, int] = {}
        at: str | None = start
        while at is not None and at not in path and at not in seen:
            path[at] = len(path)
            at = next(iter(parents.get(at, ())), None)
        if at is not None and len(path) - path.get(at, len(path)) > 1:
            yield sorted(list(path)[path[at] :])
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
