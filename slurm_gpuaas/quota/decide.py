"""Decides what waiting jobs may do on one share of one GPU model: start, wait, or never; and who gives way. Pure.

A job runs wholly as guaranteed or wholly as burst. The daemon, `gpuaas quota simulate` and `gpuaas quota replay` all
call `decide`.

Who gives way, and why nobody swaps for ever:

- Only burst gives way, and only of a tenant whose use passes its guarantee. So guaranteed jobs are never taken
  back, and reclaiming for a guarantee ends: each time guaranteed use grows, which is bounded by the guarantees.
- Burst takes from burst only for a tenant under its fair share, from one above its own, and only while the one that
  gives is left no worse off (use over fair share) than the one that takes. The lowest saturation of those concerned
  rises, so the sorted list of saturations rises with every such move (leximin) and no earlier state comes again. On a
  tree the same holds on the level where both paths meet, where a parent's own jobs count as one more child.
- Fair shares are of what runs and waits, and a job that gave way waits: they do not move by reclaiming.

Victims: the tenant furthest over its fair share first (use over fair share), its youngest job first, jobs of at most
`OVERSHOOT` times what is still needed; only when those do not do, the smallest larger one. Then victims that turn out
unneeded are given back, the one with the most GPU-hours to lose first.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from fractions import Fraction
from typing import Final, NewType

from slurm_gpuaas.domain.jobs import ServiceClass
from slurm_gpuaas.quota.ledger import Ledger, Level, Ranking
from slurm_gpuaas.quota.tree import FairShare, Short, TenantName, Tree, bounded, fair_shares, honoured, lendings

JobKey = NewType("JobKey", str)

OVERSHOOT: Final = 2
"""A victim may be so many times what is still needed, while smaller ones would do as well. A request of 48 GPUs never
evicts hundreds (KAI-Scheduler pull request 1565: 376 evicted for 48)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A job on its GPUs. `service` None: told by `settled` (the oldest fill the guarantee first)."""

    id: JobKey
    tenant: TenantName
    gpus: int
    service: ServiceClass | None = None
    age_s: int = 0
    preemptible: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A waiting job. One that is not preemptible runs as guaranteed alone; `service` binds it to one class."""

    id: JobKey
    tenant: TenantName
    gpus: int
    preemptible: bool = True
    service: ServiceClass | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    half_life_h: Fraction | None = None
    min_run_s: int = 0
    """A burst job younger than this does not give way."""


class Action(StrEnum):
    START = "start"
    WAIT = "wait"
    REFUSE = "refuse"
    """It can never fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """
    Attributes:
        service: the class it starts as.
        preempts: who gives way first.
        why: a sentence with the numbers.
        guarantee_full: it waits because what it is guaranteed is in use.
        over_ceiling: who gives way makes room below a ceiling of the job's own.
    """

    job: JobKey
    action: Action
    service: ServiceClass | None = None
    preempts: tuple[JobKey, ...] = ()
    why: str
    guarantee_full: bool = False
    over_ceiling: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a tenant stands, its children included.

    Attributes:
        borrowed: of `in_use`, what passes the guarantee.
        lent: of the guarantee, what is idle here and used by others.
        may_borrow: GPUs it could start as burst right now, without anybody giving way.
    """

    guaranteed: int
    fair_share: int
    in_use: int
    borrowed: int
    lent: int
    may_borrow: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """`standings` are of the moment before the decisions; `short` are guarantees that cannot be kept in full."""

    standings: Mapping[TenantName, Standing]
    decisions: tuple[Decision, ...]
    short: tuple[Short, ...]


