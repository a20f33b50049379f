"""What one event means for its node, whatever came before it: drain now, when idle, not at all, or a person has a look.
Pure. What several events mean together is decided in `repeats`, `attribution` and `incidents`.

Order of authority: the driver's own recovery action, then NVIDIA's catalogue. Every verdict says which decided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Final

from slurm_gpuaas.domain.incidents import CheckStatus, Drain, EventKind, NodeEvent
from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.health.assess import Assessment, assess_sxid, assess_xid
from slurm_gpuaas.health.catalogue import FaultClass, Product, catalogue
from slurm_gpuaas.health.decode import Decoded, Decoder, Unit
from slurm_gpuaas.health.overrides import Override

DRAINING_VERDICTS: Final = frozenset({Drain.WHEN_IDLE, Drain.NOW})
RECOVERY_ACTION_CHANGED: Final = 154
NOTHING_TO_DO: Final = "None"
"""The driver's recovery action of a GPU that needs none."""

_DRAINS: Final = (Drain.NO, Drain.REVIEW, Drain.WHEN_IDLE, Drain.NOW)
_CLASSES: Final = (
    FaultClass.INFO,
    FaultClass.SYMPATHETIC,
    FaultClass.APP,
    FaultClass.SXID_NONFATAL,
    FaultClass.UNKNOWN,
    FaultClass.FOLLOW_154,
    FaultClass.NVLINK,
    FaultClass.CONTAINED,
    FaultClass.HW_RESET,
    FaultClass.SXID_FATAL,
    FaultClass.HW_REBOOT,
    FaultClass.HW_SUPPORT,
)
"""By what it takes to mend them: of two verdicts that ask for the same drain the one further on decides."""
_WARNS_AT_MOST: Final = Drain.REVIEW
_TEXT: Final = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`rule` is what decided; `headline` fits into a Slurm reason, e.g. `XID 79 GPU has fallen off the bus, GPU 3
    (0000:3b:00)`. Both are printable text of one line.

    Args:
        by_driver: the driver's own recovery action decided.
        cleared: the driver says that it asks for nothing any more.
        unit: where on the chip, as far as the line says.
        caused_by: the XID that the line names as its cause.
        peer: NVIDIA wants the device at the other end of the NVLink looked at.
    """

    drain: Drain
    fault_class: FaultClass
    rule: str
    headline: str
    by_driver: bool = False
    cleared: bool = False
    unit: Unit | None = None
    caused_by: int | None = None
    peer: bool = False
    link: int | None = None

    @property
    def asks(self) -> bool:
        """Whether it alone is reason enough for an incident."""
        return self.drain is not Drain.NO


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """An event with the jobs that ran on its node when it was reported; none where that is not known."""

    event: NodeEvent
    jobs: tuple[JobId, ...] = ()
    overrides: tuple[Override, ...] = ()
    """The site's."""

    @cached_property
    def verdict(self) -> Verdict:
        return triage(self.event, self.overrides)

    @cached_property
    def asks(self) -> tuple[int, int]:
        """For how much it asks by itself; of two the larger for more."""
        return strength(self.verdict.drain, self.verdict.fault_class)


def triage(event: NodeEvent, overrides: Sequence[Override] = ()) -> Verdict:
    """The verdict on one event, whatever came before it."""
    if event.kind is EventKind.CHECK:
        return _of_check(event)
    decoded, assessment = _assess(event, overrides)
    return Verdict(
        drain=assessment.drain,
        fault_class=assessment.fault_class,
        rule=one_line(assessment.why, 500),
        headline=headline(event),
        by_driver=assessment.drain is not Drain.NO and _action(event, decoded) not in {None, NOTHING_TO_DO},
        cleared=event.code == RECOVERY_ACTION_CHANGED and _action(event, decoded) == NOTHING_TO_DO,
        unit=decoded.unit if decoded else None,
        caused_by=decoded.caused_by if decoded else None,
        # INVESTIGATE_PEER_DEVICE of the NVLink 5 rules.
        peer="PEER" in (decoded.investigatory_action or "") if decoded else False,
        link=decoded.link if decoded else None,
    )


