"""The real gpuaasd beside real Slurm: who may what, hand-over, crashes, a missing driver, a clean stop."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest

from slurm_gpuaas.daemon.leader import leadership_for
from slurm_gpuaas.testbed.instance import Instance
from slurm_gpuaas.testbed.sim import SimulatedNode

pytestmark = pytest.mark.slurm

T = TypeVar("T")

FOLDER = "/var/lib/gpuaas/test-daemon"
SOCKET = f"{FOLDER}/gpuaasd.sock"

CONFIG = f"""\
cluster: mini
state_dir: {FOLDER}
store: {{url: "sqlite:///{FOLDER}/gpuaas.db"}}
api: {{socket: {SOCKET}}}
hook: {{snapshot: {FOLDER}/snapshot}}
estimates: {{folder: {FOLDER}/estimates}}
policy: {{interval: 5}}
"""

AGENT = f"""\
daemon: unix:{SOCKET}
master_key: /etc/gpuaas/agents.key
simulated_hardware: /run/gpuaas-sim
spool: {FOLDER}/spool/{{node}}
heartbeat: 0.5
"""

POLICY = """\
kind: Organisation
name: hanbit
---
kind: Project
name: vision
organisation: hanbit
---
kind: Project
name: speech
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
name: g-vision
project: vision
pool: mini
share: gov
gpus: 32
starts: 2026-01-01
ends: 2099-12-31
---
kind: Grant
name: g-speech
project: speech
pool: mini
share: gov
gpus: 16
starts: 2026-01-01
ends: 2099-12-31
"""
EMPTY = "---\n"


class Gpuaasd:
    """One daemon process inside the testbed, as user gpuaas."""

    def __init__(self, instance: Instance, config: str, log: Path, env: Mapping[str, str] | None = None) -> None:
        self.instance = instance
        self.log = log
        with log.open("w") as stderr:
            self.process = instance.popen(
                ["gpuaasd", "--config", config], user="gpuaas", env=env, stderr=stderr, stdout=subprocess.DEVNULL
            )

    def wait_for(self, what: str, condition: Callable[[], T | None], seconds: float = 120) -> T:
        def unless_dead() -> T | None:
            assert self.process.poll() is None, f"gpuaasd ended with {self.process.returncode}: {self.log.read_text()}"
            return condition()

        return self.instance.wait_for(what, unless_dead, seconds=seconds)

    def leads(self) -> None:
        self.wait_for("leading", lambda: '"event": "leading"' in self.log.read_text())

    def kill(self) -> None:
        """kill -9: the daemon dies with the process that entered the testbed for it."""
        self.process.kill()
        self.process.wait(10)

    def terminate(self) -> int:
        """SIGTERM; its exit code."""
        pid = self.instance.path(f"{FOLDER}/leader.lock").read_text().strip()
        self.instance.exec(["kill", "-TERM", pid])
        return self.process.wait(60)


class Site:
    def __init__(self, instance: Instance, tmp_path: Path) -> None:
        self.instance = instance
        self._logs = (tmp_path / f"gpuaasd-{number}.log" for number in count())
        self._started = ExitStack()

    def start(self, *, env: Mapping[str, str] | None = None, more: str = "") -> Gpuaasd:
        self.instance.write(f"{FOLDER}/gpuaasd.yaml", CONFIG + more, owner="gpuaas")
        daemon = Gpuaasd(self.instance, f"{FOLDER}/gpuaasd.yaml", next(self._logs), env)
        self._started.callback(daemon.kill)
        return daemon

    def gpuaas(self, *argv: str, user: str = "gpuaas", stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return self.instance.exec(["gpuaas", *argv], user=user, stdin=stdin, env={"GPUAAS_SOCKET": SOCKET}, check=False)

    def read(self, *argv: str, user: str = "gpuaas") -> Any:
        done = self.gpuaas(*argv, "--json", user=user)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def apply(self, policy: str) -> subprocess.CompletedProcess[str]:
        return self.gpuaas("policy", "apply", "--yes", "-f", "-", stdin=policy)

    def projects_in_slurm(self) -> list[str]:
        rows = self.instance.exec(["sacctmgr", "-nP", "show", "account", "format=Account,Descr"]).stdout.splitlines()
        return sorted(name for name, _, what in (row.partition("|") for row in rows) if "gpuaas:project:" in what)

    def stop(self) -> None:
        self._started.close()


@pytest.fixture(scope="module")
def folder(mini: Instance, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The daemons' folder, kept from test to test as it would be; in the end Slurm is as it was."""
    mini.make_folder(FOLDER, owner="gpuaas")
    yield
    site = Site(mini, tmp_path_factory.mktemp("last"))
    site.start().leads()
    applied = site.apply(EMPTY)
    site.stop()
    assert applied.returncode == 0, applied.stderr
    mini.exec(["rm", "-r", FOLDER])


