"""What must hold for every scenario: random tenants, jobs and capacity, small enough to read when one fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from slurm_gpuaas.domain.jobs import ServiceClass
from slurm_gpuaas.quota.decide import Action, JobKey, Options, Pending, Ruling, Running, decide, most_ever, settled
from slurm_gpuaas.quota.ledger import Ledger
from slurm_gpuaas.quota.tree import Tenant, TenantName, Tree, fair_shares, honoured

NAMES = [TenantName(name) for name in "abcde"]
LIMITS = st.none() | st.integers(0, 12)


@st.composite
def trees(draw: st.DrawFn, *, flat: bool = False) -> Tree:
    names = NAMES[: draw(st.integers(1, len(NAMES)))]
    return Tree.of(
        Tenant(
            name=name,
            parent=None if flat else draw(st.sampled_from([None, *names[:place]])),
            guaranteed=draw(st.integers(0, 10)),
            borrow_limit=draw(LIMITS),
            lend_limit=draw(LIMITS),
            weight=Fraction(draw(st.integers(0, 4))),
            priority=draw(st.integers(0, 1)),
        )
        for place, name in enumerate(names)
    )


@st.composite
def worlds(draw: st.DrawFn, *, flat: bool = False) -> World:
    tree = draw(trees(flat=flat))
    capacity = tree.guaranteed + draw(st.integers(0, 10))
    pending = [
        Pending(
            id=JobKey(f"j{number:02}"),
            tenant=draw(st.sampled_from(sorted(tree.tenants))),
            gpus=draw(st.integers(1, 10)),
            preemptible=draw(st.booleans()) or draw(st.booleans()),
        )
        for number in range(draw(st.integers(1, 14)))
    ]
    return World(tree, capacity, pending)


class World:
    """A share that starts empty; whatever runs on it was let in by `decide`, so what must hold holds from the start."""

    def __init__(self, tree: Tree, capacity: int, pending: Sequence[Pending]) -> None:
        self.tree = tree
        self.capacity = capacity
        self.jobs = {job.id: job for job in pending}
        self.waiting = list(pending)
        self.running: dict[JobKey, Running] = {}
        self.clock = 0
        self.min_run_s = 0

    def __repr__(self) -> str:
        tenants = [one for _, one in sorted(self.tree.tenants.items())]
        return f"capacity {self.capacity}, {tenants}, jobs {list(self.jobs.values())}"

    def step(self, batch: Sequence[Pending]) -> Ruling:
        """Decide on these of the waiting jobs; those that gave way wait again."""
        self.clock += 1
        running = [replace(job, age_s=self.clock - job.age_s) for job in self.running.values()]
        ruling = decide(self.tree, self.capacity, running, batch, Options(min_run_s=self.min_run_s))
        for one in ruling.decisions:
            job = self.jobs[one.job]
            if one.action is Action.START:
                self.waiting.remove(job)
                for victim in one.preempts:
                    del self.running[victim]
                    self.waiting.append(self.jobs[victim])
                self.running[job.id] = Running(
                    id=job.id,
                    tenant=job.tenant,
                    gpus=job.gpus,
                    service=one.service,
                    age_s=self.clock,
                    preemptible=job.preemptible,
                )
        return ruling

    def in_use(self, service: ServiceClass | None = None) -> dict[TenantName, int]:
        used = dict.fromkeys(self.tree.tenants, 0)
        for job in self.running.values():
            if service in (None, job.service):
                used[job.tenant] += job.gpus
        return used


def kept_below(tree: Tree, name: TenantName, in_use: Mapping[TenantName, int], path: set[TenantName]) -> int:
    """Idle GPUs that lend limits below `name` and, off the asker's path, its own keep from the asker: by definition."""
    below = sum(kept_below(tree, child, in_use, path) for child in tree.below(name))
    limit = tree.tenants[name].lend_limit
    return below if limit is None or name in path else max(below, tree.subtree[name] - in_use[name] - limit, 0)


@settings(max_examples=400, deadline=None)
@given(worlds())
def test_capacity_and_every_ceiling_hold_after_each_decision(world: World) -> None:
    for job in list(world.waiting):
        world.step([job])
        used = world.tree.summed(world.in_use())
        assert sum(world.in_use().values()) <= world.capacity
        for name in world.tree.tenants:
            ceiling = world.tree.ceiling(name)
            assert ceiling is None or used[name] <= ceiling


