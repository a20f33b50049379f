"""Days of use of grants as sites measured them, and what is kept of the ladder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any, Final

from sqlalchemy import BigInteger, CheckConstraint, func
from sqlalchemy import select as sql_select
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Field, col, select

from slurm_gpuaas.domain.idle import AppealState, BusySum, GrantDay, IdleRuleSet
from slurm_gpuaas.domain.leases import LeaseState
from slurm_gpuaas.domain.names import ClusterName, PoolGrantId
from slurm_gpuaas.store.columns import at_least, json_column, moment_column, one_of
from slurm_gpuaas.store.pool.register_tables import PoolGrantRow, PoolShareRow
from slurm_gpuaas.store.pool.tables import PoolTable
from slurm_gpuaas.store.session import Sessions

_AT_ONCE: Final = 500
"""Values of one query; SQLite takes a few thousand."""


class GrantDayRow(PoolTable, table=True):
    """`number` is the site's; figures are GPU-seconds."""

    __tablename__ = "grant_day"
    __table_args__ = (
        at_least("allocated", 0),
        at_least("busy", 0),
        at_least("loaded", 0),
        at_least("lost", 0),
        at_least("burst", 0),
        at_least("peak", 0),
    )

    grant: str = Field(primary_key=True, foreign_key="pool_grant.id", max_length=11)
    day: date = Field(primary_key=True)
    number: int = Field(sa_type=BigInteger)
    allocated: int = Field(sa_type=BigInteger)
    busy: int | None = Field(default=None, sa_type=BigInteger)
    loaded: int = Field(sa_type=BigInteger)
    lost: int = Field(sa_type=BigInteger)
    burst: int = Field(sa_type=BigInteger)
    peak: int
    received_at: datetime = moment_column()


class IdleRuleSetRow(PoolTable, table=True):
    """Append-only: what was in force is never changed."""

    __tablename__ = "idle_rule_set"
    __table_args__ = (at_least("number", 1),)

    number: int = Field(primary_key=True)
    body: dict[str, Any] = json_column()


class IdleStandingRow(PoolTable, table=True):
    __tablename__ = "idle_standing"

    grant: str = Field(primary_key=True, foreign_key="pool_grant.id", max_length=11)
    body: dict[str, Any] = json_column()


class IdleStepRow(PoolTable, table=True):
    """The key is why no grant makes two steps on a day, whatever happens."""

    __tablename__ = "idle_step"

    grant: str = Field(primary_key=True, foreign_key="pool_grant.id", max_length=11)
    day: date = Field(primary_key=True)
    body: dict[str, Any] = json_column()


class IdleExemptionRow(PoolTable, table=True):
    __tablename__ = "idle_exemption"
    __table_args__ = (CheckConstraint("ends >= starts", name="days"),)

    grant: str = Field(primary_key=True, foreign_key="pool_grant.id", max_length=11)
    starts: date = Field(primary_key=True)
    ends: date
    body: dict[str, Any] = json_column()


class IdleAppealRow(PoolTable, table=True):
    __tablename__ = "idle_appeal"
    __table_args__ = (
        one_of("state", AppealState),
        CheckConstraint("(state = 'open') = (decided_by IS NULL)", name="decided"),
        CheckConstraint("decided_by <> filed_by", name="two_people"),
    )

    id: str = Field(primary_key=True, max_length=11)
    grant: str = Field(foreign_key="pool_grant.id", index=True, max_length=11)
    state: str = Field(index=True, max_length=20)
    filed_by: str = Field(max_length=22)
    decided_by: str | None = Field(default=None, max_length=22)
    body: dict[str, Any] = json_column()


class LeaseRow(PoolTable, table=True):
    __tablename__ = "lease"
    __table_args__ = (
        one_of("state", LeaseState),
        at_least("gpus", 1),
        CheckConstraint("ends >= starts", name="days"),
        CheckConstraint("state NOT IN ('approved', 'ended') OR decided_by <> asked_by", name="two_people"),
    )

    id: str = Field(primary_key=True, max_length=11)
    provider: str = Field(index=True, max_length=30)
    share: str = Field(foreign_key="pool_share.name", index=True, max_length=92)
    state: str = Field(index=True, max_length=20)
    gpus: int
    starts: date
    ends: date
    asked_by: str = Field(max_length=22)
    decided_by: str | None = Field(default=None, max_length=22)
    hold: str | None = Field(default=None, foreign_key="hold.id", max_length=11)
    body: dict[str, Any] = json_column()


