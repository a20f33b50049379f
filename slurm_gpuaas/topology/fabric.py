"""The fabric as it is: which nodes share a leaf group, and which leaf groups share spines.

A leaf group is what placement counts: the leaf switches that serve one scalable unit. On a rail-optimised fabric a
node has one link to each of (usually) eight leaves, one a rail, so leaves are grouped by what they share: two leaves
with a node in common are in one group. A node with a lost rail stays in its group through its other rails. Leaf groups
that reach each other through one level of spines are one pod; a fabric with a core above its spines has several.

This module knows no file format but fabric.json and never decides where a job goes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import count
from typing import Annotated, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.faults import faults_of
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.policy import expand_nodes, fold_nodes

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.intp]
FloatArray = NDArray[np.float64]


UNATTACHED = "unattached"
"""Leaf group and pod of nodes without any known link."""


NodeList = Annotated[
    str,
    AfterValidator(lambda nodes: fold_nodes(expand_nodes(nodes))),
    Field(description="Folded node list as Slurm writes it."),
]
"""Whatever way it was written: Slurm knows neither spaces nor `!`, and takes what we know as two nodes for one."""


class Switch(BaseModel):
    """A switch above the leaves. `level` 1 is next to the leaves, 2 is the core."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(max_length=64, description="GUID as 16 hex digits, or the name where no GUID is known.")
    name: str = Field(max_length=128)
    level: int = Field(ge=1, le=8)


class LeafGroup(BaseModel):
    """Nodes one hop apart on each rail, and the leaf switches that serve them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    pod: str = Field(max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    nodes: NodeList
    switches: tuple[str, ...] = Field(default=(), description="Leaf switches: GUIDs, or names where none is known.")
    rails: tuple[str, ...] = Field(
        default=(),
        description="The adapter of most nodes on each leaf switch, in their order; empty where none is known.",
    )

    @cached_property
    def node_names(self) -> tuple[NodeName, ...]:
        return expand_nodes(self.nodes)


class NvlinkDomain(BaseModel):
    """Nodes whose GPUs reach each other over NVLink: a rack, where NVLink leaves the node at all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(
        max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Cluster UUID, dot, clique id."
    )
    nodes: NodeList

    @cached_property
    def node_names(self) -> tuple[NodeName, ...]:
        return expand_nodes(self.nodes)


class Fault(StrEnum):
    """What is odd in the cabling or in the text it was read from."""

    NO_LINK = "no-link"
    LOST_RAIL = "lost-rail"
    LOST_LEAF = "lost-leaf"
    CROSSED_RAIL = "crossed-rail"
    SLOW_LINK = "slow-link"
    LOST_UPLINK = "lost-uplink"
    ISLES = "isles"
    LEFT_OUT = "left-out"
    JOINED_GROUPS = "joined-groups"
    NO_HOST = "no-host"
    NO_SWITCH = "no-switch"
    NO_REPORT = "no-report"
    TWO_HOSTS = "two-hosts"
    NVLINK_DOWN = "nvlink-down"
    TWO_KINDS = "two-kinds"
    CUT_TEXT = "cut-text"
    STRANGE_TEXT = "strange-text"


class Finding(BaseModel):
    """One fault: a sentence for people, the nodes that it touches as a node list, and where to look."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fault: Fault
    says: str = Field(max_length=1000)
    nodes: str = ""
    devices: tuple[str, ...] = Field(default=(), description="GUIDs, or names where none is known.")

    @field_validator("nodes")
    @classmethod
    def _are_nodes(cls, nodes: str) -> str:
        if nodes:
            expand_nodes(nodes)
        return nodes


class Fabric(BaseModel):
    """A compute fabric. Leaf groups are in fabric order (pod by pod), which is also rank order.

    Raises:
        InvalidInput: a node or a name stands twice (also one for a leaf group and a pod, which are switches of one
            tree), or a pod's leaf groups are apart.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    source: str = Field(default="", max_length=300, description="What it was read from.")
    leaf_groups: tuple[LeafGroup, ...] = Field(min_length=1)
    spines: tuple[Switch, ...] = ()
    findings: tuple[Finding, ...] = ()
    nvlink_domains: tuple[NvlinkDomain, ...] = ()

    @model_validator(mode="after")
    def _is_consistent(self) -> Fabric:
        seen: dict[NodeName, str] = {}
        names: set[str] = set()
        pods: set[str] = set()
        pod = ""
        for group in self.leaf_groups:
            if group.name in names:
                raise InvalidInput(f"Two leaf groups are named {group.name}.", way_out="Rename one.")
            names.add(group.name)
            for node in group.node_names:
                if node in seen:
                    raise InvalidInput(
                        f"Node {node} is in leaf groups {seen[node]} and {group.name}.",
                        way_out="A node belongs to one leaf group: take it out of one of them.",
                    )
                seen[node] = group.name
            if group.pod in pods and group.pod != pod:
                raise InvalidInput(
                    f"Leaf group {group.name} of pod {group.pod} stands apart from its pod.",
                    way_out="List leaf groups pod by pod.",
                )
            pods.add(pod := group.pod)
        if twice := sorted((names & pods) - {UNATTACHED}):
            raise InvalidInput(f"A leaf group and a pod are named {twice[0]}.", way_out="Rename one.")
        domains: dict[NodeName, str] = {}
        for domain in self.nvlink_domains:
            if domain.name in names:
                raise InvalidInput(f"Two leaf groups or NVLink domains are named {domain.name}.", way_out="Rename one.")
            names.add(domain.name)
            for node in domain.node_names:
                if domains.setdefault(node, domain.name) != domain.name:
                    raise InvalidInput(
                        f"Node {node} is in NVLink domains {domains[node]} and {domain.name}.",
                        way_out="Take it out of one of them.",
                    )
        return self

    @cached_property
    def pods(self) -> Mapping[str, tuple[LeafGroup, ...]]:
        pods: dict[str, list[LeafGroup]] = defaultdict(list)
        for group in self.leaf_groups:
            pods[group.pod].append(group)
        return {pod: tuple(groups) for pod, groups in pods.items()}

    @property
    def isles(self) -> bool:
        """No switch joins the pods, as far as switches are known."""
        return bool(self.spines) and all(spine.level == 1 for spine in self.spines)

    @cached_property
    def arrays(self) -> FabricArrays:
        return FabricArrays.of([(group.pod, group.name, group.node_names) for group in self.leaf_groups])


