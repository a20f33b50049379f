"""One node's samples on their way to gpuaasd: in memory alone, since what is lost of them is merely unknown."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Final

from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.telemetry import MAX_SLOTS, METRICS, SLOT_S, UNKNOWN, SampleBatch

KEPT: Final = 6 * 3600 // SLOT_S
"""Samples that wait at most, six hours: 100 kB a node. The oldest give way to new ones."""


@dataclass(frozen=True, slots=True)
class Sample:
    """All GPUs of a node at one moment: `codes` are one a metric and GPU, in this order."""

    slot: int
    serials: tuple[str | None, ...]
    codes: bytes


class Waiting:
    """Filled by the sampler, emptied by delivery, each in a thread of its own."""

    def __init__(self, node: NodeName) -> None:
        self._node = node
        self._lock = threading.Lock()
        self._samples: deque[Sample] = deque(maxlen=KEPT)
        self._first = 0
        """Number of the oldest that waits; it grows with each that leaves."""

    def __len__(self) -> int:
        return len(self._samples)

    def put(self, sample: Sample) -> None:
        """A second sample of a slot is left out."""
        with self._lock:
            if self._samples and self._samples[-1].slot == sample.slot:
                return
            if len(self._samples) == KEPT:
                self._first += 1
            self._samples.append(sample)

    def head(self) -> tuple[SampleBatch, int] | None:
        """The oldest samples as one batch, and the number of the first that is not in it; None when none waits.

        A slot without a sample in between is unknown. A batch ends where GPUs change, or the clock was set back.
        """
        with self._lock:
            if not self._samples:
                return None
            first = self._samples[0]
            taken: dict[int, bytes] = {}
            last = first.slot - 1
            for sample in self._samples:
                if sample.serials != first.serials or not last < sample.slot < first.slot + MAX_SLOTS:
                    break
                taken[sample.slot] = sample.codes
                last = sample.slot
            end = self._first + len(taken)
        gpus = len(first.serials)
        nothing = bytes([UNKNOWN]) * len(first.codes)
        slots = [taken.get(slot, nothing) for slot in range(first.slot, last + 1)]
        values = b"".join(codes[row * gpus : (row + 1) * gpus] for row in range(len(METRICS)) for codes in slots)
        return SampleBatch(node=self._node, first=first.slot * SLOT_S, serials=first.serials, values=values), end

    def done(self, end: int) -> None:
        """Those before the number `end` need not wait any longer."""
        with self._lock:
            while self._samples and self._first < end:
                self._samples.popleft()
                self._first += 1
