"""What would become of a job, were it submitted now, and by which limit: `gpuaas quota explain`.

Reads what is in Slurm, not what the policy means. Limits are judged by `quota.limits`; whether GPUs are free is judged
from nodes and jobs. What the hook and the placement gate add is not part of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from slurm_gpuaas.domain.errors import InvalidInput, NotFound
from slurm_gpuaas.domain.jobs import Job, JobState
from slurm_gpuaas.domain.names import AccountName, GpuModel, NodeName, PartitionName, QosName, UserName
from slurm_gpuaas.domain.nodes import Node
from slurm_gpuaas.quota.limits import (
    Asked,
    Outcome,
    Place,
    Prediction,
    asked,
    fewest_nodes,
    largest_that_starts,
    predict,
)
from slurm_gpuaas.slurm.limit_records import LimitState, Membership
from slurm_gpuaas.slurm.protocols import LimitReader

ROOT: Final = AccountName("root")
RESOURCES: Final = "Resources"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """`model` None: plain `gpu`. `nodes` None: as few as hold the GPUs. `minutes` and `qos` None: not stated."""

    user: UserName
    account: AccountName
    partition: PartitionName
    gpus: int
    gpus_per_node: int
    model: GpuModel | None
    nodes: int | None = None
    minutes: int | None = None
    qos: QosName | None = None

    def job(self, gpus: int) -> Asked:
        """The job with so many GPUs instead, on as many nodes as these need (at least those asked for)."""
        return asked(gpus, model=self.model, nodes=self.nodes_for(gpus), minutes=self.minutes)

    def nodes_for(self, gpus: int) -> int:
        fewest = fewest_nodes(gpus, self.gpus_per_node)
        return fewest if self.nodes is None else max(fewest, min(self.nodes, gpus))


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Nodes of a partition on which a job could have its GPUs: free now, and with what preemptible jobs hold there."""

    free: Mapping[NodeName, int]
    with_preemptible: Mapping[NodeName, int]

    def holds(self, nodes: int, per_node: int, *, preempting: bool) -> bool:
        gpus = self.with_preemptible if preempting else self.free
        return sum(free >= per_node for free in gpus.values()) >= nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """The job in one QOS. `largest`: the most GPUs with which it would start now as far as limits go.

    `preempts`: it starts on GPUs of preemptible jobs, which give way.
    """

    qos: QosName
    prediction: Prediction
    largest: int
    preempts: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """`sides[0]` is the QOS that was asked for, or the user's default; then the others that the user may use there."""

    question: Question
    nodes: int
    sides: tuple[Side, ...]


def explain(reader: LimitReader, question: Question, room: Room, preempting: Collection[QosName]) -> Explanation:
    """
    Args:
        preempting: QOS whose jobs may take the place of preemptible ones.

    Raises:
        NotFound: the user has no association with the account, or the partition or QOS does not exist.
        InvalidInput: the user may not use the QOS; more nodes than GPUs, or more GPUs than the nodes have.
    """
    _check_shape(question)
    member = _membership(reader.memberships(question.user), question)
    names = _qos_of(member, question)
    state = reader.read(accounts=(member.account, *member.above), users=[question.user], qos=names)
    partition = state.partitions.get(question.partition)
    if partition is None:
        raise NotFound(f"Slurm has no partition {question.partition}.", way_out="Apply the policy again.")
    sides = []
    for name in names:
        if name not in state.qos:
            raise NotFound(f"Slurm has no QOS {name}.", way_out="`gpuaas policy plan` shows what differs.")
        # other QOS are a way out only where the partition admits them
        if name == names[0] or not partition.allow_qos or name in partition.allow_qos:
            sides.append(_side(place_in(state, member, question.partition, name), question, room, name in preempting))
    return Explanation(question=question, nodes=question.nodes_for(question.gpus), sides=tuple(sides))


