"""From the list of programmes to a submitted application, and what its people and the office then see."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from slurm_gpuaas.domain.applications import Application, ApplicationState
from slurm_gpuaas.domain.calendar import korean_day
from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.names import (
    AccountName,
    ClusterName,
    CommandId,
    GpuModel,
    PartitionName,
    ProgrammeName,
    QosName,
    UserName,
)
from slurm_gpuaas.domain.people import PortalRole
from slurm_gpuaas.domain.pool_grants import AwardLine, PoolGrant
from slurm_gpuaas.domain.programmes import OrganisationKind
from slurm_gpuaas.domain.usage import UsageChange, UsageRecord
from tests.pools import Browser, PoolPortal
from tests.unit.pool.scene import NHN, organisation

NATIONAL = ProgrammeName("national")
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
    assert (request.title, request.purpose, request.gpus, request.days) == (
        "한국어 음성 모델",
        "Speech\nfor all",
        16,
        60,
    )
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
    answer = browser.post("/apply/national/period", then="next", **STEPS["period"] | {"days": "366", "gpus": "24.5"})
    assert answer.status_code == 422
    assert 'id="f-days-fault"' in answer.text and "366" in answer.text and "365" in answer.text
    assert pool.store.register.drafts.get(pool.person("researcher-snu").id, NATIONAL).fields["days"] == "366"


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
    for part in ("GPUs = FLOPs", "제안: 16장", "NVIDIA Blackwell data sheet", "38%", "공개 자료"):
        assert part in page, part


def test_of_any_model_the_one_that_needs_most_is_proposed(pool: PoolPortal) -> None:
    application = applied(pool, model="any", gpus="64")
    assert application.request.model is None
    assert application.request.sized is not None
    assert (application.request.sized.model, application.request.sized.proposed) == ("h200", 64)


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
    office, institute = pool.people[PortalRole.GOVERNMENT].actor, OrganisationKind.RESEARCH_INSTITUTE
    pool.pool.service.put_organisation(CommandId("institute"), office, organisation("snu", institute))
    browser = pool.browser("researcher-snu")
    answer = browser.post("/apply/national/call", then="next", **STEPS["call"])
    assert answer.status_code == 422 and "research-institute" in answer.text


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
        unseen = 403 if who is PortalRole.PROVIDER_OPERATOR else 404
        assert browser.get(path).status_code == (200 if may else unseen), who
        assert browser.get(api).status_code == (200 if may else unseen), who
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
    assert "사업 담당자</strong>: 신청서를 다 갖췄는지" in browser.get(f"/applications/{application.id}").text
    pool.browser(PortalRole.GOVERNMENT).post(f"/applications/{application.id}/begin-review")
    page = browser.get(f"/applications/{application.id}").text
    assert "심사위원</strong>" in page and "2026. 12. 5. 09:30" in page
    assert "김정부" not in page, "who works at the office is not told to applicants"
    assert "김정부" in pool.browser(PortalRole.GOVERNMENT).get(f"/applications/{application.id}").text


def test_an_application_of_a_call_that_the_programme_no_longer_has_is_still_told(pool: PoolPortal) -> None:
    application = applied(pool)
    office = pool.browser(PortalRole.GOVERNMENT)
    office.post(f"/applications/{application.id}/begin-review")
    rules = pool.store.register.programmes.get(NATIONAL).model_copy(update={"calls": ()})
    pool.pool.service.put_programme(CommandId("no-calls"), pool.people[PortalRole.GOVERNMENT].actor, rules)
    for path in ("/", "/applications", f"/applications/{application.id}", "/api/v1/applications"):
        assert office.get(path).status_code == 200, path
    assert "사업 담당자</strong>: 심사가 충분히" in office.get(f"/applications/{application.id}").text


def test_its_people_withdraw_an_application_with_a_reason(pool: PoolPortal) -> None:
    application = applied(pool)
    assert (
        pool.browser(PortalRole.RESEARCHER).post(f"/applications/{application.id}/withdraw", reason="x").status_code
        == 404
    )
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
    assert "작성 중인 신청서" in page and "7일 뒤" in page
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
    assert made[0].json()["next"]["who"] == "사업 담당자"
    path = f"/api/v1/applications/{made[0].json()['id']}"
    begun = pool.browser(PortalRole.GOVERNMENT)
    assert begun.client.post(f"{path}/begin-review", headers=signed(begun)).json()["state"] == "in review"
    gone = browser.client.post(f"{path}/withdraw", json={"reason": "no"}, headers=signed(browser)).json()
    assert gone["state"] == "withdrawn" and [step["by"] for step in gone["history"]] == [None, None]


def test_earlier_grants_are_measured_and_count(pool: PoolPortal) -> None:
    """The grant had 16 GPUs for ten days and jobs on 72 % of that; where nothing was measured 85 % are assumed."""
    service, store, person = pool.pool.service, pool.store, pool.person("researcher-snu")
    today = korean_day(pool.clock.now())
    application = applied(pool, starts=str(today))
    service.begin_review(CommandId("earlier-1"), pool.person("second").actor, application.id)
    points = {"impact": 80, "plan": 80}
    service.review(CommandId("earlier-2"), pool.person("third").actor, application.id, points, "")
    pool.clock.forward(timedelta(days=8))
    line = AwardLine(application=application.id, share=NHN, gpus=16)
    award = service.draft_award(CommandId("earlier-3"), pool.person("second").actor, application.programme, (line,))
    service.approve_award(CommandId("earlier-4"), pool.person("third").actor, award.id)
    (offer,) = store.register.offers.all()
    grant = service.accept_offer(CommandId("earlier-5"), person.actor, offer.id)
    began = pool.clock.now()
    pool.clock.forward(timedelta(days=10))
    hours = (korean_day(pool.clock.now()) - grant.starts).days * 24 * 16
    pool.pool.keeper.take([used(grant, began, round(0.72 * hours * 3_600)), used(grant, began, 10**7, burst=True)])
    sizes = {login: sized_for(pool, login) for login in ("researcher-snu", PortalRole.RESEARCHER, "admin-snu")}
    assert sizes["researcher-snu"] == sizes["admin-snu"] == ("measured", 0.72)
    assert sizes[PortalRole.RESEARCHER] == ("assumed", 0.85), "a grant that the person may not see"


def used(grant: PoolGrant, began: datetime, seconds: int, *, burst: bool = False) -> UsageChange:
    record = UsageRecord(
        cluster=ClusterName("nhn"),
        job_id=JobId(8 if burst else 7),
        user=UserName("kim"),
        account=AccountName(grant.project),
        qos=QosName(f"{'burst' if burst else 'guaranteed'}-{grant.project}"),
        partition=PartitionName("b200-government"),
        model=GpuModel("b200"),
        gpus=16,
        started=began,
        ended=began + timedelta(seconds=seconds // 16),
        gpu_seconds=seconds,
        state="COMPLETED",
    )
    return UsageChange(number=record.job_id, record=record)


def sized_for(pool: PoolPortal, login: PortalRole | str) -> tuple[str, float]:
    browser = pool.browser(login)
    asked = {"programme": "national", "model": "b200", "days": 60, "workload": WORKLOAD}
    answer = browser.client.post("/api/v1/sizing", json=asked, headers=signed(browser)).json()
    use = next(one for one in answer["figures"] if one["name"] == "in use")
    return use["origin"], round(use["value"], 2)
