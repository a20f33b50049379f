"""The rules of a node's life after it was drained: which rung of the repair ladder, which tests, when it is back. Pure.

`next_step` looks at an incident, at what is seen of its node and at what the site allows, and says where the incident
goes next. `life.LifeController` does what each state asks for and carries the steps out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final

from slurm_gpuaas.domain.incidents import (
    TRANSITIONS,
    Incident,
    IncidentState,
    Remedy,
    RepairAttempt,
    RepairOutcome,
    Verification,
)
from slurm_gpuaas.domain.nodes import Node, NodeBase
from slurm_gpuaas.health.catalogue import FaultClass
from slurm_gpuaas.health.incidents import is_reason_of

_ALL: Final = (Remedy.RESET, Remedy.REBOOT, Remedy.REPLACE)
LADDERS: Final[Mapping[str, tuple[Remedy, ...]]] = MappingProxyType(
    {
        FaultClass.HW_REBOOT: (Remedy.REBOOT, Remedy.REPLACE),
        FaultClass.FOLLOW_154: (Remedy.REBOOT, Remedy.REPLACE),
        FaultClass.SXID_FATAL: (Remedy.REBOOT, Remedy.REPLACE),
        FaultClass.HW_SUPPORT: (Remedy.REPLACE,),
    }
)
"""Rungs by fault class, first to last; other classes begin with a reset of the GPUs. NVIDIA's immediate actions."""

REBOOTS_WITHIN: Final = timedelta(days=1)

QUICK, DCGM, PAIR = "quick", "dcgm", "pair"
_OVER_LINKS: Final = frozenset({FaultClass.NVLINK.value, FaultClass.SXID_FATAL.value, FaultClass.SXID_NONFATAL.value})


@dataclass(frozen=True, slots=True, kw_only=True)
class LifePlan:
    """What the site allows. Without remedies and tests a drained node waits for a person.

    Args:
        remedies: those that somebody here can apply; REPLACE without one means that people are told by the alert alone.
        reboots_a_day: a node that has had so many is replaced.
        tests: names of the tests that there are.
        probation: how long a node takes small jobs only; None = it is back at once.
    """

    remedies: frozenset[Remedy] = frozenset()
    reboots_a_day: int = 3
    tests: frozenset[str] = frozenset()
    probation: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What is known now. `fault_since` says that a draining fault was seen since the verification, or the probation,
    began; `reboots` counts those of the node within a day; `repair` is how far the attempt under way is."""

    node: Node | None
    repair: RepairOutcome | None = None
    repair_detail: str = ""
    verification: bool | None = None
    verification_detail: str = ""
    fault_since: bool = False
    reboots: int = 0
    on_probation_since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Where an incident goes and why; `remedy` is what REPAIRING begins with, `tests` what VERIFYING does."""

    after: IncidentState
    cause: str
    remedy: Remedy | None = None
    tests: tuple[str, ...] = ()


def next_step(incident: Incident, seen: Seen, plan: LifePlan, now: datetime) -> Step | None:
    """The next step of a node that was drained for the incident; None = it stays where it is."""
    step = _step(incident, seen, plan, now)
    assert step is None or step.after in TRANSITIONS[incident.state], (incident.state, step)
    return step


def _step(incident: Incident, seen: Seen, plan: LifePlan, now: datetime) -> Step | None:
    match incident.state:
        case IncidentState.DRAINED:
            if (
                plan.remedies
                and seen.node is not None
                and at_rest(seen.node)
                and is_reason_of(seen.node.reason, incident)
            ):
                return _rung(incident, seen, plan)
        case IncidentState.REPAIRING:
            return _repaired(incident, seen, plan)
        case IncidentState.VERIFYING:
            return _verified(seen, plan)
        case IncidentState.PROBATION:
            if not seen.fault_since and _over(seen.on_probation_since, plan.probation, now):
                return Step(after=IncidentState.CLOSED, cause="Probation is over without a new fault.")
    return None


def at_rest(node: Node) -> bool:
    """Out of service with nothing running on it."""
    return node.out_by_hand and node.base in {NodeBase.IDLE, NodeBase.DOWN}


def ladder(incident: Incident) -> tuple[Remedy, ...]:
    return LADDERS.get(incident.fault_class, _ALL)


def reboots(attempts: Iterable[RepairAttempt], now: datetime) -> int:
    """How many of the attempts were reboots within a day."""
    return sum(a.remedy is Remedy.REBOOT and now - a.begun_at < REBOOTS_WITHIN for a in attempts)


def tests_for(incident: Incident, remedy: Remedy | None, known: frozenset[str]) -> tuple[str, ...]:
    """Scaled to the fault: a quick check always; DCGM after a reboot; a pair with a good node where links or a new part
    are in question, or where an earlier verification failed. None = a person says that the node is mended."""
    wanted = [QUICK]
    if remedy is not Remedy.RESET:
        wanted.append(DCGM)
    again = sum(attempt.outcome is RepairOutcome.DONE for attempt in incident.attempts) > 1
    if remedy in {Remedy.REPLACE, None} or again or incident.fault_class in _OVER_LINKS:
        wanted.append(PAIR)
    standard = {QUICK, DCGM, PAIR}
    return tuple(test for test in (*wanted, *sorted(known - standard)) if test in known)


def new_verification(step: Step, now: datetime) -> Verification:
    return Verification(tests=step.tests, begun_at=now)


def _rung(incident: Incident, seen: Seen, plan: LifePlan) -> Step:
    tried = {attempt.remedy for attempt in incident.attempts}
    last = incident.attempts[-1] if incident.attempts else None
    why = f"{last.remedy} did not help ({last.outcome})" if last else f"class {incident.fault_class}"
    for remedy in ladder(incident):
        if remedy in tried or remedy not in plan.remedies:
            continue
        if remedy is Remedy.REBOOT and seen.reboots >= plan.reboots_a_day:
            why = f"{seen.reboots} reboots within a day, limit {plan.reboots_a_day}"
            continue
        return Step(after=IncidentState.REPAIRING, cause=f"Next rung is {remedy}: {why}.", remedy=remedy)
    return Step(after=IncidentState.RMA, cause=f"No rung is left: {why}.")


def _repaired(incident: Incident, seen: Seen, plan: LifePlan) -> Step | None:
    remedy = incident.attempts[-1].remedy
    detail = f": {seen.repair_detail}" if seen.repair_detail else ""
    if seen.repair is RepairOutcome.DONE:
        if remedy is Remedy.REPLACE:
            return Step(after=IncidentState.RMA, cause=f"People are asked to replace the part{detail}")
        tests = tests_for(incident, remedy, plan.tests)
        return Step(after=IncidentState.VERIFYING, cause=f"The {remedy} is done{detail}", tests=tests)
    if seen.repair is RepairOutcome.FAILED:
        return Step(after=IncidentState.DRAINED, cause=f"The {remedy} failed{detail}")
    return None


def _verified(seen: Seen, plan: LifePlan) -> Step | None:
    if seen.verification is None:
        return None
    if not seen.verification:
        return Step(after=IncidentState.DRAINED, cause=f"Verification failed: {seen.verification_detail}")
    if seen.fault_since:
        return Step(after=IncidentState.DRAINED, cause="A new fault was seen during verification.")
    after = IncidentState.CLOSED if plan.probation is None else IncidentState.PROBATION
    return Step(after=after, cause=f"Verified: {seen.verification_detail}")


def _over(since: datetime | None, span: timedelta | None, now: datetime) -> bool:
    return since is not None and (span is None or now - since >= span)
