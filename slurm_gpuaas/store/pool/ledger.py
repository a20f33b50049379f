"""Usage as sites report it, and the pool's accounts: kept here, decided in `metering`.

Terms, rates, entries, statements and closed months are append-only: triggers refuse to change or delete a row, and to
add an entry to a month that is closed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields
from datetime import date, datetime
from decimal import Decimal
from itertools import groupby
from typing import Any, Final, TypeVar

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ColumnElement,
    Index,
    UniqueConstraint,
    bindparam,
    delete,
    func,
    insert,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Field, Session, col, select

from slurm_gpuaas.domain.errors import NotFound
from slurm_gpuaas.domain.jobs import JobId, ServiceClass
from slurm_gpuaas.domain.ledger import (
    WHOLE,
    Amounts,
    Asked,
    AskedWon,
    BookKey,
    Ending,
    Entry,
    EntryKind,
    Place,
    PoolRate,
    StatementHead,
    Terms,
    Titles,
    UseKey,
    Verdict,
    WonRequest,
)
from slurm_gpuaas.domain.money import Won
from slurm_gpuaas.domain.months import Month
from slurm_gpuaas.domain.names import (
    AccountName,
    ClusterName,
    GpuModel,
    GrantName,
    OrganisationName,
    PartitionName,
    PersonId,
    ProgrammeName,
    ProviderName,
    QosName,
    RateName,
    UserName,
)
from slurm_gpuaas.domain.usage import RunEnd, RunKey, UsageChange, UsageRecord, Window, key_of, service_class
from slurm_gpuaas.store.columns import UtcDateTime, at_least, json_column, moment_column, number_column, one_of
from slurm_gpuaas.store.pool.ledger_views import BookedSums, RateRequests, Reconciliations, add_to_sums
from slurm_gpuaas.store.pool.tables import PoolTable
from slurm_gpuaas.store.session import Sessions

_T = TypeVar("_T")
_AT_ONCE: Final = 500
"""Values of one query; SQLite takes a few thousand."""


class ReportedRunRow(PoolTable, table=True):
    """A run of a job as its site reported it last; `number` is the site's."""

    __tablename__ = "reported_run"
    __table_args__ = (
        at_least("gpus", 1),
        at_least("gpu_seconds", 0),
        CheckConstraint("ended >= started", name="times"),
        Index(None, "cluster", "account", "ended"),
    )

    cluster: str = Field(primary_key=True, max_length=30)
    job_id: int = Field(primary_key=True, sa_type=BigInteger)
    started: datetime = Field(sa_column=Column(UtcDateTime(), primary_key=True))
    number: int = Field(sa_type=BigInteger)
    user: str = Field(max_length=32)
    account: str = Field(max_length=95)
    qos: str = Field(max_length=95)
    partition: str = Field(max_length=95)
    model: str | None = Field(default=None, max_length=30)
    gpus: int
    ended: datetime | None = Field(sa_column=Column(UtcDateTime(), nullable=True))
    gpu_seconds: int = Field(sa_type=BigInteger)
    state: str = Field(max_length=40)
    nodes: str = ""


class UseRow(PoolTable, table=True):
    """GPU-seconds of all runs, summed when they come in. `model` is empty for runs of which Slurm names none."""

    __tablename__ = "use_sum"
    __table_args__ = (one_of("service", ServiceClass), one_of("ending", Ending), at_least("gpu_seconds", 0))

    cluster: str = Field(primary_key=True, max_length=30)
    account: str = Field(primary_key=True, max_length=95)
    month: str = Field(primary_key=True, max_length=7)
    day: date = Field(primary_key=True)
    model: str = Field(primary_key=True, max_length=30)
    service: str = Field(primary_key=True, max_length=10)
    ending: str = Field(primary_key=True, max_length=10)
    gpu_seconds: int = Field(sa_type=BigInteger)


class UnbookedRow(PoolTable, table=True):
    """Something that the place's bookings follow from has changed since they were compared last."""

    __tablename__ = "unbooked"

    cluster: str = Field(primary_key=True, max_length=30)
    account: str = Field(primary_key=True, max_length=95)
    month: str = Field(primary_key=True, max_length=7)


class PoolRateRow(PoolTable, table=True):
    __tablename__ = "pool_rate"
    __table_args__ = (
        at_least("won_per_gpu_hour", 0),
        CheckConstraint("burst_discount BETWEEN 0 AND 10000", name="burst_discount"),
        UniqueConstraint("model", "share", "programme", "starts"),
    )

    name: str = Field(primary_key=True, max_length=60)
    model: str = Field(max_length=30)
    share: str = Field(max_length=30)
    programme: str = Field(max_length=30)
    won_per_gpu_hour: int
    burst_discount: int
    starts: date
    basis: str = Field(max_length=500)


