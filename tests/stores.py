"""New stores for tests, at the cost of copying a file: the migrations take longer than most tests."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import event

from slurm_gpuaas.domain.from_portal import Terms
from slurm_gpuaas.store import Store
from slurm_gpuaas.store.engine import open_engine


@cache
def _empty() -> bytes:
    with TemporaryDirectory() as folder:
        Store.open(f"sqlite:///{folder}/store.db").close()
        return Path(folder, "store.db").read_bytes()


def new_store(file: Path, *, terms: Terms | None = None) -> Store:
    """A store in a file that is not there yet, with all tables and nothing in them. It need not survive the machine."""
    file.write_bytes(_empty())
    engine = open_engine(f"sqlite:///{file}")
    event.listen(engine, "connect", lambda connection, _record: connection.execute("PRAGMA synchronous=OFF"))
    return Store(engine, terms=terms)
