"""Events on their way to gpuaasd, on disk: what was seen outlives the end of agent, daemon or machine.

One JSON document a line, appended and synced before the event counts as seen. Lines leave only when all that lie there
were delivered; a crash before that delivers some twice, which the daemon takes as once (event ids). A line that a crash
cut off is dropped when the spool is opened.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from slurm_gpuaas.domain.incidents import NodeEvent

_FILE: Final = "events.jsonl"
_REJECTED: Final = "rejected.jsonl"


class Spool:
    """One node's queue. Not for several threads at once: its owner holds a lock.

    Args:
        folder: made when missing, for the agent's user alone.
        max_bytes: what may wait; further events are refused, since the first ones tell the cause.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = folder / _FILE
        self._rejected = folder / _REJECTED
        self._max_bytes = max_bytes
        self._waiting: deque[NodeEvent] = deque(self._recover())
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._bytes = os.fstat(self._fd).st_size

    def __len__(self) -> int:
        return len(self._waiting)

    def append(self, event: NodeEvent) -> bool:
        """Keep an event; it is on disk when this returns. False when the spool is full."""
        line = event.model_dump_json().encode() + b"\n"
        if self._bytes + len(line) > self._max_bytes:
            return False
        os.write(self._fd, line)
        os.fdatasync(self._fd)
        self._bytes += len(line)
        self._waiting.append(event)
        return True

    def head(self, most: int) -> Sequence[NodeEvent]:
        """The oldest events, in order."""
        return tuple(self._waiting[i] for i in range(min(most, len(self._waiting))))

    def delivered(self, count: int) -> None:
        """The oldest `count` events need not be kept any longer."""
        for _ in range(count):
            self._waiting.popleft()
        if not self._waiting and self._bytes:
            os.ftruncate(self._fd, 0)
            self._bytes = 0

    def set_aside(self, count: int, why: str) -> None:
        """Take away the oldest events, which the daemon will never accept, and keep the last of them for a person."""
        with self._rejected.open("wb") as file:
            for event in self.head(count):
                file.write(json.dumps({"why": why, "event": event.model_dump(mode="json")}).encode() + b"\n")
        self.delivered(count)

    def close(self) -> None:
        os.close(self._fd)

    def _recover(self) -> list[NodeEvent]:
        try:
            raw = self._path.read_bytes()
        except FileNotFoundError:
            return []
        whole = raw.rfind(b"\n") + 1
        if whole != len(raw):
            os.truncate(self._path, whole)
        events = []
        for line in raw[:whole].splitlines():
            try:
                events.append(NodeEvent.model_validate_json(line))
            except ValidationError:
                continue  # a block that the disk lost; the lines around it are good
        return events
