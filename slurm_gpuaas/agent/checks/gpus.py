"""GPU numbers out of NVML, through NVIDIA's own binding."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import pynvml

from slurm_gpuaas.agent.checks import Rates
from slurm_gpuaas.agent.nvml import driver_version, gpu_handles
from slurm_gpuaas.domain.gpus import GpuIdentity
from slurm_gpuaas.health.checks import Measure, Reading

Numbers = Sequence[float | None]
SECOND_LOOK_S: Final = 0.2
_COMPLETED: Final = 3
"""nvmlGpuFabricState_t."""
_DEGRADED_SHIFTS: Final = (
    pynvml.NVML_GPU_FABRIC_HEALTH_MASK_SHIFT_DEGRADED_BW,
    pynvml.NVML_GPU_FABRIC_HEALTH_MASK_SHIFT_ROUTE_RECOVERY,
    pynvml.NVML_GPU_FABRIC_HEALTH_MASK_SHIFT_ROUTE_UNHEALTHY,
    pynvml.NVML_GPU_FABRIC_HEALTH_MASK_SHIFT_ACCESS_TIMEOUT_RECOVERY,
)
"""Two bits each in the fabric's health mask; 1 means that it is so."""

# Counters of each link, the ones of NVLink 4 before those of NVLink 5. A GPU has the one or the other.
_LINK_COUNTERS: Final = {
    Measure.NVLINK_RECOVERIES_PER_MINUTE: (
        pynvml.NVML_FI_DEV_NVLINK_ERROR_DL_RECOVERY,
        pynvml.NVML_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_EVENTS,
    ),
    Measure.NVLINK_CRC_ERRORS_PER_MINUTE: (
        pynvml.NVML_FI_DEV_NVLINK_ERROR_DL_CRC,
        pynvml.NVML_FI_DEV_NVLINK_COUNT_EFFECTIVE_ERRORS,
    ),
    Measure.NVLINK_REPLAYS_PER_MINUTE: (pynvml.NVML_FI_DEV_NVLINK_ERROR_DL_REPLAY,),
}


def _ecc_off(handle: Any) -> Numbers:
    current, _pending = pynvml.nvmlDeviceGetEccMode(handle)
    return [1 - current]


def _ecc(handle: Any) -> Numbers:
    return [
        pynvml.nvmlDeviceGetTotalEccErrors(handle, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, counter)
        for counter in (pynvml.NVML_VOLATILE_ECC, pynvml.NVML_AGGREGATE_ECC)
    ]


def _sram(handle: Any) -> Numbers:
    status = pynvml.c_nvmlEccSramErrorStatus_v1_t()
    pynvml.nvmlDeviceGetSramEccErrorStatus(handle, ctypes.byref(status))
    return [status.bThresholdExceeded]


def _banks(handle: Any) -> Numbers:
    return [pynvml.nvmlDeviceGetRowRemapperHistogram(handle).none]


def _persistence(handle: Any) -> Numbers:
    return [1 - pynvml.nvmlDeviceGetPersistenceMode(handle)]


def _pcie_width(handle: Any) -> Numbers:
    return [pynvml.nvmlDeviceGetMaxPcieLinkWidth(handle) - pynvml.nvmlDeviceGetCurrPcieLinkWidth(handle)]


def _pcie_generation(handle: Any) -> Numbers:
    return [pynvml.nvmlDeviceGetMaxPcieLinkGeneration(handle) - pynvml.nvmlDeviceGetCurrPcieLinkGeneration(handle)]


def _clocks(handle: Any) -> Numbers:
    reasons = pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
    return [
        float(bool(reasons & reason))
        for reason in (
            pynvml.nvmlClocksEventReasonHwThermalSlowdown,
            pynvml.nvmlClocksEventReasonSwThermalSlowdown,
            pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown,
        )
    ]


def _degrees(handle: Any) -> Numbers:
    slowdown = pynvml.nvmlDeviceGetTemperatureThreshold(handle, pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN)
    return [slowdown - pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)]


def _orphaned(handle: Any) -> Numbers:
    """Memory that no process holds: of another job on the node, or of one that draws, it is not orphaned."""
    used = pynvml.nvmlDeviceGetMemoryInfo(handle, pynvml.nvmlMemory_v2).used >> 20
    held = pynvml.nvmlDeviceGetComputeRunningProcesses(handle) or any(_processes(ask, handle) for ask in _OTHER_KINDS)
    return [0 if held else used]


