"""Replaying a table of minutes: what lending recovers, what it costs, and what owners notice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from slurm_gpuaas.cli.quota import group
from slurm_gpuaas.quota.replay import MinuteTable, Recovery, replay
from slurm_gpuaas.quota.tree import TenantName

OWNER, BORROWER = TenantName("owner"), TenantName("borrower")


def table(*minutes: tuple[int, int]) -> MinuteTable:
    """Minutes of (idle GPUs of the owner's 8, GPUs that the borrower waits for; its own 8 are busy)."""
    return MinuteTable(
        tenants=(OWNER, BORROWER),
        running=np.array([(8 - idle, 8) for idle, _ in minutes]),
        pending=np.array([(0, wants) for _, wants in minutes]),
        idle=np.array([(idle, 0) for idle, _ in minutes]),
    )


def gpu_minutes(recovery: Recovery) -> tuple[int, int, int]:
    """Bound, recovered, evicted."""
    return round(recovery.bound * 60), round(recovery.recovered * 60), round(recovery.evicted * 60)


@pytest.mark.parametrize(
    ("why", "minutes", "interval", "expected"),
    [
        ("the first minute knows nothing yet", [(8, 4)] * 4, 1, (16, 12, 0)),
        ("the loan waits for the next decision", [(0, 0), (8, 4), (8, 4), (8, 4)], 3, (12, 4, 0)),
        ("no loan where nobody waits", [(8, 0)] * 4, 1, (0, 0, 0)),
        ("no loan where nothing is idle", [(0, 8)] * 4, 1, (0, 0, 0)),
        ("the owner comes back: taken after 2 minutes", [(8, 8), (8, 8), (8, 8), (0, 8)], 1, (24, 16, 16)),
        ("the borrower is done: nothing is evicted", [(8, 8), (8, 8), (8, 8), (8, 0)], 1, (24, 16, 0)),
    ],
)
def test_lending(why: str, minutes: list[tuple[int, int]], interval: int, expected: tuple[int, int, int]) -> None:
    assert gpu_minutes(replay(table(*minutes), interval_min=interval, reclaim_s=60)) == expected, why


def test_an_owner_waits_the_reclaim_time_for_each_gpu_that_it_asks_back() -> None:
    found = replay(table((8, 8), (8, 8), (3, 8)), interval_min=1, reclaim_s=30)
    assert found.reclaimed == 5
    assert found.owner_wait == pytest.approx(5 * 30 / 3600)


def test_idle_gpus_of_the_waiting_tenant_itself_are_no_matter_of_lending() -> None:
    found = replay(
        MinuteTable(
            tenants=(OWNER,), running=np.array([[4]] * 3), pending=np.array([[4]] * 3), idle=np.array([[4]] * 3)
        ),
        interval_min=1,
        reclaim_s=60,
    )
    assert (found.bound, found.recovered, found.lending_recovered_share) == (0, 0, 1)
    assert found.own_idle == pytest.approx(12 / 60)


@given(
    minutes=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 20)), min_size=1, max_size=30),
    interval=st.integers(1, 10),
)
def test_never_more_than_the_bound(minutes: list[tuple[int, int]], interval: int) -> None:
    found = replay(table(*minutes), interval_min=interval, reclaim_s=60)
    assert 0 <= found.recovered <= found.bound <= found.pending


HEADER = "vc,time,running_gpu_num,pending_gpu_num,idle_gpu_num\n"


def test_the_command_reads_a_trace(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    rows = (f"a,{minute},0,0,8\nb,{minute},8,4,0\n" for minute in range(10))
    trace.write_text(HEADER + "".join(rows))
    result = CliRunner().invoke(group, ["replay", str(trace), "--interval", "1", "--json"])
    assert json.loads(result.stdout)["lending_recovered_share"] == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,b\n", "its columns are a, b."),
        ("", "its columns are none."),
        (HEADER, "no rows"),
        (HEADER + "a,0,x,0,0\n", "Line 2"),
        (HEADER + "a,0,-1,0,0\n", "fewer than 0"),
        (HEADER + "a,0,1,0,0\nb,1,1,0,0\n", "same minutes"),
    ],
)
def test_what_is_no_trace_is_refused_in_a_sentence(tmp_path: Path, text: str, says: str) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(text)
    result = CliRunner().invoke(group, ["replay", str(trace)])
    assert says in str(result.exception)
