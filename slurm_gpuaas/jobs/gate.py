"""The placement gate: gives waiting jobs their nodes, and holds the licences that make them wait.

Every decision is one update of one job, and what has to be known of it later stands in the job itself, so a crash at
any point leaves nothing half done. The licences are held by a reservation that runs out by itself unless a tick without
trouble extends it: a dead or failing gate lets every job through. See docs/design/0006-placement-gate.md.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Protocol

import structlog

from slurm_gpuaas.domain.audit import AuditEntry
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.giving_way import GivingWay
from slurm_gpuaas.domain.jobs import Job, JobId, JobPlacement, PlacementOutcome
from slurm_gpuaas.domain.names import ClusterName, NodeName, PartitionName
from slurm_gpuaas.domain.nodes import Node
from slurm_gpuaas.domain.policy import expand_nodes, fold_nodes
from slurm_gpuaas.jobs import gate_rules
from slurm_gpuaas.jobs.gate_rules import LICENSE, ON_NODES, Decision, Kept, Picture, Pin, Placer, asking, promised
from slurm_gpuaas.slurm.protocols import Controller, SlurmRefused
from slurm_gpuaas.slurm.records import JobChange, Reservation

ACTOR: Final = "gpuaasd/gate"
RESERVATION: Final = "gpuaas-placement-gate"
KEPT: Final = "gpuaas-wait-"
"""Before a job's number: the reservation of nodes that are kept for it while it waits for better ones."""
KEPT_FOR: Final = timedelta(minutes=2)
"""How long nobody else may be on them once the wait is over: as long as who they were lent to may take to leave."""
KEEPS: Final = frozenset({"FLEX", "IGNORE_JOBS", "MAGNETIC"})
"""The job gets its kept nodes without naming the reservation, before it begins and for longer than it lasts: nobody is
quicker when it is let go, and a dead gate keeps only others from them."""
LICENSE_ONLY: Final = "LICENSE_ONLY"
RESTART_AFTER: Final = timedelta(seconds=2)
"""A run that starts in the second in which the one before it was ended fails for good: slurmd has revoked the job's
credentials of that second ("Job credential revoked", seen on 24.11.5 in one of five runs). From the start of the second
in which the gate decides, so that at least one second lies between."""

log = structlog.get_logger(__name__)


class AuditTrail(Protocol):
    def append(self, *entries: AuditEntry) -> None: ...


class PlacementStore(Protocol):
    """What the gate needs of the store."""

    @property
    def audit(self) -> AuditTrail: ...

    def transaction(self) -> AbstractContextManager[object]: ...

    def put_placement(self, placement: JobPlacement) -> None:
        """Keep the decision about a run of a job; one for the same run replaces it."""
        ...

    def placements(self, *, job_id: JobId, limit: int) -> Sequence[JobPlacement]:
        """Decisions about a job, newest first."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSettings:
    """Args:
    licenses: how many of the gate's licence slurm.conf declares; all of them are held.
    hold: the licences are held this long beyond the last good tick.
    patience: a job that does not start on its nodes in this time is let go of them.
    longest_wait: no job waits longer than this for better nodes, whatever its user allows.
    shadow: decide and log, change nothing, hold nothing.
    """

    licenses: int = 1_000_000
    hold: timedelta = timedelta(minutes=3)
    patience: timedelta = timedelta(seconds=8)
    longest_wait: timedelta = timedelta(minutes=30)
    shadow: bool = False


class Quota(Protocol):
    """What the gate asks of the quota core."""

    def grace(self) -> Mapping[PartitionName, timedelta]:
        """How long whoever gives way in a partition may take to end."""
        ...

    def rulings(
        self,
        *,
        now: datetime,
        jobs: Sequence[Job],
        nodes: Mapping[NodeName, Node],
        promised: Mapping[JobId, frozenset[NodeName]],
        pending: Sequence[Job],
    ) -> Mapping[JobId, GivingWay]:
        """Who gives way to the pending jobs that may run as guaranteed, decided in their order.

        Args:
            promised: nodes that other waiting jobs were given and are about to start on.
        """
        ...


class _Nobody:
    """Without quotas nobody gives way but by Slurm's own word."""

    def grace(self) -> Mapping[PartitionName, timedelta]:
        return {}

    def rulings(self, **_: object) -> Mapping[JobId, GivingWay]:
        return {}


