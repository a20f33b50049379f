"""Small fleets for tests of the map."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from slurm_gpuaas.domain.fleet_map import Cells, CellState, MapCluster, MapUnit
from slurm_gpuaas.domain.jobs import ServiceClass
from slurm_gpuaas.domain.names import (
    ClusterName,
    GpuModel,
    NodeName,
    OrganisationName,
    ProviderName,
    ShareName,
    UserName,
)
from slurm_gpuaas.domain.site_frame import SiteFrame, SiteIncident, SiteJob, SiteWaiting

NOW = datetime(2026, 11, 28, 5, 0, tzinfo=UTC)


class Stopped:
    """A clock that stands until it is set."""

    def __init__(self, at: datetime = NOW) -> None:
        self.at = at

    def now(self) -> datetime:
        return self.at


def cluster(name: str = "alpha", units: int = 2, nodes: int = 4, own: int = 0, won: int | None = 1_000) -> MapCluster:
    """`units` units of `nodes` nodes of 8 GPUs; the last `own` nodes of each are the provider's own."""
    return MapCluster(
        name=ClusterName(name),
        provider=ProviderName(name),
        model=GpuModel("b200"),
        gpus_per_node=8,
        won_per_gpu_hour=won,
        units=tuple(
            MapUnit(
                name=f"su{unit:02}",
                nodes=tuple(NodeName(f"{name}-{unit}{node:02}") for node in range(nodes)),
                shares=tuple(ShareName("own" if node >= nodes - own else "government") for node in range(nodes)),
            )
            for unit in range(units)
        ),
    )


def job(number: int, tenant: str = "hangang-univ", *, user: str = "kim", hours: float = 4) -> SiteJob:
    return SiteJob(
        id=number,
        name=f"train-{number}",
        user=UserName(user),
        tenant=OrganisationName(tenant),
        share=ShareName("government"),
        service=ServiceClass.GUARANTEED,
        since=NOW - timedelta(hours=1),
        until=NOW + timedelta(hours=hours),
    )


def frame(
    of: MapCluster,
    held: dict[SiteJob, range],
    *,
    moment: datetime = NOW,
    use: int = 80,
    waiting: tuple[SiteWaiting, ...] = (),
    incidents: tuple[SiteIncident, ...] = (),
    edit: dict[str, dict[int, int]] | None = None,
) -> SiteFrame:
    """All GPUs free but for the cells that jobs hold; `edit` sets cells of planes at the end."""
    cells = Cells.unknown(of.cells)
    cells.state[:] = CellState.FREE
    cells.idle[:] = 90
    for number, where in enumerate(held.values(), start=1):
        at = slice(where.start, where.stop)
        cells.state[at] = CellState.BUSY
        cells.job[at] = number
        cells.use[at] = use
        cells.idle[at] = 0
    for plane, values in (edit or {}).items():
        for cell, value in values.items():
            getattr(cells, plane)[cell] = value
    return SiteFrame.of(of, moment, cells, jobs=tuple(held), waiting=waiting, incidents=incidents)
