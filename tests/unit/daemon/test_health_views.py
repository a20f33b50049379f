"""Hardware health as users meet it over the API."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from slurm_gpuaas.domain.gpus import GpuIdentity
from slurm_gpuaas.domain.incidents import Drain, EventKind, EventSource, Incident, IncidentState, NodeEvent
from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.names import (
    AccountName,
    ClusterName,
    GpuModel,
    NodeName,
    PartitionName,
    QosName,
    UserName,
)
from slurm_gpuaas.domain.node_life import LimitKind
from slurm_gpuaas.domain.nodes import NodeFlag
from slurm_gpuaas.domain.usage import UsageRecord
from tests.fakes import EPOCH, make_job
from tests.unit.daemon.site import ADMINISTRATOR, POLICY, RESEARCHER, Site
from tests.unit.daemon.test_units import ETC

NODE, OTHER = NodeName("b200-001"), NodeName("b200-002")


def applied(site: Site) -> Site:
    documents = {"documents": [document.model_dump(mode="json") for document in POLICY.documents]}
    assert site.http(ADMINISTRATOR).put("/api/v1/policy", json=documents).status_code == 200
    return site


def ask(site: Site, path: str, uid: int = ADMINISTRATOR, **query: object) -> Any:
    answer = site.http(uid).get(f"/api/v1{path}", params=query)  # type: ignore[arg-type]
    assert answer.status_code == 200, answer.text
    return answer.json()


def card(serial: str, index: int = 0) -> GpuIdentity:
    return GpuIdentity(index=index, uuid=f"GPU-{serial}", serial=serial, pci="0000:3b:00")


def break_node(site: Site, node: NodeName = NODE, *, serial: str = "1", number: int = 1) -> str:
    event = NodeEvent(
        event_id=f"{node}:kmsg:{number}", node=node, kind=EventKind.XID, code=79, source=EventSource.KERNEL_LOG,
        seen_at=site.clock.now() - timedelta(seconds=2), serial=serial, evidence="NVRM: Xid (PCI:0000:3b:00): 79",
    )  # fmt: skip
    site.runtime.operations.intake.ingest(node, [event], gpus=[card(serial)])
    site.tick("health")
    return site.store.incidents(node=node)[0].id


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/incidents/i1", None),
        ("POST", "/incidents/i1/ack", {}),
        ("POST", "/incidents/i1/hold", {}),
        ("POST", "/incidents/i1/release", {}),
        ("POST", "/incidents/i1/verify", {}),
        ("POST", "/incidents/i1/close", {}),
        ("GET", "/incidents", None),
        ("GET", "/health/breaker", None),
        ("POST", "/health/breaker/reset", {"scope": "cluster", "reason": "because"}),
        ("GET", "/spares", None),
        ("GET", f"/nodes/{NODE}/history", None),
        ("PUT", f"/nodes/{NODE}/limit", {"largest_job": 4, "reason": "because"}),
        ("DELETE", f"/nodes/{NODE}/limit", None),
        ("GET", "/health/lemons", None),
        ("GET", "/rma", None),
        ("GET", "/rma/r1", None),
        ("POST", "/rma", {"node": NODE, "reason": "because"}),
        ("POST", "/rma/r1", {}),
    ],
)
def test_a_researcher_is_refused(site: Site, method: str, path: str, body: object) -> None:
    answer = site.http(RESEARCHER).request(method, f"/api/v1{path}", json=body)
    assert (answer.status_code, answer.json()["exit_code"]) == (403, 4)


def test_an_incident_shows_its_steps_events_and_jobs(site: Site) -> None:
    site.controller.job_by_id[JobId(7)] = make_job(7)
    site.controller.start(7, [NODE])
    found = ask(site, f"/incidents/{break_node(site)}")
    assert [(step["before"], step["after"]) for step in found["steps"]] == [(None, "suspect"), ("suspect", "draining")]
    assert found["requeued_jobs"] == [7]
    assert [(event["code"], event["jobs"]) for event in found["events"]] == [(79, [7])]
    assert (found["serials"], found["fault_class"]) == (["1"], "hw_reboot")


def test_who_acknowledges_first_stays_and_it_is_in_the_audit_trail_once(site: Site) -> None:
    incident = break_node(site)
    for note in ("mine", "again"):
        answer = site.http(ADMINISTRATOR).post(f"/api/v1/incidents/{incident}/ack", json={"note": note})
        assert answer.json()["acknowledged_by"] == "root"
    (entry,) = site.store.audit.newest(action="incident.ack")
    assert (entry.actor, entry.subject, entry.reason, entry.evidence) == ("root", NODE, "mine", {"incident": incident})


def test_a_card_takes_its_history_to_another_node(site: Site) -> None:
    first = break_node(site, NODE, serial="42")
    site.clock.forward(timedelta(days=1))
    site.runtime.operations.intake.ingest(OTHER, [], gpus=[card("42")])
    site.runtime.operations.intake.ingest(NODE, [], gpus=[card("43")])
    (moved,) = ask(site, f"/nodes/{OTHER}/history")["cards"]
    assert moved["sits"] and [(fault["incident"], fault["node"]) for fault in moved["faults"]] == [(first, NODE)]
    cards = {one["serial"]: one["sits"] for one in ask(site, f"/nodes/{NODE}/history")["cards"]}
    assert cards == {"42": False, "43": True}


def test_a_nodes_history_holds_what_people_did_and_when_it_was_out(site: Site) -> None:
    admin = site.http(ADMINISTRATOR)
    site.tick("reading")
    admin.post(f"/api/v1/nodes/{NODE}/drain", json={"reason": "cable swap"})
    site.clock.forward(timedelta(minutes=5))
    site.tick("reading")
    site.clock.forward(timedelta(minutes=5))
    admin.post(f"/api/v1/nodes/{NODE}/resume")
    site.tick("reading")
    found = ask(site, f"/nodes/{NODE}/history")
    assert [one["action"] for one in found["by_hand"]] == ["node.resume-by-hand", "node.drain-by-hand"]
    assert [(one["cause"], one["reason"]) for one in found["outages"]] == [("person", "cable swap")]
    assert found["outages"][0]["until"] is not None and found["stage"] == "in service"


def test_a_limit_reaches_gate_and_hook_and_is_lifted_again(site: Site) -> None:
    applied(site)
    admin = site.http(ADMINISTRATOR)
    request = {"largest_job": 1, "reason": "third fault this month"}
    assert admin.put(f"/api/v1/nodes/{NODE}/limit", json=request).status_code == 200
    site.tick("hook")
    assert f"limited\t1\t{NODE}\n" in (site.folder / "snapshot").read_text()
    assert ask(site, f"/nodes/{NODE}/history")["limit"]["why"] == "third fault this month"
    assert admin.delete(f"/api/v1/nodes/{NODE}/limit").status_code == 204
    site.tick("hook")
    assert "limited" not in (site.folder / "snapshot").read_text()
    assert [entry.action for entry in site.store.audit.newest(action="node", subject=NODE)] == [
        "node.limit-lifted",
        "node.limit",
    ]


def test_exclusions_that_the_hook_made_are_nobodys_wish(site: Site) -> None:
    site.http(ADMINISTRATOR).put(f"/api/v1/nodes/{NODE}/limit", json={"largest_job": 1, "reason": "because"})
    site.controller.job_by_id[JobId(7)] = replace(make_job(7, node_count=2), excluded_nodes=(NODE, OTHER))
    site.controller.job_by_id[JobId(8)] = replace(make_job(8), excluded_nodes=(NODE,))
    site.tick("reading")
    site.tick("reading")
    since = EPOCH - timedelta(days=1)
    found = {(one.node, one.job) for one in site.store.observations.exclusions(since=since)}
    assert found == {(OTHER, 7), (NODE, 8)}, "a job that is small enough excludes a node because its user wants it"


def test_runs_on_nodes_are_counted_once_also_over_a_restart(site: Site) -> None:
    observations = site.store.observations
    site.tick("reading")
    site.clock.forward(timedelta(minutes=1))
    for job, nodes in ((7, [NODE]), (8, [OTHER, "b200-003"])):
        site.controller.job_by_id[JobId(job)] = make_job(job, node_count=len(nodes))
        site.controller.start(job, nodes)
    for _ in range(3):
        site.clock.forward(timedelta(seconds=5))
        site.tick("reading")
    assert observations.single_runs(since=EPOCH.date()) == {NODE: 1, OTHER: 0, "b200-003": 0}


def incident_of(site: Site, number: int, jobs: tuple[int, ...]) -> Incident:
    now = site.clock.now()
    return Incident(
        id=f"x{number}", node=NODE, state=IncidentState.CLOSED, drain=Drain.NOW, rule="", headline="XID 79",
        opened_at=now, updated_at=now, requeued_jobs=jobs,
    )  # fmt: skip


def used(job: int, account: str, *, gpus: int = 8, started: timedelta, ended: timedelta) -> UsageRecord:
    return UsageRecord(
        cluster=ClusterName("mini"), job_id=JobId(job), user=UserName("alice"), account=AccountName(account),
        qos=QosName("q"), partition=PartitionName("own"), model=GpuModel("b200"), gpus=gpus, started=EPOCH + started,
        ended=EPOCH + ended, gpu_seconds=int(gpus * (ended - started).total_seconds()), state="REQUEUED",
    )  # fmt: skip


HOUR = timedelta(hours=1)


def test_a_node_that_keeps_ending_jobs_that_it_runs_alone_is_a_lemon_and_is_limited(tmp_path: Any) -> None:
    site = Site(tmp_path, more={"health": {"lemons": {"largest_job": 2}}})
    # As many nodes as make room for one lemon in twenty.
    for number in range(5, 25):
        name = NodeName(f"b200-0{number:02d}")
        site.controller.node_by_name[name] = replace(site.controller.node_by_name[NODE], name=name)
    site.tick("reading")
    for number in (1, 2, 3):
        site.store.put_usage([used(number, "vision", started=-2 * HOUR, ended=timedelta(0))], at=site.clock.now())
        site.store.put_incident(incident_of(site, number, (number,)))
    (lemon,) = ask(site, "/health/lemons")
    assert (lemon["node"], lemon["lemon"], lemon["single_node_node_fails"]) == (NODE, True, 3)
    assert lemon["why"] == ["single-node jobs that its faults ended: 3 of unknown (+45)"]
    site.tick("lemons")
    (limit,) = site.store.node_limits()
    assert (limit.node, limit.kind, limit.largest_job) == (NODE, LimitKind.LEMON, 2)
    assert site.http(ADMINISTRATOR).delete(f"/api/v1/nodes/{NODE}/limit").status_code == 204
    site.tick("lemons")
    assert list(site.store.node_limits()) == [], "a person lifted it"
    site.store.close()


def test_the_report_gives_researchers_their_own_losses_and_not_the_fleet(site: Site) -> None:
    applied(site)
    site.tick("reading")
    for job, account in ((1, "vision"), (2, "speech")):
        runs = [
            used(job, account, started=-HOUR, ended=timedelta(minutes=1)),
            used(job, account, started=timedelta(minutes=2), ended=HOUR),
        ]
        site.store.put_usage(runs, at=site.clock.now())
    site.store.put_incident(incident_of(site, 1, (1, 2)))
    site.clock.forward(2 * HOUR)
    whole = ask(site, "/health/report")
    assert (whole["fleet"]["nodes"], whole["fleet"]["gpus"]) == (4, 32)
    assert {one["project"]: one["lost_most"] for one in whole["tenants"]} == {"vision": 8 * 3660, "speech": 8 * 3660}
    own = ask(site, "/health/report", RESEARCHER)
    assert own["fleet"] is None
    assert [one["project"] for one in own["tenants"]] == [one["project"] for one in own["jobs"]] == ["vision"]
    hidden = site.http(RESEARCHER).get("/api/v1/health/report", params={"project": "speech"})
    assert hidden.status_code == 404
    assert ask(site, "/health/report", checkpoint_s=60)["terms"]["interval"] == 60


def test_a_report_over_no_time_is_refused(site: Site) -> None:
    moment = EPOCH.isoformat()
    answer = site.http(ADMINISTRATOR).get("/api/v1/health/report", params={"start": moment, "end": moment})
    assert answer.status_code == 422


def test_an_rma_case_lives_from_incident_to_close(site: Site) -> None:
    incident = site.store.incident(break_node(site, serial="42"))
    assert incident is not None
    site.store.put_incident(incident.model_copy(update={"state": IncidentState.RMA}))
    site.tick("rma")
    (case,) = ask(site, "/rma", serial="42")
    assert (case["state"], case["incident"]) == ("opened", incident.id)
    assert "NVRM: Xid (PCI:0000:3b:00): 79" in ask(site, f"/rma/{case['id']}")["ticket"]
    admin = site.http(ADMINISTRATOR)
    assert admin.post(f"/api/v1/rma/{case['id']}", json={"state": "replaced"}).status_code == 409
    for state in ("sent", "replaced", "closed"):
        assert admin.post(f"/api/v1/rma/{case['id']}", json={"state": state}).json()["state"] == state
    assert ask(site, "/rma") == []
    assert len(ask(site, "/rma", closed=True)) == 1


def test_a_node_that_slurm_drains_or_loses_is_a_fault_and_a_persons_drain_is_none(site: Site) -> None:
    nodes = site.controller.node_by_name
    for name, reason in (("b200-001", "Not responding [slurm@t]"), ("b200-002", "gpuaas:i1: x"), ("b200-003", "fan")):
        nodes[NodeName(name)] = replace(nodes[NodeName(name)], flags=NodeFlag.DRAIN, reason=reason)
    site.tick("reading")
    assert {one.node: one.cause.value for one in site.store.observations.outages()} == {
        "b200-001": "fault", "b200-002": "fault", "b200-003": "person",
    }  # fmt: skip


def test_every_metric_of_the_dashboard_is_exported(site: Site) -> None:
    break_node(site)
    site.tick("reading")
    site.clock.forward(timedelta(minutes=10))
    page = site.metrics.page().decode()
    names = set(re.findall(r"\bgpuaas_\w+", (ETC / "grafana" / "hardware-health.json").read_text()))
    assert len(names) > 10
    for name in names:
        plain = re.sub(r"_(bucket|count|sum)$", "", name)
        assert f"\n# TYPE {plain} " in page, f"the dashboard asks for {name}, which /metrics does not have"
