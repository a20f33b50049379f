"""The portal's audit trail as a chain: each entry holds the hash of the one before, so that nothing in it can be
edited, added, taken out or moved without every later hash changing. Pure.

A chain alone cannot tell that its end is missing, or that all of it was made anew: anchors can, which are numbers and
hashes of entries that were written down elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, NamedTuple

BEGINNING: Final = "0" * 64
"""Stands for the hash before the first entry."""

MOST_FAULTS: Final = 20
"""A verdict names so many; more say nothing new."""


class AuditResult(StrEnum):
    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"


class Cut(NamedTuple):
    """Longest text of a field, in characters; what is longer is cut, never refused: an act must not go unrecorded
    because its subject has a long name."""

    actor: int = 100
    role: int = 40
    on_behalf_of: int = 100
    action: int = 100
    subject: int = 200
    reason: int = 2_000
    source: int = 64
    request: int = 64


CUT: Final = Cut()


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """Something that was done or refused.

    Args:
        actor: a person's number, `site/NAME`, or `gpuaas-portal` for what the server did by itself.
        on_behalf_of: the person or organisation for whom it was done, where that is another.
        source: address that it came from.
        request: number of the HTTP request, which is in the log too.
    """

    at: datetime
    actor: str
    action: str
    subject: str
    role: str = ""
    on_behalf_of: str = ""
    reason: str = ""
    evidence: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
    source: str = ""
    request: str = ""
    result: AuditResult = AuditResult.DONE


class Entry(NamedTuple):
    """An entry as it is stored. The order of the fields before `hash` is what is hashed: never change it.

    Args:
        at: ISO 8601 in UTC with microseconds, so that it sorts as text and is the same text in every database.
        evidence: canonical JSON.
    """

    seq: int
    at: str
    actor: str
    role: str
    on_behalf_of: str
    action: str
    subject: str
    reason: str
    evidence: str
    source: str
    request: str
    result: str
    previous: str
    hash: str


class Anchor(NamedTuple):
    """An entry's number and hash, kept where the writer of the trail cannot change it."""

    seq: int
    hash: str


class FaultKind(StrEnum):
    EDITED = "edited"
    MISSING = "missing"
    OUT_OF_CHAIN = "out-of-chain"
    CUT_OFF = "cut-off"
    OTHER_THAN_ANCHOR = "other-than-anchor"


class ChainFault(NamedTuple):
    seq: int
    kind: FaultKind
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Args:
    last: the last entry's number and hash; `Anchor(0, BEGINNING)` of an empty trail.
    faults: the first of them, in the order of the trail; empty = whole.
    """

    entries: int
    last: Anchor
    anchors: int
    faults: tuple[ChainFault, ...]


def iso(moment: datetime) -> str:
    """Always 32 characters: `2026-11-28T00:36:00.000000+00:00`."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def canonical(evidence: Mapping[str, str | int | float | bool | None]) -> str:
    """Raises:
    ValueError: a number is not finite.
    """
    return json.dumps(evidence, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


def link(event: AuditEvent, previous: Anchor) -> Entry:
    """The entry that follows `previous`."""
    texts = {name: _clean(getattr(event, name))[:most] for name, most in CUT._asdict().items()}
    entry = Entry(
        seq=previous.seq + 1,
        at=iso(event.at),
        evidence=canonical({key: _clean(v) if isinstance(v, str) else v for key, v in event.evidence.items()}),
        result=str(event.result),
        previous=previous.hash,
        hash="",
        **texts,
    )
    return entry._replace(hash=digest(entry[:-1]))


def digest(fields: tuple[str | int, ...]) -> str:
    """SHA-256, in hexadecimal, over the canonical JSON of all fields before `hash`."""
    return hashlib.sha256(_ENCODE(fields).encode()).hexdigest()


_ENCODE: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _clean(text: str) -> str:
    """Without what a database cannot hold (NUL) or what UTF-8 cannot say (lone surrogates)."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")


def verify(entries: Iterable[tuple[str | int, ...]], anchors: Iterable[Anchor] = ()) -> Verdict:
    """Recompute the chain from its beginning.

    Args:
        entries: the fields of `Entry`, in the order of their numbers.
        anchors: in any order.
    """
    wanted: dict[int, set[str]] = {}
    for anchor in anchors:
        wanted.setdefault(anchor.seq, set()).add(anchor.hash)
    faults: list[ChainFault] = []
    count, last, previous = 0, 0, BEGINNING

    def fault(seq: int, kind: FaultKind, text: str) -> None:
        if len(faults) < MOST_FAULTS:
            faults.append(ChainFault(seq, kind, text))

    for fields in entries:
        seq, stored = int(fields[0]), str(fields[-1])
        count += 1
        if seq != last + 1:
            fault(last + 1, FaultKind.MISSING, f"After entry {last} comes entry {seq}.")
        elif fields[-2] != previous:
            fault(seq, FaultKind.OUT_OF_CHAIN, f"Entry {seq} does not hold the hash of the entry before it.")
        if digest(fields[:-1]) != stored:
            fault(seq, FaultKind.EDITED, f"Entry {seq} is not what its hash was made of.")
        if seq in wanted and wanted[seq] != {stored}:
            fault(seq, FaultKind.OTHER_THAN_ANCHOR, f"Entry {seq} is another than the one that was anchored.")
        last, previous = seq, stored
    for seq in sorted(seq for seq in wanted if seq > last):
        fault(seq, FaultKind.CUT_OFF, f"Entry {seq} was anchored, but the trail ends at entry {last}.")
    return Verdict(count, Anchor(last, previous), len(wanted), tuple(faults))
