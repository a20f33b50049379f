"""Transactions. A method of the store opens its own unless the caller has one open: then it joins it.

What is read again and again is remembered until this process has written to a table that it is from. A store has one
owner, so nobody else writes: whoever may share a store with others must not use `remembered`.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
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

V = TypeVar("V")


class Sessions:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._versions: dict[str, int] = {}
        self._remembered: OrderedDict[Hashable, tuple[tuple[int, ...], Any]] = OrderedDict()
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
            with self._lock:
                self._versions.update({table: self._versions.get(table, 0) + 1 for table in written})

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

    def remembered(self, tables: tuple[str, ...], name: Hashable, make: Callable[[], V]) -> V:
        """What `make` reads from these tables, and from nothing else. It must not be changed by who gets it.

        Within a transaction that may have written it is read anew. Whoever has committed sees what they wrote.
        """
        if self.joined:
            return make()
        # The versions first: what is written while it is read makes them others, and then it is read again.
        versions = tuple(self._versions.get(table, 0) for table in tables)
        with self._lock:
            held = self._remembered.get(name)
            if held is not None and held[0] == versions:
                self._remembered.move_to_end(name)
                value: V = held[1]
                return value
        value = make()
        with self._lock:
            self._remembered[name] = (versions, value)
            if len(self._remembered) > MOST_REMEMBERED:
                self._remembered.popitem(last=False)
        return value

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
