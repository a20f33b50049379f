"""Runs the migrations on the engine that `store.engine.migrations` put into the configuration."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Engine

from slurm_gpuaas.store.pool.tables import PoolTable

engine: Engine = context.config.attributes["engine"]

with engine.connect() as connection:
    # SQLite cannot alter a table in place; batch mode copies it.
    context.configure(
        connection=connection, target_metadata=PoolTable.metadata, render_as_batch=connection.dialect.name == "sqlite"
    )
    with context.begin_transaction():
        context.run_migrations()
