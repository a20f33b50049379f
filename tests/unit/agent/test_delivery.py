"""The daemon's address over TCP, with and without TLS."""

from __future__ import annotations

import http.server
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from slurm_gpuaas.agent.delivery import DaemonClient, Undelivered
from slurm_gpuaas.api.node_events import NodeEventBatch
from slurm_gpuaas.domain.clock import SystemClock
from slurm_gpuaas.domain.names import NodeName

KEY = bytes(32)
BATCH = NodeEventBatch(node=NodeName("b200-001"))


class Taker(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def listening(tls: ssl.SSLContext | None = None) -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Taker)
    server.daemon_threads = True
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def client(address: str, ca: Path | None = None) -> DaemonClient:
    return DaemonClient(address, ca=str(ca) if ca else None, timeout=5, clock=SystemClock())


def test_plain_http_on_loopback() -> None:
    with listening() as port:
        daemon = client(f"http://127.0.0.1:{port}")
        daemon.post(BATCH, KEY)
        daemon.post(BATCH, KEY)
        daemon.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("openssl"):
        pytest.skip("no openssl on this machine to make a certificate with")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(path), "-out", f"{path}.crt"]
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*argv, *subject], check=True, capture_output=True)
    return path


def test_https_with_the_sites_own_authority(certificate: Path) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(f"{certificate}.crt", certificate)
    with listening(tls) as port:
        daemon = client(f"https://localhost:{port}", Path(f"{certificate}.crt"))
        daemon.post(BATCH, KEY)
        daemon.close()
        with pytest.raises(Undelivered, match=r"(?i)certificate.verify.failed"):
            client(f"https://localhost:{port}").post(BATCH, KEY)


def test_nobody_listens() -> None:
    with listening() as port:
        pass
    with pytest.raises(Undelivered, match="refused"):
        client(f"http://127.0.0.1:{port}").post(BATCH, KEY)
    with pytest.raises(Undelivered, match="No such file"):
        client("unix:/nonexistent/gpuaasd.sock").post(BATCH, KEY)
