"""The pool's register: programmes, organisations, applications, awards, grants, and what is committed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import Enum
from functools import cache
from typing import Any, Final, Generic, TypeVar

from pydantic import JsonValue
from sqlalchemy import (
    ColumnElement,
    Executable,
    Row,
    Table,
    Text,
    bindparam,
    delete,
    func,
    type_coerce,
    update,
)
from sqlalchemy import insert as sql_insert
from sqlalchemy import select as sql_select
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col, select

from slurm_gpuaas.domain.applications import Application, ApplicationDraft, Review
from slurm_gpuaas.domain.calendar import Commitment, cut, from_day, room
from slurm_gpuaas.domain.errors import Conflict, NotFound
from slurm_gpuaas.domain.idle import IdleAppeal, IdleExemption, IdleStanding, IdleStep
from slurm_gpuaas.domain.leases import Lease
from slurm_gpuaas.domain.names import ClusterName, CommandId, PersonId, PoolShareName
from slurm_gpuaas.domain.pool_grants import Award, GrantChange, Hold, Offer, PoolGrant
from slurm_gpuaas.domain.programmes import Membership, PoolOrganisation, PoolShare, Programme, UnixIdentity
from slurm_gpuaas.domain.stages import Noun
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.store.pool.idle import (
    GrantDays,
    IdleAppealRow,
    IdleExemptionRow,
    IdleRuleSets,
    IdleStandingRow,
    IdleStepRow,
    LeaseRow,
)
from slurm_gpuaas.store.pool.register_tables import (
    ApplicationDraftRow,
    ApplicationRow,
    AwardRow,
    CommitmentRow,
    CounterRow,
    DoneCommandRow,
    GrantChangeRow,
    HoldRow,
    MailRow,
    MembershipRow,
    OfferRow,
    OrganisationRow,
    PoolGrantRow,
    PoolShareRow,
    ProgrammeRow,
    ReviewRow,
    SiteRevisionRow,
    UnixIdentityRow,
)
from slurm_gpuaas.store.pool.tables import PoolTable
from slurm_gpuaas.store.session import Sessions

M = TypeVar("M", bound=Noun)
_COMMITMENTS: Final = PoolTable.metadata.tables["commitment"]
_AT_ONCE: Final = 500
"""Values of one query; SQLite takes a few thousand."""


class _Kept(Generic[M]):
    """All rows of a shelf at one moment, in the order of their keys; `by` finds those of a column's value."""

    def __init__(self, rows: Mapping[tuple[object, ...], tuple[Sequence[object], M]], columns: Sequence[str]) -> None:
        self.rows = rows
        self.nouns = tuple(noun for _, noun in rows.values())
        self._columns = columns
        self._found: dict[str, Mapping[object, Sequence[int]]] = {}

    def by(self, name: str) -> Mapping[object, Sequence[int]]:
        """Places of nouns by a column's value."""
        if name not in self._found:
            place = self._columns.index(name)
            found: dict[object, list[int]] = {}
            for at, (raw, _) in enumerate(self.rows.values()):
                found.setdefault(raw[place], []).append(at)
            self._found[name] = found
        return self._found[name]

    def those(self, columns: Mapping[str, str | Sequence[str]]) -> tuple[M, ...]:
        places: set[int] | None = None
        for name, value in columns.items():
            wanted = [value] if isinstance(value, str) else value
            some = {at for one in wanted for at in self.by(name).get(str(one), ())}
            places = some if places is None else places & some
        return self.nouns if places is None else tuple(self.nouns[at] for at in sorted(places))


