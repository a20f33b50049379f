"""A site on real Slurm with a portal beside it: what is accepted there is here within seconds, and all of it goes on
when the portal does not."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from slurm_gpuaas.testbed.instance import Instance
from tests.portal_process import SAID, SHOWN
from tests.slurm.test_daemon import Gpuaasd

pytestmark = pytest.mark.slurm

FOLDER = "/var/lib/gpuaas/test-pool"
PORTAL = "/var/lib/gpuaas/test-portal"
PEOPLE = "/run/gpuaas-people-test"
KEYS = "/etc/ssh/gpuaas-keys-test"
SEEN = f"{FOLDER}/seen"
"""Jobs end when it is there."""
PORT = 18080
MASTER = bytes(range(32))
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ2sC7WBoqP/lzMvlMQBbKdLEM2wWQKn8JZ4C+LwJ3qX"

CONFIG = f"""\
cluster: mini
state_dir: {FOLDER}
store: {{url: "sqlite:///{FOLDER}/gpuaas.db"}}
api: {{socket: {FOLDER}/gpuaasd.sock}}
hook: {{snapshot: {FOLDER}/snapshot}}
estimates: {{folder: {FOLDER}/estimates}}
policy: {{interval: 3600}}
metering: {{interval: 2}}
pool:
  url: http://127.0.0.1:{PORT}
  site: mini
  key_file: {FOLDER}/site.key
  shares: [government]
  interval: 1
  picture_every: 1
  people_file: {FOLDER}/people.json
  people_state: {PEOPLE}/state.json
"""

PEOPLE_CONFIG = f"""\
wanted: {FOLDER}/people.json
state: {PEOPLE}/state.json
keys: {KEYS}
homes: /home
"""

OWN = """\
kind: Pool
name: mini
cluster: mini
model: b200
shares:
  - {name: government, nodes: "b200-[01-06]"}
  - {name: own, nodes: "b200-[07-08]"}
