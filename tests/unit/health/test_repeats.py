"""What an error means when it comes again."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from slurm_gpuaas.domain.incidents import CheckStatus, Drain, EventSource
from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.names import UserName
from slurm_gpuaas.health.repeats import RepeatPolicy, repeat_policy, repeated
from slurm_gpuaas.health.triage import Sighting
from tests.unit.health.sightings import after, check, sm_exception, xid

BAD, OK = CheckStatus.CRITICAL, CheckStatus.OK


def verdict(*sightings: Sighting, excused: tuple[Sighting, ...] = ()) -> tuple[Drain, str] | None:
    """Of the last of them, when it is new and the others are known."""
    found = repeated(sightings, {sightings[-1].event.event_id}, {one.event.event_id for one in excused})
    last = found.get(sightings[-1].event.event_id)
    return None if last is None else (last.drain, last.rule.split(";")[0].removeprefix("repeat rule ").split(":")[0])


SM, PAGE, PUSH = "sm-exception-on-one-unit", "page-fault-on-one-gpu", "push-buffer-corrupted"
COPY, MANY, REMAP = "copy-engine", "many-application-errors", "row-remap-pending"


@pytest.mark.parametrize(
    ("what", "sightings", "expected"),
    [
        ("13 once", [sm_exception()], None),
        ("13 twice on one TPC", [sm_exception(), sm_exception(after(hours=1))], (Drain.WHEN_IDLE, SM)),
        ("13 twice within 15 s is one", [sm_exception(), sm_exception(after(seconds=14))], None),
        ("13 on two TPCs", [sm_exception(tpc=1), sm_exception(after(hours=1), tpc=2)], None),
        ("13 on one TPC of two GPUs", [sm_exception(gpu=1), sm_exception(after(hours=1), gpu=2)], None),
        ("13 again after a day", [sm_exception(), sm_exception(after(hours=25))], None),
        ("13 without a place on the chip", [xid(13), xid(13, after(hours=1))], None),
        ("31 under two jobs", [xid(31, jobs=(1,)), xid(31, after(hours=1), jobs=(2,))], (Drain.WHEN_IDLE, PAGE)),
        ("31 twice under one job", [xid(31, jobs=(1,)), xid(31, after(hours=1), jobs=(1,))], None),
        ("31 under jobs that overlap", [xid(31, jobs=(1, 2)), xid(31, after(hours=1), jobs=(2, 3))], None),
        ("31 under jobs that nobody knows", [xid(31), xid(31, after(hours=1))], None),
        ("31 on different GPUs", [xid(31, jobs=(1,), gpu=1), xid(31, after(hours=1), jobs=(2,), gpu=2)], None),
        (
            "31 on several GPUs at once is the application",
            [xid(31, jobs=(1,)), xid(31, after(seconds=1), jobs=(1,), gpu=4), xid(31, after(hours=1), jobs=(2,))],
            None,
        ),
        ("31 again after a day", [xid(31, jobs=(1,)), xid(31, after(hours=25), jobs=(2,))], None),
        ("32 twice", [xid(32), xid(32, after(hours=1))], (Drain.REVIEW, PUSH)),
        ("32 told by both sources", [xid(32, source=EventSource.NVML), xid(32, after(seconds=1))], None),
        ("80 beside 32", [xid(32), xid(80, after(hours=1))], (Drain.REVIEW, PUSH)),
        ("39 and 41 under two jobs", [xid(39, jobs=(1,)), xid(41, after(hours=1), jobs=(2,))], (Drain.REVIEW, COPY)),
        ("39 once", [xid(39, jobs=(1,))], None),
        ("five application errors", [xid(8, after(hours=n)) for n in range(5)], (Drain.REVIEW, MANY)),
        ("four application errors", [xid(8, after(hours=n)) for n in range(4)], None),
        ("five in one burst are one", [xid(8, after(minutes=2 * n)) for n in range(5)], None),
        ("five spread over GPUs", [xid(8, after(hours=n), gpu=n) for n in range(5)], None),
        ("63 alone waits for a reset when idle", [xid(63)], (Drain.WHEN_IDLE, REMAP)),
        ("92 is for the lemon score only", [xid(92, after(hours=n)) for n in range(9)], None),
        ("37 and 38 are counted only", [xid(37 + n % 2, after(hours=n)) for n in range(9)], None),
        ("45 however often", [xid(45, after(hours=n)) for n in range(9)], None),
        (
            "31 that another error caused",
            [
                xid(79, jobs=(1,)),
                xid(31, after(seconds=1), jobs=(1,), text="caused by previous Xid 79"),
                xid(31, after(hours=1), jobs=(2,)),
            ],
            None,
        ),
    ],
)
def test_what_an_error_means_when_it_comes_again(
    what: str, sightings: list[Sighting], expected: tuple[Drain, str] | None
) -> None:
    assert verdict(*sightings) == expected, what


@pytest.mark.parametrize("again", [xid, sm_exception])
@pytest.mark.parametrize(
    ("users", "drain"),
    [
        ({1: "alice", 2: "bob", 3: "carol"}, Drain.WHEN_IDLE),
        ({1: "alice", 2: "alice", 3: "carol"}, Drain.REVIEW),
        ({1: "alice", 3: "carol"}, Drain.REVIEW),
        ({}, Drain.REVIEW),
        (None, Drain.WHEN_IDLE),
    ],
)
def test_what_any_user_can_cause_drains_only_when_it_came_under_different_users(
    again: Callable[..., Sighting], users: dict[int, str] | None, drain: Drain
) -> None:
    code = (31,) if again is xid else ()
    first, second = again(*code, jobs=(1,)), again(*code, at=after(hours=1), jobs=(2,))
    known = None if users is None else {JobId(job): UserName(user) for job, user in users.items()}
    found = repeated([first, second], {second.event.event_id}, users=known)[second.event.event_id]
    assert (found.drain, "for a person" in found.rule) == (drain, drain is Drain.REVIEW)


def test_a_user_who_shares_the_node_with_others_each_time_is_still_one() -> None:
    first, second = sm_exception(jobs=(1, 2)), sm_exception(after(hours=1), jobs=(3, 4))
    users = {JobId(job): UserName(user) for job, user in ((1, "mallory"), (2, "a"), (3, "mallory"), (4, "b"))}
    assert repeated([first, second], {second.event.event_id}, users=users)[second.event.event_id].drain is Drain.REVIEW


def test_what_a_job_is_to_blame_for_does_not_count() -> None:
    first, second = xid(31, jobs=(1,)), xid(31, after(hours=1), jobs=(2,))
    assert verdict(first, second) is not None
    assert verdict(first, second, excused=(first,)) is None


def test_the_same_card_is_meant_not_the_same_slot() -> None:
    before = xid(32, serial="1650")
    assert verdict(before, xid(32, after(hours=1), serial="1650")) is not None
    assert verdict(before, xid(32, after(hours=1), serial="1777")) is None


def test_a_late_report_of_the_first_occurrence_counts_as_well() -> None:
    first, second = xid(32), xid(32, after(hours=1))
    assert verdict(second, first) == (Drain.REVIEW, PUSH)


def test_the_rule_says_what_counted_why_and_what_to_do() -> None:
    second = sm_exception(after(hours=1))
    found = repeated([sm_exception(), second], {second.event.event_id})[second.event.event_id]
    assert found.rule == (
        "repeat rule sm-exception-on-one-unit: XID 13 2 times in 24 h on one unit; an application meets any SM; "
        "the same TPC again points at the chip; run EUD, then the field diagnostic"
    )
    assert found.headline.endswith("GPU 3 (0000:03:00)")


def test_a_check_that_comes_and_goes_is_for_a_person() -> None:
    said = [check(BAD if n % 2 == 0 else OK, after(hours=n), drain=Drain.NO) for n in range(5)]
    found = repeated(said, {said[-1].event.event_id})[said[-1].event.event_id]
    assert (found.drain, found.rule) == (Drain.REVIEW, "check nic failed 3 times in 24 h and recovered")
    assert not repeated(said[:3], {said[2].event.event_id})
    elsewhere = [check(BAD, after(hours=n), drain=Drain.NO, text=f"mlx5_{n}: down") for n in range(5)]
    assert not repeated(elsewhere, {elsewhere[-1].event.event_id})


@given(st.permutations([sm_exception(), sm_exception(after(hours=1)), xid(32), xid(32, after(hours=2)), xid(31)]))
def test_the_order_in_which_history_is_given_does_not_matter(sightings: list[Sighting]) -> None:
    ids = {one.event.event_id for one in sightings}
    assert repeated(sightings, ids) == repeated(sorted(sightings, key=lambda one: one.event.event_id), ids)


def test_every_rule_names_a_source_that_is_listed() -> None:
    data = repeat_policy().model_dump(mode="json", by_alias=True)
    assert RepeatPolicy.model_validate(data) == repeat_policy()
    data["burst"]["source"] = "hearsay"
    with pytest.raises(ValidationError, match="hearsay"):
        RepeatPolicy.model_validate(data)
