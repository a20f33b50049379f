"""Idle GPUs, leases and messages as people and programs meet them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from httpx2 import Response

from slurm_gpuaas.domain.accounts import Language
from slurm_gpuaas.domain.calendar import korean_day
from slurm_gpuaas.domain.from_portal import PORTAL_DOCUMENT
from slurm_gpuaas.domain.names import ClusterName, CommandId, ProgrammeName, ProviderName, SiteName
from slurm_gpuaas.domain.people import Actor, PortalRole
from slurm_gpuaas.domain.policy import Grant
from slurm_gpuaas.domain.pool_grants import AwardLine, PoolGrant, PoolGrantState
from slurm_gpuaas.pool.idle_rules import IdleRules
from tests.pools import Browser, PoolPortal
from tests.unit.pool.ladder import QUICK, grant_day
from tests.unit.pool.scene import NAVER, request

OFFICER, ADMIN, OPERATOR = PortalRole.GOVERNMENT, PortalRole.TENANT_ADMIN, PortalRole.PROVIDER_OPERATOR


class Scene(PoolPortal):
    """A grant of snu's over 16 GPUs for two months, begun; the rules act; two days of no use are reported."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.store.sites.add(SiteName("naver"), cluster=ClusterName("naver"), provider=ProviderName("naver"))
        service, officer, second = self.pool.service, self.actor(OFFICER), self.actor("second")
        today = korean_day(self.clock.now())
        starts = today + timedelta(days=10)
        asked = request("snu", starts=starts, ends=starts + timedelta(days=70))
        application = service.submit(self.id, self.actor(ADMIN), asked)
        service.begin_review(self.id, officer, application.id)
        service.review(self.id, self.actor("third"), application.id, {"impact": 80, "plan": 80}, "")
        self.clock.forward(timedelta(days=9))
        line = AwardLine(application=application.id, share=NAVER, gpus=16)
        award = service.draft_award(self.id, officer, ProgrammeName("national"), (line,))
        service.approve_award(self.id, second, award.id)
        (offer,) = self.store.register.offers.all()
        self.grant = service.accept_offer(self.id, self.actor(ADMIN), offer.id)
        self.pool.idle.put_rules(self.id, officer, IdleRules.model_validate(QUICK), "As decided.")
        self.clock.forward(timedelta(days=3))  # Thursday, 2026-12-10
        self.pool.turn()

    @property
    def id(self) -> CommandId:
        return CommandId(str(uuid4()))

    def actor(self, who: PortalRole | str) -> Actor:
        person = self.people[who] if isinstance(who, PortalRole) else self.person(who)
        office = person.office
        return Actor(person=person.id, role=office.role, organisation=office.organisation, provider=office.provider)

    def idle_days(self, days: int) -> None:
        for _ in range(days):
            day = korean_day(self.clock.now())
            self.store.register.days.take(
                ClusterName("naver"), [grant_day(self.now(), day, 0.05, 0.01)], at=self.clock.now()
            )
            self.clock.forward(timedelta(days=1))
            self.pool.turn()

    def now(self) -> PoolGrant:
        return self.store.register.grants.get(self.grant.id)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.store.close()


def act() -> str:
    return str(uuid4())


def api(browser: Browser, method: str, path: str, **body: object) -> tuple[int, dict[str, Any]]:
    answer = browser.client.request(
        method,
        f"/api/v1{path}",
        json=body if method != "GET" else None,
        headers={"Origin": browser.origin, "X-CSRF-Token": browser.csrf, "Idempotency-Key": act()},
    )
    return answer.status_code, answer.json()


def test_a_turn_takes_the_steps_and_tells_them_on_pages_and_in_the_api(scene: Scene) -> None:
    scene.idle_days(4)  # of which the window needs two; then Monday
    admin = scene.browser(ADMIN)
    page = admin.get(f"/idle/{scene.grant.id}").text
    assert "5%" in page and "1%" in page
    status, found = api(admin, "GET", "/idle/grants")
    assert status == 200
    (item,) = found["items"]
    assert (item["grant"], item["rung"], item["allocated_percent"], item["busy_percent"]) == (
        scene.grant.id, "notice", 5.0, 1.0,
    )  # fmt: skip
    assert item["next"] == "warning" and item["next_on"] == "2026-12-15"
    assert scene.grant.id in admin.get("/idle").text
    assert re.search(r'<span class="number">1</span>', admin.get("/").text)
    assert scene.actions().count("idle.notice") == 1


def test_others_see_nothing_of_it(scene: Scene) -> None:
    scene.idle_days(4)
    for login, status in (("admin-kaist", 404), ("researcher-kaist", 403)):  # a researcher appeals nowhere
        other = scene.browser(login)
        assert scene.grant.id not in other.get("/idle").text
        assert other.get(f"/idle/{scene.grant.id}").status_code == 404
        assert api(other, "GET", "/idle/grants")[1]["items"] == []
        assert api(other, "POST", f"/grants/{scene.grant.id}/appeal", reason="Ours.")[0] == status


