"""New stores for tests, at the cost of copying a file: the migrations take longer than most tests."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from sqlalchemy import Engine, event

from slurm_gpuaas.domain.from_portal import Terms
from slurm_gpuaas.store import Store
from slurm_gpuaas.store.engine import open_engine
from slurm_gpuaas.store.pool import PoolStore

S = TypeVar("S", Store, PoolStore)


def _empty(kind: type[S]) -> bytes:
    with TemporaryDirectory() as folder:
        kind.open(f"sqlite:///{folder}/store.db").close()
        return Path(folder, "store.db").read_bytes()


@cache
def _empty_site() -> bytes:
    return _empty(Store)


@cache
def _empty_pool() -> bytes:
    return _empty(PoolStore)


def opened(kind: type[S], file: Path) -> S:
    """The store in a file that is there. What is written need not survive the machine."""
    return kind(_fast(file))


def _fast(file: Path) -> Engine:
    engine = open_engine(f"sqlite:///{file}")
    event.listen(engine, "connect", lambda connection, _record: connection.execute("PRAGMA synchronous=OFF"))
    return engine


def new_store(file: Path, *, terms: Terms | None = None) -> Store:
    """A store in a file that is not there yet, with all tables and nothing in them. It need not survive the machine."""
    file.write_bytes(_empty_site())
    return Store(_fast(file), terms=terms)


def new_pool_store(file: Path) -> PoolStore:
    """The same of the pool."""
    file.write_bytes(_empty_pool())
    return opened(PoolStore, file)
