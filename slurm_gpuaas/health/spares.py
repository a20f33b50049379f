"""Keeps the pool of hot spares: nodes that take the place of broken ones, and run preemptible work until then.

Slurm enforces it: the reservation `gpuaas-spares` is over these nodes, for the QOS of burst jobs alone, which it
attracts (MAGNETIC) without their asking. Slurm before 25.11 has no reservations for a QOS: there spares stay idle. We
name the nodes ourselves; Slurm's own REPLACE would exchange nodes that we have just promised to somebody.

What is a spare is what the reservation says, so nothing has to be remembered over a restart. Spares are taken only from
what no grant guarantees. See docs/design/0020-spares-and-replacement.md.
"""

from __future__ import annotations

import math
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

import structlog

from slurm_gpuaas.domain.audit import AuditEntry
from slurm_gpuaas.domain.incidents import Incident
from slurm_gpuaas.domain.jobs import Job, JobId, ServiceClass
from slurm_gpuaas.domain.names import NodeName, PartitionName, QosName
from slurm_gpuaas.domain.nodes import Node
from slurm_gpuaas.domain.policy import expand_nodes, fold_nodes
from slurm_gpuaas.domain.usage import service_class
from slurm_gpuaas.health.alerts import still
from slurm_gpuaas.health.ledger import ACTOR, IncidentLedger
from slurm_gpuaas.health.recovery_rules import NOWHERE, ON_NODES, Place
from slurm_gpuaas.health.spare_rules import LOOKS_BACK, Need, Standby, choose, need
from slurm_gpuaas.slurm.protocols import Controller
from slurm_gpuaas.slurm.records import JobChange, Reservation

