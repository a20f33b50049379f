"""What stands around every request: its number, the headers that every answer carries, and how large a body may be."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Final

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

log = structlog.get_logger(__name__)

Observe = Callable[[str, int, float], None]
"""Method, status and seconds of a request that was answered."""


class BodyCutOff(Exception):
    """More came than is taken; what the application makes of it is not the answer."""


class Guard:
    """Args:
    protected: browsers are told to use TLS only.
    too_large: answers a request whose body is over the limit.
    """

    def __init__(self, app: ASGIApp, *, protected: bool, observe: Observe, too_large: ASGIApp) -> None:
        self._app = app
        self._headers = HEADERS | ({"Strict-Transport-Security": HSTS} if protected else {})
        self._observe = observe
        self._too_large = too_large

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        number = secrets.token_hex(8)
        scope[REQUEST_ID] = number
        began, status, read = time.perf_counter(), 500, 0
        structlog.contextvars.bind_contextvars(request=number)

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > MAX_BODY_BYTES:
                raise BodyCutOff
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
            if read <= MAX_BODY_BYTES:
                await with_headers(message)

        try:
            await self._app(scope, counted, unless_cut_off)
        except BodyCutOff:
            log.info("body.cut-off", limit=MAX_BODY_BYTES, path=scope["path"])
        finally:
            if read > MAX_BODY_BYTES:
                await self._too_large(scope, receive, with_headers)
            seconds = time.perf_counter() - began
            self._observe(scope["method"], status, seconds)
            log.debug("request", method=scope["method"], path=scope["path"], status=status, seconds=round(seconds, 4))
            structlog.contextvars.unbind_contextvars("request")
