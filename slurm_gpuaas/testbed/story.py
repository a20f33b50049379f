"""A story in steps: each does something as a person would, and is confirmed by asking Slurm itself.

A step whose real state is not what it claims fails the story and is named.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from slurm_gpuaas.domain.errors import GpuaasError

T = TypeVar("T")


class StepFailed(GpuaasError):
    """Slurm's real state is not what the step claims."""


@dataclass(frozen=True, slots=True)
class Outcome:
    step: str
    asked: str
    """What was asked of Slurm to verify the step."""
    result: str
    seconds: float
    ok: bool = True


@dataclass(slots=True)
class Story:
    """Keeps what came of each step."""

    console: Console
    monotonic: Callable[[], float] = field(default=time.monotonic, kw_only=True)
    outcomes: list[Outcome] = field(default_factory=list, kw_only=True)

    def until(self, look: Callable[[], T], good: Callable[[T], bool], what: str, seconds: float = 30) -> T:
        """Look again until what is seen is good.

        Raises:
            StepFailed: not within `seconds`; what was seen last is in the message.
        """
        deadline = self.monotonic() + seconds
        while True:
            seen = look()
            if good(seen):
                return seen
            if self.monotonic() > deadline:
                raise StepFailed(f"Waited {seconds:.0f} s for {what}; last seen: {str(seen)[:400]}")
            time.sleep(0.1)

    @staticmethod
    def claim(true: bool, otherwise: str) -> None:
        if not true:
            raise StepFailed(otherwise)

    @contextmanager
    def step(self, step: str, asked: str) -> Iterator[Callable[[str], None]]:
        """Time a step and keep its outcome; `done(result)` says what Slurm confirmed."""
        results: list[str] = []
        started = self.monotonic()
        with self.console.status(f"{step} ..."):
            try:
                yield results.append
            except GpuaasError as error:
                self._keep(Outcome(step, asked, str(error), self.monotonic() - started, ok=False))
                raise StepFailed(
                    f"Step '{step}' failed: {error}", way_out="Look with `gpuaas testbed logs`."
                ) from error
        self._keep(Outcome(step, asked, results[-1], self.monotonic() - started))

    def _keep(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        mark = "[green]ok[/]" if outcome.ok else "[red]FAILED[/]"
        self.console.print(
            f"{mark} {escape(outcome.step)}: {escape(outcome.result)} ({outcome.seconds:.1f} s)", soft_wrap=True
        )

    def print_table(self) -> None:
        table = Table(title="What was done, and what Slurm says")
        for column in ("step", "asked of Slurm", "result", "seconds"):
            table.add_column(column, justify="right" if column == "seconds" else "left")
        for outcome in self.outcomes:
            colour = "green" if outcome.ok else "red"
            table.add_row(
                escape(outcome.step),
                escape(outcome.asked),
                f"[{colour}]{escape(outcome.result)}[/]",
                f"{outcome.seconds:.1f}",
            )
        self.console.print(table)


def fields_of(line: str) -> Mapping[str, str]:
    """`Key=value ...` as Slurm prints it; a value runs up to the next ` Key=`."""
    return {key: value.strip() for key, value in re.findall(r"(\w[\w:/]*)=(.*?)(?= \w[\w:/]*=|$)", line.strip())}
