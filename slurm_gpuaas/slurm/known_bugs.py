"""Slurm's own bugs that a policy layer meets, by version, as data (`data/known_bugs.json`): dated, with its source.

A row says what the bug does to us, not to everybody: bugs of what we never use (suspending preemption, gang scheduling,
burst buffers) are not in it, nor are those fixed before the oldest Slurm that we support.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib.resources import files
from typing import NamedTuple


class Version(NamedTuple):
    """`26.05.5` is (26, 5, 5)."""

    year: int
    month: int
    patch: int

    @classmethod
    def of(cls, text: str) -> Version | None:
        """As Slurm says it, whatever stands behind the third number; None for what is no version."""
        found = re.match(r"(\d+)\.(\d+)\.(\d+)", text)
        return cls(int(found[1]), int(found[2]), int(found[3])) if found else None

    def __str__(self) -> str:
        return f"{self.year}.{self.month:02}.{self.patch}"


@dataclass(frozen=True, slots=True)
class Span:
    """Versions from `since` (None: from the first one) up to, but without, `fixed` (None: no fix is known)."""

    since: Version | None
    fixed: Version | None

    def has(self, version: Version) -> bool:
        return (self.since is None or self.since <= version) and (self.fixed is None or version < self.fixed)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownBug:
    """One bug.

    Args:
        changelog: the words of Slurm's changelog, behind the version that has the fix, or the change it came with.
        effect: what it does to us, as half a sentence.
        way_out: what helps without an upgrade; empty where nothing does.
    """

    name: str
    affected: tuple[Span, ...]
    changelog: str
    effect: str
    way_out: str

    def span_of(self, version: Version) -> Span | None:
        """The span that this version is in; None when it has not the bug."""
        return next((span for span in self.affected if span.has(version)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownBugs:
    """The table, and the day its source was read."""

    read: date
    source: str
    bugs: tuple[KnownBug, ...]

    def of(self, version: Version) -> Sequence[KnownBug]:
        """Those that this version has, in the table's order."""
        return tuple(bug for bug in self.bugs if bug.span_of(version))


@cache
def known_bugs() -> KnownBugs:
    raw = json.loads(files("slurm_gpuaas.slurm").joinpath("data/known_bugs.json").read_text("utf-8"))
    return KnownBugs(
        read=date.fromisoformat(raw["read"]),
        source=raw["source"],
        bugs=tuple(
            KnownBug(
                name=row["id"],
                affected=tuple(_span(since, fixed) for since, fixed in row["affected"]),
                changelog=row["changelog"],
                effect=row["effect"],
                way_out=row["way_out"],
            )
            for row in raw["bugs"]
        ),
    )


def _span(since: str | None, fixed: str | None) -> Span:
    return Span(Version.of(since) if since else None, Version.of(fixed) if fixed else None)
