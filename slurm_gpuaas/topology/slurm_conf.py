"""Reads and writes Slurm's topology.conf, the only form that releases before 25.05 read; every release does.

Tree and blocks are those of topology.yaml, but a file holds one of them. slurm.conf must name it:
`TopologyPlugin=topology/tree` or `topology/block`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from pydantic import ValidationError

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.topology.fabric import Fabric, invalid
from slurm_gpuaas.topology.slurm_yaml import (
    LONGEST_FILE,
    Plugin,
    Topology,
    block_size,
    blocks,
    fabric_of,
    switches,
)

_WORDS: Final = {"children": "Switches", "nodes": "Nodes"}
_KEYS: Final = {
    "switchname": frozenset({"switches", "nodes", "linkspeed"}),
    "blockname": frozenset({"nodes"}),
    "blocksizes": frozenset[str](),
}
"""What may stand on a line, by the key that it begins with."""
_FIELDS: Final = {
    "switchname": "switch",
    "switches": "children",
    "nodes": "nodes",
    "linkspeed": "link_speed",
    "blockname": "block",
    "blocksizes": "block_sizes",
}
"""The same in topology.yaml."""


def render(fabric: Fabric, *, nodes: Collection[NodeName] = (), plugin: Plugin = Plugin.TREE) -> str:
    """The file's text. `nodes` are all nodes of slurm.conf, if some may be missing in the fabric.

    Raises InvalidInput for both plugins at once.
    """
    if plugin is Plugin.BOTH:
        raise InvalidInput(
            "topology.conf holds a tree or blocks, not both.",
            way_out="Choose one with --plugin, or write topology.yaml (Slurm 25.05 and later).",
        )
    if plugin is Plugin.BLOCK:
        found = blocks(fabric, nodes=nodes)
        body = "".join(f"BlockName={name} Nodes={members}\n" for name, members in found)
        return f"{body}BlockSizes={block_size(found)}\n"
    return "".join(
        f"SwitchName={name} {_WORDS[key]}={members}\n" for name, key, members in switches(fabric, nodes=nodes)
    )


class _Line(NamedTuple):
    """A line of the file, with those that it continues on."""

    number: int
    text: str


def _lines(text: str) -> Iterator[_Line]:
    """All that are not empty. Linear in the text."""
    first, parts = 1, list[str]()
    for number, raw in enumerate([*text.splitlines(), ""], start=1):
        body = raw.partition("#")[0].rstrip()
        parts.append(body.removesuffix("\\"))
        if body.endswith("\\"):
            continue
        if whole := "".join(parts).strip():
            yield _Line(first, whole)
        first, parts = number + 1, []


def parse(text: str, *, source: str = "topology.conf") -> Fabric:
    """The fabric of the file's tree; without one, of its blocks. As of topology.yaml: see `slurm_yaml.parse`.

    Raises:
        InvalidInput: a line that is not understood, neither tree nor blocks, or a tree that is none.
    """
    topology, _ = read(text, source)
    return fabric_of(
        topology.tree.switches if topology.tree else None, topology.block.blocks if topology.block else None, source
    )


def read(text: str, source: str) -> tuple[Topology, Sequence[str]]:
    """What the file says, and keys that stand twice on a line, of which Slurm takes the last.

    Raises:
        InvalidInput: Slurm would not take it for a topology.conf.
    """
    if len(text) > LONGEST_FILE:
        raise InvalidInput(f"{source} has {len(text)} characters.", way_out=f"At most {LONGEST_FILE} are read.")
    switches: list[Mapping[str, str]] = []
    blocks: list[Mapping[str, str]] = []
    sizes: list[str] = []
    twice: list[str] = []
    for line in _lines(text):
        pairs = [(key.lower(), is_, value) for key, is_, value in (word.partition("=") for word in line.text.split())]
        kind, *others = [key for key, _, _ in pairs]
        if not all(is_ for _, is_, _ in pairs) or kind not in _KEYS or not {*others} <= _KEYS[kind] | {kind}:
            raise InvalidInput(
                f"{source}: line {line.number} is not understood: {line.text[:80]!r}.",
                way_out="Write SwitchName=, BlockName= or BlockSizes= lines.",
            )
        twice += [key for key, number in Counter([kind, *others]).items() if number > 1]
        words = {_FIELDS[key]: value for key, _, value in pairs}
        match kind:
            case "switchname":
                switches.append(words)
            case "blockname":
                blocks.append(words)
            case _:
                twice += [kind] if sizes else []
                sizes = words["block_sizes"].split(",")
    if not switches and not blocks:
        raise InvalidInput(
            f"{source} holds neither tree nor blocks.", way_out="Give a file with a tree of switches or with blocks."
        )
    document: dict[str, object] = {"topology": "default", "cluster_default": "true"}
    if switches:
        document["tree"] = {"switches": switches}
    if blocks or sizes:
        document["block"] = {"blocks": blocks, "block_sizes": sizes}
    try:
        return Topology.model_validate(document), twice
    except ValidationError as error:
        raise invalid(source, error) from None
