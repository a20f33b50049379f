"""Runs the controllers: each in a thread of its own, on its tick or at once when woken, each for itself.

What a controller raises is logged, counted and waited out; it never reaches another controller. Nothing here knows what
a controller does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import structlog

from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.errors import GpuaasError

LONGEST_BACK_OFF = timedelta(minutes=1)
GATHER_S = 0.05
"""Least time from the end of a tick to the next one that somebody asks for; at least as long as the tick took, too."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a controller's ticks so far. `failures` are those in a row until now."""

    name: str
    last_tick: datetime | None = None
    last_seconds: float = 0.0
    last_error: str = ""
    failures: int = 0
    ticks: int = 0
    errors: int = 0


def steady(span: timedelta) -> timedelta:
    return span


def delay_after(interval: timedelta, failures: int) -> timedelta:
    """Wait before the next tick: the interval, doubled for every failure in a row up to a minute."""
    doubled: int = 2 ** min(failures, 10)
    return min(interval * doubled, max(interval, LONGEST_BACK_OFF))


@dataclass(slots=True)
class Scheduled:
    """A controller's tick (safe to run again at any time), its interval, and an event that wakes it sooner.

    `waits`: most of a tick is waiting for another machine's answer, which may take its time: neither the end of the
    loop nor the watchdog minds.
    """

    name: str
    tick: Callable[[], object]
    interval: timedelta
    wake: threading.Event = field(default_factory=threading.Event)
    waits: bool = False


class ControllerLoop:
    """Args:
    observe: called after every tick with the controller's name, seconds and the error (None when it went well).
    jitter: of the wait after a failure, so that many daemons do not all come back at once.
    """

    def __init__(
        self,
        scheduled: Sequence[Scheduled],
        *,
        clock: Clock,
        observe: Callable[[str, float, Exception | None], None] = lambda name, seconds, error: None,
        jitter: Callable[[timedelta], timedelta] = steady,
    ) -> None:
        self._jitter = jitter
        self.scheduled = tuple(scheduled)
        self._waiting = {one.name for one in self.scheduled if one.waits}
        self._clock = clock
        self._observe = observe
        self._stop = threading.Event()
        self._outcomes = {s.name: Outcome(name=s.name) for s in scheduled}
        self._busy_since: dict[str, float] = {}
        self._threads: list[threading.Thread] = []

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        return tuple(self._outcomes.values())

    def longest_running(self) -> timedelta:
        """How long the slowest tick under way has run, those that wait for another machine left out."""
        now = time.monotonic()
        busy = (now - since for name, since in list(self._busy_since.items()) if name not in self._waiting)
        return timedelta(seconds=max(busy, default=0.0))

    def start(self) -> None:
        self._threads = [
            # daemon=True: a tick stuck in Slurm must not hold the process past its stop deadline.
            threading.Thread(target=self._run, args=(scheduled,), name=scheduled.name, daemon=True)
            for scheduled in self.scheduled
        ]
        for thread in self._threads:
            thread.start()

    def stop(self, within: timedelta) -> tuple[str, ...]:
        """Let ticks under way end. Returns the controllers that did not in time."""
        self._stop.set()
        for scheduled in self.scheduled:
            scheduled.wake.set()
        deadline = time.monotonic() + within.total_seconds()
        ending = [thread for thread in self._threads if thread.name not in self._waiting]
        for thread in ending:
            thread.join(max(0.0, deadline - time.monotonic()))
        return tuple(thread.name for thread in ending if thread.is_alive())

    def _run(self, scheduled: Scheduled) -> None:
        while not self._stop.is_set():
            # Cleared before the tick: what wakes us while it runs makes another tick, never none.
            scheduled.wake.clear()
            if self._stop.is_set():
                return
            outcome = self.tick(scheduled)
            due = time.monotonic() + max(GATHER_S, min(outcome.last_seconds, scheduled.interval.total_seconds()))
            delay = delay_after(scheduled.interval, outcome.failures)
            if scheduled.wake.wait((self._jitter(delay) if outcome.failures else delay).total_seconds()):
                # One call is answered at once; of many, those that come in the meantime share a tick.
                self._stop.wait(max(0.0, due - time.monotonic()))

    def tick(self, scheduled: Scheduled) -> Outcome:
        """Run one tick and account for it."""
        name = scheduled.name
        before = self._outcomes[name]
        began = self._busy_since[name] = time.monotonic()
        error: Exception | None = None
        try:
            scheduled.tick()
        except GpuaasError as expected:
            error = expected
            # A trouble that lasts is one line, not one a tick.
            if str(expected) != before.last_error:
                log.warning("controller.failed", controller=name, error=expected.message, way_out=expected.way_out)
        except Exception as unexpected:
            error = unexpected
            log.exception("controller.crashed", controller=name)
        seconds = time.monotonic() - began
        del self._busy_since[name]
        if error is None and before.failures:
            log.info("controller.recovered", controller=name, after=before.failures)
        outcome = replace(
            before,
            last_tick=self._clock.now(),
            last_seconds=seconds,
            last_error=str(error) if error else "",
            failures=before.failures + 1 if error else 0,
            ticks=before.ticks + 1,
            errors=before.errors + (error is not None),
        )
        self._outcomes[name] = outcome
        self._observe(name, seconds, error)
        return outcome
