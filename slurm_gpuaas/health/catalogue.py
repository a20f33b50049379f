"""NVIDIA's XID and SXid catalogue as data (`data/xid_catalogue.json`): dated, each row with its source.

This module looks rows up and says what the data lacks. What follows from a row for a node is decided in `assess`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Final

from slurm_gpuaas.domain.incidents import Drain

NVLINK5_CODES: Final = range(144, 151)


class FaultClass(StrEnum):
    """Whose fault an event is and what mends it."""

    APP = "app"
    """Restart the application."""
    INFO = "info"
    SYMPATHETIC = "sympathetic"
    """Follows another error; never a reason of its own."""
    CONTAINED = "contained"
    """Memory error that hit one process only."""
    HW_RESET = "hw_reset"
    HW_REBOOT = "hw_reboot"
    HW_SUPPORT = "hw_support"
    NVLINK = "nvlink"
    """NVLink 4 registers decide."""
    FOLLOW_154 = "follow_154"
    """The driver's recovery action decides."""
    UNKNOWN = "unknown"
    SXID_FATAL = "sxid_fatal"
    SXID_NONFATAL = "sxid_nonfatal"


class Product(StrEnum):
    """What the fleet has. NVIDIA's sheet has no column for either; `Catalogue.columns` says which one we read."""

    H200 = "h200"
    B200 = "b200"


class SxidSeverity(StrEnum):
    """NVIDIA's three lists: `fatal` to the port, `always_fatal` to the whole fabric."""

    NON_FATAL = "non_fatal"
    FATAL = "fatal"
    ALWAYS_FATAL = "always_fatal"


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueSource:
    """Where rows come from. `read` is the day they were read, `through` by which copy."""

    key: str
    title: str
    url: str
    read: str
    through: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Consequence:
    """What an action of NVIDIA's means for a node: our reading."""

    fault_class: FaultClass
    drain: Drain


REVIEW: Final = Consequence(fault_class=FaultClass.UNKNOWN, drain=Drain.REVIEW)
"""Of what no source tells an action for: never taken for healthy, never acted on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class XidRow:
    """One XID. `immediate` and `investigatory` are NVIDIA's bucket names, None where its sheet is empty.

    `applies` are the sheet's columns (`H100`); None when no source says. `reason` tells why the consequence is another
    than the one of the row's bucket.
    """

    code: int
    mnemonic: str
    text: str
    applies: frozenset[str] | None
    immediate: str | None
    investigatory: str | None
    consequence: Consequence
    reason: str | None
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SxidRow:
    """One SXid. `stalls`: not fatal by its list, yet the guide says that NVLink traffic of the GPU stops."""

    code: int
    text: str
    severity: SxidSeverity
    stalls: bool


@dataclass(frozen=True, slots=True)
class BitPattern:
    """32 bits of which some matter, as NVIDIA writes them: `------000000----------0000100001`, highest bit first."""

    mask: int
    value: int

    @classmethod
    def of(cls, text: str) -> BitPattern:
        return cls(
            mask=int("".join("0" if bit == "-" else "1" for bit in text), 2), value=int(text.replace("-", "0"), 2)
        )

    def matches(self, word: int) -> bool:
        return word & self.mask == self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Nvlink5Rule:
    """One line of NVIDIA's decode of XID 144-150: the first word of the message (intrInfo) against a pattern, the
    second (errorStatus) against `statuses` (empty: any).

    Drivers before R575 use layout `v1`, those from R575 on `v2`. `units` are the names the message may give the part of
    NVLink. A rule of a message that may be promoted to a fatal one is two: one for each state of the promotion bit.
    """

    code: int
    units: frozenset[str]
    v1: BitPattern
    v2: BitPattern
    statuses: frozenset[int]
    immediate: str
    investigatory: str
    severity: str
    fault: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Nvlink4Rule:
    """Bits of one of the seven registers (first is 1) of an XID 74, as a mask."""

    register: int
    mask: int
    drain: Drain
    text: str

    @property
    def bits(self) -> tuple[int, ...]:
        return tuple(bit for bit in range(32) if self.mask >> bit & 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """`version` is the day the newest source was read; `columns` the sheet's column that is read for a product;
    `buckets` what NVIDIA's actions mean for a node; `recovery_actions` the same for the words of XID 154."""

    version: str
    sources: Mapping[str, CatalogueSource]
    columns: Mapping[Product, str]
    buckets: Mapping[str, Consequence]
    recovery_actions: Mapping[str, Consequence]
    xid: Mapping[int, XidRow]
    nvlink4: tuple[Nvlink4Rule, ...]
    nvlink5: tuple[Nvlink5Rule, ...]
    sxid: Mapping[int, SxidRow]

    def bucket(self, name: str | None) -> Consequence:
        return self.buckets.get(name, REVIEW) if name else REVIEW

    def applies(self, row: XidRow, product: Product | None) -> bool:
        """False only where the sheet says that the product does not have this XID."""
        return product is None or not row.applies or self.columns[product] in row.applies


