"""How events become incidents. Pure: history comes in as values, time as an argument.

`judge` takes the new events of one node and says which incidents they open, join, raise or end. It sorts them by the
time they happened, so that the order in which they were delivered within a report does not matter; across reports the
strongest verdict is the incident's, whichever came first.

Cost of a report: linear in the events of the node that `History` holds, up to sorting.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from slurm_gpuaas.domain.incidents import (
    CheckStatus,
    Drain,
    EventKind,
    Incident,
    IncidentState,
    NodeEvent,
    Remedy,
    RepairOutcome,
    Transition,
)
from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.names import UserName
from slurm_gpuaas.domain.nodes import OWNER_MARK, Node, NodeBase
from slurm_gpuaas.domain.outages import SLURMS_OWN_REASONS
from slurm_gpuaas.health.catalogue import FaultClass
from slurm_gpuaas.health.repeats import (
    RepeatPolicy,
    follows,
    repeat_policy,
    repeated,
    same_again,
    same_check,
    slot_of,
    spells,
)
from slurm_gpuaas.health.triage import (
    DRAINING_VERDICTS,
    Sighting,
    Verdict,
    one_line,
    place,
    strength,
)

__all__ = [
    "DRAINING_VERDICTS",
    "History",
    "Step",
    "What",
    "drain_reason",
    "incident_id",
    "is_down_for_a_person",
    "is_reason_of",
    "judge",
    "reason_over",
]

MAX_EVENTS: Final = 200
"""Event ids an incident lists; later ones are in the store all the same."""

CLOCKS_DIFFER: Final = timedelta(minutes=5)
"""By so much the clocks of node and daemon may differ; a report from further off is refused (`api/signing.py`)."""

OUT_OF_SERVICE: Final = frozenset(
    {
        IncidentState.DRAINING,
        IncidentState.DRAINED,
        IncidentState.REPAIRING,
        IncidentState.VERIFYING,
        IncidentState.RMA,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What is known of one node.

    Args:
        incidents: open ones, and those that ended lately, oldest first.
        sightings: its events within `RepeatPolicy.looks_back`, the new ones included.
        transitions: steps of its incidents in that time, oldest first.
        excused: events that are a job's own fault, with that job.
        users: whose the jobs are, as `repeats.repeated` takes it.
    """

    incidents: Sequence[Incident] = ()
    sightings: Sequence[Sighting] = ()
    transitions: Sequence[Transition] = ()
    excused: Mapping[str, JobId] = field(default_factory=dict)
    users: Mapping[JobId, UserName] | None = None


class What(StrEnum):
    OPENED = "opened"
    JOINED = "joined"
    RAISED = "raised"
    """Joined, and the incident asks for more now."""
    ENDED = "ended"
    """What it was about is over."""
    LATE = "late"
    """Happened before the node came back into service, told after: it is of the incident that brought it there."""
    HINT = "hint"
    """The driver asks for nothing any more: a reason to run the return checks, no clearance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one event did to one incident; `incident` is as it is after that. `cause` is one printable sentence."""

    what: What
    incident: Incident
    event: NodeEvent
    cause: str


def incident_id(event_id: str) -> str:
    """The id of the incident that an event opens: the same event opens the same incident, however often it is told."""
    return f"i{hashlib.sha256(event_id.encode()).hexdigest()[:10]}"


def judge(
    new: Sequence[Sighting], history: History, now: datetime, policy: RepeatPolicy | None = None
) -> Sequence[Step]:
    """What new events of one node do, in the order in which they happened.

    Args:
        new: events that were not known before.
    """
    policy = policy or repeat_policy()
    ids = {one.event.event_id for one in new}
    repeats = repeated(history.sightings, ids, history.excused, policy, users=history.users)
    board = _Board(history, policy, now)
    steps: list[Step] = []
    for one in sorted(new, key=lambda one: (one.event.seen_at, one.event.event_id)):
        steps.extend(board.take(one, _verdict(one, history, repeats, policy)))
    return steps


def drain_reason(incident: Incident) -> str:
    """Slurm's drain reason: owner mark, incident and evidence, printable and short enough for `sinfo -R`."""
    return one_line(f"{OWNER_MARK}{incident.id}: {incident.headline}", 200)


def is_reason_of(reason: str, incident: Incident) -> bool:
    """Whether a reason is this incident's. Slurm appends to reasons, so the beginning decides."""
    return reason.startswith(f"{OWNER_MARK}{incident.id}:")


