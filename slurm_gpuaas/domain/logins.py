"""People as a cluster knows them: a login and the SSH keys that open it. Hostile until checked here."""

from __future__ import annotations

import base64
import binascii
import re
import struct
from collections.abc import Iterator
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.names import Name, UserName

LEAST_RSA_BITS: Final = 2048
MOST_KEYS: Final = 20
MOST_PEOPLE: Final = 20_000
_ED25519_BYTES: Final = 32


class SshKey(Name):
    """One public key as in authorized_keys, without options: nothing in it can run a command or span lines."""

    what = "SSH public key"
    shape = (
        "one line `TYPE BASE64 [COMMENT]` of type ssh-ed25519, ecdsa-sha2-nistp256/384/521, ssh-rsa of 2,048 to 16,384 "
        "bits, or one of OpenSSH's security keys; without options, the comment of letters, digits and @._-"
    )
    pattern = re.compile(
        r"(?:ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(?:256|384|521)|sk-ssh-ed25519@openssh\.com"
        r"|sk-ecdsa-sha2-nistp256@openssh\.com) [A-Za-z0-9+/]{40,2800}={0,2}(?: [A-Za-z0-9@._-]{1,100})?"
    )

    def __new__(cls, value: str) -> SshKey:
        key = super().__new__(cls, value)
        if not _says_its_type(*key.split(" ")[:2]):
            raise InvalidInput(f"{value!r:.60} is not a valid {cls.what}.", way_out=f"Use {cls.shape}.")
        return key


def _says_its_type(kind: str, text: str) -> bool:
    """The key's own bytes (RFC 4253, section 6.6) name the type that stands before them, and are long enough."""
    try:
        fields = list(_fields(base64.b64decode(text, validate=True)))
    except (binascii.Error, struct.error):
        return False
    if not fields or fields[0] != kind.encode():
        return False
    match kind:
        case "ssh-rsa":
            return len(fields) == 3 and LEAST_RSA_BITS <= int.from_bytes(fields[2]).bit_length() <= 16_384
        case "ssh-ed25519":
            return len(fields) == 2 and len(fields[1]) == _ED25519_BYTES
        case _:
            return len(fields) >= 3


def _fields(blob: bytes) -> Iterator[bytes]:
    """Raises:
    struct.error: a length leads beyond the end.
    """
    while blob:
        (length,) = struct.unpack_from(">I", blob)
        (field,) = struct.unpack_from(f"{length}s", blob, 4)
        yield field
        blob = blob[4 + length :]


class Login(BaseModel):
    """A person's login on a cluster. `name` becomes the comment of the account: no `:` and no control characters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: UserName
    name: str = Field(default="", max_length=100, pattern=r"^[^:,\x00-\x1f\x7f]*$")
    keys: tuple[SshKey, ...] = Field(default=(), max_length=MOST_KEYS)


Logins = Annotated[tuple[Login, ...], Field(max_length=MOST_PEOPLE)]
LOGINS: Final[TypeAdapter[tuple[Login, ...]]] = TypeAdapter(Logins)
