"""What a site pushes for the cluster map: its layout when that changes (`fleet_map.MapCluster`), and every few seconds
one `SiteFrame` with all its GPUs, running jobs, waiting jobs by reason, and incidents.

A frame is a state, not an event: the newest replaces the one before, and a lost one costs nothing.
"""

from __future__ import annotations

import base64
import zlib
from typing import Annotated, Final, Self

import numpy as np
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.fleet_map import CELL_BYTES, MAX_CELLS, NO_JOB, Cells, CellState, MapCluster, inflated
from slurm_gpuaas.domain.incidents import EARLIEST_EVENT, LATEST_EVENT, IncidentState
from slurm_gpuaas.domain.jobs import ServiceClass
from slurm_gpuaas.domain.names import ClusterName, NodeName, OrganisationName, ProjectName, ShareName, UserName

MAX_JOBS: Final = 40_000
"""Running ones of one site. All sites together number fewer than 65,536, which is what a cell can point to."""

Moment = Annotated[AwareDatetime, Field(ge=EARLIEST_EVENT, le=LATEST_EVENT)]
Short = Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SiteJob(_Value):
    """One running job. Cells point to it by its place in `SiteFrame.jobs`, counted from 1."""

    id: int = Field(ge=1, le=2**32)
    name: Short = ""
    user: UserName
    tenant: OrganisationName
    project: ProjectName | None = None
    share: ShareName
    service: ServiceClass
    since: Moment
    until: Moment | None = Field(default=None, description="Its time limit ends then.")


class SiteWaiting(_Value):
    """Jobs that wait for one reason (Slurm's word), with how long each has waited."""

    reason: str = Field(pattern=r"^[A-Za-z0-9_]{1,60}$")
    gpus: int = Field(ge=0, le=100_000_000)
    minutes: tuple[Annotated[int, Field(ge=0, le=10_000_000)], ...] = Field(max_length=50_000)


class SiteStep(_Value):
    state: IncidentState
    at: Moment


class SiteIncident(_Value):
    """An open incident, or one that closed within a week."""

    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$")
    node: NodeName
    gpu: int | None = Field(default=None, ge=0, le=15)
    xid: int | None = Field(default=None, ge=0, le=1_000_000)
    headline: Short
    rule: Short = Field(default="", description="What decided.")
    steps: tuple[SiteStep, ...] = Field(min_length=1, max_length=60, description="In order of time.")
    requeued_at: Moment | None = None
    jobs: tuple[Annotated[int, Field(ge=1, le=2**32)], ...] = Field(default=(), max_length=1_000)
    tenants: tuple[OrganisationName, ...] = Field(default=(), max_length=100, description="Whose jobs were hit.")
    gpu_hours_lost: float = Field(default=0, ge=0, le=1e9, allow_inf_nan=False)


class SiteLinks(_Value):
    """InfiniBand links from a unit's leaf switch up to the spine."""

    unit: str = Field(max_length=40)
    up: int = Field(ge=0, le=10_000)
    all: int = Field(ge=0, le=10_000)


class SiteFrame(_Value):
    """One push.

    Attributes:
        layout: number of the `MapCluster` that its cells follow.
        planes: base64 of zlib of the planes of `fleet_map.Cells`, whose `job` counts from 1 within `jobs`.
    """

    site: ClusterName
    moment: Moment
    layout: int = Field(ge=0, lt=2**32)
    cells: int = Field(ge=1, le=MAX_CELLS)
    planes: str = Field(max_length=2 * MAX_CELLS * CELL_BYTES, repr=False)
    jobs: tuple[SiteJob, ...] = Field(default=(), max_length=MAX_JOBS)
    waiting: tuple[SiteWaiting, ...] = Field(default=(), max_length=60)
    incidents: tuple[SiteIncident, ...] = Field(default=(), max_length=5_000)
    links: tuple[SiteLinks, ...] = Field(default=(), max_length=2_048)

    @classmethod
    def of(
        cls,
        cluster: MapCluster,
        moment: AwareDatetime,
        cells: Cells,
        *,
        jobs: tuple[SiteJob, ...] = (),
        waiting: tuple[SiteWaiting, ...] = (),
        incidents: tuple[SiteIncident, ...] = (),
        links: tuple[SiteLinks, ...] = (),
    ) -> Self:
        """The frame of a cluster; what gpuaasd sends is its `model_dump_json(exclude_defaults=True)`."""
        packed = base64.b64encode(zlib.compress(cells.raw.tobytes(), 6)).decode()
        return cls(
            site=cluster.name,
            moment=moment,
            layout=cluster.number,
            cells=cells.count,
            planes=packed,
            jobs=jobs,
            waiting=waiting,
            incidents=incidents,
            links=links,
        )

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if len({job.id for job in self.jobs}) != len(self.jobs):
            raise InvalidInput(f"Site {self.site} names a job twice.", way_out="Name each one once.")
        if len({incident.id for incident in self.incidents}) != len(self.incidents):
            raise InvalidInput(f"Site {self.site} names an incident twice.", way_out="Name each one once.")
        if sum(len(waiting.minutes) for waiting in self.waiting) > 100_000:
            raise InvalidInput(f"Site {self.site} tells of over 100,000 waiting jobs.", way_out="Tell of fewer.")
        return self

    def unpacked(self) -> Cells:
        """Its cells.

        Raises:
            InvalidInput: they are damaged, or point to a job or a state that is not there.
        """
        try:
            raw = inflated(base64.b64decode(self.planes, validate=True), self.cells * CELL_BYTES)
        except ValueError as error:
            raise InvalidInput(
                f"The planes of site {self.site} cannot be read: {error}.", way_out="Send them as SiteFrame.of does."
            ) from None
        cells = Cells(np.frombuffer(raw, np.uint8).copy())
        held = np.isin(cells.state, (CellState.BUSY, CellState.DRAINING))
        if int(cells.state.max()) >= CellState.TAKEN or int(cells.job.max()) > len(self.jobs):
            raise InvalidInput(
                f"Site {self.site} has a GPU in state {int(cells.state.max())} or of job {int(cells.job.max())}; "
                f"there are {len(self.jobs)} jobs.",
                way_out="Use states 0 to 7, and jobs counted from 1.",
            )
        if bool((held & (cells.job == NO_JOB)).any()) or bool((~held & (cells.job != NO_JOB)).any()):
            raise InvalidInput(
                f"Site {self.site} has a GPU that is held by no job, or free with one.",
                way_out="Give each busy or draining GPU its job, and no other one.",
            )
        return cells