class Shelf(Generic[M]):
    """All nouns of one kind, found by the columns of their table; fields without a column are in its `body`.

    They are kept as they were read: making a noun from its row costs a hundred times as much as looking at it."""

    def __init__(self, sessions: Sessions, noun: type[M], table: type[PoolTable]) -> None:
        self._sessions = sessions
        self._noun = noun
        self._rows: Final = _rows(table)
        self._name: Final = self._rows.name
        self._key: Final = tuple(self._rows.primary_key)
        self._columns: Final = tuple(column.name for column in self._rows.columns if column.name != "body")
        self._fields: Final = tuple(name for name in self._columns if name in noun.model_fields)
        self._has_body: Final = "body" in self._rows.columns
        self._last: Mapping[tuple[object, ...], tuple[Sequence[object], M]] = {}
        self._one: Final = sql_select(self._rows).where(*(column == bindparam(column.name) for column in self._key))

    def get(self, *key: str) -> M:
        """
        Raises:
            NotFound: there is none of that key.
        """
        found = self.find(*key)
        if found is None:
            raise NotFound(
                told("There is no {kind} {key}.", kind=self._name.replace("_", " "), key="/".join(key)),
                way_out=told("Check the number or name."),
            )
        return found

    def find(self, *key: str) -> M | None:
        """Within a transaction each is read once."""
        if not self._sessions.joined:
            kept = self._kept().rows.get(tuple(str(part) for part in key))
            return None if kept is None else kept[1]
        with self._sessions.reading() as session:
            found: dict[tuple[str, ...], M] = session.info.setdefault(self._name, {})
            if key not in found:
                wanted = {column.name: str(part) for column, part in zip(self._key, key, strict=True)}
                row = session.execute(self._one, wanted).one_or_none()
                if row is None:
                    return None
                found[key] = self._read(row)
            return found[key]

    def all(self, **columns: str | Sequence[str]) -> tuple[M, ...]:
        """Those whose columns have these values (or one of them), in the order of their keys."""
        if not self._sessions.joined:
            return self._kept().those(columns)
        wanted = [
            self._rows.c[name] == str(value) if isinstance(value, str) else self._rows.c[name].in_(map(str, value))
            for name, value in columns.items()
        ]
        query = sql_select(self._rows).where(*wanted).order_by(*self._key)
        with self._sessions.reading() as session:
            return tuple(self._read(row) for row in session.execute(query))

    def _kept(self) -> _Kept[M]:
        return self._sessions.remembered((self._name,), self._name, self._keep)

    def _keep(self) -> _Kept[M]:
        """All rows; nouns of rows that are as they were the last time are taken over."""
        columns = self._rows.columns
        # The body as text: only what has changed is parsed.
        plain = [type_coerce(one, Text).label(one.name) if one.name == "body" else one for one in columns]
        before, rows = self._last, {}
        with self._sessions.reading() as session:
            for raw in session.execute(sql_select(*plain).order_by(*self._key)):
                key = tuple(raw._mapping[column.name] for column in self._key)
                known = before.get(key)
                rows[key] = known if known is not None and known[0] == raw else (raw, self._made_from(raw))
        self._last = rows
        return _Kept(rows, [column.name for column in columns])

    def _made_from(self, raw: Row[Any]) -> M:
        columns = raw._mapping
        fields = {name: columns[name] for name in self._fields}
        if not self._has_body:
            return self._noun.model_validate(fields)
        body = columns["body"]  # PostgreSQL's driver has parsed it already
        return self._noun.model_validate(fields | (json.loads(body) if isinstance(body, str) else body))

    def put(self, noun: M) -> None:
        """Add it, or replace the one of that key."""
        values: dict[str, Any] = {name: _plain(getattr(noun, name)) for name in self._columns}
        if self._has_body:
            values["body"] = noun.model_dump(mode="json", exclude=set(self._columns))
        with self._sessions.writing() as session:
            _put(session, self._rows, values)
            self._forget(session, tuple(values[column.name] for column in self._key))

    def remove(self, *key: str) -> None:
        with self._sessions.writing() as session:
            session.execute(
                delete(self._rows).where(*(column == str(part) for column, part in zip(self._key, key, strict=True)))
            )
            self._forget(session, key)

    def _forget(self, session: Session, key: tuple[str, ...]) -> None:
        session.info.get(self._name, {}).pop(key, None)

    def _read(self, row: Row[Any]) -> M:
        columns = row._mapping
        fields = {name: columns[name] for name in self._fields}
        return self._noun.model_validate(fields | columns["body"] if self._has_body else fields)


