"""What changed between two readings of a fabric. Pure.

Leaf groups are told apart by their switches, and by their name where they share none: a group is the same while most of
its switches are, whatever it is called.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from pydantic import BaseModel, ConfigDict

from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.policy import fold_nodes
from slurm_gpuaas.topology.fabric import Fabric, Finding, natural


class Move(BaseModel):
    """Nodes that stand in another leaf group now."""

    model_config = ConfigDict(frozen=True)

    nodes: str
    before: str
    after: str


class Difference(BaseModel):
    """Node lists of what came and went, moves, and findings. False where nothing changed."""

    model_config = ConfigDict(frozen=True)

    came: str = ""
    went: str = ""
    moved: tuple[Move, ...] = ()
    appeared: tuple[Finding, ...] = ()
    mended: tuple[Finding, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.came or self.went or self.moved or self.appeared or self.mended)

    def lines(self) -> Iterator[str]:
        """For people."""
        if self.came:
            yield f"+ {self.came}"
        if self.went:
            yield f"- {self.went}"
        yield from (f"~ {move.nodes}: from {move.before} to {move.after}" for move in self.moved)
        yield from (f"! {finding.says}" for finding in self.appeared)
        yield from (f"mended: {finding.says}" for finding in self.mended)


def compare(before: Fabric, after: Fabric) -> Difference:
    """Linear in nodes, switches and findings."""
    old, new = _places(before), _places(after)
    same = _same_groups(before, after)
    moves: dict[tuple[str, str], list[NodeName]] = defaultdict(list)
    for node in old.keys() & new.keys():
        if same.get(old[node], old[node]) != new[node]:
            moves[old[node], new[node]].append(node)
    known, seen = set(before.findings), set(after.findings)
    return Difference(
        came=_folded(new.keys() - old.keys()),
        went=_folded(old.keys() - new.keys()),
        moved=tuple(
            Move(nodes=_folded(nodes), before=left, after=entered) for (left, entered), nodes in sorted(moves.items())
        ),
        appeared=tuple(finding for finding in after.findings if finding not in known),
        mended=tuple(finding for finding in before.findings if finding not in seen),
    )


def _places(fabric: Fabric) -> Mapping[NodeName, str]:
    return {node: group.name for group in fabric.leaf_groups for node in group.node_names}


def _same_groups(before: Fabric, after: Fabric) -> Mapping[str, str]:
    """Name before to name after, of groups that share most of their switches."""
    now = {switch: group.name for group in after.leaf_groups for switch in group.switches}
    same = {}
    for group in before.leaf_groups:
        names = [now[switch] for switch in group.switches if switch in now]
        if names:
            same[group.name] = max(sorted(set(names)), key=names.count)
    return same


def _folded(nodes: set[NodeName] | list[NodeName]) -> str:
    return fold_nodes(sorted(nodes, key=natural)) if nodes else ""
