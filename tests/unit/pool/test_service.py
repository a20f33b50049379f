"""Who may do what when, on the way from an application to the end of its grant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest

from slurm_gpuaas.domain.applications import ApplicationState
from slurm_gpuaas.domain.errors import Conflict, GpuaasError, NotFound, Refused
from slurm_gpuaas.domain.names import ClusterName, CommandId, PoolShareName, ProgrammeName, UserName
from slurm_gpuaas.domain.pool_grants import HoldKind, NotAwarded, PoolGrantState
from slurm_gpuaas.domain.programmes import Caps, Membership, OrganisationKind
from slurm_gpuaas.domain.stages import MOST_EVENTS
from slurm_gpuaas.domain.told import Told
from slurm_gpuaas.pool.award import award
from slurm_gpuaas.pool.work import Program
from tests.unit.pool.scene import (
    CHOI,
    DIRECTOR,
    KIM,
    LEE,
    NAVER,
    NHN,
    OFFICER,
    PARK,
    REVIEWER,
    SECOND,
    Pool,
    programme,
    request,
    share,
)

NATIONAL = ProgrammeName("national")
POINTS = {"impact": 80, "plan": 80}


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    pool = Pool.new(tmp_path / "pool.db")
    yield pool
    pool.store.close()


def test_the_whole_way(pool: Pool) -> None:
    application = pool.submitted()
    assert application.id == "a2027-00001"
    pool.service.begin_review(pool.id, OFFICER, application.id)
    pool.service.review(pool.id, REVIEWER, application.id, {"impact": 90, "plan": 60}, "good")
    assert pool.service.score_of(application.id) == 80
    pool.closed()
    offer = pool.offered(application)
    grant = pool.accepted(offer)
    assert (grant.state, grant.project, grant.price_percent) == ("scheduled", "snu-2027-00001", Decimal(0))
    pool.until(grant.starts)
    assert pool.service.tick() == 1
    assert pool.register.grants.get(grant.id).state is PoolGrantState.ACTIVE
    pool.until(grant.ends + timedelta(days=1))
    assert pool.service.tick() == 1
    pool.until(grant.ends + timedelta(days=15))
    assert pool.service.tick() == 1
    ended = pool.register.grants.get(grant.id)
    assert ended.state is PoolGrantState.ENDED
    assert [one.step for one in ended.history] == ["activate", "run out", "close"]
    assert pool.told("grant.report-missing") == [
        ("p-kimsnu", "grant.report-missing"),
        ("p-leesnu", "grant.report-missing"),
    ]
    assert pool.faults() == []


# -- Who may


def test_nobody_applies_for_an_organisation_that_is_not_theirs(pool: Pool) -> None:
    with pytest.raises(Refused, match="p-parkkaist is no member of snu"):
        pool.service.submit(pool.id, PARK, request("snu"))


def test_who_drafted_an_award_never_approves_it_whatever_their_role(pool: Pool) -> None:
    application = pool.reviewed()
    pool.closed()
    award = pool.drafted((application, NAVER, 16))
    for role in (OFFICER.role, DIRECTOR.role, LEE.role):
        with pytest.raises(Refused, match="p-officer1 asked for this and cannot decide it"):
            pool.service.approve_award(pool.id, replace(OFFICER, role=role), award.id)
    pool.service.approve_award(pool.id, DIRECTOR, award.id)


def test_who_asked_for_a_change_never_decides_it(pool: Pool) -> None:
    change = pool.service.ask_change(pool.id, KIM, pool.granted().id, 24, date(2027, 4, 30), "More.")
    with pytest.raises(Refused, match="p-kimsnu asked for this"):
        pool.service.approve_change(pool.id, KIM, change.id)
    with pytest.raises(Refused, match="p-kimsnu asked for this"):
        pool.service.refuse_change(pool.id, KIM, change.id, "No.")
    with pytest.raises(Refused, match="p-leesnu belongs to snu and cannot judge"):
        pool.service.approve_change(pool.id, LEE, change.id)
    assert pool.service.approve_change(pool.id, DIRECTOR, change.id).gpus == 24


def test_a_program_decides_nothing_that_a_person_answers_for(pool: Pool) -> None:
    application = pool.reviewed()
    pool.closed()
    award = pool.drafted((application, NAVER, 16))
    with pytest.raises(Refused, match="gpuaas-portal/idle cannot do what a person answers for"):
        pool.service.approve_award(pool.id, Program("gpuaas-portal/idle"), award.id)


def test_a_program_may_recall(pool: Pool) -> None:
    grant = pool.granted()
    recalled = pool.service.recall_grant(pool.id, Program("gpuaas-portal/idle"), grant.id, "Idle for 21 days.")
    assert recalled.history[-1].by == "gpuaas-portal/idle"


# -- Reviews


def test_the_score_is_the_exact_mean_of_weighted_means(pool: Pool) -> None:
    application = pool.submitted()
    pool.service.begin_review(pool.id, OFFICER, application.id)
    pool.service.review(pool.id, REVIEWER, application.id, {"impact": 90, "plan": 60}, "")
    pool.service.review(pool.id, SECOND, application.id, {"impact": 71, "plan": 70}, "")
    assert pool.service.score_of(application.id) == (Fraction(2 * 90 + 60, 3) + Fraction(2 * 71 + 70, 3)) / 2
    pool.service.review(pool.id, SECOND, application.id, {"impact": 0, "plan": 0}, "I looked again.")
    assert pool.service.score_of(application.id) == 40


def test_a_colleague_of_the_applicant_cannot_review(pool: Pool) -> None:
    application = pool.submitted()
    pool.service.begin_review(pool.id, OFFICER, application.id)
    for actor in (KIM, LEE):
        with pytest.raises(Refused, match="belongs to snu and cannot judge its application a2027-00001"):
            pool.service.review(pool.id, actor, application.id, POINTS, "")


def test_a_declared_conflict_does_not_count_and_stays_declared(pool: Pool) -> None:
    application = pool.reviewed(points=100)
    pool.service.review(pool.id, SECOND, application.id, {"impact": 40, "plan": 40}, "")
    assert pool.service.score_of(application.id) == 70
    pool.service.declare_conflict(pool.id, REVIEWER, application.id, "We wrote a paper together.")
    assert pool.service.score_of(application.id) == 40
    with pytest.raises(Refused, match="has declared a conflict of interest"):
        pool.service.review(pool.id, REVIEWER, application.id, POINTS, "")


def test_a_reviewer_who_becomes_a_colleague_no_longer_counts(pool: Pool) -> None:
    application = pool.reviewed()
    membership = Membership(person=REVIEWER.person, organisation=application.organisation)
    pool.service.put_membership(pool.id, DIRECTOR, membership)
    assert pool.service.score_of(application.id) is None
    pool.closed()
    with pytest.raises(Refused, match="has 0 reviews"):
        pool.drafted((application, NAVER, 16))


@pytest.mark.parametrize(
    "points", [{"impact": 80}, {"impact": 80, "plan": 80, "style": 80}, {"impact": 101, "plan": 0}]
)
def test_points_are_for_the_programmes_criteria(pool: Pool, points: dict[str, int]) -> None:
    application = pool.submitted()
    pool.service.begin_review(pool.id, OFFICER, application.id)
    with pytest.raises(ValueError):
        pool.service.review(pool.id, REVIEWER, application.id, points, "")


def test_criteria_stay_once_somebody_was_judged_by_them(pool: Pool) -> None:
    pool.reviewed()
    rules = programme()
    pool.service.put_programme(pool.id, DIRECTOR, rules.model_copy(update={"warn_days": (5,)}))
    with pytest.raises(Conflict, match="criteria cannot change"):
        pool.service.put_programme(pool.id, DIRECTOR, rules.model_copy(update={"criteria": rules.criteria[:1]}))


# -- Awards


def test_nothing_is_decided_while_the_call_is_open(pool: Pool) -> None:
    application = pool.reviewed()
    with pytest.raises(Refused, match="closes 2027-01-11"):
        pool.drafted((application, NAVER, 16))


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"reviews_needed": 2}, "has 1 reviews and 80.00 points; it needs 2 and 0"),
        ({"least_score": 81}, "has 1 reviews and 80.00 points; it needs 1 and 81"),
        ({"shares": (NHN,)}, "Share naver.h200.government of h200 does not suit a2027-00001"),
        ({"models": ("b200",)}, "Share naver.h200.government of h200 does not suit a2027-00001"),
    ],
)
def test_an_award_follows_the_programmes_rules(tmp_path: Path, rules: dict[str, object], said: str) -> None:
    pool = Pool.new(tmp_path / "pool.db", programme(**rules))
    application = pool.reviewed()
    pool.closed()
    with pytest.raises(Refused, match=said):
        pool.drafted((application, NAVER, 16))
    pool.store.close()


@pytest.mark.parametrize(("gpus", "taken"), [(16, True), (8, True), (12, False), (24, False), (4, False)])
def test_an_award_is_the_whole_count_or_whole_servers(pool: Pool, gpus: int, taken: bool) -> None:
    application = pool.reviewed(gpus=16, min_gpus=8)
    pool.closed()
    if taken:
        pool.drafted((application, NAVER, gpus))
    else:
        with pytest.raises(Refused, match=f"{gpus} GPUs are no award: it is all 16"):
            pool.drafted((application, NAVER, gpus))


def test_a_round_that_does_not_fit_makes_no_offer_at_all(pool: Pool) -> None:
    one, two = pool.reviewed(gpus=16), pool.reviewed("kaist", gpus=32)
    pool.closed()
    award = pool.drafted((one, NAVER, 16), (two, NAVER, 32))
    with pytest.raises(
        Conflict, match=r"Share naver.h200.government has 16 GPUs left from 2027-02-01 to 2027-04-30; 32"
    ):
        pool.service.approve_award(pool.id, DIRECTOR, award.id)
    assert pool.register.offers.all() == ()
    assert pool.register.applications.get(one.id).state is ApplicationState.IN_REVIEW


def test_two_rounds_that_fit_each_alone_do_not_fit_together(pool: Pool) -> None:
    one, two = pool.reviewed(gpus=32), pool.reviewed("kaist", gpus=32)
    pool.closed()
    drafts = [pool.drafted((one, NAVER, 32)), pool.drafted((two, NAVER, 32))]
    pool.service.approve_award(pool.id, DIRECTOR, drafts[0].id)
    with pytest.raises(Conflict, match="has 0 GPUs left"):
        pool.service.approve_award(pool.id, DIRECTOR, drafts[1].id)


def test_what_was_withdrawn_after_the_draft_stops_the_approval(pool: Pool) -> None:
    application = pool.reviewed()
    pool.closed()
    award = pool.drafted((application, NAVER, 16))
    pool.service.withdraw(pool.id, KIM, application.id, "We bought our own.")
    with pytest.raises(Conflict, match="a2027-00001 is withdrawn"):
        pool.service.approve_award(pool.id, DIRECTOR, award.id)
    assert pool.service.drop_award(pool.id, OFFICER, award.id, "One withdrew.").state == "dropped"


def test_refused_applicants_read_why(pool: Pool) -> None:
    application = pool.reviewed()
    pool.closed()
    refused = (NotAwarded(application=application.id, why="The plan has no data set."),)
    award = pool.service.draft_award(pool.id, OFFICER, NATIONAL, (), (), refused)
    pool.service.approve_award(pool.id, DIRECTOR, award.id)
    assert pool.register.applications.get(application.id).state is ApplicationState.REFUSED
    (mail, _) = (one for one in pool.register.outbox.unsent() if one.template == "application.refused")
    assert mail.parts == {"application": application.id, "reason": "The plan has no data set."}


def test_a_firm_gets_no_more_won_than_its_cap(tmp_path: Path) -> None:
    pool = Pool.new(tmp_path / "pool.db", programme(cap_won=100_000_000))
    one, two, three = (pool.reviewed("mint", gpus=8, budget_won=won) for won in (60_000_000, 50_000_000, 40_000_000))
    pool.closed()
    assert pool.offered(one, NHN).price_percent == programme().prices[OrganisationKind.YOUNG_FIRM]
    with pytest.raises(Refused, match="gives mint at most 100000000 Won; with this award it would be more"):
        pool.offered(two, NHN)
    assert pool.accepted(pool.offered(three, NHN)).budget_won == 40_000_000
    pool.store.close()


# -- Offers


def test_an_offer_is_accepted_until_the_moment_it_lapses_and_not_then(pool: Pool) -> None:
    application = pool.reviewed()
    pool.closed()
    offer = pool.offered(application)
    assert offer.answer_by.isoformat() == "2027-01-19T00:00:00+09:00"  # seven Korean days after the 11th, to their end
    pool.clock.at = offer.answer_by
    with pytest.raises(Refused, match="could be accepted until 2027-01-19"):
        pool.accepted(offer)
    pool.clock.at = offer.answer_by - timedelta(microseconds=1)
    assert pool.accepted(offer).gpus == 16


def test_a_lapsed_offer_frees_its_gpus_for_the_waiting_list(pool: Pool) -> None:
    one, two = pool.reviewed(gpus=32, model="h200"), pool.reviewed("kaist", gpus=16, model="h200")
    pool.closed()
    pool.service.approve_award(pool.id, DIRECTOR, pool.drafted((one, NAVER, 32), waiting=[two]).id)
    assert pool.service.tick() == 0
    (first,) = pool.register.offers.all()
    pool.clock.at = first.answer_by
    assert pool.service.tick() == 2
    lapsed, made = pool.register.offers.all()
    assert (lapsed.state, made.state, made.application, made.gpus) == ("lapsed", "made", two.id, 16)
    assert pool.register.applications.get(one.id).state is ApplicationState.WITHDRAWN
    assert pool.told("offer.lapsed") == [("p-kimsnu", "offer.lapsed"), ("p-leesnu", "offer.lapsed")]


def test_days_of_an_offer_that_have_passed_are_not_granted(pool: Pool) -> None:
    application = pool.reviewed(starts=date(2027, 1, 12))
    pool.closed()
    offer = pool.offered(application)
    pool.until(date(2027, 1, 15))
    grant = pool.accepted(offer)
    assert (grant.starts, grant.ends, grant.state) == (date(2027, 1, 15), date(2027, 4, 30), PoolGrantState.ACTIVE)


def test_an_offer_is_accepted_once_and_only_by_its_organisation(pool: Pool) -> None:
    application = pool.reviewed()
    pool.closed()
    offer = pool.offered(application)
    with pytest.raises(Refused, match="p-parkkaist is no member of snu"):
        pool.service.accept_offer(pool.id, PARK, offer.id)
    pool.accepted(offer)
    with pytest.raises(Conflict, match=r"o2027-00001 is accepted; accept is possible only while it is made\."):
        pool.accepted(offer)


# -- The waiting list


def test_free_gpus_go_down_the_waiting_list_by_score_and_whoever_nothing_fits_is_passed_over(pool: Pool) -> None:
    holder = pool.reviewed(gpus=32, model="h200")
    low = pool.reviewed("kaist", points=50, gpus=8, min_gpus=8, model="h200")
    large = pool.reviewed("kaist", points=90, gpus=64, min_gpus=40, model="h200")
    part = pool.reviewed("mint", points=70, gpus=64, min_gpus=8, model="h200")
    pool.closed()
    award = pool.drafted((holder, NAVER, 32), waiting=[low, large, part])
    pool.service.approve_award(pool.id, DIRECTOR, award.id)
    assert [one.id for one in pool.service.waiting_list(NATIONAL)] == [large.id, part.id, low.id]
    grant = pool.accepted(pool.register.offers.all()[0])
    pool.service.shrink_grant(pool.id, DIRECTOR, grant.id, 15, "Half of it idles.")
    assert pool.service.tick() == 1
    offer = pool.register.offers.all()[-1]
    assert (offer.application, offer.gpus) == (part.id, 16)  # of 17 free: whole servers of the second; 64 fit nowhere
    pool.service.recall_grant(pool.id, DIRECTOR, grant.id, "All of it idles.")
    assert pool.service.tick() == 1
    assert pool.register.offers.all()[-1].application == low.id
    assert pool.faults() == []


def test_who_waited_longer_than_the_period_waits_no_more(pool: Pool) -> None:
    one, two = pool.reviewed(gpus=32, model="h200"), pool.reviewed("kaist", gpus=32, model="h200")
    pool.closed()
    pool.service.approve_award(pool.id, DIRECTOR, pool.drafted((one, NAVER, 32), waiting=[two]).id)
    pool.accepted(pool.register.offers.all()[0])
    pool.until(date(2027, 5, 1))
    pool.service.tick()
    assert pool.register.applications.get(two.id).state is ApplicationState.REFUSED
    assert pool.told("application.period-over") == [("p-parkkaist", "application.period-over")]


def test_who_is_no_longer_eligible_is_passed_over_and_stops_nobody_else(pool: Pool) -> None:
    firm = pool.reviewed("mint", points=90, gpus=16)
    other = pool.reviewed("kaist", points=50, gpus=16)
    pool.closed()
    pool.service.approve_award(pool.id, DIRECTOR, pool.drafted(waiting=[firm, other]).id)
    rules = programme(prices={OrganisationKind.UNIVERSITY: 0})
    pool.service.put_programme(pool.id, DIRECTOR, rules)
    assert pool.service.tick() == 1
    assert [one.application for one in pool.register.offers.all()] == [other.id]
    with pytest.raises(Refused, match="Programme national is no longer for organisations such as mint"):
        pool.offered(firm)


def test_nobody_comes_onto_the_waiting_list_unjudged_or_stays_there_with_too_few_reviews(pool: Pool) -> None:
    unjudged = pool.submitted()
    pool.service.begin_review(pool.id, OFFICER, unjudged.id)
    judged = pool.reviewed("kaist")
    pool.closed()
    with pytest.raises(Refused, match=r"a2027-00001 has 0 reviews and 0\.00 points; it needs 1 and 0"):
        pool.drafted(waiting=[judged, unjudged])
    pool.service.approve_award(pool.id, DIRECTOR, pool.drafted(waiting=[judged]).id)
    pool.service.declare_conflict(pool.id, REVIEWER, judged.id, "I have joined their laboratory.")
    assert pool.service.tick() == 0
    assert pool.register.offers.all() == ()


# -- Grants


def test_warnings_come_once_and_the_nearest_only_when_nobody_looked_for_a_while(pool: Pool) -> None:
    grant = pool.granted()
    sent = []
    for day in (date(2027, 3, 30), date(2027, 3, 31), date(2027, 4, 1), date(2027, 4, 28), date(2027, 4, 30)):
        pool.until(day)
        pool.service.tick()
        pool.service.tick()
        sent.append((len(pool.told("grant.ends-soon")) // 2, pool.register.grants.get(grant.id).warned))
    # 30 days before the end; the one at 14 was missed, so that at 3 comes instead.
    assert sent == [(0, None), (1, 30), (1, 30), (2, 3), (2, 3)]


def test_a_renewed_grant_is_warned_of_again(pool: Pool) -> None:
    grant = pool.granted()
    pool.until(date(2027, 4, 29))
    pool.service.tick()
    change = pool.service.ask_change(pool.id, KIM, grant.id, 16, date(2027, 6, 30), "Second stage.")
    pool.service.approve_change(pool.id, DIRECTOR, change.id)
    assert pool.service.tick() == 0
    pool.until(date(2027, 6, 1))
    assert pool.service.tick() == 1
    assert pool.register.grants.get(grant.id).warned == 30


@pytest.mark.parametrize(
    ("gpus", "ends", "said"),
    [
        (16, date(2027, 4, 30), "has 16 GPUs until 2027-04-30 already"),
        (16, date(2028, 5, 31), "397 more days are over the 365"),
        (16, date(2027, 1, 31), "2027-01-31 cannot be the last day"),
        (7, date(2027, 4, 30), "7 GPUs are no size of programme national"),
    ],
)
def test_a_change_that_is_none_or_too_much_cannot_be_asked_for(pool: Pool, gpus: int, ends: date, said: str) -> None:
    grant = pool.granted()
    with pytest.raises(Refused, match=said):
        pool.service.ask_change(pool.id, KIM, grant.id, gpus, ends, "So.")


def test_one_change_of_a_grant_is_asked_for_at_a_time(pool: Pool) -> None:
    grant = pool.granted()
    first = pool.service.ask_change(pool.id, KIM, grant.id, 24, grant.ends, "More.")
    with pytest.raises(Conflict, match=rf"Change {first.id} of grant {grant.id} is still to be decided"):
        pool.service.ask_change(pool.id, KIM, grant.id, 16, date(2027, 6, 30), "Longer.")
    pool.service.drop_change(pool.id, KIM, first.id)
    pool.service.ask_change(pool.id, KIM, grant.id, 24, date(2027, 6, 30), "More, and longer.")


@pytest.mark.parametrize("since", ["returned", "shrunk"])
def test_approving_a_change_undoes_nothing_that_was_done_since_it_was_asked_for(pool: Pool, since: str) -> None:
    grant = pool.granted()
    change = pool.service.ask_change(pool.id, KIM, grant.id, 24, grant.ends, "More.")
    pool.clock.forward(timedelta(minutes=1))
    if since == "returned":
        after = pool.service.return_grant(pool.id, KIM, grant.id, date(2027, 4, 1), "Done sooner.")
    else:
        after = pool.service.shrink_grant(pool.id, DIRECTOR, grant.id, 8, "Idle.")
    with pytest.raises(Conflict, match=rf"had other terms since {change.id} was asked for: {after.gpus} GPUs"):
        pool.service.approve_change(pool.id, DIRECTOR, change.id)
    assert pool.register.grants.get(grant.id) == after


def test_a_change_is_approved_only_where_there_is_room(pool: Pool) -> None:
    grant = pool.granted()
    change = pool.service.ask_change(pool.id, KIM, grant.id, 40, grant.ends, "More.")
    with pytest.raises(Conflict, match="has 32 GPUs left"):
        pool.service.approve_change(pool.id, DIRECTOR, change.id)
    assert pool.register.grants.get(grant.id) == grant
    assert pool.service.refuse_change(pool.id, DIRECTOR, change.id, "No room.").state == "refused"


def test_an_early_return_frees_the_days_after_it(pool: Pool) -> None:
    grant = pool.granted()
    pool.until(date(2027, 3, 1))
    pool.service.tick()
    returned = pool.service.return_grant(pool.id, KIM, grant.id, date(2027, 3, 10), "We are done.")
    assert returned.state is PoolGrantState.ACTIVE
    assert pool.service.room(NAVER, date(2027, 3, 10), date(2027, 3, 10)) == 16
    assert pool.service.room(NAVER, date(2027, 3, 11), date(2027, 4, 30)) == 32
    at_once = pool.service.return_grant(pool.id, KIM, grant.id, date(2027, 2, 28), "Today.")
    assert (at_once.state, at_once.grace_until) == (PoolGrantState.ENDING, date(2027, 3, 14))
    assert pool.service.room(NAVER, date(2027, 3, 1), date(2027, 3, 10)) == 32
    (held,) = pool.register.calendar.of_holder(grant.id)
    assert (held.starts, held.ends) == (date(2027, 2, 1), date(2027, 2, 28))


def test_a_grant_that_is_returned_before_its_first_day_never_begins(pool: Pool) -> None:
    grant = pool.granted()
    returned = pool.service.return_grant(pool.id, KIM, grant.id, date(2027, 1, 20), "We have no data yet.")
    assert (returned.state, returned.ends) == (PoolGrantState.ENDING, grant.ends)
    assert pool.register.calendar.of_holder(grant.id) == ()
    pool.until(date(2027, 2, 1))
    assert pool.service.tick() == 1
    assert pool.register.grants.get(grant.id).state is PoolGrantState.ENDED


@pytest.mark.parametrize("last_day", [date(2027, 1, 9), date(2027, 4, 30), date(2027, 6, 1)])
def test_a_return_is_neither_of_the_past_nor_a_renewal(pool: Pool, last_day: date) -> None:
    grant = pool.granted()
    with pytest.raises(Refused, match="ends 2027-04-30; it can be returned with a last day from 2027-01-10 on"):
        pool.service.return_grant(pool.id, KIM, grant.id, last_day, "So.")


def test_members_are_people_of_the_organisation(pool: Pool) -> None:
    grant = pool.granted()
    pool.service.set_members(pool.id, LEE, grant.id, (KIM.person, LEE.person, LEE.person))
    assert pool.register.grants.get(grant.id).members == (KIM.person, LEE.person)
    with pytest.raises(Refused, match="p-choifirm belong to another organisation than snu"):
        pool.service.set_members(pool.id, LEE, grant.id, (CHOI.person,))


def test_a_member_may_change_a_grant_as_often_as_they_like_and_it_still_ends(pool: Pool) -> None:
    grant = pool.granted()
    for number in range(MOST_EVENTS + 1):
        pool.service.set_members(pool.id, LEE, grant.id, (KIM.person, LEE.person)[: 1 + number % 2])
    pool.service.recall_grant(pool.id, DIRECTOR, grant.id, "Idle.")
    steps = [one.step for one in pool.register.grants.get(grant.id).history]
    assert (len(steps), steps[-1]) == (MOST_EVENTS, "recall")


def test_who_left_the_organisation_gets_no_mails_about_it(pool: Pool) -> None:
    grant = pool.granted()
    pool.service.end_membership(pool.id, LEE, KIM.person, grant.organisation)
    pool.service.recall_grant(pool.id, DIRECTOR, grant.id, "Idle.")
    assert pool.told("grant.recalled") == [("p-leesnu", "grant.recalled")]


def test_the_report_is_asked_for_only_where_it_is_missing(pool: Pool) -> None:
    grant = pool.granted()
    with pytest.raises(Conflict, match="is scheduled"):
        pool.service.hand_in_report(pool.id, KIM, grant.id, "Too early.")
    pool.until(date(2027, 5, 1))
    pool.service.tick()
    pool.service.hand_in_report(pool.id, KIM, grant.id, "We trained a model.")
    pool.until(date(2027, 6, 1))
    pool.service.tick()
    assert pool.told("grant.report-missing") == []
    assert pool.register.grants.get(grant.id).state is PoolGrantState.ENDED


# -- Shares and holds


def test_a_share_cannot_become_smaller_than_what_it_has_promised(pool: Pool) -> None:
    pool.granted()
    with pytest.raises(Conflict, match="has promised 16 GPUs on 2027-02-01; 15 would be too few"):
        pool.service.put_share(pool.id, DIRECTOR, share(NAVER, 15))
    assert pool.service.put_share(pool.id, DIRECTOR, share(NAVER, 16)).capacity == 16


def test_a_lease_takes_what_is_free_and_gives_it_back_on_its_day(pool: Pool) -> None:
    pool.granted()
    with pytest.raises(Conflict, match="has 16 GPUs left from 2027-01-11 to 2027-02-01; 20 are needed"):
        pool.service.hold(pool.id, DIRECTOR, HoldKind.LEASE, NAVER, 20, pool.today, date(2027, 2, 1), "Own use.")
    pool.service.hold(pool.id, DIRECTOR, HoldKind.LEASE, NAVER, 32, pool.today, date(2027, 1, 31), "Own use.")
    assert pool.service.room(NAVER, pool.today, pool.today) == 0
    assert pool.service.room(NAVER, date(2027, 2, 1), date(2027, 4, 30)) == 16


# -- Commands


def test_a_command_sent_twice_is_done_once_and_its_id_is_nobody_elses(pool: Pool) -> None:
    id = CommandId("of-the-browser")
    first = pool.service.submit(id, KIM, request())
    assert pool.service.submit(id, KIM, request()) == first
    assert pool.service.submit(id, KIM, request=request()) == first
    assert len(pool.register.applications.all()) == 1
    for actor, asked in ((LEE, request()), (KIM, request(gpus=32))):
        with pytest.raises(Conflict, match="of-the-browser was another one"):
            pool.service.submit(id, actor, asked)
    with pytest.raises(Conflict, match="of-the-browser was another one"):
        pool.service.withdraw(id, KIM, first.id, "")


def test_a_command_whose_audit_entry_cannot_be_written_is_not_done(pool: Pool) -> None:
    def full(*_: object) -> None:
        raise OSError("disk full")

    pool.audit.append = full  # type: ignore[method-assign]
    with pytest.raises(OSError, match="disk full"):
        pool.submitted()
    assert pool.register.applications.all() == ()
    assert pool.register.outbox.unsent() == ()


def test_what_a_command_changes_is_in_the_audit_trail_under_its_name(pool: Pool) -> None:
    before = len(pool.audit.actions)
    grant = pool.granted()
    change = pool.service.ask_change(pool.id, KIM, grant.id, 24, grant.ends, "More.")
    pool.service.approve_change(pool.id, DIRECTOR, change.id)
    pool.service.recall_grant(pool.id, DIRECTOR, grant.id, "Idle.")
    assert pool.audit.actions[before:] == [
        "application.submit",
        "application.begin-review",
        "application.review",
        "award.draft",
        "award.approve",  # the application's new state
        "award.approve",  # the offer
        "award.approve",  # the award
        "offer.accept",
        "grant.ask-change",
        "grant.approve-change",
        "grant.recall",
    ]


def test_a_draft_is_its_authors_until_it_is_submitted(pool: Pool) -> None:
    pool.service.save_draft(KIM, NATIONAL, {"title": "Half a tit"})
    pool.service.save_draft(KIM, NATIONAL, {"title": "Half a title"})
    draft = pool.register.drafts.get(KIM.person, NATIONAL)
    assert draft.fields == {"title": "Half a title"}
    with pytest.raises(NotFound):
        pool.service.save_draft(KIM, ProgrammeName("seoul"), {})
    pool.submitted()
    assert pool.register.drafts.all() == ()


def test_a_login_stays_and_is_one_persons(pool: Pool) -> None:
    kim = pool.service.put_identity(pool.id, KIM, KIM.person, UserName("kim"), ())
    lee = pool.service.put_identity(pool.id, LEE, LEE.person, UserName("lee"), ())
    assert (kim.uid, lee.uid) == (200_000, 200_001)
    with pytest.raises(Conflict, match="has the login kim; it stays"):
        pool.service.put_identity(pool.id, KIM, KIM.person, UserName("kim2"), ())
    with pytest.raises(Conflict, match="login kim is taken"):
        pool.service.put_identity(pool.id, PARK, PARK.person, UserName("kim"), ())
    for login in ("root", "slurm", "_x", "ab"):
        with pytest.raises(ValueError, match=f"{login} may be a login of the system"):
            pool.service.put_identity(pool.id, PARK, PARK.person, UserName(login), ())


# -- What sites and the solver get


def test_a_sites_revision_grows_exactly_when_its_documents_change(pool: Pool) -> None:
    naver, nhn = ClusterName("naver"), ClusterName("nhn")
    pool.service.put_identity(pool.id, KIM, KIM.person, UserName("kim"), ())
    assert pool.service.documents(naver)[0] == 0
    grant = pool.granted()
    revision, documents = pool.service.documents(naver)
    assert revision == 1
    assert [(one.name, one.project, one.gpus) for one in documents.grants] == [("g2027-00001", "snu-2027-00001", 16)]
    assert [one.user for one in documents.members] == ["kim"]
    pool.service.put_identity(pool.id, LEE, LEE.person, UserName("lee"), ())
    assert pool.service.documents(naver) == (1, documents)
    pool.service.set_members(pool.id, KIM, grant.id, (KIM.person, LEE.person))
    revision, documents = pool.service.documents(naver)
    assert (revision, [one.login for one in documents.people]) == (2, ["kim", "lee"])
    pool.service.end_membership(pool.id, LEE, LEE.person, grant.organisation)
    revision, documents = pool.service.documents(naver)
    assert (revision, [one.login for one in documents.people]) == (3, ["kim"])
    pool.service.recall_grant(pool.id, DIRECTOR, grant.id, "Idle.")
    revision, documents = pool.service.documents(naver)
    assert (revision, [(one.gpus, one.borrow_limit, one.ends) for one in documents.grants]) == (
        4,
        [(0, 0, date(2027, 1, 24))],
    )
    assert pool.service.documents(nhn)[0] == 0


def test_the_scenario_has_what_can_be_decided_and_the_room_that_is_left(tmp_path: Path) -> None:
    pool = Pool.new(tmp_path / "pool.db", programme(least_score=60, caps=Caps(organisation=64)))
    holder = pool.reviewed(gpus=8)
    good = pool.reviewed("kaist", points=61, model="h200", gpus=16)
    pool.reviewed("kaist", points=59)
    pool.submitted("mint")
    assert pool.service.scenario(NATIONAL).applications == ()
    pool.closed()
    pool.offered(holder, gpus=8)
    scenario = pool.service.scenario(NATIONAL)
    assert [(one.id, one.score, one.period) for one in scenario.applications] == [
        (str(good.id), Decimal(61), ("2027-02-01", "2027-04-30"))
    ]
    assert [(one.name, one.provider, one.model, one.capacity) for one in scenario.pools] == [
        (NAVER, "naver", "h200", 24)
    ]
    assert scenario.caps.organisation == 64
    # What the solver makes of it can be awarded as it stands.
    (awarded,) = award(scenario).awarded.values()
    pool.offered(good, PoolShareName(awarded.pool.name), awarded.gpus)
    assert pool.faults() == []
    pool.store.close()


def test_refusals_can_be_told_in_another_language(pool: Pool) -> None:
    with pytest.raises(GpuaasError) as refused:
        pool.submitted(gpus=12)
    assert isinstance(refused.value.message, Told)
    assert refused.value.message.values == {"gpus": 12, "programme": "national", "sizes": "8, 16, 32, 64, 72, 80, …"}