@pytest.fixture
def site(mini: Instance, folder: None, tmp_path: Path) -> Iterator[Site]:
    site = Site(mini, tmp_path)
    yield site
    site.stop()


def test_an_administrator_applies_and_a_researcher_sees_only_the_own(site: Site) -> None:
    site.start().leads()
    assert site.apply(POLICY).returncode == 0
    assert site.projects_in_slurm() == ["speech", "vision"]
    assert [project["name"] for project in site.read("project", "list", user="alice")] == ["vision"]
    assert len(site.read("project", "list")) == 2

    refused = site.gpuaas("policy", "export", user="alice")
    assert refused.returncode == 4
    assert refused.stderr.startswith("Error: alice may not read the policy")
    assert site.gpuaas("node", "drain", "b200-01", "--reason", "mine", user="alice").returncode == 4
    assert len(site.read("node", "list", user="mallory")) == 8
    assert site.read("project", "list", user="mallory") == []

    (gov,) = site.read("topology", "capacity", user="mallory")
    assert [(one["level"], one["nodes"]) for one in gov["largest"]] == [("leaf-group", 4), ("pod", 8), ("fabric", 8)]
    argv = ["sbatch", "--parsable", "--hold", "--output=/dev/null", "--account=vision", "--partition=mini-gov"]
    argv += ["--nodes=2", "--gpus-per-node=8", "--wrap=true"]
    job = site.instance.exec(argv, user="alice", cwd="/tmp").stdout.strip()
    why = site.read("job", "why", job, user="alice")
    assert (why["reason"], why["room"]["nodes"], why["room"]["missing"]) == ("JobHeldUser", 2, 0)
    assert site.gpuaas("job", "why", job, user="mallory").returncode == 3
    site.instance.exec(["scancel", job])


def test_drift_made_by_hand_is_shown_and_corrected(site: Site) -> None:
    site.start().leads()
    site.apply(POLICY)
    site.instance.exec(["sacctmgr", "-i", "modify", "qos", "guaranteed-vision", "set", "GrpTRES=gres/gpu=64"])
    shown = site.gpuaas("policy", "plan")
    assert shown.returncode == 2
    assert "guaranteed-vision" in shown.stdout
    site.instance.wait_for(
        "the correction", lambda: site.gpuaas("policy", "plan").returncode == 0, seconds=120, every=0.5
    )


def test_a_second_daemon_stands_by_and_takes_over_when_the_first_is_killed(site: Site) -> None:
    first = site.start()
    first.leads()
    site.apply(POLICY)
    second = site.start()
    second.wait_for("standing by", lambda: '"event": "standby"' in second.log.read_text())
    standby = site.instance.exec(["gpuaas", "--socket", f"{SOCKET}.standby", "status"], user="gpuaas", check=False)
    assert (standby.returncode, "stands by" in standby.stderr) == (5, True)

    first.kill()
    second.leads()
    assert len(site.read("project", "list")) == 2
    assert site.gpuaas("policy", "plan").returncode == 0


