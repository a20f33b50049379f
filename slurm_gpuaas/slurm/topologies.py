"""`Topologies` by scontrol: neither slurmrestd nor pyslurm has words for them."""

from __future__ import annotations

from collections.abc import Sequence

from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.policy import fold_nodes
from slurm_gpuaas.slurm.programs import Program
from slurm_gpuaas.slurm.protocols import SlurmctldAway, SlurmRefused
from slurm_gpuaas.slurm.records import TopologyUnit


class ScontrolTopologies:
    """Args:
    scontrol: runs scontrol with the given arguments.
    """

    def __init__(self, scontrol: Program) -> None:
        self._scontrol = scontrol

    def read(self) -> str:
        try:
            text = self._scontrol(["show", "topoconf"])
        except SlurmRefused as error:
            if "invalid entity" not in error.message:
                raise
            raise SlurmRefused(
                "Slurm older than 25.05 reads no topology.yaml and does not say what it plans with.",
                way_out="Write topology.conf with `gpuaas topology render`, then `scontrol reconfigure`.",
            ) from None
        if not text:  # scontrol returns 0 when nobody answered
            raise SlurmctldAway("slurmctld does not show its topologies.", way_out="Start slurmctld.")
        return text

    def move(self, nodes: Sequence[NodeName], units: Sequence[TopologyUnit]) -> None:
        self._scontrol(["update", f"NodeName={fold_nodes(nodes)}", f"Topology={','.join(map(str, units))}"])
