"""Which limit truly applies: what `quota.limits` predicts is what slurmctld does, reason included, on random limits."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import closing

import pytest

from slurm_gpuaas.slurm.limit_reader import ScontrolLimits
from slurm_gpuaas.slurm.programs import program
from slurm_gpuaas.slurm.rest_wire import RestAddress, RestWire
from slurm_gpuaas.testbed.instance import Instance
from tests.slurm.applied import RELAY
from tests.slurm.limit_cases import Batch, random_case

pytestmark = pytest.mark.slurm

SOCKET = "/run/gpuaas/test-limits.sock"
CASES = 6


@pytest.fixture(scope="module")
def reader(mini: Instance) -> Iterator[ScontrolLimits]:
    relay = mini.popen(
        ["python3", RELAY, SOCKET, "/run/slurmrestd/slurmrestd.sock"], user="gpuaas", stdout=subprocess.PIPE
    )
    assert relay.stdout
    assert relay.stdout.readline() == "ready\n"
    try:
        with closing(RestWire(RestAddress(socket=mini.path(SOCKET)))) as wire:
            yield ScontrolLimits(wire, program(mini.command(["scontrol"])))
    finally:
        relay.kill()
        relay.wait()
        relay.stdout.close()


@pytest.mark.parametrize("seed", range(1_000, 6_000, 1_000))
def test_the_prediction_is_what_slurmctld_does(mini: Instance, reader: ScontrolLimits, seed: int) -> None:
    batch = Batch(mini, reader, [random_case(f"c{number:02}", seed + number) for number in range(CASES)])
    wrong = list(batch.run())
    assert not wrong, "\n".join(map(str, wrong))
