"""From samples to minutes and hours. Pure: arrays of codes in (`domain.telemetry`), arrays of codes out.

Unknown is never counted: a mean is over what is known, and is unknown when nothing is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from slurm_gpuaas.domain.telemetry import IDLE_BELOW_PERCENT, METRICS, STEP, UNKNOWN, Metric

Codes = NDArray[np.uint8]

MINUTE_ROWS: Final = len(METRICS) + 1
SAMPLES: Final = len(METRICS)
"""Row of a table of minutes that counts known samples of `busy`; the rows before it are the metrics."""

IDLE_BELOW: Final = int(IDLE_BELOW_PERCENT / STEP[Metric.BUSY])
"""Codes of `busy` below this are idle."""


def mean_of(codes: Codes, by: int) -> tuple[Codes, Codes]:
    """Mean of each `by` neighbours along the last axis, rounded half up, and how many of them are known.

    Args:
        codes: [..., n * by] with `by` <= 255.

    Returns:
        Both [..., n].
    """
    grouped = codes.reshape(*codes.shape[:-1], -1, by)
    known = grouped != UNKNOWN
    count = known.sum(axis=-1, dtype=np.int64)
    total = np.where(known, grouped, 0).sum(axis=-1, dtype=np.int64)
    mean = np.where(count > 0, (2 * total + count) // np.maximum(2 * count, 1), UNKNOWN)
    return mean.astype(np.uint8), count.astype(np.uint8)


def minutes_of(slots: Codes, by: int) -> Codes:
    """Minutes [MINUTE_ROWS, gpus, n] of slots [metrics, gpus, n * by]."""
    means, known = mean_of(slots, by)
    return np.concatenate([means, known[:1]])


def unknown_minutes(gpus: int, minutes: int) -> Codes:
    """A table of minutes in which nothing is known."""
    table = np.full((MINUTE_ROWS, gpus, minutes), UNKNOWN, np.uint8)
    table[SAMPLES] = 0
    return table


def merged(older: Codes, newer: Codes) -> Codes:
    """Two tables of the same minutes as one: of each GPU-minute the reading with more known samples, the older one of
    equals; what that does not know is taken from the other. Merging again changes nothing."""
    gpus = max(older.shape[1], newer.shape[1])
    older, newer = (_with_gpus(table, gpus) for table in (older, newer))
    better = newer[SAMPLES] > older[SAMPLES]
    first, second = np.where(better, newer, older), np.where(better, older, newer)
    values = np.where(first[:SAMPLES] == UNKNOWN, second[:SAMPLES], first[:SAMPLES])
    return np.concatenate([values, first[SAMPLES:]])


def _with_gpus(table: Codes, gpus: int) -> Codes:
    if table.shape[1] == gpus:
        return table
    wider = unknown_minutes(gpus, table.shape[2])
    wider[:, : table.shape[1]] = table
    return wider


@dataclass(frozen=True, slots=True)
class Tally:
    """GPU-minutes. `known` = with at least one sample, `idle` = known and below `IDLE_BELOW_PERCENT`; `busy` is the sum
    over all known `samples` in percent."""

    known: int = 0
    idle: int = 0
    unknown: int = 0
    samples: int = 0
    busy: float = 0.0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.known + other.known,
            self.idle + other.idle,
            self.unknown + other.unknown,
            self.samples + other.samples,
            self.busy + other.busy,
        )

    @property
    def mean_busy(self) -> float | None:
        """Percent over all known samples; None without any."""
        return self.busy / self.samples if self.samples else None


def running_counts(busy: Codes, samples: Codes) -> NDArray[np.int64]:
    """Known and idle GPU-minutes, known samples and codes summed over them, from the first minute to each.

    Args:
        busy, samples: [gpus, n], as in `tally`.

    Returns:
        [4, n + 1], zeros first: what a stretch counts is the difference of two columns.
    """
    known = samples > 0
    counts = np.zeros((4, busy.shape[1] + 1), np.int64)
    counts[0, 1:] = np.count_nonzero(known, axis=0)
    counts[1, 1:] = np.count_nonzero(known & (busy < IDLE_BELOW), axis=0)
    counts[2, 1:] = samples.sum(axis=0, dtype=np.int64)
    counts[3, 1:] = np.multiply(busy, samples, dtype=np.uint16).sum(
        axis=0, dtype=np.int64
    )  # nothing where samples are 0
    return counts.cumsum(axis=1)


def tally(busy: Codes, samples: Codes) -> Tally:
    """Count GPU-minutes.

    Args:
        busy: codes of minutes, any shape.
        samples: known samples of each, same shape.
    """
    known, idle, told, total = running_counts(busy.reshape(1, -1), samples.reshape(1, -1))[:, -1].tolist()
    return Tally(known=known, idle=idle, unknown=busy.size - known, samples=told, busy=total * STEP[Metric.BUSY])
