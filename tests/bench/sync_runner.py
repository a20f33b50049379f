"""Runs inside the testbed instance: brings projects into Slurm our way, by one `sacctmgr` call after the other, or by
one `sacctmgr load`.

`python -m tests.bench.sync_runner ours|sacctmgr|load PROJECTS MEMBERS` prints one JSON object; MEMBERS are of each
project. What it made is deleted at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
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
from slurm_gpuaas.quota.desired import wanted as wanted_state
from slurm_gpuaas.slurm import loading
from slurm_gpuaas.slurm.partitions import ScontrolPartitions
from slurm_gpuaas.slurm.programs import Program, program
from slurm_gpuaas.slurm.rest_accounting import RestAccounting
from slurm_gpuaas.slurm.rest_driver import RestController
from slurm_gpuaas.slurm.rest_wire import RestAddress, RestWire
from slurm_gpuaas.store import Store

CLUSTER = ClusterName("mini")
ORGANISATIONS = 10
NOOPS = 5
SAMPLE = 10
"""Projects that the sequential baseline really makes with nothing there, and with all of ours there."""
TICKS = 40
INTERVAL = timedelta(seconds=30)
"""Between two ticks of gpuaasd's policy controller, by default."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=["ours", "sacctmgr", "load"])
    parser.add_argument("projects", type=int)
    parser.add_argument("members", type=int)
    arguments = parser.parse_args()
    before = everything()
    try:
        ways = {"ours": ours, "sacctmgr": one_by_one, "load": one_load}
        result = ways[arguments.way](arguments.projects, "abcdefghij"[: arguments.members])
    finally:
        clean(before)
    print(json.dumps(result))


def ours(projects: int, members: str) -> dict[str, object]:
    """Seconds of the first apply, of each reconciliation after it, of one that reads all, the calls that these wrote
    with, the processor time of idle ticks, and seconds for `SAMPLE` more projects by sacctmgr beside these."""
    wire = RestWire(RestAddress(socket=Path("/run/slurmrestd/slurmrestd.sock")))
    wanted = policy(projects, members)
    clock = MovedClock()
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
            clock=clock,
        )
        try:
            sync = seconds(lambda: controller.apply(wanted, actor="bench"))
            writes.done = 0
            noops = [seconds(controller.reconcile) for _ in range(NOOPS)]
            full = [seconds(controller.plan) for _ in range(NOOPS)]
            idle = idle_percent(controller, clock)
            written = writes.done
            beside = everything()
            late = one_by_one(SAMPLE, members, first=projects)["sync_s"]
            clean(beside)
        finally:
            # In the plan's order. A QOS that is deleted while a partition's AllowQos names it makes slurmctld 26.05.5
            # write into memory that is not its own, and end at one of the next updates.
            controller.apply(Policy.of([]), actor="bench")
    return {"sync_s": sync, "noop_s": noops, "full_s": full, "noop_writes": written, "late_s": late, **idle}


class MovedClock:
    """The real time, and what it was moved ahead by."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def now(self) -> datetime:
        return SystemClock().now() + self.ahead


def idle_percent(controller: PolicyController, clock: MovedClock) -> dict[str, float]:
    """Percent of a core over twenty minutes of ticks in which nothing changes: of this process and the programs that it
    calls, and of slurmrestd, slurmdbd and MariaDB with them. The ticks follow one another; the clock is moved."""
    clock.ahead += timedelta(hours=1)  # what was written before is no longer in the log's window
    controller.reconcile()
    own, daemons = sum(os.times()[:4]), daemon_seconds()
    for _ in range(TICKS):
        clock.ahead += INTERVAL
        controller.reconcile()
    own, daemons = sum(os.times()[:4]) - own, daemon_seconds() - daemons
    percent = 100 / (TICKS * INTERVAL.total_seconds())
    return {"idle_percent": own * percent, "idle_with_slurm_percent": (own + daemons) * percent}


def daemon_seconds() -> float:
    """Processor seconds that slurmrestd, slurmdbd and MariaDB have used."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        name, _, rest = stat.read_text().partition("(")[2].rpartition(")")
        if name in {"slurmrestd", "slurmdbd", "mariadbd"}:
            ticks += sum(map(int, rest.split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def one_load(projects: int, members: str) -> dict[str, object]:
    """Seconds of one `sacctmgr load` of the same accounts, limits and members. Its file has no words for a QOS: they
    are there before, and their time is not counted."""
    accounting = RestAccounting(RestWire(RestAddress(socket=Path("/run/slurmrestd/slurmrestd.sock"))))
    goal = wanted_state(policy(projects, members), CLUSTER, SystemClock().now()).accounting
    accounting.put_qos(tuple(goal.qos.values()))
    entries = [*map(loading.account, goal.accounts.values()), *map(loading.member, goal.associations.values())]
    with tempfile.NamedTemporaryFile("w", suffix=".cfg") as file:
        file.write(loading.text(CLUSTER, entries))
        file.flush()
        return {"sync_s": seconds(lambda: sacctmgr("load", file.name))}


def one_by_one(projects: int, members: str, *, first: int = 0) -> dict[str, object]:
    """Seconds for the same objects with the same limits, one call of sacctmgr for each. Numbered from `first`."""
    sacctmgr("add", "qos", "bench-burst", "preemptmode=requeue")
    sacctmgr("add", "account", "bench-share")
    for organisation in range(ORGANISATIONS):
        sacctmgr("add", "account", f"bench-org{organisation}", "parent=bench-share")

    def sync() -> None:
        for number in range(first, first + projects):
            name = f"p{number:03}"
            limit = f"grptres=gres/gpu={gpus(number)},gres/gpu:b200={gpus(number)}"
            sacctmgr("add", "qos", f"guaranteed-{name}", limit, "preempt=bench-burst", "priority=1000")
            parent = f"parent=bench-org{number % ORGANISATIONS}"
            sacctmgr("add", "account", name, parent, "grptresmins=gres/gpu=60000")
            for member in members:
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
            self.done += not {"show", "list"} & set(arguments)
            return run(arguments, stdin=stdin)

        return counted


def policy(projects: int, members: str) -> Policy:
    """Projects with guarantees, borrow limits and budgets that differ, and members of their own."""

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
            for member in members:
                yield Member(project=name, user=UserName(f"u{number:03}{member}"))

    return Policy.of(documents())


def gpus(number: int) -> int:
    """A node each for the first eight: the testbed has no more to promise. A limit of 0 costs as much to write."""
    return 8 if number < 8 else 0


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
