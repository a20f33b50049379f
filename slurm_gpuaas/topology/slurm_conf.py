"""Reads and writes Slurm's topology.conf, the only form that releases before 25.05 read; every release does.

Tree and blocks are those of topology.yaml, but a file holds one of them. slurm.conf must name it:
`TopologyPlugin=topology/tree` or `topology/block`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final, NamedTuple

from pydantic import ValidationError

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.topology.fabric import Fabric
from slurm_gpuaas.topology.slurm_yaml import (
    LONGEST_FILE,
    BlockRow,
    Plugin,
    SwitchRow,
    block_size,
    blocks,
    fabric_of,
    switches,
)

_WORDS: Final = {"children": "Switches", "nodes": "Nodes"}
_KNOWN: Final = frozenset({"switchname", "switches", "nodes", "linkspeed", "blockname", "blocksizes"})


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


class Line(NamedTuple):
    """A line of the file, with those that it continues on; `words` by lower-case key, None where Slurm would not
    understand them."""

    number: int
    text: str
    words: Mapping[str, str] | None


def lines(text: str) -> Iterator[Line]:
    """All that are not empty. Linear in the text."""
    first, parts = 1, list[str]()
    for number, raw in enumerate([*text.splitlines(), ""], start=1):
        body = raw.partition("#")[0].rstrip()
        parts.append(body.removesuffix("\\"))
        if body.endswith("\\"):
            continue
        whole = "".join(parts).strip()
        if pairs := whole.split():
            words = {key.lower(): value for key, _, value in (pair.partition("=") for pair in pairs)}
            understood = words.keys() <= _KNOWN and all("=" in pair for pair in pairs)
            yield Line(first, whole, words if understood else None)
        first, parts = number + 1, []


def parse(text: str, *, source: str = "topology.conf") -> Fabric:
    """The fabric of the file's tree; without one, of its blocks. As of topology.yaml: see `slurm_yaml.parse`.

    Raises:
        InvalidInput: a line that is not understood, neither tree nor blocks, or a tree that is none.
    """
    if len(text) > LONGEST_FILE:
        raise InvalidInput(f"{source} has {len(text)} characters.", way_out=f"At most {LONGEST_FILE} are read.")
    tree: list[SwitchRow] = []
    block_rows: list[BlockRow] = []
    for line in lines(text):
        words = line.words
        try:
            if words and "switchname" in words:
                children, nodes = words.get("switches"), words.get("nodes")
                tree.append(SwitchRow(switch=words["switchname"], children=children, nodes=nodes))
            elif words and "blockname" in words:
                block_rows.append(BlockRow(block=words["blockname"], nodes=words.get("nodes")))
            elif words is None or "blocksizes" not in words:
                raise InvalidInput(
                    f"{source}: line {line.number} is not understood: {line.text[:80]!r}.",
                    way_out="Write SwitchName=, BlockName= or BlockSizes= lines.",
                )
        except ValidationError:
            raise InvalidInput(
                f"{source}: line {line.number}: the name has more than 64 characters.", way_out="Choose a shorter one."
            ) from None
    return fabric_of(tree or None, block_rows or None, source)
