"""What a benchmark is: rows of figures, taken side by side in one run on one testbed.

A group is a module `tests/bench/group_NAME.py` with `def run(context: BenchContext) -> list[BenchRow]`. It measures
what we do and the obvious alternative in turns (`side_by_side`), so that a busy machine slows both alike, and reports
medians.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from slurm_gpuaas.testbed.instance import Instance
from slurm_gpuaas.testbed.progress import Note, Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRow:
    """One line of `bench.json`.

    Attributes:
        name: as the issue that asks for it spells it.
        value: our figure, in `unit`.
        baseline: the alternative's figure in the same unit, measured in the same run; None where there is none.
        ratio: how many times as good as the baseline we are (2.0: half the time, or twice the rate); None without one.
        runs: measurements behind `value`.
    """

    name: str
    value: float
    unit: str
    baseline: float | None
    ratio: float | None
    runs: int

    @classmethod
    def of_times(cls, name: str, *, ours: Sequence[float], baseline: Sequence[float]) -> BenchRow:
        """Medians of seconds: less is better."""
        value, other = statistics.median(ours), statistics.median(baseline)
        return cls(name=name, value=value, unit="s", baseline=other, ratio=other / value, runs=len(ours))

    @classmethod
    def of_rates(cls, name: str, *, ours: Sequence[float], baseline: Sequence[float], unit: str) -> BenchRow:
        """Medians of things a second: more is better."""
        value, other = statistics.median(ours), statistics.median(baseline)
        return cls(name=name, value=value, unit=unit, baseline=other, ratio=value / other, runs=len(ours))

    @classmethod
    def of_figure(cls, name: str, values: Sequence[float], *, unit: str) -> BenchRow:
        """The median of a figure that has no alternative to compare with."""
        return cls(name=name, value=statistics.median(values), unit=unit, baseline=None, ratio=None, runs=len(values))

    @classmethod
    def of_percentile(cls, name: str, values: Sequence[float], percent: int, *, unit: str) -> BenchRow:
        """The value that `percent` of the measurements do not exceed."""
        value = sorted(values)[math.ceil(len(values) * percent / 100) - 1]
        return cls(name=name, value=value, unit=unit, baseline=None, ratio=None, runs=len(values))


def timed(action: Callable[[], object]) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def side_by_side(
    ours: Callable[[], float], baseline: Callable[[], float], *, runs: int
) -> tuple[list[float], list[float]]:
    """Measure both `runs` times in turns, each going first every other time.

    Each callable makes one measurement and returns it (`lambda: timed(action)` for seconds).
    """
    mine: list[float] = []
    others: list[float] = []
    for turn in range(runs):
        pair = [(ours, mine), (baseline, others)]
        for measure, results in pair if turn % 2 == 0 else reversed(pair):
            results.append(measure())
    return mine, others


class BenchContext:
    """What groups share: the testbed, brought up when the first group asks for it, and the display.

    One testbed stands at a time; a group leaves it as it found it (jobs cancelled, nodes resumed, objects deleted).
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stack = ExitStack()
        self._current: tuple[tuple[str, str | None, bool], Instance] | None = None

    def testbed(self, profile: str, *, cluster: str | None = None, daemon: bool = True) -> Instance:
        """The testbed of this profile, up; another one is taken down first.

        Args:
            cluster: which of its clusters, where it has several.
            daemon: with gpuaasd and agents; a group that writes Slurm's objects itself must have none beside it.
        """
        wanted = (profile, cluster, daemon)
        if self._current and self._current[0] == wanted:
            return self._current[1]
        self.close()
        name = f"bench-{os.getpid()}"
        instance = Instance.up(profile, name, cluster=cluster, daemon=daemon, progress=self._progress)
        self._stack.callback(instance.down)
        self._current = (wanted, instance)
        return instance

    @contextmanager
    def step(self, title: str) -> Iterator[Note]:
        """Show a step of the work while it lasts; what it yields takes short notes."""
        with self._progress.step(title) as note:
            yield note

    def close(self) -> None:
        self._stack.close()
        self._current = None


def write_json(rows: Sequence[BenchRow], path: Path) -> None:
    path.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
