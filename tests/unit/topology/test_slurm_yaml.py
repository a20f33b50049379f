"""topology.yaml: what we write we read, and what we cannot read we say. tests/slurm shows it to a real slurmctld."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.topology import slurm_conf
from slurm_gpuaas.topology.applying import Layout
from slurm_gpuaas.topology.fabric import Fabric, Fault, LeafGroup, NvlinkDomain
from slurm_gpuaas.topology.slurm_yaml import LONGEST_FILE, Plugin, parse, plugin_of, render
from slurm_gpuaas.topology.validation import Slurmctld, validate_yaml

UUID = "9c6f5af3-53bf-49b5-a436-b66766c413c3"


def fabric(*groups: tuple[str, str, str]) -> Fabric:
    return Fabric(leaf_groups=tuple(LeafGroup(pod=pod, name=name, nodes=nodes) for pod, name, nodes in groups))


def shape(known: Fabric) -> list[tuple[str, str, str]]:
    return [(group.pod, group.name, group.nodes) for group in known.leaf_groups]


def test_two_levels() -> None:
    assert render(fabric(("p", "leaf-01", "n[1-4]"), ("p", "leaf-02", "n[5-8]"))) == (
        "- topology: fabric\n"
        "  cluster_default: true\n"
        "  tree:\n"
        "    switches:\n"
        '      - switch: "root"\n'
        '        children: "leaf-[01-02]"\n'
        '      - switch: "leaf-01"\n'
        '        nodes: "n[1-4]"\n'
        '      - switch: "leaf-02"\n'
        '        nodes: "n[5-8]"\n'
    )


def test_pods_are_a_level_of_their_own() -> None:
    known = fabric(("p1", "a", "n1"), ("p1", "b", "n2"), ("p2", "c", "n3"))
    assert shape(parse(render(known))) == shape(known)
    assert [(spine.name, spine.level) for spine in parse(render(known)).spines] == [("p1", 1), ("p2", 1), ("root", 2)]


def test_a_leaf_group_is_a_block_of_the_size_that_most_have() -> None:
    known = fabric(("p", "a", "n[1-4]"), ("p", "b", "n[5-8]"), ("p", "c", "n9"))
    assert render(known, nodes=[NodeName("x")], plugin=Plugin.BLOCK) == (
        "- topology: blocks\n"
        "  cluster_default: true\n"
        "  block:\n"
        "    block_sizes: [4]\n"
        "    blocks:\n"
        '      - block: "a"\n'
        '        nodes: "n[1-4]"\n'
        '      - block: "b"\n'
        '        nodes: "n[5-8]"\n'
        '      - block: "c"\n'
        '        nodes: "n9"\n'
        '      - block: "unattached"\n'
        '        nodes: "x"\n'
    )
    both = render(known, plugin=Plugin.BOTH)
    assert both.startswith(render(known))
    assert "- topology: blocks\n  cluster_default: false\n" in both
    assert [plugin_of(text) for text in (both, render(known), render(known, plugin=Plugin.BLOCK))] == [
        Plugin.BOTH,
        Plugin.TREE,
        Plugin.BLOCK,
    ]
    blocks = parse(render(known, nodes=[NodeName("x")], plugin=Plugin.BLOCK))
    assert shape(blocks) == [
        ("blocks", "a", "n[1-4]"),
        ("blocks", "b", "n[5-8]"),
        ("blocks", "c", "n9"),
        ("unattached", "unattached", "x"),
    ]
    assert shape(parse(both)) == [("root", "a", "n[1-4]"), ("root", "b", "n[5-8]"), ("root", "c", "n9")]


def test_an_nvlink_domain_of_several_nodes_is_a_block_and_so_is_what_it_leaves() -> None:
    known = fabric(("p", "a", "n[1-4]"), ("p", "b", "n[5-9]")).model_copy(
        update={
            "nvlink_domains": (
                NvlinkDomain(name=f"{UUID}.1", nodes="n[1-3]"),
                NvlinkDomain(name=f"{UUID}.2", nodes="n[4-6]"),
                NvlinkDomain(name=f"{UUID}.3", nodes="n7"),
            )
        }
    )
    text = render(known, nodes=[NodeName("x")], plugin=Plugin.BLOCK)
    assert shape(parse(text)) == [
        ("blocks", f"{UUID}.1", "n[1-3]"),
        ("blocks", f"{UUID}.2", "n[4-6]"),
        ("blocks", "b", "n[7-9]"),
        ("unattached", "unattached", "x"),
    ]
    assert "block_sizes: [3]" in text
    assert validate_yaml(text) == []
    conf = slurm_conf.render(known, nodes=[NodeName("x")], plugin=Plugin.BLOCK)
    assert slurm_conf.parse(conf, source="") == parse(text, source="")
    assert render(known) == render(fabric(("p", "a", "n[1-4]"), ("p", "b", "n[5-9]"))), "the tree is of switches"


def test_topology_conf_holds_a_tree_or_blocks() -> None:
    known = fabric(("p", "a", "n[1-4]"), ("p", "b", "n[5-8]"))
    assert slurm_conf.render(known, plugin=Plugin.BLOCK) == (
        "BlockName=a Nodes=n[1-4]\nBlockName=b Nodes=n[5-8]\nBlockSizes=4\n"
    )
    with pytest.raises(InvalidInput, match="not both"):
        slurm_conf.render(known, plugin=Plugin.BOTH)


def test_every_node_of_slurm_conf_has_a_place() -> None:
    known = parse(render(fabric(("p", "a", "n1")), nodes=[NodeName("n1"), NodeName("n10"), NodeName("n9")]))
    assert shape(known) == [("root", "a", "n1"), ("unattached", "unattached", "n[9-10]")]


def test_the_cluster_default_is_read() -> None:
    text = render(fabric(("p", "a", "n1"))).replace("cluster_default: true", "cluster_default: false")
    text += render(fabric(("p", "b", "n2"))).replace("fabric", "other")
    assert shape(parse(text)) == [("root", "b", "n2")]


def switches(*rows: str) -> str:
    return "- topology: t\n  tree:\n    switches:\n" + "".join(f"      - {{{row}}}\n" for row in rows)


def tree(**rows: str) -> str:
    """`tree(root="m c", m="a b")`: all that has no row of its own is a leaf of one node of its name."""
    below = {child for children in rows.values() for child in children.split()}
    leaves = sorted(below - rows.keys()) or ["s1"]  # of no row at all: one leaf
    return switches(
        *(f'switch: {name}, children: "{children.replace(" ", ",")}"' for name, children in rows.items()),
        *(f"switch: {leaf}, nodes: n-{leaf}" for leaf in leaves),
    )


@pytest.mark.parametrize(
    ("rule", "text", "rendered", "said"),
    [
        ("an uneven tree keeps its form", tree(root="m c", m="a b"), tree(root="m c", m="a b"), ()),
        (
            "under another name the root becomes a pod beside the others",
            tree(top="m c", m="a b"),
            tree(root="m top", m="a b", top="c"),
            (),
        ),
        ("a leaf called root keeps its name", tree(top="root b"), tree(**{"root-2": "root b"}), ()),
        ("a pod called root is the root", tree(root="a b"), tree(root="a b"), ()),
        ("one leaf keeps its name", tree(), tree(root="s1"), ()),
        ("two roots stay two", tree(r1="a b", r2="c d"), tree(r1="a b", r2="c d"), (Fault.ISLES,)),
        (
            "of four levels the middle is left out, and it is said",
            tree(root="x y", x="p", y="q", p="a", q="b"),
            tree(root="p q", p="a", q="b"),
            (Fault.LEFT_OUT,),
        ),
        (
            "roots of unlike height get one, and it is said",
            tree(x="p q", p="a", q="b", y="c"),
            tree(root="p q y", p="a", q="b", y="c"),
            (Fault.ISLES, Fault.LEFT_OUT),
        ),
    ],
)
def test_a_tree_that_is_read_and_written(rule: str, text: str, rendered: str, said: tuple[Fault, ...]) -> None:
    known = parse(text)
    assert tuple(finding.fault for finding in known.findings) == said, rule
    units = Layout.of(render(known)).outlines[0].units
    assert set(units) == set(Layout.of(rendered).outlines[0].units), rule
    assert not [one for one in validate_yaml(render(known)) if one.slurmctld is Slurmctld.ENDS], rule
    assert [row[1:] for row in shape(parse(render(known)))] == [row[1:] for row in shape(known)], rule


def test_leaves_without_a_switch_above_them_stay_apart() -> None:
    known = parse(switches("switch: a, nodes: n1", "switch: b, nodes: n2"))
    assert [finding.fault for finding in known.findings] == [Fault.ISLES]
    assert shape(parse(render(known, nodes=[NodeName("n3")]))) == [*shape(known), ("unattached", "unattached", "n3")]


def test_a_block_called_blocks_is_read() -> None:
    text = "- topology: t\n  block:\n    blocks:\n      - {block: blocks, nodes: n1}\n"
    assert shape(parse(text)) == [("blocks-2", "blocks", "n1")]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "is not a topology.yaml"),
        ("- [", "is not YAML"),
        ("just: text", "is not a topology.yaml"),
        ("- topology: t\n  flat: true\n", "holds neither tree nor blocks"),
        (switches("switch: a, nodes: n1", "switch: a, nodes: n2"), "switch a stands twice"),
        (
            switches("switch: a, nodes: n1", "switch: r, children: a", "switch: s, children: a"),
            "switch a has two parents",
        ),
        (switches("switch: r, children: 'a,b'", "switch: a, nodes: n1"), "child b is no switch"),
        (
            switches("switch: r, children: s", "switch: s, children: 'r,a'", "switch: a, nodes: n1"),
            "is above itself",
        ),
        (switches("switch: a, nodes: 'n[1-'"), "is not a node list"),
        (switches("switch: a, nodes: n1", "switch: b, nodes: n1"), "Node n1 is in leaf groups"),
        ("- &a [*a]", "an alias is not read"),
        ("[" * 5_000, "is not YAML"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(text: str, fault: str) -> None:
    with pytest.raises(InvalidInput, match=fault):
        parse(text)


@pytest.mark.parametrize("name", ["001", "yes", "null", "1e3", "0x10", "2020-99-99", "1_000", "9" * 64])
def test_a_name_that_yaml_could_take_for_something_else_stays_a_name(name: str) -> None:
    known = fabric(("p", name, name), ("p", f"{name[:62]}-2", "n2"))
    text = render(known)
    assert [(group.name, group.nodes) for group in parse(text).leaf_groups] == [
        (group.name, group.nodes) for group in known.leaf_groups
    ]
    assert parse(text.replace('"', "")) == parse(text) or "[" in text, "slurmctld prints without quotes"
    assert validate_yaml(text) == []


def test_names_that_fold_are_no_list_of_yaml() -> None:
    known = fabric(("p", "001", "001"), ("p", "002", "002"))
    assert 'children: "[001-002]"' in render(known)
    assert shape(parse(render(known))) == [("root", "001", "001"), ("root", "002", "002")]


@pytest.mark.parametrize(
    "text",
    [
        "- topology: 2020-99-99\n",
        f"- topology: {'9' * 5_000}\n",
        "- topology: !!timestamp x\n",
        "- topology: !!int abc\n",
        "- topology: !!python/object/apply:os.getcwd []\n",
        "- topology: t\n  topology: u\n  flat: true\n",
        "- topology: t\n  flat: true\n---\n- topology: t\n  flat: true\n",
        "- &a [x, x]\n" + "".join(f"- &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefghi")),
        "- " * 5_000,
        "- ? [a]\n  : b\n",
        "- topology: [t]\n  flat: true\n",
        "x" * (LONGEST_FILE + 1),
    ],
    ids=lambda text: text[:30],
)
def test_hostile_yaml_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse(text)
    assert validate_yaml(text)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(InvalidInput):
        parse(text)


class TestTopologyConf:
    @pytest.mark.parametrize("plugin", [Plugin.TREE, Plugin.BLOCK])
    def test_what_we_write_we_read_as_in_the_other_form(self, plugin: Plugin) -> None:
        known = fabric(
            ("p1", "a", "n[1-4]"), ("p1", "b", "n5"), ("p2", "c", "n[6-9]"), ("unattached", "unattached", "x")
        )
        text = slurm_conf.render(known, plugin=plugin)
        assert slurm_conf.parse(text, source="") == parse(render(known, plugin=plugin), source="")

    def test_as_people_write_it(self) -> None:
        text = (
            "# the fabric\n"
            "switchname=r SWITCHES=a,b LinkSpeed=400000  # root\n\n"
            "SwitchName=a \\\n   Nodes=n[1-2],\\\nn[3-4]\n"
            "SwitchName=b Nodes=n5 \\"
        )
        assert shape(slurm_conf.parse(text)) == [("r", "a", "n[1-4]"), ("r", "b", "n5")]

    @pytest.mark.parametrize(
        ("text", "fault"),
        [
            ("", "holds neither tree nor blocks"),
            ("SwitchName=a Nodes=n1\nhello\n", "line 2 is not understood: 'hello'"),
            ("SwitchName=a Nodes=n1 Colour=red\n", "line 1 is not understood"),
            ("Nodes=n1\n", "line 1 is not understood"),
            ("SwitchName=a Nodes=n1\nSwitchName=a Nodes=n2\n", "switch a stands twice"),
            ("SwitchName=a Nodes=n1\nSwitchName=r Switches=a,b\n", "child b is no switch"),
            (f"SwitchName={'a' * 65} Nodes=n1\n", "String should have at most 64 characters"),
            ("SwitchName=a Nodes=n[1-\n", "is not a node list"),
            ("BlockName=a Nodes=n1\nBlockName=b Nodes=n1\nBlockSizes=1\n", "Node n1 is in leaf groups"),
            ("SwitchName=a/b Nodes=n1\n", "String should match pattern"),
        ],
    )
    def test_a_file_that_cannot_be_read_says_why(self, text: str, fault: str) -> None:
        with pytest.raises(InvalidInput, match=fault):
            slurm_conf.parse(text)

    @given(st.text(alphabet=st.sampled_from("SwitchName=ab Nodes[1-4],\\\n#\0")))
    def test_any_text_is_read_or_refused(self, text: str) -> None:
        with suppress(InvalidInput):
            slurm_conf.parse(text)
