"""Follows the hardware: a fabric.json that is read from the cables anew now and then, and what slurmctld plans with.

A few nodes that moved between leaf groups are applied if a person said so in the configuration. Everything else waits
for a person: a tree that changes its shape is more often a bad reading than new hardware.

What a person set by hand is never undone: a reading is acted on once, and only where its nodes changed their place
since the reading before. The first reading is compared with nothing, so that a person decides about it. The audit trail
remembers the last reading over a restart.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final, NoReturn

from slurm_gpuaas.domain.audit import AuditEntry
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.errors import Conflict, InvalidInput, Unavailable
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.slurm.files import read_dropped
from slurm_gpuaas.store import Store
from slurm_gpuaas.topology.applying import Plan, as_known
from slurm_gpuaas.topology.controller import NotTaken, TopologyController
from slurm_gpuaas.topology.fabric import Fabric, Fault, parse_fabric
from slurm_gpuaas.topology.slurm_yaml import LONGEST_FILE

ACTOR: Final = "gpuaasd/fabric"
READING: Final = "reading"
"""Evidence: the reading that was acted on, as a fabric.json."""
WINDOW: Final = timedelta(hours=1)
UNSURE: Final = frozenset({Fault.CUT_TEXT, Fault.STRANGE_TEXT, Fault.JOINED_GROUPS, Fault.TWO_HOSTS})
"""A reading with one of these may be wrong about where nodes are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowSettings:
    """`apply`: up to `most_moves` nodes that moved are applied in an hour; else all is only told. A reading older than
    `longest_age` is not looked at."""

    apply: bool
    most_moves: int
    longest_age: timedelta


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
        self._last = self._remembered()

    def tick(self) -> None:
        """
        Raises:
            Conflict: the fabric is another one than slurmctld's, and a person must say what to do; or the reading is
                not to be trusted.
            Unavailable: there is no such file.
            InvalidInput: it is no fabric.json, or everybody may write it.
        """
        fabric = self._read()
        wanted = self._topology.wanted_of(fabric)
        reading, last = _places_alone(fabric, self._last), self._last
        if not wanted.plan:
            self._told = ""
            if reading != last:
                self._remember(reading, "topology.agrees", wanted.plan)
            return
        if reading == last or not self._may_apply(wanted.plan, _cabled(last, reading)):
            self._tell(wanted.plan, reading)
        try:
            done = self._topology.apply(wanted)
        except NotTaken:
            self._remember(reading, "topology.refused", wanted.plan)
            raise
        self._remember(reading, "topology.applied", done.plan)

    def _tell(self, plan: Plan, reading: Fabric) -> NoReturn:
        """In the audit trail once, in the log and `gpuaas status` as long as it is so."""
        lines = list(plan.lines()) or [f"{self._topology.file} says something else"]
        if (told := "; ".join(lines)) != self._told or reading != self._last:
            self._remember(reading, "topology.differs", plan)
            self._told = told
        more = f", and {len(lines) - 3} changes more" if len(lines) > 3 else ""
        raise Conflict(
            f"The fabric in {self._file} is not what Slurm plans with: {'; '.join(lines[:3])}{more}.",
            way_out=f"Look with `gpuaas topology apply --dry-run {self._file}`, then apply it.",
        )

    def _may_apply(self, plan: Plan, cabled: frozenset[NodeName]) -> bool:
        if not self._settings.apply or plan.edited or plan.reconfigure or not plan.moved <= cabled:
            return False
        applied = self._store.audit.newest(
            actor=ACTOR, action="topology.applied", since=self._clock.now() - WINDOW, limit=self._settings.most_moves
        )
        moved = sum(int(entry.evidence["moved"] or 0) for entry in applied)
        return moved + len(plan.moved) <= self._settings.most_moves

    def _read(self) -> Fabric:
        try:
            dropped = read_dropped(self._file, longest=LONGEST_FILE)
        except OSError as error:
            raise Unavailable(
                f"The fabric in {self._file} cannot be read: {os.strerror(error.errno or 0)}.",
                way_out="Write it with `gpuaas topology import ibnetdiscover`, or unset topology.fabric_file.",
            ) from None
        age = self._clock.now() - dropped.written_at
        if age > self._settings.longest_age:
            raise Conflict(
                f"{self._file} was written {age / timedelta(hours=1):.1f} h ago: it is not followed.",
                way_out="See why nothing reads the cables any more, or unset topology.fabric_file.",
            )
        fabric = parse_fabric(dropped.text, source=str(self._file))
        if unsure := next((finding for finding in fabric.findings if finding.fault in UNSURE), None):
            raise Conflict(
                f"{self._file} is not followed ({unsure.fault}): {unsure.says}",
                way_out="Correct the reading or the cabling, or apply it by hand.",
            )
        return fabric

    def _remembered(self) -> Fabric | None:
        """None where there is none that this version can read: then a person decides, as about the first."""
        for last in self._store.audit.newest(actor=ACTOR, limit=1):
            try:
                return parse_fabric(str(last.evidence.get(READING)), source="the audit trail")
            except InvalidInput:
                return None
        return None

    def _remember(self, reading: Fabric, action: str, plan: Plan) -> None:
        self._last = reading
        text = json.dumps(reading.model_dump(mode="json", exclude_defaults=True))
        self._store.audit.append(entry(self._clock, ACTOR, self._topology.file, plan, action=action, reading=text))


def _places_alone(fabric: Fabric, last: Fabric | None) -> Fabric:
    """Where each node is, in the names of the reading before; a node that is not shown is where it was."""
    nodes = {*fabric.arrays.nodes, *(last.arrays.nodes if last else ())}
    named = as_known(fabric, last or fabric, nodes=nodes)
    return Fabric(
        leaf_groups=tuple(group.model_copy(update={"switches": ()}) for group in named.leaf_groups),
        nvlink_domains=named.nvlink_domains,
    )


def _cabled(last: Fabric | None, reading: Fabric) -> frozenset[NodeName]:
    """Nodes that changed their place between two readings; none where there was none before."""
    if last is None:
        return frozenset()
    before, after = _places(last), _places(reading)
    return frozenset(node for node, place in after.items() if before.get(node) != place)


def _places(fabric: Fabric) -> Mapping[NodeName, tuple[str, str]]:
    domains = {node: domain.name for domain in fabric.nvlink_domains for node in domain.node_names}
    return {node: (group.name, domains.get(node, "")) for group in fabric.leaf_groups for node in group.node_names}


def entry(
    clock: Clock, actor: str, file: Path, plan: Plan, *, action: str = "topology.applied", reading: str | None = None
) -> AuditEntry:
    """What was applied, for the audit trail."""
    evidence: dict[str, str | int] = {"reconfigure": plan.reconfigure, "moved": len(plan.moved)}
    return AuditEntry(
        at=clock.now(),
        actor=actor,
        action=action,
        subject=str(file),
        reason="; ".join(plan.lines())[:2000] or "the file alone",
        evidence=evidence if reading is None else {**evidence, READING: reading},
    )