def reason_over(node: Node, incident: Incident) -> str:
    """The reason to drain a node under: the incident's, unless it is DOWN for one that a person gave: that stays."""
    return node.reason if is_down_for_a_person(node, incident) else drain_reason(incident)


def is_down_for_a_person(node: Node, incident: Incident) -> bool:
    """Whether a node is DOWN for a reason that is neither the incident's nor Slurm's own."""
    theirs = node.reason and not is_reason_of(node.reason, incident)
    return node.base is NodeBase.DOWN and bool(theirs) and not node.reason.startswith(SLURMS_OWN_REASONS)


def _verdict(one: Sighting, history: History, repeats: Mapping[str, Verdict], policy: RepeatPolicy) -> Verdict:
    """The verdict on an event in the light of the others: the stronger of its own and that of a repeat rule."""
    own = one.verdict
    if own.asks and not own.by_driver:
        if own.fault_class is FaultClass.APP and one.event.event_id in history.excused:
            own = replace(own, drain=Drain.NO, rule=f"fault of job {history.excused[one.event.event_id]}")
        elif (cause := follows(one.event, history.sightings, policy)) is not None:
            own = replace(own, drain=Drain.NO, rule=f"follows XID {cause}")
        elif _is_cancelled(one, history.sightings, policy):
            own = replace(own, drain=Drain.NO, rule=f"XID {one.event.code} was cancelled")
    again = repeats.get(one.event.event_id)
    if again is None or _key(again) <= _key(own):
        return own
    return replace(own, drain=again.drain, fault_class=again.fault_class, rule=again.rule, headline=again.headline)


def _is_cancelled(one: Sighting, sightings: Sequence[Sighting], policy: RepeatPolicy) -> bool:
    by = {rule.code for rule in policy.cancels if rule.cancels == one.event.code}
    return bool(by) and any(
        other.event.kind is EventKind.XID
        and other.event.code in by
        and slot_of(other.event) == slot_of(one.event)
        and other.event.seen_at >= one.event.seen_at
        for other in sightings
    )


@dataclass(slots=True)
class _Case:
    """An incident while events are put to it. `first` and `last` bound the time its events happened."""

    incident: Incident
    first: datetime
    last: datetime
    same: set[tuple[object, ...]]
    boots: set[str]

    def is_near(self, event: NodeEvent, quiet: timedelta) -> bool:
        return self.first - quiet < event.seen_at < self.last + quiet

    @property
    def about_a_peer(self) -> bool:
        return bool(self.incident.event_ids) and self.incident.id == _peer_id(self.incident.event_ids[0])


