"""What is seen of nodes over time."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from slurm_gpuaas.domain.audit import AuditEntry
from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.names import NodeName, UserName
from slurm_gpuaas.domain.node_life import LimitKind, NodeLimit
from slurm_gpuaas.domain.nodes import NodeBase, NodeFlag
from slurm_gpuaas.domain.outages import Exclusion, OutageCause, RunCount
from slurm_gpuaas.domain.usage import Preemption
from slurm_gpuaas.store import Store
from tests.fakes import EPOCH, make_node

MINUTE = timedelta(minutes=1)
N1 = NodeName("n1")
GOOD = make_node("n1")
DRAINED = replace(GOOD, flags=NodeFlag.DRAIN, reason="cable swap")


def outages(store: Store) -> list[tuple[str, float, float | None]]:
    return [
        (one.cause.value, (one.since - EPOCH) / MINUTE, None if one.until is None else (one.until - EPOCH) / MINUTE)
        for one in store.observations.outages()
    ]


def test_an_outage_lasts_from_when_it_is_seen_to_when_it_is_not(store: Store) -> None:
    seen = store.observations
    assert seen.watched_since() is None
    assert seen.follow([GOOD], EPOCH) == 0
    assert seen.watched_since() == EPOCH
    assert seen.follow([DRAINED], EPOCH + MINUTE) == 1
    assert seen.follow([DRAINED], EPOCH + 2 * MINUTE) == 0, "nothing is written while nothing changes"
    assert seen.follow([GOOD], EPOCH + 3 * MINUTE) == 1
    assert outages(store) == [("person", 1, 3)]
    assert seen.watched_since() == EPOCH


def test_when_whose_doing_it_is_changes_another_outage_begins(store: Store) -> None:
    store.observations.follow([DRAINED], EPOCH)
    store.observations.follow([replace(DRAINED, reason="gpuaas:i1: XID 79")], EPOCH + MINUTE)
    assert outages(store) == [("person", 0, 1), ("fault", 1, None)]


def test_a_node_that_slurm_has_no_more_is_out_no_more(store: Store) -> None:
    store.observations.follow([DRAINED], EPOCH)
    store.observations.follow([], EPOCH + MINUTE)
    assert outages(store) == [("person", 0, 1)]


def test_down_is_a_fault_and_maintenance_is_planned(store: Store) -> None:
    down = make_node("n2", base=NodeBase.DOWN, flags=NodeFlag.NOT_RESPONDING)
    planned = make_node("n3", flags=NodeFlag.MAINTENANCE)
    store.observations.follow([down, planned], EPOCH)
    assert {one.node: one.cause for one in store.observations.outages()} == {
        "n2": OutageCause.FAULT,
        "n3": OutageCause.PLANNED,
    }
    assert [one.node for one in store.observations.outages(node=NodeName("n2"))] == ["n2"]


def test_a_reboot_or_a_test_for_a_repair_is_part_of_the_fault(store: Store) -> None:
    states = (
        replace(GOOD, flags=NodeFlag.DRAIN, reason="gpuaas:i1: XID 79"),
        make_node("n1", base=NodeBase.DOWN, flags=NodeFlag.REBOOT, reason="gpuaas:i1: XID 79 : reboot issued"),
        make_node("n1", flags=NodeFlag.MAINTENANCE),
        GOOD,  # a test runs
    )
    for minute, node in enumerate(states):
        store.observations.follow([node], EPOCH + minute * MINUTE, mending={N1})
    store.observations.follow([GOOD], EPOCH + 9 * MINUTE)
    assert outages(store) == [("fault", 0, 9)]
    store.observations.follow([DRAINED], EPOCH + 10 * MINUTE, mending={N1})
    assert outages(store)[-1] == ("person", 10, None)


def test_only_outages_that_overlap_are_given(store: Store) -> None:
    store.observations.follow([DRAINED], EPOCH)
    store.observations.follow([GOOD], EPOCH + MINUTE)
    given = store.observations.outages
    assert len(given(since=EPOCH, until=EPOCH + MINUTE)) == 1
    assert given(since=EPOCH + MINUTE) == () == given(until=EPOCH)


def test_an_exclusion_is_kept_once_and_forgotten_when_it_is_old(store: Store) -> None:
    one = Exclusion(node=N1, job=JobId(7), user=UserName("alice"), seen_at=EPOCH)
    keep = store.observations.add_exclusions
    keep([one], forget_before=EPOCH)
    keep([replace(one, seen_at=EPOCH + MINUTE)], forget_before=EPOCH)
    assert store.observations.exclusions(since=EPOCH) == (one,)
    keep([], forget_before=EPOCH + MINUTE)
    assert store.observations.exclusions(since=EPOCH) == ()


def test_runs_add_up_by_day(store: Store) -> None:
    day = EPOCH.date()
    for _ in range(2):
        store.observations.count_runs([RunCount(node=N1, day=day, single=1, multi=2)], forget_before=day)
    assert store.observations.single_runs(since=day) == {N1: 2}
    assert store.observations.single_runs(since=day + timedelta(days=1)) == {}


def test_a_node_has_one_limit_of_each_kind(store: Store) -> None:
    limit = NodeLimit(node=N1, kind=LimitKind.LEMON, largest_job=4, why="why", since=EPOCH)
    store.put_node_limit(limit)
    store.put_node_limit(replace(limit, largest_job=2))
    store.put_node_limit(replace(limit, kind=LimitKind.PROBATION, largest_job=1))
    assert [one.largest_job for one in store.node_limits()] == [2, 1]
    store.delete_node_limit(N1, LimitKind.LEMON)
    assert [one.kind for one in store.node_limits()] == [LimitKind.PROBATION]


def test_who_made_room_for_whom_is_read_from_the_audit_trail(store: Store) -> None:
    def entry(action: str, subject: int, **evidence: str | int) -> AuditEntry:
        return AuditEntry(at=EPOCH, actor="x", action=action, subject=str(subject), evidence=evidence)

    store.audit.append(
        entry("job.place", 7, gives_way="8 9"),
        entry("job.place", 70, gives_way="80"),
        entry("job.place", 7, nodes="n1"),
        entry("job.give-way", 10, **{"for": 7}),
        entry("job.give-way", 11, **{"for": 70}),
        entry("job.make-room", 12, **{"for": 7}),
    )
    found = store.observations.preemptions_for({7}, since=EPOCH)
    wanted = [Preemption(victim=JobId(job), made_room_for=JobId(7), at=EPOCH) for job in (8, 9, 10, 12)]
    assert sorted(found, key=lambda one: one.victim) == wanted
    assert store.observations.preemptions_for((), since=EPOCH) == ()
