"""Databases on a real PostgreSQL server, each for one test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import psycopg
from sqlalchemy import make_url


@contextmanager
def database(server: str, *, like: str | None = None) -> Iterator[str]:
    """URL of a database that is there until the end of the block.

    Args:
        server: URL of the server.
        like: URL of one that it is a copy of, and that nobody is connected to; None = it is empty.
    """
    url = make_url(server).set(drivername="postgresql")
    name = f"gpuaas_{uuid4().hex}"
    template = "" if like is None else f' TEMPLATE "{make_url(like).database}"'
    with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"{template}'.encode())
        try:
            yield url.set(database=name).render_as_string(hide_password=False)
        finally:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())
