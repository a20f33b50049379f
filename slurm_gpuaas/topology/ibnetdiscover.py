"""Reads the output of `ibnetdiscover` (infiniband-diags) into a fabric.

Devices are told apart by GUID, never by description; only a host's name comes from there (`"b200-001 mlx5_0"`), since
the file holds no other. The text may be cut, edited or hostile: what is not understood is counted in the findings and
skipped.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.topology.fabric import Cabling, Fabric

LONGEST_LINE: Final = 1_000
MOST_FINDINGS: Final = 50

# `Switch  64 "S-b83fd20300aa0001"   # "leaf-01-1" enhanced port 0 lid 24 lmc 0`; likewise `Ca` and `Rt`.
DEVICE: Final = re.compile(r'(Switch|Ca|Rt)\s+\d{1,3}\s+"[A-Z]-([0-9a-fA-F]{1,16})"(?:\s+#\s*"([^"]{0,200})")?')
# `[1](b83fd20300bb0001)  "S-b83fd20300aa0001"[17]  # lid 3 lmc 0 "leaf-01-1" lid 1 4xNDR`: own port, the other end.
LINK: Final = re.compile(
    r'\[\d{1,3}\](?:\([0-9a-fA-F]{1,16}\))?\s+"([SHR])-([0-9a-fA-F]{1,16})"\[\d{1,3}\](?:[^"]{0,80}"([^"]{0,200})")?'
)
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
    links: list[tuple[str, str]] = []
    findings: list[str] = []
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
                findings.append(f"GUID {current} is a {kind} and a {found[1]}; the first is believed.")
        elif current is not None and (found := LINK.match(line)):
            other = _guid(found[2])
            mentioned.setdefault(other, (KINDS[found[1]], found[3] or ""))
            links.append((current, other))
        else:
            strange += 1
    if undescribed := len(mentioned.keys() - devices.keys()):
        findings.append(f"{undescribed} devices are known from their cables only: the file may be cut.")
    if strange:
        findings.append(f"{strange} lines were not understood.")
    cabling = _cabled(mentioned | devices, links, wanted, findings)
    return cabling.fabric(source, wanted, _few(findings))


def _cabled(
    devices: Mapping[str, tuple[str, str]],
    links: Iterable[tuple[str, str]],
    wanted: Collection[NodeName],
    findings: list[str],
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
                findings.append(f"Adapter {guid} names no host: {description!r}.")
    for one, other in links:
        match devices[one][0], devices[other][0]:
            case "Switch", "Switch":
                cabling.connect_switches(one, other)
            case "Switch", "Ca":
                if other in hosts:
                    cabling.connect_host(hosts[other], one)
            case "Ca", "Switch":
                if one in hosts:
                    cabling.connect_host(hosts[one], other)
            case _:
                findings.append(f"A cable between {one} and {other} joins no switch.")
    return cabling


def _few(findings: list[str]) -> list[str]:
    more = len(findings) - MOST_FINDINGS
    return findings if more <= 0 else [*findings[:MOST_FINDINGS], f"{more} more findings of the same kinds."]


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
