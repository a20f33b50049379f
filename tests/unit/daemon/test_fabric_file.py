from __future__ import annotations

from pathlib import Path

import pytest

from slurm_gpuaas.daemon.fabric_file import FabricFile
from slurm_gpuaas.domain.errors import InvalidInput, Unavailable
from slurm_gpuaas.domain.policy import expand_nodes

TREE = """\
- topology: fabric
  cluster_default: true
  tree:
    switches:
      - switch: root
        children: leaf-[01-02]
      - switch: leaf-01
        nodes: {one}
      - switch: leaf-02
        nodes: {two}
"""
NODES = expand_nodes("n[1-4]")


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "topology.yaml"
    path.write_text(TREE.format(one="n[1-2]", two="n[3-4]"))
    fabric = FabricFile(path)
    first = fabric.arrays()
    assert fabric.arrays() is first, "it was read again though nothing changed"
    path.write_text(TREE.format(one="n[1,3]", two="n[2,4] "))
    placement = fabric.placer().place(2, free=NODES, among=NODES)
    assert placement is not None
    assert set(placement.nodes) in ({"n1", "n3"}, {"n2", "n4"})


def test_a_missing_file_and_a_wrong_one_say_so(tmp_path: Path) -> None:
    path = tmp_path / "topology.yaml"
    with pytest.raises(Unavailable, match="gpuaas topology render"):
        FabricFile(path).placer()
    path.write_text("no: tree\n")
    with pytest.raises(InvalidInput):
        FabricFile(path).placer()
