"""The API as users meet it: who may what, and what errors look like."""

from __future__ import annotations

import os
import re
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from httpx2 import Response
from starlette.testclient import TestClient

from slurm_gpuaas.api.node_events import NODE_EVENTS_PATH, NodeEventBatch
from slurm_gpuaas.api.signing import NODES, node_key, sign
from slurm_gpuaas.daemon.app import make_api
from slurm_gpuaas.daemon.server import BodyLimit, as_peer
from slurm_gpuaas.domain.incidents import EventKind, EventSource, NodeEvent
from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.names import NodeName, QosName
from slurm_gpuaas.topology.fabric import Fabric, LeafGroup
from slurm_gpuaas.topology.slurm_yaml import render
from tests.fakes import make_job
from tests.unit.daemon.site import ADMINISTRATOR, MASTER_KEY, POLICY, RESEARCHER, Site

NODE = NodeName("b200-001")


def documents() -> dict[str, Any]:
    return {"documents": [document.model_dump(mode="json") for document in POLICY.documents]}


def applied(site: Site) -> Site:
    answer = site.http(ADMINISTRATOR).put("/api/v1/policy", json=documents())
    assert answer.status_code == 200, answer.text
    return site


def xid_79(site: Site, node: NodeName = NODE, event_id: str = "boot:kmsg:1") -> NodeEvent:
    return NodeEvent(
        event_id=event_id,
        node=node,
        kind=EventKind.XID,
        code=79,
        source=EventSource.KERNEL_LOG,
        seen_at=site.clock.now(),
        pci="0000:3b:00",
        evidence="NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, GPU has fallen off the bus.",
    )


def report(site: Site, event: NodeEvent, *, signed_by: NodeName | None = None, key: bytes = MASTER_KEY) -> Response:
    body = NodeEventBatch(node=event.node, events=(event,)).model_dump_json().encode()
    node = signed_by or event.node
    now = site.clock.now()
    headers = sign(NODES, node_key(key, node), method="POST", target=NODE_EVENTS_PATH, sender=node, body=body, now=now)
    return site.agents_http().post(
        NODE_EVENTS_PATH, content=body, headers={**headers, "Content-Type": "application/json"}
    )


# -- Policy


def test_a_policy_that_is_applied_holds_and_applying_it_again_changes_nothing(site: Site) -> None:
    admin = site.http(ADMINISTRATOR)
    planned = admin.post("/api/v1/policy/plan", json=documents()).json()
    assert {change["kind"] for change in planned["policy"]} >= {"Organisation", "Project", "Member", "Pool", "Grant"}
    assert any(change["name"] == "guaranteed-vision" for change in planned["slurm"])
    assert not site.accounting.read().qos.keys() & {"guaranteed-vision"}, "planning wrote to Slurm"

    applied(site)
    assert "guaranteed-vision" in site.accounting.read().qos
    assert admin.get("/api/v1/policy").json()["documents"] == documents()["documents"]
    again = admin.put("/api/v1/policy", json=documents()).json()["plan"]
    assert (again["policy"], again["slurm"]) == ([], [])


def test_applying_over_somebody_elses_policy_is_refused(site: Site) -> None:
    applied(site)
    answer = site.http(ADMINISTRATOR).put("/api/v1/policy", json={**documents(), "expected_revision": 0})
    assert answer.status_code == 409
    assert "revision 1" in answer.json()["detail"]


def test_documents_that_contradict_each_other_are_refused_with_all_faults(site: Site) -> None:
    wrong = {"documents": [{"kind": "Project", "name": "vision", "organisation": "kaist"}]}
    answer = site.http(ADMINISTRATOR).put("/api/v1/policy", json=wrong)
    assert answer.status_code == 422
    assert "organisation kaist, which is not declared" in answer.json()["detail"]
    assert answer.headers["content-type"] == "application/problem+json"


