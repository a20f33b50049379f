"""The store as its users see it: domain values in, domain values out, one transaction a call.

Calls inside `with store.transaction():` are one transaction together. Every method may raise `Unavailable` (the
database does not answer).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime, timedelta
from itertools import pairwise
from typing import Any

from sqlalchemy import ColumnElement, Engine, case, delete, event, func, insert
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col, select

from slurm_gpuaas.domain.capacity import CapacitySample
from slurm_gpuaas.domain.errors import Conflict
from slurm_gpuaas.domain.from_portal import Merged, Terms, merged
from slurm_gpuaas.domain.gpus import GpuIdentity, GpuStay
from slurm_gpuaas.domain.incidents import Incident, IncidentState, NodeEvent, Transition
from slurm_gpuaas.domain.jobs import JobId, JobPlacement, PlacementOutcome
from slurm_gpuaas.domain.names import (
    AccountName,
    ClusterName,
    GpuModel,
    NodeName,
    PartitionName,
    ProjectName,
    QosName,
    UserName,
)
from slurm_gpuaas.domain.node_life import BreakerTrip, LimitKind, NodeLimit
from slurm_gpuaas.domain.nodes import Node, out_of_service
from slurm_gpuaas.domain.policy import Grant, Member, Organisation, Policy, Pool, Project, Rate, Share
from slurm_gpuaas.domain.recoveries import Recovery, RecoveryState
from slurm_gpuaas.domain.usage import UsageChange, UsageRecord, UsageSum
from slurm_gpuaas.store.alerts import Alerts
from slurm_gpuaas.store.audit import AuditTrail
from slurm_gpuaas.store.engine import open_engine, upgrade
from slurm_gpuaas.store.journal import Journal
from slurm_gpuaas.store.known_budgets import KnownBudgets
from slurm_gpuaas.store.known_sums import KnownSums, Stretch
from slurm_gpuaas.store.observations import Observations
from slurm_gpuaas.store.portal import PortalSets
from slurm_gpuaas.store.rma import RmaCases
from slurm_gpuaas.store.session import Sessions
from slurm_gpuaas.store.tables import (
    BreakerTripRow,
    CapacityRow,
    GpuStayRow,
    GrantRow,
    IncidentRow,
    JobPlacementRow,
    MarkRow,
    MemberRow,
    NodeEventRow,
    NodeLimitRow,
    NodeRow,
    OrganisationRow,
    PolicyRevisionRow,
    PoolRow,
    ProjectRow,
    RateRow,
    RecoveryRow,
    ShareRow,
    Table,
    TransitionRow,
    UsageRow,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRevision:
    """`revision` counts from 1; 0 is the empty policy of a new store."""

    revision: int
    applied_at: datetime | None
    actor: str


@dataclass(frozen=True, slots=True)
class _InForce:
    """All that the policy in force follows from: equal ones mean one policy."""

    digest: str
    portal: int
    as_of: date | None
    refused: Mapping[ProjectName, str]


class Store:
    """Open it with `Store.open`; safe to share between threads."""

    def __init__(self, engine: Engine, *, terms: Terms | None = None) -> None:
        self._engine = engine
        self._terms = terms
        self._sessions = Sessions(engine)
        self.audit = AuditTrail(self._sessions)
        self.journal = Journal(self._sessions)
        self.observations = Observations(self._sessions)
        self.rma = RmaCases(self._sessions)
        self.alerts = Alerts(self._sessions)
        self.portal = PortalSets(self._sessions)
        self._known_sums = KnownSums()
        self.known_budgets = KnownBudgets()
        self._known_policy: tuple[_InForce, Merged] | None = None

    @classmethod
    def open(cls, url: str, *, terms: Terms | None = None) -> Store:
        """Open `sqlite:////path/file.db` or `postgresql://...`, creating or upgrading the tables.

        Args:
            terms: what is taken of the portal's documents; None = nothing.

        Raises:
            InvalidInput: the URL is of no database that we know.
            Conflict: a newer program wrote the store.
        """
        engine = open_engine(url)
        upgrade(engine)
        return cls(engine, terms=terms)

    def close(self) -> None:
        self._engine.dispose()

    def transaction(self) -> AbstractContextManager[object]:
        """One transaction around several calls; it commits at the end, or not at all when something raises."""
        return self._sessions.writing()

    # -- Policy

    def policy(self) -> Policy:
        """The policy in force: the site's own documents, and the portal's as far as they go together."""
        return self.in_force().policy

    def policy_and_revision(self) -> tuple[Policy, PolicyRevision]:
        """The policy in force, and the revision of the site's own documents, of one moment."""
        found, revision = self.in_force_and_revision()
        return found.policy, revision

    def policy_revision(self) -> PolicyRevision:
        with self._sessions.reading() as session:
            return _newest_revision(session)

    def in_force(self) -> Merged:
        """The policy in force, and which documents of it come from the portal."""
        return self.in_force_and_revision()[0]

    def in_force_and_revision(self) -> tuple[Merged, PolicyRevision]:
        """The policy in force, and the revision of the site's own documents, of one moment."""
        with self._sessions.reading() as session:
            # Every request and tick asks: 1,000 projects take a quarter of a second to read and check. The digest is of
            # the whole policy, so the same one means the same policy, whatever was rolled back in between.
            row = _newest_row(session)
            refused = self.portal.refused()
            key = _InForce("" if row is None else row.digest, *self.portal.known(), refused)
            known = self._known_policy
            if known is None or known[0] != key:
                same = known is not None and known[0].digest == key.digest
                own = known[1].own if known is not None and same else _policy(session)
                self._known_policy = known = (key, self.with_portal(own, refused=refused))
            return known[1], _revision(row)

    def with_portal(self, own: Policy, *, refused: Mapping[ProjectName, str]) -> Merged:
        """What would be in force with these documents of the site's own and those refusals."""
        newest = self.portal.newest()
        if newest is None or self._terms is None:
            return Merged(policy=own, own=own)
        found = merged(own, newest.documents, self._terms, newest.as_of, refused=refused)
        return replace(found, left_out=(*newest.unreadable, *found.left_out))

    def replace_policy(
        self, policy: Policy, *, actor: str, at: datetime, expected_revision: int | None = None
    ) -> PolicyRevision:
        """Put the site's own documents in force, whole. The same ones again make no new revision.

        Raises:
            Conflict: `expected_revision` is given and the policy in force is another one.
        """
        with self._sessions.writing() as session:
            current = _newest_revision(session)
            if expected_revision is not None and current.revision != expected_revision:
                raise Conflict(
                    f"The policy is at revision {current.revision} (by {current.actor}); "
                    f"your change was made from {expected_revision}.",
                    way_out="Export the policy again, make your change there and apply it.",
                )
            digest = hashlib.sha256(policy.model_dump_json().encode()).hexdigest()
            row = _newest_row(session)
            if row is not None and row.digest == digest:
                return current
            tables = _policy_rows(policy)
            for table, _rows in reversed(tables):
                session.exec(delete(table))
            for table, rows in tables:
                if rows:
                    session.exec(insert(table), params=rows)
            session.add(PolicyRevisionRow(applied_at=at, actor=actor, digest=digest))
            session.flush()
            return _newest_revision(session)

    # -- Nodes, events, incidents

    def put_nodes(self, nodes: Iterable[Node], *, at: datetime) -> int:
        """Bring the inventory to what Slurm shows; a node that Slurm no longer has is forgotten.

        Only what differs is written; the answer is how many nodes that were. `at` is kept as the moment since when a
        node is as it is.
        """
        shown = {node.name: _node_values(node) for node in nodes}
        columns = (NodeRow.name, NodeRow.model, NodeRow.gpus, NodeRow.state, NodeRow.reason)
        with self._sessions.reading() as session:
            kept = {name: tuple(values) for name, *values in session.exec(select(*columns))}  # type: ignore[call-overload]
        differing = [name for name, values in shown.items() if kept.get(name) != values]
        gone = kept.keys() - shown.keys()
        if differing or gone:
            fields = ("model", "gpus", "state", "reason")
            with self._sessions.writing() as session:
                _upsert(
                    session,
                    NodeRow,
                    [
                        {"name": name, "seen_at": at, **dict(zip(fields, shown[name], strict=True))}
                        for name in differing
                    ],
                )
                session.exec(delete(NodeRow).where(col(NodeRow.name).in_(gone)))
        return len(differing) + len(gone)

    def nodes_lost(self, *, before: datetime) -> frozenset[NodeName]:
        """Nodes that have been out of service, unchanged, since before that moment."""
        with self._sessions.reading() as session:
            rows = session.exec(select(NodeRow.name, NodeRow.state).where(col(NodeRow.seen_at) <= before))
            return frozenset(NodeName(name) for name, state in rows if out_of_service(state))

    def node_names(self) -> frozenset[NodeName]:
        with self._sessions.reading() as session:
            return frozenset(NodeName(name) for name in session.exec(select(NodeRow.name)))

    def add_event(self, event: NodeEvent, *, received_at: datetime, jobs: Iterable[JobId] = ()) -> bool:
        """Keep an event; False when its `event_id` is known already (and then nothing changes).

        Args:
            jobs: those that ran on the node when the report came.
        """
        row = {
            "event_id": event.event_id,
            "node": event.node,
            "kind": event.kind,
            "code": event.code,
            "source": event.source,
            "seen_at": event.seen_at,
            "received_at": received_at,
            "detail": event.model_dump(mode="json"),
            "jobs": list(jobs),
        }
        with self._sessions.writing() as session:
            return _insert_new(session, NodeEventRow, row)

    def events(
        self, *, node: NodeName | None = None, since: datetime | None = None, limit: int = 1_000
    ) -> Sequence[NodeEvent]:
        """The newest events by `seen_at`, oldest of them first."""
        wanted: list[ColumnElement[bool]] = []
        if node is not None:
            wanted.append(col(NodeEventRow.node) == node)
        if since is not None:
            wanted.append(col(NodeEventRow.seen_at) >= since)
        newest = (col(NodeEventRow.seen_at).desc(), col(NodeEventRow.event_id).desc())
        with self._sessions.reading() as session:
            rows = session.exec(select(NodeEventRow).where(*wanted).order_by(*newest).limit(limit)).all()
            return tuple(NodeEvent.model_validate(row.detail) for row in reversed(rows))

    def events_with_jobs(
        self,
        *,
        since: datetime,
        codes: Iterable[int] | None = None,
        node: NodeName | None = None,
        limit: int | None = None,
    ) -> Sequence[tuple[NodeEvent, tuple[JobId, ...]]]:
        """Events seen since then, of these codes or of all, of one node or of all, oldest first, each with the jobs
        that ran on its node; the newest of them where there are more than `limit`."""
        wanted: list[ColumnElement[bool]] = [col(NodeEventRow.seen_at) >= since]
        if codes is not None:
            wanted.append(col(NodeEventRow.code).in_(list(codes)))
        if node is not None:
            wanted.append(col(NodeEventRow.node) == node)
        newest = (col(NodeEventRow.seen_at).desc(), col(NodeEventRow.event_id).desc())
        with self._sessions.reading() as session:
            rows = session.exec(
                select(NodeEventRow.detail, NodeEventRow.jobs).where(*wanted).order_by(*newest).limit(limit)
            ).all()
            return tuple(
                (NodeEvent.model_validate(detail), tuple(JobId(job) for job in jobs)) for detail, jobs in reversed(rows)
            )

    def put_incident(self, incident: Incident) -> None:
        """Create it, or replace the one of that id."""
        row = incident.model_dump()
        for name in ("event_ids", "requeued_jobs", "serials"):
            row[name] = list(row[name])
        row["attempts"] = [attempt.model_dump(mode="json") for attempt in incident.attempts]
        row["verification"] = incident.verification.model_dump(mode="json") if incident.verification else None
        with self._sessions.writing() as session:
            _upsert(session, IncidentRow, [row])

    def incident(self, incident_id: str) -> Incident | None:
        with self._sessions.reading() as session:
            row = session.get(IncidentRow, incident_id)
            return None if row is None else Incident.model_validate(row.model_dump())

    def incidents(
        self,
        *,
        node: NodeName | None = None,
        states: Iterable[IncidentState] | None = None,
        since: datetime | None = None,
        limit: int = 1_000,
    ) -> Sequence[Incident]:
        """The newest incidents by `opened_at`, newest first; those opened at `since` or later."""
        wanted: list[ColumnElement[bool]] = []
        if node is not None:
            wanted.append(col(IncidentRow.node) == node)
        if states is not None:
            wanted.append(col(IncidentRow.state).in_([state.value for state in states]))
        if since is not None:
            wanted.append(col(IncidentRow.opened_at) >= since)
        newest = (col(IncidentRow.opened_at).desc(), col(IncidentRow.id).desc())
        with self._sessions.reading() as session:
            rows = session.exec(select(IncidentRow).where(*wanted).order_by(*newest).limit(limit))
            return tuple(Incident.model_validate(row.model_dump()) for row in rows)

    def add_transition(self, transition: Transition) -> None:
        with self._sessions.writing() as session:
            session.add(TransitionRow(**asdict(transition)))

    def transitions(
        self,
        *,
        incident: str | None = None,
        node: NodeName | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Sequence[Transition]:
        """Steps of an incident, of a node or of all, oldest first, at `since` or later and before `until`."""
        wanted: list[ColumnElement[bool]] = []
        if incident is not None:
            wanted.append(col(TransitionRow.incident) == incident)
        if node is not None:
            wanted.append(col(TransitionRow.node) == node)
        if since is not None:
            wanted.append(col(TransitionRow.at) >= since)
        if until is not None:
            wanted.append(col(TransitionRow.at) < until)
        oldest = (col(TransitionRow.at), col(TransitionRow.id))
        with self._sessions.reading() as session:
            return tuple(
                _transition(row) for row in session.exec(select(TransitionRow).where(*wanted).order_by(*oldest))
            )

    # -- Bounds on what is done to nodes, and to what they take

    def put_node_limit(self, limit: NodeLimit) -> None:
        """Create it, or replace the node's limit of that kind."""
        with self._sessions.writing() as session:
            _upsert(session, NodeLimitRow, [asdict(limit)])

    def delete_node_limit(self, node: NodeName, kind: LimitKind) -> None:
        """A missing one is fine."""
        mine = (col(NodeLimitRow.node) == node, col(NodeLimitRow.kind) == kind.value)
        with self._sessions.writing() as session:
            session.exec(delete(NodeLimitRow).where(*mine))

    def node_limits(self) -> Sequence[NodeLimit]:
        """All of them, by node; one node may have one of each kind."""
        with self._sessions.reading() as session:
            rows = session.exec(select(NodeLimitRow).order_by(col(NodeLimitRow.node), col(NodeLimitRow.kind)))
            return tuple(
                NodeLimit(
                    node=NodeName(row.node),
                    kind=LimitKind(row.kind),
                    largest_job=row.largest_job,
                    why=row.why,
                    since=row.since,
                )
                for row in rows
            )

    def add_breaker_trip(self, trip: BreakerTrip) -> None:
        with self._sessions.writing() as session:
            session.add(BreakerTripRow(**asdict(trip)))

    def reset_breaker(self, scope: str, *, at: datetime, by: str, reason: str) -> int:
        """Reset what is tripped in a scope; gives how many trips that were."""
        holding = (col(BreakerTripRow.scope) == scope, col(BreakerTripRow.reset_at).is_(None))
        with self._sessions.writing() as session:
            rows = session.exec(select(BreakerTripRow).where(*holding)).all()
            for row in rows:
                row.reset_at, row.reset_by, row.reset_reason = at, by, reason
            return len(rows)

    def breaker_trips(self, *, limit: int = 100) -> Sequence[BreakerTrip]:
        """The newest first; those without `reset_at` hold."""
        with self._sessions.reading() as session:
            rows = session.exec(select(BreakerTripRow).order_by(col(BreakerTripRow.id).desc()).limit(limit))
            return tuple(BreakerTrip(**row.model_dump(exclude={"id"})) for row in rows)

    # -- GPUs as cards

    def put_gpus(self, node: NodeName, gpus: Iterable[GpuIdentity], *, at: datetime) -> None:
        """Note which cards sit in a node now. A card that was seen elsewhere since begins a new stay. One query and one
        write, however many there are."""
        by_serial = {gpu.serial: gpu for gpu in gpus if gpu.serial is not None}
        latest = (col(GpuStayRow.last_seen), col(GpuStayRow.first_seen))
        stays: dict[str, GpuStayRow] = {}
        with self._sessions.writing() as session:
            for row in session.exec(select(GpuStayRow).where(col(GpuStayRow.serial).in_(by_serial)).order_by(*latest)):
                stays[row.serial] = row
            rows = []
            for serial, gpu in by_serial.items():
                stay = stays.get(serial)
                here = stay is not None and (stay.node, stay.index) == (node, gpu.index)
                rows.append(
                    {
                        "serial": serial,
                        "node": node,
                        "index": gpu.index,
                        "first_seen": stay.first_seen if stay is not None and here else at,
                        "last_seen": at,
                        "pci": gpu.pci,
                        "uuid": gpu.uuid,
                    }
                )
            _upsert(session, GpuStayRow, rows)

    def gpu_stays(self, *, serial: str | None = None, node: NodeName | None = None) -> Sequence[GpuStay]:
        """Where cards have been, oldest first; of one card, of one node, or of all."""
        wanted: list[ColumnElement[bool]] = []
        if serial is not None:
            wanted.append(col(GpuStayRow.serial) == serial)
        if node is not None:
            wanted.append(col(GpuStayRow.node) == node)
        oldest = (col(GpuStayRow.first_seen), col(GpuStayRow.node), col(GpuStayRow.index))
        with self._sessions.reading() as session:
            return tuple(
                GpuStay(
                    serial=row.serial,
                    node=NodeName(row.node),
                    index=row.index,
                    pci=row.pci,
                    uuid=row.uuid,
                    first_seen=row.first_seen,
                    last_seen=row.last_seen,
                )
                for row in session.exec(select(GpuStayRow).where(*wanted).order_by(*oldest))
            )

    # -- Placements

    def put_placement(self, placement: JobPlacement) -> None:
        """Keep the decision about a run of a job; one for the same run replaces it."""
        row = asdict(placement) | {"nodes": list(placement.nodes)}
        with self._sessions.writing() as session:
            _upsert(session, JobPlacementRow, [row])

    def placements(
        self, *, job_id: JobId | None = None, since: datetime | None = None, limit: int = 1_000
    ) -> Sequence[JobPlacement]:
        """The newest decisions, newest first."""
        wanted: list[ColumnElement[bool]] = []
        if job_id is not None:
            wanted.append(col(JobPlacementRow.job_id) == job_id)
        if since is not None:
            wanted.append(col(JobPlacementRow.decided_at) >= since)
        newest = (col(JobPlacementRow.decided_at).desc(), col(JobPlacementRow.job_id).desc())
        with self._sessions.reading() as session:
            rows = session.exec(select(JobPlacementRow).where(*wanted).order_by(*newest).limit(limit))
            return tuple(_placement(row) for row in rows)

    # -- Capacity

    def put_capacity(self, cluster: ClusterName, samples: Iterable[CapacitySample], *, forget_before: datetime) -> None:
        """Keep samples, and delete those of the same cluster that are older than a moment."""
        old = (col(CapacityRow.cluster) == cluster, col(CapacityRow.at) < forget_before)
        with self._sessions.writing() as session:
            _upsert(session, CapacityRow, [asdict(sample) for sample in samples])
            session.exec(delete(CapacityRow).where(*old))

    def capacity(self, cluster: ClusterName, *, since: datetime) -> Sequence[CapacitySample]:
        """Samples from a moment on, oldest first."""
        wanted = (col(CapacityRow.cluster) == cluster, col(CapacityRow.at) >= since)
        with self._sessions.reading() as session:
            rows = session.exec(select(CapacityRow).where(*wanted).order_by(col(CapacityRow.at)))
            return tuple(_capacity(row) for row in rows)

    # -- Usage

    def put_usage(self, records: Iterable[UsageRecord], *, at: datetime) -> None:
        """Keep runs of jobs; a run is known by cluster, job id and start, and its newest record stands.

        Each row gets a number above all others: microseconds since 1970, so that a store that was restored from a
        backup goes on above what it had told before.
        """
        rows = [asdict(record) for record in records]
        starts = {row["started"] for row in rows}
        with self._sessions.writing() as session:
            first = max(_newest_change(session) + 1, int(at.timestamp() * 1_000_000))
            _upsert(session, UsageRow, [row | {"change": first + place} for place, row in enumerate(rows)])
            event.listen(session, "after_commit", lambda session: self._known_sums.forget(starts), once=True)

    def usage_changes(self, *, after: int, limit: int) -> Sequence[UsageChange]:
        """Runs whose record changed after the change of that number, oldest change first. gpuaasd alone writes, one
        transaction after the other, so no smaller number comes later."""
        newest = select(UsageRow).where(col(UsageRow.change) > after).order_by(col(UsageRow.change)).limit(limit)
        with self._sessions.reading() as session:
            return tuple(UsageChange(number=row.change, record=_usage(row)) for row in session.exec(newest))

    def newest_usage_change(self) -> int:
        """0 when there is no usage."""
        with self._sessions.reading() as session:
            return _newest_change(session)

    def usage(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        accounts: Iterable[AccountName] | None = None,
        job: JobId | None = None,
        running: bool = False,
    ) -> Sequence[UsageRecord]:
        """Runs that overlap [since, until), in the order of their start. `running`: only those without an end."""
        wanted: list[ColumnElement[bool]] = []
        if since is not None:
            wanted.append(col(UsageRow.ended).is_(None) | (col(UsageRow.ended) > since))
        if until is not None:
            wanted.append(col(UsageRow.started) < until)
        if accounts is not None:
            wanted.append(col(UsageRow.account).in_(list(accounts)))
        if job is not None:
            wanted.append(col(UsageRow.job_id) == job)
        if running:
            wanted.append(col(UsageRow.ended).is_(None))
        with self._sessions.reading() as session:
            rows = session.exec(select(UsageRow).where(*wanted).order_by(col(UsageRow.started), col(UsageRow.job_id)))
            return tuple(_usage(row) for row in rows)

    def usage_ended_last(self, cluster: ClusterName) -> datetime | None:
        """The latest end of any run of the cluster; None when none has ended."""
        with self._sessions.reading() as session:
            return session.exec(select(func.max(col(UsageRow.ended))).where(UsageRow.cluster == cluster)).one()

    def usage_sums(self, cluster: ClusterName, cuts: Sequence[datetime]) -> Sequence[UsageSum]:
        """GPU-seconds of the cluster's runs by account, model and QOS, and by the stretch of time they started in.

        Args:
            cuts: ascending; n of them make n + 1 stretches. The database sums, one stretch at a time, and only those
                in which a run was written since they were last asked for.
        """
        joined = self._sessions.joined
        known, writes = self._known_sums.now()
        found: dict[Stretch, Sequence[UsageSum]] = {}
        with self._sessions.reading() as session:
            for since, until in pairwise((None, *cuts, None)):
                stretch = Stretch(cluster, since, until)
                sums = None if joined else known.get(stretch)
                found[stretch] = _usage_sums(session, stretch) if sums is None else sums
        if not joined:  # what an open transaction has written is for itself alone, and may be taken back
            self._known_sums.keep(found, writes)
        return [one for sums in found.values() for one in sums]

    # -- Recoveries

    def put_recovery(self, recovery: Recovery) -> None:
        """Write how far the recovery of this run of the job has come."""
        with self._sessions.writing() as session:
            _upsert(session, RecoveryRow, [asdict(recovery)])

    def recoveries(
        self,
        *,
        states: Iterable[RecoveryState] | None = None,
        job_id: JobId | None = None,
        since: datetime | None = None,
        limit: int = 100_000,
    ) -> Sequence[Recovery]:
        """Those in one of the states, of the job, begun at `since` or later: the newest, newest first."""
        wanted: list[ColumnElement[bool]] = []
        if states is not None:
            wanted.append(col(RecoveryRow.state).in_([state.value for state in states]))
        if job_id is not None:
            wanted.append(col(RecoveryRow.job_id) == job_id)
        if since is not None:
            wanted.append(col(RecoveryRow.begun_at) >= since)
        newest = (col(RecoveryRow.begun_at).desc(), col(RecoveryRow.job_id).desc(), col(RecoveryRow.restarts).desc())
        with self._sessions.reading() as session:
            return tuple(
                map(_recovery, session.exec(select(RecoveryRow).where(*wanted).order_by(*newest).limit(limit)))
            )

    # -- Marks

    def mark(self, name: str) -> str | None:
        """A controller's memory of one text, e.g. the digest of what it last did."""
        with self._sessions.reading() as session:
            row = session.get(MarkRow, name)
            return None if row is None else row.value

    def set_mark(self, name: str, value: str, *, at: datetime) -> None:
        with self._sessions.writing() as session:
            _upsert(session, MarkRow, [{"name": name, "value": value, "set_at": at}])


# -- Rows and values ---------------------------------------------------------------------------------------------------


def _policy(session: Session) -> Policy:
    shares: dict[str, list[Share]] = {}
    for row in session.exec(select(ShareRow).order_by(col(ShareRow.pool), col(ShareRow.position))):
        shares.setdefault(row.pool, []).append(Share.model_validate(row.model_dump(exclude={"pool", "position"})))
    return Policy.of(
        [
            *(Organisation.model_validate(row.model_dump()) for row in session.exec(select(OrganisationRow))),
            *(Project.model_validate(row.model_dump()) for row in session.exec(select(ProjectRow))),
            *(Member.model_validate(row.model_dump()) for row in session.exec(select(MemberRow))),
            *(_pool(row, shares.get(row.name, [])) for row in session.exec(select(PoolRow))),
            *(Rate.model_validate(row.model_dump()) for row in session.exec(select(RateRow))),
            *(_grant(row) for row in session.exec(select(GrantRow))),
        ]
    )


def _newest_row(session: Session) -> PolicyRevisionRow | None:
    return session.exec(select(PolicyRevisionRow).order_by(col(PolicyRevisionRow.revision).desc()).limit(1)).first()


def _newest_revision(session: Session) -> PolicyRevision:
    return _revision(_newest_row(session))


def _revision(row: PolicyRevisionRow | None) -> PolicyRevision:
    if row is None:
        return PolicyRevision(revision=0, applied_at=None, actor="")
    return PolicyRevision(revision=row.revision or 0, applied_at=row.applied_at, actor=row.actor)


def _policy_rows(policy: Policy) -> list[tuple[type[Table], list[dict[str, Any]]]]:
    """Rows by table, in an order that satisfies the references."""
    plain = {"exclude": {"kind"}}
    return [
        (OrganisationRow, [one.model_dump(**plain) for one in policy.organisations]),  # type: ignore[arg-type]
        (ProjectRow, [one.model_dump(**plain) for one in policy.projects]),  # type: ignore[arg-type]
        (MemberRow, [one.model_dump(**plain) for one in policy.members]),  # type: ignore[arg-type]
        (
            PoolRow,
            [
                one.model_dump(exclude={"kind", "shares", "max_time", "min_run", "grace"})
                | {
                    "max_seconds": _seconds(one.max_time),
                    "min_run_seconds": _seconds(one.min_run),
                    "grace_seconds": _seconds(one.grace),
                }
                for one in policy.pools
            ],
        ),
        (
            ShareRow,
            [
                share.model_dump() | {"pool": pool.name, "position": position}
                for pool in policy.pools
                for position, share in enumerate(pool.shares)
            ],
        ),
        (RateRow, [one.model_dump(**plain) for one in policy.rates]),  # type: ignore[arg-type]
        (
            GrantRow,
            [
                one.model_dump(exclude={"kind", "max_time"})
                | {"max_seconds": None if one.max_time is None else _seconds(one.max_time)}
                for one in policy.grants
            ],
        ),
    ]


def _seconds(span: timedelta) -> int:
    return int(span.total_seconds())


def _pool(row: PoolRow, shares: list[Share]) -> Pool:
    spans = {"max_time": row.max_seconds, "min_run": row.min_run_seconds, "grace": row.grace_seconds}
    fields = row.model_dump(exclude={"max_seconds", "min_run_seconds", "grace_seconds"})
    return Pool.model_validate(
        fields | {name: timedelta(seconds=span) for name, span in spans.items()} | {"shares": tuple(shares)}
    )


def _grant(row: GrantRow) -> Grant:
    fields = row.model_dump(exclude={"max_seconds"})
    max_time = None if row.max_seconds is None else timedelta(seconds=row.max_seconds)
    return Grant.model_validate(fields | {"max_time": max_time})


def _node_values(node: Node) -> tuple[str | None, int, str, str]:
    """Model, GPUs, state and reason, as they are kept."""
    return (None if node.model is None else str(node.model), node.gpus, node.state, node.reason)


def _placement(row: JobPlacementRow) -> JobPlacement:
    return JobPlacement(
        cluster=ClusterName(row.cluster),
        job_id=JobId(row.job_id),
        restarts=row.restarts,
        decided_at=row.decided_at,
        outcome=PlacementOutcome(row.outcome),
        nodes=tuple(NodeName(node) for node in row.nodes),
        leaf_groups=row.leaf_groups,
        cost=row.cost,
        runner_up_cost=row.runner_up_cost,
        reason=row.reason,
    )


def _recovery(row: RecoveryRow) -> Recovery:
    return Recovery(
        job_id=JobId(row.job_id),
        restarts=row.restarts,
        user=UserName(row.user),
        incident=row.incident,
        lost=tuple(NodeName(node) for node in row.lost),
        kept=tuple(NodeName(node) for node in row.kept),
        spares=tuple(NodeName(node) for node in row.spares),
        state=RecoveryState(row.state),
        begun_at=row.begun_at,
        ended_at=row.ended_at,
        why=row.why,
    )


def _capacity(row: CapacityRow) -> CapacitySample:
    names: dict[str, Any] = {"cluster": ClusterName(row.cluster), "partition": PartitionName(row.partition)}
    return CapacitySample(**row.model_dump() | names)


def _usage_sums(session: Session, stretch: Stretch) -> Sequence[UsageSum]:
    key: tuple[ColumnElement[Any], ...] = (UsageRow.account, UsageRow.model, UsageRow.qos)  # type: ignore[assignment]
    total = func.sum(col(UsageRow.gpu_seconds))
    ended = func.sum(case((col(UsageRow.ended).is_not(None), col(UsageRow.gpu_seconds)), else_=0))
    wanted: list[ColumnElement[bool]] = [col(UsageRow.cluster) == stretch.cluster]
    if stretch.since is not None:
        wanted.append(col(UsageRow.started) >= stretch.since)
    if stretch.until is not None:
        wanted.append(col(UsageRow.started) < stretch.until)
    rows = session.exec(select(*key, total, ended).where(*wanted).group_by(*key))  # type: ignore[call-overload]
    return tuple(
        UsageSum(
            account=AccountName(account),
            model=None if model is None else GpuModel(model),
            qos=QosName(qos),
            since=stretch.since,
            gpu_seconds=int(seconds),
            ended=int(over),
        )
        for account, model, qos, seconds, over in rows
    )


def _newest_change(session: Session) -> int:
    return session.exec(select(func.max(col(UsageRow.change)))).one() or 0


def _usage(row: UsageRow) -> UsageRecord:
    return UsageRecord(
        cluster=ClusterName(row.cluster),
        job_id=JobId(row.job_id),
        user=UserName(row.user),
        account=AccountName(row.account),
        qos=QosName(row.qos),
        partition=PartitionName(row.partition),
        model=None if row.model is None else GpuModel(row.model),
        gpus=row.gpus,
        started=row.started,
        ended=row.ended,
        gpu_seconds=row.gpu_seconds,
        state=row.state,
        nodes=row.nodes,
    )


def _insert(session: Session, table: type[Table]) -> Any:
    """INSERT with ON CONFLICT, which both databases spell alike but SQLAlchemy keeps in two places."""
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    return dialect.insert(table)


def _insert_new(session: Session, table: type[Table], row: Mapping[str, Any]) -> bool:
    """Insert a row; False when one with its key is there already."""
    statement = _insert(session, table).values(**row).on_conflict_do_nothing()
    return session.exec(statement.returning(*table.__table__.primary_key)).first() is not None  # type: ignore[attr-defined]


def _upsert(session: Session, table: type[Table], rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        return
    statement = _insert(session, table)
    keys = [column.name for column in table.__table__.primary_key]  # type: ignore[attr-defined]
    changed = {name: statement.excluded[name] for name in rows[0] if name not in keys}
    session.exec(statement.on_conflict_do_update(index_elements=keys, set_=changed), params=list(rows))


def _transition(row: TransitionRow) -> Transition:
    return Transition(
        incident=row.incident,
        node=NodeName(row.node),
        at=row.at,
        before=IncidentState(row.before) if row.before else None,
        after=IncidentState(row.after),
        cause=row.cause,
        actor=row.actor,
    )
