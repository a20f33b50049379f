"""Replays a table of what tenants ran, waited for and left idle each minute: what lending would have recovered. Pure.

A static view: the queue is as recorded and does not shrink by what is recovered; shapes of nodes and jobs are left out.
The loans come from `tree.fair_shares`, the very function that the daemon divides idle GPUs with. docs/design/0015
gives the reasons for each rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from slurm_gpuaas.quota.division import Claim, divide
from slurm_gpuaas.quota.tree import Tenant, TenantName, Tree, fair_shares

MINUTES_AN_HOUR: Final = 60
MINUTES_A_DAY: Final = 1440
DATA_AGE_MIN: Final = 1
"""A decision knows the minute before it."""

OLDEST: Final = 0
YOUNGEST: Final = -1

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class MinuteTable:
    """GPUs by minute and tenant: three arrays of shape (minutes, tenants). A tenant's guarantee is running + idle."""

    tenants: tuple[TenantName, ...]
    running: Counts
    pending: Counts
    idle: Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """GPU-hours, but for counts.

    Attributes:
        pending: all that waited.
        own_idle: of it, what waited beside idle GPUs of its own tenant: not a matter of quotas, and in no other figure.
        bound: what lending could recover if it knew each minute as it comes.
        recovered: what the loans in force recovered, net of what owners lost while GPUs were reclaimed.
        evicted: run time, since they were lent, of the GPUs that reclaim took back: what is lost without checkpoints.
        reclaimed: GPUs taken back, summed.
        owner_wait: what owners waited for GPUs to come back; none longer than the reclaim time.
        churn_gpus: changes of all loans, summed.
        changed_limits_a_day: loans written with another number, a day.
    """

    pending: float
    own_idle: float
    bound: float
    recovered: float
    evicted: float
    reclaimed: int
    owner_wait: float
    churn_gpus: int
    changed_limits_a_day: float

    @property
    def lending_recovered_share(self) -> float:
        """1 where there was nothing to recover."""
        return self.recovered / self.bound if self.bound else 1.0


def replay(table: MinuteTable, *, interval_min: int, reclaim_s: int) -> Recovery:
    """
    Args:
        interval_min: minutes from one decision to the next; its loans hold so long.
        reclaim_s: from an owner's asking for lent GPUs until it has them.
    """
    own = np.minimum(table.pending, table.idle)
    wants, spare = table.pending - own, (table.idle - own).sum(axis=1)
    bound = int(np.minimum(wants.sum(axis=1), spare).sum())
    books = _Loans([[] for _ in table.tenants])
    loans = np.zeros(len(table.tenants), dtype=np.int64)
    churn = changed = recovered = 0
    for minute in range(len(wants)):
        if minute % interval_min == 0:
            # before the first minute nothing is known, so nothing is lent
            fresh = _loans(table, minute - DATA_AGE_MIN) if minute >= DATA_AGE_MIN else loans
            churn += int(np.abs(fresh - loans).sum())
            changed += int((fresh != loans).sum())
            loans = fresh
        recovered += books.follow(minute, loans, wants[minute], int(spare[minute]), table.tenants)
    return Recovery(
        pending=int(table.pending.sum()) / MINUTES_AN_HOUR,
        own_idle=int(own.sum()) / MINUTES_AN_HOUR,
        bound=bound / MINUTES_AN_HOUR,
        recovered=recovered / MINUTES_AN_HOUR,
        evicted=books.evicted_min / MINUTES_AN_HOUR,
        reclaimed=books.reclaimed,
        owner_wait=books.owed * reclaim_s / 3600,
        churn_gpus=churn,
        changed_limits_a_day=changed * MINUTES_A_DAY / len(wants),
    )


def _loans(table: MinuteTable, minute: int) -> Counts:
    """GPUs beyond its guarantee that each tenant may use, by the state of that minute."""
    running, pending = table.running[minute], table.pending[minute]
    if not pending.any():
        return np.zeros(len(table.tenants), dtype=np.int64)
    owned = running + table.idle[minute]
    tree = Tree.of(Tenant(name=name, guaranteed=int(gpus)) for name, gpus in zip(table.tenants, owned, strict=True))
    asked = dict(zip(table.tenants, (running + pending).tolist(), strict=True))
    shares = fair_shares(tree, int(owned.sum()), asked)
    return np.array([shares[name].surplus for name in table.tenants], dtype=np.int64)


@dataclass(slots=True)
class _Loans:
    """Lent GPUs in use, by borrower: a stack of (minute of the loan, GPUs). Whole minutes and GPUs."""

    stacks: list[list[tuple[int, int]]]
    evicted_min: int = 0
    reclaimed: int = 0
    owed: int = 0
    """Of the reclaimed, what owners asked for; the rest went from borrower to borrower, or is lent no more."""
    _in_use: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self._in_use = [0] * len(self.stacks)

    def follow(self, minute: int, loans: Counts, wants: Counts, spare: int, tenants: Sequence[TenantName]) -> int:
        """Bring use to what is lent, wanted and left by owners; GPUs in use then.

        A borrower that wants less ends its oldest. What is lent no more, or asked back by owners, is reclaimed: what
        is left is divided anew among the borrowers (`divide`), and each gives its youngest.
        """
        lent, wanted = loans.tolist(), wants.tolist()
        held = [min(had, want) for had, want in zip(self._in_use, wanted, strict=True)]
        for stack, had, left in zip(self.stacks, self._in_use, held, strict=True):
            _take(stack, had - left, OLDEST)
        self.owed += max(0, sum(held) - spare)
        claims = [Claim(name=name, asked=min(had, loan)) for name, had, loan in zip(tenants, held, lent, strict=True)]
        kept = {one.name: one.asked for one in claims}
        if sum(kept.values()) > spare:
            kept = dict(divide(spare, claims))
        left = spare - sum(kept.values())
        for place, (stack, name, had) in enumerate(zip(self.stacks, tenants, held, strict=True)):
            self.reclaimed += had - kept[name]
            self.evicted_min += sum((minute - since) * gpus for since, gpus in _take(stack, had - kept[name], YOUNGEST))
            if (more := min(lent[place] - kept[name], wanted[place] - kept[name], left)) > 0:
                stack.append((minute, more))
                kept[name] += more
                left -= more
            self._in_use[place] = kept[name]
        return sum(self._in_use)


def _take(stack: list[tuple[int, int]], gpus: int, end: int) -> list[tuple[int, int]]:
    """Take GPUs off one end of a stack."""
    taken: list[tuple[int, int]] = []
    while gpus > 0:
        since, there = stack.pop(end)
        part = min(gpus, there)
        if there > part:
            stack.insert(0 if end == OLDEST else len(stack), (since, there - part))
        taken.append((since, part))
        gpus -= part
    return taken
