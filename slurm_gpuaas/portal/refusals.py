"""Refusals on their way into the audit trail: the first of a person and action at once, what follows within a minute as
a count. A hostile loop so leaves two entries a minute for each action it tries, and no store is filled by asking."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final, Protocol

from slurm_gpuaas.domain.audit_chain import AuditEvent

WINDOW_S: Final = 60.0


class Trail(Protocol):
    """Where events go; `store.pool.audit` has one."""

    def append(self, *events: AuditEvent) -> None: ...


@dataclass(slots=True)
class _Window:
    """`last` is the newest of `more` refusals that came after the one that was written."""

    began: float
    last: AuditEvent
    more: int = 0


class Refusals:
    """Safe to share between threads. As many windows are kept as people were refused actions in the last minute.

    Args:
        seconds: a clock that only goes forward.
    """

    def __init__(self, trail: Trail, seconds: Callable[[], float]) -> None:
        self._trail = trail
        self._seconds = seconds
        self._windows: dict[tuple[str, str], _Window] = {}
        self._lock = threading.Lock()

    def note(self, event: AuditEvent) -> None:
        """Write it, or count it where one of the same actor and action was written within the last minute."""
        key = (event.actor, event.action)
        with self._lock:
            over = self._over()
            window = self._windows.get(key)
            if window is None:
                self._windows[key] = _Window(self._seconds(), event)
            else:
                window.last, window.more = event, window.more + 1
        self._write(over, *(() if window else (event,)))

    def turn(self) -> None:
        """Write the counts of the minutes that are over."""
        with self._lock:
            over = self._over()
        self._write(over)

    def write_all(self) -> None:
        """Write all counts, before the server ends."""
        with self._lock:
            rest = list(self._windows.values())
            self._windows.clear()
        self._write(rest)

    def _over(self) -> list[_Window]:
        """Windows that have ended, taken out. They were opened in order, so the first that lasts ends the search."""
        end, over = self._seconds() - WINDOW_S, []
        while (key := next(iter(self._windows), None)) is not None and self._windows[key].began <= end:
            over.append(self._windows.pop(key))
        return over

    def _write(self, windows: Iterable[_Window], *now: AuditEvent) -> None:
        counts = [replace(one.last, evidence={**one.last.evidence, "times": one.more}) for one in windows if one.more]
        if counts or now:
            self._trail.append(*counts, *now)
