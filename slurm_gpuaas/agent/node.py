"""What the agent does for one node: turn what its sources see into events, each told once, and keep them for delivery.

It decides nothing about the node: that is gpuaasd's.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import pydantic.dataclasses
import structlog
from pydantic import TypeAdapter, ValidationError

from slurm_gpuaas.agent.kmsg import DRIVER_LINES, Record
from slurm_gpuaas.agent.samples import Waiting
from slurm_gpuaas.agent.spool import Spool
from slurm_gpuaas.api.node_events import NodeEventBatch
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.gpus import GpuIdentity
from slurm_gpuaas.domain.incidents import (
    EARLIEST_EVENT,
    LATEST_EVENT,
    CheckStatus,
    Drain,
    EventKind,
    EventSource,
    NodeEvent,
)
from slurm_gpuaas.domain.names import GpuModel, NodeName
from slurm_gpuaas.health.checks import CheckResult, Finding
from slurm_gpuaas.health.decode import Decoded, Decoder

RECOVERY_ACTION_CHANGED: Final = 154
_REMEMBERED: Final = 1024
_SAYINGS: Final = 32
"""Different messages of one code and GPU that are told within a burst."""
_SAVED_EVERY_S: Final = 1.0
"""Of records that are told already how far they were read is noted so often: a storm must not write a file a line."""
_LONGEST_UPTIME_S: Final = 10 * 365 * 86_400.0

log = structlog.get_logger(__name__)


_MODEL: Final = re.compile(r"\b[A-Z]{1,2}\d{2,4}\b")
_IDENTITIES: Final = TypeAdapter(tuple[GpuIdentity, ...])
NO_ACTION: Final = "None"
"""What the driver says when nothing need be done with a GPU."""


def product_of(model: str) -> GpuModel | None:
    """Slurm's word for a model as NVML names it: `NVIDIA H100 80GB HBM3` is `h100`; None where it is none we know."""
    found = _MODEL.search(model)
    return GpuModel(found[0].lower()) if found else None


@pydantic.dataclasses.dataclass(slots=True)
class Progress:
    """How far the sources were read and what was told, so that a restarted agent neither repeats nor skips. A new boot
    begins anew.

    Not synced to disk: only the agent's own end must not lose it, and after the machine's end it means nothing.
    """

    boot_id: str = ""
    sequence: int = -1
    """Of the last kernel-log record that was an event."""
    cursor: str = ""
    """The same for the journal."""
    nvml_events: int = 0
    check_events: int = 0
    actions: dict[str, str] = field(default_factory=dict)
    """What the driver asked for last, by PCI address; none but `None` at boot."""
    findings: dict[str, str] = field(default_factory=dict)
    """What checks found and was told: status and drain by `check|subject`."""

    @classmethod
    def load(cls, path: Path, boot_id: str) -> Progress:
        try:
            known = cls(**json.loads(path.read_text()))  # pydantic's error is a ValueError
        except (OSError, ValueError, TypeError):
            known = cls()
        return known if known.boot_id == boot_id else cls(boot_id)

    def save(self, path: Path) -> None:
        scratch = path.with_suffix(".new")
        scratch.write_text(json.dumps(asdict(self)))
        scratch.rename(path)


@dataclass(slots=True)
class Recent:
    """Knows the same fault when it is told again: in a burst, or by NVML after the kernel log. A line of the kernel log
    is told after NVML's event, too: it alone says where on the chip, which link, and what came before.

    One code may mean much and little (74, 144 to 150 by their registers, SXid by its severity): a line that means
    something else than those before is news, however soon it comes.
    """

    within: timedelta
    _first: dict[tuple[str, bool, int, str | None], tuple[datetime, EventSource, set[str]]] = field(
        default_factory=dict
    )

    def is_new(self, event: NodeEvent, means: str = "") -> bool:
        """Of 154 each action is an event of its own: `None` soon after `GPU Reset` is news.

        Args:
            means: what decided on its line; empty when it has none.
        """
        action = _plain(event.recovery_action) if event.code == RECOVERY_ACTION_CHANGED else None
        key, at = (event.pci or "", event.kind is EventKind.SXID, event.code, action), event.seen_at
        if (known := self._first.get(key)) is not None:
            first, source, meant = known
            if abs(at - first) < self.within and (source is not EventSource.NVML or event.source is source):
                if event.source is EventSource.NVML or means in meant or len(meant) >= _SAYINGS:
                    return False
                meant.add(means)
                return True
        if len(self._first) >= _REMEMBERED:
            self._first = {k: first for k, first in self._first.items() if abs(at - first[0]) < self.within}
        self._first[key] = at, event.source, {means}
        return True


def _plain(action: str | None) -> str:
    """NVML's words for an action; XID 154 adds `Required`."""
    return (action or "").removesuffix(" Required")


