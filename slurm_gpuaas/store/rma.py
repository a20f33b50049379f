"""The RMA ledger's cases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import ColumnElement
from sqlmodel import col, select

from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.rma import RmaCase, RmaState
from slurm_gpuaas.store.session import Sessions
from slurm_gpuaas.store.tables import RmaCaseRow


class RmaCases:
    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def put(self, case: RmaCase) -> None:
        """Create it, or replace the one of that id."""
        row = case.model_dump() | {"notes": [note.model_dump(mode="json") for note in case.notes]}
        with self._sessions.writing() as session:
            session.merge(RmaCaseRow(**row))

    def get(self, case_id: str) -> RmaCase | None:
        with self._sessions.reading() as session:
            row = session.get(RmaCaseRow, case_id)
            return None if row is None else RmaCase.model_validate(row.model_dump())

    def find(
        self,
        *,
        states: Iterable[RmaState] | None = None,
        node: NodeName | None = None,
        serial: str | None = None,
        limit: int = 10_000,
    ) -> Sequence[RmaCase]:
        """The newest cases first."""
        wanted: list[ColumnElement[bool]] = []
        if states is not None:
            wanted.append(col(RmaCaseRow.state).in_([state.value for state in states]))
        if node is not None:
            wanted.append(col(RmaCaseRow.node) == node)
        if serial is not None:
            wanted.append(col(RmaCaseRow.serial) == serial)
        newest = (col(RmaCaseRow.opened_at).desc(), col(RmaCaseRow.id))
        with self._sessions.reading() as session:
            rows = session.exec(select(RmaCaseRow).where(*wanted).order_by(*newest).limit(limit))
            return tuple(RmaCase.model_validate(row.model_dump()) for row in rows)
