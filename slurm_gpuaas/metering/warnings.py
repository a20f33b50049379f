"""Says in the audit trail when a project has used 50, 80 and 95 % of what its budget's period holds.

The measure is use, not promises: what running jobs may still take comes back when they end early, and a warning cannot
be taken back. One entry a threshold and period, whatever restarts lie between: a mark in the store remembers the last.
When the budget is raised so that the use falls below a threshold again, reaching it again is said again.
"""

from __future__ import annotations

from typing import Final

from slurm_gpuaas.domain.audit import AuditEntry
from slurm_gpuaas.domain.budgets import WARNINGS, Budget
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.money import whole_won
from slurm_gpuaas.domain.names import ClusterName, ProjectName
from slurm_gpuaas.store import Store
from slurm_gpuaas.store.budgets import read_budgets

ACTOR: Final = "gpuaasd/metering"
ACTION: Final = "budget.warning"


class BudgetWarnings:
    """Of one cluster."""

    def __init__(self, *, cluster: ClusterName, store: Store, clock: Clock) -> None:
        self._cluster = cluster
        self._store = store
        self._clock = clock
        self._said: dict[ProjectName, str] = {}

    def tick(self) -> int:
        """How many entries were written."""
        budgets = read_budgets(self._store, self._store.policy(), self._cluster, self._clock.now())
        return sum(self._warn(budget) for budget in budgets.values())

    def _warn(self, budget: Budget) -> int:
        level = budget.warning or 0
        stands = f"{budget.period.start.isoformat()} {level}"
        if self._said.get(budget.project) == stands:
            return 0
        mark = f"budget.warned.{budget.project}"
        period, _, last = (self._store.mark(mark) or "").partition(" ")
        before = int(last) if period == budget.period.start.isoformat() else 0
        crossed = [percent for percent in WARNINGS if before < percent <= level]
        if level != before or (level and period != budget.period.start.isoformat()):
            with self._store.transaction():
                self._store.set_mark(mark, stands, at=self._clock.now())
                self._store.audit.append(*(self._entry(budget, percent) for percent in crossed))
        self._said[budget.project] = stands
        return len(crossed)

    def _entry(self, budget: Budget, percent: int) -> AuditEntry:
        evidence: dict[str, str | int] = {"period": f"{budget.period.start:%Y-%m-%d}"}
        if (hours := budget.gpu_seconds) is not None:
            evidence |= {"gpu_hours_used": int(hours.used / 3600), "gpu_hours_of": int(hours.entitled / 3600)}
        if (won := budget.won) is not None:
            evidence |= {"won_used": whole_won(won.used), "won_of": whole_won(won.entitled)}
        return AuditEntry(
            at=self._clock.now(),
            actor=ACTOR,
            action=ACTION,
            subject=budget.project,
            reason=f"{percent} % of the budget is used.",
            evidence=evidence,
        )