def place_in(state: LimitState, member: Membership, partition: PartitionName, qos: QosName) -> Place:
    """
    Raises:
        NotFound: slurmctld does not know an association yet.
    """
    keys = [
        (member.account, member.user, member.partition),
        *((account, None, None) for account in (member.account, *member.above, ROOT)),
    ]
    missing = next((key for key in keys if key not in state.associations), None)
    if missing is not None:
        raise NotFound(
            f"slurmctld does not know account {missing[0]} or user {member.user} in it.",
            way_out="Ask again in a moment; if it stays so, `gpuaas policy plan` shows what differs.",
        )
    where = state.partitions[partition]
    return Place(
        user=member.user,
        partition=where,
        partition_qos=None if where.qos is None else state.qos.get(where.qos),
        qos=state.qos[qos],
        associations=tuple(state.associations[key] for key in keys),
        safe=state.safe,
        refuses=state.refuses,
        priority_flags=state.priority_flags,
        tres=state.tres,
    )


def room_in(nodes: Iterable[Node], jobs: Iterable[Job], preemptible: Collection[QosName]) -> Room:
    held: dict[NodeName, int] = defaultdict(int)
    for job in jobs:
        if job.state is JobState.RUNNING and job.qos in preemptible:
            for name in job.nodes:
                held[name] += -(-job.gpus // len(job.nodes))
    usable = [node for node in nodes if node.usable]
    return Room(
        free={node.name: node.free_gpus for node in usable},
        with_preemptible={node.name: min(node.free_gpus + held[node.name], node.gpus) for node in usable},
    )


def _side(place: Place, question: Question, room: Room, preempting: bool) -> Side:
    found = predict(place, question.job(question.gpus))
    nodes = question.nodes_for(question.gpus)
    per_node = -(-question.gpus // nodes)
    free = room.holds(nodes, per_node, preempting=False)
    taken = preempting and room.holds(nodes, per_node, preempting=True)
    if found.outcome is Outcome.START and not (free or taken):
        found = replace(found, outcome=Outcome.WAIT, reason=RESOURCES)
    largest = question.gpus if not found.bites else largest_that_starts(place, question.job, question.gpus - 1)
    return Side(
        qos=place.qos.name,
        prediction=found,
        largest=largest,
        preempts=found.outcome is Outcome.START and not free,
    )


def _check_shape(question: Question) -> None:
    nodes = question.nodes
    if nodes is not None and nodes > question.gpus:
        raise InvalidInput(
            f"{question.gpus} GPUs cannot be spread over {nodes} nodes.", way_out="Ask for fewer nodes, or more GPUs."
        )
    if nodes is not None and nodes * question.gpus_per_node < question.gpus:
        raise InvalidInput(
            f"{nodes} nodes have {nodes * question.gpus_per_node} GPUs, and the job asks for {question.gpus}.",
            way_out=f"Ask for {fewest_nodes(question.gpus, question.gpus_per_node)} nodes.",
        )


def _membership(found: Iterable[Membership], question: Question) -> Membership:
    """The association that Slurm takes: one for the partition before the one for all."""
    here = [one for one in found if one.account == question.account]
    best = next((one for one in here if one.partition == question.partition), None) or next(
        (one for one in here if one.partition is None), None
    )
    if best is None:
        raise NotFound(
            f"{question.user} is no member of {question.account} in Slurm.",
            way_out="`gpuaas project list` shows the members; a new one is there a moment after the policy is applied.",
        )
    return best


def _qos_of(member: Membership, question: Question) -> tuple[QosName, ...]:
    first = question.qos or member.default_qos
    if first is None:
        first = min(member.qos, default=None)
    if first is None or first not in member.qos:
        raise InvalidInput(
            f"{member.user} may not use the QOS {first or '-'} in {member.account}.",
            way_out=f"Use {', '.join(sorted(member.qos)) or 'another account'}.",
        )
    return (first, *sorted(member.qos - {first}))