class GrantDays:
    """Days of use, one row a grant and Korean day. A day that is not there was not measured."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def take(self, cluster: ClusterName, days: Sequence[GrantDay], *, at: datetime) -> int:
        """Keep what a site measured, in any order and however often; of two for one day the greater number stands.

        Returns:
            How many are of grants on that cluster; what a site says of other grants is not kept.
        """
        with self._sessions.writing() as session:
            own: set[str] = set()
            named = sorted({day.grant for day in days})
            for first in range(0, len(named), _AT_ONCE):
                query = (
                    sql_select(col(PoolGrantRow.id))
                    .join(PoolShareRow, col(PoolShareRow.name) == col(PoolGrantRow.share))
                    .where(
                        col(PoolGrantRow.id).in_(named[first : first + _AT_ONCE]), col(PoolShareRow.cluster) == cluster
                    )
                )
                own.update(session.execute(query).scalars())
            mine = [day for day in days if day.grant in own]
            newest: dict[tuple[PoolGrantId, date], GrantDay] = {}
            for one in mine:
                if newest.setdefault((one.grant, one.day), one).number < one.number:
                    newest[one.grant, one.day] = one
            if newest:
                dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
                insert = dialect.insert(GrantDayRow)
                new = {name: insert.excluded[name] for name in GrantDayRow.model_fields if name not in ("grant", "day")}
                upsert = insert.on_conflict_do_update(
                    index_elements=["grant", "day"],
                    set_=new,
                    where=insert.excluded["number"] >= col(GrantDayRow.number),
                )
                session.execute(upsert, [_values(one, at) for one in newest.values()])
            return len(mine)

    def of(self, grants: Iterable[PoolGrantId], *, since: date) -> Mapping[PoolGrantId, Sequence[GrantDay]]:
        """By grant, in order of days; a grant without any is left out."""
        found: dict[PoolGrantId, list[GrantDay]] = defaultdict(list)
        named = sorted(grants)
        table = PoolTable.metadata.tables["grant_day"].c
        columns = [table[name] for name in GrantDayRow.model_fields if name != "received_at"]
        with self._sessions.reading() as session:
            for first in range(0, len(named), _AT_ONCE):
                query = (
                    sql_select(*columns)
                    .where(table.grant.in_(named[first : first + _AT_ONCE]), table.day >= since)
                    .order_by(table.grant, table.day)
                )
                for row in session.execute(query):
                    grant = PoolGrantId.as_slurm_says(row.grant)
                    found[grant].append(GrantDay(**(row._asdict() | {"grant": grant})))
        return found

    def busy(self, first: date, last: date) -> Mapping[PoolGrantId, BusySum]:
        """Of the days from `first` to `last` on which a site knew how busy the GPUs were; a grant without any is left
        out."""
        table = PoolTable.metadata.tables["grant_day"].c
        query = (
            sql_select(table.grant, func.sum(table.allocated), func.sum(table.busy))
            .where(table.day >= first, table.day <= last, table.busy.is_not(None))
            .group_by(table.grant)
        )
        with self._sessions.reading() as session:
            return {
                PoolGrantId.as_slurm_says(grant): BusySum(int(measured), int(busy))
                for grant, measured, busy in session.execute(query)
            }


def _values(day: GrantDay, at: datetime) -> dict[str, Any]:
    return {
        "grant": str(day.grant),
        "day": day.day,
        "number": day.number,
        "allocated": day.allocated,
        "busy": day.busy,
        "loaded": day.loaded,
        "lost": day.lost,
        "burst": day.burst,
        "peak": day.peak,
        "received_at": at,
    }


class IdleRuleSets:
    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def newest(self) -> IdleRuleSet | None:
        """Those in force; None: nobody has set any yet."""
        found = self.all(limit=1)
        return found[0] if found else None

    def all(self, *, limit: int) -> Sequence[IdleRuleSet]:
        """The newest first."""
        query = select(IdleRuleSetRow).order_by(col(IdleRuleSetRow.number).desc()).limit(limit)
        with self._sessions.reading() as session:
            return tuple(IdleRuleSet.model_validate(row.body | {"number": row.number}) for row in session.exec(query))

    def add(self, rules: IdleRuleSet) -> None:
        with self._sessions.writing() as session:
            session.add(IdleRuleSetRow(number=rules.number, body=rules.model_dump(mode="json", exclude={"number"})))
            session.flush()
