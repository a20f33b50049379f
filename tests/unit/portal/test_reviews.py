"""The review desk: who sees what, conflicts of interest, the form, and how far the calls are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm_gpuaas.domain.people import PortalRole
from tests.desk import DeskPortal
from tests.pools import Browser

GOVERNMENT = PortalRole.GOVERNMENT


@pytest.fixture
def portal(tmp_path: Path) -> Iterator[DeskPortal]:
    portal = DeskPortal(tmp_path)
    yield portal
    portal.store.close()


def english(browser: Browser, path: str) -> str:
    answer = browser.get(path, **{"Accept-Language": "en"})
    assert answer.status_code == 200, answer.text
    return answer.text


def judge(browser: Browser, id: str, *points: str, **fields: str) -> int:
    browser.get(f"/reviews/{id}")
    return browser.post(f"/reviews/{id}", criterion=["impact", "plan"], points=list(points), **fields).status_code


def test_what_others_gave_is_seen_only_after_ones_own_judgement(portal: DeskPortal) -> None:
    one = portal.in_review()
    first, second = portal.browser("second"), portal.browser(GOVERNMENT)
    assert judge(first, one.id, "77", "61", comment="a plan with gaps") == 303
    for path in (f"/reviews/{one.id}", f"/api/v1/applications/{one.id}/reviews"):
        said = english(second, path)
        assert "a plan with gaps" not in said and "second님" not in said and "71.67" not in said
    assert second.get(f"/api/v1/applications/{one.id}/reviews").json() == {
        "application": one.id,
        "needed": 1,
        "counting": 1,
        "hidden": True,
        "score": None,
        "items": [],
    }
    assert judge(second, one.id, "80", "80") == 303
    said = english(second, f"/reviews/{one.id}")
    assert "a plan with gaps" in said and "second님" in said
    assert "Score of all that count: 75.83 / 100" in said  # (71.67 + 80) / 2
    assert second.get(f"/api/v1/applications/{one.id}/reviews").json()["hidden"] is False


def test_an_auditor_sees_all_reviews_and_gives_none(portal: DeskPortal) -> None:
    one = portal.judged(points=66)
    auditor = portal.browser(PortalRole.AUDITOR)
    said = english(auditor, f"/reviews/{one.id}")
    assert "third님" in said and "66.00" in said and '<form method="post" action="/reviews' not in said
    assert one.id in english(auditor, "/reviews")
    assert judge(auditor, one.id, "1", "1") == 403


@pytest.mark.parametrize("who", ["researcher-snu", "admin-snu", PortalRole.PROVIDER_OPERATOR])
def test_applicants_and_providers_see_no_review(portal: DeskPortal, who: PortalRole | str) -> None:
    one = portal.judged(points=66)
    browser = portal.browser(who)
    for path in ("/reviews", f"/reviews/{one.id}", f"/api/v1/applications/{one.id}/reviews"):
        answer = browser.get(path)
        assert answer.status_code == 403 and "66.00" not in answer.text


def test_wrong_points_are_told_beside_their_field_and_nothing_typed_is_lost(portal: DeskPortal) -> None:
    one, browser = portal.in_review(), portal.browser(GOVERNMENT)
    browser.get(f"/reviews/{one.id}")
    for wrong in ("101", "-1", "7.5", "", "x", "９", "1" * 9):
        answer = browser.post(f"/reviews/{one.id}", criterion=["impact", "plan"], points=[wrong, "55"], comment="kept")
        assert answer.status_code == 422, wrong
        assert 'id="f-impact-fault"' in answer.text and 'id="f-plan-fault"' not in answer.text
        assert 'value="55"' in answer.text and "kept" in answer.text
    for criteria, points in ((["impact"], ["5"]), ([], []), (["impact", "plan", "other"], ["5", "5", "5"])):
        assert browser.post(f"/reviews/{one.id}", criterion=criteria, points=points).status_code in {403, 422}
    for comment in ("x" * 4_001, "a\x00b"):
        answer = browser.post(f"/reviews/{one.id}", criterion=["impact", "plan"], points=["5", "5"], comment=comment)
        assert answer.status_code == 422 and 'id="f-comment-fault"' in answer.text
    assert portal.store.register.reviews.all() == ()


def test_the_weighted_score_is_shown_while_points_are_typed_and_afterwards(portal: DeskPortal) -> None:
    one, browser = portal.in_review(), portal.browser(GOVERNMENT)
    path = f"/reviews/{one.id}/score?criterion=impact&criterion=plan&points=90&points="
    assert "100</output>" not in browser.get(path).text
    assert "<strong>80.00</strong>" in browser.get(path + "60").text  # weights 2 and 1
    judge(browser, one.id, "90", "60")
    assert "<strong>80.00</strong>" in browser.get(f"/reviews/{one.id}").text


def test_a_form_that_is_sent_twice_is_one_judgement(portal: DeskPortal) -> None:
    one, browser = portal.in_review(), portal.browser(GOVERNMENT)
    fields = {"command": "one-and-the-same"}
    assert [judge(browser, one.id, "90", "60", **fields) for _ in range(2)] == [303, 303]
    assert portal.actions().count("application.review") == 1


def test_a_conflict_of_interest_is_confirmed_stays_and_takes_the_judgement_with_it(portal: DeskPortal) -> None:
    one, browser = portal.judged(), portal.browser("third")
    browser.get(f"/reviews/{one.id}")
    unconfirmed = browser.post(f"/reviews/{one.id}/conflict", comment="my former student")
    assert unconfirmed.status_code == 422 and "f-confirm-fault" in unconfirmed.text
    assert browser.get(f"/api/v1/applications/{one.id}/reviews").json()["counting"] == 1
    assert browser.post(f"/reviews/{one.id}/conflict", comment="my former student", confirm="yes").status_code == 303
    said = english(browser, f"/reviews/{one.id}")
    assert "It stays declared" in said and "With a conflict of interest you do not see" in said
    assert judge(browser, one.id, "90", "60") == 403
    assert browser.get(f"/api/v1/applications/{one.id}/reviews").json()["counting"] == 0
    assert one.id in english(browser, "/reviews?show=conflict")


def test_the_queue_has_what_is_to_be_done_what_is_done_and_how_far_the_call_is(portal: DeskPortal) -> None:
    submitted, to_do, done = portal.submitted(), portal.in_review("kaist"), portal.judged("mint")
    browser = portal.browser("third")
    for show, wanted in (("to-do", to_do), ("done", done), ("submitted", submitted)):
        said = english(browser, f"/reviews?show={show}")
        assert [one.id in said for one in (submitted, to_do, done)] == [
            one is wanted for one in (submitted, to_do, done)
        ]
        assert "1 of 2 have the 1 reviews that an award needs; 1 do not yet." in said
        assert "1 are submitted and not yet checked" in said
    browser.get(f"/reviews/{submitted.id}")
    assert browser.post(f"/reviews/{submitted.id}/begin").status_code == 303
    assert submitted.id in english(browser, "/reviews")
    assert "applications that you have not judged yet" in english(browser, "/")


def test_a_long_queue_is_read_in_pages(portal: DeskPortal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slurm_gpuaas.portal.routes.reviews.ROWS", 2)
    applications = [portal.in_review() for _ in range(3)]
    browser = portal.browser(GOVERNMENT)
    first = english(browser, "/reviews")
    assert [one.id in first for one in applications] == [True, True, False]
    second = english(browser, f"/reviews?show=to-do&after={applications[1].id}")
    assert [f"/reviews/{one.id}" in second for one in applications] == [False, False, True]


def test_the_api_judges_and_declares(portal: DeskPortal) -> None:
    one, browser = portal.in_review(), portal.browser(GOVERNMENT)
    headers = {"Origin": browser.origin, "X-CSRF-Token": browser.csrf, "Accept-Language": "en"}
    path = f"/api/v1/applications/{one.id}"
    given = browser.client.post(f"{path}/reviews", json={"points": {"impact": 90, "plan": 60}}, headers=headers)
    assert (given.status_code, given.json()["points"]) == (200, {"impact": 90, "plan": 60})
    wrong = browser.client.post(f"{path}/reviews", json={"points": {"impact": 90}}, headers=headers)
    assert (wrong.status_code, wrong.json()["way_out"]) == (422, "Give each of them 0 to 100 points.")
    assert browser.client.post(f"{path}/conflict", json={}, headers=headers).json()["conflict"] is True
    again = browser.client.post(f"{path}/reviews", json={"points": {"impact": 90, "plan": 60}}, headers=headers)
    assert again.status_code == 403
    for number in ("a2026-99999", "x", "p-000000"):
        assert browser.get(f"/api/v1/applications/{number}/reviews").status_code == 404
