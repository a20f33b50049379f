from __future__ import annotations

import os
import socket
from datetime import timedelta
from pathlib import Path

from slurm_gpuaas.daemon.notify import Notifier


def test_systemd_hears_readiness_watchdog_and_stop(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(path))
        systemd.settimeout(5)
        notifier = Notifier({"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "20000000", "WATCHDOG_PID": str(os.getpid())})
        notifier.ready("leading")
        notifier.alive()
        notifier.stopping()
        assert [systemd.recv(100) for _ in range(3)] == [b"READY=1\nSTATUS=leading", b"WATCHDOG=1", b"STOPPING=1"]
    assert notifier.watchdog_every == timedelta(seconds=10)


def test_without_systemd_nothing_happens() -> None:
    notifier = Notifier({})
    notifier.ready("leading")
    assert notifier.watchdog_every is None


def test_another_process_watchdog_is_not_ours() -> None:
    assert Notifier({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}).watchdog_every is None


def test_a_dead_systemd_does_no_harm(tmp_path: Path) -> None:
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("leading")
