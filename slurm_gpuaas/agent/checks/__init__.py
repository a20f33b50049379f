"""What health checks read on a node: a reader per kind of thing, each given only so long to answer.

Readers tell numbers and judge nothing: that is `health.checks`. One that hangs (a driver, a dead file server) costs its
own numbers and nobody else's; it is not asked again before it has answered.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from slurm_gpuaas.health.checks import Check, CheckResult, Measure, Reading, judge


class Reader(Protocol):
    """Reads numbers of one kind of thing.

    `measures` is what it may tell; `seconds` how long that may take.
    """

    name: str
    measures: frozenset[Measure]
    seconds: float

    def read(self) -> Iterable[Reading]:
        """Read everything once, in a thread of the caller's. What cannot be read is a reading without value; raises
        nothing but programming errors."""
        ...


class Rates:
    """Counters to rates: since the reading before, or since the boot, when counters began at nothing.

    Args:
        monotonic: seconds since boot.
    """

    def __init__(self, monotonic: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_MONOTONIC)) -> None:
        self._monotonic = monotonic
        self._last: dict[tuple[str, str], tuple[float, float]] = {}

    def per_minute(self, thing: str, counter: str, value: float) -> float:
        now = self._monotonic()
        before, at = self._last.get((thing, counter), (0.0, 0.0))
        self._last[thing, counter] = (value, now)
        grown = value - before if value >= before else value  # it began anew, with the driver
        return grown * 60 / max(now - at, 1.0)


class Checker:
    """Runs checks with the readers that this node has."""

    def __init__(self, readers: Sequence[Reader]) -> None:
        self._readers = readers
        self._busy: dict[str, threading.Thread] = {}

    def can(self, check: Check) -> bool:
        """Whether anything here reads what the check must have; a node without InfiniBand has no such check."""
        return any(check.measures & reader.measures for reader in self._readers)

    def run(self, checks: Mapping[str, Check]) -> Sequence[CheckResult]:
        """Ask what the checks need, side by side, and judge it. Checks that nothing here can read are left out."""
        checks = {name: check for name, check in checks.items() if self.can(check)}
        needed = frozenset(measure for check in checks.values() for measure in check.measures)
        asked = [(reader, self._ask(reader)) for reader in self._readers if reader.measures & needed]
        readings: list[Reading] = []
        begun = time.monotonic()
        for reader, answer in asked:
            readings += answer.within(begun + reader.seconds)
        return [judge(name, check, readings) for name, check in checks.items()]

    def _ask(self, reader: Reader) -> _Answer:
        if (busy := self._busy.get(reader.name)) is not None and busy.is_alive():
            return _Answer(reader, None)
        answer = _Answer(reader, reader.read)
        if answer.thread is not None:
            self._busy[reader.name] = answer.thread
        return answer


class _Answer:
    def __init__(self, reader: Reader, read: Callable[[], Iterable[Reading]] | None) -> None:
        self._reader = reader
        self._readings: list[Reading] | None = None
        self.thread: threading.Thread | None = None
        if read is not None:
            self.thread = threading.Thread(target=self._run, args=(read,), name=f"check-{reader.name}", daemon=True)
            self.thread.start()

    def _run(self, read: Callable[[], Iterable[Reading]]) -> None:
        self._readings = list(read())

    def within(self, deadline: float) -> Sequence[Reading]:
        if self.thread is not None:
            self.thread.join(max(0.0, deadline - time.monotonic()))
        if self._readings is not None:
            return self._readings
        said = f"no answer within {self._reader.seconds:g} s" if self.thread else "still no answer to the last question"
        return [
            Reading(measure=measure, value=1 if measure is Measure.NVML_SILENT else None, detail=said)
            for measure in sorted(self._reader.measures)
        ]