# -- Who may what


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/policy", None),
        ("POST", "/policy/plan", {}),
        ("PUT", "/policy", {"documents": []}),
        ("POST", "/topology/plan", {}),
        ("PUT", "/topology", {}),
        ("POST", f"/nodes/{NODE}/drain", {"reason": "because"}),
        ("POST", f"/nodes/{NODE}/resume", None),
        ("GET", "/incidents", None),
        ("GET", "/incidents/i1", None),
        ("POST", "/incidents/i1/close", {}),
        ("POST", "/defrag/plan", {"count": 2}),
        (
            "POST",
            "/defrag/apply",
            {"count": 1, "room": "a1", "moves": [{"job": 1, "restarts": 0, "nodes": "a1", "to": "a2"}]},
        ),
        ("GET", "/audit", None),
    ],
    ids=lambda value: str(value),
)
def test_a_researcher_is_refused_what_administrators_do(
    site: Site, method: str, path: str, body: dict[str, Any] | None
) -> None:
    answer = site.http(RESEARCHER).request(method, f"/api/v1{path}", json=body)
    problem = answer.json()
    assert (answer.status_code, problem["exit_code"]) == (403, 4)
    assert "nobody may not" in problem["detail"]
    assert "administrator" in problem["way_out"]


def test_a_researcher_sees_own_projects_and_an_administrator_all(site: Site) -> None:
    applied(site)
    site.controller.job_by_id[JobId(7)] = make_job(7, account="vision", qos="guaranteed-vision")
    site.controller.start(7, ["b200-001"])
    (own,) = site.http(RESEARCHER).get("/api/v1/projects").json()
    assert (own["name"], own["guaranteed_gpus"], own["in_use_guaranteed"]) == ("vision", 16, 8)
    assert own["budget"]["budget"] == 1_000 * 3600
    assert {project["name"] for project in site.http(ADMINISTRATOR).get("/api/v1/projects").json()} == {
        "vision",
        "speech",
    }


def test_shares_tell_where_a_project_stands_and_researchers_see_their_own(site: Site) -> None:
    applied(site)
    site.controller.job_by_id[JobId(7)] = make_job(7, account="vision", qos="guaranteed-vision", partition="own")
    site.controller.start(7, ["b200-001"])
    (share,) = site.http(RESEARCHER).get("/api/v1/quota/shares").json()
    assert [tenant["name"] for tenant in share["tenants"]] == ["vision"]
    (whole,) = site.http(ADMINISTRATOR).get("/api/v1/quota/shares").json()
    assert {tenant["project"] for tenant in whole["tenants"]} == {None, "vision", "speech"}
    vision = share["tenants"][0]
    assert (vision["guaranteed"], vision["honoured"], vision["in_use"], vision["borrowed"]) == (16, 16, 8, 0)


def explained(site: Site, uid: int = RESEARCHER, **question: str | int) -> dict[str, Any]:
    answer: dict[str, Any] = site.http(uid).get("/api/v1/quota/explain", params={"gpus": 8, **question}).json()
    return answer


def test_a_job_is_explained_by_what_stands_in_slurm(site: Site) -> None:
    applied(site)
    first = explained(site, minutes=60)["sides"][0]
    assert (first["qos"], first["outcome"], first["largest"]) == ("guaranteed-vision", "start", 8)
    for job, node in ((7, "b200-001"), (8, "b200-002")):
        site.controller.job_by_id[JobId(job)] = make_job(job, account="vision", qos="guaranteed-vision")
        site.controller.start(job, [node])
    own, burst = explained(site, minutes=60)["sides"]
    assert (own["outcome"], own["reason"], own["largest"]) == ("wait", "QOSGrpGRES", 0)
    bite = own["bites"][0]
    assert (bite["holder"], bite["limit"], bite["in_use"], bite["asked"]) == ("QOS guaranteed-vision", 16, 16, 8)
    assert (burst["qos"], burst["outcome"]) == ("burst-haein-own", "start")


def test_without_free_gpus_a_guaranteed_job_takes_them_from_burst_and_a_burst_job_waits(site: Site) -> None:
    applied(site)
    for job in range(1, 5):
        site.controller.job_by_id[JobId(job)] = make_job(job, account="speech", qos="burst-haein-own")
        site.controller.start(job, [f"b200-00{job}"])
        node = NodeName(f"b200-00{job}")
        site.controller.node_by_name[node] = replace(site.controller.node_by_name[node], gpus_allocated=8)
    site.clock.forward(timedelta(minutes=1))
    own, burst = explained(site, minutes=60)["sides"]
    assert (own["outcome"], own["preempts"]) == ("start", True)
    assert (burst["outcome"], burst["reason"], burst["bites"]) == ("wait", "Resources", [])


def test_a_researcher_explains_own_jobs_only(site: Site) -> None:
    applied(site)
    other = site.http(RESEARCHER).get("/api/v1/quota/explain", params={"gpus": 8, "user": "alice"})
    assert (other.status_code, other.json()["exit_code"]) == (403, 4)
    project = site.http(RESEARCHER).get("/api/v1/quota/explain", params={"gpus": 8, "project": "speech"})
    assert project.status_code == 404
    assert explained(site, ADMINISTRATOR, user="alice")["project"] == "speech"


