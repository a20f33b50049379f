"""What the portal said last: its documents for this site, and what of them Slurm has no room for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import date

from sqlalchemy import delete, insert, update
from sqlmodel import col, select

from slurm_gpuaas.domain.errors import Conflict
from slurm_gpuaas.domain.from_portal import PORTAL_DOCUMENTS, LeftOut, PortalSet
from slurm_gpuaas.domain.logins import LOGINS
from slurm_gpuaas.domain.names import ProjectName
from slurm_gpuaas.store.session import Sessions
from slurm_gpuaas.store.tables import PortalRefusalRow, PortalSetRow


class PortalSets:
    """Only the newest set is kept: a set is whole."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._read: PortalSet | None = None

    def newest(self) -> PortalSet | None:
        """None until the portal was first heard."""
        stamp = (col(PortalSetRow.revision), col(PortalSetRow.received_at), col(PortalSetRow.as_of))
        with self._sessions.reading() as session:
            found = session.exec(select(*stamp)).first()
            if found is None:
                return None
            known = self._read
            if known is None or (known.revision, known.received_at, known.as_of) != tuple(found):
                self._read = known = self._whole(session.exec(select(PortalSetRow)).one())
            return known

    def _whole(self, row: PortalSetRow) -> PortalSet:
        """To read thousands of documents takes a while, so it is done once."""
        return PortalSet(
            revision=row.revision,
            received_at=row.received_at,
            as_of=row.as_of,
            documents=PORTAL_DOCUMENTS.validate_python(row.documents),
            people=LOGINS.validate_python(row.people),
            unreadable=tuple(LeftOut(**one) for one in row.unreadable),
        )

    def known(self) -> tuple[int, date | None]:
        """Revision of the newest set and the day it is looked at from; 0 and None before the first."""
        with self._sessions.reading() as session:
            row = session.exec(select(col(PortalSetRow.revision), col(PortalSetRow.as_of))).first()
            return (0, None) if row is None else (row[0], row[1])

    def put(self, new: PortalSet) -> None:
        """Keep a set in place of the one before. The same one again changes nothing.

        Raises:
            Conflict: a newer one is here already.
        """
        with self._sessions.writing() as session:
            known, _ = self.known()
            if new.revision == known:
                return
            if new.revision < known:
                raise Conflict(f"Revision {known} of the portal's documents is here already; {new.revision} came late.")
            session.exec(delete(PortalSetRow))
            session.exec(
                insert(PortalSetRow),
                params=[
                    {
                        "revision": new.revision,
                        "received_at": new.received_at,
                        "as_of": new.as_of,
                        "documents": PORTAL_DOCUMENTS.dump_python(new.documents, mode="json"),
                        "people": LOGINS.dump_python(new.people, mode="json"),
                        "unreadable": [asdict(one) for one in new.unreadable],
                    }
                ],
            )

    def look_from(self, day: date) -> None:
        """Capacity is looked at from this day on; see `domain.from_portal.merged`."""
        with self._sessions.writing() as session:
            session.exec(update(PortalSetRow).values(as_of=day))

    def refused(self) -> Mapping[ProjectName, str]:
        """The portal's projects that Slurm has no room for, and why."""
        with self._sessions.reading() as session:
            rows = session.exec(select(PortalRefusalRow).order_by(col(PortalRefusalRow.project)))
            return {ProjectName(row.project): row.why for row in rows}

    def set_refused(self, refused: Mapping[ProjectName, str]) -> None:
        with self._sessions.writing() as session:
            session.exec(delete(PortalRefusalRow))
            if refused:
                rows = [{"project": project, "why": why} for project, why in refused.items()]
                session.exec(insert(PortalRefusalRow), params=rows)
