"""Sums of usage that still hold, so that a tick sums only what has been written since the last one.

The quota controller and the hook's publisher ask every few seconds for all runs since the first budget began, and
nearly all of them ended long ago. A sum holds until a run that started in its stretch of time is written.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from slurm_gpuaas.domain.names import ClusterName
from slurm_gpuaas.domain.usage import UsageSum


class Stretch(NamedTuple):
    """Runs of the cluster that started in [since, until); None is unbounded."""

    cluster: ClusterName
    since: datetime | None
    until: datetime | None

    def holds(self, started: datetime) -> bool:
        return (self.since is None or self.since <= started) and (self.until is None or started < self.until)


class KnownSums:
    """Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: Mapping[Stretch, Sequence[UsageSum]] = {}
        self._writes = 0

    def now(self) -> tuple[Mapping[Stretch, Sequence[UsageSum]], int]:
        """What is known, and the number to give back to `keep`."""
        with self._lock:
            return self._sums, self._writes

    def keep(self, sums: Mapping[Stretch, Sequence[UsageSum]], writes: int) -> None:
        """These are all that is asked for now; dropped when something was written while they were read."""
        with self._lock:
            if writes == self._writes:
                self._sums = sums

    def forget(self, starts: Iterable[datetime]) -> None:
        """Runs that started then have been written, and committed."""
        moments = tuple(starts)
        with self._lock:
            self._writes += 1
            self._sums = {
                stretch: sums
                for stretch, sums in self._sums.items()
                if not any(stretch.holds(moment) for moment in moments)
            }
