"""Sites of the pool: what is said to each, how much of its usage is here, and how it said it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

from sqlalchemy import JSON, BigInteger, Column, event
from sqlmodel import Field, Session, col, select

from slurm_gpuaas.domain.errors import Conflict, InvalidInput, NotFound
from slurm_gpuaas.domain.from_portal import MOST_DOCUMENTS, PORTAL_DOCUMENTS
from slurm_gpuaas.domain.logins import LOGINS, MOST_PEOPLE, Login
from slurm_gpuaas.domain.names import ClusterName, HostName, ProviderName, SiteName
from slurm_gpuaas.domain.policy import Grant, Member, Organisation, Project
from slurm_gpuaas.domain.usage import UsageChange
from slurm_gpuaas.store.columns import UtcDateTime, at_least, json_column, moment_column
from slurm_gpuaas.store.pool.tables import PoolTable
from slurm_gpuaas.store.session import Sessions


class SiteRow(PoolTable, table=True):
    """`key_number` counts the keys that the site had; `acknowledged` is the number of its newest usage here, `held` the
    revision of the documents that it said it has."""

    __tablename__ = "site"
    __table_args__ = (at_least("key_number", 1), at_least("acknowledged", 0), at_least("held", 0))

    name: str = Field(primary_key=True, max_length=30)
    cluster: str = Field(unique=True, max_length=30)
    provider: str = Field(max_length=30)
    key_number: int = 1
    acknowledged: int = Field(default=0, sa_type=BigInteger)
    held: int = Field(default=0, sa_type=BigInteger, sa_column_kwargs={"server_default": "0"})
    login_host: str | None = Field(default=None, max_length=253)
    seen_at: datetime | None = moment_column(nullable=True)


class SiteDocumentsRow(PoolTable, table=True):
    """The newest set for one site. `digest` is of documents and people."""

    __tablename__ = "site_documents"
    __table_args__ = (at_least("revision", 1),)

    site: str = Field(primary_key=True, foreign_key="site.name", max_length=30)
    revision: int = Field(sa_type=BigInteger)
    changed_at: datetime = moment_column()
    digest: str = Field(max_length=64)
    documents: list[dict[str, Any]] = json_column()
    people: list[dict[str, Any]] = json_column()


class SiteReportRow(PoolTable, table=True):
    """The newest report of one site."""

    __tablename__ = "site_report"

    site: str = Field(primary_key=True, foreign_key="site.name", max_length=30)
    sent_at: datetime = Field(sa_column=Column(UtcDateTime(), nullable=False))
    received_at: datetime = moment_column()
    report: dict[str, Any] = Field(sa_column=Column(JSON(), nullable=False))


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A cluster of the pool as the portal knows it.

    Attributes:
        held: revision of the documents that the site has by its own word; 0 = none.
        login_host: where people sign in with SSH; None = nobody has said.
        seen_at: when a request with its key last came; None = never.
    """

    name: SiteName
    cluster: ClusterName
    provider: ProviderName
    key_number: int
    acknowledged: int
    held: int
    login_host: HostName | None
    seen_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentSet:
    """What is said to a site, as JSON; revision 0 = nothing yet."""

    revision: int
    documents: Sequence[Mapping[str, Any]]
    people: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedReport:
    """`report` is an `api.pool_sites.SiteReport` as JSON. `sent_at` is the site's clock, `received_at` the portal's."""

    sent_at: datetime
    received_at: datetime
    report: Mapping[str, Any]


class UsageSink(Protocol):
    """Where usage of sites goes; the ledger has it."""

    def put(self, site: SiteName, changes: Sequence[UsageChange]) -> None:
        """Keep the records as they are since these changes, under (cluster, job id, started), within the caller's
        transaction."""
        ...


NOTHING: Final = DocumentSet(revision=0, documents=(), people=())


