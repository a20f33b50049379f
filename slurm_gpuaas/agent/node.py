"""What the agent does for one node: turn what its sources see into events, each told once, and keep them for delivery.

It decides nothing about the node: that is gpuaasd's.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import structlog

from slurm_gpuaas.agent.kmsg import Record
from slurm_gpuaas.agent.samples import Waiting
from slurm_gpuaas.agent.spool import Spool
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.incidents import EARLIEST_EVENT, LATEST_EVENT, EventKind, EventSource, NodeEvent
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.health.decode import Decoded, Decoder

_DRIVER_LINES: Final = ("NVRM:", "nvidia-nvswitch")
_REMEMBERED: Final = 1024
_LONGEST_UPTIME_S: Final = 10 * 365 * 86_400.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU as NVML numbers it. `pci` is `dddd:bb:dd`."""

    index: int
    uuid: str
    serial: str | None
    pci: str


@dataclass(slots=True)
class Progress:
    """How far the sources were read, so that a restarted agent neither repeats nor skips. A new boot begins anew.

    Not synced to disk: only the agent's own end must not lose it, and after the machine's end it means nothing.
    """

    boot_id: str = ""
    sequence: int = -1
    """Of the last kernel-log record that was an event."""
    nvml_events: int = 0

    @classmethod
    def load(cls, path: Path, boot_id: str) -> Progress:
        try:
            known = cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            known = cls()
        return known if known.boot_id == boot_id else cls(boot_id)

    def save(self, path: Path) -> None:
        scratch = path.with_suffix(".new")
        scratch.write_text(json.dumps(asdict(self)))
        scratch.rename(path)


@dataclass(slots=True)
class Recent:
    """Knows the same fault when it is told again: by NVML and by the kernel log, or in a burst."""

    within: timedelta
    _first: dict[tuple[str, bool, int], datetime] = field(default_factory=dict)

    def is_new(self, where: str, kind: EventKind, code: int, at: datetime) -> bool:
        key = (where, kind is EventKind.SXID, code)
        first = self._first.get(key)
        if first is not None and abs(at - first) < self.within:
            return False
        if len(self._first) >= _REMEMBERED:
            self._first = {k: t for k, t in self._first.items() if abs(at - t) < self.within}
        self._first[key] = at
        return True


class NodeAgent:
    """Args:
    boot_id: reads the id of the present boot.
    on_event: called when an event waits for delivery; must not block.
    monotonic: seconds since boot, the kernel log's clock.
    """

    def __init__(
        self,
        node: NodeName,
        *,
        folder: Path,
        spool_max_bytes: int,
        same_within: timedelta,
        boot_id: Callable[[], str],
        clock: Clock,
        on_event: Callable[[NodeAgent], None],
        monotonic: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_MONOTONIC),
    ) -> None:
        self.node = node
        self.lock = threading.Lock()
        self.spool = Spool(folder, spool_max_bytes)
        self.samples = Waiting(node)
        self._progress_file = folder / "progress.json"
        self._read_boot_id = boot_id
        self._progress = Progress.load(self._progress_file, boot_id())
        self._recent = Recent(same_within)
        self._decoder = Decoder()
        self._clock = clock
        self._monotonic = monotonic
        self._on_event = on_event
        self._gpu_at: Mapping[str, Gpu] = {}
        self._full = False
        self._unsaved = False
        self._progress_failed = False

    def set_gpus(self, gpus: Mapping[str, Gpu]) -> None:
        """Which GPU sits at which PCI address. Those known before stay known: a lost GPU no longer answers."""
        self._gpu_at = {**self._gpu_at, **gpus}

    def see_record(self, record: Record) -> None:
        """A kernel-log record. Only the kernel's own count: user space can write to the log, too."""
        if not record.from_kernel or not record.text.startswith(_DRIVER_LINES):
            return
        with self.lock:
            if record.sequence <= self._progress.sequence:
                if (boot := self._read_boot_id()) == self._progress.boot_id:
                    return
                self._progress = Progress(boot)
            for decoded in self._decoder.decode(record.sequence, record.text):
                self._progress.sequence = record.sequence
                ago = min(max(0.0, self._monotonic() - record.microseconds / 1e6), _LONGEST_UPTIME_S)
                seen_at = _in_bounds(self._clock.now() - timedelta(seconds=ago))
                self._keep(self._from_log(decoded, record, seen_at))
                self._save_progress()

    def see_xid(self, gpu: Gpu, xid: int, recovery_action: str | None) -> None:
        """A critical XID event of NVML."""
        with self.lock:
            self._progress.nvml_events += 1
            self._keep(
                NodeEvent(
                    event_id=f"{self.node}/{self._progress.boot_id}/nvml/{self._progress.nvml_events}",
                    node=self.node,
                    kind=EventKind.XID,
                    code=xid,
                    source=EventSource.NVML,
                    seen_at=_in_bounds(self._clock.now()),
                    pci=gpu.pci,
                    gpu=gpu.index,
                    serial=gpu.serial,
                    evidence=f"NVML critical XID event {xid} of GPU {gpu.index} ({gpu.uuid})",
                    boot_id=self._progress.boot_id,
                    recovery_action=recovery_action,
                )
            )
            self._save_progress()

    def sent(self, count: int, *, rejected: str | None = None) -> bool:
        """The oldest `count` events need no delivery any more: gpuaasd has them, or will never take them (says why).
        True when more wait."""
        with self.lock:
            if rejected is None:
                self.spool.delivered(count)
            else:
                self.spool.set_aside(count, rejected)
            if self._unsaved:
                self._save_progress()
            return len(self.spool) > 0

    def _save_progress(self) -> None:
        """Note how far we are, unless events would be skipped by that: those in memory alone are read again after a
        restart, and told again under the same ids."""
        self._unsaved = True
        if not self.spool.safe:
            return
        try:
            self._progress.save(self._progress_file)
        except OSError as error:
            if not self._progress_failed:
                log.warning("progress.unsaved", node=self.node, error=str(error))
            self._progress_failed = True
            return
        self._unsaved = self._progress_failed = False

    def _from_log(self, decoded: Decoded, record: Record, seen_at: datetime) -> NodeEvent:
        gpu = self._gpu_at.get(decoded.pci or "")
        return NodeEvent(
            event_id=f"{self.node}/{self._progress.boot_id}/kmsg/{record.sequence}",
            node=self.node,
            kind=decoded.kind,
            code=decoded.code,
            source=EventSource.KERNEL_LOG,
            seen_at=seen_at,
            pci=decoded.pci,
            gpu=gpu.index if gpu else None,
            serial=gpu.serial if gpu else None,
            evidence=record.text[:2000],
            boot_id=self._progress.boot_id,
            recovery_action=decoded.to_action,
        )

    def _keep(self, event: NodeEvent) -> None:
        if not self._recent.is_new(event.pci or "", event.kind, event.code, event.seen_at):
            return
        if self.spool.append(event):
            self._full = False
            self._on_event(self)
        elif not self._full:
            self._full = True
            log.error("spool.full", node=self.node, waiting=len(self.spool), lost=event.event_id)


def _in_bounds(at: datetime) -> datetime:
    """A node whose clock is far off must still be able to tell of its faults."""
    return min(max(at, EARLIEST_EVENT), LATEST_EVENT)


def read_boot_id(path: Path) -> str:
    """The kernel's boot id; empty when it cannot be read."""
    try:
        return path.read_text(encoding="ascii").strip()[:64]
    except (OSError, UnicodeDecodeError):
        log.warning("boot_id.unreadable", path=os.fspath(path))
        return ""
