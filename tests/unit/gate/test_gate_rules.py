"""The gate's decisions, as tables. Leaf group left = n1..n4, right = n5..n8."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_gpuaas.domain.giving_way import GivingWay
from slurm_gpuaas.domain.jobs import Job, JobId, JobState
from slurm_gpuaas.domain.names import NodeName, PartitionName, QosName
from slurm_gpuaas.domain.nodes import Node, NodeBase, NodeFlag
from slurm_gpuaas.domain.policy import fold_nodes
from slurm_gpuaas.jobs import gate_rules
from slurm_gpuaas.jobs.gate import change_for
from slurm_gpuaas.jobs.gate_rules import Decision, Kept, Move, Pin, decide, without_gate, without_pin
from tests.fakes import EPOCH, make_job, make_node
from tests.unit.gate.scene import GATED, NODES, PLACER, gated, names, picture, pinned

DRAINED = NodeFlag.DRAIN


def running(job_id: int, nodes: str) -> Job:
    return make_job(job_id, state=JobState.RUNNING, nodes=[str(n) for n in names(nodes)])


def brief(decisions: list[Decision]) -> list[tuple[int, str | None]]:
    """(job, its nodes) or (job, None) when it is opened."""
    return [(d.job.id, fold_nodes(d.placement.nodes) if d.placement else None) for d in decisions]


@pytest.mark.parametrize(
    ("rule", "jobs", "nodes", "expected"),
    [
        ("an idle cluster: one whole leaf group", [gated(1)], [], [(1, "n[1-4]")]),
        (
            "one leaf group although node order would spread it",
            [gated(1)],
            [make_node("n2", flags=DRAINED)],
            [(1, "n[5-8]")],
        ),
        ("a running job's nodes are not free", [running(9, "n1"), gated(1)], [], [(1, "n[5-8]")]),
        (
            "one node goes where a leaf group is broken already",
            [running(9, "n6"), gated(1, 1)],
            [],
            [(1, "n5")],
        ),
        ("what is left over is the least", [running(9, "n[4,7-8]"), gated(1, 1)], [], [(1, "n5")]),
        (
            "what is left over is for the pairs that wait",
            [running(9, "n[4,7-8]"), gated(1, 1), make_job(2, node_count=2), make_job(3, node_count=2)],
            [],
            [(1, "n1")],
        ),
        ("not enough free: opened", [running(9, "n[1-3,5-7]"), gated(1)], [], [(1, None)]),
        ("two jobs get two leaf groups", [gated(1), gated(2)], [], [(1, "n[1-4]"), (2, "n[5-8]")]),
        (
            "the higher priority chooses first",
            [gated(1, 8), gated(2, 4, priority=5)],
            [],
            [(2, "n[1-4]"), (1, None)],
        ),
        (
            "nodes given a moment ago are not given again",
            [pinned(1, "n[1-4]"), gated(2), gated(3)],
            [],
            [(2, "n[5-8]"), (3, None)],
        ),
        (
            "an array is opened: a change would pin every task",
            [replace(gated(1), array_job_id=JobId(1))],
            [],
            [(1, None)],
        ),
        ("a user's own node list is left alone", [replace(gated(1), required_nodes=names("n[2-5]"))], [], [(1, None)]),
        ("a job in a reservation is opened", [replace(gated(1), reservation="maint")], [], [(1, None)]),
        ("a job that excludes nodes is opened", [replace(gated(1), excluded_nodes=names("n8"))], [], [(1, None)]),
        ("a job that asks for features is opened", [replace(gated(1), features="gen5")], [], [(1, None)]),
        ("a job that a limit holds is opened", [replace(gated(1), reason="QOSGrpGRES")], [], [(1, None)]),
        ("an unknown partition is opened", [gated(1, partition="all")], [], [(1, None)]),
        (
            "a few GPUs go where they fit tightest",
            [gated(1, 1, gpus=2)],
            [
                make_node("n3", base=NodeBase.MIXED, gpus_allocated=4),
                make_node("n7", base=NodeBase.MIXED, gpus_allocated=6),
            ],
            [(1, "n7")],
        ),
        (
            "on an idle node, one of a leaf group that is broken already",
            [running(9, "n6"), gated(1, 1, gpus=2)],
            [make_node("n6", base=NodeBase.ALLOCATED, gpus_allocated=8)],
            [(1, "n5")],
        ),
        ("a few GPUs on several nodes are Slurm's to pack", [gated(1, 2, gpus=4)], [], [(1, None)]),
        ("a held job stays at the gate", [gated(1, priority=0)], [], []),
        (
            "a held job keeps nobody from the nodes it was given",
            [replace(pinned(1, "n[1-4]"), priority=0), gated(2, 8)],
            [],
            [(2, "n[1-8]")],
        ),
        ("a job with a dependency stays", [replace(gated(1), reason="Dependency")], [], []),
        ("a job that is not eligible stays", [gated(1, eligible=EPOCH + timedelta(hours=1))], [], []),
        ("a job without the licence is not ours", [make_job(1, node_count=4)], [], []),
        ("a reserved node is not free", [gated(1, 8)], [make_node("n1", flags=NodeFlag.RESERVED)], [(1, None)]),
        (
            "a node that is being cleared is not free",
            [gated(1, 8)],
            [make_node("n1", flags=NodeFlag.COMPLETING)],
            [(1, None)],
        ),
        (
            "a job whose pinned node broke before its start is let go",
            [pinned(1, "n[1-4]")],
            [make_node("n3", flags=DRAINED)],
            [(1, None)],
        ),
        (
            "a job that a limit holds on its nodes is let go",
            [pinned(1, "n[1-4]", reason="QOSGrpGRES")],
            [],
            [(1, None)],
        ),
        (
            "a requeued job keeps its survivors and gets a spare",
            [pinned(1, "n[1-4]", restarts=1)],
            [make_node("n3", flags=DRAINED)],
            [(1, "n[1-2,4-5]")],
        ),
        (
            "a requeued job that lost its nodes to another moves",
            [running(9, "n[1-4]"), pinned(1, "n[1-4]", restarts=1)],
            [],
            [(1, "n[5-8]")],
        ),
        (
            "a requeued job without a spare is let go",
            [running(9, "n[5-8]"), pinned(1, "n[1-4]", restarts=1)],
            [make_node("n3", base=NodeBase.DOWN)],
            [(1, None)],
        ),
    ],
)
def test_decisions(rule: str, jobs: list[Job], nodes: list[Node], expected: list[tuple[int, str | None]]) -> None:
    assert brief(decide(picture(jobs, nodes), PLACER)) == expected, rule


BURST_QOS = QosName("burst-own")
BURST = [
    running(8, "n[1-4]"),
    running(9, "n[5-8]"),
]


def ruling(job: int, *victims: int, waits: bool = False) -> GivingWay:
    return GivingWay(job=JobId(job), victims=tuple(map(JobId, victims)), waits=waits, why="ruled.")


@pytest.mark.parametrize(
    ("rule", "jobs", "rulings", "expected"),
    [
        ("its guarantee is in use: it stays", [gated(1)], [ruling(1, waits=True)], []),
        ("also when a limit is Slurm's word for it", [replace(gated(1), reason="QOSGrpGRES")],
         [ruling(1, waits=True)], []),
        ("free nodes come before victims", [gated(1)], [ruling(1, 9)], [(1, "n[1-4]")]),
        ("it gets the victims' nodes", [*BURST, gated(1)], [ruling(1, 9)], [(1, "n[5-8]")]),
        ("and free ones beside them", [BURST[0], running(9, "n[5-6]"), gated(1)], [ruling(1, 9)], [(1, "n[5-8]")]),
        ("victims that would not do: Slurm decides", [*BURST, gated(1, 6)], [ruling(1, 9)], [(1, None)]),
        ("nobody can make room: Slurm decides", [*BURST, gated(1)], [ruling(1)], [(1, None)]),
        ("a node that another job shares with a victim is not freed",
         [running(7, "n8"), *BURST, gated(1)], [ruling(1, 9)], [(1, None)]),
        ("two jobs do not get the same victim's nodes",
         [*BURST, gated(1), gated(2)], [ruling(1, 9), ruling(2, 9)], [(1, "n[5-8]"), (2, None)]),
        ("a job of a few GPUs gets a victim's node",
         [*(replace(job, gpus=32) for job in BURST), gated(1, 1, gpus=2)], [ruling(1, 9)], [(1, "n5")]),
        ("but not where Slurm could take somebody else",
         [*(replace(job, gpus=16, qos=BURST_QOS) for job in (*BURST, running(7, "n[5-8]"))), gated(1, 1, gpus=2)],
         [ruling(1, 9)], [(1, None)]),
        ("free GPUs come before victims", [BURST[0], gated(1, 1, gpus=2)], [ruling(1, 8)], [(1, "n5")]),
    ],
)  # fmt: skip
def test_who_gives_way_is_the_quota_cores_word(
    rule: str, jobs: list[Job], rulings: list[GivingWay], expected: list[tuple[int, str | None]]
) -> None:
    busy = [
        make_node(str(node), base=NodeBase.ALLOCATED, gpus_allocated=8)
        for job in jobs
        if job.state is JobState.RUNNING
        for node in job.nodes
    ]
    seen = replace(picture(jobs, busy), rulings={one.job: one for one in rulings})
    decisions = decide(seen, PLACER)
    assert brief(decisions) == expected, rule
    taken = {node for job in jobs if job.state is JobState.RUNNING for node in job.nodes}
    for one in decisions:
        gets = set(one.placement.nodes) if one.placement else set()
        assert bool(one.victims) == bool(gets & taken), "victims are named exactly when their nodes are given"


MINUTES_10 = timedelta(minutes=10)
SOON = replace(running(9, "n[7-8]"), started=EPOCH, time_limit=timedelta(minutes=1))
SPREAD = [running(8, "n[1-2]"), SOON]
"""What is free, n3 to n6, is of two leaf groups; in a minute one is wholly free."""
LATE = [running(8, "n[1-2]"), replace(SOON, time_limit=timedelta(hours=9))]


def patient(count: int = 4, wait: str = "10m", hours: int = 10, priority: int = 1) -> Job:
    job = gated(1, count, time_limit=timedelta(hours=hours), priority=priority)
    return replace(job, comment=f"run 7 gpuaas:wait={wait}")


@pytest.mark.parametrize(
    ("rule", "jobs", "kept", "later", "expected"),
    [
        ("two leaf groups, one would do: it waits", [*SPREAD, patient()], "", 0, ("n[3-6]", 600)),
        ("its user allows no wait", [*SPREAD, gated(1)], "", 0, ("n[3-6]", None)),
        ("no longer than its user allows", [*SPREAD, patient(wait="90s")], "", 0, ("n[3-6]", 90)),
        ("no longer than a twentieth of its time", [*SPREAD, patient(hours=1)], "", 0, ("n[3-6]", 180)),
        ("no longer than the site allows", [*SPREAD, patient(wait="9h")], "", 0, ("n[3-6]", 1200)),
        ("what is free is as good as it gets", [SPREAD[0], patient()], "", 0, ("n[5-8]", None)),
        ("by time limits nothing better comes in time", [*LATE, patient()], "", 0, ("n[3-6]", None)),
        ("that ends a wait, too", [*LATE, patient()], "n[3-6]", 300, ("n[3-6]", None)),
        ("of an idle leaf group a part: no other comes", [SPREAD[0], patient(count=3)], "", 0, ("n[5-7]", None)),
        (
            "a whole leaf group need not be broken: in a minute three others are free",
            [SPREAD[0], replace(SOON, nodes=names("n3"), node_count=1), patient(count=2)],
            "",
            0,
            ("n[5-6]", 600),
        ),
        ("its user allows less now", [*SPREAD, patient(wait="2m")], "n[3-6]", 300, ("n[3-6]", None)),
        ("it has grown since", [*SPREAD, patient(count=3)], "n[3-6]", 300, ("n[3-5]", None)),
        ("of one node all are alike", [SPREAD[0], running(9, "n[3-4]"), patient(count=1)], "", 0, ("n5", None)),
        ("it goes on waiting", [*SPREAD, patient()], "n[3-6]", 300, ("n[3-6]", 300)),
        ("what it could have is lent meanwhile", [*SPREAD, running(7, "n3"), patient()], "n[3-6]", 300, (None, 300)),
        ("a better place has come", [SPREAD[0], patient()], "n[3-6]", 300, ("n[5-8]", None)),
        ("its wait ends", [*SPREAD, patient()], "n[3-6]", 600, ("n[3-6]", None)),
        (
            "who is still on its nodes leaves in a moment",
            [*SPREAD, running(7, "n3"), patient()],
            "n[3-6]",
            600,
            ("n[3-6]", None),
        ),
        (
            "another job is next: it goes at once",
            [*SPREAD, patient(), make_job(2, node_count=9, priority=5, reason="Resources")],
            "",
            0,
            ("n[3-6]", None),
        ),
        (
            "one that a limit holds is not next",
            [*SPREAD, patient(), make_job(2, node_count=9, priority=5, reason="QOSGrpGRES")],
            "",
            0,
            ("n[3-6]", 600),
        ),
    ],
)
def test_a_job_waits_for_better_nodes_within_its_users_bound(
    rule: str, jobs: list[Job], kept: str, later: int, expected: tuple[str | None, int | None]
) -> None:
    seen = picture(jobs, later=timedelta(seconds=later))
    holds = {JobId(1): Kept(frozenset(names(kept)), EPOCH + MINUTES_10)} if kept else {}
    (decision,) = decide(replace(seen, kept=holds, longest_wait=timedelta(minutes=20)), PLACER)
    seconds = round((decision.until - seen.now).total_seconds()) if decision.until else None
    nodes = fold_nodes(decision.placement.nodes) if decision.placement else None
    assert (nodes, seconds) == expected, rule


def test_a_kept_node_that_leaves_service_ends_the_wait() -> None:
    kept = {JobId(1): Kept(frozenset(names("n[3-6]")), EPOCH + MINUTES_10)}
    seen = picture([*SPREAD, patient()], [make_node("n3", flags=DRAINED)])
    (decision,) = decide(replace(seen, kept=kept, longest_wait=MINUTES_10), PLACER)
    assert brief([decision]) == [(1, None)]


def test_when_the_wait_is_over_its_own_reserved_nodes_are_free_for_it_alone() -> None:
    kept = {JobId(1): Kept(frozenset(names("n[3-6]")), EPOCH)}
    reserved = [make_node(str(name), flags=NodeFlag.RESERVED) for name in names("n[3-6]")]
    seen = picture([*SPREAD, patient(), gated(2, 1)], reserved)
    assert brief(decide(replace(seen, kept=kept), PLACER)) == [(1, "n[3-6]"), (2, None)]


def test_nodes_of_a_reservation_to_come_are_for_jobs_that_end_before_it() -> None:
    maintenance = [Kept(frozenset(names("n[1-4]")), EPOCH + timedelta(hours=2))]
    for limit, nodes in ((timedelta(hours=1), "n[1-4]"), (timedelta(hours=3), "n[5-8]"), (None, "n[5-8]")):
        seen = replace(picture([gated(1, time_limit=limit)]), reserved=maintenance)
        assert brief(decide(seen, PLACER)) == [(1, nodes)], limit
    again = replace(pinned(1, "n[4-6]", restarts=1), time_limit=timedelta(hours=3))
    assert brief(decide(replace(picture([again]), reserved=maintenance), PLACER)) == [(1, "n[5-7]")]


def test_a_job_that_slurm_held_for_the_nodes_it_was_given_is_opened_without_them() -> None:
    held = replace(pinned(1, "n[1-4]"), priority=0)
    (decision,) = decide(picture([replace(held, reason="BadConstraints")]), PLACER)
    assert (decision.placement, decision.clears_pin, decision.unholds) == (None, True, True)
    for reason in ("JobHeldUser", "JobHeldAdmin"):
        assert not decide(picture([replace(held, reason=reason)]), PLACER), "somebody holds it"
    never = replace(make_job(2, priority=0, reason="BadConstraints"), required_nodes=names("n9"))
    assert not decide(picture([never]), PLACER), "its user asks for what there is not"


def test_a_job_that_can_never_start_is_not_the_next_one() -> None:
    for reason in ("PartitionNodeLimit", "PartitionTimeLimit", "BadConstraints", "QOSMaxNodePerJobLimit"):
        jobs = [*SPREAD, patient(), make_job(2, node_count=9, priority=5, reason=reason)]
        (decision,) = decide(replace(picture(jobs), longest_wait=MINUTES_10), PLACER)
        assert decision.until, reason


def test_jobs_of_a_few_gpus_share_a_node() -> None:
    jobs = [gated(number, 1, gpus=3) for number in range(1, 4)]
    assert brief(decide(picture(jobs), PLACER)) == [(1, "n1"), (2, "n1"), (3, "n2")]
    waits = replace(gated(4, 1, gpus=3), licenses="", required_nodes=names("n1"))
    pin = Pin(nodes=frozenset(names("n1")), restarts=0, at=EPOCH)
    waits = replace(waits, admin_comment=pin.written_to(""))
    assert brief(decide(picture([waits, *jobs]), PLACER)) == [(1, "n1"), (2, "n2"), (3, "n2")]
    assert brief(decide(picture([gated(1, 4), *jobs[1:]]), PLACER)) == [(1, "n[1-4]"), (2, "n5"), (3, "n5")]


def test_a_job_without_gpus_is_slurms_to_place() -> None:
    assert brief(decide(picture([gated(1, 1, gpus=0)]), PLACER)) == [(1, None)]


def test_nodes_kept_for_one_job_are_lent_to_those_who_end_in_time() -> None:
    kept = {JobId(1): Kept(frozenset(names("n[3-6]")), EPOCH + MINUTES_10)}
    for limit, nodes in ((timedelta(minutes=9), "n[3-4]"), (timedelta(hours=1), None), (None, None)):
        jobs = [*SPREAD, patient(priority=9), gated(2, 2, time_limit=limit)]
        waits, other = decide(replace(picture(jobs), kept=kept, longest_wait=MINUTES_10), PLACER)
        assert waits.until
        assert brief([other]) == [(2, nodes)], limit


def test_nodes_that_fail_least_are_taken() -> None:
    seen = replace(picture([gated(1, 2)]), risks={names("n1")[0]: 0.2})
    (decision,) = decide(seen, PLACER)
    assert brief([decision]) == [(1, "n[2-3]")]
    (decision,) = decide(replace(seen, jobs=[gated(1, 4)]), PLACER)
    assert brief([decision]) == [(1, "n[5-8]")]


def test_a_job_whose_victims_are_in_their_grace_time_keeps_its_nodes() -> None:
    jobs = [running(9, "n[1-4]"), pinned(1, "n[1-4]", reason="Resources")]
    grace = {PartitionName("own"): timedelta(seconds=20)}
    for later, kept in ((27, True), (29, False)):
        seen = replace(picture(jobs, later=timedelta(seconds=later)), grace=grace)
        assert (decide(seen, PLACER) == []) is kept


@pytest.mark.parametrize(
    ("seconds", "flags", "expected"),
    [
        (8, NodeFlag.NONE, []),
        (9, NodeFlag.NONE, [(1, None)]),
        (9, NodeFlag.COMPLETING, []),
    ],
    ids=["patience lasts", "patience is over", "an earlier job is just leaving"],
)
def test_a_job_that_does_not_start_on_its_nodes_is_let_go(
    seconds: int, flags: NodeFlag, expected: list[tuple[int, str | None]]
) -> None:
    scene = picture([pinned(1, "n[1-4]")], [make_node("n1", flags=flags)], later=timedelta(seconds=seconds))
    assert brief(decide(scene, PLACER)) == expected


def test_letting_go_takes_the_nodes_back() -> None:
    (decision,) = decide(picture([pinned(1, "n[1-4]", reason="AssocGrpGRESMinutes")]), PLACER)
    assert decision.clears_pin
    assert decision.reason == "A limit holds it: AssocGrpGRESMinutes."


def test_a_requeued_job_does_not_wait_for_its_clearing_nodes_to_be_free() -> None:
    clearing = NodeFlag.COMPLETING
    nodes = [make_node(f"n{i}", base=NodeBase.ALLOCATED, flags=clearing, gpus_allocated=8) for i in (1, 2, 4)]
    nodes.append(make_node("n3", flags=DRAINED))
    assert brief(decide(picture([pinned(1, "n[1-4]", restarts=1)], nodes), PLACER)) == [(1, "n[1-2,4-5]")]


def test_a_requeued_job_with_nodes_of_its_users_choice_is_left_alone() -> None:
    job = replace(make_job(1, node_count=4, restarts=1), required_nodes=names("n[1-4]"))
    assert decide(picture([job], [make_node("n3", flags=DRAINED)]), PLACER) == []


def test_for_a_moment_after_a_requeue_slurm_calls_it_a_one_node_job() -> None:
    job = replace(pinned(1, "n[1-4]", restarts=1), node_count=1)
    assert brief(decide(picture([job], [make_node("n3", flags=DRAINED)]), PLACER)) == [(1, "n[1-2,4-5]")]


def moving(job: Job, to: str, *, seen: int = 0) -> Job:
    """The job with a note to move, written when it had restarted `seen` times."""
    note = Move(nodes=frozenset(names(to)), restarts=seen, at=EPOCH)
    return replace(job, admin_comment=note.written_to(job.admin_comment))


PLACED = pinned(1, "n[1-2]", restarts=1)
UNPLACED = make_job(1, node_count=2, restarts=1)


@pytest.mark.parametrize(
    ("rule", "jobs", "nodes", "minutes", "expected"),
    [
        ("a placed job goes where it was told", [moving(PLACED, "n[7-8]")], [], 0, [(1, "n[7-8]")]),
        ("so does one that Slurm placed", [moving(UNPLACED, "n[7-8]")], [], 0, [(1, "n[7-8]")]),
        (
            "and one that still asks for the gate's licence",
            [moving(replace(UNPLACED, licenses=GATED), "n[7-8]")],
            [],
            0,
            [(1, "n[7-8]")],
        ),
        (
            "also where another job is just leaving",
            [moving(PLACED, "n[7-8]")],
            [make_node("n7", base=NodeBase.ALLOCATED, flags=NodeFlag.COMPLETING)],
            0,
            [(1, "n[7-8]")],
        ),
        (
            "nobody else gets those nodes",
            [moving(PLACED, "n[7-8]"), pinned(2, "n[7-8]", restarts=1), gated(3, 4)],
            [],
            0,
            [(1, "n[7-8]"), (2, "n[5-6]"), (3, "n[1-4]")],
        ),
        ("ten minutes old it still holds", [moving(PLACED, "n[7-8]")], [], 10, [(1, "n[7-8]")]),
        ("older, the job keeps its survivors", [moving(PLACED, "n[7-8]")], [], 11, [(1, "n[1-2]")]),
        ("older, an unplaced job is left to Slurm", [moving(UNPLACED, "n[7-8]")], [], 11, []),
        (
            "one of an earlier run means nothing",
            [moving(replace(PLACED, restarts=2), "n[7-8]")],
            [],
            0,
            [(1, "n[1-2]")],
        ),
        ("a node that is taken: its survivors", [moving(PLACED, "n[7-8]"), running(9, "n8")], [], 0, [(1, "n[1-2]")]),
        (
            "a node that is promised: its survivors",
            [moving(PLACED, "n[7-8]"), pinned(2, "n8")],
            [],
            0,
            [(1, "n[1-2]")],
        ),
        (
            "a node that left service: its survivors",
            [moving(PLACED, "n[7-8]")],
            [make_node("n8", flags=DRAINED)],
            0,
            [(1, "n[1-2]")],
        ),
        ("a node that the fabric does not know", [moving(PLACED, "n[8-9]")], [], 0, [(1, "n[1-2]")]),
        ("a held job waits", [moving(replace(UNPLACED, priority=0), "n[7-8]")], [], 0, []),
        ("a limit: Slurm's", [moving(replace(UNPLACED, reason="QOSGrpGRES"), "n[7-8]")], [], 0, []),
    ],
)
def test_a_job_that_was_requeued_to_make_room(
    rule: str, jobs: list[Job], nodes: list[Node], minutes: int, expected: list[tuple[int, str | None]]
) -> None:
    seen = picture(jobs, nodes, later=timedelta(minutes=minutes))
    assert brief(decide(seen, PLACER)) == expected, rule


def test_a_job_that_moved_keeps_no_note_of_it() -> None:
    job = moving(replace(PLACED, admin_comment="ticket 7 " + PLACED.admin_comment), "n[7-8]")
    assert Pin.of(job) == Pin.of(PLACED), "the note stands beside the pin"
    (decision,) = decide(picture([job]), PLACER)
    assert decision.reason.startswith("Moved to make room: ")
    comment = change_for(decision, EPOCH).admin_comment
    assert comment is not None
    assert comment.startswith("ticket 7 gpuaas:placed(n[7-8];1;")
    assert "gpuaas:move" not in comment


@pytest.mark.parametrize(
    ("licenses", "rest"),
    [("placement:1", ""), ("matlab:2,placement:1", "matlab:2"), ("placement", ""), ("placement@site:1,a", "a")],
)
def test_only_the_gates_licence_is_cleared(licenses: str, rest: str) -> None:
    assert gate_rules.asks(make_job(1, licenses=licenses))
    assert without_gate(licenses) == rest


def test_another_licence_is_not_the_gates() -> None:
    assert not gate_rules.asks(make_job(1, licenses="placements:1,xplacement:2"))


class TestPin:
    def test_comes_back_from_the_job_it_was_written_to(self) -> None:
        pin = Pin(nodes=frozenset(names("n[1-4]")), restarts=2, at=EPOCH)
        job = replace(make_job(1), required_nodes=names("n[1-4]"), admin_comment=pin.written_to("ticket 7"))
        assert Pin.of(job) == pin
        assert without_pin(job.admin_comment) == "ticket 7"

    def test_a_newer_one_takes_the_place_of_an_older(self) -> None:
        older = Pin(nodes=frozenset(names("n1")), restarts=0, at=EPOCH).written_to("ticket 7")
        newer = Pin(nodes=frozenset(names("n2")), restarts=0, at=EPOCH).written_to(older)
        assert newer.count("gpuaas:placed") == 1
        assert newer.startswith("ticket 7 ")

    def test_is_not_ours_when_somebody_changed_the_nodes(self) -> None:
        assert Pin.of(replace(pinned(1, "n[1-4]"), required_nodes=names("n[1-3]"))) is None

    @given(st.text())
    def test_hostile_comments_are_no_pins(self, text: str) -> None:
        job = replace(make_job(1), required_nodes=names("n1"), admin_comment=f"gpuaas:placed({text})")
        assert Pin.of(job) is None or "n1" in text


@given(
    down=st.sets(st.sampled_from(NODES), max_size=6),
    counts=st.lists(st.integers(1, 8), max_size=5),
    ages=st.lists(st.integers(0, 20), min_size=5, max_size=5),
)
def test_every_job_at_the_gate_is_decided_at_once_and_no_node_is_given_twice(
    down: set[NodeName], counts: list[int], ages: list[int]
) -> None:
    jobs = [gated(i, count, priority=1 + age) for i, (count, age) in enumerate(zip(counts, ages, strict=False))]
    decisions = decide(picture(jobs, [make_node(node, flags=DRAINED) for node in down]), PLACER)
    assert {decision.job.id for decision in decisions} == {job.id for job in jobs}
    given = [node for decision in decisions if decision.placement for node in decision.placement.nodes]
    assert len(given) == len(set(given))
    assert not set(given) & down
    for decision in decisions:
        assert decision.placement is None or len(decision.placement.nodes) == decision.job.node_count


def test_an_unknown_partition_says_so() -> None:
    (decision,) = decide(picture([replace(gated(1), partition=PartitionName("all"))]), PLACER)
    assert decision.reason == "The nodes of partition all are not declared in the policy."


def test_licences_of_the_scene_are_the_gates() -> None:
    assert gate_rules.asks(make_job(1, licenses=GATED))


def test_a_node_is_kept_from_jobs_over_its_limit_and_serves_smaller_ones() -> None:
    lemon = names("n1")[0]
    kept_off = replace(picture([gated(1, 4)]), limits={lemon: 2})
    (large,) = decide(kept_off, PLACER)
    assert large.placement is not None and set(large.placement.nodes) == set(names("n[5-8]"))
    whole = replace(picture([gated(1, 8)]), limits={lemon: 2})
    assert [one.placement for one in decide(whole, PLACER)] == [None]
    small = replace(
        picture([gated(1, 2)], [make_node(name, base=NodeBase.DOWN) for name in names("n[3-8]")]), limits={lemon: 2}
    )
    (fits,) = decide(small, PLACER)
    assert fits.placement is not None and lemon in fits.placement.nodes
