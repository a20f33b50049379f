"""When a month closes by itself, and what it waits for: a table."""

from __future__ import annotations

from datetime import datetime

import pytest

from slurm_gpuaas.domain.months import Month
from slurm_gpuaas.domain.names import ClusterName
from slurm_gpuaas.metering.closing import ClosingState, Untold, closing
from tests.unit.metering.books import kst, terms

CLUSTER, MONTH = terms().cluster, Month(2026, 11)
ENDS, DUE = kst(2026, 12, 1), kst(2026, 12, 2, 9)


@pytest.mark.parametrize(
    ("told", "now", "state"),
    [
        (ENDS, kst(2026, 12, 2, 8, 59), ClosingState.NOT_DUE),
        (ENDS, DUE, ClosingState.READY),
        (kst(2026, 11, 30, 23, 59, 59), DUE, ClosingState.WAITS),
        (None, DUE, ClosingState.WAITS),
        (None, kst(2026, 12, 5, 8, 59), ClosingState.WAITS),
        (None, kst(2026, 12, 5, 9), ClosingState.LATE),
        (kst(2026, 11, 20), kst(2027, 3, 1), ClosingState.LATE),
        (DUE, kst(2027, 3, 1), ClosingState.READY),
    ],
)
def test_a_month_closes_a_day_after_its_end_when_its_use_is_told(
    told: datetime | None, now: datetime, state: ClosingState
) -> None:
    found = closing(MONTH, [terms()], {} if told is None else {CLUSTER: told})
    assert found.state(now) is state
    waits = state in (ClosingState.WAITS, ClosingState.LATE)
    assert found.waits_for == ((Untold(CLUSTER, told),) if waits else ())


@pytest.mark.parametrize(
    ("starts", "ends", "waited_for"),
    [
        ("2026-10-01", "2026-10-31", False),
        ("2026-10-01", "2026-11-01", True),
        ("2026-11-30", "2026-12-31", True),
        ("2026-12-01", "2026-12-31", False),
    ],
)
def test_only_sites_with_a_grant_in_the_month_are_waited_for(starts: str, ends: str, waited_for: bool) -> None:
    found = closing(MONTH, [terms(starts=starts, ends=ends)], {ClusterName("other"): DUE})
    assert bool(found.waits_for) is waited_for


def test_in_december_the_next_month_is_of_the_next_year() -> None:
    assert closing(Month(2026, 12), [], {}).due == kst(2027, 1, 2, 9)
