"""What grants used of what they could have used, day by day: many grants at once, as arrays of grants x days. Pure.

Two measures, since each alone is easily fooled: GPUs held by jobs (allocated), and of these the ones that computed or
had their memory full (busy). Both are of the grant's own GPUs; borrowed ones are told and count for nothing. What
faults and maintenance took could not be used, so it is no idleness. What was not measured is `None`, and counts for
nothing. See docs/design/0029.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.pool.idle_rules import IdleRules

DAY_SECONDS: Final = 86_400
"""Korea has no summer time."""
_CHUNK: Final = 128
"""Grants whose peaks are sorted at once: bounds the memory."""

Numbers = NDArray[np.float64]
Counts = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class UseDay:
    """A grant's own use on a Korean day, in GPU-seconds.

    Attributes:
        gpus: awarded.
        lost: of gpus x 86,400, what faults and maintenance took.
        allocated: held by jobs on the grant's own GPUs; None: not measured.
        busy: of it, GPUs that computed; None: not measured.
        loaded: of it, GPUs that did not compute and had their memory full.
        peak: GPUs in use (busy or loaded; allocated where busy is not measured) in the day's busiest hour; None exactly
            where `allocated` is.
        burst: borrowed GPUs, beside all that.
    """

    day: date
    gpus: int
    lost: int = 0
    allocated: int | None = None
    busy: int | None = None
    loaded: int = 0
    peak: int | None = None
    burst: int = 0

    def __post_init__(self) -> None:
        most = self.gpus * DAY_SECONDS
        parts = (self.lost, self.allocated or 0, self.busy or 0, self.loaded)
        if self.gpus < 0 or self.burst < 0 or not all(0 <= part <= most for part in parts):
            raise InvalidInput(
                f"On {self.day} lost, allocated, busy and loaded are {parts} GPU-seconds of {self.gpus} GPUs, which "
                f"have {most:,}.",
                way_out="Count the grant's own GPUs, in seconds, none twice.",
            )
        if (self.allocated is None) != (self.peak is None):
            raise InvalidInput(
                f"On {self.day} only one of allocated and peak is measured.", way_out="Give both, or neither."
            )
        if not 0 <= (self.peak or 0) <= self.gpus:
            raise InvalidInput(
                f"On {self.day} the peak is {self.peak} GPUs of {self.gpus}.", way_out="Count the grant's own GPUs."
            )


@dataclass(frozen=True, slots=True)
class Mean:
    """Use over `days` days that count, as parts of what could be used; `busy` None where too little is known."""

    days: int
    allocated: float
    busy: float | None

    def below(self, allocated: float, busy: float) -> bool:
        """Either measure below its threshold (percent)."""
        return 100 * self.allocated < allocated or (self.busy is not None and 100 * self.busy < busy)


class UseTable:
    """Use of several grants over consecutive days, and what the rules make of it at the end of each day.

    Arrays have the shape (grants, days). `low` says that a grant was used too little over the window that ends with
    the day, and that it needs fewer GPUs than it has: `proposed`.
    """

    def __init__(
        self,
        first: date,
        days: int,
        uses: Sequence[Sequence[UseDay]],
        excused: Flags,
        min_gpus: Sequence[int],
        rules: IdleRules,
    ) -> None:
        """
        Args:
            first: the first day; what lies outside is left out.
            excused: days (grants, days) on which idleness is nobody's fault. Use on them still counts where it helps.
            min_gpus: least useful size of each grant.

        Raises:
            InvalidInput: a grant has two rows for a day.
        """
        self.first, self.days, self._rules = first, days, rules
        self._read(uses)
        self._count(excused)
        self._average()
        self._propose(np.asarray(min_gpus, np.int64)[:, np.newaxis])

    def _read(self, uses: Sequence[Sequence[UseDay]]) -> None:
        """From rows to arrays; a column at a time, since there are a million rows in a year of a national pool."""
        shape = len(uses), self.days
        row = np.repeat(np.arange(len(uses)), [len(of_grant) for of_grant in uses])
        flat = [use for of_grant in uses for use in of_grant]
        at = np.array([use.day.toordinal() for use in flat], np.int64) - self.first.toordinal()
        inside = (at >= 0) & (at < self.days)
        cells = row[inside] * self.days + at[inside]
        if cells.size and int(np.bincount(cells).max()) > 1:
            twice = int(np.argmax(np.bincount(cells) > 1))
            raise InvalidInput(
                f"{self.day(twice % self.days)} is there twice for one grant.", way_out="Give each day once."
            )

        def column(values: Iterable[float | None]) -> Numbers:
            """nan where not measured, and where there is no row."""
            found = np.full(shape[0] * shape[1], np.nan)
            found[cells] = np.array(list(values), np.float64)[inside]  # None becomes nan
            return found.reshape(shape)

        gpus = np.nan_to_num(column(use.gpus for use in flat))
        self.gpus = gpus.astype(np.int64)
        self._lost = np.nan_to_num(column(use.lost for use in flat))
        self.burst = np.nan_to_num(column(use.burst for use in flat))
        self.loaded = np.nan_to_num(column(use.loaded for use in flat))
        allocated, busy = column(use.allocated for use in flat), column(use.busy for use in flat)
        could = gpus * DAY_SECONDS - self._lost
        self.measured = ~np.isnan(allocated) & (could > 0)
        self._has_busy = self.measured & ~np.isnan(busy)
        self._could = np.where(self.measured, could, 0)
        self._allocated = np.minimum(np.where(self.measured, allocated, 0), self._could)
        used = busy + self._rules.loaded_counts / 100 * self.loaded
        self._busy = np.minimum(np.where(self._has_busy, used, 0), self._could)
        self.peak = np.where(self.measured, np.nan_to_num(column(use.peak for use in flat)), 0).astype(np.int64)

    def _count(self, excused: Flags) -> None:
        """Days that count: measured, and either nobody's excuse or used well enough to help."""
        rules = self._rules
        helps = self._allocated >= rules.allocated_below / 100 * self._could
        helps &= ~self._has_busy | (self._busy >= rules.busy_below / 100 * self._could)
        outage = self._lost >= rules.outage_percent / 100 * DAY_SECONDS * self.gpus
        self.counted = self.measured & (helps | ~(excused | outage))
        self._number = _running(self.counted)
        with_busy = self.counted & self._has_busy
        self._sum_days_busy = _running(with_busy)
        self._sum_could = _running(self._could * self.counted)
        self._sum_allocated = _running(self._allocated * self.counted)
        self._sum_could_busy = _running(self._could * with_busy)
        self._sum_busy = _running(self._busy * with_busy)
        self._sum_used = _running(np.where(self._has_busy, self._busy, self._allocated) * self.counted)

    def _average(self) -> None:
        """The window of each day: the last `window_days` days that count, none of them before the look-back."""
        rules = self._rules
        at = np.arange(self.days)
        count = self._number[:, 1:].astype(np.int64)
        _, columns = np.nonzero(self.counted)
        begins = np.concatenate([[0], np.cumsum(self.counted.sum(axis=1))])[:-1, np.newaxis]
        full = count >= rules.window_days
        place = np.where(full, begins + count - rules.window_days, 0)
        self.window = np.where(full, columns[place] if columns.size else 0, 0)
        last = np.maximum.accumulate(np.where(self.measured, at, -1), axis=1)
        fresh = (last >= 0) & (at + 1 - last <= rules.stale_days)
        self.enough = full & fresh & (self.window > at - rules.look_back_days)
        self.awarded = np.take_along_axis(self.gpus, np.maximum(last, 0), axis=1)
        self._below = self._is_below()

    def _is_below(self) -> Flags:
        """`Mean.below` of each day's window, for all at once."""
        rows, until = np.arange(len(self.gpus))[:, np.newaxis], np.arange(self.days) + 1

        def between(sums: Numbers) -> Numbers:
            found: Numbers = sums[rows, until] - sums[rows, self.window]
            return found

        allocated_below = 100 * between(self._sum_allocated) < self._rules.allocated_below * between(self._sum_could)
        busy_below = 100 * between(self._sum_busy) < self._rules.busy_below * between(self._sum_could_busy)
        busy_known = 2 * between(self._sum_days_busy) >= between(self._number)
        return allocated_below | (busy_known & busy_below)

    def _propose(self, min_gpus: Counts) -> None:
        """What a grant needs: its `burst_days`th highest peak in the look-back, with headroom, in whole servers."""
        rules, at = self._rules, np.arange(self.days)
        server = rules.gpus_per_server
        self.needed = _nth_largest(self.peak, rules.look_back_days, rules.burst_days)
        since = np.maximum(at + 1 - rules.look_back_days, 0)
        could = self._sum_could[:, at + 1] - self._sum_could[:, since]
        used = self._sum_used[:, at + 1] - self._sum_used[:, since]
        self.unused = 100 * used < rules.recall_below * could
        wanted = np.ceil(np.round(self.needed * (1 + rules.headroom / 100) / server, 9)).astype(np.int64) * server
        wanted = np.maximum(np.maximum(wanted, server), min_gpus)
        self.proposed = np.where(self.unused, 0, np.minimum(wanted, self.awarded))
        self.low: Flags = self.enough & self._below & (self.proposed < self.awarded)

    def mean(self, grant: int, since: int, until: int) -> Mean:
        """Over the days that count in [since, until), by their places in the table."""
        since, until = max(0, min(since, self.days)), max(0, min(until, self.days))

        def between(sums: Numbers) -> float:
            return float(sums[grant, until]) - float(sums[grant, since])

        days = round(between(self._number)) if since < until else 0
        if not days:
            return Mean(0, 0.0, None)
        busy_known = 2 * between(self._sum_days_busy) >= days
        return Mean(
            days,
            between(self._sum_allocated) / between(self._sum_could),
            between(self._sum_busy) / between(self._sum_could_busy) if busy_known else None,
        )

    def unused_gpu_days(self) -> int:
        """GPU-days that could be used, were measured, and that no job held."""
        return round(float((self._could - self._allocated).sum()) / DAY_SECONDS)

    def day(self, at: int) -> date:
        return self.first + timedelta(days=at)


def _running(values: NDArray[np.generic]) -> Numbers:
    """Running sums of each row, with a leading 0: shape (grants, days + 1). GPU-seconds of years are exact in them."""
    sums = np.zeros((values.shape[0], values.shape[1] + 1))
    np.cumsum(values, axis=1, out=sums[:, 1:])
    return sums


def _nth_largest(values: Counts, days: int, nth: int) -> Counts:
    """The nth largest of the last `days` values up to each; 0 where there are fewer."""
    padded = np.pad(values, ((0, 0), (days - 1, 0)))
    found = np.zeros_like(values)
    if nth > days or not values.size:
        return found
    for start in range(0, len(values), _CHUNK):
        windows = np.lib.stride_tricks.sliding_window_view(padded[start : start + _CHUNK], days, axis=1)
        found[start : start + _CHUNK] = np.partition(windows, days - nth, axis=2)[:, :, days - nth]
    return found
