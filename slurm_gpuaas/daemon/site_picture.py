"""The picture of this cluster for the portal, made of what gpuaasd holds anyway: Slurm as it was last read, policy,
fabric, telemetry, incidents. Pure but for `Seats`, which remembers which GPUs a job was drawn on.

Slurm is not asked which GPUs of a node a job has. On a node that a job has wholly that does not matter; on one that is
shared or partly used, a GPU's job is drawn in its place and how busy it is stays unknown.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import accumulate, islice
from typing import Final

import numpy as np

from slurm_gpuaas.domain.fleet_map import NO_JOB, Cells, CellState, MapUnit, SiteLayout
from slurm_gpuaas.domain.incidents import LATEST_EVENT
from slurm_gpuaas.domain.job_reasons import word_of
from slurm_gpuaas.domain.jobs import Job, JobId, JobPlacement, JobState
from slurm_gpuaas.domain.names import (
    ClusterName,
    GpuModel,
    NodeName,
    OrganisationName,
    PartitionName,
    ProjectName,
    ShareName,
    UserName,
)
from slurm_gpuaas.domain.nodes import Node, NodeBase, NodeFlag
from slurm_gpuaas.domain.policy import Policy
from slurm_gpuaas.domain.site_frame import (
    MAX_JOBS,
    MAX_QUEUED,
    AtGate,
    SiteFrame,
    SiteIncident,
    SiteJob,
    SiteLimit,
    SiteQueued,
    SiteRoom,
    SiteWaiting,
)
from slurm_gpuaas.domain.slurm_accounts import guaranteed_qos
from slurm_gpuaas.domain.usage import service_class
from slurm_gpuaas.domain.words import printable
from slurm_gpuaas.jobs import why
from slurm_gpuaas.jobs.gate_rules import ON_NODES, asks, free_nodes, occupied, promised
from slurm_gpuaas.quota.entitlement import entitlements
from slurm_gpuaas.topology.fabric import FabricArrays

MOST_GPUS_A_NODE: Final = 16
NO_SHARE: Final = ShareName("unassigned")
"""Of nodes that are in no share of the policy."""
NO_FABRIC: Final = "all"
"""The one unit of a cluster whose fabric is not known, and the last one of nodes that it does not know."""
MOST_REASONS: Final = 60
MOST_WAITING: Final = 50_000
"""Jobs in the sums: a frame takes no more of one reason."""
_DOWN: Final = NodeFlag.NOT_RESPONDING | NodeFlag.POWERED_DOWN | NodeFlag.FAIL
_SERVICED: Final = NodeFlag.MAINTENANCE | NodeFlag.REBOOT
_WORD: Final = re.compile(r"[A-Za-z0-9_]{1,60}")


# -- Whose -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Portals:
    """What of this cluster is the portal's business: its projects, and the logins of its people. Of everything else it
    learns how many GPUs it holds, and no name."""

    projects: Mapping[ProjectName, OrganisationName] = field(default_factory=dict)
    people: frozenset[UserName] = frozenset()

    def tenant(self, account: str) -> OrganisationName | None:
        return self.projects.get(ProjectName.as_slurm_says(account))

    def user(self, account: str, user: UserName) -> UserName | None:
        return user if self.tenant(account) is not None and user in self.people else None

    def of(self, job: Job) -> Mapping[str, object]:
        """Fields of a job that say whose it is."""
        tenant = self.tenant(job.account)
        if tenant is None:
            return {}
        return {
            "tenant": tenant,
            "project": ProjectName(job.account),
            "user": self.user(job.account, job.user),
            "name": printable(job.name, 100),
        }


# -- Layout ------------------------------------------------------------------------------------------------------------


def layout_of(
    cluster: ClusterName, nodes: Iterable[Node], policy: Policy, fabric: FabricArrays | None, *, now: datetime
) -> SiteLayout | None:
    """Nodes with GPUs in the order of the fabric, one unit a leaf group; None where there are none."""
    there = {node.name: node for node in nodes if node.gpus and NodeName.pattern.fullmatch(node.name)}
    if not there:
        return None
    shares = {
        node: share.name
        for pool in policy.pools
        if pool.cluster == cluster
        for share in pool.shares
        for node in share.node_names
    }
    models = Counter(node.model for node in there.values() if node.model)
    model = models.most_common(1)[0][0] if models else GpuModel("gpu")
    rate = policy.rate_at(model, now)
    return SiteLayout(
        name=cluster,
        model=model,
        gpus_per_node=min(MOST_GPUS_A_NODE, max(node.gpus for node in there.values())),
        units=tuple(
            MapUnit(name=name, nodes=members, shares=tuple(shares.get(node, NO_SHARE) for node in members))
            for name, members in _units(there, fabric)
        ),
        won_per_gpu_hour=None if rate is None else rate.won_per_gpu_hour,
    )


def _units(there: Mapping[NodeName, Node], fabric: FabricArrays | None) -> Iterator[tuple[str, tuple[NodeName, ...]]]:
    rest, taken = dict.fromkeys(sorted(there, key=_natural)), set[str]()
    if fabric is not None:
        members: dict[int, list[NodeName]] = defaultdict(list)
        for node, group in zip(fabric.nodes, fabric.group.tolist(), strict=True):
            if node in rest:
                del rest[node]
                members[group].append(node)
        for group in sorted(members):
            pod, leaf = fabric.paths[group]
            name = _unit_name(leaf)
            yield (name if name not in taken else _unit_name(f"{pod}-{leaf}")), tuple(members[group])
            taken.add(name)
    if rest:
        yield NO_FABRIC, tuple(rest)


def _unit_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)[:40].lstrip("._-") or "unit"


def _natural(name: str) -> tuple[tuple[str, int], ...]:
    """`n9` before `n10`."""
    return tuple((text, int(digits or 0)) for text, digits in re.findall(r"(\D*)(\d*)", name))


# -- Cells -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """What is known of one node's GPUs, by index: codes of `Cells`, and minutes idle."""

    use: Sequence[int]
    power: Sequence[int]
    heat: Sequence[int]
    idle: Sequence[int]


