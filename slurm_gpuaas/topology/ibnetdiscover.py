"""Reads the output of `ibnetdiscover` (infiniband-diags) into a fabric.

The text may be cut, edited or hostile: what is not understood is counted in the findings and skipped.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.words import plural
from slurm_gpuaas.topology.cabling import Rate, guid_of
from slurm_gpuaas.topology.discovery import LANE_GBPS, LONGEST_LINE, Device, Discovery, End, Kind, Link
from slurm_gpuaas.topology.fabric import Fabric, Fault, Finding

# `Switch  64 "S-b83fd20300aa0001"   # "leaf-01-1" enhanced port 0 lid 24 lmc 0`; likewise `Ca` and `Rt`.
DEVICE: Final = re.compile(r'(Switch|Ca|Rt)\s+\d{1,3}\s+"[A-Z]-([0-9a-fA-F]{1,16})"(?:\s+#\s*"([^"]{0,200})")?')
# `[1](b83fd20300bb0001)  "S-b83fd20300aa0001"[17]  # lid 3 lmc 0 "leaf-01-1" lid 1 4xNDR`: own port, the other end.
LINK: Final = re.compile(
    r'\[(?P<port>\d{1,3})\](?:\([0-9a-fA-F]{1,16}\))?\s+"(?P<kind>[SHR])-(?P<guid>[0-9a-fA-F]{1,16})"'
    r'\[(?P<far_port>\d{1,3})\](?:[^"]{0,80}"(?P<name>[^"]{0,200})"(?:\s+lid\s+\d{1,6})?(?:\s+(?P<rate>\S{1,12}))?)?'
)
RATE: Final = re.compile(r"(\d{1,2})x([A-Z]{2,3}(?:10)?)")
KINDS: Final = {"S": Kind.SWITCH, "H": Kind.ADAPTER, "R": Kind.ROUTER}
HEADER: Final = re.compile(r"(?:vendid|devid|sysimgguid|switchguid|caguid|rtguid)=|DR path |Chassis ")


def parse(text: str, *, nodes: Collection[NodeName] = (), source: str = "ibnetdiscover") -> Fabric:
    """The fabric that the text describes; `Discovery.fabric` says how, and what it raises. Linear in the text."""
    return read(text).fabric(source, nodes=nodes)


def read(text: str) -> Discovery:
    """Devices and cables of the text. An adapter's GUID is its node GUID."""
    described: dict[str, Device] = {}
    mentioned: dict[str, Device] = {}
    links: list[Link] = []
    findings: list[Finding] = []
    current: str | None = None
    strange = 0
    for raw in text.split("\n"):
        line = raw[:LONGEST_LINE].strip()
        if not line or line.startswith("#") or HEADER.match(line):
            continue
        if found := DEVICE.match(line):
            current = guid_of(found[2])
            kind = described.setdefault(current, Device(Kind(found[1]), found[3] or "")).kind
            if kind != found[1]:
                says = f"GUID {current} is a {kind} and a {found[1]}; the first is believed."
                findings.append(Finding(fault=Fault.TWO_KINDS, says=says, devices=(current,)))
        elif current is not None and (found := LINK.match(line)):
            other = guid_of(found["guid"])
            mentioned.setdefault(other, Device(KINDS[found["kind"]], found["name"] or ""))
            near, far = End(current, int(found["port"])), End(other, int(found["far_port"]))
            links.append(Link(near, far, rate_of(found["rate"])))
        else:
            strange += 1
    if strange:
        findings.append(
            Finding(fault=Fault.STRANGE_TEXT, says=f"{plural(strange, 'line was', 'lines were')} not understood.")
        )
    return Discovery(described=described, mentioned=mentioned, links=links, findings=findings)


def rate_of(text: str | None) -> Rate | None:
    """`4xNDR` as a rate; None for anything else."""
    found = RATE.fullmatch(text or "")
    if found is None or found[2] not in LANE_GBPS:
        return None
    return Rate(found[0], int(found[1]) * LANE_GBPS[found[2]])
