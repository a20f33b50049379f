"""People of the portal, their sessions and the tokens of their programs. Secrets are never here: passwords as argon2
hashes, numbers of sessions, tokens and invitations as SHA-256."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import CheckConstraint, ColumnElement, UniqueConstraint, bindparam, delete, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Field, Session, col, select

from slurm_gpuaas.domain.accounts import (
    ApiToken,
    ChangeState,
    Language,
    Office,
    OfficeChange,
    Person,
    PersonState,
    PortalSession,
    RoleSource,
)
from slurm_gpuaas.domain.errors import Conflict, NotFound
from slurm_gpuaas.domain.names import OrganisationName, PersonId, ProviderName, UserName
from slurm_gpuaas.domain.people import PortalRole
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.store.columns import at_least, json_column, moment_column, number_column, one_of
from slurm_gpuaas.store.pool.tables import PoolTable
from slurm_gpuaas.store.session import Sessions

_OFFICE = "(role IN ('tenant-admin', 'researcher')) = (organisation IS NOT NULL)"
_SESSION_FROM: Final = ("portal_session", "person")
_TOKEN_FROM: Final = ("api_token", "person")
_AT_PROVIDER = "(role IN ('provider-operator', 'provider-billing')) = (provider IS NOT NULL)"


class PersonRow(PoolTable, table=True):
    __tablename__ = "person"
    __table_args__ = (
        one_of("role", PortalRole),
        one_of("state", PersonState),
        one_of("role_from", RoleSource),
        at_least("failures", 0),
        CheckConstraint(_OFFICE, name="office"),
        CheckConstraint(_AT_PROVIDER, name="at_provider"),
        UniqueConstraint("issuer", "subject"),
    )

    id: str = Field(primary_key=True, max_length=22)
    name: str = Field(max_length=200)
    email: str = Field(max_length=254, index=True)
    role: str = Field(max_length=20)
    organisation: str | None = Field(default=None, max_length=30, index=True)
    provider: str | None = Field(default=None, max_length=30, index=True)
    state: str = Field(max_length=20)
    role_from: str = Field(max_length=20)
    created_at: datetime = moment_column()
    language: str | None = Field(default=None, max_length=2)
    login: str | None = Field(default=None, max_length=32, unique=True)
    password_hash: str | None = Field(default=None, max_length=255)
    failures: int = 0
    locked_until: datetime | None = moment_column(nullable=True)
    issuer: str | None = Field(default=None, max_length=300)
    subject: str | None = Field(default=None, max_length=255)
    invitation: str | None = Field(default=None, max_length=64, unique=True)
    invitation_ends: datetime | None = moment_column(nullable=True)


class PortalSessionRow(PoolTable, table=True):
    __tablename__ = "portal_session"

    digest: str = Field(primary_key=True, max_length=64)
    person: str = Field(foreign_key="person.id", max_length=22, index=True)
    created_at: datetime = moment_column()
    seen_at: datetime = moment_column()
    address: str = Field(max_length=64)
    browser: str = Field(max_length=200)
    issuer: str = Field(max_length=300)
    subject: str = Field(max_length=255)
    sid: str = Field(max_length=255)


class SignInFlowRow(PoolTable, table=True):
    """A sign-in that is at the identity provider now."""

    __tablename__ = "sign_in_flow"

    digest: str = Field(primary_key=True, max_length=64)
    browser_digest: str = Field(max_length=64)
    nonce: str = Field(max_length=64)
    verifier: str = Field(max_length=128)
    back_to: str = Field(max_length=500)
    created_at: datetime = moment_column()


class ApiTokenRow(PoolTable, table=True):
    __tablename__ = "api_token"

    id: str = Field(primary_key=True, max_length=20)
    digest: str = Field(max_length=64, unique=True)
    person: str = Field(foreign_key="person.id", max_length=22, index=True)
    name: str = Field(max_length=100)
    scopes: list[str] = json_column()
    created_at: datetime = moment_column()
    expires_at: datetime = moment_column()
    used_at: datetime | None = moment_column(nullable=True)
    revoked_at: datetime | None = moment_column(nullable=True)


# What every visit asks for, put together once: that costs as much as asking.
_SESSION_OF: Final = (
    select(PortalSessionRow, PersonRow)
    .join(PersonRow, col(PersonRow.id) == col(PortalSessionRow.person))
    .where(col(PortalSessionRow.digest) == bindparam("digest"))
)
_SESSIONS_OF: Final = (
    select(PortalSessionRow)
    .where(col(PortalSessionRow.person) == bindparam("person"))
    .order_by(col(PortalSessionRow.seen_at).desc(), col(PortalSessionRow.digest))
)
_TOKEN_OF: Final = (
    select(ApiTokenRow, PersonRow)
    .join(PersonRow, col(PersonRow.id) == col(ApiTokenRow.person))
    .where(col(ApiTokenRow.digest) == bindparam("digest"))
)
_TOKENS_OF: Final = (
    select(ApiTokenRow)
    .where(col(ApiTokenRow.person) == bindparam("person"))
    .order_by(col(ApiTokenRow.created_at).desc(), col(ApiTokenRow.id))
)


class OfficeChangeRow(PoolTable, table=True):
    """A change of a person's role; who asks never decides."""

    __tablename__ = "office_change"
    __table_args__ = (
        one_of("role", PortalRole),
        one_of("state", ChangeState),
        CheckConstraint(_OFFICE, name="office"),
        CheckConstraint(_AT_PROVIDER, name="at_provider"),
        CheckConstraint("state NOT IN ('approved', 'refused') OR decided_by <> asked_by", name="two_people"),
        CheckConstraint("(state = 'open') = (decided_by IS NULL)", name="decided"),
    )

    id: int | None = number_column()
    person: str = Field(foreign_key="person.id", max_length=22, index=True)
    role: str = Field(max_length=20)
    organisation: str | None = Field(default=None, max_length=30)
    provider: str | None = Field(default=None, max_length=30)
    reason: str = Field(max_length=500)
    asked_by: str = Field(foreign_key="person.id", max_length=22)
    asked_at: datetime = moment_column()
    state: str = Field(max_length=20)
    decided_by: str | None = Field(default=None, foreign_key="person.id", max_length=22)
    decided_at: datetime | None = moment_column(nullable=True)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a local account is checked against."""

    person: Person
    password_hash: str | None
    failures: int
    locked_until: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SignInFlow:
    """What must be the same when the browser comes back from the identity provider."""

    digest: str
    browser_digest: str
    nonce: str
    verifier: str
    back_to: str
    created_at: datetime


class People:
    """Hangs on `PoolStore.people`."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    # -- Persons -------------------------------------------------------------------------------------------------------

    def add(
        self,
        person: Person,
        *,
        password_hash: str | None = None,
        identity: tuple[str, str] | None = None,
        invitation: tuple[str, datetime] | None = None,
    ) -> None:
        """Args:
            identity: issuer and subject at the identity provider.
            invitation: SHA-256 of the invitation's secret, and when it ends.

        Raises:
            Conflict: somebody has the login or the identity already.
        """
        row = PersonRow(**_columns(person), password_hash=password_hash)
        if identity is not None:
            row.issuer, row.subject = identity
        if invitation is not None:
            row.invitation, row.invitation_ends = invitation
        with self._sessions.writing() as session:
            session.add(row)
            try:
                session.flush()
            except IntegrityError as error:
                raise _taken() from error

    def save(self, person: Person) -> None:
        """Raises:
        Conflict: somebody else has the login.
        NotFound: there is no such person.
        """
        with self._sessions.writing() as session:
            row = session.get(PersonRow, person.id)
            if row is None:
                raise _nobody()
            for column, value in _columns(person).items():
                setattr(row, column, value)
            session.add(row)
            try:
                session.flush()
            except IntegrityError as error:
                raise _taken() from error

    def person(self, number: PersonId) -> Person:
        """Raises:
        NotFound: there is no such person.
        """
        with self._sessions.reading() as session:
            row = session.get(PersonRow, number)
            if row is None:
                raise _nobody()
            return _person(row)

    def all(
        self, *, organisation: OrganisationName | None = None, provider: ProviderName | None = None
    ) -> Sequence[Person]:
        """By name."""
        which = ("people", organisation, provider)
        return self._sessions.remembered(("person",), which, lambda: self._all(organisation, provider))

    def all_now(self) -> Sequence[Person]:
        """As `all`, with those whom another process has added: whoever asks for people later sees them as well."""
        return self._sessions.anew(("person",), ("people", None, None), lambda: self._all(None, None))

    def _all(self, organisation: OrganisationName | None, provider: ProviderName | None) -> Sequence[Person]:
        wanted: list[ColumnElement[bool]] = []
        if organisation is not None:
            wanted.append(col(PersonRow.organisation) == organisation)
        if provider is not None:
            wanted.append(col(PersonRow.provider) == provider)
        with self._sessions.reading() as session:
            rows = session.exec(select(PersonRow).where(*wanted).order_by(col(PersonRow.name), col(PersonRow.id)))
            return tuple(_person(row) for row in rows)

    def names(self, numbers: Sequence[str]) -> dict[str, str]:
        """Names of those of the numbers that are persons'."""
        return dict(self._sessions.remembered_each(("person",), "name of", set(numbers), self._names))

    def _names(self, numbers: Sequence[str]) -> Mapping[str, str]:
        with self._sessions.reading() as session:
            rows = session.exec(select(PersonRow.id, PersonRow.name).where(col(PersonRow.id).in_(sorted(numbers))))
            return dict(rows.all())

    # -- Signing in ----------------------------------------------------------------------------------------------------

    def credentials(self, login: str) -> Credentials | None:
        with self._sessions.reading() as session:
            row = session.exec(select(PersonRow).where(PersonRow.login == login)).one_or_none()
            if row is None:
                return None
            return Credentials(_person(row), row.password_hash, row.failures, row.locked_until)

    def set_password(self, number: PersonId, password_hash: str) -> None:
        """The old one, failures and a lock are gone, and an invitation is used up."""
        self._update(
            number, password_hash=password_hash, failures=0, locked_until=None, invitation=None, invitation_ends=None
        )

    def note_failures(self, number: PersonId, failures: int, locked_until: datetime | None) -> None:
        self._update(number, failures=failures, locked_until=locked_until)

    def _update(self, number: PersonId, **values: object) -> None:
        with self._sessions.writing() as session:
            session.execute(update(PersonRow).where(col(PersonRow.id) == number).values(**values))

    def by_identity(self, issuer: str, subject: str) -> Person | None:
        with self._sessions.reading() as session:
            row = session.exec(
                select(PersonRow).where(PersonRow.issuer == issuer, PersonRow.subject == subject)
            ).one_or_none()
            return None if row is None else _person(row)

    def bind(self, number: PersonId, issuer: str, subject: str) -> None:
        """Who came from the identity provider is this person; an invitation is used up."""
        self._update(number, issuer=issuer, subject=subject, invitation=None, invitation_ends=None)

    def has_identity(self, number: PersonId) -> bool:
        """They have signed in at the identity provider."""
        with self._sessions.reading() as session:
            row = session.get(PersonRow, number)
            return row is not None and row.subject is not None

    def invited(self, email: str, now: datetime) -> Person | None:
        """Who was invited under an address and has not come yet; None as well when several were."""
        with self._sessions.reading() as session:
            rows = session.exec(
                select(PersonRow).where(
                    PersonRow.email == email,
                    PersonRow.state == PersonState.INVITED,
                    col(PersonRow.invitation_ends) > now,
                )
            ).all()
            return _person(rows[0]) if len(rows) == 1 else None

    def by_invitation(self, digest: str, now: datetime) -> Person | None:
        with self._sessions.reading() as session:
            row = session.exec(
                select(PersonRow).where(PersonRow.invitation == digest, col(PersonRow.invitation_ends) > now)
            ).one_or_none()
            return None if row is None else _person(row)

    def begin(self, flow: SignInFlow, *, forget_before: datetime) -> None:
        with self._sessions.writing() as session:
            session.execute(delete(SignInFlowRow).where(col(SignInFlowRow.created_at) < forget_before))
            session.add(
                SignInFlowRow(
                    digest=flow.digest,
                    browser_digest=flow.browser_digest,
                    nonce=flow.nonce,
                    verifier=flow.verifier,
                    back_to=flow.back_to,
                    created_at=flow.created_at,
                )
            )

    def take(self, digest: str) -> SignInFlow | None:
        """Each flow can be taken once."""
        with self._sessions.writing() as session:
            row = session.get(SignInFlowRow, digest)
            if row is None:
                return None
            session.delete(row)
            return SignInFlow(
                digest=row.digest,
                browser_digest=row.browser_digest,
                nonce=row.nonce,
                verifier=row.verifier,
                back_to=row.back_to,
                created_at=row.created_at,
            )

    # -- Sessions ------------------------------------------------------------------------------------------------------

    def open_session(self, opened: PortalSession, *, forget_before: datetime) -> None:
        """Args:
        forget_before: sessions opened before it have ended long ago.
        """
        with self._sessions.writing() as session:
            session.execute(delete(PortalSessionRow).where(col(PortalSessionRow.created_at) < forget_before))
            session.add(
                PortalSessionRow(
                    digest=opened.digest,
                    person=opened.person,
                    created_at=opened.created_at,
                    seen_at=opened.seen_at,
                    address=opened.address,
                    browser=opened.browser,
                    issuer=opened.issuer,
                    subject=opened.subject,
                    sid=opened.sid,
                )
            )

    def session(self, digest: str, *, at_hand: bool = False) -> tuple[PortalSession, Person] | None:
        """Args:
        at_hand: None as well where it would have to be read.
        """
        name = ("session", digest)
        if at_hand:
            found: tuple[PortalSession, Person] | None = self._sessions.at_hand(_SESSION_FROM, name)
            return found
        return self._sessions.remembered(_SESSION_FROM, name, lambda: self._session(digest))

    def _session(self, digest: str) -> tuple[PortalSession, Person] | None:
        with self._sessions.reading() as session:
            found = session.exec(_SESSION_OF, params={"digest": digest}).one_or_none()
            return None if found is None else (_session(found[0]), _person(found[1]))

    def sessions(self, person: PersonId) -> Sequence[PortalSession]:
        """The most recently used first."""
        return self._sessions.remembered(("portal_session",), ("sessions", person), lambda: self._sessions_of(person))

    def _sessions_of(self, person: PersonId) -> Sequence[PortalSession]:
        with self._sessions.reading() as session:
            rows = session.exec(_SESSIONS_OF, params={"person": person})
            return tuple(_session(row) for row in rows)

    def saw(self, uses: Mapping[str, datetime]) -> None:
        """When sessions were used last, by digest; those that are closed are passed over."""
        with self._sessions.writing() as session:
            _set_each(session, PortalSessionRow, "digest", "seen_at", uses)

    def close_session(self, digest: str) -> None:
        self._close(col(PortalSessionRow.digest) == digest)

    def close_sessions_of(self, person: PersonId, *, but: str = "") -> int:
        """How many were closed; `but` is the digest of one that stays."""
        return self._close((col(PortalSessionRow.person) == person) & (col(PortalSessionRow.digest) != but))

    def close_sessions_at(self, issuer: str, *, subject: str = "", sid: str = "") -> int:
        """Those that came from the identity provider's session `sid`, or all of its `subject`; how many."""
        which = PortalSessionRow.sid == sid if sid else PortalSessionRow.subject == subject
        return self._close((col(PortalSessionRow.issuer) == issuer) & which)

    def _close(self, which: ColumnElement[bool]) -> int:
        with self._sessions.writing() as session:
            gone = session.exec(select(PortalSessionRow.digest).where(which)).all()
            session.execute(delete(PortalSessionRow).where(col(PortalSessionRow.digest).in_(gone)))
            return len(gone)

    # -- Tokens of programs --------------------------------------------------------------------------------------------

    def add_token(self, token: ApiToken, digest: str) -> None:
        with self._sessions.writing() as session:
            session.add(
                ApiTokenRow(
                    id=token.id,
                    digest=digest,
                    person=token.person,
                    name=token.name,
                    scopes=list(token.scopes),
                    created_at=token.created_at,
                    expires_at=token.expires_at,
                )
            )

    def token(self, digest: str, *, at_hand: bool = False) -> tuple[ApiToken, Person] | None:
        """Args:
        at_hand: None as well where it would have to be read.
        """
        name = ("token", digest)
        if at_hand:
            found: tuple[ApiToken, Person] | None = self._sessions.at_hand(_TOKEN_FROM, name)
            return found
        return self._sessions.remembered(_TOKEN_FROM, name, lambda: self._token(digest))

    def _token(self, digest: str) -> tuple[ApiToken, Person] | None:
        with self._sessions.reading() as session:
            found = session.exec(_TOKEN_OF, params={"digest": digest}).one_or_none()
            return None if found is None else (_token(found[0]), _person(found[1]))

    def tokens(self, person: PersonId) -> Sequence[ApiToken]:
        """The newest first, revoked and expired ones too."""
        return self._sessions.remembered(("api_token",), ("tokens", person), lambda: self._tokens_of(person))

    def _tokens_of(self, person: PersonId) -> Sequence[ApiToken]:
        with self._sessions.reading() as session:
            rows = session.exec(_TOKENS_OF, params={"person": person})
            return tuple(_token(row) for row in rows)

    def used_tokens(self, uses: Mapping[str, datetime]) -> None:
        """When tokens were used last, by id."""
        with self._sessions.writing() as session:
            _set_each(session, ApiTokenRow, "id", "used_at", uses)

    def revoke_token(self, number: str, person: PersonId, at: datetime) -> ApiToken:
        """Raises:
        NotFound: the person has no such token.
        """
        with self._sessions.writing() as session:
            row = session.get(ApiTokenRow, number)
            if row is None or row.person != person:
                raise NotFound(told("You have no such token."))
            row.revoked_at = row.revoked_at or at
            session.add(row)
            return _token(row)

    def revoke_tokens_of(self, person: PersonId, at: datetime) -> None:
        with self._sessions.writing() as session:
            session.execute(
                update(ApiTokenRow)
                .where(col(ApiTokenRow.person) == person, col(ApiTokenRow.revoked_at).is_(None))
                .values(revoked_at=at)
            )

    # -- Changes of roles ----------------------------------------------------------------------------------------------

    def ask_change(self, person: PersonId, office: Office, *, reason: str, by: PersonId, at: datetime) -> int:
        """The change's number.

        Raises:
            Conflict: one for this person is open already.
        """
        with self._sessions.writing() as session:
            still = session.exec(
                select(OfficeChangeRow).where(
                    OfficeChangeRow.person == person, OfficeChangeRow.state == ChangeState.OPEN
                )
            ).first()
            if still is not None:
                raise Conflict(
                    told("A change of this person's role waits for its decision already."),
                    way_out=told("Let it be decided first."),
                )
            row = OfficeChangeRow(
                person=person,
                role=office.role,
                organisation=office.organisation,
                provider=office.provider,
                reason=reason,
                asked_by=by,
                asked_at=at,
                state=ChangeState.OPEN,
            )
            session.add(row)
            session.flush()
            assert row.id is not None
            return row.id

    def change(self, number: int) -> OfficeChange:
        """Raises:
        NotFound: there is no such change.
        """
        with self._sessions.reading() as session:
            row = session.get(OfficeChangeRow, number)
            if row is None:
                raise NotFound(told("There is no such change of a role."))
            return _change(row)

    def open_changes(self) -> Sequence[OfficeChange]:
        """The oldest first."""
        return self._sessions.remembered(("office_change",), "open changes", self._open_changes)

    def _open_changes(self) -> Sequence[OfficeChange]:
        with self._sessions.reading() as session:
            rows = session.exec(
                select(OfficeChangeRow)
                .where(OfficeChangeRow.state == ChangeState.OPEN)
                .order_by(col(OfficeChangeRow.id))
            )
            return tuple(_change(row) for row in rows)

    def decide_change(self, number: int, state: ChangeState, *, by: PersonId, at: datetime) -> None:
        with self._sessions.writing() as session:
            session.execute(
                update(OfficeChangeRow)
                .where(col(OfficeChangeRow.id) == number)
                .values(state=state, decided_by=by, decided_at=at)
            )


