"""What a discovery tool told, by GUID, and the fabric that it amounts to: whose the adapters are, and which count.

The readers of `ibnetdiscover` and `iblinkinfo` end here. A device is told apart by GUID, never by description; a host's
name comes from there (`b200-001 mlx5_0`), since the tools' output holds no other, unless the nodes' own `ibstat` tells.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.policy import expand_nodes, fold_nodes
from slurm_gpuaas.domain.words import plural
from slurm_gpuaas.topology.cabling import Cabling, Rate
from slurm_gpuaas.topology.fabric import Fabric, Fault, Finding, natural
from slurm_gpuaas.topology.ibstat import Owned, Port, Reports, check, owners

NONE: Final[Reports] = MappingProxyType({})
MOST_FINDINGS: Final = 50
"""Of one fault."""
LONGEST_LINE: Final = 1_000
"""Characters read of a line; the tools write 300 at most."""
HOST: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,63})\s+(\S+)")
LANE_GBPS: Final = {
    "SDR": 2.5, "DDR": 5.0, "QDR": 10.0, "FDR10": 10.3125, "FDR": 14.0625, "EDR": 25.78125, "HDR": 53.125,
    "NDR": 106.25, "XDR": 212.5,
}  # fmt: skip
"""Signalling rate of a lane (InfiniBand Architecture Specification, and iblinkinfo's words for it)."""


class Kind(StrEnum):
    """In the words of ibnetdiscover."""

    SWITCH = "Switch"
    ADAPTER = "Ca"
    ROUTER = "Rt"


@dataclass(frozen=True, slots=True)
class Device:
    kind: Kind
    description: str = ""

    @property
    def is_aggregation(self) -> bool:
        """SHARP's end inside a switch, which shows as an adapter: "Mellanox Technologies Aggregation Node"."""
        return self.kind is Kind.ADAPTER and "Aggregation Node" in self.description


class End(NamedTuple):
    """One end of a cable: a device's GUID, and its port."""

    device: str
    port: int


class Link(NamedTuple):
    """A cable as one end tells it."""

    near: End
    far: End
    rate: Rate | None


@dataclass(frozen=True, kw_only=True)
class Discovery:
    """What a text told.

    Args:
        described: devices with a record of their own, by GUID.
        mentioned: devices at the far end of a cable, by GUID.
        findings: what was odd in the text.
        by_port: adapters go by the GUID of their port, not by their own.
    """

    described: Mapping[str, Device]
    mentioned: Mapping[str, Device]
    links: Sequence[Link]
    findings: Sequence[Finding]
    by_port: bool = False

    def fabric(
        self, source: str, *, nodes: Collection[NodeName] = (), reports: Reports = NONE, rails: Collection[str] = ()
    ) -> Fabric:
        """The fabric of these devices. Linear in devices and links.

        Args:
            nodes: the cluster's nodes. Given, other hosts are left out and each of these is in the fabric; absent,
                every host of the text is a node.
            reports: what `ibstat` says on nodes. An adapter in there belongs to that node, whatever its description.
            rails: names of the adapters that are the compute fabric; absent, all are.

        Raises:
            InvalidInput: no host at all, or none with an adapter of these.
        """
        wanted = frozenset(nodes)
        reports = {known_as(node, wanted) or node: ports for node, ports in reports.items()}
        findings = [*self.findings, *_lacking(wanted, reports)]
        reports = {node: ports for node, ports in reports.items() if ports}
        if undescribed := len(self.mentioned.keys() - self.described.keys()):
            says = f"{plural(undescribed, 'device is', 'devices are')} known from cables only: the file may be cut."
            findings.append(Finding(fault=Fault.CUT_TEXT, says=says))
        devices = {**self.mentioned, **self.described}
        hosts = self._hosts(devices, wanted, reports, findings)
        adapters = (device for guid, device in devices.items() if device.kind is Kind.ADAPTER and guid not in hosts)
        if odd := _written_otherwise(adapters, wanted):
            (ours, theirs), *_ = odd.items()
            says = f"{plural(len(odd), 'host')} of other case in the text than in --nodes, such as {theirs} for {ours}."
            if not hosts:
                raise InvalidInput(f"{source}: {says}", way_out="Write names of hosts in --nodes as the text does.")
            findings.append(Finding(fault=Fault.NO_HOST, says=says, nodes=fold_nodes(odd)))
        if rails:
            hosts = {guid: owned for guid, owned in hosts.items() if owned.adapter in rails}
            unknown = sorted(set(rails) - {owned.adapter for owned in hosts.values()}, key=natural)
            if not hosts:
                raise InvalidInput(
                    f"{source}: no node has an adapter {' or '.join(unknown)[:200]}.",
                    way_out="Name adapters as the text does, such as mlx5_0.",
                )
            findings += (Finding(fault=Fault.NO_LINK, says=f"No node has an adapter {one:.200}.") for one in unknown)
        disputed = self._disputed(hosts, reports, findings)
        told = {guid: owned for guid, owned in hosts.items() if guid not in disputed}
        cabling = self._cabled(devices, told, findings)
        findings = [*_few(findings), *self._reported(devices, wanted, reports, rails)]
        return cabling.fabric(source, wanted, findings, disputed={hosts[guid].node for guid in disputed})

    def _hosts(
        self,
        devices: Mapping[str, Device],
        wanted: Collection[NodeName],
        reports: Reports,
        findings: list[Finding],
    ) -> Mapping[str, Owned]:
        """Whose each adapter is."""
        owner, twice = owners(reports, self._guid_of)
        findings += twice
        hosts: dict[str, Owned] = {}
        for guid, device in sorted(devices.items()):
            if device.kind is not Kind.ADAPTER or device.is_aggregation:
                continue
            if owned := owner.get(guid):
                named = described(device.description, wanted or reports.keys())
                if named and named.node != owned.node:
                    says = f"Adapter {guid} is in {owned.node}, but calls itself {device.description!r:.200}."
                    findings.append(Finding(fault=Fault.TWO_HOSTS, says=says, nodes=owned.node, devices=(guid,)))
                if not wanted or owned.node in wanted:
                    hosts[guid] = owned
            elif named := described(device.description, wanted):
                hosts[guid] = named
            elif not wanted:
                says = f"Adapter {guid} names no host: {device.description!r:.200}."
                findings.append(Finding(fault=Fault.NO_HOST, says=says, devices=(guid,)))
        return hosts

    def _disputed(self, hosts: Mapping[str, Owned], reports: Reports, findings: list[Finding]) -> Set[str]:
        """Adapters that share name and host with another one, more than most do: two hosts go by one name there, and
        following their cables would join what those two are cabled to. One that the host's report shows is its own.
        """
        alike: dict[tuple[Owned, int], set[str]] = defaultdict(set)
        for guid, port in {end for link in self.links for end in (link.near, link.far)}:
            if (owned := hosts.get(guid)) and owned.adapter:
                alike[owned, port].add(guid)
        counts = Counter(map(len, alike.values()))
        usual = min(counts, key=lambda number: (-counts[number], number), default=1)
        certain = {self._guid_of(port) for ports in reports.values() for port in ports}
        left_out: dict[NodeName, dict[str, str]] = defaultdict(dict)
        for (owned, _), guids in alike.items():
            if len(guids) > usual:
                left_out[owned.node].update(dict.fromkeys(guids - certain, owned.adapter))
        for node, adapters in sorted(left_out.items(), key=lambda item: natural(item[0])):
            if adapters:
                says = (
                    f"Two hosts or more call themselves {node}: {plural(len(adapters), 'adapter')} have a name that "
                    f"another has too, such as {min(adapters.values(), key=natural):.100}, and are left out. Give the "
                    "ibstat of both (--ibstat), or mend the descriptions."
                )
                findings.append(Finding(fault=Fault.TWO_HOSTS, says=says, nodes=node, devices=tuple(sorted(adapters))))
        return {guid for adapters in left_out.values() for guid in adapters}

    def _reported(
        self, devices: Mapping[str, Device], wanted: Collection[NodeName], reports: Reports, rails: Collection[str]
    ) -> Iterator[Finding]:
        """What the nodes' own reports say is wrong."""
        links: dict[tuple[str, int], Rate | None] = {}
        for link in self.links:
            for end in (link.near, link.far):
                if devices[end.device].kind is Kind.ADAPTER:
                    links[end] = links.get(end) or link.rate
        ours = {node: ports for node, ports in reports.items() if not wanted or node in wanted}
        yield from check(ours, self._guid_of, links, rails)

    def _guid_of(self, port: Port) -> str:
        return port.guid if self.by_port else port.node_guid

    def _cabled(self, devices: Mapping[str, Device], hosts: Mapping[str, Owned], findings: list[Finding]) -> Cabling:
        cabling = Cabling()
        for guid, device in sorted(devices.items()):
            if device.kind is Kind.SWITCH:
                cabling.add_switch(guid, device.description)
        for link in self.links:
            one, other = link.near.device, link.far.device
            ends = frozenset((link.near, link.far))
            match devices[one].kind, devices[other].kind:
                case Kind.SWITCH, Kind.SWITCH:
                    cabling.connect_switches(one, other, rate=link.rate, cable=ends)
                case Kind.SWITCH, Kind.ADAPTER:
                    one, other = other, one
                case Kind.ADAPTER, Kind.SWITCH:
                    pass
                case _:
                    says = f"A cable between {one} and {other} joins no switch."
                    findings.append(Finding(fault=Fault.NO_SWITCH, says=says, devices=(one, other)))
            if devices[one].kind is not Kind.ADAPTER or devices[other].kind is not Kind.SWITCH:
                continue
            if one in hosts:
                node, adapter = hosts[one]
                cabling.connect_host(node, other, adapter=adapter, rate=link.rate, cable=ends)
            elif not devices[one].is_aggregation:
                cabling.connect_other(other)
        return cabling


def _written_otherwise(adapters: Iterable[Device], wanted: Collection[NodeName]) -> Mapping[NodeName, NodeName]:
    """Hosts of the text by the node whose name differs in upper and lower case alone."""
    ours = {NodeName(node.lower()): node for node in wanted}
    named = (described(device.description, ()) for device in adapters)
    theirs = {known_as(NodeName(one.node.lower()), ours.keys()): one.node for one in named if one}
    return {ours[node]: host for node, host in sorted(theirs.items(), key=lambda one: natural(one[1])) if node}


def _lacking(wanted: Set[NodeName], reports: Reports) -> Iterator[Finding]:
    """Nodes without a report, and reports of no port, which may be other files."""
    told = {node for node, ports in reports.items() if ports}
    empty = reports.keys() - told
    if reports and (lacking := sorted((wanted or empty) - told, key=natural)):
        says = (
            f"{plural(len(lacking), 'node')} without an ibstat that names an InfiniBand port: their adapters are known "
            "by description only."
        )
        yield Finding(fault=Fault.NO_REPORT, says=says, nodes=fold_nodes(lacking))
    if wanted and (strange := sorted(empty - wanted, key=natural)):
        says = f"{plural(len(strange), 'report')} named after no node and without an InfiniBand port: {strange[0]}."
        yield Finding(fault=Fault.NO_REPORT, says=says, devices=tuple(strange))


def _few(findings: Iterable[Finding]) -> Iterator[Finding]:
    """The first of each fault, and one that names what the others touch."""
    of: dict[Fault, list[Finding]] = defaultdict(list)
    for finding in findings:
        of[finding.fault].append(finding)
    for fault, alike in of.items():
        yield from alike[:MOST_FINDINGS]
        if more := alike[MOST_FINDINGS:]:
            nodes = {node for finding in more if finding.nodes for node in expand_nodes(finding.nodes)}
            yield Finding(
                fault=fault,
                says=f"{plural(len(more), 'more finding')} of {fault} like those before.",
                nodes=fold_nodes(sorted(nodes, key=natural)) if nodes else "",
                devices=tuple(dict.fromkeys(device for finding in more for device in finding.devices)),
            )


def described(description: str, wanted: Collection[NodeName]) -> Owned | None:
    """Whose an adapter is by a description of the form `HOST DEVICE`; with `wanted`, also by a bare host name of it."""
    found = HOST.fullmatch(description.strip().removeprefix("'").removesuffix("'"))
    try:
        node = NodeName(found[1] if found else description.strip())
    except InvalidInput:
        return None
    adapter = found[2] if found else ""
    if not wanted:
        return Owned(node, adapter) if found else None
    known = known_as(node, wanted)
    return Owned(known, adapter) if known else None


def known_as(node: NodeName, wanted: Collection[NodeName]) -> NodeName | None:
    """The name that Slurm knows a host by: its own, or the part before the first dot; None where it knows neither."""
    bare = NodeName(node.partition(".")[0])
    return next((name for name in (node, bare) if name in wanted), None)
