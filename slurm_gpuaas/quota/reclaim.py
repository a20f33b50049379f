"""Makes room where Slurm's own preemption does not: between borrowers, and below a project's own ceiling.

Who gives way to a guaranteed job is carried out by the placement gate: it gives the job the nodes, and Slurm preempts
there (`QuotaRulings`). Two cases are left. Burst does not preempt burst in Slurm: a borrower above its fair share gives
back to one below it. And a guaranteed job whose own project fills its ceiling with burst waits for a limit, for which
Slurm preempts nobody.

For a borrower the nodes are held first, by a reservation that attracts its jobs (MAGNETIC) and ends by itself; then the
victims are requeued, or cancelled where their user said --no-requeue: Slurm's own preemption (PreemptMode=REQUEUE) does
the same, and burst that could refuse would never give back. A hold whose job is gone is deleted, and so is one that
not all victims left, or that an earlier daemon made: what it was for is decided anew.

A job that did not start in its hold waits for something that we do not know of, and each try costs somebody a run: it
is left out for longer each time (`PAUSES`), until it was seen running. So is a victim that Slurm would not let go.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog

from slurm_gpuaas.domain.audit import AuditEntry
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.giving_way import GivingWay
from slurm_gpuaas.domain.jobs import Job, JobId, JobState, ServiceClass
from slurm_gpuaas.domain.names import ClusterName, NodeName, PartitionName
from slurm_gpuaas.domain.nodes import Node, NodeBase, NodeFlag
from slurm_gpuaas.domain.policy import fold_nodes
from slurm_gpuaas.quota.decide import Decision
from slurm_gpuaas.quota.live import (
    ON_NODES,
    LiveShare,
    Scene,
    giving_way,
    live_shares,
    project_of,
    service_of,
    takes_whole_nodes,
    victims_of,
)
from slurm_gpuaas.slurm.protocols import Controller, SlurmRefused
from slurm_gpuaas.slurm.records import Reservation
from slurm_gpuaas.store import Store

ACTOR: Final = "gpuaasd/reclaim"
PREFIX: Final = "gpuaas-reclaim-"
HOLD: Final = timedelta(minutes=3)
"""Long enough for a job to end and its nodes to clear; after it the nodes are everybody's again."""
PAUSES: Final = (timedelta(minutes=3), timedelta(minutes=10), timedelta(minutes=30))
"""After the first vain try, the second, and every later one."""
FLAGS: Final = frozenset({"FLEX", "IGNORE_JOBS", "MAGNETIC"})
"""FLEX lets a job of days start in a hold of minutes and run on after it."""
COULD_RUN: Final = frozenset({"Resources", "Priority", "None", ""})
"""Pending reasons of jobs that wait for nothing but nodes."""

log = structlog.get_logger(__name__)


Promised = Callable[[Sequence[Job]], Mapping[JobId, frozenset[NodeName]]]


class QuotaRulings:
    """What the placement gate asks: reads the policy, decides by the core. Changes nothing.

    Args:
        settle: a node out of service for so long counts as lost.
        spares: nodes that wait for others to fail.
    """

    def __init__(
        self,
        *,
        cluster: ClusterName,
        store: Store,
        settle: timedelta,
        spares: Callable[[], frozenset[NodeName]] = frozenset,
    ) -> None:
        self._cluster = cluster
        self._spares = spares
        self._store = store
        self._settle = settle

    def grace(self) -> Mapping[PartitionName, timedelta]:
        pools = (pool for pool in self._store.policy().pools if pool.cluster == self._cluster)
        return {pool.partition_of(share.name): pool.grace for pool in pools for share in pool.shares}

    def rulings(
        self,
        *,
        now: datetime,
        jobs: Sequence[Job],
        nodes: Mapping[NodeName, Node],
        promised: Mapping[JobId, frozenset[NodeName]],
        pending: Sequence[Job],
    ) -> Mapping[JobId, GivingWay]:
        if not pending:
            return {}
        lost = self._store.nodes_lost(before=now - self._settle)
        scene = Scene(now=now, jobs=jobs, nodes=nodes, promised=promised, lost=lost, spares=self._spares())
        return giving_way(self._store.policy(), self._cluster, scene, pending)


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """`victims` give way to `job`; `nodes` are held for it meanwhile, none where it needs no hold."""

    job: Job
    victims: tuple[Job, ...]
    nodes: tuple[NodeName, ...]
    why: str


