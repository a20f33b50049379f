"""Two leaf groups of four nodes, and a placer of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import timedelta

from slurm_gpuaas.domain.audit import AuditEntry
from slurm_gpuaas.domain.jobs import Job, JobId, JobPlacement
from slurm_gpuaas.domain.names import NodeName, PartitionName
from slurm_gpuaas.domain.nodes import Node
from slurm_gpuaas.domain.policy import expand_nodes
from slurm_gpuaas.jobs.gate_rules import Picture, Pin
from slurm_gpuaas.topology.fabric import FabricArrays
from slurm_gpuaas.topology.placer import FabricPlacer
from tests.fakes import EPOCH, make_job, make_node

OWN = PartitionName("own")
NODES = expand_nodes("n[1-8]")
PLACER = FabricPlacer(FabricArrays.of([("pod", "left", NODES[:4]), ("pod", "right", NODES[4:])]))
GATED = "placement:1"


def names(*folded: str) -> tuple[NodeName, ...]:
    return tuple(node for text in folded for node in expand_nodes(text))


def picture(
    jobs: Sequence[Job], nodes: Sequence[Node] = (), *, later: timedelta = timedelta(), patience: int = 8
) -> Picture:
    """All nodes idle but those given, and those that jobs run on."""
    given = {node.name: node for node in nodes}
    return Picture(
        now=EPOCH + later,
        jobs=jobs,
        nodes={name: given.get(name) or make_node(name) for name in NODES},
        partitions={OWN: NODES},
        patience=timedelta(seconds=patience),
    )


def gated(job_id: int, count: int = 4, *, licenses: str = GATED, **others: object) -> Job:
    return make_job(job_id, node_count=count, licenses=licenses, reason="Licenses", **others)  # type: ignore[arg-type]


def pinned(job_id: int, nodes: str, *, restarts: int = 0, pinned_for: int = 0, reason: str = "None") -> Job:
    """A job that waits on nodes we gave it for its run number `pinned_for`."""
    own = names(nodes)
    pin = Pin(nodes=frozenset(own), restarts=pinned_for, at=EPOCH)
    job = make_job(job_id, node_count=len(own), restarts=restarts, reason=reason)
    return replace(job, required_nodes=own, admin_comment=pin.written_to(""))


@dataclass
class FakeStore:
    """Placements and audit entries in memory; tests/unit/store holds the real one to the same words."""

    rows: dict[tuple[JobId, int], JobPlacement] = field(default_factory=dict)
    entries: list[AuditEntry] = field(default_factory=list)

    @property
    def audit(self) -> FakeStore:
        return self

    def append(self, *entries: AuditEntry) -> None:
        self.entries += entries

    def transaction(self) -> AbstractContextManager[object]:
        return nullcontext()

    def put_placement(self, placement: JobPlacement) -> None:
        self.rows[placement.job_id, placement.restarts] = placement

    def placements(self, *, job_id: JobId, limit: int = 100) -> Sequence[JobPlacement]:
        newest = sorted(self.rows.items(), reverse=True)
        return [placement for (job, _), placement in newest if job == job_id][:limit]
