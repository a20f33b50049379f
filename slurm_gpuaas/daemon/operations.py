"""What the API does, apart from HTTP: who may ask, what is read, what is done. Views out, domain and Slurm behind.

Administrators may everything. Everybody else is a researcher: sees the nodes, and of projects, placements and usage
their own; changes nothing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from math import ceil, floor
from typing import NoReturn

from slurm_gpuaas import __version__
from slurm_gpuaas.api import models as api
from slurm_gpuaas.api.models import (
    Action,
    AgentStatus,
    AuditView,
    BudgetSide,
    BudgetStatus,
    BudgetView,
    CapacityView,
    Change,
    ControllerStatus,
    DefragApplied,
    DefragApply,
    DefragPlan,
    DefragTerms,
    DrainOwner,
    DriverStatus,
    FieldChange,
    GrantView,
    IncidentView,
    JobStart,
    JobWhy,
    Membership,
    NodeView,
    PlacementView,
    PolicyPlan,
    PortalStatus,
    ProjectView,
    QuotaExplanation,
    QuotaFinding,
    QuotaShare,
    Status,
    TopologyForm,
    TopologyMove,
    TopologyPlan,
    TopologyRequest,
    Usage,
    UsageRow,
    WhoAmI,
)
from slurm_gpuaas.daemon.capacities import Capacities
from slurm_gpuaas.daemon.defragmentation import Defragmenter
from slurm_gpuaas.daemon.gpu_usages import GpuUsages
from slurm_gpuaas.daemon.identity import Identity
from slurm_gpuaas.daemon.job_views import capacity_view, job_why_view, placement_view
from slurm_gpuaas.daemon.loop import Outcome
from slurm_gpuaas.daemon.moments import aware
from slurm_gpuaas.daemon.node_life import NodeLife
from slurm_gpuaas.daemon.quota_views import explanation_view, quota_share
from slurm_gpuaas.daemon.replacement import Replacement
from slurm_gpuaas.daemon.shared import SharedController
from slurm_gpuaas.domain.audit import AuditEntry
from slurm_gpuaas.domain.budgets import Amount, Budget, pace_window, runs_dry
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.errors import Conflict, InvalidInput, NotFound, Refused, Unavailable
from slurm_gpuaas.domain.from_portal import Merged, title
from slurm_gpuaas.domain.incidents import OPEN_STATES, Incident, IncidentState
from slurm_gpuaas.domain.job_reasons import limit_meaning
from slurm_gpuaas.domain.jobs import Job, JobId, JobState, ServiceClass
from slurm_gpuaas.domain.money import whole_won
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
from slurm_gpuaas.domain.nodes import OWNER_MARK, Node
from slurm_gpuaas.domain.policy import KST, Policy, PolicyDocument, fold_nodes
from slurm_gpuaas.domain.slurm_accounts import guaranteed_qos
from slurm_gpuaas.domain.usage import Window, service_class
from slurm_gpuaas.health.controller import HealthController
from slurm_gpuaas.health.incidents import is_reason_of
from slurm_gpuaas.health.intake import Intake
from slurm_gpuaas.jobs import why
from slurm_gpuaas.jobs.gate_rules import free_nodes, occupied, promised
from slurm_gpuaas.metering.rules import Dimension, pricing, totals
from slurm_gpuaas.quota.controller import PolicyController
from slurm_gpuaas.quota.desired import burst_of, default_projects
from slurm_gpuaas.quota.entitlement import Entitlement, entitlements
from slurm_gpuaas.quota.explain import Question, explain, room_in
from slurm_gpuaas.quota.limit_check import accounts_and_qos, check
from slurm_gpuaas.quota.live import Scene, standings
from slurm_gpuaas.quota.plan import Plan
from slurm_gpuaas.slurm.protocols import Controller, LimitReader, SlurmUnavailable
from slurm_gpuaas.store import Store
from slurm_gpuaas.store.budgets import read_budgets
from slurm_gpuaas.store.telemetry import Telemetry
from slurm_gpuaas.topology.applying import named
from slurm_gpuaas.topology.controller import TopologyController, Wanted
from slurm_gpuaas.topology.fabric import parse_fabric
from slurm_gpuaas.topology.follower import entry
from slurm_gpuaas.topology.slurm_yaml import Plugin

LONGEST_USAGE = timedelta(days=400)
"""Longest stretch of one usage question: a year with room."""
LONGEST_CAPACITY = timedelta(days=31)
"""Longest stretch of one capacity question: 9,000 samples of a partition at five minutes."""


class Agents:
    """When each node's agent was last heard. In memory only: after a restart they are heard again within a beat."""

    def __init__(self) -> None:
        self._seen: dict[NodeName, datetime] = {}

    def saw(self, node: NodeName, at: datetime) -> None:
        self._seen[node] = at

    def seen_at(self, node: NodeName) -> datetime | None:
        return self._seen.get(node)

    def all(self) -> Sequence[tuple[NodeName, datetime]]:
        return sorted(self._seen.items())