class NodeAgent:
    """Args:
    boot_id: reads the id of the present boot.
    on_event: called when an event or an inventory waits for delivery; must not block.
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
        self._inventory_file = folder / "inventory.json"
        self._read_boot_id = boot_id
        self._progress = Progress.load(self._progress_file, boot_id())
        self._recent = Recent(same_within)
        self._decoder = Decoder()
        self._clock = clock
        self._monotonic = monotonic
        self._on_event = on_event
        self._known: tuple[GpuIdentity, ...] = read_inventory(folder)
        self._gpu_at: Mapping[str, GpuIdentity] = {gpu.pci: gpu for gpu in self._known}
        self._driver: str | None = None
        self._told: NodeEventBatch | None = None
        self._to_tell: NodeEventBatch | None = None
        self._full = False
        self._unsaved = False
        self._saved_at = -_SAVED_EVERY_S
        self._progress_failed = False

    def set_gpus(self, gpus: Sequence[GpuIdentity], driver_version: str | None) -> None:
        """The GPUs that answer now. Those known before stay known: a lost GPU no longer answers."""
        with self.lock:
            self._gpu_at = {**self._gpu_at, **{gpu.pci: gpu for gpu in gpus}}
            self._driver = driver_version
            batch = NodeEventBatch(
                node=self.node, gpus=tuple(gpus), driver_version=driver_version, boot_id=self._progress.boot_id
            )
            self._to_tell = batch if batch != self._told else None
            if self._to_tell is not None:
                self._on_event(self)
            # Fewer than before is what the check of their number is for; as many elsewhere is a board that was changed.
            if len(gpus) >= len(self._known) and tuple(gpus) != self._known:
                self._known = tuple(gpus)
                self._save_inventory()

    @property
    def inventory(self) -> NodeEventBatch | None:
        """The node's GPUs, where gpuaasd does not have them yet."""
        return self._to_tell

    def inventory_told(self, batch: NodeEventBatch) -> None:
        """gpuaasd has it, or will never take it."""
        with self.lock:
            self._told = batch
            if self._to_tell == batch:
                self._to_tell = None

    @property
    def known_gpus(self) -> Sequence[GpuIdentity]:
        """As many GPUs as the node ever had."""
        return self._known

    @property
    def cursor(self) -> str:
        """The journal's last entry that was an event; empty at first."""
        return self._progress.cursor

    def see_record(self, record: Record) -> None:
        """A kernel-log record. Only the kernel's own count: user space can write to the log, too."""
        if not record.from_kernel or not record.text.startswith(DRIVER_LINES):
            return
        with self.lock:
            if record.cursor is None and record.sequence <= self._progress.sequence:
                if (boot := self._read_boot_id()) == self._progress.boot_id:
                    return
                self._progress = Progress(boot)
            for decoded in self._decoder.decode(record.sequence, record.text):
                if record.cursor is None:
                    self._progress.sequence = record.sequence
                else:
                    self._progress.cursor = record.cursor
                ago = min(max(0.0, self._monotonic() - record.microseconds / 1e6), _LONGEST_UPTIME_S)
                seen_at = _in_bounds(self._clock.now() - timedelta(seconds=ago))
                told = self._keep(self._from_log(decoded, record, seen_at), decoded.assessment.why)
                if told or self._monotonic() - self._saved_at >= _SAVED_EVERY_S:
                    self._save_progress()
                else:
                    self._unsaved = True

    def settle(self) -> None:
        """Note how far the sources were read, where that was put off."""
        with self.lock:
            if self._unsaved:
                self._save_progress()

    def see_xid(self, gpu: GpuIdentity, xid: int, recovery_action: str | None) -> None:
        """A critical XID event of NVML."""
        with self.lock:
            self._from_nvml(gpu, xid, recovery_action, f"NVML critical XID event {xid}")
            self._save_progress()

    def see_recovery_action(self, gpu: GpuIdentity, action: str) -> None:
        """What NVML says should be done with a GPU. Told when it is another than what was told last, as XID 154 would:
        so a 154 that nobody saw is found, and its end, too."""
        with self.lock:
            last = self._progress.actions.get(gpu.pci, NO_ACTION)
            if action == last:
                return
            text = f"NVML recovery action changed from {last} to {action}"
            self._from_nvml(gpu, RECOVERY_ACTION_CHANGED, action, text)
            self._save_progress()

    def see_checks(self, results: Sequence[CheckResult], pending: Collection[tuple[str, str]] = ()) -> None:
        """Tell of what checks find otherwise than they did before.

        Args:
            pending: check and subject of findings on which it is too early to say anything.
        """
        with self.lock:
            for result in results:
                found = {finding.subject: finding for finding in result.findings}
                before = {
                    subject
                    for name, _bar, subject in (key.partition("|") for key in self._progress.findings)
                    if name == result.name
                }
                # What could not be read is no proof that something found before is well again.
                well = (
                    before - found.keys() if CheckStatus.UNKNOWN not in {one.status for one in result.findings} else ()
                )
                for subject in sorted({*found, *well}):
                    if (result.name, subject) not in pending:
                        self._tell_finding(result.name, subject, found.get(subject))
            self._save_progress()

    def _tell_finding(self, check: str, subject: str, finding: Finding | None) -> None:
        key = f"{check}|{subject}"
        state = f"{finding.status.value} {finding.drain.value}" if finding else ""
        if state == self._progress.findings.get(key, ""):
            return
        if finding:
            self._progress.findings[key] = state
        else:
            del self._progress.findings[key]
        self._progress.check_events += 1
        message = f"{finding.message} [{finding.rule}]" if finding else "well again"
        self._keep(
            check_event(
                self.node,
                event_id=f"{self.node}/{self._progress.boot_id}/check/{self._progress.check_events}",
                check=check,
                status=finding.status if finding else CheckStatus.OK,
                drain=finding.drain if finding else Drain.NO,
                evidence=f"{subject}: {message}" if subject else message,
                gpu=finding.gpu if finding else None,
                driver_version=self._driver,
                boot_id=self._progress.boot_id,
                seen_at=self._clock.now(),
            )
        )

    def _from_nvml(self, gpu: GpuIdentity, xid: int, recovery_action: str | None, text: str) -> None:
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
                uuid=gpu.uuid,
                product=product_of(gpu.name),
                driver_version=self._driver,
                evidence=f"{text} of GPU {gpu.index} ({gpu.uuid})",
                boot_id=self._progress.boot_id,
                recovery_action=recovery_action,
            )
        )

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
        self._saved_at = self._monotonic()
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

    def _save_inventory(self) -> None:
        try:
            self._inventory_file.write_bytes(_IDENTITIES.dump_json(self._known))
        except OSError as error:
            log.warning("inventory.unsaved", node=self.node, error=str(error))

    @property
    def _product(self) -> GpuModel | None:
        """Nodes have GPUs of one model; a switch's lines name none."""
        return next((product_of(gpu.name) for gpu in self._gpu_at.values()), None)

    def _from_log(self, decoded: Decoded, record: Record, seen_at: datetime) -> NodeEvent:
        gpu = self._gpu_at.get(decoded.pci or "")
        place = f"kmsg/{record.sequence}" if record.cursor is None else f"journal/{_short(record.cursor)}"
        return NodeEvent(
            event_id=f"{self.node}/{self._progress.boot_id}/{place}",
            node=self.node,
            kind=decoded.kind,
            code=decoded.code,
            source=EventSource.KERNEL_LOG,
            seen_at=seen_at,
            pci=decoded.pci,
            gpu=gpu.index if gpu else None,
            serial=gpu.serial if gpu else None,
            uuid=gpu.uuid if gpu else decoded.gpu,
            product=self._product,
            driver_version=self._driver,
            evidence=record.text[:2000],
            boot_id=self._progress.boot_id,
            recovery_action=decoded.to_action,
        )

    def _keep(self, event: NodeEvent, means: str = "") -> bool:
        """False for what was told already."""
        if event.kind is not EventKind.CHECK and not self._recent.is_new(event, means):
            return False
        # That nothing need be done is told by a 154 alone; beside another XID it is no news of its own.
        action = _plain(event.recovery_action)
        if event.pci and action and (event.code == RECOVERY_ACTION_CHANGED or action != NO_ACTION):
            self._progress.actions[event.pci] = action
        if self.spool.append(event):
            self._full = False
            self._on_event(self)
        elif not self._full:
            self._full = True
            log.error("spool.full", node=self.node, waiting=len(self.spool), lost=event.event_id)
        return True


