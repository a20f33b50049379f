"""The award desk: from the scenario over what-if runs to a draft that a second person approves, on pages and by API."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from httpx2 import Response

from slurm_gpuaas.domain.applications import Application
from slurm_gpuaas.domain.people import PortalRole
from slurm_gpuaas.domain.programmes import Caps
from slurm_gpuaas.pool.award import Award, OutOfTime, award
from slurm_gpuaas.pool.award_scenario import Scenario
from slurm_gpuaas.portal.app import make_portal
from slurm_gpuaas.portal.award_runs import AwardRuns
from tests.desk import NAVER, NHN, DeskPortal, command_id
from tests.pools import Browser
from tests.unit.pool.scene import programme

GOVERNMENT, AUDITOR, OPERATOR = PortalRole.GOVERNMENT, PortalRole.AUDITOR, PortalRole.PROVIDER_OPERATOR
DONE_BY = 1_500


@pytest.fixture
def portal(tmp_path: Path) -> Iterator[DeskPortal]:
    portal = DeskPortal(tmp_path)
    yield portal
    portal.store.close()


class Call:
    """Naver has 32 GPUs and NHN 64: `low` gets only a part, `high` and `whole` all, and `last` nothing."""

    def __init__(self, portal: DeskPortal) -> None:
        self.high = portal.judged("snu", 95, gpus=32, min_gpus=32, model="h200")
        self.whole = portal.judged("kaist", 90, gpus=32, min_gpus=8, model="b200")
        self.low = portal.judged("mint", 70, gpus=64, min_gpus=8, model="b200")
        self.last = portal.judged("kaist", 60, gpus=64, min_gpus=64, model="b200")
        portal.close()


def english(browser: Browser, path: str, status: int = 200) -> str:
    answer = browser.get(path, **{"Accept-Language": "en"})
    assert answer.status_code == status, answer.text
    return answer.text


def place_of(answer: Response) -> str:
    assert answer.status_code == 303, answer.text
    return str(answer.headers["location"]).partition("?")[0]


def solved(browser: Browser, path: str) -> str:
    """The page of a run when it is over."""
    for _ in range(DONE_BY):
        said = english(browser, path)
        if 'hx-trigger="every 1s"' not in said:
            return said
        threading.Event().wait(0.02)
    raise AssertionError("the run does not end")


def solve(browser: Browser) -> str:
    browser.get("/awards/programmes/national")
    path = place_of(browser.post("/awards/programmes/national/solve"))
    solved(browser, path)
    return path


def drafted(portal: DeskPortal, browser: Browser, **fields: str) -> str:
    return place_of(browser.post(f"{solve(browser)}/draft", **{"wait": "yes"} | fields))


def post(browser: Browser, path: str, **body: Any) -> Response:
    headers = {"Origin": browser.origin, "X-CSRF-Token": browser.csrf, "Accept-Language": "en"}
    return browser.client.post(f"/api/v1{path}", json=body, headers=headers)


def test_a_call_goes_from_the_scenario_to_offers_by_two_people(portal: DeskPortal) -> None:
    call, browser = Call(portal), portal.browser(GOVERNMENT)
    assert "Applications that can be decided</dt><dd>4" in english(browser, "/awards/programmes/national")
    run = solve(browser)
    said = english(browser, run)
    assert "Proven to be the best" in said and "32 of 64" not in said
    assert "64 of 64 GPUs" in said and "of 64</span>" in said  # NHN is full, and one has a part of its 64
    assert "An award of 64 GPUs fits no pool" in said
    award = place_of(browser.post(f"{run}/draft", wait="yes"))
    page = english(browser, award)
    assert "You drafted this award, so you cannot approve it." in page and f"{award}/approve" not in page
    refused = browser.post(f"{award}/approve")
    assert refused.status_code == 403 and portal.store.register.offers.all() == ()
    other = portal.browser("second")
    assert f'action="{award}/approve"' in english(other, award)
    assert "drafts of others that wait for your approval" in english(other, "/")
    assert place_of(other.post(f"{award}/approve")) == award
    offers = {one.application: (one.share, one.gpus) for one in portal.store.register.offers.all()}
    assert offers == {call.high.id: (NAVER, 32), call.whole.id: (NHN, 32), call.low.id: (NHN, 32)}
    page = english(other, award)
    assert all(f'href="/offers/{one.id}"' in page for one in portal.store.register.offers.all())
    waiting = english(other, "/awards/programmes/national/waiting-list")
    assert call.last.id in waiting and "64장이 남은 몫이 없습니다" in waiting  # as its drafter wrote it


def test_what_an_applicant_reads_names_nobody_else(portal: DeskPortal) -> None:
    call, browser = Call(portal), portal.browser(GOVERNMENT)
    number = drafted(portal, browser).rpartition("/")[2]
    (waiting,) = browser.get(f"/api/v1/awards/{number}").json()["waiting"]
    assert waiting["application"] == call.last.id
    assert not any(other.id in waiting["why"] for other in (call.high, call.whole, call.low))
    assert "64장이 남은 몫이 없습니다" in waiting["why"]  # the language of who drafts


def test_who_is_below_the_least_score_is_refused_only_when_asked_for(portal: DeskPortal) -> None:
    rules = programme(calls=portal.store.register.programmes.all()[0].calls, least_score=50)
    portal.pool.service.put_programme(command_id(), portal.officer, rules)
    good, bad = portal.judged(points=80), portal.judged("kaist", points=30)
    unjudged = portal.in_review("mint")
    portal.close()
    browser = portal.browser(GOVERNMENT)
    page = english(browser, "/awards/programmes/national")
    assert "Its score of 30.00 is below" in page and "0 of 1 reviews count so far." in page
    for asked, refused in (({}, []), ({"refuse": "yes"}, [bad.id])):
        number = drafted(portal, browser, **asked).rpartition("/")[2]
        draft = browser.get(f"/api/v1/awards/{number}").json()
        assert [one["application"] for one in draft["refused"]] == refused
        assert [one["application"] for one in draft["awards"]] == [good.id]
        assert unjudged.id in english(browser, f"/awards/{number}")


def test_a_what_if_shows_who_gains_and_loses_and_decides_nothing(portal: DeskPortal) -> None:
    call, browser = Call(portal), portal.browser(GOVERNMENT)
    base = solve(browser)
    form = {"pool": [NAVER, NHN], "capacity": ["32", "64"]}
    run = place_of(browser.post(f"{base}/what-if", **form, without=call.whole.id))
    said = solved(browser, run)
    assert run != base and f"without {call.whole.id}" in said
    changes = said[said.index('id="changes"') : said.index('id="pools"')]
    assert '<span class="loss">−32</span>' in changes and '<span class="gain">+32</span>' in changes
    assert call.high.id not in changes
    assert portal.store.register.awards.all() == () and portal.store.register.offers.all() == ()
    same = place_of(browser.post(f"{base}/what-if", **form))
    assert same == base  # nothing is otherwise
    must = solved(browser, place_of(browser.post(f"{base}/what-if", **form, must=call.last.id)))
    assert "−" in must and f"{call.last.id} must be awarded" in must
    assert f">{call.last.id}</textarea>" in english(browser, f"{base}?must={call.last.id}")


def test_wrong_fields_of_a_what_if_are_told_beside_them(portal: DeskPortal) -> None:
    Call(portal)
    browser = portal.browser(GOVERNMENT)
    base = solve(browser)
    form = {"pool": [NAVER, NHN], "capacity": ["32", "-8"]}
    answer = browser.post(f"{base}/what-if", **form, organisation="many", region="9" * 60)
    assert answer.status_code == 422
    for field in ("f-organisation", "f-region", "f-2"):
        assert f'id="{field}-fault"' in answer.text
    assert 'value="many"' in answer.text and 'value="-8"' in answer.text
    form = {"pool": [NAVER, NHN], "capacity": ["32", "64"]}
    assert browser.post(f"{base}/what-if", **form, without="a2026-99999").status_code == 422
    assert browser.post("/awards/runs/r-none/what-if", **form).status_code == 404


def test_an_award_that_is_not_proven_in_time_is_an_error_on_the_page(
    portal: DeskPortal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(scenario: Scenario, must: frozenset[str], time_limit_s: float) -> Award:
        raise OutOfTime(f"No award was proven to be the best in {time_limit_s:g} s.", way_out="")

    portal = _with_solver(portal, monkeypatch, slow)
    Call(portal)
    browser = portal.browser(GOVERNMENT)
    said = english(browser, solve(browser))
    assert "No award was proven to be the best in 60 s." in said and "Try again" in said
    assert "Proven to be the best" not in said and "/draft" not in said


def test_a_run_that_waits_shows_its_progress_and_stale_ones_say_so(
    portal: DeskPortal, monkeypatch: pytest.MonkeyPatch
) -> None:
    let = threading.Event()

    def waits(scenario: Scenario, must: frozenset[str], time_limit_s: float) -> Award:
        assert let.wait(10)
        return award(scenario, must=must)

    portal = _with_solver(portal, monkeypatch, waits)
    call = Call(portal)
    browser = portal.browser(GOVERNMENT)
    path = place_of(browser.post("/awards/programmes/national/solve"))
    assert 'role="status"' in english(browser, path) and "The solver is at work." in english(browser, path)
    again = place_of(browser.post("/awards/programmes/national/solve"))
    assert again == path
    asked = post(browser, "/programmes/national/what-if?wait=0")
    assert (asked.status_code, asked.json()["state"], asked.json()["answer"]) == (202, "solving", None)
    assert browser.post(f"{path}/draft", wait="yes").status_code == 409
    let.set()
    assert "Since this run" not in solved(browser, path)
    later = browser.get(asked.headers["location"])
    assert (later.status_code, later.json()["state"]) == (200, "solved")
    portal.pool.service.withdraw(command_id(), portal.person("researcher-snu").actor, call.high.id, "moved on")
    assert "Since this run reviews, GPUs or rules have changed" in english(browser, path)


def _with_solver(portal: DeskPortal, monkeypatch: pytest.MonkeyPatch, solver: Any) -> DeskPortal:
    """The same kind of portal with another solver."""
    monkeypatch.setattr("slurm_gpuaas.portal.routes.awards.AwardRuns", partial(AwardRuns, solve=solver))
    folder = portal.folder / "other"
    folder.mkdir()
    return DeskPortal(folder)


def test_a_line_is_changed_by_hand_within_the_rules_and_makes_a_new_draft(portal: DeskPortal) -> None:
    call, browser = Call(portal), portal.browser(GOVERNMENT)
    first = drafted(portal, browser)
    path = f"{first}/lines/{call.low.id}"
    assert 'value="32"' in english(browser, path)
    for wrong, field in (
        ({"decision": "award", "share": NHN, "gpus": "20"}, "gpus"),
        ({"decision": "award", "share": NHN, "gpus": "65"}, "gpus"),
        ({"decision": "award", "share": "", "gpus": "16"}, "share"),
        ({"decision": "wait", "why": ""}, "why"),
        ({"decision": "nonsense"}, "decision"),
    ):
        answer = browser.post(path, **wrong)
        assert answer.status_code == 422 and f'id="f-{field}-fault"' in answer.text, wrong
    unfit = browser.post(path, decision="award", share=NAVER, gpus="16")
    assert unfit.status_code == 403 and 'role="alert"' in unfit.text  # another model
    assert browser.get(f"/api/v1{first}").json()["state"] == "drafted"
    fields = {"decision": "award", "share": NHN, "gpus": "16", "command": "one-and-the-same"}
    second = place_of(browser.post(path, **fields))
    assert place_of(browser.post(path, **fields)) == second != first
    before, after = browser.get(f"/api/v1{first}").json(), browser.get(f"/api/v1{second}").json()
    assert (before["state"], after["state"]) == ("dropped", "drafted")
    assert {one["application"]: one["gpus"] for one in after["awards"]} == {
        call.high.id: 32,
        call.whole.id: 32,
        call.low.id: 16,
    }
    third = place_of(browser.post(f"{second}/lines/{call.low.id}", decision="refuse", why="Out of scope."))
    with_one = refusal(browser, call.last)
    alone = browser.post(f"{with_one}/lines/{call.last.id}", decision="open")
    assert alone.status_code == 422 and 'id="f-decision-fault"' in alone.text
    fourth = place_of(browser.post(f"{third}/lines/{call.last.id}", decision="open"))
    draft = browser.get(f"/api/v1{fourth}").json()
    assert draft["refused"] == [{"application": call.low.id, "why": "Out of scope."}] and draft["waiting"] == []
    assert browser.get(path).status_code == 409  # of the dropped draft


def test_who_changes_a_draft_of_somebody_else_cannot_approve_it(portal: DeskPortal) -> None:
    call, browser, other = Call(portal), portal.browser(GOVERNMENT), portal.browser("second")
    first = drafted(portal, browser)
    other.get(first)
    second = place_of(other.post(f"{first}/lines/{call.low.id}", decision="open"))
    assert other.post(f"{second}/approve").status_code == 403
    browser.get(second)
    assert place_of(browser.post(f"{second}/approve")) == second


def test_what_stands_against_an_approval_is_told_on_its_page_and_nothing_happens(portal: DeskPortal) -> None:
    call, browser, other = Call(portal), portal.browser(GOVERNMENT), portal.browser("second")
    number = drafted(portal, browser)
    portal.pool.service.withdraw(command_id(), portal.person("researcher-snu").actor, call.high.id, "moved on")
    other.get(number)
    answer = other.post(f"{number}/approve")
    assert answer.status_code == 409 and 'role="alert"' in answer.text and call.high.id in answer.text
    assert portal.store.register.offers.all() == ()
    assert place_of(other.post(f"{number}/drop", reason="withdrawn meanwhile")) == number
    assert browser.get(f"/api/v1{number}").json()["state"] == "dropped"


def test_what_earlier_rounds_hold_is_told_before_a_draft_is_refused(portal: DeskPortal) -> None:
    rules = programme(calls=portal.store.register.programmes.all()[0].calls, caps=Caps(organisation=32))
    portal.pool.service.put_programme(command_id(), portal.officer, rules)
    one, two = portal.judged("kaist", 90, gpus=32, model="b200"), portal.judged("kaist", 80, gpus=32, model="b200")
    portal.close()
    browser, other = portal.browser(GOVERNMENT), portal.browser("second")
    number = place_of(browser.post(f"{solve(browser)}/draft"))  # two is left undecided
    other.get(number)
    assert place_of(other.post(f"{number}/approve")) == number
    run = solve(browser)
    assert "kaist would have 64 GPUs on 1 Feb 2027, 32 of them already now; its cap is 32." in english(browser, run)
    refused = browser.post(f"{run}/draft", wait="yes")
    assert refused.status_code == 403 and "32" in refused.text
    assert [offer.application for offer in portal.store.register.offers.all()] == [one.id] != [two.id]


# -- Who sees what -----------------------------------------------------------------------------------------------------


def approved(portal: DeskPortal) -> tuple[Call, str, str]:
    """A call that was decided on: its run and its award."""
    call, browser, other = Call(portal), portal.browser(GOVERNMENT), portal.browser("second")
    run = solve(browser)
    number = place_of(browser.post(f"{run}/draft", wait="yes"))
    other.get(number)
    assert other.post(f"{number}/approve").status_code == 303
    return call, run, number


def test_a_provider_sees_what_was_approved_at_its_shares_and_nothing_else(portal: DeskPortal) -> None:
    call, run, number = approved(portal)
    draft = refusal(portal.browser(GOVERNMENT), call.last)
    operator = portal.browser(OPERATOR)  # naver's
    page = english(operator, number)
    assert call.high.id in page
    assert not any(one.id in page for one in (call.whole, call.low, call.last))
    (seen,) = operator.get("/api/v1/awards").json()["items"]
    assert (seen["id"], [one["application"] for one in seen["awards"]], seen["waiting"]) == (
        number.rpartition("/")[2],
        [call.high.id],
        [],
    )
    for path in (draft, run, "/awards/programmes/national", "/awards/programmes/national/waiting-list"):
        assert operator.get(path).status_code == 404, path
    for path in (draft, "/programmes/national/scenario", "/programmes/national/waiting-list"):
        assert operator.get(f"/api/v1{path}").status_code == 404, path
    assert portal.browser(PortalRole.TENANT_ADMIN).get(number).status_code == 403


def refusal(browser: Browser, application: Application) -> str:
    """A draft that refuses one application; its page."""
    refused = [{"application": application.id, "why": "Out of scope."}]
    return f"/awards/{post(browser, '/awards', programme='national', refused=refused).json()['id']}"


def test_an_auditor_reads_everything_and_changes_nothing(portal: DeskPortal) -> None:
    call, run, number = approved(portal)
    auditor = portal.browser(AUDITOR)
    for path in ("/awards", number, run, "/awards/programmes/national", "/awards/programmes/national/waiting-list"):
        said = english(auditor, path)
        assert f'action="{path}' not in said and "what-if" not in said
    assert call.last.id in english(auditor, number)
    for path in (f"{run}/draft", f"{run}/what-if", "/awards/programmes/national/solve", f"{number}/approve"):
        assert auditor.post(path).status_code == 403


# -- API ---------------------------------------------------------------------------------------------------------------


def test_the_scenario_of_the_api_is_the_file_of_the_command(portal: DeskPortal) -> None:
    call, browser = Call(portal), portal.browser(GOVERNMENT)
    given = Scenario.model_validate(browser.get("/api/v1/programmes/national/scenario").json())
    assert given == portal.pool.service.scenario(programme().name)
    assert set(award(given).awarded) == {call.high.id, call.whole.id, call.low.id}


def test_a_what_if_of_the_api_answers_with_what_differs(portal: DeskPortal) -> None:
    call, browser = Call(portal), portal.browser(GOVERNMENT)
    plain = post(browser, "/programmes/national/what-if")
    assert plain.status_code == 200 and "changes" not in plain.json()["answer"]
    asked = post(browser, "/programmes/national/what-if", without=[call.whole.id], caps={"per_project": None})
    assert asked.status_code == 200, asked.text
    answer = asked.json()["answer"]
    assert {one["id"]: one["gpus"] for one in answer["changes"]} == {call.whole.id: -32, call.low.id: 32}
    assert answer["base_objective"] == 95 * 32 + 90 * 32 + 70 * 32 and answer["objective"] == 95 * 32 + 70 * 64
    for nothing in ({}, {"refused": [{"application": call.low.id, "why": "No."}] * 2}):
        assert post(browser, "/awards", programme="national", **nothing).status_code == 422
    for wrong in ({"without": ["a2026-99999"]}, {"capacities": {NHN: -1}}, {"caps": {"other": 1}}, {"more": 1}):
        assert post(browser, "/programmes/national/what-if", **wrong).status_code == 422, wrong
    assert post(browser, "/programmes/none/what-if").status_code == 404


def test_what_the_solver_says_of_an_application_can_be_its_reason(portal: DeskPortal) -> None:
    call, browser = Call(portal), portal.browser(GOVERNMENT)
    answer = post(browser, "/programmes/national/what-if", caps={"organisation": 64}).json()["answer"]
    refused = [{"application": one["id"], "why": one["why"]} for one in answer["refused"]]
    assert max(len(one["why"]) for one in refused) > 200, "otherwise a shorter line would do"
    made = post(browser, "/awards", programme="national", waiting=refused)
    assert made.status_code == 200, made.text
    assert made.json()["waiting"] == refused
    longer = [{"application": call.last.id, "why": "x" * 1_001}]
    assert post(browser, "/awards", programme="national", waiting=longer).status_code == 422


def test_a_draft_outlives_the_portal_and_its_run_need_not(portal: DeskPortal) -> None:
    Call(portal)
    browser = portal.browser(GOVERNMENT)
    run = solve(browser)
    solved(browser, run)
    number = place_of(browser.post(f"{run}/draft", wait="yes"))
    second = Browser(make_portal(replace(portal.wiring, features=portal.parts())))  # as after a restart
    second.sign_in("second")
    assert "Solve it again from the programme&#39;s award desk." in english(second, run, 404)
    assert number.rpartition("/")[2] in english(second, "/awards")
    english(second, number)
    assert second.post(f"{number}/approve").status_code == 303
    assert portal.store.register.offers.all(state="made")


def test_awards_are_drafted_approved_and_read_in_pages_by_the_api(portal: DeskPortal) -> None:
    call, browser, other = Call(portal), portal.browser(GOVERNMENT), portal.browser("second")
    made = post(
        browser,
        "/awards",
        programme="national",
        awards=[{"application": call.high.id, "share": NAVER, "gpus": 32}],
        waiting=[{"application": call.last.id, "why": "No room."}],
    )
    assert made.status_code == 200, made.text
    number = made.json()["id"]
    assert post(browser, f"/awards/{number}/approve").status_code == 403
    assert post(other, f"/awards/{number}/approve").json()["state"] == "approved"
    assert post(other, f"/awards/{number}/drop", reason="late").status_code == 409
    second = post(browser, "/awards", programme="national", refused=[{"application": call.low.id, "why": "No."}]).json()
    first = browser.get("/api/v1/awards?limit=1").json()
    assert [one["id"] for one in first["items"]] == [second["id"]]
    rest = browser.get(f"/api/v1/awards?limit=1&cursor={first['next']}").json()
    assert ([one["id"] for one in rest["items"]], rest["next"]) == ([number], None)
    (waiting,) = browser.get("/api/v1/programmes/national/waiting-list").json()["items"]
    assert (waiting["place"], waiting["application"], waiting["why"]) == (1, call.last.id, "No room.")
    for path in ("/awards/x", "/awards/w2026-99999", "/programmes/none/scenario", "/programmes/national/what-if/r-x"):
        assert browser.get(f"/api/v1{path}").status_code == 404, path
