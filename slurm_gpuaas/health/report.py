"""How well hardware faults are lived with: availability, time between failures, time to repair by stage, work lost.

Pure: what was recorded comes in as values. It is linear in incidents, steps, outages and runs of interrupted jobs, and
sorts them; runs that no fault touched come in as sums. What is not known is left out of medians, counted beside them,
and said in a sentence; nothing is guessed but what `CheckpointTerms` assumes openly.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from math import ceil, sqrt
from statistics import fmean, median
from typing import Final

from slurm_gpuaas.domain.incidents import Incident, IncidentState, Transition
from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.outages import Outage, OutageCause
from slurm_gpuaas.domain.reports import (
    Availability,
    CheckpointTerms,
    ClassFigures,
    FleetFigures,
    HealthReport,
    JobFigures,
    NodeFigures,
    Spread,
    Stages,
    TenantFigures,
)
from slurm_gpuaas.domain.usage import JobRun, Preemption, SizedUse, Window

WORST: Final = 10
"""Nodes and jobs that are named."""
ANNOUNCED_WITHIN: Final = timedelta(minutes=10)
"""An outage that begins so long after an incident of its node was opened, or before, is that incident's."""
NO_EVENT: Final = "no event"
"""Class of outages without an incident."""
A_DAY: Final = timedelta(days=1)
A_SECOND: Final = timedelta(seconds=1)
"""Slurm's times are whole seconds, cut off: a run may end up to so much before the moment at which we ended it."""


@dataclass(frozen=True, kw_only=True)
class Records:
    """What was recorded. Of a window [start, end) and `now`.

    Args:
        gpus: of each node, as the inventory is now.
        watched_since: from when on outages are known; None: never.
        outages: that overlap the window.
        incidents: opened within it.
        transitions: of these incidents, oldest first.
        seen_at: when their first events happened.
        runs: all runs of the jobs that were requeued, and of victims, in the order of their start.
        failed: runs that ended within the window because a node failed.
        preemptions: for the jobs that were requeued.
        use: sums over all runs.
        spares_used: None where the use of spares is not recorded.
    """

    window: Window
    now: datetime
    gpus: Mapping[NodeName, int]
    watched_since: datetime | None
    outages: Sequence[Outage]
    incidents: Sequence[Incident]
    transitions: Sequence[Transition]
    seen_at: Mapping[str, datetime]
    runs: Sequence[JobRun]
    failed: Sequence[JobRun] = ()
    preemptions: Sequence[Preemption] = ()
    use: Sequence[SizedUse] = ()
    spares_used: int | None = None

    @cached_property
    def end(self) -> datetime:
        return min(self.window.end, self.now)

    @cached_property
    def nodes(self) -> Mapping[NodeName, int]:
        """Nodes with GPUs."""
        return {name: gpus for name, gpus in self.gpus.items() if gpus}

    @cached_property
    def per_node(self) -> int:
        """GPUs of most nodes."""
        counts = Counter(self.nodes.values())
        return counts.most_common(1)[0][0] if counts else 1

    @cached_property
    def steps(self) -> Mapping[str, Sequence[Transition]]:
        found: dict[str, list[Transition]] = defaultdict(list)
        for step in self.transitions:
            found[step.incident].append(step)
        return found

    @cached_property
    def runs_of(self) -> Mapping[JobId, Sequence[JobRun]]:
        found: dict[JobId, list[JobRun]] = defaultdict(list)
        for run in self.runs:
            found[run.job].append(run)
        return found


@dataclass(frozen=True, slots=True)
class Interruption:
    """A run that a fault ended, and the one that followed it."""

    run: JobRun
    ended: datetime
    next: JobRun | None

    @property
    def lost_most(self) -> float:
        return self.run.gpus * (self.ended - self.run.started).total_seconds()


def report(records: Records, terms: CheckpointTerms, *, projects: Collection[str] | None = None) -> HealthReport:
    """Everything.

    Args:
        projects: whose losses are told; None: everybody's.
    """
    interruptions, untold = _interruptions(records)
    fleet = _fleet(records)
    rate = fleet.failures_per_1000_node_days
    return HealthReport(
        start=records.window.start,
        end=records.window.end,
        as_of=records.now,
        terms=terms,
        fleet=fleet,
        tenants=tuple(
            one
            for one in _tenants(records, interruptions, terms, None if rate is None else rate / 1000)
            if projects is None or one.project in projects
        ),
        jobs=_jobs(
            records,
            {job: ones for job, ones in interruptions.items() if projects is None or ones[0].run.account in projects},
            terms,
            None if rate is None else rate / 1000,
        ),
        unknown=tuple(_unknown(records, fleet, untold)),
    )


