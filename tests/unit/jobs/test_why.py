"""Why a job waits: each of Slurm's words, and the room for it, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from slurm_gpuaas.domain.capacity import Capacity, Largest, Level
from slurm_gpuaas.domain.job_reasons import LIMITS, REASONS, limit_meaning
from slurm_gpuaas.domain.jobs import Job, JobPlacement, JobState, PlacementOutcome
from slurm_gpuaas.domain.names import ClusterName
from slurm_gpuaas.domain.nodes import Node, NodeBase, NodeFlag
from slurm_gpuaas.domain.policy import expand_nodes
from slurm_gpuaas.jobs.gate_rules import free_nodes, occupied
from slurm_gpuaas.jobs.why import Room, meaning_of, room, sentences, way_out
from slurm_gpuaas.quota.limit_words import reason as limit_word
from slurm_gpuaas.slurm.limit_records import Kind
from tests.fakes import EPOCH, make_job, make_node
from tests.unit.gate.scene import pinned

HOUR = timedelta(hours=1)


# -- Slurm's words


@pytest.mark.parametrize(
    ("reason", "says", "out"),
    [
        ("None", "not looked at it yet", "Look again"),
        ("Priority", "higher priority", ""),
        ("Resources", "not free now", ""),
        ("Licenses", "licences that it asks for are in use", ""),
        ("JobHeldUser", "its user holds it", "`scontrol release 12`"),
        ("ReqNodeNotAvail, UnavailableNodes:n[1-2]", "down, drained or reserved", "Drop --nodelist"),
        ("QOSNotAllowed", "does not admit its QOS", "quota explain"),
        ("QOSGrpGRES", "as much as the QOS allows", "quota explain"),
        ("QOSGrpGRESRunMinutes", "until their time limits", "quota explain"),
        ("AssocGrpBilling", "account, or of one above it", "quota explain"),
        ("AssocGrpGRESMinutes", "budget does not pay", "`gpuaas budget`"),
        ("QOSMaxGRESPerJob", "more than a job may have", "Ask for less"),
        ("AssocMaxWallDurationPerJobLimit", "more than a job may have", "Ask for less"),
        ("QOSMaxJobsPerUserLimit", "may have at once", "quota explain"),
        ("MaxGRESPerAccount", "may have at once", "quota explain"),
        ("QOSMinGRES", "less than its QOS demands", "Ask for more"),
        ("AssociationJobLimit", "limit of its account or user", "quota explain"),
        ("Brand_New_Reason", "Slurm says Brand_New_Reason", "man squeue"),
    ],
)
def test_a_reason_is_a_sentence_and_a_way_out(reason: str, says: str, out: str) -> None:
    job = make_job(12, reason=reason)
    assert says in meaning_of(job).says
    assert way_out(job).startswith(out) or out in way_out(job)
    assert way_out(job) == "" or way_out(job).endswith(".")


def test_every_limit_that_quotas_know_has_a_meaning_of_its_own() -> None:
    tres = ("cpu", "mem", "node", "energy", "billing", "gres/gpu", "license/x", "fs/x")
    words = set()
    for kind in Kind:
        for qos in (True, False):
            try:
                words |= {limit_word(kind, one, qos=qos) for one in tres}
            except KeyError:
                continue  # a QOS has it and associations do not, or the other way round
    assert len(words) > 100
    assert [word for word in sorted(words) if limit_meaning(word) is None] == []


def test_only_limits_are_taken_for_limits() -> None:
    assert [word for word in REASONS if limit_meaning(word)] == []
    assert all(meaning.way_out for _, meaning in LIMITS)


def test_at_the_gate_waiting_for_its_licence_is_no_lack_of_licences() -> None:
    job = make_job(12, reason="Licenses", licenses="placement:1")
    assert "placement gate" in meaning_of(job).says
    assert "placement gate" not in meaning_of(replace(job, licenses="matlab:1")).says


# -- Room


def busy(job_id: int, *nodes: str, hours: int | None = 1, gpus: int | None = None) -> Job:
    limit = None if hours is None else hours * HOUR
    return make_job(job_id, state=JobState.RUNNING, nodes=nodes, started=EPOCH, time_limit=limit, gpus=gpus)


def room_for(
    job: Job, *, running: Sequence[Job] = (), nodes: Sequence[Node] = (), promised: Sequence[str] = ()
) -> Room | None:
    """On nodes n1 to n4, that are idle but for what runs there and for those given."""
    by_name = {name: make_node(name) for name in expand_nodes("n[1-4]")} | {node.name: node for node in nodes}
    for one in running:
        for name in one.nodes:
            taken = by_name[name].gpus_allocated + one.gpus // len(one.nodes)
            base = NodeBase.ALLOCATED if taken == by_name[name].gpus else NodeBase.MIXED
            by_name[name] = replace(by_name[name], gpus_allocated=taken, base=base)
    given = expand_nodes(",".join(promised)) if promised else ()
    return room(
        job,
        now=EPOCH,
        nodes=list(by_name.values()),
        jobs=running,
        free=free_nodes(by_name.values(), {*occupied(running), *given}),
        promised=given,
    )


@pytest.mark.parametrize(
    ("job", "running", "free", "hours"),
    [
        (make_job(9, node_count=4), [], 4, 0),
        (make_job(9, node_count=3), [busy(1, "n1", hours=5), busy(2, "n2", hours=2)], 2, 2),
        (make_job(9, node_count=4), [busy(1, "n1", hours=5), busy(2, "n2", hours=2)], 2, 5),
        (make_job(9, node_count=4), [busy(1, "n1", hours=5), busy(2, "n2", hours=None)], 2, None),
        (make_job(9, node_count=5), [], 4, None),
        (make_job(9, node_count=4), [busy(1, "n1", gpus=3), busy(2, "n1", hours=4, gpus=3)], 3, 4),
        (make_job(9, gpus=32), [], 4, 0),
        (make_job(9, gpus=2), [busy(1, "n1"), busy(2, "n2", "n3", "n4", hours=3)], 0, 1),
        (
            make_job(9, gpus=4),
            [busy(1, "n1", "n2", "n3", "n4", gpus=24), busy(2, "n1", hours=3, gpus=1), busy(3, "n2", hours=2, gpus=2)],
            0,
            1,
        ),
    ],
    ids=[
        "enough are free",
        "the first end makes enough",
        "the last end makes enough",
        "a job without a limit never ends",
        "more than the partition has",
        "a node is whole when its last job ends",
        "GPUs without a number of nodes",
        "a few GPUs on a node",
        "a few GPUs beside others",
    ],
)
def test_enough_nodes_by_time_limits(job: Job, running: list[Job], free: int, hours: int | None) -> None:
    found = room_for(job, running=running)
    assert found is not None
    assert (found.free, found.enough_at) == (free, None if hours is None else EPOCH + hours * HOUR)


def test_a_job_beyond_its_time_limit_ends_now() -> None:
    late = replace(busy(1, "n1", "n2", "n3", "n4"), started=EPOCH - 9 * HOUR)
    found = room_for(make_job(9), running=[late])
    assert found is not None
    assert (found.missing, found.enough_at) == (1, EPOCH)


def test_nodes_out_of_service_reserved_or_given_to_others_are_no_room() -> None:
    nodes = [make_node("n1", flags=NodeFlag.DRAIN), make_node("n2", flags=NodeFlag.RESERVED)]
    found = room_for(make_job(9, node_count=2), nodes=nodes, promised=["n3"])
    assert found is not None
    assert (found.free, found.missing, found.enough_at) == (1, 1, None)


def test_a_node_that_is_being_cleared_is_free_in_a_moment() -> None:
    nodes = [make_node(f"n{number}", flags=NodeFlag.COMPLETING) for number in range(1, 5)]
    for gpus in (2, 8):
        found = room_for(make_job(9, gpus=gpus), nodes=nodes)
        assert found is not None
        assert (found.free, found.enough_at) == (0, EPOCH)


def test_a_job_without_gpus_is_not_judged() -> None:
    assert room_for(make_job(9, gpus=0)) is None
    assert room_for(make_job(9), nodes=[make_node(f"n{number}", gpus=0) for number in range(1, 5)]) is None


# -- Sentences

CAPACITY = Capacity(
    partition=make_job(1).partition,
    nodes=4,
    free_nodes=3,
    free_gpus=24,
    largest=(
        Largest(level=Level.LEAF_GROUP, domain="pod/left", nodes=2, gpus=16),
        Largest(level=Level.POD, domain="pod", nodes=3, gpus=24),
        Largest(level=Level.FABRIC, domain="", nodes=3, gpus=24),
    ),
    compact=2,
    segments={1: 1, 2: 1},
    leaf_groups=2,
    idle_leaf_groups=1,
    gpus_on_nodes={8: 3},
    fragmentation=1 / 3,
    excess_leaf_groups=0,
    spread_jobs=0,
)


def decided(outcome: PlacementOutcome, nodes: str = "") -> JobPlacement:
    return JobPlacement(
        cluster=ClusterName("mini"),
        job_id=make_job(9).id,
        restarts=0,
        decided_at=EPOCH,
        outcome=outcome,
        nodes=expand_nodes(nodes) if nodes else (),
        reason="Because.",
    )


def test_a_waiting_job_is_told_reason_gate_lack_and_time() -> None:
    job = make_job(9, node_count=4, reason="Resources")
    lack = Room(whole=True, nodes=4, gpus_per_node=8, free=3, enough_at=EPOCH + HOUR)
    assert list(sentences(job, decided(PlacementOutcome.OPENED), lack, CAPACITY)) == [
        "Job 9 waits (Resources): what it asks for is not free now.",
        "The placement gate left it to Slurm at 2027-01-04 18:00 KST: Because.",
        "It needs 4 whole nodes; partition own has 3 free: 1 too few.",
        "By time limits there are enough at 2027-01-04 19:00 KST: sooner if jobs end before their limits, later if "
        "others go first.",
        "The largest job that could start there now: 2 in one leaf group, 3 in one pod, 3 in all.",
    ]


def test_a_job_of_a_few_gpus_is_not_told_of_leaf_groups() -> None:
    lack = Room(whole=False, nodes=1, gpus_per_node=2, free=0, enough_at=None)
    found = list(sentences(make_job(9, gpus=2, reason="Resources"), None, lack, CAPACITY))
    assert found[1:] == [
        "It needs 2 GPUs on a node; partition own has 0 free with as many GPUs: 1 too few.",
        "Time limits do not tell when: jobs without one run there, or too few nodes are in service.",
    ]


def test_a_job_that_was_given_nodes_is_told_which() -> None:
    found = list(sentences(pinned(9, "n[1-2]"), None, None, None))
    assert found[1] == "The placement gate gave it n[1-2] at 2027-01-04 18:00 KST; it starts there in a moment."


def at_the_gate(restarts: int = 0) -> Job:
    return make_job(9, node_count=2, reason="Licenses", licenses="placement:1", restarts=restarts)


def test_a_job_that_waits_for_better_nodes_is_told_what_is_kept_how_long_and_how_to_stop_it() -> None:
    waiting = replace(decided(PlacementOutcome.WAITING, "n[1-2]"), reason="It waits 1200 s at most.")
    assert list(sentences(at_the_gate(), waiting, None, None)) == [
        "Job 9 waits (Licenses): it waits at the placement gate for better nodes, as its user allows.",
        "The placement gate lets it wait and keeps n[1-2] for it, since 2027-01-04 18:00 KST: It waits 1200 s at most.",
    ]
    assert way_out(at_the_gate(), waiting) == "`scontrol update JobId=9 Comment=` ends this wait."


@pytest.mark.parametrize(
    ("job", "placement"),
    [
        (at_the_gate(), None),
        (at_the_gate(), decided(PlacementOutcome.OPENED)),
        (at_the_gate(restarts=1), decided(PlacementOutcome.WAITING, "n[1-2]")),
    ],
    ids=["before the first look", "opened in an earlier run", "waited in an earlier run"],
)
def test_any_other_job_at_the_gate_is_let_go_within_a_moment(job: Job, placement: JobPlacement | None) -> None:
    (only,) = sentences(job, placement, None, None)
    assert "lets it go within a moment" in only
    assert way_out(job, placement) == "Look again in a moment."


@pytest.mark.parametrize(
    ("placement", "says"),
    [
        (None, "Slurm chose these nodes: it did not go through the placement gate."),
        (decided(PlacementOutcome.PINNED, "n[1-2]"), "The placement gate chose these nodes: Because."),
        (decided(PlacementOutcome.PINNED, "n[3-4]"), "Slurm chose these nodes: the placement gate left it to Slurm. Because."),  # noqa: E501
        (decided(PlacementOutcome.OPENED), "Slurm chose these nodes: the placement gate left it to Slurm. Because."),
    ],
    ids=["no gate", "on the nodes given", "on others", "opened"],
)  # fmt: skip
def test_a_running_job_is_told_where_and_why_there(placement: JobPlacement | None, says: str) -> None:
    assert list(sentences(busy(9, "n1", "n2"), placement, None, None)) == [
        "Job 9 runs on n[1-2] since 2027-01-04 18:00 KST.",
        "It ends at 2027-01-04 19:00 KST at the latest, by its time limit.",
        says,
    ]


def test_a_job_that_has_ended_is_told_how() -> None:
    job = make_job(9, state=JobState.FAILED, reason="NonZeroExitCode")
    assert list(sentences(job, None, None, None)) == [
        "Job 9 has ended, FAILED (NonZeroExitCode): its script ended with an error."
    ]
    done = make_job(9, state=JobState.COMPLETED, reason="None")
    assert list(sentences(done, None, None, None)) == ["Job 9 has ended, COMPLETED."]
    assert (way_out(job), way_out(done)) == ("Its output file says which.", "")
