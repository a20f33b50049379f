"""What a machine of the testbed is doing and what it costs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from slurm_gpuaas.testbed import boot
from slurm_gpuaas.testbed.instance import Instance
from slurm_gpuaas.testbed.machine import Machine


@dataclass(frozen=True)
class Status:
    """One machine.

    Args:
        cluster: empty for a portal.
        nodes: Slurm's node state to number of nodes.
        services: name of each service to whether its process lives.
        memory_mib: memory of its processes (shared pages counted once) and of its files, which lie in memory too.
    """

    name: str
    profile: str
    cluster: str
    nodes: dict[str, int]
    services: dict[str, bool]
    memory_mib: int
    boot_seconds: float


def status_of(machine: Machine) -> Status:
    controller = isinstance(machine, Instance) and machine.alive(boot.SLURMCTLD)
    return Status(
        name=machine.name,
        profile=machine.state.profile,
        cluster=machine.state.cluster,
        nodes=dict(boot.node_states(machine)) if controller else {},
        services={service.name: machine.alive(service) for service in machine.services()},
        memory_mib=memory_mib(machine),
        boot_seconds=round(machine.state.boot_seconds, 1),
    )


def memory_mib(machine: Machine) -> int:
    """Memory in MiB that would come free with `down`, near enough."""
    files = os.statvfs(machine.root)
    in_files = (files.f_blocks - files.f_bfree) * files.f_frsize
    return (in_files + sum(_proportional_kib(pid) for pid in machine.processes()) * 1024) >> 20


def _proportional_kib(pid: int) -> int:
    """Resident memory of a process, each shared page divided by its number of users (kernel's Pss)."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
