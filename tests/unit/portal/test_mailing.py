"""Mails on their way: written for every kind, to a real SMTP server, at least once, no header of a stranger's."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from email import message_from_bytes
from email.header import decode_header, make_header
from email.message import Message
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from slurm_gpuaas.domain.accounts import Language
from slurm_gpuaas.domain.errors import InvalidInput, Unavailable
from slurm_gpuaas.domain.idle import Said
from slurm_gpuaas.domain.names import PersonId
from slurm_gpuaas.domain.people import PortalRole, Source
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.pool.work import Mail
from slurm_gpuaas.portal.config import MailConfig
from slurm_gpuaas.portal.mail_texts import TEXTS, both, letter
from slurm_gpuaas.portal.mailing import FIRST_WAIT, MOST_REFUSALS, Mailer
from slurm_gpuaas.portal.metrics import Metrics
from slurm_gpuaas.portal.words import Dictionary
from tests.pools import ORIGIN, TestPortal

WHY = Said.of(told("Over {days} days {allocated} % of it was allocated.", days=14, allocated=3)).model_dump(mode="json")
PARTS: dict[str, Any] = {
    "application": "a2027-00001", "offer": "o2027-00001", "grant": "g2027-00001", "lease": "l2027-00001",
    "appeal": "e2027-00001", "share": "naver.h200.government", "project": "naver-l2027-00001", "gpus": 16,
    "proposed": 8, "starts": "2027-02-01", "ends": "2027-04-30", "answer_by": "2027-01-20T15:00:00+00:00",
    "reason": "", "why": WHY,
}  # fmt: skip
DICTIONARY = Dictionary()


@pytest.mark.parametrize("template", list(Mail))
def test_every_mail_is_written_in_both_languages_with_a_link(template: Mail) -> None:
    found = both(DICTIONARY, template, PARTS, ORIGIN)
    korean, english = found.body.split("--------")
    assert re.search("[가-힣]", found.subject) and re.search("[가-힣]", korean)
    assert not re.search("[가-힣]", english)
    assert found.body.count(f"{ORIGIN}/") == 2
    assert "{" not in found.subject + found.body and "\n" not in found.subject
    assert "2027-" not in re.sub(r"\w-?2027-\d{5}", "", found.body), "days as readers write them"


def test_days_reasons_and_figures_are_said_as_readers_write_them() -> None:
    korean = letter(DICTIONARY[Language.KOREAN], Mail.GRANT_SHRUNK, PARTS | {"reason": WHY})
    assert "2027. 4. 30." in korean.body and "14일 동안 3%가 할당되었습니다" in korean.body
    assert letter(DICTIONARY[Language.ENGLISH], Mail.GRANT_SHRUNK, PARTS).body.endswith("No reason was given.")


@pytest.mark.parametrize(("template", "parts"), [("nothing.such", PARTS), (Mail.OFFER_MADE, {"offer": "o2027-00001"})])
def test_what_this_version_cannot_write_is_refused(template: str, parts: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        both(DICTIONARY, template, parts, ORIGIN)


def test_every_mail_has_a_text() -> None:
    assert TEXTS.keys() == set(Mail)


@dataclass
class Postbox:
    """Takes mails of an SMTP server. `says` is what it answers to each, once; then it takes all."""

    got: list[Message] = field(default_factory=list)
    to: list[list[str]] = field(default_factory=list)
    says: list[str] = field(default_factory=list)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        said = self.says.pop(0) if self.says else "250 OK"
        if said.startswith("250"):
            assert isinstance(envelope.content, bytes)
            self.got.append(message_from_bytes(envelope.content))
            self.to.append([str(one) for one in envelope.rcpt_tos])
        return said


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@dataclass
class Post:
    portal: TestPortal

    def __post_init__(self) -> None:
        self.box = Postbox()
        self.port = free_port()
        self.server = Controller(self.box, hostname="127.0.0.1", port=self.port)
        self.server.start()
        self.metrics = Metrics()
        self.mailer = self.to(self.port)

    def to(self, port: int) -> Mailer:
        config = MailConfig.model_validate(
            {"host": "127.0.0.1", "port": port, "security": "none", "sender": "gpu@example.org", "timeout": 5}
        )
        store, clock = self.portal.store, self.portal.clock
        return Mailer(store, clock, config, url=ORIGIN, dictionary=DICTIONARY, metrics=self.metrics)

    def write(self, template: str = Mail.GRANT_STARTED, to: PersonId | None = None, **parts: Any) -> None:
        person = to or self.portal.people[PortalRole.TENANT_ADMIN].id
        self.portal.store.register.outbox.put(person, template, PARTS | parts, at=self.portal.clock.now())

    def metric(self, name: str) -> float:
        found = re.search(rf"^gpuaas_portal_{re.escape(name)} (\S+)$", self.metrics.page().decode(), re.MULTILINE)
        assert found, name
        return float(found[1])


@pytest.fixture
def post(portal: TestPortal) -> Iterator[Post]:
    post = Post(portal)
    yield post
    post.server.stop()


def test_a_mail_is_sent_once_and_says_who_it_is_from_and_for(post: Post) -> None:
    post.write()
    post.mailer.turn()
    post.mailer.turn()
    (mail,) = post.box.got
    assert str(make_header(decode_header(mail["Subject"]))) == "이용권 g2027-00001이(가) 시작되었습니다"
    assert (mail["From"], mail["Auto-Submitted"]) == ("gpu@example.org", "auto-generated")
    assert post.box.to == [["tenant-admin@example.org"]]
    body = mail.get_payload(decode=True)
    assert isinstance(body, bytes) and f"{ORIGIN}/grants/g2027-00001" in body.decode()
    assert (post.metric("mails_sent_total"), post.metric('mails{state="waiting"}')) == (1.0, 0.0)


def test_a_repeat_after_a_crash_is_recognised_by_its_message_id(post: Post) -> None:
    post.write()
    post.write(gpus=8)
    post.mailer.turn()
    store = post.portal.store
    for mail in store.register.outbox.to(post.portal.people[PortalRole.TENANT_ADMIN].id, limit=9):
        with store.transaction():  # as if the process had died before it was written down
            store.register.outbox._set(mail.number, sent_at=None, try_at=post.portal.clock.now())
    post.mailer.turn()
    first, second, again, twice = (mail["Message-ID"] for mail in post.box.got)
    assert (first, second) == (again, twice) and first != second
    assert first.endswith("@gpu.example.org>")


def test_nothing_that_people_write_becomes_a_header(post: Post) -> None:
    evil = "x\r\nBcc: all@example.org"
    post.write(grant=evil)  # stands in the subject
    post.write(reason=evil, template=Mail.GRANT_RECALLED)
    post.mailer.turn()
    (mail,) = post.box.got
    assert mail["Bcc"] is None and "\n" not in str(make_header(decode_header(mail["Subject"])))
    assert post.box.to == [["tenant-admin@example.org"]]
    waiting = post.portal.store.register.outbox.unsent()
    assert [one.fault for one in waiting] == ["Address or subject of mail 1 cannot stand in a mail."]


def test_a_mail_that_is_refused_holds_up_no_other_and_is_tried_later_and_given_up_at_last(post: Post) -> None:
    post.box.says = ["550 No such mailbox"]
    post.write()
    post.write(gpus=8)
    post.mailer.turn()
    assert len(post.box.got) == 1
    (left,) = post.portal.store.register.outbox.unsent()
    assert left.tries == 1 and "550" in left.fault and left.try_at == post.portal.clock.now() + FIRST_WAIT
    post.mailer.turn()
    assert len(post.box.got) == 1, "not before its time"
    assert post.metric('mails{state="failing"}') == 1.0
    for _ in range(MOST_REFUSALS):
        post.box.says = ["550 No such mailbox"]
        post.portal.clock.forward(timedelta(days=1))
        post.mailer.turn()
    assert post.metric('mails{state="given-up"}') == 1.0
    assert post.portal.store.register.outbox.due(post.portal.clock.now() + timedelta(days=99), limit=9) == ()


def test_a_server_that_is_away_costs_no_mail(post: Post) -> None:
    post.write()
    post.server.stop()
    for _ in range(3):
        with pytest.raises(Unavailable, match="does not take mails"):
            post.mailer.turn()
    assert post.metric("mail_failures_total") == 3.0
    post.server = Controller(post.box, hostname="127.0.0.1", port=post.port)
    post.server.start()
    post.mailer.turn()
    assert len(post.box.got) == 1


def test_who_lost_access_gets_no_mail(post: Post) -> None:
    people = post.portal.people
    gone = people[PortalRole.RESEARCHER]
    post.portal.accounts.suspend(people[PortalRole.GOVERNMENT], gone.id, active=False, reason="left", source=Source())
    post.write(to=gone.id)
    post.write(to=PersonId("p-nobody0000"))
    post.mailer.turn()
    assert post.box.got == []
    assert [one.tries for one in post.portal.store.register.outbox.unsent()] == [1, 1]


def test_a_server_without_tls_gets_nothing_when_tls_is_asked_for(post: Post) -> None:
    config = {"host": "127.0.0.1", "port": post.port, "sender": "gpu@example.org", "timeout": 5}
    store, clock = post.portal.store, post.portal.clock
    post.write()
    safe = Mailer(
        store, clock, MailConfig.model_validate(config), url=ORIGIN, dictionary=DICTIONARY, metrics=post.metrics
    )
    with pytest.raises(Unavailable):
        safe.turn()
    assert post.box.got == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"security": "none", "host": "smtp.example.org"},
        {"login": "gpu"},
        {"sender": "gpu@example.org\r\nBcc: x@y.z"},
        {"sender": "nobody"},
        {"port": 0},
    ],
)
def test_a_configuration_that_would_go_wrong_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        MailConfig.model_validate({"host": "smtp.example.org", "sender": "gpu@example.org"} | wrong)
