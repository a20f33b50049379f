"""NVML as a source: critical XID events, waited for in NVIDIA's library through its own binding; and NVLink domains.

One thread a node blocks in nvmlEventSetWait; it costs nothing while nothing happens. Trouble with NVML is logged and
tried again: the kernel log is read all the same.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final
from uuid import UUID

import pynvml
import structlog

from slurm_gpuaas.agent.config import Config
from slurm_gpuaas.agent.node import NO_ACTION, NodeAgent
from slurm_gpuaas.domain.errors import Unavailable
from slurm_gpuaas.domain.gpus import GpuIdentity
from slurm_gpuaas.domain.names import NodeName

WAIT_MS: Final = 60_000
"""Longest single wait in NVML; only the stop of the thread depends on it."""
RETRY_S: Final = 60.0
LOST_PAUSE_S: Final = 1.0
"""Before a new event set is made: a library that keeps saying that a GPU is lost must not keep us busy."""

_ACTIONS: Final = {0: NO_ACTION, 1: "GPU Reset", 2: "Node Reboot", 3: "Drain P2P", 4: "Drain and Reset"}
"""nvmlDeviceGpuRecoveryAction_t in the words of XID 154."""

_STATES: Final = {0: "Not Supported", 1: "Not Started", 2: "In Progress", 3: "Completed"}
"""nvmlGpuFabricState_t in the words of nvidia-smi."""

log = structlog.get_logger(__name__)


class NvmlSource:
    """Args:
    prepare: called once in the thread that will use NVML, before it is initialised.
    """

    def __init__(self, agent: NodeAgent, *, prepare: Callable[[], None] = lambda: None) -> None:
        self._agent = agent
        self._prepare = prepare
        self._stop = threading.Event()
        self._listed = threading.Event()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"nvml-{agent.node}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wait_until_listed(self, seconds: float) -> bool:
        """Whether the node's GPUs were listed (or NVML turned out not to work) within the time."""
        return self._listed.wait(seconds)

    def wait_until_listening(self, seconds: float) -> bool:
        """Whether events are waited for within the time."""
        return self._listening.wait(seconds)

    def stop(self) -> None:
        """Ask the thread to end; it is a daemon thread and may still sit in NVML when the process ends."""
        self._stop.set()

    def join(self, seconds: float) -> None:
        """Wait for the thread's end, for so long at most."""
        self._thread.join(seconds)

    def _run(self) -> None:
        try:
            self._prepare()
        except OSError as error:
            log.warning("nvml.unavailable", node=self._agent.node, error=str(error))
            self._listed.set()
            return
        told = ""
        while not self._stop.is_set():
            try:
                pynvml.nvmlInit()
                self._look()
                self._listed.set()
                told = ""
                self._listen()
            except pynvml.NVMLError as error:
                self._listed.set()
                if str(error) != told:
                    log.warning("nvml.failed", node=self._agent.node, error=str(error), retry_seconds=RETRY_S)
                told = str(error)
                self._stop.wait(RETRY_S)

    def _look(self) -> None:
        """Which GPUs there are and what the driver asks for now; no event tells of what was before."""
        handles = gpu_handles()
        self._agent.set_gpus([gpu for gpu, _handle in handles], driver_version())
        for gpu, handle in handles:
            if (action := recovery_action(handle)) is not None:
                self._agent.see_recovery_action(gpu, action)

    def _listen(self) -> None:
        """Wait for events, on a new set whenever a GPU of the old one got lost."""
        while not self._stop.is_set():
            events = pynvml.nvmlEventSetCreate()
            try:
                gpus = self._register(events)
                if self._stop.is_set():
                    return
                self._look()  # after the set was made: nothing falls between
                self._listening.set()
                self._pass_on(events, gpus)
            finally:
                pynvml.nvmlEventSetFree(events)

    def _register(self, events: Any) -> Mapping[int, GpuIdentity]:
        gpus: dict[int, GpuIdentity] = {}
        for gpu, handle in gpu_handles():
            try:
                pynvml.nvmlDeviceRegisterEvents(handle, pynvml.nvmlEventTypeXidCriticalError, events)
            except pynvml.NVMLError as error:
                log.warning("nvml.no_events", node=self._agent.node, gpu=gpu.index, error=str(error))
                continue
            gpus[gpu.index] = gpu
        return gpus

    def _pass_on(self, events: Any, gpus: Mapping[int, GpuIdentity]) -> None:
        while not self._stop.is_set():
            try:
                data = pynvml.nvmlEventSetWait_v2(events, WAIT_MS)
            except pynvml.NVMLError_Timeout:
                continue
            except pynvml.NVMLError_GpuIsLost:
                self._stop.wait(LOST_PAUSE_S)
                return
            if data.eventType & pynvml.nvmlEventTypeXidCriticalError:
                self._tell(data, gpus)

    def _tell(self, data: Any, gpus: Mapping[int, GpuIdentity]) -> None:
        """One event. Which GPU it is of may be past asking; the others are watched on, and the kernel log names it."""
        try:
            # The index needs no working GPU, unlike everything else one could ask.
            gpu = gpus.get(pynvml.nvmlDeviceGetIndex(data.device))
        except pynvml.NVMLError:
            gpu = None
        if gpu is None:
            log.warning("nvml.unknown_gpu", node=self._agent.node, xid=int(data.eventData))
            return
        self._agent.see_xid(gpu, int(data.eventData), recovery_action(data.device))


