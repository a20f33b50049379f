"""Requests to an application in this process, without a socket: quick, and a stream of events ends with its head."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from starlette.types import ASGIApp, Message


@dataclass(frozen=True, slots=True)
class Answered:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Asgi:
    """One event loop for all requests; close it."""

    app: ASGIApp
    host: str = "gpu.example.org"
    runner: asyncio.Runner = field(default_factory=asyncio.Runner)

    def close(self) -> None:
        self.runner.close()

    def ask(self, method: str, target: str, *, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Answered:
        return self.runner.run(self._ask(method, target, headers or {}, body))

    def form(self, target: str, fields: Mapping[str, Any], headers: Mapping[str, str]) -> Answered:
        kind = {"content-type": "application/x-www-form-urlencoded"}
        return self.ask("POST", target, headers={**headers, **kind}, body=urlencode(fields, doseq=True).encode())

    async def _ask(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answered:
        path, _, query = target.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "https",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [
                (b"host", self.host.encode()),
                (b"content-length", str(len(body)).encode()),
                *((name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()),
            ],
            "client": ("192.0.2.7", 40_000),
            "server": ("192.0.2.1", 443),
        }
        sent = [{"type": "http.request", "body": body, "more_body": False}]
        got: list[Message] = []
        over = asyncio.Event()

        async def receive() -> Message:
            if sent:
                return sent.pop()
            await over.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            got.append(message)
            stream = any(value.startswith(b"text/event-stream") for _, value in got[0]["headers"])
            if stream or not message.get("more_body", message["type"] == "http.response.start"):
                over.set()

        running = asyncio.ensure_future(self.app(scope, receive, send))
        ended = asyncio.ensure_future(over.wait())
        await asyncio.wait({running, ended}, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if not running.done():
            await asyncio.wait({running}, timeout=2)
        if running.done() and not got:
            running.result()
        running.cancel()
        head, *rest = got
        return Answered(
            status=head["status"],
            headers={name.decode(): value.decode("latin-1") for name, value in head["headers"]},
            body=b"".join(one.get("body", b"") for one in rest),
        )
