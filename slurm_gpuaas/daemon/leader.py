"""One leader a store: the daemon that holds the lock acts, the others stand by. A dead leader loses the lock by itself.

SQLite: `flock` on a file in the state folder (the store is a local file, so all its daemons are on this host).
PostgreSQL: a session's advisory lock, which ends with the session.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Protocol

import psycopg

from slurm_gpuaas.domain.errors import InvalidInput, Unavailable

ADVISORY_LOCK = 0x6770756161736400
"""Key of the advisory lock: `gpuaasd` in ASCII."""


class Leadership(Protocol):
    def acquire(self) -> bool:
        """Try to become leader, at once; True when we are (asking again is fine).

        Raises:
            Unavailable: nobody can say now.
        """
        ...

    def held(self) -> bool:
        """We are leader still. After a False somebody else may act: stop acting and end."""
        ...

    def release(self) -> None: ...


class FileLeadership:
    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "leader.lock"
        self._file: int | None = None

    def acquire(self) -> bool:
        if self._file is not None:
            return True
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise InvalidInput(
                f"{self._path} cannot be opened: {os.strerror(error.errno or 0)}.",
                way_out="Make the state folder and give it to gpuaasd's user, or set state_dir.",
            ) from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        os.ftruncate(file, 0)
        os.write(file, f"{os.getpid()}\n".encode())
        self._file = file
        return True

    def held(self) -> bool:
        return self._file is not None

    def release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


class PostgresLeadership:
    """Args:
    url: libpq URL, without SQLAlchemy's driver suffix.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._session: psycopg.Connection | None = None

    def acquire(self) -> bool:
        if self._session is not None and not self._session.closed:
            return True
        try:
            # Ours bound how long a leader that lost the network believes in itself; the server's, set by `options`,
            # how long it keeps the lock of one that vanished.
            session = psycopg.connect(
                self._url,
                autocommit=True,
                connect_timeout=5,
                keepalives_idle=5,
                keepalives_interval=2,
                keepalives_count=3,
                tcp_user_timeout=10_000,
                options="-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3",
            )
            row = session.execute("SELECT pg_try_advisory_lock(%s)", (ADVISORY_LOCK,)).fetchone()
        except psycopg.Error as error:
            raise Unavailable(
                f"PostgreSQL does not answer: {' '.join(str(error).split())}.",
                way_out="Check store.url and the server.",
            ) from None
        if row is None or not row[0]:
            session.close()
            return False
        self._session = session
        return True

    def held(self) -> bool:
        if self._session is None:
            return False
        try:
            self._session.execute("SELECT 1")
        except psycopg.Error:
            self._session.close()
            return False
        return True

    def release(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None


def leadership_for(store_url: str, state_dir: Path) -> Leadership:
    """The lock that fits the store."""
    scheme, _, rest = store_url.partition("://")
    if scheme.startswith("postgresql"):
        return PostgresLeadership(f"postgresql://{rest}")
    return FileLeadership(state_dir)
