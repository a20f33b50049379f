"""The store's whole suite again, on a real PostgreSQL server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from slurm_gpuaas.store import Store
from tests.slurm.databases import database
from tests.unit.store.test_migrations import *  # noqa: F403
from tests.unit.store.test_repository import *  # noqa: F403

pytestmark = pytest.mark.postgres


@pytest.fixture
def url(postgres_url: str) -> Iterator[str]:
    """An empty database of its own."""
    with database(postgres_url) as url:
        yield url


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    store = Store.open(url)
    yield store
    store.close()
