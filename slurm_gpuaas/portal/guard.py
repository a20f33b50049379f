"""What stands around every request: its number, the headers that every answer carries, and how large a body may be."""

from __future__ import annotations

import asyncio
import secrets
import string
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import quote_from_bytes

import structlog
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slurm_gpuaas.portal.visit import REQUEST_ID

CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS: Final = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: browsers then send "Origin: null" with our own forms, and the check of Origin refuses them.
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=(), interest-cohort=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
HSTS: Final = "max-age=31536000"
MAX_BODY_BYTES: Final = 8 * 2**20
"""A site's report of a week takes most; no form comes near it."""
BODY_S: Final = 120.0
"""A body is there after so long, or never: who sends byte by byte must not keep connections."""

log = structlog.get_logger(__name__)

Observe = Callable[[str, int, float], None]
"""Method, status and seconds of a request that was answered."""


class BodyCutOff(Exception):
    """More came than is taken, or it came too slowly; what the application makes of it is not the answer."""


class Guard:
    """Args:
    protected: browsers are told to use TLS only.
    too_large: answers a request whose body is over the limit.
    too_slow: answers one whose body did not come in time.
    """

    def __init__(
        self, app: ASGIApp, *, protected: bool, observe: Observe, too_large: ASGIApp, too_slow: ASGIApp
    ) -> None:
        self._app = app
        self._headers = HEADERS | ({"Strict-Transport-Security": HSTS} if protected else {})
        self._observe = observe
        self._too_large = too_large
        self._too_slow = too_slow

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        query: bytes = scope["query_string"]
        if not query.isascii():  # a client that does not escape: text everywhere below
            scope["query_string"] = quote_from_bytes(query, safe=string.punctuation).encode()
        number = secrets.token_hex(8)
        scope[REQUEST_ID] = number
        began, status, read = time.perf_counter(), 500, 0
        until: float | None = asyncio.get_running_loop().time() + BODY_S
        refusal: ASGIApp | None = None
        structlog.contextvars.bind_contextvars(request=number)

        async def counted() -> Message:
            nonlocal read, until, refusal
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                refusal = self._too_slow
                raise BodyCutOff from None
            read += len(message.get("body", b""))
            if read > MAX_BODY_BYTES:
                refusal = self._too_large
                raise BodyCutOff
            if not message.get("more_body", False):
                until = None  # all is there; streams then wait here for their reader to go
            return message

        async def with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
                headers["X-Request-ID"] = number
            await send(message)

        async def unless_cut_off(message: Message) -> None:
            if refusal is None:
                await with_headers(message)

        try:
            await self._app(scope, counted, unless_cut_off)
        except BodyCutOff:
            log.info("body.cut-off", read=read, limit=MAX_BODY_BYTES, seconds=BODY_S, path=scope["path"])
        finally:
            if refusal is not None:
                await refusal(scope, receive, with_headers)
            seconds = time.perf_counter() - began
            self._observe(scope["method"], status, seconds)
            log.debug("request", method=scope["method"], path=scope["path"], status=status, seconds=round(seconds, 4))
            structlog.contextvars.unbind_contextvars("request")