@pytest.mark.parametrize(
    ("question", "status", "says"),
    [
        ({"gpus": 0}, 422, "gpus"),
        ({"gpus": 2, "nodes": 3}, 422, "cannot be spread over 3 nodes"),
        ({"gpus": 17, "nodes": 2}, 422, "2 nodes have 16 GPUs"),
        ({"gpus": 8, "qos": "guaranteed-speech"}, 422, "may not use the QOS guaranteed-speech"),
        ({"gpus": 8, "project": "no-such"}, 404, "no project no-such"),
    ],
    ids=str,
)
def test_a_question_that_has_no_answer_is_refused(
    site: Site, question: dict[str, str | int], status: int, says: str
) -> None:
    applied(site)
    answer = site.http(RESEARCHER).get("/api/v1/quota/explain", params=question)
    assert answer.status_code == status
    assert says in answer.text


def test_limits_that_do_not_do_their_work_are_found(site: Site) -> None:
    applied(site)
    assert site.http(ADMINISTRATOR).get("/api/v1/quota/check").json() == []
    qos = site.accounting.qos_by_name[QosName("guaranteed-vision")]
    site.accounting.qos_by_name[qos.name] = replace(qos, grp_tres={"gres/gpu": 32, "gres/gpu:b200": 32})
    found = site.http(ADMINISTRATOR).get("/api/v1/quota/check").json()
    assert [(one["fault"], one["where"]) for one in found] == [
        ("loose", "vision"),
        ("loose", "vision"),
        ("overcommitted", "partition own"),
    ]
    assert len(site.http(RESEARCHER).get("/api/v1/quota/check").json()) == 2, "a researcher sees the project's own"


def test_a_researcher_asking_for_anothers_usage_learns_nothing(site: Site) -> None:
    applied(site)
    answer = site.http(RESEARCHER).get("/api/v1/usage", params={"project": "speech"})
    missing = site.http(RESEARCHER).get("/api/v1/usage", params={"project": "no-such"})
    assert answer.status_code == missing.status_code == 404
    assert answer.json()["detail"].replace("speech", "") == missing.json()["detail"].replace("no-such", "")


def test_budgets_are_of_the_projects_one_may_see(site: Site) -> None:
    applied(site)
    (own,) = site.http(RESEARCHER).get("/api/v1/budgets").json()
    assert (own["project"], own["gpu_seconds"]["left"], own["won"]) == ("vision", 1_000 * 3600, None)
    assert (own["written_gpu_minutes"], own["startable_gpu_minutes"]) == (60_000, 60_000)
    assert len(site.http(ADMINISTRATOR).get("/api/v1/budgets").json()) == 2
    assert site.http(RESEARCHER).get("/api/v1/budgets", params={"project": "speech"}).status_code == 404


def test_what_running_jobs_may_still_use_is_committed_and_unknown_is_not_zero(site: Site) -> None:
    applied(site)
    site.controller.job_by_id[JobId(7)] = make_job(7, account="vision", time_limit=timedelta(hours=2))
    site.controller.start(7, ["b200-001"])
    (own,) = site.http(RESEARCHER).get("/api/v1/budgets").json()
    assert own["gpu_seconds"]["committed"] == 16 * 3600
    site.clock.forward(timedelta(minutes=1))
    site.controller.go_down()
    assert site.http(RESEARCHER).get("/api/v1/budgets").status_code == 503


def test_whoami_tells_memberships(site: Site) -> None:
    applied(site)
    assert site.http(RESEARCHER).get("/api/v1/whoami").json() == {
        "uid": RESEARCHER,
        "user": "nobody",
        "administrator": False,
        "memberships": [{"project": "vision", "role": "researcher"}],
    }


def test_over_tcp_nobody_is_known_and_only_agents_are_served(site: Site) -> None:
    assert site.http(None).get("/api/v1/whoami").status_code == 401
    agents = site.agents_http()
    assert agents.get("/healthz").text == "ok\n"
    assert agents.get("/api/v1/whoami").status_code == 404


# -- Node events, incidents, nodes


