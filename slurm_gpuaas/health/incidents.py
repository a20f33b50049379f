"""How events become incidents. Pure: history comes in as values, time as an argument."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from slurm_gpuaas.domain.incidents import Drain, Incident, IncidentState, NodeEvent
from slurm_gpuaas.domain.nodes import OWNER_MARK
from slurm_gpuaas.health.triage import Verdict

QUIET: Final = timedelta(minutes=3)
"""An event joins an open incident of its node that saw one less than this ago, or whose node leaves service, is out of
it, or is on probation."""

MAX_EVENTS: Final = 200
"""Event ids an incident lists; later ones are in the store all the same."""

_STRENGTH: Final = {Drain.NO: 0, Drain.REVIEW: 1, Drain.WHEN_IDLE: 2, Drain.NOW: 3}
DRAINING_VERDICTS: Final = frozenset({Drain.WHEN_IDLE, Drain.NOW})


def incident_id(event_id: str) -> str:
    """The id of the incident that an event opens: the same event opens the same incident, however often it is told."""
    return f"i{hashlib.sha256(event_id.encode()).hexdigest()[:10]}"


def fold(open_incidents: Sequence[Incident], event: NodeEvent, verdict: Verdict, now: datetime) -> Incident | None:
    """The incident that an event joins or opens; None when it asks for nothing and none is open.

    The strongest verdict of its events is the incident's; a weaker one later never takes it back.
    """
    joined = next((i for i in reversed(open_incidents) if _joins(i, now)), None)
    if joined is None:
        if verdict.drain is Drain.NO:
            return None
        return Incident(
            id=incident_id(event.event_id),
            node=event.node,
            state=IncidentState.SUSPECT,
            drain=verdict.drain,
            fault_class=verdict.fault_class.value,
            rule=verdict.rule[:500],
            headline=verdict.headline[:500],
            opened_at=now,
            updated_at=now,
            event_ids=(event.event_id,),
            serials=(event.serial,) if event.serial else (),
        )
    changes: dict[str, object] = {"updated_at": now}
    if len(joined.event_ids) < MAX_EVENTS:
        changes["event_ids"] = (*joined.event_ids, event.event_id)
    if event.serial and event.serial not in joined.serials:
        changes["serials"] = (*joined.serials, event.serial)
    if _STRENGTH[verdict.drain] > _STRENGTH[joined.drain]:
        changes |= {
            "drain": verdict.drain,
            "fault_class": verdict.fault_class.value,
            "rule": verdict.rule[:500],
            "headline": verdict.headline[:500],
        }
    return joined.model_copy(update=changes)


def drain_reason(incident: Incident) -> str:
    """Slurm's drain reason: owner mark, incident and evidence, short enough for `sinfo -R`."""
    return f"{OWNER_MARK}{incident.id}: {incident.headline}"[:200]


def is_reason_of(reason: str, incident: Incident) -> bool:
    """Whether a reason is this incident's. Slurm appends to reasons, so the beginning decides."""
    return reason.startswith(f"{OWNER_MARK}{incident.id}:")


def _joins(incident: Incident, now: datetime) -> bool:
    if incident.state is IncidentState.CLOSED:
        return False
    return incident.state is not IncidentState.SUSPECT or now - incident.updated_at < QUIET
