"""slurmrestd's wire: one request, one checked answer. Knows nothing of nodes, jobs or accounts.

API v0.0.42 is the newest that Slurm 24.11 and 26.05 both speak. Anything but a clean answer is a failure: slurmrestd
says HTTP 200 for writes that it dropped, so errors *and* warnings raise (measured: an unknown field or name is "only" a
warning, or nothing at all; that is why drivers check names before they write).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, TypeVar

import httpx2
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from slurm_gpuaas.slurm.protocols import SlurmRefused, SlurmUnavailable

API: Final = "v0.0.42"

_CANNOT_REACH: Final = frozenset(
    {*range(1001, 1005), *range(1013, 1026), *range(1800, 1806), 2027, *range(5003, 5006), 7000, 7008}
)
"""Slurm's error numbers for "slurmctld or slurmdbd does not answer" (slurm_errno.h)."""
_NO_CHANGE: Final = 304
"""slurmrestd's answer, without a body, to a write that changed nothing."""


class Wire(BaseModel):
    """Base of answers: only the fields that we read, whatever else slurmrestd sends."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Number(Wire):
    """Slurm's tri-state number: not set, infinite, or a number."""

    set: bool = False
    infinite: bool = False
    number: float = 0

    @property
    def value(self) -> int | None:
        """The number; None when not set or infinite."""
        return int(self.number) if self.set and not self.infinite else None


def number(value: int | None) -> dict[str, bool | int]:
    """A tri-state number for a request; None lifts the limit."""
    if value is None:
        return {"set": False, "infinite": True, "number": 0}
    return {"set": True, "infinite": False, "number": value}


Text = Annotated[str, BeforeValidator(lambda value: "" if value is None else value)]
"""slurmrestd says null for some empty strings."""


class TresCount(Wire):
    """A TRES and a number of it."""

    type: str = ""
    name: Text = ""
    count: int = 0

    @property
    def key(self) -> str:
        return f"{self.type}/{self.name}" if self.name else self.type


TresList = tuple[TresCount, ...]


def tres_of(rows: Iterable[TresCount]) -> dict[str, int]:
    return {row.key: row.count for row in rows}


class Complaint(Wire):
    description: Text = ""
    error: Text = ""
    error_number: int = 0
    source: Text = ""

    def __str__(self) -> str:
        parts = dict.fromkeys(part.strip() for part in (self.error, self.description) if part.strip())
        return ": ".join(parts) or f"Slurm error {self.error_number}"


class _Version(Wire):
    release: Text = ""
    cluster: Text = ""


class Meta(Wire):
    slurm: _Version = Field(default_factory=_Version)


class Answer(Wire):
    """What every answer has; an answer with nothing else is this."""

    meta: Meta = Field(default_factory=Meta)
    errors: tuple[Complaint, ...] = ()
    warnings: tuple[Complaint, ...] = ()


AnswerT = TypeVar("AnswerT", bound=Answer)


class RestRefused(SlurmRefused):
    """`codes` are Slurm's error numbers, so that a driver can tell "already so" from "no"."""

    def __init__(self, message: str, *, codes: frozenset[int] = frozenset(), way_out: str = "") -> None:
        super().__init__(message, way_out=way_out)
        self.codes = codes


@dataclass(frozen=True, kw_only=True)
class RestAddress:
    """Where slurmrestd is: a UNIX socket (the peer's uid decides), or a base URL with a JWT in a file that somebody
    renews (it is read again for every request)."""

    socket: Path | None = None
    url: str = "http://localhost"
    token_file: Path | None = None
    user: str = ""
    """UNIX user that Slurm sees: whom the token is for, or that slurmrestd runs as."""

    def __str__(self) -> str:
        return str(self.socket or self.url)


_EMPTY: Final = re.compile(r"found nothing$|^Zero \w+ to dump$")