@dataclass(frozen=True, slots=True)
class Blemish:
    """Health plane of a node: of all its GPUs, and of the one that is broken, where it is known which."""

    all: int
    gpu: int | None = None
    one: int = 0


Seated = Mapping[NodeName, tuple[int, ...]]
"""GPUs of one job by node."""


class Seats:
    """Which GPUs of its nodes a running job is drawn on. It keeps them while it runs; a new one gets the first free."""

    def __init__(self) -> None:
        self._seats: dict[tuple[JobId, NodeName], tuple[int, ...]] = {}

    def seat(self, jobs: Iterable[Job], gpus: Mapping[NodeName, int]) -> Mapping[JobId, Seated]:
        """
        Args:
            gpus: of each node that is drawn.
        """
        wanted = {
            (job.id, node): min(count, gpus[node])
            for job in jobs
            for node, count in zip(job.nodes, _parts(job.gpus, len(job.nodes)), strict=True)
            if node in gpus and count
        }
        kept = {key: seats for key, seats in self._seats.items() if len(seats) == wanted.get(key)}
        taken: dict[NodeName, set[int]] = defaultdict(set)
        for (_, node), seats in kept.items():
            taken[node].update(seats)
        found: dict[JobId, dict[NodeName, tuple[int, ...]]] = defaultdict(dict)
        for (job, node), count in wanted.items():
            free = (seat for seat in range(gpus[node]) if seat not in taken[node])
            seats = kept.get((job, node)) or tuple(islice(free, count))
            taken[node].update(seats)
            if seats:
                found[job][node] = seats
        self._seats = {(job, node): seats for job, by_node in found.items() for node, seats in by_node.items()}
        return found


def _parts(gpus: int, nodes: int) -> list[int]:
    """GPUs on each node of a job."""
    even, odd = divmod(gpus, nodes)
    return [even + (number < odd) for number in range(nodes)]


def cells_of(
    layout: SiteLayout,
    nodes: Mapping[NodeName, Node],
    seated: Sequence[Seated],
    activity: Mapping[NodeName, Activity],
    blemishes: Mapping[NodeName, Blemish],
) -> Cells:
    """
    Args:
        seated: of each job by its number in the frame, less one.
    """
    cells = Cells.unknown(layout.cells)
    per = layout.gpus_per_node
    for number, by_node in enumerate(seated, start=1):
        for where, seats in by_node.items():
            cells.job[np.array(seats) + layout.place[where] * per] = number
    for place, name in enumerate(layout.nodes):
        node = nodes.get(name)
        if node is None:
            continue
        part = slice(place * per, place * per + min(node.gpus, per))
        job = cells.job[part]
        held = job != NO_JOB
        cells.state[part] = np.where(held, CellState.BUSY if node.usable else CellState.DRAINING, _unheld(node))
        # Slurm has more of it allocated than jobs are known: one that begins, or whose end is being cleared away.
        if node.usable and (more := node.gpus_allocated - int(held.sum())) > 0:
            cells.state[part][np.flatnonzero(~held)[:more]] = CellState.RESERVED
        if (blemish := blemishes.get(name)) is not None:
            cells.health[part] = blemish.all
            if blemish.gpu is not None and blemish.gpu < per:
                cells.health[place * per + blemish.gpu] = blemish.one
        if (found := activity.get(name)) is not None:
            shared = held.any() and not (job == job[0]).all()
            for plane in ("power", "heat") if shared else ("power", "heat", "use", "idle"):
                values = getattr(found, plane)[:per]
                getattr(cells, plane)[place * per : place * per + len(values)] = values
    return cells


