"""When sessions or tokens were used last: held here, and written down for all of them together once a while, so that
most requests write nothing. What a crash loses is less than that while."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Final, overload

WRITTEN_EVERY: Final = timedelta(minutes=1)


class LastUses:
    """Safe to share between threads.

    Args:
        write: puts them into the store, in one transaction.
    """

    def __init__(self, write: Callable[[Mapping[str, datetime]], None]) -> None:
        self._write = write
        self._held: dict[str, datetime] = {}
        self._written_at: datetime | None = None
        self._lock = threading.Lock()

    @overload
    def last(self, key: str, stored: datetime) -> datetime: ...
    @overload
    def last(self, key: str, stored: datetime | None) -> datetime | None: ...
    def last(self, key: str, stored: datetime | None) -> datetime | None:
        """The last use, where the store says `stored`."""
        held = self._held.get(key)
        return stored if held is None else held if stored is None else max(held, stored)

    def due(self, now: datetime) -> bool:
        """They should be written down."""
        return self._written_at is None or now - self._written_at >= WRITTEN_EVERY

    def note(self, key: str, now: datetime) -> None:
        """It is used now. Writes nothing."""
        with self._lock:
            self._held[key] = now

    def write_down(self, now: datetime) -> None:
        """What is held; what was noted meanwhile stays for the next time."""
        with self._lock:
            self._written_at = now
            held = dict(self._held)
        self._write(held)
        with self._lock:
            for key, at in held.items():
                if self._held.get(key) == at:
                    del self._held[key]
