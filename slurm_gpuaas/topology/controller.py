"""Brings slurmctld to a wanted topology, and both back when it does not take it.

Level-triggered: every run compares what is wanted with the file and with what slurmctld plans with, and does what
differs. What a run that was cut off had done is seen by the next one. The file is written before slurmctld is told, so
that one that starts anew meanwhile reads what is wanted. What the file said is kept beside it from before it is written
until slurmctld shows the new one, so that a run after a cut-off one can still put it back.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from slurm_gpuaas.domain.errors import Conflict, GpuaasError, InvalidInput, NotFound
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.slurm.files import no_access, write_atomically
from slurm_gpuaas.slurm.protocols import Controller, SlurmRefused, SlurmUnavailable, Topologies
from slurm_gpuaas.topology import slurm_yaml
from slurm_gpuaas.topology.applying import SLURM, Layout, Plan, as_known, known_of, of_slurm, plan
from slurm_gpuaas.topology.fabric import Fabric
from slurm_gpuaas.topology.merging import merged
from slurm_gpuaas.topology.slurm_yaml import Plugin
from slurm_gpuaas.topology.validation import Problem, Slurmctld, validate_yaml

SHOWN_WITHIN_S: Final = 15.0
"""slurmctld shows a dynamic update at once, and a reconfigure within a second or two."""
BETWEEN_READINGS_S: Final = 0.25


class NotTaken(SlurmRefused):
    """slurmctld does not plan with what it was told; the file says again what it said before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A topology.yaml that was judged, the way to it, and what is wrong with it that does no harm."""

    text: str
    layout: Layout
    plan: Plan
    warnings: tuple[Problem, ...]

    @property
    def digest(self) -> str:
        """Of what was planned: the same means that what is done is what was shown."""
        shown = (self.text, self.plan.write, self.plan.reconfigure, *self.plan.lines())
        return hashlib.sha256(repr(shown).encode("utf-8", "replace")).hexdigest()


class TopologyController:
    """Args:
    file: topology.yaml; its folder must be writable. `file`.before is what it said before the last change that
        slurmctld took, `file`.trying what it said before one that goes on or was cut off (empty: there was no file).
    now, pause: a clock that only goes forward, and how to wait, in seconds.

    Raises (all methods): SlurmUnavailable, SlurmRefused; Unavailable where the file cannot be read or written.
    """

    def __init__(
        self,
        *,
        file: Path,
        controller: Controller,
        topologies: Topologies,
        now: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.file = file
        self._before = file.with_name(f"{file.name}.before")
        self._trying = file.with_name(f"{file.name}.trying")
        self._controller = controller
        self._topologies = topologies
        self._now = now
        self._pause = pause
        self._lock = threading.Lock()

    def wanted_of(self, fabric: Fabric, plugin: Plugin | None = None) -> Wanted:
        """What the fabric amounts to, in the names that slurmctld has for it, and the way there.

        Args:
            plugin: None: those that plan now.

        Raises:
            InvalidInput: slurmctld would end with it, or misread it in silence; or it has no node of Slurm.
        """
        now = self._topologies.read()
        nodes = self._nodes()
        fabric = of_slurm(fabric, frozenset(nodes))
        if any(one.units for one in Layout.of(now, source=SLURM).outlines):
            fabric = as_known(fabric, known_of(now), nodes=nodes)
        plugin = plugin or slurm_yaml.plugin_of(now, source=SLURM)
        file = _text(_content(self.file) or b"") if self._said() else ""
        return self._judged(merged(slurm_yaml.render(fabric, nodes=nodes, plugin=plugin), slurm=now, file=file), nodes)

    def wanted(self, text: str) -> Wanted:
        """The same for a topology.yaml as it is."""
        return self._judged(text, self._nodes())

    def before(self) -> Wanted:
        """What the file said before it was last changed.

        Raises:
            NotFound: it was not changed yet.
        """
        content = _content(self._trying)
        if not content or content == _content(self.file):
            content = _content(self._before)
        if content is None:
            raise NotFound(f"There is no {self._before}: nothing was applied yet.")
        return self.wanted(_text(content))

    def apply(self, wanted: Wanted) -> Wanted:
        """Returns it when slurmctld plans with it.

        Raises:
            Conflict: file or slurmctld changed since it was planned.
            NotTaken: slurmctld refused it or does not show it; the file is as it was before, and slurmctld too unless
                the message says otherwise.
        """
        with self._lock:
            if (todo := self._plan(wanted.layout)) != wanted.plan:
                raise Conflict(
                    f"{self.file} or what slurmctld plans with changed since the plan was made.",
                    way_out="Nothing was changed; look at the new plan and apply again.",
                )
            if todo and self._trying.exists() and self._said() == self._slurm():
                self._settle()  # of a run that was cut off when all was done
            if todo.write:
                if not self._trying.exists():
                    write_atomically(self._trying, _content(self.file) or b"")
                write_atomically(self.file, wanted.text)
            try:
                self._bring(wanted.layout, todo)
            except GpuaasError as error:
                raise NotTaken(
                    f"slurmctld does not take the topology: {error.message} {self._undone()}",
                    way_out=error.way_out or "Look into slurmctld's log.",
                ) from error
            self._settle()
            return wanted

    def _settle(self) -> None:
        """slurmctld plans with what the file says: what it said before can be undone to."""
        tried = _content(self._trying)
        if tried in (b"", _content(self.file)):
            self._trying.unlink()
        elif tried is not None:
            self._trying.replace(self._before)

    def _judged(self, text: str, nodes: Sequence[NodeName]) -> Wanted:
        problems = validate_yaml(text, nodes=nodes)
        grave = [problem.says for problem in problems if problem.slurmctld is not Slurmctld.WARNS]
        if grave:
            raise InvalidInput(
                f"slurmctld would end with this topology, or misread it in silence: {' '.join(grave[:5])}",
                way_out="Nothing was changed; correct it (`gpuaas topology validate` says more).",
            )
        layout = Layout.of(text)
        return Wanted(text=text, layout=layout, plan=self._plan(layout), warnings=tuple(problems))

    def _plan(self, wanted: Layout) -> Plan:
        return plan(wanted, file=self._said(), slurm=self._slurm())

    def _said(self) -> Layout | None:
        """What the file says; None where it is not there or says nothing."""
        try:
            content = _content(self.file)
            return None if content is None else Layout.of(_text(content))
        except InvalidInput:  # whatever it is, it is not what is wanted
            return None

    def _bring(self, wanted: Layout, todo: Plan) -> None:
        if todo.reconfigure:
            self._controller.reconfigure()
        else:
            for move in todo.moves:
                self._topologies.move(move.nodes, move.after)
        if todo.reconfigure or todo.moves:
            self._shown(wanted)

    def _shown(self, wanted: Layout) -> None:
        """Waits until slurmctld shows it."""
        deadline = self._now() + SHOWN_WITHIN_S
        while True:
            try:
                found = self._slurm()
            except (SlurmRefused, SlurmUnavailable):
                if self._now() >= deadline:
                    raise
            else:
                if found == wanted:
                    return
                if self._now() >= deadline:
                    differs = next(plan(wanted, file=wanted, slurm=found).lines(), "")
                    raise NotTaken(
                        f"{SHOWN_WITHIN_S:.0f} s after it was told it still plans otherwise ({differs}).",
                        way_out=f"See slurmctld's log, and whether the topology.yaml beside slurm.conf is {self.file}.",
                    )
            self._pause(BETWEEN_READINGS_S)

    def _undone(self) -> str:
        """Puts file and slurmctld back as far as we changed them; a sentence on how that went."""
        before = _content(self._trying)
        if before is None:
            return "The file said so before and is as it was."
        if before:
            write_atomically(self.file, before)
        else:
            self.file.unlink(missing_ok=True)
        self._trying.unlink()
        try:
            if before:
                layout = Layout.of(_text(before))
                self._bring(layout, plan(layout, file=layout, slurm=self._slurm()))
            else:
                self._controller.reconfigure()
        except GpuaasError as error:
            return f"The file is as it was before; start slurmctld if it ended ({error.message})."
        return "File and slurmctld are as they were before."

    def _slurm(self) -> Layout:
        return Layout.of(self._topologies.read(), source=SLURM)

    def _nodes(self) -> tuple[NodeName, ...]:
        return tuple(node.name for node in self._controller.nodes())


def _content(file: Path) -> bytes | None:
    """None where there is no such file."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise no_access(file, "read", error) from None


def _text(content: bytes) -> str:
    return content.decode("utf-8", "replace")
