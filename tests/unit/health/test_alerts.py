"""What people are told, and that nobody is told twice."""

from __future__ import annotations

from datetime import timedelta

from slurm_gpuaas.domain.alerts import Alert, AlertKind, Condition, Severity
from slurm_gpuaas.domain.audit import AuditEntry
from slurm_gpuaas.domain.incidents import Drain, Incident, IncidentState, Remedy, RepairAttempt, RepairOutcome
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.health.alerts import conditions, done_with, due, noted, step, still, untold
from slurm_gpuaas.health.rma import new_case
from tests.fakes import EPOCH

HOURS = timedelta(hours=1)
NODE = NodeName("n1")


def incident(drain: Drain = Drain.NOW, *attempts: RepairAttempt) -> Incident:
    return Incident(
        id="i1", node=NODE, state=IncidentState.DRAINING, drain=drain, rule="", headline="XID 79", opened_at=EPOCH,
        updated_at=EPOCH, attempts=attempts,
    )  # fmt: skip


def entry(action: str, subject: str, hours: float) -> AuditEntry:
    return AuditEntry(at=EPOCH + hours * HOURS, actor="x", action=action, subject=subject, reason="why")


def condition(key: str = "incident:i1", severity: Severity = Severity.WARNING) -> Condition:
    return Condition(key=key, kind=AlertKind.INCIDENT, severity=severity, summary="XID 79")


def told_once() -> Alert:
    return noted(Alert(condition=condition(), raised_at=EPOCH), "mail", EPOCH)


def test_each_kind_of_trouble_is_a_condition() -> None:
    failed = RepairAttempt(remedy=Remedy.RESET, begun_at=EPOCH, outcome=RepairOutcome.FAILED, detail="exit code 1")
    found = conditions(
        [incident(Drain.NOW, failed)],
        breakers=[entry("breaker.trip", "leaf leaf-01", 0)],
        spares=[entry("spares.thin", "own", 0)],
        cases=[new_case(NODE, "1", incident=None, why="", actor="root", now=EPOCH)],
        silent=[NodeName("n2"), NodeName("n3")],
    )
    assert {one.kind for one in found} == set(AlertKind)
    by_kind = {one.kind: one for one in found}
    assert by_kind[AlertKind.INCIDENT].summary == "n1: XID 79"
    assert by_kind[AlertKind.REPAIR].summary == "Repair of n1 by reset failed. exit code 1"
    assert by_kind[AlertKind.AGENTS].nodes == ("n2", "n3")
    assert "leaf leaf-01" in by_kind[AlertKind.BREAKER].summary


def test_an_incident_for_review_alerts_nobody() -> None:
    assert conditions([incident(Drain.REVIEW)], breakers=(), spares=(), cases=(), silent=()) == []


def test_what_was_cleared_since_holds_no_more_scope_by_scope() -> None:
    raised = [entry("t", "a", 1), entry("t", "b", 1), entry("t", "c", 3)]
    cleared = [entry("r", "a", 2), entry("r", "c", 2)]
    assert [one.subject for one in still(raised, cleared)] == ["b", "c"]


def test_a_channel_is_told_once_again_after_a_while_and_when_it_is_over() -> None:
    (alert,) = step([], [condition()], EPOCH)
    assert [notice.again for notice in due([alert], "mail", EPOCH, 6 * HOURS)] == [False]
    alert = noted(alert, "mail", EPOCH)
    assert due([alert], "mail", EPOCH + 5 * HOURS, 6 * HOURS) == []
    assert [notice.again for notice in due([alert], "mail", EPOCH + 6 * HOURS, 6 * HOURS)] == [True]
    (over,) = step([alert], [], EPOCH + 7 * HOURS)
    (notice,) = due([over], "mail", EPOCH + 7 * HOURS, 6 * HOURS)
    assert notice.resolved
    assert due([noted(over, "mail", EPOCH)], "mail", EPOCH + 99 * HOURS, 6 * HOURS) == []


def test_what_somebody_acknowledged_is_not_told_again_but_its_end_is() -> None:
    looked_after = incident().model_copy(update={"acknowledged_by": "alice"})
    now_holds = conditions([looked_after], breakers=(), spares=(), cases=(), silent=())
    (alert,) = step([told_once()], now_holds, EPOCH + HOURS)
    assert due([alert], "mail", EPOCH + 9 * HOURS, 6 * HOURS) == []
    (over,) = step([alert], [], EPOCH + 10 * HOURS)
    assert due([over], "mail", EPOCH + 10 * HOURS, 6 * HOURS)[0].resolved


def test_more_silent_agents_are_told_of_without_waiting_for_hours() -> None:
    def silent(*names: str) -> list[Condition]:
        return conditions((), breakers=(), spares=(), cases=(), silent=[NodeName(name) for name in names])

    (alert,) = step([], silent("n1"), EPOCH)
    alert = noted(alert, "mail", EPOCH)
    (alert,) = step([alert], silent("n1", "n2"), EPOCH + HOURS / 60)
    assert due([alert], "mail", EPOCH + HOURS / 60, 6 * HOURS) == [], "many go silent one after the other"
    (notice,) = due([alert], "mail", EPOCH + HOURS / 4, 6 * HOURS)
    assert notice.again and "Silent node agents: 2." in notice.alert.condition.summary
    (alert,) = step([noted(alert, "mail", EPOCH + HOURS / 4)], silent("n2"), EPOCH + HOURS)
    assert due([alert], "mail", EPOCH + 2 * HOURS, 6 * HOURS) == []


def test_what_ended_before_a_channel_could_be_told_is_told_as_over() -> None:
    (alert,) = step([Alert(condition=condition(), raised_at=EPOCH)], [], EPOCH + HOURS)
    (notice,) = due([alert], "webhook", EPOCH + HOURS, HOURS)
    assert notice.resolved and notice.alert.raised_at == EPOCH


def test_what_comes_back_before_its_end_was_told_of_goes_on() -> None:
    (over,) = step([told_once()], [], EPOCH + HOURS)
    (back,) = step([over], [condition()], EPOCH + 2 * HOURS)
    assert (back.raised_at, back.resolved_at) == (EPOCH, None)
    assert due([back], "mail", EPOCH + 2 * HOURS, 6 * HOURS) == []


def test_an_alert_is_done_with_when_every_channel_knows_its_end() -> None:
    (over,) = step([told_once()], [], EPOCH + HOURS)
    assert not done_with(over, ["mail"])
    assert untold(over) and not untold(told_once())
    over = noted(over, "mail", EPOCH + HOURS)
    assert done_with(over, ["mail"]) and not done_with(over, ["mail", "webhook"])


def test_the_most_severe_come_first() -> None:
    alerts = [
        Alert(condition=condition("a"), raised_at=EPOCH),
        Alert(condition=condition("b", Severity.CRITICAL), raised_at=EPOCH + HOURS),
    ]
    assert [one.alert.condition.key for one in due(alerts, "mail", EPOCH, HOURS)] == ["b", "a"]