def test_a_fatal_event_becomes_an_incident_whose_node_is_drained(site: Site) -> None:
    assert report(site, xid_79(site)).json() == {"accepted": 1}
    assert site.scheduled("health").wake.is_set(), "the health controller was not woken"
    site.tick("health")
    admin = site.http(ADMINISTRATOR)
    (incident,) = admin.get("/api/v1/incidents").json()
    node = admin.get(f"/api/v1/nodes/{NODE}").json()
    assert (node["state"], node["drain_owner"], node["incident"]) == ("idle+drain", "gpuaas", incident["id"])
    assert node["reason"].startswith(f"gpuaas:{incident['id']}: XID 79")
    assert admin.get(f"/api/v1/incidents/{incident['id']}").json()["events"][0]["code"] == 79


def test_closing_the_incident_puts_its_node_back(site: Site) -> None:
    report(site, xid_79(site))
    site.tick("health")
    admin = site.http(ADMINISTRATOR)
    (incident,) = admin.get("/api/v1/incidents").json()
    refused = admin.post(f"/api/v1/nodes/{NODE}/resume")
    assert refused.status_code == 409
    assert incident["id"] in refused.json()["way_out"]

    closed = admin.post(f"/api/v1/incidents/{incident['id']}/close", json={"reason": "GPU replaced"}).json()
    assert closed["state"] == "closed"
    assert admin.get(f"/api/v1/nodes/{NODE}").json()["state"] == "idle"
    assert admin.get("/api/v1/incidents").json() == []
    assert admin.get("/api/v1/audit").json()[0]["actor"] == "root"


def test_a_persons_drain_is_a_persons_and_survives_the_closing_of_an_incident(site: Site) -> None:
    admin = site.http(ADMINISTRATOR)
    drained = admin.post(f"/api/v1/nodes/{NODE}/drain", json={"reason": "cable swap"}).json()
    assert (drained["drain_owner"], drained["reason"]) == ("person", "cable swap")
    report(site, xid_79(site))
    site.tick("health")
    (incident,) = admin.get("/api/v1/incidents").json()
    admin.post(f"/api/v1/incidents/{incident['id']}/close", json={})
    assert admin.get(f"/api/v1/nodes/{NODE}").json()["reason"] == "cable swap"
    assert admin.post(f"/api/v1/nodes/{NODE}/resume").json()["state"] == "idle"


def test_a_drain_by_hand_cannot_claim_to_be_the_daemons(site: Site) -> None:
    answer = site.http(ADMINISTRATOR).post(f"/api/v1/nodes/{NODE}/drain", json={"reason": "gpuaas:i1: XID 79"})
    assert answer.status_code == 422


@pytest.mark.parametrize(
    ("tamper", "status"),
    [({"signed_by": NodeName("b200-002")}, 422), ({"key": b"another key"}, 401)],
    ids=["another-node", "wrong-key"],
)
def test_a_report_that_its_node_did_not_sign_is_refused(site: Site, tamper: dict[str, Any], status: int) -> None:
    assert report(site, xid_79(site), **tamper).status_code == status
    assert site.store.events() == ()


def test_a_replayed_report_is_refused_and_a_repeated_one_counts_once(site: Site) -> None:
    event = xid_79(site)
    body = NodeEventBatch(node=NODE, events=(event,)).model_dump_json().encode()
    now = site.clock.now()
    headers = sign(
        NODES, node_key(MASTER_KEY, NODE), method="POST", target=NODE_EVENTS_PATH, sender=NODE, body=body, now=now
    )
    headers["Content-Type"] = "application/json"
    agents = site.agents_http()
    sent = [agents.post(NODE_EVENTS_PATH, content=body, headers=headers).status_code for _ in range(2)]
    assert sent == [200, 401]
    assert site.agents_http().post(NODE_EVENTS_PATH, content=body, headers=headers).status_code == 401, "other door"
    assert report(site, event).status_code == 200
    assert len(site.store.events()) == 1


def test_agents_that_fall_silent_are_shown(site: Site) -> None:
    report(site, xid_79(site))
    site.clock.forward(timedelta(minutes=10))
    (agent,) = site.http(ADMINISTRATOR).get("/api/v1/status").json()["agents"]
    assert (agent["node"], agent["silent"]) == (NODE, True)


# -- Errors, probes, metrics


def test_slurm_being_away_is_a_503_with_a_way_out_and_status_still_answers(site: Site) -> None:
    site.controller.go_down()
    admin = site.http(ADMINISTRATOR)
    answer = admin.get("/api/v1/nodes")
    assert (answer.status_code, answer.json()["exit_code"]) == (503, 5)
    assert admin.get("/api/v1/status").json()["slurm_version"] == ""


