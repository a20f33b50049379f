"""What an instance is doing and what it costs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from slurm_gpuaas.testbed import boot
from slurm_gpuaas.testbed.instance import Instance


@dataclass(frozen=True)
class Status:
    """One instance.

    Args:
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


def status_of(instance: Instance) -> Status:
    controller = boot.alive(instance, boot.SLURMCTLD)
    return Status(
        name=instance.name,
        profile=instance.state.profile,
        cluster=instance.cluster.name,
        nodes=dict(boot.node_states(instance)) if controller else {},
        services={service.name: boot.alive(instance, service) for service in boot.services(instance)},
        memory_mib=memory_mib(instance),
        boot_seconds=round(instance.state.boot_seconds, 1),
    )


def memory_mib(instance: Instance) -> int:
    """Memory in MiB that would come free with `down`, near enough."""
    files = os.statvfs(instance.root)
    in_files = (files.f_blocks - files.f_bfree) * files.f_frsize
    return (in_files + sum(_proportional_kib(pid) for pid in instance.processes()) * 1024) >> 20


def _proportional_kib(pid: int) -> int:
    """Resident memory of a process, each shared page divided by its number of users (kernel's Pss)."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
