"""How a node agent proves which node it speaks for.

Each node has a key of its own, `HMAC-SHA256(master key, "gpuaas-node:" + node name)`. A request carries four headers:
the node, the time of signing (seconds since 1970), a nonce, and the HMAC-SHA256 of all of them with method, path and
body under the node's key. Messages are signed when they are sent, not when they are spooled.

The daemon accepts a request when the signature is right, the time lies within `MAX_SKEW` of its own, and the nonce was
not seen before; a nonce is remembered for as long as its time is acceptable. After a restart of the daemon an old
request may be accepted once more within that window; that changes nothing, since events are idempotent by id. Clocks
further apart are refused with the difference in the message: mend the clock, the spool keeps the events until then.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from slurm_gpuaas.domain.errors import Refused
from slurm_gpuaas.domain.names import NodeName

MAX_SKEW: Final = timedelta(minutes=5)
KEY_BYTES: Final = 32

HEADER_NODE: Final = "X-Gpuaas-Node"
HEADER_TIME: Final = "X-Gpuaas-Time"
HEADER_NONCE: Final = "X-Gpuaas-Nonce"
HEADER_SIGNATURE: Final = "X-Gpuaas-Signature"


class BadSignature(Refused):
    """The request does not prove that it comes from the node it names."""

    http_status = 401


def node_key(master: bytes, node: NodeName) -> bytes:
    """The key of one node. A node holds only its own, so a stolen one speaks for that node alone."""
    return hmac.digest(master, b"gpuaas-node:" + node.encode(), hashlib.sha256)


def canonical(*, method: str, path: str, node: NodeName, time: str, nonce: str, body: bytes) -> bytes:
    """What is signed: one line each for method, path, node, time, nonce and the body's SHA-256. No field can hold a
    newline, so no two requests have the same bytes."""
    digest = hashlib.sha256(body).hexdigest()
    return "\n".join(("gpuaas-v1", method.upper(), path, node, time, nonce, digest)).encode()


def sign(
    key: bytes, *, method: str, path: str, node: NodeName, body: bytes, now: datetime, nonce: str | None = None
) -> dict[str, str]:
    """The headers of a signed request."""
    time = str(int(now.timestamp()))
    nonce = nonce or secrets.token_urlsafe(18)
    message = canonical(method=method, path=path, node=node, time=time, nonce=nonce, body=body)
    return {
        HEADER_NODE: node,
        HEADER_TIME: time,
        HEADER_NONCE: nonce,
        HEADER_SIGNATURE: hmac.new(key, message, hashlib.sha256).hexdigest(),
    }


class Nonces:
    """Nonces seen, in two generations of `2 * MAX_SKEW`: bounded memory, none forgotten while it could be replayed."""

    def __init__(self) -> None:
        self._begun = datetime.min.replace(tzinfo=UTC)
        self._young: set[tuple[str, str]] = set()
        self._old: set[tuple[str, str]] = set()

    def use(self, node: NodeName, nonce: str, now: datetime) -> bool:
        """Remember a nonce; False when it was used before."""
        if now - self._begun >= 2 * MAX_SKEW:
            self._old, self._young, self._begun = self._young, set(), now
        key = (node, nonce)
        if key in self._young or key in self._old:
            return False
        self._young.add(key)
        return True


def verify(
    master: bytes, *, method: str, path: str, headers: Mapping[str, str], body: bytes, now: datetime, nonces: Nonces
) -> NodeName:
    """Check a request and give the node that sent it.

    Args:
        headers: any mapping that finds a header by its name as written in this module (starlette's ignores case).
        now: the daemon's time, with time zone.
        nonces: the daemon's memory of nonces; the caller serialises calls.

    Raises:
        BadSignature: a header is missing, the time is off, the nonce was used, or the signature is wrong.
    """
    node, time, nonce, signature = (
        headers.get(name, "") for name in (HEADER_NODE, HEADER_TIME, HEADER_NONCE, HEADER_SIGNATURE)
    )
    if not (node and time and nonce and signature) or len(nonce) > 64 or not (time.isascii() and time.isdigit()):
        raise BadSignature("The request is not signed.", way_out="Agents sign with the key of their node (node_key).")
    if len(time) > 12:
        raise BadSignature("The time of signing is not a time.")
    name = NodeName(node)
    message = canonical(method=method, path=path, node=name, time=time, nonce=nonce, body=body)
    expected = hmac.new(node_key(master, name), message, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace")):
        raise BadSignature(
            f"The signature for node {name} is wrong.",
            way_out=f"Give the node its key again: `gpuaas-agent --print-key {name}` on the daemon's host prints it.",
        )
    skew = abs(now - datetime.fromtimestamp(int(time), UTC))
    if skew > MAX_SKEW:
        seconds, allowed = skew.total_seconds(), MAX_SKEW.total_seconds()
        raise BadSignature(
            f"The clock of node {name} is {seconds:.0f} s off; {allowed:.0f} s are allowed.",
            way_out="Synchronise the clocks; the agent keeps its events until then.",
        )
    if not nonces.use(name, nonce, now):
        raise BadSignature(f"The request of node {name} was sent before (nonce {nonce}).")
    return name
