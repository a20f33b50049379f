"""Reads `ibstat` (infiniband-diags) of nodes: which adapters are theirs, by GUID, and what those say of themselves.

A fabric's text names hosts by a description that may be unset, the maker's, or an old one; a GUID on the node itself
cannot be wrong.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.topology.cabling import Rate, guid_of
from slurm_gpuaas.topology.fabric import Fault, Finding, natural

LONGEST_LINE: Final = 200
UP: Final = "Active"
INFINIBAND: Final = frozenset({"InfiniBand", "IB"})
DEVICE: Final = re.compile(r"(CA|Switch|Router|iWARP RNIC|\?\?\?) '([^']{1,64})'")
PORT: Final = re.compile(r"Port (\d{1,3}):")
FIELD: Final = re.compile(r"(Node GUID|Port GUID|State|Physical state|Rate|Link layer): (.{1,60})")
GUID: Final = re.compile(r"0x([0-9a-fA-F]{1,16})")
RATE: Final = re.compile(r"(\d{1,5}(?:\.\d)?)(?: \(FDR10\))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A port of an adapter. GUIDs as 16 hex digits; `gbps` is the rate of the link with all its lanes, data only."""

    adapter: str
    number: int
    node_guid: str
    guid: str
    state: str = ""
    physical_state: str = ""
    gbps: float | None = None


Reports = Mapping[NodeName, Sequence[Port]]
"""Ports of each node of which a report is there."""


def parse(text: str) -> tuple[Port, ...]:
    """Ports of the adapters in the text that are on InfiniBand; empty where it holds none. Linear in the text."""
    ports: list[Port] = []
    adapter = node_guid = ""
    number: int | None = None
    fields: dict[str, str] = {}

    def done() -> None:
        guid = GUID.fullmatch(fields.get("Port GUID", ""))
        if adapter and node_guid and number is not None and guid and fields.get("Link layer") in INFINIBAND:
            rate = RATE.fullmatch(fields.get("Rate", ""))
            ports.append(
                Port(
                    adapter=adapter,
                    number=number,
                    node_guid=node_guid,
                    guid=guid_of(guid[1]),
                    state=fields.get("State", ""),
                    physical_state=fields.get("Physical state", ""),
                    gbps=float(rate[1]) if rate else None,
                )
            )
        fields.clear()

    for raw in text.split("\n"):
        line = raw[:LONGEST_LINE].strip()
        if found := DEVICE.fullmatch(line):
            done()
            adapter, node_guid, number = found[2] if found[1] == "CA" else "", "", None
        elif found := PORT.fullmatch(line):
            done()
            number = int(found[1])
        elif found := FIELD.fullmatch(line):
            if found[1] != "Node GUID":
                fields[found[1]] = found[2]
            elif guid := GUID.fullmatch(found[2]):
                node_guid = guid_of(guid[1])
    done()
    return tuple(ports)


class Owned(NamedTuple):
    """Whose an adapter is, and what it is called there."""

    node: NodeName
    adapter: str


def owners(reports: Reports, port_guid: Callable[[Port], str]) -> tuple[Mapping[str, Owned], list[Finding]]:
    """Node and adapter by GUID; a GUID that stands in the reports of two nodes is a finding, the first is believed."""
    owner: dict[str, Owned] = {}
    findings = []
    for node, ports in sorted(reports.items(), key=lambda item: natural(item[0])):
        for port in ports:
            first = owner.setdefault(port_guid(port), Owned(node, port.adapter)).node
            if first != node:
                says = f"{node} {port.adapter} has the GUID of an adapter of {first}; {first} is believed."
                findings.append(Finding(fault=Fault.TWO_HOSTS, says=says, nodes=node, devices=(port_guid(port),)))
    return owner, findings


def check(
    reports: Reports,
    port_guid: Callable[[Port], str],
    links: Mapping[tuple[str, int], Rate | None],
    rails: Collection[str] = (),
) -> Iterator[Finding]:
    """Ports that are down, that the fabric lacks, or that run at less than most of their name.

    A port that is so on most nodes is meant to be: nothing is plugged into it, or it is on another fabric. What a link
    runs at is said once where the fabric tells it too.

    Args:
        links: rates of the fabric's links by the adapter's GUID and port.
        rails: the adapters that count; absent, all do.
    """
    alike: dict[tuple[str, int], list[tuple[NodeName, Port]]] = defaultdict(list)
    for node, ports in sorted(reports.items(), key=lambda item: natural(item[0])):
        for port in ports:
            if rails and port.adapter not in rails:
                continue
            alike[port.adapter, port.number].append((node, port))
    for _, same in sorted(alike.items()):
        linked = [port for _, port in same if port.state == UP and (port_guid(port), port.number) in links]
        if 2 * len(linked) < len(same) > 1:
            continue
        rates = Counter(port.gbps for port in linked if port.gbps)
        usual = max(rates, key=lambda gbps: (rates[gbps], gbps), default=0.0)
        for node, port in same:
            guid = port_guid(port)
            told = links.get((guid, port.number))
            if port.state != UP:
                fault = Fault.NO_LINK
                says = f"is {port.state or 'not up'} ({port.physical_state or 'no state'}) by its ibstat."
            elif (guid, port.number) not in links:
                fault, says = Fault.NO_LINK, "is up by its ibstat, and the fabric's text lacks it."
            elif port.gbps and port.gbps < usual and not (told and told.gbps < usual):
                fault, says = Fault.SLOW_LINK, f"runs at {port.gbps:g} Gb/s by its ibstat, others at {usual:g} Gb/s."
            else:
                continue
            yield Finding(fault=fault, says=f"{node} {port.adapter} {says}", nodes=node, devices=(guid,))
