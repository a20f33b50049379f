"""Budgets that still hold, so that a look reckons anew only where use or running jobs have changed.

The hook's publisher looks every five seconds at all projects, and metering writes once a minute: reckoning a year of
months in Won for 1,000 projects each time took a seventh of a core.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from slurm_gpuaas.domain.budgets import Budget, InForce, Reckoned, in_force, reckon
from slurm_gpuaas.domain.jobs import Job
from slurm_gpuaas.domain.names import ClusterName, ProjectName
from slurm_gpuaas.domain.policy import Policy
from slurm_gpuaas.domain.usage import UsageRecord, UsageSum


@dataclass(frozen=True, slots=True)
class _Known:
    now: InForce
    reckoned: Mapping[ProjectName, Reckoned]


class KnownBudgets:
    """Safe to share between threads. What it answers is what `domain.budgets.budgets` would."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[bool, _Known] = {}
        """With jobs and without: both are asked for in turn."""

    def read(
        self,
        policy: Policy,
        cluster: ClusterName,
        at: datetime,
        *,
        sums: Callable[[Sequence[datetime]], Iterable[UsageSum]],
        running: Callable[[], Iterable[UsageRecord]],
        jobs: Iterable[Job] = (),
    ) -> Mapping[ProjectName, Budget]:
        """
        Args:
            sums: metered use, cut at these moments.
            running: metered runs without an end.
        """
        jobs = tuple(jobs)
        with self._lock:
            known = self._known.get(bool(jobs))
        if known is None or not known.now.holds(policy, cluster, at):
            known = _Known(in_force(policy, cluster, at), {})
        if not known.now.accounts:
            return {}
        reckoned = reckon(
            known.now, at, sums(known.now.cuts), jobs=jobs, running=running() if jobs else (), known=known.reckoned
        )
        with self._lock:
            self._known[bool(jobs)] = _Known(known.now, reckoned)
        return {project: one.budget for project, one in reckoned.items()}
