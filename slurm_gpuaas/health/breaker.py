"""The circuit breaker: when so many nodes leave service at once that it looks like our error, or like one that draining
does not mend, everything that acts on nodes stops until a person says go on. Detection goes on.

`judge` is pure. What has tripped is in the store, so a restart resets nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog

from slurm_gpuaas.domain.audit import AuditEntry
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.errors import NotFound
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.node_life import BreakerTrip
from slurm_gpuaas.store import Store

CLUSTER: Final = "cluster"
"""Scope of the whole cluster: one gpuaasd serves one cluster of one provider, so this is the provider's, too."""
DRAINED: Final = "node.drain"
"""Audit action of a node that we drained; the breaker counts its nodes."""
TRIPPED: Final = "breaker.trip"
RESET: Final = "breaker.reset"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerLimits:
    """Nodes that may leave service by themselves within `window`: so many (`drains`), so large a part of all nodes
    (`share`, percent), so many of one leaf group. At least one may, however small cluster and share are."""

    window: timedelta = timedelta(minutes=10)
    drains: int = 16
    share: float = 10.0
    per_leaf: int = 4

    def most(self, nodes: int) -> int:
        return max(1, min(self.drains, int(nodes * self.share / 100)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    allowed: tuple[NodeName, ...]
    trips: Mapping[str, str]
    """Scope to why, for scopes that trip now."""


def leaf_scope(leaf: str) -> str:
    return f"leaf {leaf}"


def judge(
    wanted: Iterable[NodeName],
    *,
    drained: Mapping[NodeName, datetime],
    reset_at: Mapping[str, datetime],
    tripped: Iterable[str],
    nodes: int,
    leaves: Mapping[NodeName, str],
    limits: BreakerLimits,
) -> Judged:
    """Which of the nodes may be drained now, in this order, and what trips because the next may not.

    Args:
        drained: nodes that we drained within the window, with the latest time.
        reset_at: when a person last reset a scope; drains before that do not count in it.
        tripped: scopes that have tripped and were not reset.
        nodes: of the cluster.
        leaves: leaf group of each node; a node without one is bounded by the cluster alone.
    """
    never = datetime.min.replace(tzinfo=next(iter(drained.values())).tzinfo) if drained else None
    counts: Counter[str] = Counter()
    for node, at in drained.items():
        scopes = [CLUSTER, *([leaf_scope(leaves[node])] if node in leaves else [])]
        counts.update(scope for scope in scopes if never is not None and at > reset_at.get(scope, never))
    most = limits.most(nodes)
    open_scopes, trips, allowed = set(tripped), dict[str, str](), list[NodeName]()
    minutes = limits.window.total_seconds() / 60
    for node in wanted:
        scope = leaf_scope(leaves[node]) if node in leaves else None
        if open_scopes & {CLUSTER, scope}:
            continue
        if node not in drained and counts[CLUSTER] >= most:
            by = f"{limits.drains}" if most == limits.drains else f"{most}, {limits.share:g} % of {nodes}"
            trips[CLUSTER] = f"{counts[CLUSTER]} nodes left service within {minutes:g} min (limit {by}); {node} is next"
            open_scopes.add(CLUSTER)
        elif scope and node not in drained and counts[scope] >= limits.per_leaf:
            trips[scope] = (
                f"{counts[scope]} nodes of the leaf group left service within {minutes:g} min "
                f"(limit {limits.per_leaf}); {node} is next"
            )
            open_scopes.add(scope)
        else:
            allowed.append(node)
            if node not in drained:
                counts.update([CLUSTER, *([scope] if scope else [])])
    return Judged(allowed=tuple(allowed), trips=trips)


class Breaker:
    """Args:
    leaves: leaf group of each node, as far as the fabric is known.
    """

    def __init__(
        self, *, store: Store, clock: Clock, limits: BreakerLimits, leaves: Callable[[], Mapping[NodeName, str]]
    ) -> None:
        self._store = store
        self._clock = clock
        self._limits = limits
        self._leaves = leaves

    def trips(self) -> Sequence[BreakerTrip]:
        """Those that hold, the newest first."""
        return tuple(trip for trip in self._store.breaker_trips() if trip.reset_at is None)

    def stops(self) -> Callable[[NodeName], str]:
        """As things stand: the scope that stops what acts on a node; empty when none does."""
        scopes = {trip.scope for trip in self.trips()}
        if not scopes:
            return lambda node: ""
        leaves = self._leaves()

        def scope(node: NodeName) -> str:
            if CLUSTER in scopes:
                return CLUSTER
            leaf = leaf_scope(leaves[node]) if node in leaves else ""
            return leaf if leaf in scopes else ""

        return scope

    def admit(self, wanted: Sequence[NodeName], *, nodes: int) -> frozenset[NodeName]:
        """Those of the nodes that may be drained now; what trips is written down."""
        if not wanted:
            return frozenset()
        now = self._clock.now()
        trips = self._store.breaker_trips()
        drained = self._store.audit.newest(action=DRAINED, since=now - self._limits.window, limit=10_000)
        judged = judge(
            wanted,
            drained={NodeName(entry.subject): entry.at for entry in reversed(drained)},
            reset_at={trip.scope: trip.reset_at for trip in reversed(trips) if trip.reset_at is not None},
            tripped={trip.scope for trip in trips if trip.reset_at is None},
            nodes=nodes,
            leaves=self._leaves(),
            limits=self._limits,
        )
        for scope, why in judged.trips.items():
            with self._store.transaction():
                self._store.add_breaker_trip(BreakerTrip(scope=scope, at=now, why=why))
                self._audit(TRIPPED, scope, why, "gpuaasd/health")
            log.error(TRIPPED, scope=scope, why=why)
        return frozenset(judged.allowed)

    def reset(self, scope: str, *, actor: str, reason: str) -> None:
        """
        Raises:
            NotFound: nothing is tripped in that scope.
        """
        with self._store.transaction():
            if not self._store.reset_breaker(scope, at=self._clock.now(), by=actor, reason=reason):
                raise NotFound(
                    f"The circuit breaker of {scope:.60} is not tripped.",
                    way_out="`gpuaas health breaker` shows those that are.",
                )
            self._audit(RESET, scope, reason, actor)

    def _audit(self, action: str, scope: str, reason: str, actor: str) -> None:
        self._store.audit.append(
            AuditEntry(at=self._clock.now(), actor=actor, action=action, subject=scope, reason=reason)
        )
