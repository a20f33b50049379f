"""What the API tells and does about hardware health. Administrators only, but for the report: a researcher gets what
faults cost the own projects."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from slurm_gpuaas.api.health import (
    CardFault,
    CardView,
    DoneByHand,
    IncidentAck,
    IncidentDetail,
    IncidentEvent,
    LemonView,
    LimitRequest,
    LimitView,
    NodeHistory,
    OutageView,
    RmaDetail,
    RmaNoteView,
    RmaOpen,
    RmaUpdate,
    RmaView,
    StepView,
)
from slurm_gpuaas.api.models import EventView, IncidentView
from slurm_gpuaas.daemon.identity import Identity
from slurm_gpuaas.daemon.moments import aware
from slurm_gpuaas.daemon.operations import Operations, administrators_only
from slurm_gpuaas.domain.audit import AuditEntry
from slurm_gpuaas.domain.errors import Conflict, InvalidInput, NotFound
from slurm_gpuaas.domain.incidents import OPEN_STATES, Incident, IncidentState, Transition, stage
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.node_life import LimitKind, NodeLimit, smallest
from slurm_gpuaas.domain.recoveries import RecoveryState
from slurm_gpuaas.domain.reports import CheckpointTerms, HealthReport
from slurm_gpuaas.domain.rma import RmaCase, RmaState
from slurm_gpuaas.domain.usage import Window
from slurm_gpuaas.health import rma
from slurm_gpuaas.health.lemon_watch import LemonWatch
from slurm_gpuaas.health.lemons import Lemon
from slurm_gpuaas.health.report import Records, report

LONGEST_REPORT: Final = timedelta(days=400)
MOST: Final = 100_000
"""Incidents of one report."""
MOST_OF_A_NODE: Final = 100
BY_HAND: Final = frozenset({"node.drain-by-hand", "node.resume-by-hand", "node.limit", "node.limit-lifted"})


# -- Incidents


def incident_detail(do: Operations, who: Identity, incident_id: str) -> IncidentDetail:
    administrators_only(who, "see incidents")
    return _detail(do, _incident(do, incident_id))


def acknowledge(do: Operations, who: Identity, incident_id: str, request: IncidentAck) -> IncidentDetail:
    """Say that somebody looks after it. The first stays who acknowledged it."""
    administrators_only(who, "acknowledge incidents")
    with do.store.transaction():
        incident = _incident(do, incident_id)
        if incident.state is IncidentState.CLOSED:
            raise Conflict(f"Incident {incident.id} is closed.", way_out="Nobody need look after it any more.")
        if incident.acknowledged_by is None:
            incident = incident.model_copy(update={"acknowledged_by": who.user, "updated_at": do.clock.now()})
            do.store.put_incident(incident)
            _record(do, who, "incident.ack", incident.node, request.note, incident=incident.id)
    return _detail(do, incident)


def _incident(do: Operations, incident_id: str) -> Incident:
    incident = do.store.incident(incident_id)
    if incident is None:
        raise NotFound(f"There is no incident {incident_id:.60}.", way_out="`gpuaas incident list --all` shows all.")
    return incident


def _detail(do: Operations, incident: Incident) -> IncidentDetail:
    return IncidentDetail(
        **incident.model_dump(exclude={"event_ids"}),
        steps=tuple(_step(step) for step in do.store.transitions(incident=incident.id)),
        events=tuple(
            IncidentEvent(**event.model_dump(include=set(EventView.model_fields)), jobs=jobs)
            for event, jobs in do.store.observations.events_of(incident.event_ids)
        ),
    )


def _step(step: Transition) -> StepView:
    return StepView(
        incident=step.incident,
        at=step.at,
        before=step.before,
        after=step.after,
        cause=step.cause,
        actor=step.actor,
    )


# -- Nodes


def node_history(do: Operations, who: Identity, name: str) -> NodeHistory:
    administrators_only(who, "see the history of nodes")
    node = do.node(name).name
    incidents = do.store.incidents(node=node, limit=MOST_OF_A_NODE)
    lemon = next((one for one in _watch(do).lemons() if one.signals.node == node), None)
    limits = smallest(do.store.node_limits())
    return NodeHistory(
        node=node,
        stage=stage(incident for incident in incidents if incident.state in OPEN_STATES),
        limit=_limit(limits.get(node)),
        lemon=None if lemon is None else _lemon(lemon, limits.get(node)),
        incidents=tuple(IncidentView(**one.model_dump(exclude={"event_ids"})) for one in incidents),
        steps=tuple(_step(step) for step in do.store.transitions(node=node)[-MOST_OF_A_NODE:]),
        outages=tuple(
            OutageView(since=one.since, until=one.until, cause=one.cause, reason=one.reason)
            for one in do.store.observations.outages(node=node)[-MOST_OF_A_NODE:]
        ),
        by_hand=tuple(
            DoneByHand(at=entry.at, actor=entry.actor, action=entry.action, reason=entry.reason)
            for entry in do.store.audit.newest(subject=node, limit=MOST_OF_A_NODE)
            if entry.action in BY_HAND
        ),
        cards=_cards(do, node),
    )


def _cards(do: Operations, node: NodeName) -> tuple[CardView, ...]:
    """Cards that sit or sat in the node, with every incident that names them, on other nodes too."""
    stays = do.store.gpu_stays(node=node)
    newest = {stay.index: stay for stay in sorted(stays, key=lambda stay: stay.last_seen)}
    faults: dict[str, list[Incident]] = {}
    by_node: dict[NodeName, Sequence[Incident]] = {}
    for serial in {stay.serial for stay in stays}:
        found: list[Incident] = []
        for where in {stay.node for stay in do.store.gpu_stays(serial=serial)}:
            if where not in by_node:
                by_node[where] = do.store.incidents(node=where, limit=MOST)
            found += [incident for incident in by_node[where] if serial in incident.serials]
        faults[serial] = sorted(found, key=lambda incident: incident.opened_at)
    return tuple(
        CardView(
            serial=stay.serial,
            index=stay.index,
            pci=stay.pci,
            first_seen=stay.first_seen,
            last_seen=stay.last_seen,
            sits=newest[stay.index] == stay,
            faults=tuple(
                CardFault(incident=one.id, node=one.node, at=one.opened_at, headline=one.headline)
                for one in faults[stay.serial]
            ),
        )
        for stay in sorted(stays, key=lambda stay: (stay.index, stay.first_seen))
    )


def set_limit(do: Operations, who: Identity, name: str, request: LimitRequest) -> LimitView:
    """No job over so many nodes gets the node from now on; jobs that have it keep it."""
    administrators_only(who, "limit nodes")
    node = do.node(name).name
    limit = NodeLimit(
        node=node,
        kind=LimitKind.LEMON,
        largest_job=request.largest_job,
        why=request.reason,
        since=do.clock.now(),
    )
    with do.store.transaction():
        do.store.put_node_limit(limit)
        _record(do, who, "node.limit", node, request.reason, largest_job=request.largest_job)
    do.applied()
    return _limit_view(limit)


def lift_limit(do: Operations, who: Identity, name: str) -> None:
    administrators_only(who, "limit nodes")
    node = do.node(name).name
    with do.store.transaction():
        if any(limit.node == node and limit.kind is LimitKind.LEMON for limit in do.store.node_limits()):
            do.store.delete_node_limit(node, LimitKind.LEMON)
            _record(do, who, "node.limit-lifted", node, "")
    do.applied()


def _limit(limit: NodeLimit | None) -> LimitView | None:
    return None if limit is None else _limit_view(limit)


def _limit_view(limit: NodeLimit) -> LimitView:
    return LimitView(node=limit.node, kind=limit.kind, largest_job=limit.largest_job, why=limit.why, since=limit.since)


# -- Lemons


def lemons(do: Operations, who: Identity) -> list[LemonView]:
    """Nodes that anything speaks against, the worst first."""
    administrators_only(who, "see lemons")
    limits = smallest(do.store.node_limits())
    return [_lemon(one, limits.get(one.signals.node)) for one in _watch(do).lemons()]


def _watch(do: Operations) -> LemonWatch:
    return LemonWatch(cluster=do.cluster, store=do.store, clock=do.clock, largest_job=0)


def _lemon(lemon: Lemon, limit: NodeLimit | None) -> LemonView:
    signals = lemon.signals
    return LemonView(
        node=signals.node,
        score=lemon.score,
        lemon=lemon.is_one,
        why=lemon.why,
        excl_jobid_count=signals.excl_jobid_count,
        xid_cnt=signals.xid_cnt,
        tickets=signals.tickets,
        out_count=signals.out_count,
        multi_node_node_fails=signals.multi_node_node_fails,
        single_node_node_fails=signals.single_node_node_fails,
        single_node_runs=signals.single_node_runs,
        single_node_node_failure_rate=signals.single_node_node_failure_rate,
        limit=_limit(limit),
    )


# -- RMA


def rma_cases(do: Operations, who: Identity, *, closed: bool, node: str | None, serial: str | None) -> list[RmaView]:
    administrators_only(who, "see RMA cases")
    found = do.store.rma.find(
        states=None if closed else rma.OPEN_CASES, node=None if node is None else NodeName(node), serial=serial
    )
    return [_case(case) for case in found]


def rma_case(do: Operations, who: Identity, case_id: str) -> RmaDetail:
    administrators_only(who, "see RMA cases")
    return _case_detail(do, _find_case(do, case_id))


def rma_open(do: Operations, who: Identity, request: RmaOpen) -> RmaDetail:
    administrators_only(who, "open RMA cases")
    node = do.node(request.node).name
    if request.incident is not None and _incident(do, request.incident).node != node:
        raise InvalidInput(
            f"Incident {request.incident} is not of {node}.", way_out=f"gpuaas incident list --all --node {node}"
        )
    case = rma.new_case(
        node,
        request.serial,
        incident=request.incident,
        why=request.reason,
        actor=who.user,
        now=do.clock.now(),
    )
    known = do.store.rma.get(case.id)
    if known is None:
        rma.RmaKeeper(do.store, do.clock).put(case, "rma.open", who.user, request.reason)
    return _case_detail(do, known or case)


def rma_update(do: Operations, who: Identity, case_id: str, request: RmaUpdate) -> RmaDetail:
    administrators_only(who, "change RMA cases")
    with do.store.transaction():
        case = rma.advanced(
            _find_case(do, case_id),
            actor=who.user,
            now=do.clock.now(),
            state=request.state,
            text=request.note,
            vendor_case=request.vendor_case,
            new_serial=request.new_serial,
        )
        action = "rma.close" if request.state is RmaState.CLOSED else "rma.update"
        rma.RmaKeeper(do.store, do.clock).put(case, action, who.user, request.note)
    return _case_detail(do, case)


def _find_case(do: Operations, case_id: str) -> RmaCase:
    case = do.store.rma.get(case_id)
    if case is None:
        raise NotFound(f"There is no RMA case {case_id:.60}.", way_out="`gpuaas rma list --all` shows all.")
    return case


def _case(case: RmaCase) -> RmaView:
    notes = tuple(RmaNoteView(**note.model_dump()) for note in case.notes)
    return RmaView(**case.model_dump(exclude={"notes"}), notes=notes)


def _case_detail(do: Operations, case: RmaCase) -> RmaDetail:
    incident = None if case.incident is None else do.store.incident(case.incident)
    events = () if incident is None else do.store.observations.events_of(incident.event_ids)
    text = rma.ticket(
        case,
        incident,
        [event for event, _ in events],
        () if incident is None else do.store.transitions(incident=incident.id),
        do.store.gpu_stays(serial=case.serial) if case.serial else do.store.gpu_stays(node=case.node),
    )
    return RmaDetail(**_case(case).model_dump(), ticket=text)


# -- Report


def health_report(
    do: Operations,
    who: Identity,
    *,
    start: datetime | None,
    end: datetime | None,
    project: str | None,
    terms: CheckpointTerms,
) -> HealthReport:
    """By default the last 30 days. Researchers get what faults cost the own projects, without the fleet's figures."""
    now = do.clock.now()
    until = aware(end) or now
    window = Window(aware(start) or until - timedelta(days=30), until)
    if not timedelta(0) < window.end - window.start <= LONGEST_REPORT:
        raise InvalidInput(
            f"The time from {window.start:%Y-%m-%d} to {window.end:%Y-%m-%d} cannot be answered.",
            way_out=f"End after the start, and ask for at most {LONGEST_REPORT.days} days at once.",
        )
    visible = None if who.administrator and project is None else do.asked_for(who, project)
    found = report(read_records(do, window), terms, projects=visible)
    return found if who.administrator else found.model_copy(update={"fleet": None})