def parse_fabric(text: str, *, source: str) -> Fabric:
    """
    Raises:
        InvalidInput: not a fabric.json; says where.
    """
    try:
        return Fabric.model_validate_json(text)
    except ValidationError as error:
        raise invalid(source, error) from None


def invalid(source: str, error: ValidationError) -> InvalidInput:
    """The first fault of a document."""
    place, what = next(faults_of(error))
    where = ".".join(map(str, place)) or "the document"
    return InvalidInput(f"{source}: {where}: {what}.", way_out="Correct the file.")


@dataclass(frozen=True, eq=False)
class FabricArrays:
    """The fabric for arithmetic: node i stands in leaf group `group[i]`; arrays are in fabric order.

    Args:
        nodes: names, shape (nodes,).
        group: index of each node's leaf group, shape (nodes,), ascending.
        paths: (pod, leaf group) per leaf group.
    """

    nodes: tuple[NodeName, ...]
    group: IntArray
    paths: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, groups: Sequence[tuple[str, str, Sequence[NodeName]]]) -> FabricArrays:
        """From (pod, leaf group, nodes) in fabric order."""
        nodes = tuple(node for _, _, members in groups for node in members)
        group = np.repeat(np.arange(len(groups)), [len(members) for _, _, members in groups])
        return cls(nodes, group.astype(np.intp), tuple((pod, name) for pod, name, _ in groups))

    @cached_property
    def index(self) -> Mapping[NodeName, int]:
        return {node: position for position, node in enumerate(self.nodes)}

    def mask(self, names: Iterable[NodeName]) -> BoolArray:
        """True where a node is named; names the fabric does not know are left out."""
        mask = np.zeros(len(self.nodes), dtype=np.bool_)
        mask[[number for number in map(self.index.get, names) if number is not None]] = True
        return mask


Item = TypeVar("Item", bound=Hashable)


def joined(items: Iterable[Item], bonds: Iterable[Collection[Item]]) -> list[set[Item]]:
    """Connected components of `items`, where all members of a bond belong together. Linear in items and bonds."""
    parent = {item: item for item in items}

    def root(item: Item) -> Item:
        while parent[item] != item:
            parent[item] = item = parent[parent[item]]
        return item

    for bond in bonds:
        first, *others = bond
        for other in others:
            parent[root(other)] = root(first)
    found: dict[Item, set[Item]] = defaultdict(set)
    for item in parent:
        found[root(item)].add(item)
    return list(found.values())


def free_name(name: str, taken: Collection[str]) -> str:
    """It, or it with the first number behind it that makes it no name of these."""
    free = (name if number == 1 else f"{name[:50]}-{number}" for number in count(1))
    return next(one for one in free if one not in taken)


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key under which b200-9 comes before b200-10."""
    parts: list[tuple[int, int, str]] = []
    digits = text = ""
    for character in name:
        if character.isascii() and character.isdigit():
            if text:
                parts.append((1, 0, text))
                text = ""
            digits += character
        else:
            if digits:
                parts.append((0, int(digits), digits))
                digits = ""
            text += character
    if digits:
        parts.append((0, int(digits), digits))
    if text:
        parts.append((1, 0, text))
    return tuple(parts)
