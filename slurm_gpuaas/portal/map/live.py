"""The map as it is now, made of what sites push.

Each site's newest frame is kept; `publish` joins them to one picture for all viewers, writes it down for the past, and
wakes the open maps. Each viewer's view of a picture, and its bytes, are made once, however many look. Lives in one
event loop.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
import structlog

from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.errors import Conflict, NotFound, Refused
from slurm_gpuaas.domain.fleet_map import (
    NO_JOB,
    UNKNOWN_BYTE,
    UNKNOWN_IDLE,
    Bytes,
    Cells,
    CellState,
    FleetLayout,
    MapCluster,
    Picture,
    delta,
    whole,
)
from slurm_gpuaas.domain.names import ClusterName, NodeName
from slurm_gpuaas.domain.site_frame import SiteFrame, SiteIncident
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.portal.map.history import MapHistory
from slurm_gpuaas.portal.map.placement import near_pairs, packed
from slurm_gpuaas.portal.map.rail import IDLE_MINUTES
from slurm_gpuaas.portal.map.source import GpuCard, JobCard, Mark, NodeCard, Past, UnitNodes
from slurm_gpuaas.portal.map.view import MapViewer, Shown, cluster_seen, view_of

MAX_SLOTS: Final = 2**16 - 1
MAX_CLUSTERS: Final = 64
KEPT_DELTAS: Final = 60
"""A map that was away longer gets a whole picture: at one picture in 5 s that is five minutes."""
MAX_VIEWS: Final = 200
HOUR_MINUTES: Final = 60
FORWARD: Final = timedelta(minutes=5)
"""How far a site's clock may be ahead of ours before its frames are refused."""

log = structlog.get_logger(__name__)


@dataclass
class _Site:
    """Newest of one cluster. `cells` point to slots of the whole fleet."""

    cluster: MapCluster
    moment: datetime | None = None
    cells: Cells | None = None
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    slot_of: dict[int, int] = field(default_factory=dict)
    incidents: dict[str, dict[str, Any]] = field(default_factory=dict)
    row: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """GPUs of a running job now. `use`: percent, of those GPUs of which it is known; None = of none. `idle`: GPUs that
    it has not used for `IDLE_MINUTES`; `idle_minutes`: how long none of those that are known has been used."""

    gpus: int
    use: float | None
    idle: int
    idle_minutes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownSite:
    """A cluster with its newest frame, None while there is none. `held` has one of each of the frame's jobs."""

    cluster: MapCluster
    frame: SiteFrame | None = None
    held: Sequence[Held] = ()


@dataclass
class _View:
    """What one viewer was told last, and the deltas that led there."""

    told: Picture
    whole: bytes | None = None
    deltas: deque[tuple[int, int, bytes]] = field(default_factory=lambda: deque(maxlen=KEPT_DELTAS))
    """(picture before, picture after, bytes)"""


