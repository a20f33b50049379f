"""The shares of a cluster as they are now, in the words of the quota core. Pure: policy, jobs and nodes in, values out.

A share's capacity is what its nodes can give now: those in service, those out of service as far as our jobs still run
on them, less what jobs that are none of ours hold there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from slurm_gpuaas.domain.giving_way import GivingWay
from slurm_gpuaas.domain.jobs import Job, JobId, JobState, ServiceClass
from slurm_gpuaas.domain.names import ClusterName, NodeName, PartitionName, ProjectName, QosName
from slurm_gpuaas.domain.nodes import Node
from slurm_gpuaas.domain.policy import Policy
from slurm_gpuaas.quota.capacity import shorted, tree_of
from slurm_gpuaas.quota.decide import Decision, JobKey, Options, Pending, Ruling, Running, decide
from slurm_gpuaas.quota.entitlement import Entitlement, entitlements
from slurm_gpuaas.quota.tree import TenantName, Tree

ON_NODES: Final = frozenset({JobState.RUNNING, JobState.SUSPENDED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What is read of Slurm at one moment.

    Args:
        promised: nodes that waiting jobs were given and are about to start on. Burst jobs there are giving way.
        lost: nodes that no guarantee may count on.
        refused: jobs that Slurm would not take off their nodes a moment ago: nobody counts on them to give way.
        spares: nodes that wait for others to fail. They give room to the burst jobs on them and to nobody else, so
            a job wholly on spares would make no room for others either.
    """

    now: datetime
    jobs: Sequence[Job]
    nodes: Mapping[NodeName, Node]
    promised: Mapping[JobId, frozenset[NodeName]]
    lost: frozenset[NodeName] = frozenset()
    refused: frozenset[JobId] = frozenset()
    spares: frozenset[NodeName] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveShare:
    """One share: tenants (organisations above projects, with guarantees that can be kept), capacity, who runs, and the
    rules for reclaim."""

    partition: PartitionName
    tree: Tree
    capacity: int
    running: tuple[Running, ...]
    options: Options
    entitled: Mapping[ProjectName, Entitlement]

    def rule(self, pending: Sequence[Pending] = ()) -> Ruling:
        return decide(self.tree, self.capacity, self.running, pending, self.options)

    def pending(self, job: Job) -> Pending:
        return Pending(id=key_of(job), tenant=TenantName(job.account), gpus=job.gpus, service=service_of(job.qos))


def key_of(job: Job) -> JobKey:
    return JobKey(str(job.id))


def project_of(job: Job) -> ProjectName:
    """A project is its Slurm account."""
    return ProjectName.as_slurm_says(job.account)


def service_of(qos: QosName) -> ServiceClass | None:
    """None for a job that leaves both to Slurm (`--qos=guaranteed-x,burst-y`) or has a QOS that is none of ours."""
    kinds = {name.partition("-")[0] for name in qos.split(",")}
    if kinds == {"burst"}:
        return ServiceClass.BURST
    return ServiceClass.GUARANTEED if kinds == {"guaranteed"} else None


def live_shares(
    policy: Policy, cluster: ClusterName, scene: Scene, *, whole_nodes: bool = False
) -> Mapping[PartitionName, LiveShare]:
    """The cluster's shares that have projects. O(projects + jobs + nodes).

    Args:
        whole_nodes: for a job that takes whole nodes: GPUs left over on nodes in use do not count, and burst jobs
            that hold parts of nodes would not make room.
    """
    by_partition: dict[PartitionName, list[Entitlement]] = defaultdict(list)
    for one in entitlements(policy, cluster, scene.now):
        by_partition[one.partition].append(one)
    names = {partition: {one.name for one in entitled} for partition, entitled in by_partition.items()}
    on_nodes: dict[PartitionName, list[Job]] = defaultdict(list)
    strangers: list[Job] = []
    for job in scene.jobs:
        if job.state in ON_NODES:
            ours = project_of(job) in names.get(job.partition, ())
            (on_nodes[job.partition] if ours else strangers).append(job)
    foreign = _held(strangers)
    return {
        partition: _live(policy, entitled, on_nodes[partition], foreign, scene, whole_nodes=whole_nodes)
        for partition, entitled in by_partition.items()
    }


