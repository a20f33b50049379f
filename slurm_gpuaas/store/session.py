"""Transactions. A method of the store opens its own unless the caller has one open: then it joins it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError
from sqlmodel import Session

from slurm_gpuaas.domain.errors import Unavailable


class Sessions:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
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
            token = self._open.set(session)
            try:
                yield session
                session.commit()
            finally:
                self._open.reset(token)

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
