"""What one event means for its node, without history: class, drain verdict, and who decided.

Order of authority: the driver's own recovery action (XID 154, NVML's recovery field, the severity an SXid line states),
then NVIDIA's catalogue with its rules for NVLink, and the site's overrides on top. `why` names the one that decided.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, reduce
from operator import or_
from typing import Final, NamedTuple

from slurm_gpuaas.domain.incidents import Drain, EventKind
from slurm_gpuaas.health.catalogue import (
    NVLINK5_CODES,
    REVIEW,
    Consequence,
    FaultClass,
    Nvlink5Rule,
    Product,
    SxidSeverity,
    catalogue,
)
from slurm_gpuaas.health.overrides import Override, override_of

FALLEN_OFF_THE_BUS: Final = 79
RECOVERY_ACTION_CHANGED: Final = 154
NVLINK4_ERROR: Final = 74
_UNNAMED: Final = 1 << 32
LAYOUT_V2_FROM: Final = 575
"""First driver branch whose NVLink 5 messages have layout V2."""

_PEER: Final = "INVESTIGATE_PEER_DEVICE"
_STRENGTH: Final = {Drain.NO: 0, Drain.REVIEW: 1, Drain.WHEN_IDLE: 2, Drain.NOW: 3}


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """What is known of an event without history. `immediate` and `investigatory` are NVIDIA's bucket names: the row's,
    or those of the NVLink 5 rule that fits the message."""

    fault_class: FaultClass
    drain: Drain
    why: str
    immediate: str | None = None
    investigatory: str | None = None

    @property
    def peer(self) -> bool:
        """The device at the other end of the NVLink is the one to look at."""
        return self.investigatory == _PEER

    @cached_property
    def json_members(self) -> str:
        """Its members of the JSON object of an event, without braces. Many events share an assessment."""
        members = {
            "immediate_action": self.immediate,
            "investigatory_action": self.investigatory,
            "class": self.fault_class,
            "drain": self.drain,
            "why": self.why,
        }
        return json.dumps(members)[1:-1]


class Nvlink5Words(NamedTuple):
    """What an XID 144-150 says: the part of NVLink, and the first two words, intrInfo and errorStatus."""

    unit: str
    intr_info: int
    error_status: int


class _Finding(NamedTuple):
    """An assessment before the site's overrides. `authority` is who decided, `detail` what it said."""

    consequence: Consequence
    authority: str
    detail: str
    immediate: str | None = None
    investigatory: str | None = None


def assess_xid(
    code: int,
    *,
    recovery_action: str | None = None,
    product: Product | None = None,
    driver: int | None = None,
    nvlink4: Sequence[int] = (),
    nvlink5: Nvlink5Words | None = None,
    overrides: Sequence[Override] = (),
) -> Assessment:
    """Class and verdict of an XID.

    Args:
        code: the XID.
        recovery_action: what the driver asks for, in the words of XID 154 (`GPU Reset Required`); None when unknown.
        product: the node's GPUs; None when unknown: then no row is ruled out.
        driver: major version (580); decides how XID 144-150 are read. None when unknown: then both layouts are tried.
        nvlink4: the seven registers of an XID 74, empty when the message has none.
        nvlink5: the words of an XID 144-150, None when the message has none.
        overrides: the site's.
    """
    found = _by_driver(code, recovery_action) or _by_catalogue(code, product, driver, nvlink4, nvlink5)
    return _overridden(found, override_of(overrides, EventKind.XID, code, product))


def assess_sxid(
    code: int, severity: str | None, *, product: Product | None = None, overrides: Sequence[Override] = ()
) -> Assessment:
    """Class and verdict of an SXid.

    Args:
        severity: as the line states it (`Fatal`, `Non-fatal`, `Correctable`); None where it states none.
    """
    row = catalogue().sxid.get(code)
    text = f" ({row.text})" if row else ""
    if severity is not None:
        fatal, authority, detail = severity == "Fatal", "driver's severity", f"{severity}{text}"
    elif row is not None:
        fatal, authority = row.severity is not SxidSeverity.NON_FATAL, _catalogue()
        detail = f"{row.severity.replace('_', '-')}{text}"
    else:
        found = _Finding(REVIEW, _catalogue(), f"SXid {code} is not in the catalogue, and the line states no severity")
        return _overridden(found, override_of(overrides, EventKind.SXID, code, product))
    if fatal:
        consequence = Consequence(fault_class=FaultClass.SXID_FATAL, drain=Drain.NOW)
    elif row and row.stalls:
        consequence = Consequence(fault_class=FaultClass.SXID_NONFATAL, drain=Drain.REVIEW)
        authority, detail = _catalogue(), f"not fatal, yet NVLink traffic of the GPU stalls{text}"
    else:
        consequence = Consequence(fault_class=FaultClass.SXID_NONFATAL, drain=Drain.NO)
    return _overridden(_Finding(consequence, authority, detail), override_of(overrides, EventKind.SXID, code, product))


def _by_driver(code: int, action: str | None) -> _Finding | None:
    """The driver's own verdict. That it asks for nothing is one on its own event only: it does not clear another."""
    if action is None:
        return None
    known = catalogue().recovery_actions.get(action)
    consequence = known or Consequence(fault_class=FaultClass.FOLLOW_154, drain=Drain.REVIEW)
    row = catalogue().xid.get(code)
    buckets = (row.immediate, row.investigatory) if row else (None, None)
    detail = action if known else f"{action}, which no source explains"
    if code == RECOVERY_ACTION_CHANGED:
        consequence = Consequence(fault_class=FaultClass.FOLLOW_154, drain=consequence.drain)
    elif consequence.drain is Drain.NO:
        return None
    return _Finding(consequence, "driver's recovery action", detail, *buckets)