class TermsRow(PoolTable, table=True):
    """Every version of a grant's terms; the highest is in force."""

    __tablename__ = "grant_terms"
    __table_args__ = (at_least("version", 1),)

    grant_name: str = Field(primary_key=True, max_length=60)
    version: int = Field(primary_key=True)
    at: datetime = moment_column()
    document: dict[str, Any] = json_column()


class EntryRow(PoolTable, table=True):
    """`of_month` and what follows it say what charges and corrections are for."""

    __tablename__ = "ledger_entry"
    __table_args__ = (
        one_of("kind", EntryKind),
        CheckConstraint("(kind IN ('charge', 'correction')) = (of_month IS NOT NULL)", name="used"),
        CheckConstraint("kind <> 'charge' OR of_month = month", name="charge"),
        CheckConstraint("kind <> 'correction' OR (of_month < month AND refers = of_month)", name="correction"),
        CheckConstraint("kind <> 'payment' OR won < 0", name="payment"),
        CheckConstraint("kind <> 'credit' OR won < 0", name="credit"),
        CheckConstraint(
            "kind NOT IN ('credit', 'adjustment')"
            " OR (asked_by IS NOT NULL AND approved_by IS NOT NULL AND asked_by <> approved_by)",
            name="two_people",
        ),
        CheckConstraint(
            "kind IN ('charge', 'correction') OR (gpu_seconds = 0 AND preempted = 0 AND list_won = won)", name="won"
        ),
        CheckConstraint("percent BETWEEN 0 AND 10000", name="percent"),
        Index(None, "cluster", "account", "of_month"),
        Index(None, "month", "organisation", "provider"),
        Index(None, "of_month"),
    )

    seq: int | None = number_column()
    at: datetime = moment_column()
    kind: str = Field(max_length=10)
    month: str = Field(max_length=7)
    organisation: str | None = Field(default=None, max_length=30)
    provider: str | None = Field(default=None, max_length=30)
    programme: str | None = Field(default=None, max_length=30)
    grant_name: str | None = Field(default=None, max_length=60)
    of_month: str | None = Field(default=None, max_length=7)
    cluster: str | None = Field(default=None, max_length=30)
    account: str | None = Field(default=None, max_length=95)
    model: str | None = Field(default=None, max_length=30)
    service: str | None = Field(default=None, max_length=10)
    fault: bool = False
    rate: str | None = Field(default=None, max_length=60)
    percent: int | None = None
    gpu_seconds: int = Field(sa_type=BigInteger)
    preempted: int = Field(sa_type=BigInteger)
    list_won: int = Field(sa_type=BigInteger)
    won: int = Field(sa_type=BigInteger)
    refers: str = Field(default="", max_length=60)
    reason: str = Field(default="", max_length=500)
    asked_by: str | None = Field(default=None, max_length=22)
    approved_by: str | None = Field(default=None, max_length=22)
    command: str | None = Field(default=None, max_length=64, unique=True)


class WonRequestRow(PoolTable, table=True):
    __tablename__ = "won_request"
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


class ClosedMonthRow(PoolTable, table=True):
    __tablename__ = "closed_month"

    month: str = Field(primary_key=True, max_length=7)
    at: datetime = moment_column()


class StatementRow(PoolTable, table=True):
    __tablename__ = "statement"
    __table_args__ = (
        UniqueConstraint("month", "organisation", "provider"),
        Index(None, "organisation", "provider"),
        at_least("paid", 0),
        CheckConstraint("vat_percent BETWEEN 0 AND 100", name="vat_percent"),
    )

    number: str = Field(primary_key=True, max_length=60)
    month: str = Field(max_length=7)
    organisation: str = Field(max_length=30)
    provider: str = Field(max_length=30)
    issued_at: datetime = moment_column()
    vat_percent: int
    carried: int = Field(sa_type=BigInteger)
    supply: int = Field(sa_type=BigInteger)
    vat: int = Field(sa_type=BigInteger)
    paid: int = Field(sa_type=BigInteger)
    titles: dict[str, Any] = json_column()


