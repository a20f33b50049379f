"""What is booked for use: runs cut by Korean month, priced at their start, rounded once a key. Pure.

Booking is always the difference between what usage says now and what is booked already. So a late record, a corrected
run, a second pass and a crash between two writes all end in the same sums, and nothing here needs to know which of
them happened. A closed month gets no more entries: its differences are booked as corrections on the next statement
(docs/design/0025-rounding-and-closing.md).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Final

from slurm_gpuaas.domain.budgets import Budget, budgets, cuts
from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.jobs import JobState, ServiceClass
from slurm_gpuaas.domain.ledger import (
    NOTHING,
    WHOLE,
    Amounts,
    BookKey,
    Ending,
    Entry,
    EntryKind,
    PersonUse,
    PoolRate,
    Terms,
    UseKey,
)
from slurm_gpuaas.domain.money import Won, whole_won
from slurm_gpuaas.domain.months import Month
from slurm_gpuaas.domain.names import (
    AccountName,
    ClusterName,
    GpuModel,
    GrantName,
    ProgrammeName,
    ProjectName,
    QosName,
    RateName,
    ShareName,
    UserName,
)
from slurm_gpuaas.domain.policy import (
    FIRST_DAY,
    KST,
    MOST_GPUS,
    Organisation,
    Policy,
    PolicyDocument,
    Pool,
    Project,
    Rate,
    Share,
)
from slurm_gpuaas.domain.usage import BURST_PREFIX, UsageRecord, UsageSum, Window, service_class
from slurm_gpuaas.metering.rules import gpu_seconds_in, metered_until, whole_seconds

LONGEST_RUN: Final = timedelta(days=3 * 366)
"""A suspended job outlives its time limit, but not for so long; what claims to is not a run."""
MOST_STATE: Final = 40
MOST_NODE_LIST: Final = 65_536
"""Characters; Slurm folds host lists."""
ENDINGS: Final[Mapping[str, Ending]] = {
    JobState.PREEMPTED: Ending.PREEMPTED,
    JobState.NODE_FAIL: Ending.FAULT,
    JobState.BOOT_FAIL: Ending.FAULT,
}
"""What became of the time of a run that ended in this state; of every other one it was used."""
FREE: Final = frozenset({Ending.FAULT})
"""What nobody pays: the whole of a run that the provider's hardware ended. Accounting does not know of checkpoints, so
how much of it survived cannot be shown from it, and what cannot be shown is not charged."""
VAT_PERCENT: Final = 10

# -- Use ---------------------------------------------------------------------------------------------------------------


def check(record: UsageRecord) -> None:
    """A run as a site may report it.

    Raises:
        InvalidInput: its figures contradict each other or the calendar.
    """
    until = record.ended or record.started + timedelta(seconds=record.gpu_seconds // max(record.gpus, 1))
    if not 1 <= record.gpus <= MOST_GPUS:
        fault = f"has {record.gpus} GPUs, not 1 to {MOST_GPUS:,}"
    elif not 0 <= record.job_id < 2**32:
        fault = "has no job id of Slurm's (32 bits)"
    elif len(record.state) > MOST_STATE or len(record.nodes) > MOST_NODE_LIST:
        fault = f"has {len(record.state)} characters of state and {len(record.nodes):,} of nodes"
    elif record.started.microsecond or until.microsecond:
        fault = "starts or ends within a second, and Slurm's times are whole ones"
    elif record.started < datetime.combine(FIRST_DAY, time(), KST):
        fault = f"started on {record.started.date()}, before {FIRST_DAY}"
    elif not record.started <= until <= record.started + LONGEST_RUN:
        fault = f"ends before it starts, or more than {LONGEST_RUN.days} days later"
    elif record.gpu_seconds != record.gpus * whole_seconds(until - record.started):
        fault = f"says {record.gpu_seconds} GPU-seconds, which are not its GPUs times its seconds"
    else:
        return
    raise InvalidInput(
        f"Run of job {record.job_id} on cluster {record.cluster} {fault}.",
        way_out="The site must report runs as metering holds them.",
    )


def use_of(record: UsageRecord) -> dict[UseKey, int]:
    """GPU-seconds of a run by month; they add up to its GPU-seconds."""
    parts: dict[UseKey, int] = {}
    start, end = record.started, metered_until(record)
    there = start.astimezone(KST)
    day, month = there.date(), Month(there.year, there.month)
    service, ending = service_class(record.qos), ENDINGS.get(record.state, Ending.USED)
    while start < end:
        until = min(_end(month), end)
        key = UseKey(record.cluster, record.account, month, day, record.model, service, ending)
        parts[key] = record.gpus * whole_seconds(until - start)
        start, month = until, month.following
    return parts


@lru_cache(maxsize=1_000)
def _end(month: Month) -> datetime:
    return month.window.end


def use_of_people(
    within: Mapping[tuple[UserName, QosName, str], int], over: Iterable[UsageRecord], window: Window
) -> dict[PersonUse, int]:
    """GPU-seconds of an account in the window.

    Args:
        within: of runs that lie within it, by login, QOS and state.
        over: all others that overlap it.
    """
    found: dict[PersonUse, int] = defaultdict(int)
    for (user, qos, state), used in within.items():
        found[PersonUse(user, service_class(qos), ENDINGS.get(state, Ending.USED))] += used
    for record in over:
        key = PersonUse(record.user, service_class(record.qos), ENDINGS.get(record.state, Ending.USED))
        found[key] += gpu_seconds_in(record, window)
    return {key: used for key, used in found.items() if used}


# -- Prices ------------------------------------------------------------------------------------------------------------


class Tariff:
    """All terms and rates, as they are now."""

    def __init__(self, terms: Iterable[Terms], rates: Iterable[PoolRate]) -> None:
        self.terms = tuple(terms)
        self.rates = tuple(rates)

    @cached_property
    def by_grant(self) -> Mapping[GrantName, Terms]:
        return {one.grant.name: one for one in self.terms}

    @cached_property
    def _by_account(self) -> Mapping[tuple[ClusterName, AccountName], Sequence[Terms]]:
        found: dict[tuple[ClusterName, AccountName], list[Terms]] = defaultdict(list)
        for one in self.terms:
            found[one.cluster, one.account].append(one)
        return found

    @cached_property
    def _by_rate(self) -> Mapping[RateName, PoolRate]:
        return {rate.name: rate for rate in self.rates}

    def terms_of(self, cluster: ClusterName, account: AccountName) -> Sequence[Terms]:
        return self._by_account.get((cluster, account), ())

    def terms_at(self, cluster: ClusterName, account: AccountName, day: date) -> Terms | None:
        """The newest grant of the account that has begun, as `Policy.price_at` chooses."""
        begun = [one for one in self.terms_of(cluster, account) if one.grant.starts <= day]
        return max(begun, key=lambda one: (one.grant.starts, one.grant.ends, one.grant.name), default=None)

    def rate_at(self, terms: Terms, model: GpuModel, day: date) -> PoolRate | None:
        return self.rate_for(terms.grant.share, terms.programme, model, day)

    def rate_for(self, share: ShareName, programme: ProgrammeName, model: GpuModel, day: date) -> PoolRate | None:
        begun = [
            rate for rate in self.rates if rate.model == model and rate.starts <= day and rate.covers(share, programme)
        ]
        return max(begun, key=lambda rate: rate.rank, default=None)

    def rate(self, name: RateName) -> PoolRate:
        return self._by_rate[name]

    def key_of(self, use: UseKey) -> BookKey:
        """Under what it is booked: at the price of the day on which its runs started."""
        terms = self.terms_at(use.cluster, use.account, use.day)
        fault = use.ending in FREE
        model = use.model or (terms.model if terms else None)
        rate = self.rate_at(terms, model, use.day) if terms and model and not fault else None
        return BookKey(
            cluster=use.cluster,
            account=use.account,
            month=use.month,
            grant=terms.grant.name if terms else None,
            model=model,
            service=use.service,
            fault=fault,
            rate=rate.name if rate else None,
            percent=terms.grant.price_percent if terms and rate else WHOLE,
        )

    def amounts(self, key: BookKey, gpu_seconds: int, preempted: int) -> Amounts:
        """The one place where Won are rounded: down, once for all that stands under the key."""
        list_won, won = (
            whole_won(gpu_seconds * self.rate(key.rate).price(percent).of_class(key.service)) if key.rate else Won(0)
            for percent in (WHOLE, key.percent)
        )
        return Amounts(gpu_seconds, preempted, list_won, won)


# -- Booking -----------------------------------------------------------------------------------------------------------


def entitled(use: Mapping[UseKey, int], tariff: Tariff) -> dict[BookKey, Amounts]:
    """What should be booked for the use, all in all."""
    seconds: dict[BookKey, int] = defaultdict(int)
    preempted: dict[BookKey, int] = defaultdict(int)
    for one, used in use.items():
        key = tariff.key_of(one)
        seconds[key] += used
        preempted[key] += used if one.ending is Ending.PREEMPTED else 0
    return {key: tariff.amounts(key, seconds[key], preempted[key]) for key in seconds}


def missing(use: Mapping[UseKey, int], booked: Mapping[BookKey, Amounts], tariff: Tariff) -> dict[BookKey, Amounts]:
    """What must still be booked, of the same places as `use` and `booked` are; nothing when it was done already."""
    wanted = entitled(use, tariff)
    found = {key: wanted.get(key, NOTHING).less(booked.get(key, NOTHING)) for key in {**wanted, **booked}}
    return {key: amounts for key, amounts in found.items() if amounts != NOTHING}


def statement_month(used: Month, closed: Month | None) -> Month:
    """On whose statement use of a month is booked, when all months up to `closed` are."""
    return used if closed is None else max(used, closed.following)


def entry_for(key: BookKey, amounts: Amounts, tariff: Tariff, *, closed: Month | None, at: datetime) -> Entry:
    terms = tariff.by_grant[key.grant] if key.grant else None
    month = statement_month(key.month, closed)
    late = month != key.month
    return Entry(
        at=at,
        kind=EntryKind.CORRECTION if late else EntryKind.CHARGE,
        month=month,
        amounts=amounts,
        used=key,
        organisation=terms.organisation if terms else None,
        provider=terms.provider if terms else None,
        programme=terms.programme if terms else None,
        grant=key.grant,
        refers=str(key.month) if late else "",
    )


def vat_of(supply: int, percent: int = VAT_PERCENT) -> Won:
    """Of a whole statement; what is less than a Won is dropped, in either direction."""
    vat = abs(supply) * percent // 100
    return Won(vat if supply >= 0 else -vat)


# -- Budgets -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The budget of a project on one cluster as its site reckons it, as far as its runs were reported.

    Attributes:
        free_seconds: GPU-seconds lost to faults in the budget's period. Slurm counts them as used, so the budget does;
            nobody pays for them.
    """

    cluster: ClusterName
    budget: Budget
    free_seconds: int


