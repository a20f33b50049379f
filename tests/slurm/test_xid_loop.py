"""From a broken GPU to a job running again on good nodes: real Slurm, real gpuaasd, real agent, real NVML binding."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

from slurm_gpuaas.domain.policy import expand_nodes
from slurm_gpuaas.testbed import boot
from slurm_gpuaas.testbed.instance import Instance
from slurm_gpuaas.testbed.rootfs import SOURCE
from slurm_gpuaas.testbed.sim import SimulatedNode
from tests.slurm.configured import configured

pytestmark = pytest.mark.slurm

T = TypeVar("T")

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
name: mini
cluster: mini
model: b200
shares:
  - {name: gov, nodes: "b200-[01-08]"}
---
kind: Grant
name: vision-all
project: vision
pool: mini
share: gov
gpus: 64
starts: 2026-01-01
ends: 2099-12-31
"""


class Site:
    """A mini cluster with gpuaasd and gpuaas-agent, a policy in force, and alice in it."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance

    def apply_policy(self) -> None:
        self.instance.write("/tmp/policy.yaml", POLICY)
        self.instance.exec(["gpuaas", "policy", "apply", "--yes", "-f", "/tmp/policy.yaml"], user="gpuaas")

    def hardware(self, node: str) -> SimulatedNode:
        return SimulatedNode(self.instance.path(f"/run/gpuaas-sim/{node}"))

    def node(self, name: str) -> dict[str, Any]:
        answer = json.loads(self.instance.exec(["scontrol", "show", "node", name, "--json"]).stdout)
        (node,) = answer["nodes"]
        return dict(node)

    def job(self, job_id: int) -> dict[str, Any]:
        answer = json.loads(self.instance.exec(["scontrol", "show", "job", str(job_id), "--json"]).stdout)
        (job,) = answer["jobs"]
        return dict(job)

    def submit(self, *options: str) -> int:
        argv = ["sbatch", "--parsable", "--chdir=/tmp", "--output=/dev/null", *options, "--wrap", "sleep 600"]
        return int(self.instance.exec(argv, user="alice").stdout)

    def running(self, job_id: int, restarts: int = 0) -> str | None:
        """The nodes of a job that runs, after so many restarts."""
        job = self.job(job_id)
        runs = job["job_state"] == ["RUNNING"] and job["restart_cnt"] >= restarts
        return str(job["nodes"]) if runs else None

    def drained(self, name: str) -> str | None:
        """The reason of a node that is drained."""
        node = self.node(name)
        return str(node["reason"]) if "DRAIN" in node["state"] else None

    def until(self, what: str, condition: Callable[[], T | None], seconds: float = 30) -> T:
        return self.instance.wait_for(what, condition, seconds=seconds, every=0.01)

    def incidents(self) -> list[dict[str, Any]]:
        answer = json.loads(self.instance.exec(["gpuaas", "incident", "list", "--json"], user="gpuaas").stdout)
        return list(answer["incidents"] if isinstance(answer, dict) else answer)

    def mend(self) -> None:
        """All nodes whole and back in service, no job left."""
        self.instance.exec(["scancel", "--quiet", "--user=alice"], check=False)
        for name in self.instance.cluster.node_names():  # first: a check must find nothing once incidents are closed
            self.hardware(name).reboot()
        for incident in self.incidents():
            argv = ["gpuaas", "incident", "close", incident["id"], "--reason", "mended"]
            self.instance.exec(argv, user="gpuaas")
        for name in self.instance.cluster.node_names():
            if self.drained(name):
                self.instance.exec(["scontrol", "update", f"NodeName={name}", "State=RESUME"])
        self.until("no incident open", lambda: True if not self.incidents() else None)
        self.until("all idle", lambda: boot.node_states(self.instance)["idle"] == 8 or None)


@pytest.fixture(scope="module")
def mini_with_daemon() -> Iterator[Site]:
    instance = Instance.up("mini", f"pytest-{os.getpid()}-xid", daemon=True)
    site = Site(instance)
    site.apply_policy()
    yield site
    instance.down()


@pytest.fixture
def site(mini_with_daemon: Site) -> Iterator[Site]:
    yield mini_with_daemon
    mini_with_daemon.mend()


def test_xid_79_ends_as_a_drained_node_and_the_job_running_elsewhere(site: Site) -> None:
    job = site.submit("--nodes=2", "--gpus-per-node=8")
    before = site.until("the job runs", lambda: site.running(job))
    assert before == "b200-[01-02]"
    site.hardware("b200-02").xid(79, 3)
    reason = site.until("b200-02 is drained", lambda: site.drained("b200-02"))
    (incident,) = site.incidents()
    assert reason == f"gpuaas:{incident['id']}: XID 79 GPU has fallen off the bus, GPU 3 (0000:61:00)"
    after = site.until("the job runs again", lambda: site.running(job, restarts=1))
    assert after == "b200-[01,03]"
    assert site.job(job)["restart_cnt"] == 1
    assert site.node("b200-02")["reason_set_by_user"] == "gpuaas"


def test_an_application_error_drains_nothing(site: Site) -> None:
    job = site.submit("--nodes=1", "--gpus-per-node=8")
    node = site.until("the job runs", lambda: site.running(job))
    for code in (13, 31, 43, 45):
        site.hardware(node).xid(code, 0, pid=4242, process="python3")
    # A fatal error elsewhere, told later, shows that the earlier ones were taken.
    site.hardware("b200-08").xid(48, 1)
    site.until("b200-08 is drained", lambda: site.drained("b200-08"))
    assert site.drained(node) is None
    assert site.running(job) == node
    assert len(site.incidents()) == 1


def test_a_reason_set_by_hand_stays(site: Site) -> None:
    site.instance.exec(["scontrol", "update", "NodeName=b200-05", "State=DRAIN", "Reason=cable swap, kim"])
    site.hardware("b200-05").xid(79, 0)
    site.until("the incident is known", lambda: site.incidents() or None)
    site.until("it was looked at", lambda: site.incidents()[0]["state"] in {"draining", "drained"} or None)
    assert site.drained("b200-05") == "cable swap, kim"


def test_what_happened_while_the_daemon_was_dead_is_acted_on_when_it_is_back(site: Site) -> None:
    site.instance.stop(boot.GPUAASD, signal_name="KILL")
    site.hardware("b200-04").xid(79, 2)
    site.hardware("b200-06").xid(95, 2)
    site.instance.start(boot.GPUAASD)
    for node in ("b200-04", "b200-06"):
        site.until(f"{node} is drained", lambda node=node: site.drained(node), seconds=40)  # type: ignore[misc]
    assert len(site.incidents()) == 2


def test_a_drain_that_a_killed_slurmctld_forgot_is_set_again(site: Site) -> None:
    # It writes its nodes down when it ends, and some seconds after a change. Whether those are over when it is killed
    # is chance, so it is given back what it wrote before the drain.
    site.instance.stop(boot.SLURMCTLD)
    written = site.instance.path("/var/spool/slurmctld/node_state").read_bytes()
    site.instance.start(boot.SLURMCTLD)
    site.until("all idle", lambda: boot.node_states(site.instance)["idle"] == 8 or None)
    site.hardware("b200-03").xid(79, 2)
    reason = site.until("b200-03 is drained", lambda: site.drained("b200-03"))
    site.instance.stop(boot.SLURMCTLD, signal_name="KILL")
    site.instance.path("/var/spool/slurmctld/node_state").write_bytes(written)
    site.instance.start(boot.SLURMCTLD)

    def again() -> int:
        """It may be seen and mended before anybody else could look."""
        trail = site.instance.exec(["gpuaas", "audit", "list", "--subject", "b200-03"], user="gpuaas").stdout
        return trail.count("node.drain-again")

    site.until("gpuaasd has drained it again", lambda: again() or None, seconds=40)
    site.until("b200-03 is drained as before", lambda: site.drained("b200-03") == reason or None)
    (incident,) = site.incidents()
    assert incident["state"] in {"draining", "drained"}
    assert again() == 1


def test_what_happened_while_the_agent_was_dead_is_told_once_when_it_is_back(site: Site) -> None:
    agent = boot.agent(site.instance)
    site.instance.stop(agent, signal_name="KILL")
    site.hardware("b200-07").xid(79, 2)
    site.instance.start(agent)
    site.until("b200-07 is drained", lambda: site.drained("b200-07"))
    (incident,) = site.incidents()

    def told() -> int:
        """NVML and the checks tell at start what they see now; of what was, the kernel log tells."""
        argv = ["gpuaas", "incident", "show", incident["id"], "--json"]
        events = json.loads(site.instance.exec(argv, user="gpuaas").stdout)["events"]
        return [event["source"] for event in events].count("kernel-log")

    site.until("the kernel log has told", lambda: told() or None)
    assert told() == 1


def test_a_gpu_that_vanished_without_an_xid_while_the_agent_was_dead_is_found(site: Site) -> None:
    agent = boot.agent(site.instance)
    job = site.submit("--nodes=1", "--gpus-per-node=8", "--nodelist=b200-07")
    site.until("the job runs", lambda: site.running(job))
    site.instance.stop(agent, signal_name="KILL")
    site.hardware("b200-07").set(2, {"lost": "1"})
    site.instance.start(agent)
    reason = site.until("b200-07 is drained", lambda: site.drained("b200-07"))
    assert reason.partition(": ")[2].startswith("check gpu-count critical: GPU 2 (0000:52:00): gpus missing 1")
    site.hardware("b200-07").set(2, {"lost": "0"})
    site.instance.exec(["gpuaas-agent", "--nodes", "b200-07", "check", "--once", "--dry-run", "--only", "gpu-count"])


def test_a_prolog_that_finds_a_fault_keeps_the_job_off_the_node(site: Site) -> None:
    """The finding is reported and the Prolog fails; both drain the node, whoever is first."""
    instance = site.instance
    conf = instance.path("/etc/slurm/slurm.conf")
    before = conf.read_text()
    program = f"{SOURCE}/plugins/prolog_health"
    try:
        conf.write_text(f"{before}\nProlog={program}\nPrologFlags=Alloc\n")
        instance.exec(["scontrol", "reconfigure"])
        good = site.submit("--nodes=1", "--gpus-per-node=8", "--nodelist=b200-05")
        site.until("a job of a healthy node runs", lambda: site.running(good))
        site.hardware("b200-06").set(3, {"pcie_width": "8"})
        bad = site.submit("--nodes=1", "--gpus-per-node=8", "--nodelist=b200-06")
        reason = site.until("b200-06 is drained", lambda: site.drained("b200-06"))
        assert "Prolog error" in reason or "pcie critical" in reason
        (incident,) = site.until("gpuaasd was told", lambda: site.incidents() or None)
        assert incident["headline"].startswith("check pcie critical: GPU 3 (0000:61:00): pcie lanes missing 8")
        assert site.job(bad)["job_state"] != ["RUNNING"]
    finally:
        site.hardware("b200-06").set(3, {"pcie_width": "16"})
        conf.write_text(before)
        instance.exec(["scontrol", "reconfigure"])


def test_a_forged_report_is_refused(site: Site) -> None:
    """An unprivileged user has no node key, the kernel log takes the kernel's word only, and what a job says of itself
    is nobody's evidence. A report that was sent before is refused, too (tests/unit/api/test_signing.py); a user cannot
    even see one."""
    text = "NVRM: Xid (PCI:0000:61:00): 79, GPU has fallen off the bus."
    site.hardware("b200-03").log(text, priority=3 + 8 * 1)
    said = (f"--comment=gpuaas:i7690b68e67: {text}", f"--job-name={text}", "--nodelist=b200-03", "--nodes=1")
    job = site.submit(*said, "--gpus-per-node=8")
    site.until("the job runs", lambda: site.running(job))
    body = '{"node": "b200-03", "events": []}'
    curl = (
        "import sys, urllib.request, urllib.error\n"
        "request = urllib.request.Request('http://127.0.0.1:6880/api/v1/node-events', sys.argv[1].encode(),\n"
        "    {'Content-Type': 'application/json', 'X-Gpuaas-Node': 'b200-03', 'X-Gpuaas-Time': sys.argv[2],\n"
        "     'X-Gpuaas-Nonce': 'abc', 'X-Gpuaas-Signature': '0' * 64})\n"
        "try: urllib.request.urlopen(request)\n"
        "except urllib.error.HTTPError as error: print(error.code)\n"
    )
    refused = site.instance.exec(["python3", "-c", curl, body, str(int(time.time()))], user="alice")
    assert refused.stdout.strip() == "401"
    refused = site.instance.exec(["cat", "/etc/gpuaas/agents.key"], user="alice", check=False)
    assert refused.returncode != 0
    site.hardware("b200-08").xid(48, 1)
    site.until("b200-08 is drained", lambda: site.drained("b200-08"))
    assert site.drained("b200-03") is None
    assert site.running(job) == "b200-03"
    assert [incident["node"] for incident in site.incidents()] == ["b200-08"]


def test_a_drain_waits_for_no_round_of_the_daemon(site: Site) -> None:
    """How long it takes is for `make bench GROUP=health` to say."""
    with configured(site.instance, "health", interval=3_600):
        for node in ("b200-01", "b200-02"):
            site.hardware(node).xid(79, 3)
            site.until(f"{node} is drained", lambda node=node: site.drained(node))  # type: ignore[misc]


def test_the_loop_closes_on_the_oldest_slurm_too() -> None:
    """There gpuaasd has no pyslurm, and slurmrestd no words for a requeue or a reservation."""
    instance = Instance.up("mini", f"pytest-{os.getpid()}-xid-2411", slurm="24.11", daemon=True)
    try:
        site = Site(instance)
        site.apply_policy()
        job = site.submit("--nodes=2", "--gpus-per-node=8")
        first, _second = expand_nodes(site.until("the job runs", lambda: site.running(job)))
        site.hardware(first).xid(79, 3)
        reason = site.until(f"{first} is drained", lambda: site.drained(first))
        (incident,) = site.incidents()
        assert reason.startswith(f"gpuaas:{incident['id']}: XID 79")
        assert first not in expand_nodes(site.until("the job runs again", lambda: site.running(job, restarts=1)))
        status = json.loads(instance.exec(["gpuaas", "status", "--json"], user="gpuaas").stdout)
        assert status["driver"]["name"] == "slurmrestd"
        assert [one["name"] for one in status["controllers"] if one["errors"]] == []
        gate = instance.exec(["scontrol", "--oneliner", "show", "reservation", "gpuaas-placement-gate"]).stdout
        assert "Licenses=placement:1000000" in gate
        refused = instance.exec(["sbatch", "--gpus=8", "--wrap=true"], user="mallory", check=False)
        assert "User mallory is in no project" in refused.stderr
        assert instance.exec(["gpuaas", "doctor"], user="gpuaas", check=False).returncode == 0
        plan = instance.exec(["gpuaas", "policy", "plan"], user="gpuaas")
        assert "nothing to do" in plan.stdout
    finally:
        instance.down()
