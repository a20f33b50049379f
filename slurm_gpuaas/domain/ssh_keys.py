"""Public SSH keys as people paste them: only the kinds that OpenSSH takes by default, without options. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import Final, Self

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.names import Name
from slurm_gpuaas.domain.told import told

LONGEST: Final = 3_000
"""Characters. An RSA key of 16,384 bits, the largest that ssh-keygen makes, has about 2,800."""
LEAST_RSA_BITS: Final = 3_072
"""NIST SP 800-57 part 1 rev. 5, table 2: 128 bits of security; also what ssh-keygen makes by default."""
ED25519_BYTES: Final = 32
POINT_BYTES: Final = {"nistp256": 65, "nistp384": 97, "nistp521": 133}
"""An uncompressed point of the curve: SEC 1, 2.3.3."""
WAY_OUT: Final = told("Paste the line of a file such as ~/.ssh/id_ed25519.pub; ssh-keygen -t ed25519 makes one.")

_LINE = re.compile(
    r"(?P<kind>[a-z0-9@.-]{1,50}) +(?P<blob>[A-Za-z0-9+/]+={0,2})(?: +(?P<comment>[^\x00-\x1f\x7f-\x9f\u2028\u2029]*))?"
)


class SshKey(Name):
    """One line of authorized_keys without options, e.g. `ssh-ed25519 AAAA... kim@laptop`."""

    what = "public SSH key"

    def __new__(cls, value: str) -> Self:
        if isinstance(value, cls):
            return value
        if not isinstance(value, str) or len(value) > LONGEST:
            raise InvalidInput(told("A public SSH key has at most {most} characters.", most=LONGEST), way_out=WAY_OUT)
        found = _LINE.fullmatch(value.strip())
        if found is None:
            raise InvalidInput(told("This is not one line of a public SSH key without options."), way_out=WAY_OUT)
        try:
            _check(found["kind"], _fields(base64.b64decode(found["blob"], validate=True)))
        except (binascii.Error, _Broken):
            raise InvalidInput(told("The public SSH key is cut off or damaged."), way_out=WAY_OUT) from None
        return str.__new__(cls, " ".join(part for part in found.groups() if part).strip())

    @property
    def fingerprint(self) -> str:
        """As `ssh-keygen -l` shows it."""
        digest = hashlib.sha256(base64.b64decode(self.split(" ")[1])).digest()
        return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


class _Broken(Exception):
    """The key's bytes are not what its kind has (RFC 4253 6.6, RFC 5656 3.1, RFC 8709 4)."""


def _fields(blob: bytes) -> list[bytes]:
    """The length-prefixed strings of the blob (RFC 4251, section 5)."""
    fields = []
    while blob:
        size = int.from_bytes(blob[:4], "big")
        if len(blob) < 4 + size:
            raise _Broken
        fields.append(blob[4 : 4 + size])
        blob = blob[4 + size :]
    return fields


def _check(kind: str, fields: list[bytes]) -> None:
    """
    Raises:
        InvalidInput: a key of a kind or size that is not taken.
        _Broken: the bytes are not a key of the kind that its line says.
    """
    if not fields or fields[0] != kind.encode():
        raise _Broken
    sizes = [len(field) for field in fields[1:]]
    match kind:
        case "ssh-ed25519":
            right = sizes == [ED25519_BYTES]
        case "sk-ssh-ed25519@openssh.com":
            right = sizes[:1] == [ED25519_BYTES] and len(sizes) == 2
        case "ecdsa-sha2-nistp256" | "ecdsa-sha2-nistp384" | "ecdsa-sha2-nistp521":
            curve = kind.removeprefix("ecdsa-sha2-")
            right = fields[1:2] == [curve.encode()] and sizes[1:] == [POINT_BYTES[curve]]
        case "sk-ecdsa-sha2-nistp256@openssh.com":
            right = fields[1:2] == [b"nistp256"] and sizes[1:2] == [POINT_BYTES["nistp256"]] and len(sizes) == 3
        case "ssh-rsa":
            right = len(sizes) == 2
            bits = int.from_bytes(fields[2], "big").bit_length() if right else 0
            if right and bits < LEAST_RSA_BITS:
                raise InvalidInput(
                    told("The RSA key has {bits} bits; at least {least} are needed.", bits=bits, least=LEAST_RSA_BITS),
                    way_out=WAY_OUT,
                )
        case _:
            raise InvalidInput(told("SSH keys of the kind {kind} are not taken.", kind=kind), way_out=WAY_OUT)
    if not right:
        raise _Broken
