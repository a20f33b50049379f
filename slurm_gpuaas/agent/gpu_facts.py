"""All that NVML says of each GPU, for the evidence of a fault. Nothing is judged here."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import Any, Final

import pynvml

from slurm_gpuaas.agent.checks.gpus import field_number
from slurm_gpuaas.agent.config import Config
from slurm_gpuaas.agent.nvml import driver_version, gpu_handles, prepare_nvml, recovery_action
from slurm_gpuaas.domain.errors import Unavailable
from slurm_gpuaas.domain.names import NodeName

Fact = int | float | str | None | list["Fact"] | dict[str, "Fact"]

_ERRORS: Final = {
    "corrected": pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED,
    "uncorrected": pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
}
_SPANS: Final = {"volatile": pynvml.NVML_VOLATILE_ECC, "aggregate": pynvml.NVML_AGGREGATE_ECC}
_LINK_COUNTERS: Final = {
    "replays": pynvml.NVML_FI_DEV_NVLINK_ERROR_DL_REPLAY,
    "recoveries": pynvml.NVML_FI_DEV_NVLINK_ERROR_DL_RECOVERY,
    "crc_errors": pynvml.NVML_FI_DEV_NVLINK_ERROR_DL_CRC,
    "recovery_events": pynvml.NVML_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_EVENTS,
    "effective_errors": pynvml.NVML_FI_DEV_NVLINK_COUNT_EFFECTIVE_ERRORS,
    "symbol_errors": pynvml.NVML_FI_DEV_NVLINK_COUNT_SYMBOL_ERRORS,
}


def gpu_facts(config: Config, node: NodeName) -> dict[str, Fact]:
    """Driver and GPUs. What a GPU does not answer is there as `{"error": ...}`: that, too, is evidence.

    Raises:
        Unavailable: NVML does not work here.
    """
    try:
        prepare_nvml(config, node)()
        pynvml.nvmlInit()
    except (OSError, pynvml.NVMLError) as error:
        raise Unavailable(f"NVML does not work here: {error}.") from None
    try:
        return {
            "driver_version": driver_version(),
            "count": _asked(pynvml.nvmlDeviceGetCount),
            "gpus": [
                {**gpu.model_dump(), **{name: _asked(ask, handle) for name, ask in _FACTS.items()}}
                for gpu, handle in gpu_handles()
            ],
        }
    except pynvml.NVMLError as error:
        raise Unavailable(f"NVML gave up: {error}.") from None
    finally:
        pynvml.nvmlShutdown()


def _asked(ask: Callable[..., Fact], *arguments: Any) -> Fact:
    try:
        return ask(*arguments)
    except pynvml.NVMLError as error:
        return {"error": str(error)}


def _ecc(handle: Any) -> Fact:
    return {
        f"{error}_{span}": _asked(pynvml.nvmlDeviceGetTotalEccErrors, handle, error_type, counter)
        for error, error_type in _ERRORS.items()
        for span, counter in _SPANS.items()
    }


def _sram(handle: Any) -> Fact:
    status = pynvml.c_nvmlEccSramErrorStatus_v1_t()
    pynvml.nvmlDeviceGetSramEccErrorStatus(handle, ctypes.byref(status))
    return _fields(status)


def _remapped(handle: Any) -> Fact:
    names = ("correctable", "uncorrectable", "pending", "failure")
    return dict(zip(names, pynvml.nvmlDeviceGetRemappedRows(handle), strict=True))


def _banks(handle: Any) -> Fact:
    return _fields(pynvml.nvmlDeviceGetRowRemapperHistogram(handle))


def _fields(structure: Any) -> dict[str, Fact]:
    return {name: getattr(structure, name) for name, *_type in structure._fields_ if name != "version"}


def _nvlinks(handle: Any) -> Fact:
    (count,) = pynvml.nvmlDeviceGetFieldValues(handle, [pynvml.NVML_FI_DEV_NVLINK_LINK_COUNT])
    return [_nvlink(handle, link) for link in range(int(field_number(count) or 0))]


def _nvlink(handle: Any, link: int) -> Fact:
    answers = pynvml.nvmlDeviceGetFieldValues(handle, [(field, link) for field in _LINK_COUNTERS.values()])
    counters = {
        name: number
        for name, answer in zip(_LINK_COUNTERS, answers, strict=True)
        if (number := field_number(answer)) is not None
    }
    return {"link": link, "up": _asked(pynvml.nvmlDeviceGetNvLinkState, handle, link), **counters}


def _pcie(handle: Any) -> Fact:
    (replays,) = pynvml.nvmlDeviceGetFieldValues(handle, [pynvml.NVML_FI_DEV_PCIE_REPLAY_COUNTER])
    return {
        "width": _asked(pynvml.nvmlDeviceGetCurrPcieLinkWidth, handle),
        "width_max": _asked(pynvml.nvmlDeviceGetMaxPcieLinkWidth, handle),
        "generation": _asked(pynvml.nvmlDeviceGetCurrPcieLinkGeneration, handle),
        "generation_max": _asked(pynvml.nvmlDeviceGetMaxPcieLinkGeneration, handle),
        "replays": field_number(replays),
    }


def _processes(handle: Any) -> Fact:
    return [
        {"pid": process.pid, "memory_bytes": process.usedGpuMemory}
        for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    ]


def _memory(handle: Any) -> Fact:
    return _fields(pynvml.nvmlDeviceGetMemoryInfo(handle, pynvml.nvmlMemory_v2))


_FACTS: Final[Mapping[str, Callable[[Any], Fact]]] = {
    "recovery_action": recovery_action,
    "inforom": pynvml.nvmlDeviceGetInforomImageVersion,
    "board_part_number": pynvml.nvmlDeviceGetBoardPartNumber,
    "persistence": pynvml.nvmlDeviceGetPersistenceMode,
    "ecc": _ecc,
    "sram": _sram,
    "remapped_rows": _remapped,
    "remapper_banks": _banks,
    "nvlinks": _nvlinks,
    "pcie": _pcie,
    "temperature": lambda handle: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
    "power_milliwatts": pynvml.nvmlDeviceGetPowerUsage,
    "power_limit_milliwatts": pynvml.nvmlDeviceGetEnforcedPowerLimit,
    "clocks_event_reasons": pynvml.nvmlDeviceGetCurrentClocksEventReasons,
    "sm_clock_mhz": lambda handle: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
    "memory": _memory,
    "processes": _processes,
}
