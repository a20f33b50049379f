"""scontrol on topologies: its words, and its answers that say nothing."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from slurm_gpuaas.domain.policy import expand_nodes
from slurm_gpuaas.slurm.protocols import SlurmctldAway, SlurmRefused
from slurm_gpuaas.slurm.records import TopologyUnit
from slurm_gpuaas.slurm.topologies import ScontrolTopologies


class FakeScontrol:
    def __init__(self, says: str = "", refuses: str = "") -> None:
        self._says, self._refuses = says, refuses
        self.asked: list[list[str]] = []

    def __call__(self, arguments: Sequence[str], /, *, stdin: str = "") -> str:
        self.asked.append(list(arguments))
        if self._refuses:
            raise SlurmRefused(f"scontrol said: {self._refuses}.")
        return self._says


def test_a_move_is_one_update_that_names_every_topology() -> None:
    scontrol = FakeScontrol()
    units = (TopologyUnit("blocks", "leaf-02"), TopologyUnit("fabric", "leaf-02"))
    ScontrolTopologies(scontrol).move(expand_nodes("n1,n2,n4"), units)
    assert scontrol.asked == [["update", "NodeName=n[1-2,4]", "Topology=blocks:leaf-02,fabric:leaf-02"]]


def test_silence_is_a_slurmctld_that_is_away() -> None:
    """scontrol 26.05 returns 0 after a minute without an answer."""
    with pytest.raises(SlurmctldAway, match="does not show"):
        ScontrolTopologies(FakeScontrol()).read()


def test_an_old_slurm_is_told_apart_from_one_that_refuses() -> None:
    with pytest.raises(SlurmRefused, match=r"older than 25\.05.*topology render"):
        ScontrolTopologies(FakeScontrol(refuses="invalid entity:topoconf for keyword:show")).read()
    with pytest.raises(SlurmRefused, match="Access denied"):
        ScontrolTopologies(FakeScontrol(refuses="Access denied")).read()
