"""Samples come in signed, for their own node alone; how busy GPUs were goes out to who may know."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from httpx2 import Response

from slurm_gpuaas.api.node_events import NODE_EVENTS_PATH
from slurm_gpuaas.api.node_samples import NODE_SAMPLES_PATH
from slurm_gpuaas.api.signing import NODES, node_key, sign
from slurm_gpuaas.domain.errors import InvalidInput, NotFound, Refused
from slurm_gpuaas.domain.names import AccountName, NodeName
from slurm_gpuaas.domain.telemetry import SampleBatch
from slurm_gpuaas.store.telemetry import Telemetry
from tests.unit.daemon.site import MASTER_KEY, POLICY, RESEARCHER, Site
from tests.unit.telemetry.batches import batch
from tests.unit.telemetry.test_gpu_use import run

NODE = NodeName("b200-001")
MINUTE = timedelta(minutes=1)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    site.runtime.operations.policies.apply(POLICY, actor="test")
    yield site
    site.runtime.stop(timedelta(seconds=5))


def send(site: Site, told: SampleBatch, *, key: NodeName = NODE, path: str = NODE_SAMPLES_PATH) -> Response:
    body = told.model_dump_json().encode()
    now = site.clock.now()
    headers = sign(NODES, node_key(MASTER_KEY, key), method="POST", target=path, sender=key, body=body, now=now)
    answer: Response = site.agents_http().post(
        path, content=body, headers={**headers, "Content-Type": "application/json"}
    )
    return answer


def ten_minutes(site: Site, *, code: int = 180, node: str = NODE) -> SampleBatch:
    """All eight GPUs of a node, until four minutes ago."""
    begin = site.clock.now().replace(second=0, microsecond=0) - 14 * MINUTE
    return batch(begin, [[code] * 40] * 8, node=node, serials=[f"165000000000{gpu}" for gpu in range(8)])


def test_samples_of_an_agent_are_told_by_node(site: Site) -> None:
    for _ in range(2):
        answer = send(site, ten_minutes(site))
        assert (answer.status_code, answer.json()) == (200, {"accepted": 40})
    assert site.runtime.operations.agents.seen_at(NODE) == site.clock.now()
    with site.client() as client:
        found = client.gpu_usage(node=NODE, start=site.clock.now() - 20 * MINUTE)
    assert (found.total.known, found.total.idle, found.total.busy_percent) == (80, 0, 90.0)
    assert found.total.unknown == 8 * 7, "of twenty minutes ten are known and three may still be on their way"
    assert [row.name for row in found.rows] == [f"GPU {gpu}" for gpu in range(8)]
    assert found.rows[3].serial == "1650000000003"
    assert 90.0 in found.curve
    assert None in found.curve


def test_a_node_speaks_for_itself_alone(site: Site) -> None:
    answer = send(site, ten_minutes(site), key=NodeName("b200-002"))
    assert answer.status_code == 422
    assert "signed samples of node b200-001" in answer.json()["detail"]
    stolen = send(site, ten_minutes(site), path=NODE_EVENTS_PATH)
    assert stolen.status_code == 422, "samples are no events"


def test_unsigned_samples_are_refused(site: Site) -> None:
    answer = site.agents_http().post(NODE_SAMPLES_PATH, content=ten_minutes(site).model_dump_json())
    assert answer.status_code == 401


def test_samples_from_the_future_are_refused(site: Site) -> None:
    answer = send(site, batch(site.clock.now() + 10 * MINUTE, [[0]]))
    assert answer.status_code == 422
    assert "synchronise the clocks" in answer.json()["way_out"], answer.text


def test_a_job_and_a_project_are_told_by_the_nodes_they_had(site: Site) -> None:
    send(site, ten_minutes(site))
    send(site, ten_minutes(site, code=0, node="b200-002"), key=NodeName("b200-002"))
    begin = site.clock.now().replace(second=0, microsecond=0) - 14 * MINUTE
    whole = run(gpus=16, started=begin, nodes="b200-[001-002]")
    shared = run(gpus=1, job=8, started=begin, nodes="b200-001")
    placeless = run(gpus=4, job=9, started=begin, nodes="")
    other = replace(run(gpus=8, job=10, started=begin), account=AccountName("speech"))
    site.store.put_usage([whole, shared, placeless, other], at=site.clock.now())
    with site.client(RESEARCHER) as client:
        job = client.gpu_usage(job=7)
        project = client.gpu_usage(project="vision")
        placed_nowhere = client.gpu_usage(job=9)
        with pytest.raises(NotFound):
            client.gpu_usage(job=10)
        with pytest.raises(NotFound):
            client.gpu_usage(project="speech")
        with pytest.raises(Refused):
            client.gpu_usage(node=NODE)
    assert (job.total.known, job.total.idle, job.total.unknown, job.total.busy_percent) == (160, 80, 0, 45.0)
    assert [(row.name, row.busy_percent) for row in job.rows] == [("b200-001", 90.0), ("b200-002", 0.0)]
    assert (project.total.known, project.total.idle) == (160, 80)
    assert (project.total.unknown, project.total.shared) == (10 + 40, 10)
    assert [(row.name, row.idle) for row in project.rows] == [("7", 80), ("8", 0)]
    assert (placed_nowhere.total.known, placed_nowhere.total.unknown) == (0, 40)


@pytest.mark.parametrize("asked", [{}, {"node": "b200-001", "job": 7}])
def test_one_thing_is_asked_about_at_a_time(site: Site, asked: dict[str, object]) -> None:
    with site.client() as client, pytest.raises(InvalidInput, match="One of node, job and project"):
        client.gpu_usage(**asked)  # type: ignore[arg-type]


def test_what_does_not_exist_is_said(site: Site) -> None:
    with site.client() as client:
        with pytest.raises(NotFound, match="no node b300-1"):
            client.gpu_usage(node="b300-1")
        with pytest.raises(NotFound, match="of a job 4711"):
            client.gpu_usage(job=4711)
        with pytest.raises(InvalidInput, match="cannot be answered"):
            client.gpu_usage(node=NODE, start=site.clock.now() - timedelta(days=200))


def test_samples_outlive_the_daemon(site: Site) -> None:
    send(site, ten_minutes(site))
    reread = Telemetry(site.folder / "telemetry")
    day = (site.clock.now() - 14 * MINUTE).date()
    assert sum(int(known.samples.sum()) for _node, known in reread.busy(day, [NODE])) == 8 * 40
    reread.close()
