"""Taking reports of node agents: events are written down once, and open or join incidents (`incidents.judge`).

A report costs a few queries about its node, and one about the fleet when a job may be at fault, each of bounded size;
how many incidents are open elsewhere does not matter. A storm of one error costs rows only up to a cap.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

import structlog

from slurm_gpuaas.domain.audit import AuditEntry
from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.gpus import GpuIdentity, GpuStay
from slurm_gpuaas.domain.incidents import Incident, IncidentState, NodeEvent
from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.names import NodeName, UserName
from slurm_gpuaas.health.attribution import AtFault, jobs_at_fault, jobs_that_kill_nodes
from slurm_gpuaas.health.catalogue import FaultClass
from slurm_gpuaas.health.incidents import History, Step, What, judge, unfounded
from slurm_gpuaas.health.ledger import ACTOR, IncidentLedger
from slurm_gpuaas.health.overrides import Override
from slurm_gpuaas.health.repeats import is_storm, repeat_policy, same_again
from slurm_gpuaas.health.triage import DRAINING_VERDICTS, Sighting, draining_codes, one_line

JOB_AT_FAULT: Final = "job.at-fault"
"""Audit action: a job met the same application error on several nodes; its events open nothing."""
JOB_KILLS_NODES: Final = "job.kills-nodes"
"""Audit action: the hardware of several nodes failed under one job."""

NODE_EVENTS: Final = 1_000
"""Events of a node that a report is judged with; the newest."""
FLEET_EVENTS: Final = 2_000
"""Events of all nodes that are looked at for a job's fault; the newest."""
ENDED_INCIDENTS: Final = 20
"""Incidents of a node that ended lately, to which an event told late may belong."""
REMEMBERED_USERS: Final = 10_000
LATEST_REPORT: Final = timedelta(days=30)
"""An event that claims to be older is judged with the events of so long ago."""

log = structlog.get_logger(__name__)


