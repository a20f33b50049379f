"""From devices and links, in any order, to the fabric they amount to, and what is wrong with them.

Hosts are known by name, switches by GUID. What is wrong is told by what most of its kind are: a link of less rate than
most of its tier, a leaf with fewer uplinks than most leaves, an adapter on another rail than most of its name.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Final, TypeVar

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.policy import fold_nodes
from slurm_gpuaas.domain.words import plural
from slurm_gpuaas.topology.fabric import (
    UNATTACHED,
    Fabric,
    Fault,
    Finding,
    LeafGroup,
    Switch,
    joined,
    natural,
)

LONGEST_LIST: Final = 300


@dataclass(frozen=True, slots=True)
class Rate:
    """What a link trained at: lanes, and Gb/s of them all."""

    name: str
    gbps: float


def guid_of(digits: str) -> str:
    """As all our readers write it: 16 hex digits."""
    return digits.lower().rjust(16, "0")


@dataclass(frozen=True, slots=True)
class _HostCable:
    node: NodeName
    switch: str
    adapter: str
    rate: Rate | None


@dataclass(frozen=True, slots=True)
class _SwitchCable:
    ends: frozenset[str]
    rate: Rate | None


_Group = tuple[set[str], list[NodeName]]
"""Leaf switches and nodes of a leaf group."""


class Cabling:
    """Collects devices and links in any order; `fabric()` says what they amount to. Linear in links, whatever they
    look like. A cable that is told twice, from both ends, is one where both name it alike.
    """

    def __init__(self) -> None:
        self.switch_names: dict[str, str] = {}
        self._hosts_of: dict[str, set[NodeName]] = defaultdict(set)
        self._leaves_of: dict[NodeName, set[str]] = defaultdict(set)
        self._neighbours: dict[str, set[str]] = defaultdict(set)
        self._host_cables: dict[Hashable, _HostCable] = {}
        self._switch_cables: dict[Hashable, _SwitchCable] = {}
        self._serves_others: set[str] = set()

    def add_switch(self, guid: str, name: str) -> None:
        self.switch_names[guid] = name[:128] or guid

    def connect_host(
        self, node: NodeName, switch: str, *, adapter: str = "", rate: Rate | None = None, cable: Hashable = None
    ) -> None:
        self.switch_names.setdefault(switch, switch)
        self._hosts_of[switch].add(node)
        self._leaves_of[node].add(switch)
        self._host_cables[cable or (node, switch)] = _HostCable(node, switch, adapter, rate)

    def connect_other(self, switch: str) -> None:
        """An adapter that is not of the compute fabric is cabled to the switch."""
        self._serves_others.add(switch)

    def connect_switches(self, one: str, other: str, *, rate: Rate | None = None, cable: Hashable = None) -> None:
        self._switch_cables[cable or frozenset((one, other))] = _SwitchCable(frozenset((one, other)), rate)
        for switch in (one, other):
            self.switch_names.setdefault(switch, switch)
        self._neighbours[one].add(other)
        self._neighbours[other].add(one)

    def fabric(
        self,
        source: str,
        nodes: Iterable[NodeName] = (),
        findings: Sequence[Finding] = (),
        *,
        disputed: Set[NodeName] = frozenset(),
    ) -> Fabric:
        """The fabric of these links.

        Args:
            nodes: nodes that must be in it; those without a link stand in `UNATTACHED`.
            disputed: nodes of which links were left out, as `findings` say: in it too, and no such link is missed.

        Raises:
            InvalidInput: no host at all has a link.
        """
        unattached = sorted({*nodes, *disputed} - self._leaves_of.keys(), key=natural)
        if not self._leaves_of:
            raise InvalidInput(
                f"{source} names no host.",
                way_out="Check that it is all that ibnetdiscover or iblinkinfo printed, and --nodes names its hosts.",
            )
        members = self._leaf_groups()
        pod_of = self._pods(members)
        pods: dict[int, list[int]] = defaultdict(list)
        for number in range(len(members)):
            pods[pod_of[number]].append(number)
        groups: list[LeafGroup] = []
        rails = self._rails()
        width = max(2, len(str(len(members))))
        for pod_number, numbers in enumerate(sorted(pods.values()), start=1):
            for number in numbers:
                leaves, hosts = members[number]
                groups.append(
                    LeafGroup(
                        name=f"leaf-{len(groups) + 1:0{width}d}",
                        pod=f"pod-{pod_number:02d}",
                        nodes=fold_nodes(hosts),
                        switches=tuple(sorted(leaves)),
                        rails=tuple(rails.get(leaf, "")[:64] for leaf in sorted(leaves)) if rails else (),
                    )
                )
        if unattached:
            groups.append(LeafGroup(name=UNATTACHED, pod=UNATTACHED, nodes=fold_nodes(unattached)))
        return Fabric(
            source=source,
            leaf_groups=tuple(groups),
            spines=self._spines(),
            findings=(
                *findings,
                *(
                    Finding(fault=Fault.NO_LINK, says=f"{node} has no link.", nodes=node)
                    for node in unattached
                    if node not in disputed
                ),
                *self._lost_rails(members, disputed),
                *self._lost_leaves(members),
                *self._crossed_rails(members),
                *self._joined_groups(members),
                *self._slow_links(),
                *self._lost_uplinks(members, pod_of),
                *self._isles(members),
            ),
        )

    def _isles(self, members: Sequence[_Group]) -> Iterator[Finding]:
        """Parts of the fabric that no cable joins."""
        cables = [cable.ends for cable in self._inner_cables()]
        isle_of = {
            switch: number
            for number, isle in enumerate(joined(self._levels(), [*cables, *(leaves for leaves, _ in members)]))
            for switch in isle
        }
        isles: dict[int, list[NodeName]] = defaultdict(list)
        for leaves, hosts in members:
            isles[isle_of[next(iter(leaves))]] += hosts
        if len(isles) > 1:
            small = sorted(isles.values(), key=len)[:-1]
            says = f"No cable joins {len(isles)} parts of the fabric: no job can span them."
            yield Finding(fault=Fault.ISLES, says=says, nodes=fold_nodes(node for hosts in small for node in hosts))

    def _leaf_groups(self) -> list[_Group]:
        """(leaf switches, nodes) per leaf group, ordered by first node name."""
        found = []
        for leaves in joined(self._hosts_of, self._leaves_of.values()):
            hosts = {node for leaf in leaves for node in self._hosts_of[leaf]}
            found.append((leaves, sorted(hosts, key=natural)))
        return sorted(found, key=lambda group: natural(group[1][0]))

    def _levels(self) -> dict[str, int]:
        """Steps from the nearest leaf, per switch that can be reached from one; leaves of storage or login hosts, which
        hang on the same spines, are no core.
        """
        level = dict.fromkeys(self._hosts_of, 0)
        frontier = list(level)
        while frontier:
            reached = []
            for switch in frontier:
                for other in self._neighbours.get(switch, ()):
                    if other not in level and not (level[switch] and other in self._serves_others):
                        level[other] = level[switch] + 1
                        reached.append(other)
            frontier = reached
        return level

    def _inner_cables(self) -> list[_SwitchCable]:
        """Cables between switches of the fabric: none to a storage leaf."""
        levels = self._levels()
        return [cable for cable in self._switch_cables.values() if cable.ends <= levels.keys()]

    def _spines(self) -> tuple[Switch, ...]:
        spines = [
            Switch(id=guid, name=self.switch_names[guid], level=min(level, 8))
            for guid, level in self._levels().items()
            if level
        ]
        return tuple(sorted(spines, key=lambda spine: (spine.level, natural(spine.name), spine.id)))

    def _pods(self, groups: Sequence[_Group]) -> list[int]:
        """Pod of each leaf group: groups that share a spine, or are cabled leaf to leaf, are in one pod."""
        group_of = {leaf: number for number, (leaves, _) in enumerate(groups) for leaf in leaves}
        levels = self._levels()
        reach: dict[str, set[int]] = defaultdict(set)
        for leaf, number in group_of.items():
            for other in self._neighbours.get(leaf, ()):
                if levels[other] == 1:
                    reach[other].add(number)
                else:
                    reach[min(leaf, other)].update((number, group_of[other]))
        pod_of = [0] * len(groups)
        for pod in joined(range(len(groups)), reach.values()):
            for number in pod:
                pod_of[number] = min(pod)
        return pod_of

    def _rails(self) -> dict[str, str]:
        """The adapter that most nodes of a leaf have on it, per leaf where they have names."""
        on: dict[str, Counter[str]] = defaultdict(Counter)
        for cable in self._host_cables.values():
            if cable.adapter:
                on[cable.switch][cable.adapter] += 1
        return {leaf: adapters.most_common(1)[0][0] for leaf, adapters in on.items()}

    # -- What is wrong

    def _lost_rails(self, groups: Sequence[_Group], disputed: Set[NodeName]) -> Iterator[Finding]:
        """Nodes with fewer links than most nodes of their leaf group have."""
        for _, nodes in groups:
            usual = _usual(len(self._leaves_of[node]) for node in nodes)
            for node in nodes:
                if (rails := len(self._leaves_of[node])) < usual and node not in disputed:
                    says = f"{node} reaches {rails} of the {usual} leaves of its group."
                    yield Finding(fault=Fault.LOST_RAIL, says=says, nodes=node)

    def _lost_leaves(self, groups: Sequence[_Group]) -> Iterator[Finding]:
        """Leaf groups with fewer leaves than most: a leaf that is off takes a rail from all of its nodes."""
        usual = _usual(len(leaves) for leaves, _ in groups)
        for leaves, nodes in groups:
            if len(leaves) < usual:
                says = (
                    f"The leaf group of {_named(nodes)} has {plural(len(leaves), 'leaf', 'leaves')}, most have {usual}."
                )
                yield Finding(fault=Fault.LOST_LEAF, says=says, nodes=fold_nodes(nodes))

    def _crossed_rails(self, groups: Sequence[_Group]) -> Iterator[Finding]:
        """Adapters on a leaf where most have another name, while a leaf of theirs is in the same group."""
        usual = self._rails()
        known: dict[str, set[str]] = {}
        for leaves, _ in groups:
            here = {usual[leaf] for leaf in leaves if leaf in usual}
            known.update((leaf, here) for leaf in leaves)
        for cable in sorted(self._host_cables.values(), key=lambda one: (natural(one.node), one.adapter)):
            if cable.adapter in known[cable.switch] and cable.adapter != usual[cable.switch]:
                says = (
                    f"{cable.node} {cable.adapter} is cabled to {self._called(cable.switch)}, the leaf of "
                    f"{usual[cable.switch]}."
                )
                yield Finding(fault=Fault.CROSSED_RAIL, says=says, nodes=cable.node, devices=(cable.switch,))

    def _joined_groups(self, groups: Sequence[_Group]) -> Iterator[Finding]:
        """Leaf groups with more leaves than most: a node cabled into two of them makes one of both."""
        rails = _usual(len(self._leaves_of[node]) for _, nodes in groups for node in nodes)
        unit_of = self._units()
        for leaves, nodes in groups:
            if len(leaves) <= rails:
                continue
            between = [node for node in nodes if len({unit_of[leaf] for leaf in self._leaves_of[node]}) > 1]
            if 2 * len(between) >= len(nodes):
                says = (
                    f"{len(leaves)} leaves are one group, where a node has {rails}: half of its nodes or more are "
                    "cabled to leaves of two. Is a storage network among them? Name the compute adapters with --rails."
                )
                yield Finding(fault=Fault.JOINED_GROUPS, says=says, nodes=fold_nodes(nodes))
            elif between:
                says = (
                    f"{len(leaves)} leaves are one group, where others have {rails}: {_named(between)} is cabled "
                    "to leaves of two."
                )
                yield Finding(fault=Fault.JOINED_GROUPS, says=says, nodes=fold_nodes(between))

    def _units(self) -> Mapping[str, frozenset[str] | None]:
        """The leaves that most nodes of a leaf have, by leaf. Equal sets are one object: cheap to compare."""
        one: dict[frozenset[str], frozenset[str]] = {}
        leaves_of = {node: frozenset(leaves) for node, leaves in self._leaves_of.items()}
        leaves_of = {node: one.setdefault(leaves, leaves) for node, leaves in leaves_of.items()}
        return {leaf: _most(leaves_of[node] for node in sorted(hosts)) for leaf, hosts in self._hosts_of.items()}

    def _slow_links(self) -> Iterator[Finding]:
        """Links that trained at less than most of their kind; they are up and silent. Of a kind are adapters of a name,
        since a storage network may be slower than the compute fabric, and cables between switches.
        """
        rates: dict[str, list[Rate]] = defaultdict(list)
        for one in self._host_cables.values():
            if one.rate:
                rates[one.adapter].append(one.rate)
        everyone = _usual_rate(rate for alike in rates.values() for rate in alike)
        kinds = {adapter: _usual_rate(alike) if len(alike) > 1 else everyone for adapter, alike in rates.items()}
        for one in sorted(self._host_cables.values(), key=lambda one: (natural(one.node), one.adapter)):
            usual = kinds.get(one.adapter)
            if usual and one.rate and one.rate.gbps < usual.gbps:
                where = f"{one.node} {one.adapter} to {self._called(one.switch)}"
                says = f"{where} runs at {one.rate.name} ({one.rate.gbps:g} Gb/s), others at {usual.name}."
                yield Finding(fault=Fault.SLOW_LINK, says=says, nodes=one.node, devices=(one.switch,))
        inner = self._inner_cables()
        usual = _usual_rate(cable.rate for cable in inner if cable.rate)
        for other in sorted(inner, key=lambda other: sorted(other.ends)):
            if usual and other.rate and other.rate.gbps < usual.gbps:
                where = " to ".join(sorted(map(self._called, other.ends), key=natural))
                says = f"{where} runs at {other.rate.name} ({other.rate.gbps:g} Gb/s), others at {usual.name}."
                yield Finding(
                    fault=Fault.SLOW_LINK, says=says, nodes=self._below(other.ends), devices=tuple(sorted(other.ends))
                )

    def _lost_uplinks(self, groups: Sequence[_Group], pod_of: Sequence[int]) -> Iterator[Finding]:
        """Switches with fewer cables to other switches than most of their level and pod; pods may differ in size."""
        levels = self._levels()
        cables: Counter[str] = Counter(end for cable in self._inner_cables() for end in cable.ends)
        pod = {leaf: pod_of[number] for number, (leaves, _) in enumerate(groups) for leaf in leaves}
        alike: dict[tuple[int, int], list[str]] = defaultdict(list)
        for switch, level in levels.items():
            pods = [pod[other] for other in self._neighbours.get(switch, ()) if other in pod] if level == 1 else []
            alike[level, min(pods, default=-1)].append(switch)
        for (level, _), switches in sorted(alike.items()):
            usual = _usual(cables[one] for one in switches)
            for one in sorted(switches, key=lambda one: (natural(self._called(one)), one)):
                if cables[one] < usual:
                    says = f"{self._called(one)} has {cables[one]} of {usual} {'links' if level else 'uplinks'}."
                    yield Finding(fault=Fault.LOST_UPLINK, says=says, nodes=self._below({one}), devices=(one,))

    def _called(self, switch: str) -> str:
        return self.switch_names.get(switch, switch)

    def _below(self, switches: Iterable[str]) -> str:
        """Nodes of the leaves among these switches."""
        nodes = {node for switch in switches for node in self._hosts_of.get(switch, ())}
        return fold_nodes(sorted(nodes, key=natural)) if nodes else ""


Value = TypeVar("Value", bound=Hashable)


def _named(nodes: Sequence[NodeName]) -> str:
    """As a node list that fits into a sentence, whatever nodes are called."""
    folded = fold_nodes(nodes)
    return folded if len(folded) <= LONGEST_LIST else f"{folded[:LONGEST_LIST]}... ({len(nodes)} nodes)"


def _usual(numbers: Iterable[int]) -> int:
    """The commonest number, the larger among equals; 0 of none."""
    counts = Counter(numbers)
    return max(counts, key=lambda number: (counts[number], number), default=0)


def _usual_rate(rates: Iterable[Rate]) -> Rate | None:
    """The commonest, the faster among equals; None of none."""
    counts = Counter(rates)
    return max(counts, key=lambda rate: (counts[rate], rate.gbps), default=None)


def _most(values: Iterable[Value]) -> Value | None:
    """The commonest; the first among equals; None of none."""
    counts = Counter(values).most_common(1)
    return counts[0][0] if counts else None
