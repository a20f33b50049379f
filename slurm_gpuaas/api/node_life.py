"""Requests and answers about what acts on nodes by itself."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from slurm_gpuaas.api.models import Answer, Request


class Because(Request):
    """What a person says to an action of theirs; goes to the audit trail."""

    reason: str = Field(default="", max_length=500)


class BreakerReset(Request):
    scope: str = Field(max_length=100, description="As shown: `cluster`, or `leaf NAME`.")
    reason: str = Field(min_length=1, max_length=500)


class BreakerView(Answer):
    """A circuit breaker that has tripped: nothing acts on nodes of its scope until it is reset."""

    scope: str
    at: datetime
    why: str