def check_event(
    node: NodeName,
    *,
    event_id: str,
    check: str,
    status: CheckStatus,
    drain: Drain,
    evidence: str,
    gpu: GpuIdentity | None,
    driver_version: str | None,
    boot_id: str,
    seen_at: datetime,
) -> NodeEvent:
    """What a check found, as an event of the node."""
    return NodeEvent(
        event_id=event_id,
        node=node,
        kind=EventKind.CHECK,
        code=0,
        source=EventSource.CHECK,
        seen_at=_in_bounds(seen_at),
        check=check,
        status=status,
        drain=drain,
        evidence=evidence[:2000],
        gpu=gpu.index if gpu else None,
        pci=gpu.pci if gpu else None,
        serial=gpu.serial if gpu else None,
        uuid=gpu.uuid if gpu else None,
        product=product_of(gpu.name) if gpu else None,
        driver_version=driver_version,
        boot_id=boot_id,
    )


def read_inventory(folder: Path) -> tuple[GpuIdentity, ...]:
    """The GPUs that a node's agent noted in its spool folder; none where it noted none."""
    try:
        return _IDENTITIES.validate_json((folder / "inventory.json").read_bytes())
    except (OSError, ValidationError):
        return ()


def _short(cursor: str) -> str:
    return hashlib.sha256(cursor.encode()).hexdigest()[:24]


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
