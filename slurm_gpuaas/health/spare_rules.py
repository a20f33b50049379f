"""How many spare nodes a partition needs, and which nodes they are. Pure.

How many: failures come at random, so the nodes that are out at any moment are Poisson distributed around failures per
node-day x nodes x days to repair; enough spares are those that cover that 99 % of the time. Rate and repair time are
measured, and pulled towards published figures while there is little history (a conjugate prior: `PRIOR_NODE_DAYS` of
node-days and `PRIOR_REPAIRS` repairs are counted as if they had been seen). See docs/design/0020.

Which: every leaf group in which multi-node jobs run has one before any has two; the one with the most of such jobs
comes first. A spare stays one as long as it can serve.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from slurm_gpuaas.domain.incidents import Drain, Incident
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.health.recovery_rules import NOWHERE, Place

LOOKS_BACK: Final = timedelta(days=90)
PRIOR_RATE: Final = 3.8 / 1000
"""Failures per node-day: Llama 3, 419 unexpected interruptions of 2,048 nodes in 54 days (arXiv 2407.21783)."""
PRIOR_NODE_DAYS: Final = 1000.0
PRIOR_REPAIR: Final = timedelta(hours=24)
PRIOR_REPAIRS: Final = 5
COVERED: Final = 0.99
_DRAINING: Final = frozenset({Drain.WHEN_IDLE, Drain.NOW})


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """How many spares `nodes` nodes need, and why.

    Args:
        failures: seen in `node_days` node-days.
        rate: failures per node-day, with the prior.
        repairs: seen; `repair` is their mean, with the prior.
        out: nodes that are out on average.
        spares: cover that `COVERED` of the time.
    """

    nodes: int
    failures: int
    node_days: float
    rate: float
    repairs: int
    repair: timedelta
    out: float
    spares: int

    @property
    def why(self) -> str:
        hours = self.repair.total_seconds() / 3600
        return (
            f"{self.nodes} nodes x {1000 * self.rate:.2g} failures per 1,000 node-days ({self.failures} seen in "
            f"{self.node_days:.0f}) x {hours:.1f} h to repair ({self.repairs} seen) = {self.out:.2g} nodes out on "
            f"average; {self.spares} cover {COVERED:.0%} of the time."
        )


def need(nodes: int, fleet: int, incidents: Iterable[Incident], observed: timedelta) -> Need:
    """
    Args:
        nodes: that spares are wanted for.
        fleet: nodes that the incidents are of.
        incidents: of the time `observed`, at most `LOOKS_BACK`, up to now.
    """
    failed = [one for one in incidents if one.drain in _DRAINING]
    repairs = [one.closed_at - one.opened_at for one in failed if one.closed_at is not None]
    node_days = fleet * observed / timedelta(days=1)
    rate = (PRIOR_RATE * PRIOR_NODE_DAYS + len(failed)) / (PRIOR_NODE_DAYS + node_days)
    repair = (PRIOR_REPAIR * PRIOR_REPAIRS + sum(repairs, timedelta(0))) / (PRIOR_REPAIRS + len(repairs))
    out = rate * nodes * (repair / timedelta(days=1))
    return Need(
        nodes=nodes,
        failures=len(failed),
        node_days=node_days,
        rate=rate,
        repairs=len(repairs),
        repair=repair,
        out=out,
        spares=poisson_quantile(out, COVERED),
    )


def poisson_quantile(mean: float, covered: float) -> int:
    """The least number that is not passed with that probability; O(answer). Sums logarithms: exact at any mean."""
    total, number = math.exp(-mean), 0
    while total < covered and number < 10 * mean + 100:
        number += 1
        total += math.exp(number * math.log(mean) - mean - math.lgamma(number + 1))
    return number


@dataclass(frozen=True, slots=True, kw_only=True)
class Standby:
    """A node as a spare, or one that could be.

    Args:
        serves: usable, and nothing runs on it but what may be preempted.
        frees_s: seconds until what else runs on it ends by its time limit; 0 where it serves, infinite if unknown.
        loss: GPU-seconds of preemptible jobs on it.
    """

    node: NodeName
    place: Place
    serves: bool
    frees_s: float = 0.0
    loss: int = 0

    @property
    def order(self) -> tuple[float, int, NodeName]:
        return self.frees_s, self.loss, self.node


def choose(
    wanted: int,
    *,
    current: Sequence[Standby],
    others: Sequence[Standby],
    used: Mapping[Place, int],
    gone: Iterable[Place] = (),
) -> tuple[NodeName, ...]:
    """The spares from now on, in order of names.

    Args:
        current: spares of now that are usable.
        others: usable nodes that are none yet.
        used: nodes of each leaf group that multi-node jobs run on.
        gone: leaf groups of spares that were used or broke since: these are served first.
    """
    kept: dict[Place, list[Standby]] = defaultdict(list)
    for one in current:
        if one.serves:
            kept[one.place].append(one)
    waiting: dict[Place, list[Standby]] = defaultdict(list)
    for one in sorted([*others, *(one for one in current if not one.serves)], key=lambda one: one.order):
        waiting[one.place].append(one)
    count = sum(map(len, kept.values()))
    owed = Counter(gone)
    while count > wanted:  # from where there are most, and where they are least needed
        place = min(kept, key=lambda place: (-len(kept[place]), used.get(place, 0), place))
        kept[place].remove(max(kept[place], key=lambda one: one.order))
        if not kept[place]:
            del kept[place]
        count -= 1
    while count < wanted:
        open_places = [place for place in waiting if waiting[place]]
        if not open_places:
            break
        # a node that serves at once before any that has to be waited for
        place = min(
            open_places,
            key=lambda place: (
                not waiting[place][0].serves,
                owed[place] <= 0,
                len(kept[place]),
                -used.get(place, 0),
                waiting[place][0].order,
            ),
        )
        kept[place].append(waiting[place].pop(0))
        owed[place] -= 1
        count += 1
    return tuple(sorted(one.node for group in kept.values() for one in group))


def place_of(node: NodeName, places: Mapping[NodeName, Place]) -> Place:
    return places.get(node, NOWHERE)