def _unheld(node: Node) -> CellState:
    """State of a node's GPUs that no job holds."""
    if node.flags & _SERVICED:
        return CellState.MAINTENANCE
    if node.flags & _DOWN or node.base in {NodeBase.DOWN, NodeBase.ERROR, NodeBase.FUTURE, NodeBase.UNKNOWN}:
        return CellState.DOWN
    if node.draining:
        return CellState.DRAINED
    if node.flags & (NodeFlag.RESERVED | NodeFlag.COMPLETING):
        return CellState.RESERVED
    return CellState.FREE


# -- Jobs --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the picture is made of.

    Attributes:
        at: when Slurm was read.
        jobs, nodes: as they were read.
        placements: the gate's newest decision about each job that asks it.
        incidents: open ones, and those that closed within a week.
    """

    cluster: ClusterName
    at: datetime
    policy: Policy
    portals: Portals
    nodes: Sequence[Node]
    jobs: Sequence[Job]
    fabric: FabricArrays | None = None
    placements: Mapping[JobId, JobPlacement] = field(default_factory=dict)
    activity: Mapping[NodeName, Activity] = field(default_factory=dict)
    incidents: Sequence[SiteIncident] = ()
    blemishes: Mapping[NodeName, Blemish] = field(default_factory=dict)


def picture(reading: Reading, seats: Seats) -> tuple[SiteLayout, SiteFrame] | None:
    """None where the cluster has no GPUs. O(nodes + jobs)."""
    layout = layout_of(reading.cluster, reading.nodes, reading.policy, reading.fabric, now=reading.at)
    if layout is None:
        return None
    nodes = {node.name: node for node in reading.nodes}
    gpus = {name: min(nodes[name].gpus, layout.gpus_per_node) for name in layout.nodes}
    on_nodes = [job for job in reading.jobs if job.state in ON_NODES and job.gpus and job.nodes]
    seated = seats.seat(sorted(on_nodes, key=lambda job: job.id)[:MAX_JOBS], gpus)
    running = [job for job in on_nodes if job.id in seated]
    waiting = [job for job in reading.jobs if job.state is JobState.PENDING]
    share_of = _shares(reading.policy, reading.cluster)
    frame = SiteFrame.of(
        layout,
        reading.at,
        cells_of(layout, nodes, [seated[job.id] for job in running], reading.activity, reading.blemishes),
        jobs=tuple(
            SiteJob(
                id=job.id,
                share=share_of.get(job.partition, NO_SHARE),
                service=service_class(job.qos),
                since=job.started or job.submitted,
                until=None if (end := _end(job)) is None else min(end, LATEST_EVENT),
                **reading.portals.of(job),
            )
            for job in running
        ),
        waiting=tuple(_sums(waiting, reading.at)),
        queue=tuple(_queue(reading, waiting, nodes, share_of)),
        incidents=tuple(reading.incidents),
    )
    return layout, frame


def _shares(policy: Policy, cluster: ClusterName) -> Mapping[PartitionName, ShareName]:
    return {
        pool.partition_of(share.name): share.name
        for pool in policy.pools
        if pool.cluster == cluster
        for share in pool.shares
    }


def _end(job: Job) -> datetime | None:
    return None if job.started is None or job.time_limit is None else job.started + job.time_limit


def _reason(job: Job) -> str:
    word = word_of(job.reason)
    return word if _WORD.fullmatch(word) else "None"


def _sums(waiting: Iterable[Job], now: datetime) -> Iterator[SiteWaiting]:
    """Sums by reason, those of most jobs."""
    by_reason: dict[str, list[Job]] = defaultdict(list)
    for job in islice(waiting, MOST_WAITING):
        by_reason[_reason(job)].append(job)
    for reason, jobs in sorted(by_reason.items(), key=lambda one: -len(one[1]))[:MOST_REASONS]:
        minutes = tuple(max(0, int((now - job.submitted) / timedelta(minutes=1))) for job in jobs)
        yield SiteWaiting(reason=reason, gpus=sum(job.gpus for job in jobs), minutes=minutes)


def _queue(
    reading: Reading,
    waiting: Iterable[Job],
    nodes: Mapping[NodeName, Node],
    share_of: Mapping[PartitionName, ShareName],
) -> Iterator[SiteQueued]:
    """Waiting jobs, the portal's first, the longest waiting first."""
    now, given = reading.at, promised(reading.jobs)
    room_for, limit_for = _rooms(reading, nodes, given), _limits(reading)
    order = sorted(waiting, key=lambda job: (reading.portals.tenant(job.account) is None, job.submitted, job.id))
    for job in order[:MAX_QUEUED]:
        gate = _gate(job, reading.placements.get(job.id), job.id in given)
        room = None if gate is AtGate.PLACED else room_for(job)
        yield SiteQueued(
            id=job.id,
            share=share_of.get(job.partition, NO_SHARE),
            service=service_class(job.qos),
            gpus=job.gpus,
            submitted=job.submitted,
            minutes=None if job.time_limit is None else int(job.time_limit / timedelta(minutes=1)),
            reason=_reason(job),
            gate=gate,
            room=None
            if room is None
            else SiteRoom(
                whole=room.whole,
                nodes=room.nodes,
                gpus_per_node=room.gpus_per_node,
                free=room.free,
                enough_at=None if room.enough_at is None else max(now, min(room.enough_at, LATEST_EVENT)),
            ),
            limit=limit_for(job),
            **reading.portals.of(job),
        )


