"""A small gpuaasd for tests of the agent, and agents that report to it."""

from __future__ import annotations

import http.server
import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slurm_gpuaas.agent.config import Config
from slurm_gpuaas.agent.main import Agent
from slurm_gpuaas.api import signing
from slurm_gpuaas.api.node_events import NODE_EVENTS_PATH, NodeEventBatch
from slurm_gpuaas.api.node_samples import NODE_SAMPLES_PATH
from slurm_gpuaas.api.signing import Nonces, node_key, verify
from slurm_gpuaas.domain.clock import SystemClock
from slurm_gpuaas.domain.errors import GpuaasError
from slurm_gpuaas.domain.incidents import NodeEvent
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.telemetry import SampleBatch
from tests.simulated import NODES

MASTER = bytes(range(32))


class Daemon:
    """Takes node events and samples on a UNIX socket and checks their signatures."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.batches: list[NodeEventBatch] = []
        self.samples: list[SampleBatch] = []
        self.answer = 200
        self.answer_to_samples = 200
        self.refused: frozenset[int] = frozenset()
        """Codes of events that make it reject a message."""
        self.refuses_inventory = False
        self.connections = 0
        self._arrived = threading.Condition()
        self._server: socketserver.ThreadingUnixStreamServer | None = None

    @property
    def events(self) -> list[NodeEvent]:
        return [event for batch in self.batches for event in batch.events]

    def start(self) -> None:
        daemon, nonces = self, Nonces()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                daemon.connections += 1

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                try:
                    node = verify(
                        signing.NODES,
                        lambda name: node_key(MASTER, name),
                        method="POST",
                        target=self.path,
                        headers={key.title(): value for key, value in self.headers.items()},
                        body=body,
                        now=SystemClock().now(),
                        nonces=nonces,
                    )
                    batch: NodeEventBatch | SampleBatch | None
                    if self.path == NODE_SAMPLES_PATH:
                        batch = SampleBatch.model_validate_json(body)
                        status = daemon.answer_to_samples
                    else:
                        assert self.path == NODE_EVENTS_PATH
                        batch = NodeEventBatch.model_validate_json(body)
                        refused = daemon.refused & {event.code for event in batch.events}
                        refused_gpus = daemon.refuses_inventory and batch.gpus is not None
                        status = 422 if refused or refused_gpus else daemon.answer
                    assert batch.node == node
                except GpuaasError as error:
                    status, batch = error.http_status, None
                answer = json.dumps({"detail": f"the test answers {status}"}).encode()
                if batch and status == 200:  # kept before it is answered, as the real one does
                    with daemon._arrived:
                        if isinstance(batch, SampleBatch):
                            daemon.samples.append(batch)
                        else:
                            daemon.batches.append(batch)
                        daemon._arrived.notify_all()
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *arguments: object) -> None:
                pass

        self.path.unlink(missing_ok=True)
        self._server = socketserver.ThreadingUnixStreamServer(str(self.path), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
            self.path.unlink()

    def wait_for(self, condition: Callable[[], bool], seconds: float = 10) -> None:
        with self._arrived:
            assert self._arrived.wait_for(condition, seconds), f"after {seconds} s: {self.events}"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path / "d.sock")
    daemon.start()
    yield daemon
    daemon.stop()


@pytest.fixture
def config(tmp_path: Path, hardware: Path) -> Config:
    key = tmp_path / "master.key"
    key.touch(0o600)
    key.write_text(MASTER.hex())
    return Config(
        daemon=f"unix:{tmp_path}/d.sock",
        master_key=key,
        spool=tmp_path / "spool" / "{node}",
        simulated_hardware=hardware,
        nvml=False,
        check_every=None,
    )


class Running:
    def __init__(self, config: Config, *nodes: str) -> None:
        self._agent = Agent(config, [NodeName(node) for node in nodes])
        self._thread = threading.Thread(target=self._agent.run)

    def __enter__(self) -> Running:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._agent.stop()
        self._thread.join(20)
        assert not self._thread.is_alive(), "the agent did not stop"


def once(config: Config, *nodes: str) -> bool:
    return Agent(config, [NodeName(node) for node in nodes or (NODES[0],)]).once()
