"""What gpuaasd can be told: one YAML file, every field of it here. An unknown key is an error, never ignored.

Environment variables `GPUAASD_<FIELD>` (nested: `GPUAASD_STORE__URL`) stand above the file, so that a secret such as a
database password need not be in it. `etc/gpuaasd.yaml` shows what is set most.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, FilePath, NonNegativeInt, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from slurm_gpuaas.api.node_events import is_loopback
from slurm_gpuaas.domain.clock import Span
from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.names import ClusterName, UserName

DEFAULT_CONFIG = Path("/etc/gpuaas/gpuaasd.yaml")


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StoreConfig(Section):
    url: str = Field(
        default="sqlite:////var/lib/gpuaas/gpuaas.db",
        description="SQLAlchemy URL of the store: `sqlite:////path` or `postgresql+psycopg://user@host/name`.",
    )


class ApiConfig(Section):
    socket: Path = Field(
        default=Path("/run/gpuaas/gpuaasd.sock"),
        description="UNIX socket of the API. Everybody may connect; the peer's uid decides what one may do.",
    )


class AdministratorsConfig(Section):
    """Who may change things. root and the daemon's own user always may."""

    users: tuple[UserName, ...] = Field(default=(), description="UNIX users.")
    groups: tuple[str, ...] = Field(default=(), description="UNIX groups.")


class TlsConfig(Section):
    certificate: FilePath = Field(description="PEM file with the certificate chain.")
    key: FilePath = Field(description="PEM file with the private key.")


