"""What GPUs cost at most, before anybody used them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Final

from slurm_gpuaas.domain.money import SECONDS_OF_AN_HOUR, Won, whole_won
from slurm_gpuaas.domain.names import ProgrammeName
from slurm_gpuaas.domain.programmes import PoolShare
from slurm_gpuaas.metering.ledger import Tariff

DAY_SECONDS: Final = 86_400
"""Korea has no summer time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of GPUs that are awarded, without VAT, as far as rates are known.

    Attributes:
        most: all of them in use on every hour of every day, and no more than the budget allows; None where a day has no
            rate and no budget stands in the way.
        burst_hour: Won for an hour of a borrowed GPU at the first day's rate; None where that is not known.
        capped: `most` is the budget, which ends before the days do.
    """

    most: Won | None
    burst_hour: Won | None
    capped: bool


def cost(
    tariff: Tariff,
    share: PoolShare,
    programme: ProgrammeName,
    *,
    percent: Decimal,
    gpus: int,
    starts: date,
    ends: date,
    budget: int | None,
) -> Cost:
    """Args:
    percent: of the rate that is paid.
    starts, ends: first and last day, both included.
    """
    begin = sorted({starts, *(rate.starts for rate in tariff.rates if starts < rate.starts <= ends)})
    rates = [tariff.rate_for(share.share, programme, share.model, day) for day in begin]
    first = rates[0].price(percent).burst * SECONDS_OF_AN_HOUR if rates[0] else None
    total: Fraction | None = Fraction(0)
    for rate, (day, following) in zip(rates, pairwise([*begin, ends + timedelta(days=1)]), strict=True):
        if not percent:
            continue
        seconds = gpus * DAY_SECONDS * (following - day).days
        total = None if rate is None or total is None else total + seconds * rate.price(percent).guaranteed
    most = None if total is None else whole_won(total)
    capped = budget is not None and (most is None or budget < most)
    return Cost(
        most=Won(budget) if capped and budget is not None else most,
        burst_hour=Won(0) if not percent else None if first is None else whole_won(first),
        capped=capped,
    )
