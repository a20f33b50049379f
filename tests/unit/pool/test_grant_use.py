"""Which limit of a grant bites next, and what is said of its use."""

from __future__ import annotations

from datetime import date, timedelta
from fractions import Fraction

import pytest

from slurm_gpuaas.domain.budgets import Amount, Budget
from slurm_gpuaas.domain.calendar import Commitment, start_of
from slurm_gpuaas.domain.jobs import ServiceClass
from slurm_gpuaas.domain.ledger import Ending, UseKey
from slurm_gpuaas.domain.months import Month
from slurm_gpuaas.domain.names import (
    AccountName,
    ApplicationId,
    ClusterName,
    GpuModel,
    OfferId,
    OrganisationName,
    PoolGrantId,
    ProgrammeName,
    ProjectName,
)
from slurm_gpuaas.domain.pool_grants import PoolGrant, PoolGrantState
from slurm_gpuaas.domain.usage import Window
from slurm_gpuaas.pool.grant_use import Bite, GrantUse, Limit, grant_use, next_limit, notes
from tests.unit.pool.scene import NAVER

FIRST, LAST = date(2027, 2, 1), date(2027, 4, 30)
NOW = start_of(date(2027, 3, 1))
END = start_of(date(2027, 5, 1))
GRANT = PoolGrant(
    id=PoolGrantId("g2027-00001"),
    offer=OfferId("o2027-00001"),
    application=ApplicationId("a2027-00001"),
    organisation=OrganisationName("snu"),
    programme=ProgrammeName("national"),
    project=ProjectName("snu-2027-00001"),
    title="A model",
    share=NAVER,
    gpus=16,
    starts=FIRST,
    ends=LAST,
    price_percent=0,
    grace_days=14,
    state=PoolGrantState.ACTIVE,
)


def amount(used: int, awarded: int = 100) -> Amount:
    return Amount(
        awarded=Fraction(awarded), carried=Fraction(0), grace=Fraction(0), used=Fraction(used), committed=Fraction(0)
    )


def budget(won: Amount | None = None, gpu_seconds: Amount | None = None) -> Budget:
    return Budget(
        project=GRANT.project,
        since=start_of(FIRST),
        period=Window(start_of(FIRST), END),
        gpu_seconds=gpu_seconds,
        won=won,
        used_seconds=0,
        used_won=Fraction(0),
        committed_seconds=0,
        held_seconds=0,
        before_seconds=0,
        written_since=None,
    )


IN_TEN_DAYS = NOW + timedelta(days=10)


@pytest.mark.parametrize(
    ("grant", "in_use", "held", "dry_at", "bite"),
    [
        pytest.param({}, 0, None, None, Bite(Limit.END, END), id="nothing-but-the-end"),
        pytest.param({}, 15, None, None, Bite(Limit.END, END), id="a-gpu-is-free"),
        pytest.param({}, 16, None, None, Bite(Limit.GPUS), id="all-gpus"),
        pytest.param({}, 24, None, None, Bite(Limit.GPUS), id="shrunk-under-its-jobs"),
        pytest.param({}, 0, budget(amount(50)), IN_TEN_DAYS, Bite(Limit.WON, IN_TEN_DAYS), id="won-run-dry"),
        pytest.param({}, 0, budget(amount(50)), END, Bite(Limit.END, END), id="won-last-to-the-end"),
        pytest.param({}, 16, budget(amount(50)), IN_TEN_DAYS, Bite(Limit.GPUS), id="gpus-now-before-won-later"),
        pytest.param({}, 16, budget(amount(100)), NOW, Bite(Limit.WON), id="won-now-before-gpus-now"),
        pytest.param(
            {}, 0, budget(amount(10), amount(90)), IN_TEN_DAYS, Bite(Limit.GPU_HOURS, IN_TEN_DAYS), id="the-fuller-side"
        ),
        pytest.param(
            {"state": PoolGrantState.SCHEDULED}, 0, None, None, Bite(Limit.START, start_of(FIRST)), id="not-begun"
        ),
        pytest.param({"state": PoolGrantState.ENDING}, 16, None, None, Bite(Limit.OVER), id="over"),
    ],
)
def test_the_next_limit(grant: dict[str, object], in_use: int, held: Budget | None, dry_at: object, bite: Bite) -> None:
    assert next_limit(GRANT.model_copy(update=grant), in_use, held, dry_at, NOW) == bite  # type: ignore[arg-type]


def use(month: int, seconds: int, service: ServiceClass, ending: Ending = Ending.USED) -> dict[UseKey, int]:
    key = UseKey(
        cluster=ClusterName("naver"),
        account=AccountName(GRANT.project),
        month=Month(2027, month),
        day=date(2027, month, 1),
        model=GpuModel("h200"),
        service=service,
        ending=ending,
    )
    return {key: seconds}


def test_use_is_summed_by_class_ending_and_month() -> None:
    rows = [Commitment(holder=GRANT.id, share=NAVER, gpus=16, starts=FIRST, ends=date(2027, 2, 10))]
    rows += [Commitment(holder=GRANT.id, share=NAVER, gpus=8, starts=date(2027, 2, 11), ends=LAST)]
    found = grant_use(
        use(2, 700, ServiceClass.GUARANTEED)
        | use(3, 50, ServiceClass.GUARANTEED)
        | use(2, 20, ServiceClass.BURST, Ending.PREEMPTED)
        | use(3, 4, ServiceClass.GUARANTEED, Ending.FAULT),
        rows,
        Month(2027, 3),
        NOW,
    )
    days = 10 * 16 + 18 * 8
    assert found == GrantUse(awarded=days * 86_400, guaranteed=754, burst=20, fault=4, preempted=20, this_month=54)
    assert found.total == 774


def test_a_grant_that_has_not_begun_could_use_nothing() -> None:
    rows = [Commitment(holder=GRANT.id, share=NAVER, gpus=16, starts=LAST, ends=LAST)]
    found = grant_use({}, rows, Month(2027, 3), NOW)
    assert (found.awarded, found.percent) == (0, None)


DAY = 16 * 86_400


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (GrantUse(awarded=DAY - 1), []),
        (GrantUse(awarded=DAY * 10), ["taken back for others"]),
        (GrantUse(awarded=100 * DAY, guaranteed=29 * DAY), ["Jobs held 29 %"]),
        (GrantUse(awarded=100 * DAY, guaranteed=30 * DAY), ["Jobs held 30 %"]),
        (GrantUse(awarded=100 * DAY, guaranteed=80 * DAY), ["well used"]),
        (GrantUse(preempted=5_400, fault=3_600), ["1.5 GPU-hours", "1.0 GPU-hours"]),
    ],
)
def test_notes_say_what_to_do(found: GrantUse, said: list[str]) -> None:
    told = [str(note) for note in notes(GRANT, found)]
    assert len(told) == len(said)
    assert all(part in note for part, note in zip(said, told, strict=True)), told


def test_little_use_is_warned_of_below_thirty_percent_only() -> None:
    warned = [
        any("taken back" in note for note in notes(GRANT, GrantUse(awarded=100 * DAY, guaranteed=percent * DAY)))
        for percent in (0, 29, 30, 100)
    ]
    assert warned == [True, True, False, False]