class ListenerConfig(Section):
    """TCP listener for the node agents. It serves node events, health and metrics only, never the rest of the API."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=6880, ge=1, le=65535, description="TCP port.")
    tls: TlsConfig | None = Field(
        default=None, description="Certificate of the listener. Absent = plain HTTP: for loopback only."
    )

    @model_validator(mode="after")
    def _plain_on_loopback_only(self) -> ListenerConfig:
        if self.tls is None and not is_loopback(self.host):
            raise ValueError(f"host is {self.host}, which other machines reach: give tls, or listen on 127.0.0.1")
        return self


class AgentsConfig(Section):
    master_key: Path = Field(
        default=Path("/etc/gpuaas/agents.key"),
        description="File (0600) with the key from which each node's key is derived.",
    )
    listener: ListenerConfig | None = Field(
        default=None, description="TCP listener for agents. Absent = agents use the UNIX socket."
    )
    silent_after: Span = Field(
        default=timedelta(minutes=3), description="An agent not heard of for so long is reported as silent."
    )


class SlurmConfig(Section):
    user: str = Field(default="slurm", description="SlurmUser: it may ask whether a start is called off.")
    rest_socket: Path = Field(default=Path("/run/slurmrestd/slurmrestd.sock"), description="UNIX socket of slurmrestd.")
    timeout: Span = Field(
        default=timedelta(seconds=60), description="Longest wait for slurmrestd; bulk writes of thousands take seconds."
    )
    worker: tuple[str, ...] | None = Field(
        default=None,
        description=(
            "Command of the pyslurm worker, as a list of arguments. Absent = this Python, when pyslurm is installed. "
            "Empty, or without pyslurm: everything goes over slurmrestd."
        ),
    )
    worker_timeout: Span = Field(default=timedelta(seconds=10), description="Longest wait for the worker.")
    sacctmgr: tuple[str, ...] = Field(default=("sacctmgr",), description="Command of sacctmgr.")
    scontrol: tuple[str, ...] = Field(default=("scontrol",), description="Command of scontrol.")
    read_every: Span = Field(
        default=timedelta(seconds=5),
        description="Longest time between two readings of nodes and jobs; who asks gets one of the last second.",
    )
    partitions_file: Path = Field(
        default=Path("/etc/slurm/gpuaas/partitions.conf"),
        description="Include file of slurm.conf that gpuaasd writes its partitions to.",
    )
    topology_file: Path = Field(
        default=Path("/etc/slurm/gpuaas/topology.yaml"),
        description="Slurm's topology.yaml; read for placement, written by `gpuaas topology apply`.",
    )


class OnDrift(StrEnum):
    CORRECT = "correct"
    REPORT = "report"


class PolicyConfig(Section):
    interval: Span = Field(default=timedelta(seconds=30), description="Time between two comparisons with Slurm.")
    on_drift: OnDrift = Field(
        default=OnDrift.CORRECT,
        description="What to do when Slurm differs from the policy: `correct` it, or only `report` it.",
    )


class HookConfig(Section):
    snapshot: Path = Field(
        default=Path("/run/gpuaas/snapshot"), description="File that the job_submit hook decides from."
    )
    interval: Span = Field(
        default=timedelta(seconds=5),
        description="Time between two looks at the snapshot; it is written when it changed, or is a minute old.",
    )


class EstimatesConfig(Section):
    """What users are told before a submission, by plugins/cli_filter.lua."""

    folder: Path = Field(
        default=Path("/run/gpuaas/estimates"),
        description="Folder of the estimates, of which each user may read the common and the own one.",
    )
    interval: Span = Field(default=timedelta(seconds=15), description="Time between two estimates.")


class GateConfig(Section):
    """The placement gate: jobs with the licence `placement` wait for the nodes it gives them."""

    interval: Span = Field(default=timedelta(seconds=1), description="Time between two looks at waiting jobs.")
    licenses: int = Field(default=1_000_000, ge=1, description="Licences `placement` that slurm.conf declares.")
    hold: Span = Field(
        default=timedelta(minutes=3), description="Without the daemon, jobs wait at the gate no longer than this."
    )
    patience: Span = Field(
        default=timedelta(seconds=8),
        description="A job that does not start on its nodes in this time is let go of them.",
    )
    longest_wait: Span = Field(
        default=timedelta(minutes=30),
        description="No job waits longer than this for better nodes, whatever its user allows; 0 = none waits.",
    )
    shadow: bool = Field(default=False, description="Log every decision, change nothing.")


class CapacityConfig(Section):
    """What could start now on each partition, kept over time (`gpuaas topology capacity --since`)."""

    interval: Span = Field(default=timedelta(minutes=5), description="Time between two samples.")
    keep: Span = Field(default=timedelta(days=30), description="Samples older than this are deleted.")


class OnChange(StrEnum):
    APPLY = "apply"
    REPORT = "report"


class TopologyConfig(Section):
    """Following the hardware."""

    fabric_file: Path | None = Field(
        default=None,
        description="fabric.json that is read from the cables anew now and then. Absent = no fabric is followed.",
    )
    interval: Span = Field(
        default=timedelta(minutes=1), description="Time between two comparisons of the fabric with Slurm's topology."
    )
    on_change: OnChange = Field(
        default=OnChange.REPORT,
        description="What to do with nodes that moved between leaf groups: `apply` or only `report` it.",
    )
    most_moves: int = Field(
        default=8, ge=1, description="More nodes than these in an hour, and any other change, are only reported."
    )
    longest_age: Span = Field(
        default=timedelta(hours=1), description="A fabric.json that was last written before this is not followed."
    )


class QuotaConfig(Section):
    """Who gives way when GPUs are wanted back."""

    interval: Span = Field(default=timedelta(seconds=2), description="Time between two looks at who has to give way.")
    settle: Span = Field(
        default=timedelta(minutes=10),
        description="A node out of service for so long counts as lost: guarantees that cannot be kept are shorted.",
    )
    shadow: bool = Field(default=False, description="Log who would give way between borrowers, requeue nobody.")


class SparesConfig(Section):
    """Hot spares: nodes that take the place of broken ones, and run burst jobs until then."""

    nodes: Literal["auto"] | NonNegativeInt = Field(
        default=0,
        description=(
            "Spares of each partition: a number, or `auto` = as many as cover its measured failures 99 % of the time. "
            "Never from what grants guarantee."
        ),
    )
    interval: Span = Field(default=timedelta(seconds=30), description="Time between two looks at the spares.")


class RecoveryConfig(Section):
    """Jobs of several nodes keep those that are well, and get others for those they lost."""

    interval: Span = Field(
        default=timedelta(seconds=0.2), description="Time between two looks at jobs that are being brought back."
    )
    patience: Span = Field(
        default=timedelta(minutes=2),
        description="A job that does not run on its nodes in this time is let go of them.",
    )
    most_requeues: int = Field(
        default=10, ge=1, description="A job that lost its nodes more often than this within 24 h is held."
    )


class HealthConfig(Section):
    interval: Span = Field(
        default=timedelta(seconds=5), description="Time between two comparisons of incidents with Slurm's nodes."
    )
    shadow: bool = Field(default=False, description="Record every decision, drain and requeue nothing.")
    max_drains: int = Field(
        default=16, ge=1, description="Circuit breaker: drain no more nodes than this within `drain_window`."
    )
    drain_window: Span = Field(default=timedelta(minutes=10), description="Window of the circuit breaker.")
    spares: SparesConfig = SparesConfig()
    recovery: RecoveryConfig = RecoveryConfig()


class MeteringConfig(Section):
    interval: Span = Field(default=timedelta(minutes=1), description="Time between two readings of accounting.")
    begin: datetime | None = Field(
        default=None,
        description="First moment that is metered, with time zone. Absent = 31 days before the daemon's first start.",
    )


class LogConfig(Section):
    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level written.")
    format: Literal["json", "text"] = Field(default="json", description="One JSON object a line, or text for people.")


class Config(BaseSettings):
    """gpuaasd's configuration."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="GPUAASD_",
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
    )

    cluster: ClusterName = Field(description="Slurm's ClusterName; only pools of this cluster are enforced here.")
    state_dir: Path = Field(
        default=Path("/var/lib/gpuaas"), description="Folder of the leader's lock (and of the SQLite store)."
    )
    stop_within: Span = Field(
        default=timedelta(seconds=20), description="Time for a clean stop; then the daemon ends anyway."
    )
    store: StoreConfig = StoreConfig()
    api: ApiConfig = ApiConfig()
    administrators: AdministratorsConfig = AdministratorsConfig()
    agents: AgentsConfig = AgentsConfig()
    slurm: SlurmConfig = SlurmConfig()
    policy: PolicyConfig = PolicyConfig()
    hook: HookConfig = HookConfig()
    estimates: EstimatesConfig = EstimatesConfig()
    gate: GateConfig = GateConfig()
    capacity: CapacityConfig = CapacityConfig()
    topology: TopologyConfig = TopologyConfig()
    quota: QuotaConfig = QuotaConfig()
    health: HealthConfig = HealthConfig()
    metering: MeteringConfig = MeteringConfig()
    log: LogConfig = LogConfig()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (env_settings, init_settings)

    @classmethod
    def load(cls, path: Path) -> Config:
        """Read the file and the environment.

        Raises:
            InvalidInput: the file cannot be read, is no YAML mapping, or a field of it is wrong; names each field.
        """
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InvalidInput(
                f"Configuration {path} cannot be read: {os.strerror(error.errno or 0)}.",
                way_out="Give the file with --config; etc/gpuaasd.yaml is an example.",
            ) from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InvalidInput(f"Configuration {path} is not YAML: {' '.join(str(error).split())}.") from None
        if content is None:
            content = {}
        if not isinstance(content, dict):
            raise InvalidInput(f"Configuration {path} is not a mapping.", way_out="Write `field: value` lines.")
        try:
            return cls(**content)
        except ValidationError as error:
            faults = "; ".join(
                f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors(include_url=False)
            )
            raise InvalidInput(
                f"Configuration {path}: {faults}.", way_out="etc/gpuaasd.yaml is an example with the defaults."
            ) from None
