"""From the topology that slurmctld plans with to the one that is wanted: what differs, and the mildest way there. Pure.

A node that moved between units that are there takes one dynamic update, which disturbs nobody. Any other change takes a
reconfigure, for which nodes refuse jobs for some seconds. An update that would name a unit that the node is in already
must never be made (`Topologies.move` says why), so a node that moves in one topology and stays in another takes a
reconfigure as well.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.policy import expand_nodes, fold_nodes
from slurm_gpuaas.slurm.records import TopologyUnit
from slurm_gpuaas.topology.fabric import UNATTACHED, Fabric, LeafGroup, NvlinkDomain, free_name, natural
from slurm_gpuaas.topology.slurm_yaml import BLOCKS, ROOT, parse, read

_TELLABLE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""Names that `scontrol update Topology=` cannot take for something else."""

SLURM: Final = "slurmctld's topology"

Units = tuple[TopologyUnit, ...]
"""Where a node is, sorted: usually one unit of each topology."""


@dataclass(frozen=True, slots=True)
class _Unit:
    name: str
    children: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outline:
    """A topology without its nodes. The order of its units is that of ranks."""

    name: str
    default: bool
    kind: str
    block_sizes: tuple[int, ...]
    units: tuple[_Unit, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """What a topology.yaml says, however it is written."""

    outlines: tuple[_Outline, ...]
    units_of: Mapping[NodeName, Units]

    @classmethod
    def of(cls, text: str, *, source: str = "topology.yaml") -> Layout:
        """
        Raises:
            InvalidInput: it is no topology.yaml.
        """
        outlines: list[_Outline] = []
        units_of: dict[NodeName, set[TopologyUnit]] = defaultdict(set)
        topologies = read(text, source)
        any_default = any(topology.cluster_default for topology in topologies)
        for number, topology in enumerate(topologies):
            if topology.torus3d:
                raise InvalidInput(
                    f"{source}: topology {topology.topology} is a torus3d, which is not compared.",
                    way_out="Bring it to Slurm with `scontrol reconfigure`.",
                )
            rows = list(topology.rows)
            for unit, _, nodes in rows:
                for node in expand_nodes(nodes) if nodes else ():
                    units_of[node].add(TopologyUnit(topology.topology, unit))
            outlines.append(
                _Outline(
                    name=topology.topology,
                    default=topology.cluster_default or (not any_default and number == 0),
                    kind=topology.kind,
                    block_sizes=topology.block.block_sizes if topology.block else (),
                    units=tuple(
                        _Unit(unit, frozenset(expand_nodes(children) if children else ())) for unit, children, _ in rows
                    ),
                )
            )
        return cls(tuple(outlines), {node: tuple(sorted(units)) for node, units in units_of.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """Nodes that go from the same units to the same others; either may be none."""

    nodes: tuple[NodeName, ...]
    before: Units
    after: Units

    @property
    def tellable(self) -> bool:
        """One update may do it: no topology is left out, none keeps the node where it is, and no name misleads."""
        names = [unit.topology for unit in self.after]
        return (
            bool(names)
            and len(set(names)) == len(names)
            and {unit.topology for unit in self.before} <= set(names)
            and not set(self.before) & set(self.after)
            and all(_TELLABLE.fullmatch(unit.topology) and _TELLABLE.fullmatch(unit.unit) for unit in self.after)
        )

    def __str__(self) -> str:
        return f"{fold_nodes(self.nodes)}: from {named(self.before)} to {named(self.after)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is done to get there. `write`: the file says something else. `edited`: nor does it say what slurmctld plans
    with, so somebody changed one of them by hand. `moves`: the nodes that change their place. `reconfigure`: slurmctld
    reads the file for it; `changes` says what there is beside moves.
    """

    write: bool
    edited: bool = False
    moves: tuple[Move, ...] = ()
    reconfigure: bool = False
    changes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Something has to be done."""
        return self.write or bool(self.moves) or self.reconfigure

    @property
    def moved(self) -> frozenset[NodeName]:
        return frozenset(node for move in self.moves for node in move.nodes)

    def lines(self) -> Iterator[str]:
        """For people."""
        yield from self.changes
        yield from (f"~ {move}" for move in self.moves)


def plan(wanted: Layout, *, file: Layout | None, slurm: Layout) -> Plan:
    """From what slurmctld has to what is wanted. Linear in nodes and units.

    Args:
        file: what the file says now; None: it says nothing that can be read.
    """
    groups: dict[tuple[Units, Units], list[NodeName]] = defaultdict(list)
    both = {one.name for one in wanted.outlines} & {one.name for one in slurm.outlines}
    for node in wanted.units_of.keys() | slurm.units_of.keys():
        before, after = (
            tuple(unit for unit in layout.units_of.get(node, ()) if unit.topology in both) for layout in (slurm, wanted)
        )
        if before != after:
            groups[before, after].append(node)
    moves = tuple(
        Move(nodes=tuple(sorted(nodes, key=natural)), before=before, after=after)
        for (before, after), nodes in sorted(groups.items())
    )
    return Plan(
        write=file != wanted,
        edited=file not in (wanted, slurm),
        moves=moves,
        reconfigure=wanted.outlines != slurm.outlines or not all(move.tellable for move in moves),
        changes=tuple(_changes(slurm.outlines, wanted.outlines)),
    )


def _changes(before: Sequence[_Outline], after: Sequence[_Outline]) -> Iterator[str]:
    old, new = {one.name: one for one in before}, {one.name: one for one in after}
    yield from (f"- topology {name}" for name in old if name not in new)
    yield from (f"+ topology {name}, a {one.kind}" for name, one in new.items() if name not in old)
    for name, was in old.items():
        if (now := new.get(name)) is None or was == now:
            continue
        gone = [unit.name for unit in was.units if unit.name not in {one.name for one in now.units}]
        come = [unit.name for unit in now.units if unit.name not in {one.name for one in was.units}]
        if gone:
            yield f"- {', '.join(gone)} of topology {name}"
        if come:
            yield f"+ {', '.join(come)} of topology {name}"
        if not gone and not come:
            yield f"~ topology {name}: its kind, order, levels, block sizes or default"


def named(units: Units) -> str:
    """One name where all topologies give the same."""
    names = {unit.unit for unit in units}
    return names.pop() if len(names) == 1 else ", ".join(map(str, units)) or "nowhere"


# -- The names that Slurm knows ----------------------------------------------------------------------------------------


def of_slurm(fabric: Fabric, nodes: Collection[NodeName]) -> Fabric:
    """Without hosts that are no nodes of Slurm (storage, login), and without leaf groups and NVLink domains that have
    no other.

    Raises:
        InvalidInput: there is nothing else in it.
    """
    kept = [
        LeafGroup(name=group.name, pod=group.pod, nodes=fold_nodes(members), switches=group.switches)
        for group in fabric.leaf_groups
        if (members := [node for node in group.node_names if node in nodes])
    ]
    if not kept:
        raise InvalidInput(
            f"None of the fabric's hosts is one of Slurm's {len(nodes)} nodes.",
            way_out="Compare the names in fabric.json with those of `sinfo`.",
        )
    domains = [
        NvlinkDomain(name=domain.name, nodes=fold_nodes(members))
        for domain in fabric.nvlink_domains
        if (members := [node for node in domain.node_names if node in nodes])
    ]
    return _with(fabric, kept, domains)


def known_of(text: str) -> Fabric:
    """The fabric that slurmctld plans with; blocks beside a tree that are none of its leaves are NVLink domains.

    Args:
        text: what `scontrol show topoconf` says.
    """
    fabric = parse(text, source=SLURM)
    leaves = {group.name for group in fabric.leaf_groups}
    blocks = next((one.block.blocks for one in read(text, SLURM) if one.block), ())
    domains = [NvlinkDomain(name=row.block, nodes=row.nodes) for row in blocks if row.nodes and row.block not in leaves]
    return _with(fabric, fabric.leaf_groups, domains)


def as_known(fabric: Fabric, known: Fabric, *, nodes: Collection[NodeName]) -> Fabric:
    """The fabric in the names and in the order that Slurm knows, so that one cable moved is one node moved.

    Names in a fresh reading follow its lowest node, so that they all change when that one moves. A leaf group keeps the
    name under which Slurm knows most of its nodes, and a pod likewise. Nodes of Slurm that the fabric does not show
    (switched off, away for repair) stay where they were, a whole leaf group and an NVLink domain too.

    Args:
        nodes: all nodes of Slurm.
    """
    new = [group for group in fabric.leaf_groups if group.pod != UNATTACHED]
    lost = set(nodes) - {node for group in new for node in group.node_names}
    domains, blocks = _domains(fabric, known, lost)
    old = [group for group in known.leaf_groups if group.pod != UNATTACHED and group.name not in blocks]
    known_pods = _pods(old)
    old_pods = {pod: nodes for pod, nodes in known_pods.items() if len(known_pods) > 1 or pod not in (ROOT, BLOCKS)}
    old_groups = {group.name: group.node_names for group in old}
    names = _names({group.name: group.node_names for group in new}, old_groups, taken={*blocks, *old_pods})
    pods = _names(_pods(new), old_pods, taken={*names.values(), *old_groups})
    stay = {group.name: [node for node in group.node_names if node in lost] for group in old}
    order = {name: number for number, name in enumerate([*old_pods, *(group.name for group in old)])}
    last = len(order)
    renamed = [
        LeafGroup(
            name=names[group.name],
            pod=pods[group.pod],
            nodes=fold_nodes([*group.node_names, *stay.pop(names[group.name], ())]),
            switches=group.switches,
        )
        for group in new
    ]
    # A tree of one level and blocks have no pods: what is lost there stays beside the rest.
    beside = [BLOCKS, *pods.values()][-1]
    renamed += (
        LeafGroup(
            name=group.name, pod=group.pod if group.pod in old_pods else beside, nodes=fold_nodes(stay[group.name])
        )
        for group in old
        if stay.get(group.name)
    )
    renamed.sort(key=lambda group: (order.get(group.pod, last), group.pod, order.get(group.name, last)))
    placed = {node for group in renamed for node in group.node_names}
    loose = [node for group in fabric.leaf_groups for node in group.node_names if node not in placed]
    if loose:
        renamed.append(LeafGroup(name=UNATTACHED, pod=UNATTACHED, nodes=fold_nodes(loose)))
    return _with(fabric, renamed, domains)


def _domains(
    fabric: Fabric, known: Fabric, lost: Collection[NodeName]
) -> tuple[Sequence[NvlinkDomain], Collection[str]]:
    """The fabric's NVLink domains with the nodes that are lost, and the names of all domains."""
    fresh = {domain.name: domain.node_names for domain in fabric.nvlink_domains}
    old = {group.name: group.node_names for group in known.leaf_groups if group.name in fresh}
    old |= {domain.name: domain.node_names for domain in known.nvlink_domains}
    inside = {node for members in fresh.values() for node in members}
    members = {
        name: [*fresh.get(name, ()), *(node for node in old.get(name, ()) if node in lost and node not in inside)]
        for name in [*fresh, *(name for name in old if name not in fresh)]
    }
    found = [NvlinkDomain(name=name, nodes=fold_nodes(nodes)) for name, nodes in members.items() if nodes]
    return found, members.keys()


def _with(fabric: Fabric, groups: Sequence[LeafGroup], domains: Sequence[NvlinkDomain]) -> Fabric:
    return Fabric(
        source=fabric.source,
        leaf_groups=tuple(groups),
        spines=fabric.spines,
        findings=fabric.findings,
        nvlink_domains=tuple(domains),
    )


def _pods(groups: Sequence[LeafGroup]) -> dict[str, tuple[NodeName, ...]]:
    nodes: dict[str, tuple[NodeName, ...]] = {}
    for group in groups:
        nodes[group.pod] = (*nodes.get(group.pod, ()), *group.node_names)
    return nodes


def _names(
    new: Mapping[str, Collection[NodeName]], old: Mapping[str, Collection[NodeName]], *, taken: Collection[str]
) -> Mapping[str, str]:
    """A name for each of `new`: that of the old one with which it shares the most nodes, each given once; without
    one its own, or the first that is free. `taken` are names of others."""
    where = {node: name for name, nodes in old.items() for node in nodes}
    shared = Counter((name, where[node]) for name, nodes in new.items() for node in nodes if node in where)
    given: dict[str, str] = {}
    used: set[str] = set()
    for (name, before), _ in sorted(shared.items(), key=lambda item: (-item[1], item[0])):
        if name not in given and before not in used:
            given[name] = before
            used.add(before)
    reserved = {*taken, *old, ROOT, BLOCKS, UNATTACHED}
    for name in new:
        if name not in given:
            given[name] = free_name(name, reserved)
            reserved.add(given[name])
    return given
