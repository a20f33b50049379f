"""Draining faults of a node since a moment: the same rules as when they were taken, put to what the store keeps."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from slurm_gpuaas.domain.incidents import Incident, IncidentState
from slurm_gpuaas.health.incidents import DRAINING_VERDICTS
from slurm_gpuaas.health.overrides import Override
from slurm_gpuaas.health.triage import triage
from slurm_gpuaas.store import Store


def fault_since(store: Store, incident: Incident, since: datetime, overrides: Sequence[Override]) -> bool:
    """Whether a fault that asks for a drain was seen on the incident's node after that moment, by the node's clock.

    Args:
        overrides: the site's, as they were taken with.
    """
    events = store.events(node=incident.node, since=since)
    return any(event.seen_at > since and triage(event, overrides).drain in DRAINING_VERDICTS for event in events)


def on_probation_since(store: Store, incident: Incident) -> datetime | None:
    """When the incident's node came to its probation; None when it never did."""
    steps = store.transitions(incident=incident.id)
    return next((step.at for step in reversed(steps) if step.after is IncidentState.PROBATION), None)
