"""The ladder at work on a store: reported use in; notices, recalls and offers out, each once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest

from slurm_gpuaas.domain.errors import Conflict, Refused
from slurm_gpuaas.domain.idle import AppealState
from slurm_gpuaas.domain.names import ClusterName
from slurm_gpuaas.domain.pool_grants import OfferState, PoolGrant, PoolGrantState
from slurm_gpuaas.pool.idle_rules import IdleRules, Mode, Rung
from tests.unit.pool.ladder import Ladder, grant_day
from tests.unit.pool.scene import CHOI, DIRECTOR, KIM, LEE, NAVER, OFFICER, Pool

UP = [Rung.NOTICE, Rung.WARNING, Rung.FINAL_WARNING, Rung.RECALL]
MONDAY = date(2027, 2, 15)
"""No public holiday follows for two weeks."""


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    pool = Pool.new(tmp_path / "pool.db")
    yield pool
    pool.store.close()


@pytest.fixture
def ladder(pool: Pool) -> Ladder:
    return Ladder(pool)


@pytest.fixture
def grant(ladder: Ladder) -> PoolGrant:
    """16 GPUs, begun three weeks ago, on a Monday; no use was ever reported."""
    ladder.rules()
    grant = ladder.pool.granted()
    ladder.pool.until(MONDAY)
    ladder.pool.service.tick()
    return ladder.grant(grant.id)


def test_a_grant_that_nobody_uses_is_warned_three_times_and_recalled_and_who_waits_is_offered_it(
    ladder: Ladder,
) -> None:
    pool = ladder.pool
    ladder.rules()
    first, waits = pool.reviewed(gpus=32), pool.reviewed("kaist", gpus=32, points=50)
    pool.closed()
    award = pool.drafted((first, NAVER, 32), waiting=[waits])
    pool.service.approve_award(pool.id, DIRECTOR, award.id)
    (offer,) = pool.register.offers.all()
    grant = pool.accepted(offer)
    pool.service.put_share(pool.id, DIRECTOR, pool.register.shares.get(nhn()).model_copy(update={"capacity": 0}))
    pool.until(MONDAY)
    pool.service.tick()
    ladder.mornings(grant.id, 0.0, days=7)
    assert ladder.steps(grant.id) == UP
    assert ladder.mails() == ["idle.notice"] * 2 + ["idle.warning"] * 2 + ["idle.final-warning"] * 2
    assert ladder.grant(grant.id).state is PoolGrantState.ENDING
    pool.service.tick()
    (offered,) = pool.register.offers.all(state=OfferState.MADE)
    assert (offered.application, offered.gpus) == (waits.id, 32)
    assert [one for one in pool.audit.actions if one.startswith("idle.")] == ["idle.put-rules"] + [
        f"idle.{rung}" for rung in UP
    ]
    assert pool.faults() == []


def nhn() -> str:
    return "nhn.b200.government"


def test_one_that_needs_a_part_is_shrunk_to_it(ladder: Ladder, grant: PoolGrant) -> None:
    ladder.report(*(grant_day(grant, MONDAY - timedelta(days=back), 0.1, 0.1, peak=5) for back in (1, 2, 3)))
    for _ in range(5):
        ladder.report(grant_day(grant, ladder.pool.today, 0.1, 0.1, peak=5))
        ladder.mornings(grant.id, None)
    after = ladder.grant(grant.id)
    assert (after.state, after.gpus) == (PoolGrantState.ACTIVE, 8)
    assert ladder.steps(grant.id)[-1] == Rung.RECALL
    assert ladder.pool.told("grant.shrunk")
    assert "It needed 5 GPUs and keeps 8 of 16." in after.history[-1].reason


def test_jobs_that_hold_gpus_and_compute_nothing_are_idle_and_those_that_compute_are_not(
    ladder: Ladder, grant: PoolGrant
) -> None:
    ladder.mornings(grant.id, 1.0, 0.0, days=3)
    assert ladder.steps(grant.id) == [Rung.NOTICE, Rung.WARNING]
    ladder.mornings(grant.id, 1.0, 0.8, days=1)
    assert ladder.steps(grant.id)[-1] == Rung.REGULAR
    assert ladder.mails()[-1] == "idle.regular"


def test_what_the_site_did_not_say_is_never_idle(ladder: Ladder, grant: PoolGrant) -> None:
    ladder.mornings(grant.id, None, days=4)
    assert ladder.steps(grant.id) == []
    ladder.mornings(grant.id, 0.0, days=2)
    assert ladder.steps(grant.id) == []  # of Friday and Saturday, told on Saturday and Sunday: no working day
    ladder.mornings(grant.id, None, days=8)
    assert ladder.steps(grant.id) == [Rung.NOTICE], "stale after three days, however many pass"


def test_a_morning_is_done_once_however_often_it_is_looked_at(ladder: Ladder, grant: PoolGrant) -> None:
    ladder.mornings(grant.id, 0.0, days=2)
    mails, trail = ladder.mails(), ladder.pool.audit.actions
    assert [ladder.service.morning() for _ in range(3)] == [0, 0, 0]
    assert (ladder.mails(), ladder.pool.audit.actions) == (mails, trail)


def test_no_step_before_the_morning(ladder: Ladder, grant: PoolGrant) -> None:
    ladder.report(*(grant_day(grant, MONDAY - timedelta(days=back), 0.0) for back in (1, 2, 3)))
    ladder.pool.clock.at -= timedelta(minutes=1)
    assert ladder.service.morning() == 0
    ladder.pool.clock.forward(timedelta(minutes=1))
    assert ladder.service.morning() == 1


def test_a_correction_that_comes_late_counts_from_the_next_morning_on(ladder: Ladder, grant: PoolGrant) -> None:
    ladder.mornings(grant.id, 0.0, days=2)
    assert ladder.steps(grant.id) == [Rung.NOTICE]
    days = [ladder.pool.today - timedelta(days=back) for back in (1, 2)]
    ladder.report(*(grant_day(grant, day, 0.9, number=2) for day in days))
    ladder.report(*(grant_day(grant, day, 0.0, number=1) for day in days))  # what was sent before comes again
    ladder.mornings(grant.id, 0.9)
    assert ladder.steps(grant.id) == [Rung.NOTICE, Rung.REGULAR]


def test_a_site_speaks_of_its_own_grants_alone(ladder: Ladder, grant: PoolGrant) -> None:
    other = ladder.pool.register.days
    day = grant_day(grant, MONDAY, 0.5)
    assert other.take(ClusterName("nhn"), [day], at=ladder.pool.clock.now()) == 0
    assert other.of([grant.id], since=MONDAY) == {}
    assert ladder.report(day) == 1


def test_in_shadow_everything_is_recorded_and_nobody_is_told(ladder: Ladder, grant: PoolGrant) -> None:
    ladder.rules(mode=Mode.SHADOW)
    ladder.mornings(grant.id, 0.0, days=7)
    assert ladder.steps(grant.id) == UP
    assert ladder.mails() == []
    assert ladder.grant(grant.id).gpus == 16 and ladder.grant(grant.id).holds
    ladder.rules()
    with pytest.raises(Conflict, match="Nothing was announced"):
        ladder.service.appeal(ladder.pool.id, LEE, grant.id, "We need it.")
    ladder.mornings(grant.id, 0.0)
    assert ladder.steps(grant.id)[4:] == [Rung.NOTICE], "warnings that nobody got lead to nothing"


def test_an_exemption_stops_the_ladder_for_its_days(ladder: Ladder, grant: PoolGrant) -> None:
    ladder.service.exempt(ladder.pool.id, DIRECTOR, grant.id, MONDAY + timedelta(days=10), "Data come in March.")
    ladder.mornings(grant.id, 0.0, days=5)
    assert ladder.steps(grant.id) == []
    over = ladder.service.exempt(
        ladder.pool.id, DIRECTOR, grant.id, ladder.pool.today - timedelta(days=1), "They came sooner."
    )
    assert over.starts == MONDAY
    ladder.mornings(grant.id, 0.0, days=1)
    assert ladder.steps(grant.id) == [], "the exempt days stay excused"
    ladder.mornings(grant.id, 0.0, days=1)
    assert ladder.steps(grant.id) == [Rung.NOTICE]
    with pytest.raises(Refused, match="ends between"):
        ladder.service.exempt(ladder.pool.id, DIRECTOR, grant.id, date(2030, 1, 1), "For ever.")


class TestAppeals:
    def test_nothing_is_taken_until_somebody_else_has_decided(self, ladder: Ladder, grant: PoolGrant) -> None:
        pool = ladder.pool
        ladder.mornings(grant.id, 0.0, days=2)
        appeal = ladder.service.appeal(pool.id, LEE, grant.id, "The data set arrives on Friday.")
        ladder.mornings(grant.id, 0.0, days=14)
        assert ladder.steps(grant.id) == [Rung.NOTICE]
        with pytest.raises(Refused, match="cannot decide"):
            ladder.service.decide_appeal(pool.id, LEE, appeal.id, True, "Yes.")
        with pytest.raises(Refused, match="belongs to snu"):
            ladder.service.decide_appeal(pool.id, KIM, appeal.id, True, "Yes.")
        decided = ladder.service.decide_appeal(pool.id, DIRECTOR, appeal.id, False, "It did not come.")
        assert (decided.state, decided.decided_by) == (AppealState.DENIED, DIRECTOR.person)
        with pytest.raises(Conflict):
            ladder.service.decide_appeal(pool.id, OFFICER, appeal.id, True, "After all.")
        ladder.mornings(grant.id, 0.0, days=6)
        assert ladder.steps(grant.id) == UP
        assert "idle.appeal-denied" in ladder.mails()

    def test_an_allowed_one_begins_anew_and_cools_down(self, ladder: Ladder, grant: PoolGrant) -> None:
        ladder.mornings(grant.id, 0.0, days=3)
        appeal = ladder.service.appeal(ladder.pool.id, LEE, grant.id, "Evaluation is in March.")
        ladder.service.decide_appeal(ladder.pool.id, DIRECTOR, appeal.id, True, "Known.")
        ladder.mornings(grant.id, 0.0, days=2)
        assert ladder.steps(grant.id) == [Rung.NOTICE, Rung.WARNING, Rung.REGULAR]

    def test_one_a_run_and_by_its_people_alone(self, ladder: Ladder, grant: PoolGrant) -> None:
        service, pool = ladder.service, ladder.pool
        with pytest.raises(Conflict, match="Nothing was announced"):
            service.appeal(pool.id, LEE, grant.id, "We need it.")
        ladder.mornings(grant.id, 0.0, days=2)
        with pytest.raises(Refused, match="no member"):
            service.appeal(pool.id, CHOI, grant.id, "They need it.")
        appeal = service.appeal(pool.id, LEE, grant.id, "We need it.")
        service.decide_appeal(pool.id, DIRECTOR, appeal.id, False, "No.")
        with pytest.raises(Conflict, match="filed already"):
            service.appeal(pool.id, LEE, grant.id, "But we need it.")


def test_rules_are_tried_without_a_trace(ladder: Ladder, grant: PoolGrant) -> None:
    ladder.rules(mode=Mode.SHADOW, window_days=4)
    for back in range(1, 5):
        ladder.report(grant_day(grant, MONDAY - timedelta(days=back), 0.0))
    before = ladder.pool.audit.actions
    trial = ladder.service.try_rules(IdleRules.model_validate({"mode": "act", "ramp_up_days": 0}))
    assert trial.today == ()
    trial = ladder.service.try_rules(ladder.service.rules())
    assert [(str(one.grant), one.to) for one in trial.today] == [(str(grant.id), Rung.NOTICE)]
    assert trial.replay.grants == 1
    assert ladder.pool.audit.actions == before
    assert ladder.steps(grant.id) == []


def test_each_version_of_the_rules_stays_and_the_newest_is_in_force(ladder: Ladder) -> None:
    assert ladder.service.rules().mode is Mode.SHADOW, "before somebody decides, it is only watched"
    ladder.rules(window_days=3)
    ladder.rules(window_days=4)
    assert (ladder.service.rules().window_days, ladder.service.rules().version) == (4, "2")
    assert [one.number for one in ladder.pool.register.idle_rules.all(limit=9)] == [2, 1]