class LedgerStore:
    """Everything about usage and money, over the sessions of the pool's store."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self.sums = BookedSums(sessions)
        self.rate_requests = RateRequests(sessions)
        self.reconciliations = Reconciliations(sessions)

    def transaction(self) -> AbstractContextManager[Session]:
        """Sums and bookings are read, reckoned and written."""
        return self._sessions.writing()

    def snapshot(self) -> AbstractContextManager[None]:
        """Several readings of one moment."""
        return self._sessions.snapshot()

    # -- Terms and rates

    def put_terms(self, terms: Terms, at: datetime) -> bool:
        """A new version of a grant's terms; False when they are in force already."""
        with self.transaction() as session:
            version = self._newest_version(session, terms.grant.name)
            document = terms.model_dump(mode="json")
            if version is not None and version.document == document:
                return False
            number = version.version + 1 if version else 1
            session.add(TermsRow(grant_name=terms.grant.name, version=number, at=at, document=document))
            session.flush()
        return True

    def _newest_version(self, session: Session, grant: GrantName) -> TermsRow | None:
        rows = select(TermsRow).where(TermsRow.grant_name == grant).order_by(col(TermsRow.version).desc()).limit(1)
        return session.exec(rows).first()

    def terms(self) -> Sequence[Terms]:
        """Those in force, by grant."""
        return [versions[-1][1] for versions in self.terms_versions().values()]

    def terms_versions(self) -> Mapping[GrantName, Sequence[tuple[datetime, Terms]]]:
        """All that were ever in force, and since when, oldest first."""
        return self._sessions.remembered(("grant_terms",), "terms", self._terms_versions)

    def look_anew(self) -> None:
        """Notice what another process booked or closed: whoever asks later sees it as well."""

        def newest() -> tuple[object, ...]:
            counts = (
                func.max(col(EntryRow.seq)),
                func.max(col(ClosedMonthRow.month)),
                func.count(col(TermsRow.version)),
            )
            with self._sessions.reading() as session:
                return tuple(session.exec(select(count)).one() for count in counts)

        tables = ("ledger_entry", "booked_sum", "closed_month", "statement", "grant_terms")
        self._sessions.anew(tables, "newest of the books", newest)

    def from_books(self, name: Hashable, make: Callable[[], _T], *, as_of: Hashable) -> _T:
        """What follows from entries and statements alone, until one of them is added; made for just `as_of`."""
        tables = ("ledger_entry", "booked_sum", "closed_month", "statement")
        return self._sessions.remembered(tables, name, make, as_of=as_of)

    def from_tariff(self, name: str, make: Callable[[], _T]) -> _T:
        """What follows from terms and rates alone, until one of them changes."""
        return self._sessions.remembered(("grant_terms", "pool_rate"), name, make)

    def _terms_versions(self) -> Mapping[GrantName, Sequence[tuple[datetime, Terms]]]:
        with self._sessions.reading() as session:
            rows = session.exec(select(TermsRow).order_by(col(TermsRow.grant_name), col(TermsRow.version)))
            return {
                GrantName(grant): [(row.at, Terms.model_validate(row.document)) for row in versions]
                for grant, versions in groupby(rows, key=lambda row: row.grant_name)
            }

    def add_rate(self, rate: PoolRate) -> None:
        with self.transaction() as session:
            session.add(
                PoolRateRow(
                    **rate.model_dump(exclude={"share", "programme", "burst_discount"}),
                    share=rate.share or "",
                    programme=rate.programme or "",
                    burst_discount=_hundredths(rate.burst_discount),
                )
            )
            session.flush()

    def rates(self) -> Sequence[PoolRate]:
        with self._sessions.reading() as session:
            return [
                PoolRate.model_validate(
                    row.model_dump()
                    | {
                        "share": row.share or None,
                        "programme": row.programme or None,
                        "burst_discount": _percent(row.burst_discount),
                    }
                )
                for row in session.exec(select(PoolRateRow).order_by(col(PoolRateRow.name)))
            ]

    # -- Usage

    def runs(self, keys: Iterable[RunKey]) -> Mapping[RunKey, UsageChange]:
        """What is known of these runs."""
        wanted = set(keys)
        jobs: dict[ClusterName, set[int]] = defaultdict(set)
        for key in wanted:
            jobs[key.cluster].add(key.job_id)
        found: dict[RunKey, UsageChange] = {}
        with self._sessions.reading() as session:
            for cluster, numbers in jobs.items():
                for some in _some(sorted(numbers)):
                    rows = select(ReportedRunRow).where(
                        ReportedRunRow.cluster == cluster, col(ReportedRunRow.job_id).in_(some)
                    )
                    known = (_run(row) for row in session.exec(rows))
                    found |= {key: run for run in known if (key := key_of(run.record)) in wanted}
        return found

    def put_runs(self, runs: Iterable[UsageChange]) -> None:
        """Insert or replace them."""
        rows = [{"number": run.number, **_fields(run.record)} for run in runs]
        with self.transaction() as session:
            _upsert(session, ReportedRunRow, rows)

    def runs_of(self, cluster: ClusterName, account: AccountName, window: Window) -> Sequence[UsageRecord]:
        """Runs of an account that overlap the window."""
        ended = col(ReportedRunRow.ended)
        rows = select(ReportedRunRow).where(
            ReportedRunRow.cluster == cluster,
            ReportedRunRow.account == account,
            ended.is_(None) | (ended > window.start),
            ReportedRunRow.started < window.end,
        )
        with self._sessions.reading() as session:
            return [_run(row).record for row in session.exec(rows)]

    def runs_in(self, cluster: ClusterName, window: Window) -> Iterator[UsageRecord]:
        """Runs of a cluster that overlap the window, one after the other: they are too many to be held at once."""
        ended = col(ReportedRunRow.ended)
        rows = select(ReportedRunRow).where(
            ReportedRunRow.cluster == cluster,
            ended.is_(None) | (ended > window.start),
            ReportedRunRow.started < window.end,
        )
        with self._sessions.reading() as session:
            for row in session.exec(rows.execution_options(yield_per=_AT_ONCE)):
                yield _run(row).record

    def newest_ended(
        self,
        cluster: ClusterName,
        accounts: Iterable[AccountName],
        *,
        since: datetime,
        limit: int,
        before: RunEnd | None = None,
        user: UserName | None = None,
        state: str | None = None,
        job: JobId | None = None,
    ) -> Sequence[UsageRecord]:
        """Runs of these accounts that ended at `since` or later, by `RunEnd`, the last first: those after `before`."""
        row = ReportedRunRow
        ended = col(row.ended)
        wanted: list[ColumnElement[bool]] = [col(row.cluster) == cluster, ended >= since]
        if before is not None:
            wanted.append(tuple_(ended, col(row.cluster), col(row.job_id), col(row.started)) < tuple_(*before))
        for column, value in ((col(row.user), user), (col(row.state), state), (col(row.job_id), job)):
            if value is not None:
                wanted.append(column == value)
        order = (ended.desc(), col(row.job_id).desc(), col(row.started).desc())
        found: list[UsageRecord] = []
        with self._sessions.reading() as session:
            for some in _some(sorted(set(accounts))):
                rows = select(row).where(*wanted, col(row.account).in_(some)).order_by(*order).limit(limit)
                found += [_run(one).record for one in session.exec(rows)]
        return sorted(found, key=RunEnd.of, reverse=True)[:limit]

    def accounts_used(self, cluster: ClusterName, since: Month) -> Sequence[AccountName]:
        """Accounts of the cluster with use in that month or later."""
        found = select(UseRow.account).where(UseRow.cluster == cluster, col(UseRow.month) >= str(since)).distinct()
        with self._sessions.reading() as session:
            return [AccountName(account) for account in session.exec(found)]

    def use_by_person(
        self, cluster: ClusterName, account: AccountName, window: Window
    ) -> tuple[Mapping[tuple[UserName, QosName, str], int], Sequence[UsageRecord]]:
        """What an account used in the window: GPU-seconds of runs that lie within it, by login, QOS and state, and the
        runs over its borders or not over yet, which are few."""
        started, ended = col(ReportedRunRow.started), col(ReportedRunRow.ended)
        mine = (ReportedRunRow.cluster == cluster, ReportedRunRow.account == account)
        alike = (ReportedRunRow.user, ReportedRunRow.qos, ReportedRunRow.state)
        within = select(*alike, func.sum(ReportedRunRow.gpu_seconds)).where(
            *mine, started >= window.start, ended > window.start, ended <= window.end
        )
        over = select(ReportedRunRow).where(
            *mine,
            started < window.end,
            ended.is_(None) | (ended > window.end) | ((ended > window.start) & (started < window.start)),
        )
        with self._sessions.reading() as session:
            sums = {
                (UserName(user), QosName(qos), state): int(used)
                for user, qos, state, used in session.execute(within.group_by(*alike))
            }
            return sums, [_run(row).record for row in session.exec(over)]

    def running(
        self, cluster: ClusterName, accounts: Iterable[AccountName]
    ) -> Mapping[tuple[AccountName, ServiceClass], int]:
        """GPUs of runs that had not ended when their site reported them last."""
        found: dict[tuple[AccountName, ServiceClass], int] = defaultdict(int)
        with self._sessions.reading() as session:
            for some in _some(sorted(set(accounts))):
                rows = session.execute(
                    select(ReportedRunRow.account, ReportedRunRow.qos, func.sum(ReportedRunRow.gpus))
                    .where(
                        ReportedRunRow.cluster == cluster,
                        col(ReportedRunRow.account).in_(some),
                        col(ReportedRunRow.ended).is_(None),
                    )
                    .group_by(col(ReportedRunRow.account), col(ReportedRunRow.qos))
                )
                for account, qos, gpus in rows:
                    found[AccountName(account), service_class(QosName(qos))] += int(gpus)
        return found

    def add_use(self, changes: Mapping[UseKey, int]) -> None:
        """Add GPU-seconds to the sums, and note their places as unbooked."""
        with self.transaction() as session:
            known = dict(self._use(session, {key.place for key in changes}))
            fresh = [{**_use_row(key), "gpu_seconds": change} for key, change in changes.items() if key not in known]
            if fresh:
                session.exec(insert(UseRow), params=fresh)
            changed = [
                {**{f"k_{name}": value for name, value in _use_row(key).items()}, "sum": known[key] + change}
                for key, change in changes.items()
                if key in known
            ]
            if changed:
                names = [column.name for column in UseRow.__table__.primary_key]  # type: ignore[attr-defined]
                table = UseRow.__table__  # type: ignore[attr-defined]
                same = [table.c[name] == bindparam(f"k_{name}") for name in names]
                session.execute(update(table).where(*same).values(gpu_seconds=bindparam("sum")), changed)
            self.note_unbooked(key.place for key in changes)

    def use(self, places: Iterable[Place]) -> Mapping[UseKey, int]:
        with self._sessions.reading() as session:
            return {key: used for key, used in self._use(session, set(places)) if used}

    def _use(self, session: Session, places: set[Place]) -> Iterator[tuple[UseKey, int]]:
        for (cluster, month), some in groupby(sorted(places, key=_by_month), key=_by_month):
            of = Month.parse(month)
            for accounts in _some([place.account for place in some]):
                # Columns, not objects: a day's reports touch thousands of sums.
                rows = session.execute(
                    select(
                        UseRow.account, UseRow.day, UseRow.model, UseRow.service, UseRow.ending, UseRow.gpu_seconds
                    ).where(UseRow.cluster == cluster, UseRow.month == month, col(UseRow.account).in_(accounts))  # type: ignore[call-overload]
                )
                for account, day, model, service, ending, used in rows:
                    yield (
                        UseKey(
                            cluster=ClusterName(cluster),
                            account=AccountName(account),
                            month=of,
                            day=day,
                            model=GpuModel(model) if model else None,
                            service=ServiceClass(service),
                            ending=Ending(ending),
                        ),
                        used,
                    )

    def places(
        self, cluster: ClusterName | None = None, account: AccountName | None = None, *, since: Month | None = None
    ) -> Sequence[Place]:
        """Where anything was ever used: of all clusters and accounts or one, in months from `since` on."""
        wanted: list[ColumnElement[bool]] = []
        if cluster is not None:
            wanted.append(col(UseRow.cluster) == cluster)
        if account is not None:
            wanted.append(col(UseRow.account) == account)
        if since is not None:
            wanted.append(col(UseRow.month) >= str(since))
        with self._sessions.reading() as session:
            rows = session.exec(select(UseRow.cluster, UseRow.account, UseRow.month).where(*wanted).distinct())
            return [_place(*row) for row in rows]

    # -- Booking

    def note_unbooked(self, places: Iterable[Place]) -> None:
        rows = [
            {"cluster": one.cluster, "account": one.account, "month": str(one.month)} for one in sorted(set(places))
        ]
        with self.transaction() as session:
            if rows:
                session.exec(_insert(session, UnbookedRow).on_conflict_do_nothing(), params=rows)

    def unbooked(self, limit: int | None = None) -> Sequence[Place]:
        with self._sessions.reading() as session:
            rows = select(UnbookedRow).order_by(
                col(UnbookedRow.cluster), col(UnbookedRow.month), col(UnbookedRow.account)
            )
            return [_place(row.cluster, row.account, row.month) for row in session.exec(rows.limit(limit))]

    def note_booked(self, places: Iterable[Place]) -> None:
        with self.transaction() as session:
            for (cluster, month), some in groupby(sorted(places, key=_by_month), key=_by_month):
                for accounts in _some([place.account for place in some]):
                    session.execute(
                        delete(UnbookedRow).where(
                            col(UnbookedRow.cluster) == cluster,
                            col(UnbookedRow.month) == month,
                            col(UnbookedRow.account).in_(accounts),
                        )
                    )

    def booked(self, places: Iterable[Place]) -> Mapping[BookKey, Amounts]:
        """Sums of charges and corrections."""
        found: dict[BookKey, Amounts] = {}
        keys = (
            EntryRow.cluster,
            EntryRow.account,
            EntryRow.of_month,
            EntryRow.grant_name,
            EntryRow.model,
            EntryRow.service,
            EntryRow.fault,
            EntryRow.rate,
            EntryRow.percent,
        )
        sums = [
            func.sum(column) for column in (EntryRow.gpu_seconds, EntryRow.preempted, EntryRow.list_won, EntryRow.won)
        ]
        with self._sessions.reading() as session:
            for (cluster, month), some in groupby(sorted(set(places), key=_by_month), key=_by_month):
                for accounts in _some([place.account for place in some]):
                    rows = session.exec(
                        select(*keys, *sums)  # type: ignore[call-overload]
                        .where(
                            EntryRow.cluster == cluster,
                            EntryRow.of_month == month,
                            col(EntryRow.account).in_(accounts),
                        )
                        .group_by(*keys)
                    )
                    found |= {_book_key(*row[:9]): Amounts(*map(int, row[9:])) for row in rows}
        return found

    def append(self, entries: Sequence[Entry]) -> None:
        with self.transaction() as session:
            if entries:
                session.exec(insert(EntryRow), params=[_entry_row(entry) for entry in entries])
                add_to_sums(session, entries)

    def entries(
        self,
        *,
        month: Month | None = None,
        organisation: OrganisationName | None = None,
        provider: ProviderName | None = None,
        used_in: Sequence[Month] | None = None,
        after: int = 0,
        limit: int | None = None,
    ) -> Sequence[Entry]:
        """In the order in which they were booked.

        Args:
            month: on whose statement they stand.
            used_in: charges and corrections of use in these months.
            after: only entries with a higher `seq`.
        """
        wanted: list[ColumnElement[bool]] = [col(EntryRow.seq) > after]
        if month is not None:
            wanted.append(col(EntryRow.month) == str(month))
        if organisation is not None:
            wanted.append(col(EntryRow.organisation) == organisation)
        if provider is not None:
            wanted.append(col(EntryRow.provider) == provider)
        if used_in is not None:
            wanted.append(col(EntryRow.of_month).in_([str(one) for one in used_in]))
        with self._sessions.reading() as session:
            rows = select(EntryRow).where(*wanted).order_by(col(EntryRow.seq)).limit(limit)
            return [_entry(row) for row in session.exec(rows)]

    def newest_entries(
        self,
        *,
        limit: int,
        before: int | None = None,
        month: Month | None = None,
        kind: EntryKind | None = None,
        organisation: OrganisationName | None = None,
        provider: ProviderName | None = None,
        grant: GrantName | None = None,
    ) -> Sequence[Entry]:
        """The newest first.

        Args:
            before: only entries with a lower `seq`.
            month: on whose statement they stand.
        """
        equal = {"month": month, "kind": kind, "organisation": organisation, "provider": provider, "grant_name": grant}
        wanted: list[ColumnElement[bool]] = [
            col(getattr(EntryRow, name)) == str(value) for name, value in equal.items() if value is not None
        ]
        if before is not None:
            wanted.append(col(EntryRow.seq) < before)
        with self._sessions.reading() as session:
            rows = select(EntryRow).where(*wanted).order_by(col(EntryRow.seq).desc()).limit(limit)
            return [_entry(row) for row in session.exec(rows)]

    def entry_of(self, command: str) -> Entry | None:
        """What was booked by hand under this command."""
        with self._sessions.reading() as session:
            row = session.exec(select(EntryRow).where(EntryRow.command == command)).first()
            return None if row is None else _entry(row)

    def first_month(self) -> Month | None:
        """The first one with an entry."""

        def read() -> Month | None:
            with self._sessions.reading() as session:
                found = session.exec(select(func.min(col(EntryRow.month)))).one()
                return None if found is None else Month.parse(found)

        return self._sessions.remembered(("ledger_entry",), "first month", read)

    # -- What is booked by hand

    def put_request(self, asked: AskedWon) -> None:
        with self.transaction() as session:
            session.add(
                WonRequestRow(
                    command=asked.request.command,
                    request=asked.request.model_dump(mode="json"),
                    asked_by=asked.asked_by,
                    asked_at=asked.asked_at,
                    verdict=asked.verdict,
                )
            )
            session.flush()

    def decide_request(self, command: str, verdict: Verdict, *, by: PersonId, at: datetime, why: str) -> None:
        with self.transaction() as session:
            session.execute(
                update(WonRequestRow)
                .where(col(WonRequestRow.command) == command)
                .values(verdict=verdict, decided_by=by, decided_at=at, why=why)
            )

    def request(self, command: str) -> AskedWon | None:
        with self._sessions.reading() as session:
            row = session.exec(select(WonRequestRow).where(WonRequestRow.command == command)).first()
            return None if row is None else _asked(row)

    def requests(self, verdict: Verdict = Verdict.OPEN) -> Sequence[AskedWon]:
        """Oldest first."""
        with self._sessions.reading() as session:
            rows = select(WonRequestRow).where(WonRequestRow.verdict == verdict).order_by(col(WonRequestRow.asked_at))
            return [_asked(row) for row in session.exec(rows)]

    # -- Closing

    def closed_through(self) -> Month | None:
        """The last month that is closed: so are all before."""

        def read() -> Month | None:
            with self._sessions.reading() as session:
                found = session.exec(select(func.max(col(ClosedMonthRow.month)))).one()
                return None if found is None else Month.parse(found)

        return self._sessions.remembered(("closed_month",), "closed through", read)

    def close_month(self, month: Month, heads: Sequence[StatementHead], at: datetime) -> None:
        """From here on nothing is added to the month."""
        with self.transaction() as session:
            session.add_all(_head_row(head) for head in heads)
            session.add(ClosedMonthRow(month=str(month), at=at))
            session.flush()

    def owed(self) -> Mapping[tuple[OrganisationName, ProviderName], Won]:
        """What each pair's next statement carries over. Whoever owes anything gets a statement of each month, so those
        of the month that was closed last say it."""
        closed = self.closed_through()
        heads = [] if closed is None else self.statements(month=closed)
        return {(head.organisation, head.provider): head.due for head in heads}

    def statements(
        self,
        *,
        month: Month | None = None,
        organisation: OrganisationName | None = None,
        provider: ProviderName | None = None,
    ) -> Sequence[StatementHead]:
        """Oldest month first, then by number."""
        rows = select(StatementRow).where(*_of_statements(month, organisation, provider))
        with self._sessions.reading() as session:
            found = session.exec(rows.order_by(col(StatementRow.month), col(StatementRow.number)))
            return [_head(row) for row in found]

    def newest_statements(
        self,
        *,
        limit: int,
        before: tuple[str, str] | None = None,
        month: Month | None = None,
        organisation: OrganisationName | None = None,
        provider: ProviderName | None = None,
    ) -> Sequence[StatementHead]:
        """The newest month first, then by number backwards.

        Args:
            before: month and number of the last one that is known.
        """
        asked = ("newest statements", limit, before, month, organisation, provider)
        return self._sessions.remembered(("statement",), asked, lambda: self._newest_statements(*asked[1:]))

    def _newest_statements(
        self,
        limit: int,
        before: tuple[str, str] | None,
        month: Month | None,
        organisation: OrganisationName | None,
        provider: ProviderName | None,
    ) -> Sequence[StatementHead]:
        key = tuple_(col(StatementRow.month), col(StatementRow.number))
        rows = select(StatementRow).where(*_of_statements(month, organisation, provider))
        if before is not None:
            rows = rows.where(key < tuple_(*before))
        with self._sessions.reading() as session:
            order = (col(StatementRow.month).desc(), col(StatementRow.number).desc())
            return [_head(row) for row in session.exec(rows.order_by(*order).limit(limit))]

    def statement(self, number: str) -> StatementHead:
        """
        Raises:
            NotFound: no statement has this number.
        """
        with self._sessions.reading() as session:
            row = session.exec(select(StatementRow).where(StatementRow.number == number)).first()
            if row is None:
                raise NotFound(f"No statement has the number {number!r:.40}.", way_out="List the statements.")
            return _head(row)