@settings(max_examples=400, deadline=None)
@given(worlds())
def test_a_job_that_fits_its_guarantee_always_starts(world: World) -> None:
    for job in list(world.waiting):
        own = world.tree.tenants[job.tenant].guaranteed
        pools_before = world.in_use(ServiceClass.GUARANTEED)[job.tenant]
        burst_that_must_stay = any(
            one.service is ServiceClass.BURST and not one.preemptible for one in world.running.values()
        )
        assert not burst_that_must_stay  # what must not be preempted runs as guaranteed alone
        (decision,) = world.step([job]).decisions
        assert decision.action is not Action.WAIT or decision.guarantee_full, decision.why
        # a parent's own guarantee is open to all below it, so only a tenant without children has one to itself
        if not world.tree.below(job.tenant) and pools_before + job.gpus <= own:
            assert (decision.action, decision.service) == (Action.START, ServiceClass.GUARANTEED), decision.why


@settings(max_examples=400, deadline=None)
@given(worlds())
def test_who_gives_way_is_burst_of_a_tenant_beyond_its_guarantee(world: World) -> None:
    for job in list(world.waiting):
        running, used = dict(world.running), world.in_use()
        used[job.tenant] += job.gpus
        (decision,) = world.step([job]).decisions
        below = world.tree.summed(used)
        for victim in decision.preempts:
            gone = running[victim]
            assert gone.service is ServiceClass.BURST
            kept = kept_below(world.tree, gone.tenant, below, set(world.tree.paths[gone.tenant]))
            assert below[gone.tenant] > world.tree.subtree[gone.tenant] - kept
        freed = sum(running[victim].gpus for victim in decision.preempts)
        assert all(freed - running[victim].gpus < job.gpus for victim in decision.preempts)  # none unneeded


@settings(max_examples=400, deadline=None)
@given(worlds(), st.randoms(use_true_random=False))
def test_the_order_of_tenants_and_running_jobs_changes_nothing(world: World, random: object) -> None:
    for job in list(world.waiting)[:7]:
        world.step([job])
    tenants, running = list(world.tree.tenants.values()), list(world.running.values())
    first = decide(world.tree, world.capacity, running, world.waiting)
    random.shuffle(tenants)  # type: ignore[attr-defined]
    random.shuffle(running)  # type: ignore[attr-defined]
    assert decide(Tree.of(tenants), world.capacity, running, world.waiting) == first


@settings(max_examples=400, deadline=None)
@given(worlds())
def test_jobs_do_not_swap_for_ever(world: World) -> None:
    """Everybody who gave way asks again at once; soon nobody has to give way any more."""
    rounds = 0
    while any(one.preempts for one in world.step(list(world.waiting)).decisions):
        rounds += 1
        assert rounds < 60, "somebody gives way in every round"


@settings(max_examples=300, deadline=None)
@given(worlds(flat=True))
def test_burst_never_takes_what_lend_limits_keep_at_home(world: World) -> None:
    for job in list(world.waiting):
        world.step([job])
        used = world.in_use()
        kept = sum(
            max(0, one.guaranteed - used[name] - one.lend_limit)
            for name, one in world.tree.tenants.items()
            if one.lend_limit is not None
        )
        assert sum(used.values()) + kept <= world.capacity


@settings(max_examples=300, deadline=None)
@given(worlds())
def test_what_lend_limits_keep_at_home_is_kept_up_with(world: World) -> None:
    ledger = Ledger(world.tree, world.capacity)
    for job in list(world.waiting):
        world.step([job])
        for tenant, gpus in world.in_use().items():
            ledger.add(tenant, gpus - ledger.own_use[tenant])
        for name, path in world.tree.paths.items():
            asker = set(path)
            everywhere = sum(kept_below(world.tree, top, ledger.in_use, asker) for top in world.tree.below(None))
            assert ledger.kept_home(name) == everywhere
            for above in path:
                expected = kept_below(world.tree, above, ledger.in_use, asker)
                assert ledger.kept_home(name, within=above) == expected


@settings(max_examples=300, deadline=None)
@given(worlds(flat=True))
def test_between_borrowers_nobody_takes_from_one_that_then_has_less_of_its_share(world: World) -> None:
    for job in list(world.waiting):
        running, used = dict(world.running), world.in_use()
        asked = dict(used)
        asked[job.tenant] += job.gpus
        (decision,) = world.step([job]).decisions
        if not decision.preempts or decision.service is not ServiceClass.BURST:
            continue
        shares = {name: one.gpus for name, one in fair_shares(world.tree, world.capacity, asked).items()}
        assert used[job.tenant] < shares[job.tenant]
        left, taken = world.in_use(), world.in_use()[job.tenant]
        for giver in {running[victim].tenant for victim in decision.preempts}:
            assert used[giver] > shares[giver]
            assert taken * shares[giver] <= left[giver] * shares[job.tenant]


