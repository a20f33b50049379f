"""Nodes that keep failing: as a risk for jobs, and as lemons that are kept from large ones. Pure.

Meta found 1.2 % of the nodes of RSC-1 to touch 13 % of a day's jobs, looking back 28 days (Kokolis et al., arXiv
2410.21680): what failed before fails again. Here the incidents of a node in that time are its failure rate.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from slurm_gpuaas.domain.incidents import Drain, Incident
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.node_life import LimitKind, NodeLimit

LOOKS_BACK: Final = timedelta(days=28)


def failure_risks(incidents: Iterable[Incident], now: datetime) -> Mapping[NodeName, float]:
    """Probability that a node fails within a day, by its incidents of the last 28 days that asked for a drain; nodes
    without any are left out. Failures are taken to come at random: 1 - exp(-incidents / 28)."""
    counts = Counter(
        incident.node
        for incident in incidents
        if incident.drain is not Drain.NO and now - incident.opened_at <= LOOKS_BACK
    )
    return {node: 1 - math.exp(-number / LOOKS_BACK.days) for node, number in counts.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class LemonSignals:
    """What was seen of one node in 28 days; Meta's signals by their names in the paper (section 4, same source)."""

    node: NodeName
    excl_jobid_count: int = 0
    """Jobs whose users exclude the node."""
    xid_cnt: int = 0
    """Distinct XID codes."""
    tickets: int = 0
    """RMA cases of the node and of cards in it."""
    out_count: int = 0
    """Times out of service for a fault."""
    multi_node_node_fails: int = 0
    """Jobs over several nodes that its faults cost."""
    single_node_node_fails: int = 0
    """Jobs on it alone that its faults cost."""
    single_node_runs: int | None = None
    """Runs of jobs on it alone; None where they were not counted."""

    @property
    def single_node_node_failure_rate(self) -> float | None:
        """None where nothing ran on it alone, as far as is known."""
        if not self.single_node_runs:
            return None
        return min(1.0, self.single_node_node_fails / self.single_node_runs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lemon:
    """A node's score, 0 to 100, and what it is made of, one sentence a signal, the heaviest first."""

    signals: LemonSignals
    score: float
    why: tuple[str, ...]

    @property
    def is_one(self) -> bool:
        return self.score >= LEMON_FROM


LEMON_FROM: Final = 40.0
"""No signal but the first alone makes a lemon."""
MOST_LEMONS: Final = 0.05
"""No larger part of the nodes is limited by itself: Meta took 1.2 % for lemons, so more means that something else is
wrong."""


def lemon_score(signals: LemonSignals) -> Lemon:
    """Adds up points a signal, each capped. The signals are Meta's; the paper gives no weights, these are ours, by what
    it says of them: failures of single-node jobs lead, for no other node can have caused them, and count more the
    higher their rate; exclusions by users correlate weakly."""
    rate = signals.single_node_node_failure_rate
    runs = "unknown" if signals.single_node_runs is None else f"{signals.single_node_runs}"
    share = "" if rate is None else f" ({100 * rate:.1f} %)"
    # Two failures of two runs say more than two of two thousand; without a count of runs they stand as they are.
    weight = 1.0 if rate is None else min(1.0, 0.5 + rate * 25)
    points = [
        (
            min(45.0, 15.0 * signals.single_node_node_fails * weight),
            f"single-node jobs that its faults ended: {signals.single_node_node_fails} of {runs}{share}",
        ),
        (min(25.0, 5.0 * signals.out_count), f"times out of service for a fault: {signals.out_count}"),
        (min(20.0, 10.0 * signals.tickets), f"RMA cases: {signals.tickets}"),
        (
            min(15.0, 5.0 * signals.multi_node_node_fails),
            f"multi-node jobs that its faults ended: {signals.multi_node_node_fails}",
        ),
        (min(15.0, 3.0 * signals.xid_cnt), f"different XIDs: {signals.xid_cnt}"),
        (min(5.0, 1.0 * signals.excl_jobid_count), f"jobs that exclude it: {signals.excl_jobid_count}"),
    ]
    heaviest = sorted((point for point in points if point[0] > 0), key=lambda point: -point[0])
    return Lemon(
        signals=signals,
        score=min(100.0, sum(points for points, _ in heaviest)),
        why=tuple(f"{words} (+{points:.0f})" for points, words in heaviest),
    )


def limits_wanted(
    lemons: Iterable[Lemon], known: Iterable[NodeLimit], nodes: int, largest_job: int, now: datetime
) -> tuple[list[NodeLimit], list[NodeName]]:
    """Limits to set, the worst lemons first, and to take back: a person's own are never touched."""
    found = {lemon.signals.node: lemon for lemon in lemons}
    set_before = {limit.node: limit.why for limit in known if limit.kind is LimitKind.LEMON}
    ours = {node for node, why in set_before.items() if why.startswith(BY_SCORE)}
    over = [node for node in sorted(ours) if node not in found or found[node].score < LEMON_FROM / 2]
    room = int(MOST_LEMONS * nodes) - len(ours) + len(over)
    worst = sorted((one for one in found.values() if one.is_one), key=lambda one: (-one.score, one.signals.node))
    new = [
        NodeLimit(
            node=one.signals.node,
            kind=LimitKind.LEMON,
            largest_job=largest_job,
            why=f"{BY_SCORE} {one.score:.0f}: {'; '.join(one.why)}"[:500],
            since=now,
        )
        for one in worst
        if one.signals.node not in set_before
    ]
    return new[: max(0, room)], over


BY_SCORE: Final = "Lemon score"
"""How the reason of a limit begins that was set by itself."""
