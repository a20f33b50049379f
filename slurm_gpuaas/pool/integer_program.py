"""Integer programs in whole numbers: HiGHS searches in floating point, Python's integers check what it found.

Every coefficient is a whole number, so at a whole point every row and the objective are exact in doubles while their
sums stay below 2**53, and two different values of the objective are at least 1 apart: far more than the solver's
tolerances as long as its sums stay below `LARGEST_SUM`. What it answers is rounded, held against every row, and its
objective counted again, here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # the two take a tenth of a second to import, and most commands need neither
    from highspy._core import _Highs

LARGEST_SUM: Final = 2**43
"""Largest sum of objective or row: a double holds 53 bits, 10 are left for what adding up loses."""
TOLERANCE: Final = 1e-9
"""Of the solver, instead of its 1e-6 and 1e-7."""

Terms = Sequence[tuple[int, int]]
"""(column, coefficient); a column stands once."""


class NotProven(Exception):
    """The time ran out. `best`: the largest value found, `bound`: no value is larger; None where nothing is known."""

    def __init__(self, best: int | None, bound: float | None) -> None:
        super().__init__(best, bound)
        self.best, self.bound = best, bound


class Infeasible(Exception):
    """No values keep every row."""


class WrongAnswer(Exception):
    """The solver's answer breaks a row or is worse than the start: its fault, and never passed on."""


@dataclass(frozen=True, slots=True)
class Row:
    """low <= sum of terms <= high; None is no limit."""

    terms: Terms
    low: int | None
    high: int | None


@dataclass(slots=True)
class IntegerProgram:
    """Columns are whole numbers from 0 to `most`; rows and bounds may be added between two calls of `maximise`.

    Attributes:
        deadline: on `clock`, in seconds; for all calls together.
    """

    deadline: float
    clock: Callable[[], float]
    most: list[int] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    def column(self, most: int) -> int:
        """A new column; its number."""
        self.most.append(most)
        return len(self.most) - 1

    def row(self, terms: Terms, *, low: int | None = None, high: int | None = None) -> int:
        """A new row; its number."""
        self.rows.append(Row(terms, low, high))
        return len(self.rows) - 1

    def maximise(self, objective: Terms, start: Sequence[int] | None = None) -> list[int]:
        """Values of all columns with the largest objective.

        Args:
            start: values that keep every row, where some are known.

        Raises:
            NotProven, Infeasible, WrongAnswer.
        """
        if not self.most:
            if self._broken([]):
                raise Infeasible
            return []
        from highspy import HighsModelStatus, HighsSolution, SolutionStatus

        solver = self._solver(objective, whole=True)
        if start is not None:
            known = HighsSolution()
            known.col_value = [float(value) for value in start]
            solver.setSolution(known)
        solver.run()
        status = solver.getModelStatus()
        if status == HighsModelStatus.kInfeasible:
            if start is not None:
                raise WrongAnswer("the solver finds nothing where something is known")
            raise Infeasible
        found = [round(value) for value in solver.getSolution().col_value]
        info = solver.getInfo()
        if status == HighsModelStatus.kTimeLimit:
            usable = (
                info.primal_solution_status == SolutionStatus.kSolutionStatusFeasible and self._broken(found) is None
            )
            raise NotProven(value_of(objective, found) if usable else None, info.mip_dual_bound)
        if status != HighsModelStatus.kOptimal:
            raise WrongAnswer(f"the solver ended with {solver.modelStatusToString(status)}")
        self._check(objective, found, start)
        return found

    def prices(self, objective: Terms) -> list[float]:
        """The shadow price of each row (how much one more of `high` would add) where columns may be fractions."""
        largest = max((abs(value) for _, value in objective), default=0) or 1
        solver = self._solver(objective, whole=False, scale=largest)
        solver.run()
        return [max(0.0, price) * largest for price in solver.getSolution().row_dual]

    def _check(self, objective: Terms, found: Sequence[int], start: Sequence[int] | None) -> None:
        broken = self._broken(found)
        if broken:
            raise WrongAnswer(broken)
        if start is not None and value_of(objective, found) < value_of(objective, start):
            raise WrongAnswer("the solver's answer is worse than what it was given")

    def _broken(self, found: Sequence[int]) -> str | None:
        for at, (value, most) in enumerate(zip(found, self.most, strict=True)):
            if not 0 <= value <= most:
                return f"column {at} is {value}, not from 0 to {most}"
        for at, row in enumerate(self.rows):
            value = value_of(row.terms, found)
            if (row.low is not None and value < row.low) or (row.high is not None and value > row.high):
                return f"row {at} is {value}, not from {row.low} to {row.high}"
        return None

    def _solver(self, objective: Terms, *, whole: bool, scale: int = 1) -> _Highs:
        import numpy as np
        from highspy import HighsLp, HighsVarType, MatrixFormat, ObjSense, kHighsInf
        from highspy._core import _Highs

        cost = np.zeros(len(self.most))
        for at, value in objective:
            cost[at] = value / scale
        model = HighsLp()
        model.num_col_, model.num_row_ = len(self.most), len(self.rows)
        model.sense_ = ObjSense.kMaximize
        model.col_cost_ = cost
        model.col_lower_, model.col_upper_ = np.zeros(len(self.most)), np.array(self.most, dtype=float)
        model.row_lower_ = np.array([-kHighsInf if row.low is None else row.low for row in self.rows], dtype=float)
        model.row_upper_ = np.array([kHighsInf if row.high is None else row.high for row in self.rows], dtype=float)
        model.a_matrix_.format_ = MatrixFormat.kRowwise
        model.a_matrix_.start_ = np.concatenate(([0], np.cumsum([len(row.terms) for row in self.rows], dtype=int)))
        model.a_matrix_.index_ = np.array([at for row in self.rows for at, _ in row.terms], dtype=int)
        model.a_matrix_.value_ = np.array([value for row in self.rows for _, value in row.terms], dtype=float)
        if whole:
            model.integrality_ = [HighsVarType.kInteger] * len(self.most)
        solver = _Highs()  # `Highs` greets on standard output when it is made
        for option, setting in (
            ("output_flag", False),
            ("threads", 1),
            ("random_seed", 0),
            ("mip_rel_gap", 0.0),
            ("mip_abs_gap", 0.0),
            ("mip_feasibility_tolerance", TOLERANCE),
            ("primal_feasibility_tolerance", TOLERANCE),
            ("dual_feasibility_tolerance", TOLERANCE),
            ("time_limit", max(0.0, self.deadline - self.clock())),
        ):
            solver.setOptionValue(option, setting)
        solver.passModel(model)
        return solver


def value_of(terms: Terms, values: Sequence[int]) -> int:
    return sum(coefficient * values[at] for at, coefficient in terms)
