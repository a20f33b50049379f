"""What placement chooses, sentence by sentence.

A domain is written `path:free/size`, without a size where nobody knows it; `~0.1` is the risk of each of its places and
`@600` the seconds by which its neighbours' end misses the job's. Levels stand in the path, top first: `p1/a` is leaf
group a of pod p1. What is taken is written `path=places`; None: it does not fit.
"""

from __future__ import annotations

import re
from typing import Any, Final

import pytest

from slurm_gpuaas.topology.placement import Domain, Request, Slice, choose, fits

ROW: Final = re.compile(r"([\w/-]+):(\d+)(?:/(\d+))?(?:~([\d.]+))?(?:@(\d+))?")


def domain(text: str) -> Domain:
    found = ROW.fullmatch(text)
    assert found, text
    path, free, size, risk, ends = found.groups()
    places = int(free)
    return Domain(
        tuple(path.split("/")),
        places,
        None if size is None else int(size),
        (float(risk),) * places if risk else (),
        (float(ends),) * places if ends else (),
    )


Case = tuple[str, str, Any, str | None]
S = Slice

ONE_NODE: Final[list[Case]] = [
    ("the only free node", "a:1/4", 1, "a=1"),
    ("a broken leaf group before a whole one", "a:4/4 b:3/4", 1, "b=1"),
    ("of broken ones the fullest", "a:3/4 b:2/4 c:1/4", 1, "c=1"),
    ("the one that becomes full, if there is any", "a:3/4 b:1/4", 1, "b=1"),
    ("a whole small one that it fills breaks nothing", "a:1/1 b:3/4", 1, "a=1"),
    ("a roomy broken one before a small whole one", "a:2/2 b:7/8", 1, "b=1"),
    ("a whole one when there is nothing else", "a:4/4 b:0/4", 1, "a=1"),
    ("of whole ones the smallest, as it leaves least over", "a:8/8 b:4/4", 1, "b=1"),
    ("where sizes are unknown, the fullest", "a:4 b:2", 1, "b=1"),
    ("of equals the first by name", "b:2/4 a:2/4", 1, "a=1"),
    ("in any pod", "p1/a:4/4 p2/b:1/4", 1, "p2/b=1"),
    ("a pod without room is no pod to think of", "p1/a:0/4 p2/b:2/4", 1, "p2/b=1"),
]

ONE_LEAF_GROUP: Final[list[Case]] = [
    ("exactly what is free", "a:3/4 b:2/4 c:4/4", 2, "b=2"),
    ("the tightest that holds it", "a:4/8 b:6/8 c:5/8", 4, "a=4"),
    ("a whole one for a job of its size", "a:4/4 b:3/4", 4, "a=4"),
    ("a whole one for a job of its size before breaking a larger one", "a:8/8 b:4/4", 4, "b=4"),
    ("a broken one with much left over before a whole one", "a:4/4 b:7/8", 3, "b=3"),
    ("one leaf group although two broken ones would hold it", "a:2/4 b:2/4 c:4/4", 3, "c=3"),
    ("one leaf group although two would be filled exactly", "a:2/4 b:2/4 c:5/8", 4, "c=4"),
    ("one whole leaf group is broken rather than two used", "a:2/4 b:1/4 c:4/4", 3, "c=3"),
    ("of two that hold it exactly the first by name", "b:3/4 a:3/4", 3, "a=3"),
    ("of two broken ones the one that is left with less", "a:5/8 b:4/8", 3, "b=3"),
    ("of two whole ones the one that is left with less", "a:6/6 b:5/5", 4, "b=4"),
    ("all of the fabric in one", "a:4/4", 4, "a=4"),
]

