"""Our partitions: the include file of slurm.conf that keeps them, and what differs in a running Slurm. Pure.

A change reaches the running slurmctld by itself; the file says the same, so that a restart or a reconfigure keeps it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

from slurm_gpuaas.domain.names import NodeName, PartitionName, QosName
from slurm_gpuaas.domain.policy import expand_nodes, fold_nodes
from slurm_gpuaas.quota.desired import ADMINISTRATORS, ADMINISTRATORS_QOS, CLOSED
from slurm_gpuaas.slurm.partitions import words
from slurm_gpuaas.slurm.records import PartitionSpec

_HEAD: Final = "# Written by gpuaasd from the policy: what is changed here by hand is put back.\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Partitions:
    """What there is and what there should be.

    Args:
        file: text of the include file; None when there is none.
        live: all partitions of the running slurmctld.
    """

    file: str | None
    live: Mapping[PartitionName, PartitionSpec]
    wanted: tuple[PartitionSpec, ...]

    @property
    def text(self) -> str:
        """What the file should say."""
        return render(self.wanted)

    @property
    def put(self) -> tuple[PartitionSpec, ...]:
        """To create or change in the running Slurm."""
        return tuple(spec for spec in self.wanted if settings(self.live.get(spec.name)) != settings(spec))

    @property
    def delete(self) -> tuple[PartitionName, ...]:
        """Ours by the file, in Slurm, and no longer wanted; never the administrators'."""
        return tuple(sorted((self._listed - {spec.name for spec in self.wanted}) & self.live.keys()))

    @property
    def takes(self) -> bool:
        """Something in the running Slurm is still to change or to go."""
        return bool(self.put or self.delete)

    @property
    def foreign(self) -> tuple[PartitionName, ...]:
        """Wanted names that Slurm has and that are not ours. The administrators' is ours wherever there is a file."""
        ours = self._listed if self.file is None else self._listed | {ADMINISTRATORS}
        return tuple(sorted({spec.name for spec in self.wanted} & self.live.keys() - ours))

    def opened(self, known: Collection[QosName]) -> Partitions | None:
        """The way to partitions that have and let in both what they do now and what they should: it is gone before
        anything is lowered, closed or deleted. None when nothing is gained.

        The administrators' is put right at once: it is no project's.

        Args:
            known: QOS that exist: Slurm refuses a partition with another.
        """
        wanted = {spec.name: spec for spec in self.wanted}
        fence = [spec for spec in self.wanted if spec.name == ADMINISTRATORS]
        kept = {name: self.live[name] for name in self._listed & self.live.keys()}
        both = {name: _opened(live, wanted[name], known) if name in wanted else live for name, live in kept.items()}
        both |= {spec.name: spec for spec in self.wanted if spec.name not in self.live and spec not in fence}
        if both == kept:
            return None
        return replace(self, wanted=tuple(sorted([*both.values(), *fence], key=lambda spec: spec.name)))

    def fenced(self, known: Collection[QosName]) -> Partitions:
        """As this, with an administrators' partition that lets nobody in where Slurm has no QOS for it: Slurm would
        refuse the partition, and an open one would let in everybody."""
        if ADMINISTRATORS_QOS in known:
            return self
        closed = [replace(spec, allow_qos=(CLOSED,)) if spec.name == ADMINISTRATORS else spec for spec in self.wanted]
        return replace(self, wanted=tuple(closed))

    def after(self, earlier: Partitions | None) -> Partitions:
        """What is left once another way was gone from here; None: nothing was."""
        if earlier is None:
            return self
        live = {**self.live, **{spec.name: spec for spec in earlier.wanted}}
        return replace(self, file=earlier.text, live=live)

    @property
    def _listed(self) -> frozenset[PartitionName]:
        return frozenset(listed(self.file or "")) - {ADMINISTRATORS}


def _opened(live: PartitionSpec, wanted: PartitionSpec, known: Collection[QosName]) -> PartitionSpec:
    """Our own words where they say the same: so no second write is only for words."""
    lets_in = not live.allow_qos or set(wanted.allow_qos) <= {*live.allow_qos, CLOSED}
    now = frozenset[NodeName]() if live.nodes == "ALL" else frozenset(expand_nodes(live.nodes))
    then = frozenset(expand_nodes(wanted.nodes))
    has = live.nodes == "ALL" or then <= now
    if lets_in and has and wanted.max_time <= live.max_time:
        return live
    let_in = {name for name in live.allow_qos if name in known} | {*wanted.allow_qos}
    both: dict[str, Any] = {
        # an empty list lets in everybody, and so it does already
        "allow_qos": tuple(sorted(let_in - {CLOSED})) or (CLOSED,) if live.allow_qos else (),
        "nodes": live.nodes if has else fold_nodes(now | then),
        "max_time": max(live.max_time, wanted.max_time),
    }
    opened, same = replace(live, **both), replace(wanted, **both)
    return same if settings(same) == settings(opened) else opened


def render(partitions: Iterable[PartitionSpec]) -> str:
    return _HEAD + "".join(f"{' '.join(words(spec))}\n" for spec in partitions)


def listed(text: str) -> tuple[PartitionName, ...]:
    """Names of the partitions that an include file declares."""
    lines = (line.split() for line in text.splitlines())
    return tuple(
        PartitionName.as_slurm_says(line[0].removeprefix("PartitionName="))
        for line in lines
        if line and line[0].startswith("PartitionName=")
    )


def settings(spec: PartitionSpec | None) -> Mapping[str, str]:
    """What we compare, written so that equal settings are equal texts; nothing for no partition."""
    if spec is None:
        return {}
    # slurmctld says `ALL` when it read it from the file, and the nodes by name after scontrol
    nodes = "ALL" if spec.name == ADMINISTRATORS else spec.nodes
    return {
        "Nodes": nodes if nodes == "ALL" else ",".join(sorted(expand_nodes(nodes))),
        "AllowQos": ",".join(sorted(spec.allow_qos)),
        "TRESBillingWeights": spec.billing_weights.lower(),
        "MaxTime": str(spec.max_time - spec.max_time % timedelta(minutes=1)),
    }
