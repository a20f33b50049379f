"""What a discovery tool told, by GUID, and the fabric that it amounts to: whose the adapters are, and which count.

The readers of `ibnetdiscover` and `iblinkinfo` end here. A device is told apart by GUID, never by description; a host's
name comes from there (`b200-001 mlx5_0`), since the tools' output holds no other.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.topology.cabling import Cabling, Rate
from slurm_gpuaas.topology.fabric import Fabric, Fault, Finding

MOST_FINDINGS: Final = 50
LONGEST_LINE: Final = 1_000
"""Characters read of a line; the tools write 300 at most."""
HOST: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,63})\s+\S+")
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
    def adapter(self) -> str:
        """The last word of a description, such as mlx5_0."""
        return self.description.strip().rpartition(" ")[2]


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
    """

    described: Mapping[str, Device]
    mentioned: Mapping[str, Device]
    links: Sequence[Link]
    findings: Sequence[Finding]

    def fabric(self, source: str, *, nodes: Collection[NodeName] = ()) -> Fabric:
        """The fabric of these devices. Linear in devices and links.

        Args:
            nodes: the cluster's nodes. Given, other hosts are left out and each of these is in the fabric; absent,
                every host of the text is a node.

        Raises:
            InvalidInput: no host at all.
        """
        wanted = frozenset(nodes)
        findings = list(self.findings)
        if undescribed := len(self.mentioned.keys() - self.described.keys()):
            says = f"{undescribed} devices are known from their cables only: the file may be cut."
            findings.append(Finding(fault=Fault.CUT_TEXT, says=says))
        return self._cabled(wanted, findings).fabric(source, wanted, _few(findings))

    def _cabled(self, wanted: Collection[NodeName], findings: list[Finding]) -> Cabling:
        cabling = Cabling()
        devices = {**self.mentioned, **self.described}
        hosts: dict[str, NodeName] = {}
        for guid, device in sorted(devices.items()):
            if device.kind is Kind.SWITCH:
                cabling.add_switch(guid, device.description)
            elif device.kind is Kind.ADAPTER:
                if host := host_of(device.description, wanted):
                    hosts[guid] = host
                elif not wanted:
                    says = f"Adapter {guid} names no host: {device.description!r}."
                    findings.append(Finding(fault=Fault.NO_HOST, says=says, devices=(guid,)))
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
            if one in hosts and devices[other].kind is Kind.SWITCH:
                cabling.connect_host(hosts[one], other, adapter=devices[one].adapter, rate=link.rate, cable=ends)
        return cabling


def _few(findings: list[Finding]) -> list[Finding]:
    more = len(findings) - MOST_FINDINGS
    if more <= 0:
        return findings
    rest = Finding(fault=findings[MOST_FINDINGS].fault, says=f"{more} more findings like those before.")
    return [*findings[:MOST_FINDINGS], rest]


def guid_of(digits: str) -> str:
    """As all our readers write it: 16 hex digits."""
    return digits.lower().rjust(16, "0")


def host_of(description: str, wanted: Collection[NodeName]) -> NodeName | None:
    """The host in a node description of the form `HOST DEVICE`; with `wanted`, also a bare host name of it."""
    found = HOST.fullmatch(description.strip().removeprefix("'").removesuffix("'"))
    name = found[1] if found else description.strip()
    try:
        node = NodeName(name)
    except InvalidInput:
        return None
    if wanted:
        return node if node in wanted else short(node, wanted)
    return node if found else None


def short(node: NodeName, wanted: Collection[NodeName]) -> NodeName | None:
    """The host name before the first dot, where Slurm knows the node by that."""
    bare = NodeName(node.partition(".")[0])
    return bare if bare in wanted else None
