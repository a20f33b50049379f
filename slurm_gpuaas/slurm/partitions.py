"""`Partitions` by scontrol: v0.0.42 of slurmrestd has no words for them.

The alternative, `scontrol reconfigure` after every change of the include file, makes all nodes refuse jobs for about
2 s and now and then ends slurmctld 26.05.5 (it aborts while it flushes its script daemon; seen on the testbed).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta

from pydantic import Field

from slurm_gpuaas.domain.names import PartitionName, QosName
from slurm_gpuaas.slurm.programs import Program
from slurm_gpuaas.slurm.records import PartitionSpec
from slurm_gpuaas.slurm.rest_wire import Number, Text, Wire


class _Nodes(Wire):
    configured: Text = ""


class _Qos(Wire):
    allowed: Text = ""


class _Maximums(Wire):
    time: Number = Field(default_factory=Number)


class _Tres(Wire):
    billing_weights: Text = ""


class _Partition(Wire):
    name: str
    nodes: _Nodes
    qos: _Qos
    maximums: _Maximums
    tres: _Tres = Field(default_factory=_Tres)


class _Answer(Wire):
    partitions: tuple[_Partition, ...] = ()


class ScontrolPartitions:
    """Args:
    scontrol: runs scontrol with the given arguments.
    """

    def __init__(self, scontrol: Program) -> None:
        self._scontrol = scontrol

    def read(self) -> Mapping[PartitionName, PartitionSpec]:
        found = _Answer.model_validate_json(self._scontrol(["show", "partition", "--json"]))
        return {PartitionName.as_slurm_says(row.name): _spec(row) for row in found.partitions}

    def put(self, partitions: Sequence[PartitionSpec]) -> None:
        if not partitions:
            return
        present = self.read()
        for spec in partitions:
            self._scontrol(["update" if spec.name in present else "create", *words(spec)])

    def delete(self, names: Iterable[PartitionName]) -> None:
        present = self.read()
        for name in names:
            if name in present:
                self._scontrol(["delete", f"PartitionName={name}"])


def words(spec: PartitionSpec) -> list[str]:
    """The partition as scontrol and slurm.conf write it."""
    settings = [
        f"PartitionName={spec.name}",
        f"Nodes={spec.nodes}",
        f"AllowQos={','.join(spec.allow_qos) or 'ALL'}",
        f"MaxTime={_days(spec.max_time)}",
        f"Default={'YES' if spec.default else 'NO'}",
        "State=UP",
    ]
    if spec.billing_weights:
        settings.append(f"TRESBillingWeights={spec.billing_weights}")
    return settings if spec.topology is None else [*settings, f"Topology={spec.topology}"]


def _spec(row: _Partition) -> PartitionSpec:
    minutes = row.maximums.time.value
    return PartitionSpec(
        name=PartitionName.as_slurm_says(row.name),
        nodes=row.nodes.configured,
        allow_qos=tuple(QosName.as_slurm_says(name) for name in row.qos.allowed.split(",") if name),
        max_time=timedelta.max if minutes is None else timedelta(minutes=minutes),
        billing_weights=row.tres.billing_weights,
    )


def _days(span: timedelta) -> str:
    """Slurm's `days-hours:minutes:seconds`."""
    if span == timedelta.max:
        return "UNLIMITED"
    minutes, seconds = divmod(span.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{span.days}-{hours:02}:{minutes:02}:{seconds:02}"
