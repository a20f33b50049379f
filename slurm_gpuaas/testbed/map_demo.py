"""A simulated fleet for the cluster map, and a server that shows it: `python -m slurm_gpuaas.testbed.map_demo`.

Jobs of invented organisations come, run and end on the clusters of a testbed profile; nodes break (far more often than
in life, so that there is something to see), are drained, repaired and verified; some jobs forget their GPUs. It pushes
what a site pushes, through the same door. Everything follows from the seed and the moment it is asked for.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Final

import click
import numpy as np
import uvicorn
from fastapi import FastAPI, Request

from slurm_gpuaas.domain.clock import Clock, SystemClock
from slurm_gpuaas.domain.fleet_map import UNKNOWN_BYTE, Cells, CellState, MapCluster, MapUnit, Severity, Sign
from slurm_gpuaas.domain.incidents import IncidentState
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
from slurm_gpuaas.domain.site_frame import HitJob, SiteFrame, SiteIncident, SiteJob, SiteLinks, SiteStep, SiteWaiting
from slurm_gpuaas.portal.map import EVERYTHING, LiveMap, MapViewer, map_routes
from slurm_gpuaas.portal.map.history import MapHistory
from slurm_gpuaas.testbed.profiles import Cluster, profile

GOVERNMENT: Final = {"naver": 2_296, "kakao": 2_040, "nhn": 6_120}
"""GPUs of the government's share (kmjournal.net idxno=2380); the rest is the provider's own."""
PRICES: Final = {"h200": 4_200, "b200": 6_800}
"""Won a GPU-hour, invented."""
TENANTS: Final = tuple(
    OrganisationName(name)
    for name in (
        "hangang-univ", "baekdu-lab", "namsan-ai", "jirisan-tech", "dokdo-inst", "halla-bio", "seorak-ml",
        "geum-robotics", "nakdong-univ", "odae-health",
        "taebaek-fm", "mudeung-univ", "gaya-vision", "chiak-climate", "songni-speech",
    )
)  # fmt: skip
NAMES: Final = ("pretrain", "sft", "rlhf", "diffusion", "protein")
SMALL_NAMES: Final = ("eval", "ablation", "asr", "notebook", "finetune")
SIZES: Final = ((1, 8), (2, 8), (4, 9), (8, 20), (16, 14), (32, 12), (64, 10), (128, 8), (256, 5), (512, 2))
"""GPUs of a job and how often."""
FAULTS: Final = (
    (79, Sign.XID, "GPU has fallen off the bus"),
    (48, Sign.XID | Sign.ECC, "double bit ECC error"),
    (94, Sign.XID | Sign.ECC, "contained memory error"),
    (149, Sign.XID | Sign.NVLINK, "NVLink: fatal error of a link"),
    (None, Sign.INFINIBAND, "InfiniBand port down"),
    (None, Sign.HEAT, "GPU slowed down by heat"),
)
TARGET: Final = 0.87
"""Part of the GPUs that jobs hold."""
NODES_A_WAITING_JOB: Final = 20
WAITING_ENDS: Final = 0.02
"""Part of the waiting jobs that start, or are cancelled, in a minute."""
REASONS: Final = (("Resources", "Priority", "QOSGrpGRES", "Licenses"), None, True, (0.4, 0.4, 0.15, 0.05))
"""Slurm's words for why a job waits, as arguments of a draw: the last are their parts."""
TICK: Final = timedelta(minutes=1)
STAGES: Final = (
    (IncidentState.SUSPECT, 1), (IncidentState.DRAINING, 8), (IncidentState.DRAINED, 12), (IncidentState.REPAIRING, 70),
    (IncidentState.VERIFYING, 25), (IncidentState.PROBATION, 60), (IncidentState.CLOSED, 0),
)  # fmt: skip
"""Stages of a simulated incident and their minutes."""


