"""Reads the GPUs of all nodes of the process every so often, in one thread.

NVML's utilisation (`nvmlDeviceGetUtilizationRates`) covers the last second at most: one reading in 15 s would see a
fifteenth of them. NVML keeps its own readings for a while, six a second; so the mean of those since the last look
(`nvmlDeviceGetSamples`) is taken, and the plain reading only where a driver does not give them.

Each reading may fail on its own, and is unknown then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Final, Protocol, TypeVar

import pynvml
import structlog

from slurm_gpuaas.agent.node import NodeAgent
from slurm_gpuaas.agent.samples import Sample
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.telemetry import MAX_GPUS, METRICS, SLOT_S, Metric, encode

_MICROSECONDS: Final = 1_000_000
T = TypeVar("T")

LOOK_BACK_US: Final = SLOT_S * _MICROSECONDS

log = structlog.get_logger(__name__)


class Gpus(Protocol):
    """The GPUs of one node."""

    def read(self) -> tuple[tuple[str | None, ...], Sequence[Sequence[float | None]]]:
        """Serial numbers, and for each GPU one reading a metric, in the order of `METRICS` and in its unit; None where
        it could not be read. Empty when no GPU can be found now."""
        ...


class NvmlGpus:
    """Args:
    prepare: called before each reading, in the thread that reads.
    """

    def __init__(self, prepare: Callable[[], None]) -> None:
        self._prepare = prepare
        self._ready = False
        self._serials: dict[int, str | None] = {}
        self._seen_us: dict[int, int] = {}

    def read(self) -> tuple[tuple[str | None, ...], Sequence[Sequence[float | None]]]:
        try:
            self._prepare()
            if not self._ready:
                pynvml.nvmlInit()
                self._ready = True
            count = min(pynvml.nvmlDeviceGetCount(), MAX_GPUS)
        except (OSError, pynvml.NVMLError):  # told by the source of events already, which tries again as well
            self._ready = False
            return (), ()
        readings = [self._gpu(index) for index in range(count)]
        return tuple(self._serials.get(index) for index in range(count)), readings

    def _gpu(self, index: int) -> Sequence[float | None]:
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        except pynvml.NVMLError:
            return [None] * len(METRICS)  # it fell off the bus; its serial number is still that of the card
        self._serials[index] = _or_none(_serial, handle)
        return [self._busy(index, handle), *(_or_none(read, handle) for read in _REST)]

    def _busy(self, index: int, handle: Any) -> float | None:
        since = self._seen_us.get(index, 0)
        try:
            _kind, samples = pynvml.nvmlDeviceGetSamples(handle, pynvml.NVML_GPU_UTILIZATION_SAMPLES, since)
        except pynvml.NVMLError:
            samples = []
        readings = [(sample.timeStamp, sample.sampleValue.uiVal) for sample in samples]
        newest, _value = max(readings, default=(0, 0))
        self._seen_us[index] = max(since, newest)
        since = max(since, newest - LOOK_BACK_US)
        values = [value for at, value in readings if at > since]
        return sum(values) / len(values) if values else _or_none(_utilisation, handle)


def _serial(handle: Any) -> str:
    return str(pynvml.nvmlDeviceGetSerial(handle))


def _utilisation(handle: Any) -> float:
    return float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)


def _memory(handle: Any) -> float:
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)  # without what the driver reserves
    return float(100 * memory.used / memory.total)


def _watts(handle: Any) -> float:
    return float(pynvml.nvmlDeviceGetPowerUsage(handle)) / 1000


def _celsius(handle: Any) -> float:
    return float(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))


def _processes(handle: Any) -> float:
    return float(len(pynvml.nvmlDeviceGetComputeRunningProcesses(handle)))


_REST: Final[Sequence[Callable[[Any], float]]] = (_memory, _watts, _celsius, _processes)
assert METRICS == (Metric.BUSY, Metric.MEMORY, Metric.POWER, Metric.TEMPERATURE, Metric.PROCESSES)


def _or_none(read: Callable[[Any], T], handle: Any) -> T | None:
    try:
        return read(handle)
    except (pynvml.NVMLError, pynvml.NVMLLibraryMismatchError, ZeroDivisionError):
        return None


class Sampler:
    """Args:
    nodes: each with its GPUs.
    every: between two samples of a node, at most a minute; but for the first, nodes take turns within it.
    """

    def __init__(self, nodes: Sequence[tuple[NodeAgent, Gpus]], *, every: timedelta, clock: Clock) -> None:
        self._nodes = nodes
        self._every = every.total_seconds()
        self._clock = clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end; it is a daemon thread and may still sit in NVML when the process ends."""
        self._stop.set()

    def sample(self, agent: NodeAgent, gpus: Gpus) -> None:
        """One sample of one node. The moment is that of its begin."""
        slot = int(self._clock.now().timestamp()) // SLOT_S
        serials, readings = gpus.read()
        if not readings:
            return
        codes = bytes(encode(metric, gpu[row]) for row, metric in enumerate(METRICS) for gpu in readings)
        agent.samples.put(Sample(slot, serials, codes))

    def _run(self) -> None:
        begin = spread = 0.0
        while not self._stop.is_set():
            for number, (agent, gpus) in enumerate(self._nodes):
                turn = begin + number / len(self._nodes) * spread
                # A clock that was set back must not let us wait for hours.
                if self._stop.wait(min(self._every, max(0.0, turn - self._clock.now().timestamp()))):
                    return
                self.sample(agent, gpus)
            now = self._clock.now().timestamp()
            begin, spread = (now // self._every + 1) * self._every, self._every
            if self._stop.wait(begin - now):
                return