class _Pauses:
    """Jobs that are left alone for a while, longer each time."""

    def __init__(self) -> None:
        self._of: dict[JobId, tuple[int, datetime]] = {}

    def add(self, job: JobId, now: datetime) -> datetime:
        """Until when it pauses."""
        times = self._of[job][0] if job in self._of else 0
        until = now + PAUSES[min(times, len(PAUSES) - 1)]
        self._of[job] = times + 1, until
        return until

    def at(self, now: datetime) -> frozenset[JobId]:
        return frozenset(job for job, (_, until) in self._of.items() if now < until)

    def forget_all_but(self, jobs: frozenset[JobId]) -> None:
        self._of = {job: pause for job, pause in self._of.items() if job in jobs}


class ReclaimController:
    """Args:
    promised: nodes that waiting jobs were given by the gate.
    spares: nodes that wait for others to fail.
    shadow: say what would be done, do nothing.
    """

    def __init__(
        self,
        *,
        cluster: ClusterName,
        slurm: Controller,
        store: Store,
        clock: Clock,
        promised: Promised,
        settle: timedelta,
        spares: Callable[[], frozenset[NodeName]] = frozenset,
        shadow: bool = False,
    ) -> None:
        self._cluster = cluster
        self._slurm = slurm
        self._store = store
        self._clock = clock
        self._promised = promised
        self._settle = settle
        self._spares = spares
        self._shadow = shadow
        self._told: set[tuple[JobId, tuple[JobId, ...]]] = set()
        self._holds: dict[JobId, datetime] = {}
        """Waiting jobs that all victims made room for, and when their hold ends."""
        self._in_vain = _Pauses()
        """Waiting jobs for which it was in vain."""
        self._refused = _Pauses()
        """Victims that Slurm would not let go."""

    def tick(self) -> None:
        """One move a share at most: the next one sees what came of it."""
        jobs = self._slurm.jobs()
        self._look_back(jobs)
        held = {} if self._shadow else self._held(jobs)
        if not any(job.state is JobState.PENDING for job in jobs):
            return
        now = self._clock.now()
        scene = Scene(
            now=now,
            jobs=jobs,
            nodes={node.name: node for node in self._slurm.nodes()},
            promised=self._promised(jobs),
            lost=self._store.nodes_lost(before=now - self._settle),
            refused=self._refused.at(now),
            spares=self._spares(),
        )
        busy = frozenset(job.partition for job in held.values())
        for move in moves(scene, self._shares(scene), busy=busy, tried=self._in_vain.at(now) | self._holds.keys()):
            self._carry_out(move)

    def _shares(self, scene: Scene) -> Sequence[tuple[LiveShare, bool]]:
        policy = self._store.policy()
        return [
            (share, whole)
            for whole in (True, False)
            for share in live_shares(policy, self._cluster, scene, whole_nodes=whole).values()
        ]

    # -- Holds

    def _look_back(self, jobs: Sequence[Job]) -> None:
        """What came of earlier moves. Who runs now has had its room, and may get some again after a requeue."""
        now = self._clock.now()
        waiting = frozenset(job.id for job in jobs if job.state is JobState.PENDING)
        self._in_vain.forget_all_but(waiting)
        self._refused.forget_all_but(frozenset(job.id for job in jobs if job.state in ON_NODES))
        self._holds = {job: end for job, end in self._holds.items() if job in waiting}
        for job in jobs:
            if job.id in self._holds and self._holds[job.id] <= now:
                del self._holds[job.id]
                self._give_up(job, f"It did not start in {HOLD} on the nodes held for it.")

    def _give_up(self, job: Job, why: str) -> None:
        now = self._clock.now()
        again = self._in_vain.add(job.id, now)
        log.warning("reclaim.in-vain", job=job.id, why=why, again=again.isoformat())
        self._store.audit.append(
            AuditEntry(
                at=now,
                actor=ACTOR,
                action="reclaim.in-vain",
                subject=str(job.id),
                reason=why,
                evidence={"project": job.account, "gpus": job.gpus, "again": again.isoformat()},
            )
        )

    def _held(self, jobs: Sequence[Job]) -> Mapping[str, Job]:
        """Our holds whose job still waits, by reservation; the others are ended."""
        by_id = {job.id: job for job in jobs}
        waiting: dict[str, Job] = {}
        for reservation in self._slurm.reservations():
            found = _HOLD.fullmatch(reservation.name)
            if found is None:
                continue
            job = by_id.get(JobId(int(found[1])))
            waits = job is not None and job.state is JobState.PENDING
            if job is None or job.state.ended or (waits and job.id not in self._holds):
                self._end(reservation.name)
            elif waits:  # Slurm keeps one that a job runs in until it runs out
                waiting[reservation.name] = job
        return waiting

    def _end(self, hold: str) -> None:
        try:
            self._slurm.delete_reservation(hold)
        except SlurmRefused as refusal:  # another job of the user's slipped in and runs there; it ends by itself
            log.warning("reclaim.hold-stays", hold=hold, refusal=refusal.message)

    def _carry_out(self, move: Move) -> None:
        if self._shadow:
            key = move.job.id, tuple(victim.id for victim in move.victims)
            if key not in self._told:
                self._told.add(key)
                log.info("reclaim.would-move", job=move.job.id, victims=key[1], why=move.why)
            return
        now = self._clock.now().replace(microsecond=0)
        if move.nodes:
            name = f"{PREFIX}{move.job.id}"
            present = next((one for one in self._slurm.reservations() if one.name == name), None)
            start = now if present is None else present.start  # of one that has begun it cannot move
            hold = Reservation(
                name=name,
                start=start,
                duration=now + HOLD - start,
                users=(move.job.user,),
                nodes=fold_nodes(move.nodes),
                flags=FLAGS,
            )
            try:
                self._slurm.put_reservation(hold)
            except SlurmRefused as refusal:  # the other shares' moves and, at the next tick, other jobs go on
                self._give_up(move.job, f"Slurm held no nodes for it: {refusal.message}")
                return
        gone = [self._gives_way(victim, move) for victim in move.victims]
        if move.nodes and all(gone):
            self._holds[move.job.id] = now + HOLD  # not before: a move that failed half way is decided anew

    def _gives_way(self, victim: Job, move: Move) -> bool:
        effect = self._store.journal.intend(
            controller=ACTOR,
            kind="requeue" if victim.requeue else "cancel",
            subject=str(victim.id),
            at=self._clock.now(),
            detail={"for": move.job.id, "restarts": victim.restarts},
        )
        try:
            if victim.requeue:
                self._slurm.requeue(victim.id, restarts=victim.restarts)
            else:
                self._slurm.cancel(victim.id)
        except SlurmRefused as refusal:  # one that just ended, say: the next tick sees the rest
            self._store.journal.close(effect, outcome="failed", at=self._clock.now())
            self._refused.add(victim.id, self._clock.now())
            log.warning("reclaim.refused", job=move.job.id, victim=victim.id, refusal=refusal.message)
            return False
        with self._store.transaction():
            self._store.journal.close(effect, outcome="done", at=self._clock.now())
            self._store.audit.append(
                AuditEntry(
                    at=self._clock.now(),
                    actor=ACTOR,
                    action="job.give-way",
                    subject=str(victim.id),
                    reason=move.why,
                    evidence={
                        "for": move.job.id,
                        "project": victim.account,
                        "gpus": victim.gpus,
                        "requeued": victim.requeue,
                    },
                )
            )
        log.info("reclaim.gave-way", job=move.job.id, victim=victim.id, requeued=victim.requeue, why=move.why)
        return True


