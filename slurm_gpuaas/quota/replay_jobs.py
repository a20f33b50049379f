"""Replays a list of jobs three times: with fixed quotas, with lending, and on one pooled cluster, the bound. Pure.

Who may start beyond a guarantee and who gives way is decided by `decide`, the very function that the daemon calls.
The queue is the same in all three: the first submitted first, and whoever fits goes ahead of one that does not; times
that jobs will take are not known, so nothing is kept free for a large one. docs/design/0015 gives the reasons.

With lending, a job that fits its tenant's unused guarantee starts at once, as Slurm starts it; where too few GPUs are
free, `decide` is asked who gives way, as the placement gate asks, and the job starts the reclaim time later. Burst is
started every interval. A burst job stays burst to its end, as in Slurm.

Cost: for an arrival or an end, the tenant's queue (an insertion into a list, a look at each size of job); for each
`decide`, all that run and wait. One is left out only where
nothing changed since one that started nobody: it would see the same state (all ages grew alike) and say the same.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import groupby
from typing import Final, NewType

from slurm_gpuaas.domain.jobs import ServiceClass
from slurm_gpuaas.quota.decide import Action, Decision, JobKey, Pending, Running, decide
from slurm_gpuaas.quota.tree import Tenant, TenantName, Tree

GPUS_A_SERVER: Final = 8
SECONDS_AN_HOUR: Final = 3600
SECONDS_A_DAY: Final = 86_400

Place = NewType("Place", int)
"""Of a job in the list: its key, and its place in every queue."""


COVERED: Final = 95
"""Default of `Rules.percentile`; a guarantee that covered every peak would leave most of the cluster idle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceJob:
    """Seconds count from the first submission; `run_s` is what it runs, on any cluster, when nobody stops it."""

    tenant: TenantName
    submitted_s: int
    run_s: int
    gpus: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """
    Attributes:
        interval_s: from one decision on burst to the next.
        reclaim_s: from the decision that others give way until the GPUs are there.
        checkpoint_s: a job saves its work so often after its start, and goes on from there; None: it begins anew.
        percentile: of each tenant's demand over time that its guarantee covers.
    """

    interval_s: int
    reclaim_s: int
    checkpoint_s: int | None
    percentile: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What became of a job: seconds it waited in queues, in all, and when it ended."""

    waited_s: int
    ended_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """From its start until it ended or gave way.

    Attributes:
        held_s: from then on its GPUs are its own: others leave them until it starts.
    """

    job: Place
    service: ServiceClass
    held_s: int
    started_s: int
    ended_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lent:
    """The replay with lending.

    Attributes:
        runs: in the order of their ends.
        evicted_gpu_s: GPU-seconds of work that was lost by giving way.
        evictions: runs that gave way.
        longest_owner_wait_s: from when a job fits its tenant's unused guarantee until it starts.
        churn_gpus: changes of loans (GPUs in use beyond the guarantee) from one decision to the next, and to none
            at the end, summed.
        changed_limits: loans with another number than at the decision before.
        decisions: calls of `decide`.
    """

    fates: tuple[Fate, ...]
    runs: tuple[Run, ...]
    evicted_gpu_s: int
    evictions: int
    longest_owner_wait_s: int
    churn_gpus: int
    changed_limits: int
    decisions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantReplay:
    """Mean seconds that a job of the tenant waited; `worse` when lending added more than the reclaim time."""

    tenant: TenantName
    guaranteed: int
    jobs: int
    fixed_s: float
    lending_s: float
    worse: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class JobsReplay:
    """GPU-hours that waited with fixed quotas, with lending and on the pooled cluster; and what lending cost.

    Attributes:
        evicted: work that was lost by giving way.
        jobs_worse: jobs that ended later than with fixed quotas by more than the reclaim time.
        longest_worse_s: how much later the worst off ended.
    """

    tenants: tuple[TenantReplay, ...]
    fixed: float
    lending: float
    pooled: float
    evicted: float
    evictions: int
    longest_owner_wait_s: int
    jobs_worse: int
    longest_worse_s: int
    churn_gpus: int
    changed_limits_a_day: float
    decisions: int

    @property
    def bound(self) -> float:
        return self.fixed - self.pooled

    @property
    def recovered(self) -> float:
        """Net of the work that was lost: it ran in vain, which is as good as having waited."""
        return self.fixed - self.lending - self.evicted

    @property
    def tenants_worse(self) -> int:
        return sum(one.worse for one in self.tenants)

    @property
    def lending_recovered_share(self) -> float:
        """1 where there was nothing to recover."""
        return self.recovered / self.bound if self.bound else 1.0


def replay_jobs(jobs: Sequence[TraceJob], rules: Rules) -> JobsReplay:
    """
    Args:
        jobs: by submission, from 0 on.
    """
    owed = guarantees(jobs, rules.percentile)
    everybody = [Place(place) for place in range(len(jobs))]
    alone: dict[Place, Fate] = {}
    for tenant, gpus in owed.items():
        alone |= first_come(jobs, [place for place in everybody if jobs[place].tenant == tenant], gpus)
    pooled = first_come(jobs, everybody, sum(owed.values()))
    lent = lend(jobs, owed, rules)
    later = [lent.fates[place].ended_s - alone[place].ended_s for place in everybody]
    return JobsReplay(
        tenants=tuple(_tenant_replay(jobs, name, gpus, alone, lent.fates, rules) for name, gpus in owed.items()),
        fixed=_gpu_hours(jobs, alone),
        lending=_gpu_hours(jobs, dict(zip(everybody, lent.fates, strict=True))),
        pooled=_gpu_hours(jobs, pooled),
        evicted=lent.evicted_gpu_s / SECONDS_AN_HOUR,
        evictions=lent.evictions,
        longest_owner_wait_s=lent.longest_owner_wait_s,
        jobs_worse=sum(seconds > rules.reclaim_s for seconds in later),
        longest_worse_s=max(0, *later),
        churn_gpus=lent.churn_gpus,
        changed_limits_a_day=lent.changed_limits * SECONDS_A_DAY / max(1, *(fate.ended_s for fate in lent.fates)),
        decisions=lent.decisions,
    )


def _gpu_hours(jobs: Sequence[TraceJob], fates: Mapping[Place, Fate]) -> float:
    return sum(fate.waited_s * jobs[place].gpus for place, fate in fates.items()) / SECONDS_AN_HOUR


def _tenant_replay(
    jobs: Sequence[TraceJob],
    tenant: TenantName,
    guaranteed: int,
    alone: Mapping[Place, Fate],
    lent: Sequence[Fate],
    rules: Rules,
) -> TenantReplay:
    own = [place for place in alone if jobs[place].tenant == tenant]
    fixed = sum(alone[place].waited_s for place in own)
    lending = sum(lent[place].waited_s for place in own)
    return TenantReplay(
        tenant=tenant,
        guaranteed=guaranteed,
        jobs=len(own),
        fixed_s=fixed / len(own),
        lending_s=lending / len(own),
        worse=lending - fixed > rules.reclaim_s * len(own),
    )


# -- Guarantees --------------------------------------------------------------------------------------------------------


def guarantees(jobs: Sequence[TraceJob], percentile: int) -> Mapping[TenantName, int]:
    """The rule for a trace without quotas: GPUs that cover each tenant's demand (all its jobs as if each started when
    submitted) during `percentile` % of the time from the first submission to the last, and at least its largest job;
    in whole servers."""
    last = jobs[-1].submitted_s
    found: dict[TenantName, int] = {}
    for tenant in sorted({job.tenant for job in jobs}):
        own = [job for job in jobs if job.tenant == tenant]
        gpus = max(_covering(own, last, percentile), *(job.gpus for job in own), 1)
        found[tenant] = -(-gpus // GPUS_A_SERVER) * GPUS_A_SERVER
    return found


def _covering(own: Iterable[TraceJob], last: int, percentile: int) -> int:
    changes: Counter[int] = Counter()
    for job in own:
        changes[job.submitted_s] += job.gpus
        changes[job.submitted_s + job.run_s] -= job.gpus
    seconds: Counter[int] = Counter()
    demand = since = 0
    for moment in sorted(changes):
        until = min(moment, last)
        seconds[demand] += until - since
        demand, since = demand + changes[moment], until
    seconds[demand] += last - since
    covered = 0
    for gpus in sorted(seconds):
        covered += seconds[gpus]
        if covered * 100 >= last * percentile:
            return gpus
    return max(seconds)


# -- Queues ------------------------------------------------------------------------------------------------------------


class _Queue:
    """Waiting jobs by submission; one that gave way has its old place."""

    def __init__(self) -> None:
        self._by_gpus: dict[int, list[Place]] = {}

    def put(self, job: Place, gpus: int) -> None:
        insort(self._by_gpus.setdefault(gpus, []), job)

    def take(self, job: Place, gpus: int) -> None:
        jobs = self._by_gpus[gpus]
        del jobs[bisect_left(jobs, job)]

    def first(self, room: int) -> Place | None:
        """The first that needs no more than `room`. O(different sizes)."""
        return min((jobs[0] for gpus, jobs in self._by_gpus.items() if jobs and gpus <= room), default=None)

    def __iter__(self) -> Iterator[Place]:
        for jobs in self._by_gpus.values():
            yield from jobs

    def __bool__(self) -> bool:
        return any(self._by_gpus.values())


def first_come(jobs: Sequence[TraceJob], places: Sequence[Place], gpus: int) -> dict[Place, Fate]:
    """Jobs alone on their GPUs, each starting as soon as it is the first that fits.

    Args:
        places: of the jobs, by submission.
    """
    queue, ends, fates = _Queue(), list[tuple[int, Place]](), dict[Place, Fate]()
    arrivals = iter([*places, None])
    coming = next(arrivals)
    while coming is not None or ends:
        arrives = coming is not None and (not ends or jobs[coming].submitted_s < ends[0][0])
        if coming is not None and arrives:
            now = jobs[coming].submitted_s
            queue.put(coming, jobs[coming].gpus)
            coming = next(arrivals)
        else:
            now, ended = heappop(ends)
            gpus += jobs[ended].gpus
            if ends and ends[0][0] == now:
                continue
        if coming is not None and jobs[coming].submitted_s == now:
            continue
        while (job := queue.first(gpus)) is not None:
            queue.take(job, jobs[job].gpus)
            gpus -= jobs[job].gpus
            fates[job] = Fate(waited_s=now - jobs[job].submitted_s, ended_s=now + jobs[job].run_s)
            heappush(ends, (fates[job].ended_s, job))
    return fates


# -- Lending -----------------------------------------------------------------------------------------------------------


def lend(jobs: Sequence[TraceJob], owed: Mapping[TenantName, int], rules: Rules) -> Lent:
    """The replay with lending, on as many GPUs as are guaranteed."""
    lending = _Lending(jobs, owed, rules)
    lending.play()
    return lending.told()


@dataclass(slots=True)
class _On:
    """A job on its GPUs, or about to be."""

    service: ServiceClass
    held_s: int
    started_s: int


@dataclass(slots=True)
class _Lending:
    """Who runs and waits, from event to event. Everything else is by value."""

    jobs: Sequence[TraceJob]
    owed: Mapping[TenantName, int]
    rules: Rules
    _now: int = 0
    _free: int = field(init=False)
    _tree: Tree = field(init=False)
    _queues: dict[TenantName, _Queue] = field(init=False)
    _unused: dict[TenantName, int] = field(init=False)
    """GPUs of each guarantee that no guaranteed job holds."""
    _on: dict[Place, _On] = field(default_factory=dict)
    _left_s: list[int] = field(init=False)
    _since_s: list[int] = field(init=False)
    """When each job was put into its queue the last time."""
    _waited_s: list[int] = field(init=False)
    _ended_s: list[int] = field(init=False)
    _ends: list[tuple[int, int, Place]] = field(default_factory=list)
    """(when, number of the run, job); one whose run gave way stays and is passed over."""
    _runs: list[Run] = field(default_factory=list)
    _numbers: dict[Place, int] = field(default_factory=dict)
    _started: int = 0
    _changed: bool = False
    _due: dict[Place, int] = field(default_factory=dict)
    """Since when a waiting job fits its tenant's unused guarantee."""
    _loans: dict[TenantName, int] = field(default_factory=dict)
    _evicted: int = 0
    _evictions: int = 0
    _longest: int = 0
    _churn: int = 0
    _changed_limits: int = 0
    _decisions: int = 0

    def __post_init__(self) -> None:
        self._free = sum(self.owed.values())
        self._tree = Tree.of(Tenant(name=name, guaranteed=gpus) for name, gpus in self.owed.items())
        self._queues = {name: _Queue() for name in self.owed}
        self._unused = dict(self.owed)
        self._left_s = [job.run_s for job in self.jobs]
        self._since_s = [job.submitted_s for job in self.jobs]
        self._waited_s = [0] * len(self.jobs)
        self._ended_s = [0] * len(self.jobs)

    def play(self) -> None:
        arrivals = [(moment, list(same)) for moment, same in groupby(range(len(self.jobs)), self._submitted)]
        arrivals.reverse()
        while arrivals or self._on:
            tick = self._next_tick()
            moments = [arrivals[-1][0]] if arrivals else []
            if self._ends:
                moments.append(self._ends[0][0])
            self._now = min([*moments, *(() if tick is None else (tick,))])
            touched = self._end()
            if arrivals and arrivals[-1][0] == self._now:
                touched |= self._arrive(arrivals.pop()[1])
            self._serve_owners(touched)
            if tick == self._now:
                self._lend()
        self._count_loans()

    def told(self) -> Lent:
        return Lent(
            fates=tuple(
                Fate(waited_s=waited, ended_s=ended)
                for waited, ended in zip(self._waited_s, self._ended_s, strict=True)
            ),
            runs=tuple(self._runs),
            evicted_gpu_s=self._evicted,
            evictions=self._evictions,
            longest_owner_wait_s=self._longest,
            churn_gpus=self._churn,
            changed_limits=self._changed_limits,
            decisions=self._decisions,
        )

    # -- Events

    def _submitted(self, place: int) -> int:
        return self.jobs[place].submitted_s

    def _next_tick(self) -> int | None:
        if not self._changed or not (any(self._queues.values()) or any(self._loans.values())):
            return None
        return (self._now // self.rules.interval_s + 1) * self.rules.interval_s

    def _arrive(self, places: Iterable[int]) -> set[TenantName]:
        touched = set()
        for place in places:
            job = self.jobs[place]
            self._queues[job.tenant].put(Place(place), job.gpus)
            touched.add(job.tenant)
        self._changed = True
        return touched

    def _end(self) -> set[TenantName]:
        """Jobs that end now."""
        touched = set()
        while self._ends and self._ends[0][0] == self._now:
            _, number, place = heappop(self._ends)
            if self._numbers.get(place) == number:
                self._leave(place)
                self._ended_s[place] = self._now
                touched.add(self.jobs[place].tenant)
        return touched

    def _leave(self, place: Place) -> _On:
        job, run = self.jobs[place], self._on.pop(place)
        del self._numbers[place]
        self._free += job.gpus
        if run.service is ServiceClass.GUARANTEED:
            self._unused[job.tenant] += job.gpus
        self._runs.append(
            Run(
                job=place,
                service=run.service,
                held_s=run.held_s,
                started_s=min(run.started_s, self._now),
                ended_s=self._now,
            )
        )
        self._changed = True
        return run

    def _start(self, place: Place, service: ServiceClass, after_s: int) -> None:
        job, starts = self.jobs[place], self._now + after_s
        self._queues[job.tenant].take(place, job.gpus)
        self._free -= job.gpus
        if service is ServiceClass.GUARANTEED:
            self._unused[job.tenant] -= job.gpus
            self._longest = max(self._longest, starts - self._due.pop(place, self._now))
        self._on[place] = _On(service, self._now, starts)
        self._waited_s[place] += starts - self._since_s[place]
        self._started += 1
        self._numbers[place] = self._started
        heappush(self._ends, (starts + self._left_s[place], self._started, place))
        self._changed = True

    def _give_way(self, place: Place) -> TenantName:
        job, run = self.jobs[place], self._leave(place)
        ran = max(self._now - run.started_s, 0)
        self._waited_s[place] -= max(run.started_s - self._now, 0)  # it had not begun
        saved = ran - ran % self.rules.checkpoint_s if self.rules.checkpoint_s else 0
        self._left_s[place] -= saved
        self._evicted += (ran - saved) * job.gpus
        self._evictions += 1
        self._since_s[place] = self._now
        self._queues[job.tenant].put(place, job.gpus)
        return job.tenant

    # -- Decisions

    def _serve_owners(self, touched: set[TenantName]) -> None:
        """Start what fits unused guarantees, of tenants with a new job or with more of their guarantee unused."""
        while touched:
            tenant = min(touched)
            touched.discard(tenant)
            while (place := self._queues[tenant].first(self._unused[tenant])) is not None:
                self._due.setdefault(place, self._now)
                if self.jobs[place].gpus <= self._free:
                    self._start(place, ServiceClass.GUARANTEED, 0)
                    continue
                (decision,) = self._decide([self._pending(place, ServiceClass.GUARANTEED)])
                touched |= self._carry_out(decision)
                if decision.action is not Action.START:
                    break

    def _lend(self) -> None:
        waiting = sorted(place for queue in self._queues.values() for place in queue)
        self._changed = False
        if not waiting:  # there are loans, and some may have ended
            self._count_loans()
            return
        touched: set[TenantName] = set()
        for decision in self._decide([self._pending(place, None) for place in waiting]):
            touched |= self._carry_out(decision)
        self._serve_owners(touched)
        self._count_loans()

    def _decide(self, pending: Sequence[Pending]) -> Sequence[Decision]:
        self._decisions += 1
        running = [
            Running(
                id=JobKey(str(place)),
                tenant=self.jobs[place].tenant,
                gpus=self.jobs[place].gpus,
                service=run.service,
                age_s=max(self._now - run.started_s, 0),
            )
            for place, run in self._on.items()
        ]
        return decide(self._tree, sum(self.owed.values()), running, pending).decisions

    def _pending(self, place: Place, service: ServiceClass | None) -> Pending:
        job = self.jobs[place]
        return Pending(id=JobKey(str(place)), tenant=job.tenant, gpus=job.gpus, service=service)

    def _carry_out(self, decision: Decision) -> set[TenantName]:
        """Tenants whose jobs gave way."""
        if decision.action is not Action.START or decision.service is None:
            return set()
        touched = {self._give_way(Place(int(victim))) for victim in decision.preempts}
        self._start(Place(int(decision.job)), decision.service, self.rules.reclaim_s if decision.preempts else 0)
        return touched

    def _count_loans(self) -> None:
        in_use: Counter[TenantName] = Counter()
        for place in self._on:
            in_use[self.jobs[place].tenant] += self.jobs[place].gpus
        for name, gpus in self.owed.items():
            loan = max(0, in_use[name] - gpus)
            change = abs(loan - self._loans.get(name, 0))
            self._churn += change
            self._changed_limits += change > 0
            self._loans[name] = loan
