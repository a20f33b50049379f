"""Decides what waiting jobs may do on one share of one GPU model: start, wait, or never; and who gives way. Pure.

A job runs wholly as guaranteed or wholly as burst. The daemon and `gpuaas quota simulate` both call `decide`.

Who gives way, and why nobody swaps for ever:

- Only burst gives way, and only of a tenant whose use passes its guarantee. So guaranteed jobs are never taken
  back, and reclaiming for a guarantee ends: each time guaranteed use grows, which is bounded by the guarantees.
- Burst takes from burst only for a tenant that stays within its fair share, from one above its own, and only while the
  one that gives is left no worse off (use over fair share) than the one that takes. The lowest saturation of those
  concerned rises, so the sorted list of saturations rises with every such move (leximin) and no earlier state comes
  again. On a tree the same holds on the level where both paths meet.
- Fair shares are of what runs and waits, and a job that gave way waits: they do not move by reclaiming.

Victims: the tenant furthest over its fair share first (use over fair share), its youngest job first, jobs of at most
`OVERSHOOT` times what is still needed; only when those do not do, the smallest larger one. Then victims that turn out
unneeded are given back, the one with the most GPU-hours to lose first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from fractions import Fraction
from typing import Final, NewType

from slurm_gpuaas.domain.jobs import ServiceClass
from slurm_gpuaas.quota.tree import (
    FairShare,
    Short,
    TenantName,
    Tree,
    bounded,
    fair_shares,
    honoured,
    kept_below,
    kept_home,
    lendings,
)

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
    for waiting in pending:
        if waiting.gpus <= most_ever(promised, capacity, waiting):
            asked[waiting.tenant] += waiting.gpus
    shares = fair_shares(tree, capacity, asked, half_life_h=options.half_life_h)
    books = _Books(promised, tree, capacity, shares, options)
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


def most_ever(promised: Tree, capacity: int, job: Pending) -> int:
    """GPUs of the largest such job of its tenant that could ever run, on an otherwise empty share."""
    most = 0
    if job.service is not ServiceClass.BURST:
        most = _most_guaranteed(promised, job.tenant)
    if job.service is not ServiceClass.GUARANTEED and job.preemptible:
        most = max(most, _most_burst(promised, capacity, job.tenant))
    return min(most, capacity)


def _most_guaranteed(tree: Tree, tenant: TenantName) -> int:
    most, may_take = 0, None
    for name in tree.paths[tenant]:
        most = max(most, bounded(tree.tenants[name].guaranteed, may_take))
        limit = tree.tenants[name].borrow_limit
        may_take = limit if may_take is None else bounded(may_take, limit)
    return most


def _most_burst(tree: Tree, capacity: int, tenant: TenantName) -> int:
    if tree.tenants[tenant].borrow_limit == 0:
        return 0
    ceilings = [ceiling for name in tree.paths[tenant] if (ceiling := tree.ceiling(name)) is not None]
    return min([capacity - kept_home(tree, dict.fromkeys(tree.tenants, 0), tenant), *ceilings])


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


MayLose = Callable[[Pending, Running], bool]
"""Whether a running job may give way to a waiting one, which counts as running already."""


class _Books:
    """Who runs what while decisions are made. Everything is by value but this, which lives for one call of `decide`."""

    def __init__(
        self, promised: Tree, tree: Tree, capacity: int, shares: Mapping[TenantName, FairShare], options: Options
    ) -> None:
        self._promised = promised
        self._tree = tree
        self._capacity = capacity
        self._shares = shares
        self._options = options
        self._pools = _Pools(tree)
        self._in_use = dict.fromkeys(tree.tenants, 0)
        self._free = capacity
        self._burst: dict[TenantName, dict[JobKey, Running]] = {}
        self._lends_all = all(one.lend_limit is None for one in tree.tenants.values())

    # -- State

    def start(self, job: Running) -> None:
        if job.service is ServiceClass.GUARANTEED:
            self._pools.put(job)
        else:
            self._burst.setdefault(job.tenant, {})[job.id] = job
        self._use(job.tenant, job.gpus)

    def _give_way(self, job: Running) -> None:
        del self._burst[job.tenant][job.id]
        self._use(job.tenant, -job.gpus)

    def _use(self, tenant: TenantName, gpus: int) -> None:
        self._free -= gpus
        for name in self._tree.paths[tenant]:
            self._in_use[name] += gpus

    def standings(self) -> Mapping[TenantName, Standing]:
        lent = lendings(self._tree, self._capacity, self._in_use)
        return {
            name: Standing(
                guaranteed=self._tree.subtree[name],
                fair_share=self._shares[name].gpus,
                in_use=self._in_use[name],
                borrowed=max(0, self._in_use[name] - self._tree.subtree[name]),
                lent=lent[name],
                may_borrow=self._may_borrow(name),
            )
            for name in sorted(self._tree.tenants)
        }

    def _may_borrow(self, tenant: TenantName) -> int:
        if self._tree.tenants[tenant].borrow_limit == 0:
            return 0
        rooms = (self._headroom(name) for name in self._tree.paths[tenant])
        return max(0, min([self._available(tenant), *(room for room in rooms if room is not None)]))

    def _headroom(self, name: TenantName) -> int | None:
        ceiling = self._tree.ceiling(name)
        return None if ceiling is None else ceiling - self._in_use[name]

    def _available(self, tenant: TenantName) -> int:
        """Free GPUs less those that lend limits keep for others; negative when more is in use than there is."""
        return self._free - (0 if self._lends_all else kept_home(self._tree, self._in_use, tenant))

    # -- Decisions

    def decide(self, job: Pending) -> Decision:
        if (most := most_ever(self._promised, self._capacity, job)) < job.gpus:
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
                f"{job.gpus} guaranteed GPUs are due to {job.tenant}, {self._available(job.tenant)} are free and no "
                f"burst job that may give way{self._old_enough()} makes room."
            )
        return self._begin(job, ServiceClass.GUARANTEED, victims, f"{self._pool_text(pool)}; ")

    def _as_burst(self, job: Pending) -> Decision | str:
        tenant = self._tree.tenants[job.tenant]
        if tenant.borrow_limit == 0:
            return f"{job.tenant} may not borrow."
        for name in self._tree.paths[job.tenant]:
            room = self._headroom(name)
            if room is not None and job.gpus > room:
                return f"{name} uses {self._in_use[name]} of at most {self._tree.ceiling(name)} GPUs."
        share = self._shares[job.tenant].gpus
        text = f"fair share {share}, in use {self._in_use[job.tenant]}; "
        if job.gpus <= self._available(job.tenant):
            return self._begin(job, ServiceClass.BURST, (), text)
        available = f"{max(self._available(job.tenant), 0)} GPUs are free to borrow"
        if self._in_use[job.tenant] + job.gpus > share:
            return f"{available}, and with {job.gpus} more {job.tenant} would pass its fair share of {share}."
        victims = self._victims(job, self._should_give_back)
        if victims is None:
            return f"{available}, and no borrower above its fair share can give back without falling behind."
        return self._begin(job, ServiceClass.BURST, victims, text)

    def _begin(self, job: Pending, service: ServiceClass, victims: Sequence[Running], text: str) -> Decision:
        gives = {victim.tenant: 0 for victim in victims}
        for victim in victims:
            gives[victim.tenant] += victim.gpus
        from_whom = ", ".join(
            f"{gpus} from {name} (fair share {self._shares[name].gpus})" for name, gpus in sorted(gives.items())
        )
        had = self._available(job.tenant)
        rooms = [room for name in self._tree.paths[job.tenant] if (room := self._headroom(name)) is not None]
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
            over_ceiling=bool(victims) and min(rooms, default=job.gpus) < job.gpus,
        )

    # -- Words

    def _guarantee_is_full(self, job: Pending) -> str:
        pools = [name for name in self._tree.paths[job.tenant] if self._tree.tenants[name].guaranteed]
        if not pools:
            return f"{job.tenant} is guaranteed nothing."
        return " ".join(f"{self._pool_text(name)}." for name in pools)

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
        self._use(job.tenant, job.gpus)
        chosen: list[Running] = []
        try:
            while (lacks := self._lacks(job)) > 0:
                victim = self._next_victim(job, lacks, may_lose)
                if victim is None:
                    return None
                self._give_way(victim)
                chosen.append(victim)
            return self._without_unneeded(job, chosen)
        finally:
            for victim in chosen:
                self._take_back(victim)
            self._use(job.tenant, -job.gpus)

    def _take_back(self, job: Running) -> None:
        self._burst[job.tenant][job.id] = job
        self._use(job.tenant, job.gpus)

    def _lacks(self, job: Pending) -> int:
        """GPUs that are still missing while the job counts as running."""
        above = (-room for name in self._tree.paths[job.tenant] if (room := self._headroom(name)) is not None)
        return max(-self._available(job.tenant), *above, 0)

    def _next_victim(self, job: Pending, lacks: int, may_lose: MayLose) -> Running | None:
        inside = self._must_be_inside(job)
        larger: list[tuple[int, tuple[Fraction, ...], Running]] = []
        for over, tenant in sorted(
            ((self._saturation(name), name) for name, jobs in self._burst.items() if jobs),
            key=lambda one: (tuple(-part for part in one[0]), one[1]),
        ):
            if inside is not None and inside not in self._tree.paths[tenant]:
                continue
            for victim in sorted(self._burst[tenant].values(), key=lambda one: (one.age_s, one.gpus, one.id)):
                if not self._may_give_way(victim) or not may_lose(job, victim):
                    continue
                if victim.gpus <= OVERSHOOT * lacks:
                    return victim
                larger.append((victim.gpus, tuple(-part for part in over), victim))
        return min(larger, key=lambda one: (one[0], one[1], one[2].age_s, one[2].id))[2] if larger else None

    def _must_be_inside(self, job: Pending) -> TenantName | None:
        """The lowest tenant on the job's path whose ceiling is passed: only jobs below it help."""
        for name in self._tree.paths[job.tenant]:
            room = self._headroom(name)
            if room is not None and room < 0:
                return name
        return None

    def _may_give_way(self, victim: Running) -> bool:
        return victim.preemptible and victim.age_s >= self._options.min_run_s

    def _saturation(self, tenant: TenantName) -> tuple[Fraction, ...]:
        """Use over fair share, of the topmost parent first."""
        return tuple(
            self._over(self._in_use[name], self._shares[name].gpus) for name in reversed(self._tree.paths[tenant])
        )

    def _over(self, in_use: int, share: int) -> Fraction:
        # without a share any use is further over than a use of everything with a share of one
        return Fraction(in_use, share) if share else Fraction(in_use * (self._capacity + in_use + 1))

    def _branches(self, job: Pending, victim: Running) -> tuple[TenantName | None, TenantName | None]:
        """Where the paths of both part, below their lowest common parent: None where one ends there."""
        mine, its = list(self._tree.paths[job.tenant]), list(self._tree.paths[victim.tenant])
        while mine and its and mine[-1] == its[-1]:
            mine.pop()
            its.pop()
        return (mine[-1] if mine else None), (its[-1] if its else None)

    def _owes(self, job: Pending, victim: Running) -> bool:
        """For a guarantee: whoever uses more than it is guaranteed, on the level where both paths part and itself."""
        _, its = self._branches(job, victim)
        names = {victim.tenant} if its is None else {victim.tenant, its}
        return all(self._in_use[name] > self._usable(name, victim.tenant) for name in names)

    def _usable(self, name: TenantName, tenant: TenantName) -> int:
        """Of the guarantees of `name`, what `tenant` below it may use."""
        kept = 0 if self._lends_all else kept_below(self._tree, name, self._in_use, tenant)
        return self._tree.subtree[name] - kept

    def _should_give_back(self, job: Pending, victim: Running) -> bool:
        """Between borrowers: one above its fair share, that stays no worse off than the one that takes."""
        mine, its = self._branches(job, victim)
        if its is None or victim.tenant == job.tenant:
            return False
        if any(self._in_use[name] <= self._shares[name].gpus for name in (its, victim.tenant)):
            return False
        taker = mine or job.tenant
        if self._in_use[taker] > self._shares[taker].gpus:
            return False
        left = self._in_use[its] - victim.gpus
        return self._in_use[taker] * self._shares[its].gpus <= left * self._shares[taker].gpus

    def _without_unneeded(self, job: Pending, chosen: list[Running]) -> tuple[Running, ...]:
        """Give victims back that turned out unneeded; updates `chosen` with the state."""
        for victim in sorted(chosen, key=lambda one: (-one.gpus * one.age_s, -one.gpus, one.id)):
            self._take_back(victim)
            if self._lacks(job) > 0:
                self._give_way(victim)
            else:
                chosen.remove(victim)
        return tuple(chosen)
