"""The hours that are still being filled: samples in memory, each batch first in the hour's log.

A batch counts as kept when its line is written to the log: it outlives the end of gpuaasd by any signal. The log is
synced every minute; only a machine that loses power can lose what was told in the minute before. A line that was cut
off is dropped when the log is opened, and batches are idempotent, so reading a log again changes nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import structlog
from pydantic import ValidationError

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.telemetry import METRICS, SLOT_S, SLOTS_A_MINUTE, UNKNOWN, SampleBatch
from slurm_gpuaas.store.telemetry.chunk import Block
from slurm_gpuaas.store.telemetry.rollup import Codes, minutes_of

HOUR_SLOTS: Final = 3600 // SLOT_S

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Samples:
    """One node's hour: `codes` are [metrics, gpus, HOUR_SLOTS]."""

    serials: tuple[str | None, ...] = ()
    codes: Codes = field(default_factory=lambda: np.empty((len(METRICS), 0, HOUR_SLOTS), np.uint8))

    def put(self, serials: tuple[str | None, ...], first: int, codes: Codes) -> None:
        """Slots [metrics, gpus, n] from `first` on. What is known already and is told as unknown stays."""
        if (more := codes.shape[1] - self.codes.shape[1]) > 0:
            room = np.full((len(METRICS), more, HOUR_SLOTS), UNKNOWN, np.uint8)
            # a new array: who reads the old one meanwhile sees it whole
            self.codes = np.concatenate([self.codes, room], axis=1)
        known = zip(serials, self.serials + (None,) * (len(serials) - len(self.serials)), strict=False)
        self.serials = (*(new or old for new, old in known), *self.serials[len(serials) :])
        place = self.codes[:, : codes.shape[1], first : first + codes.shape[2]]
        np.copyto(place, codes, where=codes != UNKNOWN)


class OpenHour:
    """One hour that is filled. Not for several threads at once, but for `minutes`.

    Args:
        number: hours since 1970.
        path: of its log; what it holds is read first.
    """

    def __init__(self, number: int, path: Path) -> None:
        self.number = number
        self.path = path
        self.written = 0
        """Batches so far: another number, other samples."""
        self._nodes: dict[NodeName, _Samples] = {}
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._bytes = self._recover()

    def add(self, batch: SampleBatch) -> None:
        """Keep those slots of the batch that are of this hour.

        Raises:
            OSError: the log cannot be written; nothing is kept.
        """
        line = batch.model_dump_json().encode() + b"\n"
        try:
            written = 0
            while written < len(line):  # a disk that fills up takes a part first, and says why at the next attempt
                written += os.pwrite(self._fd, line[written:], self._bytes + written)
        except OSError:
            os.ftruncate(self._fd, self._bytes)
            raise
        self._bytes += len(line)
        self._put(batch)

    def sync(self) -> None:
        os.fdatasync(self._fd)

    def close(self) -> None:
        os.close(self._fd)

    def nodes(self) -> list[NodeName]:
        return sorted(self._nodes)

    def minutes(self, node: NodeName) -> Block | None:
        """The hour's minutes so far."""
        samples = self._nodes.get(node)
        if samples is None:
            return None
        return Block(samples.serials, minutes_of(samples.codes, SLOTS_A_MINUTE))

    def slots(self, node: NodeName, first: int, end: int) -> Codes | None:
        """Samples [metrics, gpus, slots] of slots [first, end), counted from 1970, as far as they are of this hour."""
        samples = self._nodes.get(node)
        begin, last = first - self.number * HOUR_SLOTS, end - self.number * HOUR_SLOTS
        if samples is None or begin >= HOUR_SLOTS or last <= 0:
            return None
        return samples.codes[:, :, max(0, begin) : min(HOUR_SLOTS, last)]

    def _put(self, batch: SampleBatch) -> None:
        codes = np.frombuffer(batch.values, np.uint8).reshape(len(METRICS), batch.slots, len(batch.serials))
        first = batch.first // SLOT_S - self.number * HOUR_SLOTS
        begin, end = max(0, -first), min(batch.slots, HOUR_SLOTS - first)
        if begin >= end:
            return
        samples = self._nodes.setdefault(batch.node, _Samples())
        samples.put(batch.serials, first + begin, codes[:, begin:end].transpose(0, 2, 1))
        self.written += 1

    def _recover(self) -> int:
        """Bytes of whole lines; what a crash cut off behind them is taken away."""
        whole = 0
        damaged = 0
        with open(self._fd, "rb", closefd=False) as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                try:
                    self._put(SampleBatch.model_validate_json(line))
                except (ValidationError, InvalidInput):
                    damaged += 1  # a block that the disk lost; the lines around it are good
        if damaged:
            log.warning("telemetry.damaged", file=str(self.path), lines=damaged)
        os.ftruncate(self._fd, whole)
        return whole
