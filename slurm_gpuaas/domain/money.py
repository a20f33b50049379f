"""Won, exactly. Pure.

Prices and sums are fractions of a Won and never rounded on the way; what is shown or compared with a whole number of
Won is rounded down once, at the end. So a run that is cut at midnight costs what it costs whole, and a sum does not
depend on the order or the grouping of its parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from math import floor
from typing import NewType

from slurm_gpuaas.domain.jobs import ServiceClass

Won = NewType("Won", int)
"""Whole Korean won; there is no smaller coin."""

SECONDS_OF_AN_HOUR = 3600


@dataclass(frozen=True, slots=True)
class Price:
    """Won per GPU-second of one GPU model for one project; burst never costs more."""

    guaranteed: Fraction
    burst: Fraction

    @classmethod
    @lru_cache(maxsize=1_000)  # a handful of prices, asked for with every sum of every project
    def of(cls, won_per_gpu_hour: int, *, burst_discount: Decimal, price_percent: Decimal) -> Price:
        """Market price of a GPU-hour, percent off for burst, and percent of the market price that the project pays."""
        guaranteed = Fraction(won_per_gpu_hour, SECONDS_OF_AN_HOUR) * Fraction(price_percent) / 100
        return cls(guaranteed, guaranteed * (100 - Fraction(burst_discount)) / 100)

    def of_class(self, service: ServiceClass) -> Fraction:
        return self.burst if service is ServiceClass.BURST else self.guaranteed


def whole_won(exact: Fraction) -> Won:
    """Rounded down: what is less than a Won is not charged."""
    return Won(floor(exact))
