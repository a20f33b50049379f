"""Jobs that a fault has cost their nodes, and how they came back. See docs/design/0020-spares-and-replacement.md."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.names import NodeName, UserName


class RecoveryState(StrEnum):
    """How far a recovery has come; each is written down before the next step is taken."""

    PROMISED = "promised"
    """The nodes are chosen: no other recovery may choose them."""
    KEPT = "kept"
    """A reservation keeps them: no other job may start on them."""
    REQUEUED = "requeued"
    """The job was requeued, and so was whoever had to make room."""
    PLACED = "placed"
    """The waiting job was given the nodes."""
    DONE = "done"
    """It runs on them."""
    LET_GO = "let-go"
    """It did not come to that; the job waits like any other."""
    PLAIN = "plain"
    """Requeued without any nodes being kept."""
    HOLDING = "holding"
    """Requeued too often: it is to be held."""
    HELD = "held"


OPEN_RECOVERIES: Final = (
    RecoveryState.PROMISED,
    RecoveryState.KEPT,
    RecoveryState.REQUEUED,
    RecoveryState.PLACED,
    RecoveryState.HOLDING,
)
"""States in which something is left to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """What was done for one run of a job that lost nodes.

    Args:
        restarts: of the run that was lost; the job comes back with a higher count.
        incident: that cost it its nodes; the first one of several.
        lost: nodes of the run that it does not get again.
        kept: nodes of the run that are kept for it.
        spares: nodes that take the place of `lost` ones.
        why: of the present state, for people.
    """

    job_id: JobId
    restarts: int
    user: UserName
    incident: str
    lost: tuple[NodeName, ...]
    kept: tuple[NodeName, ...] = ()
    spares: tuple[NodeName, ...] = ()
    state: RecoveryState
    begun_at: datetime
    ended_at: datetime | None = None
    why: str = ""

    @property
    def open(self) -> bool:
        return self.state in OPEN_RECOVERIES

    @property
    def nodes(self) -> tuple[NodeName, ...]:
        """All that are promised to the job."""
        return (*self.kept, *self.spares)