_OTHER_KINDS: Final = (pynvml.nvmlDeviceGetGraphicsRunningProcesses, pynvml.nvmlDeviceGetMPSComputeRunningProcesses)


def _processes(ask: Callable[[Any], Sequence[object]], handle: Any) -> Sequence[object]:
    """Processes of a kind that not every driver or GPU tells of."""
    try:
        return ask(handle)
    except (pynvml.NVMLError_FunctionNotFound, pynvml.NVMLError_NotSupported, pynvml.NVMLLibraryMismatchError):
        return ()


def _nvlinks(handle: Any) -> Numbers:
    (links,) = pynvml.nvmlDeviceGetFieldValues(handle, [pynvml.NVML_FI_DEV_NVLINK_LINK_COUNT])
    if (count := field_number(links)) is None:
        return [None]
    return [sum(not pynvml.nvmlDeviceGetNvLinkState(handle, link) for link in range(int(count)))]


def _fabric(handle: Any) -> Numbers:
    info = pynvml.c_nvmlGpuFabricInfo_v2_t()
    pynvml.nvmlDeviceGetGpuFabricInfoV(handle, ctypes.byref(info))
    if info.state == 0:  # not supported: no NVSwitch, or none that must be joined
        return [None, None]
    incomplete = info.state != _COMPLETED or info.status != pynvml.NVML_SUCCESS
    degraded = any(info.healthMask >> shift & 3 == 1 for shift in _DEGRADED_SHIFTS)
    return [float(incomplete), float(degraded)]


_QUESTIONS: Final[Sequence[tuple[tuple[Measure, ...], Callable[[Any], Numbers]]]] = (
    ((Measure.ECC_OFF,), _ecc_off),
    ((Measure.ECC_UNCORRECTABLE_VOLATILE, Measure.ECC_UNCORRECTABLE_AGGREGATE), _ecc),
    ((Measure.SRAM_THRESHOLD_EXCEEDED,), _sram),
    (
        (
            Measure.REMAPPED_CORRECTABLE,
            Measure.REMAPPED_UNCORRECTABLE,
            Measure.REMAP_PENDING,
            Measure.REMAP_FAILURE,
        ),
        pynvml.nvmlDeviceGetRemappedRows,
    ),
    ((Measure.BANKS_EXHAUSTED,), _banks),
    ((Measure.PERSISTENCE_OFF,), _persistence),
    ((Measure.NVLINKS_DOWN,), _nvlinks),
    ((Measure.FABRIC_INCOMPLETE, Measure.FABRIC_DEGRADED), _fabric),
    ((Measure.PCIE_LANES_MISSING,), _pcie_width),
    ((Measure.PCIE_GENERATIONS_MISSING,), _pcie_generation),
    ((Measure.THERMAL_SLOWDOWN_HARDWARE, Measure.THERMAL_SLOWDOWN_SOFTWARE, Measure.POWER_BRAKE), _clocks),
    ((Measure.DEGREES_TO_SLOWDOWN,), _degrees),
    ((Measure.ORPHANED_MIB,), _orphaned),
)


def field_number(value: Any) -> float | None:
    """The number in an answer of nvmlDeviceGetFieldValues; None where the GPU does not have it."""
    if value.nvmlReturn != pynvml.NVML_SUCCESS:
        return None
    kind = {
        pynvml.NVML_VALUE_TYPE_DOUBLE: "dVal",
        pynvml.NVML_VALUE_TYPE_UNSIGNED_INT: "uiVal",
        pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG: "ulVal",
        pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: "ullVal",
    }.get(value.valueType)
    return None if kind is None else float(getattr(value.value, kind))


