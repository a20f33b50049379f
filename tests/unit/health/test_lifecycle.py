"""A node's life: the rules as a table, the whole way on a fake Slurm, and killed at every point of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from slurm_gpuaas.domain.errors import Conflict
from slurm_gpuaas.domain.incidents import (
    TRANSITIONS,
    Drain,
    Incident,
    IncidentState,
    Remedy,
    RepairAttempt,
    RepairOutcome,
)
from slurm_gpuaas.domain.jobs import JobState
from slurm_gpuaas.domain.node_life import LimitKind
from slurm_gpuaas.domain.nodes import NodeBase, NodeFlag
from slurm_gpuaas.health import lifecycle
from slurm_gpuaas.health.controller import LOST_WITHIN
from slurm_gpuaas.health.incidents import drain_reason
from slurm_gpuaas.health.life import SWEEPS_EVERY, LifeSettings
from slurm_gpuaas.health.lifecycle import LifePlan, Seen, next_step
from slurm_gpuaas.health.overrides import Override
from slurm_gpuaas.slurm.protocols import SlurmRefused
from tests.fakes import EPOCH, make_node
from tests.unit.health.life_site import NODE, REBOOT, REPLACE, RESET, LifeSite

MakeSite = Callable[..., LifeSite]
ALL = frozenset(Remedy)
PLAN = LifePlan(remedies=ALL, tests=frozenset({"quick", "dcgm", "pair"}), probation=timedelta(hours=4))
DONE, FAILED, RUNNING = RepairOutcome.DONE, RepairOutcome.FAILED, RepairOutcome.RUNNING


def incident(state: IncidentState, *tried: Remedy, fault_class: str = "hw_reset") -> Incident:
    return Incident(
        id="i1",
        node=NODE,
        state=state,
        drain=Drain.NOW,
        fault_class=fault_class,
        rule="rule",
        headline="XID 95",
        opened_at=EPOCH,
        updated_at=EPOCH,
        attempts=tuple(RepairAttempt(remedy=remedy, begun_at=EPOCH, outcome=DONE) for remedy in tried),
    )


def drained(one: Incident, *, base: NodeBase = NodeBase.IDLE, reason: str = "") -> Seen:
    return Seen(node=make_node(NODE, base=base, flags=NodeFlag.DRAIN, reason=reason or drain_reason(one)))


DRAINED, REPAIRING, VERIFYING = IncidentState.DRAINED, IncidentState.REPAIRING, IncidentState.VERIFYING
PROBATION, RMA, CLOSED = IncidentState.PROBATION, IncidentState.RMA, IncidentState.CLOSED


@pytest.mark.parametrize(
    ("fault_class", "tried", "rung"),
    [
        ("hw_reset", (), RESET),
        ("hw_reset", (RESET,), REBOOT),
        ("hw_reset", (RESET, REBOOT), REPLACE),
        ("hw_reset", (RESET, REBOOT, REPLACE), None),
        ("contained", (), RESET),
        ("nvlink", (), RESET),
        ("nvlink", (RESET,), REBOOT),
        ("hw_reboot", (), REBOOT),
        ("hw_reboot", (REBOOT,), REPLACE),
        ("sxid_fatal", (), REBOOT),
        ("sxid_nonfatal", (), RESET),
        ("hw_support", (), REPLACE),
        ("hw_support", (REPLACE,), None),
        ("unknown", (), RESET),
    ],
)
def test_the_class_of_the_fault_says_which_rung_is_next(
    fault_class: str, tried: tuple[Remedy, ...], rung: Remedy | None
) -> None:
    one = incident(DRAINED, *tried, fault_class=fault_class)
    step = next_step(one, drained(one), PLAN, EPOCH)
    assert step is not None
    assert (step.after, step.remedy) == ((RMA, None) if rung is None else (REPAIRING, rung))


def test_a_node_that_was_rebooted_too_often_is_not_rebooted_again() -> None:
    one = incident(DRAINED, fault_class="hw_reboot")
    step = next_step(one, replace(drained(one), reboots=3), PLAN, EPOCH)
    assert step is not None
    assert (step.after, step.remedy) == (REPAIRING, REPLACE)
    assert "3 reboots within a day, limit 3" in step.cause


def test_a_rung_that_nobody_here_climbs_is_left_out() -> None:
    one = incident(DRAINED)
    plan = replace(PLAN, remedies=frozenset({REBOOT}))
    step = next_step(one, drained(one), plan, EPOCH)
    assert step is not None
    assert step.remedy is REBOOT
    one = incident(DRAINED, REBOOT)
    step = next_step(one, drained(one), plan, EPOCH)
    assert step is not None
    assert step.after is RMA


@pytest.mark.parametrize(
    "seen",
    [
        Seen(node=None),
        drained(incident(DRAINED), base=NodeBase.ALLOCATED),
        drained(incident(DRAINED), reason="cable swap, kim"),
        Seen(node=make_node(NODE)),
    ],
    ids=["not shown", "a job runs", "somebody else's drain", "in service"],
)
def test_nothing_is_repaired_that_is_not_ours_and_at_rest(seen: Seen) -> None:
    assert next_step(incident(DRAINED), seen, PLAN, EPOCH) is None


def test_without_repair_a_drained_node_waits_for_a_person() -> None:
    one = incident(DRAINED)
    assert next_step(one, drained(one), LifePlan(), EPOCH) is None


@pytest.mark.parametrize(
    ("remedy", "outcome", "after"),
    [
        (RESET, RUNNING, None),
        (RESET, DONE, VERIFYING),
        (REBOOT, DONE, VERIFYING),
        (REPLACE, DONE, RMA),
        (RESET, FAILED, DRAINED),
        (REPLACE, FAILED, DRAINED),
    ],
)
def test_what_follows_a_repair(remedy: Remedy, outcome: RepairOutcome, after: IncidentState | None) -> None:
    one = incident(REPAIRING, remedy)
    step = next_step(one, Seen(node=make_node(NODE), repair=outcome), PLAN, EPOCH)
    assert (step.after if step else None) is after


@pytest.mark.parametrize(
    ("passed", "fault", "probation", "after"),
    [
        (None, False, True, None),
        (None, True, True, None),
        (True, False, True, PROBATION),
        (True, False, False, CLOSED),
        (True, True, True, DRAINED),
        (False, False, True, DRAINED),
    ],
)
def test_what_follows_a_verification(
    passed: bool | None, fault: bool, probation: bool, after: IncidentState | None
) -> None:
    plan = PLAN if probation else replace(PLAN, probation=None)
    seen = Seen(node=make_node(NODE), verification=passed, fault_since=fault)
    step = next_step(incident(VERIFYING, RESET), seen, plan, EPOCH)
    assert (step.after if step else None) is after


def test_probation_ends_when_its_time_is_over_and_nothing_happened() -> None:
    seen = Seen(node=make_node(NODE), on_probation_since=EPOCH)
    late = EPOCH + timedelta(hours=4)
    assert next_step(incident(PROBATION), seen, PLAN, late - timedelta(seconds=1)) is None
    step = next_step(incident(PROBATION), seen, PLAN, late)
    assert step is not None
    assert step.after is CLOSED
    assert next_step(incident(PROBATION), replace(seen, fault_since=True), PLAN, late) is None


@pytest.mark.parametrize(
    ("fault_class", "tried", "remedy", "tests"),
    [
        ("hw_reset", (RESET,), RESET, ("quick",)),
        ("hw_reboot", (REBOOT,), REBOOT, ("quick", "dcgm")),
        ("hw_reset", (RESET, REBOOT), REBOOT, ("quick", "dcgm", "pair")),
        ("nvlink", (RESET,), RESET, ("quick", "pair")),
        ("hw_support", (REPLACE,), None, ("quick", "dcgm", "pair")),
    ],
)
def test_tests_are_scaled_to_the_fault(
    fault_class: str, tried: tuple[Remedy, ...], remedy: Remedy | None, tests: tuple[str, ...]
) -> None:
    assert lifecycle.tests_for(incident(REPAIRING, *tried, fault_class=fault_class), remedy, PLAN.tests) == tests


def test_every_state_but_the_last_leads_somewhere_and_a_person_may_close_any() -> None:
    assert set(TRANSITIONS) == set(IncidentState)
    for state, after in TRANSITIONS.items():
        assert (CLOSED in after) == (state is not CLOSED)


# -- The whole way


def test_from_a_fault_to_the_node_back_in_service(make_site: MakeSite) -> None:
    site = make_site()
    site.run_job(7, NODE)
    site.fault()
    site.until(PROBATION)
    assert site.steps() == ["suspect", "draining", "drained", "repairing", "verifying", "probation"]
    assert site.in_service()
    (limit,) = site.store.node_limits()
    assert (limit.node, limit.kind, limit.largest_job) == (NODE, LimitKind.PROBATION, 1)
    site.clock.forward(timedelta(hours=4))
    site.until(CLOSED)
    assert site.store.node_limits() == ()
    assert site.in_service()
    (attempt,) = site.incident.attempts
    assert (attempt.remedy, attempt.outcome, attempt.detail) == (RESET, DONE, "as told")
    verification = site.incident.verification
    assert verification is not None
    assert (verification.passed, verification.detail) == (True, "quick passed")
    assert len(site.submitted) == 1


def test_a_failed_verification_goes_to_the_next_rung_and_at_last_to_people(make_site: MakeSite) -> None:
    site = make_site(broken=(RESET, REBOOT))
    site.fault()
    site.until(RMA)
    assert [attempt.remedy for attempt in site.incident.attempts] == [RESET, REBOOT, REPLACE]
    assert site.reason().startswith(f"gpuaas:{site.incident.id}:")
    assert not site.in_service()
    assert site.slurm.reservation_by_name == {}
    cause = site.store.transitions(incident=site.incident.id)[5].cause
    assert cause.startswith("Verification failed: quick failed, exit 1 (job 1000)")
    site.broken = ()
    site.life.verify(site.incident.id, actor="kim", reason="GPU 3 replaced")
    site.until(PROBATION)
    assert site.in_service()


def test_a_new_fault_on_probation_drains_again_and_takes_the_next_rung(make_site: MakeSite) -> None:
    site = make_site()
    site.fault(sequence=1)
    site.until(PROBATION)
    site.clock.forward(timedelta(minutes=10))
    site.fault(sequence=2)
    site.health.tick()
    assert site.incident.state is IncidentState.DRAINING
    site.until(PROBATION)
    assert [attempt.remedy for attempt in site.incident.attempts] == [RESET, REBOOT]
    assert len(site.store.incidents()) == 1


def test_a_person_who_takes_a_node_over_is_left_alone(make_site: MakeSite) -> None:
    site = make_site()
    site.fault()
    site.until(REPAIRING)
    site.health.hold(site.incident.id, actor="kim", reason="I look at the cable")
    site.tick(5)
    assert site.incident.state is REPAIRING
    assert site.incident.held_by == "kim"
    site.health.release(site.incident.id, actor="kim", reason="")
    site.until(PROBATION)


def test_a_held_suspect_is_not_drained(make_site: MakeSite) -> None:
    site = make_site()
    site.fault()
    site.health.hold(site.incident.id, actor="kim", reason="")
    site.tick(3)
    assert "drain" not in site.slurm.calls


def test_closing_an_incident_under_verification_gives_its_reservation_back(make_site: MakeSite) -> None:
    site = make_site()
    site.fault()
    site.until(VERIFYING)
    site.life.tick()
    assert site.slurm.reservation_by_name
    site.health.close(site.incident.id, actor="kim", reason="fine")
    assert site.in_service()
    assert all(job.state.ended for job in site.slurm.job_by_id.values())


def test_a_node_put_back_by_hand_ends_its_repair(make_site: MakeSite) -> None:
    site = make_site()
    site.fault()
    site.until(REPAIRING)
    site.clock.forward(LOST_WITHIN)
    site.health.tick()
    site.slurm.resume([NODE])
    site.health.tick()
    assert site.incident.state is CLOSED


def forgotten(site: LifeSite) -> None:
    """slurmctld was killed before it wrote down what it was told of the node last, and is back."""
    site.slurm.node_by_name[NODE] = replace(site.slurm.node_by_name[NODE], flags=NodeFlag.NONE, reason="")


def test_a_drain_that_slurm_lost_while_the_node_is_repaired_is_set_again(make_site: MakeSite) -> None:
    site = make_site()
    site.fault()
    site.until(REPAIRING)
    forgotten(site)
    site.health.tick()
    assert site.incident.state is REPAIRING
    assert site.reason() == drain_reason(site.incident)
    site.until(PROBATION)


def test_a_drain_after_a_failed_verification_may_be_lost_too(make_site: MakeSite) -> None:
    site = make_site(remedies=(RESET,), broken=(RESET,))
    site.fault()
    site.until(VERIFYING)
    site.clock.forward(LOST_WITHIN)
    site.until(RMA)
    forgotten(site)
    site.health.tick()
    assert site.incident.state is RMA
    assert site.reason() == drain_reason(site.incident)


def test_a_resumption_that_slurm_lost_is_done_again_on_probation(make_site: MakeSite) -> None:
    site = make_site()
    site.fault()
    site.until(PROBATION)
    site.slurm.drain([NODE], drain_reason(site.incident))  # as it was before
    site.life.tick()
    assert site.in_service()
    assert site.incident.state is PROBATION


def test_a_fault_that_the_site_takes_for_none_fails_no_probation(make_site: MakeSite) -> None:
    ours = Override(code=95, product=None, drain=Drain.NO, reason="known to be harmless here")
    site = make_site()
    site.fault(sequence=1)
    site.until(PROBATION)
    site.overrides = (ours,)
    site.restart()
    site.clock.forward(timedelta(minutes=1))
    site.fault(sequence=2)
    site.tick(2)
    assert site.incident.state is PROBATION
    assert site.in_service()


def test_a_person_who_takes_a_node_down_under_its_test_keeps_the_reason(make_site: MakeSite) -> None:
    site = make_site()
    site.fault()
    site.until(VERIFYING)
    site.life.tick()
    node = site.slurm.node_by_name[NODE]
    site.slurm.node_by_name[NODE] = replace(node, base=NodeBase.DOWN, reason="on my desk, kim")
    for job in site.slurm.job_by_id.values():
        site.slurm.job_by_id[job.id] = replace(job, state=JobState.NODE_FAIL)
    site.life.tick()
    assert site.incident.state is DRAINED
    site.tick(3)
    assert site.reason() == "on my desk, kim"
    assert site.slurm.node_by_name[NODE].draining


def test_the_end_of_another_incident_lifts_no_limit(make_site: MakeSite) -> None:
    site = make_site()
    site.fault()
    site.until(PROBATION)
    other = site.incident.model_copy(update={"id": "other", "state": IncidentState.SUSPECT, "drain": Drain.REVIEW})
    site.ledger.put_new(other, {})
    site.health.close("other", actor="kim", reason="nothing")
    assert [limit.node for limit in site.store.node_limits()] == [NODE]


def test_a_reservation_whose_deletion_slurmctld_forgot_is_deleted_again(make_site: MakeSite) -> None:
    site = make_site()
    site.fault()
    site.until(VERIFYING)
    site.life.tick()
    kept = dict(site.slurm.reservation_by_name)
    site.until(PROBATION)
    assert kept
    site.slurm.reservation_by_name.update(kept)
    assert not site.in_service()
    site.clock.forward(SWEEPS_EVERY)
    site.life.tick()
    assert site.in_service()


def test_a_reservation_that_slurm_keeps_for_now_holds_up_nobody_and_goes_later(make_site: MakeSite) -> None:
    site = make_site()
    site.fault()
    site.until(VERIFYING)
    site.life.tick()
    refuse = True

    def refused(method: str) -> None:
        if method == "delete_reservation" and refuse:
            raise SlurmRefused("Requested reservation is in use.")

    site.slurm.before = refused
    closed = site.health.close(site.incident.id, actor="kim", reason="fine")
    assert closed.state is CLOSED
    site.life.tick()
    assert site.slurm.reservation_by_name
    refuse = False
    site.life.tick()
    assert site.slurm.reservation_by_name == {}


def test_shadow_mode_says_what_it_would_do_and_does_nothing(make_site: MakeSite) -> None:
    site = make_site()
    site.fault()
    site.health.tick()
    site.health.tick()
    assert site.incident.state is DRAINED
    before = list(site.slurm.calls)
    site.settings = replace(site.settings, shadow=True)
    site.restart()
    for _ in range(3):
        site.life.tick()
    assert site.incident.state is DRAINED
    assert site.actions()[-1] == "node.would-repairing"
    assert set(site.slurm.calls[len(before) :]) <= {"nodes"}
    assert site.shops[RESET].orders == {}


def test_a_person_cannot_have_verified_what_was_never_drained(make_site: MakeSite) -> None:
    site = make_site()
    site.fault()
    with pytest.raises(Conflict, match="is suspect, from where it cannot become verifying"):
        site.life.verify(site.incident.id, actor="kim", reason="")
    site = make_site(settings=LifeSettings())
    site.fault()
    with pytest.raises(Conflict, match="No tests are configured"):
        site.life.verify(site.incident.id, actor="kim", reason="")


def test_who_holds_an_incident_and_says_that_it_is_mended_holds_it_no_more(make_site: MakeSite) -> None:
    site = make_site(remedies=())
    site.fault()
    site.until(IncidentState.DRAINED)
    site.health.hold(site.incident.id, actor="kim", reason="")
    assert site.life.verify(site.incident.id, actor="kim", reason="mended").held_by is None
    site.until(PROBATION)


def test_nothing_is_held_or_verified_that_is_closed(make_site: MakeSite) -> None:
    site = make_site(remedies=())
    site.fault()
    site.health.close(site.incident.id, actor="kim", reason="")
    before = site.actions()
    for ask in (site.health.hold, site.health.release, site.life.verify):
        with pytest.raises(Conflict, match="is closed"):
            ask(site.incident.id, actor="kim", reason="")
    assert site.actions() == before


def test_a_site_without_trouble_asks_slurm_nothing(make_site: MakeSite) -> None:
    site = make_site()
    site.tick()
    site.slurm.calls.clear()
    site.tick(3)
    assert site.slurm.calls == []


# -- Killed anywhere


class Killed(Exception):
    """The daemon dies here."""


def lived(site: LifeSite) -> tuple[object, ...]:
    """What a life left behind, but for moments."""
    return (
        site.steps(),
        [(attempt.remedy, attempt.outcome) for attempt in site.incident.attempts],
        sorted(site.shops[RESET].orders) + sorted(site.shops[REBOOT].orders),
        len(site.submitted),
        site.slurm.job_by_id[next(iter(site.slurm.job_by_id))].restarts,
        site.in_service(),
        site.slurm.reservation_by_name,
        [limit.node for limit in site.store.node_limits()],
        site.actions().count("node.drain"),
    )


READS = {"slurm nodes", "slurm jobs", "slurm reservations"}


def live(site: LifeSite, on_point: Callable[[str], None]) -> None:
    """A whole life: reset does not help, a reboot does. `on_point` is called before and after every effect and every
    line of the journal; where it raises, the daemon dies and another one goes on."""
    site.run_job(7, NODE)
    site.fault()
    site.on_point = lambda name: None if name in READS else on_point(name)
    journal = site.store.journal
    for method in ("intend", "close"):
        untouched = getattr(journal, method)

        def watched(*args: object, untouched: Callable[..., object] = untouched, **named: object) -> object:
            site.point("journal")
            answer = untouched(*args, **named)
            site.point("journal")
            return answer

        setattr(journal, method, watched)
    for _ in range(400):
        try:
            site.tick()
        except Killed:
            site.restart()
        if site.incident.state is PROBATION:
            return
    raise AssertionError(f"no end: {site.steps()}")


def test_killed_once_at_every_point_of_it_a_life_ends_the_same(make_site: MakeSite) -> None:
    names: list[tuple[str, str, int]] = []
    smooth = make_site(broken=(RESET,))

    def where(site: LifeSite, name: str) -> tuple[str, str, int]:
        return name, site.incident.state.value, len(site.incident.attempts)

    live(smooth, lambda name: names.append(where(smooth, name)))
    visits = Counter(names)
    deaths: Counter[tuple[str, str, int]] = Counter()
    site = make_site(broken=(RESET,))
    passed: Counter[tuple[str, str, int]] = Counter()

    def die(name: str) -> None:
        """At the first visit of a place, then at the second of its next run, and so on, as often as a smooth life
        comes there."""
        place = where(site, name)
        passed[place] += 1
        if deaths[place] < visits[place] and passed[place] > deaths[place]:
            deaths[place] += 1
            passed[place] = 0
            raise Killed

    live(site, die)
    assert sum(deaths.values()) > 40
    assert lived(site) == lived(smooth)
    assert not [one for one in site.store.journal.newest("health", limit=1000) if one.outcome == "open"]


@pytest.fixture(autouse=True)
def _quiet(capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Lives log much."""
    yield
    capsys.readouterr()
