"""Pushes the picture of this cluster to the portal, a whole one each time: 30 kB for 957 nodes (docs/design/0034).

Asks neither Slurm nor telemetry's files for it. A push that fails is not kept: the next reading is the better one. The
loop backs off while the portal does not answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Final

import structlog

from slurm_gpuaas.api.pool_sites import MAX_REQUEST_BYTES, PicturePush
from slurm_gpuaas.daemon.gpu_activity import GpuActivity
from slurm_gpuaas.daemon.portal_client import Portal
from slurm_gpuaas.daemon.shared import SharedController
from slurm_gpuaas.daemon.site_picture import Portals, Reading, Seats, picture
from slurm_gpuaas.daemon.told_incidents import ToldIncidents
from slurm_gpuaas.domain.errors import InvalidInput, Unavailable
from slurm_gpuaas.domain.jobs import Job, JobId, JobPlacement, JobState
from slurm_gpuaas.domain.names import ClusterName
from slurm_gpuaas.domain.nodes import Node
from slurm_gpuaas.domain.policy import Project
from slurm_gpuaas.jobs.gate_rules import asks
from slurm_gpuaas.store import Store
from slurm_gpuaas.topology.fabric import FabricArrays

MOST_PLACEMENTS: Final = 1_000
"""Newest decisions of the gate among which those about waiting jobs are looked for."""

log = structlog.get_logger(__name__)


class PicturePusher:
    """
    Args:
        fabric: as it is now; raises `Unavailable` or `InvalidInput` while there is none.
    """

    def __init__(
        self,
        portal: Portal,
        *,
        cluster: ClusterName,
        shared: SharedController,
        store: Store,
        fabric: Callable[[], FabricArrays],
        activity: GpuActivity,
    ) -> None:
        self._portal = portal
        self._cluster = cluster
        self._shared = shared
        self._store = store
        self._fabric = fabric
        self._activity = activity
        self._incidents = ToldIncidents(store, cluster)
        self._seats = Seats()
        self._sent: datetime | None = None
        self._known_layout: int | None = None

    def tick(self) -> None:
        """Push what was read last, unless that is pushed already.

        Raises:
            Unavailable, Refused: see `Portal`.
        """
        read = self._shared.last()
        if read is None or read[0] == self._sent:
            return
        found = picture(self._reading(*read), self._seats)
        if found is None:
            return
        layout, frame = found
        push = _fitting(PicturePush(layout=None if layout.number == self._known_layout else layout, frame=frame))
        taken = self._portal.picture(push)
        if not taken.knows_layout:
            log.info("picture.layout-wanted", layout=layout.number)
            taken = self._portal.picture(push.model_copy(update={"layout": layout}))
        self._known_layout = layout.number if taken.knows_layout else None
        self._sent = read[0]

    def _reading(self, at: datetime, nodes: Sequence[Node], jobs: Sequence[Job]) -> Reading:
        in_force = self._store.in_force()
        newest = self._store.portal.newest()
        portals = Portals(
            projects={one.name: one.organisation for one in in_force.taken if isinstance(one, Project)},
            people=frozenset() if newest is None else frozenset(one.user for one in newest.people),
        )
        incidents, blemishes = self._incidents.now(jobs, portals, at)
        return Reading(
            cluster=self._cluster,
            at=at,
            policy=in_force.policy,
            portals=portals,
            nodes=nodes,
            jobs=jobs,
            fabric=self._known_fabric(),
            placements=self._placements(jobs),
            activity=self._activity.now([node.name for node in nodes if node.gpus], at),
            incidents=incidents,
            blemishes=blemishes,
        )

    def _known_fabric(self) -> FabricArrays | None:
        try:
            return self._fabric()
        except (Unavailable, InvalidInput):  # the gate says so; nodes are drawn in one unit then
            return None

    def _placements(self, jobs: Sequence[Job]) -> Mapping[JobId, JobPlacement]:
        """The newest decision about each job that waits at the gate."""
        at_gate = {job.id for job in jobs if job.state is JobState.PENDING and asks(job)}
        if not at_gate:
            return {}
        newest = self._store.placements(limit=MOST_PLACEMENTS)
        return {one.job_id: one for one in reversed(newest) if one.job_id in at_gate}


def _fitting(push: PicturePush) -> PicturePush:
    """Without waiting jobs one by one where it would be too large for a request."""
    if len(push.packed()) <= MAX_REQUEST_BYTES:
        return push
    log.warning("picture.without-queue", waiting=len(push.frame.queue))
    return push.model_copy(update={"frame": push.frame.model_copy(update={"queue": ()})})
