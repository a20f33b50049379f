"""The one place where an error becomes an answer: a problem document (RFC 9457) for programs, a page for people, both
in the reader's language."""

from __future__ import annotations

import uuid
from typing import Final
from urllib.parse import quote

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from slurm_gpuaas.api.models import Fault, Problem
from slurm_gpuaas.domain.errors import ExitCode, GpuaasError, InvalidInput, NotFound
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.portal.http import PROBLEM_JSON
from slurm_gpuaas.portal.oidc import SignInFailed
from slurm_gpuaas.portal.rate import TooOften
from slurm_gpuaas.portal.rights import NotYours, Scope
from slurm_gpuaas.portal.secret import new_secret
from slurm_gpuaas.portal.visit import (
    API_PREFIX,
    Guest,
    Unknown,
    Visit,
    language_of,
    note_refused,
    portal_of,
    source_of,
)
from slurm_gpuaas.portal.words import noted

TITLES: Final = {
    400: noted("That did not work"),
    401: noted("Please sign in"),
    403: noted("Not allowed"),
    404: noted("Not found"),
    405: noted("Not possible here"),
    408: noted("Too slow"),
    409: noted("Things have changed meanwhile"),
    412: noted("Things have changed meanwhile"),
    413: noted("Too large"),
    415: noted("Not in this form"),
    419: noted("Please send the form again"),
    422: noted("Something needs correcting"),
    429: noted("A little slower, please"),
    500: noted("Our mistake"),
    503: noted("Not available right now"),
}

log = structlog.get_logger(__name__)


class Unexpected(GpuaasError):
    """A bug of ours; the number leads to the traceback in the log."""

    def __init__(self, number: str) -> None:
        super().__init__(
            told("The portal met an error it did not expect (number {number}).", number=number),
            way_out=told("Try again; if it stays, tell the operator this number."),
        )


class BodyTooLarge(GpuaasError):
    exit_code = ExitCode.INVALID
    http_status = 413

    def __init__(self, limit: int) -> None:
        super().__init__(
            told("The request's body is larger than {limit} bytes.", limit=limit), way_out=told("Send less at once.")
        )


class BodyTooSlow(GpuaasError):
    exit_code = ExitCode.INVALID
    http_status = 408

    def __init__(self, seconds: float) -> None:
        super().__init__(
            told("The request's body was not there after {seconds} s.", seconds=round(seconds)),
            way_out=told("Send less at once, or over a better connection."),
        )


class NotPossibleHere(GpuaasError):
    exit_code = ExitCode.INVALID
    http_status = 405


class NotThere(NotFound):
    """What is not there, and what one may not see: the same words for both, so that nobody learns which it is."""

    def __init__(self) -> None:
        super().__init__(
            told("There is nothing of this number or name, or it is not yours to see."),
            way_out=told("Check the number or name; what others own, ask them for."),
        )


def _unseen(request: Request, error: GpuaasError) -> GpuaasError:
    """What the visitor may be told instead of the error. `NotYours` is written into the audit trail."""
    visit = getattr(request.state, "visit", None)
    if not isinstance(visit, Visit):
        return error
    if isinstance(error, NotYours):
        note_refused(request, visit, error.action, "not theirs")
        return NotThere()
    hidden = type(error) is NotFound and request.state.scope is not Scope.ALL
    return NotThere() if hidden else error


def for_machines(request: Request) -> bool:
    return request.url.path.startswith(API_PREFIX)


