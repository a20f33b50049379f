"""The client of the pool's portal: what people of the pool do there, for programs and `gpuaas --site`.

Answers may gain fields within v1: a view names those that we read, and keeps all. What changes something is sent under
a name of its own, so that sending it again after an answer was lost does it once.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar
from urllib.parse import quote, urlsplit
from uuid import uuid4

import httpx2
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slurm_gpuaas.api.models import API, Problem
from slurm_gpuaas.api.node_events import is_loopback
from slurm_gpuaas.domain.errors import Conflict, GpuaasError, InvalidInput, NotFound, Refused, Unavailable

READ_TIMEOUT_S: Final = 60.0
TRIES: Final = 3
"""Of a request whose answer was lost on the way."""
PAGE: Final = 500

V = TypeVar("V", bound="View")

_ERRORS: Final[Mapping[int, type[GpuaasError]]] = {
    400: InvalidInput,
    401: Refused,
    403: Refused,
    404: NotFound,
    405: InvalidInput,
    409: Conflict,
    412: Conflict,
    413: InvalidInput,
    415: InvalidInput,
    419: Refused,
    422: InvalidInput,
    429: Unavailable,
    503: Unavailable,
}
"""HTTP status to the error it was; everything else is a plain `GpuaasError`."""


class View(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class Me(View):
    person: str
    name: str
    role: str
    organisation: str | None
    provider: str | None
    rights: dict[str, str]


class Title(View):
    ko: str
    en: str


class Call(View):
    number: int
    opens: datetime
    closes: datetime


class Programme(View):
    name: str
    title: Title
    models: tuple[str, ...]
    sizes: tuple[int, ...]
    calls: tuple[Call, ...]


class Asked(View):
    programme: str
    title: str
    gpus: int
    starts: date
    ends: date


class Application(View):
    id: str
    state: str
    organisation: str
    request: Asked


class Offer(View):
    id: str
    organisation: str
    programme: str
    share: str
    gpus: int
    starts: date
    ends: date
    most_won: int | None
    answer_by: datetime
    state: str


class Grant(View):
    id: str
    title: str
    organisation: str
    share: str
    project: str
    state: str
    gpus: int
    starts: date
    ends: date


class GrantDetail(Grant):
    """`members`: None where one may not see them."""

    members: tuple[str, ...] | None


class Job(View):
    cluster: str
    id: int
    state: str
    name: str
    user: str | None
    project: str | None
    gpus: int
    began: datetime
    why: str | None = None


class Statement(View):
    number: str
    month: str
    organisation: str
    provider: str
    provisional: bool
    total: int
    due: int


class Award(View):
    id: str
    programme: str
    state: str
    drafted_by: str


class Document(View):
    """Anything else, as it is."""


class Act(BaseModel):
    """What would be sent, or is. `key` is its name: sent twice, it is done once."""

    model_config = ConfigDict(frozen=True)

    method: str
    path: str
    body: dict[str, object] | None
    key: str = Field(default_factory=lambda: str(uuid4()))


def acceptance(offer: str, most_won: int | None) -> Act:
    """`most_won`: what it was said to cost at most; it is refused when it costs more by now."""
    return Act(method="POST", path=f"/offers/{segment(offer)}/accept", body={"most_won": most_won})


def refusal(offer: str, reason: str) -> Act:
    return Act(method="POST", path=f"/offers/{segment(offer)}/decline", body={"reason": reason})


def application(asked: dict[str, object]) -> Act:
    return Act(method="POST", path="/applications", body=asked)


def withdrawal(number: str, reason: str) -> Act:
    return Act(method="POST", path=f"/applications/{segment(number)}/withdraw", body={"reason": reason})


def members_of(grant: str, members: tuple[str, ...]) -> Act:
    return Act(method="PUT", path=f"/grants/{segment(grant)}/members", body={"members": list(members)})


def approval(award: str) -> Act:
    return Act(method="POST", path=f"/awards/{segment(award)}/approve", body=None)


def segment(name: str) -> str:
    """A name as one segment of a path.

    Raises:
        InvalidInput: it would name another path.
    """
    if name in ("", ".", "..") or "/" in name:
        raise InvalidInput(f"{name!r:.60} is no number or name.", way_out="Lists show them.")
    return quote(name, safe="")


def checked_url(url: str) -> str:
    """Scheme, host and port of a portal.

    Raises:
        InvalidInput: it is something else, or a token would travel in the clear.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.scheme not in {"https", "http"} or parts.path.strip("/") or parts.query or parts.username:
        raise InvalidInput(f"{url!r:.80} is no portal's address.", way_out="Write it as in https://gpu.example.org.")
    if parts.scheme == "http" and not is_loopback(host):
        raise InvalidInput(f"{url!r:.80} is without TLS: your token could be read on the way.", way_out="Use https://.")
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + (f":{port}" if port is not None else "")


