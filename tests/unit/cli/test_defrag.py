"""`gpuaas topology defrag` against a daemon: four nodes, two leaf groups, a one-node job on each."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from slurm_gpuaas.api.models import DefragApply, DefragOrder, DefragTerms
from slurm_gpuaas.domain.errors import Conflict, Refused
from slurm_gpuaas.domain.jobs import JobId, JobState
from tests.fakes import make_job
from tests.unit.cli.conftest import Run
from tests.unit.daemon.site import POLICY, Site

TREE = """\
- topology: fabric
  cluster_default: true
  tree:
    switches:
      - {switch: root, children: "left,right"}
      - {switch: left, nodes: "b200-[001-002]"}
      - {switch: right, nodes: "b200-[003-004]"}
"""


@pytest.fixture(autouse=True)
def scattered(site: Site) -> None:
    (site.folder / "slurm" / "topology.yaml").write_text(TREE)
    site.runtime.operations.policies.apply(POLICY, actor="test")
    for job_id, node in ((1, "b200-001"), (2, "b200-003")):
        site.controller.job_by_id[JobId(job_id)] = make_job(
            job_id, qos="burst-haein-own", time_limit=timedelta(hours=12)
        )
        site.controller.start(job_id, [node])
        site.clock.forward(timedelta(hours=1))


def test_the_plan_names_the_move_its_cost_and_its_proof(run: Run) -> None:
    ran = run("topology", "defrag", "--plan", "--count", "2")
    assert ran.code == 0
    assert "Room for 2 nodes: b200-[003-004] (1 leaf group; now 2 leaf groups)." in ran.out
    assert "burst, may be requeued, runs 1.0 h, 11.0 h left" in ran.out
    assert "1 move, proven the fewest and the cheapest of as many. At most 8.0 GPU-hours are lost." in ran.out
    (move,) = json.loads(run("topology", "defrag", "--count", "2", "--json").out)["moves"]
    assert (move["job"], move["nodes"], move["to"], move["lost_gpu_seconds"]) == (2, "b200-003", "b200-002", 28_800)


def test_apply_notes_requeues_and_the_gate_puts_the_job_on_its_new_node(run: Run, site: Site) -> None:
    ran = run("topology", "defrag", "--apply", "--count", "2", "--yes")
    assert (ran.code, ran.out.splitlines()[-1][:16]) == (0, "1 job requeued; ")
    site.tick("gate")
    job = site.controller.job_by_id[JobId(2)]
    assert (job.state, job.restarts, job.required_nodes) == (JobState.PENDING, 1, ("b200-002",))
    actions = [(entry.actor, entry.action) for entry in site.store.audit.newest(limit=10)]
    assert actions[:2] == [("gpuaasd/gate", "job.place"), ("root", "job.move")]


def test_a_plan_that_does_not_hold_any_more_is_refused(site: Site) -> None:
    with site.client() as client:
        terms = DefragTerms(count=2)
        plan = client.defrag_plan(terms)
        site.controller.finish(2)
        with pytest.raises(Conflict, match="Job 2 has ended or may not be moved any more"):
            client.defrag_apply(terms, plan)
    assert "requeue" not in site.controller.calls


def test_without_an_acting_gate_no_job_is_moved(site: Site) -> None:
    looking_on = replace(site.runtime.operations.defragmenter, shadow=True)
    order = DefragOrder(job=JobId(2), restarts=0, nodes="b200-003", to="b200-002")
    with pytest.raises(Refused, match="shadow mode"):
        looking_on.apply(DefragApply(count=2, room="b200-[003-004]", moves=(order,)), actor="root")


def test_what_cannot_be_answered_or_asked_exits_with_3(run: Run) -> None:
    unknown = run("topology", "defrag", "--count", "1", "--partition", "other")
    assert (unknown.code, unknown.err) == (
        3,
        "Error: The policy has no partition other here. Name one of these: own.\n",
    )
    nobody = run("topology", "defrag", "--apply", "--count", "2")
    assert (nobody.code, nobody.err) == (3, "Error: Nobody can be asked here. Give --yes, or look first with --plan.\n")


def test_what_cannot_be_made_exits_with_1_and_says_who_stays(run: Run, site: Site) -> None:
    job = site.controller.job_by_id[JobId(1)]
    site.controller.job_by_id[JobId(1)] = replace(job, requeue=False)
    ran = run("topology", "defrag", "--count", "3")
    assert ran.code == 1
    assert ran.out.splitlines() == [
        "3 nodes cannot be had by moving jobs: 2 of 4 usable nodes are free, and moves change only which.",
        "Jobs that stay: 1 interactive or --no-requeue.",
    ]


def test_nothing_moves_where_the_room_is_there(run: Run) -> None:
    ran = run("topology", "defrag", "--count", "1")
    assert ran.out.splitlines() == [
        "Room for 1 node: b200-002 (1 leaf group; now 1 leaf group).",
        "Nothing has to move.",
    ]
