"""What gpuaas-agent can be told: one YAML file, every field of it here. An unknown key is an error, never ignored.

Environment variables `GPUAAS_AGENT_<FIELD>` stand above the file. `{node}` in a path is the node's name.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from slurm_gpuaas.api.keyfile import read_key, read_master_key
from slurm_gpuaas.api.node_events import is_loopback
from slurm_gpuaas.api.signing import node_key
from slurm_gpuaas.domain.clock import Span
from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.telemetry import SLOT_S

DEFAULT_CONFIG = Path("/etc/gpuaas/agent.yaml")
_PREFIX: Final = "GPUAAS_AGENT_"


class FileSystem(BaseModel):
    """A mount point that jobs need."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path
    writable: bool = Field(default=True, description="Whether a file is written there to see that it takes writing.")


class Config(BaseModel):
    """gpuaas-agent's configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    daemon: str = Field(
        default="unix:/run/gpuaas/gpuaasd.sock",
        description="gpuaasd: `unix:PATH`, `https://HOST:PORT`, or `http://HOST:PORT` (loopback only).",
    )
    ca: Path | None = Field(
        default=None, description="PEM file of the authority that signed gpuaasd's certificate. Absent = the system's."
    )
    key: Path | None = Field(
        default=Path("/etc/gpuaas/agent.key"), description="File (0600) with this node's key, in hexadecimal."
    )
    master_key: Path | None = Field(
        default=None,
        description="File (0600) with gpuaasd's master key, instead of `key`. Only for simulated nodes of a testbed.",
    )
    nvml: bool = Field(default=True, description="Watch NVML's critical XID events.")
    kernel_log: Path | None = Field(
        default=Path("/dev/kmsg"),
        description="Kernel log: the device, a file of the same records, or `journald`. Absent = do not.",
    )
    boot_id: Path = Field(default=Path("/proc/sys/kernel/random/boot_id"), description="File with the boot's id.")
    spool: Path = Field(
        default=Path("/var/lib/gpuaas-agent/{node}"), description="Folder for events on their way and what was seen."
    )
    spool_max_bytes: int = Field(default=16 << 20, ge=64 << 10, description="Most that waits for gpuaasd, per node.")
    same_within: Span = Field(
        default=timedelta(seconds=5), description="The same code of the same GPU within this time is one event."
    )
    heartbeat: Span = Field(default=timedelta(minutes=1), description="Longest silence towards gpuaasd.")
    sample_every: timedelta = Field(
        default=timedelta(seconds=15),
        description="Time between two samples of each GPU (15 to 60 s); they travel with the heartbeat. 0 = none.",
    )
    timeout: Span = Field(default=timedelta(seconds=10), description="Longest wait for gpuaasd's answer.")
    simulated_hardware: Path | None = Field(
        default=None,
        description="Folder of simulated nodes (`FOLDER/NODE`): kernel log and boot id are read there. Testbeds only.",
    )
    check_every: Span | None = Field(
        default=timedelta(minutes=1), description="How often the checks of context `periodic` run. Absent = never."
    )
    check_deadline: Span = Field(
        default=timedelta(seconds=20), description="Longest wait for NVML or a file system in a check."
    )
    checks: Path | None = Field(
        default=None, description="Site's file over the shipped checks; etc/checks.yaml is an example."
    )
    gpus: int | None = Field(
        default=None, ge=0, le=256, description="GPUs of the node. Absent = as many as it ever had."
    )
    driver: str | None = Field(
        default=None, description="Expected driver: `580.95.05`, or `580` for any of that branch. Absent = any."
    )
    file_systems: tuple[FileSystem, ...] = Field(default=(), description="File systems that jobs need.")
    infiniband: Path = Field(default=Path("/sys/class/infiniband"), description="Where the InfiniBand ports are.")
    infiniband_ports: tuple[str, ...] = Field(
        default=(), description="Ports that must be up, e.g. `mlx5_0`. Absent = all that speak InfiniBand."
    )
    infiniband_rate: float | None = Field(default=None, gt=0, description="Gb/s that each must have. Absent = any.")
    dcgm_level: Literal[1, 2, 3, 4] | None = Field(
        default=1, description="Level of `dcgmi diag` before a node is given back, where DCGM is. Absent = do not."
    )
    evidence_commands: tuple[tuple[str, ...], ...] = Field(
        default=(
            ("nvidia-smi", "-q"),
            ("nvidia-smi", "nvlink", "-e"),
            ("dcgmi", "health", "--check"),
            ("nvidia-bug-report.sh", "--safe-mode", "--output-file", "{file}"),
        ),
        description="Programs whose output, or `{file}` that they write, is evidence; those not installed are noted.",
    )
    evidence_seconds: Span = Field(default=timedelta(minutes=2), description="Longest run of each of them.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level written.")

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        if self.master_key is None and self.key is None:
            raise ValueError("one of `key` and `master_key` is needed")
        if self.sample_every and not timedelta(seconds=SLOT_S) <= self.sample_every <= timedelta(minutes=1):
            raise ValueError(f"sample_every is {self.sample_every}: use 0, or {SLOT_S} to 60 seconds")
        scheme = self.daemon.partition(":")[0]
        if scheme not in {"unix", "http", "https"}:
            raise ValueError(f"daemon is {self.daemon!r}: use unix:PATH, https://HOST:PORT or http://HOST:PORT")
        if scheme == "http" and not is_loopback(urlsplit(self.daemon).hostname or ""):
            raise ValueError(f"daemon is {self.daemon!r}: to another machine use https")
        return self

    @classmethod
    def load(cls, path: Path) -> Config:
        """Read the file and the environment.

        Raises:
            InvalidInput: the file cannot be read, is no YAML mapping, or a field of it is wrong; names each field.
        """
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except OSError as error:
            raise InvalidInput(
                f"Configuration {path} cannot be read: {os.strerror(error.errno or 0)}.",
                way_out="Give the file with --config; etc/agent.yaml is an example.",
            ) from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InvalidInput(f"Configuration {path} is not YAML: {' '.join(str(error).split())}.") from None
        if not isinstance(content, dict):
            raise InvalidInput(f"Configuration {path} is not a mapping.", way_out="Write `field: value` lines.")
        # pydantic-settings would do the same for 19 MB of memory on every node.
        for name in cls.model_fields:
            if (value := os.environ.get(_PREFIX + name.upper())) is not None:
                content[name] = value
        try:
            return cls(**content)
        except ValidationError as error:
            faults = "; ".join(
                f"{'.'.join(map(str, fault['loc'])) or 'configuration'}: {fault['msg']}"
                for fault in error.errors(include_url=False)
            )
            raise InvalidInput(f"Configuration {path}: {faults}.") from None

    @property
    def journald(self) -> bool:
        """Whether the kernel log is read through journald."""
        return self.kernel_log == Path("journald") and self.simulated_hardware is None

    def hardware(self, node: NodeName, file: str, real: Path) -> Path:
        """A file of the node's hardware: the real one, or that of the simulation."""
        if self.simulated_hardware is not None:
            return self.simulated_hardware / node / file
        return self.for_node(real, node)

    def for_node(self, path: Path, node: NodeName) -> Path:
        return Path(str(path).replace("{node}", node))

    def key_of(self, node: NodeName) -> bytes:
        """The key that this node signs with.

        Raises:
            InvalidInput: the file is missing, readable by others, or holds no key.
        """
        if self.master_key is not None:
            return node_key(read_master_key(self.master_key), node)
        assert self.key is not None  # _fits_together
        return read_key(self.for_node(self.key, node))


@dataclass(frozen=True, slots=True)
class Site:
    """What the subcommands work on."""

    config: Config
    nodes: Sequence[NodeName]
