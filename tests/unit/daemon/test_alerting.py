"""Alerts on their way: a real HTTP server and a real SMTP server on this machine."""

from __future__ import annotations

import email
import email.policy
import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from slurm_gpuaas.daemon.alerting import Alerting, Mail, Webhook, channels
from slurm_gpuaas.daemon.config import AlertsConfig, MailConfig, TicketConfig, WebhookConfig
from slurm_gpuaas.daemon.operations import Agents
from slurm_gpuaas.domain.incidents import Drain, Incident, IncidentState
from slurm_gpuaas.domain.names import ClusterName, NodeName
from slurm_gpuaas.store import Store
from tests.fakes import FakeClock, make_node
from tests.stores import new_store

MINI = ClusterName("mini")
TOKEN = "s3cret-token"


class Hook(HTTPServer):
    """Keeps what it was sent; answers `status`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Posted)
        self.status = 204
        self.hates = ""
        """A document with this in it is refused."""
        self.posts: list[tuple[str | None, dict[str, Any]]] = []


class _Posted(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posts.append((self.headers["Authorization"], json.loads(body)))
        hated = self.server.hates and self.server.hates in body.decode()
        self.send_response(422 if hated else self.server.status)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


class Post(socketserver.TCPServer):
    """As much of SMTP (RFC 5321) as a delivery takes."""

    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Delivered)
        self.mails: list[bytes] = []
        self.recipients: list[str] = []
        self.refuses = False


class _Delivered(socketserver.StreamRequestHandler):
    server: Post

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        while line := self.rfile.readline():
            verb = line.split()[0].upper() if line.split() else b""
            if verb == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                text = b""
                while (part := self.rfile.readline()) not in (b".\r\n", b""):
                    text += part
                self.server.mails.append(text)
            elif verb == b"RCPT":
                self.server.recipients.append(line.decode().strip().upper())
            if verb == b"MAIL" and self.server.refuses:
                self.wfile.write(b"451 later\r\n")
                continue
            self.wfile.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 ok\r\n")
            if verb == b"QUIT":
                return


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def hook() -> Iterator[Hook]:
    server = Hook()
    with serving(server):
        yield server


@pytest.fixture
def post() -> Iterator[Post]:
    server = Post()
    with serving(server):
        yield server


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = new_store(tmp_path / "store.db")
    yield store
    store.close()


def webhook(hook: Hook, tmp_path: Path) -> Webhook:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    url = f"http://127.0.0.1:{hook.server_port}/hook"
    return Webhook(WebhookConfig(url=url, token_file=tmp_path / "token"), MINI)


def mail(post: Post) -> Mail:
    config = MailConfig(
        host="127.0.0.1",
        port=post.server_address[1],
        sender="gpuaas@example.org",
        to=("a@example.org", "b@example.org"),
    )
    return Mail(config, MINI)


def alerting(store: Store, clock: FakeClock, *channels: Webhook | Mail, agents: Agents | None = None) -> Alerting:
    return Alerting(
        store=store,
        clock=clock,
        agents=agents or Agents(),
        silent_after=timedelta(minutes=3),
        renotify=timedelta(hours=6),
        channels=channels,
    )


def break_node(store: Store, clock: FakeClock, state: IncidentState = IncidentState.DRAINING) -> None:
    store.put_incident(
        Incident(
            id="i1", node=NodeName("n1"), state=state, drain=Drain.NOW, rule="",
            headline="XID 79\r\nBcc: x@example.org", opened_at=clock.now(), updated_at=clock.now(),
        )
    )  # fmt: skip


def test_the_webhook_gets_the_documented_document_once_and_then_its_end(
    store: Store, hook: Hook, tmp_path: Path
) -> None:
    clock = FakeClock()
    teller = alerting(store, clock, webhook(hook, tmp_path))
    break_node(store, clock)
    assert (teller.tick(), teller.tick()) == (1, 0)
    restarted = alerting(store, clock, webhook(hook, tmp_path))
    assert restarted.tick() == 0, "a restart repeats nothing"
    ((authorization, document),) = hook.posts
    assert authorization == f"Bearer {TOKEN}"
    assert document == {
        "version": 1,
        "cluster": "mini",
        "sent_at": "2027-01-04T09:00:00+00:00",
        "alerts": [
            {
                "key": "incident:i1",
                "status": "firing",
                "again": False,
                "kind": "incident",
                "severity": "critical",
                "summary": "n1: XID 79 Bcc: x@example.org",
                "nodes": ["n1"],
                "incident": "i1",
                "raised_at": "2027-01-04T09:00:00+00:00",
                "resolved_at": None,
            }
        ],
    }
    clock.forward(timedelta(hours=1))
    break_node(store, clock, IncidentState.CLOSED)
    assert restarted.tick() == 1
    (over,) = hook.posts[-1][1]["alerts"]
    assert (over["status"], over["resolved_at"]) == ("resolved", "2027-01-04T10:00:00+00:00")
    assert store.alerts.all() == ()


def test_a_webhook_that_fails_is_tried_again_later_and_later_and_keeps_no_mail_waiting(
    store: Store, hook: Hook, post: Post, tmp_path: Path
) -> None:
    clock = FakeClock()
    teller = alerting(store, clock, webhook(hook, tmp_path), mail(post))
    hook.status = 503
    break_node(store, clock)
    with capture_logs() as logs:
        assert teller.tick() == 1
    assert TOKEN not in str(logs)
    assert [(line["event"], line["error"]) for line in logs] == [("alerts.not-sent", "The webhook answered 503.")]
    assert (len(hook.posts), len(post.mails)) == (1, 1)
    teller.tick()
    assert len(hook.posts) == 1, "it waits"
    clock.forward(timedelta(seconds=16))
    teller.tick()
    clock.forward(timedelta(seconds=16))
    teller.tick()
    assert len(hook.posts) == 2, "longer each time"
    hook.status = 200
    clock.forward(timedelta(seconds=16))
    assert teller.tick() == 1
    assert len(post.mails) == 1


def test_an_alert_that_the_webhook_never_wants_holds_up_no_other(store: Store, hook: Hook, tmp_path: Path) -> None:
    clock, agents = FakeClock(), Agents()
    store.put_nodes([make_node("n2")], at=clock.now())
    agents.saw(NodeName("n2"), clock.now() - timedelta(hours=1))
    break_node(store, clock)
    hook.hates = "XID 79"
    teller = alerting(store, clock, webhook(hook, tmp_path), agents=agents)
    assert teller.tick() == 1
    assert {alert.condition.key: bool(alert.told) for alert in store.alerts.all()} == {
        "agents": True,
        "incident:i1": False,
    }
    hook.hates = ""
    clock.forward(timedelta(minutes=1))
    assert teller.tick() == 1, "it is tried again"


def test_a_mail_names_all_that_is_new_and_no_header_comes_from_evidence(store: Store, post: Post) -> None:
    clock = FakeClock()
    break_node(store, clock)
    agents = Agents()
    store.put_nodes([make_node("n2")], at=clock.now())
    agents.saw(NodeName("n2"), clock.now() - timedelta(hours=1))
    assert alerting(store, clock, mail(post), agents=agents).tick() == 2
    (raw,) = post.mails
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert message["Subject"] == "[mini] n1: XID 79 Bcc: x@example.org and 1 more"
    assert message["Bcc"] is None
    assert post.recipients == ["RCPT TO:<A@EXAMPLE.ORG>", "RCPT TO:<B@EXAMPLE.ORG>"]
    text = message.get_content()
    assert "[critical] n1: XID 79" in text and "gpuaas incident show i1" in text
    assert "[warning] Silent node agents: 1." in text


def test_a_mail_server_that_says_later_is_asked_later(store: Store, post: Post) -> None:
    clock = FakeClock()
    post.refuses = True
    teller = alerting(store, clock, mail(post))
    break_node(store, clock)
    assert teller.tick() == 0
    post.refuses = False
    clock.forward(timedelta(minutes=1))
    assert teller.tick() == 1


def test_an_agent_that_was_silent_before_a_restart_is_silent_until_it_is_heard(
    store: Store, hook: Hook, tmp_path: Path
) -> None:
    clock, agents = FakeClock(), Agents()
    store.put_nodes([make_node("n2")], at=clock.now())
    agents.saw(NodeName("n2"), clock.now() - timedelta(hours=1))
    assert alerting(store, clock, webhook(hook, tmp_path), agents=agents).tick() == 1
    heard = Agents()
    restarted = alerting(store, clock, webhook(hook, tmp_path), agents=heard)
    assert restarted.tick() == 0
    heard.saw(NodeName("n2"), clock.now())
    assert restarted.tick() == 1
    assert hook.posts[-1][1]["alerts"][0]["status"] == "resolved"


def test_nobody_waits_for_the_agent_of_a_node_that_slurm_has_no_more(store: Store, hook: Hook, tmp_path: Path) -> None:
    clock, agents = FakeClock(), Agents()
    store.put_nodes([make_node("n2")], at=clock.now())
    agents.saw(NodeName("n2"), clock.now() - timedelta(hours=1))
    teller = alerting(store, clock, webhook(hook, tmp_path), agents=agents)
    assert teller.tick() == 1
    store.put_nodes([make_node("n3")], at=clock.now())
    assert teller.tick() == 1
    assert hook.posts[-1][1]["alerts"][0]["status"] == "resolved"


def test_a_missing_secret_is_said_without_asking_the_webhook(store: Store, hook: Hook, tmp_path: Path) -> None:
    clock = FakeClock()
    teller = alerting(store, clock, webhook(hook, tmp_path))
    (tmp_path / "token").unlink()
    break_node(store, clock)
    with capture_logs() as logs:
        assert teller.tick() == 0
    assert "cannot be read (FileNotFoundError)" in logs[0]["error"]
    assert hook.posts == []


def test_a_password_goes_to_other_machines_encrypted_only(tmp_path: Path) -> None:
    fields = {"sender": "a@example.org", "to": ["b@example.org"], "password_file": tmp_path / "password"}
    with pytest.raises(ValueError, match="in the clear: set starttls"):
        MailConfig.model_validate({"host": "mail.example.org", **fields})
    MailConfig.model_validate({"host": "mail.example.org", "starttls": True, **fields})


def test_a_token_goes_to_other_machines_encrypted_only(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    for section in (WebhookConfig, TicketConfig):
        with pytest.raises(ValueError, match="in the clear: use https"):
            section.model_validate({"url": "http://alerts.example.org/hook", "token_file": tmp_path / "token"})
        for url in ("https://alerts.example.org/hook", "http://127.0.0.1:9/hook"):
            section.model_validate({"url": url, "token_file": tmp_path / "token"})
        section.model_validate({"url": "http://alerts.example.org/hook"})


def test_without_webhook_and_mail_there_is_no_channel() -> None:
    assert channels(AlertsConfig(), MINI) == []