def standing(
    tariff: Tariff, cluster: ClusterName, account: AccountName, use: Mapping[UseKey, int], at: datetime
) -> Standing | None:
    """By the very rules that the site enforces (`domain.budgets`); None without a budget in force.

    What is committed by running jobs only the site knows, so it counts as nothing here.

    Args:
        use: of the account.
    """
    terms = tariff.terms_of(cluster, account)
    if not any(one.grant.has_budget and one.grant.active_at(at) for one in terms):
        return None
    policy = site_policy(terms, tariff)
    sums = usage_sums(use, cuts(policy, cluster, at))
    budget = budgets(policy, cluster, at, sums).get(ProjectName(account))
    if budget is None:
        return None
    free = sum(used for key, used in use.items() if key.ending in FREE and _midnight(key.day) >= budget.period.start)
    return Standing(cluster=cluster, budget=budget, free_seconds=free)


def site_policy(terms: Sequence[Terms], tariff: Tariff) -> Policy:
    """The policy of one project on one cluster, as far as budgets depend on it. Shares have one node that stands for
    all: budgets ask for cluster and model alone.

    Raises:
        InvalidInput: its grants contradict each other.
    """
    organisation, project = terms[0].organisation, terms[0].grant.project
    shares = sorted({(one.grant.pool, one.grant.share) for one in terms})
    pools = [
        Pool(
            name=name,
            cluster=terms[0].cluster,
            model=next(one.model for one in terms if one.grant.pool == name),
            shares=tuple(
                Share(name=share, nodes=f"node-{number}") for number, (pool, share) in enumerate(shares) if pool == name
            ),
        )
        for name in sorted({pool for pool, _ in shares})
    ]
    documents: list[PolicyDocument] = [
        Organisation(name=organisation),
        Project(name=project, organisation=organisation),
        *pools,
        *(one.grant for one in terms),
        *_rates_of(terms, tariff),
    ]
    return Policy.of(documents)