def cluster_of(cluster: Cluster) -> MapCluster:
    """A cluster of a profile as its site would describe it."""
    names = list(cluster.node_names())
    government = GOVERNMENT.get(cluster.name, cluster.nodes * cluster.gpus) // cluster.gpus
    shares = [ShareName("government" if number < government else "own") for number in range(cluster.nodes)]
    cuts = range(0, cluster.nodes, cluster.group)
    return MapCluster(
        name=ClusterName(cluster.name),
        provider=ProviderName(cluster.name),
        model=GpuModel(cluster.model),
        gpus_per_node=cluster.gpus,
        won_per_gpu_hour=PRICES[cluster.model],
        units=tuple(
            MapUnit(
                name=f"su{at // cluster.group + 1:02}",
                nodes=tuple(NodeName(name) for name in names[at : at + cluster.group]),
                shares=tuple(shares[at : at + cluster.group]),
            )
            for at in cuts
        ),
        uuid_tails=tuple(f"{(number * 2654435761) % 2**32:08x}" for number in range(cluster.nodes * cluster.gpus)),
    )


@dataclass
class _Job:
    job: SiteJob
    cells: list[int]
    ends: datetime
    idle_from: datetime
    mean: float


@dataclass
class _Fault:
    incident: SiteIncident
    node: int
    signs: int
    began: datetime


@dataclass
class _Site:
    cluster: MapCluster
    jobs: list[_Job] = field(default_factory=list)
    faults: list[_Fault] = field(default_factory=list)
    waiting: list[tuple[str, int, datetime]] = field(default_factory=list)

    def __post_init__(self) -> None:
        shares = [share for unit in self.cluster.units for share in unit.shares]
        self.own = np.repeat(np.array([share == "own" for share in shares]), self.cluster.gpus_per_node)


