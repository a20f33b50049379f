"""Opens the way to Slurm as the configuration says."""

from __future__ import annotations

from slurm_gpuaas.api.models import DriverStatus
from slurm_gpuaas.daemon.config import SlurmConfig
from slurm_gpuaas.daemon.runtime import Door
from slurm_gpuaas.slurm.rest_accounting import RestAccounting
from slurm_gpuaas.slurm.rest_driver import RestController
from slurm_gpuaas.slurm.rest_wire import RestAddress, RestWire


def open_door(config: SlurmConfig) -> Door:
    wire = RestWire(RestAddress(socket=config.rest_socket), timeout=config.timeout.total_seconds())
    rest = RestController(wire)
    return Door(
        controller=rest,
        accounting=RestAccounting(wire),
        driver=lambda: DriverStatus(name=rest.name, fallback=False, reason=""),
        close=lambda: None,
    )
