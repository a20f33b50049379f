"""Twenty-two kinds of damage to what ibnetdiscover printed of a testbed's fabric, and what a check must say of each.

They work on any profile's fabric: its first leaf group is `leaf-01-1` to `leaf-01-8`, its spines `spine-01-..`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.testbed.sim.damage import cut, gone, renamed, swapped, trained, without
from slurm_gpuaas.topology.fabric import Fault


@dataclass(frozen=True)
class Damage:
    """`apply` damages text; `nodes` are names of nodes in fabric order.

    `finds` is what a check says: kinds of fault with the number of findings. `touches` are indices of the nodes named
    by them. `keeps`: leaf groups and their nodes are as before. `in_text`: to text only, not to a fabric.
    """

    name: str
    apply: Callable[[str, Sequence[NodeName]], str]
    finds: dict[Fault, int] = field(default_factory=dict)
    touches: tuple[int, ...] = ()
    keeps: bool = True
    in_text: bool = False


def rail(node: NodeName, number: int) -> str:
    return f"{node} mlx5_{number}"


def moved(text: str, nodes: Sequence[NodeName]) -> str:
    """Rail 0 of the last node of the first group and of the first of the second change places."""
    group = sum(f'"{rail(node, 0)}"' in record(text, "leaf-01-1") for node in nodes)
    return swapped(text, rail(nodes[group - 1], 0), rail(nodes[group], 0))


def uplinks(text: str) -> list[str]:
    """Spines of the first leaf."""
    return sorted(set(re.findall(r'"(spine-[^"]*)"', record(text, "leaf-01-1"))))


def record(text: str, device: str) -> str:
    start = re.search(rf'# "{device}" enhanced', text)
    assert start
    return text[start.start() : text.index("\n\n", start.start())]


F = Fault
DAMAGES: Final = [
    Damage("a cable of a node is pulled", lambda t, n: cut(t, rail(n[1], 3), "leaf-01-4"), {F.LOST_RAIL: 1}, (1,)),
    Damage("two cables of a node are pulled",
           lambda t, n: cut(cut(t, rail(n[1], 3), "leaf-01-4"), rail(n[1], 5), "leaf-01-6"), {F.LOST_RAIL: 1}, (1,)),
    Damage("one end does not tell of a cable", lambda t, n: without(t, rail(n[1], 3), "leaf-01-4"), in_text=True),
    Damage("an adapter is off", lambda t, n: gone(t, rail(n[2], 7)), {F.LOST_RAIL: 1}, (2,)),
    Damage("a node is off", lambda t, n: gone(t, *(rail(n[0], r) for r in range(8))), {F.NO_LINK: 1}, (0,),
           keeps=False),
    Damage("a node's link trained at one lane", lambda t, n: trained(t, rail(n[0], 2), "leaf-01-3", "1xNDR"),
           {F.SLOW_LINK: 1}, (0,)),
    Damage("a node's link trained two lanes short", lambda t, n: trained(t, rail(n[0], 2), "leaf-01-3", "2xNDR"),
           {F.SLOW_LINK: 1}, (0,)),
    Damage("a node's link trained at an older speed", lambda t, n: trained(t, rail(n[3], 0), "leaf-01-1", "4xHDR"),
           {F.SLOW_LINK: 1}, (3,)),
    Damage("an uplink trained at an older speed", lambda t, n: trained(t, "leaf-01-1", "spine-01-01", "4xHDR"),
           {F.SLOW_LINK: 1}),
    Damage("an uplink is pulled", lambda t, n: cut(t, "leaf-01-2", "spine-01-01"), {F.LOST_UPLINK: 2}),
    Damage("two uplinks of a leaf are pulled",
           lambda t, n: cut(t, "leaf-01-2", *uplinks(t)[:2]), {F.LOST_UPLINK: 3}),
    Damage("a leaf has no uplink left, its group is held by the others",
           lambda t, n: cut(t, "leaf-01-1", *uplinks(t)), {F.LOST_UPLINK: 1}, in_text=True),
    Damage("a leaf is off", lambda t, n: gone(t, "leaf-01-8"), {F.LOST_LEAF: 1}),
    Damage("two rails of a node are crossed", lambda t, n: swapped(t, rail(n[1], 0), rail(n[1], 1)),
           {F.CROSSED_RAIL: 2}, (1,)),
    Damage("a rail is cabled to another group's leaf", moved, {F.JOINED_GROUPS: 1}, keeps=False),
    Damage("an adapter has its maker's name", lambda t, n: renamed(t, rail(n[1], 3), "MT4129 ConnectX7   Mellanox"),
           {F.LOST_RAIL: 1}, (1,)),
    Damage("an adapter has no name", lambda t, n: renamed(t, rail(n[1], 3), ""), {F.LOST_RAIL: 1}, (1,)),
    Damage("hosts of somebody else", lambda t, n: t + '\n\nCa\t1 "H-00000000deadbeef"\t# "login-01 mlx5_0"\n'
           '[1](00000000deadbef0)\t"S-b83fd20301000000"[60]\t# lid 9 lmc 0 "leaf-01-1" lid 9 4xNDR\n', in_text=True),
    Damage("a switch that nothing is cabled to",
           lambda t, n: t + '\n\nSwitch\t64 "S-00000000deadbeef"\t# "spare" enhanced\n', in_text=True),
    Damage("a GUID stands for two devices", lambda t, n: t + f'\n\nCa\t1 "H-b83fd20301000000"\t# "{n[0]} mlx5_9"\n',
           {F.TWO_KINDS: 1}, in_text=True),
    Damage("two adapters are cabled to each other", lambda t, n: t + '\n\nCa\t1 "H-00000000deadbeef"\t# "x mlx5_0"\n'
           '[1](00000000deadbef0)\t"H-00000000deadbef1"[1]\t# lid 9 lmc 0 "y mlx5_0" lid 9 4xNDR\n',
           {F.CUT_TEXT: 1, F.NO_SWITCH: 1}, in_text=True),
    Damage("strange lines", lambda t, n: "\x00\x01\n" + t + "\nibwarn: [4711] mad_rpc: timeout\n",
           {F.STRANGE_TEXT: 1}, in_text=True),
]  # fmt: skip