# -- ETTR


def expected_ettr(nodes: int, failures_per_node_day: float, terms: CheckpointTerms) -> float:
    """Productive part of the time that a job is scheduled, as Meta estimates it (Kokolis et al., Revisiting Reliability
    in Large-Scale Machine Learning Research Clusters, arXiv 2410.21680):

        E[ETTR] = (1 - N r_f (u0 + dcp / 2)) / (1 + w_cp / dcp)

    with N nodes, r_f failures a node and time, u0 restart, dcp checkpoint interval, w_cp checkpoint write time. It
    holds while failures are rare against restarts; below zero it says 0. Time in the queue is not in it.
    """
    rate = nodes * failures_per_node_day / A_DAY.total_seconds()
    overhead = terms.restart.total_seconds() + terms.interval.total_seconds() / 2
    return max(0.0, 1 - rate * overhead) / (1 + terms.write / terms.interval)


def best_interval(nodes: int, failures_per_node_day: float, write: timedelta) -> timedelta:
    """The checkpoint interval that loses least: sqrt(2 w_cp / (N r_f)), same source (Young's formula)."""
    rate = nodes * failures_per_node_day / A_DAY.total_seconds()
    return timedelta(seconds=sqrt(2 * write.total_seconds() / rate))


def lost_expected(interruption: Interruption, terms: CheckpointTerms) -> float:
    """GPU-seconds: on average half a checkpoint interval, never more than the run, and the restart."""
    ran = (interruption.ended - interruption.run.started).total_seconds()
    again = terms.restart.total_seconds() if interruption.next else 0.0
    return interruption.run.gpus * (min(terms.interval.total_seconds() / 2, ran) + again)


# -- The fleet


def _fleet(records: Records) -> FleetFigures:
    availability, outages = _availability(records)
    drained = _drained(records)
    unannounced = _unannounced(records, outages)
    since = availability.since if availability else None
    faults = [i.node for i in drained if since is None or i.opened_at >= since] + [one.node for one in unannounced]
    total = len(drained) + len(unannounced)
    in_service = None
    if availability:
        in_service = availability.total - availability.fault - availability.person - availability.planned
    out: dict[NodeName, float] = defaultdict(float)
    for one in outages:
        if one.cause is OutageCause.FAULT:
            out[one.node] += _seconds(one, records)
    by_node = Counter([incident.node for incident in drained] + [one.node for one in unannounced])
    worst = sorted({*by_node, *out}, key=lambda node: (-by_node[node], -out[node], node))[:WORST]
    return FleetFigures(
        nodes=len(records.nodes),
        gpus=sum(records.nodes.values()),
        incidents=len(records.incidents),
        faults=total,
        unannounced=len(unannounced),
        availability=availability,
        mtbf_s=in_service / len(faults) if in_service and faults else None,
        failures_per_1000_node_days=(
            len(faults) / (in_service / A_DAY.total_seconds()) * 1000 if in_service and faults else None
        ),
        stages=Stages(**{name: _spread(*found) for name, found in stage_spans(records).items()}),
        capacity_lost=sum(seconds * records.gpus.get(node, 0) for node, seconds in out.items()),
        by_class=_by_class(records, unannounced),
        worst_nodes=tuple(NodeFigures(node=node, faults=by_node[node], out_s=out[node]) for node in worst),
        spares_used=records.spares_used,
    )


def _availability(records: Records) -> tuple[Availability | None, Sequence[Outage]]:
    """Node-time in service, of nodes that are in the inventory now, while they were watched; with the outages in it."""
    if records.watched_since is None or not records.nodes:
        return None, ()
    since = max(records.window.start, records.watched_since)
    if since >= records.end:
        return None, ()
    outages = [
        one
        for one in records.outages
        if one.node in records.nodes and one.since < records.end and (one.until is None or one.until > since)
    ]
    total = len(records.nodes) * (records.end - since).total_seconds()
    sums = dict.fromkeys(OutageCause, 0.0)
    for one in outages:
        sums[one.cause] += _seconds(one, records)
    return (
        Availability(
            since=since,
            total=total,
            fault=sums[OutageCause.FAULT],
            person=sums[OutageCause.PERSON],
            planned=sums[OutageCause.PLANNED],
            ratio=1 - sum(sums.values()) / total,
            ratio_unplanned=1 - sums[OutageCause.FAULT] / total,
        ),
        outages,
    )


