"""The way of one record from what it is to what it should be, in stages that are written in an order over all records:
first everything that gives more, then everything that gives less, then moves. Pure.

Cut off between any two writes, no limit is below both what it was and what it will be, and none has gone down while
another has still to go up: whoever loses GPUs has not lost them before whoever gains has them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Generic, TypeVar

from slurm_gpuaas.quota.desired import CLOSED
from slurm_gpuaas.slurm.records import Account, Qos, Tres, UserAssociation

T = TypeVar("T", Account, Qos, UserAssociation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages(Generic[T]):
    """What is written of one record in each stage; None: nothing."""

    before: T | None
    more: T | None = None
    less: T | None = None
    moved: T | None = None


def of_qos(before: Qos | None, after: Qos) -> Stages[Qos]:
    if before is None:
        return Stages(before=before, more=after)
    highest = replace(
        after,
        grp_tres=_highest(before.grp_tres, after.grp_tres),
        max_tres_per_job=_highest(before.max_tres_per_job, after.max_tres_per_job),
        max_tres_per_account=_highest(before.max_tres_per_account, after.max_tres_per_account),
        max_wall=_longest(before.max_wall, after.max_wall),
        preempt=before.preempt | after.preempt,
    )
    raises, lowers = _qos_limits(highest) != _qos_limits(before), highest != after
    return Stages(before=before, more=highest if raises or not lowers else None, less=after if lowers else None)


def of_account(before: Account | None, after: Account) -> Stages[Account]:
    """Limits change below the old parent; the move comes by itself."""
    if before is None:
        return Stages(before=before, more=after)
    here = replace(after, parent=before.parent)
    highest = replace(
        here,
        grp_tres=_highest(before.grp_tres, after.grp_tres),
        grp_tres_mins=_highest(before.grp_tres_mins, after.grp_tres_mins),
    )
    moves, lowers = here != after, highest != here
    raises = (highest.grp_tres, highest.grp_tres_mins) != (before.grp_tres, before.grp_tres_mins)
    return Stages(
        before=before,
        more=highest if raises or not (moves or lowers) else None,
        less=here if lowers else None,
        moved=after if moves else None,
    )


def of_member(before: UserAssociation | None, after: UserAssociation) -> Stages[UserAssociation]:
    """What a member may use is a limit of its own: QOS are gained before others are lost."""
    if before is None:
        return Stages(before=before, more=after)
    gained, lost = after.qos - before.qos - {CLOSED}, before.qos - after.qos - {CLOSED}
    if not lost:
        return Stages(before=before, more=after)
    if not gained and after.is_default == before.is_default:
        return Stages(before=before, less=after)
    default = before.default_qos if after.default_qos == CLOSED else after.default_qos
    return Stages(
        before=before, more=replace(after, qos=(before.qos | after.qos) - {CLOSED}, default_qos=default), less=after
    )


def _highest(before: Tres, after: Tres) -> Tres:
    """A TRES that either leaves out has no limit."""
    return {name: max(before[name], limit) for name, limit in after.items() if name in before}


def _longest(before: timedelta | None, after: timedelta | None) -> timedelta | None:
    return None if before is None or after is None else max(before, after)


def _qos_limits(qos: Qos) -> tuple[object, ...]:
    return qos.grp_tres, qos.max_tres_per_job, qos.max_tres_per_account, qos.max_wall, qos.preempt