class RestWire:
    """Sends requests to one slurmrestd. Safe to share between threads.

    Args:
        address: where it listens.
        timeout: seconds for a whole answer; bulk writes of thousands of records take seconds.
        transport: how bytes travel; tests give their own.
    """

    def __init__(
        self, address: RestAddress, *, timeout: float = 60.0, transport: httpx2.BaseTransport | None = None
    ) -> None:
        self.address = address
        # slurmrestd hangs up idle connections, and a write must not meet a dead one.
        limits = httpx2.Limits(keepalive_expiry=1.0)
        self._http = httpx2.Client(
            base_url=address.url,
            transport=transport
            or httpx2.HTTPTransport(uds=str(address.socket) if address.socket else None, limits=limits),
            timeout=httpx2.Timeout(timeout, connect=3.0),
            trust_env=False,
        )

    def get(
        self,
        path: str,
        answer: type[AnswerT],
        query: Mapping[str, str] | None = None,
        *,
        timeout: float | None = None,
    ) -> AnswerT:
        """`timeout` in seconds; the wire's own when None. So it is for the others."""
        return self._checked("GET", path, answer, query=query, timeout=timeout)

    def post(self, path: str, body: Mapping[str, object], *, timeout: float | None = None) -> Answer:
        return self._checked("POST", path, Answer, body=body, timeout=timeout)

    def delete(
        self,
        path: str,
        answer: type[AnswerT],
        query: Mapping[str, str] | None = None,
        *,
        timeout: float | None = None,
    ) -> AnswerT:
        return self._checked("DELETE", path, answer, query=query, timeout=timeout)

    def close(self) -> None:
        self._http.close()

    def _checked(
        self,
        method: str,
        path: str,
        shape: type[AnswerT],
        *,
        body: Mapping[str, object] | None = None,
        query: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> AnswerT:
        response = self.send(method, path, body, query, timeout=timeout)
        if response.status_code == _NO_CHANGE:
            return shape()
        if response.status_code in {401, 403} or response.content == b"Authentication failure":
            raise SlurmRefused(
                f"slurmrestd at {self.address} does not accept this user (HTTP {response.status_code}).",
                way_out="Run as the user that slurmrestd runs as, or give a valid token.",
            )
        try:
            # Slurm takes any bytes for a text, and slurmrestd passes on what is not UTF-8 (a tenant's job name).
            answer = shape.model_validate_json(response.content.decode("utf-8", "replace"))
        except ValidationError as error:
            raise SlurmRefused(
                f"slurmrestd's answer to {method} {path} (HTTP {response.status_code}) is not understood: "
                f"{error.error_count()} faults, first {error.errors(include_url=False)[0]['msg']}.",
                way_out=f"Check that slurmrestd speaks {API}: `gpuaas doctor`.",
            ) from None
        # An empty list comes with a warning; every other warning says that part of what we asked was not done.
        warnings = [warning for warning in answer.warnings if not _EMPTY.search(warning.description)]
        if complaints := [*answer.errors, *warnings]:
            said = "; ".join(dict.fromkeys(str(complaint) for complaint in complaints))
            codes = frozenset(complaint.error_number for complaint in complaints)
            if codes & _CANNOT_REACH:
                raise SlurmUnavailable(f"slurmrestd cannot reach Slurm: {said}.", way_out="Check with `gpuaas doctor`.")
            raise RestRefused(f"Slurm refused {method} {path}: {said}.", codes=codes)
        if not response.is_success:
            raise RestRefused(
                f"slurmrestd answered {method} {path} with HTTP {response.status_code}, and not why.",
                way_out="Look at its log; `gpuaas doctor` names the bugs of this Slurm.",
            )
        return answer

    def send(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        query: Mapping[str, str] | None = None,
        *,
        timeout: float | None = None,
    ) -> httpx2.Response:
        """One request, its answer unread."""
        try:
            return self._http.request(
                method,
                path,
                content=None if body is None else json.dumps(body, ensure_ascii=False).encode(),
                params=dict(query) if query else None,
                headers=self._headers(),
                timeout=httpx2.USE_CLIENT_DEFAULT if timeout is None else httpx2.Timeout(timeout, connect=3.0),
            )
        except httpx2.TransportError as error:
            raise SlurmUnavailable(
                f"slurmrestd at {self.address} does not answer ({type(error).__name__}: {error}).",
                way_out="Start slurmrestd, or set its socket in the configuration; `gpuaas doctor` checks it.",
            ) from error

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        if self.address.token_file:
            try:
                token = self.address.token_file.read_text().strip()
            except OSError as error:
                raise SlurmUnavailable(
                    f"The token file {self.address.token_file} cannot be read: {error.strerror}.",
                    way_out="Create it with `scontrol token`.",
                ) from error
            headers |= {"X-SLURM-USER-NAME": self.address.user, "X-SLURM-USER-TOKEN": token}
        return headers
