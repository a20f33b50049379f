"""The spool on a disk that fails."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from slurm_gpuaas.agent import spool as module
from slurm_gpuaas.agent.spool import Spool
from slurm_gpuaas.domain.incidents import EventKind, EventSource, NodeEvent
from slurm_gpuaas.domain.names import NodeName


def event(number: int) -> NodeEvent:
    return NodeEvent(
        event_id=f"b200-001/boot/kmsg/{number}",
        node=NodeName("b200-001"),
        kind=EventKind.XID,
        code=number,
        source=EventSource.KERNEL_LOG,
        seen_at=datetime(2026, 11, 22, tzinfo=UTC),
    )


def codes(spool: Spool) -> Sequence[int]:
    return [event.code for event in spool.head(100)]


class FullDisk:
    """Takes `room` bytes more, a part of a line if need be, as a file system does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room: int | None = None
        self._write = os.pwrite
        monkeypatch.setattr(os, "pwrite", self.pwrite)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        if self.room is None:
            return self._write(fd, data, offset)
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self._write(fd, data[: self.room], offset)
        self.room -= written
        return written


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FullDisk:
    return FullDisk(monkeypatch)


def test_what_the_disk_does_not_take_is_kept_in_memory_and_spoils_nothing(
    tmp_path: Path, disk: FullDisk, capsys: pytest.CaptureFixture[str]
) -> None:
    spool = Spool(tmp_path, 1 << 20)
    assert spool.append(event(1))
    disk.room = 40
    assert spool.append(event(2))
    assert spool.append(event(3))
    assert not spool.safe
    assert capsys.readouterr().out.count("spool.disk_failed") == 1
    disk.room = None
    assert spool.append(event(4))
    assert codes(spool) == [1, 2, 3, 4]
    assert codes(Spool(tmp_path, 1 << 20)) == [1, 4]
    spool.delivered(4)
    assert spool.safe
    assert (tmp_path / "events.jsonl").read_bytes() == b""


def test_what_memory_keeps_is_bounded_too(tmp_path: Path, disk: FullDisk) -> None:
    spool = Spool(tmp_path, 1000)
    disk.room = 0
    kept = sum(spool.append(event(number)) for number in range(100))
    assert 1 < kept < 10


def test_a_folder_that_cannot_be_made_does_not_stop_the_agent(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    spool = Spool(tmp_path / "file" / "spool", 1 << 20)
    assert spool.append(event(1))
    spool.set_aside(1, "no")
    assert len(spool) == 0


def test_rejected_events_are_added_up_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REJECTED_MAX_BYTES", 1000)
    spool = Spool(tmp_path, 1 << 20)
    for number in range(10):
        spool.append(event(number))
        spool.set_aside(1, "no")
    lines = (tmp_path / "rejected.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"]["code"] for line in lines] == list(range(len(lines)))
    assert 1 < len(lines) < 10
