"""What a site pushes of what runs: its layout when that changes (`fleet_map.SiteLayout`), and every few seconds one
`SiteFrame` with all its GPUs, running and waiting jobs, and incidents.

A frame is a state, not an event: the newest replaces the one before, and a lost one costs nothing. Jobs of projects
that are not the portal's come without user, name, tenant and project.
"""

from __future__ import annotations

import base64
import zlib
from enum import StrEnum
from typing import Annotated, Final, Self

import numpy as np
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.fleet_map import CELL_BYTES, MAX_CELLS, NO_JOB, Cells, CellState, SiteLayout, inflated
from slurm_gpuaas.domain.incidents import EARLIEST_EVENT, LATEST_EVENT, IncidentState
from slurm_gpuaas.domain.jobs import ServiceClass
from slurm_gpuaas.domain.names import ClusterName, NodeName, OrganisationName, ProjectName, ShareName, UserName

MAX_JOBS: Final = 40_000
"""Running ones of one site. All sites together number fewer than 65,536, which is what a cell can point to."""

MAX_QUEUED: Final = 10_000
"""Waiting jobs of one site that are told one by one; all are in the sums."""

Moment = Annotated[AwareDatetime, Field(ge=EARLIEST_EVENT, le=LATEST_EVENT)]
Short = Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _OfSomebody(_Value):
    """A job and whose it is, as far as that is the portal's business."""

    id: int = Field(ge=1, le=2**32)
    name: Short = ""
    user: UserName | None = Field(default=None, description="A login of the portal's people; nobody else's is told.")
    tenant: OrganisationName | None = Field(default=None, description="Absent = of no organisation of the portal's.")
    project: ProjectName | None = None
    share: ShareName
    service: ServiceClass


class SiteJob(_OfSomebody):
    """One running job. Cells point to it by its place in `SiteFrame.jobs`, counted from 1."""

    since: Moment
    until: Moment | None = Field(default=None, description="Its time limit ends then.")


class AtGate(StrEnum):
    """What the placement gate does with a waiting job."""

    DECIDING = "deciding"
    FOR_BETTER = "for-better"
    """It lets it wait for better nodes."""
    PLACED = "placed"
    """It gave it nodes: it starts there in a moment."""


class SiteRoom(_Value):
    """Room for a waiting job, by nodes and GPUs alone, as `jobs.why.Room`."""

    whole: bool
    nodes: int = Field(ge=1, le=100_000)
    gpus_per_node: int = Field(ge=1, le=64)
    free: int = Field(ge=0, le=100_000)
    enough_at: Moment | None = None


class SiteLimit(_Value):
    """The limit that holds a waiting job, in GPUs: its grant's. `below_at`: when the job fits below it, by the time
    limits of what runs; absent = they do not tell."""

    limit: int = Field(ge=0, le=100_000_000)
    in_use: int = Field(ge=0, le=100_000_000)
    below_at: Moment | None = None


class SiteQueued(_OfSomebody):
    """One waiting job, with Slurm's word for why."""

    gpus: int = Field(ge=0, le=100_000_000)
    submitted: Moment
    minutes: int | None = Field(default=None, ge=0, le=10_000_000, description="Its time limit.")
    reason: str = Field(pattern=r"^[A-Za-z0-9_]{1,60}$")
    gate: AtGate | None = None
    room: SiteRoom | None = None
    limit: SiteLimit | None = None


class SiteWaiting(_Value):
    """Jobs that wait for one reason (Slurm's word), with how long each has waited."""

    reason: str = Field(pattern=r"^[A-Za-z0-9_]{1,60}$")
    gpus: int = Field(ge=0, le=100_000_000)
    minutes: tuple[Annotated[int, Field(ge=0, le=10_000_000)], ...] = Field(max_length=50_000)


class SiteStep(_Value):
    state: IncidentState
    at: Moment


class HitJob(_Value):
    """A job that a fault hit, with whose it was as far as that is the portal's business."""

    id: int = Field(ge=1, le=2**32)
    tenant: OrganisationName | None = None
    user: UserName | None = None


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
    hit: tuple[HitJob, ...] = Field(default=(), max_length=1_000, description="Jobs that were on the node.")
    gpu_hours_lost: float = Field(default=0, ge=0, le=1e9, allow_inf_nan=False)


class SiteLinks(_Value):
    """InfiniBand links from a unit's leaf switch up to the spine."""

    unit: str = Field(max_length=40)
    up: int = Field(ge=0, le=10_000)
    all: int = Field(ge=0, le=10_000)


class SiteFrame(_Value):
    """One push.

    Attributes:
        layout: number of the `SiteLayout` that its cells follow.
        planes: base64 of zlib of the planes of `fleet_map.Cells`, whose `job` counts from 1 within `jobs`.
    """

    site: ClusterName
    moment: Moment
    layout: int = Field(ge=0, lt=2**32)
    cells: int = Field(ge=1, le=MAX_CELLS)
    planes: str = Field(max_length=2 * MAX_CELLS * CELL_BYTES, repr=False)
    jobs: tuple[SiteJob, ...] = Field(default=(), max_length=MAX_JOBS)
    waiting: tuple[SiteWaiting, ...] = Field(default=(), max_length=60, description="All waiting jobs, as sums.")
    queue: tuple[SiteQueued, ...] = Field(default=(), max_length=MAX_QUEUED, description="The first ones of them.")
    incidents: tuple[SiteIncident, ...] = Field(default=(), max_length=5_000)
    links: tuple[SiteLinks, ...] = Field(default=(), max_length=2_048)

    @classmethod
    def of(
        cls,
        cluster: SiteLayout,
        moment: AwareDatetime,
        cells: Cells,
        *,
        jobs: tuple[SiteJob, ...] = (),
        waiting: tuple[SiteWaiting, ...] = (),
        queue: tuple[SiteQueued, ...] = (),
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
            queue=queue,
            incidents=incidents,
            links=links,
        )

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if len({job.id for job in (*self.jobs, *self.queue)}) != len(self.jobs) + len(self.queue):
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