def _gate(job: Job, placement: JobPlacement | None, given: bool) -> AtGate | None:
    if given:
        return AtGate.PLACED
    if why.waits_for_better(job, placement):
        return AtGate.FOR_BETTER
    return AtGate.DECIDING if asks(job) and word_of(job.reason) == "Licenses" else None


def _rooms(
    reading: Reading, nodes: Mapping[NodeName, Node], given: Mapping[JobId, frozenset[NodeName]]
) -> Callable[[Job], why.Room | None]:
    """Room for a waiting job of a partition that the policy declares."""
    kept = {name for names in given.values() for name in names}
    free = free_nodes(nodes.values(), occupied(reading.jobs) | kept)
    found = {
        pool.partition_of(share.name): why.Rooms(
            now=reading.at,
            nodes=[nodes[name] for name in share.node_names if name in nodes],
            jobs=reading.jobs,
            free=free,
            promised=kept,
        )
        for pool in reading.policy.pools
        if pool.cluster == reading.cluster
        for share in pool.shares
    }

    def room_for(job: Job) -> why.Room | None:
        rooms = found.get(job.partition)
        return None if rooms is None else rooms.of(job)

    return room_for


def _limits(reading: Reading) -> Callable[[Job], SiteLimit | None]:
    """The guarantee that holds a job back. What else limits it only Slurm knows, and it is not asked."""
    guaranteed = {
        guaranteed_qos(one.name): one.gpus for one in entitlements(reading.policy, reading.cluster, reading.at)
    }
    in_use: Counter[str] = Counter()
    ends: dict[str, list[tuple[datetime, int]]] = defaultdict(list)
    for job in reading.jobs:
        if job.state in ON_NODES and job.qos in guaranteed:
            in_use[job.qos] += job.gpus
            if (end := _end(job)) is not None:
                ends[job.qos].append((max(reading.at, min(end, LATEST_EVENT)), job.gpus))
    left: dict[str, list[tuple[datetime, int]]] = {}
    """GPUs in use by each QOS from each end on."""
    for qos, found in ends.items():
        found.sort()
        freed = accumulate(gpus for _, gpus in found)
        left[qos] = [(end, in_use[qos] - gone) for (end, _), gone in zip(found, freed, strict=True)]

    def limit_for(job: Job) -> SiteLimit | None:
        limit = guaranteed.get(job.qos)
        if limit is None or not word_of(job.reason).startswith("QOSGrp"):
            return None
        below_at = next((end for end, rest in left.get(job.qos, ()) if rest + job.gpus <= limit), None)
        return SiteLimit(limit=limit, in_use=in_use[job.qos], below_at=below_at)

    return limit_for
