"""What one viewer may see of a picture. Nothing that a viewer may not know leaves the server.

A viewer who does not see a cluster sees of it what is free, reserved and out of service, and of the rest only that it
is in use; of jobs and incidents only those of the own organisation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np

from slurm_gpuaas.domain.fleet_map import NO_JOB, UNKNOWN_BYTE, UNKNOWN_IDLE, CellState, Flags, FleetLayout, Picture
from slurm_gpuaas.domain.names import ClusterName, OrganisationName, ProviderName
from slurm_gpuaas.domain.people import Actor, PortalRole
from slurm_gpuaas.portal.map.rail import Waiting, alike, of_viewer


@dataclass(frozen=True, slots=True, kw_only=True)
class MapViewer:
    """Who looks.

    Attributes:
        everything: sees all clusters.
        provider: sees the clusters of this provider.
        organisation: sees the jobs of this organisation, wherever they run.
        people: reads users' and jobs' names where they see the jobs; always those of the own organisation.
    """

    everything: bool = False
    provider: ProviderName | None = None
    organisation: OrganisationName | None = None
    people: bool = False


EVERYTHING: Final = MapViewer(everything=True, people=True)


def viewer_of(actor: Actor) -> MapViewer:
    """What an actor's role lets them see of the map: government and auditor all tenants, providers their own clusters,
    tenants their own jobs. Names of users and jobs are for those who must talk to their owners."""
    match actor.role:
        case PortalRole.AUDITOR:
            return EVERYTHING
        case PortalRole.GOVERNMENT:
            return MapViewer(everything=True)
        case PortalRole.PROVIDER_OPERATOR:
            return MapViewer(provider=actor.provider, people=True)
        case PortalRole.PROVIDER_BILLING:
            return MapViewer(provider=actor.provider)
        case PortalRole.TENANT_ADMIN | PortalRole.RESEARCHER:
            return MapViewer(organisation=actor.organisation)


def cluster_seen(viewer: MapViewer, provider: ProviderName) -> bool:
    """Whether they see all jobs of a provider's clusters."""
    return viewer.everything or (viewer.provider is not None and viewer.provider == provider)


def clusters_seen(viewer: MapViewer, layout: FleetLayout) -> frozenset[ClusterName]:
    """Clusters of which they see all jobs."""
    return frozenset(cluster.name for cluster in layout.clusters if cluster_seen(viewer, cluster.provider))


class Shown:
    """A picture with what the views of all its viewers are made from; each part is made once."""

    def __init__(self, picture: Picture, layout: FleetLayout) -> None:
        self.picture: Final = picture
        self.layout: Final = layout

    @cached_property
    def jobs_of(self) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
        """Jobs by tenant."""
        found: dict[str, dict[str, Mapping[str, Any]]] = {}
        for slot, job in _rows(self.picture, "jobs").items():
            found.setdefault(job.get("tenant", ""), {})[slot] = job
        return found

    @cached_property
    def incidents_of(self) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
        """Incidents by the tenants that they hit."""
        found: dict[str, dict[str, Mapping[str, Any]]] = {}
        for key, incident in _rows(self.picture, "incidents").items():
            for tenant in {tenant for _, tenant in incident["hit"]}:
                found.setdefault(tenant, {})[key] = incident
        return found

    @cached_property
    def in_use(self) -> Flags:
        """Cells of which who may not see their job sees only that they are taken."""
        state = self.picture.cells.state
        flags: Flags = (state == CellState.BUSY) | (state == CellState.DRAINING)
        return flags

    @cached_property
    def alike(self) -> Mapping[str, Any]:
        """The part of the rail that is the same for all viewers."""
        waiting = [
            Waiting(reason, gpus, tuple(since))
            for row in _rows(self.picture, "sites").values()
            for reason, (gpus, since) in row.get("waiting", {}).items()
        ]
        return alike(self.layout, self.picture.cells, waiting, self.picture.moment)


