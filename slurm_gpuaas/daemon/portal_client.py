"""The portal as a site's gpuaasd reaches it: signed requests over TLS, bounded answers."""

from __future__ import annotations

import ssl
import time
from pathlib import Path
from typing import Final, Protocol, TypeVar

import httpx2
from pydantic import BaseModel, ValidationError

from slurm_gpuaas.api.models import Problem
from slurm_gpuaas.api.pool_sites import (
    MAX_ANSWER_BYTES,
    PICTURE_CODING,
    PicturePush,
    PictureTaken,
    ReportTaken,
    SiteDocuments,
    SiteReport,
    UsagePush,
    UsageTaken,
    UseDaysPush,
    UseDaysTaken,
    days_path,
    documents_path,
    picture_path,
    reports_path,
    usage_path,
)
from slurm_gpuaas.api.signing import SITES, sign
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.errors import Refused, Unavailable
from slurm_gpuaas.domain.names import SiteName
from slurm_gpuaas.domain.words import printable

ANSWER_S: Final = 30.0
"""Longest wait for an answer, beyond what the portal was asked to wait."""
CONNECT_S: Final = 10.0

A = TypeVar("A", bound=BaseModel)


class Portal(Protocol):
    """Every call may be repeated. Each raises `Unavailable` when the portal does not answer (it may have done what was
    asked) and `Refused` when it says no."""

    def documents(self, *, revision: int, wait: int) -> SiteDocuments:
        """The newest documents; after up to `wait` seconds, that there are none newer than `revision`."""
        ...

    def push(self, usage: UsagePush) -> UsageTaken: ...

    def report(self, report: SiteReport) -> ReportTaken: ...

    def days(self, days: UseDaysPush) -> UseDaysTaken: ...

    def picture(self, picture: PicturePush) -> PictureTaken: ...


class HttpPortal:
    """Args:
    url: `https://HOST[:PORT]`, without a path: the whole path is signed.
    ca_file: PEM file of the authorities that may sign the portal's certificate; None = the system's.
    """

    def __init__(self, url: str, *, site: SiteName, key: bytes, ca_file: Path | None, clock: Clock) -> None:
        self._site = site
        self._key = key
        self._clock = clock
        self._url = url.rstrip("/")
        verify = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
        self._http = httpx2.Client(base_url=self._url, verify=verify, follow_redirects=False)

    def close(self) -> None:
        self._http.close()

    def documents(self, *, revision: int, wait: int) -> SiteDocuments:
        return self._ask("GET", documents_path(self._site, revision=revision, wait=wait), b"", SiteDocuments, wait)

    def push(self, usage: UsagePush) -> UsageTaken:
        return self._ask("POST", usage_path(self._site), usage.model_dump_json().encode(), UsageTaken)

    def report(self, report: SiteReport) -> ReportTaken:
        return self._ask("POST", reports_path(self._site), report.model_dump_json().encode(), ReportTaken)

    def days(self, days: UseDaysPush) -> UseDaysTaken:
        return self._ask("POST", days_path(self._site), days.model_dump_json().encode(), UseDaysTaken)

    def picture(self, picture: PicturePush) -> PictureTaken:
        return self._ask("POST", picture_path(self._site), picture.packed(), PictureTaken, coding=PICTURE_CODING)

    def _ask(
        self, method: str, target: str, body: bytes, answer: type[A], wait: int = 0, *, coding: str | None = None
    ) -> A:
        headers = sign(
            SITES, self._key, method=method, target=target, sender=self._site, body=body, now=self._clock.now()
        )
        if body:
            headers["Content-Type"] = "application/json"
        if coding:
            headers["Content-Encoding"] = coding
        timeout = httpx2.Timeout(ANSWER_S + wait, connect=CONNECT_S)
        try:
            with self._http.stream(method, target, content=body, headers=headers, timeout=timeout) as response:
                content = self._read(response, time.monotonic() + ANSWER_S + wait)
        except httpx2.HTTPError as error:
            raise Unavailable(
                f"The portal at {self._url} does not answer: {error or type(error).__name__}.",
                way_out="The site goes on with what it was told last, and asks again.",
            ) from None
        if response.status_code != 200:
            raise self._refusal(response.status_code, content)
        try:
            return answer.model_validate_json(content)
        except ValidationError as error:
            raise Unavailable(
                f"The portal's answer is not one that this gpuaasd reads: {error.error_count()} faults.",
                way_out="Compare the versions of portal and gpuaasd.",
            ) from None

    def _read(self, response: httpx2.Response, deadline: float) -> bytes:
        """The client's own time limit is for each piece."""
        content = bytearray()
        for piece in response.iter_bytes():
            content += piece
            if time.monotonic() > deadline:
                raise Unavailable("The portal's answer does not come to an end.")
            if len(content) > MAX_ANSWER_BYTES:
                raise Unavailable(f"The portal's answer is larger than {MAX_ANSWER_BYTES} bytes.")
        return bytes(content)

    def _refusal(self, status: int, content: bytes) -> Refused | Unavailable:
        try:
            problem = Problem.model_validate_json(content)
        except ValidationError:
            return Unavailable(f"The portal at {self._url} answered with HTTP {status}.")
        kind = Unavailable if status >= 500 else Refused
        return kind(f"The portal says: {printable(problem.detail, 500)}", way_out=printable(problem.way_out, 500))
