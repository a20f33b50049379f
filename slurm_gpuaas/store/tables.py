"""The tables of a site's store. They hold what validated domain values say and check again what SQL can check."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    Dialect,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    UniqueConstraint,
)
from sqlalchemy.types import TypeDecorator
from sqlmodel import Field, SQLModel

from slurm_gpuaas.domain.alerts import AlertKind
from slurm_gpuaas.domain.incidents import Drain, EventKind, EventSource, IncidentState
from slurm_gpuaas.domain.jobs import PlacementOutcome
from slurm_gpuaas.domain.node_life import LimitKind
from slurm_gpuaas.domain.outages import OutageCause
from slurm_gpuaas.domain.policy import BudgetPeriod, Role
from slurm_gpuaas.domain.recoveries import RecoveryState
from slurm_gpuaas.domain.rma import RmaState
from slurm_gpuaas.store.columns import NAMING, UtcDateTime, at_least, json_column, moment_column, number_column, one_of


class Table(SQLModel):
    """Base of all tables of a site."""

    metadata: ClassVar[MetaData] = MetaData(naming_convention=NAMING)


# -- Policy ------------------------------------------------------------------------------------------------------------


class PolicyRevisionRow(Table, table=True):
    """One row for every policy that was ever applied; the newest is in force."""

    __tablename__ = "policy_revision"

    revision: int | None = number_column()
    applied_at: datetime = moment_column()
    actor: str = Field(max_length=100)
    digest: str = Field(max_length=64)


class OrganisationRow(Table, table=True):
    __tablename__ = "organisation"
    __table_args__ = (at_least("weight", 0),)

    name: str = Field(primary_key=True, max_length=30)
    title: str = Field(max_length=200)
    weight: int = 1
    priority: int = 0


class ProjectRow(Table, table=True):
    __tablename__ = "project"

    name: str = Field(primary_key=True, max_length=30)
    organisation: str = Field(foreign_key="organisation.name", index=True, max_length=30)
    title: str = Field(max_length=200)


class MemberRow(Table, table=True):
    __tablename__ = "member"
    __table_args__ = (one_of("role", Role),)

    project: str = Field(primary_key=True, foreign_key="project.name", max_length=30)
    user: str = Field(primary_key=True, max_length=32)
    role: str = Field(max_length=20)


class PoolRow(Table, table=True):
    __tablename__ = "pool"
    __table_args__ = (
        at_least("gpus_per_node", 1),
        at_least("max_seconds", 1),
        at_least("min_run_seconds", 0),
        at_least("grace_seconds", 0),
    )

    name: str = Field(primary_key=True, max_length=30)
    cluster: str = Field(max_length=30)
    model: str = Field(max_length=30)
    gpus_per_node: int
    max_seconds: int = Field(sa_type=BigInteger)
    min_run_seconds: int = 0
    grace_seconds: int = 20


class ShareRow(Table, table=True):
    """`position` keeps the order in which the document lists the shares."""

    __tablename__ = "pool_share"
    __table_args__ = (UniqueConstraint("pool", "position"), at_least("spares", 0))

    pool: str = Field(primary_key=True, foreign_key="pool.name", max_length=30)
    name: str = Field(primary_key=True, max_length=30)
    position: int
    nodes: str
    partition: str | None = Field(default=None, max_length=95)
    spares: int = 0


class SqlPercent(TypeDecorator[Decimal]):
    """0.00 to 100.00, kept as whole hundredths: SQLite has no decimal numbers."""

    impl = Integer
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> int | None:
        return None if value is None else int(value * 100)

    def process_result_value(self, value: int | None, dialect: Dialect) -> Decimal | None:
        return None if value is None else Decimal(value) / 100


def _between(column: str, least: int, most: int) -> CheckConstraint:
    return CheckConstraint(f"{column} BETWEEN {least} AND {most}", name=column)


class RateRow(Table, table=True):
    __tablename__ = "rate"
    __table_args__ = (
        UniqueConstraint("model", "starts"),
        at_least("won_per_gpu_hour", 0),
        _between("burst_discount", 0, 10_000),
    )

    name: str = Field(primary_key=True, max_length=60)
    model: str = Field(max_length=30)
    won_per_gpu_hour: int
    burst_discount: Decimal = Field(sa_column=Column(SqlPercent(), nullable=False))
    starts: date
    basis: str = Field(max_length=500)


class GrantRow(Table, table=True):
    __tablename__ = "gpu_grant"  # GRANT is a word of SQL
    __table_args__ = (
        ForeignKeyConstraint(["pool", "share"], ["pool_share.pool", "pool_share.name"]),
        at_least("gpus", 0),
        at_least("borrow_limit", 0),
        at_least("lend_limit", 0),
        at_least("weight", 0),
        at_least("budget_gpu_hours", 0),
        at_least("budget_won", 0),
        one_of("budget_period", BudgetPeriod),
        _between("carry_over", 0, 100),
        _between("grace", 0, 100),
        _between("price_percent", 0, 10_000),
        at_least("max_gpus_per_job", 1),
        at_least("max_seconds", 1),
        CheckConstraint("ends >= starts", name="days"),
    )

    name: str = Field(primary_key=True, max_length=60)
    project: str = Field(foreign_key="project.name", index=True, max_length=30)
    pool: str = Field(max_length=30)
    share: str = Field(max_length=30)
    gpus: int
    borrow_limit: int | None = None
    lend_limit: int | None = None
    weight: int = 1
    priority: int = 0
    starts: date
    ends: date
    budget_gpu_hours: int | None = Field(default=None, sa_type=BigInteger)
    budget_won: int | None = Field(default=None, sa_type=BigInteger)
    budget_period: str = Field(max_length=10)
    carry_over: int
    grace: int
    price_percent: Decimal = Field(sa_column=Column(SqlPercent(), nullable=False))
    max_gpus_per_job: int | None = None
    max_seconds: int | None = Field(default=None, sa_type=BigInteger)


# -- Nodes and their faults --------------------------------------------------------------------------------------------


class NodeRow(Table, table=True):
    """The inventory as Slurm last showed it; `seen_at` is since when."""

    __tablename__ = "node"
    __table_args__ = (at_least("gpus", 0),)

    name: str = Field(primary_key=True, max_length=64)
    model: str | None = Field(default=None, max_length=30)
    gpus: int
    state: str = Field(max_length=100)
    reason: str
    seen_at: datetime = moment_column()


class NodeEventRow(Table, table=True):
    __tablename__ = "node_event"
    __table_args__ = (one_of("kind", EventKind), one_of("source", EventSource), at_least("code", 0))

    event_id: str = Field(primary_key=True, max_length=200)
    node: str = Field(index=True, max_length=64)
    kind: str = Field(max_length=20)
    code: int
    source: str = Field(max_length=20)
    seen_at: datetime = Field(sa_column=Column(UtcDateTime(), index=True, nullable=False))
    received_at: datetime = moment_column()
    detail: dict[str, Any] = json_column()
    jobs: list[int] = json_column()
    """Those that ran on the node when the report came."""


class IncidentRow(Table, table=True):
    __tablename__ = "incident"
    __table_args__ = (one_of("state", IncidentState), one_of("drain", Drain), Index(None, "node", "state"))

    id: str = Field(primary_key=True, max_length=40)
    node: str = Field(max_length=64)
    state: str = Field(max_length=20)
    drain: str = Field(max_length=20)
    rule: str
    headline: str
    opened_at: datetime = moment_column()
    updated_at: datetime = moment_column()
    closed_at: datetime | None = moment_column(nullable=True)
    event_ids: list[str] = json_column()
    requeued_jobs: list[int] = json_column()
    unproven_since: datetime | None = moment_column(nullable=True)
    fault_class: str = Field(max_length=20)
    serials: list[str] = json_column()
    attempts: list[dict[str, Any]] = json_column()
    verification: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(), nullable=True))
    acknowledged_by: str | None = Field(default=None, max_length=100)
    held_by: str | None = Field(default=None, max_length=100)


class TransitionRow(Table, table=True):
    __tablename__ = "incident_transition"
    __table_args__ = (one_of("after", IncidentState), Index(None, "node", "at"))

    id: int | None = number_column()
    incident: str = Field(index=True, max_length=40)
    node: str = Field(max_length=64)
    at: datetime = Field(sa_column=Column(UtcDateTime(), index=True, nullable=False))
    before: str | None = Field(default=None, max_length=20)
    after: str = Field(max_length=20)
    cause: str
    actor: str = Field(max_length=100)


class GpuStayRow(Table, table=True):
    __tablename__ = "gpu_stay"

    serial: str = Field(primary_key=True, max_length=64)
    node: str = Field(primary_key=True, max_length=64, index=True)
    index: int = Field(primary_key=True)
    first_seen: datetime = Field(sa_column=Column(UtcDateTime(), primary_key=True))
    last_seen: datetime = moment_column()
    pci: str = Field(max_length=20)
    uuid: str = Field(max_length=64)


class BreakerTripRow(Table, table=True):
    """The newest row of a scope without `reset_at` holds."""

    __tablename__ = "breaker_trip"

    id: int | None = number_column()
    scope: str = Field(index=True, max_length=100)
    at: datetime = moment_column()
    why: str
    reset_at: datetime | None = moment_column(nullable=True)
    reset_by: str = Field(default="", max_length=100)
    reset_reason: str = ""


# -- Nodes over time, parts on their way, alerts ----------------------------------------------------------------------


class OutageRow(Table, table=True):
    __tablename__ = "node_outage"
    __table_args__ = (one_of("cause", OutageCause),)

    node: str = Field(primary_key=True, max_length=64)
    since: datetime = Field(sa_column=Column(UtcDateTime(), primary_key=True))
    until: datetime | None = Field(sa_column=Column(UtcDateTime(), index=True, nullable=True))
    cause: str = Field(max_length=20)
    reason: str


class ExclusionRow(Table, table=True):
    __tablename__ = "node_exclusion"

    node: str = Field(primary_key=True, max_length=64)
    job: int = Field(primary_key=True, sa_type=BigInteger)
    user: str = Field(max_length=32)
    seen_at: datetime = Field(sa_column=Column(UtcDateTime(), index=True, nullable=False))


class RunCountRow(Table, table=True):
    __tablename__ = "node_runs"
    __table_args__ = (at_least("single", 0), at_least("multi", 0))

    node: str = Field(primary_key=True, max_length=64)
    day: date = Field(primary_key=True)
    single: int
    multi: int


class NodeLimitRow(Table, table=True):
    __tablename__ = "node_limit"
    __table_args__ = (one_of("kind", LimitKind), at_least("largest_job", 0))

    node: str = Field(primary_key=True, max_length=64)
    kind: str = Field(primary_key=True, max_length=20)
    largest_job: int
    why: str
    since: datetime = moment_column()


class RmaCaseRow(Table, table=True):
    __tablename__ = "rma_case"
    __table_args__ = (one_of("state", RmaState),)

    id: str = Field(primary_key=True, max_length=20)
    node: str = Field(index=True, max_length=64)
    serial: str | None = Field(default=None, index=True, max_length=64)
    incident: str | None = Field(default=None, max_length=40)
    state: str = Field(max_length=20)
    opened_at: datetime = moment_column()
    updated_at: datetime = moment_column()
    vendor_case: str = Field(max_length=60)
    new_serial: str = Field(max_length=64)
    notes: list[dict[str, Any]] = json_column()


class AlertRow(Table, table=True):
    __tablename__ = "alert"
    __table_args__ = (one_of("kind", AlertKind),)

    key: str = Field(primary_key=True, max_length=120)
    kind: str = Field(max_length=20)
    condition: dict[str, Any] = json_column()
    raised_at: datetime = moment_column()
    resolved_at: datetime | None = moment_column(nullable=True)
    told: dict[str, Any] = json_column()


# -- Jobs --------------------------------------------------------------------------------------------------------------


class JobPlacementRow(Table, table=True):
    __tablename__ = "job_placement"
    __table_args__ = (one_of("outcome", PlacementOutcome),)

    cluster: str = Field(primary_key=True, max_length=30)
    job_id: int = Field(primary_key=True, sa_type=BigInteger)
    restarts: int = Field(primary_key=True)
    decided_at: datetime = moment_column()
    outcome: str = Field(max_length=20)
    nodes: list[str] = json_column()
    leaf_groups: int
    cost: float
    runner_up_cost: float | None = None
    reason: str


class RecoveryRow(Table, table=True):
    __tablename__ = "recovery"
    __table_args__ = (one_of("state", RecoveryState),)

    job_id: int = Field(primary_key=True, sa_type=BigInteger)
    restarts: int = Field(primary_key=True)
    user: str = Field(max_length=32)
    incident: str = Field(index=True, max_length=40)
    lost: list[str] = json_column()
    kept: list[str] = json_column()
    spares: list[str] = json_column()
    state: str = Field(index=True, max_length=20)
    begun_at: datetime = Field(sa_column=Column(UtcDateTime(), index=True, nullable=False))
    ended_at: datetime | None = moment_column(nullable=True)
    why: str


class CapacityRow(Table, table=True):
    """What could start on a partition at one moment; few a day, and the old ones are deleted."""

    __tablename__ = "capacity_sample"
    __table_args__ = (CheckConstraint("fragmentation BETWEEN 0 AND 1", name="fragmentation"),)

    cluster: str = Field(primary_key=True, max_length=30)
    partition: str = Field(primary_key=True, max_length=95)
    at: datetime = Field(sa_column=Column(UtcDateTime(), primary_key=True))
    nodes: int
    free_nodes: int
    free_gpus: int
    largest_leaf_group: int
    largest_pod: int
    largest_fabric: int
    compact: int
    idle_leaf_groups: int
    fragmentation: float
    excess_leaf_groups: int


class UsageRow(Table, table=True):
    __tablename__ = "usage_record"
    __table_args__ = (
        at_least("gpus", 0),
        at_least("gpu_seconds", 0),
        CheckConstraint("ended >= started", name="times"),
        Index(None, "account", "started"),
        Index(None, "started"),
        Index(None, "job_id"),
        Index(None, "change", unique=True),
    )

    cluster: str = Field(primary_key=True, max_length=30)
    job_id: int = Field(primary_key=True, sa_type=BigInteger)
    started: datetime = Field(sa_column=Column(UtcDateTime(), primary_key=True))
    user: str = Field(max_length=32)
    account: str = Field(max_length=95)
    qos: str = Field(max_length=95)
    partition: str = Field(max_length=95)
    model: str | None = Field(default=None, max_length=30)
    gpus: int
    ended: datetime | None = Field(sa_column=Column(UtcDateTime(), index=True, nullable=True))
    gpu_seconds: int = Field(sa_type=BigInteger)
    state: str = Field(max_length=40)
    nodes: str = Field(default="", sa_column_kwargs={"server_default": ""})
    change: int = Field(default=0, sa_type=BigInteger, sa_column_kwargs={"server_default": "0"})


# -- The portal --------------------------------------------------------------------------------------------------------


class PortalSetRow(Table, table=True):
    """The newest documents and people of the portal's: one row."""

    __tablename__ = "portal_set"
    __table_args__ = (at_least("revision", 1),)

    revision: int = Field(sa_column=Column(BigInteger(), primary_key=True, autoincrement=False))
    received_at: datetime = moment_column()
    as_of: date
    documents: list[dict[str, Any]] = json_column()
    people: list[dict[str, Any]] = json_column()
    unreadable: list[dict[str, Any]] = json_column()