class DemoFleet:
    """The clusters of a profile, simulated from `begin` on."""

    def __init__(self, clusters: Sequence[Cluster], begin: datetime, *, seed: int = 1) -> None:
        self.clusters = tuple(cluster_of(cluster) for cluster in clusters)
        self._draw = np.random.default_rng(seed)
        self._sites = [_Site(cluster) for cluster in self.clusters]
        self._next_job = 48_000
        self._next_incident = 210
        self._now = begin
        self._idle_since = {site.cluster.name: np.full(site.cluster.cells, begin.timestamp()) for site in self._sites}
        for site in self._sites:
            back = self._draw.uniform(0, 20 * 3600, site.cluster.cells)
            self._idle_since[site.cluster.name] -= back
            self._fill(site, first=True)
            for _ in range(max(1, len(site.cluster.nodes) // 40)):
                self._break(site, begin - timedelta(minutes=float(self._draw.uniform(0, 160))))

    def frames(self, moment: datetime) -> list[SiteFrame]:
        """What the sites push at `moment`, which only grows."""
        while self._now + TICK <= moment:
            self._now += TICK
            for site in self._sites:
                self._minute(site)
        return [self._frame(site, moment) for site in self._sites]

    def _minute(self, site: _Site) -> None:
        now = self._now
        for job in [one for one in site.jobs if one.ends <= now]:
            site.jobs.remove(job)
            self._idle_since[site.cluster.name][job.cells] = now.timestamp()
        site.faults = [one for one in site.faults if now - one.began < timedelta(minutes=sum(m for _, m in STAGES))]
        if self._draw.random() < len(site.cluster.nodes) / 30_000:
            self._break(site, now)
        site.waiting = [one for one in site.waiting if self._draw.random() > WAITING_ENDS]
        while len(site.waiting) < len(site.cluster.nodes) / NODES_A_WAITING_JOB:
            site.waiting.append((str(self._draw.choice(*REASONS)), self._size(), now))
        self._fill(site, first=False)

    def _size(self) -> int:
        sizes, weights = zip(*SIZES, strict=True)
        return int(self._draw.choice(sizes, p=np.array(weights) / sum(weights)))

    def _fill(self, site: _Site, *, first: bool) -> None:
        """Start jobs, each within one share, until the target is met or several in a row have found no room."""
        cluster = site.cluster
        free = self._free(site)
        wanted = int(cluster.cells * TARGET) - (cluster.cells - int(free.sum()))
        tries = 60 if first else 4
        while wanted > 0 and tries > 0:
            size = self._size()
            in_own = self._draw.random() < site.own.mean()  # each share as often as it has GPUs
            cells = self._room(site, free & (site.own == in_own), size) if size <= cluster.cells // 4 else []
            if not cells:
                tries -= 1
                continue
            free[cells] = False
            wanted -= size
            site.jobs.append(self._job(site, cells, first=first))
        if first:
            for _ in range(len(cluster.nodes) // NODES_A_WAITING_JOB):
                waited = timedelta(minutes=float(self._draw.lognormal(3.5, 1.0)))
                site.waiting.append((str(self._draw.choice(*REASONS)), self._size(), self._now - waited))

    def _job(self, site: _Site, cells: list[int], *, first: bool) -> _Job:
        now, size = self._now, len(cells)
        limit = timedelta(hours=float(self._draw.choice((4, 8, 12, 24, 48, 72))))
        lasts = limit * float(self._draw.uniform(0.2, 1.0))
        since = now - lasts * float(self._draw.uniform(0.05, 0.9)) if first else now
        forgotten = self._draw.random() < (0.08 if size <= 16 else 0.015)
        idle_from = since + lasts * (0.3 if forgotten else 2.0)
        self._next_job += 1
        number = int(self._draw.beta(1.0, 2.2) * len(TENANTS))
        node = cells[0] // site.cluster.gpus_per_node
        shares = [share for unit in site.cluster.units for share in unit.shares]
        kind = (NAMES if size >= 64 else SMALL_NAMES)[self._next_job % 5]
        job = SiteJob(
            id=self._next_job,
            name=f"{kind}-{size}g",
            user=UserName(f"u{1000 + number * 7 + self._next_job % 5}"),
            tenant=TENANTS[number],
            share=shares[node],
            service=ServiceClass.BURST if self._draw.random() < 0.15 else ServiceClass.GUARANTEED,
            since=since,
            until=since + limit,
        )
        return _Job(job, cells, since + lasts, idle_from, float(self._draw.normal(78 if size >= 8 else 52, 12)))

    def _free(self, site: _Site) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        free = np.ones(site.cluster.cells, np.bool_)
        for job in site.jobs:
            free[job.cells] = False
        for fault in site.faults:
            if fault.incident.steps[-1].state is not IncidentState.SUSPECT:
                free[self._cells(site, fault.node)] = False
        return free

    def _cells(self, site: _Site, node: int) -> list[int]:
        first = node * site.cluster.gpus_per_node
        return list(range(first, first + site.cluster.gpus_per_node))

    def _room(self, site: _Site, free: np.ndarray[tuple[int], np.dtype[np.bool_]], size: int) -> list[int]:
        """Small jobs beside others on a node, large ones on whole nodes of one unit, then of several."""
        per = site.cluster.gpus_per_node
        counts = free.reshape(-1, per).sum(axis=1)
        if size < per:
            fits = np.flatnonzero((counts >= size) & (counts < per))
            if not len(fits):
                fits = np.flatnonzero(counts >= size)
            if not len(fits):
                return []
            node = int(fits[0])
            return [cell for cell in self._cells(site, node) if free[cell]][:size]
        need = size // per
        sizes = [len(unit.nodes) for unit in site.cluster.units]
        edges = np.concatenate([[0], np.cumsum(sizes)])
        whole = counts == per
        by_unit = [np.flatnonzero(whole[a:b]) + a for a, b in pairwise(edges)]
        order = sorted(range(len(by_unit)), key=lambda unit: (len(by_unit[unit]) < need, len(by_unit[unit])))
        if len(by_unit[order[0]]) < need:
            order = sorted(order, key=lambda unit: -len(by_unit[unit]))
        nodes = [int(node) for unit in order for node in by_unit[unit]][:need]
        return [cell for node in nodes for cell in self._cells(site, node)] if len(nodes) == need else []

    def _break(self, site: _Site, at: datetime) -> None:
        node = int(self._draw.integers(len(site.cluster.nodes)))
        if any(fault.node == node for fault in site.faults):
            return
        xid, signs, text = FAULTS[int(self._draw.integers(len(FAULTS)))]
        broken = set(self._cells(site, node))
        hit = [job for job in site.jobs if not broken.isdisjoint(job.cells)]
        self._next_incident += 1
        incident = SiteIncident(
            id=f"inc-{self._next_incident:05}",
            node=site.cluster.nodes[node],
            gpu=int(self._draw.integers(site.cluster.gpus_per_node)),
            xid=xid,
            headline=f"XID {xid}: {text}" if xid else text,
            rule="drain now: the GPU needs a reset" if xid else "drain when idle",
            steps=(SiteStep(state=IncidentState.SUSPECT, at=at),),
            requeued_at=at + timedelta(minutes=3) if hit else None,
            hit=tuple(HitJob(id=job.job.id, tenant=job.job.tenant, user=job.job.user) for job in hit),
            gpu_hours_lost=round(sum(len(job.cells) for job in hit) * float(self._draw.uniform(0.1, 0.6)), 1),
        )
        for job in hit:
            site.jobs.remove(job)
            self._idle_since[site.cluster.name][job.cells] = at.timestamp()
        site.faults.append(_Fault(incident, node, int(signs), at))

    def _frame(self, site: _Site, moment: datetime) -> SiteFrame:
        cluster, draw = site.cluster, self._draw
        cells = Cells.unknown(cluster.cells)
        cells.state[:] = CellState.FREE
        cells.use[:] = 0
        cells.heat[:] = draw.integers(30, 37, cells.count)
        cells.power[:] = draw.integers(7, 12, cells.count)
        cells.idle[:] = np.clip((moment.timestamp() - self._idle_since[cluster.name]) / 60, 1, 65_000)
        for number, job in enumerate(site.jobs, start=1):
            where = job.cells
            cells.state[where] = CellState.BUSY
            cells.job[where] = number
            if moment >= job.idle_from:
                minutes = (moment - job.idle_from).total_seconds() / 60
                cells.idle[where] = min(65_000, int(minutes))
            else:
                use = np.clip(draw.normal(job.mean, 4, len(where)), 3, 100)
                cells.idle[where] = 0
                cells.use[where] = use
                cells.power[where] = 18 + use * (0.8 if cluster.model == "b200" else 0.52)
                cells.heat[where] = 38 + use * 0.32 + draw.integers(-2, 3, len(where))
        incidents = [self._stand(site, fault, cells, moment) for fault in site.faults]
        links = [
            SiteLinks(unit=unit.name, up=64 - (2 if number % 17 == 5 else 0), all=64)
            for number, unit in enumerate(cluster.units)
        ]
        by_reason: dict[str, list[tuple[int, datetime]]] = {}
        for reason, gpus, since in site.waiting:
            by_reason.setdefault(reason, []).append((gpus, since))
        waiting = [
            SiteWaiting(
                reason=reason,
                gpus=sum(gpus for gpus, _since in rows),
                minutes=tuple(int((moment - since).total_seconds() // 60) for _gpus, since in rows),
            )
            for reason, rows in sorted(by_reason.items())
        ]
        return SiteFrame.of(
            cluster,
            moment,
            cells,
            jobs=tuple(job.job for job in site.jobs),
            waiting=tuple(waiting),
            incidents=tuple(incidents),
            links=tuple(links),
        )

    def _stand(self, site: _Site, fault: _Fault, cells: Cells, moment: datetime) -> SiteIncident:
        """Mark a fault's node in the cells, and tell how far it has come."""
        steps, at = [], fault.began
        for state, minutes in STAGES:
            if at > moment:
                break
            steps.append(SiteStep(state=state, at=at))
            at += timedelta(minutes=minutes)
        stage = steps[-1].state
        where = self._cells(site, fault.node)
        held = cells.job[where] != 0
        over = stage in {IncidentState.PROBATION, IncidentState.CLOSED}
        cells.health[where] = Severity.NOTICE if over else Severity.DECISION
        cells.health[where[fault.incident.gpu or 0]] = (Severity.NOTICE if over else Severity.FAULT) | fault.signs
        out = {
            IncidentState.DRAINING: CellState.DRAINED,
            IncidentState.DRAINED: CellState.DRAINED,
            IncidentState.REPAIRING: CellState.DOWN,
            IncidentState.VERIFYING: CellState.MAINTENANCE,
        }.get(stage)
        if out is not None:
            cells.state[where] = np.where(held, CellState.DRAINING, out)
            if out is CellState.DOWN:
                for plane in (cells.use, cells.power, cells.heat):
                    plane[where] = np.where(held, plane[where], UNKNOWN_BYTE)
        return fault.incident.model_copy(update={"steps": tuple(steps)})


# -- A server that shows it --------------------------------------------------------------------------------------------


class ShiftedClock:
    """The present, or a past that `at` was set to while the history is filled."""

    def __init__(self) -> None:
        self.at: datetime | None = None

    def now(self) -> datetime:
        return self.at or SystemClock().now()


def prepared(fleet: DemoFleet, live: LiveMap, clock: ShiftedClock, end: datetime, *, hours: float) -> None:
    """Introduce the fleet's clusters and let the map live through the hours before `end`."""
    for cluster in fleet.clusters:
        live.introduce(cluster)
    minutes = int(hours * 60)
    for back in range(minutes, -1, -1):
        clock.at = end - timedelta(minutes=back)
        for frame in fleet.frames(clock.at):
            live.take(frame)
        live.publish()
    clock.at = None


VIEWERS: Final = {
    "all": EVERYTHING,
    "government": MapViewer(everything=True),
    "provider": MapViewer(provider=ProviderName("kakao"), people=True),
    "tenant": MapViewer(organisation=TENANTS[0]),
}


def make_app(live: LiveMap) -> FastAPI:
    """The page alone; `?as=` in its address chooses who looks, which only a demo may do."""
    app = FastAPI(openapi_url=None)

    def viewer(request: Request) -> MapViewer:
        return VIEWERS.get(request.cookies.get("as", "all"), EVERYTHING)

    app.include_router(map_routes(live, viewer, simulated=True))
    return app


async def feed(fleet: DemoFleet, live: LiveMap, clock: Clock, every: float) -> None:
    """Push what the simulated sites see, for good."""
    while True:
        await asyncio.sleep(every)
        for frame in fleet.frames(clock.now()):
            live.take(frame)
        live.publish()


@click.command()
@click.option("--profile", "name", default="national", show_default=True, help="Testbed profile.")
@click.option("--port", default=8034, show_default=True)
@click.option("--hours", default=3.0, show_default=True, help="Hours of past to simulate first.")
@click.option("--every", default=5.0, show_default=True, help="Seconds between pictures.")
@click.option("--seed", default=1, show_default=True, help="Another one makes another fleet.")
def main(name: str, port: int, hours: float, every: float, seed: int) -> None:
    """Show a simulated fleet at http://127.0.0.1:PORT/map."""
    asyncio.run(_serve(name, port, hours, every, seed))


async def _serve(name: str, port: int, hours: float, every: float, seed: int) -> None:
    with tempfile.TemporaryDirectory(prefix="gpuaas-map-") as folder:
        clock, now = ShiftedClock(), datetime.now(UTC)
        fleet = DemoFleet(profile(name).clusters, now - timedelta(hours=hours), seed=seed)
        live = LiveMap(clock, history=MapHistory(Path(folder)))
        prepared(fleet, live, clock, now, hours=hours)
        click.echo(f"http://127.0.0.1:{port}/map")
        feeding = asyncio.create_task(feed(fleet, live, clock, every))
        try:
            await uvicorn.Server(uvicorn.Config(make_app(live), port=port, log_level="warning")).serve()
        finally:
            feeding.cancel()


if __name__ == "__main__":
    main()
