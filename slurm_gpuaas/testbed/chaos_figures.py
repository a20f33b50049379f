"""What a campaign has cost, and whether its ledger adds up. Pure.

The effective training time ratio of a job is Meta's (arXiv 2410.21680): its productive time by the time from its first
start to its last end. Productive is the progress that counts in the end; what was trained behind the last checkpoint
and lost, stood still or was spent on starting again is not, and neither is waiting in the queue between two runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from slurm_gpuaas.domain.incidents import TRANSITIONS, IncidentState

REQUEUES: Final = ("job.requeue", "job.recover")
"""Audit actions of a job that was requeued: plainly, or with its other nodes kept and a spare for the lost one."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a job in Slurm's accounting; seconds since 1970, any unit of time if it is the same everywhere."""

    started: float
    ended: float


@dataclass(frozen=True, kw_only=True)
class Effect:
    """Where the time of a job went, in seconds times GPUs when summed up by `total`.

    Args:
        productive: progress that counts.
        lost: time on GPUs that was not productive.
        waiting: between two runs.
    """

    productive: float
    lost: float
    waiting: float

    @property
    def ettr(self) -> float:
        """0 to 1; 1 for nothing at all."""
        wall = self.productive + self.lost + self.waiting
        return self.productive / wall if wall else 1.0


def effect_of(runs: Sequence[Run], *, productive: float) -> Effect:
    """Args:
    runs: of one job, in any order.
    productive: seconds of progress that the job had at its last end; for a complete job all that it was to do.
    """
    ordered = sorted(runs, key=lambda run: run.started)
    ran = sum(run.ended - run.started for run in ordered)
    waiting = sum(max(0.0, after.started - before.ended) for before, after in pairwise(ordered))
    kept = min(productive, ran)  # accounting knows whole seconds
    return Effect(productive=kept, lost=ran - kept, waiting=waiting)


def total(effects: Iterable[tuple[int, Effect]]) -> Effect:
    """The sum of jobs, each counted by its GPUs."""
    productive = lost = waiting = 0.0
    for gpus, effect in effects:
        productive += gpus * effect.productive
        lost += gpus * effect.lost
        waiting += gpus * effect.waiting
    return Effect(productive=productive, lost=lost, waiting=waiting)


def expected_ettr(*, nodes: int, per_node_day: float, cost: float) -> float:
    """Meta's estimate for a long job of `nodes` nodes to which every failure costs `cost` seconds: what was trained
    since the last checkpoint, and the time until it trains on. 0 when it never gets on; checkpoints cost nothing."""
    return max(0.0, 1 - nodes * per_node_day / 86_400 * cost)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One transition of an incident, as the store has it."""

    incident: str
    before: IncidentState | None
    after: IncidentState


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An entry of the audit trail about an incident. `job` of a requeue."""

    incident: str
    action: str
    job: int | None = None


def ledger_faults(
    states: Mapping[str, IncidentState],
    requeued: Mapping[str, Sequence[int]],
    steps: Iterable[Step],
    audit: Iterable[Entry],
    open_effects: int,
) -> list[str]:
    """Sentences about what does not add up; none when all does.

    Args:
        states: of every incident.
        requeued: jobs that each incident says it requeued.
        steps: oldest first.
        open_effects: effects in the journal that nobody knows the end of.
    """
    chains: dict[str, list[Step]] = defaultdict(list)
    for step in steps:
        chains[step.incident].append(step)
    told: dict[str, set[tuple[str, int | None]]] = defaultdict(set)
    for entry in audit:
        told[entry.incident].add((entry.action, entry.job))
    faults = [f"{open_effects} effects in the journal are open."] if open_effects else []
    faults += [f"{incident} has steps and is no incident." for incident in sorted(chains.keys() - states.keys())]
    for incident, state in states.items():
        chain = chains[incident]
        if not chain or chain[0].before is not None:
            faults.append(f"{incident} has no first step.")
            continue
        for before, after in pairwise(chain):
            if after.before is not before.after:
                faults.append(f"{incident} went on from {after.before}, it was {before.after}.")
        for step in chain[1:]:
            if step.before is None or step.after not in TRANSITIONS[step.before]:
                faults.append(f"{incident} may not go from {step.before} to {step.after}.")
        if chain[-1].after is not state:
            faults.append(f"{incident} is {state}, its last step led to {chain[-1].after}.")
        drained = any(step.after is IncidentState.DRAINING for step in chain)
        if drained and not any(action.startswith("node.") for action, _ in told[incident]):
            faults.append(f"{incident} drained its node and the audit trail does not say so.")
        faults += [
            f"{incident} requeued job {job} and the audit trail does not say so."
            for job in requeued.get(incident, ())
            if not told[incident] & {(action, job) for action in REQUEUES}
        ]
    return faults
