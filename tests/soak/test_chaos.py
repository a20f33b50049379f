"""Two and a half simulated hours of faults on 1,032 GPUs of real Slurm, 60 times as fast: nothing is lost, stuck, left
behind or unexplained, and jobs train for more of their time than with plain Slurm and a periodic check."""

from __future__ import annotations

import pytest

from slurm_gpuaas.testbed.chaos import Result, campaign
from slurm_gpuaas.testbed.chaos_plan import Plan, make_plan
from slurm_gpuaas.testbed.profiles import PROFILES

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

SEED = 3
HOURS, INTENSITY, COMPRESS = 2.5, 600.0, 60.0


def plan(*, kill: bool) -> Plan:
    (cluster,) = PROFILES["haein"].clusters
    return make_plan(seed=SEED, hours=HOURS, nodes=cluster.nodes, leaf=cluster.group, intensity=INTENSITY, kill=kill)


def run(*, layer: bool, kill: bool = False) -> Result:
    result = campaign(plan(kill=kill), profile="haein", name="soak-chaos", layer=layer, compress=COMPRESS)
    print(f"seed {SEED}: {result}")
    return result


@pytest.fixture(scope="module")
def plain() -> Result:
    """The same campaign without the layer."""
    return run(layer=False)


def assert_sound(result: Result) -> None:
    assert result.lost_jobs == ()
    assert result.stuck_jobs == ()
    assert result.left_drained == ()
    assert result.drained_healthy == ()
    assert result.ledger_faults == ()
    assert result.incidents > 5, "a campaign without incidents shows nothing"


def test_the_plan_of_the_seed_has_every_kind_of_trouble() -> None:
    faults = plan(kill=True).faults
    assert [fault for fault in faults if not fault.signal.xids and fault.signal.sign is None and fault.repair], "silent"
    assert [fault for fault in faults if set(fault.signal.xids) & {13, 31, 43}], "application"
    assert [fault for fault in faults if fault.lines > 1], "storm"
    assert [fault for fault in faults if len(fault.nodes) > 2], "a leaf at once"


def test_nothing_is_lost_in_a_campaign_and_more_time_is_effective_than_without(plain: Result) -> None:
    result = run(layer=True)
    print(f"ETTR {result.ettr:.3f} with the layer, {plain.ettr:.3f} without: gain {result.ettr - plain.ettr:+.3f}")
    assert_sound(result)
    assert result.ettr > plain.ettr


def test_nothing_is_lost_while_daemons_are_killed_at_random(plain: Result) -> None:
    result = run(layer=True, kill=True)
    print(f"ETTR {result.ettr:.3f} with {result.kills} kills, {plain.ettr:.3f} without layer and kills")
    assert_sound(result)
    assert result.kills >= 5
