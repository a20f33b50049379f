"""Random secrets and what is kept of them. A secret of 256 random bits needs no salt and no slow hash."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import Final

SECRET_BYTES: Final = 32


def new_secret() -> str:
    """256 random bits as 43 characters that fit in a cookie and a URL."""
    return secrets.token_urlsafe(SECRET_BYTES)


def digest(secret: str) -> str:
    """What is stored of a secret: SHA-256 in hexadecimal."""
    return hashlib.sha256(secret.encode()).hexdigest()


def csrf_token(secret: str) -> str:
    """The synchroniser token that belongs to a session's (or visitor's) secret. It does not tell the secret."""
    mac = hmac.digest(secret.encode(), b"gpuaas-portal csrf 1", "sha256")
    return base64.urlsafe_b64encode(mac).rstrip(b"=").decode()


def same(one: str, other: str) -> bool:
    """Compared in constant time."""
    return hmac.compare_digest(one.encode(), other.encode())
