"""The topologies of a fabric among those that a site has: theirs stay, ours keep their names and places. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Final

import yaml

from slurm_gpuaas.topology.applying import SLURM, Layout
from slurm_gpuaas.topology.slurm_yaml import BLOCKS, TOPOLOGY

OURS: Final = {"tree": TOPOLOGY, "block": BLOCKS}
"""Kinds that a fabric is written as, and their names in a new file."""
NULL: Final = "tag:yaml.org,2002:null"


def merged(rendered: str, *, slurm: str, file: str) -> str:
    """A topology.yaml in which a fabric's tree and blocks stand for those that slurmctld plans with (the cluster's
    default or the first of their kind), and all other topologies stay as they are. Where slurmctld has neither tree nor
    blocks, it is the fabric alone.

    Args:
        rendered: what `render` wrote.
        slurm: what `scontrol show topoconf` says.
        file: topology.yaml as it is now, in whose words the others stay; empty: in slurmctld's.
    """
    outlines = Layout.of(slurm, source=SLURM).outlines
    replaced: dict[str, str] = {}
    for one in sorted(outlines, key=lambda one: not one.default):
        if one.kind in OURS:
            replaced.setdefault(one.kind, one.name)
    if not replaced:
        return rendered
    default = next((one for one in outlines if one.default), outlines[0])
    ours = {("tree" if "\n  tree:" in one else "block"): one for one in re.split(r"(?m)^(?=- topology:)", rendered)[1:]}
    for kind, text in ours.items():
        if (name := replaced.get(kind, OURS[kind])) != OURS[kind]:
            text = re.sub("^.*", lambda _, name=name: f"- topology: {json.dumps(name)}", text, count=1)
        stays = default.kind if replaced.get(default.kind) == default.name else ""
        if not stays or stays in ours:
            text = re.sub(
                "(?m)^  cluster_default: .*", f"  cluster_default: {str(kind == stays).lower()}", text, count=1
            )
        ours[kind] = text
    words = dict(_topologies(file)) if file else {}
    parts = [
        ours.pop(one.kind, "") if replaced.get(one.kind) == one.name else words.get(one.name, shown)
        for one, (_, shown) in zip(outlines, _topologies(slurm), strict=True)
    ]
    return "".join([*parts, *ours.values()])


def _topologies(text: str) -> Iterator[tuple[str, str]]:
    """Name and text of each topology, without what slurmctld writes of what it is not."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    for node in map(_full, root.value if root else ()):
        keys = {key.value: value for key, value in node.value}
        if keys.keys() <= {"topology", "cluster_default"}:
            flat = yaml.ScalarNode("tag:yaml.org,2002:str", "flat"), yaml.ScalarNode("tag:yaml.org,2002:bool", "true")
            node.value.append(flat)
        name = keys["topology"].value if "topology" in keys else ""
        yield name, yaml.serialize(yaml.SequenceNode("tag:yaml.org,2002:seq", [node], flow_style=False))


def _full(node: yaml.Node) -> yaml.Node:
    """Without keys that have no value."""
    if isinstance(node, yaml.SequenceNode):
        return yaml.SequenceNode(node.tag, [_full(item) for item in node.value], flow_style=node.flow_style)
    if not isinstance(node, yaml.MappingNode):
        return node
    pairs = [(key, _full(value)) for key, value in node.value if value.value and value.tag != NULL]
    return yaml.MappingNode(node.tag, pairs, flow_style=node.flow_style)