@cache
def catalogue() -> Catalogue:
    """The catalogue that ships with this version."""
    return read_catalogue(files("slurm_gpuaas.health").joinpath("data/xid_catalogue.json").read_text("utf-8"))


def read_catalogue(text: str) -> Catalogue:
    raw = json.loads(text)
    buckets = {row["name"]: _consequence(row) for row in raw["buckets"]}
    return Catalogue(
        version=raw["version"],
        sources=MappingProxyType({row["key"]: CatalogueSource(**row) for row in raw["sources"]}),
        columns=MappingProxyType({Product(name): column for name, column in raw["products"].items()}),
        buckets=MappingProxyType(buckets),
        recovery_actions=MappingProxyType({row["name"]: _consequence(row) for row in raw["recovery_actions"]}),
        xid=MappingProxyType({row["code"]: _xid_row(row, buckets) for row in raw["xid"]}),
        nvlink4=tuple(
            Nvlink4Rule(
                register=row["register"],
                mask=sum(1 << bit for bit in row["bits"]),
                drain=Drain(row["drain"]),
                text=row["text"],
            )
            for row in raw["nvlink4"]
        ),
        nvlink5=tuple(rule for row in raw["nvlink5"] for rule in _nvlink5_rules(row)),
        sxid=MappingProxyType(
            {
                row["code"]: SxidRow(
                    code=row["code"],
                    text=row["text"],
                    severity=SxidSeverity(row["severity"]),
                    stalls=row.get("stalls", False),
                )
                for row in raw["sxid"]
            }
        ),
    )


def _consequence(row: Mapping[str, Any]) -> Consequence:
    return Consequence(fault_class=FaultClass(row["class"]), drain=Drain(row["drain"]))


def _xid_row(row: Mapping[str, Any], buckets: Mapping[str, Consequence]) -> XidRow:
    return XidRow(
        code=row["code"],
        mnemonic=row["mnemonic"],
        text=row["text"],
        applies=None if row["applies"] is None else frozenset(row["applies"].split()),
        immediate=row["immediate"],
        investigatory=row["investigatory"],
        consequence=_consequence(row) if "class" in row else buckets.get(row["immediate"], REVIEW),
        reason=row.get("reason"),
        source=row.get("source", "xid"),
    )


def _nvlink5_rules(row: Mapping[str, Any]) -> Iterator[Nvlink5Rule]:
    for state in [row, row["promoted"]] if "promoted" in row else [row]:
        yield Nvlink5Rule(
            code=row["xid"],
            units=frozenset([row["unit"], *row["unit"].split("/")]),
            v1=BitPattern.of(state["v1"]),
            v2=BitPattern.of(state["v2"]),
            statuses=frozenset(int(status, 16) for status in row["status"]),
            immediate=state["immediate"],
            investigatory=row["investigatory"],
            severity=row["severity"],
            fault=row["fault"],
        )


