"""A policy in force on a testbed without its daemon: the real controllers write Slurm's objects and the snapshot."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from slurm_gpuaas.domain.clock import Clock, SystemClock
from slurm_gpuaas.domain.names import ClusterName
from slurm_gpuaas.domain.policy import Policy, PolicyDocument
from slurm_gpuaas.quota.controller import PolicyController
from slurm_gpuaas.quota.live import Scene
from slurm_gpuaas.quota.publisher import VerdictPublisher
from slurm_gpuaas.slurm.partitions import ScontrolPartitions
from slurm_gpuaas.slurm.programs import program
from slurm_gpuaas.slurm.protocols import Controller
from slurm_gpuaas.slurm.rest_accounting import RestAccounting
from slurm_gpuaas.slurm.rest_driver import RestController
from slurm_gpuaas.slurm.rest_wire import RestAddress, RestWire
from slurm_gpuaas.store import Store
from slurm_gpuaas.testbed.instance import Instance
from tests.stores import new_store

RELAY = "/opt/gpuaas/src/tests/slurm/relay.py"
SNAPSHOT = "/run/gpuaas/snapshot"
PARTITIONS = "/etc/slurm/gpuaas/partitions.conf"


@dataclass(frozen=True)
class Applied:
    store: Store
    slurm: RestController
    accounting: RestAccounting
    controller: PolicyController
    publisher: VerdictPublisher

    def apply(self, documents: Iterable[PolicyDocument]) -> None:
        self.controller.apply(Policy.of(documents), actor="root")
        self.publisher.tick()


@contextmanager
def applied(instance: Instance, documents: Iterable[PolicyDocument], clock: Clock | None = None) -> Iterator[Applied]:
    """The policy in force; afterwards an empty one, and no snapshot."""
    listen = "/run/gpuaas/applied.sock"
    argv = ["python3", RELAY, listen, "/run/slurmrestd/slurmrestd.sock"]
    relay = instance.popen(argv, user="gpuaas", stdout=subprocess.PIPE)
    cluster = ClusterName(instance.cluster.name)
    try:
        assert relay.stdout and relay.stdout.readline() == "ready\n"
        with (
            TemporaryDirectory() as folder,
            closing(new_store(Path(folder, "store.db"))) as store,
            closing(RestWire(RestAddress(socket=instance.path(listen)))) as wire,
        ):
            slurm = RestController(wire)
            accounting = RestAccounting(wire, sacctmgr=program(instance.command(["sacctmgr"])))
            both = Applied(
                store,
                slurm,
                accounting,
                PolicyController(
                    cluster=cluster,
                    store=store,
                    accounting=accounting,
                    controller=slurm,
                    partitions=ScontrolPartitions(program(instance.command(["scontrol"]))),
                    partition_file=instance.path(PARTITIONS),
                    clock=clock or SystemClock(),
                ),
                VerdictPublisher(
                    mode=0o644,  # it is root's here
                    cluster=cluster,
                    store=store,
                    scene=lambda: scene_of(slurm),
                    file=instance.path(SNAPSHOT),
                    clock=clock or SystemClock(),
                ),
            )
            both.apply(documents)
            try:
                yield both
            finally:
                cancel_all(instance)
                both.apply([])
                instance.path(SNAPSHOT).unlink()
    finally:
        relay.kill()
        relay.wait()


def scene_of(slurm: Controller) -> Scene:
    """What Slurm shows now; nothing is given to waiting jobs."""
    nodes = {node.name: node for node in slurm.nodes()}
    return Scene(now=SystemClock().now(), jobs=slurm.jobs(), nodes=nodes, promised={})


def cancel_all(instance: Instance) -> None:
    """Ends every job and waits until none is left."""

    def left() -> list[str]:
        return instance.exec(["squeue", "--noheader", "--format=%A"]).stdout.split()

    if jobs := left():
        # components of a heterogeneous job refuse to be cancelled by themselves and end with their leader
        instance.exec(["scancel", "--quiet", *set(jobs)], check=False)
    instance.wait_for("No job left", lambda: not left() or None)
