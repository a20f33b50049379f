"""A job of several nodes loses one: it runs again on the others and a spare, and nobody slips in between."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest
import yaml

from slurm_gpuaas.domain.policy import expand_nodes
from slurm_gpuaas.testbed import boot
from slurm_gpuaas.testbed.instance import Instance
from slurm_gpuaas.testbed.sim import SimulatedNode

pytestmark = pytest.mark.slurm

T = TypeVar("T")
CONFIG = "/etc/gpuaas/gpuaasd.yaml"
POLICY = """\
kind: Organisation
name: hanbit
---
{projects}
---
kind: Pool
name: mini
cluster: mini
grace: 0
model: b200
shares:
  - {{name: gov, nodes: "b200-[01-08]"}}
"""
PROJECT = """\
kind: Project
name: {project}
organisation: hanbit
---
kind: Member
project: {project}
user: {user}
---
kind: Grant
name: {project}
project: {project}
pool: mini
share: gov
gpus: {gpus}
starts: 2026-01-01
ends: 2099-12-31
"""
RAN = "/tmp/ran"
"""Every job writes its id and its node here when it starts there."""


class Site:
    def __init__(self, instance: Instance) -> None:
        self.instance = instance

    def apply_policy(self) -> None:
        projects = [("vision", "alice", 24), ("language", "bob", 24)]
        parts = "---\n".join(PROJECT.format(project=p, user=u, gpus=g) for p, u, g in projects)
        self.instance.write("/tmp/policy.yaml", POLICY.format(projects=parts))
        self.instance.exec(["gpuaas", "policy", "apply", "--yes", "-f", "/tmp/policy.yaml"], user="gpuaas")

    def restart_daemon(self, **health: object) -> None:
        self.instance.stop(boot.GPUAASD)
        file = self.instance.path(CONFIG)
        config = yaml.safe_load(file.read_text())
        config["health"] = config.get("health", {}) | health
        file.write_text(yaml.safe_dump(config))
        self.instance.start(boot.GPUAASD)

    def spares(self) -> dict[str, Any]:
        answer = self.instance.exec(["gpuaas", "spare", "list", "--json"], user="gpuaas")
        return dict(json.loads(answer.stdout))

    def spare_nodes(self) -> list[str]:
        return [node["node"] for pool in self.spares()["pools"] for node in pool["nodes"]]

    def submit(self, user: str, nodes: int, *options: str) -> int:
        script = f'srun bash -c "echo $SLURM_JOB_ID \\$SLURMD_NODENAME >> {RAN}"; sleep 600'
        argv = ["sbatch", "--parsable", "--chdir=/tmp", "--output=/dev/null", f"--nodes={nodes}"]
        argv += ["--ntasks-per-node=1", "--gpus-per-node=8", "--time=30", *options, "--wrap", script]
        return int(self.instance.exec(argv, user=user).stdout)

    def job(self, job_id: int) -> dict[str, Any]:
        answer = json.loads(self.instance.exec(["scontrol", "show", "job", str(job_id), "--json"]).stdout)
        (job,) = answer["jobs"]
        return dict(job)

    def running(self, job_id: int, restarts: int = 0) -> str | None:
        job = self.job(job_id)
        runs = job["job_state"] == ["RUNNING"] and job["restart_cnt"] >= restarts
        return str(job["nodes"]) if runs else None

    def fail(self, node: str) -> None:
        SimulatedNode(self.instance.path(f"/run/gpuaas-sim/{node}")).xid(79, 3)

    def reservations(self) -> str:
        return self.instance.exec(["scontrol", "--oneliner", "show", "reservation"]).stdout

    def until(self, what: str, condition: Callable[[], T | None], seconds: float = 30) -> T:
        return self.instance.wait_for(what, condition, seconds=seconds, every=0.05)

    def users_of(self, nodes: set[str]) -> set[int]:
        """Jobs that ever ran on one of the nodes, by what they wrote and by what squeue says."""
        lines = self.instance.exec(["cat", RAN], check=False).stdout.splitlines()
        wrote = {int(job) for job, node in (line.split() for line in lines) if node in nodes}
        rows = self.instance.exec(["squeue", "-h", "-t", "R", "-o", "%i %N"]).stdout.split("\n")
        runs = {int(r.split()[0]) for r in rows if r and nodes & set(expand_nodes(r.split()[1]))}
        return wrote | runs


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    instance = Instance.up("mini", f"pytest-{os.getpid()}-replace", daemon=True)
    site = Site(instance)
    site.apply_policy()
    instance.exec(["install", "-m", "666", "/dev/null", RAN])
    yield site
    instance.down()


def test_a_job_that_loses_a_node_comes_back_on_the_others_and_a_spare(site: Site) -> None:
    job = site.submit("alice", 3)
    assert site.until("alice's job runs", lambda: site.running(job)) == "b200-[01-03]"
    site.restart_daemon(spares={"nodes": 2, "interval": 1})
    spares = site.until("two spares", lambda: nodes if len(nodes := site.spare_nodes()) == 2 else None)
    assert spares == ["b200-04", "b200-05"], "one in each leaf group"
    assert "QOS=burst-mini-gov" in site.reservations()

    burst = [site.submit("bob", 1, "--qos=burst-mini-gov") for _ in range(7)]
    on = site.until("every other node is lent", lambda: _five(site, burst))
    lent = next(number for number, node in on.items() if node == "b200-04")
    big = site.submit("bob", 3)
    site.until("bob's guaranteed job takes burst nodes, not the spares", lambda: site.running(big))
    assert {"b200-04", "b200-05"}.isdisjoint(expand_nodes(str(site.running(big))))

    site.fail("b200-02")
    after = site.until("the job runs again", lambda: site.running(job, restarts=1))
    assert after == "b200-[01,03-04]"
    assert site.job(job)["restart_cnt"] == 1
    recovered = site.until("it is written down", lambda: _done(site, job))
    print(f"written {recovered['begun_at']} to {recovered['ended_at']}")
    assert (recovered["lost"], recovered["spares"]) == (["b200-02"], ["b200-04"])
    assert site.users_of({"b200-01", "b200-03"}) == {job}, "somebody slipped in"
    assert site.users_of({"b200-04"}) == {job, lent}
    assert "gpuaas-recover" not in site.reservations()
    assert site.job(job)["resv_name"] == ""
    placed = site.instance.exec(["gpuaas", "audit", "list", "--json"], user="gpuaas").stdout
    assert "job.make-room" in placed
    site.until("the pool says that it is thin", lambda: _thin(site))


def test_a_daemon_killed_in_the_middle_carries_on(site: Site) -> None:
    for user in ("bob", "alice"):
        site.instance.exec(["scancel", "--quiet", f"--user={user}"])
    site.until("all are gone", lambda: not site.instance.exec(["squeue", "-h"]).stdout)
    job = site.submit("alice", 2)
    before = expand_nodes(site.until("alice's job runs", lambda: site.running(job)))
    site.fail(before[1])
    name = f"gpuaas-recover-{job}"
    site.until("its nodes are kept", lambda: name in site.reservations() or None)
    site.instance.stop(boot.GPUAASD, signal_name="KILL")
    site.instance.start(boot.GPUAASD)
    after = expand_nodes(site.until("the job runs again", lambda: site.running(job, restarts=1)))
    assert before[0] in after
    assert before[1] not in after
    site.until("it is written down", lambda: _done(site, job))
    assert name not in site.reservations()


def _five(site: Site, jobs: list[int]) -> dict[int, str] | None:
    on = {number: node for number in jobs if (node := site.running(number))}
    return on if len(on) == 5 else None


def _done(site: Site, job: int) -> dict[str, Any] | None:
    found = [one for one in site.spares()["recoveries"] if one["job"] == job and one["state"] == "done"]
    return found[0] if found else None


def _thin(site: Site) -> bool | None:
    return next((True for pool in site.spares()["pools"] if pool["thin"]), None)