class GapKind(StrEnum):
    MISSING = "missing"
    """No row for a code below the highest one."""
    NO_ACTION = "no-action"
    """No source tells what to do: events of this code wait for a person."""
    NO_TEXT = "no-text"
    CONTRADICTION = "contradiction"
    """The data says two things, or one that it does not explain: a mistake in this file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Something the catalogue does not know, or knows twice."""

    kind: GapKind
    subject: str
    text: str


def gaps(data: Catalogue) -> Iterator[Gap]:
    """What the data lacks, in order of code; nothing is a gap that a person could not mend in the file."""
    for code in range(1, max(data.xid) + 1):
        row = data.xid.get(code)
        if row is None:
            yield Gap(kind=GapKind.MISSING, subject=f"XID {code}", text="no source knows it")
            continue
        if row.immediate is None and row.consequence == REVIEW:
            yield Gap(kind=GapKind.NO_ACTION, subject=f"XID {code}", text=f"{row.mnemonic} goes to review")
        if not row.text.strip() or not row.mnemonic.strip():
            yield Gap(kind=GapKind.NO_TEXT, subject=f"XID {code}", text="no mnemonic or no text")
        yield from _row_contradictions(data, row)
    for rule in data.nvlink5:
        yield from _rule_contradictions(data, rule)
    seen: set[tuple[int, int]] = set()
    for bits in data.nvlink4:
        if not bits.text.strip():
            yield Gap(kind=GapKind.NO_TEXT, subject=f"XID 74 register {bits.register}", text="bits without text")
        for bit in bits.bits:
            if (bits.register, bit) in seen:
                text = f"bit {bit} is in two rules"
                yield Gap(kind=GapKind.CONTRADICTION, subject=f"XID 74 register {bits.register}", text=text)
            seen.add((bits.register, bit))
    for sxid in data.sxid.values():
        if not sxid.text.strip():
            yield Gap(kind=GapKind.NO_TEXT, subject=f"SXid {sxid.code}", text="no text")


def _row_contradictions(data: Catalogue, row: XidRow) -> Iterator[Gap]:
    subject = f"XID {row.code}"
    if row.source not in data.sources:
        yield Gap(kind=GapKind.CONTRADICTION, subject=subject, text=f"its source {row.source} is not in the list")
    if row.immediate and row.immediate not in data.buckets:
        yield Gap(kind=GapKind.CONTRADICTION, subject=subject, text=f"no consequence of {row.immediate}")
    differs = row.consequence != data.bucket(row.immediate)
    if differs and not row.reason:
        text = f"differs from {row.immediate or 'an empty bucket'} without a reason"
        yield Gap(kind=GapKind.CONTRADICTION, subject=subject, text=text)
    if row.reason and not differs:
        text = f"has a reason to differ from {row.immediate or 'an empty bucket'} and does not"
        yield Gap(kind=GapKind.CONTRADICTION, subject=subject, text=text)


def _rule_contradictions(data: Catalogue, rule: Nvlink5Rule) -> Iterator[Gap]:
    subject = f"XID {rule.code} {'/'.join(sorted(rule.units, key=len)[:1])}"
    if rule.immediate not in data.buckets:
        yield Gap(kind=GapKind.CONTRADICTION, subject=subject, text=f"no consequence of {rule.immediate}")
    for other in data.nvlink5:
        same_text = other.code == rule.code and other.units & rule.units and other.immediate != rule.immediate
        same_status = not other.statuses or not rule.statuses or other.statuses & rule.statuses
        if not (same_text and same_status):
            continue
        for one, two in ((rule.v1, other.v1), (rule.v2, other.v2), (rule.v1, other.v2)):
            both = one.mask & two.mask
            if one.value & both == two.value & both:
                text = f"one message may mean {rule.immediate} and {other.immediate}"
                yield Gap(kind=GapKind.CONTRADICTION, subject=subject, text=text)
