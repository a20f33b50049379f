"""The RMA ledger: cases open by themselves when an incident ends in RMA, and people take them on from there.

The rules are pure; `RmaKeeper` reads incidents and opens what is missing, so that a crash in between costs nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

from slurm_gpuaas.domain.audit import AuditEntry
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.errors import Conflict
from slurm_gpuaas.domain.gpus import GpuStay
from slurm_gpuaas.domain.incidents import Incident, IncidentState, NodeEvent, Transition
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.rma import RMA_STEPS, RmaCase, RmaNote, RmaState
from slurm_gpuaas.store import Store

ACTOR: Final = "gpuaasd/rma"
OPEN_CASES: Final = tuple(state for state in RmaState if state is not RmaState.CLOSED)
MOST_EVENTS: Final = 20
"""Lines of evidence in a ticket."""
MOST_STAYS: Final = 10


def case_id(incident: str, part: str) -> str:
    """The same part of the same incident is the same case, however often it is looked at."""
    return f"r{hashlib.sha256(f'{incident}/{part}'.encode()).hexdigest()[:10]}"


def new_case(
    node: NodeName, serial: str | None, *, incident: str | None, why: str, actor: str, now: datetime
) -> RmaCase:
    origin = incident or f"{actor}/{now.isoformat()}"
    return RmaCase(
        id=case_id(origin, serial or node),
        node=node,
        serial=serial,
        incident=incident,
        state=RmaState.OPENED,
        opened_at=now,
        updated_at=now,
        notes=(RmaNote(at=now, actor=actor, state=RmaState.OPENED, text=why[:1_000]),),
    )


def cases_for(incident: Incident, known: Sequence[RmaCase], now: datetime) -> list[RmaCase]:
    """Cases that an incident in RMA still needs: one a card that its events name, or one for the node. A card that is
    on its way already gets no second one, nor does a part whose case of this incident was closed."""
    if incident.state is not IncidentState.RMA:
        return []
    under_way = {case.serial for case in known if case.state is not RmaState.CLOSED and case.serial}
    ids = {case.id for case in known}
    parts: Iterable[str | None] = incident.serials or (None,)
    cases = (
        new_case(incident.node, serial, incident=incident.id, why=incident.headline, actor=ACTOR, now=now)
        for serial in parts
        if serial not in under_way
    )
    return [case for case in cases if case.id not in ids]


def advanced(
    case: RmaCase,
    *,
    actor: str,
    now: datetime,
    state: RmaState | None = None,
    text: str = "",
    vendor_case: str | None = None,
    new_serial: str | None = None,
) -> RmaCase:
    """The case with what was done or learnt.

    Raises:
        Conflict: no such step leads from where the case is.
    """
    target = state or case.state
    if target is not case.state and target not in RMA_STEPS[case.state]:
        steps = ", ".join(sorted(RMA_STEPS[case.state])) or "nothing"
        raise Conflict(
            f"Case {case.id} is {case.state}, which {target} does not follow; what follows is {steps}.",
            way_out=f"gpuaas rma show {case.id}",
        )
    return case.model_copy(
        update={
            "state": target,
            "updated_at": now,
            "vendor_case": case.vendor_case if vendor_case is None else vendor_case,
            "new_serial": case.new_serial if new_serial is None else new_serial,
            "notes": (*case.notes, RmaNote(at=now, actor=actor, state=target, text=text)),
        }
    )


def ticket(
    case: RmaCase,
    incident: Incident | None,
    events: Sequence[NodeEvent],
    transitions: Sequence[Transition],
    stays: Sequence[GpuStay],
) -> str:
    """Text for the manufacturer's ticket, whoever that is: what happened, the evidence as it was logged, what was
    tried, where the part sat. Counters are those that evidence lines hold: a reset clears the GPU's own.

    Args:
        events: the incident's, oldest first.
        stays: of the card, or of the node's cards.
    """
    ours = [event for event in events if case.serial is None or event.serial in (None, case.serial)]
    known = next((event for event in reversed(ours) if event.serial == case.serial), None)
    last = max((stay for stay in stays if stay.serial == case.serial), key=lambda stay: stay.last_seen, default=None)
    lines = [
        f"Request for replacement, our case {case.id}"
        + (f", your case {case.vendor_case}" if case.vendor_case else ""),
        "",
        f"Part           : {'GPU' if case.serial else 'whole node, or a GPU of it whose serial number is not known'}",
        f"Serial number  : {case.serial or 'not known'}",
        f"Node           : {case.node}",
        f"Slot           : {_slot(known, last)}",
        f"Product        : {_or_unknown(known.product if known else None)}",
        f"Driver         : {_or_unknown(known.driver_version if known else None)}",
        "",
        "What happened",
    ]
    lines += (
        [f"  {_one_line(incident.headline)}", f"  Decided by: {_one_line(incident.rule)}"]
        if incident
        else [f"  {_one_line(case.notes[0].text) if case.notes else 'not written down'}"]
    )
    lines += ["", f"Evidence (UTC; {len(ours)} events, the first {min(len(ours), MOST_EVENTS)} shown)"]
    lines += [
        f"  {_time(event.seen_at)}  {event.kind} {event.code}  {_one_line(event.evidence)}"
        for event in ours[:MOST_EVENTS]
    ] or ["  none is kept"]
    lines += ["", "What was tried"]
    attempts = incident.attempts if incident else ()
    lines += [
        f"  {_time(one.begun_at)}  {one.remedy}: {one.outcome}" + (f" ({_one_line(one.detail)})" if one.detail else "")
        for one in attempts
    ] or ["  no repair is recorded"]
    if incident and incident.verification:
        passed = {True: "passed", False: "failed", None: "not over"}[incident.verification.passed]
        lines.append(f"  Tests {', '.join(incident.verification.tests) or '-'}: {passed}")
    lines += ["", "Course"]
    lines += [f"  {_time(step.at)}  {step.after}: {_one_line(step.cause)}" for step in transitions] or [
        "  not recorded"
    ]
    lines += ["", "Where the part sat"]
    lines += [
        f"  {stay.node} GPU {stay.index} ({stay.pci})  {_time(stay.first_seen)} to {_time(stay.last_seen)}"
        for stay in stays[-MOST_STAYS:]
    ] or ["  not recorded"]
    return "\n".join(lines) + "\n"


def _slot(event: NodeEvent | None, stay: GpuStay | None) -> str:
    if stay is not None:
        return f"GPU {stay.index}, PCI {stay.pci}"
    if event is not None and event.pci:
        return f"PCI {event.pci}" if event.gpu is None else f"GPU {event.gpu}, PCI {event.pci}"
    return "not known"


def _or_unknown(value: str | None) -> str:
    return value or "not known"


def _one_line(text: str) -> str:
    """A log line as one printable line: it is pasted into other systems."""
    return "".join(letter if letter.isprintable() else " " for letter in text)[:500].strip()


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


class RmaKeeper:
    """Opens the cases that incidents in RMA need."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def tick(self) -> int:
        """How many cases were opened."""
        incidents = self._store.incidents(states=[IncidentState.RMA], limit=10_000)
        opened = 0
        for incident in incidents:
            with self._store.transaction():
                known = [
                    *self._store.rma.find(node=incident.node),
                    *(case for serial in incident.serials for case in self._store.rma.find(serial=serial)),
                ]
                for case in cases_for(incident, known, self._clock.now()):
                    self.put(case, "rma.open", ACTOR, incident.headline)
                    opened += 1
        return opened

    def put(self, case: RmaCase, action: str, actor: str, reason: str) -> None:
        """Keep a case, with an audit entry about its node."""
        evidence = {"case": case.id, "serial": case.serial, "state": str(case.state), "incident": case.incident}
        with self._store.transaction():
            self._store.rma.put(case)
            self._store.audit.append(
                AuditEntry(
                    at=self._clock.now(),
                    actor=actor,
                    action=action,
                    subject=case.node,
                    reason=reason,
                    evidence=evidence,
                )
            )