def test_an_appeal_is_filed_by_its_people_and_decided_by_the_government(scene: Scene) -> None:
    scene.idle_days(4)
    admin = scene.browser(ADMIN)
    assert "이의 신청 제출" in admin.get(f"/idle/{scene.grant.id}").text
    once = act()
    for _ in range(2):
        filed = admin.post(f"/idle/{scene.grant.id}/appeal", command=once, reason="데이터가 금요일에 옵니다.")
        assert filed.status_code == 303, filed.text
    assert admin.post(f"/idle/{scene.grant.id}/appeal", command=act(), reason="").status_code == 422
    assert "이의 신청 제출" not in admin.get(f"/idle/{scene.grant.id}").text, "one is possible from notice to recall"
    (appeal,) = scene.store.register.appeals.all()
    assert api(admin, "POST", f"/appeals/{appeal.id}/allow", reason="Yes.")[0] == 403
    scene.idle_days(8)
    assert scene.now().gpus == 16, "nothing is taken while it is open"
    officer = scene.browser(OFFICER)  # sessions of a week ago have ended
    assert "데이터가" in officer.get("/idle").text
    officer.get(f"/idle/{scene.grant.id}")
    said = officer.post(f"/idle/appeals/{appeal.id}/decide", command=act(), verdict="deny", reason="오지 않았습니다.")
    assert said.status_code == 303
    found = api(officer, "GET", "/appeals")[1]
    assert [one["state"] for one in found["items"]] == ["denied"]
    assert api(officer, "POST", f"/appeals/{appeal.id}/allow", reason="After all.")[0] == 409
    scene.idle_days(8)
    assert scene.now().state is PoolGrantState.ENDING or scene.now().gpus < 16


def test_an_exemption_by_page_and_api(scene: Scene) -> None:
    officer, admin = scene.browser(OFFICER), scene.browser(ADMIN)
    ends = str(korean_day(scene.clock.now()) + timedelta(days=20))
    assert api(admin, "PUT", f"/grants/{scene.grant.id}/exemption", ends=ends, reason="x")[0] == 403
    status, found = api(officer, "PUT", f"/grants/{scene.grant.id}/exemption", ends=ends, reason="Moves house.")
    assert (status, found["ends"]) == (200, ends)
    officer.get(f"/idle/{scene.grant.id}")
    wrong = officer.post(f"/idle/{scene.grant.id}/exempt", command=act(), ends="tomorrow", reason="x")
    assert wrong.status_code == 422
    scene.idle_days(6)
    assert "idle.notice" not in scene.actions()


def test_rules_are_tried_before_they_are_put_in_force(scene: Scene) -> None:
    scene.idle_days(1)
    officer = scene.browser(OFFICER)
    assert officer.get("/idle/rules").status_code == 200
    tried = officer.post("/idle/rules", command=act(), **{"try": "1"}, window_days="1", reason="")
    assert tried.status_code == 200 and scene.grant.id in tried.text
    assert scene.pool.idle.rules().window_days == 2
    wrong = officer.post("/idle/rules", command=act(), allocated_below="80", reason="x")
    assert wrong.status_code == 422
    assert officer.post("/idle/rules", command=act(), window_days="3", reason="").status_code == 422
    assert officer.post("/idle/rules", command=act(), window_days="3", reason="Longer.").status_code == 303
    assert scene.pool.idle.rules().window_days == 3
    rules = IdleRules.model_validate(QUICK | {"window_days": 1}).model_dump(mode="json")
    status, trial = api(officer, "POST", "/idle/dry-run", rules=rules)
    assert status == 200 and [one["grant"] for one in trial["today"]] == [scene.grant.id]
    assert api(officer, "PUT", "/idle/rules", rules=rules, reason="Quick.")[1]["number"] == 3
    admin = scene.browser(ADMIN)
    assert api(admin, "GET", "/idle/rules")[1]["number"] == 3, "everybody may know them"
    assert api(admin, "PUT", "/idle/rules", rules=rules, reason="x")[0] == 403
    assert api(officer, "POST", "/idle/dry-run", rules=rules | {"window_days": 0})[0] == 422


