"""What could start now on each partition of the policy, from Slurm, policy and fabric as they are; kept over time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from slurm_gpuaas.daemon.shared import SharedController
from slurm_gpuaas.domain.capacity import Capacity, CapacitySample
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.jobs import Job
from slurm_gpuaas.domain.names import ClusterName, NodeName, PartitionName
from slurm_gpuaas.jobs.gate_rules import ON_NODES, free_nodes, occupied, promised
from slurm_gpuaas.store import Store
from slurm_gpuaas.topology.capacity import capacity
from slurm_gpuaas.topology.fabric import FabricArrays


class Capacities:
    """Args:
    partitions: nodes of each partition that the policy declares.
    fabric: as it is now; not asked for without partitions.
    keep: samples older than this are deleted.
    """

    def __init__(
        self,
        *,
        cluster: ClusterName,
        shared: SharedController,
        store: Store,
        partitions: Callable[[], Mapping[PartitionName, tuple[NodeName, ...]]],
        fabric: Callable[[], FabricArrays],
        clock: Clock,
        keep: timedelta,
    ) -> None:
        self._cluster = cluster
        self._shared = shared
        self._store = store
        self._partitions = partitions
        self._fabric = fabric
        self._clock = clock
        self._keep = keep

    def now(self) -> tuple[Capacity, ...]:
        """
        Raises:
            Unavailable: Slurm or the fabric cannot be read.
            InvalidInput: topology.yaml describes no fabric.
        """
        partitions = self._partitions()
        if not partitions:
            return ()
        fabric = self._fabric()
        nodes = {node.name: node for node in self._shared.nodes()}
        jobs = self._shared.jobs()
        given = {name for names in promised(jobs).values() for name in names}
        free = free_nodes(nodes.values(), occupied(jobs) | given)
        running: dict[PartitionName, list[Job]] = defaultdict(list)
        for job in jobs:
            if job.state in ON_NODES:
                running[job.partition].append(job)
        return tuple(
            capacity(
                fabric,
                partition,
                nodes=[nodes[name] for name in names if name in nodes],
                free=free,
                promised=given,
                running=running[partition],
            )
            for partition, names in partitions.items()
        )

    def sample(self) -> None:
        """Keep the present figures, and forget the oldest."""
        at = self._clock.now().replace(microsecond=0)
        samples = [CapacitySample.of(one, cluster=self._cluster, at=at) for one in self.now()]
        self._store.put_capacity(self._cluster, samples, forget_before=at - self._keep)

    def since(self, moment: datetime) -> Mapping[PartitionName, tuple[CapacitySample, ...]]:
        """What was kept from a moment on, oldest first."""
        kept: dict[PartitionName, list[CapacitySample]] = defaultdict(list)
        for sample in self._store.capacity(self._cluster, since=moment):
            kept[sample.partition].append(sample)
        return {partition: tuple(samples) for partition, samples in kept.items()}
