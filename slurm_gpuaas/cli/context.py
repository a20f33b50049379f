"""What a command works with: one composition object in click's context, so that a test swaps it whole."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:  # httpx2 takes longer to import than most commands to run
    from slurm_gpuaas.api.client import Client


@dataclass(frozen=True, slots=True)
class Session:
    """`connect` opens a client of gpuaasd."""

    connect: Callable[[], AbstractContextManager[Client]]

    @classmethod
    def at(cls, socket: Path) -> Session:
        def connect() -> Client:
            from slurm_gpuaas.api.client import Client

            return Client(socket)

        return cls(connect)


pass_session = click.make_pass_decorator(Session)

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
