"""Verification: a node is tested while nobody else can get it, and what its tests say counts."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from importlib.resources import files
from pathlib import Path

import pytest

from slurm_gpuaas.domain.errors import Unavailable
from slurm_gpuaas.domain.incidents import IncidentState
from slurm_gpuaas.domain.jobs import JobId, JobState
from slurm_gpuaas.slurm.protocols import SlurmRefused
from tests.fakes import make_job
from tests.unit.health.life_site import NODE, OTHER, LifeSite

MakeSite = Callable[..., LifeSite]
VERIFYING, DRAINED, PROBATION = IncidentState.VERIFYING, IncidentState.DRAINED, IncidentState.PROBATION


@pytest.fixture
def site(make_site: MakeSite) -> LifeSite:
    """A node that a person says is mended: all tests are asked for."""
    site = make_site(nodes=3, remedies=())
    site.fault()
    site.until(DRAINED)
    site.life.verify(site.incident.id, actor="kim", reason="GPU replaced")
    return site


def test_the_node_is_reserved_before_it_is_resumed_and_never_free_in_between(site: LifeSite) -> None:
    site.slurm.calls.clear()
    free: list[str] = []
    site.on_point = lambda name: free.append(name) if site.in_service() else None
    site.life.tick()
    writes = [call for call in site.slurm.calls if call in {"put_reservation", "resume"}]
    assert writes == ["put_reservation", "resume"]
    assert free == []
    (reservation,) = site.slurm.reservation_by_name.values()
    assert reservation.users == ("gpuaas",)
    assert reservation.flags == {"MAINT"}
    assert reservation.duration == timedelta(days=365)


def test_a_pair_test_takes_an_idle_node_and_gives_it_back(site: LifeSite) -> None:
    site.run_job(7, OTHER)
    site.life.tick()
    (reservation,) = site.slurm.reservation_by_name.values()
    assert reservation.nodes == "b200-[001,003]"
    assert [name.rpartition("-")[2] for name in site.submitted] == ["quick", "pair"]
    site.until(PROBATION)
    assert site.slurm.reservation_by_name == {}
    assert not site.slurm.node_by_name[NODE].out_by_hand


def test_without_an_idle_node_the_pair_is_left_out_and_that_is_said(site: LifeSite) -> None:
    site.run_job(7, OTHER, "b200-003")
    site.until(PROBATION)
    verification = site.incident.verification
    assert verification is not None
    assert verification.detail == "quick passed, pair left out, no idle node beside it"


def test_a_test_that_cannot_run_here_is_skipped_and_nothing_passes_on_skips_alone(site: LifeSite) -> None:
    site.exit_codes = {"pair": 77}
    site.until(PROBATION)
    assert site.incident.verification is not None
    assert site.incident.verification.detail == "quick passed, pair skipped itself"


def test_skips_alone_pass_nothing(site: LifeSite) -> None:
    site.exit_codes = {"pair": 77, "quick": 77}
    site.until(DRAINED)
    assert not site.in_service()


def test_a_failed_test_takes_the_node_out_before_its_reservation_goes(site: LifeSite) -> None:
    site.exit_codes = {"quick": 2}
    site.life.tick()
    site.schedule()
    free: list[str] = []
    site.on_point = lambda name: free.append(name) if site.in_service() else None
    site.life.tick()
    assert site.incident.state is DRAINED
    assert free == []
    assert site.reason().startswith(f"gpuaas:{site.incident.id}:")


def test_a_job_of_the_same_name_by_somebody_else_counts_for_nothing(site: LifeSite) -> None:
    verification = site.incident.verification
    assert verification is not None
    name = f"gpuaas-verify-{site.incident.id}-{int(verification.begun_at.timestamp())}-quick"
    forged = make_job(5, name=name, user="mallory", state=JobState.COMPLETED)
    site.slurm.job_by_id[JobId(5)] = forged
    site.exit_codes = {"quick": 1}
    site.until(DRAINED)
    assert len(site.submitted) == 2


def test_a_test_whose_job_slurmctld_has_forgotten_is_not_run_again(site: LifeSite) -> None:
    """It forgets ended jobs after five minutes (MinJobAge); others run longer."""
    site.life.tick()
    quick = next(job for job in site.slurm.job_by_id.values() if job.name.endswith("-quick"))
    site.slurm.job_by_id[quick.id] = replace(quick, state=JobState.COMPLETED)
    site.life.tick()
    del site.slurm.job_by_id[quick.id]
    site.until(PROBATION)
    assert [name.rpartition("-")[2] for name in site.submitted] == ["quick", "pair"]
    assert site.incident.verification is not None
    assert site.incident.verification.detail == "quick passed, pair passed"


def test_a_test_that_cannot_be_read_stops_its_node_alone(site: LifeSite) -> None:
    site.tests["quick"].script.unlink()
    with pytest.raises(Unavailable, match="cannot be read"):
        site.life.tick()
    site.tests["quick"].script.write_text("#!/bin/bash\n")
    site.until(PROBATION)


def test_tests_that_never_start_have_failed_at_the_limit(site: LifeSite) -> None:
    site.life.tick()
    site.clock.forward(timedelta(hours=1))
    site.life.tick()
    assert site.incident.state is DRAINED
    assert site.incident.verification is not None
    assert site.incident.verification.detail == "not done within 60 min"
    assert {site.slurm.job_by_id[JobId(1000)].state, site.slurm.job_by_id[JobId(1001)].state} == {JobState.CANCELLED}


def test_a_node_that_goes_down_under_its_test_fails_it(site: LifeSite) -> None:
    site.life.tick()
    for job in (JobId(1000), JobId(1001)):
        site.slurm.job_by_id[job] = replace(site.slurm.job_by_id[job], state=JobState.NODE_FAIL)
    site.life.tick()
    assert site.incident.state is DRAINED


def test_a_reservation_that_slurm_refuses_leaves_the_node_drained(site: LifeSite) -> None:
    def refuse(method: str) -> None:
        if method == "put_reservation":
            raise SlurmRefused("Requested nodes are busy")

    site.slurm.before = refuse
    site.life.tick()
    assert site.slurm.node_by_name[NODE].draining
    assert site.submitted == []
    site.slurm.before = lambda method: None
    site.until(PROBATION)


def test_a_reservation_left_by_a_crash_is_swept_at_the_next_start(site: LifeSite) -> None:
    site.life.tick()
    site.ledger.change(site.incident, "incident.close", {}, state=IncidentState.CLOSED, cause="closed, then cut off")
    assert not site.in_service()
    site.restart()
    site.life.tick()
    assert site.in_service()


@pytest.mark.parametrize(
    ("says", "status", "ends"),
    [("ecc OK - fine", 0, 0), ("ecc WARNING - some", 1, 0), ("", 1, 1), ("ecc CRITICAL - many", 2, 2), ("", 3, 3)],
    ids=["fine", "warning", "a crash", "critical", "unknown"],
)
def test_no_node_passes_the_quick_test_by_a_check_that_crashed(
    tmp_path: Path, says: str, status: int, ends: int
) -> None:
    agent = tmp_path / "gpuaas-agent"
    agent.write_text(f"#!/bin/sh\necho '{says}'\nexit {status}\n")
    agent.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURMD_NODENAME": "n1"}
    script = files("slurm_gpuaas.health").joinpath("data/verify/quick.sh")
    assert subprocess.run(["bash", str(script)], env=environment, capture_output=True, check=False).returncode == ends
