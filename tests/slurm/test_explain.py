"""Which limit truly applies: what `quota.limits` predicts is what slurmctld does, reason included, on random limits."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import closing

import pytest

from slurm_gpuaas.domain.names import PartitionName, QosName, UserName
from slurm_gpuaas.quota.explain import place_in
from slurm_gpuaas.quota.limits import asked, predict
from slurm_gpuaas.slurm.limit_reader import ScontrolLimits
from slurm_gpuaas.slurm.programs import program
from slurm_gpuaas.slurm.rest_wire import RestAddress, RestWire
from slurm_gpuaas.testbed.instance import Instance
from tests.slurm.applied import RELAY
from tests.slurm.limit_cases import MODEL, Batch, random_case

pytestmark = pytest.mark.slurm

SOCKET = "/run/gpuaas/test-limits.sock"
CASES = 10
"""Side by side in a batch: what they have running must fit 32 GPUs."""


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


@pytest.mark.parametrize("seed", range(1_000, 5_000, 1_000))
def test_the_prediction_is_what_slurmctld_does(mini: Instance, reader: ScontrolLimits, seed: int) -> None:
    batch = Batch(mini, reader, [random_case(f"c{number:02}", seed + number) for number in range(CASES)])
    wrong = list(batch.run())
    assert not wrong, "\n".join(map(str, wrong))


PARTITIONS = [
    ("MaxTime=20", "--time=30", "PartitionTimeLimit"),
    ("MaxTime=20 MaxNodes=1", "--time=10 --nodes=2", "PartitionNodeLimit"),
    ("MaxTime=20", "--time=10 --nodes=9", "PartitionNodeLimit"),
    ("MaxTime=20 AllowQos=other", "--time=10", "QOSNotAllowed"),
    ("MaxTime=20 DenyQos=normal", "--time=10", "QOSNotAllowed"),
    ("MaxTime=20 AllowAccounts=root", "--time=10", ""),
    ("MaxTime=20 State=DOWN", "--time=10", "PartitionDown"),
]
"""Partition, job (of QOS normal, in an account below root) and why it waits."""


@pytest.fixture(scope="module")
def account(mini: Instance) -> Iterator[None]:
    """alice in account limits, and a QOS `other`."""

    def sacctmgr(*words: str) -> None:
        mini.exec(["sacctmgr", "--immediate", "--quiet", *words])

    sacctmgr("add", "account", "limits")
    sacctmgr("add", "user", "alice", "account=limits")
    sacctmgr("add", "qos", "other")
    yield
    sacctmgr("delete", "qos", "other")
    sacctmgr("delete", "user", "alice")
    sacctmgr("delete", "account", "limits")


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize(("partition", "job", "reason"), PARTITIONS, ids=lambda value: str(value) or "starts")
def test_what_a_partition_does_not_allow(
    mini: Instance, reader: ScontrolLimits, partition: str, job: str, reason: str
) -> None:
    mini.exec(["scontrol", "create", "partitionname=limits", "nodes=ALL", *partition.split()])
    try:
        (member,) = reader.memberships(UserName("alice"))
        state = reader.read(accounts=[member.account], users=[member.user], qos=[QosName("normal")])
        words = dict(word.removeprefix("--").split("=") for word in job.split())
        nodes = int(words.get("nodes", 1))
        where = place_in(state, member, PartitionName("limits"), QosName("normal"))
        found = predict(where, asked(nodes, model=MODEL, nodes=nodes, minutes=int(words["time"])))
        assert found.reason == reason
        argv = ["sbatch", "--parsable", "--uid=alice", "--partition=limits", "--account=limits", *job.split()]
        submitted = mini.exec(
            [*argv, "--gpus-per-node=b200:1", "--output=/dev/null", "--wrap=sleep 600"]
        ).stdout.strip()

        def judged() -> bool:
            # squeue's table spells QOSNotAllowed out as a sentence
            shown = mini.exec(["squeue", "--json", f"--jobs={submitted}"]).stdout
            return f'"{reason or "RUNNING"}"' in shown

        mini.wait_for(f"job {submitted} to wait with {reason or 'nothing'}", judged, seconds=20)
    finally:
        mini.exec(["scancel", "--quiet", "--user=alice"])
        mini.wait_for("no job left", lambda: not mini.exec(["squeue", "--noheader"]).stdout or None, seconds=30)
        mini.exec(["scontrol", "delete", "partitionname=limits"])
