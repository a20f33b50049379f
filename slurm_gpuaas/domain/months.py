"""Korean calendar months: what statements and the ledger count by."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Self

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.policy import KST
from slurm_gpuaas.domain.usage import Window


@dataclass(frozen=True, slots=True, order=True)
class Month:
    """`number` from 1. Prints and sorts as `2026-11`."""

    year: int
    number: int

    def __post_init__(self) -> None:
        if not (2000 <= self.year <= 9998 and 1 <= self.number <= 12):
            raise InvalidInput(
                f"{self.year}-{self.number} is no month from 2000-01 to 9998-12.", way_out="Write e.g. 2026-11."
            )

    @classmethod
    def of(cls, moment: datetime) -> Self:
        """The month that it is in Korea at the moment."""
        there = moment.astimezone(KST)
        return cls(there.year, there.month)

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        Raises:
            InvalidInput: not `YYYY-MM`.
        """
        if not re.fullmatch(r"[0-9]{4}-[0-9]{2}", text):
            raise InvalidInput(f"{text!r:.20} is no month.", way_out="Write e.g. 2026-11.")
        return cls(int(text[:4]), int(text[5:]))

    @property
    def first(self) -> date:
        return date(self.year, self.number, 1)

    @property
    def following(self) -> Month:
        return Month(self.year + self.number // 12, self.number % 12 + 1)

    def back(self, months: int) -> Month:
        """So many months earlier, not before the first that there is."""
        number = max((self.year - 2000) * 12 + self.number - 1 - months, 0)
        return Month(2000 + number // 12, number % 12 + 1)

    @property
    def window(self) -> Window:
        """From Korean midnight to Korean midnight."""
        return Window(_midnight(self.first), _midnight(self.following.first))

    def __str__(self) -> str:
        return f"{self.year:04}-{self.number:02}"


def _midnight(of: date) -> datetime:
    return datetime.combine(of, time(), KST)