def view_of(viewer: MapViewer, shown: Shown) -> Picture:
    """The picture as the viewer may see it, with its rail."""
    seen = seen_by(viewer, shown)
    own = of_viewer(shown.layout, seen.cells, seen.table["jobs"], seen.moment)
    return replace(seen, table={**seen.table, "rail": {**shown.alike, **own}})


def seen_by(viewer: MapViewer, shown: Shown) -> Picture:
    """The picture as the viewer may see it, without its rail."""
    picture, layout = shown.picture, shown.layout
    seen = clusters_seen(viewer, layout)
    all_jobs, all_incidents = _rows(picture, "jobs"), _rows(picture, "incidents")
    if not seen:  # most viewers: of hundreds of jobs only theirs are looked at
        own = viewer.organisation or ""
        all_jobs, all_incidents = shown.jobs_of.get(own, {}), shown.incidents_of.get(own, {})
    jobs = {slot: row for slot, job in all_jobs.items() if (row := _job(viewer, seen, job)) is not None}
    incidents = {key: row for key, one in all_incidents.items() if (row := _incident(viewer, seen, one)) is not None}
    table = {
        "jobs": jobs,
        "incidents": incidents,
        "sites": {
            name: _without(frozenset({"waiting"}) if name in seen else frozenset({"waiting", "links"}), row)
            for name, row in _rows(picture, "sites").items()
        },
    }
    if len(seen) == len(layout.clusters):
        return replace(picture, table=table)
    cells = picture.cells.copy()
    hidden = ~(_cells_of(seen, layout) | _shown(jobs)[cells.job])
    cells.state[hidden & shown.in_use] = CellState.TAKEN
    cells.job[hidden] = NO_JOB
    cells.health[hidden] = 0
    cells.idle[hidden] = UNKNOWN_IDLE
    for plane in (cells.use, cells.power, cells.heat):
        plane[hidden] = UNKNOWN_BYTE
    return replace(picture, cells=cells, table=table)


def _rows(picture: Picture, name: str) -> Mapping[str, Mapping[str, Any]]:
    rows: Mapping[str, Mapping[str, Any]] = picture.table.get(name, {})
    return rows


def _cells_of(seen: frozenset[ClusterName], layout: FleetLayout) -> Flags:
    flags = np.zeros(layout.cells, np.bool_)
    for cluster in layout.clusters:
        flags[layout.part(cluster)] = cluster.name in seen
    return flags


def _shown(jobs: Mapping[str, Any]) -> Flags:
    flags = np.zeros(2**16, np.bool_)
    flags[np.fromiter(map(int, jobs), np.int64, len(jobs))] = True
    return flags


PERSONAL: Final = frozenset({"name", "user"})


def _job(viewer: MapViewer, seen: frozenset[ClusterName], job: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if viewer.organisation is not None and job.get("tenant") == viewer.organisation:
        return job
    if job["cluster"] not in seen:
        return None
    return job if viewer.people else _without(PERSONAL, job)


def _incident(viewer: MapViewer, seen: frozenset[ClusterName], incident: Mapping[str, Any]) -> Mapping[str, Any] | None:
    row = _without(frozenset({"hit"}), incident)
    hit: Sequence[tuple[int, str]] = incident["hit"]
    if incident["cluster"] not in seen:
        # Of a fault that hit their jobs a tenant may know, but not whom else it hit and what that cost.
        hit = [(job, tenant) for job, tenant in hit if tenant == viewer.organisation]
        if viewer.organisation is None or not hit:
            return None
        row = _without(frozenset({"gpu_hours_lost"}), row)
    return {**row, "jobs": [job for job, _ in hit], "tenants": sorted({tenant for _, tenant in hit if tenant})}


def _without(keys: frozenset[str], row: Mapping[str, Any]) -> Mapping[str, Any]:
    return {key: value for key, value in row.items() if key not in keys}