def test_killed_in_the_middle_of_an_apply_it_carries_on(site: Site) -> None:
    """Each round applies another policy, and the daemon dies on its way there."""
    for place, policy, projects in (
        ("quota.policy-stored", EMPTY, []),
        ("quota.2.written", POLICY, ["speech", "vision"]),
    ):
        doomed = site.start(env={"GPUAAS_FAILPOINT": place})
        doomed.leads()
        before = site.read("policy", "export")["revision"]
        lost = site.apply(policy)
        assert lost.returncode == 5, f"the daemon did not die at {place}: {lost.stdout} {lost.stderr}"
        doomed.process.wait(10)

        successor = site.start()
        successor.leads()
        successor.wait_for("the policy in Slurm", lambda: site.gpuaas("policy", "plan").returncode == 0)
        assert site.projects_in_slurm() == projects, place
        assert site.read("policy", "export")["revision"] == before + 1
        assert successor.terminate() == 0


def test_when_the_pyslurm_worker_is_killed_the_daemon_carries_on(site: Site) -> None:
    daemon = site.start()
    daemon.leads()
    before = site.read("status")["driver"]
    assert (before["name"], before["fallback"]) == ("pyslurm", False)
    site.instance.exec(["pkill", "-KILL", "-u", "gpuaas", "-f", "pyslurm_worker"])
    assert len(site.read("node", "list")) == 8
    daemon.wait_for("slurmrestd in its place", lambda: "slurm.driver" in daemon.log.read_text())
    daemon.wait_for("pyslurm again", lambda: site.read("status")["driver"]["name"] == "pyslurm")
    assert "controller.failed" not in daemon.log.read_text(), daemon.log.read_text()


def test_without_pyslurm_everything_goes_over_slurmrestd_and_status_says_why(site: Site) -> None:
    daemon = site.start(more='slurm: {worker: ["/no/such/worker"]}\n')
    daemon.leads()
    daemon.wait_for("a reading", lambda: site.read("status")["read_at"])
    driver = site.read("status")["driver"]
    assert (driver["name"], driver["fallback"]) == ("slurmrestd", True)
    assert "/no/such/worker" in driver["reason"]
    assert site.apply(POLICY).returncode == 0
    assert site.gpuaas("node", "drain", "b200-08", "--reason", "test").returncode == 0
    assert site.gpuaas("node", "resume", "b200-08").returncode == 0


def test_sigterm_ends_it_cleanly_with_its_worker_and_socket(site: Site) -> None:
    daemon = site.start()
    daemon.leads()
    daemon.wait_for("a reading", lambda: site.read("status")["read_at"])
    assert daemon.terminate() == 0
    assert not site.instance.path(SOCKET).exists()
    workers = site.instance.exec(["pgrep", "-u", "gpuaas", "-f", "pyslurm_worker"], check=False).stdout
    assert workers == ""
    unreachable = site.gpuaas("status")
    assert unreachable.returncode == 5
    assert "systemctl start gpuaasd" in unreachable.stderr


def test_how_busy_a_gpu_is_reaches_the_command_line(site: Site) -> None:
    node = SimulatedNode(site.instance.path("/run/gpuaas-sim/b200-07"))
    node.set(3, {"utilisation": "83"})
    site.start().leads()
    site.instance.write(f"{FOLDER}/agent.yaml", AGENT)
    agent = site.instance.popen(["gpuaas-agent", "--config", f"{FOLDER}/agent.yaml", "--nodes", "b200-07"])
    try:
        rows = site.instance.wait_for(
            "samples", lambda: [row for row in site.read("usage", "gpu", "--node=b200-07")["rows"] if row["known"]]
        )
    finally:
        agent.kill()
        agent.wait(10)
        node.set(3, {"utilisation": "0"})
    assert [row["busy_percent"] for row in rows] == [0, 0, 0, 83, 0, 0, 0, 0]
    assert rows[3]["serial"] == node.read_state()["gpu.3.serial"]


@pytest.mark.postgres
def test_on_postgresql_the_lock_goes_with_its_session(postgres_url: str, tmp_path: Path) -> None:
    one, two = leadership_for(postgres_url, tmp_path), leadership_for(postgres_url, tmp_path)
    assert one.acquire()
    assert one.acquire(), "asking again must stay true"
    assert not two.acquire()
    with psycopg.connect(postgres_url.replace("postgresql+psycopg:", "postgresql:"), autocommit=True) as administrator:
        administrator.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
        )
    assert not one.held(), "it believes in a lock whose session is gone"
    assert two.acquire()
    assert two.held()
    two.release()