def _set_each(session: Session, table: type[PoolTable], key: str, column: str, values: Mapping[str, datetime]) -> None:
    """One column of the rows of these keys."""
    if values:
        rows = table.metadata.tables[str(table.__tablename__)]
        session.execute(
            update(rows).where(rows.c[key] == bindparam("key")).values({column: bindparam("value")}),
            [{"key": one, "value": value} for one, value in values.items()],
        )


def _nobody() -> NotFound:
    return NotFound(told("There is no such person."))


def _taken() -> Conflict:
    return Conflict(told("Somebody has this login or identity already."), way_out=told("Choose another."))


def _columns(person: Person) -> dict[str, Any]:
    return {
        "id": person.id,
        "name": person.name,
        "email": person.email,
        "role": person.office.role,
        "organisation": person.office.organisation,
        "provider": person.office.provider,
        "state": person.state,
        "role_from": person.role_from,
        "created_at": person.created_at,
        "language": person.language,
        "login": person.login,
    }


def _office(row: PersonRow | OfficeChangeRow) -> Office:
    return Office(
        role=PortalRole(row.role),
        organisation=OrganisationName(row.organisation) if row.organisation else None,
        provider=ProviderName(row.provider) if row.provider else None,
    )


def _person(row: PersonRow) -> Person:
    return Person(
        id=PersonId(row.id),
        name=row.name,
        email=row.email,
        office=_office(row),
        state=PersonState(row.state),
        role_from=RoleSource(row.role_from),
        created_at=row.created_at,
        language=Language(row.language) if row.language else None,
        login=UserName(row.login) if row.login else None,
    )


def _session(row: PortalSessionRow) -> PortalSession:
    return PortalSession(
        digest=row.digest,
        person=PersonId(row.person),
        created_at=row.created_at,
        seen_at=row.seen_at,
        address=row.address,
        browser=row.browser,
        issuer=row.issuer,
        subject=row.subject,
        sid=row.sid,
    )


def _token(row: ApiTokenRow) -> ApiToken:
    return ApiToken(
        id=row.id,
        person=PersonId(row.person),
        name=row.name,
        scopes=tuple(row.scopes),
        created_at=row.created_at,
        expires_at=row.expires_at,
        used_at=row.used_at,
        revoked_at=row.revoked_at,
    )


def _change(row: OfficeChangeRow) -> OfficeChange:
    assert row.id is not None
    return OfficeChange(
        id=row.id,
        person=PersonId(row.person),
        office=_office(row),
        reason=row.reason,
        asked_by=PersonId(row.asked_by),
        asked_at=row.asked_at,
        state=ChangeState(row.state),
        decided_by=PersonId(row.decided_by) if row.decided_by else None,
        decided_at=row.decided_at,
    )
