"""Runs of the award solver for the desk: beside the requests, one at a time, each question once.

A run is a question (a programme's scenario as it was, and what is to be otherwise) with its answer, or with why there
is none. The solver lets other threads work while it searches, and it holds no transaction of the store. Runs are kept
in memory: what is decided is kept elsewhere, and every answer can be found again by asking again.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import Final

from pydantic_core import to_json

from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.errors import GpuaasError, InvalidInput, NotFound, Unavailable
from slurm_gpuaas.domain.names import PersonId, ProgrammeName
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.pool.award import Award, OutOfTime, award
from slurm_gpuaas.pool.award_scenario import Scenario
from slurm_gpuaas.pool.award_whatif import WhatIf

MOST_RUNS: Final = 50
"""Kept: the oldest goes when there are more. One of 500 applications takes about 1 MB."""
MOST_WAITING: Final = 10
TIME_LIMIT_S: Final = 60.0
"""Of one run. Calls of 500 applications took 3 to 17 s of CPU where they were proven (design note 23)."""


class RunState(StrEnum):
    WAITING = "waiting"
    SOLVING = "solving"
    SOLVED = "solved"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of the solver.

    Args:
        scenario: as it is; `what_if` is what is to be otherwise.
    """

    programme: ProgrammeName
    scenario: Scenario
    what_if: WhatIf = field(default_factory=WhatIf)

    @cached_property
    def id(self) -> str:
        """Follows from the question: asked again, it is the same run."""
        otherwise = self.what_if
        asked = [
            self.programme,
            self.scenario,
            sorted(otherwise.without),
            sorted(otherwise.must),
            sorted(otherwise.caps.items()),
            sorted(otherwise.capacities.items()),
        ]
        return f"r-{hashlib.sha256(to_json(asked)).hexdigest()[:16]}"

    @property
    def base(self) -> Question:
        """The same with nothing otherwise."""
        return replace(self, what_if=WhatIf())

    def check(self) -> None:
        """
        Raises:
            InvalidInput: it names an application, pool or cap that there is not.
        """
        self.what_if.of(self.scenario)
        asked = self.what_if.must
        there = {one.id for one in self.scenario.applications} - self.what_if.without
        if missing := sorted(asked - there):
            raise InvalidInput(
                told("{application} cannot be awarded: it is none of the applications.", application=missing[0]),
                way_out=told("Name one of the scenario's applications, and do not leave it out as well."),
            )


@dataclass(frozen=True, kw_only=True)
class Run:
    """
    Args:
        seconds: how long it has been solved, or took.
        error: why there is no award.
    """

    question: Question
    asked_by: PersonId
    asked_at: datetime
    state: RunState = RunState.WAITING
    seconds: float = 0.0
    award: Award | None = None
    error: GpuaasError | None = None

    @property
    def id(self) -> str:
        return self.question.id

    @property
    def over(self) -> bool:
        return self.state in {RunState.SOLVED, RunState.FAILED}


Solve = Callable[[Scenario, frozenset[str], float], Award]


def _solve(scenario: Scenario, must: frozenset[str], time_limit_s: float) -> Award:
    return award(scenario, must=must, time_limit_s=time_limit_s)


class AwardRuns:
    """Safe to share between threads.

    Args:
        solve: scenario, who must be awarded, and the time limit in seconds to the award.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        solve: Solve = _solve,
        time_limit_s: float = TIME_LIMIT_S,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self.time_limit_s = time_limit_s
        self._clock = clock
        self._solve = solve
        self._seconds = seconds
        self._runs: dict[str, Run] = {}
        self._waiting: deque[str] = deque()
        self._solving: tuple[str, float] | None = None
        """The run under way, and when it began."""
        self._changed = threading.Condition()

    def ask(self, question: Question, by: PersonId) -> Run:
        """The run of the question, begun if there is none. One that ran out of time is tried again.

        Raises:
            InvalidInput: the question names something that there is not.
            Unavailable: too many runs wait.
        """
        question.check()
        with self._changed:
            if question.what_if:
                self._begin(question.base, by)
            self._begin(question, by)
            self._next()
            return self._runs[question.id]

    def get(self, id: str, programme: ProgrammeName | None = None) -> Run:
        """
        Raises:
            NotFound: it was never asked for (for that programme), or is no longer kept.
        """
        with self._changed:
            run = self._runs.get(id)
            if run is None or programme not in (None, run.question.programme):
                raise NotFound(
                    told(
                        "There is no such run; the last {most} are kept until the portal starts again.", most=MOST_RUNS
                    ),
                    way_out=told("Solve it again from the programme's award desk."),
                )
            return self._with_seconds(run)

    def base_of(self, run: Run) -> Run | None:
        """The run of the same scenario with nothing otherwise, where it is still kept."""
        with self._changed:
            base = self._runs.get(run.question.base.id)
            return None if base is None else self._with_seconds(base)

    def of(self, programme: ProgrammeName) -> tuple[Run, ...]:
        """Those kept, the newest first."""
        with self._changed:
            found = [self._with_seconds(one) for one in self._runs.values() if one.question.programme == programme]
            return tuple(reversed(found))

    def wait(self, id: str, seconds: float) -> Run:
        """The run when it is over, or after so many seconds.

        Raises:
            NotFound: as `get`.
        """
        with self._changed:
            self._changed.wait_for(lambda: id not in self._runs or self._runs[id].over, seconds)
        return self.get(id)

    def _with_seconds(self, run: Run) -> Run:
        if self._solving is not None and self._solving[0] == run.id:
            return replace(run, seconds=self._seconds() - self._solving[1])
        return run

    def _begin(self, question: Question, by: PersonId) -> None:
        known = self._runs.get(question.id)
        if known is not None and not isinstance(known.error, OutOfTime):
            return
        if len(self._waiting) >= MOST_WAITING:
            raise Unavailable(
                told("{count} runs wait for the solver already.", count=len(self._waiting)),
                way_out=told("Try again when one of them is done."),
            )
        self._runs.pop(question.id, None)
        self._runs[question.id] = Run(question=question, asked_by=by, asked_at=self._clock.now())
        self._waiting.append(question.id)
        for old in [id for id, run in self._runs.items() if run.over][: max(0, len(self._runs) - MOST_RUNS)]:
            del self._runs[old]

    def _next(self) -> None:
        if self._solving is None and self._waiting:
            id = self._waiting.popleft()
            self._solving = id, self._seconds()
            self._runs[id] = replace(self._runs[id], state=RunState.SOLVING)
            threading.Thread(target=self._run, args=(self._runs[id],), name="award", daemon=True).start()

    def _run(self, run: Run) -> None:
        found: Award | None = None
        error: GpuaasError | None = None
        try:
            found = self._solve(
                run.question.what_if.of(run.question.scenario), run.question.what_if.must, self.time_limit_s
            )
        except GpuaasError as refused:
            error = refused
        finally:  # also when it crashed: the thread then ends with its traceback
            with self._changed:
                began = self._solving[1] if self._solving else self._seconds()
                if found is None and error is None:
                    error = GpuaasError(
                        told("The solver met an error it did not expect."), way_out=told("Tell the operator.")
                    )
                self._runs[run.id] = replace(
                    run,
                    state=RunState.FAILED if found is None else RunState.SOLVED,
                    seconds=self._seconds() - began,
                    award=found,
                    error=error,
                )
                self._solving = None
                self._next()
                self._changed.notify_all()
