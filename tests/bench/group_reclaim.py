"""A guaranteed job of 32 nodes on a cluster full of burst jobs: seconds from submission to start, and who gave way.

Ours is decided by the quota core (the placement gate gives the job its victims' nodes); the alternative is Slurm's own
preemption, which an array of one task gets, because the gate leaves arrays to Slurm. Both take turns on one cluster.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from slurm_gpuaas.testbed.instance import Instance
from tests.bench.model import BenchContext, BenchRow, side_by_side

RUNS = 10
NODES = 32
POLICY = "/run/bench-policy.yaml"
PARTITION, BURST = "bench-all", "burst-bench-all"
OVER, FAIR = [8] * 10, [1] * 49
"""Nodes of the burst jobs of a borrower far over its fair share, and of one within it: together all 129 nodes."""


@dataclass(frozen=True)
class Start:
    seconds: float
    right: bool
    """Whether the youngest jobs of the borrower furthest over its share gave way, and nobody else."""


def run(context: BenchContext) -> list[BenchRow]:
    instance = context.testbed("haein")
    instance.write(POLICY, yaml.safe_dump_all(_policy()))
    instance.exec(["gpuaas", "policy", "apply", "--yes", "-f", POLICY])
    starts: dict[str, list[Start]] = {"ours": [], "slurm": []}

    def start(way: str, *options: str) -> float:
        starts[way].append(_start(instance, *options))
        return starts[way][-1].seconds

    try:
        with context.step("Burst jobs on every node"):
            for user, project, sizes in (("bob", "over", OVER), ("carol", "fair", FAIR)):
                for nodes in sizes:
                    _submit(instance, user, project, BURST, nodes)
            _wait_for_full(instance)
        with context.step(f"A guaranteed job of {NODES} nodes, {RUNS} times by the quota core and by Slurm in turns"):
            ours, slurm = side_by_side(
                lambda: start("ours", "--licenses=placement:1"), lambda: start("slurm", "--array=0"), runs=RUNS
            )
    finally:
        instance.exec(["scancel", "--quiet", "--partition", PARTITION])
        instance.wait_for("No job left", lambda: not instance.exec(["squeue", "-h"]).stdout or None)
        instance.write(POLICY, "")
        instance.exec(["gpuaas", "policy", "apply", "--yes", "-f", POLICY])
    p90, other = (statistics.quantiles(values, n=10, method="inclusive")[-1] for values in (ours, slurm))
    right = {way: sum(one.right for one in found) for way, found in starts.items()}
    return [
        BenchRow(name="reclaim_32_nodes_p90_s", value=p90, unit="s", baseline=other, ratio=other / p90, runs=len(ours)),
        BenchRow(
            name="reclaim_right_victims",
            value=right["ours"],
            unit=f"of {RUNS}",
            baseline=right["slurm"],
            ratio=None,
            runs=len(ours),
        ),
    ]


def _policy() -> Iterator[dict[str, Any]]:
    yield {"kind": "Organisation", "name": "bench"}
    yield {
        "kind": "Pool", "name": "bench", "cluster": "haein", "model": "b200", "grace": 0,
        "shares": [{"name": "all", "nodes": "b200-[001-129]", "partition": PARTITION}],
    }  # fmt: skip
    for project, user, gpus in (("owner", "alice", 8 * NODES), ("over", "bob", 0), ("fair", "carol", 0)):
        yield {"kind": "Project", "name": project, "organisation": "bench"}
        yield {"kind": "Member", "project": project, "user": user}
        yield {
            "kind": "Grant", "name": f"{project}-1", "project": project, "pool": "bench", "share": "all", "gpus": gpus,
            "starts": "2020-01-01", "ends": "2098-12-31",
        }  # fmt: skip


def _submit(instance: Instance, user: str, project: str, qos: str, nodes: int, *options: str) -> str:
    argv = ["sbatch", "--parsable", f"--account={project}", f"--partition={PARTITION}", f"--qos={qos}"]
    argv += [f"--nodes={nodes}", "--gpus-per-node=b200:8", "--time=1-0", "--requeue", "--output=/dev/null"]
    return instance.exec([*argv, *options, "--wrap=sleep 86400"], user=user, cwd="/tmp").stdout.strip()


def _start(instance: Instance, *options: str) -> Start:
    before = _running(instance)
    began = time.perf_counter()
    job = _submit(instance, "alice", "owner", "guaranteed-owner", NODES, *options)
    instance.wait_for("Start of the guaranteed job", lambda: job in _running(instance) or None, seconds=120, every=0.02)
    seconds = time.perf_counter() - began
    after = _running(instance)
    gone = [one for name, one in before.items() if name not in after]
    kept = [one["started"] for name, one in before.items() if name in after and one["account"] == "over"]
    right = (
        len(gone) == NODES // OVER[0]
        and all(one["account"] == "over" for one in gone)
        and max(kept) <= min(one["started"] for one in gone)
    )
    instance.exec(["scancel", "--quiet", job])
    _wait_for_full(instance)
    return Start(seconds, right)


def _running(instance: Instance) -> dict[str, dict[str, Any]]:
    jobs = json.loads(instance.exec(["squeue", "--json", "--states=RUNNING", "--partition", PARTITION]).stdout)["jobs"]
    return {
        str(job["array_job_id"]["number"] or job["job_id"]): {
            "account": job["account"],
            "started": job["start_time"]["number"],
        }
        for job in jobs
    }


def _wait_for_full(instance: Instance) -> None:
    """Until all burst jobs run again."""
    instance.wait_for(
        "All burst jobs run", lambda: len(_running(instance)) == len(OVER) + len(FAIR) or None, seconds=120, every=0.2
    )
