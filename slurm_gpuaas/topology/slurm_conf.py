"""Writes Slurm's topology.conf, the only form that releases before 25.05 read; every release does.

Tree and blocks are those of topology.yaml, but a file holds one of them. slurm.conf must name it:
`TopologyPlugin=topology/tree` or `topology/block`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.topology.fabric import Fabric
from slurm_gpuaas.topology.slurm_yaml import Plugin, block_size, switches

_WORDS: Final = {"children": "Switches", "nodes": "Nodes"}


def render(fabric: Fabric, *, nodes: Collection[NodeName] = (), plugin: Plugin = Plugin.TREE) -> str:
    """The file's text. `nodes` are all nodes of slurm.conf, if some may be missing in the fabric.

    Raises InvalidInput for both plugins at once.
    """
    rows = switches(fabric, nodes=nodes)
    if plugin is Plugin.BOTH:
        raise InvalidInput(
            "topology.conf holds a tree or blocks, not both.",
            way_out="Choose one with --plugin, or write topology.yaml (Slurm 25.05 and later).",
        )
    if plugin is Plugin.BLOCK:
        blocks = "".join(f"BlockName={name} Nodes={members}\n" for name, key, members in rows if key == "nodes")
        return f"{blocks}BlockSizes={block_size(fabric)}\n"
    return "".join(f"SwitchName={name} {_WORDS[key]}={members}\n" for name, key, members in rows)
