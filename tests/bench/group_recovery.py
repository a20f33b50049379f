"""A 24-node job loses a node while other jobs compete for every node that gets free: how long until it runs again.

Ours: a line in the node's kernel log, agent and gpuaasd do the rest; the job must run on its 23 nodes and a spare of
the same leaf group. The obvious alternative: the node is drained and the job requeued by hand, on plain Slurm.
The competitors' priority is above the job's in both; a requeued job that they passed is given `CAP_S`.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import TypeVar

from slurm_gpuaas.domain.jobs import JobState
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.nodes import NodeBase
from slurm_gpuaas.domain.policy import expand_nodes, fold_nodes
from slurm_gpuaas.slurm.rest_driver import RestController
from slurm_gpuaas.slurm.rest_wire import Answer, Number, RestWire, Text, Wire
from slurm_gpuaas.testbed.boot import GPUAASD
from slurm_gpuaas.testbed.instance import Instance
from slurm_gpuaas.testbed.sim import SimulatedNode
from tests.bench.group_health import LINE
from tests.bench.model import BenchContext, BenchRow
from tests.slurm.configured import configured
from tests.slurm.door import door_settings

RUNS = 10
BASELINE_RUNS = 5
NODES = 24
BIG = 100
"""Nodes of the one big competitor, which never fits."""
SMALL = 130
"""Competitors of one node: more than there are nodes."""
CAP_S = 20.0
RIVAL = ("sbatch", "--parsable", "--uid=carol", "--account=root", "--partition=all")
"""Of a partition over the same nodes and in no project: root states their priority. Not root's own jobs: Slurm lets
those into every reservation."""
POLL_S = 0.005
POLICY = """\
kind: Organisation
name: hanbit
---
kind: Project
name: vision
organisation: hanbit
---
kind: Member
project: vision
user: alice
---
kind: Pool
name: haein
cluster: haein
model: b200
shares:
  - {name: own, nodes: "b200-[001-129]"}