class PortalRefusalRow(Table, table=True):
    """A project of the portal's that Slurm has no room for."""

    __tablename__ = "portal_refusal"

    project: str = Field(primary_key=True, max_length=30)
    why: str


# -- What was done, by whom, and what is under way ---------------------------------------------------------------------


class AuditRow(Table, table=True):
    __tablename__ = "audit_entry"

    id: int | None = number_column()
    at: datetime = Field(sa_column=Column(UtcDateTime(), index=True, nullable=False))
    actor: str = Field(max_length=100)
    action: str = Field(index=True, max_length=100)
    subject: str = Field(index=True, max_length=200)
    reason: str
    evidence: dict[str, Any] = json_column()


class EffectRow(Table, table=True):
    """The journal of effects: written before Slurm is asked (`intended_at`) and after it answered (`ended_at`)."""

    __tablename__ = "effect"
    __table_args__ = (CheckConstraint("outcome IN ('open', 'done', 'failed', 'interrupted')", name="outcome"),)

    id: int | None = number_column()
    controller: str = Field(index=True, max_length=60)
    kind: str = Field(max_length=100)
    subject: str
    detail: dict[str, Any] = json_column()
    intended_at: datetime = moment_column()
    ended_at: datetime | None = moment_column(nullable=True)
    outcome: str = Field(max_length=20, index=True)


class MarkRow(Table, table=True):
    """What a controller wants to remember between runs, one text a name."""

    __tablename__ = "mark"

    name: str = Field(primary_key=True, max_length=60)
    value: str
    set_at: datetime = moment_column()