class _Board:
    """The incidents of one node while a report is worked through."""

    def __init__(self, history: History, policy: RepeatPolicy, now: datetime) -> None:
        self._policy = policy
        self._now = now
        self._sightings = history.sightings
        self._known = {one.event.event_id: one for one in history.sightings}
        self._cases = [self._case(incident) for incident in history.incidents]
        self._returned = _returns(history.transitions)

    def take(self, one: Sighting, verdict: Verdict) -> Iterator[Step]:
        event = one.event
        if (case := self._before_its_return(event)) is not None:
            yield self._late(case, event)
            return
        yield from self._ends(one)
        joined = self._joins(one, verdict)
        if joined is not None:
            yield self._join(joined, event, verdict)
            if verdict.cleared:
                cause = "The driver asks for nothing any more: run the return checks; this clears nothing."
                yield Step(what=What.HINT, incident=joined.incident, event=event, cause=cause)
        elif verdict.asks:
            yield self._open(incident_id(event.event_id), event, verdict, self._just_before(event))
        if verdict.peer and (joined is not None or verdict.asks):
            yield self._suspect_peer(event, verdict)

    def _case(self, incident: Incident) -> _Case:
        events = [self._known[event_id].event for event_id in incident.event_ids if event_id in self._known]
        times = [event.seen_at for event in events] or [incident.opened_at]
        rebooted = _rebooted(incident)
        return _Case(
            incident=incident,
            first=min(times),
            last=max(times),
            same={same_again(event) for event in events},
            boots={e.boot_id for e in events if e.boot_id and (rebooted is None or e.seen_at < rebooted)},
        )

    def _just_before(self, event: NodeEvent) -> Sequence[str]:
        """What the same GPU said shortly before, in this boot, without asking for anything."""
        taken = {event_id for case in self._cases for event_id in case.incident.event_ids}
        return [
            one.event.event_id
            for one in self._sightings
            if timedelta(0) <= event.seen_at - one.event.seen_at < self._policy.quiet
            and slot_of(one.event) == slot_of(event) != ""
            and one.event.boot_id == event.boot_id
            and one.event.event_id not in {event.event_id, *taken}
        ][:MAX_EVENTS]

    def _open(self, ident: str, event: NodeEvent, verdict: Verdict, before: Sequence[str] = ()) -> Step:
        incident = Incident(
            id=ident,
            node=event.node,
            state=IncidentState.SUSPECT,
            drain=verdict.drain,
            fault_class=verdict.fault_class.value,
            rule=verdict.rule[:500],
            headline=verdict.headline[:500],
            opened_at=self._now,
            updated_at=self._now,
            event_ids=(event.event_id, *before)[:MAX_EVENTS],
            serials=(event.serial,) if event.serial else (),
        )
        self._cases.append(self._case(incident))
        return Step(what=What.OPENED, incident=incident, event=event, cause=incident.rule)

    def _join(self, case: _Case, event: NodeEvent, verdict: Verdict) -> Step:
        before = case.incident
        changes: dict[str, object] = {"updated_at": self._now, **_listed(before, event)}
        # On probation what was wrong before is mended: what fails now decides, stronger or not.
        raised = before.state is IncidentState.PROBATION or _key(verdict) > strength(before.drain, before.fault_class)
        if raised:
            changes |= {
                "drain": verdict.drain,
                "fault_class": verdict.fault_class.value,
                "rule": verdict.rule[:500],
                "headline": verdict.headline[:500],
            }
        case.incident = before.model_copy(update=changes)
        case.first, case.last = min(case.first, event.seen_at), max(case.last, event.seen_at)
        case.same.add(same_again(event))
        what = What.RAISED if raised else What.JOINED
        return Step(what=what, incident=case.incident, event=event, cause=verdict.rule)

    def _joins(self, one: Sighting, verdict: Verdict) -> _Case | None:
        """The open incident that an event is of: one whose node is out of service, or on probation and failed it, else
        the newest that is near in time, holds the same error already, or holds the cause that the event names."""
        event = one.event
        cases = [case for case in reversed(self._cases) if not case.about_a_peer]
        out = {*OUT_OF_SERVICE, *([IncidentState.PROBATION] if one.verdict.drain in DRAINING_VERDICTS else [])}
        if (case := next((case for case in cases if case.incident.state in out), None)) is not None:
            return case
        same = same_again(event)
        for case in cases:
            if case.incident.state is not IncidentState.SUSPECT:
                continue
            if case.is_near(event, self._policy.quiet) or same in case.same:
                return case
            if verdict.caused_by is not None and any(key[2] == verdict.caused_by for key in case.same):
                return case
        return None

    def _before_its_return(self, event: NodeEvent) -> _Case | None:
        """The incident that an event told late is of: its node came back into service after it. One that ended without
        its node ever leaving service takes only the same error."""
        for case in reversed(self._cases):
            returned = self._returned.get(case.incident.id)
            if returned is not None and case.incident.state not in OUT_OF_SERVICE:
                if _was_before(event, case, returned):
                    return case
            elif case.incident.state is IncidentState.CLOSED and case.incident.closed_at is not None:
                mended = event.seen_at < case.incident.closed_at and case.first - self._policy.quiet < event.seen_at
                if mended and same_again(event) in case.same:
                    return case
        return None

    def _late(self, case: _Case, event: NodeEvent) -> Step:
        case.incident = case.incident.model_copy(update=_listed(case.incident, event))
        state = case.incident.state
        cause = f"Seen before the node was back ({state}), reported after; it opens nothing."
        return Step(what=What.LATE, incident=case.incident, event=event, cause=cause)

    def _ends(self, one: Sighting) -> Iterator[Step]:
        """Suspicions that are over: their check is well again, or their code was cancelled. None that leads to more."""
        event = one.event
        if event.kind is EventKind.CHECK and event.status is CheckStatus.OK:
            within = timedelta(seconds=self._policy.flapping.within_s)
            if spells(event, self._sightings, within) >= self._policy.flapping.times:
                return
            cause = f"Check {event.check} is well again."
        else:
            rule = next((rule for rule in self._policy.cancels if rule.code == event.code), None)
            if event.kind is not EventKind.XID or rule is None:
                return
            cause = f"XID {event.code}: {rule.reason}."
        for case in self._cases:
            if case.incident.state is IncidentState.SUSPECT and self._is_all_about(case, event):
                case.incident = case.incident.model_copy(
                    update={
                        "state": IncidentState.CLOSED,
                        "closed_at": self._now,
                        "updated_at": self._now,
                        **_listed(case.incident, event),
                    }
                )
                yield Step(what=What.ENDED, incident=case.incident, event=event, cause=one_line(cause, 200))

    def _is_all_about(self, case: _Case, event: NodeEvent) -> bool:
        """Whether nothing but what `event` ends asks for the incident."""
        members = [self._known.get(event_id) for event_id in case.incident.event_ids]
        if None in members or len(members) >= MAX_EVENTS:
            return False
        over = {
            one.event.event_id
            for one in members
            if one is not None and one.event.seen_at <= event.seen_at and self._is_ended_by(one.event, event)
        }
        asking = {one.event.event_id for one in members if one is not None and one.verdict.asks}
        rules = {self._known[event_id].verdict.rule for event_id in over}
        return asking <= over and case.incident.rule in rules

    def _is_ended_by(self, earlier: NodeEvent, event: NodeEvent) -> bool:
        if event.kind is EventKind.CHECK:
            return earlier.status is not CheckStatus.OK and same_check(event, earlier)
        return slot_of(earlier) == slot_of(event) and any(
            (rule.code, rule.cancels) == (event.code, earlier.code) for rule in self._policy.cancels
        )

    def _suspect_peer(self, event: NodeEvent, verdict: Verdict) -> Step:
        """An incident of its own about the device at the other end of the link, for a person.

        A line names the link, not what it leads to. Where NVLink stays in the node, the other end is one of its
        NVSwitches or GPUs. In an NVLink domain of several nodes it may be in another node or a switch tray; which one
        is not in the line, so that the suspicion is written down at the node that told of it.
        """
        where = ", ".join([*place(event), *([f"link {verdict.link}"] if verdict.link is not None else [])])
        other = "NVSwitch or GPU of this node, or of another where the NVLink domain spans nodes"
        suspicion = Verdict(
            drain=Drain.REVIEW,
            fault_class=FaultClass.NVLINK,
            rule=one_line(f"XID {event.code} of {where or 'a GPU'} names its NVLink peer; {verdict.rule}", 500),
            headline=one_line(f"NVLink peer of {where or 'a GPU'} suspected by XID {event.code}: {other}", 500),
        )
        for case in self._cases:
            if case.about_a_peer and case.incident.state is not IncidentState.CLOSED:
                return self._join(case, event, suspicion)
        return self._open(_peer_id(event.event_id), event, suspicion)


