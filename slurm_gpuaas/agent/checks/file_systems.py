"""File systems: mounted, answering, taking writing, with room.

Each is asked by a child process: a thread that waits for a dead file server cannot be ended, and holds up the end of
the whole process.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from slurm_gpuaas.agent.config import FileSystem
from slurm_gpuaas.health.checks import Measure, Reading

# Users can fill a file system, and can make files where everybody may: neither must look like a fault of the node. So
# a full one has no room, and is not read-only; and the name of the file cannot be guessed. That we may not write (a
# server that squashes root), or lack files and memory, says nothing of the file system.
_PROBE: Final = """\
import errno, os, sys
from contextlib import suppress
path, write = sys.argv[1], sys.argv[2] == "write"
said = os.statvfs(path)
free = 100.0 * said.f_bavail / said.f_blocks if said.f_blocks else 100.0
why = ""
if write and not said.f_flag & os.ST_RDONLY:  # read-only for this process alone, as in a unit, is no fault
    name = f"{path}/.gpuaas-check-{os.urandom(12).hex()}"
    try:
        fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, b"x")
            os.fsync(fd)
        finally:
            os.close(fd)
            with suppress(FileNotFoundError):  # where everybody may write, anybody may have taken it away
                os.unlink(name)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = 0.0
        elif error.errno not in (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            why = error.strerror
print(f"{free:.2f} {why}")
"""
_OCTAL: Final = re.compile(rb"\\([0-7]{3})")


def mounts(mountinfo: bytes) -> Mapping[str, bool]:
    """Mount points of /proc/PID/mountinfo (proc(5)), each with whether its superblock is read-only: that is what the
    kernel makes of a file system with errors, whoever looks."""
    found: dict[str, bool] = {}
    for line in mountinfo.splitlines():
        before, dash, after = line.partition(b" - ")
        fields, options = before.split(b" "), after.split(b" ")
        if dash and len(fields) > 4 and len(options) > 2:
            point = _OCTAL.sub(lambda octal: bytes([int(octal[1], 8) & 255]), fields[4])
            found[point.decode("utf-8", "surrogateescape")] = b"ro" in options[2].split(b",")
    return found


class FileSystemReader:
    name = "file systems"
    measures = frozenset({Measure.NOT_MOUNTED, Measure.SILENT, Measure.READ_ONLY, Measure.FREE_PERCENT})

    def __init__(
        self, wanted: Sequence[FileSystem], *, seconds: float, mountinfo: Path = Path("/proc/self/mountinfo")
    ) -> None:
        self.seconds = seconds + 5
        self._wanted = wanted
        self._patience = seconds
        self._mountinfo = mountinfo
        self._silent: dict[Path, subprocess.Popen[str]] = {}

    def read(self) -> Iterator[Reading]:
        try:
            known = mounts(self._mountinfo.read_bytes())
        except OSError as error:
            yield Reading(measure=Measure.NOT_MOUNTED, value=None, detail=str(error))
            return
        asked: list[tuple[FileSystem, subprocess.Popen[str]]] = []
        for wanted in self._wanted:
            missing = str(wanted.path) not in known
            subject = str(wanted.path)
            yield Reading(measure=Measure.NOT_MOUNTED, value=float(missing), subject=subject)
            if missing:
                yield Reading(measure=Measure.SILENT, value=0, subject=subject)
            else:
                asked.append((wanted, self._ask(wanted)))
        deadline = time.monotonic() + self._patience
        for wanted, child in asked:
            yield from self._answer(wanted, child, deadline, read_only=known[str(wanted.path)])

    def _ask(self, wanted: FileSystem) -> subprocess.Popen[str]:
        """A child that asks; one that still waits since an earlier round is waited for again."""
        waiting = self._silent.pop(wanted.path, None)
        if waiting is not None and waiting.poll() is None:
            return waiting
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _PROBE, str(wanted.path), "write" if wanted.writable else "read"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def _answer(
        self, wanted: FileSystem, child: subprocess.Popen[str], deadline: float, *, read_only: bool
    ) -> Iterator[Reading]:
        subject = str(wanted.path)
        try:
            said, _nothing = child.communicate(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()  # it may well not hear that
            self._silent[wanted.path] = child
            detail = f"{self._patience:g} s"
            yield Reading(measure=Measure.SILENT, value=1, subject=subject, detail=detail)
            return
        free, _space, why = said.strip().partition(" ")
        if not free:
            yield Reading(measure=Measure.SILENT, value=1, subject=subject, detail="an error instead of an answer")
            return
        yield Reading(measure=Measure.SILENT, value=0, subject=subject)
        yield Reading(measure=Measure.FREE_PERCENT, value=float(free), subject=subject)
        if wanted.writable:
            yield Reading(measure=Measure.READ_ONLY, value=float(read_only or bool(why)), subject=subject, detail=why)
