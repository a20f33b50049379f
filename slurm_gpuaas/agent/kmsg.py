"""The kernel log: /dev/kmsg, or a regular file of the same records.

Record format (Documentation/ABI/testing/dev-kmsg): `priority,sequence,microseconds,flags[,...];text`, then lines that
begin with a space and hold details. The priority is severity + 8 x facility; the kernel's own facility is 0 and cannot
be given by user space, which is how a forged line is told from the driver's.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import structlog

from slurm_gpuaas.domain.errors import InvalidInput

RECORD_MAX: Final = 8192
"""Bytes; the kernel's own limit of one record (PRINTKRB_RECORD_MAX is below it)."""
_CHUNK: Final = 1 << 20

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Record:
    """`microseconds` since boot. `cursor` is the journal's name of the record, where it came through the journal; only
    without one does `sequence` mean anything."""

    priority: int
    sequence: int
    microseconds: int
    text: str
    cursor: str | None = None

    @property
    def from_kernel(self) -> bool:
        return self.priority >> 3 == 0


DRIVER_LINES: Final = ("NVRM:", "nvidia-nvswitch")
"""How lines of NVIDIA's driver begin."""


class KernelLog(Protocol):
    """A log that is read on from where it was left."""

    def read(self) -> Iterator[Record]:
        """Records that came since the last call, at first all that the log holds. Never waits."""
        ...


def parse(raw: bytes) -> Record | None:
    """One record; None for what is none (details of a record, a torn line)."""
    head, semicolon, text = raw.partition(b";")
    fields = head.split(b",", 3)
    if not semicolon or len(fields) < 3 or not all(field.isdigit() and len(field) < 20 for field in fields[:3]):
        return None
    first_line = text.split(b"\n", 1)[0]
    return Record(int(fields[0]), int(fields[1]), int(fields[2]), first_line.decode("utf-8", "replace"))


def open_kernel_log(path: Path) -> KmsgDevice | KmsgFile:
    """
    Raises:
        InvalidInput: it cannot be read.
    """
    try:
        return KmsgDevice(path) if stat.S_ISCHR(path.stat().st_mode) else KmsgFile(path)
    except OSError as error:
        raise InvalidInput(
            f"Kernel log {path} cannot be read: {os.strerror(error.errno or 0)}.",
            way_out="The agent needs CAP_SYSLOG (run it as root, as the unit file does).",
        ) from None


class KmsgDevice:
    """/dev/kmsg: each read gives one record. `fileno` is for poll."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def fileno(self) -> int:
        return self._fd

    def read(self) -> Iterator[Record]:
        while True:
            try:
                raw = os.read(self._fd, RECORD_MAX)
            except BlockingIOError:
                return
            except BrokenPipeError:
                # Records were overwritten before we read them; the next read goes on with the oldest.
                log.warning("kmsg.overwritten", why="the kernel logs faster than it is read; NVML tells of faults, too")
                continue
            if record := parse(raw):
                yield record


class KmsgFile:
    """A regular file that is appended to. A file that got shorter was begun anew and is read from its start."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._position = 0

    def read(self) -> Iterator[Record]:
        with self.path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < self._position:
                self._position = 0
            file.seek(self._position)
            while chunk := file.read(_CHUNK):
                whole = chunk.rfind(b"\n") + 1
                if not whole:
                    if len(chunk) == _CHUNK:
                        self._position += len(chunk)  # a line of 1 MiB is no record
                        continue
                    return  # its writer is not done
                self._position += whole
                file.seek(self._position)
                for line in chunk[:whole].split(b"\n"):
                    if record := parse(line):
                        yield record
