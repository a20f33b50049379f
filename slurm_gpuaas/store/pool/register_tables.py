"""Tables of programmes, applications, awards, grants and the calendar.

A field that something is found by, checked by or referred to by is a column; the rest of a noun is its `body`.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

from sqlalchemy import CheckConstraint, Column, UniqueConstraint
from sqlmodel import Field

from slurm_gpuaas.domain.applications import ApplicationState
from slurm_gpuaas.domain.policy import Role
from slurm_gpuaas.domain.pool_grants import AwardState, ChangeState, HoldKind, OfferState, PoolGrantState
from slurm_gpuaas.domain.programmes import OrganisationKind, Region
from slurm_gpuaas.store.columns import UtcDateTime, at_least, json_column, moment_column, number_column, one_of
from slurm_gpuaas.store.pool.tables import PoolTable


class PoolShareRow(PoolTable, table=True):
    __tablename__ = "pool_share"
    __table_args__ = (at_least("capacity", 0),)

    name: str = Field(primary_key=True, max_length=92)
    provider: str = Field(max_length=30)
    cluster: str = Field(max_length=30)
    pool: str = Field(max_length=30)
    share: str = Field(max_length=30)
    model: str = Field(max_length=30)
    capacity: int


class ProgrammeRow(PoolTable, table=True):
    __tablename__ = "programme"

    name: str = Field(primary_key=True, max_length=30)
    body: dict[str, Any] = json_column()


class OrganisationRow(PoolTable, table=True):
    __tablename__ = "organisation"
    __table_args__ = (one_of("kind", OrganisationKind), one_of("region", Region))

    name: str = Field(primary_key=True, max_length=30)
    kind: str = Field(max_length=30)
    region: str = Field(max_length=30)
    title: str = Field(max_length=200)


class MembershipRow(PoolTable, table=True):
    __tablename__ = "membership"
    __table_args__ = (one_of("role", Role),)

    person: str = Field(primary_key=True, max_length=22)
    organisation: str = Field(primary_key=True, foreign_key="organisation.name", index=True, max_length=30)
    role: str = Field(max_length=20)


class UnixIdentityRow(PoolTable, table=True):
    __tablename__ = "unix_identity"
    __table_args__ = (UniqueConstraint("login"), UniqueConstraint("uid"))

    person: str = Field(primary_key=True, max_length=22)
    login: str = Field(max_length=32)
    uid: int
    body: dict[str, Any] = json_column()


class ApplicationDraftRow(PoolTable, table=True):
    __tablename__ = "application_draft"

    person: str = Field(primary_key=True, max_length=22)
    programme: str = Field(primary_key=True, max_length=30)
    body: dict[str, Any] = json_column()


class ApplicationRow(PoolTable, table=True):
    __tablename__ = "application"
    __table_args__ = (one_of("state", ApplicationState),)

    id: str = Field(primary_key=True, max_length=11)
    programme: str = Field(foreign_key="programme.name", index=True, max_length=30)
    organisation: str = Field(foreign_key="organisation.name", index=True, max_length=30)
    state: str = Field(index=True, max_length=20)
    body: dict[str, Any] = json_column()


class ReviewRow(PoolTable, table=True):
    __tablename__ = "review"

    application: str = Field(primary_key=True, foreign_key="application.id", max_length=11)
    reviewer: str = Field(primary_key=True, index=True, max_length=22)
    body: dict[str, Any] = json_column()


class AwardRow(PoolTable, table=True):
    """The two people of the two-person rule are two in the table, too."""

    __tablename__ = "award"
    __table_args__ = (
        one_of("state", AwardState),
        CheckConstraint("state <> 'approved' OR decided_by <> drafted_by", name="two_people"),
    )

    id: str = Field(primary_key=True, max_length=11)
    programme: str = Field(foreign_key="programme.name", index=True, max_length=30)
    state: str = Field(index=True, max_length=20)
    drafted_by: str = Field(max_length=22)
    decided_by: str | None = Field(default=None, max_length=22)
    body: dict[str, Any] = json_column()


class OfferRow(PoolTable, table=True):
    __tablename__ = "offer"
    __table_args__ = (one_of("state", OfferState), at_least("gpus", 1), CheckConstraint("ends >= starts", name="days"))

    id: str = Field(primary_key=True, max_length=11)
    application: str = Field(foreign_key="application.id", index=True, max_length=11)
    organisation: str = Field(foreign_key="organisation.name", index=True, max_length=30)
    programme: str = Field(foreign_key="programme.name", index=True, max_length=30)
    share: str = Field(foreign_key="pool_share.name", index=True, max_length=92)
    state: str = Field(index=True, max_length=20)
    gpus: int
    starts: date
    ends: date
    body: dict[str, Any] = json_column()


class PoolGrantRow(PoolTable, table=True):
    """An offer is granted once."""

    __tablename__ = "pool_grant"
    __table_args__ = (
        one_of("state", PoolGrantState),
        at_least("gpus", 1),
        CheckConstraint("ends >= starts", name="days"),
        UniqueConstraint("offer"),
        UniqueConstraint("project"),
    )

    id: str = Field(primary_key=True, max_length=11)
    offer: str = Field(foreign_key="offer.id", max_length=11)
    application: str = Field(foreign_key="application.id", index=True, max_length=11)
    organisation: str = Field(foreign_key="organisation.name", index=True, max_length=30)
    programme: str = Field(foreign_key="programme.name", index=True, max_length=30)
    project: str = Field(max_length=30)
    share: str = Field(foreign_key="pool_share.name", index=True, max_length=92)
    state: str = Field(index=True, max_length=20)
    gpus: int
    starts: date
    ends: date
    body: dict[str, Any] = json_column()


class GrantChangeRow(PoolTable, table=True):
    __tablename__ = "grant_change"
    __table_args__ = (
        one_of("state", ChangeState),
        CheckConstraint("state <> 'approved' OR decided_by <> asked_by", name="two_people"),
    )

    id: str = Field(primary_key=True, max_length=11)
    grant: str = Field(foreign_key="pool_grant.id", index=True, max_length=11)
    state: str = Field(index=True, max_length=20)
    asked_by: str = Field(max_length=22)
    decided_by: str | None = Field(default=None, max_length=22)
    body: dict[str, Any] = json_column()


class HoldRow(PoolTable, table=True):
    __tablename__ = "hold"
    __table_args__ = (one_of("kind", HoldKind), at_least("gpus", 1), CheckConstraint("ends >= starts", name="days"))

    id: str = Field(primary_key=True, max_length=11)
    kind: str = Field(max_length=20)
    share: str = Field(foreign_key="pool_share.name", index=True, max_length=92)
    gpus: int
    starts: date
    ends: date
    body: dict[str, Any] = json_column()


class CommitmentRow(PoolTable, table=True):
    """The calendar. Days that are over stay, so that it also tells what was held."""

    __tablename__ = "commitment"
    __table_args__ = (at_least("gpus", 1), CheckConstraint("ends >= starts", name="days"))

    number: int | None = number_column()
    holder: str = Field(index=True, max_length=11)
    share: str = Field(foreign_key="pool_share.name", index=True, max_length=92)
    gpus: int
    starts: date
    ends: date


class MailRow(PoolTable, table=True):
    """To be sent, and sent. `try_at`: when it is tried next; None once it was sent or given up. `fault`: why the last
    of `tries` failed."""

    __tablename__ = "mail"

    number: int | None = number_column()
    to: str = Field(index=True, max_length=22)
    template: str = Field(max_length=60)
    parts: dict[str, Any] = json_column()
    written_at: datetime = moment_column()
    sent_at: datetime | None = moment_column(nullable=True)
    tries: int = 0
    try_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime(), nullable=True, index=True))
    fault: str = Field(default="", max_length=300)


class SiteRevisionRow(PoolTable, table=True):
    """How often a site's documents have changed."""

    __tablename__ = "site_revision"
    __table_args__ = (at_least("revision", 0),)

    cluster: str = Field(primary_key=True, max_length=30)
    revision: int


class CounterRow(PoolTable, table=True):
    """The last number given of a kind and year, e.g. of `a2026`."""

    __tablename__ = "counter"

    name: str = Field(primary_key=True, max_length=30)
    last: int


class DoneCommandRow(PoolTable, table=True):
    """A command that was done, and what it answered. `asked` is the digest of what was asked."""

    __tablename__ = "done_command"

    id: str = Field(primary_key=True, max_length=64)
    asked: str = Field(max_length=64)
    answer: dict[str, Any] = json_column()
    at: datetime = moment_column()
