"""Budgets: what is awarded, carried over, used, promised and left, and what Slurm is told. Pure.

Two numbers are kept apart, and one is never fed back into the other (docs/design/0013-awarded-and-written.md):

- *awarded* is what the grants say for the period. Use, carry-over and grace never change it.
- *written* is the limit that Slurm's account gets (GrpTRESMins, GPU-minutes since the account's creation). It is made
  anew each time from the award, its rules and metered runs; what stands in Slurm is never read for it.

Grants with a budget, of one project on one cluster, whose days overlap are one budget, from the first's first day to
the last's last; its periods tile that span. A run belongs whole to the period in which it started, at the price of that
moment, so a promise made at its start holds to its end.

It is here and not in metering because quota (the limit in Slurm, the hook's number), metering and the API need the same
answer.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from fractions import Fraction
from math import floor
from types import MappingProxyType
from typing import Final

from slurm_gpuaas.domain.jobs import Job, JobState
from slurm_gpuaas.domain.money import Price
from slurm_gpuaas.domain.names import AccountName, ClusterName, GpuModel, ProjectName, QosName
from slurm_gpuaas.domain.policy import KST, LAST_DAY, BudgetPeriod, Grant, Policy
from slurm_gpuaas.domain.usage import UsageRecord, UsageSum, Window, service_class

WARNINGS: Final = (50, 80, 95)
"""Percent of what a period holds, at which its use is worth a word."""
PACE: Final = timedelta(days=7)
"""Today's pace is the mean of the last seven days, or of the days since the budget began: a week has all weekdays."""
SHORTEST_PACE: Final = timedelta(days=1)
"""The first hours of a budget are no pace."""

_ON_NODES: Final = frozenset({JobState.RUNNING, JobState.SUSPENDED})

