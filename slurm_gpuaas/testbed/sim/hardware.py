"""A simulated node as files: `nvml.state`, `nvml.events`, `kmsg` and `boot_id` in one directory.

All changes take the node's lock (flock on `kmsg`) and are safe against other writers; readers never see half a change.
"""

from __future__ import annotations

import fcntl
import hashlib
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from slurm_gpuaas.domain.errors import InvalidInput, NotFound

GPUS_PER_NODE = 8
DRIVER = "580.95.05"
PCI_BUSES = (0x1B, 0x43, 0x52, 0x61, 0x9D, 0xC3, 0xD1, 0xDF)
"""Bus numbers of the eight GPUs of an HGX board."""

MESSAGES: Mapping[int, str] = {
    13: "Graphics SM Warp Exception on (GPC 1, TPC 2, SM 0): Illegal Instruction Encoding",
    31: "Ch 00000008, intr 00000000. MMU Fault: ENGINE GRAPHICS GPCCLIENT_T1_0 faulted @ 0x7fa4_b2000000.",
    43: "Ch 00000008",
    45: "Ch 00000008",
    48: "DBE (double bit error) ECC Error in the framebuffer at partition 4, subpartition 1.",
    63: "Row Remapper: New row marked for remapping, reset gpu to activate.",
    64: "Row Remapper: Failed to remap row.",
    79: "GPU has fallen off the bus.",
    94: "Contained: SM (0x1). RST: No, D-RST: No",
    95: "Uncontained: FBHUB. RST: Yes, D-RST: No",
    119: "Timeout after 6s of waiting for RPC response from GPU3 GSP! Expected function 76 (GSP_RM_CONTROL).",
    154: "GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)",
}
"""What the driver prints after the code, as public logs show it."""

TEXTS = frozenset(("name", "uuid", "serial", "pci", "fabric_uuid", "vbios"))
NUMBERS = frozenset(
    """
    minor temperature memory_temperature power power_limit utilisation memory_utilisation memory_total memory_reserved
    memory_used ecc_enabled ecc_volatile_corrected ecc_volatile_uncorrected ecc_aggregate_corrected
    ecc_aggregate_uncorrected remap_correctable remap_uncorrectable remap_pending remap_failure retired_pending
    nvlink_count nvlink_version fabric_state fabric_clique fabric_health_mask fabric_health_summary recovery_action
    pcie_replays lost persistence clocks_event_reasons slowdown_temperature pcie_width pcie_width_max pcie_generation
    pcie_generation_max sram_threshold banks_exhausted
    """.split()  # noqa: SIM905
)
NUMBERED = re.compile(r"nvlink\.\d+\.state|process\.\d+|field\.\d+")
"""Readings of a GPU in nvml.state, as the simulated library knows them; it passes over what it does not know."""

IB_DEVICES = tuple(f"mlx5_{number}" for number in range(GPUS_PER_NODE))
IB_PORT: Mapping[str, str] = {
    "state": "4: ACTIVE",
    "phys_state": "5: LinkUp",
    "rate": "400 Gb/sec (4X NDR)",
    "link_layer": "InfiniBand",
    "counters/symbol_error": "0",
    "counters/link_downed": "0",
}
"""Files of a port that is well."""

KERNEL_ERROR, KERNEL_INFO = 3, 6
"""syslog severities; facility 0 is the kernel, so they are the whole priority field."""


@dataclass(frozen=True, slots=True)
class Model:
    """What NVML says of a GPU model. `power_limit` in mW; `nvlink_version` as nvml.h counts: 6 is NVLink 4."""

    name: str
    memory_mib: int
    reserved_mib: int
    power_limit: int
    nvlinks: int
    nvlink_version: int


MODELS: Mapping[str, Model] = {
    "b200": Model("NVIDIA B200", 183_359, 680, 1_000_000, 18, 7),
    "h200": Model("NVIDIA H200", 143_771, 620, 700_000, 18, 6),
}


def pci_address(gpu: int) -> str:
    """`dddd:bb:dd` of a GPU, as kernel-log lines name it."""
    return f"0000:{PCI_BUSES[gpu]:02x}:00"


