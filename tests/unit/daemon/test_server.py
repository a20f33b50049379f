from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from slurm_gpuaas.api.client import Client
from slurm_gpuaas.daemon.config import ListenerConfig, TlsConfig
from slurm_gpuaas.daemon.server import Server, bind_tcp, bind_unix
from slurm_gpuaas.domain.errors import InvalidInput, Unavailable
from tests.unit.daemon.site import Site, served


def test_the_kernel_says_who_is_at_the_other_end(site: Site, tmp_path: Path) -> None:
    with served(site.api, tmp_path / "api.sock") as path, Client(path) as client:
        who = client.whoami()
    assert who.uid == os.getuid()
    assert path.stat().st_mode & 0o777 == 0o666


def test_a_socket_left_by_a_killed_daemon_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    bind_unix(path).close()
    with bind_unix(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    assert [left.name for left in tmp_path.iterdir()] == ["api.sock"]


def test_a_socket_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="No such file or directory"):
        bind_unix(tmp_path / "missing" / "api.sock")


def test_a_port_that_is_taken_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(Unavailable, match=f"127.0.0.1:{port}"):
            bind_tcp(ListenerConfig(port=port))


def test_a_certificate_that_is_none_is_named(site: Site, tmp_path: Path) -> None:
    pem = tmp_path / "tls.pem"
    pem.write_text("no certificate")
    listener = ListenerConfig(tls=TlsConfig(certificate=pem, key=pem))
    with socket.create_server(("127.0.0.1", 0)) as sock, pytest.raises(InvalidInput, match=r"agents\.listener\.tls"):
        Server(site.api, sock, listener=listener)
