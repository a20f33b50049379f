"""The simulated NVML through NVIDIA's own binding."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pynvml
import pytest

from slurm_gpuaas.domain.errors import InvalidInput, NotFound
from slurm_gpuaas.testbed.sim import SimulatedNode, create_node_files


@pytest.fixture(autouse=True)
def initialised(nvml: ctypes.CDLL, node: SimulatedNode) -> Iterator[None]:
    assert nvml.gpuaasSimSelectNode(os.fsencode(node.folder)) == 0
    pynvml.nvmlInit()
    yield
    pynvml.nvmlShutdown()


def gpu(index: int) -> Any:
    return pynvml.nvmlDeviceGetHandleByIndex(index)


def test_it_describes_a_b200_node() -> None:
    assert pynvml.nvmlDeviceGetCount() == 8
    assert pynvml.nvmlSystemGetDriverVersion() == "580.95.05"
    assert pynvml.nvmlSystemGetNVMLVersion() == "13.580.95.05"
    assert pynvml.nvmlSystemGetCudaDriverVersion() == 13000
    handle = gpu(3)
    assert pynvml.nvmlDeviceGetName(handle) == "NVIDIA B200"
    assert pynvml.nvmlDeviceGetMinorNumber(handle) == 3
    assert pynvml.nvmlDeviceGetMemoryInfo(handle).total == 183_359 << 20
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    assert memory.free == memory.total - memory.reserved
    assert pynvml.nvmlDeviceGetEccMode(handle) == [1, 1]
    assert pynvml.nvmlDeviceGetNvLinkVersion(handle, 17) == pynvml.NVML_NVLINK_VERSION_5_0


def test_a_gpu_is_found_by_each_of_its_names() -> None:
    handle = gpu(5)
    pci = pynvml.nvmlDeviceGetPciInfo(handle)
    assert pci.busId == "00000000:C3:00.0"
    for found in (
        pynvml.nvmlDeviceGetHandleByUUID(pynvml.nvmlDeviceGetUUID(handle)),
        pynvml.nvmlDeviceGetHandleBySerial(pynvml.nvmlDeviceGetSerial(handle).encode()),
        pynvml.nvmlDeviceGetHandleByPciBusId(pci.busId.encode()),
        pynvml.nvmlDeviceGetHandleByPciBusId(b"0000:c3:00.0"),
    ):
        assert pynvml.nvmlDeviceGetIndex(found) == 5
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetHandleByUUID(b"GPU-none")
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        gpu(8)


def test_identities_last_and_differ(tmp_path: Path, hardware: Path) -> None:
    create_node_files(tmp_path / "again", ["b200-001"], "b200", "test")
    create_node_files(tmp_path / "other", ["b200-001"], "b200", "elsewhere")

    def uuids(folder: Path) -> list[str]:
        state = SimulatedNode(folder).read_state()
        return [state[f"gpu.{index}.uuid"] for index in range(8)]

    first = uuids(hardware / "b200-001")
    assert uuids(tmp_path / "again" / "b200-001") == first
    others = uuids(hardware / "b200-002") + uuids(tmp_path / "other" / "b200-001")
    assert len({*first, *others}) == 24


def test_readings_follow_the_state_file(node: SimulatedNode) -> None:
    handle = gpu(3)
    assert pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU) == 34
    node.set(
        3,
        {
            "temperature": "91",
            "power": "987000",
            "utilisation": "77",
            "nvlink.5.state": "0",
            "process.4242": "1073741824",
            "process.4243": "5",
            "ecc_volatile_uncorrected": "2",
            "remap_uncorrectable": "1",
            "remap_pending": "1",
            "recovery_action": "2",
            "field.94": "17",
            "fabric_clique": "4",
        },
    )
    assert pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU) == 91
    assert pynvml.nvmlDeviceGetTemperatureV(handle, pynvml.NVML_TEMPERATURE_GPU) == 91
    assert pynvml.nvmlDeviceGetPowerUsage(handle) == 987_000
    assert pynvml.nvmlDeviceGetUtilizationRates(handle).gpu == 77
    assert [pynvml.nvmlDeviceGetNvLinkState(handle, link) for link in (4, 5, 6)] == [1, 0, 1]
    assert [process.pid for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)] == [4242, 4243]
    uncorrected = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
    assert pynvml.nvmlDeviceGetTotalEccErrors(handle, uncorrected, pynvml.NVML_VOLATILE_ECC) == 2
    assert pynvml.nvmlDeviceGetTotalEccErrors(handle, uncorrected, pynvml.NVML_AGGREGATE_ECC) == 0
    assert pynvml.nvmlDeviceGetRemappedRows(handle) == (0, 1, 1, 0)
    action, replays, unknown = pynvml.nvmlDeviceGetFieldValues(
        handle, [pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION, 94, 9_999]
    )
    assert (action.value.uiVal, replays.value.uiVal) == (pynvml.NVML_GPU_RECOVERY_ACTION_NODE_REBOOT, 17)
    assert unknown.nvmlReturn == pynvml.NVML_ERROR_NOT_SUPPORTED
    assert pynvml.nvmlDeviceGetTemperature(gpu(2), 0) == 34


@pytest.mark.parametrize("version", [pynvml.c_nvmlGpuFabricInfo_v2_t, pynvml.c_nvmlGpuFabricInfo_v3_t])
def test_gpus_of_one_node_share_a_fabric(version: Callable[[], Any]) -> None:
    seen = set()
    for index in range(8):
        fabric = version()
        pynvml.nvmlDeviceGetGpuFabricInfoV(gpu(index), ctypes.byref(fabric))
        assert fabric.state == pynvml.NVML_GPU_FABRIC_STATE_COMPLETED
        seen.add((bytes(fabric.clusterUuid), fabric.cliqueId))
    assert len(seen) == 1
    assert any(next(iter(seen))[0])


def events_of(*gpus: int) -> Any:
    events = pynvml.nvmlEventSetCreate()
    for index in gpus:
        pynvml.nvmlDeviceRegisterEvents(gpu(index), pynvml.nvmlEventTypeXidCriticalError, events)
    return events


def test_utilisation_is_kept_for_a_while_and_told_from_a_moment_on(node: SimulatedNode) -> None:
    node.set(3, {"utilisation": "83"})
    kind, samples = pynvml.nvmlDeviceGetSamples(gpu(3), pynvml.NVML_GPU_UTILIZATION_SAMPLES, 0)
    assert kind == pynvml.NVML_VALUE_TYPE_UNSIGNED_INT
    assert {sample.sampleValue.uiVal for sample in samples} == {83}
    moments = [sample.timeStamp / 1e6 for sample in samples]
    assert len(moments) == 120
    assert moments == sorted(moments)
    assert abs(moments[-1] - time.time()) < 5
    _, later = pynvml.nvmlDeviceGetSamples(gpu(3), pynvml.NVML_GPU_UTILIZATION_SAMPLES, samples[-7].timeStamp)
    assert 6 <= len(later) < 120
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetSamples(gpu(3), pynvml.NVML_GPU_UTILIZATION_SAMPLES, int((time.time() + 60) * 1e6))
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlDeviceGetSamples(gpu(3), pynvml.NVML_TOTAL_POWER_SAMPLES, 0)


def test_an_event_wakes_who_waits_at_once(node: SimulatedNode) -> None:
    events = events_of(*range(8))
    began = time.monotonic()
    threading.Timer(0.05, node.xid, (31, 2)).start()
    data = pynvml.nvmlEventSetWait_v2(events, 100_000)
    assert time.monotonic() - began < 100, "it waited to the end"
    assert (pynvml.nvmlDeviceGetIndex(data.device), data.eventData) == (2, 31)
    assert data.eventType == pynvml.nvmlEventTypeXidCriticalError
    pynvml.nvmlEventSetFree(events)


def test_events_come_in_order_and_only_of_registered_gpus_and_from_registration_on(node: SimulatedNode) -> None:
    node.xid(13, 1)
    events = events_of(1, 2)
    node.xid(31, 1)
    node.xid(43, 0)
    node.xid(94, 2)
    seen = [pynvml.nvmlEventSetWait_v2(events, 1_000).eventData for _ in range(2)]
    assert seen == [31, 94]
    with pytest.raises(pynvml.NVMLError_Timeout):
        pynvml.nvmlEventSetWait_v2(events, 1)
    pynvml.nvmlEventSetFree(events)


def test_a_gpu_off_the_bus_tells_its_xid_first_and_then_is_lost(node: SimulatedNode) -> None:
    events, handle = events_of(3, 4), gpu(3)
    node.xid(79, 3)
    assert pynvml.nvmlEventSetWait_v2(events, 1_000).eventData == 79
    questions: list[Callable[[], Any]] = [
        lambda: pynvml.nvmlEventSetWait_v2(events, 1_000),
        lambda: pynvml.nvmlDeviceGetName(handle),
        lambda: gpu(3),
    ]
    for ask in questions:
        with pytest.raises(pynvml.NVMLError_GpuIsLost):
            ask()
    assert pynvml.nvmlDeviceGetName(gpu(4)) == "NVIDIA B200"
    pynvml.nvmlEventSetFree(events)
    node.reboot()
    assert pynvml.nvmlDeviceGetName(gpu(3)) == "NVIDIA B200"


def test_each_thread_has_its_node_and_handles_keep_theirs(nvml: ctypes.CDLL, hardware: Path) -> None:
    handle = gpu(0)
    elsewhere: list[str] = []

    def other() -> None:
        nvml.gpuaasSimSelectNode(os.fsencode(hardware / "b200-002"))
        pynvml.nvmlInit()
        elsewhere.extend((pynvml.nvmlDeviceGetUUID(gpu(0)), pynvml.nvmlDeviceGetUUID(handle)))
        pynvml.nvmlShutdown()

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    mine = pynvml.nvmlDeviceGetUUID(handle)
    assert elsewhere[0] != mine
    assert elsewhere[1] == mine


def test_no_node_is_no_driver(nvml: ctypes.CDLL, tmp_path: Path) -> None:
    assert nvml.gpuaasSimSelectNode(os.fsencode(tmp_path / "missing")) == 0
    with pytest.raises(pynvml.NVMLError_DriverNotLoaded):
        pynvml.nvmlInit()


def test_a_senseless_reading_is_refused(node: SimulatedNode) -> None:
    with pytest.raises(InvalidInput):
        node.set(3, {"temperature": "9\ngpu.0.lost 1"})
    with pytest.raises(InvalidInput, match=r"no reading of a GPU\. Use one of .*temperature.*nvlink\.N\.state"):
        node.set(3, {"foo": "bar"})
    with pytest.raises(InvalidInput, match="'hot' is no value of temperature"):
        node.set(3, {"temperature": "hot"})
    with pytest.raises(InvalidInput):
        node.set(8, {"temperature": "9"})
    with pytest.raises(NotFound):
        SimulatedNode(node.folder.parent / "b200-999")