def decide(
    tree: Tree,
    capacity: int,
    running: Iterable[Running],
    pending: Sequence[Pending],
    options: Options = Options(),
) -> Ruling:
    """Decide on the waiting jobs in their order, each on the state that the ones before left.

    Args:
        tree: guarantees as promised; what `capacity` cannot keep is shorted (`honoured`).
        capacity: healthy GPUs of the share, less spares.
        running, pending: of tenants of the tree.
    """
    promised = tree
    tree, short = honoured(promised, capacity)
    jobs = settled(tree, running)
    asked = dict.fromkeys(tree.tenants, 0)
    for job in jobs:
        asked[job.tenant] += job.gpus
    empty = Ledger(promised, capacity)
    alike: dict[_Kind, list[Pending]] = {}
    for waiting in pending:
        alike.setdefault(_kind(waiting), []).append(waiting)
    for one, *others in alike.values():
        if one.gpus <= most_ever(empty, one):
            asked[one.tenant] += one.gpus * (1 + len(others))
    shares = fair_shares(tree, capacity, asked, half_life_h=options.half_life_h)
    books = _Books(empty, Ledger(tree, capacity), shares, options)
    for job in jobs:
        books.start(job)
    standings = books.standings()
    return Ruling(standings=standings, decisions=tuple(books.decide(job) for job in pending), short=short)


def settled(tree: Tree, running: Iterable[Running]) -> tuple[Running, ...]:
    """Running jobs with their class told: those without one fill their guarantee, the oldest first."""
    running = sorted(running, key=lambda job: (job.service is None, -job.age_s, job.id))
    pools = _Pools(tree)
    told: list[Running] = []
    for job in running:
        if job.service is None:
            service = ServiceClass.BURST if pools.room_for(job) is None else ServiceClass.GUARANTEED
            job = replace(job, service=service)
        if job.service is ServiceClass.GUARANTEED:
            pools.put(job)
        told.append(job)
    return tuple(told)


def most_ever(empty: Ledger, job: Pending) -> int:
    """GPUs of the largest such job of its tenant that could ever run, on an otherwise empty share.

    Args:
        empty: of guarantees as promised.
    """
    most = 0
    if job.service is not ServiceClass.BURST:
        most = _most_guaranteed(empty.tree, job.tenant)
    if job.service is not ServiceClass.GUARANTEED and job.preemptible:
        most = max(most, _most_burst(empty, job.tenant))
    return min(most, empty.capacity)


def _most_guaranteed(tree: Tree, tenant: TenantName) -> int:
    most, may_take = 0, None
    for name in tree.paths[tenant]:
        most = max(most, bounded(tree.tenants[name].guaranteed, may_take))
        limit = tree.tenants[name].borrow_limit
        may_take = limit if may_take is None else bounded(may_take, limit)
    return most


def _most_burst(ledger: Ledger, tenant: TenantName) -> int:
    return 0 if ledger.tree.tenants[tenant].borrow_limit == 0 else max(0, ledger.room(tenant))


class _Pools:
    """Guarantees as pools that guaranteed jobs fill: a tenant's own, then its parents', nearest first.

    What a tenant holds of its parents' guarantees is borrowed, so its borrow limit bounds it: its own guarantee stays
    within its ceiling.
    """

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self.used = dict.fromkeys(tree.tenants, 0)
        self._of_parents = dict.fromkeys(tree.tenants, 0)

    def room_for(self, job: Running | Pending) -> TenantName | None:
        """The nearest guarantee that holds the job whole."""
        for name in self._tree.paths[job.tenant]:
            tenant = self._tree.tenants[name]
            if self.used[name] + job.gpus <= tenant.guaranteed:
                return name
            if tenant.borrow_limit is not None and self._of_parents[name] + job.gpus > tenant.borrow_limit:
                return None
        return None

    def put(self, job: Running) -> TenantName:
        """One that fits nowhere (its guarantee was lowered) stays in its own."""
        pool = self.room_for(job) or job.tenant
        self.used[pool] += job.gpus
        for name in self._tree.paths[job.tenant]:
            if name == pool:
                break
            self._of_parents[name] += job.gpus
        return pool


_Kind = tuple[TenantName, int, bool, ServiceClass | None]


def _kind(job: Pending) -> _Kind:
    """All that a decision looks at in a waiting job."""
    return job.tenant, job.gpus, job.preemptible, job.service