def _by_catalogue(
    code: int, product: Product | None, driver: int | None, nvlink4: Sequence[int], nvlink5: Nvlink5Words | None
) -> _Finding:
    data = catalogue()
    row = data.xid.get(code)
    if row is None:
        return _Finding(REVIEW, _catalogue(), f"XID {code} is not in the catalogue")
    buckets = row.immediate, row.investigatory
    if product is not None and not data.applies(row, product):
        detail = f"XID {code} ({row.text}) does not apply to {product} (its column {data.columns[product]} says no)"
        return _Finding(REVIEW, _catalogue(), detail, *buckets)
    if code in NVLINK5_CODES:
        return _by_nvlink5(code, driver, nvlink5) or _Finding(
            REVIEW, _catalogue(), f"{row.text}, and no NVLink 5 rule fits the message", *buckets
        )
    if code == NVLINK4_ERROR:
        drain, detail = _by_nvlink4(nvlink4)
        return _Finding(Consequence(fault_class=FaultClass.NVLINK, drain=drain), _catalogue(), detail, *buckets)
    detail = f"{row.immediate or 'no action given'} ({row.text}{f': {row.reason}' if row.reason else ''})"
    return _Finding(row.consequence, _catalogue(), detail, *buckets)


def nvlink5_rule(code: int, words: Nvlink5Words, driver: int | None) -> Nvlink5Rule | None:
    """NVIDIA's rule for an XID 144-150. No message fits a rule of one layout and one of the other for another action
    (`catalogue.gaps` says so otherwise), so that both are tried when the driver is unknown. The words Fatal and
    Nonfatal of the message are not asked: NVIDIA's actions differ from them."""
    v1, v2 = driver is None or driver < LAYOUT_V2_FROM, driver is None or driver >= LAYOUT_V2_FROM
    for rule in catalogue().nvlink5:
        if rule.code != code or words.unit not in rule.units:
            continue
        if rule.statuses and words.error_status not in rule.statuses:
            continue
        if (v1 and rule.v1.matches(words.intr_info)) or (v2 and rule.v2.matches(words.intr_info)):
            return rule
    return None


@cache
def nvlink5_bits() -> int:
    """The bits of intrInfo that some rule asks for."""
    return reduce(or_, (rule.v1.mask | rule.v2.mask for rule in catalogue().nvlink5))


def _by_nvlink5(code: int, driver: int | None, words: Nvlink5Words | None) -> _Finding | None:
    rule = nvlink5_rule(code, words, driver) if words else None
    if words is None or rule is None:
        return None
    reason = words.intr_info >> 20 & 0x3F
    detail = f"{rule.immediate} (NVLink 5 {words.unit}{f', link-down reason {reason:06b}' if reason else ''})"
    return _Finding(catalogue().bucket(rule.immediate), _catalogue(), detail, rule.immediate, rule.investigatory)


def nvlink4_rules(registers: Sequence[int]) -> tuple[int, bool]:
    """Which rules of the catalogue the seven registers of an XID 74 meet (one bit a rule), and whether bits are left
    that no rule names."""
    met = 0
    tables = _nvlink4_tables()
    for register, word in enumerate(registers):
        if word:
            low, second, third, high = tables[register]
            met |= low[word & 255] | second[word >> 8 & 255] | third[word >> 16 & 255] | high[word >> 24 & 255]
            if word >> 32:
                met |= _UNNAMED
    return met & ~_UNNAMED, met >= _UNNAMED


@cache
def _nvlink4_tables() -> tuple[tuple[Sequence[int], ...], ...]:
    """For each byte of each of the seven registers, lowest first: what each of its 256 values meets, one bit a rule and
    `_UNNAMED` for bits that no rule names."""
    rules = list(enumerate(catalogue().nvlink4))

    def meets(register: int, word: int) -> int:
        own = [(1 << at, rule.mask) for at, rule in rules if rule.register == register]
        named = reduce(or_, (mask for _, mask in own), 0)
        return sum(bit for bit, mask in own if word & mask) | (_UNNAMED if word & ~named else 0)

    return tuple(
        tuple([meets(register, value << shift) for value in range(256)] for shift in (0, 8, 16, 24))
        for register in range(1, 8)
    )


def _by_nvlink4(registers: Sequence[int]) -> tuple[Drain, str]:
    """The strongest of the bits that are set. Bits that no rule names, and none at all, are for a person."""
    met, left = nvlink4_rules(registers)
    rules = [rule for at, rule in enumerate(catalogue().nvlink4) if met >> at & 1]
    if not rules and not left:
        return Drain.REVIEW, "NVLink 4 error, and the message sets no register"
    said = [f"register {rule.register} {rule.text}" for rule in rules] + ["bits that no rule names"] * left
    drains = [rule.drain for rule in rules] + [Drain.REVIEW] * left
    return max(drains, key=_STRENGTH.__getitem__), f"NVLink 4: {'; '.join(said)}"


def _overridden(found: _Finding, override: Override | None) -> Assessment:
    fault_class, drain = found.consequence.fault_class, found.consequence.drain
    why = f"{found.authority}: {found.detail}"
    if override is not None:
        why = f"site override: {override.reason} ({found.authority} said {drain}: {found.detail})"
        fault_class, drain = override.fault_class or fault_class, override.drain or drain
    return Assessment(
        fault_class=fault_class,
        drain=drain,
        why=why,
        immediate=found.immediate,
        investigatory=found.investigatory,
    )


def _catalogue() -> str:
    return f"catalogue of {catalogue().version}"
