"""How a node agent proves which node it speaks for, and a site's gpuaasd which site.

Each sender has a key of its own, made from a master key that only the receiver has: a node's is `HMAC-SHA256(master
key, "gpuaas-node:" + node name)`; a site's has the number of the key in it as well, so that it can be replaced. A
request carries four headers: the sender, the time of signing (seconds since 1970), a nonce, and the HMAC-SHA256 of all
of them with method, path, query and body under the sender's key. Messages are signed when they are sent, not when they
are spooled.

A request is accepted when the signature is right, the time lies within `MAX_SKEW` of the receiver's, and the nonce was
not seen before; a nonce is remembered for as long as its time is acceptable. After a restart of the receiver an old
request may be accepted once more within that window; that changes nothing, since every request may be repeated. Clocks
further apart are refused with the difference in the message: mend the clock, the sender keeps what it has until then.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Generic, TypeVar

from slurm_gpuaas.domain.errors import Refused
from slurm_gpuaas.domain.names import Name, NodeName, SiteName

MAX_SKEW: Final = timedelta(minutes=5)
KEY_BYTES: Final = 32

HEADER_NODE: Final = "X-Gpuaas-Node"
HEADER_SITE: Final = "X-Gpuaas-Site"
HEADER_TIME: Final = "X-Gpuaas-Time"
HEADER_NONCE: Final = "X-Gpuaas-Nonce"
HEADER_SIGNATURE: Final = "X-Gpuaas-Signature"

S = TypeVar("S", bound=Name)


class BadSignature(Refused):
    """The request does not prove that it comes from the sender it names."""

    http_status = 401


@dataclass(frozen=True, slots=True)
class Senders(Generic[S]):
    """One kind of senders.

    Attributes:
        version: first line of what is signed; no two kinds share one, so that a request of one is none of another.
        lost_key: way out when a signature is wrong; `{name}` is put in.
    """

    what: str
    name: type[S]
    header: str
    version: str
    lost_key: str


NODES: Final = Senders(
    "node",
    NodeName,
    HEADER_NODE,
    "gpuaas-v1",
    "Give the node its key again: `gpuaas-agent --print-key {name}` on the daemon's host prints it.",
)
SITES: Final = Senders(
    "site",
    SiteName,
    HEADER_SITE,
    "gpuaas-site-v1",
    "Give the site a new key: `gpuaas-portal site key {name}` on the portal's host writes one.",
)


def node_key(master: bytes, node: NodeName) -> bytes:
    """The key of one node. A node holds only its own, so a stolen one speaks for that node alone."""
    return hmac.digest(master, b"gpuaas-node:" + node.encode(), hashlib.sha256)


def site_key(master: bytes, site: SiteName, number: int) -> bytes:
    """The key of one site. `number`: how many keys it had before, so that a lost one is replaced by a new one."""
    return hmac.digest(master, f"gpuaas-site:{number}:{site}".encode(), hashlib.sha256)


def canonical(version: str, *, method: str, target: str, sender: str, time: str, nonce: str, body: bytes) -> bytes:
    """What is signed: one line each for version, method, target, sender, time, nonce and the body's SHA-256. No field
    can hold a newline, so no two requests have the same bytes."""
    digest = hashlib.sha256(body).hexdigest()
    return "\n".join((version, method.upper(), target, sender, time, nonce, digest)).encode()


def sign(
    senders: Senders[S],
    key: bytes,
    *,
    method: str,
    target: str,
    sender: S,
    body: bytes,
    now: datetime,
    nonce: str | None = None,
) -> dict[str, str]:
    """The headers of a signed request. `target`: path, and the query with its `?` where there is one."""
    time = str(int(now.timestamp()))
    nonce = nonce or secrets.token_urlsafe(18)
    message = canonical(senders.version, method=method, target=target, sender=sender, time=time, nonce=nonce, body=body)
    return {
        senders.header: sender,
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

    def use(self, sender: Name, nonce: str, now: datetime) -> bool:
        """Remember a nonce; False when it was used before."""
        if now - self._begun >= 2 * MAX_SKEW:
            self._old, self._young, self._begun = self._young, set(), now
        key = (sender, nonce)
        if key in self._young or key in self._old:
            return False
        self._young.add(key)
        return True


def verify(
    senders: Senders[S],
    key_of: Callable[[S], bytes | None],
    *,
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: bytes,
    now: datetime,
    nonces: Nonces,
) -> S:
    """Check a request and give its sender.

    Args:
        key_of: the sender's key; None = there is no such sender.
        headers: any mapping that finds a header by its name as written in this module (starlette's ignores case).
        now: the receiver's time, with time zone.
        nonces: the receiver's memory of nonces; the caller serialises calls.

    Raises:
        BadSignature: a header is missing, the time is off, the nonce was used, or the signature is wrong.
    """
    sender, time, nonce, signature = (
        headers.get(name, "") for name in (senders.header, HEADER_TIME, HEADER_NONCE, HEADER_SIGNATURE)
    )
    if not (sender and time and nonce and signature) or len(nonce) > 64 or not (time.isascii() and time.isdigit()):
        raise BadSignature("The request is not signed.", way_out=f"It is signed with the key of a {senders.what}.")
    if len(time) > 12:
        raise BadSignature("The time of signing is not a time.")
    name = senders.name(sender)
    message = canonical(senders.version, method=method, target=target, sender=name, time=time, nonce=nonce, body=body)
    key = key_of(name)
    # A sender that is not known takes as long and is told the same as one with a wrong key.
    expected = hmac.new(key or secrets.token_bytes(KEY_BYTES), message, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace")):
        raise BadSignature(
            f"The signature for {senders.what} {name} is wrong.", way_out=senders.lost_key.format(name=name)
        )
    skew = abs(now - datetime.fromtimestamp(int(time), UTC))
    if skew > MAX_SKEW:
        seconds, allowed = skew.total_seconds(), MAX_SKEW.total_seconds()
        raise BadSignature(
            f"The clock of {senders.what} {name} is {seconds:.0f} s off; {allowed:.0f} s are allowed.",
            way_out="Synchronise the clocks; the sender keeps what it has until then.",
        )
    if not nonces.use(name, nonce, now):
        raise BadSignature(f"The request of {senders.what} {name} was sent before (nonce {nonce}).")
    return name