@settings(max_examples=300, deadline=None)
@given(worlds(), st.integers(0, 7))
def test_may_borrow_is_what_starts_as_burst_with_nobody_giving_way(world: World, started: int) -> None:
    world.step(list(world.waiting)[:started])
    standings = world.step([]).standings
    for name in world.tree.tenants:
        may = standings[name].may_borrow
        for gpus in (may, may + 1):
            job = Pending(id=JobKey("new"), tenant=name, gpus=gpus, service=ServiceClass.BURST)
            (decision,) = decide(world.tree, world.capacity, world.running.values(), [job]).decisions
            assert gpus == 0 or (decision.action is Action.START and not decision.preempts) is (gpus == may)


@settings(max_examples=300, deadline=None)
@given(trees(), st.integers(0, 60), st.booleans())
def test_the_largest_that_could_run_runs_on_an_empty_share_and_one_more_is_refused(
    tree: Tree, lost: int, preemptible: bool
) -> None:
    capacity = max(0, tree.guaranteed + 10 - lost)
    for name in tree.tenants:
        asks = Pending(id=JobKey("new"), tenant=name, gpus=1, preemptible=preemptible)
        most = most_ever(Ledger(tree, capacity), asks)
        (larger,) = decide(tree, capacity, [], [replace(asks, gpus=most + 1)]).decisions
        assert larger.action is Action.REFUSE
        assert str(most) in larger.why
        if most and tree.guaranteed <= capacity:  # else it may have to wait for nodes
            (largest,) = decide(tree, capacity, [], [replace(asks, gpus=most)]).decisions
            assert largest.action is Action.START


@settings(max_examples=300, deadline=None)
@given(worlds(), st.integers(1, 20))
def test_a_share_that_loses_gpus_starts_nothing_beyond_what_is_left(world: World, lost: int) -> None:
    half = len(world.waiting) // 2
    world.step(list(world.waiting)[:half])
    world.capacity = max(0, world.capacity - lost)
    for job in list(world.waiting):
        before = sum(world.in_use().values())
        (decision,) = world.step([job]).decisions
        after = sum(world.in_use().values())
        assert after <= world.capacity or (after == before and not decision.preempts)


@settings(max_examples=300, deadline=None)
@given(worlds(), st.integers(1, 8))
def test_nobody_gives_way_before_the_minimum_run_time(world: World, min_run_s: int) -> None:
    world.min_run_s = min_run_s
    for job in list(world.waiting):
        ages = {one.id: world.clock + 1 - one.age_s for one in world.running.values()}
        (decision,) = world.step([job]).decisions
        assert all(ages[victim] >= min_run_s for victim in decision.preempts)


@settings(max_examples=300, deadline=None)
@given(worlds())
def test_fair_shares_give_away_what_is_there_and_no_more(world: World) -> None:
    asked = dict.fromkeys(world.tree.tenants, 0)
    for job in world.waiting:
        asked[job.tenant] += job.gpus
    shares = fair_shares(world.tree, world.capacity, asked)
    total = world.tree.summed(asked)
    tops = world.tree.below(None)
    assert sum(shares[name].gpus for name in tops) <= world.capacity
    for name, tenant in world.tree.tenants.items():
        ceiling = world.tree.ceiling(name)
        assert shares[name].gpus <= total[name]
        assert ceiling is None or shares[name].gpus <= ceiling
        assert shares[name].gpus >= min(tenant.guaranteed, asked[name])


@settings(max_examples=200, deadline=None)
@given(trees(), st.integers(0, 60))
def test_what_cannot_be_kept_in_full_is_shorted_from_the_lowest_priority(tree: Tree, capacity: int) -> None:
    kept, short = honoured(tree, capacity)
    assert kept.guaranteed == min(tree.guaranteed, capacity)
    hit = {tree.tenants[one.tenant].priority for one in short}
    for name, tenant in tree.tenants.items():
        if hit and tenant.priority < max(hit):
            assert kept.tenants[name].guaranteed == 0


def test_settled_lets_the_oldest_fill_the_guarantee_first() -> None:
    tree = Tree.of([Tenant(name=NAMES[0], guaranteed=8)])
    jobs = [Running(id=JobKey(str(age)), tenant=NAMES[0], gpus=8, age_s=age) for age in (5, 50)]
    assert {job.id: job.service for job in settled(tree, jobs)} == {
        "50": ServiceClass.GUARANTEED,
        "5": ServiceClass.BURST,
    }