# -- Rows and values ---------------------------------------------------------------------------------------------------


def _of_statements(
    month: Month | None, organisation: OrganisationName | None, provider: ProviderName | None
) -> list[ColumnElement[bool]]:
    equal = {"month": month, "organisation": organisation, "provider": provider}
    return [col(getattr(StatementRow, name)) == str(value) for name, value in equal.items() if value is not None]


def _some(values: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """In portions that one query takes."""
    return (values[start : start + _AT_ONCE] for start in range(0, len(values), _AT_ONCE))


def _fields(value: UsageRecord | StatementHead) -> dict[str, Any]:
    """As `asdict`, which copies every value deeply."""
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _hundredths(percent: Decimal) -> int:
    return int(percent * 100)


def _percent(hundredths: int | None) -> Decimal:
    return WHOLE if hundredths is None else Decimal(hundredths) / 100


def _insert(session: Session, table: type[PoolTable]) -> Any:
    """INSERT with ON CONFLICT, which both databases spell alike but SQLAlchemy keeps in two places."""
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    return dialect.insert(table)


def _upsert(session: Session, table: type[PoolTable], rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        return
    statement = _insert(session, table)
    keys = [column.name for column in table.__table__.primary_key]  # type: ignore[attr-defined]
    changed = {name: statement.excluded[name] for name in rows[0] if name not in keys}
    session.exec(statement.on_conflict_do_update(index_elements=keys, set_=changed), params=list(rows))


def _by_month(place: Place) -> tuple[str, str]:
    return place.cluster, str(place.month)


def _place(cluster: str, account: str, month: str) -> Place:
    return Place(ClusterName(cluster), AccountName(account), Month.parse(month))


def _use_row(key: UseKey) -> dict[str, Any]:
    return {**key._asdict(), "month": str(key.month), "model": key.model or ""}


def _run(row: ReportedRunRow) -> UsageChange:
    record = UsageRecord(
        cluster=ClusterName(row.cluster),
        job_id=JobId(row.job_id),
        user=UserName(row.user),
        account=AccountName(row.account),
        qos=QosName(row.qos),
        partition=PartitionName(row.partition),
        model=None if row.model is None else GpuModel(row.model),
        gpus=row.gpus,
        started=row.started,
        ended=row.ended,
        gpu_seconds=row.gpu_seconds,
        state=row.state,
        nodes=row.nodes,
    )
    return UsageChange(number=row.number, record=record)


def _book_key(
    cluster: str,
    account: str,
    month: str,
    grant: str | None,
    model: str | None,
    service: str,
    fault: bool,
    rate: str | None,
    percent: int | None,
) -> BookKey:
    return BookKey(
        cluster=ClusterName(cluster),
        account=AccountName(account),
        month=Month.parse(month),
        grant=None if grant is None else GrantName(grant),
        model=None if model is None else GpuModel(model),
        service=ServiceClass(service),
        fault=bool(fault),
        rate=None if rate is None else RateName(rate),
        percent=_percent(percent),
    )


def _entry_row(entry: Entry) -> dict[str, Any]:
    used = entry.used
    return {
        "at": entry.at,
        "kind": entry.kind,
        "month": str(entry.month),
        "organisation": entry.organisation,
        "provider": entry.provider,
        "programme": entry.programme,
        "grant_name": entry.grant,
        "of_month": str(used.month) if used else None,
        "cluster": used.cluster if used else None,
        "account": used.account if used else None,
        "model": used.model if used else None,
        "service": used.service if used else None,
        "fault": used.fault if used else False,
        "rate": used.rate if used else None,
        "percent": _hundredths(used.percent) if used else None,
        **entry.amounts._asdict(),
        "refers": entry.refers,
        "reason": entry.reason,
        "asked_by": entry.asked_by,
        "approved_by": entry.approved_by,
        "command": entry.command,
    }


def _entry(row: EntryRow) -> Entry:
    used = None
    if row.cluster is not None and row.account is not None and row.of_month is not None and row.service is not None:
        used = _book_key(
            row.cluster,
            row.account,
            row.of_month,
            row.grant_name,
            row.model,
            row.service,
            row.fault,
            row.rate,
            row.percent,
        )
    return Entry(
        seq=row.seq or 0,
        at=row.at,
        kind=EntryKind(row.kind),
        month=Month.parse(row.month),
        amounts=Amounts(row.gpu_seconds, row.preempted, row.list_won, row.won),
        used=used,
        organisation=None if row.organisation is None else OrganisationName(row.organisation),
        provider=None if row.provider is None else ProviderName(row.provider),
        programme=None if row.programme is None else ProgrammeName(row.programme),
        grant=None if row.grant_name is None else GrantName(row.grant_name),
        refers=row.refers,
        reason=row.reason,
        asked_by=None if row.asked_by is None else PersonId(row.asked_by),
        approved_by=None if row.approved_by is None else PersonId(row.approved_by),
        command=row.command,
    )


def _asked(row: WonRequestRow) -> AskedWon:
    return Asked(
        request=WonRequest.model_validate(row.request),
        asked_by=PersonId(row.asked_by),
        asked_at=row.asked_at,
        verdict=Verdict(row.verdict),
        decided_by=None if row.decided_by is None else PersonId(row.decided_by),
        decided_at=row.decided_at,
        why=row.why,
    )


def _head(row: StatementRow) -> StatementHead:
    return StatementHead(
        number=row.number,
        month=Month.parse(row.month),
        organisation=OrganisationName(row.organisation),
        provider=ProviderName(row.provider),
        issued_at=row.issued_at,
        vat_percent=row.vat_percent,
        carried=Won(row.carried),
        supply=Won(row.supply),
        vat=Won(row.vat),
        paid=Won(row.paid),
        titles=Titles.model_validate(row.titles),
    )


def _head_row(head: StatementHead) -> StatementRow:
    return StatementRow(**_fields(head) | {"month": str(head.month), "titles": head.titles.model_dump(mode="json")})
