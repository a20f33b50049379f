"""Signing in and out, sessions, tokens, invitations, roles: what pages, API and commands do with accounts.

Every act and every refusal goes into the audit trail in the transaction that makes it.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from slurm_gpuaas.domain.accounts import (
    ApiToken,
    ChangeState,
    Office,
    Person,
    PersonState,
    PortalSession,
    RoleSource,
    needs_second_person,
)
from slurm_gpuaas.domain.audit_chain import AuditEvent, AuditResult
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.errors import Conflict, InvalidInput, NotFound, Refused
from slurm_gpuaas.domain.names import PersonId, UserName
from slurm_gpuaas.domain.people import NOWHERE, PortalRole, Source
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.portal.config import SessionsConfig
from slurm_gpuaas.portal.last_uses import LastUses
from slurm_gpuaas.portal.rights import Action, Owned, not_by_requester, require, scope_of
from slurm_gpuaas.portal.secret import digest, new_secret
from slurm_gpuaas.store.pool import PoolStore

LEAST_PASSWORD: Final = 12
MOST_PASSWORD: Final = 200
"""Characters. A longer one only makes the hash slow."""
HASHES_AT_ONCE: Final = 2
"""Each takes 64 MiB: many sign-ins at once must not take all memory."""
TOKEN_PREFIX: Final = "gpuaas_"  # noqa: S105  # so that scanners of leaked secrets can find it
MOST_TOKENS: Final = 50

Facts = Mapping[str, str | int | float | bool | None]

SERVER: Final = "gpuaas-portal"
"""Actor of what the server does by itself, and of commands on its host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What an identity provider says of who signed in there."""

    issuer: str
    subject: str
    sid: str = ""
    name: str = ""
    email: str = ""
    email_verified: bool = False
    office: Office | None = None


class WrongPassword(Refused):
    """The same sentence for an unknown login, a wrong password and a locked account: it tells nobody which."""

    http_status = 401

    def __init__(self) -> None:
        super().__init__(
            told("Login or password is wrong, or the account is locked for a while after too many tries."),
            way_out=told("Check both and try again; an administrator of your organisation can invite you anew."),
        )


def new_person_id() -> PersonId:
    return PersonId(f"p-{secrets.token_hex(8)}")


class Accounts:
    """Args:
    hasher: of passwords; tests give a quick one.
    """

    def __init__(
        self, store: PoolStore, clock: Clock, config: SessionsConfig, *, hasher: Argon2Hasher | None = None
    ) -> None:
        self._store = store
        self._clock = clock
        self._config = config
        self._hasher = PasswordHash((hasher or Argon2Hasher(),))
        self._hashing = threading.Semaphore(HASHES_AT_ONCE)
        self._nobodys = self._hasher.hash(new_secret())
        self._session_uses = LastUses(store.people.saw)
        self._token_uses = LastUses(store.people.used_tokens)

    # -- Signing in ----------------------------------------------------------------------------------------------------

    def sign_in(self, login: str, password: str, source: Source) -> str:
        """The new session's secret.

        Raises:
            WrongPassword: whatever the reason.
        """
        found = self._store.people.credentials(login)
        right, renewed = self._check(password, found.password_hash if found else None)
        now = self._clock.now()
        if found is None:
            self._store.audit.append(
                _event(now, "anonymous", "session.open", "unknown login", source, result=AuditResult.REFUSED)
            )
            raise WrongPassword
        person = found.person
        with self._store.transaction():
            # Read again, where nobody else writes: tries at the same time must not count as one.
            state = self._store.people.credentials(login)
            failures = state.failures if state else 0
            locked = state is not None and state.locked_until is not None and now < state.locked_until
            if right and not locked and person.state is PersonState.ACTIVE:
                self._store.people.note_failures(person.id, 0, None)
                if renewed is not None:
                    self._store.people.set_password(person.id, renewed)
                return self._open(person, source, now)
            why = "locked" if locked else "wrong password" if not right else str(person.state)
            if not right and not locked:
                failures += 1
                lock = failures >= self._config.failures
                self._store.people.note_failures(
                    person.id, 0 if lock else failures, now + self._config.locked_for if lock else None
                )
                why = "wrong password, now locked" if lock else why
            self._store.audit.append(
                _event(now, person.id, "session.open", person.id, source, reason=why, result=AuditResult.REFUSED)
            )
        raise WrongPassword

    def _check(self, password: str, password_hash: str | None) -> tuple[bool, str | None]:
        """Whether it is right, and its hash in today's parameters where the stored one is older. Takes as long for a
        login that does not exist."""
        with self._hashing:
            if len(password) > MOST_PASSWORD:
                password = ""
            right, renewed = self._hasher.verify_and_update(password, password_hash or self._nobodys)
        return right and password_hash is not None, renewed if password_hash is not None else None

    def _open(self, person: Person, source: Source, now: datetime, identity: Identity | None = None) -> str:
        secret = new_secret()
        self._store.people.open_session(
            PortalSession(
                digest=digest(secret),
                person=person.id,
                created_at=now,
                seen_at=now,
                address=source.address[:64],
                browser=source.browser[:200],
                issuer=identity.issuer if identity else "",
                subject=identity.subject if identity else "",
                sid=identity.sid if identity else "",
            ),
            forget_before=now - self._config.longest,
        )
        how = "identity provider" if identity else "password"
        self._store.audit.append(
            _event(now, person.id, "session.open", person.id, source, role=person.office.role, evidence={"by": how})
        )
        return secret

    def sign_in_from(self, identity: Identity, source: Source) -> str:
        """The new session's secret of somebody who comes from the identity provider.

        Raises:
            Refused: the portal knows no role for them, or they are suspended.
        """
        now = self._clock.now()
        refusal: Refused
        with self._store.transaction():
            people = self._store.people
            person = people.by_identity(identity.issuer, identity.subject)
            if person is None and identity.email_verified:
                person = people.invited(identity.email, now)
                if person is not None:
                    people.bind(person.id, identity.issuer, identity.subject)
                    person = replace(person, state=PersonState.ACTIVE, name=identity.name or person.name)
                    people.save(person)
            if person is None and identity.office is not None:
                person = self._newcomer(identity, identity.office, source, now)
            if person is not None and person.role_from is RoleSource.IDENTITY_PROVIDER:
                person = self._as_claimed(person, identity, source, now)
            if person is not None and person.state is PersonState.ACTIVE:
                return self._open(person, source, now, identity)
            refusal = Refused(
                told("You have signed in, but this portal has no role for you."),
                way_out=told("Ask the administrator of your organisation for an invitation."),
            )
            self._store.audit.append(
                _event(
                    now,
                    person.id if person else "anonymous",
                    "session.open",
                    identity.subject,
                    source,
                    reason=str(person.state) if person else "no role",
                    evidence={"issuer": identity.issuer},
                    result=AuditResult.REFUSED,
                )
            )
        raise refusal

    def _newcomer(self, identity: Identity, office: Office, source: Source, now: datetime) -> Person:
        person = Person(
            id=new_person_id(),
            name=identity.name or identity.subject[:200],
            email=identity.email,
            office=office,
            state=PersonState.ACTIVE,
            role_from=RoleSource.IDENTITY_PROVIDER,
            created_at=now,
        )
        self._store.people.add(person, identity=(identity.issuer, identity.subject))
        self._store.audit.append(
            _event(now, SERVER, "people.add", person.id, source, reason="claims", evidence=_office_facts(office))
        )
        return person

    def _as_claimed(self, person: Person, identity: Identity, source: Source, now: datetime) -> Person | None:
        """The person with the role that the claims give now; None when they give none."""
        if identity.office is None:
            return None
        if identity.office != person.office:
            person = replace(person, office=identity.office)
            self._store.people.save(person)
            self._store.audit.append(
                _event(
                    now,
                    SERVER,
                    "people.change",
                    person.id,
                    source,
                    reason="claims",
                    evidence=_office_facts(person.office),
                )
            )
        return person

    # -- Sessions ------------------------------------------------------------------------------------------------------

    def session(self, secret: str, *, at_hand: bool = False) -> tuple[PortalSession, Person] | None:
        """Who has the secret in their cookie, while the session lasts.

        Args:
            at_hand: neither read nor write the store; None where that has to be done.
        """
        now, uses = self._clock.now(), self._session_uses
        if at_hand and uses.due(now):
            return None
        found = self._store.people.session(digest(secret), at_hand=at_hand)
        if found is None or found[1].state is not PersonState.ACTIVE or not self._lasts(found[0], now):
            return None
        uses.note(found[0].digest, now)
        if not at_hand and uses.due(now):
            uses.write_down(now)
        return found

    def _lasts(self, session: PortalSession, now: datetime) -> bool:
        seen_at = self._session_uses.last(session.digest, session.seen_at)
        return now - seen_at < self._config.idle and now - session.created_at < self._config.longest

    def live_sessions(self, person: PersonId) -> Sequence[PortalSession]:
        now = self._clock.now()
        uses = self._session_uses
        return tuple(
            replace(session, seen_at=uses.last(session.digest, session.seen_at))
            for session in self._store.people.sessions(person)
            if self._lasts(session, now)
        )

    def sign_out(self, session: PortalSession, person: Person, source: Source) -> None:
        with self._store.transaction():
            self._store.people.close_session(session.digest)
            self._store.audit.append(self._event_of(person, "session.close", person.id, source))

    def close_other(self, person: Person, wanted: str, source: Source) -> None:
        """Args:
            wanted: digest of one of the person's sessions.

        Raises:
            NotFound: it is none of theirs.
        """
        with self._store.transaction():
            if wanted not in {session.digest for session in self._store.people.sessions(person.id)}:
                raise NotFound(told("You have no such session."))
            self._store.people.close_session(wanted)
            self._store.audit.append(
                self._event_of(person, "session.close", person.id, source, evidence={"session": wanted[:12]})
            )

    def signed_out_at(self, issuer: str, *, subject: str, sid: str, source: Source) -> int:
        """The identity provider says that its session has ended (back-channel logout); how many of ours were closed."""
        with self._store.transaction():
            closed = self._store.people.close_sessions_at(issuer, subject=subject, sid=sid)
            self._store.audit.append(
                _event(
                    self._clock.now(),
                    SERVER,
                    "session.close",
                    subject or sid,
                    source,
                    reason="back-channel logout",
                    evidence={"issuer": issuer, "sessions": closed},
                )
            )
        return closed

    # -- Passwords and invitations -------------------------------------------------------------------------------------

    def create(self, *, login: UserName, name: str, email: str, office: Office, password: str) -> Person:
        """A local account, made by a command on the server's host.

        Raises:
            InvalidInput: the password is too weak.
            Conflict: the login is taken.
        """
        hashed = self._hash(password, login)
        person = Person(
            id=new_person_id(),
            name=name,
            email=email,
            office=office,
            state=PersonState.ACTIVE,
            role_from=RoleSource.PORTAL,
            created_at=self._clock.now(),
            login=login,
        )
        with self._store.transaction():
            self._store.people.add(person, password_hash=hashed)
            self._store.audit.append(
                _event(
                    person.created_at,
                    SERVER,
                    "people.add",
                    person.id,
                    NOWHERE,
                    reason="command on the server's host",
                    evidence=_office_facts(office),
                )
            )
        return person

    def _hash(self, password: str, login: str) -> str:
        if not LEAST_PASSWORD <= len(password) <= MOST_PASSWORD:
            raise InvalidInput(
                told(
                    "The password has {length} characters; {least} to {most} are taken.",
                    length=len(password),
                    least=LEAST_PASSWORD,
                    most=MOST_PASSWORD,
                ),
                way_out=told("Take several words that nobody else would put together."),
            )
        if len(set(password)) < 5 or (login and login in password.lower()):
            raise InvalidInput(
                told("The password repeats a few characters or holds the login."),
                way_out=told("Take several words that nobody else would put together."),
            )
        with self._hashing:
            return self._hasher.hash(password)

    def invite(self, by: Person, *, name: str, email: str, office: Office, reason: str, source: Source) -> str:
        """The invitation's secret, for the inviter to hand over. Where the role needs a second person, it opens nothing
        until that person has approved.

        Raises:
            Refused: the inviter may not invite there.
        """
        _within(by, office)
        require(by.actor, Action.PEOPLE_INVITE, owned(office))
        now, secret = self._clock.now(), new_secret()
        second = needs_second_person(None, office)
        person = Person(
            id=new_person_id(),
            name=name,
            email=email,
            office=office,
            state=PersonState.SUSPENDED if second else PersonState.INVITED,
            role_from=RoleSource.PORTAL,
            created_at=now,
        )
        with self._store.transaction():
            self._store.people.add(person, invitation=(digest(secret), now + self._config.invitation))
            if second:
                self._store.people.ask_change(person.id, office, reason=reason, by=by.id, at=now)
            self._store.audit.append(
                self._event_of(by, "people.invite", person.id, source, reason=reason, evidence=_office_facts(office))
            )
        return secret

    def invitation(self, secret: str) -> Person:
        """Raises:
        NotFound: it is none, was taken up, has ended, or waits for its approval.
        """
        person = self._store.people.by_invitation(digest(secret), self._clock.now())
        if person is None or person.state is not PersonState.INVITED:
            raise NotFound(
                told("This invitation is not valid now: it was used, has ended, or waits for its approval."),
                way_out=told("Ask who invited you."),
            )
        return person

    def accept(self, secret: str, *, name: str, login: UserName, password: str, source: Source) -> str:
        """The first session's secret.

        Raises:
            NotFound, InvalidInput, Conflict: as `invitation` and `create`.
        """
        invited = self.invitation(secret)
        hashed = self._hash(password, login)
        with self._store.transaction():
            person = replace(invited, name=name, login=login, state=PersonState.ACTIVE)
            self._store.people.save(person)
            self._store.people.set_password(person.id, hashed)
            self._store.audit.append(self._event_of(person, "people.accept", person.id, source))
            return self._open(person, source, self._clock.now())

    def change_password(self, session: PortalSession, person: Person, *, old: str, new: str, source: Source) -> None:
        """All other sessions of the person end.

        Raises:
            WrongPassword: the old one is wrong.
            InvalidInput: the new one is too weak, or the account has none.
        """
        if person.login is None:
            raise InvalidInput(told("You sign in at your organisation; there is no password here."))
        found = self._store.people.credentials(person.login)
        right, _ = self._check(old, found.password_hash if found else None)
        if not right:
            self._store.audit.append(
                self._event_of(person, "profile.password", person.id, source, result=AuditResult.REFUSED)
            )
            raise WrongPassword
        hashed = self._hash(new, person.login)
        with self._store.transaction():
            self._store.people.set_password(person.id, hashed)
            self._store.people.close_sessions_of(person.id, but=session.digest)
            self._store.audit.append(self._event_of(person, "profile.password", person.id, source))

    # -- People --------------------------------------------------------------------------------------------------------

    def save_profile(self, person: Person, source: Source) -> None:
        with self._store.transaction():
            self._store.people.save(person)
            self._store.audit.append(self._event_of(person, "profile.change", person.id, source))

    def change_office(self, by: Person, number: PersonId, office: Office, *, reason: str, source: Source) -> bool:
        """Change a role, or ask a second person to approve it; whether it holds already.

        Raises:
            Refused: not within what the actor's role covers, or the role comes from the identity provider.
            Conflict: a change waits already.
        """
        now = self._clock.now()
        with self._store.transaction():
            person = self._store.people.person(number)
            require(by.actor, Action.PEOPLE_CHANGE, owned(person.office, person.id))
            _within(by, office)
            require(by.actor, Action.PEOPLE_CHANGE, owned(office, person.id))
            if by.id == person.id:
                raise Refused(told("Nobody changes their own role."), way_out=told("Let a second person decide."))
            if person.role_from is RoleSource.IDENTITY_PROVIDER:
                raise Refused(
                    told("This role comes from the identity provider at each sign-in."),
                    way_out=told("Change it there."),
                )
            second = needs_second_person(person.office, office)
            if second:
                self._store.people.ask_change(person.id, office, reason=reason, by=by.id, at=now)
            else:
                self._give(person, office)
            self._store.audit.append(
                self._event_of(
                    by,
                    "people.change.ask" if second else "people.change",
                    person.id,
                    source,
                    reason=reason,
                    evidence=_office_facts(office),
                )
            )
        return not second

    def _give(self, person: Person, office: Office) -> None:
        """A new role begins with new sessions: pages that are open still show what the old one could see."""
        waiting = (
            person.state is PersonState.SUSPENDED
            and person.login is None
            and not self._store.people.has_identity(person.id)
        )
        self._store.people.save(replace(person, office=office, state=PersonState.INVITED if waiting else person.state))
        self._store.people.close_sessions_of(person.id)
        self._store.people.revoke_tokens_of(person.id, self._clock.now())

    def decide_office(self, by: Person, number: int, *, approve: bool, source: Source) -> None:
        """Raises:
        Refused: the actor asked for it, or it is about the actor, or not within what their role covers.
        Conflict: it is not open.
        """
        now = self._clock.now()
        with self._store.transaction():
            change = self._store.people.change(number)
            person = self._store.people.person(change.person)
            require(by.actor, Action.PEOPLE_APPROVE, owned(change.office, person.id))
            if change.state is not ChangeState.OPEN:
                raise Conflict(told("This change of a role is decided already."), way_out=told("Look at the person."))
            not_by_requester(by.actor, change.asked_by)
            not_by_requester(by.actor, change.person)
            _within(by, change.office)
            state = ChangeState.APPROVED if approve else ChangeState.REFUSED
            self._store.people.decide_change(number, state, by=by.id, at=now)
            if approve:
                self._give(person, change.office)
            self._store.audit.append(
                self._event_of(
                    by,
                    "people.change.approve" if approve else "people.change.refuse",
                    person.id,
                    source,
                    evidence={**_office_facts(change.office), "asked_by": change.asked_by},
                )
            )

    def suspend(self, by: Person, number: PersonId, *, active: bool, reason: str, source: Source) -> None:
        """Take somebody's access away at once, or give it back (`active`).

        Raises:
            Refused: not within what the actor's role covers, or the actor's own.
        """
        with self._store.transaction():
            person = self._store.people.person(number)
            require(by.actor, Action.PEOPLE_CHANGE, owned(person.office, person.id))
            _within(by, person.office)
            if by.id == person.id:
                raise Refused(told("Nobody suspends themselves."))
            back = PersonState.ACTIVE if person.login or self._store.people.has_identity(person.id) else None
            state = (back or PersonState.INVITED) if active else PersonState.SUSPENDED
            if active and any(change.person == person.id for change in self._store.people.open_changes()):
                raise Refused(
                    told("A change of this person's role waits for its decision already."),
                    way_out=told("Let it be decided first."),
                )
            self._store.people.save(replace(person, state=state))
            if not active:
                self._store.people.close_sessions_of(person.id)
                self._store.people.revoke_tokens_of(person.id, self._clock.now())
            self._store.audit.append(
                self._event_of(by, "people.resume" if active else "people.suspend", person.id, source, reason=reason)
            )

    # -- Tokens of programs --------------------------------------------------------------------------------------------

    def make_token(
        self, person: Person, *, name: str, scopes: Sequence[Action], days: int, source: Source
    ) -> tuple[ApiToken, str]:
        """The token and its secret, which is never shown again.

        Raises:
            InvalidInput: no scope, one that the role does not have, a life too long, or too many tokens.
        """
        now = self._clock.now()
        if not scopes or any(scope_of(person.office.role, action) is None for action in scopes):
            raise InvalidInput(
                told("A token needs at least one action, and only such as your role allows."),
                way_out=told("Choose from the list."),
            )
        if not 1 <= days <= self._config.token_days:
            raise InvalidInput(
                told("A token lasts 1 to {most} days.", most=self._config.token_days),
                way_out=told("Choose fewer days."),
            )
        token = ApiToken(
            id=f"t-{secrets.token_hex(6)}",
            person=person.id,
            name=name,
            scopes=tuple(sorted({str(action) for action in scopes})),
            created_at=now,
            expires_at=now + timedelta(days=days),
        )
        secret = TOKEN_PREFIX + new_secret()
        with self._store.transaction():
            if sum(one.valid(now) for one in self._store.people.tokens(person.id)) >= MOST_TOKENS:
                raise InvalidInput(
                    told("You have {most} tokens already.", most=MOST_TOKENS), way_out=told("Revoke one first.")
                )
            self._store.people.add_token(token, digest(secret))
            self._store.audit.append(
                self._event_of(
                    person, "token.make", token.id, source, evidence={"name": name, "scopes": " ".join(token.scopes)}
                )
            )
        return token, secret

    def token(self, secret: str, *, at_hand: bool = False) -> tuple[ApiToken, Person] | None:
        """Whose token it is, while it is valid.

        Args:
            at_hand: as in `session`.
        """
        now, uses = self._clock.now(), self._token_uses
        if not secret.startswith(TOKEN_PREFIX) or (at_hand and uses.due(now)):
            return None
        found = self._store.people.token(digest(secret), at_hand=at_hand)
        if found is None or not found[0].valid(now) or found[1].state is not PersonState.ACTIVE:
            return None
        uses.note(found[0].id, now)
        if not at_hand and uses.due(now):
            uses.write_down(now)
        return found

    def tokens(self, person: PersonId) -> Sequence[ApiToken]:
        """The newest first, revoked and expired ones too, with the uses that are not written down yet."""
        return tuple(
            token if (at := self._token_uses.last(token.id, token.used_at)) is None else replace(token, used_at=at)
            for token in self._store.people.tokens(person)
        )

    def revoke_token(self, person: Person, number: str, source: Source) -> None:
        """Raises:
        NotFound: the person has no such token.
        """
        with self._store.transaction():
            token = self._store.people.revoke_token(number, person.id, self._clock.now())
            self._store.audit.append(
                self._event_of(person, "token.revoke", token.id, source, evidence={"name": token.name})
            )

    def _event_of(
        self,
        person: Person,
        action: str,
        subject: str,
        source: Source,
        *,
        reason: str = "",
        evidence: Facts | None = None,
        result: AuditResult = AuditResult.DONE,
    ) -> AuditEvent:
        return _event(
            self._clock.now(),
            person.id,
            action,
            subject,
            source,
            role=person.office.role,
            reason=reason,
            evidence=evidence,
            result=result,
        )


def owned(office: Office, person: PersonId | None = None) -> Owned:
    return Owned(
        people=frozenset() if person is None else frozenset({person}),
        organisation=office.organisation,
        provider=office.provider,
    )


def _within(by: Person, office: Office) -> None:
    """Who administers one organisation makes no ministry official.

    Raises:
        Refused: the role reaches further than that of who gives it.
    """
    if by.office.role is PortalRole.TENANT_ADMIN and office.organisation != by.office.organisation:
        raise Refused(
            told("A tenant admin gives roles of their own organisation only."),
            way_out=told("Choose researcher or tenant admin."),
        )


def _office_facts(office: Office) -> dict[str, str]:
    facts = {"role": str(office.role)}
    if office.organisation:
        facts["organisation"] = office.organisation
    if office.provider:
        facts["provider"] = office.provider
    return facts


def _event(
    at: datetime,
    actor: str,
    action: str,
    subject: str,
    source: Source,
    *,
    role: str = "",
    reason: str = "",
    evidence: Facts | None = None,
    result: AuditResult = AuditResult.DONE,
) -> AuditEvent:
    return AuditEvent(
        at=at,
        actor=actor,
        role=role,
        action=action,
        subject=subject,
        reason=reason,
        evidence=evidence or {},
        source=source.address,
        request=source.request,
        result=result,
    )
