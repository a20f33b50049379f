"""New stores for tests, at the cost of copying a file: the migrations take longer than most tests."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from sqlalchemy import event

from slurm_gpuaas.store import Store
from slurm_gpuaas.store.engine import open_engine
from slurm_gpuaas.store.pool import PoolStore

S = TypeVar("S", Store, PoolStore)


@cache
def _empty(kind: type[Store] | type[PoolStore]) -> bytes:
    with TemporaryDirectory() as folder:
        kind.open(f"sqlite:///{folder}/store.db").close()
        return Path(folder, "store.db").read_bytes()


def _new(kind: type[S], file: Path) -> S:
    file.write_bytes(_empty(kind))
    return opened(kind, file)


def opened(kind: type[S], file: Path) -> S:
    """The store in a file that is there. What is written need not survive the machine."""
    engine = open_engine(f"sqlite:///{file}")
    event.listen(engine, "connect", lambda connection, _record: connection.execute("PRAGMA synchronous=OFF"))
    return kind(engine)


def new_store(file: Path) -> Store:
    """A store in a file that is not there yet, with all tables and nothing in them. It need not survive the machine."""
    return _new(Store, file)


def new_pool_store(file: Path) -> PoolStore:
    """The same of the pool."""
    return _new(PoolStore, file)
