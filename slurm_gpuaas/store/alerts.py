"""Alerts, and which channel was told what of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import delete
from sqlmodel import col, select

from slurm_gpuaas.domain.alerts import Alert
from slurm_gpuaas.store.session import Sessions
from slurm_gpuaas.store.tables import AlertRow


class Alerts:
    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def all(self) -> Sequence[Alert]:
        """By key; those that are resolved and told of are deleted, so they are few."""
        with self._sessions.reading() as session:
            rows = session.exec(select(AlertRow).order_by(col(AlertRow.key)))
            return tuple(Alert.model_validate(row.model_dump(exclude={"key", "kind"})) for row in rows)

    def put(self, alerts: Iterable[Alert], *, done_with: Iterable[str] = ()) -> None:
        """Keep alerts, one a key, and delete those of the keys `done_with`."""
        with self._sessions.writing() as session:
            for alert in alerts:
                session.merge(
                    AlertRow(
                        key=alert.condition.key,
                        kind=alert.condition.kind,
                        condition=alert.condition.model_dump(mode="json"),
                        raised_at=alert.raised_at,
                        resolved_at=alert.resolved_at,
                        told={channel: told.model_dump(mode="json") for channel, told in alert.told.items()},
                    )
                )
            session.exec(delete(AlertRow).where(col(AlertRow.key).in_(list(done_with))))
