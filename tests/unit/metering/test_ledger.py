"""Use by month, prices, budgets, reconciliation: the rules alone, and the bookkeeper over a store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm_gpuaas.domain.budgets import Budget, budgets, cuts
from slurm_gpuaas.domain.errors import Conflict, InvalidInput, NotFound, Refused
from slurm_gpuaas.domain.idle import BusySum
from slurm_gpuaas.domain.ledger import Ending, EntryKind, Payment, RateRequest, UseKey, Verdict, WonRequest
from slurm_gpuaas.domain.months import Month
from slurm_gpuaas.domain.names import ProjectName
from slurm_gpuaas.domain.policy import Policy
from slurm_gpuaas.domain.usage import UsageRecord, UsageSum
from slurm_gpuaas.metering.ledger import Tariff, check, standing, use_of, vat_of
from slurm_gpuaas.metering.pool_report import awarded_seconds
from tests.unit.metering.books import (
    ASKER,
    CLUSTER,
    NAVER,
    OTHER,
    SNU,
    VISION,
    Books,
    kst,
    pool_rate,
    reported,
    run,
    terms,
)
from tests.unit.policies import policy, pool, project, rate

OCTOBER, NOVEMBER, DECEMBER = Month(2026, 10), Month(2026, 11), Month(2026, 12)


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    """With terms and a rate, on 5 November."""
    made = Books.new(tmp_path, kst(2026, 11, 5))
    made.keeper.add_rate(pool_rate())
    made.keeper.set_terms(terms())
    yield made
    made.pool.close()


def request(**fields: Any) -> WonRequest:
    return WonRequest.model_validate(
        {
            "command": "credit-0001",
            "kind": "credit",
            "organisation": SNU,
            "provider": NAVER,
            "grant": "vision-1",
            "won": -1_000,
            "reason": "Job 7 was requeued for a failed link.",
        }
        | fields
    )


# -- Use ---------------------------------------------------------------------------------------------------------------


def test_a_run_is_cut_at_korean_midnight_to_the_second() -> None:
    parts = use_of(run(1, datetime(2026, 10, 31, 14, 59, 58, tzinfo=UTC), 5, gpus=3))
    assert {str(key.month): used for key, used in parts.items()} == {"2026-10": 2 * 3, "2026-11": 3 * 3}
    assert {key.day for key in parts} == {date(2026, 10, 31)}


@given(st.integers(0, 400 * 86_400), st.integers(0, 200 * 86_400), st.integers(1, 64), st.booleans())
def test_parts_of_a_run_add_up_to_it(start: int, seconds: int, gpus: int, running: bool) -> None:
    record = run(1, kst(2026, 1, 1) + timedelta(seconds=start), seconds, gpus=gpus, running=running)
    parts = use_of(record)
    assert sum(parts.values()) == record.gpu_seconds
    assert all(used > 0 for used in parts.values())
    assert all(later == before.following for before, later in pairwise(key.month for key in parts))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"gpus": 0}, "has 0 GPUs"),
        ({"job_id": 2**32}, "no job id"),
        ({"state": "X" * 41}, "41 characters of state"),
        ({"nodes": "n" * 65_537}, "65,537 of nodes"),
        ({"gpu_seconds": 8 * 59}, "472 GPU-seconds"),
        ({"started": kst(2026, 11, 1) + timedelta(microseconds=1)}, "within a second"),
        ({"ended": kst(2026, 10, 31)}, "ends before it starts"),
        ({"started": kst(1999, 12, 31)}, "before 2000-01-01"),
        ({"ended": None, "gpu_seconds": 8 * 10**9}, "1098 days later"),
        ({"ended": None, "gpu_seconds": 8 * 60 + 1}, "not its GPUs times its seconds"),
    ],
)
def test_a_run_that_cannot_be_is_refused(changes: dict[str, Any], fault: str) -> None:
    check(run(1, kst(2026, 11, 1), 60))
    with pytest.raises(InvalidInput, match=fault):
        check(replace(run(1, kst(2026, 11, 1), 60), **changes))


def test_one_bad_run_keeps_the_whole_delivery_out(books: Books) -> None:
    good = run(1, kst(2026, 11, 1), 60)
    with pytest.raises(InvalidInput):
        books.take(good, replace(run(2, kst(2026, 11, 1), 60), gpus=0))
    assert books.take(good) == 1


def test_an_older_report_that_comes_later_changes_nothing(books: Books) -> None:
    ended, running = run(1, kst(2026, 11, 1), 7200), run(1, kst(2026, 11, 1), 60, running=True)
    assert books.keeper.take([reported(5, ended), reported(4, running)]) == 1
    assert books.keeper.take([reported(4, running)]) == 0
    books.keeper.book()
    assert books.gpu_seconds == ended.gpu_seconds


# -- Prices ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("day", "share", "programme", "found"),
    [
        (date(2026, 1, 1), "gov", "call-2026", "all"),
        (date(2026, 6, 1), "gov", "other", "of-share"),
        (date(2026, 6, 1), "own", "other", "all-later"),
        (date(2026, 6, 1), "own", "call-2026", "of-programme"),
        (date(2026, 6, 1), "gov", "call-2026", "of-both"),
        (date(2025, 12, 31), "gov", "call-2026", None),
    ],
)
def test_the_rate_for_the_narrowest_counts_however_old(
    day: date, share: str, programme: str, found: str | None
) -> None:
    tariff = Tariff(
        [],
        [
            pool_rate(name="all"),
            pool_rate(name="of-programme", programme="call-2026", starts="2026-02-01"),
            pool_rate(name="of-both", programme="call-2026", share="gov", starts="2026-03-01"),
            pool_rate(name="of-share", share="gov", starts="2026-04-01"),
            pool_rate(name="all-later", starts="2026-05-01"),
            pool_rate(name="other-model", model="b200", programme="call-2026", share="gov", starts="2026-05-01"),
        ],
    )
    rate_ = tariff.rate_at(terms(share=share, programme=programme), terms().model, day)
    assert (rate_.name if rate_ else None) == found


def test_a_run_keeps_the_price_of_its_start_in_the_next_month(books: Books) -> None:
    books.keeper.add_rate(pool_rate(name="november", won_per_gpu_hour=36_000, starts="2026-11-01"))
    books.take(run(1, kst(2026, 10, 31, 23), 7200), run(2, kst(2026, 11, 1), 3600))
    books.keeper.book()
    won = {(str(e.used.month), e.used.rate): e.amounts.won for e in books.pool.ledger.entries() if e.used}
    assert won == {
        ("2026-10", "h200-2026"): 8 * 3601 // 2,
        ("2026-11", "h200-2026"): 8 * 3601 // 2,
        ("2026-11", "november"): 8 * 18_000,
    }


def test_won_are_rounded_once_for_all_runs_of_a_key(books: Books) -> None:
    books.take(*(run(job, kst(2026, 11, 1), 1, gpus=1) for job in range(1, 901)))
    books.keeper.book()
    assert books.won == 900 * 3601 // 7200  # each run alone would cost 0.50 Won, and nothing


def test_what_a_fault_ended_is_free_and_what_was_preempted_is_not(books: Books) -> None:
    states = ("NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "COMPLETED")
    books.take(*(run(job, kst(2026, 11, 1), 3600, state=state) for job, state in enumerate(states)))
    books.keeper.book()
    by_fault = {e.used.fault: e.amounts for e in books.pool.ledger.entries() if e.used}
    assert by_fault[True] == (2 * 8 * 3600, 0, 0, 0)
    assert by_fault[False] == (2 * 8 * 3600, 8 * 3600, 2 * 8 * 3601, 8 * 3601)


def test_a_model_without_a_rate_costs_nothing_until_it_has_one(books: Books) -> None:
    books.keeper.set_terms(terms("speech", model="b200", pool="b200"))
    books.take(run(1, kst(2026, 11, 1), 3600, account="speech", model="b200"))
    books.keeper.book()
    assert (books.gpu_seconds, books.won) == (8 * 3600, 0)
    books.keeper.add_rate(pool_rate(name="b200", model="b200", won_per_gpu_hour=1_000))
    books.keeper.book()
    assert (books.gpu_seconds, books.won) == (8 * 3600, 8 * 500)


def test_use_of_an_account_without_a_grant_is_booked_and_on_nobodys_statement(books: Books) -> None:
    books.take(run(1, kst(2026, 10, 1), 3600, account="foreign"))
    assert books.keeper.close(OCTOBER) == []
    (entry,) = books.pool.ledger.entries()
    assert (entry.organisation, entry.amounts) == (None, (8 * 3600, 0, 0, 0))


def test_a_rate_never_changes_and_never_begins_in_a_closed_month(books: Books) -> None:
    books.keeper.add_rate(pool_rate())
    with pytest.raises(Conflict, match="h200-2026 is there already"):
        books.keeper.add_rate(pool_rate(won_per_gpu_hour=1))
    with pytest.raises(Conflict, match="h200-2026 is there already"):
        books.keeper.add_rate(pool_rate(name="again"))
    books.take(run(1, kst(2026, 10, 1), 60))
    books.keeper.close(OCTOBER)
    with pytest.raises(Refused, match="closed"):
        books.keeper.add_rate(pool_rate(name="late", starts="2026-10-31"))
    books.keeper.add_rate(pool_rate(name="late", starts="2026-11-01"))


def test_terms_may_change_in_what_is_not_fixed(books: Books) -> None:
    books.keeper.set_terms(terms(ends="2026-12-31", gpus=8))
    with pytest.raises(Conflict, match="vision-1"):
        books.keeper.set_terms(terms(organisation="kaist"))
    with pytest.raises(Conflict, match="another organisation"):
        books.keeper.set_terms(terms(organisation="kaist", name="vision-2", starts="2027-01-01"))
    with pytest.raises(InvalidInput, match="differ in price_percent"):
        books.keeper.set_terms(terms(name="vision-2", price_percent=100))
    with pytest.raises(InvalidInput, match="no Rate"):
        books.keeper.set_terms(terms("speech", model="b200", pool="b200", budget_won=1))
    assert books.pool.ledger.terms() == [terms(ends="2026-12-31", gpus=8)]


# -- Closing -----------------------------------------------------------------------------------------------------------


def test_months_are_closed_in_order_when_they_are_over(books: Books) -> None:
    books.take(run(1, kst(2026, 9, 1), 60))
    with pytest.raises(Refused, match="2026-11 is not over"):
        books.keeper.close(NOVEMBER)
    with pytest.raises(Conflict, match="2026-09 is the month to close next"):
        books.keeper.close(OCTOBER)
    assert len(books.keeper.close(Month(2026, 9))) == 1
    (owed,) = books.keeper.close(OCTOBER)  # nothing was used, but September is still owed for
    assert (owed.supply, owed.carried) == (0, owed.due)
    with pytest.raises(Conflict, match="2026-11 is the month to close next"):
        books.keeper.close(OCTOBER)


def test_a_late_run_of_a_closed_month_is_a_correction_on_the_next_statement(books: Books) -> None:
    books.take(run(1, kst(2026, 10, 1), 3600))
    (head,) = books.keeper.close(OCTOBER)
    issued = books.keeper.statement(head.number)
    books.take(run(1, kst(2026, 10, 1), 3600, state="NODE_FAIL"), run(2, kst(2026, 11, 1), 3600), number=2)
    books.keeper.book()
    books.clock.at = kst(2026, 12, 1)
    (following,) = books.keeper.close(NOVEMBER)
    assert books.keeper.statement(head.number) == issued
    lines = books.keeper.statement(following.number).lines
    assert [(line.kind, str(line.month), line.fault, line.amounts.won) for line in lines] == [
        (EntryKind.CHARGE, "2026-11", False, 4 * 3601),
        (EntryKind.CORRECTION, "2026-10", False, -4 * 3601),
        (EntryKind.CORRECTION, "2026-10", True, 0),
    ]
    assert [line.refers for line in lines] == ["", "2026-10", "2026-10"]
    assert (following.supply, following.carried, following.due) == (0, head.total, head.total)


def test_what_is_owed_is_carried_until_it_is_paid(books: Books) -> None:
    books.take(run(1, kst(2026, 10, 1), 3600))
    (head,) = books.keeper.close(OCTOBER)
    assert (head.supply, head.vat, head.total, head.due) == (14_404, 1_440, 15_844, 15_844)
    books.keeper.pay(
        Payment.model_validate(
            {"command": "bank-00001", "organisation": SNU, "provider": NAVER, "won": 15_000, "refers": head.number}
        ),
        ASKER,
    )
    books.clock.at = kst(2026, 12, 1)
    (following,) = books.keeper.close(NOVEMBER)
    assert (following.carried, following.paid, following.due) == (15_844, 15_000, 844)


@pytest.mark.parametrize(("supply", "vat"), [(0, 0), (9, 0), (19, 1), (-9, 0), (-19, -1)])
def test_vat_drops_what_is_less_than_a_won(supply: int, vat: int) -> None:
    assert vat_of(supply) == vat


# -- By hand -----------------------------------------------------------------------------------------------------------


def test_who_asks_for_a_credit_does_not_approve_it(books: Books) -> None:
    books.keeper.ask(request(), ASKER)
    with pytest.raises(Refused, match="does not approve"):
        books.keeper.decide("credit-0001", Verdict.APPROVED, replace(OTHER, person=ASKER.person))
    books.keeper.decide("credit-0001", Verdict.APPROVED, OTHER)
    books.keeper.decide("credit-0001", Verdict.APPROVED, OTHER)
    (entry,) = books.pool.ledger.entries()
    assert (entry.amounts.won, entry.asked_by, entry.approved_by) == (-1_000, ASKER.person, OTHER.person)
    assert (entry.programme, entry.month) == ("call-2026", NOVEMBER)
    with pytest.raises(Conflict, match="approved already"):
        books.keeper.decide("credit-0001", Verdict.REFUSED, OTHER)


def test_what_is_refused_is_not_booked(books: Books) -> None:
    books.keeper.ask(request(), ASKER)
    (asked,) = books.pool.ledger.requests()
    assert asked.request == request()
    books.keeper.decide("credit-0001", Verdict.REFUSED, OTHER)
    assert books.pool.ledger.entries() == []
    assert books.pool.ledger.requests() == []


def test_a_command_is_done_once_and_means_one_thing(books: Books) -> None:
    books.keeper.ask(request(), ASKER)
    books.keeper.ask(request(), ASKER)
    with pytest.raises(Conflict, match="credit-0001"):
        books.keeper.ask(request(won=-2_000), ASKER)
    paid = Payment.model_validate({"command": "bank-00001", "organisation": SNU, "provider": NAVER, "won": 5})
    books.keeper.pay(paid, ASKER)
    books.clock.at += timedelta(days=40)
    books.keeper.pay(paid, ASKER)
    with pytest.raises(Conflict, match="bank-00001"):
        books.keeper.pay(paid.model_copy(update={"won": 6}), ASKER)
    assert len(books.pool.ledger.entries()) == 1


@pytest.mark.parametrize(
    "fields", [{"organisation": "kaist"}, {"provider": "kakao"}, {"grant": "speech-1"}], ids=lambda one: next(iter(one))
)
def test_won_are_booked_for_those_only_who_have_a_grant(books: Books, fields: dict[str, str]) -> None:
    with pytest.raises(NotFound, match="has no grant"):
        books.keeper.ask(request(**fields), ASKER)
    with pytest.raises(NotFound, match="nobody-asked"):
        books.keeper.decide("nobody-asked", Verdict.APPROVED, OTHER)


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "charge"},
        {"won": 0},
        {"won": 5},
        {"kind": "adjustment", "won": 0},
        {"reason": "x" * 501},
        {"command": "a b c d e f"},
        {"won": -(10**16)},
    ],
)
def test_a_request_that_makes_no_sense_is_refused(fields: dict[str, Any]) -> None:
    request(kind="adjustment", won=5)
    with pytest.raises(ValueError, match="validation error"):
        request(**fields)


# -- Rates that two people decide --------------------------------------------------------------------------------------


def proposal(command: str = "proposal-1", **fields: Any) -> RateRequest:
    rate = pool_rate(**{"name": "h200-2027", "starts": date(2027, 1, 1), "won_per_gpu_hour": 4_000} | fields)
    return RateRequest(command=command, rate=rate, provider=NAVER)


def test_a_proposed_rate_is_in_force_once_another_person_approves(books: Books) -> None:
    assert books.keeper.propose_rate(proposal(), ASKER)
    assert not books.keeper.propose_rate(proposal(), ASKER)
    with pytest.raises(Refused, match="does not approve"):
        books.keeper.decide_rate("proposal-1", Verdict.APPROVED, ASKER)
    assert books.pool.ledger.rates() == [pool_rate()]
    assert books.keeper.decide_rate("proposal-1", Verdict.APPROVED, OTHER)
    assert not books.keeper.decide_rate("proposal-1", Verdict.APPROVED, OTHER)
    assert books.pool.ledger.rates() == [pool_rate(), proposal().rate]
    with pytest.raises(Conflict, match="approved already"):
        books.keeper.decide_rate("proposal-1", Verdict.REFUSED, OTHER, "no")
    with pytest.raises(NotFound):
        books.keeper.decide_rate("proposal-9", Verdict.APPROVED, OTHER)


def test_a_refused_rate_may_be_proposed_again_under_another_command(books: Books) -> None:
    books.keeper.propose_rate(proposal(), ASKER)
    books.keeper.decide_rate("proposal-1", Verdict.REFUSED, OTHER, "too much")
    assert books.keeper.propose_rate(proposal("proposal-2"), ASKER)
    refused = books.pool.ledger.rate_requests.find("proposal-1")
    assert refused is not None and (refused.verdict, refused.why) == (Verdict.REFUSED, "too much")


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "h200-2026"},
        {"name": "other", "starts": date(2026, 1, 1)},
        {"command": "proposal-1", "won_per_gpu_hour": 1},
        {"name": "h200-2027", "starts": date(2027, 5, 1)},
        {"name": "other", "starts": date(2027, 1, 1)},
    ],
)
def test_what_is_there_or_proposed_is_not_proposed_again(books: Books, fields: dict[str, Any]) -> None:
    books.keeper.propose_rate(proposal(), ASKER)
    with pytest.raises(Conflict):
        books.keeper.propose_rate(proposal(**{"command": "proposal-2"} | fields), ASKER)


def test_a_proposal_whose_month_was_closed_meanwhile_changes_nothing(books: Books) -> None:
    books.keeper.propose_rate(proposal(starts=date(2026, 10, 1)), ASKER)
    books.take(run(1, kst(2026, 10, 5), 60))
    books.keeper.close(OCTOBER)
    with pytest.raises(Refused, match="closed"):
        books.keeper.decide_rate("proposal-1", Verdict.APPROVED, OTHER)
    waiting = books.pool.ledger.rate_requests.find("proposal-1")
    assert waiting is not None and waiting.verdict is Verdict.OPEN


# -- Views -------------------------------------------------------------------------------------------------------------


def test_reconciliation_finds_a_single_gpu_second_and_says_where(books: Books) -> None:
    runs = [run(1, kst(2026, 10, 31, 23), 7200), run(2, kst(2026, 11, 1), 60, burst=True)]
    books.take(*runs)
    months = (OCTOBER, NOVEMBER)
    (unbooked, *_) = books.keeper.reconcile(CLUSTER, runs, months)
    assert (unbooked.slurm, unbooked.reported, unbooked.booked) == (28_800, 28_800, 0)
    books.keeper.book()
    assert books.keeper.reconcile(CLUSTER, runs, months) == []
    assert books.keeper.reconcile(CLUSTER, [*runs, run(9, kst(2026, 10, 1), 9, cluster="kakao")], months) == []
    longer = [runs[0], run(2, kst(2026, 11, 1), 61, gpus=8, burst=True)]
    (one,) = books.keeper.reconcile(CLUSTER, longer, months)
    assert str(one) == "naver 2026-11 vision burst: Slurm 488 GPU-seconds, reported 480, booked 480"
    assert books.keeper.reconcile(CLUSTER, longer, [OCTOBER]) == []
    lost = books.keeper.reconcile(CLUSTER, [], [OCTOBER])
    assert [(one.slurm, one.reported) for one in lost] == [(0, 28_800)]


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_use_of_people_is_that_of_the_runs_cut_at_the_months_borders(data: st.DataObject) -> None:
    hours = st.integers(-50, 770)
    with TemporaryDirectory() as folder:
        books = Books.new(Path(folder), kst(2026, 12, 5))
        runs = []
        for job in range(data.draw(st.integers(1, 6))):
            started = kst(2026, 11, 1) + timedelta(hours=data.draw(hours))
            state = data.draw(st.sampled_from(["COMPLETED", "PREEMPTED", "NODE_FAIL"]))
            one = run(job, started, data.draw(st.integers(0, 200)) * 3_600, state=state, burst=data.draw(st.booleans()))
            runs.append(replace(one, ended=None, state="RUNNING") if data.draw(st.booleans()) else one)
        books.take(*runs)
        found = books.keeper.people_use(CLUSTER, VISION, NOVEMBER)
        books.pool.close()
    wanted: dict[tuple[str, Ending], int] = defaultdict(int)
    for one in runs:
        for key, used in use_of(one).items():
            if key.month == NOVEMBER:
                wanted[key.service, key.ending] += used
    assert {(key.service, key.ending): used for key, used in found.items()} == {k: v for k, v in wanted.items() if v}
    assert {key.user for key in found} <= {"alice"}


def test_awarded_time_follows_the_versions_of_the_terms() -> None:
    shrunk = terms(gpus=8)
    versions = [(kst(2026, 10, 20), terms()), (kst(2026, 11, 11), shrunk)]
    assert awarded_seconds(versions, NOVEMBER.window) == (16 * 10 + 8 * 20) * 86_400
    assert awarded_seconds(versions, Month(2026, 1).window) == 16 * 31 * 86_400
    assert awarded_seconds(versions, Month(2028, 1).window) == 0


def test_the_report_says_what_was_awarded_used_idle_lost_and_charged(books: Books) -> None:
    books.take(
        run(1, kst(2026, 11, 1), 3600),
        run(2, kst(2026, 11, 1), 3600, burst=True, state="PREEMPTED"),
        run(3, kst(2026, 11, 1), 1800, state="NODE_FAIL"),
        run(4, kst(2026, 11, 1), 10, account="foreign"),
    )
    books.keeper.book()
    foreign, row = books.keeper.report(NOVEMBER, NOVEMBER, {terms().grant.name: BusySum(70, 7)}).rows
    assert (foreign.programme, foreign.guaranteed, foreign.won) == (None, 80, 0)
    assert (row.grants, row.gpus, row.awarded) == (1, 16, 4 * 86_400 * 16)
    assert (row.guaranteed, row.burst, row.preempted, row.faults) == (8 * 5400, 8 * 3600, 8 * 3600, 8 * 1800)
    assert (row.idle, row.measured, row.busy) == (4 * 86_400 * 16 - 8 * 5400, 70, 7)
    assert (row.guaranteed_won, row.burst_won, row.list_won) == (14_404, 9603, 28_808 + 19_206)


# -- Budgets: what the portal shows is what the site enforces ----------------------------------------------------------


@st.composite
def site_runs(draw: st.DrawFn) -> list[UsageRecord]:
    return [
        run(
            job,
            kst(2026, 9, 25) + timedelta(seconds=draw(st.integers(0, 60 * 86_400))),
            draw(st.integers(0, 300_000)),
            gpus=draw(st.sampled_from([1, 8])),
            burst=draw(st.booleans()),
            model=draw(st.sampled_from(["h200", None])),
            state=draw(st.sampled_from(["COMPLETED", "NODE_FAIL", "PREEMPTED"])),
        )
        for job in range(draw(st.integers(0, 6)))
    ]


@settings(max_examples=60)
@given(
    site_runs(),
    st.sampled_from(["grant", "month", "quarter"]),
    st.sampled_from([0, 30]),
    st.none() | st.integers(0, 2_000),
    st.none() | st.integers(0, 5_000_000),
    st.integers(0, 60),
)
def test_the_portal_shows_the_budget_that_the_site_enforces(
    records: list[UsageRecord], period: str, carry: int, hours: int | None, won: int | None, days: int
) -> None:
    now = kst(2026, 10, 1) + timedelta(days=days)
    fields: dict[str, Any] = {
        "budget_gpu_hours": hours,
        "budget_won": won,
        "carry_over": 0 if period == "grant" else carry,
        "budget_period": period,
    }
    if hours is None and won is None:
        fields = {}
    own = terms(starts="2026-10-01", **fields)
    rates = [pool_rate(), pool_rate(name="later", won_per_gpu_hour=7_200, starts="2026-10-20")]
    elsewhere = pool_rate(name="elsewhere", share="own", won_per_gpu_hour=1, starts="2026-10-05")
    site = policy(
        pool("h200", cluster=CLUSTER, model="h200", shares=[{"name": "gov", "nodes": "h200-[001-008]"}]),
        *(rate(**one.model_dump(exclude={"share", "programme"})) for one in rates),
        project(),
        own.grant,
    )
    use: dict[UseKey, int] = defaultdict(int)
    for record in records:
        for key, used in use_of(record).items():
            use[key] += used
    shown = standing(Tariff([own], [*rates, elsewhere]), CLUSTER, VISION, use, now)
    enforced = as_enforced(site, records, now)
    assert (shown.budget if shown else None) == enforced
    if shown:
        assert shown.free_seconds == sum(
            record.gpu_seconds
            for record in records
            if record.state == "NODE_FAIL" and record.started >= shown.budget.period.start
        )


def as_enforced(site: Policy, records: list[UsageRecord], now: datetime) -> Budget | None:
    """As gpuaasd reckons it from its own store: sums of runs by the moment of their start."""
    moments = cuts(site, CLUSTER, now)
    sums = [
        UsageSum(
            account=record.account,
            model=record.model,
            qos=record.qos,
            since=max((moment for moment in moments if moment <= record.started), default=None),
            gpu_seconds=record.gpu_seconds,
            ended=record.gpu_seconds,
        )
        for record in records
    ]
    return budgets(site, CLUSTER, now, sums).get(ProjectName("vision"))


def test_the_view_says_when_the_budget_runs_dry(books: Books) -> None:
    assert books.keeper.standing(CLUSTER, VISION) is None
    books.keeper.set_terms(terms(budget_gpu_hours=200, budget_won=10**9, budget_period="month"))
    books.take(run(1, kst(2026, 11, 1), 4 * 86_400, gpus=1))
    found = books.keeper.standing(CLUSTER, VISION)
    assert found is not None
    shown, dry = found
    side = shown.budget.gpu_seconds
    assert side is not None
    assert (side.used, side.left) == (Fraction(4 * 86_400), Fraction(104 * 3600))
    assert shown.budget.used_won == Fraction(4 * 86_400 * 3601, 2 * 3600)
    assert dry == kst(2026, 11, 12, 14)  # 104 hours at 4/7 GPU, the mean of seven days
