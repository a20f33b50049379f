"""Makes room on request: reads Slurm afresh, plans by the fabric, and carries out a plan that still holds."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from slurm_gpuaas.api.models import DefragApply, DefragMove, DefragPlan, DefragTerms, FabricSpan, Staying
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.errors import Conflict, InvalidInput, NotFound, Refused
from slurm_gpuaas.domain.names import ClusterName, NodeName, PartitionName
from slurm_gpuaas.domain.policy import Pool, expand_nodes, fold_nodes
from slurm_gpuaas.jobs.move_rules import MoveOrder, Standing, Terms, loss, standing, why
from slurm_gpuaas.jobs.mover import AGAIN, Mover
from slurm_gpuaas.slurm.protocols import Controller
from slurm_gpuaas.store import Store
from slurm_gpuaas.topology.defrag import Movable, Question, Used, defragment
from slurm_gpuaas.topology.fabric import FabricArrays

SEARCH_S: Final = 10.0
"""Less than a client waits for an answer."""


@dataclass(frozen=True, kw_only=True)
class Defragmenter:
    """Args:
    slurm: reads afresh.
    fabric: as topology.yaml describes it now.
    shadow: the placement gate changes nothing, so nobody would put a requeued job on its new nodes.
    """

    cluster: ClusterName
    store: Store
    slurm: Controller
    fabric: Callable[[], FabricArrays]
    mover: Mover
    clock: Clock
    shadow: bool
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock)

    def plan(self, asked: DefragTerms) -> DefragPlan:
        pool, partition, names = self._partition(asked)
        seen = self._seen(asked, pool, partition, names)
        now = self.clock.now()
        found = defragment(
            self.fabric(),
            Question(
                count=asked.count,
                level=asked.level,
                usable=seen.usable,
                free=seen.free,
                movable=[Movable(job=job.id, nodes=job.nodes, loss=loss(job, now)) for job in seen.movable],
            ),
            seconds=SEARCH_S,
        )
        by_id = {job.id: job for job in seen.movable}
        moved = [(move, by_id[move.job]) for move in found.moves]
        return DefragPlan(
            partition=partition,
            count=asked.count,
            reason=found.reason,
            room=_folded(found.room),
            span=_span(found.used) if found.room else None,
            ideal=_span(found.ideal) if found.room else None,
            now=_span(found.now) if found.now else None,
            moves=tuple(
                DefragMove(
                    job=job.id,
                    user=job.user,
                    account=job.account,
                    restarts=job.restarts,
                    gpus=job.gpus,
                    nodes=fold_nodes(job.nodes),
                    to=fold_nodes(move.to),
                    leaf_groups_before=move.leaf_groups_before,
                    leaf_groups_after=move.leaf_groups_after,
                    lost_gpu_seconds=loss(job, now),
                    why=why(job, now),
                )
                for move, job in moved
            ),
            bound=found.bound,
            gap=found.gap,
            unspread_bound=found.unspread_bound,
            lost_gpu_seconds=found.loss,
            lost_bound=found.loss_bound,
            staying=tuple(Staying(why=reason, jobs=jobs) for reason, jobs in sorted(seen.staying.items())),
        )

    def apply(self, asked: DefragApply, *, actor: str) -> None:
        """
        Raises:
            Conflict: the plan does not hold any more.
            Refused: the placement gate only looks on.
        """
        if self.shadow:
            raise Refused(
                "The placement gate is in shadow mode: it would put no job on its new nodes.",
                way_out="Set gate.shadow to false.",
            )
        orders = [
            MoveOrder(job=one.job, restarts=one.restarts, nodes=expand_nodes(one.nodes), to=expand_nodes(one.to))
            for one in asked.moves
        ]
        room = expand_nodes(asked.room)
        with self._one_at_a_time:
            seen = self._seen(asked, *self._partition(asked))
            if differs := seen.differs(orders, room):
                raise Conflict(f"The plan does not hold any more: {differs}", way_out=AGAIN)
            by_id = {job.id: job for job in seen.movable}
            self.mover.carry_out([(by_id[one.job], one.to) for one in orders], room=room, actor=actor)

    def _seen(self, asked: DefragTerms, pool: Pool, partition: PartitionName, names: tuple[NodeName, ...]) -> Standing:
        terms = Terms(
            partition=partition,
            guaranteed=asked.guaranteed,
            min_run=pool.min_run,
            min_left=timedelta(minutes=asked.min_left_minutes),
        )
        nodes = {node.name: node for node in self.slurm.nodes()}
        return standing(self.slurm.jobs(), nodes, names, terms, self.clock.now())

    def _partition(self, asked: DefragTerms) -> tuple[Pool, PartitionName, tuple[NodeName, ...]]:
        found = {
            pool.partition_of(share.name): (pool, pool.partition_of(share.name), share.node_names)
            for pool in self.store.policy().pools
            if pool.cluster == self.cluster
            for share in pool.shares
        }
        known = ", ".join(sorted(found)) or "none"
        if asked.partition is None:
            if len(found) != 1:
                raise InvalidInput(
                    f"The policy has {len(found)} partitions here: {known}.", way_out="Name one of them."
                )
            return next(iter(found.values()))
        if asked.partition not in found:
            raise NotFound(
                f"The policy has no partition {asked.partition} here.", way_out=f"Name one of these: {known}."
            )
        return found[asked.partition]


def _span(used: Used) -> FabricSpan:
    return FabricSpan(pods=used[0], leaf_groups=used[1])


def _folded(nodes: tuple[NodeName, ...]) -> str:
    return fold_nodes(nodes) if nodes else ""