def _seconds(outage: Outage, records: Records) -> float:
    """Of the outage, what lies in the window."""
    until = min(outage.until or records.end, records.end)
    return max(0.0, (until - max(outage.since, records.window.start)).total_seconds())


def _unannounced(records: Records, outages: Iterable[Outage]) -> list[Outage]:
    """Outages by faults that began in the window and have no incident of their node near."""
    opened: dict[NodeName, list[datetime]] = defaultdict(list)
    for incident in records.incidents:
        opened[incident.node].append(incident.opened_at)
    for moments in opened.values():
        moments.sort()
    still = {incident.node for incident in records.incidents if incident.closed_at is None}

    def announced(one: Outage) -> bool:
        moments = opened.get(one.node, [])
        near = bisect_left(moments, one.since - ANNOUNCED_WITHIN)
        within = near < len(moments) and moments[near] <= (one.until or records.end) + ANNOUNCED_WITHIN
        return within or one.node in still

    return [
        one
        for one in outages
        if one.cause is OutageCause.FAULT
        and one.since >= records.window.start
        and not one.reason.startswith("gpuaas:")
        and not announced(one)
    ]


def _by_class(records: Records, unannounced: Sequence[Outage]) -> tuple[ClassFigures, ...]:
    incidents: Counter[str] = Counter()
    drained: Counter[str] = Counter()
    requeued: Counter[str] = Counter()
    for incident in records.incidents:
        incidents[incident.fault_class] += 1
        drained[incident.fault_class] += _moment(records, incident, IncidentState.DRAINING) is not None
        requeued[incident.fault_class] += len(incident.requeued_jobs)
    if unannounced:
        drained[NO_EVENT] = len(unannounced)
    names = sorted({*incidents, *drained}, key=lambda name: (-drained[name], -incidents[name], name))
    return tuple(
        ClassFigures(fault_class=name, incidents=incidents[name], drained=drained[name], requeued=requeued[name])
        for name in names
        if incidents[name] or drained[name]
    )


# -- Stages


def _moment(records: Records, incident: Incident, state: IncidentState, *, last: bool = False) -> datetime | None:
    """When the incident came to a state for the first, or last, time."""
    found = [step.at for step in records.steps.get(incident.id, ()) if step.after is state]
    return (found[-1] if last else found[0]) if found else None


@dataclass(frozen=True, slots=True)
class _Times:
    """Moments of one incident; None is "not seen, or not yet"."""

    seen: datetime | None
    opened: datetime
    out: datetime | None
    empty: datetime | None
    running: datetime | None
    verifying: datetime | None
    back: datetime | None


def _times(records: Records, incident: Incident) -> _Times:
    seen = [records.seen_at[event] for event in incident.event_ids if event in records.seen_at]
    steps = records.steps.get(incident.id, ())
    out = _moment(records, incident, IncidentState.DRAINING)
    # A node that failed on probation is out again: what came before that was no return.
    again = _moment(records, incident, IncidentState.DRAINING, last=True) or incident.opened_at
    verifying = _moment(records, incident, IncidentState.VERIFYING, last=True)
    if verifying is not None and verifying < again:
        verifying = None
    returned = {IncidentState.PROBATION, IncidentState.CLOSED}
    back = next((step.at for step in steps if step.after in returned and step.at >= (verifying or again)), None)
    return _Times(
        seen=min(seen, default=None),
        opened=incident.opened_at,
        out=out,
        empty=_moment(records, incident, IncidentState.DRAINED),
        running=_running_again(records, incident, out),
        verifying=verifying or back,
        back=back,
    )


def _running_again(records: Records, incident: Incident, out: datetime | None) -> datetime | None:
    """When the last of its requeued jobs ran again; None where none was requeued or one has not."""
    if out is None or not incident.requeued_jobs:
        return None
    starts = [
        next((run.started for run in records.runs_of.get(JobId(job), ()) if run.started > out), None)
        for job in incident.requeued_jobs
    ]
    known = [start for start in starts if start is not None]
    return max(known) if len(known) == len(starts) else None


