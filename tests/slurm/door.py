"""The door to a testbed's Slurm, for tests that run on the host."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slurm_gpuaas.slurm.connect import DoorSettings
from slurm_gpuaas.slurm.rest_wire import RestAddress
from slurm_gpuaas.testbed.instance import Instance

DAEMON_USER = "gpuaas"
_REST = "/run/slurmrestd/slurmrestd.sock"
_PYTHON = "/opt/gpuaas/venv/bin/python"
_SOURCE = "/opt/gpuaas/src"


def python_inside(module: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """Command line and environment that run a module of this checkout inside, with pyslurm."""
    return [_PYTHON, "-m", module, *arguments], {"PYTHONPATH": _SOURCE}


@contextmanager
def door_settings(instance: Instance, *, name: str = "host") -> Iterator[DoorSettings]:
    """Settings for `connect`; while it lasts a relay runs inside (see `relay.py`), one per `name`."""
    socket = f"/run/slurmrestd/relay-{name}.sock"
    relay = instance.popen(
        ["/usr/bin/python3", f"{_SOURCE}/tests/slurm/relay.py", socket, _REST],
        DAEMON_USER,
        stdout=subprocess.PIPE,
    )
    worker, environment = python_inside("slurm_gpuaas.slurm.pyslurm_worker")
    assert relay.stdout
    try:
        assert relay.stdout.readline() == "ready\n", "the relay to slurmrestd did not start"
        yield DoorSettings(
            rest=RestAddress(socket=Path(instance.path(socket))),
            worker=instance.command(worker, DAEMON_USER) if instance.cluster.release.pyslurm else (),
            worker_environment=instance.environment(DAEMON_USER, environment),
            # As root: another user may not open the pipe that the host's process gives it for its standard input.
            sacctmgr=instance.command(["sacctmgr"]),
            scontrol=instance.command(["scontrol"]),
        )
    finally:
        relay.kill()
        relay.wait()
        relay.stdout.close()
