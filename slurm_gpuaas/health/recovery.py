"""Brings back the jobs that a fault has cost their nodes: at once, on the nodes that they still have and on spares.

`rescue` decides and promises; `tick` carries on with what is under way, one step after the other, and never waits for
Slurm in between: keep the nodes by a reservation, requeue whoever has to make room and the job itself, give the waiting
job its nodes in one update, and clear up when it runs. Every step is written down before the next one and does the same
when it is done again, so a recovery that was cut off anywhere is carried on by the next daemon. What does not come to
an end within `patience` is let go: the job then waits like any other. See docs/design/0020-spares-and-replacement.md.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Final, Protocol

import structlog

from slurm_gpuaas.domain.audit import AuditEntry
from slurm_gpuaas.domain.errors import GpuaasError
from slurm_gpuaas.domain.incidents import Incident
from slurm_gpuaas.domain.jobs import Job, JobId, JobState, ServiceClass
from slurm_gpuaas.domain.names import NodeName, PartitionName
from slurm_gpuaas.domain.nodes import Node
from slurm_gpuaas.domain.policy import expand_nodes, fold_nodes
from slurm_gpuaas.domain.recoveries import OPEN_RECOVERIES, RecoveryState
from slurm_gpuaas.domain.recoveries import Recovery as Record
from slurm_gpuaas.domain.usage import service_class
from slurm_gpuaas.health import recovery_rules as rules
from slurm_gpuaas.health.ledger import ACTOR, Evidence, IncidentLedger
from slurm_gpuaas.health.recovery_rules import ON_NODES, Place, Stock
from slurm_gpuaas.slurm.protocols import Controller, SlurmRefused
from slurm_gpuaas.slurm.records import JobChange, Reservation

CONTROLLER: Final = "recovery"
"""Name in the journal of effects."""
SOON: Final = timedelta(seconds=1)
"""A requeued job that may start already when its nodes get clear is delayed by Slurm (`requeue_delay` and a second, in
`batch_requeue_fini`); one that may start a moment later is not."""

log = structlog.get_logger(__name__)


class Pins(Protocol):
    """How a waiting job is given nodes so that whoever places jobs knows them for promised."""

    def promised(self, jobs: Sequence[Job]) -> Mapping[JobId, frozenset[NodeName]]:
        """Nodes that waiting jobs were given and are about to start on."""
        ...

    def are_ours(self, job: Job) -> bool:
        """Whether the nodes that the job asks for are those that we gave it."""
        ...

    def put(self, job: Job, nodes: Sequence[NodeName], now: datetime) -> JobChange:
        """The change that gives a waiting job these nodes, for the run that its `restarts` say."""
        ...

    def take(self, job: Job) -> JobChange:
        """The change that takes them back."""
        ...


class SpareNodes(Protocol):
    """The pool that replacements are taken from."""

    def nodes(self) -> frozenset[NodeName]: ...

    def give(self, nodes: Collection[NodeName]) -> None:
        """They are spares no longer: no other preemptible job may start on them. Giving them twice is giving once."""
        ...


class _NoSpares:
    def nodes(self) -> frozenset[NodeName]:
        return frozenset()

    def give(self, nodes: Collection[NodeName]) -> None:
        """There is nothing to give."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoverySettings:
    """
    Args:
        patience: a job that does not run on its nodes in this time is let go of them.
        most_requeues: a job that lost its nodes more often within 24 h is held.
    """

    patience: timedelta = timedelta(minutes=2)
    most_requeues: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What a picture of the cluster is made of."""

    slurm: Controller
    pins: Pins | None
    spares: SpareNodes
    partitions: Callable[[], Mapping[PartitionName, Collection[NodeName]]]
    places: Callable[[], Mapping[NodeName, Place]]
    limits: Callable[[], Mapping[NodeName, int]]
    now: Callable[[], datetime]


class Recovery:
    """Args:
    slurm: its readings must be fresh.
    pins: None where nobody may be given nodes: every job is queued again like any other.
    partitions: nodes of each partition that the policy declares.
    places: pod and leaf group of each node.
    limits: most nodes of a job that may have one of these nodes.
    requeued: called when a job waits again that is nobody's in hand: whoever places jobs need not wait for its turn.
    wake: called when there is something for `tick` to do.
    ended: called when spares may have been used.
    """

    def __init__(
        self,
        *,
        slurm: Controller,
        ledger: IncidentLedger,
        settings: RecoverySettings | None = None,
        pins: Pins | None = None,
        spares: SpareNodes | None = None,
        partitions: Callable[[], Mapping[PartitionName, Collection[NodeName]]] = dict,
        places: Callable[[], Mapping[NodeName, Place]] = dict,
        limits: Callable[[], Mapping[NodeName, int]] = dict,
        requeued: Callable[[], None] = lambda: None,
        wake: Callable[[], None] = lambda: None,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self._slurm = slurm
        self._ledger = ledger
        self._settings = settings or RecoverySettings()
        self._pins = pins
        self._spares = spares or _NoSpares()
        self._parts = _Parts(
            slurm=slurm,
            pins=pins,
            spares=self._spares,
            partitions=partitions,
            places=places,
            limits=limits,
            now=ledger.clock.now,
        )
        self._requeued = requeued
        self._wake = wake
        self._ended = ended
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._known: Mapping[JobId, Record] | None = None
        self._tidied = False

    # -- What others ask

    def in_hand(self) -> frozenset[JobId]:
        """Jobs that are being brought back: nobody else places them."""
        return frozenset(self._open())

    def promised(self) -> frozenset[NodeName]:
        """Nodes that are promised to them."""
        return frozenset(node for one in self._open().values() for node in one.nodes)

    # -- Deciding

    def rescue(self, lost: Mapping[NodeName, Incident]) -> None:
        """Decide about all jobs on lost nodes, and promise nodes to those that keep the rest of theirs.

        Args:
            lost: nodes whose jobs cannot go on, with the incident that says so. They are drained.
        """
        with self._lock:
            jobs = self._slurm.jobs()
            hit = [
                (job, there)
                for job in jobs
                if job.state in ON_NODES and (there := [node for node in job.nodes if node in lost])
            ]
            broken = [one for one in self._open().values() if not lost.keys().isdisjoint(one.nodes)]
            hit = [(job, there) for job, there in hit if job.id not in self._open()]
            if not hit and not broken:
                return
            picture = _Picture(self._parts, jobs, frozenset(lost), self.promised())
            for one in broken:
                self._again(one, picture, "another of its nodes broke")
            for job, there in sorted(hit, key=lambda one: (-len(one[0].nodes), one[0].id)):
                with self._ledger.one_refusal_stops_one(lost[there[0]], str(job.id)):
                    self._decide(job, there, lost[there[0]], picture)
        if self._open():
            self._wake()

    def _decide(self, job: Job, lost: Sequence[NodeName], incident: Incident, picture: _Picture) -> None:
        evidence: Evidence = {
            "job": job.id,
            "user": job.user,
            "nodes": len(job.nodes),
            "restarts": job.restarts,
        }
        if not job.requeue:
            why = {**evidence, "why": "submitted with --no-requeue"}
            self._ledger.tell("job.left", incident, why, key=str(job.id))
            return
        now = self._ledger.clock.now()
        record = Record(
            job_id=job.id,
            restarts=job.restarts,
            user=job.user,
            incident=incident.id,
            lost=tuple(lost),
            state=RecoveryState.PLAIN,
            begun_at=now,
        )
        known = self._ledger.store.recoveries(job_id=job.id)
        earlier = [one for one in known if one.restarts != job.restarts]
        if times := rules.too_often(earlier, self._settings.most_requeues, now):
            why_held = f"It lost nodes {times + 1} times in 24 h, so it is held: `scontrol release {job.id}` frees it."
            self._write(replace(record, state=RecoveryState.HOLDING, why=why_held), "job.hold", incident, evidence)
            return
        why_plain = "It was let go before." if len(known) > len(earlier) else picture.goes_plainly(job)
        if not why_plain:
            avoid = picture.kept_from(len(job.nodes)).union(job.excluded_nodes, *(one.lost for one in earlier))
            spares = picture.stock.replace(job, lost, of=len(job.nodes), avoid=avoid)
            if spares is not None:
                kept = tuple(node for node in job.nodes if node not in lost)
                record = replace(record, kept=kept, spares=spares, state=RecoveryState.PROMISED)
                record = replace(record, why=rules.sentence(record, picture.spares, picture.places))
                told = {**evidence, "kept": fold_nodes(kept), "spares": fold_nodes(spares), "why": record.why}
                self._write(record, "job.recover", incident, told)
                return
            why_plain = f"No node is there for {fold_nodes(lost)}."
        with self._journaled("requeue", str(job.id), {"incident": incident.id, "node": incident.node}):
            self._slurm.requeue(job.id, restarts=job.restarts)
        self._write(
            replace(record, ended_at=now, why=why_plain), "job.requeue", incident, {**evidence, "plain": why_plain}
        )
        self._requeued()

    def _again(self, record: Record, picture: _Picture, what: str) -> None:
        """Choose anew for a recovery of which some nodes cannot serve."""
        job = picture.jobs.get(record.job_id)
        bad = [node for node in record.nodes if not picture.serves(node, record)]
        if job is None or job.state.ended or not bad:
            return
        avoid = picture.kept_from(len(record.nodes)).union(job.excluded_nodes, record.lost)
        spares = picture.stock.replace(job, bad, of=len(record.nodes), avoid=avoid)
        if spares is None:
            self._let_go(record, job, f"No node is there for {fold_nodes(bad)}: {what}.")
            return
        changed = replace(
            record,
            lost=(*record.lost, *(node for node in bad if node in record.kept)),
            kept=tuple(node for node in record.kept if node not in bad),
            spares=(*(node for node in record.spares if node not in bad), *spares),
            state=RecoveryState.PROMISED,
            why=f"{fold_nodes(spares)} instead of {fold_nodes(bad)}: {what}.",
        )
        self._write(changed, "job.recover-again", None, {"spares": fold_nodes(spares), "instead_of": fold_nodes(bad)})

    # -- Carrying on

    def tick(self) -> None:
        """The next steps of everything under way, as far as Slurm has come."""
        with self._lock:
            self._tidy()
            for state, step in (
                (RecoveryState.PROMISED, self._keep),
                (RecoveryState.HOLDING, self._hold),
                (RecoveryState.REQUEUED, self._place),
                (RecoveryState.KEPT, self._make_room),
                (RecoveryState.PLACED, self._see),
            ):
                wanted = [one for one in self._open().values() if one.state is state]
                picture = _Picture(self._parts, self._slurm.jobs() if wanted else (), frozenset(), self.promised())
                for record in wanted:
                    with self._one_refusal_stops_one(record):
                        if not self._is_over(record, picture):
                            step(record, picture)

    def _is_over(self, record: Record, picture: _Picture) -> bool:
        job = picture.jobs.get(record.job_id)
        if job is None or job.state.ended:
            self._let_go(record, job, "It ended." if job else "Slurm knows it no more.")
            return True
        if record.state is RecoveryState.HOLDING:
            return False
        if job.state in ON_NODES and job.restarts > record.restarts:
            self._finish(record, job)  # also where Slurm requeued it by itself and was quicker
            return True
        if job.state in ON_NODES and record.state in {RecoveryState.REQUEUED, RecoveryState.PLACED}:
            # slurmctld was killed and has forgotten that it was requeued, and maybe what kept its nodes.
            self._write(replace(record, state=RecoveryState.PROMISED))
            return True
        if self._ledger.clock.now() - record.begun_at > self._settings.patience and job.state not in ON_NODES:
            seconds = self._settings.patience.total_seconds()
            self._let_go(record, job, f"It did not start on its nodes in {seconds:.0f} s ({job.reason}).")
            return True
        return False

    def _keep(self, record: Record, picture: _Picture) -> None:
        now = self._ledger.clock.now()
        present = picture.reservations.get(self._name(record))
        # Of one that has begun the start cannot move: it was made before a crash, or for nodes of which one broke.
        start = now.replace(microsecond=0) if present is None else present.start
        reservation = rules.reservation_for(record, start, until=now + 2 * self._settings.patience)
        self._put(record.job_id, reservation.name, lambda: self._slurm.put_reservation(reservation))
        self._spares.give(record.spares)
        self._write(replace(record, state=RecoveryState.KEPT))

    def _hold(self, record: Record, picture: _Picture) -> None:
        job = picture.jobs[record.job_id]
        if job.state in ON_NODES and job.restarts == record.restarts:
            self._put(job.id, "requeue", lambda: self._slurm.requeue(job.id, restarts=job.restarts))
        self._put(job.id, "hold", lambda: self._slurm.update_job(job.id, JobChange(priority=0)))
        self._write(replace(record, state=RecoveryState.HELD, ended_at=self._ledger.clock.now()))

    def _make_room(self, record: Record, picture: _Picture) -> None:
        """The nodes are kept, so nobody new can be on them: whoever is there now came before."""
        mine = set(record.nodes)
        there = [
            job
            for job in picture.jobs.values()
            if job.id != record.job_id and job.state in ON_NODES and not mine.isdisjoint(job.nodes)
        ]
        if any(service_class(job.qos) is not ServiceClass.BURST for job in there):
            self._again(record, picture, "another job was quicker")
            return
        for job in there:
            self._put(job.id, "make-room", lambda job=job: self._leave(job))  # type: ignore[misc]
            evidence: Evidence = {
                "for": record.job_id,
                "user": job.user,
                "nodes": fold_nodes(job.nodes),
                "requeued": job.requeue,
            }
            self._audit("job.make-room", str(job.id), f"On a spare that job {record.job_id} needs.", evidence)
        own = picture.jobs[record.job_id]
        if own.state in ON_NODES and own.restarts == record.restarts:
            self._put(own.id, "requeue", lambda: self._slurm.requeue(own.id, restarts=own.restarts))
            own = replace(own, state=JobState.PENDING, restarts=own.restarts + 1)
        self._note_requeue(record)
        try:
            # At once: slurmctld looks for jobs to start whenever a node has become clear, else only every 3 s.
            self._give_nodes(record, own)
        except SlurmRefused as refusal:
            log.info("recovery.not-yet", job=record.job_id, refusal=refusal.message)
            self._write(replace(record, state=RecoveryState.REQUEUED))

    def _leave(self, job: Job) -> None:
        """As Slurm's own preemption does (PreemptMode=REQUEUE)."""
        if job.requeue:
            self._slurm.requeue(job.id, restarts=job.restarts)
        else:
            self._slurm.cancel(job.id)

    def _place(self, record: Record, picture: _Picture) -> None:
        job = picture.jobs[record.job_id]
        if job.state is JobState.PENDING and job.restarts > record.restarts:
            self._give_nodes(record, job)

    def _give_nodes(self, record: Record, job: Job) -> None:
        if self._pins is None:
            return
        now = self._ledger.clock.now()
        change = replace(
            self._pins.put(job, record.nodes, now),
            reservation=rules.reservation_name(job.id),
            start_time=now.replace(microsecond=0) + SOON,
        )
        self._put(job.id, "place", lambda: self._slurm.update_job(job.id, change))
        self._write(replace(record, state=RecoveryState.PLACED))

    def _see(self, record: Record, picture: _Picture) -> None:
        job = picture.jobs[record.job_id]
        if any(not picture.serves(node, record) for node in record.nodes):
            self._again(record, picture, "it broke, or another job was quicker")
        elif job.eligible is not None and job.eligible > (now := self._ledger.clock.now()) + SOON:
            # Its nodes got clear later, and Slurm set its own delay.
            self._slurm.update_job(job.id, JobChange(start_time=now.replace(microsecond=0)))

    def _finish(self, record: Record, job: Job) -> None:
        """It runs. A reservation that a job names cannot be deleted, so the job leaves it first."""
        self._forget_reservation(record, job)
        now = self._ledger.clock.now()
        there = set(job.nodes) == set(record.nodes)
        state = RecoveryState.DONE if there else RecoveryState.LET_GO
        why = record.why if there else f"It runs on {fold_nodes(job.nodes)} instead."
        done = replace(record, state=state, ended_at=now, why=why)
        seconds = (now - record.begun_at).total_seconds()
        evidence: Evidence = {
            "job": job.id,
            "user": job.user,
            "nodes": fold_nodes(job.nodes),
            "kept": len(record.kept),
            "spares": fold_nodes(record.spares),
            "seconds": round(seconds, 3),
        }
        self._write(done, "job.recovered" if there else "job.let-go", None, evidence)
        self._ended()

    def _let_go(self, record: Record, job: Job | None, why: str) -> None:
        if job is not None:
            self._free(record, job)
        self._forget_reservation(record, job)
        now = self._ledger.clock.now()
        gone = replace(record, state=RecoveryState.LET_GO, ended_at=now, why=why)
        self._write(gone, "job.let-go", None, {"job": record.job_id, "why": why, "state": record.state})
        self._requeued()
        self._ended()

    def _free(self, record: Record, job: Job) -> None:
        """The job waits like any other, without nodes of ours."""
        if job.state in ON_NODES and job.restarts == record.restarts:
            self._put(job.id, "requeue", lambda: self._slurm.requeue(job.id, restarts=job.restarts))
            self._note_requeue(record)
        elif job.state is JobState.PENDING and job.reservation == self._name(record):
            change = self._pins.take(job) if self._pins else JobChange()
            self._put(job.id, "let-go", lambda: self._slurm.update_job(job.id, replace(change, reservation="")))

    def _forget_reservation(self, record: Record, job: Job | None) -> None:
        name = self._name(record)
        if job is not None and not job.state.ended and job.reservation == name:
            self._put(job.id, "leave-reservation", lambda: self._slurm.update_job(job.id, JobChange(reservation="")))
        self._put(record.job_id, "delete-reservation", lambda: self._slurm.delete_reservation(name))

    def _tidy(self) -> None:
        """Once after a start: what a crash left open is carried on, never replayed; keeps of nobody are deleted."""
        if self._tidied:
            return
        self._ledger.store.journal.interrupt(CONTROLLER, at=self._ledger.clock.now())
        mine = {rules.reservation_name(job) for job in self._open()}
        stray = [one.name for one in self._slurm.reservations() if one.name.startswith(rules.PREFIX)]
        for name in sorted(set(stray) - mine):
            try:
                for job in self._slurm.jobs():
                    if job.reservation == name and not job.state.ended:
                        self._slurm.update_job(job.id, JobChange(reservation=""))
                self._slurm.delete_reservation(name)
            except SlurmRefused as refusal:  # it runs out by itself; what is under way must not wait for it
                log.warning("recovery.stray-stays", reservation=name, refusal=refusal.message)
        self._tidied = True

    # -- Writing down

    @staticmethod
    def _name(record: Record) -> str:
        return rules.reservation_name(record.job_id)

    def _open(self) -> Mapping[JobId, Record]:
        """What is under way, as in the store: read once, and never changed in place, since other threads look at it."""
        with self._reading:
            if self._known is None:
                found = self._ledger.store.recoveries(states=OPEN_RECOVERIES)
                self._known = {one.job_id: one for one in reversed(found)}
            return self._known

    def _write(
        self, record: Record, action: str = "", incident: Incident | None = None, evidence: Evidence | None = None
    ) -> None:
        """To the store, then to memory; with an audit entry and the incident's list of jobs where that is new."""
        # The lock first, as everybody who needs both: the store lets one write at a time, too.
        with self._ledger.lock, self._ledger.store.transaction():
            self._ledger.store.put_recovery(record)
            if incident is not None and action == "job.requeue":
                jobs = self._ledger.get(incident.id).requeued_jobs
                requeued = jobs if record.job_id in jobs else (*jobs, record.job_id)
                self._ledger.change(incident, action, evidence or {}, requeued_jobs=requeued)
            elif incident is not None:
                self._ledger.audit(action, incident, evidence or {})
            elif action:
                self._audit(action, str(record.job_id), record.why, {"incident": record.incident, **(evidence or {})})
        if action and action != "job.requeue":  # of which the ledger has told
            log.info(action, job=record.job_id, state=record.state, why=record.why)
        others = {job: one for job, one in self._open().items() if job != record.job_id}
        with self._reading:
            self._known = {**others, record.job_id: record} if record.open else others

    def _note_requeue(self, record: Record) -> None:
        found = self._ledger.store.incident(record.incident)
        if found is not None and record.job_id not in found.requeued_jobs:
            self._ledger.note(found, requeued_jobs=(*found.requeued_jobs, record.job_id))

    def _audit(self, action: str, subject: str, reason: str, evidence: Evidence) -> None:
        at = self._ledger.clock.now()
        self._ledger.store.audit.append(
            AuditEntry(at=at, actor=ACTOR, action=action, subject=subject, reason=reason, evidence=evidence)
        )

    def _put(self, job: JobId, kind: str, effect: Callable[[], None]) -> None:
        with self._journaled(kind, str(job), {}):
            effect()

    @contextmanager
    def _journaled(self, kind: str, subject: str, detail: Evidence) -> Iterator[None]:
        journal, clock = self._ledger.store.journal, self._ledger.clock
        effect = journal.intend(controller=CONTROLLER, kind=kind, subject=subject, at=clock.now(), detail=detail)
        try:
            yield
        except GpuaasError:
            journal.close(effect, outcome="failed", at=clock.now())
            raise
        journal.close(effect, outcome="done", at=clock.now())

    @contextmanager
    def _one_refusal_stops_one(self, record: Record) -> Iterator[None]:
        try:
            yield
        except SlurmRefused as refusal:
            log.warning("recovery.refused", job=record.job_id, state=record.state, refusal=refusal.message)
            if self._ledger.clock.now() - record.begun_at > self._settings.patience:
                self._give_up(record, refusal.message)

    def _give_up(self, record: Record, refusal: str) -> None:
        """Slurm refuses and time is up: nothing more is tried. The reservation, if any, runs out by itself."""
        gone = replace(
            record, state=RecoveryState.LET_GO, ended_at=self._ledger.clock.now(), why=f"Slurm refused: {refusal}"
        )
        self._write(gone, "job.let-go", None, {"job": record.job_id, "refusal": refusal})
        self._requeued()
        self._ended()


