"""Who gives way: furthest over its share, youngest, whole jobs, as little lost as possible, and nobody for ever."""

from __future__ import annotations

import pytest

from tests.unit.quota.specification.notation import Row

VICTIMS = [
    Row(rule="the tenant furthest over its fair share first", capacity=24, tenants="o:8 a:0 b:0",
        running="x1 a 4 b; x2 a 4 b; x3 a 4 b; x4 a 4 b; y1 b 4 b; y2 b 4 b", pending="j o 4", decide="j=g-x1"),
    Row(rule="over is use over fair share, not GPUs", capacity=32, tenants="o:8 a:0*7 b:0*1",
        running="x1 a 12 b; x2 a 12 b; y1 b 4 b; y2 b 4 b", pending="j o 4", decide="j=g-y1"),
    Row(rule="the youngest of its jobs first", capacity=16, tenants="o:8 a:0",
        running="old a 8 b 900; young a 8 b 5", pending="j o 8", decide="j=g-young"),
    Row(rule="then the next furthest over", capacity=24, tenants="o:16 a:0 b:0",
        running="x1 a 4 b 1; x2 a 4 b 2; x3 a 4 b 3; x4 a 4 b 4; y1 b 4 b 1; y2 b 4 b 2", pending="j o 16",
        decide="j=g-x1,x2,x3,y1"),
    Row(rule="whole jobs", capacity=16, tenants="o:8 a:8", running="x a 8 g; y a 8 b", pending="j o 1", decide="j=g-y"),
    Row(rule="no more than needed", capacity=32, tenants="o:8 a:0",
        running="x1 a 8 b 1; x2 a 8 b 2; x3 a 8 b 3; x4 a 8 b 4", pending="j o 8", decide="j=g-x1"),
    Row(rule="what is free counts first", capacity=16, tenants="o:8 a:0", running="x a 4 b; y a 4 b 9",
        pending="j o 8", decide="j=g"),
    Row(rule="and only the rest is taken", capacity=16, tenants="o:8 a:0", running="x a 4 b 1; y a 4 b 9; z a 4 b 8",
        pending="j o 8", decide="j=g-x"),
    Row(rule="a victim that turns out unneeded is given back", capacity=12, tenants="o:8 a:0",
        running="small a 4 b 1; large a 8 b 2", pending="j o 8", decide="j=g-large"),
    Row(rule="the one with the most GPU-hours to lose is given back first", capacity=20, tenants="o:10 a:0",
        running="x a 6 b 10; y a 6 b 20; z a 8 b 5", pending="j o 10", decide="j=g-x,z"),
    Row(rule="48 GPUs do not evict hundreds while small jobs do (KAI pull request 1565)", capacity=304,
        tenants="o:48 a:0 b:0",
        running="huge a 256 b 1; s1 b 8 b 1; s2 b 8 b 2; s3 b 8 b 3; s4 b 8 b 4; s5 b 8 b 5; s6 b 8 b 6",
        pending="j o 48", decide="j=g-s1,s2,s3,s4,s5,s6"),
    Row(rule="a larger job goes when nothing smaller does", capacity=256, tenants="o:48 a:0", running="huge a 256 b",
        pending="j o 48", decide="j=g-huge"),
    Row(rule="the smallest of the larger ones", capacity=384, tenants="o:8 a:0 b:0",
        running="h1 a 256 b; h2 b 128 b", pending="j o 8", decide="j=g-h2"),
    Row(rule="guaranteed jobs never", capacity=16, tenants="o:8 a:8", running="x a 8 g; y o 8 b", pending="j o 8",
        decide="j=g-y"),
    Row(rule="nobody within its guarantee, whatever class its jobs have", capacity=24, tenants="o:8 a:8 b:0",
        running="x a 8 b 1; y b 16 b 900", pending="j o 8", decide="j=g-y"),
    Row(rule="jobs that must not be preempted never", capacity=16, tenants="o:8 a:0", running="x a 8 b ! 1; y a 8 b 9",
        pending="j o 8", decide="j=g-y"),
    Row(rule="nobody can make room: it waits", capacity=16, tenants="o:8 a:0", running="x a 8 b !; y a 8 b !",
        pending="j o 8", decide="j=wait"),
    Row(rule="each waiting job is decided on what the ones before left", capacity=16, tenants="o:8 p:8 a:0",
        running="x a 8 b 1; y a 8 b 2", pending="j o 8; k p 8", decide="j=g-x k=g-y"),
    Row(rule="room that one made is there for the next", capacity=16, tenants="o:4 p:4 a:0", running="x a 16 b",
        pending="j o 4; k p 4", decide="j=g-x k=g"),
    Row(rule="own burst gives way to the own guarantee", capacity=16, tenants="o:8 p:8", running="x o 16 b",
        pending="j o 8", decide="j=g-x"),
]  # fmt: skip

MINIMUM_RUN = [
    Row(rule="a young job keeps its GPUs", capacity=16, tenants="o:8 a:0", min_run_s=60, running="x a 16 b 59",
        pending="j o 8", decide="j=wait"),
    Row(rule="old enough it gives way", capacity=16, tenants="o:8 a:0", min_run_s=60, running="x a 16 b 60",
        pending="j o 8", decide="j=g-x"),
    Row(rule="the youngest that is old enough", capacity=24, tenants="o:8 a:0", min_run_s=60,
        running="x a 8 b 59; y a 8 b 61; z a 8 b 900", pending="j o 8", decide="j=g-y"),
    Row(rule="of the next tenant when the furthest over has only young ones", capacity=24, tenants="o:8 a:0 b:0",
        min_run_s=60, running="x a 16 b 1; y b 8 b 900", pending="j o 8", decide="j=g-y"),
]  # fmt: skip

