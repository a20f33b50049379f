"""What holds for every test."""

from __future__ import annotations

import gc

import pytest
import structlog


def pytest_collection_finish() -> None:
    """Thousands of tests and all that they import live to the end: the garbage collector need not walk them each time
    a test builds a portal."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def plain_log() -> None:
    """The log as structlog has it from the start, whatever the test before made of it; but its tracebacks, in colour
    and with all variables, take seconds."""
    structlog.reset_defaults()
    *processors, _ = structlog.get_config()["processors"]
    renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*processors, renderer])