class _Picture:
    """Slurm at one moment; what costs something is made when it is asked for."""

    def __init__(
        self, parts: _Parts, jobs: Sequence[Job], lost: frozenset[NodeName], given: frozenset[NodeName]
    ) -> None:
        self._parts = parts
        self._lost = lost
        self._given = given
        self.jobs = {job.id: job for job in jobs}

    def goes_plainly(self, job: Job) -> str:
        pins = self._parts.pins
        if pins is None:
            return "The placement gate only watches: no job is given nodes."
        known = self._known.get(job.partition, frozenset())
        return rules.goes_plainly(job, self.nodes, pinned_by_us=pins.are_ours(job), known=known)

    def serves(self, name: NodeName, record: Record) -> bool:
        """Whether a promised node can still be used, as far as its state and who is on it go."""
        node = self.nodes.get(name)
        usable = node is not None and node.usable and name not in self._lost
        return usable and not self._staying.get(name, set()) - {record.job_id}

    def kept_from(self, size: int) -> frozenset[NodeName]:
        """Nodes that take no job of so many nodes: on probation, or lemons."""
        return frozenset(name for name, largest in self._limits.items() if size > largest)

    @cached_property
    def _limits(self) -> Mapping[NodeName, int]:
        return self._parts.limits()

    @cached_property
    def nodes(self) -> Mapping[NodeName, Node]:
        return {node.name: node for node in self._parts.slurm.nodes()}

    @cached_property
    def reservations(self) -> Mapping[str, Reservation]:
        return {one.name: one for one in self._parts.slurm.reservations()}

    @cached_property
    def places(self) -> Mapping[NodeName, Place]:
        return self._parts.places()

    @cached_property
    def spares(self) -> frozenset[NodeName]:
        return self._parts.spares.nodes()

    @cached_property
    def stock(self) -> Stock:
        taken = set(self._lost | self._given)
        jobs = list(self.jobs.values())
        if self._parts.pins is not None:
            taken.update(node for nodes in self._parts.pins.promised(jobs).values() for node in nodes)
        for one in self.reservations.values():
            if one.nodes:
                taken.update(set(expand_nodes(one.nodes)) - self.spares)
        now = self._parts.now()
        found = rules.candidates(self.nodes.values(), jobs, spares=self.spares, taken=taken, now=now)
        return Stock(found, self.places, self._known)

    @cached_property
    def _staying(self) -> Mapping[NodeName, set[JobId]]:
        """Jobs on each node that nobody may take it from."""
        found: dict[NodeName, set[JobId]] = defaultdict(set)
        for job in self.jobs.values():
            if job.state in ON_NODES and service_class(job.qos) is not ServiceClass.BURST:
                for name in job.nodes:
                    found[name].add(job.id)
        return found

    @cached_property
    def _known(self) -> Mapping[PartitionName, frozenset[NodeName]]:
        return {name: frozenset(nodes) for name, nodes in self._parts.partitions().items()}
