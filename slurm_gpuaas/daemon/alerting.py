"""Sends alerts to a webhook and by e-mail: what the store says a channel has not been told of yet.

A channel that fails is tried again later, waiting longer each time; the other one is not kept waiting. Secrets are read
from their files at each sending and never logged.
"""

from __future__ import annotations

import json
import smtplib
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from pathlib import Path
from typing import Any, Final, Protocol

import httpx2
import structlog

from slurm_gpuaas import __version__
from slurm_gpuaas.daemon.config import AlertsConfig, MailConfig, WebhookConfig
from slurm_gpuaas.daemon.operations import Agents
from slurm_gpuaas.domain.alerts import AlertKind
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.errors import Unavailable
from slurm_gpuaas.domain.incidents import OPEN_STATES
from slurm_gpuaas.domain.names import ClusterName, NodeName
from slurm_gpuaas.health.alerts import Notice, conditions, done_with, due, noted, step, still
from slurm_gpuaas.health.breaker import RESET, TRIPPED
from slurm_gpuaas.health.rma import OPEN_CASES
from slurm_gpuaas.health.spares import ENOUGH, THIN
from slurm_gpuaas.store import Store

FIRST_RETRY: Final = timedelta(seconds=15)
LONGEST_RETRY: Final = timedelta(minutes=15)
MOST_AT_ONCE: Final = 100
"""Notices in one message; the rest follows with the next."""
MOST_READ: Final = 10_000
"""Audit entries of one kind that are looked at."""
TIMEOUT_S: Final = 10.0
NOT_WANTED: Final = frozenset({400, 413, 422})
"""HTTP statuses that blame the document."""

log = structlog.get_logger(__name__)


class NotWanted(Unavailable):
    """The channel answers, and does not want what it was sent."""


class Channel(Protocol):
    """Somewhere people look. `name` is kept with each alert."""

    name: str

    def send(self, notices: Sequence[Notice], now: datetime) -> None:
        """
        Raises:
            NotWanted: something in it is refused.
            Unavailable: it was not taken.
        """
        ...


@dataclass(slots=True)
class _Retry:
    failures: int = 0
    at: datetime | None = None


@dataclass(kw_only=True)
class Alerting:
    """Args:
    silent_after: an agent not heard of for so long is silent.
    """

    store: Store
    clock: Clock
    agents: Agents
    silent_after: timedelta
    renotify: timedelta
    channels: Sequence[Channel]
    _retries: dict[str, _Retry] = field(default_factory=dict)

    def tick(self) -> int:
        """How many notices were sent."""
        now = self.clock.now()
        known = self.store.alerts.all()
        newest = self.store.audit.newest
        before = next((one.condition.nodes for one in known if one.condition.kind is AlertKind.AGENTS), ())
        alerts = {
            alert.condition.key: alert
            for alert in step(
                known,
                conditions(
                    self.store.incidents(states=OPEN_STATES, limit=100_000),
                    breakers=still(newest(action=TRIPPED, limit=MOST_READ), newest(action=RESET, limit=MOST_READ)),
                    spares=still(newest(action=THIN, limit=MOST_READ), newest(action=ENOUGH, limit=MOST_READ)),
                    cases=self.store.rma.find(states=OPEN_CASES),
                    silent=self._silent(now, before),
                ),
                now,
            )
        }
        # Before anything is sent: what a channel is told of outlives a crash with its moment.
        self._keep(known, alerts)
        sent = 0
        for channel in self.channels:
            notices = due(alerts.values(), channel.name, now, self.renotify)[:MOST_AT_ONCE]
            if taken := self._send(channel, notices, now):
                sent += len(taken)
                told = [noted(notice.alert, channel.name, now) for notice in taken]
                alerts |= {alert.condition.key: alert for alert in told}
                self.store.alerts.put(told)
        names = [channel.name for channel in self.channels]
        over = [key for key, alert in alerts.items() if done_with(alert, names)]
        if over:
            self.store.alerts.put((), done_with=over)
        return sent

    def _keep(self, known: Sequence[Any], alerts: Mapping[str, Any]) -> None:
        same = {alert.condition.key: alert for alert in known}
        changed = [alert for key, alert in alerts.items() if same.get(key) != alert]
        if changed:
            self.store.alerts.put(changed)

    def _silent(self, now: datetime, before: Sequence[NodeName]) -> list[NodeName]:
        """Agents that were heard and are not any more. After a restart nobody was heard yet: who was silent stays so
        until heard. Of a node that Slurm has no more nobody waits to hear."""
        seen = dict(self.agents.all())
        silent = {node for node, at in seen.items() if now - at > self.silent_after}
        return sorted((silent | {node for node in before if node not in seen}) & self.store.node_names())

    def _send(self, channel: Channel, notices: Sequence[Notice], now: datetime) -> Sequence[Notice]:
        """Those that were taken. One that the channel does not want holds up no other."""
        retry = self._retries.setdefault(channel.name, _Retry())
        if not notices or (retry.at is not None and now < retry.at):
            return ()
        taken: list[Notice] = []
        trouble: Unavailable | None = None
        try:
            channel.send(notices, now)
            taken.extend(notices)
        except NotWanted as error:
            trouble = error
            for notice in notices if len(notices) > 1 else ():
                try:
                    channel.send([notice], now)
                    taken.append(notice)
                except NotWanted:
                    log.warning("alerts.not-wanted", channel=channel.name, key=notice.alert.condition.key)
                except Unavailable as away:
                    trouble = away
                    break
        except Unavailable as error:
            trouble = error
        if trouble is None:
            self._retries[channel.name] = _Retry()
            return taken
        wait = min(FIRST_RETRY * 2 ** min(retry.failures, 10), LONGEST_RETRY)
        retry.failures, retry.at = retry.failures + 1, now + wait
        again = int(wait.total_seconds())
        log.warning("alerts.not-sent", channel=channel.name, error=trouble.message, again_in_s=again)
        return taken


