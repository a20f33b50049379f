"""Capacity as the API, the samples and the metrics tell it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from slurm_gpuaas.domain.jobs import JobId
from tests.fakes import make_job
from tests.unit.daemon.site import ADMINISTRATOR, RESEARCHER, Site
from tests.unit.daemon.test_app import applied


def with_fabric(site: Site) -> Site:
    site.describe_fabric()
    return applied(site)


def running(site: Site, job: int, *nodes: str, gpus: int | None = None, **others: Any) -> None:
    count = len(nodes)
    site.controller.job_by_id[JobId(job)] = make_job(job, partition="own", node_count=count, gpus=gpus, **others)
    site.controller.start(job, nodes)
    site.clock.forward(timedelta(seconds=2))


def asked(site: Site, uid: int = RESEARCHER, **query: str) -> Any:
    return site.http(uid).get("/api/v1/capacity", params=query).json()


def test_everybody_sees_the_largest_job_per_level_and_no_job_of_others(site: Site) -> None:
    running(with_fabric(site), 7, "b200-001", gpus=3)
    (own,) = asked(site)
    assert [(one["level"], one["domain"], one["nodes"], one["gpus"]) for one in own["largest"]] == [
        ("leaf-group", "root/leaf-02", 2, 16),
        ("pod", "root", 3, 24),
        ("fabric", "", 3, 24),
    ]
    assert (own["free_gpus"], own["gpus_on_nodes"]) == (29, [{"size": 5, "count": 1}, {"size": 8, "count": 3}])
    assert own["history"] == []
    assert "alice" not in str(own)


def test_nodes_given_to_a_waiting_job_are_nobody_elses(site: Site) -> None:
    with_fabric(site)
    site.controller.job_by_id[JobId(7)] = make_job(
        7, partition="own", node_count=2, licenses="placement:1", reason="Licenses"
    )
    site.tick("gate")
    site.clock.forward(timedelta(seconds=2))
    assert asked(site)[0]["free_nodes"] == 2


def test_samples_are_kept_and_old_ones_forgotten(site: Site) -> None:
    with_fabric(site)
    start = site.clock.now()
    site.tick("capacity")
    running(site, 7, "b200-001")
    site.tick("capacity")
    (own,) = asked(site, since=start.isoformat())
    assert [(one["free_nodes"], round(one["fragmentation"], 2)) for one in own["history"]] == [(4, 0), (3, 0.33)]
    site.clock.forward(timedelta(days=30) - timedelta(seconds=1))
    site.tick("capacity")
    (own,) = asked(site, since=start.isoformat())
    assert [one["free_nodes"] for one in own["history"]] == [3, 3]


def test_without_a_policy_there_is_nothing_to_tell_and_no_fabric_is_needed(site: Site) -> None:
    site.tick("capacity")
    assert asked(site) == []
    status = site.http(ADMINISTRATOR).get("/api/v1/status").json()
    assert {one["name"]: one["errors"] for one in status["controllers"]}["capacity"] == 0


def test_without_a_fabric_it_says_where_one_belongs_and_metrics_go_on(site: Site) -> None:
    applied(site)
    answer = site.http(RESEARCHER).get("/api/v1/capacity")
    assert (answer.status_code, "gpuaas topology render" in answer.json()["way_out"]) == (503, True)
    page = site.agents_http().get("/metrics").text
    assert "gpuaas_budget_used_ratio" in page
    assert "gpuaas_capacity" not in page


def test_what_cannot_be_answered_is_refused_with_the_way_out(site: Site) -> None:
    with_fabric(site)
    for query, status, says in (
        ({"partition": "no-such"}, 404, "Ask for one of own."),
        ({"since": "2026-01-01T00:00:00Z"}, 422, "last 31 days"),
        ({"since": "2027-01-04T09:00:00"}, 422, "2027-01-31T00:00:00+09:00"),
    ):
        answer = site.http(RESEARCHER).get("/api/v1/capacity", params=query)
        assert (answer.status_code, says in answer.json()["way_out"]) == (status, True), query


def test_metrics_tell_capacity_and_fragmentation(site: Site) -> None:
    running(with_fabric(site), 7, "b200-001")
    page = site.agents_http().get("/metrics").text
    for line in (
        'gpuaas_capacity_largest_nodes{level="leaf_group",partition="own"} 2.0',
        'gpuaas_capacity_free_nodes{partition="own"} 3.0',
        'gpuaas_capacity_idle_leaf_groups{partition="own"} 1.0',
        'gpuaas_excess_leaf_groups{partition="own"} 0.0',
        'gpuaas_fragmentation_ratio{partition="own"} 0.3333333333333333',
    ):
        assert line in page