SEVERAL_LEAF_GROUPS: Final[list[Case]] = [
    ("two when none holds it", "a:3/4 b:3/4 c:1/4", 4, "a=3 c=1"),
    ("two rather than three that fit better", "a:2/4 b:2/4 c:2/4 d:4/4", 6, "a=2 d=4"),
    ("of pairs the one that leaves nothing over", "a:4/8 b:5/8 c:3/8", 8, "b=5 c=3"),
    ("of pairs the one that leaves least over", "a:6/8 b:5/8 c:4/8", 8, "b=5 c=3"),
    ("a full one and the rest of a broken one", "a:4/4 b:3/4", 6, "a=4 b=2"),
    ("the leftover stays in the broken one", "a:3/4 b:4/4", 5, "a=1 b=4"),
    ("the leftover stays in one", "a:3/4 b:3/4", 5, "a=3 b=2"),
    ("two broken ones before a whole one", "a:4/4 b:3/4 c:2/4", 5, "b=3 c=2"),
    ("whole ones that are used up are not broken", "a:4/4 b:4/4 c:3/4", 8, "a=4 b=4"),
    ("one of two whole ones must be broken", "a:4/4 b:4/4", 6, "a=4 b=2"),
    ("three when two do not hold it", "a:4/4 b:3/4 c:2/4", 8, "a=4 b=3 c=1"),
    ("three of five", "a:4/4 b:1/4 c:4/4 d:2/4 e:3/4", 11, "a=4 c=4 e=3"),
    ("everything that is free", "a:1/4 b:2/4 c:3/4", 6, "a=1 b=2 c=3"),
    ("of equals the first by name", "c:4/4 b:4/4 a:4/4", 8, "a=4 b=4"),
    ("not the largest, where a smaller one still makes two", "a:8/8 b:6/8 c:3/8", 9, "b=6 c=3"),
]

PODS: Final[list[Case]] = [
    ("one pod although two pods have larger leaf groups", "p1/a:2/4 p1/b:2/4 p2/c:3/4 p3/d:3/4", 4, "p1/a=2 p1/b=2"),
    (
        "one pod with three leaf groups before two pods with two",
        "p1/a:2/4 p1/b:2/4 p1/c:2/4 p2/d:4/4 p3/e:2/4",
        6,
        "p1/a=2 p1/b=2 p1/c=2",
    ),
    (
        "of pods that hold it the one with fewer leaf groups",
        "p1/a:2/4 p1/b:2/4 p1/c:2/4 p2/d:4/4 p2/e:2/4",
        6,
        "p2/d=4 p2/e=2",
    ),
    ("of pods alike in leaf groups the one that breaks nothing", "p1/a:4/4 p2/b:3/4", 3, "p2/b=3"),
    ("of pods alike in that the one that leaves least over", "p1/a:6/8 p2/b:5/8", 4, "p2/b=4"),
    ("of pods alike in all the first by name", "p2/a:3/4 p1/b:3/4", 3, "p1/b=3"),
    ("two pods when none holds it", "p1/a:4/4 p2/b:4/4 p3/c:1/4", 6, "p1/a=4 p2/b=2"),
    ("two pods, and then the fewest leaf groups", "p1/a:2/4 p1/b:2/4 p2/c:4/4 p3/d:3/4", 7, "p2/c=4 p3/d=3"),
    (
        "two pods with three leaf groups before three pods with three",
        "p1/a:3/4 p1/b:1/4 p2/c:3/4 p3/d:1/4",
        7,
        "p1/a=3 p1/b=1 p2/c=3",
    ),
    ("all of one pod and a piece of another", "p1/a:4/4 p1/b:4/4 p2/c:2/4", 9, "p1/a=4 p1/b=4 p2/c=1"),
    (
        "the piece is taken where a leaf group is broken already",
        "p1/a:4/4 p1/b:4/4 p2/c:4/4 p3/d:2/4",
        9,
        "p1/a=4 p1/b=4 p3/d=1",
    ),
    (
        "a leaf group of the research's 64-node case",
        "p1/a:28/32 p1/b:29/32 p1/c:29/32 p2/d:32/32 p2/e:32/32 p2/f:26/32 p3/g:32/32 p3/h:26/32 p3/i:26/32",
        64,
        "p2/d=32 p2/e=32",
    ),
    ("a job of a pod's size", "p1/a:4/4 p1/b:4/4 p2/c:4/4 p2/d:3/4", 8, "p1/a=4 p1/b=4"),
    ("a job just above a pod's size", "p1/a:4/4 p1/b:4/4 p2/c:4/4 p2/d:3/4", 9, "p1/a=4 p1/b=4 p2/d=1"),
    ("everything of every pod", "p1/a:1/4 p2/b:2/4 p3/c:3/4", 6, "p1/a=1 p2/b=2 p3/c=3"),
    ("a pod of broken ones before breaking another", "p1/a:4/4 p1/b:4/4 p2/c:3/4 p2/d:3/4", 5, "p2/c=3 p2/d=2"),
    ("but not with more leaf groups", "p1/a:8/8 p2/c:3/4 p2/d:3/4", 5, "p1/a=5"),
    ("three levels of switches: one island first", "i1/p1/a:2 i1/p2/b:2 i2/p3/c:3 i3/p4/d:3", 4, "i1/p1/a=2 i1/p2/b=2"),
    ("then the fewest pods in it", "i1/p1/a:2 i1/p2/b:2 i2/p3/c:2 i2/p3/d:2", 4, "i2/p3/c=2 i2/p3/d=2"),
    ("then the fewest leaf groups", "i1/p1/a:2 i1/p1/b:2 i2/p2/c:4", 4, "i2/p2/c=4"),
]