def _rates_of(terms: Sequence[Terms], tariff: Tariff) -> Iterator[Rate]:
    """The rates of one project as documents of its site, which know of no programmes and shares."""
    days = sorted({rate.starts for rate in tariff.rates} | {one.grant.starts for one in terms})
    for model in sorted({rate.model for rate in tariff.rates}):
        found = [(day, tariff.rate_at(_newest(terms, day), model, day)) for day in days]
        changed = [found[0], *(later for before, later in pairwise(found) if later[1] != before[1])]
        for day, rate in changed:
            if rate is not None:
                yield Rate(
                    name=RateName(f"r{day:%Y%m%d}-{model}"),
                    model=model,
                    won_per_gpu_hour=rate.won_per_gpu_hour,
                    burst_discount=rate.burst_discount,
                    starts=day,
                    basis=rate.basis,
                )


def _newest(terms: Sequence[Terms], day: date) -> Terms:
    begun = [one for one in terms if one.grant.starts <= day]
    return max(begun, key=lambda one: (one.grant.starts, one.grant.ends)) if begun else terms[0]


def usage_sums(use: Mapping[UseKey, int], moments: Sequence[datetime]) -> list[UsageSum]:
    """Use cut by the moments at which its runs started; they are Korean midnights, as the use's days begin with."""
    found: dict[tuple[AccountName, GpuModel | None, ServiceClass, datetime | None], int] = defaultdict(int)
    for key, used in use.items():
        since = max((moment for moment in moments if moment <= _midnight(key.day)), default=None)
        found[key.account, key.model, key.service, since] += used
    return [
        UsageSum(
            account=account,
            model=model,
            qos=QosName(BURST_PREFIX + "x" if service is ServiceClass.BURST else "x"),
            since=since,
            gpu_seconds=used,
            ended=used,
        )
        for (account, model, service, since), used in found.items()
    ]


def recent_use(tariff: Tariff, records: Iterable[UsageRecord], window: Window) -> tuple[int, Fraction]:
    """GPU-seconds and Won of the runs of one account within the window: today's pace, for `domain.budgets.runs_dry`."""
    seconds, won = 0, Fraction(0)
    for record in records:
        used = gpu_seconds_in(record, window)
        day = record.started.astimezone(KST).date()
        terms = tariff.terms_at(record.cluster, record.account, day)
        rate = tariff.rate_at(terms, record.model or terms.model, day) if terms else None
        if terms and rate:
            won += used * rate.price(terms.grant.price_percent).of_class(service_class(record.qos))
        seconds += used
    return seconds, won


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), KST)
