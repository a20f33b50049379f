"""What changed between two readings of a fabric. Pure.

Leaf groups and pods are told apart by their leaf switches, and by their name where they share none: a group is the same
while most of its switches are, whatever it is called.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.policy import fold_nodes
from slurm_gpuaas.topology.fabric import UNATTACHED, Fabric, Finding, Switch, joined, natural

NO_DOMAIN = "no NVLink domain"


class Move(BaseModel):
    """Nodes that stand in another leaf group, pod or NVLink domain now."""

    model_config = ConfigDict(frozen=True)

    nodes: str
    before: str
    after: str


class Regrouping(BaseModel):
    """Leaf groups or pods that became others: two that are one now, one that is two, one with another name, one that
    came (nothing before) or went (nothing after)."""

    model_config = ConfigDict(frozen=True)

    level: Literal["leaf group", "pod"]
    before: tuple[str, ...]
    after: tuple[str, ...]

    def __str__(self) -> str:
        before, after = (" and ".join(names) for names in (self.before, self.after))
        if not self.before:
            return f"+ {self.level} {after}"
        if not self.after:
            return f"- {self.level} {before}"
        if len(self.before) > 1 and len(self.after) > 1:
            return f"~ {self.level}s {before} are others: {after}"
        if len(self.after) > 1:
            return f"~ {self.level} {before} is split: {after}"
        if len(self.before) > 1:
            return f"~ {self.level}s {before} are one: {after}"
        return f"~ {self.level} {before} is called {after}"


class Difference(BaseModel):
    """Node lists of what came and went, moves, groups and switches, and findings. False where nothing changed."""

    model_config = ConfigDict(frozen=True)

    came: str = ""
    went: str = ""
    moved: tuple[Move, ...] = ()
    regrouped: tuple[Regrouping, ...] = ()
    leaves_came: tuple[str, ...] = ()
    leaves_went: tuple[str, ...] = ()
    spines_came: tuple[Switch, ...] = ()
    spines_went: tuple[Switch, ...] = ()
    appeared: tuple[Finding, ...] = ()
    mended: tuple[Finding, ...] = ()

    def __bool__(self) -> bool:
        return self != Difference()

    def lines(self) -> Iterator[str]:
        """For people."""
        if self.came:
            yield f"+ {self.came}"
        if self.went:
            yield f"- {self.went}"
        yield from (f"~ {move.nodes}: from {move.before} to {move.after}" for move in self.moved)
        yield from map(str, self.regrouped)
        for sign, leaves, spines in (
            ("+", self.leaves_came, self.spines_came),
            ("-", self.leaves_went, self.spines_went),
        ):
            yield from (f"{sign} leaf switch {leaf}" for leaf in leaves)
            yield from (f"{sign} spine {spine.name} (level {spine.level})" for spine in spines)
        yield from (f"! {finding.says}" for finding in self.appeared)
        yield from (f"mended: {finding.says}" for finding in self.mended)


_Members = Mapping[str, Collection[str]]
"""Leaf switches by the name of a leaf group or pod."""


def compare(before: Fabric, after: Fabric) -> Difference:
    """Linear in nodes, switches and findings."""
    old, new = _places(before), _places(after)
    groups, pods = (_leaf_groups(before), _leaf_groups(after)), (_pods(before), _pods(after))
    moves: dict[tuple[str, str], list[NodeName]] = defaultdict(list)
    group_now, pod_now = _heirs(*groups), _heirs(*pods)
    for node in old.keys() & new.keys():
        (left, old_pod, old_domain), (entered, new_pod, new_domain) = old[node], new[node]
        if group_now.get(left, left) != entered:
            moves[left, entered].append(node)
        elif pod_now.get(old_pod, old_pod) != new_pod:
            moves[old_pod, new_pod].append(node)
        if old_domain != new_domain:
            moves[old_domain, new_domain].append(node)
    known, seen = set(before.findings), set(after.findings)
    old_leaves, new_leaves = map(_all, groups)
    old_spines, new_spines = set(before.spines), set(after.spines)
    return Difference(
        came=_folded(new.keys() - old.keys()),
        went=_folded(old.keys() - new.keys()),
        moved=tuple(
            Move(nodes=_folded(nodes), before=left, after=entered) for (left, entered), nodes in sorted(moves.items())
        ),
        regrouped=(*_regrouped("leaf group", *groups), *_regrouped("pod", *pods)),
        leaves_came=tuple(sorted(new_leaves - old_leaves)),
        leaves_went=tuple(sorted(old_leaves - new_leaves)),
        spines_came=tuple(spine for spine in after.spines if spine not in old_spines),
        spines_went=tuple(spine for spine in before.spines if spine not in new_spines),
        appeared=tuple(finding for finding in after.findings if finding not in known),
        mended=tuple(finding for finding in before.findings if finding not in seen),
    )


def _places(fabric: Fabric) -> Mapping[NodeName, tuple[str, str, str]]:
    """Leaf group, pod and NVLink domain of each node."""
    domain = {node: one.name for one in fabric.nvlink_domains for node in one.node_names}
    return {
        node: (group.name, group.pod, domain.get(node, NO_DOMAIN))
        for group in fabric.leaf_groups
        for node in group.node_names
    }


def _leaf_groups(fabric: Fabric) -> _Members:
    return {group.name: group.switches for group in fabric.leaf_groups if group.pod != UNATTACHED}


def _pods(fabric: Fabric) -> _Members:
    return {
        pod: [switch for group in groups for switch in group.switches]
        for pod, groups in fabric.pods.items()
        if pod != UNATTACHED
    }


def _all(members: _Members) -> set[str]:
    return {switch for switches in members.values() for switch in switches}


def _heirs(before: _Members, after: _Members) -> Mapping[str, str]:
    """Name before to name after, of groups that share most of their switches."""
    now = {switch: name for name, switches in after.items() for switch in switches}
    heirs = {}
    for name, switches in before.items():
        shared = Counter(now[switch] for switch in switches if switch in now)
        if shared:
            heirs[name] = max(sorted(shared), key=shared.__getitem__)
    return heirs


def _regrouped(level: Literal["leaf group", "pod"], before: _Members, after: _Members) -> Sequence[Regrouping]:
    """Groups that are not one before and one of that name after. Bound are a group and its heir, and a group and what
    it comes from if half of its switches do: a switch that is used elsewhere now makes no kinship.
    """
    heirs, origins = _heirs(before, after), _heirs(after, before)
    was = {switch: name for name, switches in before.items() for switch in switches}
    bonds = [{("before", name), ("after", heir)} for name, heir in heirs.items()]
    for name, origin in origins.items():
        if 2 * sum(was.get(switch) == origin for switch in after[name]) >= len(after[name]):
            bonds.append({("before", origin), ("after", name)})
    named = before.keys() & after.keys()
    bonds += [{("before", name), ("after", name)} for name in named if name not in heirs and name not in origins]
    items = [*(("before", name) for name in before), *(("after", name) for name in after)]
    found = []
    for kin in joined(items, bonds):
        old, new = (_names(kin, side) for side in ("before", "after"))
        if old != new or len(old) > 1:
            found.append(Regrouping(level=level, before=old, after=new))
    return sorted(found, key=lambda one: natural((one.before or one.after)[0]))


def _names(kin: Iterable[tuple[str, str]], side: str) -> tuple[str, ...]:
    return tuple(sorted((name for where, name in kin if where == side), key=natural))


def _folded(nodes: set[NodeName] | list[NodeName]) -> str:
    return fold_nodes(sorted(nodes, key=natural)) if nodes else ""
