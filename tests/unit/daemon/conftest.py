from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from tests.unit.daemon.site import Site


@pytest.fixture(autouse=True, scope="package")
def plain_log() -> None:
    """structlog's default renders tracebacks in colour with all variables, which takes seconds."""
    structlog.configure(processors=[structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)])


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.store.close()
