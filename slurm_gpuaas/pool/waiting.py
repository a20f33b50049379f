"""Who is offered what is free. Pure.

The waiting list is in order of score, then of submission, then of number. Whoever nothing fits is passed over: GPUs do
not lie idle for a count that is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import date
from fractions import Fraction

from slurm_gpuaas.domain.applications import Application, most_that_fits, suits
from slurm_gpuaas.domain.names import PoolShareName
from slurm_gpuaas.domain.pool_grants import AwardLine
from slurm_gpuaas.domain.programmes import PoolShare, Programme


def in_order(scored: Iterable[tuple[Application, Fraction]]) -> tuple[Application, ...]:
    ordered = sorted(scored, key=lambda one: (-one[1], one[0].submitted_at, one[0].id))
    return tuple(application for application, _ in ordered)


def next_in_line(
    waiting: Iterable[Application],
    programme: Programme,
    shares: Sequence[PoolShare],
    *,
    room: Callable[[PoolShareName, date, date], int],
    most: Callable[[Application], int | None] = lambda _: None,
    today: date,
) -> AwardLine | None:
    """The first of the list for whom there is room, on the first share by name that suits; None: for nobody.

    Args:
        waiting: in order; their periods are not over.
        room: GPUs of a share that can be promised from a day to a day.
        most: GPUs that one may have under the programme's caps; None: no cap.
    """
    free: dict[tuple[PoolShareName, date, date], int] = {}
    for application in waiting:
        request, cap = application.request, most(application)
        for share in sorted(shares, key=lambda one: one.name):
            if suits(share, request, programme):
                window = share.name, max(request.starts, today), request.ends
                if window not in free:
                    free[window] = room(*window)
                left = free[window] if cap is None else min(free[window], cap)
                if gpus := most_that_fits(request, left):
                    return AwardLine(application=application.id, share=share.name, gpus=gpus)
    return None