class LiveMap:
    """A `MapSource`. `history` is where pictures are kept; None = nowhere, and the map has no past."""

    def __init__(self, clock: Clock, *, history: MapHistory | None = None) -> None:
        self._clock = clock
        self._history = history
        self._sites: dict[ClusterName, _Site] = {}
        self._layout = FleetLayout()
        self._free_slots: list[int] = []
        self._next_slot = 1
        self._dirty = False
        self.known: Mapping[ClusterName, KnownSite] = {}
        """Clusters as they are now, for pages. Replaced as a whole, so any thread may read it."""
        self._waker = asyncio.Event()
        self._views: OrderedDict[MapViewer, _View] = OrderedDict()
        self._use: deque[tuple[int, Bytes]] = deque(maxlen=HOUR_MINUTES)
        """Minute of the epoch, and the plane of use at its end."""
        self._picture = self._joined(0)
        self._shown = Shown(self._picture, self._layout)

    # -- From the sites ------------------------------------------------------------------------------------------------

    def introduce(self, cluster: MapCluster) -> None:
        """A site says what it is made of. What was known of a cluster with another layout is forgotten.

        Raises:
            Refused: there are more clusters than a map can hold.
        """
        known = self._sites.get(cluster.name)
        if known is not None and known.cluster.number == cluster.number:
            return
        if known is None and len(self._sites) >= MAX_CLUSTERS:
            raise Refused(f"The map holds {MAX_CLUSTERS} clusters already.", way_out="Show fewer sites.")
        if known is not None:
            self._free_slots.extend(known.slot_of.values())
        self._sites[cluster.name] = _Site(cluster)
        # By name, so that the layout is the same after a restart, whoever comes first: the past hangs on its number.
        self._sites = dict(sorted(self._sites.items()))
        self._layout = FleetLayout(tuple(site.cluster for site in self._sites.values()))
        self.known = {**self.known, cluster.name: KnownSite(cluster=cluster)}
        self._use.clear()
        self._views.clear()
        self._renew()
        self._dirty = True

    def take(self, frame: SiteFrame) -> None:
        """The newest of one site. One that is older than what is known changes nothing.

        Raises:
            Conflict: it follows a layout that the map does not know: send that first.
            Refused: its moment is in the future.
            InvalidInput: its cells make no sense.
        """
        site = self._sites.get(frame.site)
        if site is None or site.cluster.number != frame.layout or site.cluster.cells != frame.cells:
            raise Conflict(f"The map does not know layout {frame.layout} of {frame.site}.", way_out="Send it first.")
        now = self._clock.now()
        if frame.moment > now + FORWARD:
            raise Refused(
                f"The frame of {frame.site} is of {frame.moment:%Y-%m-%d %H:%M:%S %Z}, now is {now:%H:%M:%S %Z}.",
                way_out="Set the site's clock.",
            )
        if site.moment is not None and frame.moment <= site.moment:
            return
        cells = frame.unpacked()
        held = _held(cells, len(frame.jobs))
        slots = self._slots(site, frame)
        per_job = np.bincount(cells.job, minlength=len(frame.jobs) + 1).tolist()
        node_of = np.arange(cells.count) // site.cluster.gpus_per_node
        nodes = np.bincount(np.unique(np.stack([cells.job.astype(np.int64), node_of]), axis=1)[0]).tolist()
        # A row that says the same stays the same object, so that comparing pictures costs nothing.
        jobs = {}
        for number, job in enumerate(frame.jobs, start=1):
            if per_job[number]:
                row = {
                    **job.model_dump(mode="json", exclude_none=True, exclude={"since", "until"}),
                    "since": int(job.since.timestamp()),
                    "cluster": frame.site,
                    "gpus": per_job[number],
                    "nodes": nodes[number],
                }
                if job.until is not None:
                    row["until"] = int(job.until.timestamp())
                key = str(slots[number])
                jobs[key] = site.jobs[key] if site.jobs.get(key) == row else row
        site.cells = cells
        cells.job[:] = slots[cells.job]
        site.jobs = jobs
        site.incidents = {f"{frame.site}:{one.id}": _incident(frame.site, one) for one in frame.incidents}
        minute = int(frame.moment.timestamp()) // 60
        site.row = {
            "moment": int(frame.moment.timestamp()),
            "links": {one.unit: [one.up, one.all] for one in frame.links},
            "waiting": {
                one.reason: [one.gpus, sorted(minute - waited for waited in one.minutes)] for one in frame.waiting
            },
        }
        site.moment = frame.moment
        self.known = {**self.known, frame.site: KnownSite(cluster=site.cluster, frame=frame, held=held)}
        self._dirty = True

    def _slots(self, site: _Site, frame: SiteFrame) -> np.ndarray[Any, np.dtype[np.uint16]]:
        """Slot of each job of the frame in the fleet's table, from the job's place in the frame. A running job keeps
        its slot, so that a delta tells only of jobs that began or ended."""
        ids = [job.id for job in frame.jobs]
        gone = site.slot_of.keys() - set(ids)
        self._free_slots.extend(site.slot_of.pop(job) for job in gone)
        for job in ids:
            if job not in site.slot_of:
                if not self._free_slots and self._next_slot > MAX_SLOTS:
                    raise Refused(f"The map holds {MAX_SLOTS:,} running jobs already.", way_out="Show fewer sites.")
                site.slot_of[job] = self._free_slots.pop() if self._free_slots else self._next_slot
                self._next_slot = max(self._next_slot, site.slot_of[job] + 1)
        return np.array([NO_JOB, *(site.slot_of[job] for job in ids)], np.uint16)

    def publish(self) -> bool:
        """Make a picture of what came since the last one and tell the open maps. True when there was anything new.

        Its number is the second of the epoch, or one more than the last: it grows over restarts too, so a map that was
        open before one is never told a difference to another picture of the same number.
        """
        if not self._dirty:
            return False
        self._dirty = False
        self._renew()
        minute = int(self._picture.moment.timestamp()) // 60
        if self._use and self._use[-1][0] == minute:
            self._use.pop()
        self._use.append((minute, self._picture.cells.use))
        if self._history is not None and self._layout.clusters:
            try:
                self._history.add(self._picture)
            except OSError as error:  # the present matters more than its record: a full disk must not stop the map
                log.error("map-history.not-written", error=str(error))  # noqa: TRY400  # the text says all
                self._history.close()
        return True

    def _renew(self) -> None:
        """Make the newest picture of all sites and wake who waits for one."""
        number = max(self._picture.sequence + 1, int(self._clock.now().timestamp()))
        self._picture = self._joined(number)
        self._shown = Shown(self._picture, self._layout)
        self._waker.set()
        self._waker = asyncio.Event()

    def _joined(self, sequence: int) -> Picture:
        cells = Cells.unknown(self._layout.cells)
        jobs: dict[str, Any] = {}
        incidents: dict[str, Any] = {}
        sites: dict[str, Any] = {}
        for name, site in self._sites.items():
            if site.cells is not None:
                cells.put(self._layout.first[name], site.cells)
            jobs |= site.jobs
            incidents |= site.incidents
            sites[name] = site.row
        table = {"jobs": jobs, "incidents": incidents, "sites": sites}
        return Picture(self._layout.number, sequence, self._clock.now(), cells, table)

    # -- To the maps (MapSource) ---------------------------------------------------------------------------------------

    def layout(self) -> FleetLayout:
        return self._layout

    def picture(self, viewer: MapViewer) -> Picture:
        """The newest picture, with its rail, as the viewer may see it."""
        return self._view(viewer).told

    def whole(self, viewer: MapViewer) -> bytes:
        view = self._view(viewer)
        if view.whole is None:
            view.whole = whole(view.told)
        return view.whole

    def since(self, viewer: MapViewer, sequence: int) -> Sequence[tuple[int, bytes]]:
        view = self._view(viewer)
        if sequence == view.told.sequence:
            return ()
        later = [one for one in view.deltas if one[0] >= sequence]
        if later and later[0][0] == sequence:
            return [(after, data) for _before, after, data in later]
        return [(view.told.sequence, self.whole(viewer))]

    async def changed(self, sequence: int) -> None:
        while self._picture.sequence <= sequence:
            await self._waker.wait()

    def history(self, viewer: MapViewer, begin: datetime, end: datetime, limit: int) -> Iterator[bytes]:
        if self._history is None:
            return
        layout, before = self._layout, None
        for number, picture in enumerate(self._history.pictures(layout.number, begin, end)):
            if number == limit:
                return
            seen = view_of(viewer, Shown(picture, layout))
            yield whole(seen) if before is None or before.sequence >= seen.sequence else delta(before, seen)
            before = seen

    def past(self, viewer: MapViewer, begin: datetime, end: datetime) -> Past:
        spans = () if self._history is None else tuple(self._history.spans(self._layout.number))
        marks = [
            Mark(
                at=datetime.fromtimestamp(at, UTC),
                incident=key,
                node=incident["node"],
                state=state,
                headline=incident["headline"],
            )
            for key, incident in self._view(viewer).told.table["incidents"].items()
            for state, at in incident["steps"]
            if begin.timestamp() <= at < end.timestamp()
        ]
        return Past(spans=spans, marks=tuple(sorted(marks, key=lambda mark: (mark.at, mark.incident))))

    def node_card(self, viewer: MapViewer, cluster: str, node: str) -> NodeCard:
        home = self._layout.cluster(cluster)
        if home is None or node not in home.place:
            raise NotFound(
                told("The map has no node {node} of {cluster}.", node=node[:64], cluster=cluster[:64]),
                way_out=told("Choose one on the map."),
            )
        seen = self._view(viewer).told
        part = self._layout.of_node(home, NodeName.as_slurm_says(node))
        number = home.place[NodeName.as_slurm_says(node)]
        unit, share = next(
            (unit.name, share)
            for unit in home.units
            for name, share in zip(unit.nodes, unit.shares, strict=True)
            if name == node
        )
        all_seen = cluster_seen(viewer, home.provider)
        gpus = []
        for index, cell in enumerate(range(part.start, part.stop)):
            job = int(seen.cells.job[cell])
            since = 0 if all_seen else int(seen.table["jobs"][str(job)]["since"]) if job else None
            gpus.append(
                GpuCard(
                    index=index,
                    uuid_tail=home.uuid_tails[number * home.gpus_per_node + index]
                    if home.uuid_tails and all_seen
                    else "",
                    job=job,
                    use=() if since is None else self._hour_of(cell, since),
                )
            )
        incidents = sorted(
            (
                (one["steps"][0][1], key)
                for key, one in seen.table["incidents"].items()
                if one["cluster"] == cluster and one["node"] == node
            ),
            reverse=True,
        )
        return NodeCard(
            cluster=cluster,
            node=node,
            unit=unit,
            share=share,
            gpus=tuple(gpus),
            incidents=tuple(key for _at, key in incidents),
        )

    def _hour_of(self, cell: int, since: int) -> tuple[int | None, ...]:
        """Use of a cell a minute over the last hour, as far as it began after `since` (seconds of the epoch): what ran
        on the GPU before is nobody else's business."""
        known = {minute: int(plane[cell]) for minute, plane in self._use if minute * 60 >= since}
        last = int(self._picture.moment.timestamp()) // 60
        hour = [known.get(minute, UNKNOWN_BYTE) for minute in range(last - HOUR_MINUTES + 1, last + 1)]
        return tuple(None if use == UNKNOWN_BYTE else use for use in hour)

    def job_card(self, viewer: MapViewer, slot: int) -> JobCard:
        seen = self._view(viewer).told
        job = seen.table["jobs"].get(str(slot))
        home = None if job is None else self._layout.cluster(job["cluster"])
        if home is None:
            raise NotFound(told("That job is not running any more."), way_out=told("Choose another one on the map."))
        part = self._layout.part(home)
        cells = seen.cells
        mine = (cells.job[part] == slot).reshape(-1, home.gpus_per_node)
        # For where it could lie, nodes that are wholly free or wholly its own are room.
        room = ((cells.state[part] == CellState.FREE).reshape(mine.shape) | mine).all(axis=1)
        sizes = [len(unit.nodes) for unit in home.units]
        unit_of = np.repeat(np.arange(len(sizes)), sizes)
        names = [unit.name for unit in home.units]
        counts = np.bincount(unit_of[mine.any(axis=1)], minlength=len(sizes)).tolist()
        rooms = np.bincount(unit_of[room], minlength=len(sizes)).tolist()
        used = tuple(UnitNodes(unit=name, nodes=count) for name, count in zip(names, counts, strict=True) if count)
        nodes = sum(counts)
        better = packed(nodes, dict(zip(names, rooms, strict=True))) if len(used) > 1 else ()
        use = cells.use[part][mine.reshape(-1)]
        known = use[use != UNKNOWN_BYTE]
        return JobCard(
            slot=slot,
            units=used,
            fewest=len(packed(nodes, dict(zip(names, sizes, strict=True)))),
            near=near_pairs(counts),
            better=better if len(better) < len(used) else (),
            mean_use=float(known.mean()) if len(known) else None,
        )

    def _view(self, viewer: MapViewer) -> _View:
        """What the viewer sees of the newest picture; made, with its delta, when first asked for."""
        view = self._views.get(viewer)
        if view is None:
            view = _View(view_of(viewer, self._shown))
            self._views[viewer] = view
            if len(self._views) > MAX_VIEWS:
                self._views.popitem(last=False)
        elif view.told.sequence != self._picture.sequence:
            before, view.told, view.whole = view.told, view_of(viewer, self._shown), None
            if before.layout == view.told.layout:
                view.deltas.append((before.sequence, view.told.sequence, delta(before, view.told)))
            else:
                view.deltas.clear()
        self._views.move_to_end(viewer)
        return view


