"""From the list of programmes to a submitted application, and what its people and the office then see."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from slurm_gpuaas.domain.applications import Application, ApplicationState
from slurm_gpuaas.domain.calendar import korean_day
from slurm_gpuaas.domain.names import OrganisationName, ProgrammeName
from slurm_gpuaas.domain.people import PortalRole
from slurm_gpuaas.domain.programmes import OrganisationKind
from tests.pools import Browser, PoolPortal
from tests.unit.pool.scene import organisation, programme

NATIONAL = ProgrammeName("national")
ENGLISH = {"Accept-Language": "en"}
STEPS: dict[str, dict[str, str]] = {
    "call": {"call": "1", "title": "한국어 음성 모델"},
    "purpose": {"purpose": "Speech\r\nfor all", "workload": "8B, from scratch"},
    "size": {
        "kind": "pre-training",
        "model": "b200",
        "days": "60",
        "precision": "bf16",
        "parameters": "80억",
        "tokens": "1조",
    },
    "period": {"starts": "2026-12-01", "days": "60", "gpus": "16", "min_gpus": "8", "why": "", "budget_won": ""},
}


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[PoolPortal]:
    portal = PoolPortal(tmp_path)
    yield portal
    portal.store.close()


def fill(browser: Browser, **changed: str) -> None:
    for step, fields in STEPS.items():
        browser.post(f"/apply/national/{step}", then="next", **{k: changed.get(k, v) for k, v in fields.items()})


def applied(pool: PoolPortal, login: str = "researcher-snu", **changed: str) -> Application:
    browser = pool.browser(login)
    fill(browser, **changed)
    answer = browser.post("/apply/national")
    assert answer.status_code == 303, answer.text
    return pool.store.register.applications.all()[-1]


def test_the_wizard_leads_step_by_step_to_an_application(pool: PoolPortal) -> None:
    browser = pool.browser("researcher-snu")
    path = browser.get("/apply/national").headers["location"]
    assert path == "/apply/national/call"
    for fields in STEPS.values():
        assert browser.get(path).status_code == 200
        answer = browser.post(path, then="next", **fields)
        assert answer.status_code == 303, answer.text
        path = answer.headers["location"]
    assert path == "/apply/national/check"
    assert "신청서 제출" in browser.get(path).text
    answer = browser.post("/apply/national")
    (application,) = pool.store.register.applications.all()
    assert answer.headers["location"] == f"/applications/{application.id}?said=submitted"
    request = application.request
    assert (request.title, request.purpose, request.gpus, request.days) == ("한국어 음성 모델", "Speech\nfor all", 16, 60)
    assert request.sized is not None and request.sized.proposed == 16
    assert request.sized.workload.parameters == 8e9 and request.sized.workload.tokens == 1e12
    assert pool.store.register.drafts.all() == ()


def test_a_draft_waits_until_tomorrow_and_goes_on_where_it_was_left(pool: PoolPortal) -> None:
    browser = pool.browser("researcher-snu")
    browser.post("/apply/national/call", then="leave", title="Half a", call="1")
    browser.post("/apply/national/purpose", then="leave", purpose="P", workload="")
    pool.clock.forward(timedelta(days=1))
    browser = pool.browser("researcher-snu")
    assert "Half a" in browser.get("/applications").text
    assert browser.get("/apply/national").headers["location"] == "/apply/national/purpose"
    assert ">P</textarea>" in browser.get("/apply/national/purpose").text
    assert "Half a" not in pool.browser("researcher-kaist").get("/apply/national/call").text
    browser.post("/apply/national/drop")
    assert pool.store.register.drafts.all() == ()


def test_a_wrong_field_is_saved_and_told_beside_it(pool: PoolPortal) -> None:
    browser = pool.browser("researcher-snu")
    browser.post("/language/en")
    answer = browser.post("/apply/national/period", then="next", **STEPS["period"] | {"days": "366", "gpus": "24.5"})
    assert answer.status_code == 422
    assert 'id="f-days-fault"' in answer.text and "366" in answer.text and "365" in answer.text
    assert pool.store.register.drafts.get(pool.person("researcher-snu").id, "national").fields["days"] == "366"


@pytest.mark.parametrize(
    ("changed", "field", "numbers"),
    [
        ({"gpus": "12"}, "gpus", ("12", "8, 16, 32, 64")),
        ({"min_gpus": "32"}, "min_gpus", ("32", "16")),
        ({"days": "366"}, "days", ("366", "365")),
        ({"starts": "2026-11-27"}, "starts", ("2026. 11. 27.", "2026. 11. 28.")),
        ({"starts": "2026-13-01"}, "starts", ("2027-03-01",)),
        ({"model": "a100"}, "model", ("a100",)),
        ({"gpus": "32"}, "why", ("16",)),
        ({"budget_won": "1000000"}, "budget_won", ("national",)),
        ({"call": "2"}, "call", ("2",)),
        ({"parameters": "8X"}, "parameters", ("80억",)),
        ({"tokens": ""}, "tokens", ("1.5T",)),
        ({"kind": "other"}, "gpu_hours", ("8e9",)),
        ({"purpose": "x" * 4_001}, "purpose", ("4,000",)),
    ],
)
def test_what_a_rule_forbids_is_told_beside_its_field_with_its_numbers(
    pool: PoolPortal, changed: dict[str, str], field: str, numbers: tuple[str, ...]
) -> None:
    browser = pool.browser("researcher-snu")
    (step,) = {step for step, fields in STEPS.items() if field in fields or (field == "gpu_hours" and step == "size")} - (
        {"size"} if field == "days" else set()
    )
    for one, fields in STEPS.items():
        answer = browser.post(f"/apply/national/{one}", then="next", **{k: changed.get(k, v) for k, v in fields.items()})
        if one == step:
            assert answer.status_code == 422
            (fault,) = re.findall(rf'id="f-{field}-fault">(.*?)</p>', answer.text)
            assert all(number in fault for number in numbers), fault
    check = browser.post("/apply/national")
    assert check.status_code == 422 and f"#f-{field}" in check.text
    assert pool.store.register.applications.all() == ()


def test_another_count_than_proposed_is_applied_for_with_a_reason(pool: PoolPortal) -> None:
    application = applied(pool, gpus="32", why="Three runs at once")
    assert application.request.sized is not None
    assert (application.request.gpus, application.request.sized.proposed) == (32, 16)
    office = pool.browser(PortalRole.GOVERNMENT).get(f"/applications/{application.id}").text
    assert "Three runs at once" in office and "16장" in office


def test_the_proposal_shows_formula_figures_and_sources(pool: PoolPortal) -> None:
    browser = pool.browser("researcher-snu")
    answer = browser.post("/apply/national/size", then="size", **STEPS["size"])
    assert answer.status_code == 303
    page = browser.get("/apply/national/size").text
    for part in ("GPUs = FLOPs", "제안: 16장", "NVIDIA Blackwell data sheet", "38 %", "공개 자료"):
        assert part in page, part


def test_of_any_model_the_one_that_needs_most_is_proposed(pool: PoolPortal) -> None:
    application = applied(pool, model="any", gpus="32")
    assert application.request.model is None
    assert application.request.sized is not None
    assert (application.request.sized.model, application.request.sized.proposed) == ("h200", 32)


def test_submit_pressed_twice_is_one_application(pool: PoolPortal) -> None:
    browser = pool.browser("researcher-snu")
    fill(browser)
    first = browser.post("/apply/national", command="press-0001")
    again = browser.post("/apply/national", command="press-0001")
    assert first.headers["location"] == again.headers["location"]
    assert len(pool.store.register.applications.all()) == 1


def test_a_call_that_closes_meanwhile_is_told_and_the_draft_stays(pool: PoolPortal) -> None:
    browser = pool.browser("researcher-snu")
    fill(browser)
    pool.clock.forward(timedelta(days=8))
    browser = pool.browser("researcher-snu")
    assert browser.post("/apply/national").status_code == 422
    assert pool.store.register.drafts.all() != ()


def test_who_cannot_apply_is_told_so(pool: PoolPortal) -> None:
    assert pool.browser(PortalRole.GOVERNMENT).get("/apply/national").status_code == 403
    assert pool.browser("researcher-snu").get("/apply/nothing").status_code == 404
    assert pool.browser("researcher-snu").get("/apply/national/nowhere").status_code == 404
    program = pool.people[PortalRole.GOVERNMENT].actor
    pool.pool.service.put_organisation(
        pool_id(), program, organisation("snu", OrganisationKind.RESEARCH_INSTITUTE)
    )
    browser = pool.browser("researcher-snu")
    answer = browser.post("/apply/national/call", then="next", **STEPS["call"])
    assert answer.status_code == 422 and "research-institute" in answer.text


def pool_id() -> Any:
    from uuid import uuid4

    from slurm_gpuaas.domain.names import CommandId

    return CommandId(str(uuid4()))


# -- Afterwards --------------------------------------------------------------------------------------------------------


def test_who_sees_an_application(pool: PoolPortal) -> None:
    application = applied(pool)
    path, api = f"/applications/{application.id}", f"/api/v1/applications/{application.id}"
    sees = {
        "researcher-snu": True,
        "admin-snu": True,
        PortalRole.RESEARCHER: False,  # of snu too, and not the applicant
        "researcher-kaist": False,
        "admin-kaist": False,
        PortalRole.GOVERNMENT: True,
        PortalRole.AUDITOR: True,
        PortalRole.PROVIDER_OPERATOR: False,
    }
    for who, may in sees.items():
        browser = pool.browser(who)
        assert browser.get(path).status_code == (200 if may else 403), who
        assert browser.get(api).status_code == (200 if may else 403), who
        listed = browser.get("/api/v1/applications")
        if listed.status_code == 200:
            assert [one["id"] for one in listed.json()["items"]] == ([application.id] if may else []), who
            assert ("한국어 음성 모델" in browser.get("/applications").text) is may, who


def test_the_office_checks_one_and_all_complete_ones_of_a_call(pool: PoolPortal) -> None:
    one, other = applied(pool, "researcher-snu"), applied(pool, "researcher-kaist")
    asked = {"call": 1, "title": "T", "purpose": "", "workload": "", "gpus": 8, "min_gpus": 8}
    asked |= {"programme": "national", "starts": "2026-12-01", "ends": "2026-12-31"}
    mint = pool.browser("researcher-mint")
    hollow = mint.client.post("/api/v1/applications", json=asked, headers=signed(mint)).json()["id"]
    office = pool.browser(PortalRole.GOVERNMENT)
    assert "접수 3건, 그중 2건 구비" in office.get("/applications").text
    assert "적혀 있지 않습니다" in office.get(f"/applications/{hollow}").text
    assert office.post(f"/applications/{one.id}/begin-review").status_code == 303
    for _ in range(2):
        answer = office.post("/applications/begin-review", programme="national", call="1", command="press-0001")
    assert answer.headers["location"] == "/applications?begun=0-1"
    states = {found.id: found.state for found in pool.store.register.applications.all()}
    assert states[one.id] is states[other.id] is ApplicationState.IN_REVIEW
    assert states[hollow] is ApplicationState.SUBMITTED
    assert pool.browser("researcher-snu").post(f"/applications/{one.id}/begin-review").status_code == 403


def test_what_happens_next_and_by_when(pool: PoolPortal) -> None:
    application = applied(pool)
    browser = pool.browser("researcher-snu")
    assert "사업 담당 기관</strong>: 신청서를 다 갖췄는지" in browser.get(f"/applications/{application.id}").text
    pool.browser(PortalRole.GOVERNMENT).post(f"/applications/{application.id}/begin-review")
    page = browser.get(f"/applications/{application.id}").text
    assert "심사위원</strong>" in page and "2026. 12. 5. 09:30" in page
    assert "김정부" not in page, "who works at the office is not told to applicants"
    assert "김정부" in pool.browser(PortalRole.GOVERNMENT).get(f"/applications/{application.id}").text


def test_its_people_withdraw_an_application_with_a_reason(pool: PoolPortal) -> None:
    application = applied(pool)
    assert pool.browser(PortalRole.RESEARCHER).post(f"/applications/{application.id}/withdraw", reason="x").status_code == 403
    browser = pool.browser("researcher-snu")
    assert browser.post(f"/applications/{application.id}/withdraw", reason=" ").status_code == 422
    assert browser.post(f"/applications/{application.id}/withdraw", reason="No data yet").status_code == 303
    page = browser.get(f"/applications/{application.id}").text
    assert "No data yet" in page and "신청 철회" not in page


def test_home_tells_of_drafts_open_calls_and_what_is_to_be_checked(pool: PoolPortal) -> None:
    browser = pool.browser("researcher-snu")
    assert "작성 중인 신청서" not in browser.get("/").text
    browser.post("/apply/national/call", then="leave", title="T", call="1")
    page = browser.get("/").text
    assert "작성 중인 신청서" in page and "6일 뒤" in page
    applied(pool, "researcher-kaist")
    assert "심사를 시작하지 않은 신청" in pool.browser(PortalRole.GOVERNMENT).get("/").text
    assert "작성 중인" not in pool.browser(PortalRole.PROVIDER_OPERATOR).get("/").text


# -- By API ------------------------------------------------------------------------------------------------------------


def signed(browser: Browser, **headers: str) -> dict[str, str]:
    return {"Origin": browser.origin, "X-CSRF-Token": browser.csrf, **headers}


WORKLOAD = {"kind": "pre-training", "parameters": 8e9, "tokens": 1e12}


def test_sizing_by_api_is_the_wizards(pool: PoolPortal) -> None:
    browser = pool.browser("researcher-snu")
    asked = {"programme": "national", "model": "b200", "days": 60, "workload": WORKLOAD}
    answer = browser.client.post("/api/v1/sizing", json=asked, headers=signed(browser))
    assert answer.status_code == 200, answer.text
    assert (answer.json()["gpus"], answer.json()["models"]) == (16, {"b200": 16})
    for wrong in ({"model": "a100"}, {"days": 366}, {"workload": {"kind": "other"}}, {"days": 0}):
        answer = browser.client.post("/api/v1/sizing", json=asked | wrong, headers=signed(browser))
        assert answer.status_code in (403, 422), wrong


def test_applying_by_api_needs_a_reason_for_another_count_and_is_done_once(pool: PoolPortal) -> None:
    browser = pool.browser("researcher-snu")
    asked: dict[str, Any] = {
        "programme": "national",
        "call": 1,
        "title": "T",
        "purpose": "P",
        "workload": "W",
        "model": "b200",
        "gpus": 32,
        "min_gpus": 8,
        "starts": "2026-12-01",
        "ends": "2027-01-29",
        "declared": WORKLOAD,
    }
    refused = browser.client.post("/api/v1/applications", json=asked, headers=signed(browser))
    assert refused.status_code == 422 and "16" in refused.json()["detail"]
    headers = signed(browser, **{"Idempotency-Key": "apply-0001"})
    made = [
        browser.client.post("/api/v1/applications", json=asked | {"why": "Two runs"}, headers=headers) for _ in range(2)
    ]
    assert [one.status_code for one in made] == [201, 201]
    assert made[0].json()["id"] == made[1].json()["id"]
    assert made[0].json()["next"]["who"] == "사업 담당 기관"
    path = f"/api/v1/applications/{made[0].json()['id']}"
    begun = pool.browser(PortalRole.GOVERNMENT)
    assert begun.client.post(f"{path}/begin-review", headers=signed(begun)).json()["state"] == "in review"
    gone = browser.client.post(f"{path}/withdraw", json={"reason": "no"}, headers=signed(browser)).json()
    assert gone["state"] == "withdrawn" and [step["by"] for step in gone["history"]] == [None, None]


def test_earlier_grants_are_measured_and_count(pool: PoolPortal) -> None:
    """16 GPUs for 60 days, half of the time in use: 50 % of it, where 85 % are assumed, and no more for that."""
    from tests.unit.portal.earlier import with_earlier_grant

    person = pool.person("researcher-snu")
    with_earlier_grant(pool, person, used=0.72)
    pool.clock.forward(timedelta(days=0))
    asked = {"programme": "next", "model": "b200", "days": 60, "workload": WORKLOAD}
    browser = pool.browser("researcher-snu")
    answer = browser.client.post("/api/v1/sizing", json=asked, headers=signed(browser)).json()
    use = next(one for one in answer["figures"] if one["name"] == "in use")
    assert (use["origin"], round(use["value"], 2)) == ("measured", 0.72)
    other = pool.browser("researcher-kaist")
    answer = other.client.post("/api/v1/sizing", json=asked, headers=signed(other)).json()
    assert next(one for one in answer["figures"] if one["name"] == "in use")["origin"] == "assumed"


_ = (korean_day, OrganisationName, programme, ENGLISH, NATIONAL)