_HOLD: Final = re.compile(re.escape(PREFIX) + r"(\d{1,10})")


def moves(
    scene: Scene,
    shares: Sequence[tuple[LiveShare, bool]],
    *,
    busy: frozenset[PartitionName] = frozenset(),
    tried: frozenset[JobId] = frozenset(),
) -> Iterator[Move]:
    """The next move of each share. Pure.

    Args:
        shares: each with whether it is seen for jobs of whole nodes.
        busy: partitions with a move under way.
        tried: jobs that nodes were held for already. They take no part: one that was let start here in thought alone
            would use up room, and victims, of those behind it.
    """
    by_id = {job.id: job for job in scene.jobs}
    done = set(busy)
    for share, whole in shares:
        if share.partition in done:
            continue
        waiting = [
            job
            for job in _waiting(scene, share)
            if job.id not in tried and takes_whole_nodes(job, scene.nodes) is whole
        ]
        if not waiting:
            continue
        for decision in share.rule([share.pending(job) for job in waiting]).decisions:
            job = by_id[JobId(int(decision.job))]
            move = _move(job, decision, scene, share, by_id)
            if move is not None:
                yield move
                done.add(share.partition)
                break


def _waiting(scene: Scene, share: LiveShare) -> list[Job]:
    """Jobs of the share that wait for nodes or at the gate, in Slurm's order."""
    found = [
        job
        for job in scene.jobs
        if job.state is JobState.PENDING
        and job.partition == share.partition
        and project_of(job) in share.entitled
        and job.id not in scene.promised
        and job.priority > 0
        and job.array_job_id is None
        and not job.chooses
        and (job.reason in COULD_RUN or (job.licenses and service_of(job.qos) is not ServiceClass.BURST))
        and job.eligible is not None
        and job.eligible <= scene.now
    ]
    return sorted(found, key=lambda job: (-job.priority, job.submitted, job.id))