def stage_spans(records: Records) -> Mapping[str, tuple[Sequence[float], int]]:
    """Seconds of each stage (names as in `Stages`), of the incidents where both its ends are known; and of how many
    they are not."""
    drained = _drained(records)
    times = [_times(records, incident) for incident in drained]
    hit = [_times(records, incident) for incident in drained if incident.requeued_jobs]

    def spans(of: Sequence[_Times], begins: str, ends: str) -> tuple[Sequence[float], int]:
        found = []
        for one in of:
            begin, end = getattr(one, begins), getattr(one, ends)
            # Clocks of nodes differ from ours: an event from the future has no known time of detection.
            if begin is not None and end is not None and end >= begin:
                found.append((end - begin).total_seconds())
        return found, len(of) - len(found)

    return {
        "detect": spans(times, "seen", "opened"),
        "drain": spans(times, "opened", "out"),
        "empty": spans(times, "out", "empty"),
        "replace": spans(hit, "out", "running"),
        "repair": spans(times, "empty", "verifying"),
        "verify": spans(times, "verifying", "back"),
        "whole": spans(times, "seen", "back"),
    }


def _drained(records: Records) -> list[Incident]:
    """Incidents that took their node out of service."""
    return [incident for incident in records.incidents if _moment(records, incident, IncidentState.DRAINING)]


def _spread(spans: Sequence[float], unknown: int) -> Spread:
    ordered = sorted(spans)
    return Spread(
        known=len(ordered),
        unknown=unknown,
        mean_s=fmean(ordered) if ordered else None,
        median_s=median(ordered) if ordered else None,
        p90_s=ordered[ceil(0.9 * len(ordered)) - 1] if ordered else None,
    )


# -- Jobs and tenants


def _interruptions(records: Records) -> tuple[Mapping[JobId, Sequence[Interruption]], int]:
    """Runs that faults ended, by job, each once; and for how many requeues the run is not known."""
    found: dict[tuple[JobId, datetime], Interruption] = {}
    untold = 0
    for incident in records.incidents:
        drained = [step.at for step in records.steps.get(incident.id, ()) if step.after is IncidentState.DRAINING]
        moments = drained or [incident.opened_at]
        for job in incident.requeued_jobs:
            runs = records.runs_of.get(JobId(job), ())
            one = next((hit for at in moments if (hit := _interrupted(runs, at))), None)
            if one is None:
                untold += 1
            else:
                found[one.run.job, one.run.started] = one
    for run in records.failed:
        if run.ended is not None:
            after = records.runs_of.get(run.job, ())
            following = next((other for other in after if other.started >= run.ended), None)
            found.setdefault((run.job, run.started), Interruption(run, run.ended, following))
    by_job: dict[JobId, list[Interruption]] = defaultdict(list)
    for one in sorted(found.values(), key=lambda one: one.run.started):
        by_job[one.run.job].append(one)
    return by_job, untold


def _interrupted(runs: Sequence[JobRun], at: datetime) -> Interruption | None:
    """The run that ended at a moment or as the first one after it, having begun before."""
    before = [run for run in runs if run.started <= at and run.ended is not None and run.ended > at - A_SECOND]
    if not before:
        return None
    run = before[-1]
    assert run.ended is not None
    following = next((other for other in runs if other.started >= run.ended), None)
    return Interruption(run, run.ended, following)


def _jobs(
    records: Records,
    interruptions: Mapping[JobId, Sequence[Interruption]],
    terms: CheckpointTerms,
    rate: float | None,
) -> tuple[JobFigures, ...]:
    """Those that lost most. ETTR = productive time / time since a job's first start, without what it waited before
    (Meta count the queue before each run as well): bounded by what a checkpoint may have saved, for nobody tells us.
    """
    lost = {job: sum(one.lost_most for one in ones) for job, ones in interruptions.items()}
    found = []
    for job in sorted(lost, key=lambda job: (-lost[job], job))[:WORST]:
        ones, most = interruptions[job], lost[job]
        runs = records.runs_of.get(job, ()) or [one.run for one in ones]
        ran = sum(_ran(run, records.now) for run in runs)
        gaps = [(one.next.started - one.ended).total_seconds() for one in ones if one.next]
        scheduled = ran + sum(gap * one.run.gpus for gap, one in zip(gaps, (o for o in ones if o.next), strict=True))
        gpus = max(run.gpus for run in runs)
        nodes = max(1, ceil(gpus / records.per_node))
        found.append(
            JobFigures(
                job=job,
                project=ones[0].run.account,
                gpus=gpus,
                interruptions=len(ones),
                ran=ran,
                waited_s=sum(gaps) if len(gaps) == len(ones) else None,
                lost_expected=sum(lost_expected(one, terms) for one in ones),
                lost_most=most,
                ettr_least=max(0.0, ran - most) / scheduled if scheduled else 0.0,
                ettr_most=ran / scheduled if scheduled else 0.0,
                ettr_expected=None if rate is None else expected_ettr(nodes, rate, terms),
                best_interval_s=(None if rate is None else best_interval(nodes, rate, terms.write).total_seconds()),
            )
        )
    return tuple(found)


