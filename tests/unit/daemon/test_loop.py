"""The loop: every controller for itself, on its tick or when woken."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from slurm_gpuaas.daemon.loop import ControllerLoop, Scheduled, delay_after
from slurm_gpuaas.domain.errors import Unavailable
from tests.fakes import EPOCH, FakeClock

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)


class Ticker:
    """Ticks until the test has seen enough; raises what it is told to."""

    def __init__(self, *errors: Exception) -> None:
        self.ticked = threading.Semaphore(0)
        self._errors = list(errors)

    def tick(self) -> None:
        self.ticked.release()
        if self._errors:
            raise self._errors.pop(0)

    def wait(self, times: int = 1) -> bool:
        return all(self.ticked.acquire(timeout=5) for _ in range(times))


@pytest.mark.parametrize(
    ("failures", "seconds"), [(0, 1), (1, 2), (2, 4), (5, 32), (6, 60), (1_000, 60)], ids=lambda value: str(value)
)
def test_failures_in_a_row_double_the_wait_up_to_a_minute(failures: int, seconds: int) -> None:
    assert delay_after(SECOND, failures) == timedelta(seconds=seconds)


def test_an_interval_longer_than_a_minute_is_never_shortened_by_failures() -> None:
    assert delay_after(HOUR, 3) == HOUR


def test_a_woken_controller_ticks_before_its_interval_is_over() -> None:
    ticker, wake = Ticker(), threading.Event()
    loop = ControllerLoop([Scheduled("one", ticker.tick, HOUR, wake)], clock=FakeClock())
    loop.start()
    assert ticker.wait(), "no first tick"
    wake.set()
    assert ticker.wait(), "the wake-up made no tick"
    assert loop.stop(within=5 * SECOND) == ()


@pytest.mark.parametrize("error", [Unavailable("Slurm is away."), ZeroDivisionError("a bug")], ids=["expected", "bug"])
def test_an_error_of_one_controller_is_counted_and_stops_no_other(error: Exception) -> None:
    broken, healthy = Ticker(error), Ticker()
    seen: list[tuple[str, Exception | None]] = []
    loop = ControllerLoop(
        [Scheduled("broken", broken.tick, timedelta(milliseconds=1)), Scheduled("healthy", healthy.tick, HOUR)],
        clock=FakeClock(),
        observe=lambda name, seconds, raised: seen.append((name, raised)),
    )
    loop.start()
    assert broken.wait(2), "it did not tick again after its error"
    assert healthy.wait()
    assert loop.stop(within=5 * SECOND) == ()
    outcomes = {outcome.name: outcome for outcome in loop.outcomes}
    assert ("broken", error) in seen
    assert (outcomes["broken"].errors, outcomes["broken"].failures) == (1, 0)
    assert (outcomes["healthy"].errors, outcomes["healthy"].last_tick) == (0, EPOCH)


def test_a_tick_that_hangs_is_named_when_the_stop_deadline_passes() -> None:
    hang = threading.Event()
    began = threading.Event()

    def tick() -> None:
        began.set()
        hang.wait(30)

    loop = ControllerLoop([Scheduled("stuck", tick, HOUR)], clock=FakeClock())
    loop.start()
    assert began.wait(5)
    assert loop.longest_running() > timedelta(0)
    assert loop.stop(within=timedelta(milliseconds=10)) == ("stuck",)
    hang.set()


def test_a_tick_that_waits_for_another_machine_holds_up_neither_the_end_nor_the_watchdog() -> None:
    answer, asked = threading.Event(), threading.Event()

    def tick() -> None:
        asked.set()
        answer.wait(30)

    loop = ControllerLoop([Scheduled("poll", tick, HOUR, waits=True)], clock=FakeClock())
    loop.start()
    assert asked.wait(5)
    assert loop.longest_running() == timedelta(0)
    assert loop.stop(within=5 * SECOND) == ()
    answer.set()


def test_only_the_wait_after_a_failure_is_jittered() -> None:
    jittered: list[timedelta] = []

    def jitter(span: timedelta) -> timedelta:
        jittered.append(span)
        return timedelta(0)

    ticker = Ticker(Unavailable("The portal is away."))
    loop = ControllerLoop([Scheduled("one", ticker.tick, HOUR)], clock=FakeClock(), jitter=jitter)
    loop.start()
    assert ticker.wait(2), "it came back at once, as the jitter said"
    assert loop.stop(within=5 * SECOND) == ()
    assert jittered == [HOUR]