MayLose = Callable[[Pending, TenantName], int]
"""GPUs of the largest job that a tenant may lose to a waiting one, which counts as running already; 0: none."""


class _Books:
    """Who runs what while decisions are made. Everything is by value but this, which lives for one call of `decide`.

    Args:
        empty: of guarantees as promised.
        ledger: of guarantees that can be kept.
    """

    def __init__(self, empty: Ledger, ledger: Ledger, shares: Mapping[TenantName, FairShare], options: Options) -> None:
        self._empty = empty
        self._ledger = ledger
        self._tree = ledger.tree
        self._shares = shares
        self._options = options
        self._pools = _Pools(ledger.tree)
        self._ranking = Ranking(ledger, shares)
        self._may_go: dict[TenantName, list[Running]] = {name: [] for name in ledger.tree.tenants}
        """Burst jobs that may give way, the youngest first."""
        self._may_go_below = dict.fromkeys(ledger.tree.tenants, 0)
        self._not_now: dict[_Kind, Decision] = {}
        """Since the last start. A job that does not start changes nothing, so the next of its kind, as in an array of
        thousands, has the same answer."""

    # -- State

    def start(self, job: Running) -> None:
        if job.service is ServiceClass.GUARANTEED:
            self._pools.put(job)
        elif job.preemptible and job.age_s >= self._options.min_run_s:
            insort(self._may_go[job.tenant], job, key=_youngest)
            self._count_may_go(job.tenant, 1)
        self._ranking.add(job.tenant, job.gpus)

    def _give_way(self, job: Running) -> None:
        jobs = self._may_go[job.tenant]
        del jobs[bisect_left(jobs, _youngest(job), key=_youngest)]
        self._count_may_go(job.tenant, -1)
        self._ranking.add(job.tenant, -job.gpus)

    def _count_may_go(self, tenant: TenantName, jobs: int) -> None:
        for name in self._tree.paths[tenant]:
            self._may_go_below[name] += jobs

    def standings(self) -> Mapping[TenantName, Standing]:
        in_use = self._ledger.in_use
        lent = lendings(self._tree, self._ledger.capacity, in_use)
        return {
            name: Standing(
                guaranteed=self._tree.subtree[name],
                fair_share=self._shares[name].gpus,
                in_use=in_use[name],
                borrowed=max(0, in_use[name] - self._tree.subtree[name]),
                lent=lent[name],
                may_borrow=_most_burst(self._ledger, name),
            )
            for name in sorted(self._tree.tenants)
        }

    # -- Decisions

    def decide(self, job: Pending) -> Decision:
        kind = _kind(job)
        if (known := self._not_now.get(kind)) is not None:
            return replace(known, job=job.id)
        decision = self._decided(job)
        if decision.action is Action.START:
            self._not_now.clear()
        else:
            self._not_now[kind] = decision
        return decision

    def _decided(self, job: Pending) -> Decision:
        if (most := most_ever(self._empty, job)) < job.gpus:
            return Decision(job=job.id, action=Action.REFUSE, why=self._never(job, most))
        waits: list[str] = []
        for attempt in self._attempts(job):
            decision = attempt(job)
            if isinstance(decision, Decision):
                return decision
            waits.append(decision)
        full = self._pools.room_for(job) is None
        return Decision(job=job.id, action=Action.WAIT, why=" ".join(waits), guarantee_full=full)

    def _attempts(self, job: Pending) -> Iterator[Callable[[Pending], Decision | str]]:
        if job.service is not ServiceClass.BURST:
            yield self._as_guaranteed
        if job.service is not ServiceClass.GUARANTEED and job.preemptible:
            yield self._as_burst

    def _as_guaranteed(self, job: Pending) -> Decision | str:
        pool = self._pools.room_for(job)
        if pool is None:
            return self._guarantee_is_full(job)
        victims = self._victims(job, self._owes)
        if victims is None:
            return (
                f"{job.gpus} guaranteed GPUs are due to {job.tenant}, {self._ledger.available(job.tenant)} are free "
                f"and no burst job that may give way{self._old_enough()} makes room."
            )
        return self._begin(job, ServiceClass.GUARANTEED, victims, f"{self._pool_text(pool)}; ")

    def _as_burst(self, job: Pending) -> Decision | str:
        if self._tree.tenants[job.tenant].borrow_limit == 0:
            return f"{job.tenant} may not borrow."
        victims: tuple[Running, ...] | None = ()
        if job.gpus > self._ledger.room(job.tenant):
            own = self._ranking.own_level(job.tenant)
            victims = self._victims(job, self._should_give_back) if own.in_use < own.share else None
        if victims is None:
            return self._cannot_borrow(job)
        text = f"fair share {self._shares[job.tenant].gpus}, in use {self._ledger.in_use[job.tenant]}; "
        return self._begin(job, ServiceClass.BURST, victims, text)

    def _begin(self, job: Pending, service: ServiceClass, victims: Sequence[Running], text: str) -> Decision:
        gives = {victim.tenant: 0 for victim in victims}
        for victim in victims:
            gives[victim.tenant] += victim.gpus
        from_whom = ", ".join(
            f"{gpus} from {name} (fair share {self._shares[name].gpus})" for name, gpus in sorted(gives.items())
        )
        had, rooms = self._ledger.available(job.tenant), self._headrooms(job)
        for victim in victims:
            self._give_way(victim)
        self.start(Running(id=job.id, tenant=job.tenant, gpus=job.gpus, service=service, preemptible=job.preemptible))
        how = f"takes {from_whom}" if victims else f"{had} GPUs are free"
        return Decision(
            job=job.id,
            action=Action.START,
            service=service,
            preempts=tuple(victim.id for victim in victims),
            why=f"{job.gpus} GPUs as {service}: {text}{how}.",
            over_ceiling=service is ServiceClass.GUARANTEED and min(rooms, default=job.gpus) < job.gpus,
        )

    # -- Words

    def _guarantee_is_full(self, job: Pending) -> str:
        pools = [name for name in self._tree.paths[job.tenant] if self._tree.tenants[name].guaranteed]
        if not pools:
            return f"{job.tenant} is guaranteed nothing."
        return " ".join(f"{self._pool_text(name)}." for name in pools)

    def _cannot_borrow(self, job: Pending) -> str:
        for name in self._tree.paths[job.tenant]:
            room = self._ledger.headroom(name)
            if room is not None and job.gpus > room:
                return f"{name} uses {self._ledger.in_use[name]} of at most {self._tree.ceiling(name)} GPUs."
        text = (
            f"{max(self._ledger.available(job.tenant), 0)} GPUs are free to borrow, {job.tenant} uses "
            f"{self._ledger.in_use[job.tenant]} of its fair share of {self._shares[job.tenant].gpus}"
        )
        own = self._ranking.own_level(job.tenant)
        if own.in_use >= own.share:
            return f"{text}."
        return f"{text}, and no borrower above its own{self._old_enough()} can give back without falling behind."

    def _pool_text(self, pool: TenantName) -> str:
        return f"{self._pools.used[pool]} of {self._tree.tenants[pool].guaranteed} guaranteed GPUs of {pool} are in use"

    def _old_enough(self) -> str:
        return f" (older than {self._options.min_run_s} s)" if self._options.min_run_s else ""

    def _never(self, job: Pending, most: int) -> str:
        kind = "as guaranteed, which a job that must not be preempted has to be, " if not job.preemptible else ""
        return f"{job.gpus} GPUs can never run {kind}here: the largest job of {job.tenant} that could has {most}."

    # -- Who gives way

    def _victims(self, job: Pending, may_lose: MayLose) -> tuple[Running, ...] | None:
        """Jobs that make room, none when there is room already; None when they cannot."""
        # The job counts as running already: its own tenant may be the one that is over.
        self._ranking.add(job.tenant, job.gpus)
        chosen: list[Running] = []
        try:
            while (lacks := -self._ledger.room(job.tenant)) > 0:
                victim = self._next_victim(job, lacks, may_lose)
                if victim is None:
                    return None
                self._give_way(victim)
                chosen.append(victim)
            return self._without_unneeded(job, chosen)
        finally:
            for victim in chosen:
                self.start(victim)
            self._ranking.add(job.tenant, -job.gpus)

    def _next_victim(self, job: Pending, lacks: int, may_lose: MayLose) -> Running | None:
        smallest: Running | None = None
        for tenant in self._furthest_over(self._must_be_inside(job)):
            most = may_lose(job, tenant)
            for victim in self._may_go[tenant] if most > 0 else ():
                if victim.gpus > most:
                    continue
                if victim.gpus <= OVERSHOOT * lacks:
                    return victim
                if smallest is None or victim.gpus < smallest.gpus:
                    smallest = victim
        return smallest

    def _furthest_over(self, parent: TenantName | None) -> Iterator[TenantName]:
        """Tenants below `parent`, and itself, with jobs that may give way; those furthest over their fair share first:
        of the level below it, then within each."""
        for name in self._ranking.furthest_first(parent):
            if name == parent:
                if self._may_go[name]:
                    yield name
            elif self._may_go_below[name]:
                yield from self._furthest_over(name) if self._tree.below(name) else (name,)

    def _must_be_inside(self, job: Pending) -> TenantName | None:
        """The lowest tenant on the job's path whose ceiling is passed: only jobs below it help."""
        for name in self._tree.paths[job.tenant]:
            room = self._ledger.headroom(name)
            if room is not None and room < 0:
                return name
        return None

    def _headrooms(self, job: Pending) -> list[int]:
        return [room for name in self._tree.paths[job.tenant] if (room := self._ledger.headroom(name)) is not None]

    def _below_meeting(self, tenant: TenantName, other: TenantName) -> tuple[TenantName, ...]:
        """The part of its path, itself first, below the lowest parent of both; empty when it is that parent."""
        others = self._tree.paths[other]
        return tuple(name for name in self._tree.paths[tenant] if name not in others)

    def _levels(self, tenant: TenantName, other: TenantName) -> list[Level]:
        """Where its own jobs, itself and its parents stand, up to below the parent where it meets `other`."""
        names = self._below_meeting(tenant, other)
        return [self._ranking.own_level(tenant), *(self._ranking.level(name) for name in names)]

    def _owes(self, job: Pending, tenant: TenantName) -> int:
        """For a guarantee: whoever uses more than it is guaranteed, on every level below the one where both meet."""
        names = self._below_meeting(tenant, job.tenant) or (tenant,)
        beyond = all(self._ledger.in_use[name] > self._ledger.usable(name, tenant) for name in names)
        return self._ledger.in_use[tenant] if beyond else 0

    def _should_give_back(self, job: Pending, tenant: TenantName) -> int:
        """Between borrowers: one above its fair share to one below its own, and left no worse off than the other."""
        if tenant == job.tenant or not self._ranking.over_with_own(tenant):
            return 0
        mine, its = self._levels(job.tenant, tenant), self._levels(tenant, job.tenant)
        if any(level.in_use - job.gpus >= level.share for level in mine) or not all(level.over for level in its):
            return 0
        taker, giver = mine[-1], its[-1]
        return giver.in_use - -(-taker.in_use * giver.share // taker.share)

    def _without_unneeded(self, job: Pending, chosen: list[Running]) -> tuple[Running, ...]:
        """Give victims back that turned out unneeded; updates `chosen` with the state."""
        for victim in sorted(chosen, key=lambda one: (-one.gpus * one.age_s, -one.gpus, one.id)):
            self.start(victim)
            if self._ledger.room(job.tenant) < 0:
                self._give_way(victim)
            else:
                chosen.remove(victim)
        return tuple(chosen)


def _youngest(job: Running) -> tuple[int, int, JobKey]:
    return job.age_s, job.gpus, job.id
