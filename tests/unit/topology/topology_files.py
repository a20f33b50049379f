"""Files that slurmctld may be given, and what it makes of each. Nodes are n1 to n8."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from slurm_gpuaas.domain.policy import expand_nodes
from slurm_gpuaas.topology.validation import Slurmctld

NODES: Final = expand_nodes("n[1-8]")


@dataclass(frozen=True)
class File:
    name: str
    text: str
    slurmctld: Slurmctld | None
    """The worst that it makes of it; None: it is a good file."""


def tree(*switches: str, head: str = "- topology: t\n  cluster_default: true\n") -> str:
    return head + "  tree:\n    switches:\n" + "".join(f"      - {{{one}}}\n" for one in switches)


def block(*blocks: str, sizes: str | None = "[4]", head: str = "- topology: b\n  cluster_default: true\n") -> str:
    lines = head + "  block:\n" + (f"    block_sizes: {sizes}\n" if sizes else "")
    return lines + "    blocks:\n" + "".join(f"      - {{{one}}}\n" for one in blocks)


LEAVES: Final = ('switch: a, nodes: "n[1-4]"', 'switch: b, nodes: "n[5-8]"')
ROOT: Final = 'switch: r, children: "a,b"'
HALVES: Final = ('block: a, nodes: "n[1-4]"', 'block: b, nodes: "n[5-8]"')
SECOND: Final = "- topology: b\n  cluster_default: false\n"
HEAD: Final = "- topology: t\n  cluster_default: true\n"
GOOD: Final = tree(ROOT, *LEAVES)
RINGS: Final = HEAD + "  ring:\n    rings:\n      - {ring: a, nodes: 'n[1-4]'}\n      - {ring: b, nodes: 'n[5-8]'}\n"
TORUS: Final = (
    HEAD
    + """\
  torus3d:
    toruses:
      - name: a
        dims: {x: 2, y: 2, z: 2}
        nodes: n[1-8]
        placements: [{dims: {x: 2, y: 2, z: 1}}]
"""
)
TOPOCONF: Final = (
    HEAD
    + """\
  block: {}
  ring: {}
  tree:
    switches:
    - switch: r
      children: a,b
    - switch: a
      nodes: n[1-4]
    - switch: b
      nodes: n[5-8]