MIX: Final[list[Case]] = [
    ("pieces that waiting pairs can use are no loss", "a:4/8 b:3/8", {"count": 2, "mix": {2: 5}}, "a=2"),
    ("without waiting jobs the fuller one", "a:4/8 b:3/8", {"count": 2}, "b=2"),
    (
        "where single nodes wait, no piece is a loss and the first is taken",
        "a:6/8 b:3/8",
        {"count": 2, "mix": {1: 9}},
        "a=2",
    ),
    ("room for a waiting job of four is kept whole", "a:6/8 b:5/8", {"count": 2, "mix": {4: 1}}, "a=2"),
    ("a piece of three for a waiting three", "a:5/8 b:4/8", {"count": 2, "mix": {3: 1}}, "a=2"),
    ("each size counts by the places it waits for", "a:7/8 b:6/8", {"count": 2, "mix": {4: 10, 5: 1}}, "b=2"),
    (
        "a piece of four for fours before a piece of five for a five",
        "a:7/8 b:6/8",
        {"count": 2, "mix": {4: 1, 5: 10}},
        "a=2",
    ),
    ("fewer leaf groups still come first", "a:8/8 b:2/8 c:2/8", {"count": 4, "mix": {2: 5}}, "a=4"),
    ("whole ones are still kept", "a:8/8 b:7/8", {"count": 4, "mix": {4: 5}}, "b=4"),
    ("the leftover is cut where the waiting jobs want it", "a:4/8 b:4/8", {"count": 5, "mix": {3: 1}}, "a=4 b=1"),
    ("or spread, if two pieces are better", "a:5/8 b:5/8", {"count": 6, "mix": {2: 1}}, "a=5 b=1"),
    ("of equals the first by name", "b:4/8 a:4/8", {"count": 2, "mix": {2: 5}}, "a=2"),
]

RISK: Final[list[Case]] = [
    ("of equals the safer one", "a:2/4~0.2 b:2/4~0.1", 2, "b=2"),
    ("a known risk loses to none", "a:2/4~0.01 b:2/4", 2, "b=2"),
    ("fit comes before risk", "a:3/4 b:2/4~0.9", 2, "b=2"),
    ("fewest leaf groups come before risk", "a:2/4 b:2/4 c:4/4~0.9", 4, "c=4"),
    ("a whole one is kept in spite of risk", "a:4/4 b:3/4~0.9", 2, "b=2"),
    ("of pairs the safer one", "a:2/4~0.3 b:2/4~0.1 c:2/4~0.2", 4, "b=2 c=2"),
    ("places of the riskier one are left over", "a:3/4~0.2 b:3/4~0.1", 5, "a=2 b=3"),
    ("of pods the safer one", "p1/a:2/4~0.2 p2/b:2/4~0.1", 2, "p2/b=2"),
    ("equal risks fall back on the name", "b:2/4~0.1 a:2/4~0.1", 2, "a=2"),
    ("a tiny difference decides", "a:2/4~0.00002 b:2/4~0.00001", 2, "b=2"),
]

ENDS: Final[list[Case]] = [
    ("of equals the one whose neighbours end with it", "a:2/4@3600 b:2/4@60", 2, "b=2"),
    ("unknown ends count as good ones", "a:2/4@60 b:2/4", 2, "b=2"),
    ("fit comes before ends", "a:3/4@0 b:2/4@9000", 2, "b=2"),
    ("risk comes before ends", "a:2/4~0.1@0 b:2/4@9000", 2, "b=2"),
    ("of pairs the nearer one", "a:2/4@900 b:2/4@60 c:2/4@300", 4, "b=2 c=2"),
    ("places beside the nearer neighbours are taken first", "a:3/4@900 b:3/4@60", 5, "a=2 b=3"),
    ("beyond a month all are alike", "a:2/4@9000000 b:2/4@3000000", 2, "a=2"),
    ("equal ends fall back on the name", "b:2/4@60 a:2/4@60", 2, "a=2"),
]

