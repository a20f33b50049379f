"""What PUT asks before it replaces a whole thing: that it is still the one that was read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fastapi import Request
from pydantic import BaseModel

from slurm_gpuaas.domain.names import CommandId
from slurm_gpuaas.portal.http import refuse_outdated
from slurm_gpuaas.portal.pool import PoolServer


@contextmanager
def unchanged(
    pool: PoolServer, request: Request, act: CommandId, current: Callable[[], BaseModel | None]
) -> Iterator[None]:
    """The block runs in one transaction with the look at what there is. An act that is done already is no new one: it
    gets its answer again, whatever was changed since.

    Args:
        current: what GET answers now; None: there is none yet.

    Raises:
        Outdated: `If-Match` names another, or `If-None-Match: *` and there is one.
    """
    with pool.store.transaction():
        if pool.store.register.done_command(act) is None:
            refuse_outdated(request, current())
        yield
