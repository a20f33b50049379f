"""Brings spooled events to gpuaasd: signed when they are sent, in order a node, over a connection that stays open.

The standard library's HTTP client is enough for one request shape, and keeps the agent small on a node that others pay
for.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

import structlog

from slurm_gpuaas.agent.node import NodeAgent
from slurm_gpuaas.api.node_events import MAX_BATCH, NODE_EVENTS_PATH, NodeEventBatch
from slurm_gpuaas.api.node_samples import NODE_SAMPLES_PATH
from slurm_gpuaas.api.signing import NODES, sign
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.telemetry import SampleBatch

FIRST_RETRY_S: Final = 0.25
LONGEST_RETRY_S: Final = 10.0
_NEVER: Final = {HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY}
"""Answers that no later attempt can change."""

log = structlog.get_logger(__name__)


class Undelivered(Exception):
    """gpuaasd could not be reached or did not take the message now."""


class Rejected(Exception):
    """gpuaasd will never take this message."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class DaemonClient:
    """One open connection to gpuaasd. For one thread.

    Args:
        address: `unix:PATH`, `https://HOST:PORT` or `http://HOST:PORT`.
        ca: PEM file that signs the daemon's certificate, None for the system's authorities.
    """

    def __init__(self, address: str, *, ca: str | None, timeout: float, clock: Clock) -> None:
        self._address = address
        self._timeout = timeout
        self._clock = clock
        self._tls = ssl.create_default_context(cafile=ca) if address.startswith("https:") else None
        self._connection: http.client.HTTPConnection | None = None

    def post(self, batch: NodeEventBatch | SampleBatch, key: bytes) -> None:
        """Send one batch.

        Raises:
            Undelivered: try again later.
            Rejected: do not.
        """
        path = NODE_SAMPLES_PATH if isinstance(batch, SampleBatch) else NODE_EVENTS_PATH
        body = batch.model_dump_json().encode()
        headers = sign(NODES, key, method="POST", target=path, sender=batch.node, body=body, now=self._clock.now())
        headers["Content-Type"] = "application/json"
        used = self._connection is not None
        try:
            status, answer = self._exchange(path, body, headers)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if not used:
                raise Undelivered(f"{self._address}: {error or type(error).__name__}") from None
            # A server may close a connection that was idle; that says nothing about a new one.
            return self.post(batch, key)
        if status in _NEVER:
            raise Rejected(f"HTTP {status}: {_sentence(answer)}")
        if not 200 <= status < 300:
            raise Undelivered(f"{self._address}: HTTP {status}: {_sentence(answer)}")
        return None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _exchange(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        if self._connection is None:
            self._connection = self._connect()
        self._connection.request("POST", path, body, headers)
        response = self._connection.getresponse()
        return response.status, response.read()

    def _connect(self) -> http.client.HTTPConnection:
        if self._address.startswith("unix:"):
            return _UnixConnection(self._address.removeprefix("unix:"), self._timeout)
        url = urlsplit(self._address)
        host = url.hostname or "localhost"
        if self._tls is not None:
            return http.client.HTTPSConnection(host, url.port, timeout=self._timeout, context=self._tls)
        return http.client.HTTPConnection(host, url.port, timeout=self._timeout)


class Delivery:
    """One thread that delivers for all nodes of the process.

    Args:
        key_of: the signing key of a node.
        heartbeat: seconds after which a silent node says that it lives.
    """

    def __init__(
        self,
        client: DaemonClient,
        *,
        key_of: Callable[[NodeAgent], bytes],
        heartbeat: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._key_of = key_of
        self._heartbeat = heartbeat
        self._monotonic = monotonic
        self._changed = threading.Condition()
        self._due: dict[NodeAgent, float] = {}
        """When each node sends next: at once when it has events, else its heartbeat or its next attempt."""
        self._retry: dict[NodeAgent, float] = {}
        self._one_by_one: dict[NodeAgent, int] = {}
        """How many of a node's oldest events were in a batch that was rejected."""
        self._hurried = False
        """An event came since it was last looked who is due."""
        self._stopping = False
        self._told = ""
        self._samples_told = ""
        self._thread = threading.Thread(target=self._run, name="delivery", daemon=True)

    def add(self, agents: Iterable[NodeAgent]) -> None:
        with self._changed:
            now = self._monotonic()
            for number, agent in enumerate(agents):
                # Heartbeats are spread, so that many nodes of one process do not speak at once.
                self._due[agent] = now if len(agent.spool) else now + (number % 60) / 60 * self._heartbeat
            self._changed.notify()

    def hurry(self, agent: NodeAgent) -> None:
        """The node has an event. While an attempt of it is being waited out, that goes on."""
        with self._changed:
            if agent not in self._retry:
                self._due[agent] = self._monotonic()
                self._hurried = True
                self._changed.notify()

    def start(self) -> None:
        self._thread.start()

    def stop(self, within: float) -> None:
        """Let what is being sent end."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(within)

    def flush(self) -> bool:
        """Deliver all that waits, in this thread. False when something could not be."""
        delivered = True
        for agent in tuple(self._due):
            while delivered and (len(agent.spool) or agent.inventory):
                delivered = self._deliver(agent)
        return delivered

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._stopping and not self._ready():
                    due = min(self._due.values(), default=None)
                    self._changed.wait(None if due is None else max(0.0, due - self._monotonic()))
                if self._stopping:
                    return
                ready = self._ready()
                self._hurried = False
            for agent in ready:
                if self._hurried and not agent.spool:  # whoever has events comes first
                    break
                self._deliver(agent)

    def _ready(self) -> list[NodeAgent]:
        """Who is due, those with events first."""
        now = self._monotonic()
        return sorted((agent for agent, due in self._due.items() if due <= now), key=lambda agent: not agent.spool)

    def _deliver(self, agent: NodeAgent) -> bool:
        """Send what a node has, or its heartbeat; then say when it sends next."""
        try:
            more = self._send(agent)
        except Undelivered as error:
            wait = min(LONGEST_RETRY_S, self._retry.get(agent, FIRST_RETRY_S / 2) * 2)
            if str(error) != self._told:
                self._told = str(error)
                log.warning("delivery.failed", error=str(error), waiting=len(agent.spool))
            with self._changed:
                self._retry[agent] = wait
                self._due[agent] = self._monotonic() + wait
            return False
        if self._told:
            log.info("delivery.recovered", node=agent.node)
            self._told = ""
        with self._changed:
            now = self._monotonic()
            # It works again: whoever waited out an attempt need not wait any longer, and may have events.
            self._hurried = self._hurried or bool(self._retry)
            self._due.update(dict.fromkeys(self._retry, now))
            self._retry.clear()
            self._due[agent] = now if more or len(agent.spool) else now + self._heartbeat
        return True

    def _send(self, agent: NodeAgent) -> bool:
        """One batch: events, else what GPUs the node has (by itself: an older gpuaasd that refuses it must not refuse
        events with it), else samples, else nothing, which says that the node lives. True when more waits.

        One faulty event must not cost the others: those of a rejected batch are sent again one by one.
        """
        if (inventory := agent.inventory) is not None and not agent.spool:
            try:
                self._client.post(inventory, self._key_of(agent))
            except Rejected as error:
                log.warning("delivery.inventory_rejected", node=agent.node, error=str(error))
            agent.inventory_told(inventory)
            return True
        one_by_one = self._one_by_one.get(agent, 0)
        with agent.lock:
            events = agent.spool.head(1 if one_by_one else MAX_BATCH)
        if not events and self._send_samples(agent):
            return len(agent.samples) > 0
        why = None
        try:
            self._client.post(NodeEventBatch(node=agent.node, events=tuple(events)), self._key_of(agent))
        except Rejected as error:
            log.warning("delivery.rejected", node=agent.node, events=len(events), error=str(error))
            if len(events) > 1:
                self._one_by_one[agent] = len(events)
                return True
            why = str(error)
        self._one_by_one[agent] = max(0, one_by_one - 1)
        return agent.sent(len(events), rejected=why)

    def _send_samples(self, agent: NodeAgent) -> bool:
        """One batch of samples; false when none waits, or gpuaasd did not take it. They wait for the next heartbeat
        then: a failure of theirs must never hold up events."""
        if (head := agent.samples.head()) is None:
            return False
        batch, end = head
        try:
            self._client.post(batch, self._key_of(agent))
        except Rejected as error:
            agent.samples.done(end)
            self._tell_of_samples(agent, f"{error}; they are dropped")
            return False
        except Undelivered as error:
            self._tell_of_samples(agent, str(error))
            return False
        agent.samples.done(end)
        self._samples_told = ""
        return True

    def _tell_of_samples(self, agent: NodeAgent, error: str) -> None:
        """Once, until it works again."""
        if not self._samples_told:
            self._samples_told = error
            log.warning("samples.undelivered", node=agent.node, error=error, waiting=len(agent.samples))


def _sentence(answer: bytes) -> str:
    """The message of a problem document, or the beginning of whatever came."""
    try:
        problem = json.loads(answer)
    except ValueError:
        problem = None
    if isinstance(problem, dict) and (said := problem.get("detail") or problem.get("title") or problem.get("message")):
        return str(said)[:300]
    return answer[:200].decode("utf-8", "replace")
