"""Sends the outbox over SMTP: each mail at least once, with a Message-ID that stays, so that a repeat is recognised.

A mail is marked as sent after the server has taken it. A server that does not answer is tried again and again; a mail
that it refuses for good is given up after some days, and stays on its reader's page of messages in any case.
"""

from __future__ import annotations

import hashlib
import smtplib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Final
from urllib.parse import urlsplit

import structlog

from slurm_gpuaas.domain.accounts import Person, PersonState
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.errors import InvalidInput, NotFound, Unavailable
from slurm_gpuaas.portal.config import MailConfig, MailSecurity
from slurm_gpuaas.portal.mail_texts import both
from slurm_gpuaas.portal.metrics import Metrics
from slurm_gpuaas.portal.words import Dictionary
from slurm_gpuaas.store.pool import PoolStore
from slurm_gpuaas.store.pool.register import WrittenMail

MOST_AT_ONCE: Final = 100
"""Mails of one connection."""
FIRST_WAIT: Final = timedelta(minutes=1)
LONGEST_WAIT: Final = timedelta(hours=6)
MOST_REFUSALS: Final = 14
"""Of one mail by the server: some two days."""

log = structlog.get_logger(__name__)


class Mailer:
    """Args:
    url: of the portal, for links; its host is the right side of Message-IDs.
    """

    def __init__(
        self, store: PoolStore, clock: Clock, config: MailConfig, *, url: str, dictionary: Dictionary, metrics: Metrics
    ) -> None:
        self._store = store
        self._clock = clock
        self._config = config
        self._url = url
        self._dictionary = dictionary
        self._metrics = metrics

    def turn(self) -> None:
        """Send what is due.

        Raises:
            Unavailable: the server does not answer; what it did not take is tried again.
        """
        outbox = self._store.register.outbox
        try:
            due = outbox.due(self._clock.now(), limit=MOST_AT_ONCE)
            if due:
                with self._server() as server:
                    for mail in due:
                        self._send(server, mail)
        except (OSError, smtplib.SMTPException) as error:
            self._metrics.mail_failures.inc()
            raise Unavailable(
                f"The mail server {self._config.host} does not take mails: {type(error).__name__}: {error!s:.200}.",
                way_out="Mails wait and are tried again.",
            ) from None
        finally:
            self._count()

    def _send(self, server: smtplib.SMTP, mail: WrittenMail) -> None:
        """One mail. What is wrong with it alone is noted with it, and the others go on.

        Raises:
            OSError, SMTPException: the connection is lost.
        """
        try:
            person = self._store.people.person(mail.to)
            server.send_message(self._message(person, mail))
        except (InvalidInput, NotFound) as error:
            self._refused(mail, error.message)
        except (smtplib.SMTPRecipientsRefused, smtplib.SMTPSenderRefused, smtplib.SMTPDataError) as error:
            self._refused(mail, f"The mail server refuses it: {error!s:.200}")
            server.rset()
        else:
            self._store.register.outbox.sent(mail.number, at=self._clock.now())
            self._metrics.mails_sent.inc()

    def _refused(self, mail: WrittenMail, fault: str) -> None:
        tries = mail.tries + 1
        wait = min(FIRST_WAIT * 2 ** min(tries - 1, 20), LONGEST_WAIT)
        self._store.register.outbox.failed(
            mail.number, fault, tries=tries, try_at=None if tries >= MOST_REFUSALS else self._clock.now() + wait
        )
        self._metrics.mail_failures.inc()
        log.warning("mail.refused", number=mail.number, template=mail.template, tries=tries)

    def _message(self, person: Person, mail: WrittenMail) -> EmailMessage:
        """
        Raises:
            InvalidInput: it cannot be written, or its reader has no access any more.
        """
        if person.state is PersonState.SUSPENDED:
            raise InvalidInput(f"{person.id} is suspended.")
        text = both(self._dictionary, mail.template, mail.parts, self._url)
        message = EmailMessage()
        try:
            message["From"] = self._config.sender
            message["To"] = Address(person.name, addr_spec=person.email)
            message["Subject"] = text.subject
        except ValueError:  # a line break in a header, or no address
            raise InvalidInput(f"Address or subject of mail {mail.number} cannot stand in a mail.") from None
        message["Date"] = format_datetime(mail.written_at)
        message["Message-ID"] = self._id(mail)
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers
        message.set_content(text.body)
        return message

    def _id(self, mail: WrittenMail) -> str:
        """Of what the mail is, so that it is the same whenever it is sent, and another one's is another."""
        what = repr((mail.number, mail.to, mail.template, sorted(mail.parts.items()), mail.written_at.isoformat()))
        digest = hashlib.sha256(what.encode()).hexdigest()[:32]
        return f"<{mail.number}.{digest}@{urlsplit(self._url).hostname or 'localhost'}>"

    @contextmanager
    def _server(self) -> Iterator[smtplib.SMTP]:
        config, seconds = self._config, self._config.timeout.total_seconds()
        tls = ssl.create_default_context(cafile=None if config.ca_file is None else str(config.ca_file))
        if config.security is MailSecurity.TLS:
            server: smtplib.SMTP = smtplib.SMTP_SSL(config.host, config.port, timeout=seconds, context=tls)
        else:
            server = smtplib.SMTP(config.host, config.port, timeout=seconds)
        with server:
            if config.security is MailSecurity.STARTTLS:
                server.starttls(context=tls)
            if config.login is not None and config.password_file is not None:
                server.login(config.login, config.password_file.read_text(encoding="utf-8").strip())
            yield server

    def _count(self) -> None:
        counts = self._store.register.outbox.counts()
        for state, number in (
            ("waiting", counts.waiting),
            ("failing", counts.failing),
            ("given-up", counts.given_up),
        ):
            self._metrics.mails.labels(state).set(number)
