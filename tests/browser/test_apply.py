"""The way to an application in a real browser: on a phone, in Korean, without JavaScript; axe looks at each page."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from slurm_gpuaas.domain.people import PortalRole
from slurm_gpuaas.domain.programmes import Call
from tests.browser.conftest import free_port
from tests.browser.site import BrowserSite, certificate, running
from tests.browser.test_pages import DESKTOP, PHONE, axe_says, fits, page_of, sign_in
from tests.pools import PASSWORD
from tests.unit.pool.scene import programme


@pytest.fixture(scope="module")
def pool_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserSite]:
    folder = tmp_path_factory.mktemp("apply")
    now = datetime.now(UTC)
    call = Call(number=1, opens=now - timedelta(days=1), closes=now + timedelta(days=7))
    rules = programme(calls=(call,), about="대학, 연구기관, 기업의 인공지능 연구에 GPU를 지원합니다.")
    limits = {"sign_in": 10_000, "address": 100_000}
    with running(folder, free_port(), tls=certificate(folder), rules=rules, limits=limits) as site:
        yield site


def come_in(page: Page, site: BrowserSite, login: str) -> None:
    page.goto(f"{site.url}/sign-in")
    page.locator("#f-login").fill(login)
    page.locator("#f-password").fill(PASSWORD)
    page.locator("form[action='/sign-in'] button").click()
    page.wait_for_url(f"{site.url}/")


def look(page: Page, name: str, *, scripts: bool = True) -> None:
    """axe needs scripts; that nothing is wider than the screen is asked from outside."""
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder, f"{name}.png"), full_page=True)
    if scripts:
        assert not axe_says(page), name
        assert fits(page), f"{name} is wider than the screen"


def go_on(page: Page) -> None:
    page.get_by_role("button", name="저장하고 다음으로").click()


@pytest.mark.parametrize("scripts", [True, False], ids=["with-scripts", "without-scripts"])
def test_a_researcher_applies_on_a_phone(chromium: Browser, pool_site: BrowserSite, scripts: bool) -> None:
    settings = {"locale": "ko-KR", "viewport": PHONE, "java_script_enabled": scripts}
    with page_of(chromium, **settings) as page:
        come_in(page, pool_site, "researcher-snu" if scripts else "researcher-kaist")
        page.goto(f"{pool_site.url}/programmes")
        look(page, "programmes-phone", scripts=scripts)
        page.get_by_role("link", name=re.compile("신청하기")).click()
        page.locator("#f-title").fill("한국어 음성 인식 모델")
        look(page, "apply-call-phone", scripts=scripts)
        go_on(page)
        page.locator("#f-purpose").fill("사투리를 알아듣는 음성 인식 모델을 만들어 공개합니다.")
        page.locator("#f-workload").fill("8B 모델을 처음부터 학습합니다. 서버 한 대로 시험했습니다.")
        go_on(page)
        page.locator("#f-kind").select_option("pre-training")
        page.locator("#f-model").select_option("b200")
        page.locator("#f-parameters").fill("80억")
        page.locator("#f-tokens").fill("1조")
        page.get_by_role("button", name="계산하기").click()
        expect(page.locator("#f-days-fault")).to_be_visible()
        look(page, "apply-size-wrong-phone", scripts=scripts)
        page.locator("#f-days").fill("60")
        page.get_by_role("button", name="계산하기").click()
        expect(page.locator("#proposed")).to_have_text("제안: 16장 (2대)")
        page.locator("#proposal summary").click()
        expect(page.locator("#proposal")).to_contain_text("NVIDIA Blackwell data sheet")
        look(page, "apply-size-phone", scripts=scripts)
        go_on(page)
        expect(page.locator("#f-gpus")).to_have_value("16")
        page.locator("#f-starts").fill((datetime.now(UTC) + timedelta(days=20)).date().isoformat())
        page.locator("#f-gpus").fill("24.5")
        go_on(page)
        expect(page.locator("#f-gpus-fault")).to_be_visible()
        page.locator("#f-gpus").fill("32")
        go_on(page)
        expect(page.locator("#f-why-fault")).to_contain_text("16")
        look(page, "apply-period-phone", scripts=scripts)
        page.locator("#f-why").fill("두 언어를 나란히 학습합니다.")
        page.get_by_role("button", name="저장하고 나중에 계속").click()
        expect(page.get_by_role("status")).to_contain_text("저장했습니다")
        look(page, "applications-draft-phone", scripts=scripts)
        page.get_by_role("link", name=re.compile("이어서 작성")).click()
        look(page, "apply-check-phone", scripts=scripts)
        page.get_by_role("button", name="신청서 제출").click()
        expect(page.get_by_role("status")).to_have_text("신청서를 제출했습니다.")
        expect(page.locator(".next")).to_contain_text("사업 담당자")
        look(page, "application-phone", scripts=scripts)


def test_the_office_sees_programmes_organisations_shares_and_applications(
    chromium: Browser, pool_site: BrowserSite
) -> None:
    with page_of(chromium, locale="ko-KR", color_scheme="dark", viewport=DESKTOP) as page:
        sign_in(page, pool_site, PortalRole.GOVERNMENT)
        for path in (
            "/",
            "/programmes",
            "/programmes/national",
            "/programmes/-/form?name=national",
            "/programmes/-/text?name=national",
            "/applications",
            "/organisations",
            "/organisations/snu",
            "/shares",
            "/shares/nhn.b200.government",
        ):
            page.goto(pool_site.url + path)
            look(page, f"office{re.sub('[^a-z]+', '-', path)}")
        page.goto(f"{pool_site.url}/programmes/-/form?name=national")
        page.locator("#f-longest_days").fill("180")
        page.get_by_role("button", name="변경 내용 보기").click()
        expect(page.locator("ins")).to_have_text("180")
        look(page, "office-preview")
        page.get_by_role("button", name="시행").click()
        expect(page.get_by_role("status")).to_have_text("사업 규칙이 적용되었습니다.")