def _rows(table: type[PoolTable]) -> Table:
    return table.metadata.tables[str(table.__tablename__)]


def _put(session: Session, rows: Table, values: Mapping[str, Any]) -> None:
    """Add the row, or replace the one of its key. One statement, past the ORM: a round of awards writes thousands."""
    session.execute(_upsert(rows, session.get_bind().dialect.name), values)


@cache
def _upsert(rows: Table, dialect: str) -> Executable:
    insert = postgresql.insert(rows) if dialect == "postgresql" else sqlite.insert(rows)
    keys = [column.name for column in rows.primary_key]
    changed = {column.name: insert.excluded[column.name] for column in rows.columns if column.name not in keys}
    return insert.on_conflict_do_update(index_elements=keys, set_=changed)


def _plain(value: object) -> object:
    return value.value if isinstance(value, Enum) else str(value) if isinstance(value, str) else value


class Calendar:
    """Rows of the calendar. `hold` is the only thing that changes them, and it checks."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def of_share(self, share: PoolShareName, *, since: date | None = None) -> tuple[Commitment, ...]:
        """What the share has promised that is not over before `since`; past days as well for None."""
        wanted = [col(CommitmentRow.share) == share]
        if since is not None:
            wanted.append(col(CommitmentRow.ends) >= since)
        with self._sessions.reading() as session:
            return _commitments(session, *wanted)

    def of_holder(self, holder: str) -> tuple[Commitment, ...]:
        with self._sessions.reading() as session:
            return _commitments(session, col(CommitmentRow.holder) == holder)

    def of_holders(self, holders: Sequence[str]) -> Mapping[str, tuple[Commitment, ...]]:
        """The rows of each of them, past ones too."""
        found: dict[str, list[Commitment]] = {holder: [] for holder in holders}
        with self._sessions.reading() as session:
            for start in range(0, len(holders), _AT_ONCE):
                for row in _commitments(session, col(CommitmentRow.holder).in_(holders[start : start + _AT_ONCE])):
                    found[row.holder].append(row)
        return {holder: tuple(rows) for holder, rows in found.items()}

    def hold(self, holder: str, wanted: Commitment | None, *, since: date) -> None:
        """From the day `since` on the holder has what is wanted, or nothing. What it held before that day stays.

        Raises:
            Conflict: the share has no room for it on some day.
        """
        with self._sessions.writing() as session:
            before = _commitments(session, col(CommitmentRow.holder) == holder)
            new = () if wanted is None else from_day([wanted], since)
            if from_day(before, since) == new:
                return
            if before:
                session.execute(delete(_COMMITMENTS).where(_COMMITMENTS.c.holder == holder))
            for one in new:
                self._check(session, one)
            rows = [
                {
                    "holder": one.holder,
                    "share": str(one.share),
                    "gpus": one.gpus,
                    "starts": one.starts,
                    "ends": one.ends,
                }
                for one in (*cut(before, since), *new)
            ]
            if rows:
                session.execute(sql_insert(_COMMITMENTS), rows)

    def _check(self, session: Session, new: Commitment) -> None:
        shares = _rows(PoolShareRow)
        capacity = session.execute(sql_select(shares.c.capacity).where(shares.c.name == str(new.share))).scalar_one()
        left = room(capacity, self.of_share(new.share, since=new.starts), new.starts, new.ends)
        if new.gpus > left:
            raise Conflict(
                told(
                    "Share {share} has {left} GPUs left from {starts} to {ends}; {gpus} are needed.",
                    share=new.share,
                    left=left,
                    starts=new.starts,
                    ends=new.ends,
                    gpus=new.gpus,
                ),
                way_out=told("Choose fewer GPUs, other days or another share."),
            )


def _commitments(session: Session, *wanted: ColumnElement[bool]) -> tuple[Commitment, ...]:
    row = _COMMITMENTS.c
    query = sql_select(row.holder, row.share, row.gpus, row.starts, row.ends).where(*wanted).order_by(row.number)
    return tuple(
        Commitment(holder=holder, share=PoolShareName.as_slurm_says(share), gpus=gpus, starts=starts, ends=ends)
        for holder, share, gpus, starts, ends in session.execute(query)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenMail:
    """Written in the reader's language when it is sent: `template` names the text, `parts` go into it.

    Attributes:
        sent_at: when a mail server took it.
        try_at: when it is tried next; None once it was sent or given up.
        tries, fault: how often it was tried in vain, and why the last time.
    """

    number: int
    to: PersonId
    template: str
    parts: Mapping[str, JsonValue]
    written_at: datetime
    sent_at: datetime | None = None
    try_at: datetime | None = None
    tries: int = 0
    fault: str = ""


@dataclass(frozen=True, slots=True)
class MailCounts:
    """Of mails that no server has taken: those that wait for their first try, for another one, and those given up."""

    waiting: int
    failing: int
    given_up: int


class Outbox:
    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def put(self, to: PersonId, template: str, parts: Mapping[str, JsonValue], *, at: datetime) -> None:
        with self._sessions.writing() as session:
            session.execute(
                sql_insert(_rows(MailRow)),
                {"to": str(to), "template": template, "parts": dict(parts), "written_at": at, "try_at": at},
            )

    def unsent(self, *, limit: int = 100) -> tuple[WrittenMail, ...]:
        """The oldest first."""
        query = select(MailRow).where(col(MailRow.sent_at).is_(None)).order_by(col(MailRow.number)).limit(limit)
        with self._sessions.reading() as session:
            return tuple(map(_mail, session.exec(query)))

    def due(self, now: datetime, *, limit: int) -> tuple[WrittenMail, ...]:
        """Those to be tried now, the oldest first."""
        query = select(MailRow).where(col(MailRow.try_at) <= now).order_by(col(MailRow.number)).limit(limit)
        with self._sessions.reading() as session:
            return tuple(map(_mail, session.exec(query)))

    def to(self, person: PersonId, *, before: int | None = None, limit: int) -> tuple[WrittenMail, ...]:
        """A person's, the newest first; `before`: older than the mail of that number."""
        query = select(MailRow).where(col(MailRow.to) == str(person))
        if before is not None:
            query = query.where(col(MailRow.number) < before)
        with self._sessions.reading() as session:
            return tuple(map(_mail, session.exec(query.order_by(col(MailRow.number).desc()).limit(limit))))

    def sent(self, number: int, *, at: datetime) -> None:
        """Say it after the server has taken the mail: a mail may be sent twice after a crash, never not at all."""
        self._set(number, sent_at=at, try_at=None, fault="")

    def failed(self, number: int, fault: str, *, tries: int, try_at: datetime | None) -> None:
        """It was not sent; `try_at` None: it is given up."""
        self._set(number, fault=fault[:300], tries=tries, try_at=try_at)

    def _set(self, number: int, **values: object) -> None:
        with self._sessions.writing() as session:
            session.execute(update(MailRow).where(col(MailRow.number) == number).values(**values))

    def counts(self) -> MailCounts:
        row = PoolTable.metadata.tables["mail"].c
        waits = row.try_at.is_not(None)
        query = sql_select(
            func.count().filter(waits, row.tries == 0), func.count().filter(waits, row.tries > 0), func.count()
        ).where(row.sent_at.is_(None))
        with self._sessions.reading() as session:
            waiting, failing, every = session.execute(query).one()
            return MailCounts(waiting, failing, every - waiting - failing)


