"""Sockets and HTTP servers of the daemon: uvicorn on sockets that we bind, with the kernel's word on who is calling."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import struct
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, cast

import structlog
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.h11_impl import H11Protocol

from slurm_gpuaas.daemon.config import ListenerConfig
from slurm_gpuaas.daemon.problems import answer, of_error
from slurm_gpuaas.domain.errors import ExitCode, GpuaasError, InvalidInput, Unavailable

PEER_UID: Final = "gpuaas.peer_uid"
"""Key of the ASGI scope under which the uid of the process at the other end stands. Absent over TCP."""

MAX_BODY_BYTES: Final = 32 * 2**20
"""A policy of 1,000 projects takes 2 MB."""
MAX_AGENT_BODY_BYTES: Final = 2**20
"""A batch of 200 events takes less than half. Anybody who reaches the port may send so much before a key is checked."""
MAX_AGENT_CONNECTIONS: Final = 4_000
"""Agents keep their connection: one for each node of a large cluster."""

log = structlog.get_logger(__name__)


def as_peer(app: ASGIApp, uid: int) -> ASGIApp:
    """The app as the user `uid` meets it."""

    async def with_peer(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, PEER_UID: uid}, receive, send)

    return with_peer


class PeerProtocol(H11Protocol):
    """Asks the kernel once a connection who opened it (SO_PEERCRED): nothing a client sends can change it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family == socket.AF_UNIX:
            credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            _pid, uid, _gid = struct.unpack("3i", credentials)
            self.app = cast(ASGI3Application, as_peer(cast(ASGIApp, self.app), uid))


class BodyLimit:
    """Refuses requests whose body is larger than `limit` bytes before they fill the memory."""

    def __init__(self, app: ASGIApp, limit: int = MAX_BODY_BYTES) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._limit:
                raise BodyTooLarge(self._limit)
            return message

        async def unless_too_large(message: Message) -> None:
            # What the app makes of a body that was cut off is not the answer.
            if read <= self._limit:
                await send(message)

        try:
            await self._app(scope, counted, unless_too_large)
        except BodyTooLarge:
            log.debug("body.cut-off", limit=self._limit)
        if read > self._limit:
            await answer(of_error(BodyTooLarge(self._limit)))(scope, receive, send)


class BodyTooLarge(GpuaasError):
    exit_code = ExitCode.INVALID
    http_status = 413

    def __init__(self, limit: int) -> None:
        super().__init__(f"The request's body is larger than {limit} bytes.", way_out="Send less at once.")


class Server(uvicorn.Server):
    """A uvicorn server on a socket that is bound already. Signals are the daemon's business, not uvicorn's."""

    def __init__(self, app: ASGIApp, sock: socket.socket, *, listener: ListenerConfig | None = None) -> None:
        tls = listener.tls if listener else None
        super().__init__(
            uvicorn.Config(
                app,
                http=PeerProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=10,
                limit_concurrency=MAX_AGENT_CONNECTIONS if listener else None,
                ssl_certfile=str(tls.certificate) if tls else None,
                ssl_keyfile=str(tls.key) if tls else None,
            )
        )
        self._sock = sock
        try:
            self.config.load()
        except (ssl.SSLError, OSError) as error:
            raise InvalidInput(
                f"The certificate or key of agents.listener.tls cannot be used: {error}.",
                way_out="Give a PEM chain and its key, readable for gpuaasd's user.",
            ) from None

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def run_until_stopped(self) -> None:
        try:
            await self.serve(sockets=[self._sock])
        finally:
            self._sock.close()


def bind_unix(path: Path) -> socket.socket:
    """Listen at `path`, in place of what was there. Bound aside and renamed, so that a client never finds nothing."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(aside))
        aside.chmod(0o666)  # everybody may ask; the peer's uid decides
        sock.listen(256)
        aside.replace(path)
    except OSError as error:
        sock.close()
        raise Unavailable(
            f"Socket {path} cannot be made: {os.strerror(error.errno or 0)}.",
            way_out="Make its folder and give it to gpuaasd's user (etc/tmpfiles.d), or set api.socket.",
        ) from None
    return sock


def bind_tcp(listener: ListenerConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in listener.host else socket.AF_INET
    try:
        server = socket.create_server((listener.host, listener.port), family=family, backlog=2048)
    except OSError as error:
        raise Unavailable(
            f"{listener.host}:{listener.port} cannot be listened on: {os.strerror(error.errno or 0)}.",
            way_out="Free the port, or set agents.listener.",
        ) from None
    # asyncio sets it only where the socket's protocol number says TCP, which this one's does not. An answer goes out in
    # two pieces; without it the second waits 40 ms for the acknowledgement of the first.
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return server
