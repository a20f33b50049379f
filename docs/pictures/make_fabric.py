"""Draws docs/pictures/fabric.svg with `topology show`: the testbed's fabric of 129 nodes, three cables damaged."""

from __future__ import annotations

from pathlib import Path

from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.testbed.profiles import PROFILES
from slurm_gpuaas.testbed.sim.damage import cut, trained
from slurm_gpuaas.testbed.sim.fabric import net_file
from slurm_gpuaas.topology import ibnetdiscover
from slurm_gpuaas.topology.picture import draw

PICTURE = Path(__file__).with_name("fabric.svg")


def picture() -> str:
    (cluster,) = PROFILES["haein"].clusters
    text = cut(net_file(cluster), "b200-042 mlx5_3", "leaf-02-4")
    text = trained(text, "b200-070 mlx5_0", "leaf-03-1", "2xNDR")
    text = cut(text, "leaf-04-6", "spine-01-11")
    nodes = tuple(NodeName(name) for name in cluster.node_names())
    return draw(ibnetdiscover.parse(text, nodes=nodes, source="haein, a profile of the testbed"))


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
