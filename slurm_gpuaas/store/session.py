"""Transactions. A method of the store opens its own unless the caller has one open: then it joins it.

What is read again and again is remembered until this process has written to a table that it is from. A store has one
owner, so nobody else writes: whoever may share a store with others must not use `remembered`.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import OperationalError
from sqlmodel import Session

from slurm_gpuaas.domain.errors import Unavailable

MOST_REMEMBERED: Final = 4_096
"""Those not asked for longest are forgotten."""
WRITTEN: Final = "gpuaas-written"
"""Key of a connection's notes: tables that its transaction has written to."""
_WRITES: Final = re.compile(r'\s*(?:INSERT\s+(?:OR\s+\w+\s+)?INTO|UPDATE|DELETE\s+FROM)\s+"?(\w+)', re.IGNORECASE)

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Sessions:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._versions: dict[str, int] = {}
        self._remembered: OrderedDict[Hashable, tuple[tuple[Hashable, ...], Any]] = OrderedDict()
        self._lock = threading.Lock()
        event.listen(engine, "before_cursor_execute", _note_writes)
        self._open: ContextVar[Session | None] = ContextVar("gpuaas-store-session", default=None)

    @property
    def joined(self) -> bool:
        """The caller has a transaction open."""
        return self._open.get() is not None

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction that commits at the end, or wholly rolls back when something raises."""
        joined = self._open.get()
        if joined is not None:
            yield joined
            return
        with self._session(writes=True) as session:
            notes = session.connection().info
            notes[WRITTEN] = written = set[str]()
            token = self._open.set(session)
            try:
                yield session
                session.commit()
            finally:
                self._open.reset(token)
                notes.pop(WRITTEN, None)
            self._raise(written)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """One consistent snapshot."""
        joined = self._open.get()
        if joined is not None:
            joined.flush()
            yield joined
            return
        with self._session(writes=False) as session:
            yield session

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Several readings of one moment. Nothing is written within it: it keeps no writer waiting."""
        if self._open.get() is not None:
            yield
            return
        with self._session(writes=False) as session:
            token = self._open.set(session)
            try:
                yield
            finally:
                self._open.reset(token)

    def remembered(
        self, tables: tuple[str, ...], name: Hashable, make: Callable[[], V], *, as_of: Hashable = None
    ) -> V:
        """What `make` reads from these tables, and from nothing else. It must not be changed by who gets it.

        Within a transaction that may have written it is read anew. Whoever has committed sees what they wrote. None is
        not kept: by asking for what is not there nobody fills the memory.

        Args:
            as_of: it was made for just this, e.g. the minute; for another it is made again.
        """
        if self.joined:
            return make()
        # The versions first: what is written while it is read makes them others, and then it is read again.
        versions = (*self._versions_of(tables), as_of)
        held: V | None = self._held(name, versions)
        if held is not None:
            return held
        value = make()
        if value is not None:
            self._keep(name, versions, value)
        return value

    def remembered_each(
        self,
        tables: tuple[str, ...],
        kind: str,
        keys: Iterable[K],
        make: Callable[[Sequence[K]], Mapping[K, V]],
        *,
        as_of: Hashable = None,
    ) -> Mapping[K, V]:
        """As `remembered`, of many things at once: only those that are not known are made, together."""
        wanted = tuple(keys)
        if self.joined:
            return make(wanted)
        versions = (*self._versions_of(tables), as_of)
        found: dict[K, V] = {}
        for key in wanted:
            if (held := self._held((kind, key), versions)) is not None:
                found[key] = held
        if unknown := [key for key in wanted if key not in found]:
            made = make(unknown)
            for key, value in made.items():
                self._keep((kind, key), versions, value)
            found |= made
        return found

    def anew(self, tables: tuple[str, ...], name: Hashable, make: Callable[[], V]) -> V:
        """As `remembered`, but read now. Is it otherwise than it was, another process has written to these tables, and
        whatever follows from them is read again."""
        if self.joined:
            return make()
        versions = (*self._versions_of(tables), None)
        held, value = self._held(name, versions), make()
        if held != value:
            if held is not None and versions == (*self._versions_of(tables), None):
                self._raise(tables)
                versions = (*self._versions_of(tables), None)
            self._keep(name, versions, value)
        return value

    def at_hand(self, tables: tuple[str, ...], name: Hashable) -> Any:
        """What `remembered` would give without reading anything; None where it would have to."""
        return None if self.joined else self._held(name, (*self._versions_of(tables), None))

    def _versions_of(self, tables: tuple[str, ...]) -> tuple[Hashable, ...]:
        return tuple([self._versions.get(table, 0) for table in tables])

    def _raise(self, tables: Iterable[str]) -> None:
        with self._lock:
            self._versions.update({table: self._versions.get(table, 0) + 1 for table in tables})

    def _keep(self, name: Hashable, versions: tuple[Hashable, ...], value: object) -> None:
        with self._lock:
            self._remembered[name] = (versions, value)
            self._remembered.move_to_end(name)
            if len(self._remembered) > MOST_REMEMBERED:
                self._remembered.popitem(last=False)

    def _held(self, name: Hashable, versions: tuple[Hashable, ...]) -> Any:
        with self._lock:
            held = self._remembered.get(name)
            if held is None or held[0] != versions:
                return None
            self._remembered.move_to_end(name)
            return held[1]

    @contextmanager
    def _session(self, *, writes: bool) -> Iterator[Session]:
        try:
            with Session(self._engine, expire_on_commit=False) as session:
                session.connection(execution_options={"gpuaas_writes": writes})
                yield session
        except OperationalError as error:
            raise Unavailable(
                f"The store does not answer: {error.orig}.", way_out="It is tried again on the next tick."
            ) from error


def _note_writes(
    connection: Connection, cursor: object, statement: str, parameters: object, context: object, many: bool
) -> None:
    written = connection.info.get(WRITTEN)
    if written is not None and (found := _WRITES.match(statement)):
        written.add(found[1])
