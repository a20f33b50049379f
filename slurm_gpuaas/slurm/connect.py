"""Puts the door together: which drivers, in which order. The only place that names concrete drivers."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slurm_gpuaas.domain.clock import Clock, SystemClock
from slurm_gpuaas.slurm.failover import FailoverController, InUse
from slurm_gpuaas.slurm.limit_reader import ScontrolLimits
from slurm_gpuaas.slurm.partitions import ScontrolPartitions
from slurm_gpuaas.slurm.programs import program
from slurm_gpuaas.slurm.pyslurm_driver import DEFAULT_COMMAND, PyslurmController
from slurm_gpuaas.slurm.rest_accounting import RestAccounting
from slurm_gpuaas.slurm.rest_driver import RestController
from slurm_gpuaas.slurm.rest_wire import RestAddress, RestWire
from slurm_gpuaas.slurm.topologies import ScontrolTopologies

DEFAULT_SOCKET = Path("/run/slurmrestd/slurmrestd.sock")


@dataclass(frozen=True, kw_only=True)
class DoorSettings:
    """How to reach Slurm.

    `worker`: command of the pyslurm worker; None is this Python's own when pyslurm is installed. `rest_timeout` and
    `worker_timeout` are seconds. `sacctmgr` and `scontrol` are the programs, with whatever must come before
    their arguments.
    """

    rest: RestAddress = field(default_factory=lambda: RestAddress(socket=DEFAULT_SOCKET))
    rest_timeout: float = 60.0
    worker: Sequence[str] | None = None
    worker_environment: Mapping[str, str] | None = None
    worker_timeout: float = 10.0
    sacctmgr: Sequence[str] = ("sacctmgr",)
    scontrol: Sequence[str] = ("scontrol",)

    @property
    def worker_command(self) -> tuple[str, ...]:
        """Empty when there is no pyslurm: everything goes over slurmrestd then."""
        if self.worker is not None:
            return tuple(self.worker)
        return DEFAULT_COMMAND if importlib.util.find_spec("pyslurm") else ()


@dataclass(frozen=True, kw_only=True)
class Door:
    """The two halves of Slurm. `close` it to end the worker and the connections."""

    controller: FailoverController | RestController
    accounting: RestAccounting
    partitions: ScontrolPartitions
    limits: ScontrolLimits
    topologies: ScontrolTopologies
    wire: RestWire
    pyslurm: PyslurmController | None

    @property
    def driver(self) -> str:
        """The controller's driver in use now: `pyslurm` or `slurmrestd`."""
        return self.controller.name

    def close(self) -> None:
        if self.pyslurm:
            self.pyslurm.close()
        self.wire.close()


def connect(
    settings: DoorSettings, *, clock: Clock | None = None, on_change: Callable[[InUse], None] | None = None
) -> Door:
    """The door for these settings. Nothing is reached yet: the first call does that.

    Args:
        on_change: told when the controller is served by another driver than before.
    """
    wire = RestWire(settings.rest, timeout=settings.rest_timeout)
    accounting = RestAccounting(wire, sacctmgr=program(settings.sacctmgr))
    scontrol = program(settings.scontrol)
    partitions = ScontrolPartitions(scontrol)
    limits = ScontrolLimits(wire, scontrol)
    topologies = ScontrolTopologies(scontrol)
    rest = RestController(wire, scontrol=scontrol)
    controller: FailoverController | RestController = rest
    pyslurm = None
    if settings.worker_command:
        pyslurm = PyslurmController(
            settings.worker_command, environment=settings.worker_environment, timeout=settings.worker_timeout
        )
        told = {"on_change": on_change} if on_change else {}
        controller = FailoverController(pyslurm, rest, clock=clock or SystemClock(), **told)
    return Door(
        controller=controller,
        accounting=accounting,
        partitions=partitions,
        limits=limits,
        topologies=topologies,
        wire=wire,
        pyslurm=pyslurm,
    )
