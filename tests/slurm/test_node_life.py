"""From a fault to the node back in service, and to a node that nothing mends: real Slurm, gpuaasd and agent."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest
import yaml

from slurm_gpuaas.testbed import boot
from slurm_gpuaas.testbed.instance import Instance
from slurm_gpuaas.testbed.sim import SimulatedNode

pytestmark = pytest.mark.slurm

T = TypeVar("T")

CONFIG = "/etc/gpuaas/gpuaasd.yaml"
RESET = """\
#!/bin/sh
# Stands in for a reset of all GPUs of a node: it brings those of b200-02 back, and those of others not.
[ "$1" = b200-02 ] || exit 0
exec sed -i "s/^\\(gpu.*[.]lost\\) 1/\\1 0/" "/run/gpuaas-sim/$1/nvml.state"
"""
QUICK = """\
#!/bin/bash
# Fails while a simulated GPU of the node is off its bus.
! grep -q 'lost 1' "/run/gpuaas-sim/${SLURMD_NODENAME:?}/nvml.state"
"""
HEALTH = {
    "interval": 0.3,
    "breaker": {"share": 100},
    "repair": {
        "evidence": {"command": ["/bin/sh", "-c", "cp /run/gpuaas-sim/$0/nvml.state /tmp/$1 && echo /tmp/$1"]},
        "reset": {"command": ["/usr/local/sbin/sim-reset", "{node}"]},
        "reboot": {"slurm": True},
    },
    "verification": {"tests": {"quick": {"script": "/etc/gpuaas/quick.sh"}}},
    "probation": {"duration": 3, "largest_job": 1},
}
HEALTH["repair"]["evidence"]["command"] += ["{node}", "{attempt}"]  # type: ignore[index]


class Site:
    def __init__(self, instance: Instance) -> None:
        self.instance = instance

    def hardware(self, node: str) -> SimulatedNode:
        return SimulatedNode(self.instance.path(f"/run/gpuaas-sim/{node}"))

    def node(self, name: str) -> dict[str, Any]:
        (node,) = json.loads(self.instance.exec(["scontrol", "show", "node", name, "--json"]).stdout)["nodes"]
        return dict(node)

    def steps(self, node: str) -> list[str]:
        """States of the node's newest incident."""
        query = f"SELECT after FROM incident_transition WHERE node = '{node}' ORDER BY id"
        return [state for (state,) in self.rows(query)]

    def rows(self, query: str) -> list[list[Any]]:
        program = (
            "import json, sqlite3, sys\n"
            "print(json.dumps(sqlite3.connect('/var/lib/gpuaas/gpuaas.db').execute(sys.argv[1]).fetchall()))"
        )
        return list(json.loads(self.instance.exec(["python3", "-c", program, query], user="gpuaas").stdout))

    def jobs(self) -> list[tuple[str, str, str, str]]:
        """Name, state, nodes and user of the verification jobs that ran, as slurmdbd has them."""
        argv = [
            "sacct",
            "-X",
            "-n",
            "-P",
            "--allusers",
            "--starttime=now-1days",
            "--format=jobname,state,nodelist,user",
        ]
        lines = self.instance.exec(argv).stdout.splitlines()
        return [tuple(line.split("|")) for line in lines if line.startswith("gpuaas-verify-")]  # type: ignore[misc]

    def reservations(self) -> str:
        return self.instance.exec(["scontrol", "--oneliner", "show", "reservation"]).stdout

    def until(self, what: str, condition: Callable[[], T | None], seconds: float = 30) -> T:
        return self.instance.wait_for(what, condition, seconds=seconds, every=0.1)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    instance = Instance.up("mini", f"pytest-{os.getpid()}-life", daemon=True)
    instance.write("/usr/local/sbin/sim-reset", RESET, mode=0o755)
    instance.write("/etc/gpuaas/quick.sh", QUICK)
    instance.exec(["chmod", "-R", "a+rwX", "/run/gpuaas-sim"])  # gpuaasd's user repairs simulated hardware
    instance.stop(boot.GPUAASD)
    path = instance.path(CONFIG)
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "health": HEALTH}))
    instance.start(boot.GPUAASD)
    yield Site(instance)
    instance.down()


def test_a_node_comes_back_by_itself_after_repair_verification_and_probation(site: Site) -> None:
    site.hardware("b200-02").xid(95, 3)
    site.hardware("b200-02").set(3, {"lost": "1"})
    site.until("the node is in service", lambda: site.steps("b200-02")[-1:] == ["closed"] or None, seconds=60)
    assert site.steps("b200-02") == [
        "suspect",
        "draining",
        "drained",
        "repairing",
        "verifying",
        "probation",
        "closed",
    ]
    assert site.node("b200-02")["state"] == ["IDLE"]
    assert "gpuaas-verify" not in site.reservations()
    assert [job[1:] for job in site.jobs()] == [("COMPLETED", "b200-02", "gpuaas")]
    ((attempts, verification),) = site.rows("SELECT attempts, verification FROM incident WHERE node = 'b200-02'")
    (attempt,) = json.loads(attempts)
    assert (attempt["remedy"], attempt["outcome"]) == ("reset", "done")
    evidence = attempt["detail"].removeprefix("evidence: ")
    assert "gpu.3.lost 1" in site.instance.path(evidence).read_text(), "it was taken before the reset"
    assert json.loads(verification)["detail"] == "quick passed"
    assert site.rows("SELECT * FROM node_limit") == []
    causes = site.rows("SELECT DISTINCT cause FROM node_outage WHERE node = 'b200-02'")
    assert causes in ([], [["fault"]]), "its reset and its tests are part of the fault, where anybody looked"


def test_a_node_that_nothing_mends_ends_with_people(site: Site) -> None:
    hardware = site.hardware("b200-05")
    hardware.xid(95, 1)
    hardware.set(1, {"lost": "1"})
    # A reboot brings a simulated GPU back; this one breaks again at once.
    (before,) = (hardware.folder / "boot_id").read_text().split()
    site.until("reboot", lambda: (hardware.folder / "boot_id").read_text().split() != [before] or None, seconds=60)
    hardware.set(1, {"lost": "1"})
    site.until("people have it", lambda: site.steps("b200-05")[-1:] == ["rma"] or None, seconds=60)
    assert site.steps("b200-05") == [
        *("suspect", "draining", "drained"),
        *("repairing", "verifying", "drained"),
        *("repairing", "verifying", "drained"),
        "rma",
    ]
    node = site.node("b200-05")
    ((incident, attempts),) = site.rows("SELECT id, attempts FROM incident WHERE node = 'b200-05'")
    assert node["reason"].startswith(f"gpuaas:{incident}: XID 95")
    assert "DRAIN" in node["state"]
    assert [one["remedy"] for one in json.loads(attempts)] == ["reset", "reboot"]
    assert "gpuaas-verify" not in site.reservations()
    # The part was replaced: a person has it tested, and it comes back.
    hardware.set(1, {"lost": "0"})
    site.instance.exec(["gpuaas", "incident", "verify", incident, "--reason", "GPU 1 replaced"], user="gpuaas")
    site.until("the node is in service", lambda: site.steps("b200-05")[-1:] == ["closed"] or None, seconds=60)
    assert site.node("b200-05")["state"] == ["IDLE"]
