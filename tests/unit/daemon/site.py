"""A whole daemon's inside on fakes: real store, real controllers, in-memory Slurm."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cached_property
from pathlib import Path

from starlette.testclient import TestClient
from starlette.types import ASGIApp

from slurm_gpuaas.api.client import Client
from slurm_gpuaas.api.models import DriverStatus
from slurm_gpuaas.daemon.app import Wiring, make_agents_api, make_api
from slurm_gpuaas.daemon.config import AdministratorsConfig, Config
from slurm_gpuaas.daemon.identity import Identities
from slurm_gpuaas.daemon.loop import Scheduled
from slurm_gpuaas.daemon.main import terms
from slurm_gpuaas.daemon.metrics import Metrics
from slurm_gpuaas.daemon.portal_client import Portal
from slurm_gpuaas.daemon.runtime import Runtime, compose
from slurm_gpuaas.daemon.server import Server, as_peer, bind_unix
from slurm_gpuaas.domain.names import AccountName
from slurm_gpuaas.domain.policy import Grant, Member, Organisation, Policy, Pool, Project
from slurm_gpuaas.slurm.records import Account, AccountingState
from tests.fakes import FakeAccounting, FakeClock, FakeController, FakeLimits, FakePartitions, FakeTopologies, make_node
from tests.stores import new_store

ADMINISTRATOR = 0
RESEARCHER = 65534
"""uid of `nobody`, a user that every machine has; a member of project `vision`."""
MASTER_KEY = bytes(range(32))

ROOT = Account(name=AccountName("root"), parent=None, description="default root account", organization="root")

POLICY = Policy.of(
    [
        Organisation.model_validate({"name": "kaist"}),
        Project.model_validate({"name": "vision", "organisation": "kaist"}),
        Project.model_validate({"name": "speech", "organisation": "kaist"}),
        Member.model_validate({"project": "vision", "user": "nobody"}),
        Member.model_validate({"project": "speech", "user": "alice"}),
        Pool.model_validate(
            {
                "name": "haein",
                "cluster": "mini",
                "model": "b200",
                "shares": [{"name": "own", "nodes": "b200-[001-004]", "partition": "own"}],
            }
        ),
        *(
            Grant.model_validate(
                {
                    "name": f"g-{project}",
                    "project": project,
                    "pool": "haein",
                    "share": "own",
                    "gpus": 16,
                    "starts": date(2027, 1, 1),
                    "ends": date(2027, 12, 31),
                    "budget_gpu_hours": 1_000,
                }
            )
            for project in ("vision", "speech")
        ),
    ]
)

TOPOLOGY = """\
- topology: fabric
  cluster_default: true
  tree:
    switches:
      - {switch: root, children: "leaf-[01-02]"}
      - {switch: leaf-01, nodes: "b200-[001-002]"}
      - {switch: leaf-02, nodes: "b200-[003-004]"}
"""


@dataclass
class Site:
    folder: Path
    clock: FakeClock = field(default_factory=FakeClock)
    ready: list[str] = field(default_factory=list)
    more: dict[str, object] = field(default_factory=dict)
    """Sections of the configuration."""
    portal: Portal | None = None
    """With a section `pool`."""

    def __post_init__(self) -> None:
        names = [f"b200-00{number}" for number in range(1, 5)]
        self.controller = FakeController([make_node(name) for name in names], clock=self.clock)
        self.accounting = FakeAccounting(AccountingState(accounts={ROOT.name: ROOT}))
        partitions = FakePartitions()
        self.limits = FakeLimits(self.accounting, self.controller, partitions)
        (self.folder / "slurm").mkdir()
        self.topologies = FakeTopologies(self.folder / "slurm" / "topology.yaml")
        config = Config.model_validate(
            {
                "cluster": "mini",
                "state_dir": self.folder,
                "slurm": {
                    "partitions_file": self.folder / "slurm" / "partitions.conf",
                    "topology_file": self.folder / "slurm" / "topology.yaml",
                },
                "hook": {"snapshot": self.folder / "snapshot"},
                "estimates": {"folder": self.folder / "estimates"},
                "metering": {"begin": self.clock.at - timedelta(days=1)},
                **self.more,
            }
        )
        self.store = new_store(Path(self.folder, "gpuaas.db"), terms=terms(config))
        self.metrics = Metrics(lambda: self.runtime.operations)
        self.runtime: Runtime = compose(
            config,
            store=self.store,
            controller=self.controller,
            accounting=self.accounting,
            partitions=partitions,
            limits=self.limits,
            topologies=self.topologies,
            driver=lambda: DriverStatus(name="fake", fallback=False, reason=""),
            clock=self.clock,
            observe=self.metrics.observe_tick,
            portal=self.portal,
        )
        self.wiring = Wiring(
            operations=lambda: self.runtime.operations,
            identities=Identities(AdministratorsConfig()),
            not_ready=lambda: self.ready,
            metrics=self.metrics.page,
            master_key=MASTER_KEY,
            clock=self.clock,
        )

    def describe_fabric(self) -> None:
        """Two leaf groups of two nodes; without it Slurm has no topology.yaml."""
        (self.folder / "slurm" / "topology.yaml").write_text(TOPOLOGY)

    @cached_property
    def api(self) -> ASGIApp:
        return make_api(self.wiring)

    def tick(self, controller: str) -> None:
        """One tick of a controller, as the loop runs it."""
        self.runtime.loop.tick(self.scheduled(controller))

    def scheduled(self, controller: str) -> Scheduled:
        return next(one for one in self.runtime.loop.scheduled if one.name == controller)

    def http(self, uid: int | None) -> TestClient:
        """The API as a user meets it; None = nobody knows who."""
        app = self.api
        return TestClient(app if uid is None else as_peer(app, uid), raise_server_exceptions=False)

    def agents_http(self) -> TestClient:
        return TestClient(make_agents_api(self.wiring), raise_server_exceptions=False)

    @contextmanager
    def client(self, uid: int = ADMINISTRATOR) -> Iterator[Client]:
        """The real client over a real UNIX socket."""
        with served(as_peer(self.api, uid), self.folder / f"{uid}.sock") as path, Client(path) as client:
            yield client


@contextmanager
def served(app: ASGIApp, path: Path) -> Iterator[Path]:
    """Serves the app on a UNIX socket from a thread of its own."""
    server = Server(app, bind_unix(path))
    thread = threading.Thread(target=lambda: asyncio.run(server.run_until_stopped()))
    thread.start()
    try:
        yield path
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive(), "the server did not stop"
