"""Events on their way to gpuaasd, on disk: what was seen outlives the end of agent, daemon or machine.

One JSON document a line, appended and synced before the event counts as seen. Lines leave only when all that lie there
were delivered; a crash before that delivers some twice, which the daemon takes as once (event ids). A line that a crash
cut off is dropped when the spool is opened. A disk that takes no more costs that safety and nothing else: the event is
kept in memory and delivered all the same.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog
from pydantic import ValidationError

from slurm_gpuaas.domain.incidents import NodeEvent

REJECTED_MAX_BYTES: Final = 1 << 20
_FILE: Final = "events.jsonl"
_REJECTED: Final = "rejected.jsonl"

log = structlog.get_logger(__name__)


class Spool:
    """One node's queue. Not for several threads at once: its owner holds a lock.

    Args:
        folder: made when missing, for the agent's user alone.
        max_bytes: what may wait, on disk and in memory together; further events are refused, since the first ones tell
            the cause.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._path = folder / _FILE
        self._rejected = folder / _REJECTED
        self._max_bytes = max_bytes
        self._bytes = 0
        """Of whole lines in the file; the next line goes there, over what a failed write may have left behind them."""
        self._unwritten = 0
        """Bytes of events that are in memory alone."""
        self._told = False
        self._waiting: deque[NodeEvent] = deque(self._recover())
        self._fd: int | None = None
        try:
            self._file()
        except OSError as error:
            self._tell(error)

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def safe(self) -> bool:
        """Whether all that waits is on disk."""
        return not self._unwritten

    def append(self, event: NodeEvent) -> bool:
        """Keep an event, on disk unless the disk fails. False when the spool is full."""
        line = event.model_dump_json().encode() + b"\n"
        if self._bytes + self._unwritten + len(line) > self._max_bytes:
            return False
        try:
            self._write(line)
        except OSError as error:
            self._unwritten += len(line)
            self._tell(error)
        else:
            self._told = False
        self._waiting.append(event)
        return True

    def head(self, most: int) -> Sequence[NodeEvent]:
        """The oldest events, in order."""
        return tuple(self._waiting[i] for i in range(min(most, len(self._waiting))))

    def delivered(self, count: int) -> None:
        """The oldest `count` events need not be kept any longer."""
        for _ in range(count):
            self._waiting.popleft()
        if self._waiting:
            return
        self._unwritten = 0
        if self._bytes:
            try:
                os.ftruncate(self._file(), 0)
            except OSError as error:
                self._tell(error)  # tried again at the next delivery; until then a restart tells them twice
            else:
                self._bytes = 0

    def set_aside(self, count: int, why: str) -> None:
        """Take away the oldest events, which the daemon will never accept, and keep them for a person.

        Kept are the first of them, up to `REJECTED_MAX_BYTES`.
        """
        try:
            with self._rejected.open("ab") as file:
                for event in self.head(count):
                    line = json.dumps({"why": why, "event": event.model_dump(mode="json")}).encode() + b"\n"
                    if file.tell() + len(line) <= REJECTED_MAX_BYTES:
                        file.write(line)
        except OSError as error:
            self._tell(error)
        self.delivered(count)

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _file(self) -> int:
        if self._fd is None:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return self._fd

    def _write(self, line: bytes) -> None:
        fd = self._file()
        try:
            written = 0
            while written < len(line):  # a disk that fills up takes a part first, and says why at the next attempt
                written += os.pwrite(fd, line[written:], self._bytes + written)
            os.fdatasync(fd)
        except OSError:
            with suppress(OSError):
                os.ftruncate(fd, self._bytes)
            raise
        self._bytes += len(line)

    def _tell(self, error: OSError) -> None:
        """Once, until the disk works again."""
        if not self._told:
            self._told = True
            log.error("spool.disk_failed", folder=os.fspath(self._folder), error=str(error), waiting=len(self._waiting))

    def _recover(self) -> list[NodeEvent]:
        try:
            raw = self._path.read_bytes()
        except OSError:  # none yet; or no folder of ours, which is told when it is opened for writing
            return []
        self._bytes = raw.rfind(b"\n") + 1
        events = []
        for line in raw[: self._bytes].splitlines():
            try:
                events.append(NodeEvent.model_validate_json(line))
            except ValidationError:
                continue  # a block that the disk lost; the lines around it are good
        return events
