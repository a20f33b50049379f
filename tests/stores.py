"""New stores for tests, at the cost of copying a file: the migrations take longer than most tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import Engine, event

from slurm_gpuaas.store import Store
from slurm_gpuaas.store.engine import open_engine
from slurm_gpuaas.store.pool import PoolStore


@cache
def _empty(open_store: Callable[[str], Store | PoolStore]) -> bytes:
    with TemporaryDirectory() as folder:
        open_store(f"sqlite:///{folder}/store.db").close()
        return Path(folder, "store.db").read_bytes()


def _new_engine(file: Path, open_store: Callable[[str], Store | PoolStore]) -> Engine:
    file.write_bytes(_empty(open_store))
    engine = open_engine(f"sqlite:///{file}")
    event.listen(engine, "connect", lambda connection, _record: connection.execute("PRAGMA synchronous=OFF"))
    return engine


def new_store(file: Path) -> Store:
    """A store in a file that is not there yet, with all tables and nothing in them. It need not survive the machine."""
    return Store(_new_engine(file, Store.open))


def new_pool_store(file: Path) -> PoolStore:
    """The same for the pool's store."""
    return PoolStore(_new_engine(file, PoolStore.open))
