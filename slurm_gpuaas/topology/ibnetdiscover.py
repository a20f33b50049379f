"""Reads the output of `ibnetdiscover` (infiniband-diags) into a fabric.

Devices are told apart by GUID, never by description; only a host's name comes from there (`"b200-001 mlx5_0"`), since
the file holds no other. The text may be cut, edited or hostile: what is not understood is counted in the findings and
skipped.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.topology.fabric import Cabling, Fabric

LONGEST_LINE: Final = 1_000
MOST_FINDINGS: Final = 50

# `Switch  64 "S-b83fd20300aa0001"   # "leaf-01-1" enhanced port 0 lid 24 lmc 0`; likewise `Ca` and `Rt`.
DEVICE: Final = re.compile(r'(Switch|Ca|Rt)\s+\d{1,3}\s+"[A-Z]-([0-9a-fA-F]{1,16})"(?:\s+#\s*"([^"]{0,200})")?')
# `[1](b83fd20300bb0001)  "S-b83fd20300aa0001"[17](...)  # ...`: local port, then the other end.
LINK: Final = re.compile(r'\[\d{1,3}\](?:\([0-9a-fA-F]{1,16}\))?\s+"([A-Z])-([0-9a-fA-F]{1,16})"\[\d{1,3}\]')
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
    findings: list[str] = []
    wanted = frozenset(nodes)
    cabling = Cabling()
    hosts: dict[str, NodeName | None] = {}
    kinds: dict[str, str] = {}
    links: list[tuple[str, str]] = []
    current: str | None = None
    strange = 0
    for raw in text.split("\n"):
        line = raw[:LONGEST_LINE].strip()
        if not line or line.startswith("#") or HEADER.match(line):
            continue
        if found := DEVICE.match(line):
            kind, guid, description = found[1], found[2].lower().rjust(16, "0"), found[3] or ""
            current = guid
            if kinds.setdefault(guid, kind) != kind:
                findings.append(f"GUID {guid} is a {kinds[guid]} and a {kind}; the first is believed.")
            elif kind == "Switch":
                cabling.add_switch(guid, description)
            elif kind == "Ca" and guid not in hosts:
                hosts[guid] = host_of(description, wanted)
                if hosts[guid] is None and not wanted:
                    findings.append(f"Adapter {guid} names no host: {description!r}.")
        elif current is not None and (found := LINK.match(line)):
            links.append((current, found[2].lower().rjust(16, "0")))
        else:
            strange += 1
    for one, other in links:
        match kinds.get(one), kinds.get(other):
            case "Switch", "Switch":
                cabling.connect_switches(one, other)
            case ("Switch", "Ca") | ("Ca", "Switch"):
                adapter, switch = (other, one) if kinds[other] == "Ca" else (one, other)
                if (host := hosts[adapter]) is not None:
                    cabling.connect_host(host, switch)
            case _:
                strange += 1
    if strange:
        findings.append(f"{strange} lines were not understood or end at a device that is not described.")
    if len(findings) > MOST_FINDINGS:
        findings[MOST_FINDINGS:] = [f"{len(findings) - MOST_FINDINGS} more findings of the same kinds."]
    return cabling.fabric(source, wanted, findings)


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