def channels(config: AlertsConfig, cluster: ClusterName) -> list[Channel]:
    """Those that the configuration names."""
    found: list[Channel] = []
    if config.webhook is not None:
        found.append(Webhook(config.webhook, cluster))
    if config.mail is not None:
        found.append(Mail(config.mail, cluster))
    return found


def payload(notices: Sequence[Notice], cluster: ClusterName, now: datetime) -> dict[str, Any]:
    """The webhook's JSON document, version 1 (docs/reference/alerts.md)."""
    return {
        "version": 1,
        "cluster": cluster,
        "sent_at": _utc(now),
        "alerts": [
            {
                "key": notice.alert.condition.key,
                "status": "resolved" if notice.resolved else "firing",
                "again": notice.again,
                "kind": notice.alert.condition.kind.value,
                "severity": notice.alert.condition.severity.value,
                "summary": notice.alert.condition.summary,
                "nodes": list(notice.alert.condition.nodes),
                "incident": notice.alert.condition.incident,
                "raised_at": _utc(notice.alert.raised_at),
                "resolved_at": None if notice.alert.resolved_at is None else _utc(notice.alert.resolved_at),
            }
            for notice in notices
        ],
    }


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")


class Webhook:
    """POST of `payload`; any 2xx is a yes. A redirect is none: it would take the token elsewhere."""

    name = "webhook"

    def __init__(self, config: WebhookConfig, cluster: ClusterName) -> None:
        self._config = config
        self._cluster = cluster

    def send(self, notices: Sequence[Notice], now: datetime) -> None:
        headers = {"Content-Type": "application/json", "User-Agent": f"gpuaasd/{__version__}"}
        if self._config.token_file is not None:
            headers["Authorization"] = f"Bearer {_secret(self._config.token_file)}"
        body = json.dumps(payload(notices, self._cluster, now), ensure_ascii=False).encode()
        try:
            answer = httpx2.post(self._config.url, content=body, headers=headers, timeout=TIMEOUT_S)
        except httpx2.HTTPError as error:
            raise Unavailable(f"The webhook does not answer ({type(error).__name__}).") from None
        if answer.status_code in NOT_WANTED:
            raise NotWanted(f"The webhook does not want what it was sent ({answer.status_code}).")
        if not answer.is_success:
            raise Unavailable(f"The webhook answered {answer.status_code}.")


class Mail:
    """One message for all notices of a tick."""

    name = "mail"

    def __init__(self, config: MailConfig, cluster: ClusterName) -> None:
        self._config = config
        self._cluster = cluster

    def send(self, notices: Sequence[Notice], now: datetime) -> None:
        config = self._config
        password = None if config.password_file is None else _secret(config.password_file)
        try:
            with smtplib.SMTP(config.host, config.port, timeout=TIMEOUT_S) as server:
                if config.starttls:
                    server.starttls(context=ssl.create_default_context())
                if password is not None:
                    server.login(config.user or config.sender, password)
                refused = server.send_message(message(notices, config, self._cluster, now))
        except (OSError, smtplib.SMTPException) as error:
            # The text of an SMTP error may repeat what was said to log in.
            raise Unavailable(f"The mail server {config.host} took no message ({type(error).__name__}).") from None
        if refused:
            log.warning("alerts.recipients-refused", recipients=sorted(refused))


def message(notices: Sequence[Notice], config: MailConfig, cluster: ClusterName, now: datetime) -> EmailMessage:
    mail = EmailMessage()
    mail["From"], mail["To"] = config.sender, ", ".join(config.to)
    mail["Date"], mail["Message-ID"] = format_datetime(now), make_msgid(domain="gpuaasd.invalid")
    mail["Auto-Submitted"] = "auto-generated"
    first = notices[0]
    more = f" and {len(notices) - 1} more" if len(notices) > 1 else ""
    mail["Subject"] = f"[{cluster}] {'Over: ' if first.resolved else ''}{first.alert.condition.summary[:120]}{more}"
    mail.set_content("\n".join(_paragraph(notice) for notice in notices))
    return mail


def _paragraph(notice: Notice) -> str:
    alert, condition = notice.alert, notice.alert.condition
    status = "over" if notice.resolved else "still so" if notice.again else condition.severity.value
    lines = [f"[{status}] {condition.summary}", f"  since {_utc(alert.raised_at)}"]
    if alert.resolved_at is not None:
        lines.append(f"  until {_utc(alert.resolved_at)}")
    if condition.incident:
        lines.append(f"  gpuaas incident show {condition.incident}")
    if len(condition.nodes) > 1:
        lines.append(f"  nodes: {', '.join(condition.nodes)}")
    return "\n".join(lines) + "\n"


def _secret(file: Path) -> str:
    """
    Raises:
        Unavailable: it cannot be read; the message never holds what is in it.
    """
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Unavailable(f"The secret in {file} cannot be read ({type(error).__name__}).") from None
    if not text or not text.isprintable():
        raise Unavailable(f"The secret in {file} is empty or no single line.")
    return text
