"""The one place where an error becomes an HTTP answer: RFC 9457 problem details with our way out and exit code."""

from __future__ import annotations

import uuid

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from slurm_gpuaas.api.models import Fault, Problem
from slurm_gpuaas.domain.errors import ExitCode, GpuaasError

MEDIA_TYPE = "application/problem+json"

log = structlog.get_logger(__name__)


def answer(problem: Problem) -> JSONResponse:
    return JSONResponse(problem.model_dump(mode="json"), status_code=problem.status, media_type=MEDIA_TYPE)


def of_error(error: GpuaasError) -> Problem:
    kind = type(error).__name__
    return Problem(
        type=f"urn:gpuaas:problem:{kind}",
        title=kind,
        status=error.http_status,
        detail=error.message,
        way_out=error.way_out,
        exit_code=int(error.exit_code),
    )


def install(app: FastAPI) -> None:
    """Make every error of the app a problem document. Tracebacks go to the log, under a number the answer names."""

    @app.exception_handler(GpuaasError)
    def _expected(request: Request, error: GpuaasError) -> JSONResponse:
        return answer(of_error(error))

    @app.exception_handler(RequestValidationError)
    def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        faults = tuple(
            Fault(field=".".join(str(part) for part in fault["loc"]), message=fault["msg"]) for fault in error.errors()
        )
        return answer(
            Problem(
                type="urn:gpuaas:problem:InvalidInput",
                title="InvalidInput",
                status=422,
                detail="; ".join(f"{fault.field}: {fault.message}" for fault in faults[:10]),
                way_out="Correct the named fields.",
                exit_code=int(ExitCode.INVALID),
                faults=faults,
            )
        )

    @app.exception_handler(HTTPException)
    def _http(request: Request, error: HTTPException) -> JSONResponse:
        return answer(
            Problem(
                type="about:blank",
                title=error.detail,
                status=error.status_code,
                detail=f"{request.method} {request.url.path}: {error.detail}.",
                way_out="The API is described at /openapi.json.",
                exit_code=int(ExitCode.INVALID),
            )
        )

    @app.exception_handler(Exception)
    def _unexpected(request: Request, error: Exception) -> JSONResponse:
        number = uuid.uuid4().hex[:12]
        log.error("request.crashed", number=number, method=request.method, path=request.url.path, exc_info=error)
        return answer(
            Problem(
                type="urn:gpuaas:problem:Unexpected",
                title="Unexpected",
                status=500,
                detail=f"gpuaasd met an error it did not expect (number {number}).",
                way_out="Look for the number in gpuaasd's log and report what stands there.",
                exit_code=int(ExitCode.FAILED),
            )
        )