_Side = Callable[[Grant], int | None]
"""What a grant gives for a period, in GPU-seconds or Won; None = it leaves that side open."""
_PriceAt = Callable[[GpuModel | None, datetime], Price]


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """One side of a budget in one period: GPU-seconds, or Won.

    Attributes:
        awarded: what the grants give for this period.
        carried: what the period before left over, at most `carry_over` percent of that period's award.
        grace: what may be used beyond both.
        used: metered use of runs that started in the period.
        committed: what its running jobs may still use until their time limits.
    """

    awarded: Fraction
    carried: Fraction
    grace: Fraction
    used: Fraction
    committed: Fraction

    @property
    def entitled(self) -> Fraction:
        return self.awarded + self.carried

    @property
    def allowed(self) -> Fraction:
        return self.entitled + self.grace

    @property
    def left(self) -> Fraction:
        """What new jobs may still take, grace included; never below nothing."""
        return max(self.allowed - self.used - self.committed, Fraction(0))

    @property
    def used_ratio(self) -> Fraction:
        """Use of what the period holds without grace; a budget of nothing is used up."""
        return self.used / self.entitled if self.entitled else Fraction(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A project's budget in the period in force; at least one of `gpu_seconds` and `won` is there.

    Attributes:
        since: first moment of its first period.
        used_seconds, used_won: of runs of the period, also where that side has no limit.
        committed_seconds: of its running jobs.
        held_seconds: whole length of running jobs of earlier periods: Slurm holds it against the account until they
            end.
        before_seconds: ended use before the period.
        written_since: GPU-minutes that Slurm allows on top of what was used before the period.
    """

    project: ProjectName
    since: datetime
    period: Window
    gpu_seconds: Amount | None
    won: Amount | None
    used_seconds: int
    used_won: Fraction
    committed_seconds: int
    held_seconds: int
    before_seconds: int
    written_since: int | None

    @property
    def written_minutes(self) -> int | None:
        """GPU-minutes for GrpTRESMins; None = no limit (the project pays nothing and has no GPU-hours to count).

        Rounded up before the period: Slurm and we may differ in less than a minute, and that minute is not charged
        twice.
        """
        return None if self.written_since is None else -(-self.before_seconds // 60) + self.written_since

    @property
    def startable_minutes(self) -> int | None:
        """GPU-minutes that a new guaranteed job may ask for, as Slurm sees it; None = no limit."""
        if self.written_since is None:
            return None
        return max(self.written_since * 60 - self.used_seconds - self.committed_seconds - self.held_seconds, 0) // 60

    @property
    def used_ratio(self) -> Fraction:
        """The fuller of its sides."""
        return max(side.used_ratio for side in (self.gpu_seconds, self.won) if side is not None)

    @property
    def warning(self) -> int | None:
        """The highest threshold that its use has reached."""
        return warning(self.used_ratio)


def warning(ratio: Fraction) -> int | None:
    return max((percent for percent in WARNINGS if ratio * 100 >= percent), default=None)


# -- Periods -----------------------------------------------------------------------------------------------------------


def periods(span: Window, kind: BudgetPeriod) -> Iterator[Window]:
    """The periods that tile the span (Korean midnights), in order; the first and the last may be cut short by it."""
    start = span.start
    while start < span.end:
        end = min(_calendar(kind, start, span).end, span.end)
        yield Window(start, end)
        start = end


def _calendar(kind: BudgetPeriod, moment: datetime, span: Window) -> Window:
    """The whole month or quarter around the moment; for a grant's budget the span itself."""
    if kind is BudgetPeriod.GRANT:
        return span
    months = 3 if kind is BudgetPeriod.QUARTER else 1
    day = moment.astimezone(KST)
    first = date(day.year, (day.month - 1) // months * months + 1, 1)
    last = first.month + months
    following = date(first.year + 1, 1, 1) if last > 12 and first.year < LAST_DAY.year else None
    return Window(_midnight(first), _midnight(following or (date(first.year, last, 1) if last <= 12 else LAST_DAY)))


def _midnight(of: date) -> datetime:
    return datetime.combine(of, time(), KST)


# -- Which grants are one budget ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Account:
    """The one budget of a project.

    Attributes:
        grants: those with a budget that overlap, as far as they have begun.
        active: all of the project's that are in force, with a budget or without.
    """

    project: ProjectName
    model: GpuModel
    span: Window
    grants: Sequence[Grant]
    active: Sequence[Grant]

    @property
    def rules(self) -> Grant:
        """Any of them: the policy refuses grants whose budgets overlap under different rules."""
        return self.grants[0]

    def periods_until(self, at: datetime) -> list[Window]:
        """Up to and with the one of `at`."""
        found = []
        for period in periods(self.span, self.rules.budget_period):
            found.append(period)
            if at < period.end:
                break
        return found

    def awarded(self, side: _Side, period: Window) -> Fraction:
        """Each grant gives its part of the period: of a month that it holds for ten of thirty days, a third."""
        return sum((self._part(grant, period) * (side(grant) or 0) for grant in self.grants), Fraction(0))

    def _part(self, grant: Grant, period: Window) -> Fraction:
        own = Window(grant.starts_at, grant.ends_at)
        whole = _calendar(self.rules.budget_period, period.start, own)
        return Fraction(
            max(_days(max(own.start, period.start), min(own.end, period.end)), 0), _days(whole.start, whole.end)
        )


def _accounts(policy: Policy, cluster: ClusterName, at: datetime) -> Iterator[_Account]:
    for project in policy.projects:
        grants = [g for g in policy.grants_of(project.name) if policy.pool_by_name[g.pool].cluster == cluster]
        active = [grant for grant in grants if grant.active_at(at)]
        if any(grant.has_budget for grant in active):
            joined = _joined([grant for grant in grants if grant.has_budget], active)
            yield _Account(
                project=project.name,
                model=policy.pool_by_name[active[0].pool].model,
                span=Window(min(g.starts_at for g in joined), max(g.ends_at for g in joined)),
                grants=[grant for grant in joined if grant.starts_at <= at],
                active=active,
            )


def _joined(grants: Iterable[Grant], active: Iterable[Grant]) -> list[Grant]:
    """Of the grants, the active ones and whatever overlaps them, directly or through others."""
    joined = [grant for grant in grants if grant in active]
    others = [grant for grant in grants if grant not in active]
    while touching := [grant for grant in others if any(grant.overlaps(one) for one in joined)]:
        joined += touching
        others = [grant for grant in others if grant not in touching]
    return joined


@dataclass(frozen=True, slots=True, kw_only=True)
class InForce:
    """What of a policy decides on budgets in [since, until): between two moments at which a grant, a rate or a period
    begins or ends, it is the same.

    Attributes:
        cuts: the moments where what a run is charged to, or its price, may change: `UsageSum`s start there.
    """

    policy: Policy
    cluster: ClusterName
    since: datetime
    until: datetime
    accounts: tuple[_Account, ...]
    cuts: tuple[datetime, ...]

    def holds(self, policy: Policy, cluster: ClusterName, at: datetime) -> bool:
        """The store hands out one policy object as long as it is in force."""
        return policy is self.policy and cluster == self.cluster and self.since <= at < self.until


def in_force(policy: Policy, cluster: ClusterName, at: datetime) -> InForce:
    accounts = tuple(_accounts(policy, cluster, at))
    spans = [period for account in accounts for period in account.periods_until(at)]
    found = {period.start for period in spans}
    if found:
        first = min(found)
        found |= {rate.starts_at for rate in policy.rates if first < rate.starts_at <= at}
    changes = {moment for grant in policy.grants for moment in (grant.starts_at, grant.ends_at)}
    changes |= {rate.starts_at for rate in policy.rates} | {period.end for period in spans}
    return InForce(
        policy=policy,
        cluster=cluster,
        since=at,
        until=min((moment for moment in changes if moment > at), default=_midnight(LAST_DAY)),
        accounts=accounts,
        cuts=tuple(sorted(found)),
    )


def cuts(policy: Policy, cluster: ClusterName, at: datetime) -> tuple[datetime, ...]:
    """The moments up to `at` where what a run is charged to, or its price, may change: `UsageSum`s start there."""
    return in_force(policy, cluster, at).cuts


# -- Budgets -----------------------------------------------------------------------------------------------------------


def budgets(
    policy: Policy,
    cluster: ClusterName,
    at: datetime,
    sums: Iterable[UsageSum],
    *,
    jobs: Iterable[Job] = (),
    running: Iterable[UsageRecord] = (),
) -> Mapping[ProjectName, Budget]:
    """The budget of each project that has one in force on the cluster.

    Budgets of grants in force at the same time add up; while one in force has none, that side has no limit.

    Args:
        sums: metered use, cut at `cuts` of the same policy and moment.
        jobs: what slurmctld holds. Without them nothing is committed.
        running: metered runs without an end.
    """
    reckoned = reckon(in_force(policy, cluster, at), at, sums, jobs=jobs, running=running)
    return {project: one.budget for project, one in reckoned.items()}


@dataclass(frozen=True, slots=True)
class _Length:
    """What of a running job its budget depends on. `metered` are its GPU-seconds so far."""

    gpus: int
    seconds: int
    started: datetime
    model: GpuModel | None
    qos: QosName
    metered: int


@dataclass(frozen=True, slots=True)
class Reckoned:
    """A budget and all that it follows from while the same is in force."""

    sums: Sequence[UsageSum]
    lengths: Sequence[_Length]
    budget: Budget


def reckon(
    now: InForce,
    at: datetime,
    sums: Iterable[UsageSum],
    *,
    jobs: Iterable[Job] = (),
    running: Iterable[UsageRecord] = (),
    known: Mapping[ProjectName, Reckoned] = MappingProxyType({}),
) -> Mapping[ProjectName, Reckoned]:
    """As `budgets`; anew only for projects whose use or running jobs differ from what is known.

    Args:
        known: an earlier answer for the same `now`.
    """
    uses: dict[str, list[UsageSum]] = defaultdict(list)
    for one in sums:
        uses[one.account].append(one)
    metered = {record.job_id: record.gpu_seconds for record in running if record.cluster == now.cluster}
    lengths: dict[str, list[_Length]] = defaultdict(list)
    for job in jobs:
        if job.state in _ON_NODES and job.started is not None:
            length = _Length(
                job.gpus, _seconds(job.time_limit), job.started, job.model, job.qos, metered.get(job.id, 0)
            )
            lengths[job.account].append(length)
    found: dict[ProjectName, Reckoned] = {}
    for account in now.accounts:
        used, held = uses[AccountName(account.project)], lengths[account.project]
        before = known.get(account.project)
        if before is None or before.sums != used or before.lengths != held:
            before = Reckoned(used, held, _budget(now.policy, now.cluster, at, account, used, held))
        found[account.project] = before
    return found


@dataclass(slots=True)
class _Use:
    """Use of one period: of all its runs, and of those that have ended."""

    seconds: int = 0
    ended: int = 0
    won: Fraction = Fraction(0)
    ended_won: Fraction = Fraction(0)
    dearest_running: Fraction = Fraction(0)


def _budget(
    policy: Policy,
    cluster: ClusterName,
    at: datetime,
    account: _Account,
    sums: Iterable[UsageSum],
    jobs: Iterable[_Length],
) -> Budget:
    spans = account.periods_until(at)
    period = spans[-1]

    def price(model: GpuModel | None, moment: datetime) -> Price:
        found = policy.price_at(account.project, cluster, model or account.model, moment)
        return found or Price(Fraction(0), Fraction(0))

    uses, earlier = _uses(sums, spans, price)
    held = committed = 0
    committed_won = Fraction(0)
    for job in jobs:
        whole = job.gpus * job.seconds
        if job.started >= period.start:
            more = max(whole - job.metered, 0)
            committed += more
            committed_won += more * price(job.model, job.started).of_class(service_class(job.qos))
        else:
            held += whole
    use = uses[-1]
    past = uses[:-1]
    gpu_seconds = _amount(account, _gpu_seconds, spans, [one.ended for one in past], use.seconds, committed)
    won = _amount(account, _won, spans, [one.ended_won for one in past], use.won, committed_won)
    return Budget(
        project=account.project,
        since=account.span.start,
        period=period,
        gpu_seconds=gpu_seconds,
        won=won,
        used_seconds=use.seconds,
        used_won=use.won,
        committed_seconds=committed,
        held_seconds=held,
        before_seconds=earlier + sum(one.ended for one in past),
        written_since=_written(gpu_seconds, won, use, max(price(None, at).guaranteed, use.dearest_running)),
    )


def _gpu_seconds(grant: Grant) -> int | None:
    return None if grant.budget_gpu_hours is None else grant.budget_gpu_hours * 3600


def _won(grant: Grant) -> int | None:
    return grant.budget_won


def _uses(sums: Iterable[UsageSum], spans: Sequence[Window], price: _PriceAt) -> tuple[list[_Use], int]:
    """Use of each period, and the ended GPU-seconds before all of them."""
    uses = [_Use() for _ in spans]
    starts = [period.start for period in spans]
    earlier = 0
    for one in sums:
        place = -1 if one.since is None else bisect_right(starts, one.since) - 1
        if one.since is None or place < 0:
            earlier += one.ended
            continue
        use, each = uses[place], price(one.model, one.since)
        cost = each.of_class(service_class(one.qos))
        use.seconds += one.gpu_seconds
        use.ended += one.ended
        use.won += one.gpu_seconds * cost
        use.ended_won += one.ended * cost
        if one.gpu_seconds > one.ended:
            use.dearest_running = max(use.dearest_running, each.guaranteed)
    return uses, earlier


def _amount(
    account: _Account,
    side: _Side,
    spans: Sequence[Window],
    ended: Sequence[Fraction | int],
    used: Fraction | int,
    committed: Fraction | int,
) -> Amount | None:
    """One side of the budget; None when a grant in force leaves it open.

    What an earlier period left over is reckoned without its running jobs, so that it stands still: while they run,
    Slurm holds their whole length against the account, and that is never less than what they will have used.
    """
    if any(side(grant) is None for grant in account.active):
        return None
    rules = account.rules
    carried = Fraction(0)
    for period, spent in zip(spans[:-1], ended, strict=True) if rules.carry_over else ():
        awarded = account.awarded(side, period)
        carried = min(max(awarded + carried - spent, Fraction(0)), awarded * rules.carry_over / 100)
    awarded = account.awarded(side, spans[-1])
    return Amount(
        awarded=awarded,
        carried=carried,
        grace=awarded * rules.grace / 100,
        used=Fraction(used),
        committed=Fraction(committed),
    )


def _written(gpu_seconds: Amount | None, won: Amount | None, use: _Use, guaranteed: Fraction) -> int | None:
    """GPU-minutes that Slurm may let the period's runs use, all together.

    Won become GPU-minutes at the guaranteed price, the dearest that a run can cost. Runs that have ended and cost less
    give back the difference; running ones not yet, since a job that ends early would take its discount with it.
    Never below what the ended runs used.
    """
    limits: list[Fraction] = []
    if gpu_seconds is not None:
        limits.append(gpu_seconds.allowed)
    if won is not None and guaranteed:
        limits.append(use.ended + (won.allowed - use.ended_won) / guaranteed)
    return max(floor(min(limits) / 60), use.ended // 60) if limits else None


def _days(start: datetime, end: datetime) -> int:
    return (end - start) // timedelta(days=1)


def _seconds(limit: timedelta | None) -> int:
    """0 without a limit, which no partition of ours allows."""
    return 0 if limit is None else limit // timedelta(seconds=1)


# -- Pace --------------------------------------------------------------------------------------------------------------


def pace_window(budget: Budget, at: datetime) -> Window:
    """The time whose mean use is today's pace."""
    return Window(max(at - PACE, min(budget.since, at - SHORTEST_PACE)), at)


def runs_dry(budget: Budget, recent_seconds: Fraction | int, recent_won: Fraction, at: datetime) -> datetime | None:
    """When the first side of the budget is used up, grace included, at today's pace.

    Args:
        recent_seconds, recent_won: used in `pace_window`.

    Returns:
        None when it lasts to the period's end.
    """
    window = pace_window(budget, at)
    time = Fraction(_seconds(window.end - window.start))
    found = (
        _dry(side, recent / time, at, budget.period.end)
        for side, recent in ((budget.gpu_seconds, recent_seconds), (budget.won, recent_won))
        if side is not None
    )
    return min((moment for moment in found if moment is not None), default=None)


def _dry(side: Amount, pace: Fraction, at: datetime, end: datetime) -> datetime | None:
    """Args:
    pace: a second.
    """
    left = side.allowed - side.used
    if left <= 0:
        return at
    if left >= pace * _seconds(end - at):
        return None
    return at + timedelta(seconds=floor(left / pace))
