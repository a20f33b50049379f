"""Tells the portal what its grants used on each Korean day that is over: the measure of idle grants.

A day is told once metering has passed its end, a second time a day later, when the last samples have come, and again
for each project of which a run of that day ended, or was corrected, since. Each may be told as often as one likes. A
day that was never told is a day that nobody measured, and counts against nobody.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final

from slurm_gpuaas.api.pool_sites import MOST_ROWS, UseDayRow, UseDaysPush
from slurm_gpuaas.daemon.portal_client import Portal
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.names import AccountName, ClusterName, ProjectName
from slurm_gpuaas.domain.policy import KST, Grant, Policy
from slurm_gpuaas.metering.controller import OVERLAP
from slurm_gpuaas.metering.gpu_use import Samples
from slurm_gpuaas.metering.grant_days import DayUse, day_of, lost_by_grant, use_of_day
from slurm_gpuaas.store import Store

TELL_EVERY: Final = timedelta(hours=1)
THROUGH: Final = "portal.days-through"
"""Mark in the store: the last day of which all grants were told."""
CHANGE: Final = "portal.days-change"
"""Mark in the store: number of the newest change of usage that was looked at for days to tell again."""
FIRST_TIME: Final = timedelta(days=35)
"""So far back are days told when none was told before: what the rules look back by default."""
ONE_DAY: Final = timedelta(days=1)
_CHANGES: Final = 1_000
MOST_DAYS_OF_A_RUN: Final = 400
"""Of one run, days that are told again; nobody looks at older ones."""


@dataclass(frozen=True, kw_only=True)
class UseDays:
    """Args:
    metered: until when all runs that Slurm knows are in the store; None: not yet since the start.
    """

    cluster: ClusterName
    portal: Portal
    store: Store
    samples: Samples
    clock: Clock
    metered: Callable[[], datetime | None]

    def tick(self) -> None:
        """Tell what is new.

        Raises:
            Unavailable, Refused: see `Portal`.
        """
        reached = self.metered()
        if reached is None:
            return
        last = (reached - OVERLAP).astimezone(KST).date() - ONE_DAY
        mark = self.store.mark(THROUGH)
        through = last - FIRST_TIME if mark is None else date.fromisoformat(mark)
        newest = self.store.newest_usage_change()
        for day, projects in self._again(through, newest):
            self._tell(day, projects, newest)
        if through < last:
            for number in range(through.toordinal(), last.toordinal() + 1):  # the first of them for the second time
                self._tell(date.fromordinal(number), None, newest)
        now = self.clock.now()
        with self.store.transaction():
            self.store.set_mark(THROUGH, max(through, last).isoformat(), at=now)
            self.store.set_mark(CHANGE, str(newest), at=now)

    def _again(self, through: date, newest: int) -> Iterator[tuple[date, frozenset[ProjectName]]]:
        """Days that were told, and projects of which a run of that day has ended, or changed, since."""
        mark = self.store.mark(CHANGE)
        after = newest if mark is None else int(mark)
        found: dict[date, set[ProjectName]] = defaultdict(set)
        while after < newest:
            changes = self.store.usage_changes(after=after, limit=_CHANGES)
            if not changes:
                break
            for change in changes:
                run = change.record
                if run.ended is None or run.cluster != self.cluster:
                    continue
                first, end = run.started.astimezone(KST).date(), min(run.ended.astimezone(KST).date(), through)
                for number in range(max(first.toordinal(), end.toordinal() - MOST_DAYS_OF_A_RUN), end.toordinal() + 1):
                    found[date.fromordinal(number)].add(ProjectName.as_slurm_says(run.account))
            after = changes[-1].number
        yield from ((day, frozenset(projects)) for day, projects in sorted(found.items()))

    def _tell(self, day: date, projects: frozenset[ProjectName] | None, number: int) -> None:
        """All of the portal's grants on a day, or those of some projects."""
        merged = self.store.in_force()
        grants = [
            one
            for one in merged.taken
            if isinstance(one, Grant) and one.gpus and one.starts <= day <= one.ends
            if projects is None or one.project in projects
        ]
        if not grants:
            return
        window = day_of(day)
        runs = [
            run
            for run in self.store.usage(
                since=window.start, until=window.end, accounts=[AccountName(one.project) for one in grants]
            )
            if run.cluster == self.cluster
        ]
        use, lost = use_of_day(self.samples, runs, day), self._lost(merged.policy, day)
        rows = [
            _row(one, day, number, use.get(AccountName(one.project), DayUse()), lost.get(one.name, 0)) for one in grants
        ]
        for first in range(0, len(rows), MOST_ROWS):
            self.portal.days(UseDaysPush(rows=tuple(rows[first : first + MOST_ROWS])))

    def _lost(self, policy: Policy, day: date) -> dict[str, int]:
        window = day_of(day)
        outages = self.store.observations.outages(since=window.start, until=window.end)
        found: dict[str, int] = {}
        if not outages:
            return found
        for pool in policy.pools:
            for share in pool.shares if pool.cluster == self.cluster else ():
                granted = _granted(policy.grants, pool.name, share.name, day)
                found |= lost_by_grant(granted, dict.fromkeys(share.node_names, pool.gpus_per_node), outages, day)
        return found


def _granted(grants: Iterable[Grant], pool: str, share: str, day: date) -> dict[str, int]:
    return {
        one.name: one.gpus for one in grants if (one.pool, one.share) == (pool, share) and one.starts <= day <= one.ends
    }


def _row(grant: Grant, day: date, number: int, use: DayUse, lost: int) -> UseDayRow:
    return UseDayRow(
        grant=grant.name,
        day=day,
        number=number,
        allocated=use.allocated,
        busy=use.busy,
        loaded=use.loaded,
        lost=lost,
        burst=use.burst,
        peak=use.peak,
    )
