"""Spares and recoveries as people ask for them, and what of policy and fabric their controllers need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from slurm_gpuaas.api.models import RecoveryView, SparePool, SparesView, SpareView
from slurm_gpuaas.daemon.fabric_file import FabricFile
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.errors import InvalidInput, Unavailable
from slurm_gpuaas.domain.names import ClusterName, NodeName, PartitionName
from slurm_gpuaas.domain.policy import Policy
from slurm_gpuaas.domain.recoveries import Recovery, RecoveryState
from slurm_gpuaas.domain.slurm_accounts import burst_qos
from slurm_gpuaas.health.recovery_rules import Place
from slurm_gpuaas.health.spares import PartitionSpares, SparePartition, Spares
from slurm_gpuaas.quota.entitlement import entitlements
from slurm_gpuaas.store import Store

SHOWN: Final = timedelta(days=28)
"""Recoveries that began earlier are not shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replacement:
    spares: Spares
    store: Store
    clock: Clock

    def view(self) -> SparesView:
        """Spares as of the controller's last tick, and the newest recoveries."""
        found = self.store.recoveries(since=self.clock.now() - SHOWN, limit=100)
        return SparesView(
            pools=tuple(map(_pool, self.spares.standing())),
            recoveries=tuple(_recovery(one) for one in found if one.state is not RecoveryState.PLAIN),
        )


def spare_partitions(policy: Policy, cluster: ClusterName, now: datetime) -> Sequence[SparePartition]:
    """Partitions in which somebody has a grant; others have no burst QOS, so nobody could work on their spares."""
    found: dict[PartitionName, SparePartition] = {}
    for one in entitlements(policy, cluster, now):
        before = found.get(one.partition)
        found[one.partition] = SparePartition(
            name=one.partition,
            nodes=one.share.node_names,
            qos=burst_qos(one.pool.name, one.share.name),
            guaranteed=-(-one.gpus // one.pool.gpus_per_node) + (before.guaranteed if before else 0),
        )
    return list(found.values())


def places(fabric: FabricFile) -> Mapping[NodeName, Place]:
    """Pod and leaf group of each node; without a topology all nodes are equally near."""
    try:
        arrays = fabric.arrays()
    except (Unavailable, InvalidInput):  # the gate says so; jobs are brought back all the same
        return {}
    return {node: arrays.paths[group] for node, group in zip(arrays.nodes, arrays.group.tolist(), strict=True)}


def _pool(one: PartitionSpares) -> SparePool:
    return SparePool(
        partition=one.partition,
        asked=one.asked,
        wanted=one.wanted,
        ready=one.ready,
        thin=one.thin,
        why=one.why,
        nodes=tuple(
            SpareView(node=node.node, place="/".join(filter(None, node.place)), ready=node.serves, jobs=node.jobs)
            for node in one.nodes
        ),
    )


def _recovery(one: Recovery) -> RecoveryView:
    return RecoveryView(
        job=one.job_id,
        user=one.user,
        incident=one.incident,
        state=one.state,
        lost=one.lost,
        kept=one.kept,
        spares=one.spares,
        begun_at=one.begun_at,
        ended_at=one.ended_at,
        why=one.why,
    )
