"""When the portal closes a Korean month by itself: a day after its end, once all of its use is here. Pure.

Use that comes later would be a correction on the next statement, which is right but reads badly; so a month waits for
whoever has not told. It waits as long as that takes: a month without a site's use is closed by a person or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from enum import StrEnum
from typing import Final

from slurm_gpuaas.domain.ledger import Terms
from slurm_gpuaas.domain.months import Month
from slurm_gpuaas.domain.names import ClusterName
from slurm_gpuaas.domain.policy import KST

CLOSES_ON: Final = 2
"""Day of the next month: sites tell a day for the last time a day after it was over (`daemon.use_days`)."""
CLOSES_AT: Final = time(9)
PATIENCE: Final = timedelta(days=3)
"""Longer than a weekend; then whoever has not told is shown as missing."""


class ClosingState(StrEnum):
    NOT_DUE = "not due"
    WAITS = "waits"
    LATE = "late"
    """Sites are still missing after `PATIENCE`: somebody has to see to them, or close the month by hand."""
    READY = "ready"


@dataclass(frozen=True, slots=True)
class Untold:
    """A cluster that has not told all of a month's use.

    Args:
        through: up to when it has, None = never.
    """

    cluster: ClusterName
    through: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """The month that is closed next, and what for it waits, by cluster."""

    month: Month
    waits_for: tuple[Untold, ...]

    @property
    def due(self) -> datetime:
        return datetime.combine(self.month.following.first.replace(day=CLOSES_ON), CLOSES_AT, KST)

    @property
    def late(self) -> datetime:
        return self.due + PATIENCE

    def state(self, now: datetime) -> ClosingState:
        if now < self.due:
            return ClosingState.NOT_DUE
        if not self.waits_for:
            return ClosingState.READY
        return ClosingState.WAITS if now < self.late else ClosingState.LATE


def closing(month: Month, terms: Iterable[Terms], told: Mapping[ClusterName, datetime]) -> Closing:
    """
    Args:
        terms: of all grants. Only clusters with one in force in the month are waited for.
        told: until when all runs that each cluster's Slurm knows are here.
    """
    window = month.window
    used = {one.cluster for one in terms if one.grant.starts_at < window.end and window.start < one.grant.ends_at}
    missing = (Untold(cluster, told.get(cluster)) for cluster in sorted(used))
    waits_for = tuple(one for one in missing if one.through is None or one.through < window.end)
    return Closing(month=month, waits_for=waits_for)