NOBODY: Final[Quota] = _Nobody()


class PlacementGate:
    """Args:
    placer: the placer of the fabric as it is now; asked for once a tick with work to do.
    partitions: nodes of each partition that the policy declares.
    quota: who gives way to guaranteed jobs.
    risks: probability that a node fails a job, of nodes where it is above the others'.
    limits: most nodes of a job that may have one of these nodes.
    recovering: jobs that lost nodes and are being brought back; they are none of the gate's meanwhile.
    """

    name = "gate"

    def __init__(
        self,
        *,
        cluster: ClusterName,
        slurm: Controller,
        store: PlacementStore,
        placer: Callable[[], Placer],
        partitions: Callable[[], Mapping[PartitionName, Collection[NodeName]]],
        clock: Clock,
        settings: GateSettings,
        quota: Quota = NOBODY,
        risks: Callable[[], Mapping[NodeName, float]] = dict,
        limits: Callable[[], Mapping[NodeName, int]] = dict,
        recovering: Callable[[], frozenset[JobId]] = frozenset,
    ) -> None:
        self._cluster = cluster
        self._slurm = slurm
        self._store = store
        self._placer = placer
        self._partitions = partitions
        self._clock = clock
        self._settings = settings
        self._quota = quota
        self._risks = risks
        self._limits = limits
        self._recovering = recovering
        self._told: dict[JobId, str] = {}
        self._looking = threading.Lock()
        self._held_until: datetime | None = None

    @property
    def license(self) -> str | None:
        """The licence that jobs may be made to ask for: only while it is there and held, or they would be refused, or
        start before anybody looked."""
        held = self._held_until is not None and self._held_until > self._clock.now()
        return LICENSE if held and not self._settings.shadow else None

    def tick(self) -> None:
        """Decide about every waiting job, then extend the hold. Nothing is extended after a failure: see the module."""
        with self._looking:
            self._look()

    def calls_off(self, number: JobId) -> bool:
        """Whether Slurm shall queue a job again that it is about to start, because it may wait for better nodes: those
        it has are kept for it. Asked by PrologSlurmctld, before anything of the job runs."""
        if self.license is None:
            return False
        with self._looking:
            jobs = self._slurm.jobs()
            job = next((job for job in jobs if job.id == number and job.state in ON_NODES), None)
            if job is None:
                return False
            picture = self._picture(jobs, self._slurm.reservations())
            decision = gate_rules.looks_again(job, picture, self._placer())
            if decision is None or decision.placement is None or decision.until is None:
                return False
            self._record(decision)
            try:
                if number not in picture.kept:
                    self._slurm.put_reservation(kept_for(decision.job, decision.placement.nodes, decision.until))
            except SlurmRefused as refusal:
                log.warning("gate.refused", job=number, outcome=decision.outcome, refusal=refusal.message)
                return False
            log.info("gate.called-off", job=number, why=decision.reason)
            return True

    def _look(self) -> None:
        jobs = self._slurm.jobs()
        reservations = self._slurm.reservations()
        decisions = self._decisions(jobs, reservations)
        kept = kept_nodes(reservations)
        stuck = [decision.job.id for decision in decisions if not self._carry_out(decision, kept)]
        if not self._settings.shadow:
            self._clear(kept, jobs, decisions)
        if stuck:
            log.warning("gate.not-extended", jobs=stuck, why="Slurm refused to open them; the hold runs out instead.")
        elif not self._settings.shadow:
            self._extend(reservations)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is decided meanwhile."""
        with self._looking:
            yield

    # -- deciding

    def _decisions(self, jobs: Sequence[Job], reservations: Sequence[Reservation]) -> list[Decision]:
        present = {job.id for job in jobs}
        self._told = {job: reason for job, reason in self._told.items() if job in present}
        if not gate_rules.in_order(jobs, kept_nodes(reservations)):
            return []
        return gate_rules.decide(self._picture(jobs, reservations), self._placer())

    def _picture(self, jobs: Sequence[Job], reservations: Sequence[Reservation]) -> Picture:
        now = self._clock.now()
        nodes = {node.name: node for node in self._slurm.nodes()}
        return Picture(
            now=now,
            jobs=jobs,
            nodes=nodes,
            partitions=self._partitions(),
            patience=self._settings.patience,
            grace=self._quota.grace(),
            rulings=self._quota.rulings(
                now=now, jobs=jobs, nodes=nodes, promised=promised(jobs), pending=asking(jobs, now)
            ),
            kept=kept_nodes(reservations),
            reserved=[
                Kept(frozenset(expand_nodes(one.nodes)), one.start)
                for one in reservations
                if one.nodes and kept_job(one.name) is None
            ],
            longest_wait=self._settings.longest_wait,
            risks=self._risks(),
            limits=self._limits(),
            recovering=self._recovering(),
        )

    # -- acting

    def _carry_out(self, decision: Decision, kept: Mapping[JobId, Kept]) -> bool:
        """False when Slurm would not even open the job."""
        job = decision.job
        if decision.until and job.id in kept and gate_rules.asks(job):
            return True
        if self._settings.shadow:
            if self._told.get(job.id) != decision.reason:
                self._told[job.id] = decision.reason
                log.info("gate.would-decide", job=job.id, outcome=decision.outcome, why=decision.reason)
            return True
        self._record(decision)
        try:
            if decision.until and job.id in kept:  # it comes back from a start that was called off
                change = JobChange(licenses=gate_rules.with_gate(job.licenses), start_time=self._clock.now())
                self._slurm.update_job(job.id, change)
            elif decision.until and decision.placement:
                self._slurm.put_reservation(kept_for(job, decision.placement.nodes, decision.until))
            else:
                if decision.placement and (one := kept.get(job.id)) and one.nodes != set(decision.placement.nodes):
                    # First: from here on these are kept for it, and it alone may start on them.
                    self._slurm.put_reservation(kept_for(job, decision.placement.nodes, one.until))
                self._slurm.update_job(job.id, change_for(decision, self._clock.now()))
        except SlurmRefused as refusal:
            log.warning("gate.refused", job=job.id, outcome=decision.outcome, refusal=refusal.message)
            if decision.placement is None:
                return False
            if decision.until:
                reason = f"Slurm would not keep nodes for it ({refusal.message}): {decision.placement.why}"
                return self._carry_out(replace(decision, until=None, reason=reason), kept)
            reason = f"Slurm refused the nodes: {refusal.message}"
            opened = replace(decision, placement=None, reason=reason, clears_pin=Pin.of(job) is not None)
            return self._carry_out(opened, kept)
        log.info("gate.decided", job=job.id, outcome=decision.outcome, why=decision.reason)
        return True

    def _clear(self, kept: Mapping[JobId, Kept], jobs: Sequence[Job], decisions: Sequence[Decision]) -> None:
        """Keep nodes no longer for jobs that neither wait for better ones nor start, or run, on them."""
        given = {decision.job.id for decision in decisions if decision.placement or decision.until}
        needed = given | promised(jobs).keys() | {job.id for job in jobs if job.state in ON_NODES}
        for number in kept.keys() - needed:
            try:
                self._slurm.delete_reservation(f"{KEPT}{number}")
            except SlurmRefused as refusal:  # it runs out by itself
                log.warning("gate.kept", job=number, refusal=refusal.message)

    def _record(self, decision: Decision) -> None:
        """Write the decision down, before it takes effect: nothing is done that nobody can read of. The same one again
        (after a crash in between) is no new entry."""
        placement = decision.placement
        record = JobPlacement(
            cluster=self._cluster,
            job_id=decision.job.id,
            restarts=decision.job.restarts,
            decided_at=self._clock.now(),
            outcome=decision.outcome,
            nodes=placement.nodes if placement else (),
            leaf_groups=placement.leaf_groups if placement else 0,
            cost=placement.cost if placement else 0.0,
            runner_up_cost=placement.runner_up_cost if placement else None,
            reason=decision.reason,
        )
        decided = (record.restarts, record.outcome, record.nodes)
        earlier = self._store.placements(job_id=record.job_id, limit=100)
        again = any((one.restarts, one.outcome, one.nodes) == decided for one in earlier)
        with self._store.transaction():
            self._store.put_placement(record)
            if not again:
                self._store.audit.append(audit_of(decision, record))

    def _extend(self, reservations: Sequence[Reservation]) -> None:
        """Keep the licences held until `hold` from now."""
        current = next((one for one in reservations if one.name == RESERVATION), None)
        wanted = hold_wanted(current, self._clock.now(), self._settings)
        if wanted:
            self._slurm.put_reservation(wanted)
        if hold := wanted or current:
            self._held_until = hold.start + hold.duration


def change_for(decision: Decision, now: datetime) -> JobChange:
    """The one update that a decision is."""
    job = decision.job
    licenses = gate_rules.without_gate(job.licenses) if gate_rules.asks(job) else None
    nodes = decision.placement.nodes if decision.placement else () if decision.clears_pin else None
    comment = gate_rules.without_pin(job.admin_comment) if decision.clears_pin else None
    if nodes:
        comment = Pin(nodes=frozenset(nodes), restarts=job.restarts, at=now).written_to(job.admin_comment)
    return JobChange(
        required_nodes=nodes,
        licenses=licenses,
        admin_comment=comment,
        start_time=now.replace(microsecond=0) + RESTART_AFTER if decision.again else None,
        unhold=decision.unholds,
    )


def kept_for(job: Job, nodes: Sequence[NodeName], until: datetime) -> Reservation:
    """Only the job, or another one of its user, may be on the nodes from `until` on; before, who ends in time may."""
    return Reservation(
        name=f"{KEPT}{job.id}",
        start=until.replace(microsecond=0),
        duration=KEPT_FOR,
        users=(job.user,),
        nodes=fold_nodes(nodes),
        flags=KEEPS,
    )


def kept_job(reservation: str) -> JobId | None:
    """Whose nodes a reservation of this name keeps."""
    found = re.fullmatch(rf"{KEPT}([1-9][0-9]{{0,9}})", reservation)
    return JobId(int(found[1])) if found else None


def kept_nodes(reservations: Sequence[Reservation]) -> dict[JobId, Kept]:
    return {
        job: Kept(frozenset(expand_nodes(one.nodes)), one.start)
        for one in reservations
        if one.nodes and (job := kept_job(one.name)) is not None
    }


def hold_wanted(current: Reservation | None, now: datetime, settings: GateSettings) -> Reservation | None:
    """The reservation to write, or None while the present one has more than two thirds of its time left."""
    end = current.start + current.duration if current else now
    if end - now > settings.hold * 2 / 3:
        return None
    # Also for one that ran out and that Slurm has not cleared away yet: it refuses to move a start.
    start = current.start if current else now.replace(microsecond=0)
    return Reservation(
        name=RESERVATION,
        start=start,
        duration=now.replace(microsecond=0) + settings.hold - start,
        users=("root",),
        licenses=f"{LICENSE}:{settings.licenses}",
        flags=frozenset({LICENSE_ONLY}),
    )


ACTIONS: Final = {
    PlacementOutcome.PINNED: "job.place",
    PlacementOutcome.OPENED: "job.open",
    PlacementOutcome.WAITING: "job.wait",
}


def audit_of(decision: Decision, record: JobPlacement) -> AuditEntry:
    action = ACTIONS[record.outcome]
    evidence: dict[str, str | int | float | bool | None] = {
        "user": decision.job.user,
        "wanted": decision.job.node_count,
        "restarts": record.restarts,
    }
    if decision.victims:
        evidence["gives_way"] = " ".join(map(str, decision.victims))
    if placement := decision.placement:
        evidence |= {
            "nodes": fold_nodes(placement.nodes),
            "pods": placement.pods,
            "leaf_groups": placement.leaf_groups,
            "cost": placement.cost,
            "gap": placement.gap,
            "runner_up_cost": placement.runner_up_cost,
        }
    return AuditEntry(
        at=record.decided_at,
        actor=ACTOR,
        action=action,
        subject=str(record.job_id),
        reason=decision.reason,
        evidence=evidence,
    )