RESERVATION: Final = "gpuaas-spares"
FLAGS: Final = frozenset({"IGNORE_JOBS", "MAGNETIC", "STATIC", "NO_HOLD_JOBS_AFTER_END"})
LASTS: Final = timedelta(days=365)
QOS_SINCE: Final = (25, 11)
"""Slurm that can reserve nodes for a QOS."""
THIN: Final = "spares.thin"
ENOUGH: Final = "spares.enough"
"""Audit actions of a partition's pool, each once when it comes to that."""
FIRST_SEEN: Final = "spares.observed-since"
"""Mark of the store: since when failures are counted."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SparePartition:
    """A partition as the policy has it. `guaranteed` are whole nodes of grants in force; `qos` that of its burst."""

    name: PartitionName
    nodes: tuple[NodeName, ...]
    qos: QosName
    guaranteed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SpareNode:
    """`serves`: it could take a broken node's place now; `jobs` run on it, preemptible ones where it serves."""

    node: NodeName
    place: Place
    serves: bool
    jobs: tuple[JobId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionSpares:
    """The spares of a partition at one moment.

    Args:
        asked: by configuration, or as many as `need` says.
        wanted: of these, as many as grants leave.
        why: of `asked` and `wanted`, for people.
    """

    partition: PartitionName
    asked: int
    wanted: int
    need: Need
    why: str
    nodes: tuple[SpareNode, ...]

    @property
    def ready(self) -> int:
        return sum(node.serves for node in self.nodes)

    @property
    def thin(self) -> bool:
        return self.ready < self.asked


class Spares:
    """Args:
    count: in each partition; None = as many as its failures ask for.
    partitions: those that spares may be kept in.
    places: pod and leaf group of each node.
    promised: nodes that waiting jobs were given, or that jobs which lost theirs are about to get.
    limited: nodes that take no large job: who loses a node has one.
    """

    name = "spares"

    def __init__(
        self,
        *,
        slurm: Controller,
        ledger: IncidentLedger,
        count: int | None,
        partitions: Callable[[], Sequence[SparePartition]],
        places: Callable[[], Mapping[NodeName, Place]],
        promised: Callable[[], frozenset[NodeName]],
        limited: Callable[[], Collection[NodeName]] = frozenset,
    ) -> None:
        self._slurm = slurm
        self._ledger = ledger
        self._count = count
        self._partitions = partitions
        self._places = places
        self._promised = promised
        self._limited = limited
        self._lock = threading.Lock()
        self._nodes: frozenset[NodeName] | None = None
        """As the reservation said last; None until it was read."""
        self._given: set[NodeName] = set()
        """Spares that were used since the last tick."""
        self._qos: tuple[QosName, ...] | None = None
        """Who may use the reservation, as we wrote it last: Slurm does not tell. None before the first time."""
        self._standing: tuple[PartitionSpares, ...] = ()
        self._thin: frozenset[str] | None = None
        """Partitions of which it was told last that their pool is thin; None until that was read."""

    def nodes(self) -> frozenset[NodeName]:
        """The spares. A job may lose a node before the first tick: then Slurm is asked.

        Raises:
            SlurmUnavailable: it was not read yet, and cannot be.
        """
        if self._nodes is None:
            with self._lock:
                return self._read_once()
        return self._nodes

    def _read_once(self) -> frozenset[NodeName]:
        if self._nodes is None:
            self._nodes = self._kept_now()
        return self._nodes

    def standing(self) -> tuple[PartitionSpares, ...]:
        """As of the last tick."""
        return self._standing

    def give(self, nodes: Collection[NodeName]) -> None:
        """They are spares no longer; the next tick looks for others."""
        with self._lock:
            known = self._read_once()
            given = known.intersection(nodes)
            present = self._present() if given else None
            if present is None:
                return
            self._given.update(given)
            self._nodes = left = known - given
            if left:
                self._slurm.put_reservation(replace(present, nodes=fold_nodes(left)))
            else:
                self._delete()

    def tick(self) -> None:
        """Choose the spares anew where one was used or broke, or the number changed; say so when there are too few."""
        with self._lock:
            now = self._ledger.clock.now()
            before = self._kept_now()
            if self._count == 0 and not before:
                self._nodes, self._standing = frozenset(), ()
                self._warn(())
                return
            scene = _Scene(
                now=now,
                nodes={node.name: node for node in self._slurm.nodes()},
                jobs=self._slurm.jobs(),
                places=self._places(),
                closed=self._closed(),
            )
            partitions = self._partitions()
            fleet = sum(len(one.nodes) for one in partitions)
            observed, incidents = self._history(now)
            standing = []
            for one in partitions:
                needed = need(len(one.nodes), fleet, incidents, observed)
                standing.append(self._of(one, needed, scene, before))
            chosen = frozenset(node.node for one in standing for node in one.nodes)
            self._write(chosen, tuple(sorted(one.qos for one in partitions)))
            self._given.clear()
            self._standing = tuple(standing)
            self._warn(standing)

    # -- Deciding

    def _of(
        self, partition: SparePartition, needed: Need, scene: _Scene, before: frozenset[NodeName]
    ) -> PartitionSpares:
        asked = needed.spares if self._count is None else self._count
        usable = sum(name in scene.nodes and scene.nodes[name].usable for name in partition.nodes)
        left = max(usable - partition.guaranteed, 0)
        wanted = min(asked, left)
        why = needed.why if self._count is None else f"{asked} by configuration; failures ask for: {needed.why}"
        if wanted < asked:
            why += f" Grants guarantee {partition.guaranteed} of {usable} usable nodes, which leaves {left}."
        mine = [name for name in partition.nodes if name in before]
        gone = [scene.place(name) for name in mine if not scene.could_serve(name)]
        gone += [scene.place(name) for name in partition.nodes if name in self._given]
        chosen = choose(
            wanted,
            current=[scene.standby(name) for name in mine if scene.could_serve(name)],
            others=[scene.standby(name) for name in partition.nodes if name not in before and scene.could_serve(name)],
            used=scene.used,
            gone=gone,
        )
        nodes = tuple(
            SpareNode(
                node=name,
                place=scene.place(name),
                serves=scene.standby(name).serves,
                jobs=tuple(scene.on.get(name, ())),
            )
            for name in chosen
        )
        return PartitionSpares(partition=partition.name, asked=asked, wanted=wanted, need=needed, why=why, nodes=nodes)

    def _history(self, now: datetime) -> tuple[timedelta, Sequence[Incident]]:
        store = self._ledger.store
        since = store.mark(FIRST_SEEN)
        if since is None:
            store.set_mark(FIRST_SEEN, since := now.isoformat(), at=now)
        observed = min(now - datetime.fromisoformat(since), LOOKS_BACK)
        return observed, store.incidents(since=now - observed, limit=100_000)

    def _closed(self) -> frozenset[NodeName]:
        """Nodes that are none for us: promised to a job, kept from large ones, or in another reservation."""
        reserved = (
            node
            for one in self._slurm.reservations()
            if one.nodes and one.name != RESERVATION
            for node in expand_nodes(one.nodes)
        )
        return self._promised().union(self._limited(), reserved)

    def _warn(self, standing: Sequence[PartitionSpares]) -> None:
        """Once when a pool gets thin, and once when it is not any more, also over a restart."""
        if self._thin is None:
            newest = self._ledger.store.audit.newest
            told = still(newest(action=THIN, limit=10_000), newest(action=ENOUGH, limit=10_000))
            self._thin = frozenset(entry.subject for entry in told)
        pools: Mapping[str, PartitionSpares] = {one.partition: one for one in standing}
        thin = frozenset(name for name, one in pools.items() if one.thin)
        for name in sorted(thin ^ self._thin):
            one = pools.get(name)
            reason = f"No spares of partition {name} are kept any more."
            evidence: dict[str, int] = {}
            if one is not None:
                reason = f"{one.ready} of {one.asked} spares of partition {name} are ready. {one.why}"
                evidence = {"asked": one.asked, "wanted": one.wanted, "ready": one.ready}
            action = THIN if name in thin else ENOUGH
            at = self._ledger.clock.now()
            self._ledger.store.audit.append(
                AuditEntry(at=at, actor=ACTOR, action=action, subject=name, reason=reason, evidence=evidence)
            )
            log.warning(action, partition=name, **evidence)
        self._thin = thin

    # -- Slurm

    def _present(self) -> Reservation | None:
        return next((one for one in self._slurm.reservations() if one.name == RESERVATION), None)

    def _kept_now(self) -> frozenset[NodeName]:
        present = self._present()
        return frozenset(expand_nodes(present.nodes)) if present and present.nodes else frozenset()

    def _write(self, nodes: frozenset[NodeName], qos: tuple[QosName, ...]) -> None:
        """Bring the reservation to these nodes. What runs on others goes on, as ordinary work."""
        present = self._present()
        if not nodes:
            if present is not None:
                self._delete()
        else:
            now = self._ledger.clock.now().replace(microsecond=0)
            start = now if present is None else min(present.start, now)  # of one that has begun it cannot move
            ends = now + LASTS if present is None else present.start + present.duration
            by_qos = self._reserves_for_qos()
            wanted = Reservation(
                name=RESERVATION,
                start=start,
                duration=(now + LASTS if ends - now < LASTS / 2 else ends) - start,
                users=() if by_qos else ("root",),
                nodes=fold_nodes(nodes),
                flags=FLAGS if by_qos else FLAGS - {"MAGNETIC"},
                qos=qos if by_qos else (),
            )
            if present is None or self._qos != qos or (present.nodes, ends) != (wanted.nodes, start + wanted.duration):
                self._slurm.put_reservation(wanted)
                log.info("spares.kept", nodes=wanted.nodes)
            self._qos = qos
        self._nodes = nodes

    def _delete(self) -> None:
        """Slurm deletes none that a job runs in, so those leave it first."""
        for job in self._slurm.jobs():
            if job.reservation == RESERVATION and not job.state.ended:
                self._slurm.update_job(job.id, JobChange(reservation=""))
        self._slurm.delete_reservation(RESERVATION)
        log.info("spares.none")

    def _reserves_for_qos(self) -> bool:
        major, minor = self._slurm.version().split(".")[:2]
        return (int(major), int(minor)) >= QOS_SINCE


class _Scene:
    """Slurm at one moment, by node."""

    def __init__(
        self,
        *,
        now: datetime,
        nodes: Mapping[NodeName, Node],
        jobs: Iterable[Job],
        places: Mapping[NodeName, Place],
        closed: frozenset[NodeName],
    ) -> None:
        self.nodes = nodes
        self._places = places
        self._closed = closed
        self.on: dict[NodeName, list[JobId]] = defaultdict(list)
        self.used: dict[Place, int] = defaultdict(int)
        self._frees: dict[NodeName, float] = defaultdict(float)
        self._loss: dict[NodeName, int] = defaultdict(int)
        for job in jobs:
            if job.state not in ON_NODES:
                continue
            age = max((now - job.started).total_seconds(), 0.0) if job.started else 0.0
            left = math.inf if job.time_limit is None else max(job.time_limit.total_seconds() - age, 1.0)
            preemptible = service_class(job.qos) is ServiceClass.BURST
            for name in job.nodes:
                self.on[name].append(job.id)
                if preemptible:
                    self._loss[name] += int(job.gpus * age) + 1
                else:
                    self._frees[name] = max(self._frees[name], left)
                if len(job.nodes) > 1:
                    self.used[self.place(name)] += 1

    def place(self, name: NodeName) -> Place:
        return self._places.get(name, NOWHERE)

    def spare(self, name: NodeName) -> SpareNode:
        serves = self.standby(name).serves
        return SpareNode(node=name, place=self.place(name), serves=serves, jobs=tuple(self.on.get(name, ())))

    def could_serve(self, name: NodeName) -> bool:
        return name in self.nodes and self.nodes[name].usable and name not in self._closed

    def standby(self, name: NodeName) -> Standby:
        frees = self._frees.get(name, 0.0)
        return Standby(node=name, place=self.place(name), serves=not frees, frees_s=frees, loss=self._loss.get(name, 0))