@dataclass(frozen=True, kw_only=True)
class Operations:
    """Args:
    slurm: reads afresh; `shared` serves readings that may be a second old.
    outcomes: how the controllers' ticks went.
    driver: which way to slurmctld serves.
    applied: called after a policy was applied.
    hook_written: when the hook's snapshot was last written; None before the first time.
    portal: how the portal is; None when this cluster is no site of a pool.
    """

    cluster: ClusterName
    store: Store
    slurm: Controller
    limits: LimitReader
    shared: SharedController
    policies: PolicyController
    applied: Callable[[], None]
    health: HealthController
    node_life: NodeLife
    intake: Intake
    defragmenter: Defragmenter
    calls_off: Callable[[JobId], bool]
    slurm_user: str
    agents: Agents
    clock: Clock
    started_at: datetime
    agents_silent_after: timedelta
    scene: Callable[[], Scene]
    capacities: Capacities
    outcomes: Callable[[], Sequence[Outcome]]
    driver: Callable[[], DriverStatus]
    hook_written: Callable[[], datetime | None]
    topology: TopologyController
    telemetry: Telemetry
    gpu_usages: GpuUsages
    replacement: Replacement
    portal: Callable[[], PortalStatus | None]

    # -- Who and how

    def whoami(self, who: Identity) -> WhoAmI:
        members = [member for member in self.store.policy().members if member.user == who.user]
        return WhoAmI(
            uid=who.uid,
            user=who.user,
            administrator=who.administrator,
            memberships=tuple(Membership(project=member.project, role=member.role) for member in members),
        )

    def status(self, who: Identity) -> Status:
        try:
            slurm_version = self.shared.version()
        except SlurmUnavailable:
            slurm_version = ""
        now = self.clock.now()
        return Status(
            version=__version__,
            cluster=self.cluster,
            leader=True,
            started_at=self.started_at,
            slurm_version=slurm_version,
            driver=self.driver(),
            read_at=self.shared.read_at,
            controllers=tuple(
                ControllerStatus(
                    name=outcome.name,
                    last_tick=outcome.last_tick,
                    last_seconds=outcome.last_seconds,
                    ticks=outcome.ticks,
                    errors=outcome.errors,
                    failures=outcome.failures,
                    # Errors name accounts and files of others.
                    last_error=outcome.last_error if who.administrator else "",
                )
                for outcome in self.outcomes()
            ),
            agents=tuple(
                AgentStatus(node=node, seen_at=at, silent=now - at > self.agents_silent_after)
                for node, at in self.agents.all()
            ),
            portal=self._portal_status(who),
        )

    def _portal_status(self, who: Identity) -> PortalStatus | None:
        found = self.portal()
        if found is None or who.administrator:
            return found
        return found.model_copy(update={"left_out": ()})  # it names projects and people of others

    # -- Policy

    def policy(self, who: Identity) -> api.Policy:
        administrators_only(who, "read the policy")
        found, revision = self.store.in_force_and_revision()
        return api.Policy(
            revision=revision.revision,
            applied_at=revision.applied_at,
            actor=revision.actor,
            documents=found.own.documents,
            from_portal=found.taken,
            left_out=tuple(f"{one.kind} {one.name}: {one.why}" for one in found.left_out),
        )

    def plan(self, who: Identity, documents: Sequence[PolicyDocument] | None) -> PolicyPlan:
        """What applying the documents would change; None = the policy that holds, so what is shown is drift."""
        administrators_only(who, "plan policy")
        before, revision = self.store.in_force_and_revision()
        after, plan = self.policies.preview(None if documents is None else Policy.of(documents))
        return self._plan_view(before, after, plan, revision.revision)

    def apply(self, who: Identity, documents: Sequence[PolicyDocument], expected_revision: int | None) -> PolicyPlan:
        administrators_only(who, "apply policy")
        before = self.store.in_force()
        done = self.policies.apply(Policy.of(documents), actor=who.user, expected_revision=expected_revision)
        self.applied()
        return self._plan_view(before, self.store.in_force(), done.plan, done.revision.revision)

    def _plan_view(self, before: Merged, after: Merged, plan: Plan, revision: int) -> PolicyPlan:
        known = set(before.left_out)
        dropped = (
            f"The portal's {one.kind} {one.name} is left out: {one.why}" for one in after.left_out if one not in known
        )
        return PolicyPlan(
            policy=document_changes(before, after),
            slurm=tuple(
                Change(
                    action=Action(change.action),
                    kind=change.kind,
                    name=change.name,
                    fields=tuple(
                        FieldChange(field=field.field, before=field.before, after=field.after)
                        for field in change.fields
                    ),
                    changed_by=change.origin.actor if change.origin else "",
                    changed_at=change.origin.at if change.origin else None,
                )
                for change in plan.changes
            ),
            conflicts=plan.conflicts,
            deferred=plan.deferred,
            warnings=(*after.policy.overcommitted(self.clock.now()), *dropped),
            revision=revision,
        )

    # -- Projects and usage

    def projects(self, who: Identity) -> list[ProjectView]:
        policy = self.store.policy()
        now = self.clock.now()
        jobs = self.shared.jobs()
        spent = read_budgets(self.store, policy, self.cluster, now, jobs=jobs)
        running: Counter[tuple[str, ServiceClass]] = Counter()
        pending: Counter[str] = Counter()
        for job in jobs:
            if job.state is JobState.RUNNING:
                running[job.account, service_class(job.qos)] += job.gpus
            elif job.state is JobState.PENDING:
                pending[job.account] += 1
        return [
            _project_view(policy, name, now, running, pending[name], spent.get(name))
            for name in self._visible(who, policy)
        ]

    def quota_shares(self, who: Identity) -> list[QuotaShare]:
        policy = self.store.policy()
        visible = set(self._visible(who, policy))
        found = standings(policy, self.cluster, self.scene())
        return [view for share, ruling in found if (view := quota_share(share, ruling, visible, who)).tenants]

    def quota_explain(
        self,
        who: Identity,
        *,
        user: str | None,
        project: str | None,
        gpus: int,
        model: str | None,
        nodes: int | None,
        minutes: int | None,
        qos: str | None,
    ) -> QuotaExplanation:
        asker = UserName(user or who.user)
        if asker != who.user:
            administrators_only(who, f"ask about {asker}")
        policy, scene = self.store.policy(), self.scene()
        one = self._entitled_of(policy, asker, project)
        question = Question(
            user=asker,
            account=AccountName(one.name),
            partition=one.partition,
            gpus=gpus,
            gpus_per_node=one.pool.gpus_per_node,
            model=GpuModel(model) if model else one.pool.model,
            nodes=nodes,
            minutes=minutes,
            qos=QosName(qos) if qos else None,
        )
        burst = burst_of(one)
        share = [scene.nodes[name] for name in one.share.node_names if name in scene.nodes]
        found = explain(self.limits, question, room_in(share, scene.jobs, {burst}), {guaranteed_qos(one.name)})
        return explanation_view(found)

    def _entitled_of(self, policy: Policy, user: UserName, project: str | None) -> Entitlement:
        """The project that is asked about, or the one of the user's jobs that name none."""
        entitled = entitlements(policy, self.cluster, self.clock.now())
        name = ProjectName(project) if project else default_projects(policy, entitled).get(user)
        found = next((one for one in entitled if one.name == name), None)
        if found is None or user not in {member.user for member in policy.members_of(found.name)}:
            raise NotFound(
                f"{user} is in no project {project} with a grant here."
                if project
                else f"{user} is in no project with a grant here.",
                way_out="`gpuaas project list` shows projects and members.",
            )
        return found

    def quota_check(self, who: Identity) -> list[QuotaFinding]:
        policy, scene = self.store.policy(), self.scene()
        visible = set(self._visible(who, policy))
        entitled = [one for one in entitlements(policy, self.cluster, self.clock.now()) if one.active]
        if not who.administrator:
            entitled = [one for one in entitled if one.name in visible]
        budgets = read_budgets(self.store, policy, self.cluster, self.clock.now(), jobs=scene.jobs)
        gpus = {
            pool.partition_of(share.name): sum(
                node.gpus for name in share.node_names if (node := scene.nodes.get(name)) is not None and node.usable
            )
            for pool in policy.pools
            for share in pool.shares
        }
        accounts, qos = (None, None) if who.administrator else accounts_and_qos(entitled)
        state = self.limits.read(accounts=accounts, users=(), qos=qos)
        written = {name: one.written_minutes for name, one in budgets.items() if one.written_minutes is not None}
        return [
            QuotaFinding(fault=one.fault, where=one.where, what=one.what, way_out=one.way_out)
            for one in check(entitled, written, state, gpus)
            if who.administrator or one.project is not None
        ]

    def usage(
        self,
        who: Identity,
        *,
        start: datetime | None,
        end: datetime | None,
        project: str | None,
        by: Sequence[Dimension],
    ) -> Usage:
        """Usage in [start, end); by default this Korean month until now."""
        now = self.clock.now()
        window = Window(aware(start) or _month_of(now), aware(end) or now)
        if not timedelta(0) <= window.end - window.start <= LONGEST_USAGE:
            raise InvalidInput(
                f"The time from {window.start:%Y-%m-%d} to {window.end:%Y-%m-%d} cannot be answered.",
                way_out=f"End after the start, and ask for at most {LONGEST_USAGE.days} days at once.",
            )
        policy = self.store.policy()
        accounts: list[AccountName] | None = None
        if project is not None or not who.administrator:
            accounts = [AccountName(name) for name in self._asked_for(who, policy, project)]
        records = self.store.usage(since=window.start, until=window.end, accounts=accounts)
        return Usage(
            start=window.start.astimezone(UTC),
            end=window.end.astimezone(UTC),
            rows=tuple(
                UsageRow(
                    keys={str(dimension): key for dimension, key in zip(by, total.key, strict=True)},
                    runs=total.runs,
                    guaranteed=total.guaranteed,
                    burst=total.burst,
                    guaranteed_won=whole_won(total.guaranteed_won),
                    burst_won=whole_won(total.burst_won),
                    unpriced=total.unpriced,
                    preempted=total.preempted,
                    node_failed=total.node_failed,
                )
                for total in totals(records, window, by=by, price=pricing(policy))
            ),
        )

    def budgets(self, who: Identity, *, project: str | None) -> list[BudgetStatus]:
        """The budgets in force, of all visible projects or of one."""
        policy, now = self.store.policy(), self.clock.now()
        asked = self._asked_for(who, policy, project)
        found = read_budgets(self.store, policy, self.cluster, now, jobs=self.shared.jobs())
        return [self._budget_status(policy, found[name], now) for name in asked if name in found]

    def _budget_status(self, policy: Policy, budget: Budget, now: datetime) -> BudgetStatus:
        window = pace_window(budget, now)
        records = [
            record
            for record in self.store.usage(since=window.start, until=window.end, accounts=[AccountName(budget.project)])
            if record.cluster == self.cluster
        ]
        recent = totals(records, window, by=(), price=pricing(policy))
        dry = runs_dry(
            budget,
            sum(total.gpu_seconds for total in recent),
            sum((total.guaranteed_won + total.burst_won for total in recent), Fraction(0)),
            now,
        )
        return BudgetStatus(
            project=budget.project,
            period_start=budget.period.start.astimezone(UTC),
            period_end=budget.period.end.astimezone(UTC),
            gpu_seconds=_budget_side(budget.gpu_seconds),
            won=_budget_side(budget.won),
            used_gpu_seconds=budget.used_seconds,
            used_won=whole_won(budget.used_won),
            written_gpu_minutes=budget.written_minutes,
            startable_gpu_minutes=budget.startable_minutes,
            used_percent=round(float(budget.used_ratio * 100), 2),
            warning=budget.warning,
            runs_dry=None if dry is None else dry.astimezone(UTC).replace(microsecond=0),
        )

    def asked_for(self, who: Identity, project: str | None) -> list[ProjectName]:
        """Projects that they may see, or the one that they name."""
        return self._asked_for(who, self.store.policy(), project)

    def _asked_for(self, who: Identity, policy: Policy, project: str | None) -> list[ProjectName]:
        """All that they may see, or the one that they name."""
        visible = self._visible(who, policy)
        if project is None:
            return visible
        if ProjectName(project) not in visible:
            raise NotFound(
                f"There is no project {project} that you may see.", way_out="`gpuaas project list` shows yours."
            )
        return [ProjectName(project)]

    def _visible(self, who: Identity, policy: Policy) -> list[ProjectName]:
        if who.administrator:
            return [project.name for project in policy.projects]
        return [member.project for member in policy.members if member.user == who.user]

    # -- Topology

    def plan_topology(self, who: Identity, request: TopologyRequest) -> TopologyPlan:
        administrators_only(who, "plan the topology")
        return self._topology_view(self._wanted_topology(request))

    def apply_topology(self, who: Identity, request: TopologyRequest) -> TopologyPlan:
        administrators_only(who, "apply a topology")
        wanted = self._wanted_topology(request)
        if request.digest not in (None, wanted.digest):
            raise Conflict("The plan is not the one that was shown.", way_out="Look at it anew, then apply it.")
        done = self.topology.apply(wanted)
        if done.plan:
            self.store.audit.append(entry(self.clock, who.user, self.topology.file, done.plan))
        return self._topology_view(done)

    def _wanted_topology(self, request: TopologyRequest) -> Wanted:
        if request.text is None:
            return self.topology.before()
        if request.form is TopologyForm.YAML:
            return self.topology.wanted(request.text)
        fabric = parse_fabric(request.text, source=request.form)
        return self.topology.wanted_of(fabric, Plugin(request.plugin) if request.plugin else None)

    def _topology_view(self, wanted: Wanted) -> TopologyPlan:
        moved = wanted.plan.moved
        return TopologyPlan(
            file=str(self.topology.file),
            digest=wanted.digest,
            write=wanted.plan.write,
            moves=tuple(
                TopologyMove(nodes=fold_nodes(move.nodes), before=named(move.before), after=named(move.after))
                for move in wanted.plan.moves
            ),
            reconfigure=wanted.plan.reconfigure,
            changes=wanted.plan.changes,
            warnings=tuple(problem.says for problem in wanted.warnings),
            jobs=()
            if not moved
            else tuple(
                int(job.id) for job in self.slurm.jobs() if job.state is JobState.RUNNING and moved & set(job.nodes)
            ),
        )

    # -- Nodes

    def nodes(self) -> list[NodeView]:
        open_on = {incident.node: incident.id for incident in self.store.incidents(states=OPEN_STATES, limit=100_000)}
        partitions: dict[NodeName, list[PartitionName]] = {}
        for partition, names in nodes_by_partition(self.store.policy(), self.cluster).items():
            for name in names:
                partitions.setdefault(name, []).append(partition)
        return [
            _node_view(
                node, tuple(partitions.get(node.name, ())), open_on.get(node.name), self.agents.seen_at(node.name)
            )
            for node in self.shared.nodes()
        ]

    def node(self, name: str) -> NodeView:
        return next((node for node in self.nodes() if node.name == name), None) or _no_node(name)

    def drain(self, who: Identity, name: str, reason: str) -> NodeView:
        """A person's drain: its reason bears no owner mark, so nothing of ours ever undoes it."""
        administrators_only(who, "drain nodes")
        node = self._fresh(name)
        reason = " ".join(reason.split())
        if reason.startswith(OWNER_MARK):
            raise InvalidInput(
                f"The reason starts with {OWNER_MARK}, which marks the daemon's drains.", way_out="Give another reason."
            )
        if node.draining:
            raise Conflict(
                f"Node {name} is drained already: {node.reason}.", way_out="Resume it first if that is done with."
            )
        self.shared.drain([node.name], reason)
        self._record(who, "node.drain-by-hand", node.name, reason)
        return self.node(name)

    def resume(self, who: Identity, name: str) -> NodeView:
        administrators_only(who, "resume nodes")
        node = self._fresh(name)
        for incident in self.store.incidents(node=node.name, states=OPEN_STATES):
            raise Conflict(
                f"Node {name} has the open incident {incident.id}: {incident.headline}.",
                way_out=f"When it is mended: gpuaas incident close {incident.id}",
            )
        if node.draining:
            self.shared.resume([node.name])
            self._record(who, "node.resume-by-hand", node.name, f"was: {node.reason}")
        return self.node(name)

    def _fresh(self, name: str) -> Node:
        return next((node for node in self.slurm.nodes() if node.name == name), None) or _no_node(name)

    # -- Capacity

    def capacity(self, *, partition: str | None, since: datetime | None) -> list[CapacityView]:
        """All partitions of the policy, or one."""
        now = self.clock.now()
        moment = aware(since)
        if moment is not None and not timedelta(0) <= now - moment <= LONGEST_CAPACITY:
            raise InvalidInput(
                f"Capacity since {moment:%Y-%m-%d %H:%M %Z} cannot be answered.",
                way_out=f"Ask for a moment of the last {LONGEST_CAPACITY.days} days.",
            )
        found = self.capacities.now()
        if partition is not None:
            found = tuple(one for one in found if one.partition == partition)
            if not found:
                known = ", ".join(nodes_by_partition(self.store.policy(), self.cluster))
                raise NotFound(
                    f"The policy has no partition {partition:.95} on this cluster.",
                    way_out=f"Ask for one of {known}." if known else "Apply a policy with a pool of this cluster.",
                )
        kept = {} if moment is None else self.capacities.since(moment)
        return [capacity_view(one, kept.get(one.partition, ())) for one in found]

    # -- Incidents

    def incidents(self, who: Identity, *, closed: bool, node: str | None) -> list[IncidentView]:
        administrators_only(who, "see incidents")
        found = self.store.incidents(
            node=None if node is None else NodeName(node), states=None if closed else OPEN_STATES
        )
        return [_incident_view(incident) for incident in found]

    def close_incident(self, who: Identity, incident_id: str, reason: str) -> IncidentView:
        """Close an incident; a node that was drained for it goes back to service. A closed one is left as it is."""
        administrators_only(who, "close incidents")
        incident = self._incident(incident_id)
        if incident.state is not IncidentState.CLOSED:
            node = next((node for node in self.slurm.nodes() if node.name == incident.node), None)
            closed = self.health.close(incident.id, actor=who.user, reason=reason)
            # Resumed last: cut off here, the node stays drained and `node resume` puts it back.
            if node is not None and node.out_by_hand and is_reason_of(node.reason, incident):
                self.shared.resume([node.name])
            return _incident_view(closed)
        return _incident_view(incident)

    def _incident(self, incident_id: str) -> Incident:
        incident = self.store.incident(incident_id)
        if incident is None:
            raise NotFound(
                f"There is no incident {incident_id:.60}.", way_out="`gpuaas incident list --all` shows all."
            )
        return incident

    # -- Placements, audit

    def placements(self, who: Identity, *, job: int | None, limit: int) -> list[PlacementView]:
        """The newest decisions. Researchers see those of their own jobs that Slurm still knows."""
        found = self.store.placements(job_id=None if job is None else JobId(job), limit=limit)
        if not who.administrator:
            own = {job.id for job in self.shared.jobs() if job.user == who.user}
            found = [placement for placement in found if placement.job_id in own]
        return [placement_view(placement) for placement in found]

    def job_why(self, who: Identity, number: int) -> JobWhy:
        """Researchers ask about their own jobs; of others they learn no more than of jobs that are not there."""
        jobs = self.shared.jobs()
        if all(job.id != number for job in jobs):
            jobs = self.shared.jobs_again()  # it may have been submitted a moment ago
        job = next((job for job in jobs if job.id == number and (who.administrator or job.user == who.user)), None)
        if job is None:
            raise NotFound(
                f"slurmctld knows no job {number} that you may see.",
                way_out=f"It forgets a job some minutes after its end; `sacct -j {number}` may still tell of it.",
            )
        placement = next(iter(self.store.placements(job_id=job.id, limit=1)), None)
        if job.state is not JobState.PENDING:
            return job_why_view(job, placement)
        capacity, quota, untold = None, None, []
        try:
            capacity = next((one for one in self.capacities.now() if one.partition == job.partition), None)
        except (Unavailable, InvalidInput) as error:
            untold.append(f"How much one leaf group has free cannot be told: {error.message}")
        try:
            quota = self._limits_of(job) if limit_meaning(job.reason) else None
        except (NotFound, InvalidInput) as error:
            untold.append(f"What the limit is cannot be told: {error.message}")
        room = self._room_for(job, jobs)
        return job_why_view(job, placement, room=room, capacity=capacity, quota=quota, untold=untold)

    def _room_for(self, job: Job, jobs: Sequence[Job]) -> why.Room | None:
        names = nodes_by_partition(self.store.policy(), self.cluster).get(job.partition, ())
        nodes = {node.name: node for node in self.shared.nodes()}
        given = {name for other, names in promised(jobs).items() if other != job.id for name in names}
        return why.room(
            job,
            now=self.clock.now(),
            nodes=[nodes[name] for name in names if name in nodes],
            jobs=jobs,
            free=free_nodes(nodes.values(), occupied(jobs) | given),
            promised=given,
        )

    def _limits_of(self, job: Job) -> QuotaExplanation:
        """As if it were submitted now."""
        policy, scene = self.store.policy(), self.scene()
        names = nodes_by_partition(policy, self.cluster).get(job.partition, ())
        nodes = [scene.nodes[name] for name in names if name in scene.nodes]
        question = Question(
            user=job.user,
            account=job.account,
            partition=job.partition,
            gpus=job.gpus,
            gpus_per_node=max((node.gpus for node in nodes), default=job.gpus),
            model=job.model,
            nodes=job.node_count,
            minutes=None if job.time_limit is None else ceil(job.time_limit / timedelta(minutes=1)),
            qos=job.qos,
        )
        burst = {other.qos for other in scene.jobs if service_class(other.qos) is ServiceClass.BURST}
        guaranteed = {guaranteed_qos(ProjectName.as_slurm_says(job.account))}
        return explanation_view(explain(self.limits, question, room_in(nodes, scene.jobs, burst), guaranteed))

    def job_start(self, who: Identity, number: int) -> JobStart:
        if who.user != self.slurm_user:
            administrators_only(who, "call off the start of a job")
        return JobStart(call_off=self.calls_off(JobId(number)))

    def defrag_plan(self, who: Identity, asked: DefragTerms) -> DefragPlan:
        administrators_only(who, "plan moves of jobs")
        return self.defragmenter.plan(asked)

    def defrag_apply(self, who: Identity, asked: DefragApply) -> DefragApplied:
        administrators_only(who, "move jobs")
        self.defragmenter.apply(asked, actor=who.user)
        return DefragApplied(jobs=tuple(move.job for move in asked.moves))

    def audit(self, who: Identity, *, limit: int, subject: str | None) -> list[AuditView]:
        administrators_only(who, "read the audit trail")
        return [
            AuditView(
                at=entry.at,
                actor=entry.actor,
                action=entry.action,
                subject=entry.subject,
                reason=entry.reason,
                evidence=dict(entry.evidence),
            )
            for entry in self.store.audit.newest(limit=limit, subject=subject)
        ]

    def _record(self, who: Identity, action: str, subject: str, reason: str) -> None:
        self.store.audit.append(
            AuditEntry(at=self.clock.now(), actor=who.user, action=action, subject=subject, reason=reason)
        )


