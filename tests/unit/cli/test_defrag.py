"""`gpuaas topology defrag` against a daemon: four nodes, two leaf groups, a one-node job on each."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from slurm_gpuaas.api.models import DefragApply, DefragMove, DefragOrder, DefragPlan, DefragTerms, FabricSpan
from slurm_gpuaas.cli.defrag import print_plan
from slurm_gpuaas.domain.errors import Conflict, Refused
from slurm_gpuaas.domain.jobs import JobId, JobState
from slurm_gpuaas.domain.names import PartitionName
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


@pytest.mark.parametrize(
    ("bound", "unspread_bound", "after", "lost_bound", "says"),
    [
        (2, None, 1, 7200, "2 moves, proven the fewest and the cheapest of as many."),
        (2, None, 1, 3600, "2 moves, proven the fewest; no such plan with as many loses less than 1.0 GPU-hours."),
        (1, None, 1, 7200, "2 moves, 1 above the bound of 1 that was proven in time."),
        (2, 2, 1, 7200, "2 moves, proven the fewest that spread no job and the cheapest of as many."),
        (
            1,
            2,
            1,
            7200,
            "2 moves, proven the fewest that spread no job and the cheapest of as many; "
            "were jobs spread, it would take 1 at least.",
        ),
        (1, 1, 1, 0, "2 moves, 1 above the bound of 1 that was proven in time for plans that spread no job."),
        (2, None, 2, 7200, "2 moves, proven the fewest and the cheapest of as many."),
    ],
    ids=[
        "proven",
        "the loss is not proven",
        "neither is proven",
        "as few as if jobs were spread",
        "more than if jobs were spread",
        "none of those that spread no job is proven",
        "a job is spread, and no plan has fewer",
    ],
)
def test_the_proof_says_of_which_plans_it_is(
    capsys: pytest.CaptureFixture[str],
    bound: int,
    unspread_bound: int | None,
    after: int,
    lost_bound: int,
    says: str,
) -> None:
    moves = [
        DefragMove(
            job=JobId(job),
            user="alice",
            account="vision",
            restarts=0,
            gpus=8,
            nodes=f"n{job}",
            to=f"n{job + 2}",
            leaf_groups_before=1,
            leaf_groups_after=after,
            lost_gpu_seconds=3600,
            why="burst",
        )
        for job in (1, 2)
    ]
    plan = DefragPlan(
        partition=PartitionName("own"),
        count=2,
        reason="",
        room="n[1-2]",
        span=FabricSpan(pods=1, leaf_groups=1),
        ideal=None,
        now=None,
        moves=tuple(moves),
        bound=bound,
        gap=2 - bound,
        unspread_bound=unspread_bound,
        lost_gpu_seconds=7200,
        lost_bound=lost_bound,
        staying=(),
    )
    print_plan(plan)
    said = capsys.readouterr().out.splitlines()
    assert f"{says} At most 2.0 GPU-hours are lost." in said
    assert ("A job ends on more leaf groups" in said[-1]) is (after > 1)


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