def _ran(run: JobRun, now: datetime) -> float:
    return run.gpus * max(0.0, ((run.ended or now) - run.started).total_seconds())


@dataclass(slots=True)
class _Sums:
    jobs: int = 0
    interruptions: int = 0
    expected: float = 0.0
    most: float = 0.0
    preempted: float = 0.0
    used: float = 0.0
    weighted: float = 0.0


def _tenants(
    records: Records,
    interruptions: Mapping[JobId, Sequence[Interruption]],
    terms: CheckpointTerms,
    rate: float | None,
) -> tuple[TenantFigures, ...]:
    sums: dict[str, _Sums] = defaultdict(_Sums)
    for use in records.use:
        one = sums[use.account]
        one.used += use.gpu_seconds
        if rate is not None:
            nodes = max(1, ceil(use.gpus / records.per_node))
            one.weighted += use.gpu_seconds * expected_ettr(nodes, rate, terms)
    for ones in interruptions.values():
        tenant = sums[ones[0].run.account]
        tenant.jobs += 1
        tenant.interruptions += len(ones)
        tenant.expected += sum(lost_expected(one, terms) for one in ones)
        tenant.most += sum(one.lost_most for one in ones)
    for run, ended in _victims(records, interruptions):
        sums[run.account].preempted += run.gpus * (ended - run.started).total_seconds()
    return tuple(
        TenantFigures(
            project=name,
            used=one.used,
            interrupted_jobs=one.jobs,
            interruptions=one.interruptions,
            lost_expected=one.expected,
            lost_most=one.most,
            preempted=one.preempted,
            ettr_expected=one.weighted / one.used if rate is not None and one.used else None,
        )
        for name, one in sorted(sums.items(), key=lambda item: (-item[1].most - item[1].preempted, item[0]))
        if one.used or one.interruptions or one.preempted
    )


def _victims(
    records: Records, interruptions: Mapping[JobId, Sequence[Interruption]]
) -> Iterable[tuple[JobRun, datetime]]:
    """Runs that ended so that a job could run again after a fault: Meta's second-order preemptions, charged to the
    fault. Whatever made room for it between its interruption and its next start did so for the fault."""
    counted: set[tuple[JobId, datetime]] = set()
    for one in records.preemptions:
        hit = interruptions.get(one.made_room_for, ())
        if not any(_while_waiting(one.at, interruption) for interruption in hit):
            continue
        found = _interrupted(records.runs_of.get(one.victim, ()), one.at)
        if found and (found.run.job, found.run.started) not in counted:
            counted.add((found.run.job, found.run.started))
            yield found.run, found.ended


def _while_waiting(at: datetime, interruption: Interruption) -> bool:
    return interruption.ended - timedelta(minutes=1) <= at and (
        interruption.next is None or at < interruption.next.started + A_SECOND
    )


# -- What is not known


def _unknown(records: Records, fleet: FleetFigures, untold: int) -> Iterable[str]:
    if records.watched_since is None:
        yield "Availability and time between failures: no outage was ever watched for."
    elif records.watched_since > records.window.start:
        yield f"What was out of service before {records.watched_since:%Y-%m-%d %H:%M} UTC: it was not watched yet."
    if fleet.availability and not fleet.faults:
        yield "Time between failures, and ETTR: nothing failed in this time."
    if records.spares_used is None:
        yield "Use of spares: none is recorded."
    if untold:
        yield f"{untold} requeued jobs have no metered run that ended then: their loss is not in the sums."
    yield "Work lost since the last checkpoint: nobody reports checkpoints; bounds and assumptions are given."
