"""How likely nodes are to fail, by the incidents in the store: counted once a minute, not at every look of the gate."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.health.lemons import LOOKS_BACK, failure_risks
from slurm_gpuaas.store import Store

GOOD_FOR: Final = timedelta(minutes=1)
MOST: Final = 100_000
"""Incidents of the time that is looked back on: three a node and day on the largest cluster."""


class FailureRisks:
    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._found: Mapping[NodeName, float] = {}
        self._at: datetime | None = None

    def now(self) -> Mapping[NodeName, float]:
        """Of nodes that failed; see `failure_risks`. A minute old at most."""
        now = self._clock.now()
        if self._at is None or now - self._at >= GOOD_FOR:
            self._found = failure_risks(self._store.incidents(since=now - LOOKS_BACK, limit=MOST), now)
            self._at = now
        return self._found