class Sites:
    """Safe to share between threads."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._listeners: list[Callable[[SiteName], None]] = []

    def on_documents(self, changed: Callable[[SiteName], None]) -> None:
        """From now on `changed` is called with the site after new documents for it were committed, in the thread that
        did so."""
        self._listeners.append(changed)

    # -- Sites and their keys

    def add(self, name: SiteName, *, cluster: ClusterName, provider: ProviderName) -> None:
        """Raises:
        Conflict: a site of that name or that cluster is there.
        """
        with self._sessions.writing() as session:
            taken = select(SiteRow).where((col(SiteRow.name) == name) | (col(SiteRow.cluster) == cluster))
            if (found := session.exec(taken).first()) is not None:
                raise Conflict(f"Site {found.name} with cluster {found.cluster} is there already.")
            session.add(SiteRow(name=name, cluster=cluster, provider=provider))

    def all(self) -> Sequence[Site]:
        """By name."""
        return self._sessions.remembered(("site",), "sites", self._all)

    def all_now(self) -> Sequence[Site]:
        """As `all`, with what another process has added or changed: whoever asks later sees it as well."""
        return self._sessions.anew(("site",), "sites", self._all)

    def _all(self) -> Sequence[Site]:
        with self._sessions.reading() as session:
            return tuple(map(_site, session.exec(select(SiteRow).order_by(col(SiteRow.name)))))

    def find(self, name: SiteName) -> Site | None:
        with self._sessions.reading() as session:
            row = session.get(SiteRow, name)
            return None if row is None else _site(row)

    def replace_key(self, name: SiteName) -> Site:
        """The site's key is another one from now on, made with the number in the answer.

        Raises:
            NotFound: there is no such site.
        """
        with self._sessions.writing() as session:
            row = _row(session, name)
            row.key_number += 1
            return _site(row)

    def saw(self, name: SiteName, at: datetime) -> None:
        with self._sessions.writing() as session:
            _row(session, name).seen_at = at

    def set_login_host(self, name: SiteName, host: HostName | None) -> None:
        """Raises:
        NotFound: there is no such site.
        """
        with self._sessions.writing() as session:
            _row(session, name).login_host = None if host is None else str(host)

    # -- Documents down

    def holds(self, site: SiteName, revision: int) -> None:
        """The site says that it has this revision: it asks for what is newer only after it has stored it."""
        with self._sessions.writing() as session:
            row = _row(session, site)
            if row.held != revision:
                row.held = revision

    def set_documents(
        self,
        site: SiteName,
        documents: Iterable[Organisation | Project | Member | Grant],
        people: Iterable[Login],
        *,
        at: datetime,
    ) -> int:
        """Say this to the site from now on; the answer is the set's revision. The same again, in whatever order, makes
        no new one.

        A new revision is at least the seconds since 1970, so that a store that was restored from a backup gives none of
        those again that it gave after the backup: the site would take it for the set that it has.

        Raises:
            NotFound: there is no such site.
            InvalidInput: it is more than a site takes.
        """
        said = PORTAL_DOCUMENTS.dump_python(tuple(documents), mode="json")
        logins = LOGINS.dump_python(tuple(people), mode="json")
        if len(said) > MOST_DOCUMENTS or len(logins) > MOST_PEOPLE:
            raise InvalidInput(f"{len(said)} documents and {len(logins)} people are more than site {site} takes.")
        parts = sorted(json.dumps(one, sort_keys=True) for one in (*said, *logins))
        digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()
        with self._sessions.writing() as session:
            _row(session, site)
            row = session.get(SiteDocumentsRow, site)
            if row is not None and row.digest == digest:
                return row.revision
            revision = max(int(at.timestamp()), 1 if row is None else row.revision + 1)
            session.merge(
                SiteDocumentsRow(
                    site=site, revision=revision, changed_at=at, digest=digest, documents=said, people=logins
                )
            )
            self._tell(session, site)
            return revision

    def documents(self, site: SiteName) -> DocumentSet:
        with self._sessions.reading() as session:
            row = session.get(SiteDocumentsRow, site)
            if row is None:
                return NOTHING
            return DocumentSet(revision=row.revision, documents=row.documents, people=row.people)

    def revision(self, site: SiteName) -> int:
        """Of what is said to the site; 0 = nothing yet."""
        return self._sessions.remembered(("site_documents",), ("revision for", site), lambda: self._revision(site))

    def _revision(self, site: SiteName) -> int:
        with self._sessions.reading() as session:
            wanted = select(col(SiteDocumentsRow.revision)).where(col(SiteDocumentsRow.site) == site)
            return session.exec(wanted).first() or 0

    def outgrow(self, site: SiteName, revision: int) -> None:
        """The site holds a revision that was never made here, since this store was restored from a backup: what it is
        told here goes to it under a greater one."""
        with self._sessions.writing() as session:
            row = session.get(SiteDocumentsRow, site)
            if row is not None and row.revision < revision:
                row.revision = revision + 1
                self._tell(session, site)

    def _tell(self, session: Session, site: SiteName) -> None:
        def committed(_session: object) -> None:
            for changed in self._listeners:
                changed(site)

        event.listen(session, "after_commit", committed, once=True)

    # -- Usage and reports up

    def take_usage(self, site: SiteName, *, after: int, changes: Sequence[UsageChange], sink: UsageSink) -> int:
        """Hand what is new to the sink and move on, in one transaction; the answer is what is acknowledged now.

        Args:
            after: what the site took for acknowledged. Is it more than is here (this store was restored from a backup),
                nothing is taken, and the site goes back to what is.
            changes: ascending by number. Those up to what is acknowledged came before.

        Raises:
            NotFound: there is no such site.
        """
        with self._sessions.writing() as session:
            row = session.get(SiteRow, site, with_for_update=True)
            if row is None:
                raise _no_site(site)
            if after > row.acknowledged:
                return row.acknowledged
            fresh = [change for change in changes if change.number > row.acknowledged]
            if fresh:
                sink.put(site, fresh)
                row.acknowledged = fresh[-1].number
            return row.acknowledged

    def put_report(
        self, site: SiteName, report: Mapping[str, Any], *, sent_at: datetime, received_at: datetime
    ) -> None:
        """Keep a report, unless one that was sent later is here."""
        with self._sessions.writing() as session:
            _row(session, site)
            known = session.get(SiteReportRow, site)
            if known is None or known.sent_at < sent_at:
                session.merge(SiteReportRow(site=site, sent_at=sent_at, received_at=received_at, report=dict(report)))

    def report(self, site: SiteName) -> ReceivedReport | None:
        """None until the first one came."""
        (found,) = self._sessions.remembered(("site_report",), ("report of", site), lambda: (self._report(site),))
        return found

    def _report(self, site: SiteName) -> ReceivedReport | None:
        with self._sessions.reading() as session:
            row = session.get(SiteReportRow, site)
            if row is None:
                return None
            return ReceivedReport(sent_at=row.sent_at, received_at=row.received_at, report=row.report)


def _row(session: Session, name: SiteName) -> SiteRow:
    row = session.get(SiteRow, name)
    if row is None:
        raise _no_site(name)
    return row


def _no_site(name: SiteName) -> NotFound:
    return NotFound(f"There is no site {name}.", way_out="Add it: gpuaas-portal site add.")


def _site(row: SiteRow) -> Site:
    return Site(
        name=SiteName(row.name),
        cluster=ClusterName(row.cluster),
        provider=ProviderName(row.provider),
        key_number=row.key_number,
        acknowledged=row.acknowledged,
        held=row.held,
        login_host=None if row.login_host is None else HostName(row.login_host),
        seen_at=row.seen_at,
    )
