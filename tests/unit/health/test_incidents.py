"""How the events of one node become incidents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_gpuaas.domain.incidents import (
    CheckStatus,
    Drain,
    EventSource,
    Incident,
    IncidentState,
    Remedy,
    RepairAttempt,
    RepairOutcome,
    Transition,
)
from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.health.incidents import History, Step, What, drain_reason, judge, unfounded
from slurm_gpuaas.health.triage import Sighting, strength
from tests.fakes import EPOCH
from tests.unit.health.sightings import NODE, after, check, sm_exception, xid

BAD, WARNING, OK = CheckStatus.CRITICAL, CheckStatus.WARNING, CheckStatus.OK


class NodeStory:
    """One node as reports about it come in."""

    def __init__(self) -> None:
        self.incidents: dict[str, Incident] = {}
        self.sightings: list[Sighting] = []
        self.transitions: list[Transition] = []
        self.excused: dict[str, JobId] = {}
        self.now = EPOCH

    def report(self, *sightings: Sighting, at: datetime | None = None) -> Sequence[Step]:
        self.now = at or max(self.now, *(one.event.seen_at for one in sightings))
        known = {one.event.event_id for one in self.sightings}
        new = [one for one in sightings if one.event.event_id not in known]
        self.sightings += new
        history = History(
            incidents=list(self.incidents.values()),
            sightings=self.sightings,
            transitions=self.transitions,
            excused=self.excused,
        )
        steps = judge(new, history, self.now)
        self.incidents |= {step.incident.id: step.incident for step in steps}
        return steps

    def move(self, *states: IncidentState, at: datetime, reboot: datetime | None = None) -> None:
        """The only incident goes on through these states."""
        incident = self.only
        for state in states:
            step = Transition(
                incident=incident.id, node=NODE, at=at, before=incident.state, after=state, cause="", actor="kim"
            )
            self.transitions.append(step)
            closed = at if state is IncidentState.CLOSED else None
            incident = incident.model_copy(update={"state": state, "closed_at": closed})
        if reboot:
            done = RepairAttempt(remedy=Remedy.REBOOT, begun_at=reboot, ended_at=at, outcome=RepairOutcome.DONE)
            incident = incident.model_copy(update={"attempts": (done,)})
        self.incidents[incident.id] = incident

    @property
    def only(self) -> Incident:
        (incident,) = self.incidents.values()
        return incident

    @property
    def verdicts(self) -> list[tuple[str, str, str]]:
        return [(i.drain.value, i.fault_class, i.state.value) for i in self.incidents.values()]


REPAIRED = (
    IncidentState.DRAINING,
    IncidentState.DRAINED,
    IncidentState.REPAIRING,
    IncidentState.VERIFYING,
    IncidentState.PROBATION,
    IncidentState.CLOSED,
)


def story(*reports: Sighting | Iterable[Sighting]) -> NodeStory:
    node = NodeStory()
    for report in reports:
        node.report(*([report] if isinstance(report, Sighting) else report))
    return node


# -- bursts


@pytest.mark.parametrize(
    ("what", "reports", "expected"),
    [
        ("45 alone", [xid(45)], []),
        ("171 and 172 alone", [xid(171), xid(172)], []),
        ("159 alone", [xid(159)], []),
        ("application errors", [xid(13), xid(31), xid(43)], []),
        ("48 with what follows it", [xid(48), xid(171), xid(45), xid(94)], [("now", "hw_reset")]),
        ("what follows it first", [xid(94), xid(45), xid(171), xid(48)], [("now", "hw_reset")]),
        ("94 alone lets jobs finish", [xid(94)], [("when_idle", "contained")]),
        ("94 beside 63", [xid(63), xid(94)], [("when_idle", "hw_reset")]),
        ("94 of another GPU", [xid(63), xid(94, gpu=5)], [("when_idle", "hw_reset")]),
        ("a reboot outweighs a reset", [xid(46), xid(79)], [("now", "hw_reboot")]),
        ("the driver's reboot outweighs a reset", [xid(48), xid(154, action="Node Reboot")], [("now", "hw_reboot")]),
        ("a weaker verdict takes nothing back", [xid(79), xid(94)], [("now", "hw_reboot")]),
        ("163 that 162 follows", [xid(163), xid(162, after(seconds=1))], []),
        ("within three minutes it is one", [xid(74), xid(48, after(seconds=179))], [("now", "hw_reset")]),
        (
            "after three minutes of silence it is two",
            [xid(74), xid(48, after(seconds=181))],
            [("review", "nvlink"), ("now", "hw_reset")],
        ),
        ("the silence counts from the last event", [xid(74), xid(45, after(minutes=2)), xid(48, after(minutes=4))],
         [("now", "hw_reset")]),
        ("the same error again, hours later, while it is open", [xid(74), xid(74, after(hours=5))],
         [("review", "nvlink")]),
        ("what names its cause is of the cause's incident, however late",
         [xid(74), xid(109, after(hours=1), text="caused by previous Xid 74")], [("now", "hw_reset")]),
        ("what names a cause that nobody saw stands for itself",
         [xid(109, text="caused by previous Xid 74")], [("now", "hw_reset")]),
        ("45 that names a cause which nobody saw", [xid(45, text="caused by previous Xid 79")], []),
        ("the driver itself asks for a reset with a 45", [xid(45, action="GPU Reset")], [("now", "hw_reset")]),
    ],
)  # fmt: skip
def test_events_become_incidents(what: str, reports: list[Sighting], expected: list[tuple[str, str]]) -> None:
    assert [(drain, kind) for drain, kind, _ in story(*reports).verdicts] == expected, what


def test_a_driver_that_asks_for_nothing_any_more_is_a_hint_and_clears_nothing() -> None:
    node = story(xid(48))
    (joined, hint) = node.report(xid(154, after(seconds=5), action="None"))
    assert (joined.what, hint.what) == (What.JOINED, What.HINT)
    assert "return checks" in hint.cause
    assert node.verdicts == [("now", "hw_reset", "suspect")]


def test_both_sources_of_one_fault_are_one_incident_with_the_stronger_verdict() -> None:
    log, nvml = xid(31), xid(31, after(seconds=1), action="Node Reboot", source=EventSource.NVML)
    for order in ([log, nvml], [nvml, log]):
        assert story(*order).verdicts == [("now", "hw_reboot", "suspect")]


def test_an_incident_lists_the_cards_it_is_about() -> None:
    node = story(xid(48, serial="1650"), xid(48, gpu=4, serial="1777"), xid(45, serial="1650"))
    assert node.only.serials == ("1650", "1777")


CODES = (13, 31, 43, 45, 46, 48, 62, 63, 64, 74, 79, 92, 94, 95, 109, 119, 154, 163, 171, 9999)
BURST = st.lists(
    st.tuples(
        st.sampled_from(CODES),
        st.integers(0, 4),
        st.integers(0, 1),
        st.sampled_from([None, "None", "GPU Reset", "Node Reboot", "Drain and Reset"]),
    ),
    min_size=1,
    max_size=7,
)


def burst(drawn: Iterable[tuple[int, int, int, str | None]]) -> list[Sighting]:
    return [xid(code, after(seconds=second), gpu=gpu, action=action) for code, second, gpu, action in drawn]


def strongest(node: NodeStory) -> tuple[int, int] | None:
    return max((strength(i.drain, i.fault_class) for i in node.incidents.values()), default=None)


@given(BURST, st.randoms(use_true_random=False))
def test_the_order_of_delivery_within_a_burst_does_not_change_the_verdict(drawn: list, random) -> None:  # type: ignore[no-untyped-def, type-arg]
    events = burst(drawn)
    shuffled = random.sample(events, len(events))
    together, one_by_one, backwards = story(events), story(*shuffled), story(*reversed(events))
    assert strongest(together) == strongest(one_by_one) == strongest(backwards)
    assert len(together.incidents) == len(one_by_one.incidents) <= 1


@given(BURST)
def test_the_strongest_verdict_wins(drawn: list) -> None:  # type: ignore[type-arg]
    events = burst(drawn)
    alone = [strongest(story(one)) for one in events]
    assert strongest(story(*events)) == max((one for one in alone if one is not None), default=None)


@given(BURST)
def test_the_same_events_twice_are_one_incident(drawn: list) -> None:  # type: ignore[type-arg]
    events = burst(drawn)
    once, twice = story(*events), story(*events)
    twice.report(*events)
    assert [i.model_dump() for i in once.incidents.values()] == [i.model_dump() for i in twice.incidents.values()]


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 7)), min_size=1, max_size=20))
def test_45_alone_never_opens_an_incident(drawn: list[tuple[int, int]]) -> None:
    assert not story(*(xid(45, after(seconds=second), gpu=gpu) for second, gpu in sorted(drawn))).incidents


# -- repeats and jobs


def test_a_repeat_rule_opens_an_incident_that_names_it() -> None:
    node = story(sm_exception(), sm_exception(after(hours=1)))
    assert node.verdicts == [("when_idle", "hw_reset", "suspect")]
    assert node.only.rule.startswith("repeat rule sm-exception-on-one-unit")
    assert "EUD" in node.only.headline


def test_a_repeat_within_one_report_is_seen() -> None:
    assert story([sm_exception(after(hours=1)), sm_exception()]).verdicts == [("when_idle", "hw_reset", "suspect")]


def test_events_that_are_a_jobs_own_fault_open_nothing() -> None:
    node = NodeStory()
    errors = [xid(31, after(hours=n), jobs=(7,)) for n in range(6)]
    node.excused = {one.event.event_id: JobId(7) for one in errors}
    node.report(*errors)
    assert not node.incidents


def test_a_suspicion_is_unfounded_when_all_its_events_are_a_jobs_own_fault() -> None:
    node = story(*(xid(31, after(hours=n), jobs=(7,)) for n in range(5)))
    ids = {one.event.event_id for one in node.sightings}
    assert unfounded([node.only], ids) == (node.only,)
    assert unfounded([node.only.model_copy(update={"state": IncidentState.DRAINING})], ids) == ()
    assert unfounded([node.only.model_copy(update={"event_ids": ("other",)})], ids) == ()


# -- peers


def test_a_reason_that_names_the_peer_suspects_it_beside_the_fault_itself() -> None:
    node = NodeStory()
    one = xid(145, text="RLW_RXPIPE Nonfatal Link 5 (0x1)")
    peered = replace(one.verdict, peer=True, link=5)
    one.__dict__["verdict"] = peered
    node.report(one)
    fault, suspicion = node.incidents.values()
    assert (suspicion.drain, suspicion.state) == (Drain.REVIEW, IncidentState.SUSPECT)
    assert suspicion.headline.startswith("NVLink peer of GPU 3 (0000:03:00), link 5 suspected by XID 145")
    assert fault.id != suspicion.id
    node.report(xid(79, after(seconds=1)))
    assert [i.drain for i in node.incidents.values()] == [Drain.NOW, Drain.REVIEW]


def test_a_peer_is_suspected_once_however_often_it_is_named() -> None:
    node = NodeStory()
    for second in range(5):
        one = xid(145, after(seconds=second), text="RLW_RXPIPE Nonfatal Link 5 (0x1)")
        one.__dict__["verdict"] = replace(one.verdict, peer=True, link=5)
        node.report(one)
    assert len(node.incidents) == 2


# -- late reports


@pytest.mark.parametrize(
    ("what", "seen", "boot", "reboot", "opens"),
    [
        ("before the return", after(minutes=5), "boot-1", False, False),
        ("after the return", after(minutes=61), "boot-1", False, True),
        ("of the boot that failed, by a clock that runs ahead", after(minutes=62), "boot-1", True, False),
        ("of the new boot, before the return", after(minutes=30), "boot-2", True, False),
        ("of the new boot, by a clock that is behind", after(minutes=58), "boot-2", True, True),
        ("of the new boot, after the return", after(minutes=61), "boot-2", True, True),
        ("without a boot id, before the return", after(minutes=5), "", True, False),
    ],
)
@pytest.mark.parametrize("last", [IncidentState.PROBATION, IncidentState.CLOSED])
def test_what_happened_before_a_node_was_back_opens_nothing(
    what: str, seen: datetime, boot: str, reboot: bool, opens: bool, last: IncidentState
) -> None:
    node = story(xid(79))
    states = REPAIRED[: REPAIRED.index(last) + 1]
    node.move(*states, at=after(minutes=60), reboot=after(minutes=20) if reboot else None)
    (step,) = node.report(xid(48, seen, gpu=5, boot=boot), at=after(minutes=63))
    if opens:
        # A node that fails its probation goes on with its incident, as what fails now says.
        assert step.what is (What.RAISED if last is IncidentState.PROBATION else What.OPENED), what
        assert step.incident.headline.startswith("XID 48")
    else:
        assert (step.what, step.incident.drain, step.incident.state) == (What.LATE, Drain.NOW, last)
        assert step.event.event_id in step.incident.event_ids


def test_a_node_that_a_person_put_back_counts_as_back() -> None:
    node = story(xid(79))
    node.move(IncidentState.DRAINING, IncidentState.CLOSED, at=after(minutes=10))
    (late,) = node.report(xid(48, after(minutes=1)), at=after(minutes=11))
    assert late.what is What.LATE


def test_an_incident_that_never_drained_its_node_takes_the_same_error_only() -> None:
    node = story(xid(74))
    node.move(IncidentState.CLOSED, at=after(minutes=10))
    (same,) = node.report(xid(74, after(minutes=1)), at=after(minutes=11))
    (other,) = node.report(xid(79, after(minutes=1)), at=after(minutes=11))
    assert (same.what, other.what) == (What.LATE, What.OPENED)


@pytest.mark.parametrize("state", REPAIRED[:4])
def test_while_a_node_is_out_of_service_its_incident_takes_all(state: IncidentState) -> None:
    node = story(xid(94))
    node.move(*REPAIRED[: REPAIRED.index(state) + 1], at=after(hours=1))
    (step,) = node.report(xid(79, after(hours=2), gpu=6))
    assert (step.what, step.incident.fault_class, len(node.incidents)) == (What.RAISED, "hw_reboot", 1)


def test_a_burst_told_late_is_one_incident_by_the_time_it_happened() -> None:
    node = NodeStory()
    node.report(xid(74, after(minutes=1)), at=after(hours=1))
    node.report(xid(48, after(minutes=2)), at=after(hours=2))
    assert node.verdicts == [("now", "hw_reset", "suspect")]


# -- checks


@pytest.mark.parametrize(
    ("what", "reports", "expected"),
    [
        ("critical asks for what the check says", [check(BAD, drain=Drain.WHEN_IDLE)], [("when_idle", "suspect")]),
        ("critical that says nothing is for a person", [check(BAD)], [("review", "suspect")]),
        ("a warning is for a person at most", [check(WARNING, drain=Drain.NOW)], [("review", "suspect")]),
        ("a warning that asks for nothing", [check(WARNING, drain=Drain.NO)], []),
        ("a check that could not look", [check(CheckStatus.UNKNOWN, drain=Drain.NO)], []),
        ("well again", [check(BAD, drain=Drain.NOW), check(OK, after(hours=1))], [("now", "closed")]),
        (
            "another one is well again",
            [check(BAD, drain=Drain.NOW), check(OK, after(hours=1), text="mlx5_1: down")],
            [("now", "suspect")],
        ),
        (
            "well again, but the hardware said something, too",
            [check(BAD), xid(74, after(seconds=1)), check(OK, after(hours=1))],
            [("review", "suspect")],
        ),
        (
            "well again, with an application error beside it",
            [check(BAD), xid(31, after(seconds=1)), check(OK, after(hours=1))],
            [("review", "closed")],
        ),
        ("well, and never was otherwise", [check(OK)], []),
    ],
)
def test_checks_open_and_close_incidents(what: str, reports: list[Sighting], expected: list[tuple[str, str]]) -> None:
    assert [(drain, state) for drain, _, state in story(*reports).verdicts] == expected, what


def test_a_check_that_is_well_again_does_not_stop_a_drain_that_began() -> None:
    node = story(check(BAD, drain=Drain.NOW))
    node.move(IncidentState.DRAINING, at=after(minutes=1))
    node.report(check(OK, after(minutes=2)))
    assert node.only.state is IncidentState.DRAINING


def test_a_check_that_comes_and_goes_stays_open_for_a_person() -> None:
    node = story(*(check(BAD if n % 2 == 0 else OK, after(hours=n), drain=Drain.REVIEW) for n in range(6)))
    assert [state for _, _, state in node.verdicts] == ["closed", "closed", "suspect"]


def test_a_cancelled_error_ends_its_suspicion() -> None:
    node = NodeStory()
    one = xid(163)
    one.__dict__["verdict"] = replace(one.verdict, drain=Drain.REVIEW, rule="as newer catalogues say")
    node.report(one)
    assert node.only.state is IncidentState.SUSPECT
    (ended,) = node.report(xid(162, after(hours=1)))
    assert (ended.what, ended.incident.state) == (What.ENDED, IncidentState.CLOSED)
    assert ended.cause == "XID 162: power smoothing is engaged again."


# -- hostile


def test_nothing_that_steers_a_terminal_gets_into_a_drain_reason() -> None:
    text = "eth0: \x1b[31mdown\x07\r\nroot: \u202egpj.exe\x9b" + "A" * 1_900
    node = story(check(BAD, text=text, name="nic\x1b]0;x\x07"))
    reason = drain_reason(node.only)
    assert reason.isprintable()
    assert len(reason) <= 200
    assert node.only.rule.isprintable()
