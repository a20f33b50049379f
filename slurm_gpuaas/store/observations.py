"""What is seen of nodes over time, and what the health report reads in large numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import date, datetime
from itertools import islice
from typing import Final, TypeVar

from sqlalchemy import ColumnElement, String, cast, delete, func
from sqlmodel import col, select

from slurm_gpuaas.domain.incidents import IncidentState, NodeEvent, Transition
from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.names import AccountName, ClusterName, NodeName, UserName
from slurm_gpuaas.domain.nodes import Node
from slurm_gpuaas.domain.outages import Exclusion, Outage, OutageCause, RunCount, outage_cause
from slurm_gpuaas.domain.usage import JobRun, Preemption, SizedUse
from slurm_gpuaas.store.session import Sessions
from slurm_gpuaas.store.tables import (
    AuditRow,
    ExclusionRow,
    MarkRow,
    NodeEventRow,
    NodeRow,
    OutageRow,
    RunCountRow,
    TransitionRow,
    UsageRow,
)

T = TypeVar("T")

WATCHED_SINCE: Final = "outages.since"
"""Mark: from when on outages are written down."""
IN_ONE_QUESTION: Final = 500
"""Values of one SQL `IN`; SQLite takes some thousands."""


class Observations:
    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    # -- Outages

    def follow(self, nodes: Iterable[Node], at: datetime, *, mending: Collection[NodeName] = ()) -> int:
        """Write down which nodes went out of service or came back, or changed whose doing it is. A node that Slurm has
        no more is out of service no longer. Gives how many outages began or ended.

        Args:
            mending: nodes that are being repaired or verified.
        """
        seen = {node.name: (node, outage_cause(node, mending=node.name in mending)) for node in nodes}
        with self._sessions.reading() as session:
            open_now = {row.node: row for row in session.exec(select(OutageRow).where(col(OutageRow.until).is_(None)))}
            watched = session.get(MarkRow, WATCHED_SINCE) is not None
        ended = [row for row in open_now.values() if _cause_of(seen, row.node) != row.cause]
        over = {row.node for row in ended}
        begun = [
            OutageRow(node=name, since=at, until=None, cause=cause, reason=node.reason[:500])
            for name, (node, cause) in seen.items()
            if cause is not None and (name not in open_now or name in over)
        ]
        if ended or begun or not watched:
            with self._sessions.writing() as session:
                for row in ended:
                    row.until = at
                    session.add(row)
                session.flush()
                for row in begun:
                    session.merge(row)
                if not watched:
                    session.merge(MarkRow(name=WATCHED_SINCE, value=at.isoformat(), set_at=at))
        return len(ended) + len(begun)

    def watched_since(self) -> datetime | None:
        """From when on outages are known; None when none was ever looked for."""
        with self._sessions.reading() as session:
            row = session.get(MarkRow, WATCHED_SINCE)
            return None if row is None else row.set_at

    def outages(
        self, *, since: datetime | None = None, until: datetime | None = None, node: NodeName | None = None
    ) -> Sequence[Outage]:
        """Those that overlap [since, until), oldest first."""
        wanted: list[ColumnElement[bool]] = []
        if since is not None:
            wanted.append(col(OutageRow.until).is_(None) | (col(OutageRow.until) > since))
        if until is not None:
            wanted.append(col(OutageRow.since) < until)
        if node is not None:
            wanted.append(col(OutageRow.node) == node)
        row = OutageRow
        columns = (row.node, row.since, row.until, row.cause, row.reason)
        query = select(*columns).where(*wanted).order_by(col(row.since), col(row.node))  # type: ignore[call-overload]
        with self._sessions.reading() as session:
            return tuple(
                Outage(
                    node=NodeName.as_slurm_says(name),
                    since=begun,
                    until=ended,
                    cause=OutageCause(cause),
                    reason=reason,
                )
                for name, begun, ended, cause, reason in session.exec(query)
            )

    # -- Signals of lemons

    def add_exclusions(self, exclusions: Iterable[Exclusion], *, forget_before: datetime) -> None:
        """Keep those that are new; delete old ones."""
        with self._sessions.writing() as session:
            for one in exclusions:
                if session.get(ExclusionRow, (one.node, one.job)) is None:
                    session.add(ExclusionRow(**asdict(one)))
            session.exec(delete(ExclusionRow).where(col(ExclusionRow.seen_at) < forget_before))

    def exclusions(self, *, since: datetime, node: NodeName | None = None) -> Sequence[Exclusion]:
        wanted = [col(ExclusionRow.seen_at) >= since]
        if node is not None:
            wanted.append(col(ExclusionRow.node) == node)
        with self._sessions.reading() as session:
            return tuple(
                Exclusion(node=NodeName(row.node), job=JobId(row.job), user=UserName(row.user), seen_at=row.seen_at)
                for row in session.exec(select(ExclusionRow).where(*wanted))
            )

    def count_runs(self, counts: Iterable[RunCount], *, forget_before: date) -> None:
        """Add to what is counted; delete old days."""
        with self._sessions.writing() as session:
            for one in counts:
                row = session.get(RunCountRow, (one.node, one.day))
                row = row or RunCountRow(node=one.node, day=one.day, single=0, multi=0)
                row.single += one.single
                row.multi += one.multi
                session.add(row)
            session.exec(delete(RunCountRow).where(col(RunCountRow.day) < forget_before))

    def single_runs(self, *, since: date) -> Mapping[NodeName, int]:
        """Runs of jobs on one node alone, by node, from a day on."""
        with self._sessions.reading() as session:
            rows = session.exec(
                select(RunCountRow.node, func.sum(RunCountRow.single))
                .where(col(RunCountRow.day) >= since)
                .group_by(col(RunCountRow.node))
            )
            return {NodeName(node): int(total) for node, total in rows}

    # -- What the report reads

    def gpus_of_nodes(self) -> Mapping[NodeName, int]:
        """The inventory as it is now: GPUs by node."""
        with self._sessions.reading() as session:
            return {NodeName(name): gpus for name, gpus in session.exec(select(NodeRow.name, NodeRow.gpus))}

    def seen_at(self, event_ids: Collection[str]) -> Mapping[str, datetime]:
        """When events happened, by their ids; an event that is not kept is left out."""
        found: dict[str, datetime] = {}
        with self._sessions.reading() as session:
            for part in _parts(event_ids):
                query = select(NodeEventRow.event_id, NodeEventRow.seen_at).where(col(NodeEventRow.event_id).in_(part))
                found.update(session.exec(query).all())
        return found

    def codes(self, *, since: datetime) -> Mapping[NodeName, frozenset[int]]:
        """Distinct XID codes of each node from a moment on."""
        with self._sessions.reading() as session:
            query = (
                select(NodeEventRow.node, NodeEventRow.code)
                .where(col(NodeEventRow.seen_at) >= since, col(NodeEventRow.kind) == "xid")
                .distinct()
            )
            found: dict[NodeName, set[int]] = {}
            for node, code in session.exec(query):
                found.setdefault(NodeName(node), set()).add(code)
        return {node: frozenset(codes) for node, codes in found.items()}

    def use_by_size(self, cluster: ClusterName, *, since: datetime, until: datetime) -> Sequence[SizedUse]:
        """GPU-seconds of runs that overlap [since, until), by account and size; a run counts whole."""
        with self._sessions.reading() as session:
            query = (
                select(UsageRow.account, UsageRow.gpus, func.sum(UsageRow.gpu_seconds))
                .where(
                    col(UsageRow.cluster) == cluster,
                    col(UsageRow.ended).is_(None) | (col(UsageRow.ended) > since),
                    col(UsageRow.started) < until,
                )
                .group_by(col(UsageRow.account), col(UsageRow.gpus))
            )
            return tuple(
                SizedUse(account=AccountName.as_slurm_says(account), gpus=gpus, gpu_seconds=int(seconds))
                for account, gpus, seconds in session.exec(query)
            )

    def runs_of(self, cluster: ClusterName, jobs: Collection[int]) -> Sequence[JobRun]:
        """All metered runs of jobs, in the order of their start."""
        found: list[JobRun] = []
        columns = (UsageRow.job_id, UsageRow.account, UsageRow.gpus, UsageRow.started, UsageRow.ended, UsageRow.state)
        with self._sessions.reading() as session:
            for part in _parts(jobs):
                wanted = (col(UsageRow.cluster) == cluster, col(UsageRow.job_id).in_(part))
                rows = session.exec(select(*columns).where(*wanted))  # type: ignore[call-overload]
                found += [
                    JobRun(JobId(job), AccountName.as_slurm_says(account), gpus, started, ended, state)
                    for job, account, gpus, started, ended, state in rows
                ]
        return sorted(found, key=lambda run: (run.started, run.job))

    def failed_runs(self, cluster: ClusterName, *, since: datetime, until: datetime) -> Sequence[JobRun]:
        """Runs that ended in [since, until) because, as Slurm saw it, a node failed."""
        columns = (UsageRow.job_id, UsageRow.account, UsageRow.gpus, UsageRow.started, UsageRow.ended, UsageRow.state)
        wanted = (
            col(UsageRow.cluster) == cluster,
            col(UsageRow.ended) >= since,
            col(UsageRow.ended) < until,
            col(UsageRow.state).in_(["NODE_FAIL", "BOOT_FAIL"]),
        )
        with self._sessions.reading() as session:
            rows = session.exec(select(*columns).where(*wanted))  # type: ignore[call-overload]
            return [
                JobRun(JobId(job), AccountName.as_slurm_says(account), gpus, started, ended, state)
                for job, account, gpus, started, ended, state in rows
            ]

    def preemptions_for(self, jobs: Collection[int], *, since: datetime) -> Sequence[Preemption]:
        """What the audit trail says of runs that ended so that one of these jobs could start: at the placement gate,
        between borrowers, or on a spare."""
        wanted = {int(job) for job in jobs}
        if not wanted:
            return ()
        placed = col(AuditRow.action) == "job.place"
        gave_way = col(AuditRow.action).in_(["job.give-way", "job.make-room"])
        with_victims = cast(AuditRow.evidence, String).like('%"gives_way"%')  # few: not a question a job
        columns = (AuditRow.action, AuditRow.at, AuditRow.subject, AuditRow.evidence)
        query = select(*columns).where(col(AuditRow.at) >= since, gave_way | (placed & with_victims))
        found: list[Preemption] = []
        with self._sessions.reading() as session:
            for action, at, subject, evidence in session.exec(query):
                number = int(subject)
                if action == "job.place" and number in wanted:
                    found += [
                        Preemption(victim=JobId(int(victim)), made_room_for=JobId(number), at=at)
                        for victim in str(evidence["gives_way"]).split()
                    ]
                elif evidence.get("for") in wanted:
                    found.append(Preemption(victim=JobId(number), made_room_for=JobId(int(evidence["for"])), at=at))
        return found

    def steps(self, *, since: datetime) -> Sequence[Transition]:
        """Steps of all incidents from a moment on, oldest first, without their causes: a report reads many."""
        row = TransitionRow
        columns = (row.incident, row.node, row.at, row.before, row.after)
        query = select(*columns).where(col(row.at) >= since).order_by(col(row.at), col(row.id))  # type: ignore[call-overload]
        with self._sessions.reading() as session:
            return [
                Transition(
                    incident=incident,
                    node=NodeName.as_slurm_says(node),
                    at=at,
                    before=before and IncidentState(before),
                    after=IncidentState(after),
                    cause="",
                    actor="",
                )
                for incident, node, at, before, after in session.exec(query)
            ]

    def events_of(self, event_ids: Collection[str]) -> Sequence[tuple[NodeEvent, tuple[JobId, ...]]]:
        """Events by their ids, each with the jobs that ran on its node then, oldest first."""
        found: list[tuple[NodeEvent, tuple[JobId, ...]]] = []
        with self._sessions.reading() as session:
            for part in _parts(event_ids):
                rows = session.exec(select(NodeEventRow).where(col(NodeEventRow.event_id).in_(part)))
                found += [(NodeEvent.model_validate(row.detail), tuple(map(JobId, row.jobs))) for row in rows]
        return sorted(found, key=lambda one: (one[0].seen_at, one[0].event_id))


def _cause_of(seen: Mapping[NodeName, tuple[Node, OutageCause | None]], name: str) -> OutageCause | None:
    return seen[NodeName(name)][1] if name in seen else None


def _parts(values: Collection[T]) -> Iterator[list[T]]:
    rest = iter(values)
    while part := list(islice(rest, IN_ONE_QUESTION)):
        yield part


def counted(runs: Iterable[tuple[NodeName, date, bool]]) -> list[RunCount]:
    """Runs (node, day, alone on it) added up."""
    sums: Counter[tuple[NodeName, date, bool]] = Counter(runs)
    keys = sorted({(node, day) for node, day, _ in sums})
    return [
        RunCount(node=node, day=day, single=sums[node, day, True], multi=sums[node, day, False]) for node, day in keys
    ]