REQUIRED: Final[list[Case]] = [
    ("one pod holds all of it", "p1/a:3/4 p1/b:1/4 p2/c:3/4", {"count": 4, "required": 0}, "p1/a=3 p1/b=1"),
    ("no pod does", "p1/a:3/4 p2/c:3/4", {"count": 4, "required": 0}, None),
    ("one leaf group holds all of it", "p1/a:3/4 p1/b:1/4 p2/c:4/4", {"count": 4, "required": 1}, "p2/c=4"),
    ("no leaf group does, though a pod would", "p1/a:3/4 p1/b:1/4", {"count": 4, "required": 1}, None),
    ("of those that do the best fit", "a:4/8 b:3/8", {"count": 3, "required": 0}, "b=3"),
    ("it changes nothing where one holds it anyway", "a:4/4 b:2/4", {"count": 2, "required": 0}, "b=2"),
    ("the middle of three levels", "i/p1/a:2 i/p1/b:2 i/p2/c:3", {"count": 4, "required": 1}, "i/p1/a=2 i/p1/b=2"),
    ("the top of three levels", "i1/p1/a:2 i2/p2/b:1 i2/p3/c:1", {"count": 2, "required": 0}, "i1/p1/a=2"),
    ("a single node is in one of everything", "p1/a:1/4 p2/b:2/4", {"count": 1, "required": 1}, "p1/a=1"),
    ("all that a pod has", "p1/a:2/4 p1/b:2/4 p2/c:3/4", {"count": 4, "required": 0}, "p1/a=2 p1/b=2"),
]

SLICES: Final[list[Case]] = [
    ("a slice stands in one leaf group", "a:3/4 b:3/4", {"count": 4, "slices": [S(0, 2)]}, "a=2 b=2"),
    ("as many slices as fit in one", "a:5/8 b:3/8", {"count": 4, "slices": [S(0, 2)]}, "a=4"),
    ("enough nodes, but in pieces too small", "a:3/4 b:1/4", {"count": 4, "slices": [S(0, 2)]}, None),
    ("pieces too small are passed by", "a:1/4 b:2/4 c:1/4", {"count": 2, "slices": [S(0, 2)]}, "b=2"),
    ("slices of one are no slices", "a:1/4 b:1/4", {"count": 2, "slices": [S(0, 1)]}, "a=1 b=1"),
    ("one slice as large as the job", "a:3/4 b:4/4", {"count": 4, "slices": [S(0, 4)]}, "b=4"),
    ("fewest leaf groups, by slices that fit", "a:7/8 b:4/8 c:4/8", {"count": 8, "slices": [S(0, 4)]}, "b=4 c=4"),
    (
        "a slice within a pod may span its leaf groups",
        "p1/a:1 p1/b:1 p2/c:1",
        {"count": 2, "slices": [S(0, 2)]},
        "p1/a=1 p1/b=1",
    ),
    ("a slice does not span pods", "p1/a:1 p2/b:1", {"count": 2, "slices": [S(0, 2)]}, None),
    ("slices of a pod, a slice each", "p1/a:3 p2/b:2 p2/c:1", {"count": 4, "slices": [S(0, 2)]}, "p1/a=2 p2/b=2"),
    ("slices within slices", "p1/a:3 p1/b:3 p2/c:4", {"count": 4, "slices": [S(0, 4), S(1, 2)]}, "p2/c=4"),
    (
        "inner slices bound what a pod holds",
        "p1/a:3 p1/b:1 p2/c:2 p2/d:2",
        {"count": 4, "slices": [S(0, 4), S(1, 2)]},
        "p2/c=2 p2/d=2",
    ),
    ("inner slices that fit nowhere", "p1/a:1 p1/b:1 p1/c:1 p1/d:1", {"count": 4, "slices": [S(0, 4), S(1, 2)]}, None),
    (
        "slices and a required pod",
        "p1/a:3 p1/b:3 p2/c:2",
        {"count": 4, "required": 0, "slices": [S(1, 2)]},
        "p1/a=2 p1/b=2",
    ),
    (
        "a rack of NVLink domains: 16 of 18 in each",
        "a:17/18 b:16/18 c:15/18",
        {"count": 32, "slices": [S(0, 16)]},
        "a=16 b=16",
    ),
    ("nodes of 8 GPUs: slices of 2 GPUs a node", "n1:3 n2:3 n3:8", {"count": 4, "slices": [S(0, 2)]}, "n3=4"),
]

