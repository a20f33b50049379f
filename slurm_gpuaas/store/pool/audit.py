"""The pool's audit trail: append only. The database itself refuses changes; `domain.audit_chain` shows whether some
were made past it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import ColumnElement, Index, insert, text
from sqlmodel import Field, Session, col, select

from slurm_gpuaas.domain.audit_chain import BEGINNING, CUT, Anchor, AuditEvent, AuditResult, Entry, Verdict, iso, link
from slurm_gpuaas.domain.audit_chain import verify as verify_chain
from slurm_gpuaas.store.columns import at_least, one_of
from slurm_gpuaas.store.pool.tables import PoolTable
from slurm_gpuaas.store.session import Sessions

AT_A_TIME: Final = 5_000
"""Rows that the verification holds in memory."""


class AuditRow(PoolTable, table=True):
    __tablename__ = "audit_entry"
    __table_args__ = (
        one_of("result", AuditResult),
        at_least("seq", 1),
        Index("ix_audit_entry_actor_seq", "actor", "seq"),
        Index("ix_audit_entry_action_seq", "action", "seq"),
        Index("ix_audit_entry_subject_seq", "subject", "seq"),
        Index("ix_audit_entry_at", "at"),
    )

    seq: int = Field(primary_key=True)
    at: str = Field(max_length=32)
    actor: str = Field(max_length=CUT.actor)
    role: str = Field(max_length=CUT.role)
    on_behalf_of: str = Field(max_length=CUT.on_behalf_of)
    action: str = Field(max_length=CUT.action)
    subject: str = Field(max_length=CUT.subject)
    reason: str = Field(max_length=CUT.reason)
    evidence: str
    source: str = Field(max_length=CUT.source)
    request: str = Field(max_length=CUT.request)
    result: str = Field(max_length=20)
    previous: str = Field(max_length=64)
    hash: str = Field(max_length=64)


_FIELDS: Final = tuple(getattr(AuditRow, name) for name in Entry._fields)


class PoolAudit:
    """Hangs on `PoolStore.audit`; `append` joins the transaction of what it records."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def append(self, *events: AuditEvent) -> None:
        with self._sessions.writing() as session:
            # Nobody else writes until the transaction ends: no entry comes between two of ours.
            last: Anchor = session.info.get(AuditRow) or self._last(session)
            entries: list[Entry] = []
            for event in events:
                entries.append(link(event, last))
                last = Anchor(entries[-1].seq, entries[-1].hash)
            if entries:
                session.execute(insert(AuditRow.metadata.tables["audit_entry"]), [entry._asdict() for entry in entries])
                session.info[AuditRow] = last

    def last(self) -> Anchor:
        """The newest entry's number and hash; `Anchor(0, BEGINNING)` of an empty trail."""
        with self._sessions.reading() as session:
            return self._last(session)

    @staticmethod
    def _last(session: Session) -> Anchor:
        found = session.execute(
            select(col(AuditRow.seq), col(AuditRow.hash)).order_by(col(AuditRow.seq).desc()).limit(1)
        ).first()
        return Anchor(found[0], found[1]) if found else Anchor(0, BEGINNING)

    def newest(
        self,
        *,
        limit: int,
        before: int | None = None,
        actor: str | None = None,
        on_behalf_of: str | None = None,
        action: str | None = None,
        subject: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        result: AuditResult | None = None,
    ) -> Sequence[Entry]:
        """The newest entries first, numbered under `before`. `action` also finds what is below it: `people` finds
        `people.invite`. `until` is not included."""
        wanted: list[ColumnElement[bool]] = []
        if before is not None:
            wanted.append(col(AuditRow.seq) < before)
        for column, value in (
            (AuditRow.actor, actor),
            (AuditRow.on_behalf_of, on_behalf_of),
            (AuditRow.subject, subject),
            (AuditRow.result, result),
        ):
            if value is not None:
                wanted.append(col(column) == value)
        if action is not None:
            # '.' and '/' follow each other in ASCII: all that begins with "people." and nothing else.
            wanted.append((col(AuditRow.action) == action) | col(AuditRow.action).between(f"{action}.", f"{action}/"))
        if since is not None:
            wanted.append(col(AuditRow.at) >= iso(since))
        if until is not None:
            wanted.append(col(AuditRow.at) < iso(until))
        with self._sessions.reading() as session:
            found = session.execute(select(*_FIELDS).where(*wanted).order_by(col(AuditRow.seq).desc()).limit(limit))
            return tuple(Entry(*row) for row in found)

    def verify(self, anchors: Iterable[Anchor] = ()) -> Verdict:
        """Recompute the whole chain; memory does not grow with it."""
        with self._sessions.reading() as session:
            return verify_chain(self._raw(session), anchors)

    @staticmethod
    def _raw(session: Session) -> Iterator[tuple[str | int, ...]]:
        # Text, not the mapped columns: no type of a database changes a value on the way.
        query = text(f"SELECT {', '.join(Entry._fields)} FROM audit_entry ORDER BY seq")  # noqa: S608
        for part in session.connection().execute(query, execution_options={"yield_per": AT_A_TIME}).partitions():
            yield from (tuple(row) for row in part)
