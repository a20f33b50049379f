"""The tenants of one share of a pool, for one GPU model: who is promised what, and each one's fair share. Pure.

Tenants form a tree (share, organisation, project). Each has a guarantee of its own; what a parent guarantees comes on
top of its children's and is open to all below it. Idle guarantees flow upwards as far as lend limits let them, unmet
wants flow upwards as far as borrow limits let them, and on every level what is idle is divided among the wants
(`division`), the nearest first: siblings before strangers.

Three values of a limit are kept apart everywhere: None (no bound), 0 (nothing), a number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Final, NewType

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.quota.division import ONE, Claim, divide, remembering

TenantName = NewType("TenantName", str)

OWN: Final = ""
"""In a division below a parent: the claim of the parent's own jobs. No tenant has this name."""
DEEPEST: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """One node of the tree. All counts are GPUs.

    Attributes:
        guaranteed: its own, in addition to its children's.
        borrow_limit: how far its use (its children's included) may pass the guarantees below and of itself.
        lend_limit: how much of its idle guarantee others may use.
        weight: its part of idle GPUs among siblings of equal priority.
        priority: higher is served first of idle GPUs, and shorted last.
        past_use: GPU-hours, decayed to this moment; counts with `Memory` alone.
    """

    name: TenantName
    parent: TenantName | None = None
    guaranteed: int = 0
    borrow_limit: int | None = None
    lend_limit: int | None = None
    weight: Fraction = ONE
    priority: int = 0
    past_use: Fraction = Fraction(0)


@dataclass(frozen=True, slots=True)
class FairShare:
    """What a tenant (its children included) should have now: of its guarantee, and of what others leave idle. Both are
    bounded by what it has running and asks for."""

    guarantee: int
    surplus: int

    @property
    def gpus(self) -> int:
        return self.guarantee + self.surplus


@dataclass(frozen=True, slots=True, kw_only=True)
class Short:
    """A guarantee that cannot be kept in full: the share has too few healthy GPUs."""

    tenant: TenantName
    guaranteed: int
    honoured: int


@dataclass(frozen=True)
class Tree:
    """Tenants by name and their places. Build it with `Tree.of`.

    Attributes:
        children: by parent, each list sorted by name; None is the share itself.
        bottom_up: children before parents.
        subtree: guarantee of a tenant with all below it.
    """

    tenants: Mapping[TenantName, Tenant]
    children: Mapping[TenantName | None, tuple[TenantName, ...]]
    bottom_up: tuple[TenantName, ...]
    paths: Mapping[TenantName, tuple[TenantName, ...]] = field(repr=False)
    """From the tenant itself up to below the share."""
    subtree: Mapping[TenantName, int] = field(repr=False)

    @classmethod
    def of(cls, tenants: Iterable[Tenant]) -> Tree:
        """
        Raises:
            InvalidInput: a name stands twice, a parent is missing, or parents go round in a ring.
        """
        by_name: dict[TenantName, Tenant] = {}
        for tenant in sorted(tenants, key=lambda one: one.name):
            if tenant.name in by_name:
                raise InvalidInput(f"Tenant {tenant.name!r:.60} stands twice.", way_out="Leave one of them.")
            by_name[tenant.name] = tenant
        paths = {name: _path(by_name, name) for name in by_name}
        children: dict[TenantName | None, list[TenantName]] = {None: []}
        for name, tenant in by_name.items():
            children.setdefault(tenant.parent, []).append(name)
        bottom_up = tuple(sorted(by_name, key=lambda name: (-len(paths[name]), name)))
        subtree = {name: tenant.guaranteed for name, tenant in by_name.items()}
        for name in bottom_up:
            if (parent := by_name[name].parent) is not None:
                subtree[parent] += subtree[name]
        return cls(
            tenants=by_name,
            children={name: tuple(below) for name, below in children.items()},
            bottom_up=bottom_up,
            paths=paths,
            subtree=subtree,
        )

    @property
    def guaranteed(self) -> int:
        """The sum of all guarantees."""
        return sum(tenant.guaranteed for tenant in self.tenants.values())

    def below(self, name: TenantName | None) -> tuple[TenantName, ...]:
        return self.children.get(name, ())

    def summed(self, own: Mapping[TenantName, int]) -> dict[TenantName, int]:
        """Each tenant's count with those of all below it."""
        total = {name: own.get(name, 0) for name in self.tenants}
        for name in self.bottom_up:
            if (parent := self.tenants[name].parent) is not None:
                total[parent] += total[name]
        return total

    def ceiling(self, name: TenantName) -> int | None:
        """What the tenant with all below it may use at most: guarantees + borrow limit."""
        limit = self.tenants[name].borrow_limit
        return None if limit is None else self.subtree[name] + limit