"""

AWARD: list[dict[str, Any]] = [
    {"kind": "Organisation", "name": "kaist"},
    {"kind": "Project", "name": "vision", "organisation": "kaist"},
    {"kind": "Member", "project": "vision", "user": "gpu-bob"},
    {
        "kind": "Grant", "name": "g-vision", "project": "vision", "pool": "mini", "share": "government", "gpus": 16,
        "starts": "2026-01-01", "ends": "2099-12-31",
    },
]  # fmt: skip
TOO_MUCH = {**AWARD[3], "name": "g-more", "gpus": 100, "starts": "2026-02-01"}
BOB = {"user": "gpu-bob", "name": "Bob Kim", "keys": [KEY]}


class Pool:
    """Portal, gpuaasd and gpuaas-people inside one testbed, each started and killed by itself."""

    def __init__(self, instance: Instance, logs: Path) -> None:
        self.instance = instance
        self.logs = logs
        self.processes: dict[str, subprocess.Popen[Any]] = {}

    def start(self) -> None:
        """All of it, and the site's own policy in force."""
        self.start_portal()
        self.start_people()
        self.start_gpuaasd()
        self.gpuaas("policy", "apply", "--yes", "-f", "-", stdin=OWN)
        self.wait("the first poll", lambda: self.status()["heard_at"])

    def start_portal(self) -> None:
        argv = ["/opt/gpuaas/venv/bin/python", "-m", "tests.portal_process"]
        argv += [f"sqlite:///{PORTAL}/pool.db", f"{PORTAL}/master.key", str(PORT)]
        self._start("portal", argv, user="gpuaas", env={"PYTHONPATH": "/opt/gpuaas/src"})
        self.instance.wait_for("the portal", lambda: self.instance.listening(PORT) or None)

    def start_people(self) -> None:
        argv = ["/opt/gpuaas/venv/bin/python", "-m", "slurm_gpuaas.people", "--config", "/etc/gpuaas-people-test.yaml"]
        self._start("people", argv, user="root", env={"PYTHONPATH": "/opt/gpuaas/src"})

    def start_gpuaasd(self) -> Gpuaasd:
        daemon = Gpuaasd(self.instance, f"{FOLDER}/gpuaasd.yaml", self.logs / "gpuaasd.log")
        self.processes["gpuaasd"] = daemon.process
        daemon.leads()
        return daemon

    def _start(self, name: str, argv: list[str], *, user: str, env: dict[str, str]) -> None:
        with (self.logs / f"{name}.log").open("w") as log:
            self.processes[name] = self.instance.popen(argv, user=user, env=env, stderr=log, stdout=log)

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.wait(10)

    def stop(self) -> None:
        for name in list(self.processes):
            self.kill(name)

    def accept(self, documents: list[dict[str, Any]], people: list[dict[str, Any]]) -> None:
        """What the portal does when an offer is accepted."""
        body = json.dumps({"site": "mini", "documents": documents, "people": people})
        argv = ["python3", "-c", _POST, f"http://127.0.0.1:{PORT}{SAID}"]
        self.instance.exec(argv, stdin=body)

    def gpuaas_portal(self, *argv: str) -> None:
        code = "from slurm_gpuaas.portal.site_commands import group; group()"
        store = ["--store", f"sqlite:///{PORTAL}/pool.db", "--master-key", f"{PORTAL}/master.key"]
        python = ["/opt/gpuaas/venv/bin/python", "-c", code]
        self.instance.exec([*python, *argv[1:], *store], user="gpuaas", env={"PYTHONPATH": "/opt/gpuaas/src"})

    def shown(self) -> Any:
        """Jobs and node states in the newest picture that the portal has."""
        argv = ["python3", "-c", _GET, f"http://127.0.0.1:{PORT}{SHOWN}"]
        return json.loads(self.instance.exec(argv).stdout)

    def told(self) -> dict[int, str]:
        """Usage at the portal by job."""
        argv = ["python3", "-c", _TOLD, f"{PORTAL}/pool.db"]
        return {int(job): record for job, record in json.loads(self.instance.exec(argv).stdout)}

    def gpuaas(self, *argv: str, stdin: str | None = None) -> str:
        done = self.instance.exec(
            ["gpuaas", *argv], user="gpuaas", stdin=stdin, env={"GPUAAS_SOCKET": f"{FOLDER}/gpuaasd.sock"}
        )
        return done.stdout

    def status(self) -> Any:
        return json.loads(self.gpuaas("status", "--json"))["portal"]

    def wait(self, what: str, condition: Callable[[], object], *, seconds: float = 60) -> None:
        self.instance.wait_for(what, lambda: condition() or None, seconds=seconds)

    def associations(self) -> set[str]:
        rows = self.instance.exec(["sacctmgr", "-nP", "show", "assoc", "format=user,account,qos"]).stdout.split()
        return {row for row in rows if row.startswith("gpu-")}

    def passwd(self) -> list[str]:
        return [line for line in self.instance.path("/etc/passwd").read_text().splitlines() if line.startswith("gpu-")]


_POST = """
import sys, urllib.request
urllib.request.urlopen(urllib.request.Request(sys.argv[1], data=sys.stdin.read().encode()), timeout=10).read()
"""
_GET = """
import sys, urllib.request
print(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode())
"""
_TOLD = """
import json, sqlite3, sys
print(json.dumps(sqlite3.connect(sys.argv[1]).execute("SELECT job, record FROM test_usage").fetchall()))
"""


@contextmanager
def standing(instance: Instance, logs: Path) -> Iterator[Pool]:
    """A mini cluster's portal and site, configured and not yet started; nothing of them is left."""
    for folder in (FOLDER, PORTAL):
        instance.make_folder(folder, owner="gpuaas")
    instance.make_folder(PEOPLE, owner="root")
    instance.write(f"{FOLDER}/gpuaasd.yaml", CONFIG, owner="gpuaas")
    instance.write(f"{PORTAL}/master.key", MASTER.hex(), owner="gpuaas", mode=0o600)
    instance.write("/etc/gpuaas-people-test.yaml", PEOPLE_CONFIG)
    pool = Pool(instance, logs)
    pool.gpuaas_portal("site", "add", "mini", "--cluster", "mini", "--provider", "naver", "--out", f"{FOLDER}/site.key")
    try:
        yield pool
    finally:
        pool.stop()
        for line in pool.passwd():
            instance.exec(["userdel", "--remove", line.split(":")[0]], check=False)
        instance.exec(["rm", "-rf", FOLDER, PORTAL, PEOPLE, KEYS])


