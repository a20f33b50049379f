from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pools import TestPortal


@pytest.fixture
def portal(tmp_path: Path) -> Iterator[TestPortal]:
    portal = TestPortal(tmp_path)
    yield portal
    portal.store.close()
