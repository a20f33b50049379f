"""What people should be told now, and what they were told already. Pure.

One condition is one alert from when it first holds to when it no longer does. A channel is told of it once, again after
`renotify` while it holds and nobody has acknowledged it, sooner when it has grown, and once that it is over; what ended
before a channel could be told is told as over. The same alert may reach a channel twice only if the daemon ends between
sending and writing that down: `key` and `raised_at` together are the same then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from slurm_gpuaas.domain.alerts import Alert, AlertKind, Condition, Severity, Told
from slurm_gpuaas.domain.audit import AuditEntry
from slurm_gpuaas.domain.incidents import Drain, Incident, RepairOutcome
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.rma import RmaCase, RmaState
from slurm_gpuaas.health.incidents import DRAINING_VERDICTS

MOST_NODES: Final = 200
"""Nodes that one alert names."""
GROWN_AFTER: Final = timedelta(minutes=15)
"""An alert that names more nodes than it did is told again after this at the earliest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """What a channel is to be told of an alert."""

    alert: Alert
    again: bool
    """It was told before and still holds."""

    @property
    def resolved(self) -> bool:
        return self.alert.resolved_at is not None


def conditions(
    incidents: Iterable[Incident],
    *,
    breakers: Iterable[AuditEntry],
    spares: Iterable[AuditEntry],
    cases: Iterable[RmaCase],
    silent: Sequence[NodeName],
) -> list[Condition]:
    """What holds now.

    Args:
        incidents: those that are not closed.
        breakers: entries that say that the circuit breaker of a scope tripped, and was not reset since.
        spares: entries that say that a pool of spares is thin, and was not filled since.
        cases: RMA cases that are not closed.
        silent: nodes whose agents are silent.
    """
    found: list[Condition] = []
    for incident in incidents:
        if incident.drain in DRAINING_VERDICTS:
            found.append(_of_incident(incident))
        attempt = incident.attempts[-1] if incident.attempts else None
        if attempt is not None and attempt.outcome is RepairOutcome.FAILED:
            found.append(
                Condition(
                    key=f"repair:{incident.id}:{len(incident.attempts)}",
                    kind=AlertKind.REPAIR,
                    severity=Severity.WARNING,
                    summary=_short(f"Repair of {incident.node} by {attempt.remedy} failed. {attempt.detail}"),
                    nodes=(incident.node,),
                    incident=incident.id,
                    acknowledged=incident.acknowledged_by is not None,
                )
            )
    found += [
        Condition(
            key=_short(f"breaker:{entry.subject}", 120),
            kind=AlertKind.BREAKER,
            severity=Severity.CRITICAL,
            summary=_short(f"The circuit breaker of {entry.subject} has tripped: nothing acts there. {entry.reason}"),
        )
        for entry in breakers
    ]
    found += [
        Condition(
            key=_short(f"spares:{entry.subject}", 120),
            kind=AlertKind.SPARES,
            severity=Severity.WARNING,
            summary=_short(f"The pool of spares of {entry.subject} is thin. {entry.reason}"),
        )
        for entry in spares
    ]
    found += [
        Condition(
            key=f"rma:{case.id}",
            kind=AlertKind.RMA,
            severity=Severity.WARNING,
            summary=_short(
                f"RMA case {case.id} of {case.node} is {case.state}: GPU {case.serial or 'of unknown serial number'}."
            ),
            nodes=(case.node,),
            incident=case.incident,
            acknowledged=case.state is not RmaState.OPENED,
        )
        for case in cases
    ]
    if silent:
        found.append(
            Condition(
                key="agents",
                kind=AlertKind.AGENTS,
                severity=Severity.WARNING,
                summary=f"Silent node agents: {len(silent)}. Hardware faults of their nodes are not seen.",
                nodes=tuple(silent[:MOST_NODES]),
            )
        )
    return found


def still(raised: Iterable[AuditEntry], cleared: Iterable[AuditEntry]) -> list[AuditEntry]:
    """Of what was raised, the newest of each subject that was not cleared since."""
    latest = {entry.subject: entry for entry in sorted(raised, key=lambda entry: entry.at)}
    over = {entry.subject: entry for entry in sorted(cleared, key=lambda entry: entry.at)}
    return [entry for subject, entry in sorted(latest.items()) if subject not in over or over[subject].at < entry.at]


def _of_incident(incident: Incident) -> Condition:
    return Condition(
        key=f"incident:{incident.id}",
        kind=AlertKind.INCIDENT,
        severity=Severity.CRITICAL if incident.drain is Drain.NOW else Severity.WARNING,
        summary=_short(f"{incident.node}: {incident.headline}"),
        nodes=(incident.node,),
        incident=incident.id,
        acknowledged=incident.acknowledged_by is not None,
    )


def step(known: Iterable[Alert], now_holds: Iterable[Condition], now: datetime) -> list[Alert]:
    """Alerts after a look at what holds, those that did not change too. What holds again before its end was told of
    goes on as it was."""
    holding = {condition.key: condition for condition in now_holds}
    after: list[Alert] = []
    for alert in known:
        condition = holding.pop(alert.condition.key, None)
        if condition is not None:
            after.append(alert.model_copy(update={"condition": condition, "resolved_at": None}))
        elif alert.resolved_at is None:
            after.append(alert.model_copy(update={"resolved_at": now}))
        else:
            after.append(alert)
    return after + [Alert(condition=condition, raised_at=now) for condition in holding.values()]


def due(alerts: Iterable[Alert], channel: str, now: datetime, renotify: timedelta) -> list[Notice]:
    """What a channel is to be told now, the most severe first."""
    found = []
    for alert in alerts:
        told = alert.told.get(channel)
        resolved = alert.resolved_at is not None
        if told is None or told.resolved != resolved:
            found.append(Notice(alert=alert, again=False))
        elif not resolved and not alert.condition.acknowledged:
            grown = not set(alert.condition.nodes) <= set(told.nodes)
            if now - told.at >= (min(renotify, GROWN_AFTER) if grown else renotify):
                found.append(Notice(alert=alert, again=True))
    return sorted(found, key=lambda one: (one.alert.condition.severity is not Severity.CRITICAL, one.alert.raised_at))


def noted(alert: Alert, channel: str, now: datetime) -> Alert:
    """The alert as this channel has been told of it."""
    news = Told(at=now, resolved=alert.resolved_at is not None, nodes=alert.condition.nodes)
    told: Mapping[str, Told] = {**alert.told, channel: news}
    return alert.model_copy(update={"told": told})


def done_with(alert: Alert, channels: Iterable[str]) -> bool:
    """It is over and every channel knows."""
    return alert.resolved_at is not None and all(
        (told := alert.told.get(channel)) is not None and told.resolved for channel in channels
    )


def untold(alert: Alert) -> bool:
    """No channel was told of it, or of its end."""
    return all(told.resolved != (alert.resolved_at is not None) for told in alert.told.values())


def _short(text: str, most: int = 500) -> str:
    return " ".join(text.split())[:most]
