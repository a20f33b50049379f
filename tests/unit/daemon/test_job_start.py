"""Who may ask whether a start is called off."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from slurm_gpuaas.daemon.identity import Identity
from slurm_gpuaas.domain.jobs import JobId
from tests.fakes import make_job
from tests.unit.daemon.site import ADMINISTRATOR, RESEARCHER, Site
from tests.unit.daemon.test_capacity import with_fabric


def starting(site: Site) -> Site:
    """A job on both leaf groups; one that ends in time could make room for it in one."""
    with_fabric(site)
    controller = site.controller
    controller.job_by_id[JobId(1)] = make_job(1, partition="own", time_limit=timedelta(minutes=5))
    controller.start(1, ["b200-001"])
    controller.job_by_id[JobId(2)] = make_job(2, partition="own", node_count=2)
    controller.start(2, ["b200-002", "b200-003"])
    return site


def test_only_slurmuser_and_administrators_may_ask(site: Site) -> None:
    starting(site)
    answer = site.http(RESEARCHER).post("/api/v1/jobs/2/start")
    assert answer.status_code == 403
    assert "call off the start of a job" in answer.json()["detail"]
    answer = site.http(ADMINISTRATOR).post("/api/v1/jobs/2/start")
    assert (answer.status_code, answer.json()) == (200, {"call_off": False})
    operations = replace(site.runtime.operations, slurm_user="nobody")
    assert not operations.job_start(Identity(RESEARCHER, "nobody", administrator=False), 2).call_off


def test_a_job_that_is_not_there_is_not_called_off(site: Site) -> None:
    assert site.http(ADMINISTRATOR).post("/api/v1/jobs/77/start").json() == {"call_off": False}
