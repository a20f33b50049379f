"""New stores for tests, at the cost of copying a file: the migrations take longer than most tests."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import Engine, event

from slurm_gpuaas.domain.from_portal import Terms
from slurm_gpuaas.store import Store
from slurm_gpuaas.store.engine import open_engine
from slurm_gpuaas.store.pool import PoolStore


@cache
def _empty(kind: type[Store | PoolStore]) -> bytes:
    with TemporaryDirectory() as folder:
        kind.open(f"sqlite:///{folder}/store.db").close()
        return Path(folder, "store.db").read_bytes()


def _fast(file: Path, content: bytes) -> Engine:
    """A database that need not survive the machine."""
    file.write_bytes(content)
    engine = open_engine(f"sqlite:///{file}")
    event.listen(engine, "connect", lambda connection, _record: connection.execute("PRAGMA synchronous=OFF"))
    return engine


def new_store(file: Path, *, terms: Terms | None = None) -> Store:
    """A store in a file that is not there yet, with all tables and nothing in them. It need not survive the machine."""
    return Store(_fast(file, _empty(Store)), terms=terms)


def new_pool_store(file: Path) -> PoolStore:
    """As `new_store`, of the pool."""
    return PoolStore(_fast(file, _empty(PoolStore)))
