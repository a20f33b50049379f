"""The award solver beside the portal's requests: each question once, one at a time, bounded, and never silent."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from queue import Queue

import pytest

from slurm_gpuaas.domain.errors import InvalidInput, NotFound, Unavailable
from slurm_gpuaas.domain.names import PersonId, ProgrammeName
from slurm_gpuaas.pool.award import Award, OutOfTime, award
from slurm_gpuaas.pool.award_scenario import Scenario
from slurm_gpuaas.pool.award_whatif import WhatIf
from slurm_gpuaas.portal.award_runs import MOST_RUNS, MOST_WAITING, AwardRuns, Question, RunState
from tests.fakes import FakeClock
from tests.unit.pool.awards import scenario

KIM, LEE = PersonId("p-kim00000"), PersonId("p-lee00000")
NATIONAL = ProgrammeName("national")
SOON_S = 10.0
TWO = scenario([{"gpus": 16, "score": 90}, {"gpus": 16, "score": 80}], {"nhn": ("b200", 16)})


def question(what_if: WhatIf | None = None, known: Scenario = TWO) -> Question:
    return Question(programme=NATIONAL, scenario=known, what_if=what_if or WhatIf())


def of_capacity(gpus: int) -> Question:
    return question(known=scenario([{"gpus": 16}], {"nhn": ("b200", gpus)}))


class Solver:
    """Counts, and works only when it is let."""

    def __init__(self, answer: Callable[[Scenario], Award] = award) -> None:
        self.let = threading.Event()
        self.solved: list[Scenario] = []
        self.at_once = self.most_at_once = 0
        self._answer = answer

    def __call__(self, scenario: Scenario, must: frozenset[str], time_limit_s: float) -> Award:
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        assert self.let.wait(SOON_S)
        self.solved.append(scenario)
        self.at_once -= 1
        return self._answer(scenario)


def runs_with(solver: Solver) -> AwardRuns:
    return AwardRuns(FakeClock(datetime(2026, 11, 28, tzinfo=UTC)), solve=solver)


def test_a_second_press_does_not_start_a_second_solver() -> None:
    solver = Solver()
    runs = runs_with(solver)
    first, second = runs.ask(question(), KIM), runs.ask(question(), LEE)
    assert first.id == second.id and second.state is RunState.SOLVING
    solver.let.set()
    run = runs.wait(first.id, SOON_S)
    assert run.state is RunState.SOLVED and run.award is not None and run.asked_by == KIM
    assert runs.ask(question(), LEE).award is run.award
    assert len(solver.solved) == 1


def test_one_question_is_solved_at_a_time_and_the_others_wait_their_turn() -> None:
    solver = Solver()
    runs = runs_with(solver)
    asked = [runs.ask(of_capacity(gpus), KIM) for gpus in (8, 16, 24)]
    assert [run.state for run in asked] == [RunState.SOLVING, RunState.WAITING, RunState.WAITING]
    solver.let.set()
    assert all(runs.wait(run.id, SOON_S).state is RunState.SOLVED for run in asked)
    assert solver.most_at_once == 1
    assert [one.pools[0].capacity for one in solver.solved] == [8, 16, 24]


def test_a_what_if_brings_the_award_that_it_is_compared_with() -> None:
    solver = Solver()
    solver.let.set()
    runs = runs_with(solver)
    run = runs.wait(runs.ask(question(WhatIf(without=frozenset({"a1"}))), KIM).id, SOON_S)
    base = runs.base_of(run)
    assert base is not None and base.award is not None and run.award is not None
    assert (list(base.award.awarded), list(run.award.awarded)) == (["a1"], ["a2"])
    assert [one.id for one in runs.of(NATIONAL)] == [run.id, base.id]


def test_what_ran_out_of_time_is_told_and_tried_again() -> None:
    def slow(_: Scenario) -> Award:
        raise OutOfTime("not proven")

    solver = Solver(slow)
    solver.let.set()
    runs = runs_with(solver)
    for tries in (1, 2):
        run = runs.wait(runs.ask(question(), KIM).id, SOON_S)
        assert (run.state, type(run.error), run.award) == (RunState.FAILED, OutOfTime, None)
        assert len(solver.solved) == tries


def test_a_solver_that_crashes_fails_its_run_and_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    crashed: Queue[type[BaseException]] = Queue()
    monkeypatch.setattr(threading, "excepthook", lambda what: crashed.put(what.exc_type))

    def crash(known: Scenario) -> Award:
        if known.pools[0].capacity == 8:
            raise AssertionError("a bug")
        return award(known)

    solver = Solver(crash)
    runs = runs_with(solver)
    bad, good = runs.ask(of_capacity(8), KIM), runs.ask(of_capacity(16), KIM)
    solver.let.set()
    failed = runs.wait(bad.id, SOON_S)
    assert failed.state is RunState.FAILED and failed.error is not None
    assert runs.wait(good.id, SOON_S).state is RunState.SOLVED
    assert crashed.get(timeout=SOON_S) is AssertionError


def test_too_many_questions_at_once_are_refused() -> None:
    solver = Solver()
    runs = runs_with(solver)
    for gpus in range(MOST_WAITING + 1):  # one of them is under way
        runs.ask(of_capacity(gpus), KIM)
    with pytest.raises(Unavailable, match=f"{MOST_WAITING} runs wait"):
        runs.ask(of_capacity(100), KIM)
    solver.let.set()


def test_the_oldest_runs_are_forgotten_and_say_so() -> None:
    solver = Solver()
    solver.let.set()
    runs = runs_with(solver)
    asked = [runs.wait(runs.ask(of_capacity(gpus), KIM).id, SOON_S) for gpus in range(MOST_RUNS + 3)]
    assert len(runs.of(NATIONAL)) == MOST_RUNS
    with pytest.raises(NotFound, match="no such run"):
        runs.get(asked[0].id)
    assert runs.get(asked[-1].id).award is not None
    with pytest.raises(NotFound):
        runs.get(asked[-1].id, ProgrammeName("other"))


@pytest.mark.parametrize(
    "what_if",
    [
        WhatIf(without=frozenset({"a9"})),
        WhatIf(must=frozenset({"a9"})),
        WhatIf(must=frozenset({"a1"}), without=frozenset({"a1"})),
        WhatIf(capacities={"other": 8}),
    ],
    ids=["leaves out nobody", "must award nobody", "must award who is left out", "no such pool"],
)
def test_a_question_about_what_there_is_not_is_refused_before_it_is_solved(what_if: WhatIf) -> None:
    solver = Solver()
    with pytest.raises(InvalidInput):
        runs_with(solver).ask(question(what_if), KIM)
    assert solver.solved == []