def _path(tenants: Mapping[TenantName, Tenant], name: TenantName) -> tuple[TenantName, ...]:
    path: list[TenantName] = []
    here: TenantName | None = name
    while here is not None:
        if here not in tenants:
            raise InvalidInput(
                f"Tenant {path[-1]!r:.60} has the parent {here!r:.60}, which is not there.", way_out="Declare it."
            )
        if here in path or len(path) == DEEPEST:
            raise InvalidInput(
                f"Tenant {name!r:.60} has no place: its parents go round, or more than {DEEPEST} deep.",
                way_out="Correct its parents.",
            )
        path.append(here)
        here = tenants[here].parent
    return tuple(path)


# -- Fewer GPUs than guarantees ----------------------------------------------------------------------------------------


def honoured(tree: Tree, capacity: int, *, unit: int = 1) -> tuple[Tree, tuple[Short, ...]]:
    """The tree with the guarantees that `capacity` can keep, and those it cannot keep in full.

    Shorted is who has the lowest priority; within one priority all in proportion to their guarantees, the odd unit from
    the largest fraction, then by name.

    Args:
        unit: GPUs that are taken at a time. With whole servers (8), losing one costs one tenant 8 GPUs, instead of one
            GPU, and with it a whole-node job, for each of eight tenants.
    """
    lacking = -(-(tree.guaranteed - capacity) // unit)
    if lacking <= 0:
        return tree, ()
    promised = [one for one in tree.tenants.values() if one.guaranteed]
    losses = divide(
        lacking,
        (
            Claim(
                name=one.name,
                asked=-(-one.guaranteed // unit),
                weight=Fraction(one.guaranteed),
                priority=-one.priority,
            )
            for one in promised
        ),
    )
    kept = {one.name: max(0, one.guaranteed - losses[one.name] * unit) for one in promised}
    short = tuple(
        Short(tenant=one.name, guaranteed=one.guaranteed, honoured=kept[one.name])
        for one in promised
        if losses[one.name]
    )
    return Tree.of(replace(one, guaranteed=kept.get(one.name, 0)) for one in tree.tenants.values()), short


# -- Fair shares -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Flow:
    """What one tenant with all below it takes and passes upwards.

    Attributes:
        own: of its own guarantee, by its own jobs.
        pool: idle here, for the wants of its own jobs and of its children.
        wants: of its own jobs, beyond its guarantee.
        lends: upwards, of `pool`.
        lacks: upwards.
    """

    own: int
    pool: int
    wants: int
    lends: int
    lacks: int


def fair_shares(
    tree: Tree, capacity: int, asked: Mapping[TenantName, int], *, half_life_h: Fraction | None = None
) -> Mapping[TenantName, FairShare]:
    """Each tenant's fair share, its children's included.

    Args:
        tree: its guarantees fit `capacity` (see `honoured`).
        asked: GPUs of each tenant's own jobs, running and waiting.
        half_life_h: of the memory of past use; None forgets it.

    O(tenants x log tenants).
    """
    flows: dict[TenantName, _Flow] = {}
    for name in tree.bottom_up:
        flows[name] = _flow(tree, name, asked.get(name, 0), flows)
    tops = tree.below(None)
    idle = capacity - sum(tree.subtree[top] for top in tops) + sum(flows[top].lends for top in tops)
    weights = _Weights(tree, capacity, half_life_h)
    shares: dict[TenantName, FairShare] = {}
    _share_out(tree, None, idle, 0, flows, weights, shares)
    for name in tree.bottom_up:
        if (parent := tree.tenants[name].parent) is not None:
            above, below = shares[parent], shares[name]
            shares[parent] = FairShare(above.guarantee + below.guarantee, above.surplus + below.surplus)
    return shares


def _flow(tree: Tree, name: TenantName, asked: int, flows: Mapping[TenantName, _Flow]) -> _Flow:
    tenant = tree.tenants[name]
    below = [flows[child] for child in tree.below(name)]
    own = min(asked, tenant.guaranteed)
    pool = tenant.guaranteed - own + sum(child.lends for child in below)
    wants = asked - own
    lacking = wants + sum(child.lacks for child in below)
    inside = min(pool, lacking)
    return _Flow(
        own=own,
        pool=pool,
        wants=wants,
        lends=bounded(pool - inside, tenant.lend_limit),
        lacks=bounded(lacking - inside, tenant.borrow_limit),
    )


def _share_out(
    tree: Tree,
    parent: TenantName | None,
    idle: int,
    wants: int,
    flows: Mapping[TenantName, _Flow],
    weights: _Weights,
    shares: dict[TenantName, FairShare],
) -> None:
    """Divide what is idle below `parent`; own shares only, the sums come later."""
    below = tree.below(parent)
    parts = divide(
        idle,
        [
            *([Claim(name=OWN, asked=wants)] if wants else []),
            *(
                Claim(name=name, asked=flows[name].lacks, weight=weight, priority=tree.tenants[name].priority)
                for name, weight in weights.among(below).items()
            ),
        ],
    )
    if parent is not None:
        shares[parent] = FairShare(flows[parent].own, parts.get(OWN, 0))
    for name in below:
        flow = flows[name]
        _share_out(tree, name, flow.pool + parts[name], flow.wants, flows, weights, shares)


@dataclass(frozen=True, slots=True)
class _Weights:
    tree: Tree
    capacity: int
    half_life_h: Fraction | None

    def among(self, siblings: Iterable[TenantName]) -> Mapping[TenantName, Fraction]:
        tenants = [self.tree.tenants[name] for name in siblings]
        weights: dict[str, Fraction] = {one.name: one.weight for one in tenants}
        if self.half_life_h is None or not tenants:
            changed: Mapping[str, Fraction] = weights
        else:
            used = self.tree.tenants
            changed = remembering(
                weights,
                {one.name: _past_use(self.tree, one.name, used) for one in tenants},
                capacity=self.capacity,
                half_life_h=self.half_life_h,
            )
        return {one.name: changed[one.name] for one in tenants}


def _past_use(tree: Tree, name: TenantName, tenants: Mapping[TenantName, Tenant]) -> Fraction:
    return tenants[name].past_use + sum((_past_use(tree, child, tenants) for child in tree.below(name)), Fraction(0))


def bounded(count: int, limit: int | None) -> int:
    """`count`, or the limit where there is one and it is lower."""
    return count if limit is None else min(count, limit)


# -- What is lent ----------------------------------------------------------------------------------------------------


def lendings(tree: Tree, capacity: int, in_use: Mapping[TenantName, int]) -> Mapping[TenantName, int]:
    """GPUs of each tenant's idle guarantee that others use now, its children's included.

    What nobody is guaranteed is used first; then each lends in proportion to what it has idle to lend.
    """
    lent = dict.fromkeys(tree.tenants, 0)
    _lent_below(tree, None, capacity, capacity, in_use, lent)
    return lent


def _lent_below(
    tree: Tree,
    parent: TenantName | None,
    own: int,
    total: int,
    in_use: Mapping[TenantName, int],
    lent: dict[TenantName, int],
) -> None:
    below = tree.below(parent)
    free = (total - sum(tree.subtree[name] for name in below)) if parent is None else own
    borrowed = sum(max(0, in_use[name] - tree.subtree[name]) for name in below)
    idle = {name: max(0, tree.subtree[name] - in_use[name]) for name in below}
    outwards = 0 if parent is None else lent[parent]
    claims = [
        Claim(name=name, asked=bounded(idle[name], tree.tenants[name].lend_limit), weight=Fraction(idle[name]))
        for name in below
        if idle[name]
    ]
    given = divide(max(0, borrowed + outwards - max(free, 0)), claims)
    for name in below:
        lent[name] = given.get(name, 0)
        _lent_below(tree, name, tree.tenants[name].guaranteed, total, in_use, lent)
