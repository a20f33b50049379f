"""The pool's store: its migrations make exactly the tables that the code uses, and it is not taken for a site's."""

from __future__ import annotations

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from slurm_gpuaas.domain.errors import Conflict
from slurm_gpuaas.store import Store
from slurm_gpuaas.store.engine import POOL, open_engine, upgrade
from slurm_gpuaas.store.pool import PoolStore
from slurm_gpuaas.store.pool.tables import PoolTable


def test_from_empty_to_head_leaves_nothing_for_autogenerate(url: str) -> None:
    engine = open_engine(url)
    upgrade(engine, POOL)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, PoolTable.metadata) == []


def test_upgrading_again_changes_nothing(url: str) -> None:
    PoolStore.open(url).close()
    PoolStore.open(url).close()


def test_neither_store_is_opened_as_the_other(tmp_path_factory: pytest.TempPathFactory) -> None:
    site, pool = (f"sqlite:///{tmp_path_factory.mktemp('store')}/{name}.db" for name in ("site", "pool"))
    Store.open(site).close()
    PoolStore.open(pool).close()
    with pytest.raises(Conflict, match="0012"):
        PoolStore.open(site)
    with pytest.raises(Conflict, match="pool_"):
        Store.open(pool)
