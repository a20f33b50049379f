"""Simulated hardware of a node: an NVML library, a kernel log, and the tool that breaks them.

The product never sees this package: it meets the simulation through the same interfaces as real hardware.
"""

from slurm_gpuaas.testbed.sim.build import LIBRARY, build_nvml
from slurm_gpuaas.testbed.sim.hardware import MESSAGES, MODELS, SimulatedNode, create_node_files

__all__ = ["LIBRARY", "MESSAGES", "MODELS", "SimulatedNode", "build_nvml", "create_node_files"]