def strength(drain: Drain, fault_class: str) -> tuple[int, int]:
    """Order of verdicts: what it asks for first, then what it takes to mend. A class that is not known ranks last."""
    known = [one.value for one in _CLASSES]
    return _DRAINS.index(drain), known.index(fault_class) if fault_class in known else -1


def headline(event: NodeEvent) -> str:
    """One short printable line that names code, meaning, GPU and PCI address."""
    if event.kind is EventKind.CHECK:
        status = event.status.value if event.status else "no answer"
        return one_line(f"check {event.check or 'without a name'} {status}: {event.evidence}", _TEXT)  # names its GPU
    if event.kind is EventKind.SXID:
        what = f"SXid {event.code}"
    else:
        row = catalogue().xid.get(event.code)
        what = f"XID {event.code} {row.text if row else 'not in the catalogue'}"
    return one_line(", ".join([what, *place(event)]), 500)


def place(event: NodeEvent) -> list[str]:
    """`GPU 3 (0000:3b:00)`, `at 0000:3b:00` where only that is known, or nothing."""
    if event.gpu is None:
        return [f"at {event.pci}"] if event.pci else []
    return [f"GPU {event.gpu}{f' ({event.pci})' if event.pci else ''}"]


def one_line(text: str, most: int) -> str:
    """Text fit for a Slurm reason and a terminal: what does not print (line ends, escapes) is a space."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:most])


@cache
def draining_codes() -> frozenset[int]:
    """XIDs that drain a node by the catalogue alone."""
    return frozenset(code for code in catalogue().xid if assess_xid(code).drain in DRAINING_VERDICTS)


def _of_check(event: NodeEvent) -> Verdict:
    """A critical finding asks for what its check says; any other at most for a person's look. A check that says nothing
    leaves a critical finding to a person."""
    drain = event.drain or (Drain.NO if event.status is CheckStatus.OK else Drain.REVIEW)
    if event.status is CheckStatus.OK:
        drain = Drain.NO
    elif event.status is not CheckStatus.CRITICAL:
        drain = min(drain, _WARNS_AT_MOST, key=_DRAINS.index)
    status = event.status.value if event.status else "no answer"
    return Verdict(
        drain=drain,
        fault_class=FaultClass.UNKNOWN,
        rule=one_line(f"check {event.check or 'without a name'} ({status}): {event.evidence}", 300),
        headline=headline(event),
    )


def _action(event: NodeEvent, decoded: Decoded | None) -> str | None:
    """What the driver asks for, as NVML or the line says."""
    return event.recovery_action or (decoded.to_action if decoded else None)


def _assess(event: NodeEvent, overrides: Sequence[Override]) -> tuple[Decoded | None, Assessment]:
    """The line is decoded again: the daemon's catalogue decides, whatever version the agent has. The one place that
    calls the decoder."""
    product, driver = _product(event), _major(event.driver_version)
    decoded = next(Decoder(product, driver, overrides).decode(1, event.evidence), None)
    if decoded and (decoded.kind, decoded.code) != (event.kind, event.code):
        decoded = None
    if event.kind is EventKind.SXID:
        if decoded:
            return decoded, decoded.assessment
        return None, assess_sxid(event.code, None, product=product, overrides=overrides)
    action = _action(event, decoded)
    silent = action is None or (action == NOTHING_TO_DO and event.code != RECOVERY_ACTION_CHANGED)
    if decoded and silent:
        return decoded, decoded.assessment
    found = assess_xid(event.code, recovery_action=action, product=product, overrides=overrides)
    if event.code == RECOVERY_ACTION_CHANGED and found.drain in DRAINING_VERDICTS:
        # What mends it is what the driver asks for: reset or reboot.
        found = replace(found, fault_class=assess_xid(0, recovery_action=action).fault_class)
    return decoded, found


def _product(event: NodeEvent) -> Product | None:
    return Product(event.product) if event.product in {product.value for product in Product} else None


def _major(version: str | None) -> int | None:
    major = (version or "").partition(".")[0]
    return int(major) if major.isascii() and major.isdigit() else None
