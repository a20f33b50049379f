"""Errors a person can act on.

Every error carries one clear sentence with its numbers and, apart from it, the way out. They become exit codes, HTTP
problems and hook messages in one place each (`cli/errors.py`, `daemon/problems.py`); nothing else formats them.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """What `gpuaas` exits with; documented in docs/reference/exit-codes.md."""

    OK = 0
    FAILED = 1
    """Something we tried did not work (Slurm refused, a step's outcome differs from its claim)."""
    CHANGES_PENDING = 2
    """`policy plan`: Slurm differs from the policy."""
    INVALID = 3
    """Bad input: a file, an option or a name."""
    REFUSED = 4
    """A rule or a permission forbids it."""
    UNAVAILABLE = 5
    """gpuaasd, Slurm or a store cannot be reached now; the same call may work later."""


class GpuaasError(Exception):
    """Base of all expected failures.

    Args:
        message: one sentence with the numbers: what was asked, what stands against it.
        way_out: what the reader can do about it, an imperative sentence.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.FAILED
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, *, way_out: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.way_out = way_out

    def __str__(self) -> str:
        return f"{self.message} {self.way_out}".strip()


class InvalidInput(GpuaasError, ValueError):
    """Input that can never be right as it stands. Also a ValueError, so that pydantic reports it with its place."""

    exit_code = ExitCode.INVALID
    http_status = 422


class Refused(GpuaasError):
    """A rule or a permission forbids it."""

    exit_code = ExitCode.REFUSED
    http_status = 403


class NotFound(GpuaasError):
    """The named thing does not exist."""

    exit_code = ExitCode.INVALID
    http_status = 404


class Conflict(GpuaasError):
    """The state moved on, or somebody else owns the thing."""

    exit_code = ExitCode.REFUSED
    http_status = 409


class Unavailable(GpuaasError):
    """A service we depend on cannot be reached now."""

    exit_code = ExitCode.UNAVAILABLE
    http_status = 503
