"""A new, empty store for each test: SQLite here; `tests/slurm/test_store_on_postgres.py` runs the same tests there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm_gpuaas.store import Store
from tests.stores import new_store


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store.db"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = new_store(tmp_path / "store.db")
    yield store
    store.close()
