"""What is read of the accounts many times: sums of entries, kept when they are booked; proposals of rates; what was
shown to be equal, and when. `LedgerStore` hangs them onto itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

from sqlalchemy import BigInteger, CheckConstraint, ColumnElement, func, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Field, Session, col, select

from slurm_gpuaas.domain.ledger import Asked, AskedRate, By, Entry, EntryKind, RateRequest, Reconciled, Sums, Verdict
from slurm_gpuaas.domain.months import Month
from slurm_gpuaas.domain.names import ClusterName, PersonId
from slurm_gpuaas.store.columns import json_column, moment_column, one_of
from slurm_gpuaas.store.pool.tables import PoolTable
from slurm_gpuaas.store.session import Sessions

MOST_DIFFERENCES: Final = 100


class BookedSumRow(PoolTable, table=True):
    """Sum of all entries that are alike in this; what an entry does not have is empty."""

    __tablename__ = "booked_sum"
    __table_args__ = (one_of("kind", EntryKind),)

    month: str = Field(primary_key=True, max_length=7)
    kind: str = Field(primary_key=True, max_length=10)
    of_month: str = Field(primary_key=True, max_length=7, index=True)
    organisation: str = Field(primary_key=True, max_length=30)
    provider: str = Field(primary_key=True, max_length=30)
    programme: str = Field(primary_key=True, max_length=30)
    grant_name: str = Field(primary_key=True, max_length=60)
    model: str = Field(primary_key=True, max_length=30)
    service: str = Field(primary_key=True, max_length=10)
    gpu_seconds: int = Field(sa_type=BigInteger)
    preempted: int = Field(sa_type=BigInteger)
    faults: int = Field(sa_type=BigInteger)
    list_won: int = Field(sa_type=BigInteger)
    won: int = Field(sa_type=BigInteger)


NO_BOUND: Final[Mapping[By, str]] = MappingProxyType({})
_ALIKE: Final = tuple(By)
_SUMMED: Final = Sums._fields


class BookedSums:
    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def by(
        self,
        *parts: By,
        months: tuple[Month, Month] | None = None,
        used_in: tuple[Month, Month] | None = None,
        only: Mapping[By, str] = NO_BOUND,
        without: Iterable[EntryKind] = (EntryKind.PAYMENT,),
    ) -> Mapping[tuple[str, ...], Sums]:
        """Sums of entries for each combination of the parts, in their order.

        Args:
            months, used_in: first and last, both included.
            only: those that have these values.
        """
        asked = ("booked sums", parts, months, used_in, tuple(sorted(only.items())), tuple(without))
        return self._sessions.remembered(
            ("booked_sum",),
            asked,
            lambda: self._by(parts, months=months, used_in=used_in, only=only, without=asked[-1]),
        )

    def _by(
        self,
        parts: Sequence[By],
        *,
        months: tuple[Month, Month] | None,
        used_in: tuple[Month, Month] | None,
        only: Mapping[By, str],
        without: Iterable[EntryKind],
    ) -> Mapping[tuple[str, ...], Sums]:
        table = BookedSumRow.__table__.c  # type: ignore[attr-defined]
        wanted: list[ColumnElement[bool]] = [table[part] == value for part, value in only.items()]
        wanted.append(table.kind.not_in([str(kind) for kind in without]))
        for column, span in ((table.month, months), (table.of_month, used_in)):
            if span is not None:
                wanted.append(column.between(str(span[0]), str(span[1])))
        keys = [table[part] for part in parts]
        query = select(*keys, *(func.sum(table[name]) for name in _SUMMED)).where(*wanted)
        query = query.group_by(*keys).order_by(*keys) if keys else query
        with self._sessions.reading() as session:
            return {
                tuple(row[: len(keys)]): Sums(*(int(one or 0) for one in row[len(keys) :]))
                for row in session.execute(query)
            }


def add_to_sums(session: Session, entries: Iterable[Entry]) -> None:
    """In the transaction that appends the entries."""
    sums: dict[tuple[str, ...], Sums] = defaultdict(Sums)
    for entry in entries:
        key = _alike(entry)
        used, amounts = entry.used, entry.amounts
        sums[key] = sums[key].plus(
            Sums(
                gpu_seconds=amounts.gpu_seconds,
                preempted=amounts.preempted,
                faults=amounts.gpu_seconds if used and used.fault else 0,
                list_won=amounts.list_won,
                won=amounts.won,
            )
        )
    rows: list[dict[str, Any]] = [
        dict(zip(map(str, _ALIKE), key, strict=True)) | sums_of._asdict() for key, sums_of in sums.items()
    ]
    if rows:
        dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
        statement = dialect.insert(BookedSumRow)
        table = BookedSumRow.__table__.c  # type: ignore[attr-defined]
        more = {name: table[name] + statement.excluded[name] for name in _SUMMED}
        session.execute(statement.on_conflict_do_update(index_elements=list(map(str, _ALIKE)), set_=more), rows)


def _alike(entry: Entry) -> tuple[str, ...]:
    used = entry.used
    parts: dict[By, str | None] = {
        By.MONTH: str(entry.month),
        By.KIND: entry.kind,
        By.USED_IN: str(used.month) if used else None,
        By.ORGANISATION: entry.organisation,
        By.PROVIDER: entry.provider,
        By.PROGRAMME: entry.programme,
        By.GRANT: entry.grant,
        By.MODEL: used.model if used else None,
        By.SERVICE: used.service if used else None,
    }
    return tuple(str(parts[part] or "") for part in _ALIKE)


# -- Proposals of rates ------------------------------------------------------------------------------------------------


class RateRequestRow(PoolTable, table=True):
    __tablename__ = "rate_request"
    __table_args__ = (
        one_of("verdict", Verdict),
        CheckConstraint("(verdict = 'open') = (decided_by IS NULL)", name="decided"),
        CheckConstraint("decided_by <> asked_by", name="two_people"),
    )

    command: str = Field(primary_key=True, max_length=64)
    request: dict[str, Any] = json_column()
    asked_by: str = Field(max_length=22)
    asked_at: datetime = moment_column()
    verdict: str = Field(max_length=10, index=True)
    decided_by: str | None = Field(default=None, max_length=22)
    decided_at: datetime | None = moment_column(nullable=True)
    why: str = Field(default="", max_length=500)


class RateRequests:
    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def put(self, asked: AskedRate) -> None:
        with self._sessions.writing() as session:
            session.add(
                RateRequestRow(
                    command=asked.request.command,
                    request=asked.request.model_dump(mode="json"),
                    asked_by=asked.asked_by,
                    asked_at=asked.asked_at,
                    verdict=asked.verdict,
                )
            )
            session.flush()

    def decide(self, command: str, verdict: Verdict, *, by: PersonId, at: datetime, why: str) -> None:
        with self._sessions.writing() as session:
            session.execute(
                update(RateRequestRow)
                .where(col(RateRequestRow.command) == command)
                .values(verdict=verdict, decided_by=by, decided_at=at, why=why)
            )

    def find(self, command: str) -> AskedRate | None:
        with self._sessions.reading() as session:
            row = session.get(RateRequestRow, command)
            return None if row is None else _asked_rate(row)

    def all(self, verdict: Verdict | None = None, *, limit: int | None = None) -> Sequence[AskedRate]:
        """The newest first."""
        wanted = [] if verdict is None else [col(RateRequestRow.verdict) == str(verdict)]
        rows = select(RateRequestRow).where(*wanted).order_by(col(RateRequestRow.asked_at).desc()).limit(limit)
        with self._sessions.reading() as session:
            return [_asked_rate(row) for row in session.exec(rows)]


def _asked_rate(row: RateRequestRow) -> AskedRate:
    return Asked(
        request=RateRequest.model_validate(row.request),
        asked_by=PersonId(row.asked_by),
        asked_at=row.asked_at,
        verdict=Verdict(row.verdict),
        decided_by=None if row.decided_by is None else PersonId(row.decided_by),
        decided_at=row.decided_at,
        why=row.why,
    )


# -- What was shown to be equal ----------------------------------------------------------------------------------------


class ReconciliationRow(PoolTable, table=True):
    """The newest comparison of each cluster and month; `equal_at`: when they were last found to be equal."""

    __tablename__ = "reconciliation"

    cluster: str = Field(primary_key=True, max_length=30)
    month: str = Field(primary_key=True, max_length=7)
    at: datetime = moment_column()
    equal_at: datetime | None = moment_column(nullable=True)
    runs: int = Field(sa_type=BigInteger)
    gpu_seconds: int = Field(sa_type=BigInteger)
    different: int
    differences: list[str] = json_column()


class Reconciliations:
    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def put(self, found: Reconciled) -> None:
        with self._sessions.writing() as session:
            row = session.get(ReconciliationRow, (found.cluster, str(found.month)))
            equal_at = found.at if not found.different else row.equal_at if row else None
            session.merge(
                ReconciliationRow(
                    cluster=found.cluster,
                    month=str(found.month),
                    at=found.at,
                    equal_at=equal_at,
                    runs=found.runs,
                    gpu_seconds=found.gpu_seconds,
                    different=found.different,
                    differences=list(found.differences[:MOST_DIFFERENCES]),
                )
            )
            session.flush()

    def newest(self, clusters: Iterable[ClusterName], *, limit: int = 100) -> Sequence[Reconciled]:
        """Of these clusters, the newest month first."""
        rows = (
            select(ReconciliationRow)
            .where(col(ReconciliationRow.cluster).in_(sorted(clusters)))
            .order_by(col(ReconciliationRow.month).desc(), col(ReconciliationRow.cluster))
            .limit(limit)
        )
        with self._sessions.reading() as session:
            return [
                Reconciled(
                    cluster=ClusterName(row.cluster),
                    month=Month.parse(row.month),
                    at=row.at,
                    equal_at=row.equal_at,
                    runs=row.runs,
                    gpu_seconds=row.gpu_seconds,
                    different=row.different,
                    differences=tuple(row.differences),
                )
                for row in session.exec(rows)
            ]
