"""How often somebody may ask: one token bucket a key. In memory, since one process serves the portal."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from math import ceil
from typing import Final

from slurm_gpuaas.domain.errors import ExitCode, GpuaasError
from slurm_gpuaas.domain.told import told

MOST_KEYS: Final = 50_000
"""Keys that are remembered; those not seen for longest are forgotten."""


class TooOften(GpuaasError):
    exit_code = ExitCode.UNAVAILABLE
    http_status = 429

    def __init__(self, seconds: int) -> None:
        super().__init__(
            told("Too many requests; the next is taken in {seconds} s.", seconds=seconds),
            way_out=told("Wait a moment, then try again."),
        )
        self.seconds = seconds


class RateLimit:
    """Lets `per_minute` pass each minute, and as many at once.

    Args:
        seconds: a clock that only goes forward.
    """

    def __init__(self, per_minute: int, seconds: Callable[[], float]) -> None:
        self._most = float(per_minute)
        self._per_second = per_minute / 60
        self._seconds = seconds
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, key: str) -> None:
        """Raises:
        TooOften: the key's bucket is empty.
        """
        now = self._seconds()
        with self._lock:
            left, at = self._left.pop(key, (self._most, now))
            left = min(self._most, left + (now - at) * self._per_second)
            taken = left >= 1
            self._left[key] = (left - 1 if taken else left, now)
            if len(self._left) > MOST_KEYS:
                self._left.popitem(last=False)
        if not taken:
            raise TooOften(ceil((1 - left) / self._per_second))
