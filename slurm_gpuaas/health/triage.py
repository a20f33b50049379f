"""What an event means for its node: drain now, when idle, not at all, or a person has a look. Pure.

Order of authority: the driver's own recovery action, then NVIDIA's catalogue. Every verdict says which decided.
"""

from __future__ import annotations

from dataclasses import dataclass

from slurm_gpuaas.domain.incidents import Drain, EventKind, NodeEvent
from slurm_gpuaas.health.catalogue import FaultClass, catalogue
from slurm_gpuaas.health.decode import Assessment, assess_sxid, assess_xid, decode_line


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`rule` is what decided; `headline` fits into a Slurm reason, e.g. `XID 79 GPU has fallen off the bus, GPU 3
    (0000:3b:00)`."""

    drain: Drain
    fault_class: FaultClass
    rule: str
    headline: str


def triage(event: NodeEvent) -> Verdict:
    """The verdict on one event, whatever came before it."""
    if event.kind is EventKind.CHECK:
        return Verdict(
            drain=event.drain or Drain.NO,
            fault_class=FaultClass.UNKNOWN,
            rule=f"check {event.check}: {event.evidence}"[:500],
            # The rule in brackets at its end stands in the verdict's own.
            headline=f"{event.check} {event.status}, {event.evidence.rpartition(' [')[0] or event.evidence}"[:500],
        )
    assessment = _assess(event)
    return Verdict(
        drain=assessment.drain, fault_class=assessment.fault_class, rule=assessment.why, headline=headline(event)
    )


def headline(event: NodeEvent) -> str:
    """One short line that names code, meaning, GPU and PCI address."""
    if event.kind is EventKind.SXID:
        what = f"SXid {event.code}"
    else:
        row = catalogue().xid.get(event.code)
        what = f"XID {event.code} {row.text if row else 'not in the catalogue'}"
    where = [f"GPU {event.gpu}"] if event.gpu is not None else []
    return f"{', '.join([what, *where])}{f' ({event.pci})' if event.pci else ''}"


def _assess(event: NodeEvent) -> Assessment:
    """The line is decoded again: the daemon's catalogue decides, whatever version the agent has."""
    decoded = decode_line(event.evidence)
    if decoded and (decoded.kind, decoded.code) == (event.kind, event.code) and event.recovery_action is None:
        return decoded.assessment
    if event.kind is EventKind.SXID:
        return assess_sxid(event.code, None)
    return assess_xid(event.code, recovery_action=event.recovery_action)