def nodes_by_partition(policy: Policy, cluster: ClusterName) -> dict[PartitionName, tuple[NodeName, ...]]:
    """Nodes of each partition that the policy declares on the cluster."""
    return {
        pool.partition_of(share.name): share.node_names
        for pool in policy.pools
        if pool.cluster == cluster
        for share in pool.shares
    }


def administrators_only(who: Identity, what: str) -> None:
    if not who.administrator:
        raise Refused(
            f"{who.user} may not {what}: only cluster administrators may.",
            way_out="Ask a cluster administrator (administrators.users and .groups in gpuaasd.yaml).",
        )


# -- Documents that differ ---------------------------------------------------------------------------------------------


def document_changes(before: Merged, after: Merged) -> tuple[Change, ...]:
    """The difference of two policies in force, document by document."""
    old = {title(document): document for document in before.policy.documents}
    new = {title(document): document for document in after.policy.documents}
    theirs = {title(document) for document in (*before.taken, *after.taken)}
    return tuple(
        _document_change(*name, old.get(name), new.get(name), from_portal=name in theirs)
        for name in (*new, *(name for name in old if name not in new))
        if old.get(name) != new.get(name)
    )


def _document_change(
    kind: str, name: str, before: PolicyDocument | None, after: PolicyDocument | None, *, from_portal: bool
) -> Change:
    old = {} if before is None else before.model_dump(mode="json", exclude={"kind", "name"})
    new = {} if after is None else after.model_dump(mode="json", exclude={"kind", "name"})
    return Change(
        action=Action.CREATE if before is None else Action.DELETE if after is None else Action.CHANGE,
        kind=kind,
        name=name,
        fields=tuple(
            FieldChange(field=field, before=_text(old.get(field)), after=_text(new.get(field)))
            for field in (new or old)
            if old.get(field) != new.get(field)
        ),
        from_portal=from_portal,
    )