def answer(request: Request, error: GpuaasError, faults: tuple[Fault, ...] = ()) -> Response:
    """An expected failure as its reader wants it."""
    headers = {"Cache-Control": "no-store"}
    if isinstance(error, TooOften):
        headers["Retry-After"] = str(error.seconds)
    portal = portal_of(request)
    known = getattr(request.state, "visit", None)
    guest = (
        known
        if isinstance(known, Guest)
        else Guest(
            words=portal.words(language_of(portal, request, None)), source=source_of(request), secret=new_secret()
        )
    )
    status = error.http_status
    title = guest.words.tell(TITLES.get(status, TITLES[400] if status < 500 else TITLES[500]))
    if for_machines(request):
        kind = type(error).__name__
        problem = Problem(
            type=f"urn:gpuaas:problem:{kind}",
            title=title,
            status=status,
            detail=guest.words.tell(error.message),
            way_out=guest.words.tell(error.way_out),
            exit_code=int(error.exit_code),
            faults=faults,
        )
        headers |= {"Content-Language": str(guest.words.language), "Vary": "Accept-Language"}
        if status == 401:
            headers["WWW-Authenticate"] = 'Bearer realm="gpuaas-portal"'
        return JSONResponse(problem.model_dump(mode="json"), status, headers, PROBLEM_JSON)
    if isinstance(error, Unknown) and request.method in {"GET", "HEAD"}:
        # hx-redirect: a part of a page cannot be replaced with the sign-in page; the whole page goes there.
        target = f"/sign-in?back={quote(_local(request), safe='')}"
        if request.headers.get("hx-request") == "true":
            return Response(status_code=401, headers={**headers, "HX-Redirect": target})
        return RedirectResponse(target, 303, headers)
    page = portal.page(
        request,
        guest,
        "error.html",
        status=status,
        title=title,
        text=guest.words.tell(error.message),
        way_out=guest.words.tell(error.way_out),
        number=source_of(request).request,
        known=isinstance(guest, Visit),
        faults=faults,
    )
    page.headers.update(headers)
    return page


def _local(request: Request) -> str:
    return request.url.path + (f"?{request.url.query}" if request.url.query else "")


def install(app: FastAPI) -> None:
    """Make every error of the app an answer that its reader understands. Tracebacks go to the log only."""

    @app.exception_handler(GpuaasError)
    def _expected(request: Request, error: GpuaasError) -> Response:
        if isinstance(error, SignInFailed):
            log.warning("sign-in.failed", why=error.why)
        return answer(request, _unseen(request, error))

    @app.exception_handler(RequestValidationError)
    def _invalid(request: Request, error: RequestValidationError) -> Response:
        found = error.errors()
        if any(fault["type"] == "json_invalid" for fault in found):
            unread = told("The body is no JSON that can be read.")
            return answer(request, _Unreadable(unread, way_out=told("Send one whole JSON document.")))
        if for_machines(request) and any(fault["loc"] == ("body",) for fault in found) and not _says_json(request):
            return answer(request, _NotJson())
        faults = tuple(
            Fault(field=".".join(str(part) for part in fault["loc"])[:200], message=fault["msg"][:300])
            for fault in found[:20]
        )
        wrong = InvalidInput(
            told("{count} fields are missing or wrong.", count=len(faults)), way_out=told("Correct the named fields.")
        )
        return answer(request, wrong, faults)

    @app.exception_handler(ValidationError)
    def _against_a_rule(request: Request, error: ValidationError) -> Response:
        """What was asked makes a noun that one of its own rules forbids."""
        rules = [fault.get("ctx", {}).get("error") for fault in error.errors()]
        told_by = next((rule for rule in rules if isinstance(rule, GpuaasError)), None)
        return _unexpected(request, error) if told_by is None else answer(request, told_by)

    @app.exception_handler(HTTPException)
    def _http(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404:
            return answer(request, NotFound(told("There is no such page."), way_out=told("Begin at the home page.")))
        if error.status_code == 405:
            found = answer(request, NotPossibleHere(told("This address does not take this kind of request.")))
            found.headers.update(error.headers or {})
            return found
        return answer(request, _Unreadable(told("The request cannot be read.")))

    @app.exception_handler(Exception)
    def _unexpected(request: Request, error: Exception) -> Response:
        number = uuid.uuid4().hex[:12]
        log.error("request.crashed", number=number, method=request.method, path=request.url.path, exc_info=error)
        return answer(request, Unexpected(number))


def _says_json(request: Request) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


class _Unreadable(GpuaasError):
    exit_code = ExitCode.INVALID
    http_status = 400


class _NotJson(GpuaasError):
    exit_code = ExitCode.INVALID
    http_status = 415

    def __init__(self) -> None:
        super().__init__(
            told("The API takes JSON, and this body says that it is something else."),
            way_out=told("Send it with Content-Type: application/json."),
        )
