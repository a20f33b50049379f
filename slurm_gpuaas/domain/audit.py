"""The audit trail: who did what, why, with which evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """`actor` is a UNIX user, or `gpuaasd/<controller>` for what the daemon did by itself."""

    at: datetime
    actor: str
    action: str
    subject: str
    reason: str = ""
    evidence: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