def _text(value: object) -> str | None:
    return None if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# -- Views -------------------------------------------------------------------------------------------------------------


def _no_node(name: str) -> NoReturn:
    raise NotFound(f"Slurm has no node {name:.70}.", way_out="`gpuaas node list` shows them.")


def _node_view(
    node: Node, partitions: tuple[PartitionName, ...], incident: str | None, agent_seen_at: datetime | None
) -> NodeView:
    owner = (DrainOwner.GPUAAS if node.drained_by_us else DrainOwner.PERSON) if node.draining else None
    return NodeView(
        name=node.name,
        state=node.state.lower(),
        partitions=partitions,
        model=node.model,
        gpus=node.gpus,
        gpus_allocated=node.gpus_allocated,
        reason=node.reason,
        drain_owner=owner,
        incident=incident,
        agent_seen_at=agent_seen_at,
    )


def _incident_view(incident: Incident) -> IncidentView:
    return IncidentView(**incident.model_dump(exclude={"event_ids"}))


def _project_view(
    policy: Policy,
    name: ProjectName,
    now: datetime,
    running: Counter[tuple[str, ServiceClass]],
    pending: int,
    spent: Budget | None,
) -> ProjectView:
    project = policy.project_by_name[name]
    grants = policy.grants_of(name)
    return ProjectView(
        name=name,
        organisation=project.organisation,
        title=project.title,
        members=tuple(member.user for member in policy.members_of(name)),
        grants=tuple(
            GrantView(
                name=grant.name,
                pool=grant.pool,
                share=grant.share,
                partition=policy.pool_by_name[grant.pool].partition_of(grant.share),
                model=policy.pool_by_name[grant.pool].model,
                gpus=grant.gpus,
                borrow_limit=grant.borrow_limit,
                starts_at=grant.starts_at.astimezone(UTC),
                ends_at=grant.ends_at.astimezone(UTC),
                active=grant.active_at(now),
            )
            for grant in grants
        ),
        guaranteed_gpus=sum(grant.gpus for grant in grants if grant.active_at(now)),
        in_use_guaranteed=running[name, ServiceClass.GUARANTEED],
        in_use_burst=running[name, ServiceClass.BURST],
        pending_jobs=pending,
        budget=None
        if spent is None or spent.gpu_seconds is None
        else BudgetView(
            budget=int(spent.gpu_seconds.entitled), used=spent.used_seconds, committed=spent.committed_seconds
        ),
    )


def _budget_side(side: Amount | None) -> BudgetSide | None:
    """Whole GPU-seconds or Won, each rounded down once."""
    if side is None:
        return None
    return BudgetSide(
        awarded=floor(side.awarded),
        carried=floor(side.carried),
        grace=floor(side.grace),
        used=floor(side.used),
        committed=floor(side.committed),
        left=floor(side.left),
    )


def _month_of(now: datetime) -> datetime:
    return now.astimezone(KST).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
