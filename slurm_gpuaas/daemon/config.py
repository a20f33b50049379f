"""What gpuaasd can be told: one YAML file, every field of it here. An unknown key is an error, never ignored.

Environment variables `GPUAASD_<FIELD>` (nested: `GPUAASD_STORE__URL`) stand above the file, so that a secret such as a
database password need not be in it. `etc/gpuaasd.yaml` shows what is set most.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AnyHttpUrl,
    Field,
    FilePath,
    NonNegativeInt,
    field_validator,
    model_validator,
)
from pydantic_settings import SettingsConfigDict

from slurm_gpuaas.api.node_events import is_loopback
from slurm_gpuaas.api.pool_sites import LONGEST_WAIT_S
from slurm_gpuaas.domain.clock import Span
from slurm_gpuaas.domain.names import ClusterName, PartitionName, ShareName, SiteName, UserName
from slurm_gpuaas.health.overrides import Override
from slurm_gpuaas.service.log import LogConfig
from slurm_gpuaas.service.settings import Section, Settings

DEFAULT_CONFIG = Path("/etc/gpuaas/gpuaasd.yaml")
_ADDRESS: Final = r"^[^\s@,<>]+@[^\s@,<>]+$"


S = TypeVar("S", bound=Section)


def _encrypted(section: S, url: str, token_file: Path | None) -> S:
    """Raises:
    ValueError: the token would travel in the clear.
    """
    to = urlsplit(url)
    if token_file is not None and to.scheme == "http" and not is_loopback(to.hostname or ""):
        raise ValueError(f"the token would go to {to.hostname} in the clear: use https")
    return section


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
    """TCP listener for the node agents. It serves what they send, health and metrics, never the rest of the API."""

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


class BreakerConfig(Section):
    """When one of the limits is exceeded within the window, what acts on nodes stops until a person resets it."""

    window: Span = Field(default=timedelta(minutes=10), description="Drains of so long count.")
    drains: int = Field(default=16, ge=1, description="Nodes of the cluster (and so of its provider).")
    share: float = Field(default=10, gt=0, le=100, description="Percent of the cluster's nodes; one node may always.")
    per_leaf: int = Field(default=4, ge=1, description="Nodes of one leaf group.")


class CheckpointConfig(Section):
    """For faults that let jobs go on: jobs are asked to write a checkpoint, and requeued when they still run later."""

    signal: str = Field(
        pattern=r"^[A-Z][A-Z0-9+-]{1,9}$",
        description="Signal without SIG, sent to the job's steps; a program without a handler for it ends by it.",
    )
    wait: Span = Field(default=timedelta(minutes=10), description="Time for it.")


class CommandConfig(Section):
    """A program, run as gpuaasd's user without a shell. Words in its arguments are put in: {node}, {incident},
    {attempt}, {remedy}, {gpu} (NVML indices, or `all`)."""

    command: tuple[str, ...] = Field(min_length=1, description="List of arguments.")
    time_limit: Span = Field(default=timedelta(minutes=30), description="Then it has failed.")


class SlurmRebootConfig(Section):
    """Slurm reboots the node with its RebootProgram."""

    slurm: Literal[True] = Field(description="`scontrol reboot ASAP nextstate=DOWN`.")
    time_limit: Span = Field(default=timedelta(minutes=30), description="Then it has failed.")


class TicketConfig(Section):
    """A ticket as JSON to a web hook, again and again until somebody takes it."""

    url: AnyHttpUrl = Field(description="POST; the header Idempotency-Key names the attempt.")
    token_file: FilePath | None = Field(default=None, description="Bearer token, read for each attempt.")
    time_limit: Span = Field(default=timedelta(days=1), description="Then nobody took it.")

    @model_validator(mode="after")
    def _no_token_in_the_clear(self) -> TicketConfig:
        return _encrypted(self, str(self.url), self.token_file)


class RepairConfig(Section):
    """Rungs of the repair ladder; one that is absent is left out, and the last is always a person (RMA)."""

    evidence: CommandConfig | None = Field(default=None, description="Run before anything touches the node.")
    reset: CommandConfig | None = Field(default=None, description="Resets the GPUs.")
    reboot: CommandConfig | SlurmRebootConfig | None = Field(default=None, description="Reboots the node.")
    replace: CommandConfig | TicketConfig | None = Field(default=None, description="Asks people for a part.")
    reboots_a_day: int = Field(default=3, ge=0, description="A node that has had so many within a day is replaced.")

    @model_validator(mode="after")
    def _mends_something(self) -> RepairConfig:
        if self.reset is None and self.reboot is None and self.replace is None:
            raise ValueError("give reset, reboot or replace")
        return self


VERIFY_SCRIPTS = Path(str(files("slurm_gpuaas.health").joinpath("data/verify")))


class TestConfig(Section):
    """A batch script: exit 0 = passed, 77 = cannot run here, else failed."""

    script: FilePath = Field(description="Its #SBATCH lines count, but for what gpuaasd sets.")
    nodes: Literal[1, 2] = Field(default=1, description="2 = with an idle node of the same leaf group beside it.")
    time_limit: Span = Field(default=timedelta(minutes=5), description="Of its job; whole minutes.")


class VerificationConfig(Section):
    """Tests of a mended node, run as Slurm jobs in a partition of their own.

    `quick` runs always, `dcgm` after a reboot, `pair` where links or a new part are in question; others always.
    """

    partition: PartitionName = Field(default=PartitionName("gpuaas-verify"), description="Hidden, over all nodes.")
    account: str = Field(default="root", description="Account of gpuaasd's user.")
    time_limit: Span = Field(default=timedelta(hours=1), description="For all tests, waiting included.")
    tests: dict[str, TestConfig] = Field(
        default={
            "quick": TestConfig(script=VERIFY_SCRIPTS / "quick.sh"),
            "dcgm": TestConfig(script=VERIFY_SCRIPTS / "dcgm.sh", time_limit=timedelta(minutes=30)),
            "pair": TestConfig(script=VERIFY_SCRIPTS / "pair.sh", nodes=2, time_limit=timedelta(minutes=10)),
        },
        min_length=1,
        description="By name; those given replace the default ones.",
    )

    @field_validator("tests")
    @classmethod
    def _names(cls, tests: dict[str, TestConfig]) -> dict[str, TestConfig]:
        for name in tests:
            if not re.fullmatch(r"[a-z][a-z0-9]{0,19}", name):
                raise ValueError(f"{name!r:.30} is no name of a test: lower-case letters and digits")
        return tests


class ProbationConfig(Section):
    duration: Span = Field(default=timedelta(hours=4), description="How long a returned node takes small jobs only.")
    largest_job: int = Field(default=1, ge=1, description="Nodes of the largest job it takes.")


class LemonsConfig(Section):
    """Nodes that keep failing (`gpuaas health lemons`)."""

    largest_job: int = Field(
        default=0, ge=0, le=100_000, description="A lemon serves no job over more nodes than this; 0 = only shown."
    )
    interval: Span = Field(default=timedelta(minutes=10), description="Time between two looks.")


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
    shadow: bool = Field(default=False, description="Record every decision, act on nothing.")
    breaker: BreakerConfig = BreakerConfig()
    checkpoint: CheckpointConfig | None = Field(
        default=None, description="Absent = jobs on a node whose fault lets them go on run to their end."
    )
    repair: RepairConfig | None = Field(default=None, description="Absent = a drained node waits for a person.")
    verification: VerificationConfig | None = Field(default=None, description="Needed with `repair`.")
    probation: ProbationConfig | None = Field(
        default=ProbationConfig(), description="null = a node that passed its verification takes all jobs at once."
    )
    overrides: tuple[Override, ...] = Field(
        default=(),
        description="What the site decides itself: a list of `code` or `sxid`, `product`, `drain`, `class`, `reason`.",
    )
    lemons: LemonsConfig = LemonsConfig()
    spares: SparesConfig = SparesConfig()
    recovery: RecoveryConfig = RecoveryConfig()

    @model_validator(mode="after")
    def _nothing_returns_untested(self) -> HealthConfig:
        if self.repair is not None and self.verification is None:
            raise ValueError("repair needs verification: no node goes back to service untested")
        return self


class WebhookConfig(Section):
    url: str = Field(
        pattern=r"^https?://[^\s@]+$", max_length=500, description="Where alerts are POSTed, without a password in it."
    )
    token_file: Path | None = Field(default=None, description="File (0600) with a bearer token.")

    @model_validator(mode="after")
    def _no_token_in_the_clear(self) -> WebhookConfig:
        return _encrypted(self, self.url, self.token_file)


class MailConfig(Section):
    host: str = Field(min_length=1, description="Mail server (SMTP).")
    port: int = Field(default=25, ge=1, le=65535, description="Its port.")
    starttls: bool = Field(default=False, description="Encrypt; the server's certificate is checked.")
    user: str | None = Field(default=None, description="To log in with. Absent = `sender`.")
    password_file: Path | None = Field(default=None, description="File (0600) with the password. Absent = no login.")
    sender: str = Field(pattern=_ADDRESS, description="From.")
    to: tuple[Annotated[str, Field(pattern=_ADDRESS)], ...] = Field(min_length=1, description="To whom.")

    @model_validator(mode="after")
    def _no_password_in_the_clear(self) -> MailConfig:
        if self.password_file is not None and not self.starttls and not is_loopback(self.host):
            raise ValueError(f"the password would go to {self.host} in the clear: set starttls")
        return self


class AlertsConfig(Section):
    """What people are told of by themselves. Without webhook and mail nobody is."""

    interval: Span = Field(default=timedelta(seconds=10), description="Time between two looks.")
    renotify: Span = Field(default=timedelta(hours=6), description="What still holds is told again after this.")
    webhook: WebhookConfig | None = Field(default=None, description="Absent = none.")
    mail: MailConfig | None = Field(default=None, description="Absent = none.")


class MeteringConfig(Section):
    interval: Span = Field(default=timedelta(minutes=1), description="Time between two readings of accounting.")
    begin: datetime | None = Field(
        default=None,
        description="First moment that is metered, with time zone. Absent = 31 days before the daemon's first start.",
    )


class PoolConfig(Section):
    """This cluster as a site of a pool: documents come from the portal, usage and reports go to it."""

    url: str = Field(
        pattern=r"^https?://[^\s@/]+/?$", max_length=300, description="The portal, e.g. `https://portal.example.org`."
    )
    site: SiteName = Field(description="This site's name at the portal.")
    key_file: Path = Field(
        default=Path("/etc/gpuaas/site.key"),
        description="File (0600) with the site's key, as `gpuaas-portal site add` wrote it.",
    )
    ca_file: FilePath | None = Field(
        default=None,
        description="PEM file of who may sign the portal's certificate. Absent = the system's authorities.",
    )
    shares: tuple[ShareName, ...] = Field(
        min_length=1, description="Shares of this cluster's pools into which the portal's grants may go; no other may."
    )
    reserved_users: tuple[UserName, ...] = Field(
        default=(),
        description="Users whom the portal may not name, besides root, SlurmUser, the daemon's own and administrators.",
    )
    wait: int = Field(default=50, ge=1, le=LONGEST_WAIT_S, description="Seconds that the portal may keep a poll.")
    interval: Span = Field(default=timedelta(minutes=1), description="Time between two reports.")
    picture_every: Span = Field(
        default=timedelta(seconds=5), description="Time between two pictures of what runs, for map, jobs and incidents."
    )
    people_file: Path | None = Field(
        default=None, description="Where wanted logins go for `gpuaas-people`. Absent = somebody else keeps logins."
    )
    people_state: Path | None = Field(default=None, description="Where `gpuaas-people` says what it did.")

    @model_validator(mode="after")
    def _nothing_in_the_clear(self) -> PoolConfig:
        to = urlsplit(self.url)
        if to.scheme == "http" and not is_loopback(to.hostname or ""):
            raise ValueError(f"usage and names of users would go to {to.hostname} in the clear: use https")
        return self


class TelemetryConfig(Section):
    """Samples of GPUs, kept in `state_dir`/telemetry."""

    interval: Span = Field(
        default=timedelta(minutes=1), description="Time between two syncs of new samples to the disk."
    )
    keep_busy: Span = Field(
        default=timedelta(days=90),
        description="Whole days for which it is kept how busy GPUs were, by the minute; the rest by the hour as long.",
    )
    keep_rest: Span = Field(
        default=timedelta(days=7),
        description="Whole days for which memory, power, temperature and processes are kept by the minute.",
    )


class Config(Settings):
    """gpuaasd's configuration."""

    model_config = SettingsConfigDict(env_prefix="GPUAASD_")
    example: ClassVar[str] = "etc/gpuaasd.yaml"

    cluster: ClusterName = Field(description="Slurm's ClusterName; only pools of this cluster are enforced here.")
    state_dir: Path = Field(
        default=Path("/var/lib/gpuaas"),
        description="Folder of the leader's lock and of samples of GPUs (and of the SQLite store).",
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
    alerts: AlertsConfig = AlertsConfig()
    metering: MeteringConfig = MeteringConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    pool: PoolConfig | None = Field(default=None, description="Absent = this cluster stands alone.")
    log: LogConfig = LogConfig()
