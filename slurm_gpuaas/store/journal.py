"""The effect journal: what we were about to do to the outside world, and whether we saw it done.

An effect is written down before it starts and closed after it ended. One that is still open when the next run begins
was cut off by a crash: nobody knows whether it reached Slurm. Controllers never replay it; they observe again, and
close it as interrupted. See docs/design/0003-crash-safe-effects.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NewType

from sqlmodel import col, select, update

from slurm_gpuaas.store.session import Sessions
from slurm_gpuaas.store.tables import EffectRow

EffectId = NewType("EffectId", int)
Outcome = Literal["open", "done", "failed", "interrupted"]
Detail = Mapping[str, str | int | float | bool | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    id: EffectId
    controller: str
    kind: str
    subject: str
    detail: Detail
    intended_at: datetime
    ended_at: datetime | None
    outcome: Outcome


class Journal:
    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def intend(
        self, *, controller: str, kind: str, subject: str, at: datetime, detail: Detail | None = None
    ) -> EffectId:
        """Write down an effect before it starts; it is on disk when this returns."""
        with self._sessions.writing() as session:
            row = EffectRow(
                controller=controller,
                kind=kind,
                subject=subject,
                detail=dict(detail or {}),
                intended_at=at,
                outcome="open",
            )
            session.add(row)
            session.flush()
            assert row.id is not None  # assigned by the flush
            return EffectId(row.id)

    def close(self, effect: EffectId, *, outcome: Literal["done", "failed"], at: datetime) -> None:
        with self._sessions.writing() as session:
            session.exec(update(EffectRow).where(col(EffectRow.id) == effect).values(outcome=outcome, ended_at=at))

    def interrupt(self, controller: str, *, at: datetime) -> Sequence[Effect]:
        """Close what a crash left open and return it. Only the leader may call it."""
        with self._sessions.writing() as session:
            rows = session.exec(
                select(EffectRow).where(EffectRow.controller == controller, EffectRow.outcome == "open")
            ).all()
            for row in rows:
                row.outcome, row.ended_at = "interrupted", at
            return tuple(_effect(row) for row in rows)

    def newest(self, controller: str, *, limit: int = 100) -> Sequence[Effect]:
        with self._sessions.reading() as session:
            rows = session.exec(
                select(EffectRow)
                .where(EffectRow.controller == controller)
                .order_by(col(EffectRow.id).desc())
                .limit(limit)
            )
            return tuple(_effect(row) for row in rows)


def _effect(row: EffectRow) -> Effect:
    assert row.id is not None  # rows that were read have one
    return Effect(
        id=EffectId(row.id),
        controller=row.controller,
        kind=row.kind,
        subject=row.subject,
        detail=row.detail,
        intended_at=row.intended_at,
        ended_at=row.ended_at,
        outcome=row.outcome,  # type: ignore[arg-type]  # the CHECK constraint holds it
    )
