"""Incidents as the portal is told them: steps, the GPU, and the jobs that were hit with whose they were."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from slurm_gpuaas.daemon.site_picture import Blemish, Portals
from slurm_gpuaas.domain.fleet_map import Severity, Sign
from slurm_gpuaas.domain.incidents import OPEN_STATES, EventKind, Incident, IncidentState, NodeEvent
from slurm_gpuaas.domain.jobs import Job, JobId
from slurm_gpuaas.domain.names import ClusterName, NodeName
from slurm_gpuaas.domain.site_frame import HitJob, SiteIncident, SiteStep
from slurm_gpuaas.domain.words import printable
from slurm_gpuaas.store import Store

CLOSED_FOR: Final = timedelta(days=7)
"""Incidents that were closed before that are told no more."""
OPENED_WITHIN: Final = 4 * CLOSED_FOR
MOST: Final = 1_000
MOST_STEPS: Final = 60
MOST_HIT: Final = 200
"""Jobs of one incident."""
MOST_GPU: Final = 15
SIGNS: Final[Mapping[EventKind, Sign]] = {
    EventKind.XID: Sign.XID,
    EventKind.FALLEN: Sign.XID,
    EventKind.SXID: Sign.NVLINK,
}
WATCHED: Final = frozenset({IncidentState.SUSPECT, IncidentState.PROBATION})
"""States in which the node is in service."""


@dataclass(frozen=True, slots=True)
class _Told:
    updated_at: datetime
    portals: Portals
    incident: SiteIncident
    blemish: Blemish


class ToldIncidents:
    """Each is put together when it changes, and kept."""

    def __init__(self, store: Store, cluster: ClusterName) -> None:
        self._store = store
        self._cluster = cluster
        self._told: dict[str, _Told] = {}

    def now(
        self, jobs: Sequence[Job], portals: Portals, at: datetime
    ) -> tuple[Sequence[SiteIncident], Mapping[NodeName, Blemish]]:
        """Incidents, newest first, and how the nodes of the open ones look."""
        open_ones = self._store.incidents(states=OPEN_STATES, limit=MOST)
        recent = self._store.incidents(since=at - OPENED_WITHIN, limit=MOST)
        closed = [one for one in recent if one.closed_at is not None and one.closed_at >= at - CLOSED_FOR]
        told: dict[str, _Told] = {}
        for incident in (*open_ones, *closed)[:MOST]:
            known = self._told.get(incident.id)
            if known is None or (known.updated_at, known.portals) != (incident.updated_at, portals):
                known = self._tell(incident, jobs, portals)
            told[incident.id] = known
        self._told = told
        blemishes: dict[NodeName, Blemish] = {}
        for incident in open_ones:
            found = told[incident.id].blemish
            before = blemishes.get(incident.node)
            if before is None or (before.one or before.all) < (found.one or found.all):
                blemishes[incident.node] = found
        return [one.incident for one in told.values()], blemishes

    def _tell(self, incident: Incident, jobs: Sequence[Job], portals: Portals) -> _Told:
        found = self._store.observations.events_of(incident.event_ids)
        events = [event for event, _ in found]
        hit = {JobId(job) for job in incident.requeued_jobs}.union(*(on_node for _, on_node in found))
        gpu = next((event.gpu for event in events if event.gpu is not None and event.gpu <= MOST_GPU), None)
        steps = [
            SiteStep(state=step.after, at=step.at)
            for step in sorted(self._store.transitions(incident=incident.id), key=lambda step: step.at)
        ] or [SiteStep(state=incident.state, at=incident.opened_at)]
        told = SiteIncident(
            id=incident.id,
            node=incident.node,
            gpu=gpu,
            xid=next((event.code for event in events if event.kind is EventKind.XID), None),
            headline=printable(incident.headline, 200),
            rule=printable(incident.rule, 200),
            steps=tuple(steps if len(steps) <= MOST_STEPS else (steps[0], *steps[1 - MOST_STEPS :])),
            hit=tuple(self._hit(sorted(hit)[:MOST_HIT], jobs, portals)),
        )
        return _Told(incident.updated_at, portals, told, _blemish(incident, gpu, events))

    def _hit(self, hit: Iterable[JobId], jobs: Sequence[Job], portals: Portals) -> Iterable[HitJob]:
        there = {job.id: (job.account, job.user) for job in jobs}
        for number in hit:
            run = there.get(number) or next(
                ((one.account, one.user) for one in self._store.usage(job=number) if one.cluster == self._cluster), None
            )
            if run is None:
                yield HitJob(id=number)
            else:
                yield HitJob(id=number, tenant=portals.tenant(run[0]), user=portals.user(*run))


def _blemish(incident: Incident, gpu: int | None, events: Iterable[NodeEvent]) -> Blemish:
    watched = incident.state in WATCHED
    signs = Sign(0)
    for event in events:
        signs |= SIGNS.get(event.kind, Sign(0))
    node = int(Severity.NOTICE if watched else Severity.DECISION)
    if gpu is None:
        return Blemish(node | int(signs))
    return Blemish(node, gpu, int(Severity.NOTICE if watched else Severity.FAULT) | int(signs))
