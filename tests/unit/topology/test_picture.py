"""The picture of a fabric: all of it is there, nothing lies on anything else, and hostile names stay text."""

from __future__ import annotations

from itertools import combinations
from xml.etree import ElementTree

import pytest

from slurm_gpuaas.topology.fabric import Fabric, Fault, Finding, LeafGroup, Switch
from slurm_gpuaas.topology.picture import draw

SVG = "{http://www.w3.org/2000/svg}"
Box = tuple[float, float, float, float]


def fabric(pods: int, groups: int, nodes: int, *, spines: int = 0, core: int = 0, switches: int = 8) -> Fabric:
    """Pods of so many leaf groups of so many nodes. The first node and the first spine are touched."""
    rows = []
    for number in range(pods * groups):
        first = number * nodes + 1
        rows.append(
            LeafGroup(
                name=f"leaf-{number + 1:02}",
                pod=f"pod-{number // groups + 1:02}",
                nodes=f"b200-[{first:04}-{first + nodes - 1:04}]",
                switches=tuple(f"{number:04x}{rail:x}" for rail in range(switches)),
            )
        )
    above = [Switch(id=f"s{n}", name=f"spine-{n}", level=1) for n in range(spines)]
    above += [Switch(id=f"c{n}", name=f"core-{n}", level=2) for n in range(core)]
    found = (
        Finding(fault=Fault.LOST_RAIL, says="b200-0001 reaches 7 of the 8 leaves.", nodes="b200-0001"),
        Finding(
            fault=Fault.LOST_UPLINK,
            says="spine-0 has one cable less.",
            nodes=f"b200-[0001-{nodes:04}]" if nodes > 1 else "",
            devices=("s0",),
        ),
    )
    return Fabric(leaf_groups=tuple(rows), spines=tuple(above), findings=found)


FABRICS = {
    "8 nodes": fabric(1, 2, 4, spines=4),
    "129 nodes": fabric(1, 5, 26, spines=32),
    "957 nodes": fabric(8, 4, 30, spines=256, core=128),
    "one node": fabric(1, 1, 1),
    "one leaf of 1,000 nodes": fabric(1, 1, 1000, switches=40),
    "one pod of 60 racks": fabric(1, 60, 18, spines=1, switches=1),
    "200 pods": fabric(200, 1, 2, spines=1),
}


def boxes(picture: ElementTree.Element, *kinds: str) -> list[Box]:
    """(left, top, right, bottom) of rectangles of these classes."""
    found = []
    for rect in picture.iter(f"{SVG}rect"):
        if set(kinds) & set(rect.get("class", "").split()):
            x, y, width, height = (float(rect.get(key, "0")) for key in ("x", "y", "width", "height"))
            found.append((x, y, x + width, y + height))
    return found


def apart(one: Box, other: Box) -> bool:
    return one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


def within(inner: Box, outer: Box) -> bool:
    return outer[0] <= inner[0] and outer[1] <= inner[1] and inner[2] <= outer[2] and inner[3] <= outer[3]


@pytest.mark.parametrize("known", FABRICS.values(), ids=FABRICS.keys())
def test_all_is_in_the_picture_and_nothing_lies_on_anything_else(known: Fabric) -> None:
    picture = ElementTree.fromstring(draw(known))
    _, _, width, height = map(float, picture.get("viewBox", "").split())
    cards, pods, squares = boxes(picture, "card"), boxes(picture, "pod"), boxes(picture, "node", "switch")
    assert len(pods) == len(known.pods)
    for kind in (cards, pods):
        assert all(apart(one, other) for one, other in combinations(kind, 2))
    in_legend = 4
    nodes = boxes(picture, "node")
    assert len(nodes) == len(known.arrays.nodes) + 3, "the legend shows three"
    assert len([one for one in squares if not any(within(one, card) for card in cards)]) == in_legend
    corners = {(round(left / 14), round(top / 14)) for left, top, _, _ in nodes}
    assert len(corners) == len(nodes), "two nodes lie in one place"
    paper = (0.0, 0.0, width, height)
    assert all(within(box, paper) for box in (*cards, *pods, *squares))
    texts = [(float(text.get("x", "")), float(text.get("y", ""))) for text in picture.iter(f"{SVG}text")]
    assert all(0 <= x <= width and 0 <= y <= height for x, y in texts)
    told = {title.text for title in picture.iter(f"{SVG}title")}
    assert any((tip or "").startswith("b200-0001\nb200-0001 reaches 7 of the 8 leaves.") for tip in told)


def test_what_is_touched_is_marked_and_says_why() -> None:
    picture = ElementTree.fromstring(draw(FABRICS["129 nodes"]))
    marked = [rect for rect in picture.iter(f"{SVG}rect") if "touched" in rect.get("class", "")]
    assert [rect.findtext(f"{SVG}title") for rect in marked[:2]] == [
        "spine-0\nspine-0 has one cable less.",
        "b200-0001\nb200-0001 reaches 7 of the 8 leaves.\nspine-0 has one cable less.",
    ]
    assert len(boxes(picture, "behind")) == 25 + 1, "its neighbours, and one in the legend"
    many = ElementTree.fromstring(draw(FABRICS["957 nodes"]))
    assert "256 spines, 1 touched" in [text.text for text in many.iter(f"{SVG}text")]


def test_hostile_names_stay_text() -> None:
    evil = '"><script>alert(1)</script>&\x00\x1b[2J'
    known = FABRICS["8 nodes"].model_copy(
        update={
            "source": evil * 10,
            "spines": (Switch(id="s0", name=evil, level=1),),
            "findings": tuple(
                Finding(fault=Fault.SLOW_LINK, says=evil + "x" * 900, devices=("s0",)) for _ in range(30)
            ),
        }
    )
    text = draw(known)
    picture = ElementTree.fromstring(text)
    assert not list(picture.iter(f"{SVG}script"))
    assert "\x1b" not in text
    lines = [line.text or "" for line in picture.iter(f"{SVG}text")]
    assert "and 22 findings more" in lines
    assert max(map(len, lines)) <= 720 / 7
