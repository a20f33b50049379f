"""Follows the hardware: a fabric.json that is read from the cables anew now and then, and what slurmctld plans with.

A few nodes that moved between leaf groups are applied if a person said so in the configuration. Everything else waits
for a person: a tree that changes its shape is more often a bad reading than new hardware.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from slurm_gpuaas.domain.audit import AuditEntry
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.errors import Conflict, Unavailable
from slurm_gpuaas.store import Store
from slurm_gpuaas.topology.applying import Plan
from slurm_gpuaas.topology.controller import NotTaken, TopologyController
from slurm_gpuaas.topology.fabric import Fabric, parse_fabric

ACTOR: Final = "gpuaasd/fabric"


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowSettings:
    """`apply`: up to `most_moves` nodes that moved are applied at a time; else all is only told."""

    apply: bool
    most_moves: int


class FabricFollower:
    """Args:
    file: the fabric.json; somebody else writes it.
    """

    def __init__(
        self, *, file: Path, topology: TopologyController, store: Store, clock: Clock, settings: FollowSettings
    ) -> None:
        self._file = file
        self._topology = topology
        self._store = store
        self._clock = clock
        self._settings = settings
        self._told = ""
        self._not_taken = ""
        """What slurmctld was last told in vain; it is not told so again."""

    def tick(self) -> None:
        """
        Raises:
            Conflict: the fabric is another one than slurmctld's, and a person must say what to do.
            Unavailable: there is no such file.
            InvalidInput: it is no fabric.json.
        """
        wanted = self._topology.wanted_of(self._read())
        if not wanted.plan:
            self._told = ""
            return
        if wanted.text == self._not_taken or not self._may_apply(wanted.plan):
            self._tell(wanted.plan)
        try:
            done = self._topology.apply(wanted)
        except NotTaken:
            self._not_taken = wanted.text
            raise
        self._store.audit.append(entry(self._clock, ACTOR, self._topology.file, done.plan))

    def _tell(self, plan: Plan) -> NoReturn:
        """In the audit trail once, in the log and `gpuaas status` as long as it is so."""
        lines = list(plan.lines()) or [f"{self._topology.file} says something else"]
        if (told := "; ".join(lines)) != self._told:
            self._store.audit.append(entry(self._clock, ACTOR, self._topology.file, plan, action="topology.differs"))
            self._told = told
        more = f", and {len(lines) - 3} changes more" if len(lines) > 3 else ""
        raise Conflict(
            f"The fabric in {self._file} is not what Slurm plans with: {'; '.join(lines[:3])}{more}.",
            way_out=f"Look with `gpuaas topology apply --dry-run {self._file}`, then apply it.",
        )

    def _may_apply(self, plan: Plan) -> bool:
        return self._settings.apply and not plan.reconfigure and len(plan.moved) <= self._settings.most_moves

    def _read(self) -> Fabric:
        try:
            return parse_fabric(self._file.read_text(encoding="utf-8", errors="replace"), source=str(self._file))
        except OSError as error:
            raise Unavailable(
                f"The fabric in {self._file} cannot be read: {os.strerror(error.errno or 0)}.",
                way_out="Write it with `gpuaas topology import ibnetdiscover`, or unset topology.fabric_file.",
            ) from None


def entry(clock: Clock, actor: str, file: Path, plan: Plan, *, action: str = "topology.applied") -> AuditEntry:
    """What was applied, for the audit trail."""
    return AuditEntry(
        at=clock.now(),
        actor=actor,
        action=action,
        subject=str(file),
        reason="; ".join(plan.lines())[:2000] or "the file alone",
        evidence={"reconfigure": plan.reconfigure, "moved": len(plan.moved)},
    )