BALANCED: Final[list[Case]] = [
    ("halves", "a:4/4 b:4/4", {"count": 6, "balanced": True}, "a=3 b=3"),
    ("as even as the room allows", "a:4/8 b:2/8", {"count": 5, "balanced": True}, "a=3 b=2"),
    ("still the fewest domains", "a:6/8 b:3/8 c:3/8", {"count": 6, "balanced": True}, "a=6"),
    ("thirds", "a:4/8 b:4/8 c:4/8", {"count": 9, "balanced": True}, "a=3 b=3 c=3"),
    ("the odd one goes to the first", "a:4/8 b:4/8", {"count": 7, "balanced": True}, "a=4 b=3"),
    ("a pair that can be even before one that cannot", "a:6/8 b:2/8 c:5/8", {"count": 8, "balanced": True}, "a=4 c=4"),
    ("balance comes before whole ones", "a:4/4 b:3/4", {"count": 6, "balanced": True}, "a=3 b=3"),
    ("whole slices are shared evenly", "a:8/8 b:8/8", {"count": 12, "balanced": True, "slices": [S(0, 2)]}, "a=6 b=6"),
    ("as evenly as slices allow", "a:8/8 b:8/8", {"count": 10, "balanced": True, "slices": [S(0, 2)]}, "a=6 b=4"),
    ("pods too", "p1/a:6 p2/b:6", {"count": 8, "balanced": True}, "p1/a=4 p2/b=4"),
    (
        "but not with more leaf groups",
        "p1/a:4 p1/b:4 p2/c:4 p2/d:4",
        {"count": 12, "balanced": True},
        "p1/a=4 p1/b=4 p2/c=4",
    ),
]

HELD: Final[list[Case]] = [
    ("a spare where the survivors are", "a:1/4 b:4/4", {"count": 1, "held": "a"}, "a=1"),
    ("although another would be a better fit", "a:3/4 b:1/4", {"count": 1, "held": "a"}, "a=1"),
    ("else in their pod", "p1/a:0/4 p1/b:4/4 p2/c:1/4", {"count": 1, "held": "p1/a"}, "p1/b=1"),
    ("else the tightest broken one anywhere", "p1/a:0/4 p2/c:4/4 p2/d:1/4", {"count": 1, "held": "p1/a"}, "p2/d=1"),
    ("survivors in two leaf groups: either costs nothing", "a:1/4 b:1/4 c:4/4", {"count": 2, "held": "a b"}, "a=1 b=1"),
    ("of two held ones the fuller", "a:2/4 b:1/4", {"count": 1, "held": "a b"}, "b=1"),
    ("held ones first, then the fewest others", "a:1/4 b:2/4 c:3/4", {"count": 4, "held": "a"}, "a=1 c=3"),
    ("a held one is not needed where another must be used anyway", "a:1/4 b:3/4", {"count": 3, "held": "a"}, "b=3"),
    (
        "in the survivors' pod a broken one before a whole one",
        "p1/a:0/4 p1/b:4/4 p1/c:2/4",
        {"count": 1, "held": "p1/a"},
        "p1/c=1",
    ),
    ("two failed nodes back into one leaf group", "a:2/4 b:2/4", {"count": 2, "held": "b"}, "b=2"),
    ("a held leaf group that is no more known", "b:2/4 c:1/4", {"count": 1, "held": "a"}, "c=1"),
    ("another pod costs more than another leaf group", "p1/a:0 p1/b:1 p2/c:1", {"count": 1, "held": "p1/a"}, "p1/b=1"),
    (
        "held and required: the leaf group of the survivors",
        "a:1/4 b:1/4",
        {"count": 1, "held": "b", "required": 0},
        "b=1",
    ),
    ("safer places of the held one", "a:2/4~0.5 b:2/4", {"count": 1, "held": "a"}, "a=1"),
]

NO_ROOM: Final[list[Case]] = [
    ("nothing is free", "a:0/4 b:0/4", 1, None),
    ("one too many", "a:4/4 b:3/4", 8, None),
    ("far too many", "a:1/4", 1000, None),
    ("just enough", "a:4/4 b:3/4", 7, "a=4 b=3"),
    ("nothing asked is nothing taken", "a:4/4", 0, ""),
    ("a whole one of no nodes is no room", "a:0/0 b:1/4", 1, "b=1"),
    ("all pods together have too few", "p1/a:2 p2/b:2", 5, None),
    ("one leaf group is required and has one too few", "a:3/4 b:4/4", {"count": 5, "required": 0}, None),
]