def _mail(row: MailRow) -> WrittenMail:
    assert row.number is not None
    return WrittenMail(
        number=row.number,
        to=PersonId(row.to),
        template=row.template,
        parts=row.parts,
        written_at=row.written_at,
        sent_at=row.sent_at,
        try_at=row.try_at,
        tries=row.tries,
        fault=row.fault,
    )


@dataclass(frozen=True, slots=True)
class DoneCommand:
    asked: str
    answer: dict[str, JsonValue]


class Register:
    """One attribute for each kind of noun."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self.shares = Shelf(sessions, PoolShare, PoolShareRow)
        self.programmes = Shelf(sessions, Programme, ProgrammeRow)
        self.organisations = Shelf(sessions, PoolOrganisation, OrganisationRow)
        self.memberships = Shelf(sessions, Membership, MembershipRow)
        self.identities = Shelf(sessions, UnixIdentity, UnixIdentityRow)
        self.drafts = Shelf(sessions, ApplicationDraft, ApplicationDraftRow)
        self.applications = Shelf(sessions, Application, ApplicationRow)
        self.reviews = Shelf(sessions, Review, ReviewRow)
        self.awards = Shelf(sessions, Award, AwardRow)
        self.offers = Shelf(sessions, Offer, OfferRow)
        self.grants = Shelf(sessions, PoolGrant, PoolGrantRow)
        self.changes = Shelf(sessions, GrantChange, GrantChangeRow)
        self.holds = Shelf(sessions, Hold, HoldRow)
        self.standings = Shelf(sessions, IdleStanding, IdleStandingRow)
        self.idle_steps = Shelf(sessions, IdleStep, IdleStepRow)
        self.exemptions = Shelf(sessions, IdleExemption, IdleExemptionRow)
        self.appeals = Shelf(sessions, IdleAppeal, IdleAppealRow)
        self.leases = Shelf(sessions, Lease, LeaseRow)
        self.days = GrantDays(sessions)
        self.idle_rules = IdleRuleSets(sessions)
        self.calendar = Calendar(sessions)
        self.outbox = Outbox(sessions)

    def next_number(self, name: str) -> int:
        """1, 2, 3, ... without gaps: a number of a transaction that fails is given again."""
        with self._sessions.writing() as session:
            return _raised(session, _rows(CounterRow), name, "last")

    def revision(self, cluster: ClusterName) -> int:
        """Of the documents of a site; 0 before the first change."""
        name = ("revision of", str(cluster))
        return self._sessions.remembered(("site_revision",), name, lambda: self._revision(cluster))

    def _revision(self, cluster: ClusterName) -> int:
        with self._sessions.reading() as session:
            row = session.get(SiteRevisionRow, str(cluster))
            return 0 if row is None else row.revision

    def raise_revision(self, cluster: ClusterName) -> None:
        with self._sessions.writing() as session:
            _raised(session, _rows(SiteRevisionRow), str(cluster), "revision")

    def done_command(self, command: CommandId) -> DoneCommand | None:
        with self._sessions.reading() as session:
            row = session.get(DoneCommandRow, str(command))
            return None if row is None else DoneCommand(row.asked, row.answer)

    def put_done_command(self, command: CommandId, done: DoneCommand, *, at: datetime) -> None:
        with self._sessions.writing() as session:
            session.execute(
                sql_insert(_rows(DoneCommandRow)),
                {"id": str(command), "asked": done.asked, "answer": done.answer, "at": at},
            )


def _raised(session: Session, rows: Table, key: str, column: str) -> int:
    """One more than before, from 1 on."""
    (name,) = rows.primary_key
    query = sql_select(rows.c[column]).where(name == key).with_for_update()
    number = int(session.execute(query).scalar_one_or_none() or 0) + 1
    _put(session, rows, {name.name: key, column: number})
    return number