def _held(cells: Cells, jobs: int) -> Sequence[Held]:
    """Of each job by its number within the frame, counted from 1."""
    gpus = np.bincount(cells.job, minlength=jobs + 1)
    known = cells.use != UNKNOWN_BYTE
    counted = np.bincount(cells.job, known, jobs + 1)
    use = np.bincount(cells.job, np.where(known, cells.use, 0), jobs + 1)
    aged = cells.idle != UNKNOWN_IDLE
    idle = np.bincount(cells.job, aged & (cells.idle >= IDLE_MINUTES), jobs + 1)
    shortest = np.full(jobs + 1, UNKNOWN_IDLE, np.int64)
    np.minimum.at(shortest, cells.job[aged], cells.idle[aged])
    return tuple(
        Held(
            gpus=int(gpus[number]),
            use=float(use[number] / counted[number]) if counted[number] else None,
            idle=int(idle[number]),
            idle_minutes=0 if shortest[number] == UNKNOWN_IDLE else int(shortest[number]),
        )
        for number in range(1, jobs + 1)
    )


def _incident(site: ClusterName, incident: SiteIncident) -> dict[str, Any]:
    row = incident.model_dump(mode="json", exclude_none=True, exclude={"id", "steps", "requeued_at", "hit"})
    row["cluster"] = site
    row["id"] = incident.id
    row["steps"] = [[step.state.value, int(step.at.timestamp())] for step in incident.steps]
    row["hit"] = [[job.id, job.tenant or ""] for job in incident.hit]
    if incident.requeued_at is not None:
        row["requeued"] = int(incident.requeued_at.timestamp())
    return row