GPUS: Final[list[Case]] = [
    ("part of a node: the fullest that holds it", "l/n1:8/8 l/n2:4/8 l/n3:6/8", 3, "l/n2=3"),
    ("a broken node before a whole one", "l/n1:8/8 l/n2:7/8", 2, "l/n2=2"),
    ("a whole node for a job of 8", "l/n1:7/8 l/n2:8/8", 8, "l/n2=8"),
    ("one node in spite of the leaf group", "l1/n1:4/8 l1/n2:4/8 l2/n3:8/8", 6, "l2/n3=6"),
    ("two nodes of a leaf group before two leaf groups", "l1/n1:8/8 l2/n2:8/8 l2/n3:8/8", 16, "l2/n2=8 l2/n3=8"),
    ("fewest nodes within a leaf group", "l/n1:4/8 l/n2:4/8 l/n3:8/8", 12, "l/n1=4 l/n3=8"),
    (
        "a leaf group with more nodes before two leaf groups",
        "l1/n1:8/8 l2/n2:4/8 l2/n3:4/8 l2/n4:2/8 l3/n5:2/8",
        10,
        "l2/n2=4 l2/n3=4 l2/n4=2",
    ),
    ("two leaf groups, and then the fewest nodes", "l1/n1:8/8 l2/n2:4/8 l2/n3:4/8 l3/n4:2/8", 10, "l1/n1=8 l3/n4=2"),
    ("a GPU's worth", "l/n1:1/8 l/n2:2/8", 1, "l/n1=1"),
    ("four in one NVLink domain", "l/n1:3/4 l/n2:4/4", {"count": 4, "required": 1}, "l/n2=4"),
    ("eight as two fours", "l/n1:5/8 l/n2:5/8", {"count": 8, "slices": [S(1, 4)]}, "l/n1=4 l/n2=4"),
]

NAMES: Final[list[Case]] = [
    ("the first leaf group by name", "c:4/4 a:4/4 b:4/4", 4, "a=4"),
    ("the first pod by name", "p3/a:4/4 p1/b:4/4 p2/c:4/4", 4, "p1/b=4"),
    ("the first leaf groups of the first pod", "p1/c:2/4 p1/b:2/4 p1/a:2/4", 4, "p1/a=2 p1/b=2"),
    ("capitals before small letters, as bytes sort", "a:2/4 B:2/4", 2, "B=2"),
    ("the rest is taken from the first too", "a:3/4 b:3/4 c:3/4", 4, "a=3 b=1"),
]

GROUPS: Final = {
    "one node": ONE_NODE, "one leaf group": ONE_LEAF_GROUP, "several": SEVERAL_LEAF_GROUPS, "pods": PODS, "mix": MIX,
    "risk": RISK, "ends": ENDS, "required": REQUIRED, "slices": SLICES, "balanced": BALANCED, "held": HELD,
    "no room": NO_ROOM, "gpus": GPUS, "names": NAMES,
}  # fmt: skip
CASES: Final = [pytest.param(*case, id=f"{group}: {case[0]}") for group, cases in GROUPS.items() for case in cases]


def request_of(asked: int | dict[str, Any]) -> Request:
    fields: dict[str, Any] = {"count": asked} if isinstance(asked, int) else dict(asked)
    if "held" in fields:
        fields["held"] = frozenset(tuple(path.split("/")) for path in fields["held"].split())
    return Request(**{**fields, "slices": tuple(fields.get("slices", ()))})


@pytest.mark.parametrize(("case", "layout", "asked", "taken"), CASES)
def test_placement(case: str, layout: str, asked: int | dict[str, Any], taken: str | None) -> None:
    known, request = [domain(text) for text in layout.split()], request_of(asked)
    choice = choose(known, request)
    said = None if choice is None else " ".join(f"{'/'.join(path)}={places}" for path, places in choice.takes)
    assert said == taken, case
    assert choose(known[::-1], request) == choice, "whatever the order of the domains"
    assert (fits(known, request) >= request.count) == (choice is not None)


def test_there_are_enough_sentences() -> None:
    assert len(CASES) >= 150