class TestLeases:
    def asked(self, scene: Scene, browser: Browser, **more: str) -> Response:
        first = korean_day(scene.clock.now()) + timedelta(days=2)
        fields = {
            "share": str(NAVER), "gpus": "8", "starts": str(first), "ends": str(first + timedelta(days=20)),
            "reason": "자체 모델 시험",
        }  # fmt: skip
        browser.get("/leases")
        return browser.post("/leases", command=act(), **fields | more)

    def test_from_request_to_the_sites_documents_and_back_on_the_day(self, scene: Scene) -> None:
        operator, officer = scene.browser(OPERATOR), scene.browser(OFFICER)
        assert self.asked(scene, operator).status_code == 303
        (lease,) = scene.store.register.leases.all()
        assert api(operator, "POST", f"/leases/{lease.id}/approve")[0] == 403
        officer.get("/leases")
        assert officer.post(f"/leases/{lease.id}/approve", command=act()).status_code == 303
        scene.pool.turn()
        grants = [one for one in self.documents(scene) if isinstance(one, Grant) and one.project == lease.project]
        assert [(one.gpus, one.starts, one.ends, one.borrow_limit) for one in grants] == [
            (8, lease.starts, lease.ends, 0)
        ]
        assert scene.pool.service.room(NAVER, lease.starts, lease.ends) == 32 - 16 - 8
        scene.clock.at = scene.clock.at + (lease.ends - korean_day(scene.clock.now())) + timedelta(days=1)
        scene.pool.turn()
        scene.pool.turn()
        assert scene.store.register.leases.get(lease.id).state == "ended"
        assert not [one for one in self.documents(scene) if isinstance(one, Grant) and one.project == lease.project]
        assert "lease.ended" in [one.template for one in scene.store.register.outbox.unsent(limit=99)]

    def documents(self, scene: Scene) -> list[object]:
        found = scene.store.sites.documents(SiteName("naver")).documents
        return [PORTAL_DOCUMENT.validate_python(one) for one in found]

    def test_what_cannot_be_is_told_beside_the_form(self, scene: Scene) -> None:
        operator = scene.browser(OPERATOR)
        for wrong in (
            {"gpus": "12"},
            {"gpus": "64"},
            {"gpus": "x"},
            {"starts": "2020-01-01"},
            {"ends": "2030-01-01"},
            {"share": "nhn.b200.government"},
            {"reason": ""},
            {"member": scene.people[ADMIN].id},
        ):
            assert self.asked(scene, operator, **wrong).status_code == 422, wrong
        assert scene.store.register.leases.all() == ()

    def test_its_provider_gives_it_back_at_once_and_the_government_with_notice(self, scene: Scene) -> None:
        operator, officer = scene.browser(OPERATOR), scene.browser(OFFICER)
        self.asked(scene, operator)
        self.asked(scene, operator)
        one, two = scene.store.register.leases.all()
        for lease in (one, two):
            assert api(officer, "POST", f"/leases/{lease.id}/approve")[0] == 200
        status, problem = api(officer, "POST", f"/leases/{one.id}/end", last_day=str(one.starts), reason="Wanted.")
        assert status == 403 or status == 422 or status == 409, problem
        status, found = api(officer, "POST", f"/leases/{one.id}/end", reason="Wanted.")
        assert (status, found["ends"]) == (200, str(korean_day(scene.clock.now()) + timedelta(days=14)))
        status, found = api(operator, "POST", f"/leases/{two.id}/end", reason="Not needed.")
        assert (status, found["state"]) == (200, "ended")
        assert scene.browser(ADMIN).get("/leases").status_code == 403


def test_messages_are_read_by_their_reader_alone_in_their_language(scene: Scene) -> None:
    scene.idle_days(4)
    admin = scene.browser(ADMIN)
    found = api(admin, "GET", "/messages?limit=2")[1]
    assert [one["template"] for one in found["items"]] == ["idle.notice", "grant.started"]
    following = api(admin, "GET", f"/messages?limit=2&cursor={found['next']}")[1]
    assert following["items"] and following["items"] != found["items"]
    korean = admin.get("/messages").text
    assert f"{scene.grant.id}" in korean and "/idle/" in korean
    scene.store.people.person(scene.people[ADMIN].id)
    admin.get(f"/language/{Language.ENGLISH}?back=/messages")
    assert "is hardly used" in admin.get("/messages").text
    assert "hardly" not in scene.browser("admin-kaist").get("/messages").text


def test_rules_that_cannot_be_keep_what_was_typed_and_name_the_field(scene: Scene) -> None:
    officer = scene.browser(OFFICER)
    page = officer.get("/idle/rules").text
    fields = dict(re.findall(r'name="([a-z_-]+)"[^>]* value="([^"]*)"', page))
    wrong = fields | {"wait-warning": "-3", "window_days": "11", "basis": "고시 7호", "try": "1"}
    answer = officer.post("/idle/rules", **wrong)
    assert answer.status_code == 422
    assert "다음 단계까지의 날수: 경고: 쓸 수 없는 수입니다." in answer.text
    for typed in ('value="-3"', 'value="11"', 'value="고시 7호"'):
        assert typed in answer.text, typed


def test_what_was_not_measured_is_not_said_to_need_no_gpus(scene: Scene) -> None:
    page = scene.browser(ADMIN).get(f"/idle/{scene.grant.id}").text
    assert re.search(r"<dt>필요한 GPU</dt><dd>측정되지 않음</dd>", page)