class GpuReader:
    """Args:
    known: the GPUs that the node had at its best; those of them that do not answer are missing.
    expected: how many GPUs there should be; None goes by `known` alone.
    driver: version that is expected, or the beginning of it up to a dot; None takes any.
    prepare: called in the reading thread before NVML is initialised.
    """

    name = "NVML"
    measures = frozenset(
        {measure for measures, _ask in _QUESTIONS for measure in measures}
        | {Measure.NVML_FAILS, Measure.NVML_SILENT, Measure.GPUS_MISSING, Measure.DRIVER_DIFFERS}
        | {Measure.PCIE_REPLAYS_PER_MINUTE}
        | _LINK_COUNTERS.keys()
    )

    def __init__(
        self,
        *,
        known: Callable[[], Sequence[GpuIdentity]],
        expected: int | None,
        driver: str | None,
        seconds: float,
        prepare: Callable[[], None],
        rates: Rates,
    ) -> None:
        self.seconds = seconds
        self._known = known
        self._expected = expected
        self._driver = driver
        self._prepare = prepare
        self._rates = rates

    def read(self) -> Iterator[Reading]:
        yield Reading(measure=Measure.NVML_SILENT, value=0)  # counts only when all is read in time
        try:
            self._prepare()
            pynvml.nvmlInit()
        except (OSError, pynvml.NVMLError) as error:
            yield Reading(measure=Measure.NVML_FAILS, value=1, detail=str(error))
            return
        try:
            handles = gpu_handles()
            if len(handles) < len(self._known()):
                time.sleep(SECOND_LOOK_S)  # jobs are lost over a missing GPU: one answer that failed is not enough
                handles = gpu_handles()
            yield Reading(measure=Measure.NVML_FAILS, value=0)
            yield from self._driver_reading()
            yield from self._missing([gpu for gpu, _handle in handles])
            for gpu, handle in handles:
                yield from self._of(gpu, handle)
        except pynvml.NVMLError as error:
            yield Reading(measure=Measure.NVML_FAILS, value=1, detail=str(error))
        finally:
            pynvml.nvmlShutdown()

    def _driver_reading(self) -> Iterator[Reading]:
        if self._driver is not None:
            runs = driver_version()
            right = runs is not None and f"{runs}.".startswith(f"{self._driver}.")
            detail = f"{runs}, expected {self._driver}"
            value = None if runs is None else float(not right)
            yield Reading(measure=Measure.DRIVER_DIFFERS, value=value, detail=detail)

    def _missing(self, answer: Sequence[GpuIdentity]) -> Iterator[Reading]:
        known = self._known()
        there = {gpu.pci for gpu in answer}
        lost = [gpu for gpu in known if gpu.pci not in there] if len(answer) < len(known) else []
        short = max(0, (self._expected or 0) - len(answer) - len(lost))
        expected = max(self._expected or 0, len(known))
        detail = f"{len(answer)} answer, {expected} expected"
        yield Reading(measure=Measure.GPUS_MISSING, value=short, detail=detail)
        for gpu in lost:
            yield Reading(
                measure=Measure.GPUS_MISSING,
                value=1,
                subject=subject_of(gpu),
                gpu=gpu,
                detail=f"{detail}; serial {gpu.serial or 'unknown'}",
            )

    def _of(self, gpu: GpuIdentity, handle: Any) -> Iterator[Reading]:
        subject = subject_of(gpu)
        for measures, ask in _QUESTIONS:
            why = "not supported"
            try:
                values = ask(handle)
            except (pynvml.NVMLError, pynvml.NVMLLibraryMismatchError) as error:
                values, why = [None] * len(measures), str(error)
            for measure, value in zip(measures, values, strict=True):
                detail = why if value is None else ""
                yield Reading(measure=measure, value=value, subject=subject, gpu=gpu, detail=detail)
        for measure, total in _counters(handle).items():
            rate = None if total is None else self._rates.per_minute(subject, measure.value, total)
            detail = "not supported" if total is None else f"{total:g} in all"
            yield Reading(measure=measure, value=rate, subject=subject, gpu=gpu, detail=detail)


def subject_of(gpu: GpuIdentity) -> str:
    return f"GPU {gpu.index} ({gpu.pci})"


def _counters(handle: Any) -> dict[Measure, float | None]:
    """Totals of a GPU's error counters, its links summed up; None where it does not have them."""
    try:
        (links,) = pynvml.nvmlDeviceGetFieldValues(handle, [pynvml.NVML_FI_DEV_NVLINK_LINK_COUNT])
        asked = [(Measure.PCIE_REPLAYS_PER_MINUTE, pynvml.NVML_FI_DEV_PCIE_REPLAY_COUNTER, 0)]
        asked += [
            (measure, field, link)
            for measure, fields in _LINK_COUNTERS.items()
            for field in fields
            for link in range(int(field_number(links) or 0))
        ]
        answers = pynvml.nvmlDeviceGetFieldValues(handle, [(field, link) for _measure, field, link in asked])
    except pynvml.NVMLError:
        return dict.fromkeys((Measure.PCIE_REPLAYS_PER_MINUTE, *_LINK_COUNTERS))
    totals: dict[Measure, float | None] = dict.fromkeys((Measure.PCIE_REPLAYS_PER_MINUTE, *_LINK_COUNTERS))
    for (measure, _field, _link), answer in zip(asked, answers, strict=True):
        if (number := field_number(answer)) is not None:
            totals[measure] = (totals[measure] or 0) + number
    return totals
