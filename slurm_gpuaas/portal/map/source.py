"""What a map is drawn from, as its routes see it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field

from slurm_gpuaas.domain.fleet_map import FleetLayout
from slurm_gpuaas.portal.map.view import MapViewer


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class Mark(_Answer):
    """One step of an incident on the axis of time."""

    at: datetime
    incident: str
    node: str
    state: str
    headline: str


class Past(_Answer):
    """What is known of the past: `spans` have pictures, `marks` are steps of incidents, in order of time."""

    spans: tuple[tuple[datetime, datetime], ...]
    marks: tuple[Mark, ...]


class GpuCard(_Answer):
    """One GPU of a node. `use` holds one percentage a minute over the last hour, oldest first; None = not known.

    `job` is a slot of the picture's table: what a viewer may not know has none."""

    index: int
    uuid_tail: str = ""
    job: int = 0
    use: tuple[int | None, ...] = ()


class NodeCard(_Answer):
    cluster: str
    node: str
    unit: str
    share: str
    gpus: tuple[GpuCard, ...]
    incidents: tuple[str, ...] = Field(
        description="Numbers of its incidents, newest first; their rows are in the table."
    )


class UnitNodes(_Answer):
    unit: str
    nodes: int


class JobCard(_Answer):
    """How a job lies on the fabric.

    `near` is the part of its node pairs that share a leaf switch (1 = all); `fewest` how many units it would need at
    best; `better` where it could lie now, when that is on fewer units than it is.
    """

    slot: int
    units: tuple[UnitNodes, ...]
    fewest: int
    near: float
    better: tuple[UnitNodes, ...]
    mean_use: float | None = Field(description="Percent, over its GPUs now; None when nothing is known.")


class MapSource(Protocol):
    """Everything is told as `viewer` may see it. Called within one event loop; nothing blocks for long but `history`,
    which may run in a thread."""

    def layout(self) -> FleetLayout:
        """Clusters in the order in which they are drawn; none when no site has told of itself."""
        ...

    def whole(self, viewer: MapViewer) -> bytes:
        """The newest picture (`fleet_map.whole`)."""
        ...

    def since(self, viewer: MapViewer, sequence: int) -> Sequence[tuple[int, bytes]]:
        """(sequence, picture) in order: the deltas that lead from picture `sequence` to the newest one, or a whole
        picture where that is not known any more. Empty when `sequence` is the newest."""
        ...

    async def changed(self, sequence: int) -> None:
        """Return once there is a newer picture than `sequence`."""
        ...

    def history(self, viewer: MapViewer, begin: datetime, end: datetime, limit: int) -> Iterable[bytes]:
        """Pictures between the moments, beginning with the one that held at `begin`: a whole one, then deltas; at most
        `limit`, the first ones."""
        ...

    def past(self, viewer: MapViewer, begin: datetime, end: datetime) -> Past: ...

    def node_card(self, viewer: MapViewer, cluster: str, node: str) -> NodeCard:
        """
        Raises:
            NotFound: there is no such node.
        """
        ...

    def job_card(self, viewer: MapViewer, slot: int) -> JobCard:
        """
        Raises:
            NotFound: no job that the viewer may see is there now.
        """
        ...
