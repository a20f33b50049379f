"""The store's whole suite again, on a real PostgreSQL server."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import make_url

from slurm_gpuaas.store import Store
from tests.unit.store.test_migrations import *  # noqa: F403
from tests.unit.store.test_pool_ledger import *  # noqa: F403
from tests.unit.store.test_repository import *  # noqa: F403

pytestmark = pytest.mark.postgres


@pytest.fixture
def url(postgres_url: str) -> Iterator[str]:
    """An empty database of its own."""
    server = make_url(postgres_url).set(drivername="postgresql")
    name = f"gpuaas_{uuid4().hex}"
    with psycopg.connect(server.render_as_string(hide_password=False), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        yield server.set(database=name).render_as_string(hide_password=False)
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    store = Store.open(url)
    yield store
    store.close()
