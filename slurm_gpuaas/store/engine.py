"""Connections: SQLite beside the daemon by default, PostgreSQL by URL; the same code and the same migrations."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

import psycopg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError
from sqlalchemy.pool import ConnectionPoolEntry

from slurm_gpuaas.domain.errors import Conflict, InvalidInput, Unavailable

BUSY_SECONDS = 10.0
"""How long a transaction that writes waits for another one before it gives up."""
WRITE_LOCK: Final = 0x6770756161737772
"""Key of PostgreSQL's advisory lock that transactions which write hold one after the other: `gpuaaswr` in ASCII."""


def open_engine(url: str) -> Engine:
    """An engine for `sqlite:////path/file.db` or `postgresql://...`; connects on first use.

    Raises:
        InvalidInput: the URL names no database that we know.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise InvalidInput(
            "The store's URL is not a database URL.", way_out="Write e.g. sqlite:////path/file.db."
        ) from None
    match parsed.get_backend_name():
        case "sqlite":
            engine = create_engine(parsed, connect_args={"timeout": BUSY_SECONDS})
            event.listen(engine, "connect", _set_up_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
            return engine
        case "postgresql":
            engine = create_engine(parsed.set(drivername="postgresql+psycopg"), pool_pre_ping=True)
            event.listen(engine, "connect", _set_up_postgresql)
            event.listen(engine, "begin", _begin_postgresql)
            return engine
        case other:
            raise InvalidInput(f"The store cannot live in {other}.", way_out="Use a sqlite: or postgresql: URL.")


def _set_up_sqlite(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
    # pysqlite's own transaction handling begins late and would let a read turn into a write that finds the file busy.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "foreign_keys=ON", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    """A transaction that will write takes the write lock at once; one that reads takes a snapshot."""
    immediate = connection.get_execution_options().get("gpuaas_writes", True)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _set_up_postgresql(connection: psycopg.Connection, _entry: ConnectionPoolEntry) -> None:
    connection.execute(f"SET lock_timeout = {round(BUSY_SECONDS * 1_000)}")
    connection.commit()


def _begin_postgresql(connection: Connection) -> None:
    """As SQLite does it: one writer at a time, who sees what the one before has committed, and snapshots for readers.

    Rules read, decide and write (is there room, has somebody approved it already); whoever read before the other one
    wrote would decide on what is no longer so.
    """
    writes = connection.get_execution_options().get("gpuaas_writes", True)
    connection.exec_driver_sql(
        f"SELECT pg_advisory_xact_lock({WRITE_LOCK})"
        if writes
        else "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"
    )


@dataclass(frozen=True, slots=True)
class Schema:
    """The tables of one kind of store.

    Args:
        package: holds `migrations`.
        owner: the only program that opens it.
    """

    package: str
    owner: str

    @property
    def scripts(self) -> str:
        return str(files(self.package) / "migrations")


SITE: Final = Schema("slurm_gpuaas.store", "gpuaasd")
POOL: Final = Schema("slurm_gpuaas.store.pool", "gpuaas-portal")


def migrations(engine: Engine, schema: Schema = SITE) -> Config:
    """Alembic's configuration for the packaged migrations and this engine."""
    config = Config()
    config.set_main_option("script_location", schema.scripts)
    config.attributes["engine"] = engine
    return config


@cache
def _revisions(schema: Schema) -> tuple[frozenset[str], frozenset[str]]:
    """All revisions of the packaged migrations, and the newest ones."""
    scripts = ScriptDirectory(schema.scripts)
    return frozenset(script.revision for script in scripts.walk_revisions()), frozenset(scripts.get_heads())


def known_revisions(schema: Schema) -> frozenset[str]:
    """Revisions that this program can read or bring up to date."""
    return _revisions(schema)[0]


def upgrade(engine: Engine, schema: Schema = SITE) -> None:
    """Bring the store to the newest revision; an empty database becomes a store.

    Raises:
        Unavailable: the database cannot be reached, or is none.
        Conflict: a newer program wrote it, or it is a store of another kind.
    """
    known, heads = _revisions(schema)
    try:
        with engine.connect() as connection:
            current = set(MigrationContext.configure(connection).get_current_heads())
        if current - known:
            raise Conflict(
                f"The store is at revision {', '.join(sorted(current))}, which this program does not know.",
                way_out=f"Start the newer {schema.owner} that wrote it, or restore a backup.",
            )
        if current != heads:
            command.upgrade(migrations(engine, schema), "head")
    except DatabaseError as error:
        raise Unavailable(
            f"The store at {engine.url.render_as_string()} cannot be used: {error.orig}.",
            way_out=f"Check that it is {schema.owner}'s store or a new one, and that this user may write there.",
        ) from error
