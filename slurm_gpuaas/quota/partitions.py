"""Our partitions: the include file of slurm.conf that keeps them, and what differs in a running Slurm. Pure.

A change reaches the running slurmctld by itself; the file says the same, so that a restart or a reconfigure keeps it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from slurm_gpuaas.domain.names import PartitionName, QosName
from slurm_gpuaas.domain.policy import expand_nodes
from slurm_gpuaas.quota.desired import ADMINISTRATORS, ADMINISTRATORS_QOS, BILLING_WEIGHTS, CLOSED
from slurm_gpuaas.slurm.partitions import words
from slurm_gpuaas.slurm.records import PartitionSpec

_HEAD: Final = f"""\
# Written by gpuaasd from the policy: what is changed here by hand is put back.
PartitionName={ADMINISTRATORS} Nodes=ALL AllowAccounts=root AllowQos={ADMINISTRATORS_QOS} \
TRESBillingWeights={BILLING_WEIGHTS} MaxTime=INFINITE State=UP
"""


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
        """Ours by the file, in Slurm, and no longer wanted."""
        return tuple(sorted((self._listed - {spec.name for spec in self.wanted}) & self.live.keys()))

    @property
    def foreign(self) -> tuple[PartitionName, ...]:
        """Wanted names that Slurm has and that are not ours."""
        return tuple(sorted({spec.name for spec in self.wanted} & self.live.keys() - self._listed))

    def opened(self, known: Collection[QosName]) -> Partitions | None:
        """The way to partitions that let in both what they let in now and what they should: it is gone before anything
        is lowered. None when none gains a QOS.

        Args:
            known: QOS that exist: Slurm refuses a partition with another.
        """
        wanted = {spec.name: spec for spec in self.wanted}
        kept = {name: self.live[name] for name in sorted(self._listed & self.live.keys())}
        both = {name: _opened(live, wanted[name], known) if name in wanted else live for name, live in kept.items()}
        if both == kept:
            return None
        return replace(self, wanted=tuple(both.values()))

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
    if not live.allow_qos or set(wanted.allow_qos) <= {*live.allow_qos, CLOSED}:
        return live
    both = tuple(sorted({name for name in live.allow_qos if name in known} - {CLOSED} | {*wanted.allow_qos}))
    opened = replace(live, allow_qos=both)
    same = replace(wanted, allow_qos=both)
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
    return {
        "Nodes": ",".join(sorted(expand_nodes(spec.nodes))) if spec.nodes != "ALL" else spec.nodes,
        "AllowQos": ",".join(sorted(spec.allow_qos)),
        "TRESBillingWeights": spec.billing_weights.lower(),
        "MaxTime": str(spec.max_time - spec.max_time % timedelta(minutes=1)),
    }