class PortalClient:
    """Blocking; use it as a context manager. Every method raises the `GpuaasError` that the portal answered with, or
    `Unavailable` when it cannot be reached.

    Args:
        ca: PEM file with the authorities that are trusted, instead of the system's.
    """

    def __init__(
        self, url: str, token: str, *, ca: Path | None = None, transport: httpx2.BaseTransport | None = None
    ) -> None:
        self._url = checked_url(url)
        self._http = httpx2.Client(
            base_url=self._url,
            headers={"Authorization": f"Bearer {token}", "Accept-Language": "en"},
            verify=_trusted(ca),
            transport=transport,
            timeout=httpx2.Timeout(READ_TIMEOUT_S, connect=10.0),
            follow_redirects=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.close()

    def get(self, path: str, view: type[V]) -> V:
        return self._read(view, self._call("GET", path))

    def pages(self, path: str, view: type[V], **query: str | None) -> Iterator[V]:
        """All items of a list, one page after the other."""
        cursor: str | None = None
        while True:
            asked = {name: value for name, value in query.items() if value} | {"limit": str(PAGE)}
            page = self._read(_Page, self._call("GET", path, query=asked | ({"cursor": cursor} if cursor else {})))
            for item in page.items:
                yield self._read(view, item)
            if page.next is None:
                return
            cursor = page.next

    def act(self, act: Act, view: type[V]) -> V:
        return self._read(view, self._call(act.method, act.path, body=act.body, key=act.key))

    def _read(self, view: type[A], answer: object) -> A:
        try:
            return view.model_validate_json(answer) if isinstance(answer, bytes) else view.model_validate(answer)
        except ValidationError:
            raise GpuaasError(
                f"{self._url} answered something that is no {view.__name__}.",
                way_out="Check that it is the portal, and as new as this program.",
            ) from None

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: dict[str, object] | None = None,
        key: str | None = None,
    ) -> bytes:
        for left in reversed(range(TRIES)):
            try:
                answer = self._http.request(
                    method,
                    API + path,
                    params=query,
                    json=body,
                    headers={"Idempotency-Key": key} if key else {},
                )
            except httpx2.TransportError as error:
                if left and not isinstance(error, httpx2.ConnectError):
                    continue
                raise Unavailable(
                    f"{self._url} cannot be reached ({str(error) or type(error).__name__}).",
                    way_out="Check the address, the network and, with a certificate of your own, --ca; then try again.",
                ) from None
            if answer.is_success:
                return answer.content
            raise self._error_of(answer)
        raise AssertionError("the last try answers or raises")

    def _error_of(self, answer: httpx2.Response) -> GpuaasError:
        try:
            problem = Problem.model_validate_json(answer.content)
        except ValidationError:
            return GpuaasError(
                f"{self._url} answered {answer.status_code} with something that is no problem document.",
                way_out="Check that it is the portal's address.",
            )
        faults = "".join(f" {fault.field}: {fault.message}." for fault in problem.faults)
        way_out = problem.way_out
        if answer.status_code == 401:
            way_out = "Make a token on the portal's page `API tokens`, then `gpuaas --site URL pool login`."
        return _ERRORS.get(answer.status_code, GpuaasError)(problem.detail + faults, way_out=way_out)


A = TypeVar("A", bound=BaseModel)


class _Page(BaseModel):
    items: tuple[dict[str, object], ...]
    next: str | None = None


def _trusted(ca: Path | None) -> ssl.SSLContext:
    """
    Raises:
        InvalidInput: the file holds no certificates.
    """
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise InvalidInput(
            f"{ca} holds no certificates that can be read: {error}.", way_out="Give a PEM file."
        ) from None