---
kind: Grant
name: vision
project: vision
pool: haein
share: own
gpus: 800
starts: 2026-01-01
ends: 2099-12-31
"""

T = TypeVar("T")


class _Job(Wire):
    job_state: tuple[str, ...]
    restart_cnt: int = 0
    nodes: Text = ""
    job_id: int = 0
    node_count: Number


class _JobAnswer(Answer):
    jobs: tuple[_Job, ...]


def run(context: BenchContext) -> list[BenchRow]:
    instance = context.testbed("haein")
    with door_settings(instance, name="bench-recovery") as door, closing(RestWire(door.rest)) as wire:
        scene = Scene(instance, wire)
        instance.write("/tmp/recovery.yaml", POLICY)
        instance.exec(["gpuaas", "policy", "apply", "--yes", "-f", "/tmp/recovery.yaml"], user="gpuaas")
        instance.exec(["sacctmgr", "-i", "add", "user", "carol", "account=root"])
        try:
            with spares_kept(instance), context.step(f"{NODES} nodes, one lost: job running again") as note:
                ours = []
                for number in range(RUNS):
                    ours.append(scene.recovered(number))
                    note(f"run {number + 1}: {ours[-1]:.2f} s")
            scene.clear()
            scene.await_no_spares()
            instance.stop(GPUAASD)
            with context.step("The same by hand on plain Slurm") as note:
                outcomes = []
                for number in range(BASELINE_RUNS):
                    outcomes.append(scene.requeued_by_hand(number))
                    note(f"run {number + 1}: {outcomes[-1][0]:.2f} s")
        finally:
            scene.clear()
            if not instance.alive(GPUAASD):
                instance.start(GPUAASD)
            instance.exec(["sacctmgr", "-i", "delete", "user", "carol", "account=root"])
            instance.write("/tmp/recovery.yaml", "")
            instance.exec(["gpuaas", "policy", "apply", "--yes", "-f", "/tmp/recovery.yaml"], user="gpuaas")
    baseline = [seconds for seconds, _ in outcomes]
    passed = sum(passed for _, passed in outcomes)
    return [
        BenchRow.of_times(f"recover_{NODES}_nodes_median_s", ours=ours, baseline=baseline),
        BenchRow(
            name=f"recover_{NODES}_nodes_max_s", value=max(ours), unit="s", baseline=None, ratio=None, runs=len(ours)
        ),
        BenchRow(
            name="recover_passed_by_others",
            value=0,
            unit=f"of {RUNS} (by hand: of {BASELINE_RUNS})",
            baseline=passed,
            ratio=None,
            runs=len(ours),
        ),
    ]


class Scene:
    def __init__(self, instance: Instance, wire: RestWire) -> None:
        self._instance = instance
        self._wire = wire
        self._slurm = RestController(wire)
        self._folder = Path("/run/gpuaas-sim")

    def recovered(self, number: int) -> float:
        """Seconds from the line's being in the log until slurmctld says RUNNING again; the nodes are asserted."""
        self.clear()
        spares = self._until("spares", self._spares, 60)
        job = self._submit(NODES, user="alice")
        before = set(self._until("the job runs", lambda: self._running(job), 60))
        leaf = _leaf(before)
        assert len(before) == NODES
        assert {_leaf_of(node) for node in before} == {leaf}, "the gate put it on several leaf groups"
        near = {node for node in spares if _leaf_of(node) == leaf}
        assert near, f"No spare in leaf group {leaf}: {spares}."
        self._compete(job)
        lost = sorted(before)[number * 2]
        start = time.perf_counter()
        SimulatedNode(self._instance.path(f"{self._folder}/{lost}")).log(LINE)
        after = set(self._until("the job runs again", lambda: self._running(job, restarts=1), CAP_S))
        seconds = time.perf_counter() - start
        assert after >= before - {lost}, f"It lost {fold_nodes(before - after - {lost})} to somebody."
        assert after - before <= near, f"It got {fold_nodes(after - before)}, not one of {sorted(near)}."
        assert len(after) == NODES
        assert self._others_on(after, job) == Counter(), "somebody is there, too"
        return seconds

    def requeued_by_hand(self, number: int) -> tuple[float, bool]:
        """Seconds until the job runs again, `CAP_S` at most, and whether somebody took nodes of it meanwhile."""
        self.clear()
        job = self._submit(NODES, argv=[*RIVAL, "--priority=100000"])
        before = set(self._until("the job runs", lambda: self._running(job), 60))
        self._compete(job)
        lost = sorted(before)[number * 2]
        start = time.perf_counter()
        self._slurm.drain([lost], "by hand")
        self._instance.exec(["scontrol", "requeue", str(job)])
        while time.perf_counter() - start < CAP_S:
            if self._running(job, restarts=1):
                return time.perf_counter() - start, False
            time.sleep(POLL_S)
        return CAP_S, bool(self._others_on(before - {lost}, job))

    def clear(self) -> None:
        """No jobs, all nodes in service, no incident."""
        for options in (["--state=PENDING", "--user=carol"], ["--user=carol"], ["--user=alice"]):
            self._instance.exec(["scancel", "--quiet", *options])
        if self._instance.alive(GPUAASD):
            answer = self._instance.exec(["gpuaas", "incident", "list", "--json"], user="gpuaas")
            for incident in json.loads(answer.stdout):
                argv = ["gpuaas", "incident", "close", incident["id"], "--reason", "mended"]
                self._instance.exec(argv, user="gpuaas")
                SimulatedNode(self._instance.path(f"{self._folder}/{incident['node']}")).reboot()
        self._slurm.resume([node.name for node in self._slurm.nodes()])
        self._until("all idle", self._all_idle, 60)

    def _all_idle(self) -> bool:
        return all(
            node.usable and node.base is NodeBase.IDLE and not node.gpus_allocated for node in self._slurm.nodes()
        )

    def await_no_spares(self) -> None:
        self._until("no spares", lambda: self._spares() is None, 60)

    def _submit(self, nodes: int, *, user: str = "root", argv: Sequence[str] = ("sbatch", "--parsable")) -> int:
        options = [f"--nodes={nodes}", "--ntasks-per-node=1", "--gpus-per-node=8", "--time=60"]
        where = ["--chdir=/tmp", "--output=/dev/null"]
        wanted = [*argv, *where, *options, "--wrap", "sleep 3000"]
        return int(self._instance.exec(wanted, user=user).stdout)

    def _compete(self, job: int) -> None:
        """Fill what is free, and leave more waiting for every node that gets free, with a higher priority."""
        rival = [*RIVAL, "--priority=200000"]
        self._submit(1, argv=[*rival, f"--array=1-{SMALL}"])
        self._submit(BIG, argv=rival)
        self._until("nothing is free", lambda: self._nothing_free(), 60)
        waiting = Counter(one.state for one in self._slurm.jobs() if one.id != job)
        assert waiting[JobState.PENDING] == 2, f"The rest of the small ones and the big one do not wait: {waiting}."

    def _nothing_free(self) -> bool:
        reserved = set(self._spares() or ())
        return all(node.gpus_allocated or node.name in reserved for node in self._slurm.nodes())

    def _spares(self) -> list[NodeName] | None:
        found = [one for one in self._slurm.reservations() if one.name == "gpuaas-spares"]
        return list(expand_nodes(found[0].nodes)) if found else None

    def _running(self, job: int, restarts: int = 0) -> tuple[NodeName, ...] | None:
        (found,) = self._wire.get(f"/slurm/v0.0.42/job/{job}", _JobAnswer).jobs
        runs = "RUNNING" in found.job_state and found.restart_cnt >= restarts
        return expand_nodes(found.nodes) if runs else None

    def _others_on(self, nodes: set[NodeName], job: int) -> Counter[int]:
        return Counter(
            one.id for one in self._slurm.jobs() if one.id != job and one.state == "RUNNING" and nodes & set(one.nodes)
        )

    def _until(self, what: str, condition: Callable[[], T | None], seconds: float) -> T:
        return self._instance.wait_for(what, condition, seconds=seconds, every=POLL_S)


def _leaf_of(node: NodeName) -> int:
    """Leaf groups of `haein` are 32 nodes each."""
    return (int(node.rpartition("-")[2]) - 1) // 32


def _leaf(nodes: set[NodeName]) -> int:
    return Counter(map(_leaf_of, nodes)).most_common(1)[0][0]


def spares_kept(instance: Instance) -> AbstractContextManager[None]:
    """A spare in each leaf group, and a breaker that lets as many nodes go as there are runs."""
    spares = {"nodes": 5, "interval": 1}
    breaker = {"drains": 10 * RUNS, "share": 100, "per_leaf": 10 * RUNS}
    return configured(instance, "health", breaker=breaker, spares=spares)
