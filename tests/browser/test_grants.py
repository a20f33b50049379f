"""From an offer to the first command in a real browser: a tenant admin accepts and adds a researcher, who chooses a
login, adds a key and reads how to start."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from uuid import uuid4

import pytest
from playwright.sync_api import Browser, Page, expect

from slurm_gpuaas.domain.calendar import korean_day
from slurm_gpuaas.domain.clock import SystemClock
from slurm_gpuaas.domain.names import ClusterName, CommandId, HostName, OfferId, ProgrammeName, ProviderName, SiteName
from slurm_gpuaas.domain.people import Actor
from slurm_gpuaas.domain.pool_grants import AwardLine
from slurm_gpuaas.domain.programmes import Call
from tests.browser.conftest import free_port
from tests.browser.site import BrowserSite, certificate, running
from tests.browser.test_pages import DESKTOP, PHONE, axe_says, fits, page_of
from tests.pools import PASSWORD
from tests.unit.pool.scene import NAVER, programme, request
from tests.unit.portal.grants_scene import KEY

SITE = SiteName("naver-h200")
TAKEN_WITHIN_S = 30


@pytest.fixture(scope="module")
def pool_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserSite]:
    folder = tmp_path_factory.mktemp("pool-site")
    limits = {"sign_in": 10_000, "address": 100_000}
    now = SystemClock().now()
    rules = programme(calls=(Call(number=1, opens=now - timedelta(days=8), closes=now + timedelta(hours=1)),))
    with running(folder, free_port(), tls=certificate(folder), rules=rules, limits=limits) as site:
        yield site


def offered(site: BrowserSite) -> OfferId:
    """16 GPUs for snu from today on."""
    assert site.pool is not None
    service, register = site.pool.service, site.store.register

    def id() -> CommandId:
        return CommandId(str(uuid4()))

    def actor(login: str) -> Actor:
        found = site.store.people.credentials(login)
        assert found is not None
        return found.person.actor

    site.store.sites.add(SITE, cluster=ClusterName("naver"), provider=ProviderName("naver"))
    site.store.sites.set_login_host(SITE, HostName("login.naver.example.org"))
    today = korean_day(SystemClock().now())
    asked = request(title="단백질 구조 예측", starts=today, ends=today + timedelta(days=85))
    application = service.submit(id(), actor("admin-snu"), asked)
    service.begin_review(id(), actor("second"), application.id)
    service.review(id(), actor("second"), application.id, {"impact": 80, "plan": 80}, "")
    rules = register.programmes.get("national")
    closed = rules.calls[0].model_copy(update={"closes": SystemClock().now() - timedelta(seconds=1)})
    service.put_programme(id(), actor("second"), rules.model_copy(update={"calls": (closed,)}))
    line = AwardLine(application=application.id, share=NAVER, gpus=16)
    award = service.draft_award(id(), actor("second"), ProgrammeName("national"), (line,))
    service.approve_award(id(), actor("third"), award.id)
    (offer,) = register.offers.all()
    return offer.id


def sign_in(page: Page, site: BrowserSite, login: str) -> None:
    page.goto(f"{site.url}/sign-in")
    page.locator("#f-login").fill(login)
    page.locator("#f-password").fill(PASSWORD)
    page.locator("form[action='/sign-in'] button").click()
    page.wait_for_url(f"{site.url}/")


def look(page: Page) -> None:
    assert axe_says(page) == []
    assert fits(page), f"{page.url} is wider than the screen"


def test_from_an_offer_to_the_first_command(chromium: Browser, pool_site: BrowserSite) -> None:
    site, offer = pool_site, offered(pool_site)
    with page_of(chromium, locale="ko-KR", viewport=DESKTOP) as page:
        sign_in(page, site, "admin-snu")
        page.get_by_role("link", name="응답할 제안").click()
        look(page)
        page.get_by_label("우리 기관은 최대 0원").check()
        page.get_by_role("button", name="제안 수락").click()
        expect(page.get_by_role("status").first).to_contain_text("이용권이 발급되었습니다")
        expect(page.locator("#delivery")).to_contain_text("반영 중")
        look(page)
        # its gpuaasd asks for documents again and again, and stores what is newer
        grant = site.store.register.grants.all(offer=str(offer))[0]
        live = page.locator("#delivery").get_by_text("이용권이 반영되었습니다")
        deadline = time.monotonic() + TAKEN_WITHIN_S
        while not live.count():
            assert time.monotonic() < deadline, "the page does not say what the site has"
            site.store.sites.holds(SITE, site.store.sites.revision(SITE))
            page.wait_for_timeout(50)
        page.get_by_role("link", name="참여자").click()
        page.get_by_label("researcher-snu님").check()
        look(page)
        page.get_by_role("button", name="참여자 저장").click()
        expect(page.get_by_role("status")).to_contain_text("참여자를 변경했습니다")
    with page_of(chromium, locale="ko-KR", viewport=PHONE, color_scheme="dark") as page:
        sign_in(page, site, "researcher-snu")
        page.get_by_role("link", name="클러스터 계정과 SSH 키").click()
        look(page)
        page.locator("#f-login").fill("jung")
        page.get_by_role("button", name="이 이름으로 정하기").click()
        page.get_by_label("공개 키").fill(KEY)
        page.get_by_role("button", name="키 등록").click()
        expect(page.locator("main")).to_contain_text("SHA256:")
        look(page)
        page.goto(f"{site.url}/grants/{grant.id}")
        look(page)
        page.get_by_role("link", name="시작하기").click()
        expect(page.locator("main")).to_contain_text("ssh jung@login.naver.example.org")
        expect(page.locator("#script")).to_contain_text(f"#SBATCH --account={grant.project}")
        expect(page.locator("#script")).to_contain_text(f"#SBATCH --qos=guaranteed-{grant.project}")
        look(page)