def create_node_files(run_dir: Path, nodes: Iterable[str], model: str, cluster: str = "gpuaas") -> None:
    """Make the files of all nodes under `run_dir/NODE`; what stands there already is begun anew.

    UUIDs and serials follow from cluster, node and index, so a testbed's GPUs keep their identity over restarts.
    """
    kind = _model(model)
    same = (
        f"name {kind.name}\ntemperature 34\nmemory_temperature 36\npower 145000\npower_limit {kind.power_limit}\n"
        f"utilisation 0\nmemory_utilisation 0\nmemory_total {kind.memory_mib << 20}\n"
        f"memory_reserved {kind.reserved_mib << 20}\nmemory_used 0\necc_enabled 1\n"
        f"nvlink_count {kind.nvlinks}\nnvlink_version {kind.nvlink_version}\n"
        f"fabric_state 3\nfabric_clique 0\nrecovery_action 0\nlost 0\nvbios 97.00.A0.00.0{kind.nvlink_version}\n"
        f"persistence 1\nslowdown_temperature 92\npcie_width 16\npcie_width_max 16\npcie_generation 5\n"
        f"pcie_generation_max 5"
    ).splitlines()
    common = [
        "".join(f"gpu.{gpu}.{line}\n" for line in (*same, f"minor {gpu}", f"pci 0000{pci_address(gpu).upper()}.0"))
        for gpu in range(GPUS_PER_NODE)
    ]
    boot_line = (
        f"{KERNEL_INFO},1,{_microseconds()},-;NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  {DRIVER}\n"
    )
    for node in nodes:
        folder = run_dir / node
        folder.mkdir(parents=True, exist_ok=True)
        fabric = uuid.uuid5(uuid.NAMESPACE_DNS, f"{node}.{cluster}.fabric.gpuaas")  # NVLink does not leave the node
        state = [f"driver_version {DRIVER}\nnvml_version 13.{DRIVER}\ncuda_version 13000\ngpu.count {GPUS_PER_NODE}\n"]
        for gpu in range(GPUS_PER_NODE):
            digest = hashlib.sha256(f"{cluster}/{node}/{gpu}".encode()).digest()
            serial = 1_650_000_000_000 + int.from_bytes(digest[16:21]) % 9_999_999_999
            state.append(
                f"{common[gpu]}gpu.{gpu}.uuid GPU-{uuid.UUID(bytes=digest[:16])}\ngpu.{gpu}.serial {serial}\n"
                f"gpu.{gpu}.fabric_uuid {fabric}\n"
            )
        (folder / "nvml.state").write_text("".join(state))
        (folder / "nvml.events").write_text("")
        (folder / "kmsg").write_text(boot_line)
        (folder / "boot_id").write_text(f"{uuid.uuid4()}\n")


