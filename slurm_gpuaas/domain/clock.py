"""Time comes from outside: rules take a moment, controllers take a clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Protocol

from pydantic import Field

Span = Annotated[timedelta, Field(gt=timedelta(0))]
"""A span of time that a configuration gives: an interval or a deadline, never zero or less."""


class Clock(Protocol):
    def now(self) -> datetime:
        """The present moment, always with time zone UTC."""
        ...


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)
