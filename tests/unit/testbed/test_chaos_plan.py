"""The plan of a fault-injection campaign: rates, mix and determinism."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import pytest

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.incidents import Drain
from slurm_gpuaas.health.assess import assess_xid
from slurm_gpuaas.testbed.chaos_plan import (
    CAUSES,
    HOUR,
    LEMON_SHARE,
    PUBLISHED_RATE,
    STORM_SHARE,
    VICTIMS,
    Harm,
    Plan,
    make_plan,
)

NODES, LEAF = 129, 32
APPLICATION = {13, 31, 43, 45}


def plan_of(
    seed: int = 1, *, hours: float = 2.5, intensity: float = 600, kill: bool = False, nodes: int = NODES
) -> Plan:
    return make_plan(seed=seed, hours=hours, nodes=nodes, leaf=LEAF, intensity=intensity, kill=kill)


LARGE = plan_of(hours=1_000)
"""About 12,000 faults: enough to hold against the rates."""


def within(count: int, expected: float) -> bool:
    """Five standard deviations of a Poisson count."""
    return abs(count - expected) <= 5 * math.sqrt(expected)


def test_the_same_seed_is_the_same_campaign_and_another_is_not() -> None:
    assert plan_of(7, kill=True) == plan_of(7, kill=True)
    assert plan_of(7).faults != plan_of(8).faults
    assert plan_of(7).jobs != plan_of(8).jobs


def test_killing_services_changes_neither_faults_nor_jobs() -> None:
    quiet, killing = plan_of(7), plan_of(7, kill=True)
    assert (quiet.faults, quiet.jobs) == (killing.faults, killing.jobs)
    assert not quiet.kills
    assert {kill.service for kill in killing.kills} == set(VICTIMS)


def test_all_causes_together_are_the_rate_of_llama_3() -> None:
    assert pytest.approx(3.79, abs=0.02) == PUBLISHED_RATE


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: str(cause.name))
def test_each_cause_comes_as_often_as_published(cause: object) -> None:
    node_days = NODES * LARGE.hours / 24
    expected = next(c.rate for c in CAUSES if c is cause) * node_days / 1_000 * LARGE.intensity
    assert within(sum(fault.cause is cause for fault in LARGE.faults), expected)


def test_the_worst_nodes_have_about_half_of_the_hardware_faults() -> None:
    hardware = [fault for fault in LARGE.faults if fault.cause.lemons]
    on_lemons = sum(fault.nodes[0] in LARGE.lemons for fault in hardware)
    by_chance = (1 - LEMON_SHARE) * len(LARGE.lemons) / NODES
    assert within(on_lemons, len(hardware) * (LEMON_SHARE + by_chance))
    assert len(LARGE.lemons) == 7
    assert {node for node, _ in Counter(f.nodes[0] for f in hardware).most_common(7)} == set(LARGE.lemons)


def test_storms_are_a_part_of_the_xids() -> None:
    told = [fault for fault in LARGE.faults if fault.signal.xids]
    assert within(sum(fault.lines > 1 for fault in told), len(told) * STORM_SHARE)
    assert not [fault for fault in LARGE.faults if fault.lines > 1 and not fault.signal.xids]


def test_network_faults_meet_several_nodes_of_one_leaf() -> None:
    network = [fault for fault in LARGE.faults if fault.cause.network]
    assert network
    for fault in network:
        assert 2 <= len(set(fault.nodes)) <= 8
        assert len({min(node, NODES - 2) // LEAF for node in fault.nodes}) == 1 or fault.nodes == (127, 128)


def test_an_application_failure_never_has_an_xid_that_drains() -> None:
    for cause in CAUSES:
        for signal in cause.signals:
            if set(signal.xids) and set(signal.xids) <= APPLICATION:
                assert signal.harm is Harm.JOB_CRASH
                assert {assess_xid(xid).drain for xid in signal.xids} == {Drain.NO}


def test_some_faults_have_no_signal_at_all() -> None:
    assert [fault for fault in LARGE.faults if not fault.signal.xids and fault.signal.sign is None]


def test_deeds_are_in_order_and_within_the_hours() -> None:
    plan = plan_of(3, kill=True)
    for moments in ([fault.at for fault in plan.faults], [kill.at for kill in plan.kills]):
        assert all(before <= after for before, after in pairwise(moments))
        assert all(0 <= at < plan.hours * HOUR for at in moments)
    assert all(0 <= work.at < plan.hours * HOUR for work in plan.jobs)


def test_jobs_fill_the_fleet_and_each_fits_into_a_quarter_of_it() -> None:
    for nodes in (8, NODES):
        plan = plan_of(3, nodes=nodes)
        needed = sum(work.nodes * work.seconds for work in plan.jobs)
        assert 0.5 < needed / (nodes * plan.hours * HOUR) < 0.8
        assert max(work.nodes for work in plan.jobs) <= nodes / 4


@pytest.mark.parametrize(("hours", "nodes", "intensity"), [(0, 8, 1), (1, 1, 1), (1, 8, 0)])
def test_no_campaign_without_time_nodes_or_faults(hours: float, nodes: int, intensity: float) -> None:
    with pytest.raises(InvalidInput, match="none"):
        make_plan(seed=1, hours=hours, nodes=nodes, leaf=4, intensity=intensity)
