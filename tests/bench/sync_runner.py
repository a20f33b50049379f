"""Runs inside the testbed instance: brings projects into Slurm our way or one `sacctmgr` call after the other.

`python -m tests.bench.sync_runner ours|sacctmgr PROJECTS` prints one JSON object. What it made is deleted at the end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from slurm_gpuaas.domain.clock import SystemClock
from slurm_gpuaas.domain.names import (
    ClusterName,
    GpuModel,
    GrantName,
    OrganisationName,
    PoolName,
    ProjectName,
    ShareName,
    UserName,
)
from slurm_gpuaas.domain.policy import Grant, Member, Organisation, Policy, PolicyDocument, Pool, Project, Share
from slurm_gpuaas.quota.controller import PolicyController
from slurm_gpuaas.slurm.partitions import ScontrolPartitions
from slurm_gpuaas.slurm.programs import Program, program
from slurm_gpuaas.slurm.rest_accounting import RestAccounting
from slurm_gpuaas.slurm.rest_driver import RestController
from slurm_gpuaas.slurm.rest_wire import RestAddress, RestWire
from slurm_gpuaas.store import Store

CLUSTER = ClusterName("mini")
MEMBERS = "abc"
ORGANISATIONS = 10
NOOPS = 5


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=["ours", "sacctmgr"])
    parser.add_argument("projects", type=int)
    arguments = parser.parse_args()
    before = everything()
    try:
        result = ours(arguments.projects) if arguments.way == "ours" else one_by_one(arguments.projects)
    finally:
        clean(before)
    print(json.dumps(result))


def ours(projects: int) -> dict[str, object]:
    """Seconds of the first apply, of each reconciliation after it, and the calls that these wrote with."""
    wire = RestWire(RestAddress(socket=Path("/run/slurmrestd/slurmrestd.sock")))
    wanted = policy(projects)
    with tempfile.TemporaryDirectory() as folder:
        writes = Writes()
        writes.count(wire)
        controller = PolicyController(
            cluster=CLUSTER,
            store=Store.open(f"sqlite:///{folder}/store.db"),
            accounting=RestAccounting(wire, sacctmgr=writes.counted(program(["sacctmgr"]))),
            controller=RestController(wire),
            partitions=ScontrolPartitions(writes.counted(program(["scontrol"]))),
            partition_file=Path("/etc/slurm/gpuaas/partitions.conf"),
            clock=SystemClock(),
        )
        try:
            sync = seconds(lambda: controller.apply(wanted, actor="bench"))
            writes.done = 0
            noops = [seconds(controller.reconcile) for _ in range(NOOPS)]
            written = writes.done
        finally:
            # In the plan's order. A QOS that is deleted while a partition's AllowQos names it makes slurmctld 26.05.5
            # write into memory that is not its own, and end at one of the next updates.
            controller.apply(Policy.of([]), actor="bench")
    return {"sync_s": sync, "noop_s": noops, "noop_writes": written}


def one_by_one(projects: int) -> dict[str, object]:
    """Seconds for the same objects with the same limits, one call of sacctmgr for each."""
    sacctmgr("add", "qos", "bench-burst", "preemptmode=requeue")
    sacctmgr("add", "account", "bench-share")
    for organisation in range(ORGANISATIONS):
        sacctmgr("add", "account", f"bench-org{organisation}", "parent=bench-share")

    def sync() -> None:
        for number in range(projects):
            name = f"p{number:03}"
            limit = f"grptres=gres/gpu={gpus(number)},gres/gpu:b200={gpus(number)}"
            sacctmgr("add", "qos", f"guaranteed-{name}", limit, "preempt=bench-burst", "priority=1000")
            parent = f"parent=bench-org{number % ORGANISATIONS}"
            sacctmgr("add", "account", name, parent, "grptresmins=gres/gpu=60000")
            for member in MEMBERS:
                qos = (f"qos=guaranteed-{name},bench-burst", f"defaultqos=guaranteed-{name}")
                sacctmgr("add", "user", f"u{number:03}{member}", f"account={name}", *qos)

    return {"sync_s": seconds(sync)}


class Writes:
    """Counts what may change Slurm: requests that are no GET, and calls of its programs that do not only show."""

    def __init__(self) -> None:
        self.done = 0

    def count(self, wire: RestWire) -> None:
        send = wire.send

        def counted(method: str, *arguments: Any, **options: Any) -> Any:
            self.done += method != "GET"
            return send(method, *arguments, **options)

        wire.send = counted  # type: ignore[method-assign]

    def counted(self, run: Program) -> Program:
        def counted(arguments: Sequence[str], /, *, stdin: str = "") -> str:
            self.done += "show" not in arguments
            return run(arguments, stdin=stdin)

        return counted


def policy(projects: int) -> Policy:
    """Projects of three members each, with guarantees, borrow limits and budgets that differ."""

    def documents() -> Iterator[PolicyDocument]:
        pool, share = PoolName("mini"), ShareName("own")
        yield Pool(
            name=pool, cluster=CLUSTER, model=GpuModel("b200"), shares=(Share(name=share, nodes="b200-[01-08]"),)
        )
        for number in range(ORGANISATIONS):
            yield Organisation(name=OrganisationName(f"org{number}"))
        for number in range(projects):
            name = ProjectName(f"p{number:03}")
            yield Project(name=name, organisation=OrganisationName(f"org{number % ORGANISATIONS}"))
            yield Grant(
                name=GrantName(f"{name}-1"),
                project=name,
                pool=pool,
                share=share,
                gpus=gpus(number),
                borrow_limit=(None, 8, 16, 32)[number % 4],
                starts=date(2026, 1, 1),
                ends=date(2035, 12, 31),
                budget_gpu_hours=1_000,
            )
            for member in MEMBERS:
                yield Member(project=name, user=UserName(f"u{number:03}{member}"))

    return Policy.of(documents())


def gpus(number: int) -> int:
    return 8 * (number % 5)


def seconds(action: object) -> float:
    start = time.perf_counter()
    action()  # type: ignore[operator]
    return time.perf_counter() - start


# -- Leaving Slurm as it was -------------------------------------------------------------------------------------------

KINDS = ("user", "account", "qos")


def everything() -> dict[str, set[str]]:
    return {kind: set(sacctmgr("show", kind, f"format={kind if kind != 'qos' else 'name'}").split()) for kind in KINDS}


def clean(before: dict[str, set[str]]) -> None:
    after = everything()
    for kind in KINDS:
        new = sorted(after[kind] - before[kind])
        if new:
            sacctmgr("delete", kind, ",".join(new))


def sacctmgr(*arguments: str) -> str:
    argv: Sequence[str] = ("sacctmgr", "-inP", *arguments)
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return done.stdout


if __name__ == "__main__":
    main()