def test_a_bug_is_a_problem_with_a_number_and_no_traceback(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(site.store), "policy", lambda self: 1 / 0)
    answer = site.http(ADMINISTRATOR).get("/api/v1/whoami")
    assert answer.status_code == 500
    assert "number" in answer.json()["detail"]
    assert "ZeroDivisionError" not in answer.text


def test_an_unknown_field_of_a_request_is_named(site: Site) -> None:
    answer = site.http(ADMINISTRATOR).post(f"/api/v1/nodes/{NODE}/drain", json={"reason": "because", "force": True})
    assert answer.json()["faults"][0]["field"] == "body.force"


def test_ready_says_why_not(site: Site) -> None:
    http = site.agents_http()
    assert http.get("/readyz").status_code == 200
    site.ready.append("Stands by: another gpuaasd leads.")
    assert (http.get("/readyz").status_code, http.get("/readyz").json()) == (503, site.ready)


def test_metrics_tell_the_guarantees_use_incidents_and_errors(site: Site) -> None:
    applied(site)
    site.controller.job_by_id[JobId(7)] = make_job(7, qos="burst-unlimited", partition="own")
    site.controller.start(7, ["b200-001"])
    report(site, xid_79(site, NodeName("b200-002")))
    site.tick("health")
    site.accounting.go_down()
    site.tick("policy")
    page = site.agents_http().get("/metrics").text
    for line in (
        'gpuaas_guaranteed_gpus{pool="haein",share="own"} 32.0',
        'gpuaas_share_gpus{pool="haein",share="own"} 32.0',
        'gpuaas_gpus_in_use{class="burst",pool="haein",share="own"} 8.0',
        'gpuaas_controller_errors_total{controller="policy",kind="expected"} 1.0',
        'gpuaas_slurm_driver_info{driver="fake",fallback="false"} 1.0',
        'gpuaas_agents{state="seen"} 1.0',
    ):
        assert line in page
    assert 'gpuaas_incidents{state="draining"} 1.0' in page


def test_metrics_tell_how_much_of_a_budget_is_used(site: Site) -> None:
    applied(site)
    page = site.agents_http().get("/metrics").text
    assert 'gpuaas_budget_used_ratio{project="vision",unit="gpu_hours"} 0.0' in page


def test_a_body_that_is_too_large_is_refused_before_it_is_read_whole(site: Site) -> None:
    http = TestClient(BodyLimit(as_peer(make_api(site.wiring), ADMINISTRATOR), limit=100))
    answer = http.put("/api/v1/policy", content=b"x" * 1_000, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["exit_code"]) == (413, 3)


# -- Topology


def test_a_fabric_that_is_followed_stands_in_the_status_when_it_is_another(tmp_path: Path) -> None:
    fabric = tmp_path / "fabric.json"
    site = Site(tmp_path, more={"topology": {"fabric_file": fabric}})
    with closing(site.store):
        for nodes in ("b200-[001-002]", "b200-[003-004]"), ("b200-001", "b200-[002-004]"):
            groups = [LeafGroup(name=f"leaf-{n}", pod="root", nodes=one) for n, one in enumerate(nodes)]
            fabric.write_text(Fabric(leaf_groups=tuple(groups)).model_dump_json())
            os.utime(fabric, (site.clock.now().timestamp(),) * 2)
            if not site.topologies.text:
                site.topologies.file.write_text(render(Fabric(leaf_groups=tuple(groups))))
                site.topologies.reload()
            site.tick("fabric")
        controllers = site.http(ADMINISTRATOR).get("/api/v1/status").json()["controllers"]
    (found,) = (one for one in controllers if one["name"] == "fabric")
    assert (found["ticks"], found["failures"]) == (2, 1)
    assert "~ b200-002: from leaf-0 to leaf-1" in found["last_error"]


def test_every_route_is_in_the_reference(site: Site) -> None:
    def plain(path: str) -> str:
        return re.sub(r"\{\w+\}", "{}", path.removeprefix("/api/v1"))

    page = (Path(__file__).parents[3] / "docs" / "reference" / "api.md").read_text()
    told = {plain(path) for path in re.findall(r"(?<![\w.])/[\w{}/-]+", page)}
    missing = sorted(
        path for path in site.http(ADMINISTRATOR).get("/openapi.json").json()["paths"] if plain(path) not in told
    )
    assert not missing, f"docs/reference/api.md does not name {missing}"
