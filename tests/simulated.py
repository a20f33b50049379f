"""Fixtures with simulated hardware: the NVML library is built once and loaded beneath the real binding."""

from __future__ import annotations

import ctypes
import shutil
import tempfile
from functools import cache
from pathlib import Path

import pytest

from slurm_gpuaas.testbed.sim import SimulatedNode, build_nvml, create_node_files

NODES = ("b200-001", "b200-002")


@cache
def _loaded() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        return ctypes.CDLL(str(build_nvml(None, Path(folder))))


@pytest.fixture(scope="session")
def nvml() -> ctypes.CDLL:
    """Our library, in this process: from now on `pynvml` finds it under its real name."""
    if not shutil.which("gcc"):
        pytest.skip("no gcc on this machine; the testbed's tests cover the library")
    return _loaded()


@pytest.fixture
def hardware(tmp_path: Path) -> Path:
    """A folder with two simulated B200 nodes."""
    create_node_files(tmp_path / "hardware", NODES, "b200", "test")
    return tmp_path / "hardware"


@pytest.fixture
def node(hardware: Path) -> SimulatedNode:
    return SimulatedNode(hardware / NODES[0])
