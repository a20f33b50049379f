"""Accounting as it was last read, for as long as Slurm's transaction log says that nobody changed it since.

Reading 1,000 projects takes a second of several programs; asking the log takes a hundredth. So an idle daemon asks,
and reads all when the log has grown, and every `FULL_READING` in any case, because slurmdbd does not note everything
(docs/design/0012-what-an-idle-reconciler-reads.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.slurm.protocols import Accounting
from slurm_gpuaas.slurm.records import AccountingState

FULL_READING: Final = timedelta(minutes=10)
"""Longest time that a change which slurmdbd does not note stays unseen."""
MARGIN: Final = timedelta(minutes=10)
"""How far before a reading the log is watched: changes are noted when they are made and seen when they are committed,
and our clock is not slurmdbd's. MUNGE allows five minutes between clocks, sacctmgr half a minute for a commit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    state: AccountingState
    at: datetime
    numbers: frozenset[int]

    @property
    def watched_from(self) -> datetime:
        return self.at - MARGIN


class AccountingMemory:
    """Not safe between threads."""

    def __init__(self, accounting: Accounting, clock: Clock) -> None:
        self._accounting = accounting
        self._clock = clock
        self._known: _Known | None = None

    def read(self, *, afresh: bool) -> AccountingState:
        """What stands in Slurm.

        Args:
            afresh: read all, whatever the log says.

        Raises:
            SlurmUnavailable, SlurmRefused: it cannot be read.
        """
        now = self._clock.now()
        known = self._known
        if known and not afresh and self._stands(known, now):
            return known.state
        self._known = None
        # The log first: what is changed while we read makes the next reading a full one.
        numbers = self._accounting.transaction_numbers(now - MARGIN)
        state = self._accounting.read()
        self._known = _Known(state=state, at=now, numbers=numbers)
        return state

    def _stands(self, known: _Known, now: datetime) -> bool:
        young = known.at <= now < known.at + FULL_READING
        return young and self._accounting.transaction_numbers(known.watched_from) == known.numbers

    @property
    def newest(self) -> int | None:
        """Number of the newest change before the last reading; None when there was none for a while."""
        return max(self._known.numbers, default=None) if self._known else None
