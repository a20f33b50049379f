"""Opens the pool's store and holds its parts together."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

from sqlalchemy import Engine

from slurm_gpuaas.store.engine import POOL, open_engine, upgrade
from slurm_gpuaas.store.pool.audit import PoolAudit
from slurm_gpuaas.store.pool.ledger import LedgerStore
from slurm_gpuaas.store.pool.people import People
from slurm_gpuaas.store.pool.register import Register
from slurm_gpuaas.store.pool.sites import Sites
from slurm_gpuaas.store.session import Sessions

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class PoolStore:
    """Open it with `PoolStore.open`; safe to share between threads. Each part has a class of its own over the same
    sessions, so that one transaction may span several."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._sessions = Sessions(engine)
        self.register = Register(self._sessions)
        self.ledger = LedgerStore(self._sessions)
        self.sites = Sites(self._sessions)
        self.people = People(self._sessions)
        self.audit = PoolAudit(self._sessions)

    @classmethod
    def open(cls, url: str) -> PoolStore:
        """Open `sqlite:////path/file.db` or `postgresql://...`, creating or upgrading the tables.

        Raises:
            InvalidInput: the URL is of no database that we know.
            Conflict: a newer program wrote the store.
        """
        engine = open_engine(url)
        upgrade(engine, POOL)
        return cls(engine)

    def close(self) -> None:
        self._engine.dispose()

    def remembered(
        self, tables: tuple[str, ...], name: Hashable, make: Callable[[], V], *, as_of: Hashable = None
    ) -> V:
        """As `Sessions.remembered`."""
        return self._sessions.remembered(tables, name, make, as_of=as_of)

    def remembered_each(
        self,
        tables: tuple[str, ...],
        kind: str,
        keys: Iterable[K],
        make: Callable[[Sequence[K]], Mapping[K, V]],
        *,
        as_of: Hashable = None,
    ) -> Mapping[K, V]:
        """As `Sessions.remembered_each`."""
        return self._sessions.remembered_each(tables, kind, keys, make, as_of=as_of)

    def transaction(self) -> AbstractContextManager[object]:
        """One transaction around several calls; it commits at the end, or not at all when something raises."""
        return self._sessions.writing()
