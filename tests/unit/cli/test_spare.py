"""`gpuaas spare list` as people read it."""

from __future__ import annotations

import json

from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.names import NodeName, UserName
from slurm_gpuaas.domain.recoveries import Recovery, RecoveryState
from tests.unit.cli.conftest import Run
from tests.unit.daemon.site import RESEARCHER, Site


def test_without_spares_it_says_where_to_ask_for_some(run: Run, site: Site) -> None:
    site.tick("spares")
    printed = run("spare", "list")
    assert printed.code == 0
    assert "health.spares.nodes" in printed.out
    assert "No job of several nodes lost some." in printed.out


def test_jobs_that_lost_nodes_are_shown_with_what_they_got(run: Run, site: Site) -> None:
    now = site.clock.now()
    done = Recovery(
        job_id=JobId(7),
        restarts=0,
        user=UserName("alice"),
        incident="i1",
        lost=(NodeName("b200-002"),),
        kept=(NodeName("b200-001"),),
        spares=(NodeName("b200-003"),),
        state=RecoveryState.DONE,
        begun_at=now,
        ended_at=now,
        why="It keeps 1 node.",
    )
    site.store.put_recovery(done)
    found = json.loads(run("spare", "list", "--json").out)
    (shown,) = found["recoveries"]
    assert (shown["job"], shown["state"], shown["spares"]) == (7, "done", ["b200-003"])
    assert "b200-003" in run("spare", "list").out


def test_researchers_may_not_read_them(run: Run) -> None:
    assert run("spare", "list", uid=RESEARCHER).code != 0