BETWEEN_BORROWERS = [
    Row(rule="one above its fair share gives back to one below", capacity=16, tenants="a:0 b:0",
        running="x1 a 4 b 1; x2 a 4 b 2; x3 a 4 b 3; x4 a 4 b 4", pending="j b 4", decide="j=b-x1"),
    Row(rule="up to the fair share (KAI #1934), not only up to what is guaranteed", capacity=16, tenants="a:0 b:4",
        running="x1 a 4 b 1; x2 a 4 b 2; x3 a 4 b 3; y b 4 g", pending="j b 4", decide="j=b-x1"),
    Row(rule="not beyond it", capacity=16, tenants="a:0 b:0",
        running="x1 a 4 b 1; x2 a 4 b 2; y1 b 4 b; y2 b 4 b", pending="j b 4", decide="j=wait"),
    Row(rule="not when the imbalance would turn round: 0:8 never becomes 4:4 and back (Kueue #7101)", capacity=8,
        tenants="a:0 b:0", running="x a 8 b", pending="j b 4", decide="j=wait"),
    Row(rule="nor between equals (Kueue #3779)", capacity=8, tenants="a:0 b:0", running="x a 4 b; y b 4 b",
        pending="j a 4; k b 4", decide="j=wait k=wait"),
    Row(rule="free GPUs are taken first", capacity=16, tenants="a:0 b:0", running="x1 a 4 b; x2 a 4 b; x3 a 4 b",
        pending="j b 4", decide="j=b"),
    Row(rule="free GPUs may be used beyond the fair share", capacity=16, tenants="a:0 b:0", running="x a 4 b",
        pending="j b 12; k a 8", decide="j=b k=wait"),
    Row(rule="a young borrower keeps its GPUs", capacity=16, tenants="a:0 b:0", min_run_s=60,
        running="x1 a 8 b 5; x2 a 8 b 6", pending="j b 8", decide="j=wait"),
    Row(rule="by weight", capacity=16, tenants="a:0*1 b:0*3",
        running="x1 a 4 b 1; x2 a 4 b 2; x3 a 4 b 3; x4 a 4 b 4", pending="j b 12", decide="j=b-x1,x2,x3"),
    Row(rule="the higher priority from the lower", capacity=16, tenants="a:0 b:0^1",
        running="x1 a 8 b 1; x2 a 8 b 2", pending="j b 16", decide="j=b-x1,x2"),
    Row(rule="never the lower from the higher", capacity=16, tenants="a:0^1 b:0", running="x1 a 8 b; x2 a 8 b",
        pending="j b 8", decide="j=wait"),
    Row(rule="the furthest over gives, the other keeps", capacity=24, tenants="a:0 b:0 c:0",
        running="x1 a 4 b 1; x2 a 4 b 2; x3 a 4 b 3; x4 a 4 b 4; y1 b 4 b; y2 b 4 b", pending="j c 8",
        decide="j=b-x1,x2"),
    Row(rule="a borrower's guaranteed jobs stay", capacity=16, tenants="a:8 b:0",
        running="x a 8 g; y1 a 4 b 1; y2 a 4 b 2",
        pending="j b 4", decide="j=b-y1"),
    Row(rule="one that must not be preempted never borrows by taking", capacity=16, tenants="a:0 b:0",
        running="x1 a 8 b; x2 a 8 b", pending="j b 8 !", decide="j=never"),
    Row(rule="within a family as between strangers", capacity=16, tenants="o:0 a<o:0 b<o:0",
        running="x1 a 4 b 1; x2 a 4 b 2; x3 a 4 b 3; x4 a 4 b 4", pending="j b 4", decide="j=b-x1"),
    Row(rule="a family below its share takes from one above, though its member would pass a stranger's use",
        capacity=16,
        tenants="o:0 p:0 a<o:0 b<o:0 c<p:0", running="x1 a 4 b 1; x2 b 4 b 2; x3 a 4 b 3; x4 b 4 b 4", pending="j c 8",
        decide="j=b-x1,x2"),
]  # fmt: skip

REGRESSIONS = [
    Row(rule="Kueue #1561: an absent borrow limit is no bound, not 0", capacity=16, tenants="a:0", pending="j a 16",
        decide="j=b"),
    Row(rule="Kueue #1561: an absent lend limit lends all, not 0", capacity=16, tenants="a:8 b:0", pending="j b 16",
        decide="j=b"),
    Row(rule="Kueue #6617: a share rounded down to 0 stops no owner", capacity=7, tenants="a:1 b:1 c:1 d:1 e:1 f:1 g:1",
        running="x a 7 b", pending="j g 1", decide="j=g-x"),
    Row(rule="YuniKorn: parts of 98 of 100 do not lose the odd ones", capacity=100, tenants="a:33 b:33 c:34",
        running="x a 100 b", pending="j b 33; k c 34", decide="j=g-x k=g"),
    Row(rule="Volcano: an owner above its share does not reclaim", capacity=16, tenants="a:4 b:4",
        running="x a 4 g; y a 4 b; z b 4 g; w b 4 b", pending="j a 4", decide="j=wait"),
]  # fmt: skip

ROWS = [*VICTIMS, *MINIMUM_RUN, *BETWEEN_BORROWERS, *REGRESSIONS]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.rule)
def test_reclaim(row: Row) -> None:
    row.check()
