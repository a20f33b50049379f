"""slurmrestd of a testbed, as a host's test reaches it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

from slurm_gpuaas.slurm.rest_wire import RestAddress, RestWire
from slurm_gpuaas.testbed.instance import Instance

RELAY = "/opt/gpuaas/src/tests/slurm/relay.py"
SLURMRESTD = "/run/slurmrestd/slurmrestd.sock"


@contextmanager
def rest_wire(instance: Instance) -> Iterator[RestWire]:
    """A wire to the instance's slurmrestd through a relay of its own; relay.py says why it takes one."""
    listen = f"/tmp/relay-{uuid4().hex}.sock"
    relay = instance.popen(["python3", RELAY, listen, SLURMRESTD], user="gpuaas", stdout=subprocess.PIPE)
    try:
        assert relay.stdout and relay.stdout.readline() == "ready\n", "The relay did not start."
        wire = RestWire(RestAddress(socket=instance.path(listen)))
        try:
            yield wire
        finally:
            wire.close()
    finally:
        relay.kill()
        relay.wait()
        instance.path(listen).unlink(missing_ok=True)