"""
)
"""As `scontrol show topoconf` prints it, less what slurmctld does not take back."""
ENDS, WARNS, SILENT = Slurmctld.ENDS, Slurmctld.WARNS, Slurmctld.SILENT

FILES: Final = [
    File("a tree", tree(ROOT, *LEAVES), None),
    File("blocks", block(*HALVES), None),
    File("blocks and blocks of blocks", block(*HALVES, sizes="[4, 8]"), None),
    File("a tree and blocks", tree(ROOT, *LEAVES) + block(*HALVES, head=SECOND), None),
    File("a small block beside larger ones",
         block('block: a, nodes: "n[1-4]"', 'block: b, nodes: "n[5-7]"', "block: c, nodes: n8"), None),
    File("a flat topology", f"{HEAD}  flat: true\n", None),
    File("rings", RINGS, None),
    File("a torus", TORUS, None),
    File("a topology as slurmctld prints it", TOPOCONF, None),
    File("numbers and words for names",
         tree('switch: null, children: "001,no"', 'switch: 001, nodes: "n[1-4]"', 'switch: no, nodes: "n[5-8]"'), None),
    File("one switch instead of a list", f"{HEAD}  tree:\n    switches: {{switch: a, nodes: 'n[1-8]'}}\n", None),
    File("a default in quotes", GOOD.replace("true", '"true"') + block(*HALVES, head=SECOND), None),
    File("flat as it is printed beside a tree", f"{GOOD}  flat: {{}}\n", ENDS),
    File("an empty list of nodes beside switches", GOOD.replace('"a,b"', '"a,b", nodes: ""'), WARNS),
    File("an empty list of switches", tree('switch: r, children: ""', *LEAVES), ENDS),
    File("a tree and blocks in one topology", GOOD + block(*HALVES, head=""), ENDS),
    File("a tree and rings in one topology", GOOD + RINGS.removeprefix(HEAD), ENDS),
    File("a tree and flat", f"{GOOD}  flat: true\n", ENDS),
    File("a tree of null", f"{HEAD}  tree: null\n", ENDS),
    File("a tree of nothing beside blocks", block(*HALVES) + "  tree:\n", ENDS),
    File("a tree that is a list", f"{HEAD}  tree: [1]\n", ENDS),
    File("a tree without switches", f"{HEAD}  tree: {{switches: []}}\n", ENDS),
    File("blocks without one", f"{HEAD}  block: {{block_sizes: [4], blocks: []}}\n", ENDS),
    File("rings without one", f"{HEAD}  ring: {{rings: []}}\n", ENDS),
    File("a topology of no kind", HEAD, ENDS),
    File("no topology", "[]\n", ENDS),
    File("a text among topologies", f"{GOOD}- text\n", ENDS),
    File("a switch that is no mapping", f"{HEAD}  tree: {{switches: [a]}}\n", ENDS),
    File("a switch without a name", tree(ROOT, *LEAVES, "nodes: n1"), ENDS),
    File("children as a list", tree("switch: r, children: [a, b]", *LEAVES), ENDS),
    File("an alias", GOOD.replace("topology: t", "topology: &x t") + "  colour: *x\n", ENDS),
    File("17 block sizes", block(*HALVES, sizes=str([2**power for power in range(17)])), ENDS),
    File("a block size that is no number", block(*HALVES, sizes="[x]"), ENDS),
    File("a block size of nothing", block(*HALVES, sizes="[0]"), ENDS),
    File("two rings of a name", RINGS.replace("ring: b", "ring: a"), ENDS),
    File("a torus without a name", TORUS.replace("name: a", "colour: red"), ENDS),
    File("a torus of no length", TORUS.replace("x: 2, y: 2, z: 2", "x: 0, y: 2, z: 2"), ENDS),
    File("a node in no ring", RINGS.replace("n[5-8]", "n[5-7]"), WARNS),
    File("a node in two rings", RINGS.replace("n[5-8]", "n[4-8]"), SILENT),
    File("a node list with an operator", tree('switch: r, nodes: "n[1-8],n9!n9"'), WARNS),
    File("a topology without a name", GOOD.replace("topology: t", "topology:"), SILENT),
    File("a key that stands twice", GOOD.replace("topology: t", "topology: u\n  topology: t"), SILENT),
    File("a second document", f"{GOOD}---\n{GOOD}", SILENT),
    File("an unknown key of a ring", f"{RINGS}    colour: red\n", SILENT),
    File("an empty file", "", ENDS),
    File("a comment alone", "# nothing\n", ENDS),
    File("no YAML", "- topology: [\n", ENDS),
    File("a mapping", "topology: t\n", ENDS),
    File("an unknown child", tree('switch: r, children: "a,b,c"', *LEAVES), ENDS),
    File("a switch above itself", tree('switch: r, children: "a,b,r"', *LEAVES), ENDS),
    File("a cycle", tree('switch: r, children: "a,s"', "switch: s, children: r", 'switch: a, nodes: "n[1-8]"'), ENDS),
    File("a switch with nodes and switches", tree('switch: r, children: "a,b", nodes: n1', *LEAVES), WARNS),
    File("two switches of a name", tree(ROOT, *LEAVES, "switch: a, nodes: n1"), ENDS),
    File("two blocks of a name", block(*HALVES, "block: a, nodes: n1"), ENDS),
    File("a switch name of 65 characters", tree(f'switch: {"r" * 65}, children: "a,b"', *LEAVES), SILENT),
    File("a block name of 65 characters", block(HALVES[0], f'block: {"b" * 65}, nodes: "n[5-8]"'), SILENT),
    File("block sizes that do not double", block(*HALVES, sizes="[4, 12]"), ENDS),
    File("block sizes that shrink", block(*HALVES, sizes="[8, 4]"), ENDS),
    File("two roots", tree(*LEAVES), WARNS),
    File("a node in no leaf", tree('switch: r, children: "a,b"', LEAVES[0], 'switch: b, nodes: "n[5-7]"'), WARNS),
    File("a node in two leaves", tree(ROOT, LEAVES[0], 'switch: b, nodes: "n[4-8]"'), WARNS),
    File("an unknown node", tree(ROOT, LEAVES[0], 'switch: b, nodes: "n[5-9]"'), WARNS),
    File("a node in no block", block(HALVES[0], 'block: b, nodes: "n[5-7]"'), WARNS),
    File("a node in two blocks", block(HALVES[0], 'block: b, nodes: "n[4-8]"'), SILENT),
    File("a switch with two parents",
         tree('switch: q, children: "r,s"', 'switch: r, children: "a,b"', "switch: s, children: b", *LEAVES), SILENT),
    File("a leaf without nodes", tree('switch: r, children: "a,b,c"', *LEAVES, "switch: c"), SILENT),
    File("no block sizes", block(*HALVES, sizes=None), SILENT),
    File("a base block larger than every block", block(*HALVES, sizes="[8]"), SILENT),
    File("a base block smaller than every block", block(*HALVES, sizes="[2]"), SILENT),
    File("two defaults", tree(ROOT, *LEAVES) + block(*HALVES), SILENT),
    File("no default among two",
         tree(ROOT, *LEAVES, head="- topology: t\n") + block(*HALVES, head="- topology: b\n"), SILENT),
    File("two topologies of a name",
         tree(ROOT, *LEAVES) + block(*HALVES, head="- topology: t\n  cluster_default: false\n"), SILENT),
    File("an unknown key", tree(ROOT, *LEAVES) + "    depth: 2\n", SILENT),
    File("an unknown key of a topology", tree(ROOT, *LEAVES) + "  colour: red\n", SILENT),
    File("an unknown key of a switch", tree('switch: r, children: "a,b", colour: red', *LEAVES), SILENT),
]  # fmt: skip

TREE_CONF: Final = "SwitchName=r Switches=a,b\nSwitchName=a Nodes=n[1-4]\nSwitchName=b Nodes=n[5-8]\n"
BLOCK_CONF: Final = "BlockName=a Nodes=n[1-4]\nBlockName=b Nodes=n[5-8]\n"

CONF_FILES: Final = [
    File("a tree", TREE_CONF, None),
    File("blocks", f"{BLOCK_CONF}BlockSizes=4\n", None),
    File("capitals and comments", f"# a fabric\n{TREE_CONF.replace('Nodes', 'NODES')}", None),
    File("nothing", "# nothing\n", ENDS),
    File("an unknown word", f"{TREE_CONF}SwitchName=c Nodes=n1 Colour=red\n", ENDS),
    File("no word", f"{TREE_CONF}hello\n", ENDS),
    File("an unknown child", TREE_CONF.replace("a,b", "a,b,c"), ENDS),
    File("a switch with nodes and switches", TREE_CONF.replace("a,b", "a,b Nodes=n1"), ENDS),
    File("two switches of a name", f"{TREE_CONF}SwitchName=a Nodes=n1\n", ENDS),
    File("a switch name of 65 characters", TREE_CONF.replace("SwitchName=r", f"SwitchName={'r' * 65}"), ENDS),
    File("a block name of 65 characters",
         BLOCK_CONF.replace("BlockName=b", f"BlockName={'b' * 65}") + "BlockSizes=4\n", SILENT),
    File("block sizes that do not double", f"{BLOCK_CONF}BlockSizes=4,12\n", ENDS),
    File("a tree and blocks", f"{TREE_CONF}{BLOCK_CONF}BlockSizes=4\n", ENDS),
    File("block sizes of a tree", f"{TREE_CONF}BlockSizes=4\n", ENDS),
    File("a block with switches", BLOCK_CONF.replace("n[5-8]", "n[5-8] Switches=a") + "BlockSizes=4\n", ENDS),
    File("a switch above itself", TREE_CONF.replace("a,b", "a,b,r"), ENDS),
    File("a cycle", TREE_CONF.replace("a,b", "a,b,s") + "SwitchName=s Switches=r\n", ENDS),
    File("two blocks of a name", f"{BLOCK_CONF}BlockName=a Nodes=n1\nBlockSizes=4\n", ENDS),
    File("block sizes that shrink", f"{BLOCK_CONF}BlockSizes=8,4\n", ENDS),
    File("17 block sizes", f"{BLOCK_CONF}BlockSizes={','.join(str(2**power) for power in range(17))}\n", ENDS),
    File("a key that stands twice", TREE_CONF.replace("Nodes=n[1-4]", "Nodes=n[1-4] Nodes=n[1-4]"), WARNS),
    File("a node in no leaf", TREE_CONF.replace("n[5-8]", "n[5-7]"), WARNS),
    File("an unknown node", TREE_CONF.replace("n[5-8]", "n[5-9]"), WARNS),
    File("a switch with two parents",
         TREE_CONF + "SwitchName=s Switches=b\nSwitchName=q Switches=r,s\n", SILENT),
    File("a leaf without nodes", TREE_CONF.replace("a,b", "a,b,c") + "SwitchName=c\n", SILENT),
    File("two roots", TREE_CONF.partition("\n")[2], WARNS),
    File("a node in two leaves", TREE_CONF.replace("n[5-8]", "n[4-8]"), WARNS),
    File("a node in two blocks", BLOCK_CONF.replace("n[5-8]", "n[4-8]") + "BlockSizes=4\n", SILENT),
    File("no block sizes", BLOCK_CONF, SILENT),
]  # fmt: skip
"""The same in topology.conf."""
