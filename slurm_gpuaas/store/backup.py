"""A store as one file, taken while its program runs, and a store made of such a file on a clean machine.

SQLite's own online backup copies one snapshot; with write-ahead logging it holds up neither readers nor writers. For
PostgreSQL the file is what `pg_dump` writes, and `pg_restore` reads it. A file is there whole or not at all, only its
owner may read it (a store holds hashes of passwords and tokens), and nothing that exists is ever overwritten.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from alembic.runtime.migration import MigrationContext
from sqlalchemy import URL, inspect, make_url

from slurm_gpuaas.domain.errors import Conflict, GpuaasError, InvalidInput, Unavailable
from slurm_gpuaas.store.engine import Schema, known_revisions, open_engine, upgrade

SQLITE_HEADER: Final = b"SQLite format 3\0"
PG_DUMP_HEADER: Final = b"PGDMP"
_LIBPQ: Final = {
    "host": "PGHOST",
    "port": "PGPORT",
    "username": "PGUSER",
    "password": "PGPASSWORD",
    "database": "PGDATABASE",
}


class BackupFailed(GpuaasError):
    """The copy is not sound, or PostgreSQL's program says no."""


@dataclass(frozen=True, slots=True)
class Backup:
    """What a file holds. `size` in bytes; `revision` of the tables."""

    file: Path
    size: int
    revision: str


def backup(url: str, file: Path, schema: Schema) -> Backup:
    """Write the store as it is at this moment to a file that is not there yet.

    Raises:
        Conflict: the file exists, or the database is no store of this schema.
        Unavailable: the database cannot be read, or pg_dump is not installed.
        BackupFailed: the copy is damaged, or pg_dump says no.
    """
    revision = _revision(url, schema)
    with _new_file(file) as partial:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite":
            _copy(Path(parsed.database or ""), partial)
        else:
            _run(["pg_dump", "--format=custom", "--no-owner", f"--file={partial}"], parsed)
    return Backup(file, file.stat().st_size, revision)


def restore(file: Path, url: str, schema: Schema) -> Backup:
    """Make a store of a backup, where there is none yet, and bring it to this program's revision.

    Raises:
        InvalidInput: the file is no backup, or one of the other kind of database.
        Conflict: there is a store already, or a newer program (or the other one) wrote the backup.
        Unavailable, BackupFailed: as `backup`.
    """
    parsed = make_url(url)
    kind = parsed.get_backend_name()
    if (found := _kind_of(file)) != kind:
        raise InvalidInput(
            f"{file} is a backup of {found}, the store is to be in {kind}.", way_out=f"Restore it to a {found}: URL."
        )
    if kind == "sqlite":
        with _new_file(Path(parsed.database or "")) as partial:
            _copy(file, partial)
            _revision(f"sqlite:///{partial}", schema)
    else:
        engine = open_engine(url)
        try:
            if tables := inspect(engine).get_table_names():
                raise Conflict(
                    f"The database has {len(tables)} tables already.", way_out="Restore into an empty database."
                )
        finally:
            engine.dispose()
        argv = ["pg_restore", "--no-owner", "--exit-on-error", "--single-transaction"]
        _run([*argv, f"--dbname={parsed.database}", str(file)], parsed)
    revision = _revision(url, schema)
    engine = open_engine(url)
    try:
        upgrade(engine, schema)
    finally:
        engine.dispose()
    return Backup(file, file.stat().st_size, revision)


def _revision(url: str, schema: Schema) -> str:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
        raise Unavailable(f"There is no store at {parsed.database}.", way_out=f"{schema.owner} makes it at its start.")
    engine = open_engine(url)
    try:
        with engine.connect() as connection:
            revision = MigrationContext.configure(connection).get_current_revision()
    finally:
        engine.dispose()
    if revision not in known_revisions(schema):
        raise Conflict(
            f"It is at revision {revision or 'none'}, which this {schema.owner} does not know.",
            way_out=f"Use the {schema.owner} that wrote it, or name a store of {schema.owner}'s.",
        )
    return str(revision)


def _kind_of(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            head = stream.read(len(SQLITE_HEADER))
    except OSError as error:
        raise InvalidInput(f"{file} cannot be read: {error.strerror}.", way_out="Name a file that is there.") from error
    if head == SQLITE_HEADER:
        return "sqlite"
    if head.startswith(PG_DUMP_HEADER):
        return "postgresql"
    raise InvalidInput(f"{file} is no backup of a store.", way_out="Name a file that `backup` wrote.")


def _copy(source: Path, target: Path) -> None:
    try:
        with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
            old.backup(new)
            new.execute("PRAGMA journal_mode=DELETE")  # one file, no log beside it
            (found,) = new.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        raise Unavailable(f"{source} cannot be copied: {error}.", way_out="Check its owner and the disk.") from error
    except sqlite3.DatabaseError as error:
        found = str(error)
    if found != "ok":
        raise BackupFailed(f"{source} is damaged: {found}.", way_out="Check the disk, use an older backup.")


@contextmanager
def _new_file(file: Path) -> Iterator[Path]:
    """A file beside it that takes its place when all has gone well."""
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Unavailable(f"{file} cannot be written: {error.strerror}.", way_out="Name a folder of yours.") from error
    os.close(descriptor)
    try:
        yield partial
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())
        os.link(partial, file)  # unlike a rename this never replaces what is there
    except FileExistsError:
        raise Conflict(f"{file} exists.", way_out="Name a new file, or move that one away.") from None
    finally:
        partial.unlink(missing_ok=True)
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _run(argv: Sequence[str], url: URL) -> None:
    """The password goes through the environment: arguments are for everybody to see."""
    try:
        done = subprocess.run(argv, env=os.environ | _environment(url), capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Unavailable(f"{argv[0]} is not installed.", way_out="Install PostgreSQL's client programs.") from None
    if done.returncode:
        raise BackupFailed(
            f"{argv[0]} ended with {done.returncode}: {done.stderr.strip()[-500:]}.", way_out="Nothing was changed."
        )


def _environment(url: URL) -> Mapping[str, str]:
    found = {name: str(value) for part, name in _LIBPQ.items() if (value := getattr(url, part)) is not None}
    host = url.query.get("host")
    return found | ({"PGHOST": host} if isinstance(host, str) else {})
