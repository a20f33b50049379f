"""Reads the output of `ibnetdiscover` (infiniband-diags) into a fabric.

Devices are told apart by GUID, never by description; only a host's name comes from there (`"b200-001 mlx5_0"`), since
the file holds no other. The text may be cut, edited or hostile: what is not understood is counted in the findings and
skipped.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final, NamedTuple

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.topology.cabling import Cabling, Rate
from slurm_gpuaas.topology.fabric import Fabric, Fault, Finding

LONGEST_LINE: Final = 1_000
MOST_FINDINGS: Final = 50

# `Switch  64 "S-b83fd20300aa0001"   # "leaf-01-1" enhanced port 0 lid 24 lmc 0`; likewise `Ca` and `Rt`.
DEVICE: Final = re.compile(r'(Switch|Ca|Rt)\s+\d{1,3}\s+"[A-Z]-([0-9a-fA-F]{1,16})"(?:\s+#\s*"([^"]{0,200})")?')
# `[1](b83fd20300bb0001)  "S-b83fd20300aa0001"[17]  # lid 3 lmc 0 "leaf-01-1" lid 1 4xNDR`: own port, the other end.
LINK: Final = re.compile(
    r'\[(?P<port>\d{1,3})\](?:\([0-9a-fA-F]{1,16}\))?\s+"(?P<kind>[SHR])-(?P<guid>[0-9a-fA-F]{1,16})"'
    r'\[(?P<far_port>\d{1,3})\](?:[^"]{0,80}"(?P<name>[^"]{0,200})"(?:\s+lid\s+\d{1,6})?(?:\s+(?P<rate>\S{1,12}))?)?'
)
RATE: Final = re.compile(r"(\d{1,2})x([A-Z]{2,3}(?:10)?)")
LANE_GBPS: Final = {
    "SDR": 2.5, "DDR": 5.0, "QDR": 10.0, "FDR10": 10.3125, "FDR": 14.0625, "EDR": 25.78125, "HDR": 53.125,
    "NDR": 106.25, "XDR": 212.5,
}  # fmt: skip
"""Signalling rate of a lane (InfiniBand Architecture Specification, and iblinkinfo's words for it)."""
KINDS: Final = {"S": "Switch", "H": "Ca", "R": "Rt"}
HEADER: Final = re.compile(r"(?:vendid|devid|sysimgguid|switchguid|caguid|rtguid)=|DR path |Chassis ")
HOST: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,63})\s+\S+")


def parse(text: str, *, nodes: Collection[NodeName] = (), source: str = "ibnetdiscover") -> Fabric:
    """The fabric that the text describes. Linear in the text's length.

    Args:
        nodes: the cluster's nodes. Given, other hosts are left out and each of these is in the fabric; absent, every
            host of the text is a node.

    Raises:
        InvalidInput: no host at all.
    """
    wanted = frozenset(nodes)
    devices: dict[str, tuple[str, str]] = {}
    mentioned: dict[str, tuple[str, str]] = {}
    links: list[_Link] = []
    findings: list[Finding] = []
    current: str | None = None
    strange = 0
    for raw in text.split("\n"):
        line = raw[:LONGEST_LINE].strip()
        if not line or line.startswith("#") or HEADER.match(line):
            continue
        if found := DEVICE.match(line):
            current = _guid(found[2])
            kind, _ = devices.setdefault(current, (found[1], found[3] or ""))
            if kind != found[1]:
                says = f"GUID {current} is a {kind} and a {found[1]}; the first is believed."
                findings.append(Finding(fault=Fault.TWO_KINDS, says=says, devices=(current,)))
        elif current is not None and (found := LINK.match(line)):
            other = _guid(found["guid"])
            mentioned.setdefault(other, (KINDS[found["kind"]], found["name"] or ""))
            links.append(_Link((current, int(found["port"])), (other, int(found["far_port"])), rate_of(found["rate"])))
        else:
            strange += 1
    if undescribed := len(mentioned.keys() - devices.keys()):
        says = f"{undescribed} devices are known from their cables only: the file may be cut."
        findings.append(Finding(fault=Fault.CUT_TEXT, says=says))
    if strange:
        findings.append(Finding(fault=Fault.STRANGE_TEXT, says=f"{strange} lines were not understood."))
    cabling = _cabled(mentioned | devices, links, wanted, findings)
    return cabling.fabric(source, wanted, _few(findings))


def _cabled(
    devices: Mapping[str, tuple[str, str]],
    links: Iterable[_Link],
    wanted: Collection[NodeName],
    findings: list[Finding],
) -> Cabling:
    cabling = Cabling()
    hosts: dict[str, NodeName] = {}
    for guid, (kind, description) in sorted(devices.items()):
        if kind == "Switch":
            cabling.add_switch(guid, description)
        elif kind == "Ca":
            if host := host_of(description, wanted):
                hosts[guid] = host
            elif not wanted:
                says = f"Adapter {guid} names no host: {description!r}."
                findings.append(Finding(fault=Fault.NO_HOST, says=says, devices=(guid,)))
    for link in links:
        one, other = link.near[0], link.far[0]
        match devices[one][0], devices[other][0]:
            case "Switch", "Switch":
                cabling.connect_switches(one, other, rate=link.rate, cable=link.ends)
            case "Switch", "Ca":
                one, other = other, one
            case "Ca", "Switch":
                pass
            case _:
                says = f"A cable between {one} and {other} joins no switch."
                findings.append(Finding(fault=Fault.NO_SWITCH, says=says, devices=(one, other)))
        if one in hosts and devices[other][0] == "Switch":
            adapter = devices[one][1].strip().rpartition(" ")[2]
            cabling.connect_host(hosts[one], other, adapter=adapter, rate=link.rate, cable=link.ends)
    return cabling


def _few(findings: list[Finding]) -> list[Finding]:
    more = len(findings) - MOST_FINDINGS
    if more <= 0:
        return findings
    rest = Finding(fault=findings[MOST_FINDINGS].fault, says=f"{more} more findings like those before.")
    return [*findings[:MOST_FINDINGS], rest]


class _Link(NamedTuple):
    """A cable as one end tells it: (device, port) here and there."""

    near: tuple[str, int]
    far: tuple[str, int]
    rate: Rate | None

    @property
    def ends(self) -> frozenset[tuple[str, int]]:
        return frozenset((self.near, self.far))


def rate_of(text: str | None) -> Rate | None:
    """`4xNDR` as a rate; None for anything else."""
    found = RATE.fullmatch(text or "")
    if found is None or found[2] not in LANE_GBPS:
        return None
    return Rate(found[0], int(found[1]) * LANE_GBPS[found[2]])


def _guid(digits: str) -> str:
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