@pytest.fixture
def pool(mini: Instance, tmp_path: Path) -> Iterator[Pool]:
    with standing(mini, tmp_path) as pool:
        yield pool


def test_an_acceptance_is_in_slurm_and_the_login_opens_without_waiting_for_a_round(pool: Pool) -> None:
    """How long it takes is for `make bench GROUP=acceptance` to say; a poll that nothing wakes lasts 50 s."""
    pool.start()
    pool.accept([*AWARD, TOO_MUCH], [BOB])
    rows = {"gpu-bob|vision|burst-mini-government,guaranteed-vision"}
    pool.wait("association", lambda: pool.associations() == rows, seconds=30)
    keys = pool.instance.path(f"{KEYS}/gpu-bob")
    pool.wait("key", lambda: keys.exists() and keys.read_text() == f"{KEY}\n", seconds=30)
    (line,) = pool.passwd()
    assert line.startswith("gpu-bob:x:200000:")
    assert keys.stat().st_uid == 0
    assert keys.stat().st_mode & 0o777 == 0o644
    (left_out,) = pool.status()["left_out"]
    assert "g-more" in left_out
    assert "portal" in pool.gpuaas("policy", "show")

    # A job of theirs runs, and its usage arrives.
    argv = ["sbatch", "--parsable", "--gres=gpu:2", "--output=/dev/null", "-p", "mini-government"]
    wrap = ["--account=vision", "--qos=guaranteed-vision", "--wrap", f"until [ -e {SEEN} ]; do sleep 0.2; done"]
    taken: list[int] = []

    def submit() -> bool:
        """The partition lets the account in a moment after the association is there."""
        done = pool.instance.exec([*argv, *wrap], user="gpu-bob", cwd="/tmp", check=False)
        taken.extend(map(int, done.stdout.split()))
        return done.returncode == 0

    pool.wait("a job of theirs is taken", submit)
    (job,) = taken
    # The portal's picture has the job under its person, and a node that is drained.
    pool.wait("the job in the picture", lambda: [job, "running", "gpu-bob", 2] in pool.shown()["jobs"], seconds=30)
    pool.instance.exec(["scontrol", "update", "NodeName=b200-06", "State=DRAIN", "Reason=test"])
    pool.wait("the drain in the picture", lambda: pool.shown()["states"]["b200-06"] == "DRAINED", seconds=30)
    pool.instance.exec(["scontrol", "update", "NodeName=b200-06", "State=RESUME"])
    pool.instance.write(SEEN, "")
    pool.wait("usage at the portal", lambda: "COMPLETED" in pool.told().get(job, ""))

    # The portal is killed: the site goes on with what it has, takes its own policy, and says how old the word is.
    pool.kill("portal")
    pool.wait("trouble is noticed", lambda: pool.status()["heard_at"] and _failing(pool))
    pool.gpuaas("policy", "apply", "--yes", "-f", "-", stdin=OWN)
    assert pool.associations() == {"gpu-bob|vision|burst-mini-government,guaranteed-vision"}
    second = int(pool.instance.exec([*argv, *wrap], user="gpu-bob", cwd="/tmp").stdout)
    pool.wait("the job ended", lambda: "COMPLETED" in pool.instance.exec(
        ["sacct", "-nXP", "-o", "state", "-j", str(second)]).stdout)  # fmt: skip
    assert second not in pool.told()

    # It comes back, and all is told; the award is taken back, and the login closed.
    pool.start_portal()
    pool.wait("usage caught up", lambda: "COMPLETED" in pool.told().get(second, ""))
    pool.accept([], [])
    pool.wait("nothing of it in Slurm", lambda: not pool.associations())
    pool.wait("the login is closed", lambda: not keys.exists())
    pool.wait("the login has ended", lambda: any(
        line.split(":")[7] == "1" for line in pool.instance.path("/etc/shadow").read_text().splitlines()
        if line.startswith("gpu-bob:")))  # fmt: skip


def _failing(pool: Pool) -> bool:
    controllers = json.loads(pool.gpuaas("status", "--json"))["controllers"]
    return any(one["name"] == "pool-pull" and one["failures"] for one in controllers)
