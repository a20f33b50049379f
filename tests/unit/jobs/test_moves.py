"""Who may be moved to make room, when a plan still holds, and what carrying it out does to Slurm."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from slurm_gpuaas.domain.errors import Conflict
from slurm_gpuaas.domain.jobs import Job, JobId, JobState
from slurm_gpuaas.domain.names import NodeName, PartitionName
from slurm_gpuaas.domain.nodes import Node, NodeFlag
from slurm_gpuaas.domain.policy import expand_nodes
from slurm_gpuaas.jobs.gate_rules import Move, Pin
from slurm_gpuaas.jobs.move_rules import MoveOrder, Standing, Terms, loss, standing, why
from slurm_gpuaas.jobs.mover import Mover
from slurm_gpuaas.slurm.protocols import SlurmRefused
from tests.fakes import EPOCH, FakeController, make_job, make_node
from tests.unit.gate.scene import FakeStore, pinned

NAMES = expand_nodes("n[1-8]")
NOW = EPOCH + timedelta(hours=2)
TERMS = Terms(
    partition=PartitionName("own"), guaranteed=False, min_run=timedelta(minutes=10), min_left=timedelta(minutes=30)
)


def burst(job_id: int = 1, nodes: str = "n[1-2]", **others: object) -> Job:
    fields = {"qos": "burst-own", "started": EPOCH, "time_limit": timedelta(hours=12), **others}
    names = [str(node) for node in expand_nodes(nodes)]
    return make_job(job_id, state=JobState.RUNNING, nodes=names, **fields)  # type: ignore[arg-type]


def seen(*jobs: Job, nodes: tuple[Node, ...] = (), terms: Terms = TERMS) -> Standing:
    by_name = {name: make_node(name) for name in NAMES} | {node.name: node for node in nodes}
    return standing(jobs, by_name, NAMES, terms, NOW)


def test_a_burst_job_of_whole_nodes_may_be_moved() -> None:
    found = seen(burst())
    assert ([job.id for job in found.movable], dict(found.staying)) == ([1], {})
    assert found.free == set(expand_nodes("n[3-8]"))
    assert found.usable == set(NAMES)
    assert loss(burst(), NOW) == 2 * 8 * 2 * 3600
    assert why(burst(), NOW) == "burst, may be requeued, runs 2.0 h, 10.0 h left"


@pytest.mark.parametrize(
    ("reason", "job", "node"),
    [
        ("suspended", replace(burst(), state=JobState.SUSPENDED), None),
        ("in another partition", burst(partition="all"), None),
        ("interactive or --no-requeue", burst(requeue=False), None),
        ("guaranteed", burst(qos="guaranteed-vision"), None),
        ("a task of an array", replace(burst(), array_job_id=JobId(1)), None),
        ("its user has a say in its nodes", replace(burst(), required_nodes=expand_nodes("n[1-2]")), None),
        ("its user has a say in its nodes", replace(burst(), excluded_nodes=expand_nodes("n8")), None),
        ("its user has a say in its nodes", replace(burst(), features="gen5"), None),
        ("its user has a say in its nodes", replace(burst(), reservation="maintenance"), None),
        ("on a node that is out of service, reserved or promised", burst(), make_node("n2", flags=NodeFlag.DRAIN)),
        ("on a node that is out of service, reserved or promised", burst(), make_node("n2", flags=NodeFlag.RESERVED)),
        ("not on whole nodes", burst(gpus=4), None),
        ("ran less than 10 min", burst(started=NOW - timedelta(minutes=9)), None),
        ("ends within 30 min", burst(time_limit=timedelta(minutes=149)), None),
    ],
)
def test_who_stays_and_why(reason: str, job: Job, node: Node | None) -> None:
    found = seen(job, nodes=() if node is None else (node,))
    assert (found.movable, dict(found.staying)) == ((), {reason: 1})


def test_a_job_that_shares_a_node_stays() -> None:
    assert dict(seen(burst(1, "n[1-2]"), burst(2, "n2")).staying) == {"not on whole nodes": 2}


def test_guaranteed_jobs_may_be_moved_when_they_are_asked_for() -> None:
    found = seen(burst(qos="guaranteed-vision"), terms=replace(TERMS, guaranteed=True))
    assert [job.id for job in found.movable] == [1]


def test_nodes_that_the_gate_gave_are_no_say_of_the_user() -> None:
    pin = Pin(nodes=frozenset(expand_nodes("n[1-2]")), restarts=0, at=EPOCH)
    job = replace(burst(), required_nodes=expand_nodes("n[1-2]"), admin_comment=pin.written_to(""))
    assert [one.id for one in seen(job).movable] == [1]


def test_nodes_that_waiting_jobs_were_given_are_neither_free_nor_to_be_cleared() -> None:
    found = seen(burst(1, "n1"), burst(2, "n4"), pinned(3, "n[1-2]"))
    assert found.free == set(expand_nodes("n[3,5-8]"))
    assert [job.id for job in found.movable] == [2]


ORDER = MoveOrder(job=JobId(1), restarts=0, nodes=expand_nodes("n[1-2]"), to=expand_nodes("n[5-6]"))
ROOM = expand_nodes("n[1-4]")


@pytest.mark.parametrize(
    ("differs", "order", "room", "jobs"),
    [
        ("", ORDER, ROOM, [burst()]),
        ("Job 1 has ended or may not be moved any more.", ORDER, ROOM, []),
        ("Job 1 has ended or may not be moved any more.", ORDER, ROOM, [burst(requeue=False)]),
        ("Job 1 runs on other nodes now.", ORDER, ROOM, [burst(nodes="n[2-3]")]),
        ("Job 1 runs on other nodes now.", ORDER, ROOM, [burst(restarts=1)]),
        ("Node n5 is not free any more.", ORDER, ROOM, [burst(), burst(2, "n5")]),
        ("Node n4 is not free any more.", ORDER, ROOM, [burst(), burst(2, "n4")]),
        ("A node or a job is named twice.", ORDER, expand_nodes("n[1-5]"), [burst()]),
        ("Job 1 runs on 2 nodes, and is to go to 1.", replace(ORDER, to=expand_nodes("n5")), ROOM, [burst()]),
        ("Node x1 is not free any more.", ORDER, expand_nodes("x1"), [burst()]),
    ],
)
def test_a_plan_is_held_against_what_is_so_now(
    differs: str, order: MoveOrder, room: tuple[NodeName, ...], jobs: list[Job]
) -> None:
    assert seen(*jobs).differs([order], room) == differs


def test_a_job_moves_once() -> None:
    again = replace(ORDER, to=expand_nodes("n[7-8]"))
    assert seen(burst()).differs([ORDER, again], ROOM) == "A node or a job is named twice."


# -- Carrying out ------------------------------------------------------------------------------------------------------


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def slurm() -> FakeController:
    slurm = FakeController([make_node(name) for name in NAMES])
    for job_id, node in ((1, "n2"), (2, "n3")):
        slurm.job_by_id[JobId(job_id)] = make_job(job_id, admin_comment="ticket 7")
        slurm.start(job_id, [node])
    return slurm


def carry_out(slurm: FakeController, store: FakeStore) -> None:
    jobs = slurm.job_by_id
    moves = [(jobs[JobId(1)], expand_nodes("n5")), (jobs[JobId(2)], expand_nodes("n6"))]
    mover = Mover(slurm=slurm, audit=store, clock=slurm.clock, requeued=lambda: slurm.calls.append("wake"))
    mover.carry_out(moves, room=ROOM, actor="root")


def test_every_job_has_its_note_before_the_first_is_requeued(slurm: FakeController, store: FakeStore) -> None:
    carry_out(slurm, store)
    assert slurm.calls == ["update_job", "update_job", "requeue", "requeue", "wake"]
    for job_id, node in ((1, "n5"), (2, "n6")):
        job = slurm.job_by_id[JobId(job_id)]
        assert Move.of(job) == Move(nodes=frozenset(expand_nodes(node)), restarts=0, at=EPOCH)
        assert job.admin_comment.startswith("ticket 7 ")
    assert [(entry.action, entry.actor, entry.evidence["to"]) for entry in store.entries] == [
        ("job.move", "root", "n5"),
        ("job.move", "root", "n6"),
    ]


def test_a_job_that_ended_meanwhile_stops_all_before_anything_is_lost(slurm: FakeController, store: FakeStore) -> None:
    def end_it(method: str) -> None:
        if slurm.calls.count("update_job") == 2:
            slurm.finish(2)

    slurm.before = end_it
    with pytest.raises(Conflict, match="Job 2 cannot move, so none did"):
        carry_out(slurm, store)
    assert "requeue" not in slurm.calls
    assert not store.entries


def test_a_refused_requeue_stops_the_rest_and_says_how_far_it_got(slurm: FakeController, store: FakeStore) -> None:
    def refuse(method: str) -> None:
        if slurm.calls.count("requeue") == 2:
            raise SlurmRefused("Requested operation is presently disabled (test).")

    slurm.before = refuse
    with pytest.raises(Conflict, match="1 of 2 jobs moved; job 2 was not requeued"):
        carry_out(slurm, store)
    assert slurm.calls[-1] == "wake", "the job that moved waits for the gate"


def test_the_gate_does_not_look_between_the_requeues(slurm: FakeController, store: FakeStore) -> None:
    @contextmanager
    def quiet() -> Iterator[None]:
        slurm.calls.append("quiet")
        yield
        slurm.calls.append("looks again")

    jobs = slurm.job_by_id
    moves = [(jobs[JobId(1)], expand_nodes("n5")), (jobs[JobId(2)], expand_nodes("n6"))]
    Mover(slurm=slurm, audit=store, clock=slurm.clock, quiet=quiet).carry_out(moves, room=ROOM, actor="root")
    assert slurm.calls[-4:] == ["quiet", "requeue", "requeue", "looks again"]


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("step", range(1, 5))
@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_at_any_call_a_job_is_requeued_with_its_note_or_runs_on(
    slurm: FakeController, store: FakeStore, moment: str, step: int
) -> None:
    def kill(method: str) -> None:
        if len(slurm.calls) == step:
            raise Killed

    setattr(slurm, moment, kill)
    with pytest.raises(Killed):
        carry_out(slurm, store)
    for job in slurm.job_by_id.values():
        assert (job.state is JobState.RUNNING) == (Move.of(job) is None)
        told = [entry for entry in store.entries if entry.subject == str(job.id)]
        assert job.state is JobState.RUNNING or told, "a requeue that nobody can read of"
