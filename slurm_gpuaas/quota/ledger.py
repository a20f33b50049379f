"""GPUs in use on a share while decisions are made: who holds them, what lend limits keep at home, and who stands
furthest over its fair share.

Each number is kept up with as jobs start and give way, a change costing little more than the depth of the tree, so that
thousands of waiting jobs among thousands of tenants are decided in seconds.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from slurm_gpuaas.quota.tree import FairShare, TenantName, Tree


class Ledger:
    """Use of the GPUs of one share, which begins with none in use.

    Attributes:
        free: GPUs; negative when more are in use than there are.
        in_use: of each tenant with all below it.
        own_use: of each tenant's own jobs.
    """

    def __init__(self, tree: Tree, capacity: int) -> None:
        self.tree = tree
        self.capacity = capacity
        self.free = capacity
        self.in_use = dict.fromkeys(tree.tenants, 0)
        self.own_use = dict.fromkeys(tree.tenants, 0)
        self._lends_all = all(one.lend_limit is None for one in tree.tenants.values())
        self._kept = dict.fromkeys(tree.tenants, 0)
        """Idle GPUs that a tenant with all below it keeps from everybody outside."""
        self._kept_below: dict[TenantName | None, int] = dict.fromkeys((None, *tree.tenants), 0)
        """Sums of them over the children."""
        if not self._lends_all:
            for name in tree.bottom_up:
                self._keep(name)

    def add(self, tenant: TenantName, gpus: int) -> None:
        """Count GPUs (fewer when negative) of a job of the tenant."""
        self.free -= gpus
        self.own_use[tenant] += gpus
        for name in self.tree.paths[tenant]:
            self.in_use[name] += gpus
            if not self._lends_all:
                self._keep(name)

    def _keep(self, name: TenantName) -> None:
        tenant, kept = self.tree.tenants[name], self._kept_below[name]
        if tenant.lend_limit is not None:
            kept = max(kept, self.tree.subtree[name] - self.in_use[name] - tenant.lend_limit, 0)
        self._kept_below[tenant.parent] += kept - self._kept[name]
        self._kept[name] = kept

    def kept_home(self, asker: TenantName, *, within: TenantName | None = None) -> int:
        """Idle GPUs that lend limits keep from `asker`: those of the whole share, or of `within`, which is above it or
        itself. What a parent keeps, it keeps for those below it, so the limits on the asker's own path do not count."""
        if self._lends_all:
            return 0
        kept = self._kept_below[asker]
        for name in self.tree.paths[asker]:
            if name == within:
                break
            kept += self._kept_below[self.tree.tenants[name].parent] - self._kept[name]
        return kept

    def available(self, asker: TenantName) -> int:
        """Free GPUs less those that lend limits keep for others; negative when more is in use than there is."""
        return self.free - self.kept_home(asker)

    def usable(self, name: TenantName, tenant: TenantName) -> int:
        """Of the guarantees of `name`, what `tenant` below it may use."""
        return self.tree.subtree[name] - self.kept_home(tenant, within=name)

    def headroom(self, name: TenantName) -> int | None:
        """GPUs below the tenant's ceiling; None without one."""
        ceiling = self.tree.ceiling(name)
        return None if ceiling is None else ceiling - self.in_use[name]

    def room(self, tenant: TenantName) -> int:
        """GPUs that a job of the tenant could have now; negative when a ceiling is passed or too few are there."""
        rooms = (self.headroom(name) for name in self.tree.paths[tenant])
        return min([self.available(tenant), *(room for room in rooms if room is not None)])


@dataclass(frozen=True, slots=True)
class Level:
    """Use and fair share of a tenant with all below it, or of its own jobs alone."""

    in_use: int
    share: int

    @property
    def over(self) -> bool:
        return self.in_use > self.share


class Ranking:
    """Who stands furthest over its fair share (use over share), level by level of the tree. A parent's own jobs count
    as one more child, which goes by the parent's name.

    Quotients are floats: counts below 10^7 are far from where two different ones would round to the same.
    """

    def __init__(self, ledger: Ledger, shares: Mapping[TenantName, FairShare]) -> None:
        tree = ledger.tree
        self._ledger = ledger
        self._shares = {name: share.gpus for name, share in shares.items()}
        self._own_shares = {
            name: self._shares[name] - sum(self._shares[child] for child in tree.below(name)) for name in tree.tenants
        }
        self._keys = dict.fromkeys(tree.tenants, 0.0)
        self._own_keys = dict.fromkeys(tree.tenants, 0.0)
        self._ranks: dict[TenantName | None, list[tuple[float, TenantName]]] = {
            name: sorted((0.0, child) for child in (*tree.below(name), *((name,) if name else ())))
            for name in (None, *tree.tenants)
        }

    def level(self, name: TenantName) -> Level:
        return Level(self._ledger.in_use[name], self._shares[name])

    def own_level(self, tenant: TenantName) -> Level:
        return Level(self._ledger.own_use[tenant], self._own_shares[tenant])

    def over_with_own(self, tenant: TenantName) -> bool:
        return self._ledger.own_use[tenant] > self._own_shares[tenant]

    def add(self, tenant: TenantName, gpus: int) -> None:
        """Count GPUs in the ledger, and rank anew whom that moves."""
        self._ledger.add(tenant, gpus)
        self._own_keys[tenant] = self._ranked(tenant, tenant, self._own_keys[tenant], self.own_level(tenant))
        for name in self._ledger.tree.paths[tenant]:
            parent = self._ledger.tree.tenants[name].parent
            self._keys[name] = self._ranked(parent, name, self._keys[name], self.level(name))

    def _ranked(self, parent: TenantName | None, name: TenantName, had: float, level: Level) -> float:
        # without a share any use is further over than a use of everything with a share of one
        without = self._ledger.capacity + level.in_use + 1.0
        over = level.in_use / level.share if level.share else level.in_use * without
        ranks = self._ranks[parent]
        del ranks[bisect_left(ranks, (had, name))]
        insort(ranks, (-over, name))
        return -over

    def furthest_first(self, parent: TenantName | None) -> Iterator[TenantName]:
        """Children of `parent` and, under its own name, its own jobs."""
        return (name for _, name in self._ranks[parent])
