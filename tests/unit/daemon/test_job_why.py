"""Why a job waits, as its user and an administrator are told."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from slurm_gpuaas.domain.jobs import JobId, JobPlacement, PlacementOutcome
from slurm_gpuaas.domain.names import ClusterName
from slurm_gpuaas.domain.policy import expand_nodes
from tests.fakes import make_job
from tests.unit.daemon.site import ADMINISTRATOR, RESEARCHER, Site
from tests.unit.daemon.test_app import applied
from tests.unit.daemon.test_capacity import running, with_fabric


def why(site: Site, job: int, uid: int = RESEARCHER) -> dict[str, Any]:
    answer = site.http(uid).get(f"/api/v1/jobs/{job}/why")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def waiting(site: Site, job: int, **fields: Any) -> None:
    site.controller.job_by_id[JobId(job)] = make_job(job, partition="own", **{"user": "nobody", **fields})


def test_a_job_that_lacks_a_node_is_told_when_there_is_one(site: Site) -> None:
    waiting(site, 9, node_count=4, reason="Resources")
    running(with_fabric(site), 7, "b200-001")
    found = why(site, 9)
    assert (found["reason"], found["room"]["missing"], found["quota"]) == ("Resources", 1, None)
    assert found["room"]["enough_at"] == "2027-01-04T10:00:00Z"
    assert "2 in one leaf group, 3 in one pod, 3 in all" in found["says"][-1]
    assert "alice" not in str(found)


def test_a_job_that_a_limit_holds_is_told_its_numbers(site: Site) -> None:
    with_fabric(site)
    for job, node in ((7, "b200-001"), (8, "b200-002")):
        running(site, job, node)
    waiting(site, 9, reason="QOSGrpGRES")
    found = why(site, 9)
    bite = found["quota"]["sides"][0]["bites"][0]
    assert (bite["holder"], bite["limit"], bite["in_use"], bite["asked"]) == ("QOS guaranteed-vision", 16, 16, 8)
    assert found["room"]["missing"] == 0


def test_a_limit_that_cannot_be_looked_up_is_no_reason_to_tell_nothing(site: Site) -> None:
    waiting(with_fabric(site), 9, reason="QOSGrpGRES", account="elsewhere")
    found = why(site, 9)
    assert found["quota"] is None
    assert found["says"][-1].startswith("What the limit is cannot be told: nobody is no member of elsewhere")


def test_without_a_fabric_the_rest_is_told(site: Site) -> None:
    waiting(applied(site), 9, reason="Resources", node_count=5)
    found = why(site, 9)
    assert (found["room"]["missing"], found["largest"]) == (1, [])
    assert "cannot be told: The fabric in" in found["says"][-1]


def test_a_placed_job_is_told_the_gates_reason_before_and_while_it_runs(site: Site) -> None:
    waiting(with_fabric(site), 9, node_count=2, licenses="placement:1", reason="Licenses")
    assert "placement gate" in why(site, 9)["says"][0]
    site.tick("gate")
    assert "gave it b200-[001-002]" in why(site, 9)["says"][1]
    site.controller.start(9, ["b200-001", "b200-002"])
    site.clock.forward(timedelta(seconds=2))
    found = why(site, 9)
    assert (found["state"], found["nodes"], found["placement"]["leaf_groups"]) == ("RUNNING", "b200-[001-002]", 1)
    assert found["says"][-1].startswith("The placement gate chose these nodes: 2 nodes of root/leaf-01")
    assert (found["room"], found["way_out"]) == (None, "")


def test_a_job_that_was_submitted_a_moment_ago_is_known(site: Site) -> None:
    with_fabric(site)
    site.http(RESEARCHER).get("/api/v1/capacity")
    waiting(site, 9)
    assert why(site, 9)["reason"] == "None"


def test_jobs_that_nobody_knows_are_looked_for_once_a_second_for_everybody(site: Site) -> None:
    with_fabric(site)
    site.controller.calls.clear()
    for job in range(20, 30):
        assert site.http(RESEARCHER).get(f"/api/v1/jobs/{job}/why").status_code == 404
    assert site.controller.calls.count("jobs") <= 2
    site.clock.forward(timedelta(seconds=1))
    waiting(site, 30)
    assert why(site, 30)["reason"] == "None"


def test_a_job_that_waits_for_better_nodes_is_told_how_to_stop_it(site: Site) -> None:
    waiting(with_fabric(site), 9, node_count=2, licenses="placement:1", reason="Licenses")
    site.store.put_placement(
        JobPlacement(
            cluster=ClusterName("haein"),
            job_id=JobId(9),
            restarts=0,
            decided_at=site.clock.now(),
            outcome=PlacementOutcome.WAITING,
            nodes=expand_nodes("b200-[002,004]"),
            reason="It waits 1200 s at most.",
        )
    )
    found = why(site, 9)
    assert "keeps b200-[002,004] for it" in found["says"][1]
    assert found["way_out"] == "`scontrol update JobId=9 Comment=` ends this wait."


def test_of_others_jobs_a_researcher_learns_no_more_than_of_none(site: Site) -> None:
    with_fabric(site)
    waiting(site, 9, user="alice")
    answers = [site.http(RESEARCHER).get(f"/api/v1/jobs/{job}/why") for job in (9, 10)]
    assert [answer.status_code for answer in answers] == [404, 404]
    assert answers[0].json()["detail"].replace("9", "10") == answers[1].json()["detail"]
    assert why(site, 9, ADMINISTRATOR)["user"] == "alice"


def test_a_job_of_a_partition_that_is_none_of_ours_is_told_slurms_reason(site: Site) -> None:
    waiting(with_fabric(site), 9, reason="Priority")
    site.controller.job_by_id[JobId(9)] = make_job(9, user="nobody", partition="debug", reason="Priority")
    found = why(site, 9)
    assert (len(found["says"]), found["room"], found["largest"]) == (1, None, [])
