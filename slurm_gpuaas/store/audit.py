"""The audit trail: append only."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, insert
from sqlmodel import col, select

from slurm_gpuaas.domain.audit import AuditEntry
from slurm_gpuaas.store.session import Sessions
from slurm_gpuaas.store.tables import AuditRow


class AuditTrail:
    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def append(self, *entries: AuditEntry) -> None:
        if not entries:
            return
        with self._sessions.writing() as session:
            session.exec(
                insert(AuditRow),
                params=[
                    {
                        "at": entry.at,
                        "actor": entry.actor,
                        "action": entry.action,
                        "subject": entry.subject,
                        "reason": entry.reason,
                        "evidence": dict(entry.evidence),
                    }
                    for entry in entries
                ],
            )

    def newest(
        self,
        *,
        limit: int = 100,
        actor: str | None = None,
        action: str | None = None,
        subject: str | None = None,
        since: datetime | None = None,
    ) -> Sequence[AuditEntry]:
        """The newest entries first. `action` also matches what is below it: `policy` finds `policy.apply`."""
        wanted: list[ColumnElement[bool]] = []
        if actor is not None:
            wanted.append(col(AuditRow.actor) == actor)
        if action is not None:
            wanted.append(
                (col(AuditRow.action) == action) | col(AuditRow.action).startswith(f"{action}.", autoescape=True)
            )
        if subject is not None:
            wanted.append(col(AuditRow.subject) == subject)
        if since is not None:
            wanted.append(col(AuditRow.at) >= since)
        with self._sessions.reading() as session:
            rows = session.exec(select(AuditRow).where(*wanted).order_by(col(AuditRow.id).desc()).limit(limit))
            return tuple(
                AuditEntry(
                    at=row.at,
                    actor=row.actor,
                    action=row.action,
                    subject=row.subject,
                    reason=row.reason,
                    evidence=row.evidence,
                )
                for row in rows
            )