def _move(job: Job, decision: Decision, scene: Scene, share: LiveShare, by_id: Mapping[JobId, Job]) -> Move | None:
    victims = tuple(by_id[victim] for victim in victims_of(decision))
    if not victims:
        return None
    if decision.over_ceiling:
        return Move(job=job, victims=victims, nodes=(), why=decision.why)
    if decision.service is not ServiceClass.BURST:
        return None  # the gate's, and Slurm's own preemption
    nodes = _nodes_for(job, victims, scene, share)
    return Move(job=job, victims=victims, nodes=nodes, why=decision.why) if nodes else None


def _nodes_for(job: Job, victims: Sequence[Job], scene: Scene, share: LiveShare) -> tuple[NodeName, ...]:
    """Nodes that hold the job once the victims are gone: theirs, and free ones; none when they would not do."""
    freed: dict[NodeName, int] = {}
    for victim in victims:
        for name in victim.nodes:
            freed[name] = freed.get(name, 0) + victim.gpus // len(victim.nodes)
    one = share.entitled[project_of(job)]
    per_node = -(-job.gpus // max(job.node_count, 1))
    room = [
        name
        for name in one.share.node_names
        if (node := scene.nodes.get(name)) is not None and _free(node) + freed.get(name, 0) >= per_node
    ]
    room.sort(key=lambda name: (name not in freed, name))
    return tuple(room[: job.node_count]) if len(room) >= job.node_count else ()


def _free(node: Node) -> int:
    if not node.usable or node.base is NodeBase.DOWN or node.flags & NodeFlag.RESERVED:
        return -node.gpus
    return node.gpus - node.gpus_allocated