def read_records(do: Operations, window: Window) -> Records:
    """What the report needs of the store: a dozen queries, none a run or an event."""
    store, seen, now = do.store, do.store.observations, do.clock.now()
    incidents = [one for one in store.incidents(since=window.start, limit=MOST) if one.opened_at < window.end]
    requeued = {job for incident in incidents for job in incident.requeued_jobs}
    failed = seen.failed_runs(do.cluster, since=window.start, until=window.end)
    hit = requeued | {run.job for run in failed}
    preemptions = seen.preemptions_for(hit, since=window.start)
    ids = {incident.id for incident in incidents}
    first = min((incident.opened_at for incident in incidents), default=window.end)
    replaced = store.recoveries(states=[RecoveryState.DONE], since=window.start)
    return Records(
        window=window,
        now=now,
        gpus=seen.gpus_of_nodes(),
        watched_since=seen.watched_since(),
        outages=seen.outages(since=window.start, until=window.end),
        incidents=incidents,
        transitions=[step for step in seen.steps(since=first) if step.incident in ids] if ids else (),
        seen_at=seen.seen_at([event for incident in incidents for event in incident.event_ids[:1]]),
        runs=seen.runs_of(do.cluster, hit | {one.victim for one in preemptions}),
        failed=failed,
        preemptions=preemptions,
        use=seen.use_by_size(do.cluster, since=window.start, until=window.end),
        spares_used=sum(len(one.spares) for one in replaced if one.begun_at < window.end),
    )


def _record(
    do: Operations, who: Identity, action: str, subject: str, reason: str, **evidence: str | int | float | bool | None
) -> None:
    do.store.audit.append(
        AuditEntry(at=do.clock.now(), actor=who.user, action=action, subject=subject, reason=reason, evidence=evidence)
    )