class Intake:
    """Args:
    jobs_on: jobs that run on a node as last read, each with its user; asked once a report with events.
    wake: called when an incident was opened or got worse, so that acting on it need not wait for the next tick.
    overrides: what the site decides itself.
    """

    def __init__(
        self,
        ledger: IncidentLedger,
        *,
        jobs_on: Callable[[NodeName], Mapping[JobId, UserName]] = lambda node: {},
        wake: Callable[[], None] = lambda: None,
        overrides: Sequence[Override] = (),
    ) -> None:
        self._ledger = ledger
        self._store = ledger.store
        self._jobs_on = jobs_on
        self._wake = wake
        self._overrides = tuple(overrides)
        self._policy = repeat_policy()
        self._left_out: Counter[NodeName] = Counter()
        self._told: set[tuple[str, JobId, tuple[int, ...]]] = set()
        self._users: dict[JobId, UserName] = {}

    def ingest(self, node: NodeName, events: Sequence[NodeEvent], *, gpus: Sequence[GpuIdentity] | None = None) -> int:
        """Take an agent's report; safe to repeat. Gives how many of the events are taken care of: all of them.
        Of a storm of one error only the first are kept (`data/repeats.json`, burst).

        Args:
            gpus: what sits in the node, where the agent says so.

        Raises:
            InvalidInput: an event is of another node than the one that signed the report.
        """
        for event in events:
            if event.node != node:
                raise InvalidInput(f"Node {node} reported an event of node {event.node}.")
        if gpus is not None:
            self._store.put_gpus(node, gpus, at=self._ledger.clock.now())
        if events:
            jobs = self._jobs_on(node)
            with self._ledger.lock:
                if len(self._users) > REMEMBERED_USERS:
                    self._users.clear()
                self._users.update(jobs)
                worse = self._record(node, events, tuple(jobs))
            if worse:
                self._wake()
        return len(events)

    def _record(self, node: NodeName, events: Sequence[NodeEvent], jobs: tuple[JobId, ...]) -> bool:
        """Write down events and what they do to incidents, all or nothing. True when an incident got worse."""
        now = self._ledger.clock.now()
        since = max(min(event.seen_at for event in events), now - LATEST_REPORT) - self._policy.looks_back
        with self._store.transaction():
            known = [
                self._sighting(event, theirs)
                for event, theirs in self._store.events_with_jobs(since=since, node=node, limit=NODE_EVENTS)
            ]
            new = self._keep(node, events, jobs, known, now)
            if not new:
                return False
            sightings = [*known, *new]
            excused = self._excuse(node, sightings, new, since)
            history = self._history(node, sightings, excused, since, self._users_of(sightings, new))
            steps = self._flag(judge(new, history, now, self._policy), new, since)
            self._write(steps)
        return any(step.what in {What.OPENED, What.RAISED} for step in steps)

    def _keep(
        self,
        node: NodeName,
        events: Sequence[NodeEvent],
        jobs: tuple[JobId, ...],
        known: Sequence[Sighting],
        now: datetime,
    ) -> Sequence[Sighting]:
        """Store what is new, with the serial number of its GPU; of a storm only the first."""
        ids = {one.event.event_id for one in known}
        kept: defaultdict[tuple[object, ...], list[Sighting]] = defaultdict(list)
        for one in known:
            kept[same_again(one.event)].append(one)
        nameless = any(event.serial is None and (event.gpu is not None or event.pci) for event in events)
        stays = self._store.gpu_stays(node=node) if nameless else ()
        new = []
        for event in events:
            if event.event_id in ids:
                continue
            alike, one = kept[same_again(event)], self._sighting(with_serial(event, stays), jobs)
            # Of one code, too, a line may ask for more than all before it (74, 144 to 150 by their registers).
            if is_storm(event.seen_at, [other.event.seen_at for other in alike], self._policy) and any(
                other.asks >= one.asks for other in alike
            ):
                self._leave_out(node, event)
                continue
            if self._store.add_event(one.event, received_at=now, jobs=jobs):
                alike.append(one)
                new.append(one)
        return new

    def _leave_out(self, node: NodeName, event: NodeEvent) -> None:
        """Count what is not kept, and say so at every tenfold."""
        self._left_out[node] += 1
        number = self._left_out[node]
        if str(number).strip("0") == "1":
            self._audit("events.left-out", node, f"A storm of {event.kind} {event.code}.", {"events": number})
            log.warning("events.left_out", node=node, kind=event.kind.value, code=event.code, events=number)

    def _users_of(self, sightings: Sequence[Sighting], new: Sequence[Sighting]) -> Mapping[JobId, UserName]:
        """Whose the jobs are under which errors came that a user can cause; metering knows of those that are over."""
        codes = {code for rule in self._policy.rules if rule.different_users for code in rule.codes}
        if not any(one.event.code in codes for one in new):
            return {}
        jobs = {job for one in sightings if one.event.code in codes for job in one.jobs}
        for job in jobs - self._users.keys():
            whose = {run.user for run in self._store.usage(job=job)}
            if len(whose) == 1:  # job ids of clusters that share a store may be alike
                (self._users[job],) = whose
        return {job: self._users[job] for job in jobs & self._users.keys()}

    def _history(
        self,
        node: NodeName,
        sightings: Sequence[Sighting],
        excused: Mapping[str, JobId],
        since: datetime,
        users: Mapping[JobId, UserName],
    ) -> History:
        transitions = self._store.transitions(node=node, since=since)
        ended = dict.fromkeys(step.incident for step in transitions if step.after is IncidentState.CLOSED)
        closed = [self._store.incident(ident) for ident in [*ended][-ENDED_INCIDENTS:]]
        return History(
            incidents=[
                *(incident for incident in closed if incident is not None),
                *self._ledger.open(node),
            ],
            sightings=sightings,
            transitions=transitions,
            excused=excused,
            users=users,
        )

    # -- whose fault

    def _excuse(
        self, node: NodeName, sightings: Sequence[Sighting], new: Sequence[Sighting], since: datetime
    ) -> Mapping[str, JobId]:
        """Events that are a job's own fault, with that job."""
        if not any(one.verdict.fault_class is FaultClass.APP for one in new):
            return {}
        codes = {one.event.code for one in sightings if one.verdict.fault_class is FaultClass.APP}
        found = jobs_at_fault(self._fleet(since, codes), self._policy.job_at_fault.nodes)
        for fault in found:
            if node not in fault.nodes:
                continue  # told of when one of its nodes reported
            news = self._tell(JOB_AT_FAULT, fault, "The same application error on several nodes; the job's own fault.")
            for other in fault.nodes if news else (node,):
                for incident in unfounded(self._ledger.open(other), fault.event_ids):
                    cause = f"Fault of job {fault.job}: the same error on {len(fault.nodes)} nodes."
                    self._ledger.change(
                        incident, "incident.close", {"why": cause}, state=IncidentState.CLOSED, cause=cause
                    )
        return {event_id: fault.job for fault in found for event_id in fault.event_ids}

    def _flag(self, steps: Sequence[Step], new: Sequence[Sighting], since: datetime) -> Sequence[Step]:
        """Incidents of nodes that failed under a job under which others failed, too, say so."""
        asking = {one.event.code for one in new if one.jobs and one.verdict.drain in DRAINING_VERDICTS}
        if not asking:
            return steps
        fleet = self._fleet(since, draining_codes() | asking)
        found = jobs_that_kill_nodes(fleet, self._policy.job_at_fault.nodes)
        notes: dict[str, str] = {}
        for fault in found:
            if not any(step.event.event_id in fault.event_ids for step in steps):
                continue
            self._tell(JOB_KILLS_NODES, fault, "The hardware of several nodes failed under this job.")
            note = f"job {fault.job} ran on {len(fault.nodes)} nodes that failed"
            touched = (step.incident.id for step in steps if step.event.event_id in fault.event_ids)
            notes |= dict.fromkeys(touched, note)
        return [_noted(step, notes.get(step.incident.id)) for step in steps]

    def _sighting(self, event: NodeEvent, jobs: tuple[JobId, ...]) -> Sighting:
        return Sighting(event=event, jobs=jobs, overrides=self._overrides)

    def _fleet(self, since: datetime, codes: Iterable[int]) -> Sequence[Sighting]:
        events = self._store.events_with_jobs(since=since, codes=codes, limit=FLEET_EVENTS)
        return [self._sighting(event, jobs) for event, jobs in events]

    def _tell(self, action: str, fault: AtFault, why: str) -> bool:
        """Write an audit entry about a job once; True when it is news."""
        key = (action, fault.job, fault.codes)
        if key in self._told:
            return False
        self._told.add(key)
        codes = ",".join(str(code) for code in fault.codes)
        earlier = self._store.audit.newest(action=action, subject=f"job {fault.job}")
        if any(entry.evidence.get("codes") == codes for entry in earlier):
            return False
        job, nodes, count = int(fault.job), ",".join(fault.nodes)[:500], len(fault.nodes)
        evidence: dict[str, str | int] = {"job": job, "codes": codes, "nodes": nodes, "node_count": count}
        self._audit(action, f"job {fault.job}", why, evidence)
        log.warning(action, job=job, codes=codes, nodes=nodes)
        return True

    def _audit(self, action: str, subject: str, reason: str, evidence: Mapping[str, str | int]) -> None:
        now = self._ledger.clock.now()
        entry = AuditEntry(at=now, actor=ACTOR, action=action, subject=subject, reason=reason, evidence=evidence)
        self._store.audit.append(entry)

    def _write(self, steps: Sequence[Step]) -> None:
        """Each incident once as it is in the end; its opening and its end with their audit entries."""
        changed: dict[str, Incident] = {}
        for step in steps:
            incident, event = step.incident, step.event
            evidence = {"event_id": event.event_id, "rule": step.cause, "line": one_line(event.evidence, 500)}
            if step.what is What.OPENED:
                self._ledger.put_new(incident, evidence)
                continue
            if step.what is What.ENDED:
                changed.pop(incident.id, None)
                self._ledger.change(
                    self._ledger.get(incident.id),
                    "incident.close",
                    evidence,
                    state=IncidentState.CLOSED,
                    cause=step.cause,
                    event_ids=incident.event_ids,
                    serials=incident.serials,
                )
                continue
            changed[incident.id] = incident
            if step.what is What.RAISED:
                self._ledger.audit("incident.raise", incident, evidence)
            elif step.what is What.LATE:
                self._ledger.tell("event.late", incident, evidence)
            elif step.what is What.HINT:
                self._ledger.tell("driver.asks-nothing", incident, evidence)
        for incident in changed.values():
            self._store.put_incident(incident)


def with_serial(event: NodeEvent, stays: Sequence[GpuStay]) -> NodeEvent:
    """The event with the serial number of its GPU, where the agent did not know it and the store knows which card sat
    in the slot then. A card that fell off the bus no longer says who it is.

    Args:
        stays: of the event's node, oldest first.
    """
    if event.serial is not None:
        return event
    here = [s for s in stays if (s.pci == event.pci if event.pci else s.index == event.gpu)]
    then = [s for s in here if s.first_seen <= event.seen_at] or here[:1]
    return event.model_copy(update={"serial": then[-1].serial}) if then else event


def _noted(step: Step, note: str | None) -> Step:
    if note is None or step.what not in {What.OPENED, What.RAISED, What.JOINED} or note in step.incident.rule:
        return step
    rule = f"{step.incident.rule[: 500 - len(note) - 2]}; {note}"
    incident = step.incident.model_copy(update={"rule": rule})
    return Step(what=step.what, incident=incident, event=step.event, cause=step.cause)