def prepare_nvml(config: Config, node: NodeName) -> Callable[[], None]:
    """To be called in the thread that uses NVML, first: a simulated node is chosen thread by thread."""
    if config.simulated_hardware is None:
        return lambda: None
    folder = os.fsencode(config.simulated_hardware / node)
    return lambda: ctypes.CDLL("libnvidia-ml.so.1").gpuaasSimSelectNode(folder)


def nvlink_registrations(prepare: Callable[[], None]) -> list[str]:
    """What each GPU that answers says of its NVLink domain, in the words of nvidia-smi: cluster UUID, clique, state and
    status.

    Args:
        prepare: called before NVML is initialised.

    Raises:
        Unavailable: NVML does not work here.
    """
    try:
        prepare()
        pynvml.nvmlInit()
        try:
            return [_registration(handle) for _gpu, handle in gpu_handles()]
        finally:
            pynvml.nvmlShutdown()
    except (OSError, pynvml.NVMLError) as error:
        raise Unavailable(f"NVML does not work here: {error}.", way_out="Load NVIDIA's driver.") from None


def _registration(handle: Any) -> str:
    info = pynvml.c_nvmlGpuFabricInfo_v2_t()
    try:
        pynvml.nvmlDeviceGetGpuFabricInfoV(handle, ctypes.byref(info))
    except pynvml.NVMLError:  # a driver that does not know it, or a GPU without NVLink
        return "N/A, N/A, N/A, N/A"
    status = "Success" if info.status == pynvml.NVML_SUCCESS else f"Error {info.status}"
    return f"{UUID(bytes=bytes(info.clusterUuid))}, {info.cliqueId}, {_STATES.get(info.state, info.state)}, {status}"


def recovery_action(handle: Any) -> str | None:
    """What the driver says should be done with the GPU (from R570 on); None when it does not say."""
    try:
        (value,) = pynvml.nvmlDeviceGetFieldValues(handle, [pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION])
    except pynvml.NVMLError:
        return None
    return _ACTIONS.get(value.value.uiVal) if value.nvmlReturn == pynvml.NVML_SUCCESS else None


def gpu_handles() -> list[tuple[GpuIdentity, Any]]:
    """The GPUs that answer, each with NVML's handle."""
    found = []
    for index in range(pynvml.nvmlDeviceGetCount()):
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            pci = pynvml.nvmlDeviceGetPciInfo(handle)
            gpu = GpuIdentity(
                index=index,
                uuid=pynvml.nvmlDeviceGetUUID(handle)[:64],
                serial=optional(pynvml.nvmlDeviceGetSerial, handle),
                pci=f"{pci.domain:04x}:{pci.bus:02x}:{pci.device:02x}",
                name=pynvml.nvmlDeviceGetName(handle)[:80],
                vbios=optional(pynvml.nvmlDeviceGetVbiosVersion, handle) or "",
            )
        except pynvml.NVMLError:
            continue  # a GPU that does not answer raises no events either; kernel log and checks tell of it
        found.append((gpu, handle))
    return found


def driver_version() -> str | None:
    return optional(pynvml.nvmlSystemGetDriverVersion)


def optional(ask: Callable[..., str], *arguments: Any) -> str | None:
    """A short answer that not every GPU or driver has."""
    try:
        return str(ask(*arguments))[:40]
    except pynvml.NVMLError:
        return None
