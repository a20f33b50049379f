"""Shows what long work is doing: spinners on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress as RichProgress
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

Note = Callable[[str], None]
"""Says in a few words how far a step is."""


class Progress(Protocol):
    """Where a builder reports its steps."""

    def step(self, title: str) -> AbstractContextManager[Note]:
        """Opens a step that lasts as long as the context; it yields where short notes go. Safe from several threads."""
        ...


class SilentProgress:
    """For callers that show their own."""

    def step(self, title: str) -> AbstractContextManager[Note]:
        del title
        return nullcontext(lambda _note: None)


class PlainProgress:
    """One line when a step starts and one with its seconds when it ends."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def step(self, title: str) -> Iterator[Note]:
        self._console.print(f"{title} ...", markup=False, highlight=False)
        started = time.monotonic()
        yield lambda _note: None
        self._console.print(f"{title}: done in {time.monotonic() - started:.1f} s", markup=False, highlight=False)


class TerminalProgress:
    """A spinner, a clock and the latest note for each step under way; finished steps stay as lines."""

    def __init__(self, console: Console) -> None:
        self._live = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[note]}", table_column=None),
            console=console,
            transient=True,
        )

    def __enter__(self) -> TerminalProgress:
        self._live.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._live.stop()

    @contextmanager
    def step(self, title: str) -> Iterator[Note]:
        task = self._live.add_task(escape(title), total=None, note="")
        started = time.monotonic()
        try:
            yield lambda note: self._live.update(task, note=escape(note[:60]))
            seconds = time.monotonic() - started
            self._live.console.print(f"[green]✓[/] {escape(title)} [dim]{seconds:.1f} s[/]", highlight=False)
        finally:
            self._live.remove_task(task)


@contextmanager
def shown(console: Console) -> Iterator[Progress]:
    """The progress that suits `console`."""
    if console.is_terminal:
        with TerminalProgress(console) as progress:
            yield progress
    else:
        yield PlainProgress(console)
