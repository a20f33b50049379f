"""Reads the output of `iblinkinfo` (infiniband-diags) into a fabric, with and without `-l`.

Without `-l` the far end of a cable is told by LID and name only; `-l` gives its GUID, but not which devices are
switches. An adapter's GUID is that of its port, so an adapter with two ports is two devices here. What is not
understood, the text being cut, edited or hostile, is counted in the findings and skipped.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Final, NamedTuple

from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.words import plural
from slurm_gpuaas.topology.cabling import Rate, guid_of
from slurm_gpuaas.topology.discovery import LANE_GBPS, LONGEST_LINE, Device, Discovery, End, Kind, Link
from slurm_gpuaas.topology.fabric import Fabric, Fault, Finding

# `Switch: 0xb83fd203010000f0 leaf-02-8:`, `CA: b200-08 mlx5_7:`; not printed with -l.
HEADER: Final = re.compile(r"(Switch|CA|Router): (?:0x([0-9a-fA-F]{1,16}) )?(.{0,200}):")
KINDS: Final = {"Switch": Kind.SWITCH, "CA": Kind.ADAPTER, "Router": Kind.ROUTER}
# `0xb83fd203000003f1 "  b200-08 mlx5_7"   84    1[  ]`, left of `==(`: GUID (adapters, and -l), name (-l), LID, port.
NEAR: Final = re.compile(
    r'(?:0x(?P<guid>[0-9a-fA-F]{1,16})\s+)?(?:"(?P<name>[^"]{0,200})"\s+)?'
    r"(?P<lid>\d{1,6})\s+(?P<port>\d{1,3})\[[\s\d]{0,4}\]\s*"
)
# ` 4X        106.25 Gbps Active/  LinkUp)`, between `==(` and `==>`: lanes, Gb/s of one lane.
RATE: Final = re.compile(r"\s*(\d{1,2})X\s+(\d{1,4}(?:\.\d{1,6})?) Gbps( \(FDR10\))?\s")
# `0xb83fd203010000f0     80    4[  ] "leaf-02-8" (Could be 12X )`, right of `==>`: GUID (-l), LID, port, name.
FAR: Final = re.compile(
    r"\s*(?:0x(?P<guid>[0-9a-fA-F]{1,16})\s+)?(?P<lid>\d{1,6})\s+(?P<port>\d{1,3})\[[\s\d]{0,4}\]\s*"
    r'"(?P<name>[^"]{0,200})"'
)
NOBODY: Final = re.compile(r'\s*(?:\[\s*\] ""|"Port not available")')
"""Right of `==>`, where nothing is plugged in or nothing answers."""
SPEEDS: Final = {gbps: name for name, gbps in LANE_GBPS.items()}
MOST_ADAPTER_PORTS: Final = 2
AMBIGUOUS: Final = "?"
"""In place of a GUID, where devices share name and LID: without a subnet manager every LID is 0."""


class _End(NamedTuple):
    """As the text tells it; `guid` is empty where it does not."""

    guid: str
    lid: int
    port: int
    name: str


def parse(text: str, *, nodes: Collection[NodeName] = (), source: str = "iblinkinfo") -> Fabric:
    """The fabric that the text describes; `Discovery.fabric` says how, and what it raises. Linear in the text."""
    return read(text).fabric(source, nodes=nodes)


def read(text: str) -> Discovery:
    """Devices and cables of the text."""
    told = _Told()
    for raw in text.split("\n"):
        told.add(raw[:LONGEST_LINE].strip())
    links: list[Link] = []
    mentioned: dict[str, str] = {}
    for near, end, speed in told.cables:
        if far := told.device_at(end):
            mentioned.setdefault(far, end.name)
            links.append(Link(End(near.guid, near.port), End(far, end.port), speed))
    findings = []
    if told.strange:
        says = f"{plural(told.strange, 'line was', 'lines were')} not understood."
        findings.append(Finding(fault=Fault.STRANGE_TEXT, says=says))
    if blind := len(told.cables) - len(links):
        says = f"{plural(blind, 'cable leads', 'cables lead')} to devices that share name and LID: use `iblinkinfo -l`."
        findings.append(Finding(fault=Fault.STRANGE_TEXT, says=says))
    kinds = {**_guessed(links), **told.kinds}
    return Discovery(
        described=_devices(told.names, kinds),
        mentioned=_devices(mentioned, kinds),
        links=links,
        findings=findings,
        by_port=True,
    )


class _Told:
    """What the lines say: kinds and names by GUID, GUIDs by LID and name, cables; and the number of other lines."""

    def __init__(self) -> None:
        self.kinds: dict[str, Kind] = {}
        self.names: dict[str, str] = {}
        self.cables: list[tuple[_End, _End, Rate | None]] = []
        self.strange = 0
        self._lids: dict[tuple[int, str], str] = {}
        self._header: tuple[Kind, str, str] | None = None

    def add(self, line: str) -> None:
        left, arrow, right = line.partition("==>")
        before, _, rate = left.partition("==(")
        if found := HEADER.fullmatch(line):
            self._header = KINDS[found[1]], guid_of(found[2]) if found[2] else "", found[3].strip()
        elif arrow and (found := NEAR.fullmatch(before)) and (near := _near(found, self._header)):
            if self._header and found["name"] is None:
                self.kinds.setdefault(near.guid, self._header[0])
            self.names.setdefault(near.guid, near.name)
            if self._lids.setdefault((near.lid, near.name), near.guid) != near.guid:
                self._lids[near.lid, near.name] = AMBIGUOUS
            if far := FAR.match(right):
                guid = guid_of(far["guid"]) if far["guid"] else ""
                end = _End(guid, int(far["lid"]), int(far["port"]), far["name"].strip())
                self.cables.append((near, end, _rate(rate)))
            elif not NOBODY.match(right):
                self.strange += 1
        elif line:
            self.strange += 1

    def device_at(self, end: _End) -> str | None:
        """The GUID of a far end, or a name in place of one; None where devices share name and LID."""
        known = end.guid or self._lids.get((end.lid, end.name)) or (f"lid-{end.lid}" if end.lid else AMBIGUOUS)
        return None if known == AMBIGUOUS else known


def _near(found: re.Match[str], header: tuple[Kind, str, str] | None) -> _End | None:
    """The near end of a line: with -l it is told whole, without it the header before tells the rest."""
    guid = guid_of(found["guid"]) if found["guid"] else ""
    name = found["name"]
    if name is None and header:
        guid, name = guid or header[1], header[2]
    return _End(guid, int(found["lid"]), int(found["port"]), name.strip()) if guid and name is not None else None


def _guessed(links: Iterable[Link]) -> Mapping[str, Kind]:
    """With -l the text does not say what is a switch. Each port of an adapter has a GUID of its own there, so a GUID
    with two ports is a switch's, and so is one of a port that no adapter has."""
    ports: dict[str, set[int]] = defaultdict(set)
    for link in links:
        for end in (link.near, link.far):
            ports[end.device].add(end.port)
    return {
        guid: Kind.SWITCH if len(seen) > 1 or max(seen) > MOST_ADAPTER_PORTS else Kind.ADAPTER
        for guid, seen in ports.items()
    }


def _devices(names: Mapping[str, str], kinds: Mapping[str, Kind]) -> dict[str, Device]:
    return {guid: Device(kinds[guid], name) for guid, name in names.items() if guid in kinds}


def _rate(text: str) -> Rate | None:
    """Lanes and the rate of one, as a rate of all in the words of ibnetdiscover; None where it is not told."""
    found = RATE.match(text)
    if found is None:
        return None
    lanes = int(found[1])
    name = "FDR10" if found[3] else SPEEDS.get(float(found[2]), found[2])
    return Rate(f"{lanes}x{name}", lanes * LANE_GBPS.get(name, float(found[2])))