def _key(verdict: Verdict) -> tuple[int, int]:
    return strength(verdict.drain, verdict.fault_class)


def _peer_id(event_id: str) -> str:
    return incident_id(f"{event_id}/peer")


def _listed(incident: Incident, event: NodeEvent) -> dict[str, object]:
    changes: dict[str, object] = {}
    if len(incident.event_ids) < MAX_EVENTS and event.event_id not in incident.event_ids:
        changes["event_ids"] = (*incident.event_ids, event.event_id)
    if event.serial and event.serial not in incident.serials and len(incident.serials) < MAX_EVENTS:
        changes["serials"] = (*incident.serials, event.serial)
    return changes


def _returns(transitions: Sequence[Transition]) -> Mapping[str, datetime]:
    """When the node of an incident came back into service: on probation, or at its end when it had left."""
    returned: dict[str, datetime] = {}
    for step in transitions:
        ended_outside = step.after is IncidentState.CLOSED and step.before in OUT_OF_SERVICE
        if step.after is IncidentState.PROBATION or ended_outside:
            returned[step.incident] = step.at
    return returned


def _rebooted(incident: Incident) -> datetime | None:
    """When the last reboot that mended something began."""
    done = [a.begun_at for a in incident.attempts if a.remedy is Remedy.REBOOT and a.outcome is RepairOutcome.DONE]
    return max(done, default=None)


def _was_before(event: NodeEvent, case: _Case, returned: datetime) -> bool:
    """Whether an event happened before its node's return. After a reboot the boot id tells, whatever the clocks say: an
    event of the boot that failed is of the past, one of another boot only when clocks cannot explain its time."""
    if _rebooted(case.incident) is not None and event.boot_id and case.boots:
        return event.boot_id in case.boots or event.seen_at < returned - CLOCKS_DIFFER
    return event.seen_at < returned


def unfounded(incidents: Sequence[Incident], excused: Collection[str]) -> Sequence[Incident]:
    """Suspicions of which every event turned out to be a job's own fault."""
    return tuple(
        incident
        for incident in incidents
        if incident.state is IncidentState.SUSPECT and incident.event_ids and set(incident.event_ids) <= set(excused)
    )