def _live(
    policy: Policy,
    entitled: Sequence[Entitlement],
    jobs: Sequence[Job],
    foreign: Mapping[NodeName, int],
    scene: Scene,
    *,
    whole_nodes: bool,
) -> LiveShare:
    pool, share = entitled[0].pool, entitled[0].share
    names = share.node_names
    taken = {node for nodes in scene.promised.values() for node in nodes}
    giving_way = {job.id for job in jobs if service_of(job.qos) is ServiceClass.BURST and taken & set(job.nodes)}
    staying = [job for job in jobs if job.id not in giving_way]
    starting = [
        job
        for job in scene.jobs
        if job.id in scene.promised and job.state is JobState.PENDING and job.partition == entitled[0].partition
    ]
    held = _held(staying)
    capacity = sum(
        held.get(name, 0)
        if name in scene.spares
        else _gives(scene.nodes.get(name), held.get(name, 0), foreign.get(name, 0))
        for name in names
    )
    if whole_nodes:
        closed = taken | scene.spares
        capacity -= sum(_left_over(scene.nodes.get(name), held, foreign) for name in names if name not in closed)
    known = {one.name for one in entitled}
    return LiveShare(
        partition=entitled[0].partition,
        tree=tree_of(policy, entitled, {one.project: one.honoured for one in shorted(policy, entitled, scene.lost)}),
        capacity=max(capacity, 0),
        running=tuple(
            _running(
                job,
                scene,
                fixed=job.id in scene.refused
                or scene.spares.issuperset(job.nodes)
                or (whole_nodes and not _holds_whole_nodes(job, scene.nodes)),
            )
            for job in (*staying, *starting)
            if project_of(job) in known
        ),
        options=Options(min_run_s=int(pool.min_run.total_seconds())),
        entitled={one.name: one for one in entitled},
    )


def _gives(node: Node | None, held: int, foreign: int) -> int:
    if node is None:
        return 0
    return max(node.gpus - foreign, held) if node.usable else held


def _left_over(node: Node | None, held: Mapping[NodeName, int], foreign: Mapping[NodeName, int]) -> int:
    """Free GPUs of a node in use: no job of whole nodes can have them."""
    if node is None or not node.usable:
        return 0
    used = held.get(node.name, 0) + foreign.get(node.name, 0)
    return max(node.gpus - used, 0) if used else 0


def _held(jobs: Iterable[Job]) -> Mapping[NodeName, int]:
    """GPUs that jobs hold on each node; a job holds as many on each of its nodes."""
    held: dict[NodeName, int] = defaultdict(int)
    for job in jobs:
        for node in job.nodes:
            held[node] += -(-job.gpus // len(job.nodes))
    return held


def _holds_whole_nodes(job: Job, nodes: Mapping[NodeName, Node]) -> bool:
    return job.gpus == sum(nodes[name].gpus for name in job.nodes if name in nodes)


def _running(job: Job, scene: Scene, *, fixed: bool) -> Running:
    age = timedelta(0) if job.started is None else scene.now - job.started
    return Running(
        id=key_of(job),
        tenant=TenantName(job.account),
        gpus=job.gpus,
        service=service_of(job.qos),
        age_s=max(int(age.total_seconds()), 0),
        preemptible=not fixed and job.state in ON_NODES,
    )


# -- For the placement gate --------------------------------------------------------------------------------------------


def giving_way(policy: Policy, cluster: ClusterName, scene: Scene, pending: Sequence[Job]) -> Mapping[JobId, GivingWay]:
    """Who gives way to waiting jobs that may run as guaranteed, decided in their order."""
    rulings: dict[JobId, GivingWay] = {}
    for whole in (True, False):
        asking = [job for job in pending if takes_whole_nodes(job, scene.nodes) is whole]
        if not asking:
            continue
        shares = live_shares(policy, cluster, scene, whole_nodes=whole)
        for partition, share in shares.items():
            here = [job for job in asking if job.partition == partition and project_of(job) in share.entitled]
            decisions = {one.job: one for one in share.rule([share.pending(job) for job in here]).decisions}
            for job in here:
                if service_of(job.qos) is not ServiceClass.BURST:
                    rulings[job.id] = _ruling(job, decisions[key_of(job)])
    return rulings


def takes_whole_nodes(job: Job, nodes: Mapping[NodeName, Node]) -> bool:
    per_node = max((node.gpus for node in nodes.values()), default=0)
    return job.node_count > 1 or job.gpus >= per_node


def _ruling(job: Job, decision: Decision) -> GivingWay:
    return GivingWay(
        job=job.id,
        waits=decision.guarantee_full or decision.over_ceiling,
        victims=victims_of(decision),
        why=decision.why,
    )


def victims_of(decision: Decision) -> tuple[JobId, ...]:
    return tuple(JobId(int(victim)) for victim in decision.preempts)


def standings(policy: Policy, cluster: ClusterName, scene: Scene) -> Iterator[tuple[LiveShare, Ruling]]:
    """Each share with where its tenants stand; waiting jobs count as asked for, and nothing is decided for them."""
    for share in live_shares(policy, cluster, scene).values():
        waiting = [
            share.pending(job)
            for job in scene.jobs
            if job.state is JobState.PENDING
            and job.partition == share.partition
            and project_of(job) in share.entitled
            and job.id not in scene.promised
        ]
        yield share, share.rule(waiting)