class SimulatedNode:
    """One node's hardware, to be read and broken."""

    def __init__(self, folder: Path) -> None:
        if not (folder / "nvml.state").is_file():
            raise NotFound(
                f"There is no simulated node {folder.name}.", way_out="`sinfo` lists the nodes of the testbed."
            )
        self.folder = folder

    def read_state(self) -> dict[str, str]:
        """The `key value` lines of nvml.state."""
        lines = (self.folder / "nvml.state").read_text().splitlines()
        return dict(line.split(" ", 1) for line in lines if " " in line)

    def set(self, gpu: int, values: Mapping[str, str]) -> None:
        """Change readings of a GPU, e.g. `{"temperature": "90", "nvlink.3.state": "0"}`.

        Raises:
            InvalidInput: no such GPU or reading, or a value that the reading cannot have.
        """
        self._check(gpu)
        for key, value in values.items():
            if key in TEXTS:
                fits = bool(value.strip()) and value.isprintable()
            elif key in NUMBERS or NUMBERED.fullmatch(key):
                fits = bool(re.fullmatch(r"\d{1,19}", value, re.ASCII))
            else:
                known = ", ".join([*sorted(TEXTS | NUMBERS), "nvlink.N.state", "process.PID", "field.ID"])
                raise InvalidInput(f"{key!r:.80} is no reading of a GPU.", way_out=f"Use one of {known}.")
            if not fits:
                kind = "text" if key in TEXTS else "a whole number"
                raise InvalidInput(f"{value!r:.80} is no value of {key}.", way_out=f"Use {kind}.")
        with self._locked():
            self._write_state({f"gpu.{gpu}.{key}": value for key, value in values.items()})

    def log(self, text: str, priority: int = KERNEL_ERROR) -> int:
        """Append a record to the kernel log; gives its sequence number. `priority` is severity + 8 x facility."""
        with self._locked() as kmsg:
            return _append(kmsg, text, priority)

    def xid(
        self, code: int, gpu: int, *, text: str | None = None, pid: int | None = None, process: str | None = None
    ) -> str:
        """Raise an XID as the driver does: kernel-log line, NVML event, and the GPU's new condition. Gives the line.

        Args:
            text: what follows code and process; by default the driver's own words for the code.
        """
        self._check(gpu)
        text = text or MESSAGES.get(code, "simulated")
        known_pid = "'<unknown>'" if pid is None else str(pid)
        line = f"NVRM: Xid (PCI:{pci_address(gpu)}): {code}, pid={known_pid}, name={process or '<unknown>'}, {text}"
        with self._locked() as kmsg:
            _append(kmsg, line, KERNEL_ERROR)
            with (self.folder / "nvml.events").open("a") as events:
                events.write(f"{gpu} {code}\n")
            if code == 79:
                _append(kmsg, f"NVRM: GPU {pci_address(gpu)}.0: GPU has fallen off the bus.", KERNEL_ERROR)
                self._write_state({f"gpu.{gpu}.lost": "1", f"gpu.{gpu}.recovery_action": "2"})
        return line

    def set_port(self, device: str, files: Mapping[str, str]) -> None:
        """Change files of the InfiniBand port `ib/DEVICE/ports/1`, e.g. `{"state": "1: DOWN"}`; first the node gets a
        fabric of eight good ports, as sysfs shows them. An unknown device is a further one."""
        ports = self.folder / "ib"
        for name in (device,) if ports.exists() else (*IB_DEVICES, device):
            if not (ports / name).exists():
                _write_files(ports / name / "ports" / "1", IB_PORT)
        _write_files(ports / device / "ports" / "1", files)

    def reboot(self) -> None:
        """A new boot id, an empty kernel log, all GPUs back on the bus."""
        with self._locked() as kmsg:
            (self.folder / "boot_id").write_text(f"{uuid.uuid4()}\n")
            kmsg.truncate(0)
            _append(kmsg, f"NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  {DRIVER}", KERNEL_INFO)
            healthy = {"lost": "0", "recovery_action": "0"}
            self._write_state({f"gpu.{g}.{k}": v for g in range(GPUS_PER_NODE) for k, v in healthy.items()})

    def _check(self, gpu: int) -> None:
        if not 0 <= gpu < GPUS_PER_NODE:
            raise InvalidInput(
                f"GPU {gpu} is not among 0-{GPUS_PER_NODE - 1}.", way_out="Name a GPU by its NVML index."
            )

    @contextmanager
    def _locked(self) -> Iterator[IO[bytes]]:
        with (self.folder / "kmsg").open("a+b") as kmsg:
            fcntl.flock(kmsg, fcntl.LOCK_EX)
            yield kmsg

    def _write_state(self, changes: Mapping[str, str]) -> None:
        state = {**self.read_state(), **changes}
        scratch = self.folder / "nvml.state.new"
        scratch.write_text("".join(f"{key} {value}\n" for key, value in state.items()))
        scratch.rename(self.folder / "nvml.state")


def _append(kmsg: IO[bytes], text: str, priority: int) -> int:
    """Append one record as /dev/kmsg shows it. The caller holds the lock, so the last line tells the next number."""
    kmsg.seek(0, 2)
    end = kmsg.tell()
    kmsg.seek(max(0, end - 8192))
    last = kmsg.read().rstrip(b"\n").rpartition(b"\n")[2]
    sequence = int(last.split(b",", 2)[1]) + 1 if last else 0
    escaped = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    kmsg.write(f"{priority},{sequence},{_microseconds()},-;{escaped}\n".encode())
    kmsg.flush()
    return sequence


def _write_files(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{text}\n")


def _microseconds() -> int:
    """Time since boot, the kernel log's clock."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def _model(model: str) -> Model:
    try:
        return MODELS[model]
    except KeyError:
        raise InvalidInput(
            f"There is no simulated GPU model {model}.", way_out=f"Use one of {', '.join(MODELS)}."
        ) from None
