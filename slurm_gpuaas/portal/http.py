"""What routes of the JSON API share: ETags, pages by cursor, models of answers."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Generic, TypeVar
from uuid import uuid4

from fastapi import Depends, Form, Header, Query, Request, Response
from pydantic import BaseModel, ConfigDict

from slurm_gpuaas.domain.errors import Conflict, InvalidInput
from slurm_gpuaas.domain.names import CommandId
from slurm_gpuaas.domain.told import told

API: Final = "/api/v1"
MOST_ITEMS: Final = 500
MOST_CURSOR: Final = 400

T = TypeVar("T")
R = TypeVar("R")


class Answer(BaseModel):
    """Answers may gain fields within v1."""

    model_config = ConfigDict(frozen=True)


class Page(Answer, Generic[T]):
    """Part of a list.

    Args:
        next: give it as `cursor` for what follows; null = that was all.
    """

    items: tuple[T, ...]
    next: str | None = None


Limit = Annotated[int, Query(ge=1, le=MOST_ITEMS, description="At most so many items.")]
CursorText = Annotated[str | None, Query(max_length=MOST_CURSOR, description="`next` of the answer before.")]


def cursor_of(*key: str | int) -> str:
    """The key of the last item that was given, as an opaque text."""
    return base64.urlsafe_b64encode(json.dumps(key, separators=(",", ":")).encode()).decode().rstrip("=")


def key_of(cursor: str, *shape: type[str] | type[int]) -> tuple[Any, ...]:
    """Args:
        shape: types of the key's parts.

    Raises:
        InvalidInput: it is no cursor of this list.
    """
    wrong = InvalidInput(
        told("The cursor is none of this list."), way_out=told("Begin without a cursor, then give `next` as it came.")
    )
    if len(cursor) > MOST_CURSOR:
        raise wrong
    try:
        key = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        raise wrong from None
    if not isinstance(key, list) or [type(part) for part in key] != list(shape):
        raise wrong
    if any(isinstance(part, int) and abs(part) >= 2**63 for part in key):
        raise wrong
    return tuple(key)


def page_of(rows: Sequence[R], limit: int, key: Callable[[R], tuple[str | int, ...]]) -> tuple[Sequence[R], str | None]:
    """Args:
    rows: up to `limit + 1`, so that it is known whether more follow.
    """
    if len(rows) <= limit:
        return rows, None
    return rows[:limit], cursor_of(*key(rows[limit - 1]))


def with_etag(request: Request, answer: BaseModel) -> Response:
    """The answer as JSON with its ETag; 304 without a body when the caller has just that."""
    content = answer.model_dump_json().encode()
    etag = _etag(content)
    headers = {"ETag": etag, "Cache-Control": "private, no-cache", "Vary": "Authorization, Cookie"}
    known = _etags(request, "if-none-match")
    if etag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type="application/json", headers=headers)


class Outdated(Conflict):
    """Somebody else changed the thing since the caller read it."""

    http_status = 412

    def __init__(self) -> None:
        super().__init__(
            told("It is no longer what you have read; nothing was changed."),
            way_out=told("Read it again, make your change to that, and send it with the new ETag."),
        )


def refuse_outdated(request: Request, current: BaseModel | None) -> None:
    """What a change that replaces a whole thing asks first, within its transaction: `If-Match` with the ETag that was
    read keeps the changes of others; `If-None-Match: *` makes a new thing only.

    Args:
        current: what GET answers now; None: there is none yet.

    Raises:
        Outdated: the header names another.
    """
    now = None if current is None else _etag(current.model_dump_json().encode())
    if (wanted := _etags(request, "if-match")) and (now is None or not wanted & {now, "*"}):
        raise Outdated
    if "*" in _etags(request, "if-none-match") and now is not None:
        raise Outdated


def _etag(content: bytes) -> str:
    return f'"{hashlib.sha256(content).hexdigest()[:24]}"'


def _etags(request: Request, header: str) -> set[str]:
    """Weak ones too: a proxy that compresses makes an ETag of ours weak."""
    given = request.headers.get(header, "")[:2_000].split(",")
    return {one.strip().removeprefix("W/") for one in given} - {""}


def _from_header(
    key: Annotated[
        str | None,
        Header(alias="Idempotency-Key", max_length=64, description="Your name for this act: sent twice, done once."),
    ] = None,
) -> CommandId:
    return CommandId(key or str(uuid4()))


def _from_form(command: Annotated[str, Form(max_length=64)] = "") -> CommandId:
    return CommandId(command or str(uuid4()))


IfMatch = Annotated[
    str | None,
    Header(alias="If-Match", max_length=200, description="ETag of what you read: refused when it was changed since."),
]
"""Of a route that replaces a whole thing; `refuse_outdated` reads it."""
Act = Annotated[CommandId, Depends(_from_header)]
"""Of a route of the API that changes something."""
FormAct = Annotated[CommandId, Depends(_from_form)]
"""Of a page's form, which carries it in its hidden field `command` (`ui.act`): pressed twice, done once."""

PROBLEM_JSON: Final = "application/problem+json"
PROBLEM_SCHEMA: Final = "#/components/schemas/Problem"
"""Named, not given as a model: FastAPI would make a validator of each status of each route, four in five of all."""
PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"description": description, "content": {PROBLEM_JSON: {"schema": {"$ref": PROBLEM_SCHEMA}}}}
    for status, description in (
        (400, "The request is no HTTP or JSON that can be read."),
        (401, "Nobody knows who is asking."),
        (403, "The role or the token does not allow it."),
        (404, "There is no such thing."),
        (405, "This address does not take this method; Allow says which it takes."),
        (408, "The body did not come in time."),
        (409, "The state moved on, or somebody else owns the thing."),
        (412, "It is another than the one that If-Match names: somebody changed it meanwhile."),
        (413, "The body is too large."),
        (415, "The body is no application/json."),
        (419, "Sent with a session, but without its CSRF token or from another site."),
        (422, "The request is wrong as it stands."),
        (429, "Too many requests; Retry-After says when the next is taken."),
        (500, "The portal met an error it did not expect."),
        (503, "A store or a service cannot be reached now."),
    )
}
NOT_MODIFIED: Final[dict[int | str, dict[str, Any]]] = {304: {"description": "The caller has the newest."}}
