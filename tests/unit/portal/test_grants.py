"""Offers, grants, members, changes and identity: pages and API over one pool."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from slurm_gpuaas.domain.applications import Application
from slurm_gpuaas.domain.names import ClusterName, OfferId, PoolShareName, ProgrammeName, UserName
from slurm_gpuaas.domain.people import PortalRole
from slurm_gpuaas.domain.pool_grants import AwardLine, ChangeState, OfferState, PoolGrantState
from slurm_gpuaas.domain.slurm_accounts import burst_qos, guaranteed_qos
from slurm_gpuaas.portal.app import make_app
from slurm_gpuaas.portal.description import gate_of, routes_of
from slurm_gpuaas.portal.rights import scope_of
from slurm_gpuaas.portal.visit import Needs
from slurm_gpuaas.quota.desired import wanted
from tests.pools import Browser
from tests.unit.pool.scene import NHN
from tests.unit.pool.sites import policy_of
from tests.unit.portal.grants_scene import KEY, LOGIN_HOST, SITE, GrantPortal, rate, token_of

OTHER_KEY = KEY.replace("IJ2sC7", "IJ2sC8").replace("kim@", "lee@")


@pytest.fixture
def portal(tmp_path: Path) -> Iterator[GrantPortal]:
    portal = GrantPortal(tmp_path)
    yield portal
    portal.store.close()


def text_of(answer: Any) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", answer.text)).split())


def most_of(browser: Browser, offer: str) -> str:
    found = re.search(r'name="most" value="(\d*)"', browser.get(f"/offers/{offer}").text)
    assert found is not None
    return found[1]


# -- Offers ------------------------------------------------------------------------------------------------------------


def test_an_offer_is_accepted_once_its_cost_is_confirmed(portal: GrantPortal) -> None:
    portal.pool.keeper.add_rate(rate(4_000))
    offer = portal.offered("mint", gpus=8)  # asked for 16; a young firm pays 2.5 %
    browser = portal.browser("admin-mint")
    shown = text_of(browser.get(f"/offers/{offer.id}"))
    days = (offer.ends - offer.starts).days + 1
    assert f"{8 * 24 * days * 100:,}원" in shown and "16장 (2대)" in shown and "신청보다 적습니다" in shown
    assert browser.post(f"/offers/{offer.id}/accept", most=most_of(browser, offer.id)).status_code == 422
    assert portal.store.register.offers.get(offer.id).state is OfferState.MADE
    answer = browser.post(f"/offers/{offer.id}/accept", most=most_of(browser, offer.id), sure="yes")
    (grant,) = portal.store.register.grants.all()
    assert answer.headers["location"] == f"/grants/{grant.id}?said=offer-accepted"
    assert (grant.gpus, grant.organisation) == (8, "mint")


def test_an_offer_whose_cost_has_risen_since_it_was_seen_is_not_accepted(portal: GrantPortal) -> None:
    portal.pool.keeper.add_rate(rate(4_000))
    offer = portal.offered("mint")
    browser = portal.browser("admin-mint")
    seen = int(most_of(browser, offer.id))
    answer = browser.post(f"/offers/{offer.id}/accept", most=str(seen - 1), sure="yes")
    assert answer.status_code == 422 and "최대 이용료가 바뀌었습니다" in answer.text
    token = token_of(portal, "admin-mint")
    path = f"/api/v1/offers/{offer.id}/accept"
    assert browser.client.post(path, json={"most_won": seen - 1}, headers=token).status_code == 409
    assert portal.store.register.grants.all() == ()
    assert browser.client.post(path, json={"most_won": seen}, headers=token).status_code == 200


def test_an_accepted_offer_sent_twice_is_accepted_once(portal: GrantPortal) -> None:
    offer = portal.offered()
    headers = {**token_of(portal, "admin-snu"), "Idempotency-Key": "accept-once-1"}
    client = portal.browser().client
    answers = [client.post(f"/api/v1/offers/{offer.id}/accept", headers=headers) for _ in range(2)]
    assert [one.status_code for one in answers] == [200, 200]
    assert len({one.json()["id"] for one in answers}) == 1
    again = client.post(f"/api/v1/offers/{offer.id}/accept", headers=token_of(portal, "admin-snu"))
    assert again.status_code == 409 and again.headers["content-type"] == "application/problem+json"


def test_a_declined_offer_needs_its_reason(portal: GrantPortal) -> None:
    offer = portal.offered()
    browser = portal.browser("admin-snu")
    browser.get(f"/offers/{offer.id}")
    assert 'aria-invalid="true"' in browser.post(f"/offers/{offer.id}/decline", reason=" ").text
    assert browser.post(f"/offers/{offer.id}/decline", reason="다른 자원을 구했습니다").status_code == 303
    assert portal.store.register.offers.get(offer.id).state is OfferState.DECLINED


def test_only_who_may_read_an_application_is_shown_a_link_to_it(portal: GrantPortal) -> None:
    offer = portal.offered()
    for who, linked in (("admin-snu", True), (PortalRole.PROVIDER_OPERATOR, False)):
        page = portal.browser(who).get(f"/offers/{offer.id}").text
        assert offer.application in page
        assert (f'href="/applications/{offer.application}"' in page) is linked, who


def test_offers_and_grants_of_others_are_not_shown(portal: GrantPortal) -> None:
    offer = portal.offered("snu", share=NHN, gpus=16)
    grant = portal.accepted(offer.id)
    pages = [f"/offers/{offer.id}", *(f"/grants/{grant.id}{rest}" for rest in ("", "/start", "/delivery"))]
    for who in ("admin-kaist", "researcher-kaist", PortalRole.PROVIDER_OPERATOR):  # naver's
        browser = portal.browser(who)
        for path in (*pages, f"/api/v1/grants/{grant.id}", f"/api/v1/offers/{offer.id}"):
            assert browser.get(path).status_code == 404, (who, path)
        for path in ("/offers", "/grants", "/api/v1/offers", "/api/v1/grants", "/api/v1/changes"):
            answer = browser.get(path)
            assert answer.status_code == 200 and grant.id not in answer.text and offer.id not in answer.text, path


def test_the_office_reads_organisations_by_their_titles(portal: GrantPortal) -> None:
    offer = portal.offered("snu", share=NHN, gpus=16)
    office = portal.browser(PortalRole.GOVERNMENT)
    for path in ("/offers", f"/offers/{offer.id}", "/applications"):
        assert "SNU" in office.get(path).text, path
    grant = portal.accepted(offer.id)
    person = portal.person("researcher-snu").id
    for path in ("/grants", f"/grants/{grant.id}", "/people", f"/people/{person}"):
        assert "SNU" in office.get(path).text, path


def test_a_researcher_sees_the_grants_that_they_are_members_of(portal: GrantPortal) -> None:
    grant = portal.granted()
    mine = portal.browser("researcher-snu")
    assert mine.get(f"/grants/{grant.id}").status_code == 404
    admin = portal.browser("admin-snu")
    admin.get(f"/grants/{grant.id}/members")
    researcher = portal.person("researcher-snu")
    assert admin.post(f"/grants/{grant.id}/members", members=[researcher.id]).status_code == 303
    assert mine.get(f"/grants/{grant.id}").status_code == 200
    assert [one["id"] for one in mine.get("/api/v1/grants").json()["items"]] == [grant.id]
    assert portal.browser("researcher-kaist").get(f"/grants/{grant.id}").status_code == 404


# -- The site ----------------------------------------------------------------------------------------------------------


def test_the_page_asks_again_until_the_site_has_the_grant(portal: GrantPortal) -> None:
    portal.site_takes()
    grant = portal.granted()
    browser = portal.browser("admin-snu")

    def state() -> str:
        return str(browser.get(f"/api/v1/grants/{grant.id}").json()["delivery"]["state"])

    part = browser.get(f"/grants/{grant.id}/delivery").text
    assert 'hx-trigger="every 1s"' in part and "<html" not in part
    assert state() == "on-the-way"
    portal.pool.turn()  # told, and the site has not asked again
    assert state() == "on-the-way"
    portal.site_takes()
    assert state() == "taken"
    assert "hx-trigger" not in browser.get(f"/grants/{grant.id}/delivery").text
    portal.pool.service.set_members(portal.id, portal.person("admin-snu").actor, grant.id, ())
    assert state() == "on-the-way"


def test_what_a_site_left_out_is_told_with_its_reason(portal: GrantPortal) -> None:
    grant = portal.granted()
    portal.site_takes()
    portal.site_reports(findings=[{"kind": "Grant", "name": grant.id, "why": "Share government is full."}])
    browser = portal.browser("admin-snu")
    delivery = browser.get(f"/api/v1/grants/{grant.id}").json()["delivery"]
    assert (delivery["state"], delivery["why"]) == ("left-out", "Share government is full.")
    assert "Share government is full." in browser.get(f"/grants/{grant.id}").text
    admin = portal.person("admin-snu")
    portal.pool.service.put_identity(portal.id, admin.actor, admin.id, UserName("choi"), ())
    portal.site_takes()  # what it said of an older set is not said of this one
    assert browser.get(f"/api/v1/grants/{grant.id}").json()["delivery"]["state"] == "taken"


def test_numbers_say_how_old_they_are(portal: GrantPortal) -> None:
    grant = portal.granted()
    browser = portal.browser("admin-snu")
    page = browser.get(f"/grants/{grant.id}").text
    assert "아직 사용 보고가 없습니다" in page and "– / 16" in page
    portal.site_reports()
    assert "0 / 16" in browser.get(f"/grants/{grant.id}").text
    assert browser.get(f"/api/v1/grants/{grant.id}").json()["stale"] is False
    assert "전 기준" not in text_of(browser.get("/grants"))
    portal.clock.forward(timedelta(minutes=7))
    assert browser.get(f"/api/v1/grants/{grant.id}").json()["stale"] is True
    assert "(7분 전) 기준 수치입니다" in text_of(browser.get(f"/grants/{grant.id}"))
    assert "7분 전 기준" in text_of(browser.get("/grants"))


# -- Use and limits ----------------------------------------------------------------------------------------------------


def test_nobody_is_told_of_idle_gpus_before_the_cluster_has_reported(portal: GrantPortal) -> None:
    grant = portal.granted()
    portal.clock.forward(timedelta(days=20))  # in which nothing was booked
    portal.pool.turn()
    for reported in (False, True):
        if reported:
            portal.site_reports()
        page = portal.browser("admin-snu").get(f"/grants/{grant.id}").text
        assert ("0%만 작업에 쓰였습니다" in page) is reported
        page = portal.browser("second").get(f"/grants/{grant.id}/take-back").text
        assert ("0장을 지금 쓰고" in page) is reported
        assert ("아직 사용 보고가 없습니다" in page) is not reported


def test_what_a_grant_used_is_what_the_ledger_books(portal: GrantPortal) -> None:
    portal.pool.keeper.add_rate(rate(4_000))
    grant = portal.granted("mint")
    portal.clock.forward(timedelta(days=2))
    portal.pool.turn()
    portal.ran(grant, 10, job=1)
    portal.ran(grant, 3, gpus=1, job=2, qos="burst-h200-government", state="PREEMPTED")
    portal.ran(grant, 1, job=3, state="NODE_FAIL")
    portal.site_reports()
    browser = portal.browser("admin-mint")
    use = browser.get(f"/api/v1/grants/{grant.id}").json()["use"]
    page = text_of(browser.get(f"/grants/{grant.id}"))
    portal.books()
    booked = [entry.amounts for entry in portal.store.ledger.entries()]
    assert use["won"] == sum(one.won for one in booked) == 80 * 100 + 3 * 50
    assert use["gpu_hours"] * 3_600 == sum(one.gpu_seconds for one in booked)
    assert (use["gpu_hours_burst"], use["gpu_hours_lost_to_faults"]) == (3, 8)
    # 88 of 16 GPUs' hours since its first day, 6 December 00:00, until 8 December 09:30
    assert use["percent_of_awarded"] == 100 * 88 // (16 * 57.5)
    assert "8.0 GPU시간" in page and "3.0 GPU시간" in page


def test_the_limit_that_bites_next_is_named(portal: GrantPortal) -> None:
    grant = portal.granted()
    browser = portal.browser("admin-snu")

    def limit() -> str:
        return str(browser.get(f"/api/v1/grants/{grant.id}").json()["next_limit"]["limit"])

    assert limit() == "end"
    portal.ran(grant, 1, gpus=16, running=True)
    assert limit() == "gpus"
    assert browser.get(f"/api/v1/grants/{grant.id}").json()["use"]["gpus_in_use"] == 16
    portal.pool.service.recall_grant(portal.id, portal.person("second").actor, grant.id, "not used")
    assert limit() == "over"


def test_a_budget_that_runs_dry_bites_before_the_end(tmp_path: Path) -> None:
    portal = GrantPortal(tmp_path)
    portal.pool.keeper.add_rate(rate(4_000))
    rules = portal.store.register.programmes.get("national").model_copy(update={"cap_won": 10_000_000})
    portal.pool.service.put_programme(portal.id, portal.person("second").actor, rules)
    grant = portal.granted("mint", budget_won=20_000)
    portal.clock.forward(timedelta(days=2))
    portal.pool.turn()
    portal.ran(grant, 10)  # 8,000 Won in two days and a half
    found = portal.browser("admin-mint").get(f"/api/v1/grants/{grant.id}").json()
    assert found["next_limit"]["limit"] == "won" and found["won_left"] == 12_000
    assert found["next_limit"]["at"] < f"{grant.ends}"
    portal.ran(grant, 15, job=2)
    found = portal.browser("admin-mint").get(f"/api/v1/grants/{grant.id}").json()
    assert found["next_limit"] == {"limit": "won", "at": None} and found["won_left"] == 0
    portal.store.close()


# -- How to start ------------------------------------------------------------------------------------------------------


def test_the_start_page_says_what_is_missing_and_then_nothing(portal: GrantPortal) -> None:
    grant = portal.granted()
    researcher = portal.person("researcher-snu")
    admin, mine = portal.browser("admin-snu"), portal.browser("researcher-snu")
    page = text_of(admin.get(f"/grants/{grant.id}/start"))
    for missing in ("아직 클러스터 계정이 없습니다", "아직 등록된 SSH 키가 없습니다", "최신 정보가 아직"):
        assert missing in page, missing
    portal.pool.service.set_members(portal.id, portal.person("admin-snu").actor, grant.id, (researcher.id,))
    assert "참여자가 아닙니다" in text_of(admin.get(f"/grants/{grant.id}/start"))
    mine.get("/identity")
    assert mine.post("/identity/login", login="jung").status_code == 303
    assert mine.post("/identity/keys", key=KEY).status_code == 303
    portal.site_takes()
    page = text_of(mine.get(f"/grants/{grant.id}/start"))
    assert "모두 준비되었습니다" in page and f"ssh jung@{LOGIN_HOST}" in page
    portal.store.sites.set_login_host(SITE, None)
    assert "로그인 서버 주소를 문의" in text_of(mine.get(f"/grants/{grant.id}/start"))


def test_the_start_page_names_what_the_site_puts_into_slurm(portal: GrantPortal) -> None:
    grant = portal.granted()
    researcher = portal.person("researcher-snu")
    mine = portal.browser("researcher-snu")
    mine.get("/identity")
    mine.post("/identity/login", login="jung")
    portal.pool.service.set_members(portal.id, portal.person("admin-snu").actor, grant.id, (researcher.id,))
    page = unescape(mine.get(f"/grants/{grant.id}/start").text)
    _, documents = portal.pool.service.documents(ClusterName("naver"))
    share = portal.store.register.shares.get(grant.share)
    slurm = wanted(policy_of(documents, share), share.cluster, portal.clock.now()).accounting
    accounts = set(re.findall(r"--account[= ](\S+)", page))
    qos = set(re.findall(r"--qos=(\S+)", page))
    assert accounts == {grant.project} and accounts <= set(slurm.accounts)
    assert qos == {guaranteed_qos(grant.project), burst_qos(share.pool, share.share)} and qos <= set(slurm.qos)
    (mine_there,) = (one for (user, _), one in slurm.associations.items() if user == "jung")
    assert str(mine_there.account) == grant.project and mine_there.qos == qos


def test_before_its_first_day_the_start_page_names_the_day(portal: GrantPortal) -> None:
    starts = portal.clock.now().date() + timedelta(days=20)
    grant = portal.granted(starts=starts)
    page = text_of(portal.browser("admin-snu").get(f"/grants/{grant.id}/start"))
    assert f"{starts.year}. {starts.month}. {starts.day}.에 시작됩니다" in page


# -- Changes, giving back, taking back ---------------------------------------------------------------------------------


def test_a_change_is_asked_for_and_decided_by_somebody_else(portal: GrantPortal) -> None:
    grant = portal.granted()
    asker, office = portal.browser("admin-snu"), portal.browser("second")
    asker.get(f"/grants/{grant.id}/requests")
    wrong = asker.post(f"/grants/{grant.id}/changes", gpus="0", ends="soon", reason="")
    assert wrong.status_code == 422 and wrong.text.count('aria-invalid="true"') == 3
    later = (grant.ends + timedelta(days=30)).isoformat()
    assert asker.post(f"/grants/{grant.id}/changes", gpus="32", ends=later, reason="더 필요합니다").status_code == 303
    (change,) = portal.store.register.changes.all()
    asked = asker.get(f"/grants/{grant.id}/requests")
    assert "아직 결정되지 않았습니다" in text_of(asked) and f"/grants/{grant.id}/changes" not in asked.text
    stale = asker.post(f"/grants/{grant.id}/changes", gpus="24", ends=later, reason="다른 창에서")
    assert stale.status_code == 409 and change.id in text_of(stale)
    assert portal.store.register.changes.all() == (change,)
    page = text_of(office.get("/changes"))
    assert "16장 (2대) → 32장 (4대)" in page and "자리가 있습니다" in page
    assert asker.post(f"/changes/{change.id}/approve").status_code == 403
    assert office.post(f"/changes/{change.id}/approve").status_code == 303
    after = portal.store.register.grants.get(grant.id)
    assert (after.gpus, after.ends.isoformat()) == (32, later)
    history = [one["step"] for one in office.get(f"/api/v1/grants/{grant.id}").json()["history"]]
    assert {"ask", "approve", "change", "accept", "make"} <= set(history)


def test_a_request_is_taken_back_by_its_organisation_or_refused_with_a_reason(portal: GrantPortal) -> None:
    grant = portal.granted()
    admin, office = token_of(portal, "admin-snu"), token_of(portal, "second")
    client = portal.browser().client
    terms = {"gpus": 24, "ends": str(grant.ends), "reason": "more"}

    def ask() -> Any:
        return client.post(f"/api/v1/grants/{grant.id}/changes", json=terms, headers=admin)

    def decide(change: str, how: str, by: Mapping[str, str], **body: str) -> Any:
        return client.post(f"/api/v1/changes/{change}/{how}", json=body, headers=by)

    first = ask().json()["id"]
    again = ask()
    assert again.status_code == 409 and first in again.json()["detail"]
    assert decide(first, "drop", office).status_code == 403
    assert decide(first, "drop", admin).json()["state"] == "dropped"
    second = ask().json()["id"]
    assert decide(second, "refuse", office, reason="no room").json()["state"] == "refused"
    assert decide(second, "refuse", office, reason="").status_code == 422
    assert [one.state for one in portal.store.register.changes.all()] == [ChangeState.DROPPED, ChangeState.REFUSED]
    listed = client.get("/api/v1/changes?state=refused", headers=admin).json()["items"]
    assert [one["id"] for one in listed] == [second]


def test_gpus_go_back_only_after_what_follows_was_shown(portal: GrantPortal) -> None:
    grant = portal.granted()
    today = portal.clock.now().date().isoformat()
    office, admin, other = (portal.browser(who) for who in ("second", "admin-snu", "admin-kaist"))
    for browser, act, fields, said, gpus, state in (
        (office, "shrink", {"gpus": "8", "reason": "idle"}, "8장 (1대)을 오늘", 8, PoolGrantState.ACTIVE),
        (admin, "return", {"last_day": today, "return_reason": "done"}, "지나면", 8, PoolGrantState.ACTIVE),
        (office, "recall", {"recall_reason": "idle"}, "8장 (1대)을 오늘", 8, PoolGrantState.ENDING),
    ):
        before = portal.store.register.grants.get(grant.id)
        first = browser.post(f"/grants/{grant.id}/{act}", **fields)
        assert first.status_code == 200 and said in text_of(first), act
        assert other.post(f"/grants/{grant.id}/{act}", **fields, sure="yes").status_code == (
            404 if browser is admin else 403
        )
        assert portal.store.register.grants.get(grant.id) == before
        assert browser.post(f"/grants/{grant.id}/{act}", **fields, sure="yes").status_code == 303
        after = portal.store.register.grants.get(grant.id)
        assert (after.gpus, after.state) == (gpus, state), act
    assert after.ends.isoformat() == today


def test_what_a_rule_forbids_is_refused_with_its_sentence(portal: GrantPortal) -> None:
    grant = portal.granted()
    client, office, admin = portal.browser().client, token_of(portal, "second"), token_of(portal, "admin-snu")
    for headers, path, body in (
        (office, "shrink", {"gpus": 16, "reason": "not fewer"}),
        (admin, "return", {"last_day": "2027-12-31", "reason": "later than its end"}),
        (admin, "changes", {"gpus": 16, "ends": "2027-02-28", "reason": "nothing changes"}),
        (admin, "changes", {"gpus": 16, "ends": "2150-01-01", "reason": "too long"}),
    ):
        answer = client.post(f"/api/v1/grants/{grant.id}/{path}", json=body, headers=headers)
        assert answer.status_code == 403 and answer.json()["way_out"], body


def test_a_final_report_is_handed_in_and_shown(portal: GrantPortal) -> None:
    grant = portal.granted()
    browser = portal.browser("admin-snu")
    browser.get(f"/grants/{grant.id}/requests")
    assert browser.post(f"/grants/{grant.id}/report", report="x" * 4_001).status_code == 422
    assert browser.post(f"/grants/{grant.id}/report", report="<b>모델</b> 3종\r\n논문 2편").status_code == 303
    assert "&lt;b&gt;모델&lt;/b&gt; 3종" in browser.get(f"/grants/{grant.id}").text


# -- Members -----------------------------------------------------------------------------------------------------------


def test_only_people_of_the_organisation_become_members(portal: GrantPortal) -> None:
    grant = portal.granted()
    stranger, colleague = portal.person("researcher-kaist"), portal.person("researcher-snu")
    headers = token_of(portal, "admin-snu")
    client = portal.browser().client
    path = f"/api/v1/grants/{grant.id}/members"
    refused = client.put(path, json={"members": [colleague.id, stranger.id]}, headers=headers)
    assert refused.status_code == 403 and stranger.id in refused.json()["detail"]
    assert client.put(path, json={"members": [colleague.id]}, headers=headers).status_code == 200
    assert portal.store.register.grants.get(grant.id).members == (colleague.id,)
    detail = client.get(f"/api/v1/grants/{grant.id}", headers=headers).json()
    assert detail["members"] == [colleague.id]
    # the ministry sees the grant, not who its members are
    assert client.get(f"/api/v1/grants/{grant.id}", headers=token_of(portal, "second")).json()["members"] is None
    page = portal.browser("admin-snu").get(f"/grants/{grant.id}/members").text
    assert colleague.id in page and stranger.id not in page


def test_members_are_replaced_only_as_they_were_read(portal: GrantPortal) -> None:
    grant = portal.granted()
    researcher, admin = portal.person("researcher-snu").id, portal.person("admin-snu").id
    headers, client = token_of(portal, "admin-snu"), portal.browser().client
    path = f"/api/v1/grants/{grant.id}/members"

    def put(members: list[str], **more: str) -> int:
        given = {**headers} | {name.replace("_", "-"): value for name, value in more.items()}
        status: int = client.put(path, json={"members": members}, headers=given).status_code
        return status

    read = client.get(path, headers=headers)
    assert read.json()["members"] == list(grant.members)
    assert put([admin], If_Match='"another"') == 412
    for _ in range(2):  # a repeat is answered again, although the members are others by then
        assert put([admin, researcher], If_Match=read.headers["etag"], Idempotency_Key="members-once") == 200
    assert put([admin], If_Match=read.headers["etag"]) == 412
    assert portal.store.register.grants.get(grant.id).members == (admin, researcher)
    assert put([admin], If_Match=client.get(path, headers=headers).headers["etag"]) == 200
    assert client.get(path, headers=token_of(portal, "second")).status_code == 403  # as on the grant's page


# -- Identity ----------------------------------------------------------------------------------------------------------


def test_a_login_is_chosen_once_and_keys_come_and_go(portal: GrantPortal) -> None:
    browser = portal.browser("researcher-snu")
    browser.get("/identity")
    assert browser.post("/identity/keys", key=KEY).status_code == 422  # no login yet
    for wrong in ("root", "1kim", "", "ab", "x" * 40, "kim\n"):
        answer = browser.post("/identity/login", login=wrong)
        assert answer.status_code == (303 if wrong == "kim\n" else 422), wrong
    assert browser.post("/identity/login", login="other").status_code == 422
    other = portal.browser("researcher-kaist")
    other.get("/identity")
    assert other.post("/identity/login", login="kim").status_code == 422
    assert browser.post("/identity/keys", key="-----BEGIN OPENSSH PRIVATE KEY-----\nx").status_code == 422
    for key in (KEY, OTHER_KEY, KEY.replace("kim@laptop", "same key")):
        assert browser.post("/identity/keys", key=key).status_code == 303
    mine = browser.get("/api/v1/identity").json()
    assert mine["login"] == "kim" and len(mine["ssh_keys"]) == 2
    gone = mine["ssh_keys"][0]["fingerprint"]
    assert gone in browser.get("/identity").text
    assert browser.post("/identity/keys/remove", fingerprint=gone).status_code == 303
    assert gone not in browser.get("/identity").text


def test_identity_by_api_says_what_is_wrong(portal: GrantPortal) -> None:
    headers = token_of(portal, "researcher-snu")
    client = portal.browser().client
    for login, keys, status in (
        ("root", [], 422),
        ("ok-login", ["no key"], 422),
        ("ok-login", [KEY] * 21, 422),
        ("ok-login", [KEY], 200),
        ("another", [KEY], 409),
    ):
        answer = client.put("/api/v1/identity", json={"login": login, "ssh_keys": keys}, headers=headers)
        assert answer.status_code == status, (login, answer.text)


# -- Lists and home ----------------------------------------------------------------------------------------------------


def test_grants_are_filtered_and_paged(portal: GrantPortal) -> None:
    offers = []
    for of, share in (("snu", NHN), ("mint", NHN)):
        application = portal.application(of)
        portal.pool.service.begin_review(portal.id, portal.person("second").actor, application.id)
        portal.pool.service.review(
            portal.id, portal.person("second").actor, application.id, {"impact": 80, "plan": 80}, ""
        )
        offers.append((application, share))
    portal.clock.forward(timedelta(days=8))
    grants = [
        portal.accepted(award(portal, application, share), application.organisation) for application, share in offers
    ]
    office, headers = portal.browser("second"), token_of(portal, "second")

    def ids(query: str) -> list[str]:
        return [one["id"] for one in office.client.get(f"/api/v1/grants?{query}", headers=headers).json()["items"]]

    newest_first = [one.id for one in reversed(grants)]
    assert ids("") == newest_first
    assert ids("organisation=snu") == [grants[0].id]
    assert ids("provider=naver") == [] and ids("provider=nhn") == newest_first
    assert ids("ends_soon=true") == []
    first = office.client.get("/api/v1/grants?limit=1", headers=headers).json()
    assert ids(f"limit=1&cursor={first['next']}") == [grants[0].id]
    part = office.get("/grants?organisation=mint", **{"HX-Request": "true"}).text
    assert grants[1].id in part and grants[0].id not in part and "<html" not in part


def award(portal: GrantPortal, application: Application, share: PoolShareName) -> OfferId:
    service = portal.pool.service
    line = AwardLine(application=application.id, share=share, gpus=16)
    drafted = service.draft_award(portal.id, portal.person("second").actor, ProgrammeName("national"), (line,))
    service.approve_award(portal.id, portal.person("third").actor, drafted.id)
    (offer,) = portal.store.register.offers.all(application=str(application.id))
    return offer.id


def test_home_says_what_waits(portal: GrantPortal) -> None:
    offer = portal.offered()
    admin = portal.browser("admin-snu")
    assert f"{offer.id}의 응답 기한" in text_of(admin.get("/"))
    grant = portal.accepted(offer.id)
    assert grant.id in text_of(admin.get("/")) and "계정 이름 미정" in text_of(admin.get("/"))
    portal.pool.service.ask_change(
        portal.id, portal.person("admin-snu").actor, grant.id, 24, grant.ends, "더 필요합니다"
    )
    assert "1 결정할 변경 요청" in text_of(portal.browser("second").get("/"))


def test_history_names_colleagues_and_not_officials(portal: GrantPortal) -> None:
    grant = portal.granted()
    portal.pool.service.shrink_grant(portal.id, portal.person("second").actor, grant.id, 8, "not used")

    def by(who: str) -> set[str]:
        return {one["by"] for one in portal.browser(who).get(f"/api/v1/grants/{grant.id}").json()["history"]}

    assert by("admin-snu") == {"admin-snu님", "사업 담당자"}
    assert by("second") == {"admin-snu님", "second님", "third님"}


# -- Every route -------------------------------------------------------------------------------------------------------


def test_each_role_may_call_exactly_what_the_table_gives_it(portal: GrantPortal) -> None:
    prefixes = ("/grants", "/offers", "/changes", "/identity")
    routes = [
        (method, re.sub(r"\{[^}]*\}", "x", route.path), gate.action)
        for route in routes_of(make_app(portal.wiring))
        for method in sorted(route.methods or ())
        if route.path.removeprefix("/api/v1").startswith(prefixes) and isinstance(gate := gate_of(route), Needs)
    ]
    assert len(routes) > 30
    for role in PortalRole:
        browser = portal.browser(role)
        for method, path, action in routes:
            portal.seconds += 60
            headers = {"Origin": browser.origin, "X-CSRF-Token": browser.csrf, "Accept-Language": "en"}
            answer = browser.client.request(method, path, headers=headers)
            refused = answer.status_code == 403 and f"({action})" in answer.text
            assert refused is (scope_of(role, action) is None), (role, method, path, answer.status_code)
            assert answer.status_code < 500, (role, method, path)


def test_pages_are_safe_and_whole(portal: GrantPortal) -> None:
    grant = portal.granted()
    paths: Sequence[str] = [f"/grants/{grant.id}{rest}" for rest in ("", "/start", "/members", "/requests")]
    browser = portal.browser("admin-snu")
    for path in (*paths, f"/offers/{grant.offer}", "/offers", "/grants", "/identity"):
        page = browser.get(path).text
        assert not re.search(r"<style|style=|\son\w+=|javascript:", page), path
        assert "<h1>" in page, path
