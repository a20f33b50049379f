"""The circuit breaker: what may leave service, what trips, and who lets it go on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

import pytest

from slurm_gpuaas.domain.errors import NotFound
from slurm_gpuaas.domain.incidents import IncidentState
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.health.breaker import BreakerLimits, Judged, judge
from tests.fakes import EPOCH
from tests.unit.health.life_site import NODE, LifeSite

MakeSite = Callable[..., LifeSite]
NODES = [NodeName(f"b200-{number:03d}") for number in range(1, 101)]
LEAVES = {node: f"leaf-{number // 10 + 1}" for number, node in enumerate(NODES)}


def judged(
    wanted: Sequence[NodeName],
    *,
    drained: Sequence[NodeName] = (),
    reset_at: Mapping[str, datetime] | None = None,
    tripped: Sequence[str] = (),
    limits: BreakerLimits | None = None,
) -> Judged:
    return judge(
        wanted,
        drained=dict.fromkeys(drained, EPOCH),
        reset_at=reset_at or {},
        tripped=tripped,
        nodes=len(NODES),
        leaves=LEAVES,
        limits=limits or BreakerLimits(drains=16, share=10, per_leaf=4),
    )


@pytest.mark.parametrize(
    ("name", "wanted", "drained", "allowed", "trips"),
    [
        ("few", NODES[:3], [], 3, []),
        ("a leaf group", NODES[:6], [], 4, ["leaf leaf-1"]),
        ("one more of a leaf group", NODES[4:5], NODES[:4], 0, ["leaf leaf-1"]),
        ("a share of all", NODES[::9], [], 10, ["cluster"]),
        ("the share is used up", NODES[-1:], NODES[:100:10], 0, ["cluster"]),
        ("one that was drained before", NODES[:1], NODES[:4], 1, []),
    ],
)
def test_so_many_may_leave_service(
    name: str, wanted: list[NodeName], drained: list[NodeName], allowed: int, trips: list[str]
) -> None:
    found = judged(wanted, drained=drained)
    assert (len(found.allowed), sorted(found.trips)) == (allowed, trips), name


def test_a_tripped_leaf_group_stops_itself_alone_and_a_tripped_cluster_everything() -> None:
    assert judged([NODES[0], NODES[50]], tripped=["leaf leaf-1"]).allowed == (NODES[50],)
    assert judged([NODES[0], NODES[50]], tripped=["cluster"]).allowed == ()


def test_the_count_bounds_large_clusters_and_one_node_may_always_go() -> None:
    limits = BreakerLimits(drains=16, share=10, per_leaf=100)
    assert limits.most(1_642) == 16
    assert limits.most(129) == 12
    assert limits.most(4) == 1


def test_drains_before_a_reset_count_no_more() -> None:
    later = {"cluster": EPOCH + timedelta(minutes=1)}
    limits = BreakerLimits(drains=4, share=100, per_leaf=100)
    assert judged(NODES[4:6], drained=NODES[:4], limits=limits).allowed == ()
    assert judged(NODES[4:6], drained=NODES[:4], limits=limits, reset_at=later).allowed == tuple(NODES[4:6])


def test_a_trip_says_why_with_numbers() -> None:
    (why,) = judged(NODES[::9]).trips.values()
    assert why == "10 nodes left service within 10 min (limit 10, 10 % of 100); b200-091 is next"


def test_a_trip_outlives_a_restart_and_stops_repair_and_return(make_site: MakeSite) -> None:
    site = make_site(nodes=3, limits=BreakerLimits(drains=1, share=100))
    site.fault()
    site.until(IncidentState.REPAIRING)
    site.fault(node=NodeName("b200-002"), sequence=2)
    site.tick()
    site.restart()
    site.tick(5)
    assert site.incident.state is IncidentState.REPAIRING
    assert not site.slurm.node_by_name[NodeName("b200-002")].draining
    site.clock.forward(timedelta(hours=1))
    site.breaker.reset("cluster", actor="kim", reason="looked at it")
    site.until(IncidentState.PROBATION)
    trips = site.store.breaker_trips()
    assert [(trip.scope, trip.reset_by, trip.reset_reason) for trip in trips] == [("cluster", "kim", "looked at it")]
    assert {"breaker.trip", "breaker.reset"} <= set(site.actions())


def test_what_is_not_tripped_cannot_be_reset(make_site: MakeSite) -> None:
    with pytest.raises(NotFound, match="of leaf x is not tripped"):
        make_site().breaker.reset("leaf x", actor="kim", reason="why not")


def test_without_a_fabric_the_cluster_alone_bounds(make_site: MakeSite) -> None:
    site = make_site(nodes=8, limits=BreakerLimits(drains=6, share=100, per_leaf=1))
    for number in range(1, 6):
        site.fault(node=NodeName(f"b200-{number:03d}"), sequence=number)
    site.health.tick()
    assert sum(node.draining for node in site.slurm.node_by_name.values()) == 5
    assert site.slurm.node_by_name[NODE].draining
