"""Jobs that have ended: who sees which, in pages, with what they cost and how they ended."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from slurm_gpuaas.domain.accounts import Language
from slurm_gpuaas.domain.idle import GrantDay
from slurm_gpuaas.domain.jobs import JobState
from slurm_gpuaas.domain.names import PoolGrantId
from slurm_gpuaas.domain.people import PortalRole
from slurm_gpuaas.portal.ended import REMARKS
from slurm_gpuaas.portal.routes.ended import ENDED, ENDED_NAMES
from slurm_gpuaas.portal.words import Dictionary
from tests.money import CLUSTER, MoneyPortal
from tests.pools import Browser
from tests.unit.metering.books import kst

ADMIN, RESEARCHER, OPERATOR = PortalRole.TENANT_ADMIN, PortalRole.RESEARCHER, PortalRole.PROVIDER_OPERATOR
SNU, MINT = [6, 5, 4], [7]
"""Numbers of jobs that ended in the last 30 days before `tests.money.NOW`, the last first."""


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MoneyPortal]:
    portal = MoneyPortal(tmp_path_factory.mktemp("ended"))
    yield portal
    portal.store.close()


def ended(browser: Browser, query: str = "") -> list[dict[str, Any]]:
    answer = browser.get(f"/api/v1/jobs/ended{query}")
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


@pytest.mark.parametrize(
    ("who", "seen"),
    [
        (ADMIN, SNU),
        ("researcher-snu", SNU),
        (RESEARCHER, []),  # of the same organisation, and has no login
        ("admin-mint", MINT),
        ("researcher-mint", MINT),
        ("admin-kaist", []),
        (OPERATOR, [7, 6, 5, 4]),
    ],
)
def test_each_sees_the_jobs_of_their_scope_and_of_others_no_page(
    portal: MoneyPortal, who: PortalRole | str, seen: list[int]
) -> None:
    browser = portal.browser(who)
    assert [one["id"] for one in ended(browser)] == seen
    page = browser.get("/jobs/ended").text
    for number in (*SNU, *MINT):
        shown = number in seen
        assert (f"/jobs/{CLUSTER}/{number}" in page) is shown, number
        wanted = 200 if shown else 404
        assert browser.get(f"/jobs/{CLUSTER}/{number}").status_code == wanted, number
        assert browser.get(f"/api/v1/jobs/ended/{CLUSTER}/{number}").status_code == wanted, number
    other = "g2026-00002" if "snu" in str(who) or who is ADMIN else "g2026-00001"
    if who is not OPERATOR:
        assert ended(browser, f"?grant={other}") == []


def test_what_it_used_and_cost_and_how_it_ended_is_told(portal: MoneyPortal) -> None:
    fault, long, _ = ended(portal.browser(ADMIN))
    assert (long["state"], long["gpus"], long["seconds"], long["gpu_hours"]) == ("COMPLETED", 8, 36_000, 80.0)
    assert long["won"] == 3_601 * 80 // 2  # a university pays half
    assert (fault["state"], fault["won"]) == ("NODE_FAIL", 0)
    assert "무료" in fault["note"] and fault["way_out"]
    assert (long["grant"], long["organisation"], long["service"]) == ("g2026-00001", "snu", "guaranteed")
    (burst,) = ended(portal.browser("admin-mint"))
    assert burst["service"] == "burst"


def test_filters_take_the_state_the_grant_and_the_cluster(portal: MoneyPortal) -> None:
    operator = portal.browser(OPERATOR)
    assert [one["id"] for one in ended(operator, "?state=NODE_FAIL")] == [6]
    assert [one["id"] for one in ended(operator, "?grant=g2026-00002")] == MINT
    assert ended(operator, "?cluster=nhn") == []
    assert ended(operator, "?grant=g2026-99999") == []
    assert operator.get("/api/v1/jobs/ended?state=NONE").status_code == 422
    page = operator.get("/jobs/ended?state=NODE_FAIL").text
    assert f"/jobs/{CLUSTER}/6" in page and f"/jobs/{CLUSTER}/5" not in page


def test_pages_follow_each_other_without_a_gap_also_where_runs_end_together(portal: MoneyPortal) -> None:
    operator = portal.browser(OPERATOR)
    at = portal.clock.now() - timedelta(days=20)
    extra = [portal.money.take(portal.money.mint, at, 60) for _ in range(5)]
    whole = [one["id"] for one in ended(operator)]
    assert whole == [7, 6, 5, 4, *(one.job_id for one in reversed(extra))]
    found: list[int] = []
    cursor: str | None = ""
    while cursor is not None:
        answer = operator.get(f"/api/v1/jobs/ended?limit=2&cursor={cursor}" if cursor else "/api/v1/jobs/ended?limit=2")
        found += [one["id"] for one in answer.json()["items"]]
        cursor = answer.json()["next"]
    assert found == whole
    assert operator.get("/api/v1/jobs/ended?cursor=WzFd").status_code == 422


def test_a_page_of_a_job_says_what_to_do_and_how_its_grant_used_the_day(portal: MoneyPortal) -> None:
    grant, ran = portal.money.snu, kst(2027, 1, 6, 12)
    day = GrantDay(
        grant=PoolGrantId(grant.id),
        day=ran.date(),
        number=1,
        allocated=1_000,
        busy=120,
        loaded=0,
        lost=0,
        burst=0,
        peak=8,
    )
    portal.store.register.days.take(CLUSTER, [day], at=portal.clock.now())
    page = portal.browser(ADMIN).get(f"/jobs/{CLUSTER}/6").text
    assert "무료" in page and "12 %" in page
    assert f"/grants/{grant.id}" in page
    assert "JOBID" not in page


def test_until_when_everything_was_told_is_said(portal: MoneyPortal) -> None:
    assert {one["as_of"] for one in ended(portal.browser(ADMIN))} == {None}, "a report alone says nothing of it"
    told = portal.clock.now() - timedelta(minutes=5)
    portal.clock.forward(timedelta(seconds=1))  # a report that is no newer changes nothing
    portal.money.report(used_through=told)
    assert {one["as_of"] for one in ended(portal.browser(ADMIN))} == {told.isoformat().replace("+00:00", "Z")}
    portal.clock.forward(timedelta(minutes=10))
    assert "15분 전" in portal.browser(ADMIN).get("/jobs/ended").text
    portal.clock.forward(timedelta(minutes=-10, seconds=-1))


def test_what_ended_longer_ago_is_not_shown(portal: MoneyPortal) -> None:
    assert not {1, 2, 3} & {one["id"] for one in ended(portal.browser(OPERATOR))}
    assert portal.browser(OPERATOR).get(f"/jobs/{CLUSTER}/1").status_code == 404


def test_every_way_to_end_has_a_name_and_a_remark_in_both_languages() -> None:
    korean = Dictionary()[Language.KOREAN]
    for state in ENDED:
        assert ENDED_NAMES[JobState][state]
        assert korean.tell(REMARKS[state].text) != str(REMARKS[state].text), state
