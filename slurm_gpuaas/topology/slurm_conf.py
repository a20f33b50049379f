"""Writes Slurm's topology.conf, the only form that releases before 25.05 read; every release does.

The tree is that of topology.yaml. slurm.conf must name it: `TopologyPlugin=topology/tree`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.topology.fabric import Fabric
from slurm_gpuaas.topology.slurm_yaml import switches

_WORDS: Final = {"children": "Switches", "nodes": "Nodes"}


def render(fabric: Fabric, *, nodes: Collection[NodeName] = ()) -> str:
    """The file's text. `nodes` are all nodes of slurm.conf, if some may be missing in the fabric."""
    rows = switches(fabric, nodes=nodes)
    return "".join(f"SwitchName={name} {_WORDS[key]}={members}\n" for name, key, members in rows)
