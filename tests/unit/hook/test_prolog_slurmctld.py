"""plugins/prolog_slurmctld: whatever is wrong with gpuaasd, the job starts."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[3] / "plugins" / "prolog_slurmctld"


def starts(path: Path, job: str = "7") -> bool:
    environment = {"GPUAAS_SOCKET": str(path), "SLURM_JOB_ID": job, "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-I", PROGRAM], env=environment, capture_output=True, timeout=30, check=False
    )
    assert not done.stderr, done.stderr
    return done.returncode == 0


def answered(path: Path, answer: bytes, job: str = "7") -> tuple[bool, bytes]:
    """Whether the job starts after this answer, and what was asked."""
    asked = b""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            nonlocal asked
            client, _ = server.accept()
            with client:
                asked = client.recv(10_000)
                client.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        result = starts(path, job)
        thread.join(10)
    return result, asked


def http(body: bytes, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


def test_a_start_is_called_off_by_gpuaasds_word_only(tmp_path: Path) -> None:
    called_off, asked = answered(tmp_path / "s", http(b'{"call_off": true}'))
    assert asked.startswith(b"POST /api/v1/jobs/7/start HTTP/1.1")
    assert not called_off


@pytest.mark.parametrize(
    "answer",
    [
        http(b'{"call_off": false}'),
        http(b'{"call_off": "true"}'),
        http(b"[]"),
        http(b"\xff"),
        http(b""),
        http(b'{"call_off": true}', "503 Service Unavailable"),
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{",
        b"rubbish",
        b"",
    ],
)
def test_anything_else_lets_it_start(tmp_path: Path, answer: bytes) -> None:
    assert answered(tmp_path / "s", answer)[0]


def test_a_dead_gpuaasd_lets_it_start(tmp_path: Path) -> None:
    assert starts(tmp_path / "nobody")
    assert starts(tmp_path / "nobody", job="")
